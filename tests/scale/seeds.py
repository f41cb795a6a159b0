#!/usr/bin/env python3
"""seeds.py -- weir_scale under many seeds, and with outside load curves where there are some.

    seeds.py WEIR_SCALE

WEIR_TRACES names a folder of *.csv or *.csv.gz files; those whose rows are a time in seconds and
requests a second (a heading is skipped) are run as load curves.
"""

import glob
import gzip
import os
import subprocess
import sys
import tempfile

SEEDS = 20


def run(program, *arguments):
    done = subprocess.run([program, *arguments], stdout=subprocess.PIPE, text=True, check=False)
    bad = [line for line in done.stdout.splitlines() if line.startswith("not ok")]
    notes = [line for line in done.stdout.splitlines() if line.startswith("# outside")]
    return done.returncode, bad, notes


def main():
    program, failed = sys.argv[1], False
    for seed in range(2, 2 + SEEDS):
        code, bad, _ = run(program, "--seed", str(seed))
        failed = failed or code != 0
        print(f"ok seed_{seed}" if code == 0 else f"not ok seed_{seed} - {'; '.join(bad)}")
    folder = os.environ.get("WEIR_TRACES")
    if not folder:
        print("skip outside_curves - WEIR_TRACES names no folder")
    for path in sorted(glob.glob(os.path.join(folder, "*rate*.csv*"))) if folder else []:
        opened = gzip.open(path, "rt") if path.endswith(".gz") else open(path)
        with opened as source, tempfile.NamedTemporaryFile("w", suffix=".csv") as plain:
            plain.write(source.read())
            plain.flush()
            code, bad, notes = run(program, "--rates", plain.name)
        name = os.path.basename(path).split(".")[0]
        print("\n".join(notes))
        failed = failed or code != 0
        print(f"ok curve_{name}" if code == 0 else f"not ok curve_{name} - {'; '.join(bad)}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
