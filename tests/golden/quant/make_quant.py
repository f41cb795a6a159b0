#!/usr/bin/env python3
"""Writes quant.bin: blocks of each weight format and what they mean, by the `gguf` package.

    pip install gguf numpy && python3 tests/golden/quant/make_quant.py

For each format, little-endian: int32 type, rows, inputs, bytes; the blocks; f32 [rows, inputs].
Blocks are random bytes with random half-float scales put in their places.
"""
import pathlib
import struct

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType as T
from gguf.quants import dequantize

ROWS, INPUTS = 2, 512
# Offsets of half-float scales within a block.
SCALES = {
    T.Q4_0: [0], T.Q4_1: [0, 2], T.Q5_0: [0], T.Q5_1: [0, 2], T.Q8_0: [0],
    T.Q4_K: [0, 2], T.Q5_K: [0, 2], T.Q6_K: [208],
}


def main() -> None:
    rng = np.random.default_rng(20240607)
    with open(pathlib.Path(__file__).with_name("quant.bin"), "wb") as out:
        for kind, offsets in SCALES.items():
            block, size = GGML_QUANT_SIZES[kind]
            data = rng.integers(0, 256, (ROWS, INPUTS // block, size), dtype=np.uint8)
            for at in offsets:
                scale = rng.normal(0, 0.05, data.shape[:2]).astype(np.float16)
                data[:, :, at:at + 2] = scale[:, :, None].view(np.uint8)
            data[0, 0, offsets[0]:offsets[0] + 2] = [1, 0]  # the smallest subnormal
            rows = data.reshape(ROWS, -1)
            values = dequantize(rows, kind).astype("<f4")
            assert values.shape == (ROWS, INPUTS)
            out.write(struct.pack("<4i", kind, ROWS, INPUTS, rows.size))
            out.write(rows.tobytes())
            out.write(values.tobytes())


main()
