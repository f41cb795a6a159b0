#!/usr/bin/env python3
"""test_ipc.py -- KV over CUDA IPC between worker processes of one host, on emulated devices.

The oracle is one worker that computes both phases on the same kind of device.
"""

import signal

from emulated import APART, CUDA, asked_until, device, jobs, same
from hosts import Cluster
from weirtest import Server, case, main, until

OVER = (*CUDA, *APART, "--kv-transport", "ipc")


@case
def two_and_two_over_ipc_as_aggregated():
    with Server(*OVER, "--prefill", "2", "--decode", "2", env=device()) as server:
        same(server, jobs[:12], 8)
        # Workers tell their numbers now and then.
        until(lambda: server.metrics().sum("weir_kv_links", transport="ipc") == 8,
              "each knows its two peers")
        until(lambda: server.metrics().sum("weir_kv_bytes_received_total", role="decode") > 0,
              "KV moved")
        server.check_pages_free()
        assert server.metrics().sum("weir_kv_staging_bytes", role="prefill") > 0


@case
def chosen_by_itself_between_workers_that_serve_starts():
    """Workers on one GPU take ipc; where its library cannot be opened, host memory."""
    cases = (({}, "ipc", "one-host"), ({"WEIR_NCCL": "/nonexistent.so"}, "shm", "host-memory"))
    for more, transport, why in cases:
        with Server(*CUDA, *APART, env=device(**more)) as server:
            same(server, jobs[:4])
            assert server.log().count(f"transport={transport} why={why}") == 2, server.log_tail()
            until(lambda: server.metrics().sum("weir_kv_links_chosen", transport=transport,
                                               reason=why) == 2, "both sides count the link")
            server.check_pages_free()


@case
def what_is_on_the_cpu_meets_over_shm():
    with Server("--backend", "cpu", "--threads", "1", *APART, env=device()) as server:
        until(lambda: server.log().count("transport=shm why=host-memory") == 2, "both have met")


@case
def a_side_that_dies_in_the_middle_is_done_without():
    for role, point in (("prefill", "ipc.announced"), ("decode", "ipc.pulling")):
        with Cluster() as cluster:
            env = device(WEIR_FAILPOINTS=f"{point}=kill:1@3")
            mortal = cluster.worker(role, *CUDA, "--kv-transport", "ipc", "--memory-fraction",
                                    "0.2", env=env)
            for other in ("prefill", "prefill", "decode", "decode"):
                cluster.worker(other, *CUDA, "--kv-transport", "ipc", "--memory-fraction", "0.2",
                               env=device())
            gateway = cluster.gateway("--ttft-slo-ms", "0")  # however busy this machine is
            cluster.wait_joined(gateway, 5)
            same(gateway, jobs[:18], 9)
            asked_until(gateway, lambda: mortal.process.poll() is not None, f"{point} is reached")
            mortal.wait_end(-signal.SIGKILL)
            cluster.nodes.remove(mortal)
            same(gateway, jobs[18:24])
            gateway.check_pages_free()
            assert gateway.metrics().sum("weir_inexact_tokens_total") == 0


@case
def what_cannot_be_is_refused_by_name():
    server = Server("--backend", "cpu", "--threads", "1", "--kv-transport", "ipc", env=device(),
                    wait=False)
    until(lambda: "--kv-transport ipc: the KV cache is in host memory" in server.log(),
          "it says why")
    server.kill()
    with Cluster() as cluster:
        cluster.worker("prefill", *CUDA, "--kv-transport", "ipc", env=device(NCCL_HOSTID="a"))
        cluster.worker("decode", *CUDA, "--kv-transport", "ipc", env=device(NCCL_HOSTID="b"))
        gateway = cluster.gateway()
        cluster.wait_joined(gateway, 2)
        for node in cluster.nodes:
            node.wait_log("no KV transport in common: ")


if __name__ == "__main__":
    main()
