#!/usr/bin/env python3
"""test_benchkv.py -- `weir bench kv`: every transport moves what it says it moves."""

import json
import os
import subprocess

from weirtest import BIN, Skip, case, main

EMULATOR = os.path.join(os.path.dirname(BIN), "libweir_emu.so")
MODULE = os.path.join(os.path.dirname(BIN), "libweir_cuda_emu.so")
LAYERS, HEADS, DIM = 4, 2, 64
PAGE = LAYERS * HEADS * 2 * 16 * DIM * 2  # bytes: keys and values of 16 tokens in f16


def bench(*flags, **env):
    done = subprocess.run(
        [BIN, "bench", "kv", "--layers", str(LAYERS), "--kv-heads", str(HEADS), "--head-dim",
         str(DIM), "--milliseconds", "1", *flags],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=120, check=False,
        env={**os.environ, **env})
    return done.returncode, done.stdout


def lines(text):
    return [json.loads(line) for line in text.splitlines() if line.startswith("{")]


@case
def host_transports_move_the_pages_of_each_length():
    for transport in ("local", "shm", "tcp"):
        code, said = bench("--transport", transport, "--tokens", "1,17,3000", "--group-bytes",
                           "100k", "--json")
        assert code == 0, said
        rows = lines(said)
        assert [(r["transport"], r["tokens"], r["bytes"]) for r in rows] == [
            (transport, 1, PAGE), (transport, 17, 2 * PAGE), (transport, 3000, 188 * PAGE)], said
        assert rows[2]["groups"] > 1
        assert all(r["gb_per_second"] > 0 and r["raw_gb_per_second"] > 0 for r in rows), said


@case
def pages_move_between_two_devices_beside_the_raw_loop():
    if not os.path.exists(EMULATOR):
        raise Skip("built without the emulated device: no CUDA headers here")
    for transport in ("ipc", "nccl"):
        code, said = bench("--transport", transport, "--tokens", "1,100", "--json",
                           EMU_DEVICES="2", WEIR_NCCL=EMULATOR, WEIR_CUDA_MODULE=MODULE)
        assert code == 0, said
        moved = [(r["tokens"], r["bytes"]) for r in lines(said)]
        assert moved == [(1, PAGE), (100, 7 * PAGE)], said


@case
def what_is_not_here_is_said_and_what_is_wrong_refused():
    code, said = bench("--transport", "nccl", WEIR_NCCL="/nowhere", WEIR_CUDA_MODULE="/nowhere")
    assert code == 1 and "not here" in said, said
    code, said = bench("--transport", "local", "--tokens", "0")
    assert code == 1 and "--tokens" in said, said
    code, said = bench("--head-dim", "20")
    assert code == 2, said
    code, said = bench("--transport", "shm", "--tokens", "65536", "--group-bytes", "4k", "--json")
    assert code == 0 and "more than" in said, said


main()
