#!/usr/bin/env python3
"""test_model.py -- the protocol's model: clean as it is, broken without any one of its rules.

    test_model.py [--full] WEIR_MODEL
"""

import os
import subprocess
import sys


def main():
    arguments = [a for a in sys.argv[1:] if a != "--full"]
    if len(arguments) != 1:
        print(__doc__)
        return 2
    full = "--full" in sys.argv or os.environ.get("WEIR_TIER") == "full"
    program = arguments[0]
    clean = subprocess.run([program, "full" if full else "commit"], check=False).returncode
    rules = subprocess.run([program, "rules"], check=False).returncode
    return 1 if clean or rules else 0


if __name__ == "__main__":
    sys.exit(main())
