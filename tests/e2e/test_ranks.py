#!/usr/bin/env python3
"""test_ranks.py -- KV straight between devices, of workers on several of them: real processes on
emulated devices, over IPC and NCCL. The oracle is one worker that computes both phases; on one device,
where the two sides have different numbers: sums are rounded elsewhere then, but choose the same here.
"""

import json
import signal
import time

from emulated import APART, CUDA, asked_until, device, jobs, same
from hosts import Cluster
from weirtest import Server, case, generate, main, parallel, stopped, tiny_model, until

ALONE, TWO, FOUR = (), ("--tensor-parallel-size", "2"), ("--tensor-parallel-size", "4")
PATIENT = ("--ttft-slo-ms", "0")  # however busy this machine is
PROMPT = "the water goes over the weir and "
of_two = {}


def shared(**more):
    """NCCL takes 64 MiB of each of a worker's devices, and 8 a pair."""
    return device(EMU_DEVICES=4, EMU_MEMORY_MB=192, **more)


def member(cluster, role, transport, flags, **more):
    """A worker on a host of its own, as NCCL sees it: it takes no device for another's."""
    return cluster.worker(role, *CUDA, *flags, "--kv-transport", transport,
                          env=shared(**({} if transport == "ipc" else {"NCCL_HOSTID": role}), **more))


def same_as_two(gateway, which, workers=4):
    """What one worker on two devices that computes both phases gives, bit for bit."""
    missing = [job for job in which if str(job) not in of_two]
    if missing:
        with Server(*CUDA, *TWO, *PATIENT, "--aggregated", env=shared()) as server:
            of_two.update((str(job), generate(server, *job).key()) for job in missing)
    results = parallel(which, lambda job: generate(gateway, *job).key(), workers)
    for job, result in zip(which, results):
        assert result == of_two[str(job)], f"{job}: {result} is not {of_two[str(job)]}"


def over(gateway):
    """No request is left, and no page of one."""
    until(lambda: gateway.metrics().sum("weir_requests_open") == 0, "no request is left")
    gateway.check_pages_free()


@case
def any_number_of_devices_over_either_transport():
    for transport in ("ipc", "nccl"):
        for prefill, decode in ((TWO, ALONE), (ALONE, TWO), (TWO, TWO)):
            with Cluster() as cluster:
                member(cluster, "prefill", transport, (*prefill, "--kv-block-tokens", "32"))
                member(cluster, "decode", transport, decode)
                gateway = cluster.gateway(*PATIENT)
                cluster.wait_joined(gateway, 2)
                same(gateway, jobs[:8])
                until(lambda: gateway.metrics().sum("weir_kv_nccl_bytes_total", role="decode",
                                                    direction="received") > 0, "KV moved")
                for node in cluster.nodes:
                    assert f"transport={transport} why=asked" in node.log(), node.log_tail()
                    assert (prefill != decode) == ("rounds sums elsewhere" in node.log()), node.log()
                over(gateway)


@case
def four_devices_for_two_kv_heads():
    """Two devices each have the same head: either side's copies are as good as the others."""
    model = tiny_model("f16")  # of other types four devices would cut blocks apart
    with Server(*CUDA, *PATIENT, "--aggregated", model=model, env=shared()) as server:
        alone = [generate(server, *job).ids for job in jobs[:6]]
    for transport, prefill, decode in (("ipc", FOUR, ALONE), ("nccl", ALONE, FOUR),
                                       ("ipc", TWO, FOUR), ("nccl", FOUR, TWO),
                                       ("tcp", FOUR, FOUR)):
        with Cluster() as cluster:
            for role, flags in (("prefill", prefill), ("decode", decode)):
                member(cluster, role, transport, (*flags, "--model", model))
            gateway = cluster.gateway(*PATIENT, "--model", model)
            cluster.wait_joined(gateway, 2)
            got = parallel(jobs[:6], lambda job: generate(gateway, *job).ids, 3)
            assert got == alone, f"{transport} {prefill} {decode}: {got} is not {alone}"
            assert f"transport={transport} " in cluster.nodes[0].log(), cluster.nodes[0].log()
            over(gateway)


@case
def chosen_by_itself():
    """serve's workers share their devices; others are where they are."""
    with Server(*CUDA, *TWO, *APART, *PATIENT, env=shared()) as server:
        same(server, jobs[:4])
        assert server.log().count("transport=ipc why=one-host") == 2, server.log_tail()
        until(lambda: server.metrics().sum("weir_kv_links_chosen", transport="ipc",
                                           reason="one-host") == 2, "both sides count the link")
        server.check_pages_free()
    with Cluster() as cluster:
        member(cluster, "prefill", "auto", TWO)
        member(cluster, "decode", "auto", ALONE)
        gateway = cluster.gateway(*PATIENT)
        cluster.wait_joined(gateway, 2)
        same(gateway, jobs[:2])
        assert "transport=nccl why=two-hosts" in cluster.nodes[0].log(), cluster.nodes[0].log_tail()


@case
def clients_that_leave():
    """Some before anything is computed, some while their pages move or tokens come."""
    body = {"max_tokens": 200, "ignore_eos": True}
    for transport in ("ipc", "nccl"):
        with Cluster() as cluster:
            for role in ("prefill", "decode"):
                member(cluster, role, transport, (*TWO, "--prefill-chunk", "16"))
            gateway = cluster.gateway(*PATIENT)
            cluster.wait_joined(gateway, 2)
            for i in range(6):
                stream = gateway.stream("/v1/completions", {**body, "prompt": PROMPT * (4 + i)})
                if i % 2:
                    next(stream)
                    stream.close()
                    continue
                connection = gateway.connect()
                connection.request("POST", "/v1/completions",
                                   json.dumps({**body, "prompt": PROMPT * (4 + i)}),
                                   {"Content-Type": "application/json"})
                time.sleep(0.02 * i)
                connection.close()
            over(gateway)
            same_as_two(gateway, jobs[:2])
            cluster.remove(cluster.nodes[1]).end()  # D
            until(lambda: gateway.metrics().sum("weir_kv_staging_bytes", role="prefill") == 0,
                  "staging goes with the pair")


@case
def either_side_dies_in_the_middle():
    """Its requests end with their tokens, on others; pages and staging are given back."""
    for transport, role, point in (("ipc", "prefill", "ipc.announced"),
                                   ("ipc", "decode", "ipc.pulling"),
                                   ("nccl", "prefill", "nccl.sending"),
                                   ("nccl", "decode", "nccl.posted")):
        with Cluster() as cluster:
            mortal = member(cluster, role, transport, TWO, WEIR_FAILPOINTS=f"{point}=kill:1@3")
            for more in ("prefill", "decode"):
                member(cluster, more, transport, TWO)
            other = member(cluster, "decode" if role == "prefill" else "prefill", transport, TWO)
            gateway = cluster.gateway(*PATIENT)
            cluster.wait_joined(gateway, 4)
            same_as_two(gateway, jobs[:12], 6)
            asked_until(gateway, lambda: mortal.process.poll() is not None, f"{point} is reached")
            mortal.wait_end(-signal.SIGKILL)
            cluster.nodes.remove(mortal)
            same_as_two(gateway, jobs[12:16])
            over(gateway)
            for node in [n for n in cluster.nodes if role in n.command]:
                cluster.remove(node).end()
            assert other in cluster.nodes
            until(lambda: gateway.metrics().sum("weir_kv_staging_bytes") == 0,
                  "staging goes with the pairs")


@case
def one_of_two_devices_dies_or_freezes_beside_one_of_one():
    """Either side, in the middle of a transfer; a frozen one is killed when it was missed."""
    for transport, role, point, action in (("ipc", "decode", "ipc.pulling", "kill"),
                                           ("nccl", "prefill", "nccl.sending", "stop")):
        with Cluster() as cluster:
            mortal = member(cluster, role, transport, TWO, WEIR_FAILPOINTS=f"{point}={action}:1@3")
            member(cluster, role, transport, TWO)
            member(cluster, "decode" if role == "prefill" else "prefill", transport,
                   (*ALONE, "--memory-fraction", "0.7"))  # the rest has room for two pairs
            gateway = cluster.gateway(*PATIENT, "--heartbeat-timeout-ms", "1000")
            cluster.wait_joined(gateway, 3)
            same(gateway, jobs[:8], 6)
            if action == "stop":
                asked_until(gateway, lambda: stopped(mortal.pid), f"{point} is reached")
                until(lambda: "worker is silent" in gateway.log(), "it is missed")
                mortal.process.kill()
            asked_until(gateway, lambda: mortal.process.poll() is not None, f"{point} is reached")
            cluster.remove(mortal).wait_end(-signal.SIGKILL)
            same(gateway, jobs[8:10])
            over(gateway)
            cluster.remove(cluster.nodes[0]).end()
            until(lambda: gateway.metrics().sum("weir_kv_staging_bytes") == 0,
                  "staging goes with the pairs")


if __name__ == "__main__":
    main()
