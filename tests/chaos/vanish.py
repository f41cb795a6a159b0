#!/usr/bin/env python3
"""vanish.py -- many clients, a third of which are suddenly gone: their work ends with them.

    tests/chaos/vanish.py [--clients N] [--out FOLDER]

Who vanishes is known to the logs of gateway and workers by the length of its prompt, which no other
client has. Three ways to go: FIN, RST, and silent (the socket stays open and nobody reads).
"""

import argparse
import asyncio
import json
import os
import random
import sys
import time

import report
from chaos import CONTEXT, STANDING
from client import FIN, RST, SILENT, judge, post
from cluster import BIN, Cluster, account_again, held, settle
from traffic import KINDS, oracle, requests
from weirtest import tiny_model

FLAGS = ("--prefill", "2", "--decode", "2", "--threads", "1", "--kv-memory", "4m", "--prefill-chunk",
         "64", "--local-prefill-max", "0", "--max-requests", "1200", "--max-connections", "2400",
         "--log-level", "debug")
SHARE = 0.3
LENGTH_FIRST = 100     # tokens of the first vanishing client's prompt


def vanishing(count, rng):
    """[(path, body, how, after)]: prompts of LENGTH_FIRST + i tokens, answers that last; most leave
    while tokens come, some before the first, some as soon as they have asked."""
    found = []
    for i in range(count):
        body = {"prompt": [rng.randrange(3, 320) for _ in range(LENGTH_FIRST + i)], "stream": True,
                "temperature": 0, "max_tokens": 300, "ignore_eos": True, "return_token_ids": True}
        found.append(("/v1/completions", body, (FIN, RST, SILENT)[i % 3],
                      rng.choice((-rng.uniform(1e-6, 2), 1, 1, 2, 5, 20, 60, 150))))
    return found


class Watch:
    """When the gateway and the workers learnt of each client that left."""

    def __init__(self, cluster):
        self.left = {}       # prompt tokens -> (request, when)
        self.cancelled = {}  # request -> {process: when}
        cluster.watchers.append(self.look)

    def look(self, event):
        if event.text.startswith("client left "):
            self.left[int(event.fields["prompt_tokens"])] = (event.fields["request"],
                                                             int(event.fields["now_us"]) / 1e6)
        elif event.text.startswith("cancelled "):
            at = self.cancelled.setdefault(event.fields["request"], {})
            at.setdefault(event.process, int(event.fields["now_us"]) / 1e6)


async def crowd(cluster, jobs, expected, leavers, clients, rng):
    """All clients at once: (problems, [(leaver number, Call)], when the last that stayed ended)."""
    loop = asyncio.get_running_loop()
    problems, gone = [], []
    last = [0.0]
    silent = []

    async def stays(i):
        await asyncio.sleep(rng.uniform(0, clients / 300))
        path, body = jobs[i]
        call = await post(loop, cluster.address, path, body)
        last[0] = max(last[0], time.monotonic())
        verdict = judge(call, body.get("n", 1), expected[i])
        if verdict:
            problems.append((i, *verdict))

    async def leaves(k):
        await asyncio.sleep(rng.uniform(0, clients / 300))
        path, body, how, after = leavers[k]
        call = await post(loop, cluster.address, path, body, how, after,
                          receive_bytes=4096 if how == SILENT else None)
        last[0] = max(last[0], time.monotonic())
        if how == SILENT:
            silent.append(call)
        verdict = judge(call, 1, expected[len(jobs) + k])
        if verdict:
            problems.append((f"leaver {k}", *verdict))
        gone.append((k, call))

    tasks = [stays(rng.randrange(len(jobs))) for _ in range(clients - len(leavers))]
    tasks += [leaves(k) for k in range(len(leavers))]
    rng.shuffle(tasks)
    await asyncio.gather(*tasks)
    return problems, gone, last[0], silent


async def over(cluster, limit_s=60):
    """Waits until the gateway has no request; when that was."""
    begun = time.monotonic()
    while time.monotonic() - begun < limit_s:
        if not (await cluster.metrics()).sum("weir_requests_open"):
            return time.monotonic()
        await asyncio.sleep(0.02)
    raise AssertionError(f"requests are still open: {held(await cluster.metrics())}")


def delays(gone, leavers, watch):
    """Per way to go: seconds from leaving to the gateway's and to the last worker's knowledge, how
    many were measured, and how many had nothing left to cancel."""
    found = {}
    for k, call in gone:
        row = found.setdefault(leavers[k][2], {"gateway": [], "workers": [], "workers_told": [],
                                               "not_needed": 0})
        known = watch.left.get(LENGTH_FIRST + k)
        if not known or not call.left_at:
            row["not_needed"] += 1  # it left before its request was read, or after its last token
            continue
        request, at = known
        row["gateway"].append(max(0.0, at - call.left_at))
        told = watch.cancelled.get(request, {})
        if told:
            row["workers"].append(max(0.0, max(told.values()) - call.left_at))
            row["workers_told"].append(len(told))
    return found


async def run(options):
    rng = random.Random(options.seed)
    jobs = requests(100, seed=options.seed)
    leavers = vanishing(int(options.clients * SHARE), rng)
    model = tiny_model(context=CONTEXT)
    expected = await oracle(jobs + [(p, b) for p, b, *_ in leavers], model)
    cluster = Cluster(*FLAGS, model=model, standing=STANDING, nice=options.nice)
    await cluster.start()
    watch = Watch(cluster)
    try:
        await crowd(cluster, jobs, expected, [], min(64, options.clients), rng)  # to warm up
        await settle(cluster, time.monotonic())
        base = cluster.account()
        problems, gone, last, silent = await crowd(cluster, jobs, expected, leavers,
                                                   options.clients, rng)
        ended = max(last, await over(cluster))
        zero_s, left = await settle(cluster, ended)
        for call in silent:
            call.close()
        end = await account_again(cluster, base, 30)
        metrics = await cluster.metrics()
        await cluster.stop()
    finally:
        if cluster.process.returncode is None:
            cluster.kill()
    cluster.clean()
    return {"clients": options.clients, "leavers": len(leavers), "problems": problems,
            "delays": delays(gone, leavers, watch), "zero_s": zero_s, "held": left,
            "base": base, "end": end, "source": report.source(BIN, options.commit), "seed": options.seed,
            "generated": metrics.sum("weir_generated_tokens_total"),
            "cancelled": metrics.sum("weir_requests_total", end="cancelled")}


def verdicts(result):
    wrong = [f"{kind}: request {i}: {why[:200]}" for i, kind, why in result["problems"][:3]]
    if result["held"]:
        wrong.append(f"still held: {result['held']}")
    for name, was in result["base"].items():
        now = result["end"].get(name, {})
        wrong += [f"{name}: {what} {was[what]} before, {now.get(what)} after"
                  for what in ("fds", "threads") if now.get(what) != was[what]]
    for how in (FIN, RST):
        row = result["delays"].get(how)
        if not row or len(row["workers"]) != len(row["gateway"]):
            wrong.append(f"{how}: the gateway knew of {row and len(row['gateway'])}, workers of "
                         f"{row and len(row['workers'])}")
    return wrong


def text_page(result):
    s = result["source"]
    bad = verdicts(result)
    out = ["# Clients that vanish", "", f"{s['machine']}; {s['date']}; commit {s['commit']}",
           f"Command: `tests/chaos/vanish.py --clients {result['clients']} --seed {result['seed']}`",
           "", f"**{'; '.join(bad) if bad else 'Nothing was lost and nothing stayed.'}**", "",
           f"* {result['clients']} clients, {result['leavers']} of them vanish; "
           f"{len(result['problems'])} of all had a wrong answer "
           f"(failed, wrong, repeated, missing: "
           + ", ".join(str(sum(p[1] == k for p in result["problems"])) for k in KINDS) + ")",
           "* nothing held " + (f"{result['zero_s']:.2f} s after the last request"
                                if result["zero_s"] is not None else f"NEVER: {result['held']}"), "",
           "Milliseconds from the client's leaving until the gateway knows, and until the last of the "
           "request's workers has the cancel:", "",
           "| left by | measured | nothing to cancel | gateway p50 | p99 | workers p50 | p99 | max | "
           "workers told |", "|---|---|---|---|---|---|---|---|---|"]
    for how, row in sorted(result["delays"].items()):
        def ms(values, p):
            value = report.percentile(values, p)
            return "" if value is None else f"{value * 1000:.1f}"
        told = row["workers_told"]
        out.append(f"| {how} | {len(row['workers'])} | {row['not_needed']} | "
                   f"{ms(row['gateway'], 50)} | {ms(row['gateway'], 99)} | {ms(row['workers'], 50)} | "
                   f"{ms(row['workers'], 99)} | {ms(row['workers'], 100)} | "
                   f"{sum(told) / len(told) if told else 0:.2f} |")
    return "\n".join([*out, "", "A silent client's request goes on until it is done or 30 s pass "
                      "without a byte read.", ""])


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--clients", type=int,
                        default=1000 if os.environ.get("WEIR_TIER") == "full" else 60)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--nice", type=int, default=0, help="of the server")
    parser.add_argument("--commit", help="of the binary, where it is not the tree's")
    parser.add_argument("--out", help="folder for vanish.json and vanish.md")
    options = parser.parse_args()
    result = asyncio.run(run(options))
    text = text_page(result)
    print("".join(f"# {line}\n" for line in text.splitlines() if line), end="")
    if options.out:
        os.makedirs(options.out, exist_ok=True)
        with open(os.path.join(options.out, "vanish.md"), "w", encoding="utf-8") as f:
            f.write(text)
        with open(os.path.join(options.out, "vanish.json"), "w", encoding="utf-8") as f:
            json.dump(result, f, indent=1)
    bad = verdicts(result)
    print(f"not ok vanish_{options.clients} - {'; '.join(bad)[:300]}" if bad else
          f"ok vanish_{options.clients}", flush=True)
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    main()
