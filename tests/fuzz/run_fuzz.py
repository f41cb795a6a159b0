#!/usr/bin/env python3
"""run_fuzz.py [SECONDS [TARGET...]] -- searches with libFuzzer, one target after the other.

Builds the targets with clang in build/fuzz and gives each SECONDS (default 90), starting from its
corpus. What it finds stays in build/fuzz: found/TARGET holds inputs that broke something,
work/TARGET those that reached new code. Prints a line a target, as tests/run wants it.
"""

import glob
import os
import re
import shutil
import subprocess
import sys

ROOT = os.path.abspath(os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", ".."))
BUILD = os.path.join(ROOT, "build", "fuzz")
CORPUS = os.path.join(ROOT, "tests", "fuzz", "corpus")
# The longest input worth making; states and templates get slow before they get deeper.
BYTES_MAX = {"core": 1500, "gate": 1500, "frame": 1024, "tokenizer": 1024}
BYTES_MAX_ELSE = 4096
UNIT_LIMIT_S = 25
DONE = re.compile(r"cov: (\d+) ft: (\d+)")
RUNS = re.compile(r"number_of_executed_units: (\d+)")


def targets():
    return sorted(os.path.basename(p) for p in glob.glob(os.path.join(CORPUS, "*")))


def build():
    configure = ["cmake", "-S", ROOT, "-B", BUILD, "-G", "Ninja", "-DCMAKE_C_COMPILER=clang",
                 "-DCMAKE_BUILD_TYPE=Debug", "-DCMAKE_C_FLAGS_DEBUG=-O1 -g", "-DWEIR_FUZZ=ON",
                 "-DWEIR_SANITIZE=address,undefined"]
    for command in (configure, ["cmake", "--build", BUILD, "--target", "fuzz_all"]):
        done = subprocess.run(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                              check=False)
        if done.returncode:
            print(done.stdout[-8000:])
            return False
    return True


def search(target, seconds):
    """The verdict line of one target."""
    work, found = (os.path.join(BUILD, kind, target) for kind in ("work", "found"))
    os.makedirs(work, exist_ok=True)
    os.makedirs(found, exist_ok=True)
    command = [os.path.join(BUILD, f"fuzz_{target}"), f"-max_total_time={seconds}",
               f"-max_len={BYTES_MAX.get(target, BYTES_MAX_ELSE)}", f"-timeout={UNIT_LIMIT_S}",
               "-rss_limit_mb=3000", "-print_final_stats=1", f"-artifact_prefix={found}/", work,
               os.path.join(CORPUS, target)]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
    output = done.stdout.decode("utf-8", "replace")
    if done.returncode:
        print(output[-8000:])
        return f"not ok {target} - exit {done.returncode}, the input is in {found}"
    last, runs = DONE.findall(output), RUNS.findall(output)
    cov, features = last[-1] if last else ("?", "?")
    print(f"{target}: {runs[-1] if runs else '?'} inputs, cov {cov}, features {features}")
    return f"ok {target}"


def main():
    if not shutil.which("clang"):
        for target in targets():
            print(f"skip {target} - no clang")
        return 0
    if not build():
        print("not ok build - the targets do not build with clang")
        return 1
    seconds = int(sys.argv[1]) if len(sys.argv) > 1 else 90
    lines = [search(t, seconds) for t in sys.argv[2:] or targets()]
    print("\n".join(lines))
    return 1 if any(line.startswith("not ok") for line in lines) else 0


if __name__ == "__main__":
    sys.exit(main())
