#!/usr/bin/env python3
"""test_sim.py -- seeds through the simulator, one seed twice, and planted bugs that it must find.

    test_sim.py [--full] WEIR_SIM

Prints `ok NAME` or `not ok NAME - why` for each part.
"""

import os
import subprocess
import sys

COMMIT_SEEDS = 2000
FULL_SEEDS = 100000
PLANT_SEEDS = 400
PARTS = 2  # processes at once
# Broken shells (weir_sim.c), each of which the checks of the simulator must notice.
PLANTS = ("skip-write", "trust-checksum", "drop-message", "no-cancel")

failed = False


def say(good, name, why=""):
    global failed
    failed = failed or not good
    print(f"ok {name}" if good else f"not ok {name} - {why}", flush=True)


def last_line(text):
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "it said nothing"


def run_seeds(program, count):
    """Disjoint ranges of seeds side by side; the reason of the first failure, or None."""
    share = count // PARTS
    running = []
    for part in range(PARTS):
        command = [program, "--seed", str(1 + part * share), "--seeds", str(share)]
        running.append(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                                        text=True))
    why = None
    for process in running:
        output, _ = process.communicate()
        if process.returncode != 0:
            why = why or last_line(output)
    return why


def trace(program, seed):
    done = subprocess.run([program, "--seed", str(seed), "--trace"], stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, check=False)
    return done.stdout


def main():
    arguments = [a for a in sys.argv[1:] if a != "--full"]
    full = "--full" in sys.argv or os.environ.get("WEIR_TIER") == "full"
    if len(arguments) != 1:
        print(__doc__)
        return 2
    program = arguments[0]
    seeds = FULL_SEEDS if full else COMMIT_SEEDS
    why = run_seeds(program, seeds)
    say(why is None, f"seeds_{seeds}", why)
    same = all(trace(program, seed) == trace(program, seed) for seed in (3, 17, 99))
    say(same, "replays_byte_for_byte", "two runs of one seed differ")
    for plant in PLANTS:
        found = subprocess.run([program, "--seeds", str(PLANT_SEEDS), "--plant", plant],
                               stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
        say(found.returncode == 1, f"finds_{plant}", f"not in {PLANT_SEEDS} seeds")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
