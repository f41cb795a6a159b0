"""weirtest.py -- what the end-to-end tests share: a server as a child process, plain HTTP, metrics.

A test file decorates its cases with @case and ends with main(). Each case prints one line, `ok NAME`,
`not ok NAME - why` or `skip NAME - why` (the convention of tests/run). The binary is WEIR_BIN (default
build/release/weir); the tiny model is made by the weir_tinymodel beside it; the real one is
WEIR_TEST_MODEL (default: the default model in the cache).
"""

import atexit
import concurrent.futures
import http.client
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback

ROOT = os.path.abspath(os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", ".."))
BIN = os.environ.get("WEIR_BIN") or os.path.join(ROOT, "build", "release", "weir")
FULL = os.environ.get("WEIR_TIER") == "full"
# A guard against hangs: far longer than anything here takes.
HANG_S = 60

_cases = []
_scratch = tempfile.mkdtemp(prefix="weir-e2e-")
_servers = set()


class Skip(Exception):
    """Raised by a case that cannot run here."""


def case(function):
    _cases.append((function.__name__, function))
    return function


def _clean_up():
    for server in list(_servers):
        server.kill()
    _end_strays()
    shutil.rmtree(_scratch, ignore_errors=True)


def _end_strays():
    """Workers that outlive their controller on purpose name files of this run."""
    for name in os.listdir("/proc"):
        if name.isdigit() and int(name) != os.getpid():
            try:
                with open(f"/proc/{name}/cmdline", "rb") as f:
                    words = f.read()
                if _scratch.encode() in words:
                    os.kill(int(name), signal.SIGKILL)
            except OSError:
                pass  # it has ended


atexit.register(_clean_up)


def _each_alone(names, at_once):
    """Each case in a process and a folder of its own, so many of them beside each other; what each
    says comes out when it has ended. How many failed."""
    def run(name):
        done = subprocess.run([sys.executable, sys.argv[0], name], stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, check=False)
        text = done.stdout.decode("utf-8", "replace")
        if done.returncode and not re.search("^not ok ", text, re.MULTILINE):
            text += f"not ok {name} - exit status {done.returncode}\n"
        print(text, end="", flush=True)
        return done.returncode != 0
    return sum(parallel(names, run, at_once))


def main(at_once=1):
    """Runs the cases named on the command line (all without), in the order of the file; with
    `at_once` as many beside each other, for cases that wait more than they compute."""
    wanted = sys.argv[1:]
    names = [name for name, _ in _cases if not wanted or name in wanted]
    if at_once > 1 and len(names) > 1:
        sys.exit(1 if _each_alone(names, at_once) else 0)
    failed = 0
    for name, function in _cases:
        if name not in names:
            continue
        start = time.monotonic()
        before = set(_servers)
        try:
            function()
            print(f"ok {name} ({time.monotonic() - start:.1f} s)", flush=True)
        except Skip as why:
            print(f"skip {name} - {why}", flush=True)
        except BaseException as error:  # the next case still runs
            failed += 1
            traceback.print_exc()
            text = " ".join(str(error).split()) or type(error).__name__
            for server in _servers - before:
                print(f"--- log of {server.command}\n{server.log_tail()}", flush=True)
            print(f"not ok {name} - {text[:300]}", flush=True)
            if isinstance(error, KeyboardInterrupt):
                raise
        finally:
            for server in _servers - before:
                server.kill()
    sys.exit(1 if failed else 0)


def scratch(name):
    return os.path.join(_scratch, name)


def tiny_model(kind="q8_0", seed=1, context=1024):
    path = scratch(f"tiny-{kind}-{seed}-{context}.gguf")
    if not os.path.exists(path):
        tool = os.path.join(os.path.dirname(BIN), "weir_tinymodel")
        subprocess.run([tool, path, kind, str(seed), str(context)], check=True)
    return path


def real_model():
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    path = os.environ.get("WEIR_TEST_MODEL") or os.path.join(
        cache, "weir", "SmolLM2-135M-Instruct.Q4_1.gguf")
    if not os.path.exists(path):
        raise Skip("no model file; set WEIR_TEST_MODEL")
    return path


def until(condition, what, limit_s=HANG_S, state=None):
    """Waits for a condition that must come true; returns its value. `state()` is told if it does not."""
    end = time.monotonic() + limit_s
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > end:
            told = f"; {state()}" if state else ""
            raise AssertionError(f"{what}: not within {limit_s} s{told}")
        time.sleep(0.01)


def alive(pid):
    """True for a process that runs (zombies do not)."""
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as f:
            return f.read().rsplit(")", 1)[1].split()[0] not in "ZX"
    except OSError:
        return False


def stopped(pid):
    """True for a process that SIGSTOP holds."""
    with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as f:
        return f.read().rsplit(")", 1)[1].split()[0] in "tT"


def children(pid):
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                with open(f"/proc/{entry}/stat", encoding="ascii", errors="replace") as f:
                    fields = f.read().rsplit(")", 1)[1].split()
            except OSError:
                continue
            if int(fields[1]) == pid and fields[0] not in "ZX":
                found.append(int(entry))
    return found


def command_line(pid):
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as f:
            return f.read().decode("utf-8", "replace").split("\0")
    except OSError:
        return []


def cpu_seconds(pid):
    with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as f:
        fields = f.read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def memory_bytes(pid):
    """Resident memory by kind: what the process took itself, and what it shares (the KV rings fill
    up once and are then reused)."""
    found = {}
    with open(f"/proc/{pid}/status", encoding="ascii", errors="replace") as f:
        for line in f:
            if line.startswith(("RssAnon:", "RssShmem:")):
                name, kib = line.split()[:2]
                found[name[:-1]] = int(kib) * 1024
    return found["RssAnon"], found["RssShmem"]


def fd_count(pid):
    return len(os.listdir(f"/proc/{pid}/fd"))


SAMPLE = re.compile(r'^([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(.*)\})? (\S+)$')
LABEL = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\]|\\.)*)"(?:,|$)')


class Metrics:
    """A /metrics page: samples by name and labels."""

    def __init__(self, text):
        self.text = text
        self.samples = []
        for line in text.splitlines():
            if line and not line.startswith("#"):
                name, labels, value = SAMPLE.match(line).groups()
                self.samples.append((name, dict(LABEL.findall(labels or "")), float(value)))

    def all(self, name, **labels):
        return [value for n, have, value in self.samples
                if n == name and all(have.get(k) == v for k, v in labels.items())]

    def sum(self, name, **labels):
        found = self.all(name, **labels)
        if not found:
            raise AssertionError(f"no series {name} {labels}")
        return sum(found)


class Answer:
    """An HTTP answer, read whole."""

    def __init__(self, response):
        self.status = response.status
        self.headers = response.headers
        self.body = response.read()

    def json(self):
        return json.loads(self.body)


class Server:
    """`weir serve` as a child. Use with `with`: leaving the block drains it and checks that it ended
    well and left no process behind."""

    def __init__(self, *flags, model=None, env=None, wait=True, sanitized_ok=True,
                 command="serve"):
        self.command = [BIN, command, "--model", model or tiny_model(), "--port", "0", *flags]
        self.log_path = tempfile.mktemp(prefix="log-", dir=_scratch)
        self.worker_pids = set()
        full_env = dict(os.environ)
        full_env.pop("WEIR_FAILPOINTS", None)
        full_env.pop("WEIR_API_KEY", None)
        full_env.update(env or {})
        self.log_file = open(self.log_path, "wb")
        self.process = subprocess.Popen(self.command, env=full_env, stdin=subprocess.DEVNULL,
                                        stdout=subprocess.PIPE, stderr=self.log_file)
        _servers.add(self)
        self.pid = self.process.pid
        if wait:
            self.wait_ready()

    def wait_ready(self):
        line = self.process.stdout.readline().decode()
        match = re.search(r" on http://([^:]+):(\d+) ", line)
        if not match:
            raise AssertionError(f"the server did not start: {line!r}\n{self.log_tail()}")
        self.host, self.port = match.group(1), int(match.group(2))
        self.url = f"http://{self.host}:{self.port}"
        threading.Thread(target=self.process.stdout.read, daemon=True).start()
        until(self.healthy, "GET /health answers 200")
        self.worker_pids |= set(children(self.pid))

    def healthy(self):
        try:
            return self.get("/health").status == 200
        except OSError:
            return False

    def __enter__(self):
        return self

    def __exit__(self, kind, value, trace):
        if kind is None:
            self.stop()
        return False

    def log(self):
        with open(self.log_path, encoding="utf-8", errors="replace") as f:
            return f.read()

    def log_tail(self, lines=60):
        return "\n".join(self.log().splitlines()[-lines:])

    def workers(self, role=None):
        """Pids by role, from the process list."""
        found = []
        for pid in children(self.pid):
            words = command_line(pid)
            if words[1:2] == ["worker"] and role in (None, words[words.index("--role") + 1]):
                found.append(pid)
        return found

    def stop(self, signal_number=signal.SIGTERM, expect=0):
        self.worker_pids |= set(children(self.pid))
        self.process.send_signal(signal_number)
        self.wait_end(expect)

    def wait_end(self, expect=0):
        try:
            code = self.process.wait(HANG_S)
        except subprocess.TimeoutExpired:
            raise AssertionError("the server does not end") from None
        assert code == expect, f"exit status {code}, not {expect}\n{self.log_tail()}"
        self.check_nothing_left()
        _servers.discard(self)
        self.log_file.close()
        text = self.log()
        for bad in ("ERROR: AddressSanitizer", "ERROR: LeakSanitizer", "runtime error:",
                    "WARNING: ThreadSanitizer", "CHECK failed"):
            assert bad not in text, f"{bad} in the log\n{self.log_tail(200)}"

    def check_nothing_left(self):
        until(lambda: not any(alive(p) for p in self.worker_pids), "workers end with their parent",
              10)

    def kill(self):
        for pid in [self.pid, *children(self.pid), *self.worker_pids]:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        self.process.wait()
        _servers.discard(self)

    # ---- HTTP

    def connect(self, timeout=HANG_S):
        return http.client.HTTPConnection(self.host, self.port, timeout=timeout)

    def request(self, method, path, body=None, headers=None):
        connection = self.connect()
        try:
            connection.request(method, path, body, headers or {})
            return Answer(connection.getresponse())
        finally:
            connection.close()

    def get(self, path, headers=None):
        return self.request("GET", path, None, headers)

    def post(self, path, body, headers=None):
        """`body`: JSON, or bytes as they are."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        return self.request("POST", path, data,
                            {"Content-Type": "application/json", **(headers or {})})

    def metrics(self):
        return Metrics(self.get("/metrics").body.decode())

    def stream(self, path, body):
        """Yields the decoded events of a streamed answer, [DONE] as None. Closing the generator
        closes the connection."""
        connection = self.connect()
        try:
            data = json.dumps({**body, "stream": True})
            connection.request("POST", path, data, {"Content-Type": "application/json"})
            response = connection.getresponse()
            if response.status != 200:
                raise RuntimeError(f"status {response.status}: {response.read()[:300]}")
            for line in response:
                if line.startswith(b"data: "):
                    text = line[6:].strip()
                    yield None if text == b"[DONE]" else json.loads(text)
        finally:
            connection.close()

    # ---- accounting

    def pages_held(self):
        m = self.metrics()
        return m.sum("weir_kv_pages_owned") + m.sum("weir_kv_pages_quarantined")

    def check_pages_free(self, limit_s=HANG_S):
        """No request is left: nor is any page of one."""
        until(lambda: self.pages_held() == 0, f"KV pages are given back: {self.pages_held()} held",
              limit_s)


class Result:
    """What a generation came to: per choice its ids, text, end and scores."""

    def __init__(self, count):
        self.ids = [[] for _ in range(count)]
        self.text = [""] * count
        self.finish = [None] * count
        self.scores = [[] for _ in range(count)]
        self.cached = 0

    def add_scores(self, choice):
        """Log probabilities, in either shape: of what was chosen and of what was likeliest."""
        found = choice.get("logprobs") or {}
        mine = self.scores[choice["index"]]
        for entry in found.get("content") or []:
            mine.append((entry["logprob"], [t["logprob"] for t in entry["top_logprobs"]]))
        mine += zip(found.get("token_logprobs") or [], found.get("top_logprobs") or [],
                    found.get("text_offset") or [])

    def key(self):
        return self.ids, self.text, self.finish, self.scores


class Failed(Exception):
    """A generation that ended in a clean error."""


def generate(server, path, body):
    """Runs a request, streamed or not, to a Result; Failed for an error the server tells of."""
    chat = path.endswith("chat/completions")
    body = {**body, "return_token_ids": True}
    prompts = body.get("prompt")
    many = len(prompts) if isinstance(prompts, list) and prompts and not isinstance(
        prompts[0], int) else 1
    result = Result(body.get("n", 1) * many)
    if not body.pop("stream", False):
        answer = server.post(path, body)
        data = answer.json()
        if answer.status != 200:
            raise Failed(f"{answer.status} {data['error']['message']}")
        for choice in data["choices"]:
            i = choice["index"]
            result.ids[i] = choice["token_ids"]
            result.text[i] = choice["message"]["content"] if chat else choice["text"]
            result.finish[i] = choice["finish_reason"]
            result.add_scores(choice)
        details = data["usage"].get("prompt_tokens_details") or {}
        result.cached = details.get("cached_tokens", 0)
        return result
    done = False
    try:
        for event in server.stream(path, body):
            if event is None:
                done = True
                continue
            if "error" in event:
                raise Failed(event["error"]["message"])
            for choice in event["choices"]:
                i = choice["index"]
                piece = choice["delta"].get("content") if chat else choice["text"]
                result.text[i] += piece or ""
                result.ids[i] += choice.get("token_ids") or []
                result.add_scores(choice)
                if choice["finish_reason"]:
                    assert result.finish[i] is None, "a choice ends once"
                    result.finish[i] = choice["finish_reason"]
    except http.client.IncompleteRead:
        raise Failed("the stream was cut") from None
    if not done:
        raise Failed("the stream ended without [DONE]")
    return result


def parallel(jobs, function, workers):
    """function(job) for each, `workers` at a time; the results in order."""
    with concurrent.futures.ThreadPoolExecutor(workers) as pool:
        return list(pool.map(function, jobs))
