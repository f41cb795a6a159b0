#!/usr/bin/env python3
"""banned.py -- calls that have a safer form here, and notes that belong in an issue."""

import re

import tree

CALLS = {
    "strcpy": "memcpy with a checked size, or strbuf",
    "strcat": "strbuf",
    "sprintf": "snprintf or strbuf_printf",
    "vsprintf": "vsnprintf",
    "gets": "read",
    "strtok": "str_find",
    "atoi": "str_to_i64",
    "atol": "str_to_i64",
    "atof": "str_to_f64",
    "rand": "rng.h",
    "srand": "rng.h",
    "random": "rng.h",
    "alloca": "an arena or a fixed array",
}
HEAP = {
    "malloc": "mem_alloc",
    "calloc": "mem_calloc",
    "realloc": "mem_realloc",
    "free": "mem_free",
    "strdup": "mem_dup",
    "strndup": "mem_dup",
    "aligned_alloc": "an arena",
    "posix_memalign": "an arena",
}
# Where the heap's own names may be used: the wrapper, and tests (they play the outside world).
HEAP_FREE = ("engine/base/mem.c", "tests/")

# Split so that this file does not hold them.
NOTES = ["TO" + "DO", "FIX" + "ME", "XX" + "X", "HA" + "CK", "placeholder", "not " + "implemented"]

CALL = re.compile(r"(?<![\w.>])([a-z_]+)\s*\(")
NOTE = re.compile(r"\b(" + "|".join(NOTES) + r")\b")


def check(root):
    problems = []
    for path in tree.files(root):
        text = tree.read(root, path)
        for number, line in enumerate(tree.code_only(text).split("\n"), 1):
            for name in CALL.findall(line):
                if name in CALLS:
                    problems.append(f"{path}:{number}: {name} is banned: use {CALLS[name]}")
                elif name in HEAP and not path.startswith(HEAP_FREE):
                    problems.append(f"{path}:{number}: {name} outside mem.c: use {HEAP[name]}")
    for path in tree.files(root, tree.C_SUFFIXES + (".py", ".md", ".txt", ".sh")):
        if path.startswith("tests/tidy/"):
            continue
        for number, line in enumerate(tree.read(root, path).split("\n"), 1):
            for note in NOTE.findall(line):
                problems.append(f"{path}:{number}: \"{note}\": finish it or open an issue")
    return problems


if __name__ == "__main__":
    tree.main(check)
