#!/usr/bin/env python3
"""test_cuda.py -- the CUDA backend in real processes, on the emulated device (tests/emu).

The tiny model through `weir serve --backend cuda`: a chat through two workers, disaggregated against
aggregated, schedules of the device's threads and streams drawn by seed, a worker killed, a device that
breaks, and what a user reads when there is no device, a wrong one or one that is too small.
"""

import os
import signal
import sys

import emulated
from emulated import APART, CUDA, jobs, same, want
from hosts import Cluster
from weirtest import ROOT, Server, case, generate, main, parallel, scratch, until

sys.path.insert(0, os.path.join(ROOT, "tests", "golden"))
import hf_folders  # noqa: E402  (beside the golden file, not beside this one)

CHAT = {"messages": [{"role": "user", "content": "What is a weir?"}], "max_tokens": 12, "seed": 5}


def device(**more):
    """Without an NCCL that would be chosen for the KV too."""
    env = emulated.device(**more)
    return {name: env[name] for name in env if name != "WEIR_NCCL" or name in more}


def refused(env, *flags):
    """What the worker says when it cannot start."""
    server = Server("--backend", "cuda", *flags, env=env, wait=False)
    until(lambda: " ends " in server.log(), "a worker says why it ends")
    text = server.log()
    server.kill()
    return text


@case
def a_chat_through_two_workers():
    with Server(*CUDA, *APART, env=device()) as server:
        assert len(server.workers("prefill")) == len(server.workers("decode")) == 1
        r = generate(server, "/v1/chat/completions", dict(CHAT))
        assert len(r.ids[0]) > 0 and r.finish[0] in ("length", "stop"), r.key()
        until(lambda: server.metrics().sum("weir_kv_bytes_received_total", role="decode") > 0,
              "KV moved from one device's memory to the other's", 10)
        assert "numerics=cuda-tensor" in server.log() and "/exact" in server.log()
        server.check_pages_free()


@case
def disaggregated_as_aggregated():
    for flags in (APART, (*APART, "--kv-transport", "tcp"), (*APART, "--decode", "2")):
        with Server(*CUDA, *flags, env=device()) as server:
            same(server, jobs[:8])
            server.check_pages_free()


@case
def the_same_apart():
    """One pair of workers beside one that does both, on whatever device this is."""
    with Server(*CUDA, *APART, env=device()) as server:
        same(server, jobs[:3], 2)


@case
def every_dtype_of_the_cache():
    for dtype in ("f32", "bf16", "int8", "fp8"):
        with Server(*CUDA, "--kv-dtype", dtype, "--aggregated", env=device()) as server:
            reference = [generate(server, *job).key() for job in jobs[:3]]
        with Server(*CUDA, "--kv-dtype", dtype, *APART, env=device()) as server:
            assert parallel(jobs[:3], lambda job: generate(server, *job).key(), 3) == reference
            server.check_pages_free()


@case
def ten_schedules():
    for seed in range(1, 11):
        # Every other one on a device that works without being asked, so that layers leave early.
        with Server(*CUDA, *APART, env=device(EMU_SEED=seed, EMU_BACKGROUND=seed % 2)) as server:
            same(server, jobs[:2], 2)


def folder(name):
    path = scratch(name)
    if not os.path.exists(path):
        hf_folders.write(path, name)
    return path


@case
def a_folder_answers_through_two_workers():
    """A Hugging Face folder of each family, with its own template: apart as together."""
    for name in ("llama-untied-llama3", "mistral-no-window", "qwen2", "qwen3"):
        chat = {"messages": [{"role": "user", "content": "the and of"}], "max_tokens": 8, "seed": 3,
                "ignore_eos": True, "temperature": 0.7}
        answers = []
        for flags in (("--aggregated",), APART):
            with Server(*CUDA, *flags, env=device(), model=folder(name)) as server:
                answers.append(generate(server, "/v1/chat/completions", dict(chat)).key())
                server.check_pages_free()
        assert answers[0] == answers[1], (name, answers)


@case
def a_worker_is_killed():
    reference = want(jobs[:8])
    with Server(*CUDA, *APART, "--decode", "2", env=device()) as server:
        victims = server.workers("decode")

        def kill(_):
            until(lambda: server.metrics().sum("weir_adoptions_total", role="decode") > 0, "decoding")
            os.kill(victims[0], signal.SIGKILL)

        answers = parallel([None, *jobs[:8]], lambda job: kill(job) if job is None
                           else generate(server, *job).key(), 5)
        assert answers[1:] == reference
        until(lambda: len(server.workers("decode")) == 2, "the worker comes back")
        server.check_pages_free()


@case
def a_device_that_breaks():
    """Some calls after its start, each decode worker's device answers nothing any more: a clear line,
    a new life, and no request notices."""
    fault = "cudaStreamSynchronize,error=700,after=20"
    server = Server(*CUDA, *APART, "--decode", "2", env=device(EMU_CUDA_FAULT=fault))
    same(server, jobs[:8])
    until(lambda: "the model's step failed: device runtime error: " in server.log(),
          "a worker says what happened")
    server.kill()


@case
def what_a_user_reads():
    text = refused(device(EMU_DEVICES=0))
    assert "no CUDA device was found" in text, text
    text = refused(device(), "--device", "3")
    assert "device 3 was asked for: this machine has 1" in text, text
    text = refused(device(EMU_CAPABILITY=75))
    assert "architecture 7.5" in text and "compiled for" in text, text
    text = refused(device(EMU_DRIVER=11080))
    assert "knows CUDA 11.8, this needs " in text, text
    text = refused(device(EMU_MEMORY_MB=1))
    assert "MiB are asked for" in text and "of the device's 1.0 MiB are free" in text, text
    text = refused(device(), "--kv-memory", "1g")
    assert "a KV pool of" in text and "are free" in text, text


@case
def no_device_but_a_module():
    """The default backend: one line a worker, and the CPU serves."""
    with Server("--aggregated", env=device(EMU_DEVICES=0)) as server:
        assert generate(server, "/v1/chat/completions", dict(CHAT)).ids[0]
        lines = [l for l in server.log().splitlines() if "no GPU: the model runs on the CPU" in l]
        assert len(lines) == 1 and "no CUDA device was found" in lines[0], server.log()
        assert "numerics=cpu-" in server.log()


@case
def a_device_is_taken_by_itself():
    with Server("--aggregated", "--threads", "1", "--max-seqs", "8", env=device()) as server:
        assert generate(server, "/v1/chat/completions", dict(CHAT)).ids[0]
        assert "numerics=cuda-" in server.log() and "/fast" in server.log()


@case
def the_second_device():
    env = device(EMU_DEVICES=2)
    with Server(*CUDA, *APART, "--device", "1", env=env) as server:
        same(server, jobs[:2], 1)


def shared(**more):
    """Two devices for one model: NCCL takes 64 MiB of each."""
    return device(EMU_DEVICES=2, EMU_MEMORY_MB=192, **more)


TWO = ("--tensor-parallel-size", "2")


@case
def two_devices_share_a_model():
    with Server(*CUDA, *TWO, "--aggregated", env=shared()) as server:
        # Sums of two halves: not bit for bit those of one device, but here they choose the same.
        same(server, jobs[:8])
        assert " tp=2" in server.log() and "/exact" in server.log(), server.log()
        server.check_pages_free()


@case
def two_workers_of_two_devices():
    """Every rank's keys and values move, over host memory too (test_ranks.py: between devices)."""
    for flags in ((*APART, "--kv-transport", "shm"), (*APART, "--kv-transport", "tcp")):
        with Server(*CUDA, *TWO, *flags, env=shared(EMU_SEED=3)) as server:
            same(server, jobs[:8])
            assert server.metrics().sum("weir_kv_bytes_received_total", role="decode") > 0
            server.check_pages_free()


@case
def prefill_and_decode_on_different_numbers_of_devices():
    """Two devices compute what one decodes, and the other way round."""
    for prefill, decode in ((TWO, ()), ((), TWO)):
        with Cluster() as c:
            tcp = ("--kv-transport", "tcp")
            c.worker("prefill", *CUDA, *prefill, *tcp, "--kv-block-tokens", "32", env=shared())
            c.worker("decode", *CUDA, *decode, *tcp, env=shared())
            gateway = c.gateway()
            c.wait_joined(gateway, 2)
            same(gateway, jobs[:8])
            until(lambda: gateway.metrics().sum("weir_kv_bytes_received_total", role="decode") > 0,
                  "KV moved")
            assert "rounds sums elsewhere" in c.nodes[0].log(), c.nodes[0].log()
            gateway.check_pages_free()


@case
def a_device_of_two_breaks():
    """The worker ends with one line that names the rank, and is started anew; no request notices."""
    fault = "cudaLaunchKernel,error=700,after=200,device=1"
    server = Server(*CUDA, *TWO, *APART, "--decode", "2", env=shared(EMU_CUDA_FAULT=fault))
    same(server, jobs[:3], 3)
    until(lambda: "the model's step failed: device runtime error: rank 1 of 2: " in server.log(),
          "a worker says what happened")
    server.kill()


@case
def what_a_user_of_several_devices_reads():
    text = refused(device(), *TWO)
    assert "device 1 was asked for: this machine has 1" in text, text
    text = refused(device(EMU_DEVICES=4, EMU_MEMORY_MB=192), "--tensor-parallel-size", "3")
    assert "--tensor-parallel-size 3: this model has " in text, text
    text = refused(shared(WEIR_NCCL="/nowhere"), *TWO)
    assert "several devices for one model need NCCL" in text and "/nowhere" in text, text
    server = Server("--backend", "cpu", *TWO, wait=False)
    until(lambda: " ends " in server.log(), "a worker says why it ends")
    assert "the cpu backend does not share a model among devices" in server.log(), server.log()
    server.kill()


@case
def the_pool_takes_what_is_left():
    """--memory-fraction is of the device, for all workers together."""
    pages = {}
    for fraction in ("0.4", "0.8"):
        with Server(*CUDA, "--memory-fraction", fraction, env=device()) as server:
            words = [l for l in server.log().splitlines() if " worker: ready " in l]
            assert len(words) == 2, words
            pages[fraction] = [int(l.split("pages=")[1].split()[0]) for l in words]
    assert pages["0.4"][0] == pages["0.4"][1], pages
    assert 2.0 < pages["0.8"][0] / pages["0.4"][0] < 2.6, pages


if __name__ == "__main__":
    main()
