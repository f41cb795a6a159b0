#!/usr/bin/env python3
"""test_timed.py -- the timed backend: sleeps for steps, hashes of the KV for tokens.

A wrong, stale or missing page changes the tokens: so equal tokens over 4+4 workers, one worker and
with a worker killed mean that pages and messages went the same way as with a real model.
"""

import concurrent.futures
import os
import re
import resource
import signal
import subprocess
import threading
import time

from weirtest import (BIN, HANG_S, Server, case, generate, main, parallel, scratch, tiny_model,
                      until)

FAST = ("prefill-us = 500\nprefill-token-us = 5\nprefill-context-us = 0\ndecode-us = 2000\n"
        "decode-seq-us = 50\ndecode-context-us = 0\nkv-gbps = 1\nkv-bytes-per-token = 20000\n")
JOBS = [("/v1/completions",
         {"prompt": "the water " * (1 + 7 * i % 30) + str(i), "max_tokens": 20 + i % 40,
          "ignore_eos": True, "temperature": 0.7 * (i % 2), "seed": i, "stream": i % 3 != 0})
        for i in range(48)]
VOCAB = 320  # tests/support/tinymodel.h
MASK = (1 << 64) - 1
_expected = []


def mix(x):
    """SplitMix64, as engine/base/rng.h has it."""
    x = (x + 0x9E3779B97F4A7C15) & MASK
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 & MASK
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB & MASK
    return x ^ (x >> 31)


def oracle(prompt, job):
    """The tokens that a job must have: no pages, no batches, no processes."""
    kv, total, ids, out = 0, 0, list(prompt), []
    at = 0
    while len(out) < job["max_tokens"]:
        for token in ids:
            kv = mix(kv ^ mix(token << 32 | at))
            total = (total + kv * (2 * at + 1)) & MASK
            at += 1
        random = mix(mix(mix(job["seed"])) ^ len(out)) if job["temperature"] > 0 else 0
        ids = [mix(mix(total) ^ random) % VOCAB]
        out += ids
    return out


def profile(text=FAST, name="fast.profile"):
    path = scratch(name)
    with open(path, "w", encoding="ascii") as f:
        f.write(text)
    return path


def timed(*flags):
    return Server("--backend", "timed", "--profile", profile(), "--local-prefill-max", "0",
                  *flags)


def run(server):
    return [r.key() for r in parallel(JOBS, lambda job: generate(server, *job), 16)]


def expected():
    if not _expected:
        with timed("--aggregated") as server:
            _expected.extend(run(server))
        assert len({str(key) for key in _expected}) == len(JOBS), "different prompts, same tokens"
    return _expected


@case
def tokens_are_those_of_the_formula():
    expected()
    with timed("--prefill", "2", "--decode", "2") as server:
        for path, job in JOBS[::3]:
            prompt = server.post("/tokenize", {"prompt": job["prompt"]}).json()["tokens"]
            assert generate(server, path, dict(job)).ids[0] == oracle(prompt, job), job["seed"]


@case
def four_and_four_workers_say_what_one_says():
    want = expected()
    with timed("--prefill", "4", "--decode", "4") as server:
        assert len(server.workers()) == 8
        assert run(server) == want
        m = server.metrics()
        assert m.sum("weir_prompt_tokens_computed_total", role="decode") == 0, "D computed prompts"
        server.check_pages_free()


@case
def eighty_workers_all_know_each_other():
    want = expected()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, 200), hard))  # a prefill worker takes 300
    with timed("--prefill", "8", "--decode", "72", "--kv-memory", "8m", "--max-seqs", "4") as server:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        until(lambda: len(server.workers()) == 80, "all are there")
        assert run(server) == want
        joined = re.compile(r" (\S+) peers: joined worker=(\d+) ")
        until(lambda: len(set(joined.findall(server.log()))) == 2 * 8 * 72, "each knows the others")
        server.check_pages_free()


@case
def a_killed_worker_changes_no_token():
    want = expected()
    with timed("--prefill", "4", "--decode", "4") as server:
        got = []
        thread = threading.Thread(target=lambda: got.extend(run(server)))
        thread.start()
        events = server.stream("/v1/completions", {"prompt": "the water runs", "max_tokens": 200,
                                                   "ignore_eos": True})
        for _ in range(3):  # so that requests are under way
            next(events)
        for role in ("decode", "prefill"):
            os.kill(server.workers(role)[0], signal.SIGKILL)
        assert list(events)[-1] is None, "the stream ends well"
        thread.join(HANG_S)
        assert got == want
        server.check_pages_free()


def arrivals(server, gap_s, over):
    """A request every `gap_s` until it is over, whatever becomes of those before."""
    with concurrent.futures.ThreadPoolExecutor(128) as pool:
        due, running = time.monotonic(), []
        while not over.is_set():
            running.append(pool.submit(generate, server, *JOBS[len(running) % len(JOBS)]))
            due += gap_s
            over.wait(max(0.0, due - time.monotonic()))
        return [future.result().key() for future in running]  # Failed would fail the test


@case
def what_a_drain_does_not_finish_in_time_is_finished_by_others():
    """Answers of 0.02 to 6 s, and 300 ms to finish them in."""
    slow = profile(FAST.replace("decode-us = 2000", "decode-us = 20000"), "slow-decode.profile")
    jobs = [{"prompt": f"{i} the water", "max_tokens": 1 + 20 * i, "ignore_eos": True, "seed": i,
             "temperature": 0} for i in range(16)]
    with Server("--backend", "timed", "--profile", slow, "--local-prefill-max", "0", "--decode",
                "2", "--drain-timeout-ms", "300") as server:
        prompts = [server.post("/tokenize", {"prompt": j["prompt"]}).json()["tokens"] for j in jobs]
        with concurrent.futures.ThreadPoolExecutor(len(jobs)) as pool:
            answers = [pool.submit(generate, server, "/v1/completions", job) for job in jobs]
            until(lambda: server.metrics().sum("weir_adoptions_total", role="decode") >= 12,
                  "they are decoded")
            for n, pid in enumerate(server.workers("decode"), 1):
                server.worker_pids.add(pid)
                os.kill(pid, signal.SIGTERM)
                until(lambda: server.metrics().sum("weir_worker_restarts_total") >= n, "it ends")
                until(lambda: len(server.workers()) == 3 and server.healthy(), "it is back", 30)
            for prompt, job, answer in zip(prompts, jobs, answers):
                assert answer.result().ids[0] == oracle(prompt, job), job["seed"]
        assert "handed back requests=" in server.log(), "all was finished in time"
        assert server.metrics().sum("weir_inexact_tokens_total") == 0
        server.check_pages_free()


@case
def three_rounds_of_restarts_and_kills_at_four_fifths_of_the_load():
    want = expected()
    with timed("--prefill", "2", "--decode", "2", "--drain-timeout-ms", "200") as server:
        start = time.monotonic()
        assert run(server) == want
        gap_s = (time.monotonic() - start) / len(JOBS) / 0.8
        over, done = threading.Event(), 0

        def end(pid, how):
            nonlocal done
            server.worker_pids.add(pid)
            os.kill(pid, how)
            done += 1
            until(lambda: server.metrics().sum("weir_worker_restarts_total") >= done, "it ends")
            until(lambda: len(server.workers()) == 4 and server.healthy(), "it is started again", 30)

        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            answers = pool.submit(arrivals, server, gap_s, over)
            try:
                for _ in range(3):
                    for pid in server.workers():
                        end(pid, signal.SIGTERM)
                    for role in "prefill", "decode":
                        end(server.workers(role)[0], signal.SIGKILL)
            finally:
                over.set()
            got = answers.result()
        print(f"# {len(got)} requests, one every {gap_s * 1000:.0f} ms, {done} workers ended")
        for i, key in enumerate(got):
            assert key == want[i % len(JOBS)], f"request {i}: wrong tokens"
        assert server.metrics().sum("weir_inexact_tokens_total") == 0
        server.check_pages_free()


@case
def a_step_lasts_as_long_as_the_profile_says():
    slow = FAST.replace("decode-us = 2000", "decode-us = 100000")
    with Server("--backend", "timed", "--profile", profile(slow, "slow.profile")) as server:
        start = time.monotonic()
        generate(server, "/v1/completions",
                 {"prompt": "the water", "max_tokens": 6, "ignore_eos": True})
        assert time.monotonic() - start >= 0.5, "five decode steps of 0.1 s each, at least"


@case
def a_wrong_profile_is_named():
    path = profile("decode-us = 5\nno-such = 1\n", "wrong.profile")
    done = subprocess.run([BIN, "worker", "--backend", "timed", "--profile", path, "--model",
                           tiny_model(), "--join", "127.0.0.1:1"], timeout=HANG_S,
                          stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE)
    text = done.stderr.decode()
    assert done.returncode != 0 and "wrong.profile" in text and "no-such" in text, text
    for wrong, words in (("decode-us = 5\nno-such = 1\n", (":2", "no-such")),
                         ("\ndecode-us = much\n", (":2", "decode-us", "much")),
                         ("kv-gbps = -1\n", (":1", "kv-gbps"))):
        path = profile(wrong, "wrong.profile")
        done = subprocess.run([BIN, "serve", "--backend", "timed", "--profile", path, "--model",
                               tiny_model(), "--port", "0"], timeout=HANG_S,
                              stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE)
        text = done.stderr.decode()
        assert done.returncode == 2, "it starts with a profile that no worker takes"
        for word in ("wrong.profile", *words):
            assert word in text, (word, text)
    missing = subprocess.run([BIN, "serve", "--backend", "timed", "--profile", "/no/such/file",
                              "--model", tiny_model(), "--port", "0"], timeout=HANG_S,
                             stdin=subprocess.DEVNULL, capture_output=True)
    assert missing.returncode == 2 and b"/no/such/file" in missing.stderr, missing.stderr


@case
def short_prompts_do_not_starve_behind_long_ones():
    """18 long prompts, then 11 short ones: each short one is answered before most of the long ones
    have begun, and all of them with the right tokens."""
    slow = FAST.replace("prefill-token-us = 5\n", "prefill-token-us = 200\n")  # 0.16 s a long one
    long_jobs = [{"prompt": f"{i} " + "the long water " * 100, "max_tokens": 8, "ignore_eos": True,
                  "temperature": 0, "seed": i, "return_token_ids": True} for i in range(18)]
    short_jobs = [{**job, "prompt": f"{i} short"} for i, job in enumerate(long_jobs[:11])]
    begun, answers, lock = [], {}, threading.Lock()
    with Server("--backend", "timed", "--profile", profile(slow, "slow-prefill.profile"),
                "--local-prefill-max", "0") as server:
        def client(name, job):
            ids = []
            for event in server.stream("/v1/completions", job):
                for choice in event["choices"] if event else ():
                    with lock:
                        if not ids and choice.get("token_ids"):
                            begun.append(name)
                    ids += choice.get("token_ids") or []
            answers[name] = ids

        def start(kind, jobs):
            threads = [threading.Thread(target=client, args=((kind, i), job))
                       for i, job in enumerate(jobs)]
            for thread in threads:
                thread.start()
            return threads

        threads = start("long", long_jobs)
        until(lambda: server.metrics().sum("weir_requests_open") == 18 or begun, "they are there")
        threads += start("short", short_jobs)
        for thread in threads:
            thread.join(HANG_S)
        assert len(begun) == 29, f"{len(begun)} of 29 were answered"
        last_short = max(i for i, (kind, _) in enumerate(begun) if kind == "short")
        longs_before = sum(kind == "long" for kind, _ in begun[:last_short])
        print(f"# {longs_before} of 18 long prompts went before the last of 11 short ones")
        assert longs_before <= 9, f"short prompts waited behind long ones: {begun}"
        for kind, jobs in ("long", long_jobs), ("short", short_jobs):
            for i, job in enumerate(jobs):
                prompt = server.post("/tokenize", {"prompt": job["prompt"]}).json()["tokens"]
                assert answers[kind, i] == oracle(prompt, job), f"wrong tokens of {kind} {i}"
        server.check_pages_free()


main()
