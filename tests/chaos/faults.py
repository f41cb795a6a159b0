"""faults.py -- what may go wrong, on purpose: kills and freezes at named points, cut links, damage.

A fault is armed in one process and counts only when that process's own log says that the point acted.
"""

import asyncio
import os
import random
import signal
import time

# name, role of the process, passes to let go by at most. engine/base/README.md lists all points.
PREFILL_POINTS = (
    ("prefill.on_submit", 4), ("step.layer", 6), ("prefill.before_announce", 6),
    ("prefill.on_posted", 6), ("prefill.before_group", 6), ("prefill.after_group", 6),
    ("prefill.before_first_token", 4), ("prefill.after_first_token", 4),
    ("prefill.before_handoff", 4), ("prefill.after_handoff", 4), ("prefill.on_adopted", 4),
)
DECODE_POINTS = (
    ("decode.on_reserve", 4), ("decode.before_grant", 4), ("decode.after_grant", 4),
    ("decode.before_posted", 6), ("decode.on_group", 6), ("decode.on_handoff", 4),
    ("decode.before_adopted", 4), ("decode.after_adopted", 4), ("step.layer", 40),
    ("decode.before_token", 60), ("decode.after_token", 60), ("decode.before_last_token", 4),
    ("decode.after_last_token", 4),
)
BOTH_POINTS = (("decode.on_reserve", 4), ("step.layer", 40), ("decode.before_token", 60),
               ("worker.before_step", 30))
# A link breaks here: between the gateway and a worker, ...
GATEWAY_LINKS = (("gateway", "gateway.link", 40), ("gateway", "gateway.before_submit", 4),
                 ("gateway", "gateway.after_reserve", 4), ("gateway", "gateway.on_token", 60),
                 ("prefill", "worker.gateway_link", 4), ("decode", "worker.gateway_link", 4))
AGGREGATED_LINKS = (("gateway", "gateway.link", 40), ("gateway", "gateway.on_token", 60),
                    ("both", "worker.gateway_link", 4))
# ... and between two workers.
WORKER_LINKS = (("prefill", "prefill.before_group", 6), ("prefill", "prefill.after_handoff", 4),
                ("decode", "decode.before_adopted", 4), ("decode", "decode.on_group", 6))
DAMAGE = ("prefill", "kvt.damage", 6)

REACHED_S = 4          # a point that traffic does not pass within this is tried again
TRIES = 6
BACK_S = 60            # a hang guard


class Fault:
    """One fault: kind (kill, wipe, freeze, link, worker_link, damage), role, point, passes to skip.
    A wipe kills all workers of a role, each at its own pass of the point."""

    def __init__(self, kind, role, point, skip, freeze_s=0.0, overlap=False):
        self.kind, self.role, self.point, self.skip = kind, role, point, skip
        self.freeze_s, self.overlap = freeze_s, overlap
        self.at = None         # when it acted, by the process's own clock
        self.process = None
        self.back_s = None     # until the worker had joined again
        self.fenced = False

    def spec(self):
        action = {"kill": "kill", "wipe": "kill", "freeze": "stop"}.get(self.kind, "error")
        return f"{self.point}={action}:1@{self.skip}"

    @property
    def deadly(self):
        """It ends a worker's life."""
        return self.kind in ("kill", "wipe", "link") or self.freeze_s > 1

    @property
    def name(self):
        """As the tables show it: step.layer is another point in another role."""
        return self.point if self.point.startswith(("prefill.", "decode.", "gateway.")) else \
            f"{self.role}: {self.point}"


def points(aggregated):
    if aggregated:
        return [("both", p, skip) for p, skip in BOTH_POINTS]
    return [("prefill", p, skip) for p, skip in PREFILL_POINTS] + \
           [("decode", p, skip) for p, skip in DECODE_POINTS]


def plan(rng, aggregated, kills, links, freezes, damage=0, wipes=0, freeze_max_s=10.0):
    """A shuffled list: each point `kills` times, each link point `links` times, `freezes` freezes at
    points of all kinds, half of them up to a second, `wipes` of each role."""
    found = []

    def add(kind, role, point, skip_max, freeze_s=0.0):
        found.append(Fault(kind, role, point, rng.randint(0, skip_max), freeze_s,
                           overlap=rng.random() < 0.25))
    all_points = points(aggregated)
    for role, point, skip in all_points:
        for _ in range(kills):
            add("kill", role, point, skip)
    for role, point, skip in AGGREGATED_LINKS if aggregated else GATEWAY_LINKS:
        for _ in range(links):
            add("link", role, point, skip)
    if not aggregated:
        for role, point, skip in WORKER_LINKS:
            for _ in range(links):
                add("worker_link", role, point, skip)
        for _ in range(damage):
            add("damage", *DAMAGE)
    for role in ("both",) if aggregated else ("prefill", "decode"):
        for _ in range(wipes):
            add("wipe", role, *rng.choice([p[1:] for p in all_points if p[0] == role][:2]))
    for i in range(freezes):
        role, point, skip = all_points[(i * 7) % len(all_points)]
        long = rng.uniform(3.5, freeze_max_s) if freeze_max_s > 3.5 else freeze_max_s
        add("freeze", role, point, skip, rng.uniform(0.5, 1.0) if i % 2 else long)
    rng.shuffle(found)
    return found


class Driver:
    """Brings the faults of a plan about, one after the other."""

    def __init__(self, cluster, seed, spared=()):
        """spared: numbers of workers whose life no fault may end."""
        self.cluster = cluster
        self.spared = spared
        self.rng = random.Random(seed)
        self.unreached = []

    def _target(self, fault):
        if fault.role == "gateway":
            return "gateway"
        there = [w for w in self.cluster.workers.values() if w.joined and w.role == fault.role and
                 not (fault.deadly and w.number in self.spared)]
        return self.rng.choice(there).process if there else None

    async def bring_about(self, fault):
        """True when it acted. Waits until everybody is back, unless the fault overlaps the next."""
        if fault.kind == "wipe":
            return await self._wipe(fault)
        for _ in range(TRIES):
            await self.cluster.until(lambda: self._target(fault), "a target is there", BACK_S)
            process = self._target(fault)
            wait = asyncio.create_task(self.cluster.acted(process, fault.point, REACHED_S))
            await asyncio.sleep(0)  # it listens before the order goes out
            ordered = self.cluster.arm(process, fault.spec())
            event = await wait if ordered else None
            if not ordered:
                wait.cancel()
                await asyncio.sleep(0.05)
                continue
            if event:
                fault.at, fault.process = int(event.fields["now_us"]) / 1e6, process
                await self._after(fault, int(event.fields["pid"]))
                return True
            self.cluster.arm(process, "")
            fault.skip //= 2
        self.unreached.append(fault)
        return False

    async def _wipe(self, fault):
        """Arms them all, then waits until each has died at the point. One that was dying already
        when its order came is armed again in its next life."""
        await self.cluster.until(self.cluster.healthy, "all are there", BACK_S)
        names = [w.process for w in self.cluster.workers.values() if w.role == fault.role]

        async def die(name):
            for _ in range(TRIES):
                wait = asyncio.create_task(self.cluster.acted(name, fault.point, REACHED_S))
                await asyncio.sleep(0)
                self.cluster.arm(name, fault.spec())
                event = await wait
                if event:
                    return event
            return None
        events = await asyncio.gather(*(die(n) for n in names))
        if None in events:
            self.unreached.append(fault)
            return False
        fault.at = max(int(e.fields["now_us"]) for e in events) / 1e6
        fault.process = " ".join(names)
        await asyncio.sleep(0.02)
        await self.cluster.until(self.cluster.healthy, f"all are back after {fault.name}", BACK_S)
        fault.back_s = max(self.cluster.workers[self._number(n)].joined_at
                           for n in names) - fault.at
        return True

    async def _after(self, fault, pid):
        if fault.process == "gateway":
            self.cluster.arm("gateway", "")
        if fault.kind == "freeze":
            await self._thaw(fault, pid)
        elif fault.kind in ("worker_link", "damage"):
            self.cluster.arm(fault.process, "")
            await asyncio.sleep(self.rng.uniform(0.1, 0.4))
            return
        if fault.overlap:
            await asyncio.sleep(self.rng.uniform(0.0, 0.1))
            return
        number = self._number(fault.process)
        # The end of a killed worker is read after the point's own line.
        await asyncio.sleep(0.02)
        await self.cluster.until(self.cluster.healthy, f"all are back after {fault.name}", BACK_S)
        if number is not None:
            w = self.cluster.workers[number]
            if w.joined_at > fault.at:
                fault.back_s = w.joined_at - fault.at
        await asyncio.sleep(self.rng.uniform(0.0, 0.3))

    @staticmethod
    def _number(process):
        return None if process == "gateway" else int(process.rsplit("-", 1)[1])

    async def _thaw(self, fault, pid):
        """It has stopped itself at the point; after its time it goes on, if nobody replaced it."""
        await asyncio.sleep(max(0.0, fault.at + fault.freeze_s - time.monotonic()))
        w = self.cluster.workers[self._number(fault.process)]
        fault.fenced = w.pid != pid or not w.joined
        if w.pid == pid:
            try:
                os.kill(pid, signal.SIGCONT)
            except ProcessLookupError:
                fault.fenced = True
        if not fault.fenced:
            self.cluster.arm(fault.process, "")
