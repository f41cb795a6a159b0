#!/usr/bin/env python3
"""test_route.py -- routing as a user sees it: the same prompt goes where its pages are, and
/debug/route says why."""

import json

import os
import signal

from weirtest import Server, case, command_line, main, scratch, until

FAST = ("prefill-us = 500\nprefill-token-us = 5\nprefill-context-us = 0\ndecode-us = 2000\n"
        "decode-seq-us = 50\ndecode-context-us = 0\nkv-gbps = 1\nkv-bytes-per-token = 20000\n")
LONG = "The water stands behind the weir and waits. " * 20


def fleet(*flags):
    path = scratch("route.profile")
    with open(path, "w", encoding="ascii") as f:
        f.write(FAST)
    return Server("--backend", "timed", "--profile", path, "--prefill", "3", "--decode", "2",
                  "--local-prefill-max", "0", *flags)


def ask(server, prompt, **more):
    answer = server.post("/v1/completions", {"prompt": prompt, "max_tokens": 4, **more})
    assert answer.status == 200, answer.body
    return answer.json()


def explain(server, prompt, headers=None):
    answer = server.post("/debug/route/explain", {"prompt": prompt}, headers)
    assert answer.status == 200, answer.body
    return answer.json()


def cached(explanation):
    return {c["worker"]: c["cached_tokens"] for c in explanation["prefill_candidates"]}


@case
def a_prompt_goes_where_its_pages_are_and_the_index_says_so():
    with fleet() as server:
        assert set(cached(explain(server, LONG)).values()) == {0}
        ask(server, LONG)
        first = server.get("/debug/route").json()["decisions"][0]
        pages = first["prompt_tokens"] // 16
        until(lambda: server.get("/debug/route").json()["index"]["entries"] >= 2 * pages,
              "both workers tell what they have")
        why = explain(server, LONG)
        assert why["prefill"] == first["prefill"], (why, first)
        assert why["reason"] == "cache" and why["path"] == "pair", why
        others = [n for w, n in cached(why).items() if w != first["prefill"]]
        assert cached(why)[first["prefill"]] >= why["prompt_tokens"] - 16 and set(others) == {0}
        # Another beginning is nobody's.
        assert set(cached(explain(server, "x" + LONG)).values()) == {0}
        for _ in range(5):
            ask(server, LONG)
        decisions = server.get("/debug/route").json()["decisions"]
        assert len(decisions) == 6 and {d["prefill"] for d in decisions} == {first["prefill"]}
        text = server.get("/metrics").body.decode()
        assert 'weir_routes_total{path="pair"} 6' in text
        assert 'weir_route_choices_total{reason="cache"} 5' in text, text


@case
def every_worker_gets_prompts_that_nobody_has():
    with fleet() as server:
        for i in range(12):
            ask(server, f"{i} " + LONG)
        decisions = server.get("/debug/route").json()["decisions"]
        assert {d["prefill"] for d in decisions} == {0, 1, 2}, decisions
        assert {d["decode"] for d in decisions} == {3, 4}, decisions


@case
def requests_of_one_session_prefer_the_workers_of_its_last():
    with fleet() as server:
        for i in range(4):
            for name in ("one", "two"):
                body = json.dumps({"prompt": f"{name} {i} " + LONG, "max_tokens": 2}).encode()
                answer = server.post("/v1/completions", body, {"X-Session-Id": name})
                assert answer.status == 200
        decisions = server.get("/debug/route").json()["decisions"]  # the newest first
        for later, earlier in zip(decisions, decisions[2:]):
            for side in ("prefill", "decode"):
                preferred = [c["worker"] for c in later[f"{side}_candidates"] if c["session_ms"] < 0]
                assert preferred == [earlier[side]], (later, earlier)


@case
def what_a_worker_held_is_forgotten_with_it():
    with fleet() as server:
        ask(server, LONG)
        until(lambda: server.get("/debug/route").json()["index"]["entries"] > 0, "it is told")
        holder = explain(server, LONG)["prefill"]
        pids = [p for p in server.workers("prefill")]
        before = set(pids)
        for pid in pids:
            words = command_line(pid)
            if words[words.index("--worker") + 1] == str(holder):
                os.kill(pid, signal.SIGKILL)
        # A new process is there only after the gateway knows that the old one has ended.
        until(lambda: set(server.workers("prefill")) - before and
              len(explain(server, LONG)["prefill_candidates"]) == 3, "it is started again")
        server.worker_pids |= set(server.workers())
        assert cached(explain(server, LONG))[holder] == 0
        ask(server, LONG)


@case
def explanations_need_a_key_and_share_no_tenants_pages():
    with fleet("--api-key", "the-first-key") as server:
        assert server.get("/debug/route").status == 401
        assert server.post("/debug/route/explain", {"prompt": LONG}).status == 401
        key = {"Authorization": "Bearer the-first-key"}
        body = json.dumps({"prompt": LONG, "max_tokens": 2, "cache_salt": "mine"}).encode()
        assert server.post("/v1/completions", body, key).status == 200
        until(lambda: json.loads(server.get("/debug/route", key).body)["index"]["entries"] > 0,
              "it is told")
        assert set(cached(explain(server, LONG, key)).values()) == {0}


@case
def policies_that_are_not_cost_say_so():
    with fleet("--route", "round-robin") as server:
        for _ in range(6):
            ask(server, LONG)
        page = server.get("/debug/route").json()
        assert page["policy"] == "round-robin"
        picks = [d["prefill"] for d in page["decisions"]]
        assert sorted(picks) == [0, 0, 1, 1, 2, 2], picks
        assert {d["reason"] for d in page["decisions"]} == {"policy"}


main()
