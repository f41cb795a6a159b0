#!/usr/bin/env python3
"""test_sim.py -- seeds through the simulator, replays of some, and planted bugs that it must find.

    test_sim.py [--full] [--seeds N] [--table] WEIR_SIM

Prints `ok NAME` or `not ok NAME - why` for each part. --table prints what found each planted bug.
"""

import argparse
import os
import re
import subprocess
import sys

COMMIT_SEEDS = 10000
FULL_SEEDS = 200000
COMMIT_REPLAYS = 50
FULL_REPLAYS = 1000
PLANT_SEEDS = 10000  # each bug is found in as many
JOBS = 2
# Those that a commit proves: found within some hundred seeds, each by another check.
QUICK = ("R1_PARK", "R2_FIRST", "R5_JUNK", "R12_SOURCE_PINS", "TOKEN_TWICE_AFTER_RETRY",
         "GATEWAY_DEATH_KEEPS", "PREFIX_REFERENCE", "RETRIES_WITHOUT_BUDGET", "WRONG_LAYER",
         "ABORT_FREES_PAGES", "STEP_PAGES_FREED", "GENERATED_AS_PROMPT")

# One P and one D without room: all requests end, though both are full for this long all told.
CROWD_SEEDS = 40
CROWD_FULL_S = 1200
CROWD_BUG = "ADMIT_NEEDS_WORK"  # room is given out only when something new comes

failed = False


def say(good, name, why=""):
    global failed
    failed = failed or not good
    print(f"ok {name}" if good else f"not ok {name} - {why}", flush=True)


def run(program, *arguments):
    done = subprocess.run([program, *map(str, arguments)], stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True, errors="replace", check=False)
    return done.returncode, done.stdout


def last_line(text):
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "it said nothing"


def find(program, bug):
    """The first seed that finds the bug and what it says, or (0, why not)."""
    code, said = run(program, "--seeds", PLANT_SEEDS, "--jobs", 1, "--plant", bug)
    if code != 1:
        return 0, f"not in {PLANT_SEEDS} seeds"
    seed = int(re.search(r"^seed (\d+): FAIL", said, re.M).group(1))
    check = re.search(r"^weir: bug: .*/(engine/\S+?:\d+: .*)$", said, re.M)
    return seed, check.group(1) if check else said.split("FAIL ", 1)[1].strip()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("program")
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--seeds", type=int)
    parser.add_argument("--table", action="store_true")
    a = parser.parse_args()
    full = a.full or os.environ.get("WEIR_TIER") == "full"
    bugs = run(a.program, "--plant", "list")[1].split()
    if a.table:
        for bug in bugs:
            print(bug, *find(a.program, bug), sep=" | ")
        return 0
    seeds = a.seeds or (FULL_SEEDS if full else COMMIT_SEEDS)
    code, said = run(a.program, "--seeds", seeds, "--jobs", JOBS)
    say(code == 0, f"seeds_{seeds}", last_line(said))
    replays = FULL_REPLAYS if full else COMMIT_REPLAYS
    code, said = run(a.program, "--seeds", replays, "--jobs", JOBS, "--replay")
    say(code == 0, f"replays_{replays}_alike", last_line(said))
    traces = [run(a.program, "--seed", 17, "--trace")[1] for _ in range(2)]
    say(traces[0] == traces[1], "traces_byte_for_byte", "two runs of one seed differ")
    crowd = ("--crowd", "--seeds", CROWD_SEEDS, "--jobs", JOBS)
    code, said = run(a.program, *crowd)
    full_s = re.search(r"^both full for (\d+) s", said, re.M)
    say(code == 0, f"full_pools_never_deadlock_{CROWD_SEEDS}", last_line(said))
    say(full_s and int(full_s.group(1)) >= CROWD_FULL_S, "pools_are_full_for_minutes",
        full_s.group(0) if full_s else "it did not say")
    say(run(a.program, *crowd, "--plant", CROWD_BUG)[0] == 1, f"crowd_finds_{CROWD_BUG.lower()}",
        f"not in {CROWD_SEEDS} seeds")
    for bug in bugs if full else QUICK:
        seed, why = find(a.program, bug)
        say(seed > 0, f"finds_{bug.lower()}", why)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
