"""controllers.py -- `weir controller` with its HTTP port, and a cluster under it."""

import http.client
import json
import os
import re
import signal

from hosts import Cluster, Node
from weirtest import Answer, until


class Controller(Node):
    """One that scales, and what it says over HTTP."""

    def __init__(self, *flags, listen="127.0.0.1:0", port=0, words=(), env=None):
        words = ["--", *words] if words else []
        super().__init__("controller", "--listen", listen, "--http", f"127.0.0.1:{port}",
                         "--autoscale", *flags, *words, env=env)
        self.wait_log("dashboard: ")
        self.address = re.search(r"hub is at (\S+)", self.log()).group(1)
        self.port = int(re.search(r"dashboard: http://127.0.0.1:(\d+)", self.log()).group(1))

    def request(self, method, path, body=None, headers=None):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        data = json.dumps(body) if body is not None else None
        connection.request(method, path, data, {"Content-Type": "application/json",
                                                **(headers or {})})
        answer = Answer(connection.getresponse())
        connection.close()
        return answer

    def state(self):
        answer = self.request("GET", "/controller/state")
        assert answer.status == 200, answer.status
        return answer.json()

    def order(self, what, **body):
        return self.request("POST", f"/controller/{what}", body)

    def ordered(self, what, **body):
        """Once it has found out what runs."""
        until(lambda: self.order(what, **body).status == 200, f"{what} is carried out")

    def pool(self, role):
        return next(p for p in self.state()["pools"] if p["role"] == role)

    def serving(self):
        return {w["worker"]: w["role"] for w in self.state()["workers"] if w["phase"] == "serving"}

    def all_done(self):
        """Ends every worker, then itself."""
        for role in ("prefill", "decode"):
            self.ordered("scale", role=role, workers=0)
        until(lambda: not self.state()["workers"], "all workers have gone", 120)
        self.end()


class Controlled(Cluster):
    """A cluster under such a controller."""

    def __init__(self, *flags, words=()):
        self.hub = Controller(*flags, words=words)
        self.address, self.nodes, self.gateways = self.hub.address, [], []

    def __exit__(self, kind, value, trace):
        if kind is None:
            for gateway in self.gateways:
                gateway.stop()
            for node in self.nodes:
                node.end()
            self.hub.all_done()
        else:
            for pid in our_workers(self.address):
                os.kill(pid, signal.SIGKILL)
        return False


def our_workers(address):
    """Processes that some controller of that address has started."""
    found = []
    for entry in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{entry}/cmdline", "rb") as f:
                words = f.read().decode().split("\0")
        except OSError:
            continue
        if words[1:2] == ["worker"] and any(address in w for w in words):
            found.append(int(entry))
    return sorted(found)
