#!/usr/bin/env python3
"""headers.py -- files open with their name and what they are; headers state their contract.

* The first line of a .c or .h is `/* <file name> -- `.
* A header's first comment has Purpose, Ownership, Threads, Limits, each at the beginning of a line:
  clang-format fills a comment that is too wide, and runs them together.
* A header has a guard named after its path.
* A header compiles on its own as C17, with the warnings of the build.
"""

import os
import re
import subprocess

import tree

WORDS = ("Purpose", "Ownership", "Threads", "Limits")
# -Wno-psabi: the headers of an instruction set are compiled here without it.
FLAGS = ["-std=c17", "-fsyntax-only", "-x", "c", "-Wall", "-Wextra", "-Werror", "-Wno-psabi"]
# Bodies: included once for each instruction set, after the macros they are written in.
BODIES = "kernels/cpu/body_"


def guard_of(path):
    return re.sub(r"[^A-Z0-9]", "_", path.upper())


def run_together(path, comment):
    """What clang-format makes of a line that is too long: the next one stands under no word."""
    inside = False
    for line in comment.split("\n"):
        if re.match(r" \* [A-Z][\w-]* +\S", line) and line[3:].split()[0] in WORDS:
            inside = True
        elif not line.startswith(" * "):
            inside = False
        elif inside and not re.match(r" \* ( {10}|[A-Z][\w-]* {2,}\S)", line):
            yield f"{path}: in its first comment `{line[3:]}` stands under no word"


def form(path, text):
    name = os.path.basename(path)
    if not text.startswith(f"/* {name} -- "):
        yield f"{path}:1: the first line must be `/* {name} -- what it is`"
    if path.endswith(".h"):
        comment = tree.first_comment(text)
        for word in WORDS:
            if not re.search(rf"^ \* {word} +\S", comment, re.M):
                yield f"{path}: its first comment has no line that begins with `{word}`"
        yield from run_together(path, comment)
        guard = f"#ifndef {guard_of(path)}\n#define {guard_of(path)}\n"
        if guard not in text and not path.startswith(BODIES):
            yield f"{path}: wants the guard {guard_of(path)}"


def include_paths():
    done = subprocess.run(["pkg-config", "--cflags-only-I", "libmicrohttpd", "libcjson",
                           "libpcre2-8"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                          text=True, check=False)
    llhttp = [f"{root}/include/llhttp" for root in ("/usr/share", ".deps/llhttp/usr/share")]
    return done.stdout.split() + [f"-I{p}" for p in llhttp]


def alone(root, path, includes):
    # Included twice: a guard that does not guard shows.
    # Shared test code may use POSIX by itself; the product's headers must do without.
    posix = ["-D_GNU_SOURCE"] if path.startswith("tests/") else []
    done = subprocess.run(["cc", *FLAGS, *posix, "-I.", *includes, "-"], cwd=root, check=False,
                          input=f'#include "{path}"\n#include "{path}"\n', text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    if done.returncode:
        yield f"{path}: does not compile on its own:\n{done.stdout}"


def check(root):
    problems = []
    includes = include_paths()
    for path in tree.files(root, (".c", ".h")):
        problems += form(path, tree.read(root, path))
        if path.endswith(".h") and not path.startswith(BODIES):
            problems += alone(root, path, includes)
    return problems


if __name__ == "__main__":
    tree.main(check)
