#!/usr/bin/env python3
"""chaos.py -- kills, freezes, cut links and damaged pages under load: nothing may be lost.

    tests/chaos/chaos.py [--tier commit|full] [--slice I/N] [--out FILE.json] [--report FOLDER]
    tests/chaos/chaos.py --merge FILE.json... --report FOLDER

Each part of the tier is a cluster with traffic on it, and a list of faults brought about one after
the other. A slice runs every N-th fault of each part. README.md says what is checked.
"""

import argparse
import asyncio
import json
import os
import random
import sys
import time

import report
from cluster import BIN, Cluster, account_again, settle
from faults import Driver, plan
from traffic import KINDS, Traffic, oracle, requests
from weirtest import tiny_model

CONTEXT = 2048
COMMON = ("--threads", "1", "--kv-memory", "4m", "--prefill-chunk", "64", "--local-prefill-max", "8",
          "--queue-timeout-ms", "120000")
SHAPES = {
    "2P2D": ("--prefill", "2", "--decode", "2"),
    "1P2D": ("--prefill", "1", "--decode", "2"),
    "aggregated 2": ("--aggregated", "--decode", "2"),
}
# The tiny model computes a layer in microseconds. Waiting makes requests last long enough for a
# fault to meet them, without taking cores for it.
STANDING = "step.layer=delay_8"
RSS_GROWTH_KIB = 16 << 10
HELD_S = 1.0           # after the last request; asserted in the full tier

# What the gateway did about the faults: the report shows that these paths were taken.
COUNTERS = ("weir_worker_restarts_total", "weir_retries_total", "weir_splits_total",
            "weir_duplicate_tokens_total", "weir_stale_messages_total")

#        shape, streams, requests at least, faults
TIERS = {
    "commit": (("2P2D", 24, 300, {"kills": 1, "links": 0, "freezes": 4, "damage": 2, "wipes": 1,
                                  "freeze_max_s": 4.0}),
               ("1P2D", 16, 60, {"kills": 0, "links": 1, "freezes": 0}),
               ("aggregated 2", 16, 60, {"kills": 1, "links": 1, "freezes": 0})),
    "full": (("2P2D", 48, 3200, {"kills": 14, "links": 12, "freezes": 40, "damage": 20,
                              "wipes": 10}),
             ("1P2D", 32, 1200, {"kills": 6, "links": 8, "freezes": 10, "damage": 10,
                              "wipes": 5}),
             ("aggregated 2", 32, 800, {"kills": 20, "links": 20, "freezes": 10, "wipes": 10})),
}


def cut(faults, part, parts):
    return faults[part::parts]


async def run_part(shape, streams, least, wanted, options, jobs, expected):
    """One cluster under faults: a dict for the report."""
    aggregated = shape.startswith("aggregated")
    rng = random.Random(f"{options.seed} {shape}")
    faults = cut(plan(rng, aggregated, **wanted), *options.slice)
    least = -(-least // options.slice[1])
    cluster = Cluster(*COMMON, *SHAPES[shape], model=options.model, standing=STANDING,
                      nice=options.nice)
    await cluster.start()
    loop = asyncio.get_running_loop()
    traffic = Traffic(cluster, jobs, expected, streams, f"{options.seed} {options.slice} {shape}")
    driver = Driver(cluster, f"{options.seed} {options.slice} {shape} driver")
    try:
        # Everything is touched once, then everything is counted.
        rounds = max(1, streams // 8)
        for i in range(rounds):
            await asyncio.gather(*(traffic.one(loop, (i * 8 + k) % len(jobs)) for k in range(8)))
        warm_s, _ = await settle(cluster, traffic.last_end)
        base = cluster.account()
        begun = time.monotonic()
        clients = asyncio.create_task(traffic.run())
        for fault in faults:
            # A point is passed only while there is work.
            acted = await driver.bring_about(fault)
            if options.verbose:
                print(f"# {time.monotonic() - begun:6.1f} {shape}: {fault.kind} {fault.name} "
                      f"{fault.process if acted else 'NOT REACHED'}; {dict(traffic.ended)}",
                      flush=True)
        while traffic.sent < least and not traffic.problems:
            await asyncio.sleep(0.05)
        traffic.stop()
        await clients
        took = time.monotonic() - begun
        await cluster.until(cluster.healthy, "all workers are back", 60)
        zero_s, left = await settle(cluster, traffic.last_end)
        metrics = await cluster.metrics()
        end = await account_again(cluster, base)
        await cluster.stop()
    finally:
        if cluster.process and cluster.process.returncode is None:
            cluster.kill()
    log = cluster.log_path
    part = {"shape": shape, "streams": streams, "seconds": took, "sent": traffic.sent,
            "ended": dict(traffic.ended), "how": dict(traffic.how), "tokens": traffic.tokens,
            "faults": [tell(f, traffic) for f in faults if f.at],
            "unreached": [f"{f.kind} {f.name}" for f in driver.unreached],
            "problems": [{"request": i, "kind": kind, "why": why[:2000],
                          "after": last_fault(faults, at)}
                         for at, i, kind, why in traffic.problems],
            "zero_s": zero_s, "held": left, "warm_s": warm_s,
            "base": base, "end": end,
            "counters": {name: metrics.sum(name) for name in COUNTERS},
            "inexact": metrics.sum("weir_inexact_tokens_total"),
            "retries_spent": metrics.sum("weir_retries_total", budget="spent")}
    part["verdicts"] = judge_part(part, options.sanitized)
    if options.tier == "full" and zero_s is not None and zero_s > HELD_S:
        part["verdicts"].append(f"held for {zero_s:.2f} s after the last request")
    if part["verdicts"]:
        print(f"# log: {log}")
    else:
        cluster.clean()
    return part


def tell(fault, traffic):
    gap, streams = traffic.worst_gap(fault.at)
    return {"kind": fault.kind, "name": fault.name, "process": fault.process, "at": fault.at,
            "freeze_s": fault.freeze_s, "fenced": fault.fenced, "back_s": fault.back_s,
            "gap_s": gap, "silent_streams": streams}


def last_fault(faults, at):
    before = [f for f in faults if f.at and f.at < at]
    return max(before, key=lambda f: f.at).name if before else None


def judge_part(part, sanitized):
    """What is wrong with a part, in words; empty when nothing is. Sanitizers keep what is freed."""
    wrong = []
    for kind in KINDS:
        if part["ended"].get(kind):
            wrong.append(f"{part['ended'][kind]} requests {kind}")
    if part["held"]:
        wrong.append(f"still held: {part['held']}")
    if part["inexact"]:
        wrong.append(f"{part['inexact']:.0f} tokens changed on a retry")
    if part["unreached"]:
        wrong.append(f"points not reached: {part['unreached'][:5]}")
    for name, was in part["base"].items():
        now = part["end"].get(name)
        if now is None:
            wrong.append(f"{name} is not there at the end")
            continue
        for what in ("fds", "threads"):
            if now[what] > was[what]:
                wrong.append(f"{name}: {what} {was[what]} before, {now[what]} after: {now['open']}")
        if not sanitized and now["rss_kib"] > was["rss_kib"] + RSS_GROWTH_KIB:
            wrong.append(f"{name}: {was['rss_kib']} KiB before, {now['rss_kib']} after")
    for fault in part["faults"]:
        if fault["kind"] == "freeze" and fault["fenced"] and fault["freeze_s"] <= 1.0:
            wrong.append(f"a freeze of {fault['freeze_s']:.1f} s was taken for a death")
    return wrong


async def run(options):
    options.model = tiny_model(context=CONTEXT)
    jobs = requests(options.jobs, seed=options.seed)
    expected = await oracle(jobs, options.model)
    parts = []
    for shape, streams, least, wanted in TIERS[options.tier]:
        if options.shape and shape != options.shape:
            continue
        parts.append(await run_part(shape, streams, least, wanted, options, jobs, expected))
        bad = parts[-1]["verdicts"]
        name = f"chaos_{shape.replace(' ', '_')}"
        print(f"not ok {name} - {'; '.join(bad)[:300]}" if bad else
              f"ok {name} ({report.summary(parts[-1])})", flush=True)
        for problem in parts[-1]["problems"][:3]:
            print(f"# {problem}", flush=True)
    return {"tier": options.tier, "seed": options.seed, "jobs": options.jobs,
            "slices": [f"{options.slice[0]}/{options.slice[1]}"], "parts": parts,
            "sources": [report.source(BIN, options.commit)]}


def slice_of(text):
    part, parts = map(int, text.split("/"))
    if not 0 <= part < parts:
        raise ValueError(text)
    return part, parts


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--tier", choices=TIERS, default=os.environ.get("WEIR_TIER", "commit"))
    parser.add_argument("--shape", choices=SHAPES, help="only this part")
    parser.add_argument("--slice", type=slice_of, default=(0, 1), help="I/N: every N-th fault")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=160, help="distinct requests")
    parser.add_argument("--nice", type=int, default=0, help="of the servers")
    parser.add_argument("--sanitized", action="store_true", help="do not compare memory")
    parser.add_argument("--verbose", action="store_true", help="a line a fault")
    parser.add_argument("--commit", help="of the binary, where it is not the tree's")
    parser.add_argument("--out", help="write the result as JSON")
    parser.add_argument("--merge", nargs="+", help="do not run: read results of slices")
    parser.add_argument("--report", help="write chaos.json, chaos.md and chaos.html here")
    options = parser.parse_args()
    if options.merge:
        result = report.merge(options.merge)
    else:
        result = asyncio.run(run(options))
    if options.out:
        with open(options.out, "w", encoding="utf-8") as f:
            json.dump(result, f, indent=1)
    if options.report:
        report.write(options.report, result)
    sys.exit(1 if any(part["verdicts"] for part in result["parts"]) else 0)


if __name__ == "__main__":
    main()
