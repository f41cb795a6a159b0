#!/usr/bin/env python3
"""test_multiplex.py -- prompts and decoding side by side in one worker: the same tokens as ever.

What one worker of each phase says to requests of every kind, one at a time, is what a worker with two
lanes says to many at once, whatever leaves, waits or is sent away meanwhile. And no KV moves.
"""

import json
import subprocess
import time

import emulated
import mixed
from weirtest import BIN, FULL, Server, case, generate, main, parallel, tiny_model, until

COUNT = 200 if FULL else 100
DISAGGREGATED = ("--local-prefill-max", "0", "--threads", "1")
MULTIPLEX = ("--aggregated", "--pd-multiplex")
F16 = ("--kv-dtype", "f16")

jobs = mixed.requests(COUNT, seed=7)
expected = []


def check(got, want, which):
    for i, (a, b) in enumerate(zip(got, want)):
        assert a.key() == b.key(), f"request {i} {which[i]} differs:\n got {a.key()}\nwant {b.key()}"


def reference():
    if not expected:
        with Server(*DISAGGREGATED) as server:
            expected.extend(parallel(jobs, lambda job: generate(server, *job), 1))


def compare(*flags, workers):
    reference()
    with Server(*MULTIPLEX, *flags) as server:
        check(parallel(jobs, lambda job: generate(server, *job), workers), expected, jobs)
        server.check_pages_free()
        m = server.metrics()
        assert sum(m.all("weir_kv_bytes_sent_total")) == 0, "nothing is moved"
        assert "side by side" in server.log()


@case
def two_lanes_say_what_two_workers_say():
    compare("--threads", "2", workers=16)


@case
def on_one_core_and_in_short_chunks():
    compare("--threads", "1", "--prefill-chunk", "32", workers=8)


@case
def on_more_threads_than_cores():
    compare("--threads", "5", workers=32)


@case
def few_pages_so_that_requests_wait_and_are_sent_away():
    many = [(path, {**body, "max_tokens": 120, "ignore_eos": True})
            for path, body in mixed.requests(40, seed=3)]
    with Server("--threads", "1", *F16) as server:
        want = parallel(many, lambda job: generate(server, *job), 8)
    with Server(*MULTIPLEX, "--threads", "2", *F16, "--kv-memory", "1m", "--max-seqs",
                "64") as server:
        assert server.metrics().all("weir_kv_pages") == [256]
        check(parallel(many, lambda job: generate(server, *job), 32), want, many)
        assert server.metrics().sum("weir_preemptions_total") > 0
        server.check_pages_free()


@case
def clients_that_leave_in_every_phase_change_no_other_answer():
    """Every third stream is closed at its first tokens, or before it has any."""
    reference()

    def one(numbered):
        i, job = numbered
        if i % 3:
            return generate(server, *job)
        body = {**job[1], "stream": True, "max_tokens": 60, "ignore_eos": True}
        if i % 2:
            stream = server.stream(job[0], body)
            next(stream)
            stream.close()
            return None
        connection = server.connect()
        connection.request("POST", job[0], json.dumps(body), {"Content-Type": "application/json"})
        time.sleep(i % 7 * 0.002)
        connection.close()
        return None

    with Server(*MULTIPLEX, "--threads", "2", "--prefill-chunk", "16") as server:
        got = parallel(list(enumerate(jobs)), one, 24)
        kept = [i for i in range(COUNT) if i % 3]
        check([got[i] for i in kept], [expected[i] for i in kept], [jobs[i] for i in kept])
        until(lambda: server.metrics().sum("weir_requests_open") == 0, "all have ended", 20)
        server.check_pages_free()


@case
def scores_of_prompts_are_the_same():
    some = mixed.scored(30)
    with Server(*DISAGGREGATED) as server:
        want = parallel(some, lambda job: generate(server, *job), 1)
    with Server(*MULTIPLEX, "--threads", "2") as server:
        check(parallel(some, lambda job: generate(server, *job), 8), want, some)


@case
def on_a_device_with_two_streams():
    """As both kinds of workers on the emulated device, which has exact arithmetic too: with
    multiprocessors of their own, and where the driver has or gives none."""
    env = emulated.device(EMU_MEMORY_MB=192)
    h100 = emulated.device(EMU_MEMORY_MB=192, EMU_GREEN=132)
    lanes = ((env, (), "multiprocessors=2+2"),
             (h100, (), "multiprocessors=88+44"),
             (h100, ("--pd-decode-share", "10"), "multiprocessors=112+20"),
             (env, ("--pd-decode-share", "0"), 'streams=2 why="not asked to divide the device"'),
             (emulated.device(EMU_MEMORY_MB=192, EMU_GREEN="none"), (),
              'streams=2 why="the driver has no green contexts (CUDA 12.4)"'),
             (emulated.device(EMU_MEMORY_MB=192, EMU_GREEN=8), (),
              'streams=2 why="8 multiprocessors are too few for two groups of 8"'),
             (emulated.device(EMU_MEMORY_MB=192, EMU_CUDA_FAULT="cuGreenCtxCreate,after=1"), (),
              'streams=2 why="cuGreenCtxCreate: CUDA error 801"'))
    some = [(path, {**body, "max_tokens": min(body["max_tokens"], 12)})
            for path, body in mixed.requests(12, seed=9, words_max=60)]
    answers = []
    for flags, workers in ((emulated.APART, 1), (("--aggregated",), 6)):
        with Server(*emulated.CUDA, *flags, env=env) as server:
            answers.append(parallel(some, lambda job, at=server: generate(at, *job), workers))
            server.check_pages_free()
    check(answers[1], answers[0], some)
    for device, flags, said in lanes:
        with Server(*emulated.CUDA, *MULTIPLEX, *flags, env=device) as server:
            got = parallel(some, lambda job, at=server: generate(at, *job), 6)
            assert said in server.log(), server.log_tail()
            server.check_pages_free()
        check(got, answers[0], some)


@case
def it_is_for_a_worker_of_both_phases():
    for flags in (("serve", "--model", tiny_model(), "--pd-multiplex"),
                  ("worker", "--model", tiny_model(), "--role", "decode", "--pd-multiplex")):
        done = subprocess.run((BIN, *flags), capture_output=True, text=True, timeout=60,
                              check=False)
        assert done.returncode != 0 and "--pd-multiplex needs" in done.stderr, done.stderr


main()
