#!/usr/bin/env python3
"""test_kvrun.py -- schedules of pages over NCCL and IPC, and planted bugs that the run must find.

    test_kvrun.py [--full] WEIR_KVRUN

Prints `ok NAME` or `not ok NAME - why` for each part.
"""

import os
import re
import subprocess
import sys

COMMIT_SEEDS = 1000
FULL_SEEDS = 10000
JOBS = 2

failed = False


def say(good, name, why=""):
    global failed
    failed = failed or not good
    print(f"ok {name}" if good else f"not ok {name} - {why}", flush=True)


def run(program, *arguments):
    done = subprocess.run([program, *map(str, arguments)], stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True, errors="replace", check=False)
    lines = [line for line in done.stdout.splitlines() if line.strip()]
    return done.returncode, lines


def main():
    full = "--full" in sys.argv
    program = sys.argv[-1]
    if not os.path.exists(program):
        print("no CUDA or NCCL headers when it was built")
        return 77
    seeds = FULL_SEEDS if full else COMMIT_SEEDS
    code, said = run(program, "--seeds", seeds, "--jobs", JOBS)
    say(code == 0, f"schedules_{seeds}", said[-1] if said else "it said nothing")
    traces = [run(program, "--seed", 17, "--trace")[1] for _ in range(2)]
    say(traces[0] == traces[1], "traces_byte_for_byte", "two runs of one seed differ")
    for bug in run(program, "--plant", "list")[1]:
        # Within as many schedules as a commit runs.
        code, said = run(program, "--seeds", COMMIT_SEEDS, "--plant", bug)
        found = code == 1 and said and re.match(r"seed \d+: FAIL ", said[-1])
        say(found, f"finds_{bug.lower()}", f"not in {COMMIT_SEEDS} schedules")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
