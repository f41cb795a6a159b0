#!/usr/bin/env python3
"""test_autoscale.py -- `weir serve --autoscale`: pools that grow, shrink, flip and sleep; nothing is lost.

The real tiny model where tokens are held to be exact; the timed backend where a load is needed that a
small machine could not make with real compute.
"""

import json
import signal
import threading
import time

from loads import Load, slow_profile
from weirtest import (HANG_S, Server, case, generate, main, parallel, real_model, scratch, until)

JOBS = [("/v1/completions",
         {"prompt": f"{i} " + "the water runs " * (1 + 5 * i % 23), "max_tokens": 16 + i % 24,
          "ignore_eos": True, "temperature": 0.8 * (i % 2), "seed": i, "stream": i % 3 != 0})
        for i in range(36)]


def state(server):
    return server.get("/controller/state").json()


def pool(server, role):
    return next(p for p in state(server)["pools"] if p["role"] == role)


def roles(server):
    return {w["worker"]: w["role"] for w in state(server)["workers"] if w["phase"] == "serving"}


def order(server, what, **body):
    return server.post(f"/controller/{what}", body)


def timed(*flags):
    return Server("--backend", "timed", "--profile", slow_profile(), "--local-prefill-max", "0",
                  "--autoscale", "--scale-hold-s", "5", *flags)


def keys(server, jobs=JOBS):
    return [r.key() for r in parallel(jobs, lambda job: generate(server, job[0], dict(job[1])), 12)]


@case
def flips_under_load_change_no_token():
    with Server("--aggregated") as server:
        want = keys(server)
    with Server("--autoscale", "--dry-run", "--prefill", "2", "--decode", "2",
                "--local-prefill-max", "0") as server:
        got, done = [], threading.Event()

        def serve():
            got.extend(keys(server) + keys(server))
            done.set()

        thread = threading.Thread(target=serve)
        thread.start()
        flips = 0
        while not done.is_set() or flips < 6:
            have = roles(server)
            worker = flips % 4
            if len(have) == 4:
                role = "decode" if have[worker] == "prefill" else "prefill"
                others = [r for w, r in have.items() if w != worker]
                if have[worker] in others:
                    answer = order(server, "flip", worker=worker, role=role)
                    if answer.status == 200:
                        until(lambda: roles(server).get(worker) == role, "the role has changed")
                flips += 1
        thread.join(HANG_S)
        assert got == want + want
        decisions = [d for d in state(server)["decisions"] if d["action"] == "flip"]
        assert len(decisions) >= 3, decisions
        before = set(server.worker_pids)
        assert {w for w in server.workers()} == before, "nobody was restarted"
        server.check_pages_free()


@case
def flips_of_the_real_model_are_exact():
    model = real_model()
    jobs = JOBS[:4]
    with Server("--aggregated", model=model) as server:
        want = keys(server, jobs)
    with Server("--autoscale", "--dry-run", "--prefill", "2", "--decode", "1", model=model) as server:
        got = []
        thread = threading.Thread(target=lambda: got.extend(keys(server, jobs)))
        thread.start()
        until(lambda: len(roles(server)) == 3, "all have joined")
        assert order(server, "flip", worker=0, role="decode").status == 200
        until(lambda: roles(server).get(0) == "decode", "the role has changed")
        thread.join(HANG_S)
        assert got == want
        assert keys(server, jobs) == want, "again, by the flipped worker too"


@case
def prefill_grows_with_prompts_and_shrinks_again():
    with timed("--prefill-max", "5", "--decode-max", "5") as server:
        with Load(server, 12, 300, 2):
            until(lambda: pool(server, "prefill")["serving"] >= 3, "prefill grows")
            assert pool(server, "decode")["serving"] == 1
        until(lambda: pool(server, "prefill")["serving"] == 1, "prefill shrinks")
        server.check_pages_free()


@case
def decode_grows_with_answers_and_shrinks_again():
    with timed("--prefill-max", "5", "--decode-max", "5") as server:
        with Load(server, 60, 1, 60):
            until(lambda: pool(server, "decode")["serving"] >= 2, "decode grows")
            assert pool(server, "prefill")["serving"] == 1
        until(lambda: pool(server, "decode")["serving"] == 1, "decode shrinks")
        server.check_pages_free()


@case
def from_zero_and_back_with_requests_held():
    with timed("--prefill", "0", "--decode", "0", "--prefill-min", "0", "--decode-min", "0",
               "--scale-idle-s", "5") as server:
        assert server.workers() == []
        for _ in range(2):
            with Load(server, 2, 20, 4):
                until(lambda: len(roles(server)) >= 2, "workers start")
            until(lambda: server.workers() == [], "all have gone")
        assert server.healthy(), "it would serve"


@case
def a_cap_is_kept_by_flipping():
    with timed("--prefill", "2", "--decode", "2", "--prefill-max", "4", "--decode-max", "4",
               "--gpu-cap", "4", "--scale-hold-s", "60") as server:
        time.sleep(1)
        order(server, "scale", role="decode", min=1, max=1)
        assert order(server, "scale", role="prefill", workers=3).status == 200
        with Load(server, 4, 50, 4):
            until(lambda: pool(server, "prefill")["serving"] == 3, "three prefill workers")
            assert len(server.workers()) <= 4
        server.worker_pids |= set(server.workers())


@case
def orders_are_checked():
    with Server("--autoscale", "--dry-run", env={"WEIR_API_KEY": "secret-key-1"}) as server:
        keyed = {"Authorization": "Bearer secret-key-1"}
        assert server.get("/controller/state").status == 401
        assert order(server, "drain", worker=0).status == 401
        assert server.get("/controller/state", keyed).status == 200
        for what, body, status in (("drain", {"worker": 9}, 404), ("drain", {}, 404),
                                   ("drain", {"worker": "x"}, 400),
                                   ("flip", {"worker": 0, "role": "both"}, 400),
                                   ("flip", {"worker": 0, "role": "prefill"}, 400),
                                   ("scale", {"role": "decode", "workers": 1000}, 400),
                                   ("scale", {"role": "decode", "min": 3, "max": 2}, 400)):
            answer = server.request("POST", f"/controller/{what}", json.dumps(body),
                                    {**keyed, "Content-Type": "application/json"})
            assert answer.status == status, (what, body, answer.status)
    with Server() as server:
        assert server.get("/controller/state").status == 404, "without --autoscale"


@case
def of_two_controllers_one_acts_and_the_other_takes_over():
    lease = scratch("lease")
    flags = ("--autoscale", "--scale-lease", lease)
    first = Server(*flags)
    until(lambda: state(first)["leads"], "the first leads")
    with Server(*flags) as second:
        time.sleep(1.5)
        assert not state(second)["leads"]
        assert order(second, "drain", worker=0).status == 409
        token = state(first)["token"]
        first.process.send_signal(signal.SIGKILL)
        until(lambda: state(second)["leads"], "the second leads")
        assert state(second)["token"] > token
        generate(second, "/v1/completions", {"prompt": "the water", "max_tokens": 4})
    first.kill()


if __name__ == "__main__":
    main(at_once=3)
