#!/usr/bin/env python3
"""Writes checksums.txt: digests of fixed inputs by outside implementations.

Needs the packages xxhash 4.1.0 and siphash24 1.9 from PyPI; run by hand, the result is committed.
Input of length n: byte i is (i * 131 + 7 + i // 256) mod 256. Line: NAME SEED LENGTH HEX.
"""
import hashlib
import hmac
import pathlib

import siphash24
import xxhash

LENGTHS = [*range(0, 70), 95, 96, 97, 119, 120, 127, 128, 129, 191, 192, 255, 256, 257, 1000, 4095,
           4096, 65537]
SEEDS = [0, 1, 0x9E3779B97F4A7C15]


def data(n):
    return bytes((i * 131 + 7 + i // 256) % 256 for i in range(n))


def main():
    lines = []
    for n in LENGTHS:
        d = data(n)
        for seed in SEEDS:
            lines.append(f"xxh64 {seed:x} {n} {xxhash.xxh64(d, seed=seed).hexdigest()}")
        sip = siphash24.siphash24(d, key=bytes(range(16))).digest()
        lines.append(f"siphash24 0 {n} {int.from_bytes(sip, 'little'):016x}")
        lines.append(f"sha256 0 {n} {hashlib.sha256(d).hexdigest()}")
        key = data(n % 150)
        lines.append(f"hmac {n % 150:x} {n} {hmac.new(key, d, 'sha256').hexdigest()}")
    out = pathlib.Path(__file__).parent / "checksums.txt"
    out.write_text("\n".join(lines) + "\n")


main()
