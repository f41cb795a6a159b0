"""hosts.py -- clusters of separate processes, and a second host to put some of them on.

The second host is a network namespace behind a cable that the test holds in its hands: packets
between two TUN devices go through this process, which can delay, lose or swallow them.
"""

import fcntl
import heapq
import os
import random
import re
import select
import shutil
import signal
import socket
import struct
import subprocess
import tempfile
import threading
import time

import weirtest
from weirtest import BIN, HANG_S, Server, Skip, alive, tiny_model, until

KEY = "a key for the tests of clusters"


class Node:
    """A controller or a worker as a process of its own; `host` is a Host or None for this one."""

    def __init__(self, command, *flags, host=None, env=None):
        words = [BIN, command, *flags]
        if command == "worker":
            words += ["--threads", "1", "--model", tiny_model()] if "--model" not in flags else [
                "--threads", "1"]
        self.command = (host.prefix if host else []) + words
        self.log_path = tempfile.mktemp(prefix="node-", dir=weirtest._scratch)
        full = {**os.environ, "WEIR_CLUSTER_KEY": KEY, **(env or {})}
        self.log_file = open(self.log_path, "wb")
        self.process = subprocess.Popen(self.command, env={k: v for k, v in full.items() if v},
                                        stdin=subprocess.DEVNULL, stdout=self.log_file,
                                        stderr=subprocess.STDOUT)
        self.pid = self.process.pid
        weirtest._servers.add(self)

    def log(self):
        with open(self.log_path, encoding="utf-8", errors="replace") as f:
            return f.read()

    def log_tail(self, lines=60):
        return "\n".join(self.log().splitlines()[-lines:])

    def wait_log(self, text, limit_s=HANG_S):
        def there():
            if text in self.log():
                return True
            assert self.process.poll() is None, f"it ended:\n{self.log_tail()}"
            return False
        until(there, f"the log says {text!r}", limit_s)
        return self

    def end(self, expect=0, how=signal.SIGTERM):
        self.process.send_signal(how)
        return self.wait_end(expect)

    def wait_end(self, expect=0):
        code = self.process.wait(HANG_S)
        weirtest._servers.discard(self)
        self.log_file.close()
        assert code == expect, f"exit status {code}, not {expect}\n{self.log_tail()}"
        for bad in ("Sanitizer", "runtime error:", "CHECK failed"):
            assert bad not in self.log(), f"{bad} in the log\n{self.log_tail(200)}"
        return self

    def crash(self):
        return self.end(-signal.SIGKILL, signal.SIGKILL)

    def kill(self):
        if alive(self.pid):
            self.process.kill()
        self.process.wait()
        weirtest._servers.discard(self)


class Cluster:
    """A hub, and what joins it. Leaving the block ends all of it and checks that it ended well."""

    def __init__(self, address="127.0.0.1", flags=()):
        self.hub = Node("controller", "--listen", f"{address}:0", *flags)
        self.hub.wait_log("hub is at")
        self.address = re.search(r"hub is at (\S+)", self.hub.log()).group(1)
        self.nodes, self.gateways = [], []

    def worker(self, role, *flags, **how):
        node = Node("worker", "--join", self.address, "--role", role, *flags, **how)
        self.nodes.append(node)
        return node

    def gateway(self, *flags, wait=True):
        gateway = Server("--join", self.address, "--local-prefill-max", "0", *flags,
                         command="gateway", env={"WEIR_CLUSTER_KEY": KEY}, wait=False)
        self.gateways.append(gateway)
        if wait:
            gateway.wait_ready()
        return gateway

    def start(self, prefill=1, decode=1, **how):
        """The workers, and a gateway that knows them all."""
        for role in ["prefill"] * prefill + ["decode"] * decode:
            self.worker(role, **how.get(role, {}))
        gateway = self.gateway()
        self.wait_joined(gateway, prefill + decode)
        return gateway

    def wait_joined(self, gateway, count):
        until(lambda: gateway.log().count("worker joined") >= count, f"{count} workers joined")

    def restart_hub(self, while_away_s):
        self.hub.crash()
        time.sleep(while_away_s)
        self.hub = Node("controller", "--listen", self.address)
        self.hub.wait_log("hub is at")

    def remove(self, node):
        self.nodes.remove(node)
        return node

    def __enter__(self):
        return self

    def __exit__(self, kind, value, trace):
        if kind is None:
            for gateway in self.gateways:
                gateway.stop()
            for node in [*self.nodes, self.hub]:
                node.end()
        return False


# ---- a second host -----------------------------------------------------------------------------

class Cable:
    """Carries IP packets between two TUN devices, as well or badly as it is told to."""

    def __init__(self, ends):
        self.ends = ends
        self.delay_s, self.loss, self.swallows = 0.0, 0.0, False
        self.lost = 0
        self.rng = random.Random(7)
        self.closing = False
        self.thread = threading.Thread(target=self.carry, daemon=True)
        self.thread.start()

    def carry(self):
        waiting, order = [], 0
        while not self.closing:
            now = time.monotonic()
            while waiting and waiting[0][0] <= now:
                _, _, to, packet = heapq.heappop(waiting)
                try:
                    os.write(to, packet)
                except OSError:
                    pass  # that end is down
            limit = min(0.05, waiting[0][0] - now) if waiting else 0.05
            for fd in select.select(self.ends, [], [], max(0, limit))[0]:
                try:
                    packet = os.read(fd, 65536)
                except OSError:
                    continue
                if self.swallows or self.rng.random() < self.loss:
                    self.lost += 1
                    continue
                order += 1
                to = self.ends[1] if fd == self.ends[0] else self.ends[0]
                heapq.heappush(waiting, (time.monotonic() + self.delay_s, order, to, packet))


def ip(*words):
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True)


class Host:
    """A network namespace as another host: `near` is this one's address towards it, `far` its."""

    def __init__(self):
        if os.geteuid() != 0 or not shutil.which("ip") or not os.path.exists("/dev/net/tun"):
            raise Skip("another host needs root, ip and /dev/net/tun")
        number = os.getpid() % 8000
        net = f"10.{200 + number // 256}.{number % 256}"
        self.near, self.far, self.name = f"{net}.1", f"{net}.2", f"weir-{os.getpid()}"
        self.prefix = ["ip", "netns", "exec", self.name]
        self.devices = [f"wn{number}", f"wf{number}"]
        fds = []
        try:
            ip("netns", "add", self.name)
            for device in self.devices:
                fds.append(os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK))
                # struct ifreq: name, IFF_TUN | IFF_NO_PI; TUNSETIFF
                fcntl.ioctl(fds[-1], 0x400454ca, struct.pack("16sH22x", device.encode(), 0x1001))
            ip("link", "set", self.devices[1], "netns", self.name)
            for words, device, address in (((), self.devices[0], self.near),
                                           (("-n", self.name), self.devices[1], self.far)):
                ip(*words, "addr", "add", f"{address}/30", "dev", device)
                ip(*words, "link", "set", device, "up", "mtu", "9000")
            ip("-n", self.name, "link", "set", "lo", "up")
        except (OSError, subprocess.CalledProcessError) as error:
            self.close(fds)
            raise Skip(f"no second host can be made here: {error}") from None
        self.cable = Cable(fds)

    def link(self, state):
        ip("-n", self.name, "link", "set", self.devices[1], state)

    def close(self, fds=()):
        if hasattr(self, "cable"):
            self.cable.closing = True
            self.cable.thread.join()
            fds = self.cable.ends
        for fd in fds:
            os.close(fd)
        subprocess.run(["ip", "netns", "del", self.name], capture_output=True)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()
        return False


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]
