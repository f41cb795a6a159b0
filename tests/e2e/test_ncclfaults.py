#!/usr/bin/env python3
"""test_ncclfaults.py -- either side of a transfer over NCCL killed and frozen, at every phase of it;
an abort that never returns.

Real processes on emulated devices. One request at a time; a worker is told over its FIFO
(WEIR_FAILPOINTS_DIR) where to die or stop. WEIR_PHASES="posted,after" picks phases. The oracle: the
tokens of a worker that computes both phases. How long a failure took to be seen, and the client to
hear again, is printed, never asserted.
"""

import os
import re
import signal
import tempfile
import threading
import time

from emulated import CUDA, OVER, device
from weirtest import FULL, Server, case, main, parallel, until

TIMES = 20 if FULL else 2
LIVES = 2  # failures of one server: the supervisor starts a worker that keeps dying ever later
GROUPS = 8  # of a victim's prompt: one a chunk
CHUNK = 16
FLAGS = ("--prefill-chunk", str(CHUNK), "--heartbeat-timeout-ms", "3000" if FULL else "1000")
# Where each side is at a phase: its fault point, and how many passes of it go by before.
PHASES = {
    "announced": (("nccl.announced", 0), ("decode.on_announce", 0)),
    "posted": (("prefill.on_posted", 0), ("nccl.posted", 0)),
    "25 % sent": (("nccl.sending", GROUPS // 4), ("decode.on_group", GROUPS // 4)),
    "50 % sent": (("nccl.sending", GROUPS // 2), ("decode.on_group", GROUPS // 2)),
    "75 % sent": (("nccl.sending", GROUPS * 3 // 4), ("decode.on_group", GROUPS * 3 // 4)),
    "last group": (("nccl.sending", GROUPS - 1), ("decode.on_group", GROUPS - 1)),
    "before hand-off": (("prefill.before_handoff", 0), ("decode.on_handoff", 0)),
    "after": (("prefill.on_adopted", 0), ("decode.after_adopted", 0)),
}
if os.environ.get("WEIR_PHASES"):
    PHASES = {phase: PHASES[phase] for phase in os.environ["WEIR_PHASES"].split(",")}
ROLES = ("prefill", "decode")
# What the gateway or the other side says first.
SEEN = ("kvt: channel broken", "peers: link ended", "supervisor: worker ended", "worker is silent")
expected = {}


def victim(number):
    """No two share a prefix: all of it is computed and moved."""
    head = [3 + number % 300, 3 + number // 300]
    return {"prompt": head + [3 + i * i % 300 for i in range(GROUPS * CHUNK - 8)], "max_tokens": 8,
            "temperature": 0, "ignore_eos": True, "return_token_ids": True}


def ask(server, number, heard=None):
    """The victim's tokens; when each came, if somebody wants to know."""
    ids = []
    for event in server.stream("/v1/completions", victim(number)):
        if event is None:
            return ids
        assert "error" not in event, event
        ids += event["choices"][0].get("token_ids") or []
        if heard is not None:
            heard.append(time.time() % 86400)
    raise AssertionError("the stream ended without [DONE]")


def numbers(role, action):
    first = 10000 * (1 + 2 * ROLES.index(role) + ("kill", "stop").index(action))
    return range(first, first + TIMES * len(PHASES))


def reference(every):
    missing = [n for n in every if n not in expected]
    if missing:
        with Server(*CUDA, "--aggregated", env=device()) as server:
            got = parallel(missing, lambda n: ask(server, n), 4)
        expected.update(zip(missing, got))


def wall_s(line):
    """A log line's own time, in seconds of the day."""
    hours, minutes, seconds = re.match(r"\d+-\d+-\d+T(\d+):(\d+):([\d.]+)Z", line).groups()
    return int(hours) * 3600 + int(minutes) * 60 + float(seconds)


class Pair:
    """One prefill and one decode worker whose fault points can be armed while they run."""

    def __init__(self):
        self.orders = tempfile.mkdtemp(prefix="weir-orders-")
        self.server = Server(*OVER, *FLAGS, env=device(WEIR_FAILPOINTS_DIR=self.orders))

    def lines(self, start, *texts):
        return [line for line in self.server.log()[start:].splitlines()
                if all(text in line for text in texts)]

    def arm(self, process, spec):
        start = len(self.server.log())

        def told():
            try:
                fd = os.open(os.path.join(self.orders, process), os.O_WRONLY | os.O_NONBLOCK)
            except OSError:
                return False  # its next life does not listen yet
            os.write(fd, spec.encode() + b"\n")
            os.close(fd)
            return True
        until(told, f"{process} takes orders")
        until(lambda: self.lines(start, process, "failpoint: armed"), f"{process} is armed")

    def whole(self):
        return self.server.healthy() and len(self.server.workers()) == 2

    def run(self, number, role, point, skip, action):
        """One victim; seconds until anybody else knew, and the longest
        silence that the client heard."""
        process = f"{role}-{ROLES.index(role)}"
        until(self.whole, "both workers are there")
        life, = self.server.workers(role)
        self.arm(process, f"{point}={action}:1@{skip}")
        start = len(self.server.log())
        heard = []
        ids = ask(self.server, number, heard)
        assert ids == expected[number], f"{number}: {ids} is not {expected[number]}"
        acts = self.lines(start, process, "failpoint: acts")
        assert len(acts) == 1, f"{point} was not reached"
        at = wall_s(acts[0])
        lost = until(lambda: [line for text in SEEN for line in self.lines(start, text)], "somebody knows")
        # A frozen one still listens: what comes next is for the one after it.
        until(lambda: life not in self.server.workers(role), "it has ended")
        after = [at] + [t for t in heard if t > at]
        return min(map(wall_s, lost)) - at, max(b - a for a, b in zip(after, after[1:] or [at]))


def phase_of(role, action, point, skip, victims):
    pair = Pair()
    with pair.server:
        took = [pair.run(number, role, point, skip, action) for number in victims]
        until(pair.whole, "both workers are there")
        pair.server.check_pages_free()
        assert pair.server.metrics().sum("weir_inexact_tokens_total") == 0
    return took


def all_phases(role, action, report):
    every = list(numbers(role, action))
    for phase, points in PHASES.items():
        took = []
        for _ in range(TIMES // LIVES):
            took += phase_of(role, action, *points[ROLES.index(role)], every[:LIVES])
            del every[:LIVES]
        report.append((phase, took))


def both_sides(action):
    reference([n for role in ROLES for n in numbers(role, action)])
    reports = {role: [] for role in ROLES}
    errors = []

    def one(role):
        try:
            all_phases(role, action, reports[role])
        except BaseException as error:
            errors.append(error)
    threads = [threading.Thread(target=one, args=(role,)) for role in ROLES]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for role in ROLES:
        for phase, took in reports[role]:
            print(f"# {role} {action} {phase}: seen after at most {max(t[0] for t in took):.2f} s, "
                  f"the client waited at most {max(t[1] for t in took):.2f} s "
                  f"({len(took)} times)")
    if errors:
        raise errors[0]


@case
def killed_at_every_phase():
    both_sides("kill")


@case
def frozen_at_every_phase():
    both_sides("stop")


def over_nccl(server):
    """Both workers are there, and NCCL joins them."""
    return (server.healthy() and len(server.workers()) == 2
            and server.metrics().sum("weir_kv_links", transport="nccl") == 2)


@case
def an_abort_that_hangs_ends_its_worker():
    """ncclCommAbort never returns on P when D has died. P goes on to serve until its time is up, then
    ends, is started again, and joins D anew."""
    reference(range(6))
    with Server(*OVER, *FLAGS, env=device(EMU_NCCL_FAULT="abort-hangs,rank=0")) as server:
        assert ask(server, 0) == expected[0]
        prefill, = server.workers("prefill")
        decode, = server.workers("decode")
        os.kill(decode, signal.SIGKILL)
        assert ask(server, 1) == expected[1]
        until(lambda: "kvt: an NCCL abort hangs: this worker ends" in server.log(), "it is noticed")
        assert parallel([2, 3], lambda n: ask(server, n), 2) == [expected[2], expected[3]]
        until(lambda: over_nccl(server), "both are joined anew")
        assert prefill not in server.workers("prefill"), "the worker lives on"
        assert parallel([4, 5], lambda n: ask(server, n), 2) == [expected[4], expected[5]]
        server.check_pages_free()
        assert server.metrics().sum("weir_inexact_tokens_total") == 0


if __name__ == "__main__":
    main()
