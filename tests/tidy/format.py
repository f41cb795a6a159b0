#!/usr/bin/env python3
"""format.py -- clang-format would change nothing; skipped where version 14 is not installed."""

import os
import re
import shutil
import subprocess
import sys

import tree

# Other versions break lines elsewhere; Debian 12's is the one the tree is formatted with.
VERSION = "14"


def find():
    for name in (f"clang-format-{VERSION}", "clang-format"):
        program = shutil.which(name)
        if program:
            text = subprocess.run([program, "--version"], check=True, text=True,
                                  stdout=subprocess.PIPE).stdout
            match = re.search(r"version (\d+)\.", text)
            if match and match.group(1) == VERSION:
                return program
    return None


def check(root):
    program = find()
    if not program:
        print(f"clang-format {VERSION} is not installed")
        sys.exit(77)
    problems = []
    for path in tree.files(root):
        done = subprocess.run([program, "--dry-run", "--Werror", path], cwd=root, check=False,
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        if done.returncode:
            first = done.stderr.splitlines()
            problems.append(first[0] if first else f"{path}: clang-format failed")
    return problems


if __name__ == "__main__":
    tree.main(check)
