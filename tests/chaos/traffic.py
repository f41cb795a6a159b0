"""traffic.py -- the requests of a chaos run, their oracle, and clients that send them.

The oracle is the same requests, each run once on one aggregated worker that nothing happens to.
"""

import asyncio
import collections
import os
import random
import sys
import time

from client import FIN, RST, SILENT, Heard, judge, post, read
from cluster import Cluster

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "e2e"))

import mixed  # noqa: E402

ON_ITS_WAY_S = 0.03    # a token said before a fault may be read after it
KINDS = ("failed", "wrong", "repeated", "missing")


def requests(count, seed, tokens_max=120, words_max=200):
    """[(path, body)]: mixed.requests, and stop strings, usage in streams, and answers long enough
    for a fault to meet them at every stage."""
    rng = random.Random(seed)
    jobs = []
    for path, body in mixed.requests(count, seed=seed, words_max=words_max, tokens_max=tokens_max):
        body = {**body, "return_token_ids": True}
        if rng.random() < 0.75:
            body["max_tokens"] = rng.randint(20, tokens_max)
        if rng.random() < 0.8:
            body["ignore_eos"] = True
        if rng.random() < 0.15:
            body["stop"] = rng.sample(["e", "th", "\n\n", "zq", "a b", "st"], rng.choice([1, 2]))
        if body["stream"] and rng.random() < 0.5:
            body["stream_options"] = {"include_usage": True}
        jobs.append((path, body))
    # Scores of the prompt's own tokens do not travel with a hand-over: another way through.
    jobs += [(path, {**body, "return_token_ids": True})
             for path, body in mixed.scored(count // 16, seed=seed)]
    return jobs


async def oracle(jobs, model, streams=8):
    """[Heard] of an undisturbed run."""
    cluster = Cluster("--aggregated", "--threads", "1", model=model)
    await cluster.start()
    loop = asyncio.get_running_loop()
    results = [None] * len(jobs)
    todo = iter(range(len(jobs)))

    async def one():
        for i in todo:
            path, body = jobs[i]
            call = await post(loop, cluster.address, path, body)
            results[i], wrong = read(call, body.get("n", 1))
            if wrong:
                raise AssertionError(f"the undisturbed run: request {i}: {wrong}")
    try:
        await asyncio.gather(*(one() for _ in range(streams)))
        await cluster.stop()
    finally:
        if cluster.process.returncode is None:
            cluster.kill()
        cluster.clean()
    return results


class Traffic:
    """`streams` clients that send one request after the other until told to stop."""

    def __init__(self, cluster, jobs, expected, streams, seed, cancel=0.1, gap_least_s=0.05):
        """gap_least_s: shorter silences of a stream are not kept."""
        self.cluster, self.jobs, self.expected = cluster, jobs, expected
        self.streams, self.cancel, self.gap_least_s = streams, cancel, gap_least_s
        self.rng = random.Random(seed)
        self.sent = 0
        self.ended = collections.Counter()   # ok, left, and KINDS
        self.how = collections.Counter()     # greedy/sampled, stream/whole, ...
        self.problems = []                   # (when, job, kind, why)
        self.tokens = 0
        self.gaps = []                       # (from, to) between two token events of a stream
        self.waits = []                      # (sent, first token)
        self.last_end = time.monotonic()
        self.open = 0
        self._stop = asyncio.Event()

    async def run(self):
        """As fast as they are answered: each client sends when its last request has ended."""
        await asyncio.gather(*(self._client() for _ in range(self.streams)))

    async def run_at(self, rate):
        """`rate` requests a second at Poisson times, whether or not those before have ended."""
        loop = asyncio.get_running_loop()
        tasks = set()
        due = time.monotonic()
        while not self._stop.is_set():
            due += self.rng.expovariate(rate)
            wait = due - time.monotonic()
            if wait > 0:
                try:
                    await asyncio.wait_for(self._stop.wait(), wait)
                    break
                except asyncio.TimeoutError:
                    pass
            task = asyncio.create_task(self.one(loop, *self._draw()))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
        await asyncio.gather(*tasks)

    def stop(self):
        self._stop.set()

    def _draw(self):
        """The next request, and how its client leaves, if it does."""
        i = self.rng.randrange(len(self.jobs))
        if self.rng.random() >= self.cancel:
            return i, None, 0
        # Half leave at a token, half at a time: before the prompt is computed, during a transfer.
        after = self.rng.choice((0, 1, 2, 5, 20)) if self.jobs[i][1]["stream"] and \
            self.rng.random() < 0.5 else -self.rng.uniform(1e-6, 0.3)
        return i, self.rng.choice((FIN, RST)), after

    async def _client(self):
        loop = asyncio.get_running_loop()
        while not self._stop.is_set():
            await self.one(loop, *self._draw())

    async def one(self, loop, i, leave=None, after=0):
        path, body = self.jobs[i]
        self.sent += 1
        self.open += 1
        call = await post(loop, self.cluster.address, path, body, leave, after or 0)
        self.open -= 1
        self.last_end = time.monotonic()
        verdict = judge(call, body.get("n", 1), self.expected[i])
        if verdict:
            self.ended[verdict[0]] += 1
            self.problems.append((time.monotonic(), i, *verdict))
        else:
            self.ended["left" if call.left_at else "ok"] += 1
        self._count(body, call)
        return call

    def _count(self, body, call):
        self.how["greedy" if body.get("temperature") == 0 else "sampled"] += 1
        self.how["streamed" if body["stream"] else "whole"] += 1
        for name in ("n", "stop", "logprobs", "echo"):
            self.how[name] += 1 if body.get(name, False) is not False else 0
        self.tokens += sum(len(c.get("token_ids") or ()) for e in call.events if e
                           for c in e.get("choices", ()))
        if call.times:
            self.waits.append((call.started_at, call.times[0]))
        self.gaps += [pair for pair in zip(call.times, call.times[1:]) if
                      pair[1] - pair[0] > self.gap_least_s]

    def worst_gap(self, at):
        """The longest that any stream was silent across a moment: (seconds, streams silent)."""
        across = [b - a for a, b in self.gaps if a <= at + ON_ITS_WAY_S and at < b]
        return (max(across) if across else 0.0), len(across)


__all__ = ["FIN", "RST", "SILENT", "KINDS", "Heard", "Traffic", "oracle", "requests"]
