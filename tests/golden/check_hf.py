#!/usr/bin/env python3
"""check_hf.py -- Hugging Face folders of every family against `transformers` in float32.

    check_hf.py WEIR_LOGITS             on the CPU
    check_hf.py --cuda WEIR_LOGITS      on the CUDA backend's plain kernels, which round nothing

Writes the folders of hf_folders.py, runs each with float32 activations and cache, and holds every log
probability to hf_logits.txt (made by make_hf_logits.py); then again with weights kept as Q8_0.
"""

import os
import subprocess
import sys
import tempfile

import hf_folders

HERE = os.path.dirname(os.path.abspath(__file__))
# The greatest difference of one log probability, the numbers being as large as 25.
BOUND = 0.0002
DEVICE = []
# With --weights q8_0, whose error is a matter of chance: the mean difference.
BOUND_Q8_0 = 0.25


def golden():
    want = {}
    with open(os.path.join(HERE, "hf_logits.txt"), encoding="ascii") as f:
        for line in f:
            case, _, rest = line.strip().partition(" ")
            if case != "#" and not rest.startswith("greedy"):
                want.setdefault(case, []).append([float(x) for x in rest.split()])
    return want


def check(tool, case, want, *flags):
    with tempfile.TemporaryDirectory() as folder:
        hf_folders.write(folder, case)
        windows = os.path.join(folder, "windows")
        with open(windows, "w", encoding="ascii") as f:
            for ids in hf_folders.tokens(case):
                f.write(" ".join(map(str, ids)) + "\n")
        done = subprocess.run([tool, folder, windows, "--activations", "f32", "--kv", "f32",
                               "--chunk", "17", "--threads", "2", *DEVICE, *flags],
                              capture_output=True, text=True, check=False, timeout=300)
    if done.returncode != 0:
        return done.stderr.strip()
    got = [[float(x) for x in line.split()] for line in done.stdout.splitlines()]
    if [len(row) for row in got] != [len(row) for row in want]:
        return "other numbers of tokens"
    apart = [abs(a - b) for x, y in zip(got, want) for a, b in zip(x, y)]
    if flags:
        mean = sum(apart) / len(apart)
        print("# %s %s: %.4f apart in the mean" % (case, " ".join(flags), mean))
        return None if 0.001 < mean <= BOUND_Q8_0 else "%.4f apart in the mean" % mean
    worst = max(apart)
    print("# %s: at most %.6f apart" % (case, worst))
    return None if worst <= BOUND else "%.6f apart, allowed are %g" % (worst, BOUND)


def main():
    cuda = "--cuda" in sys.argv
    tools = [a for a in sys.argv[1:] if a != "--cuda"]
    if len(tools) != 1:
        sys.exit(__doc__)
    module = os.environ.get("WEIR_CUDA_MODULE")
    if cuda and module and not os.path.exists(module):
        print("built without the emulated device: no CUDA headers here")
        sys.exit(77)
    if cuda:
        DEVICE.extend(["--backend", "cuda", "--isa", "plain"])
    want, failed = golden(), False
    for case in hf_folders.CASES:
        why = check(tools[0], case, want[case])
        print("ok hf/%s" % case if why is None else "not ok hf/%s - %s" % (case, why))
        if cuda:
            failed = failed or why is not None
            continue
        less = check(tools[0], case, want[case], "--weights", "q8_0")
        print("ok hf/%s as Q8_0" % case if less is None else
              "not ok hf/%s as Q8_0 - %s" % (case, less))
        failed = failed or why is not None or less is not None
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
