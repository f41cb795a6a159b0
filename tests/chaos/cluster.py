"""cluster.py -- a `weir serve` whose processes a test watches, arms, freezes and kills one by one.

What a process does is learnt from its log, which is read as it is written: who joined, who ended,
which failpoint acted and when (its own clock, the same as time.monotonic).
"""

import asyncio
import collections
import os
import re
import shutil
import signal
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(os.path.dirname(HERE), "e2e"))

from weirtest import BIN, Metrics, alive, children, fd_count  # noqa: E402

LINE = re.compile(r"^\S+ (\w+) +(\S+) (\w+): (.*)$")
FIELD = re.compile(r'(\w+)=("[^"]*"|\S+)')
BAD = ("ERROR: AddressSanitizer", "ERROR: LeakSanitizer", "runtime error:",
       "WARNING: ThreadSanitizer", "CHECK failed")


def open_files(pid):
    """{kind: count} of a process's descriptors, to tell what is left over."""
    found = collections.Counter()
    for fd in os.listdir(f"/proc/{pid}/fd"):
        try:
            found[re.sub(r"[0-9]+", "N", os.readlink(f"/proc/{pid}/fd/{fd}"))] += 1
        except OSError:
            pass
    return dict(found)


class Worker:
    """A worker's place in the pool, whoever fills it just now."""

    def __init__(self, number):
        self.number = number
        self.role = None
        self.pid = None
        self.joined = False
        self.lives = 0
        self.joined_at = None
        self.ended_at = None

    @property
    def process(self):
        return f"{self.role}-{self.number}"


class Event:
    """A log line: at (when it was read), process, component, text, fields."""

    def __init__(self, at, process, component, text):
        self.at, self.process, self.component, self.text = at, process, component, text
        self.fields = {k: v.strip('"') for k, v in FIELD.findall(text)}


class Cluster:
    """Use `await cluster.start()` ... `await cluster.stop()`."""

    def __init__(self, *flags, model, standing="", folder=None, nice=0, env=None):
        """standing: failpoints that stay armed beside those of `arm`, in the workers."""
        self.flags, self.model, self.standing, self.nice = flags, model, standing, nice
        self.env = env or {}
        self.folder = folder or tempfile.mkdtemp(prefix="weir-chaos-")
        self.orders = os.path.join(self.folder, "failpoints")
        self.log_path = os.path.join(self.folder, "log")
        self.workers = {}
        self.changed = asyncio.Condition()
        self.watchers = []     # functions called with each Event
        self.bad_lines = []
        self.process = None

    # ---- life

    async def start(self, limit_s=60):
        os.makedirs(self.orders, exist_ok=True)
        env = {**os.environ, **self.env, "WEIR_FAILPOINTS_DIR": self.orders,
               "WEIR_FAILPOINTS": self.standing}
        for name in ("WEIR_API_KEY",):
            env.pop(name, None)
        self.process = await asyncio.create_subprocess_exec(
            BIN, "serve", "--model", self.model, "--port", "0", *self.flags, env=env,
            stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE, limit=1 << 20,
            preexec_fn=(lambda: os.nice(self.nice)) if self.nice else None)
        self.pid = self.process.pid
        self.reader = asyncio.create_task(self._read_log())
        try:
            line = (await asyncio.wait_for(self.process.stdout.readline(), limit_s)).decode()
        except asyncio.TimeoutError:
            line = ""
        found = re.search(r" on http://([^:]+):(\d+) ", line)
        if not found:
            raise AssertionError(f"the server did not start: {line!r}\n{self.log_tail()}")
        self.address = (found.group(1), int(found.group(2)))
        self.drain_stdout = asyncio.create_task(self.process.stdout.read())
        await self.until(lambda: self.healthy(), "all workers have joined", limit_s)

    async def stop(self, limit_s=60):
        """Drains; every process must end, and well."""
        pids = [self.pid, *children(self.pid)]
        if self.process.returncode is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            await asyncio.wait_for(self.process.wait(), limit_s)
        except asyncio.TimeoutError:
            self.kill()
            raise AssertionError("the server does not end") from None
        await self.reader
        if self.process.returncode != 0:
            raise AssertionError(f"exit status {self.process.returncode}\n{self.log_tail()}")
        if self.bad_lines:
            raise AssertionError(f"in the log: {self.bad_lines[:3]}")
        end = time.monotonic() + 10
        while any(alive(p) for p in pids):
            if time.monotonic() > end:
                raise AssertionError("a worker outlives its parent")
            await asyncio.sleep(0.02)

    def kill(self):
        for pid in [self.pid, *children(self.pid)]:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass

    def clean(self):
        shutil.rmtree(self.folder, ignore_errors=True)

    def healthy(self):
        return self.workers and all(w.joined for w in self.workers.values())

    async def until(self, condition, what, limit_s=60):
        """Waits for a condition on the workers, looked at after every log line."""
        async def wait():
            async with self.changed:
                await self.changed.wait_for(condition)
        try:
            await asyncio.wait_for(wait(), limit_s)
        except asyncio.TimeoutError:
            raise AssertionError(f"{what}: not within {limit_s} s\n{self.log_tail()}") from None

    # ---- the log

    async def _read_log(self):
        with open(self.log_path, "ab", buffering=0) as copy:
            while True:
                line = await self.process.stderr.readline()
                if not line:
                    return
                copy.write(line)
                text = line.decode("utf-8", "replace").rstrip("\n")
                if any(bad in text for bad in BAD):
                    self.bad_lines.append(text)
                found = LINE.match(text)
                if found:
                    event = Event(time.monotonic(), *found.groups()[1:])
                    self._note(event)
                    for watcher in list(self.watchers):
                        watcher(event)
                    async with self.changed:
                        self.changed.notify_all()

    def _note(self, event):
        f = event.fields
        if event.process != "gateway" or "worker" not in f or not f["worker"].isdigit():
            return
        w = self.workers.setdefault(int(f["worker"]), Worker(int(f["worker"])))
        if event.text.startswith("started "):
            w.pid, w.joined = int(f["pid"]), False
            w.lives += 1
        elif event.text.startswith("worker joined "):
            w.role, w.joined, w.joined_at = f["role"], True, event.at
        elif event.text.startswith("worker ended "):
            w.joined, w.ended_at = False, event.at

    def log_tail(self, lines=40):
        try:
            with open(self.log_path, encoding="utf-8", errors="replace") as f:
                return "\n".join(f.read().splitlines()[-lines:])
        except OSError:
            return ""

    # ---- failpoints

    def arm(self, process, spec):
        """Sends an order to one process; False when it is not there to take it."""
        standing = self.standing if process != "gateway" else ""
        line = ";".join(s for s in (spec, standing) if s)  # the first of a name counts
        try:
            fd = os.open(os.path.join(self.orders, process), os.O_WRONLY | os.O_NONBLOCK)
        except OSError:
            return False
        try:
            os.write(fd, line.encode() + b"\n")
            return True
        except OSError:
            return False
        finally:
            os.close(fd)

    async def acted(self, process, point, limit_s):
        """Waits until `point` of `process` says that it acts: the Event, or None."""
        got = asyncio.get_running_loop().create_future()

        def look(event):
            if event.process == process and event.component == "failpoint" and \
                    event.text.startswith("acts ") and event.fields.get("point") == point and \
                    not got.done():
                got.set_result(event)
        self.watchers.append(look)
        try:
            return await asyncio.wait_for(got, limit_s)
        except asyncio.TimeoutError:
            return None
        finally:
            self.watchers.remove(look)

    # ---- looking in from outside

    async def get(self, path, limit_s=30):
        async def go():
            reader, writer = await asyncio.open_connection(*self.address)
            writer.write(f"GET {path} HTTP/1.1\r\nHost: weir\r\nConnection: close\r\n\r\n".encode())
            data = await reader.read()
            writer.close()
            return data
        head, _, body = (await asyncio.wait_for(go(), limit_s)).partition(b"\r\n\r\n")
        return int(head.split()[1]), body

    async def metrics(self):
        return Metrics((await self.get("/metrics"))[1].decode())

    def processes(self):
        """{name: pid} of the gateway and the workers that run."""
        found = {"gateway": self.pid}
        for w in self.workers.values():
            if w.joined and alive(w.pid):
                found[w.process] = w.pid
        return found

    def account(self):
        """What each process has of the kernel: {name: {fds, threads, rss_kib}}."""
        found = {}
        for name, pid in self.processes().items():
            try:
                with open(f"/proc/{pid}/status", encoding="ascii", errors="replace") as f:
                    status = dict(line.split(":", 1) for line in f if ":" in line)
                found[name] = {"fds": fd_count(pid), "open": open_files(pid),
                               "threads": int(status["Threads"]),
                               "rss_kib": int(status["RssAnon"].split()[0]),
                               "shared_kib": int(status["RssShmem"].split()[0])}
            except (OSError, KeyError):
                pass
        return found


async def account_again(cluster, base, limit_s=5):
    """The account once the descriptors are as in `base`, or at the limit: a connection that has been
    answered takes a moment to be closed."""
    until = time.monotonic() + limit_s
    while True:
        now = cluster.account()
        if all(now.get(name, {}).get("fds") == was["fds"] for name, was in base.items()) or \
                time.monotonic() > until:
            return now
        await asyncio.sleep(0.05)


HELD = ("weir_kv_pages_owned", "weir_kv_pages_quarantined", "weir_requests_running",
        "weir_requests_waiting", "weir_grants_parked")


def held(metrics):
    """{series: sum} of what must be zero once no request is left, where it is not."""
    found = {"weir_requests_open": metrics.sum("weir_requests_open"),
             "weir_requests_pending": metrics.sum("weir_requests_pending")}
    for name in HELD:
        found[name] = sum(metrics.all(name))
    return {k: v for k, v in found.items() if v}


async def settle(cluster, since, limit_s=40):
    """Waits until nothing is held any more; the seconds from `since` (the last request's end), or
    what is still held at the limit. Workers tell their numbers every second and when they become
    idle: a zero counts when each has told again since it was first seen."""
    last, zero_at, told = {}, None, None
    while time.monotonic() - since < limit_s:
        if cluster.healthy():
            metrics = await cluster.metrics()
            last = held(metrics)
            now_told = {labels["worker"]: value for name, labels, value in metrics.samples
                        if name == "weir_up_seconds_total"}
            if last or zero_at is None:
                zero_at, told = None if last else time.monotonic(), now_told
            elif all(now_told.get(w, -1) != told.get(w) for w in now_told):
                return zero_at - since, {}
        await asyncio.sleep(0.02)
    return None, last or {"workers": "not all have told their numbers"}
