"""tree.py -- the source files the tidy checks look at, and C text without comments and strings."""

import os
import re

# Folders that hold sources; everything else in the tree is somebody else's or made by a build.
FOLDERS = ("engine", "kernels", "models", "kvtransfer", "server", "bench", "tests")
C_SUFFIXES = (".c", ".h", ".cu", ".cuh", ".cpp", ".hpp")


def files(root, suffixes=C_SUFFIXES, folders=FOLDERS):
    """Paths relative to `root`, sorted."""
    found = []
    for folder in folders:
        for where, subfolders, names in os.walk(os.path.join(root, folder)):
            subfolders[:] = [s for s in subfolders if not s.startswith((".", "__"))]
            for name in names:
                if name.endswith(suffixes):
                    found.append(os.path.relpath(os.path.join(where, name), root))
    return sorted(found)


def read(root, path):
    with open(os.path.join(root, path), encoding="utf-8") as f:
        return f.read()


TOKEN = re.compile(
    r'/\*.*?\*/|//[^\n]*|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])*\'', re.DOTALL)


def code_only(text):
    """Comments become blanks, strings become empty; lines stay where they are."""

    def blank(match):
        token = match.group(0)
        if token[0] in "\"'":
            return token[0] * 2
        return re.sub(r"[^\n]", " ", token)

    return TOKEN.sub(blank, text)


def first_comment(text):
    match = re.match(r"/\*.*?\*/", text, re.DOTALL)
    return match.group(0) if match else ""


def main(check):
    """Runs a check on the tree this file is in and exits as tests/run wants it."""
    import sys
    root = os.path.abspath(os.path.join(os.path.dirname(__file__), "..", ".."))
    problems = check(root)
    for problem in problems:
        print(problem)
    sys.exit(1 if problems else 0)
