#!/usr/bin/env python3
"""test_nccl.py -- KV over NCCL between workers on emulated devices (tests/emu): real processes, the
emulated NCCL. The oracle is one worker that computes both phases on the same kind of device.
"""

import json
import time

import mixed
from emulated import APART, CUDA, OVER, device
from hosts import Cluster
from weirtest import Server, case, generate, main, parallel, until

jobs = [(path, body) for path, body in mixed.requests(200)
        if body.get("n", 1) == 1 and body.get("max_tokens", 99) <= 24 and len(str(body)) < 600]
PROMPT = "the water goes over the weir and "
expected = {}


def want(which):
    """The aggregated worker's answers."""
    missing = [job for job in which if str(job) not in expected]
    if missing:
        with Server(*CUDA, "--aggregated", env=device()) as server:
            for job in missing:
                expected[str(job)] = generate(server, *job).key()
    return [expected[str(job)] for job in which]


def same(server, which, workers=4):
    reference = want(which)
    for i, result in enumerate(parallel(which, lambda job: generate(server, *job), workers)):
        assert result.key() == reference[i], f"request {i}: {result.key()} is not {reference[i]}"


def links(server, transport):
    return server.metrics().sum("weir_kv_links", transport=transport)


@case
def disaggregated_over_nccl_as_aggregated():
    with Server(*OVER, env=device()) as server:
        same(server, jobs[:6])
        assert server.log().count("transport=nccl") == 2, server.log_tail()
        until(lambda: links(server, "nccl") == 2, "both sides count the link")
        until(lambda: server.metrics().sum("weir_kv_bytes_received_total", role="decode") > 0,
              "KV moved")
        server.check_pages_free()


@case
def two_and_two():
    with Server(*OVER, "--prefill", "2", "--decode", "2", env=device()) as server:
        same(server, jobs[:8], 8)
        until(lambda: links(server, "nccl") == 8, "each knows its two peers")
        server.check_pages_free()


@case
def a_prefix_that_is_cached_and_a_prompt_that_stays():
    """The second of two equal prompts moves only what D lacks; a short one is computed by D."""
    long = ("/v1/completions", {"prompt": PROMPT * 12, "max_tokens": 6, "temperature": 0})
    more = ("/v1/completions", {"prompt": PROMPT * 12 + "on", "max_tokens": 6, "temperature": 0})
    brief = ("/v1/completions", {"prompt": "hm", "max_tokens": 6, "temperature": 0})
    with Server(*CUDA, "--local-prefill-max", "8", "--kv-transport", "nccl", env=device()) as server:
        received = []
        for job in (long, more, brief):
            same(server, [job])
            until(lambda: server.metrics().sum("weir_requests_open") == 0, "it is over")
            server.check_pages_free()
            # Workers tell their numbers now and then.
            until(lambda: server.metrics().sum("weir_kv_bytes_received_total", role="decode") > 0,
                  "what was received is told")
            received.append(server.metrics().sum("weir_kv_bytes_received_total", role="decode"))
        assert received[0] > 0 and received[1] - received[0] < received[0] / 4, received
        assert received[2] == received[1], received


@case
def clients_that_leave():
    """Some before anything is computed, some while their pages move or tokens come."""
    body = {"max_tokens": 200, "ignore_eos": True}
    with Server(*OVER, env=device()) as server:
        for i in range(6):
            stream = server.stream("/v1/completions", {**body, "prompt": PROMPT * (4 + i)})
            if i % 2:
                next(stream)
                stream.close()
                continue
            connection = server.connect()
            connection.request("POST", "/v1/completions",
                               json.dumps({**body, "prompt": PROMPT * (4 + i)}),
                               {"Content-Type": "application/json"})
            time.sleep(0.01 * i)
            connection.close()
        same(server, jobs[:2])
        until(lambda: server.metrics().sum("weir_requests_open") == 0, "they are gone")
        server.check_pages_free()


@case
def chosen_by_itself_where_both_can():
    """auto: nccl between two GPUs, tcp where they are one GPU or one side has none of it."""
    common = (*CUDA[2:], "--backend", "cuda")
    cases = [({"NCCL_HOSTID": "a"}, {"NCCL_HOSTID": "b"}, (), "nccl"),
             ({}, {}, (), "tcp"),
             ({"NCCL_HOSTID": "a"}, {"WEIR_NCCL": "/nonexistent.so"}, (), "tcp"),
             ({"NCCL_HOSTID": "a"}, {"NCCL_HOSTID": "b"}, ("--kv-transport", "tcp"), "tcp")]
    for prefill, decode, flags, transport in cases:
        with Cluster() as cluster:
            cluster.worker("prefill", *common, env=device(**prefill))
            cluster.worker("decode", *common, *flags, env=device(**decode))
            gateway = cluster.gateway()
            cluster.wait_joined(gateway, 2)
            same(gateway, jobs[:2], 1)
            assert f"transport={transport}" in cluster.nodes[0].log(), cluster.nodes[0].log_tail()


@case
def what_cannot_be_is_refused_by_name():
    server = Server("--backend", "cpu", "--threads", "1", "--kv-transport", "nccl", env=device(),
                    wait=False)
    until(lambda: "--kv-transport nccl: the KV cache is in host memory" in server.log(), "it says why")
    server.kill()
    server = Server(*OVER, env=device(WEIR_NCCL="/nonexistent.so"), wait=False)
    until(lambda: "--kv-transport nccl: nccl: /nonexistent.so" in server.log(), "it says why")
    server.kill()
    with Cluster() as cluster:
        common = (*CUDA[2:], "--backend", "cuda")
        cluster.worker("prefill", *common, "--kv-transport", "nccl", env=device())
        cluster.worker("decode", *common, "--kv-transport", "tcp", env=device())
        gateway = cluster.gateway()
        cluster.wait_joined(gateway, 2)
        for node in cluster.nodes:
            node.wait_log("no KV transport in common: ")


if __name__ == "__main__":
    main()
