"""emulated.py -- workers on emulated devices (tests/emu) with the emulated NCCL, for the end-to-end tests:
their flags and environment, requests that they answer quickly, and what those must get.

WEIR_CUDA_DEVICE=real: on a GPU with the real NCCL, for the cases that need no emulator (tests/gpu/run).
"""

import itertools
import os

import mixed
from weirtest import BIN, Server, Skip, generate, parallel, until

MODULE = os.path.join(os.path.dirname(BIN), "libweir_cuda_emu.so")
NCCL = os.path.join(os.path.dirname(BIN), "libweir_emu.so")
# A device of this size holds the tiny model, its pairs, and more pages than any test needs.
DEVICE = {"WEIR_CUDA_MODULE": MODULE, "WEIR_NCCL": NCCL, "EMU_MEMORY_MB": "96", "EMU_THREADS": "1"}
CUDA = ("--backend", "cuda", "--threads", "1", "--max-seqs", "8", "--prefill-chunk", "64",
        "--deterministic")
APART = ("--local-prefill-max", "0")
OVER = (*CUDA, *APART, "--kv-transport", "nccl")
# An emulated device computes a token in milliseconds.
jobs = [(path, body) for path, body in mixed.requests(200)
        if body.get("n", 1) == 1 and body.get("max_tokens", 99) <= 24 and len(str(body)) < 600]
expected = {}


def device(**more):
    if os.environ.get("WEIR_CUDA_DEVICE") == "real":
        if any(name.startswith("EMU_") or name == "WEIR_NCCL" for name in more):
            raise Skip("needs the emulated device")
        return {name: str(value) for name, value in more.items()}
    if not os.path.exists(MODULE):
        raise Skip("built without the emulated device: no CUDA headers here")
    return {**DEVICE, **{name: str(value) for name, value in more.items()}}


def want(which):
    """The answers to these jobs of one worker that computes both phases on such a device."""
    missing = [job for job in which if str(job) not in expected]
    if missing:
        with Server(*CUDA, "--aggregated", env=device()) as server:
            for job in missing:
                expected[str(job)] = generate(server, *job).key()
            server.check_pages_free()
    return [expected[str(job)] for job in which]


def same(server, which, workers=4):
    """The server gives those answers, asked by so many clients at once."""
    reference = want(which)
    for i, result in enumerate(parallel(which, lambda job: generate(server, *job), workers)):
        assert result.key() == reference[i], f"request {i}: {result.key()} is not {reference[i]}"


def asked_until(server, reached, what):
    """New prompts, four at a time, until that is so: the router chooses who has how many of them."""
    fresh = itertools.count()

    def ask(_):
        text = f"{next(fresh)} the water goes over the weir and " * 3
        generate(server, "/v1/completions", {"prompt": text, "max_tokens": 2})

    until(lambda: reached() or parallel(range(4), ask, 4) and reached(), what)
