#!/usr/bin/env python3
"""soak.py -- an hour at 80 % load: a tenth of the clients leave, a fault a minute; memory stays flat.

    tests/chaos/soak.py [--seconds N] [--out FOLDER]

Writes soak.csv (a row a minute and process) and soak.md. No fault ends the lives of one prefill and
one decode worker: their memory, like the gateway's, is followed over the whole run.
"""

import argparse
import asyncio
import csv
import math
import os
import random
import statistics
import sys
import time

import report
from chaos import CONTEXT
from cluster import BIN, Cluster, account_again, settle
from faults import DAMAGE, DECODE_POINTS, PREFILL_POINTS, WORKER_LINKS, Driver, Fault
from traffic import KINDS, Traffic, oracle, requests
from weirtest import tiny_model

# 20 ms a layer: what the cluster can do is then a matter of its batches, not of the cores that
# happen to be free, and an hour of it leaves this machine to others.
STANDING = "step.layer=delay_20"
FLAGS = ("--prefill", "2", "--decode", "2", "--threads", "1", "--kv-memory", "4m", "--max-seqs", "8",
         "--prefill-chunk", "64", "--local-prefill-max", "8")
SPARED = (0, 2)
LOAD = 0.8
SAMPLE_S = 5
SLOPE_MB_MIN = 0.1


def next_fault(rng, number):
    """Kills, freezes, cut links and damage in turn, at all points."""
    role, points = rng.choice((("prefill", PREFILL_POINTS), ("decode", DECODE_POINTS)))
    point, skip = rng.choice(points)
    kind = ("kill", "worker_link", "freeze", "kill", "damage", "link", "freeze")[number % 7]
    if kind == "worker_link":
        role, point, skip = rng.choice(WORKER_LINKS)
    elif kind == "damage":
        role, point, skip = DAMAGE
    elif kind == "link":
        point = "worker.gateway_link"
    freeze = 0.0 if kind != "freeze" else rng.choice((rng.uniform(0.5, 1), rng.uniform(3.5, 10)))
    return Fault(kind, role, point, rng.randint(0, skip), freeze)


async def sample(cluster, samples, stop):
    begun = time.monotonic()
    while not stop.is_set():
        pids = cluster.processes()
        for name, numbers in cluster.account().items():
            samples.append({"second": time.monotonic() - begun, "process": name, "pid": pids[name],
                            **numbers})
        try:
            await asyncio.wait_for(stop.wait(), SAMPLE_S)
        except asyncio.TimeoutError:
            pass


def by_minute(samples):
    """A row a minute, process and life: means of memory, greatest fds and threads."""
    groups = {}
    for s in samples:
        groups.setdefault((int(s["second"] // 60), s["process"], s["pid"]), []).append(s)
    return [{"minute": minute, "process": name, "pid": pid,
             "rss_kib": round(statistics.fmean(s["rss_kib"] for s in g)),
             "shared_kib": round(statistics.fmean(s["shared_kib"] for s in g)),
             "fds_max": max(s["fds"] for s in g), "threads_max": max(s["threads"] for s in g)}
            for (minute, name, pid), g in sorted(groups.items())]


def slope(points):
    """Least squares over (minute, KiB): MB a minute, and the upper end of its 95 % interval."""
    n = len(points)
    if n < 4:
        return None
    mean_t = statistics.fmean(t for t, _ in points)
    mean_v = statistics.fmean(v for _, v in points)
    spread = sum((t - mean_t) ** 2 for t, _ in points)
    steep = sum((t - mean_t) * (v - mean_v) for t, v in points) / spread
    rest = sum((v - mean_v - steep * (t - mean_t)) ** 2 for t, v in points)
    error = math.sqrt(rest / (n - 2) / spread)
    quantile = 2.0 if n > 30 else 2.2 if n > 10 else 3.0  # of Student's t, rounded up
    return steep * 1024 / 1e6, (steep + quantile * error) * 1024 / 1e6


def slopes(rows, warm_minutes):
    """{(process, pid): (minutes, first KiB, last KiB, slope, upper)} of lives that lasted."""
    lives = {}
    for row in rows:
        lives.setdefault((row["process"], row["pid"]), []).append(row)
    found = {}
    for key, life in lives.items():
        settled = [r for r in life if r["minute"] >= life[0]["minute"] + warm_minutes]
        fit = slope([(r["minute"], r["rss_kib"]) for r in settled])
        if fit:
            found[key] = (len(settled), settled[0]["rss_kib"], settled[-1]["rss_kib"], *fit)
    return found


async def capacity(cluster, jobs, expected, seconds):
    """Requests a second with more clients than the batches hold."""
    traffic = Traffic(cluster, jobs, expected, 32, "capacity", cancel=0, gap_least_s=1)
    clients = asyncio.create_task(traffic.run())
    await asyncio.sleep(seconds / 4)
    before, begun = traffic.ended["ok"], time.monotonic()
    await asyncio.sleep(seconds)
    rate = (traffic.ended["ok"] - before) / (time.monotonic() - begun)
    traffic.stop()
    await clients
    await settle(cluster, traffic.last_end)
    return rate


async def run(options):
    model = tiny_model(context=CONTEXT)
    jobs = requests(160, seed=options.seed)
    expected = await oracle(jobs, model)
    cluster = Cluster(*FLAGS, model=model, standing=STANDING, nice=options.nice)
    await cluster.start()
    try:
        most = await capacity(cluster, jobs, expected, options.capacity_s)
        base = cluster.account()
        traffic = Traffic(cluster, jobs, expected, 0, options.seed, cancel=0.1, gap_least_s=0.3)
        driver = Driver(cluster, options.seed, SPARED)
        rng = random.Random(options.seed)
        samples, over = [], asyncio.Event()
        sampler = asyncio.create_task(sample(cluster, samples, over))
        clients = asyncio.create_task(traffic.run_at(LOAD * most))
        begun = time.monotonic()
        faults = []
        while time.monotonic() - begun < options.seconds:
            await asyncio.sleep(max(0, begun + len(faults) * options.fault_s + options.fault_s / 2
                                    - time.monotonic()))
            faults.append(next_fault(rng, len(faults)))
            acted = await driver.bring_about(faults[-1])
            print(f"# {time.monotonic() - begun:6.0f} s: {faults[-1].kind} {faults[-1].name} "
                  f"{faults[-1].process if acted else 'NOT REACHED'}; {dict(traffic.ended)}, "
                  f"{traffic.open} open", flush=True)
            if time.monotonic() - begun < options.seconds:
                await asyncio.sleep(max(0, min(begun + len(faults) * options.fault_s,
                                               begun + options.seconds) - time.monotonic()))
        traffic.stop()
        await clients
        over.set()
        await sampler
        took = time.monotonic() - begun
        await cluster.until(cluster.healthy, "all workers are back", 60)
        zero_s, left = await settle(cluster, traffic.last_end)
        end = await account_again(cluster, base)
        inexact = (await cluster.metrics()).sum("weir_inexact_tokens_total")
        await cluster.stop()
    finally:
        if cluster.process.returncode is None:
            cluster.kill()
    rows = by_minute(samples)
    warm = min(10, options.seconds / 60 / 3)
    return {"seconds": took, "capacity": most, "rate": LOAD * most, "sent": traffic.sent,
            "tokens": traffic.tokens, "ended": dict(traffic.ended), "how": dict(traffic.how),
            "problems": [(i, kind, why[:500]) for _, i, kind, why in traffic.problems],
            "faults": [f for f in faults if f.at], "unreached": len(driver.unreached),
            "gaps": [(f, traffic.worst_gap(f.at)[0]) for f in faults if f.at],
            "zero_s": zero_s, "held": left, "base": base, "end": end, "inexact": inexact,
            "rows": rows, "warm": warm, "slopes": slopes(rows, warm), "command": options.command}


def spared_names(result):
    return ["gateway", *(n for n in sorted(result["base"]) if n.endswith(tuple(
        f"-{i}" for i in SPARED)))]


def verdicts(result):
    wrong = [f"{result['ended'][k]} requests {k}" for k in KINDS if result["ended"].get(k)]
    if result["held"]:
        wrong.append(f"still held: {result['held']}")
    if result["inexact"]:
        wrong.append(f"{result['inexact']:.0f} tokens changed on a retry")
    for name, was in result["base"].items():
        now = result["end"].get(name, {})
        wrong += [f"{name}: {what} {was[what]} before, {now.get(what)} after"
                  for what in ("fds", "threads") if now.get(what) != was[what]]
    for (name, pid), (*_, upper) in result["slopes"].items():
        if name in spared_names(result) and upper > SLOPE_MB_MIN and result["seconds"] >= 3000:
            wrong.append(f"{name} ({pid}): memory may grow by {upper:.3f} MB a minute")
    return wrong


def text_page(result):
    where = result["source"]
    bad = verdicts(result)
    ended = result["ended"]
    kinds = [f.kind for f in result["faults"]]
    out = ["# Soak", "", f"{where['machine']}; {where['date']}; commit {where['commit']}",
           f"Command: `{result['command']}`", "",
           f"**{'; '.join(bad) if bad else 'Nothing was lost and nothing grew.'}**", "",
           f"* {result['seconds'] / 60:.1f} minutes; 2 prefill and 2 decode workers, the tiny model, "
           f"`{STANDING}`",
           f"* capacity {result['capacity']:.2f} requests/s with 32 clients; offered "
           f"{result['rate']:.2f} requests/s at Poisson times ({LOAD:.0%})",
           f"* {result['sent']} requests: {ended.get('ok', 0)} finished exactly, "
           f"{ended.get('left', 0)} left by their client; failed, wrong, repeated, missing: "
           + ", ".join(str(ended.get(k, 0)) for k in KINDS) + f"; {result['tokens']} tokens streamed",
           "* of these: " + ", ".join(f"{n} {name}" for name, n in sorted(result["how"].items())),
           f"* {len(kinds)} faults: " + ", ".join(f"{kinds.count(k)} {k.replace('_', ' ')}"
                                                  for k in sorted(set(kinds)))
           + f" ({result['unreached']} points not reached)",
           "* nothing held " + (f"{result['zero_s']:.2f} s after the last request"
                                if result["zero_s"] is not None else f"NEVER: {result['held']}"),
           "", f"Memory of its own, a value a minute, from {result['warm']:.0f} minutes of life on:", "",
           "| process | pid | minutes | first KiB | last KiB | MB a minute | 95 % upper bound |",
           "|---|---|---|---|---|---|---|"]
    for (name, pid), (minutes, first, last, steep, upper) in sorted(result["slopes"].items()):
        out.append(f"| {name} | {pid} | {minutes} | {first} | {last} | {steep:+.4f} | {upper:+.4f} |")
    out += ["", "Idle, before the first request and after the last:", "",
            "| process | fds | after | threads | after |", "|---|---|---|---|---|"]
    for name, was in sorted(result["base"].items()):
        now = result["end"].get(name, {})
        out.append(f"| {name} | {was['fds']} | {now.get('fds')} | {was['threads']} | "
                   f"{now.get('threads')} |")
    out += ["", "| fault | count | longest silence of a stream across it, p50 s | p99 s |",
            "|---|---|---|---|"]
    for kind in sorted(set(kinds)):
        gaps = [gap for f, gap in result["gaps"] if f.kind == kind]
        out.append(f"| {kind.replace('_', ' ')} | {len(gaps)} | {report.percentile(gaps, 50):.2f} | "
                   f"{report.percentile(gaps, 99):.2f} |")
    return "\n".join([*out, ""])


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=float(os.environ.get("WEIR_SOAK_S", 3600)))
    parser.add_argument("--fault-s", type=float, default=60, help="a fault every so many seconds")
    parser.add_argument("--capacity-s", type=float, default=40, help="how long that is measured")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--nice", type=int, default=0, help="of the server")
    parser.add_argument("--commit", help="of the binary, where it is not the tree's")
    parser.add_argument("--out", help="folder for soak.csv and soak.md")
    options = parser.parse_args()
    options.command = " ".join(["tests/chaos/soak.py", *sys.argv[1:]])
    result = asyncio.run(run(options))
    result["source"] = report.source(BIN, options.commit)
    text = text_page(result)
    print(text)
    if options.out:
        os.makedirs(options.out, exist_ok=True)
        with open(os.path.join(options.out, "soak.md"), "w", encoding="utf-8") as f:
            f.write(text)
        with open(os.path.join(options.out, "soak.csv"), "w", encoding="utf-8", newline="") as f:
            writer = csv.DictWriter(f, list(result["rows"][0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(result["rows"])
    for problem in result["problems"][:5]:
        print(f"# {problem}")
    bad = verdicts(result)
    print(f"not ok soak - {'; '.join(bad)[:300]}" if bad else "ok soak", flush=True)
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    main()
