#!/usr/bin/env python3
"""kernels.py -- kernel files hold no inline PTX and no launch brackets: both are wrappers' (ptx*.cuh),
so that the emulated device can stand in for each."""

import os
import re

import tree

WRAPPERS = re.compile(r"^ptx\w*\.cuh$")
WRONG = [
    (re.compile(r"\b(asm|__asm__)\b"),
     "inline PTX outside ptx*.cuh: add a wrapper, and its twin in tests/emu"),
    (re.compile(r"<<<"), "a launch with brackets: use ptx_launch"),
]


def check(root):
    problems = []
    for path in tree.files(root, (".cu", ".cuh")):
        if WRAPPERS.match(os.path.basename(path)):
            continue
        for number, line in enumerate(tree.code_only(tree.read(root, path)).split("\n"), 1):
            for pattern, why in WRONG:
                if pattern.search(line):
                    problems.append(f"{path}:{number}: {why}")
    return problems


if __name__ == "__main__":
    tree.main(check)
