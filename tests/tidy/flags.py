#!/usr/bin/env python3
"""flags.py -- what the documents say of weir's flags is what `weir COMMAND --help` says.

* In a command line (`weir serve --prefill 2 ...`, also over several lines), each flag is one of that
  command's; what follows ` -- ` of a controller is its workers'.
* In the root README's table, each flag of the first column is one of `weir serve`'s, and values
  given as `--flag a|b|c` are all that it takes.

Asks the binary in build/release (or the folder in WEIR_BUILD).
"""

import os
import re
import subprocess
import sys

import tree

COMMANDS = ("serve", "gateway", "worker", "controller", "tokenize", "template", "bench engine",
            "bench kernels", "bench kv", "bench serve", "bench route")
CALL = re.compile(r"(?<![\w/.-])(?:\./|build/\w+/)?weir +(" + "|".join(COMMANDS) + r")\b([^`#|\n]*)")
FLAG = re.compile(r"(?<![\w-])--(?:no-)?([a-z][a-z0-9-]*)")
CHOICES = re.compile(r"`[^`]*--([a-z-]+) ([a-z0-9_-]+(?:\\?\|[a-z0-9_-]+)+)")


def read_help(text):
    """The flags of a help page: name -> the values it takes, or None for any."""
    flags = {}
    for name, about in re.findall(r"^  --(?:\[no-\])?([a-z0-9-]+)(.*(?:\n {10,}.*)*)", text, re.M):
        told = re.search(r"\(one of ([^;)]*)", re.sub(r"\s+", " ", about))
        flags[name] = set(told[1].split(", ")) if told else None
    return flags


def check_calls(path, text, helps):
    text = text.replace("\\\n", "\\\v")  # a command that goes on in the next line
    for call in CALL.finditer(text):
        number = 1 + len(re.findall(r"[\n\v]", text[:call.start()]))
        command, words = call.groups()
        mine, _, workers = words.replace("\v", " ").partition(" -- ")
        for who, flags in ((command, mine), ("worker", workers)):
            for name in FLAG.findall(flags):
                if name not in helps[who]:
                    yield f"{path}:{number}: `weir {who}` has no --{name}"


def check_table(path, text, flags):
    for number, line in enumerate(text.split("\n"), 1):
        if not line.startswith("| `--"):
            continue
        cell = re.split(r"(?<!\\)\|", line)[1]
        for name in FLAG.findall(cell):
            if name not in flags:
                yield f"{path}:{number}: `weir serve` has no --{name}"
        for name, values in CHOICES.findall(cell):
            told = set(re.split(r"\\?\|", values))
            if flags.get(name) and told != flags[name]:
                yield (f"{path}:{number}: --{name} takes {', '.join(sorted(flags[name]))}, "
                       f"not {', '.join(sorted(told))}")


def documents(root):
    paths = tree.files(root, (".md",)) + tree.files(root, (".service", ".yaml"), ("server",))
    return ["README.md"] + [p for p in paths if not p.startswith("bench/results/")]


def check(root, helps=None):
    if helps is None:
        weir = os.path.join(os.environ.get("WEIR_BUILD", os.path.join(root, "build", "release")),
                            "weir")
        if not os.path.exists(weir):
            print(f"no {weir}: build first")
            sys.exit(77)
        helps = {c: read_help(subprocess.run([weir, *c.split(), "--help"], check=True, text=True,
                                             stdout=subprocess.PIPE).stdout) for c in COMMANDS}
    problems = []
    for path in documents(root):
        problems += check_calls(path, tree.read(root, path), helps)
    problems += check_table("README.md", tree.read(root, "README.md"), helps["serve"])
    return problems


if __name__ == "__main__":
    tree.main(check)
