"""emulated.py -- workers on emulated devices (tests/emu) with the emulated NCCL, for the end-to-end tests.

WEIR_CUDA_DEVICE=real: on a GPU with the real NCCL, for the cases that need no emulator (tests/gpu/run).
"""

import os

from weirtest import BIN, Skip

MODULE = os.path.join(os.path.dirname(BIN), "libweir_cuda_emu.so")
NCCL = os.path.join(os.path.dirname(BIN), "libweir_emu.so")
# A device of this size holds the tiny model, its pairs, and more pages than any test needs.
DEVICE = {"WEIR_CUDA_MODULE": MODULE, "WEIR_NCCL": NCCL, "EMU_MEMORY_MB": "96", "EMU_THREADS": "1"}
CUDA = ("--backend", "cuda", "--threads", "1", "--max-seqs", "8", "--prefill-chunk", "64",
        "--deterministic")
APART = ("--local-prefill-max", "0")
OVER = (*CUDA, *APART, "--kv-transport", "nccl")


def device(**more):
    if os.environ.get("WEIR_CUDA_DEVICE") == "real":
        if any(name.startswith("EMU_") or name == "WEIR_NCCL" for name in more):
            raise Skip("needs the emulated device")
        return {name: str(value) for name, value in more.items()}
    if not os.path.exists(MODULE):
        raise Skip("built without the emulated device: no CUDA headers here")
    return {**DEVICE, **{name: str(value) for name, value in more.items()}}
