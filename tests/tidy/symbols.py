#!/usr/bin/env python3
"""symbols.py -- a global symbol of a library starts with the name of the file it lives in.

Looks at the static libraries in build/release (or the folder in WEIR_BUILD). A group of files that
share one header shares the header's prefix; such groups are listed here.
"""

import glob
import os
import re
import subprocess
import sys

import tree

# File (or pattern with *): prefixes its symbols may have beside its own name.
GROUPS = {
    "core_state.c": ("core_",),
    "core_view.c": ("core_",),
    "metrics_render.c": ("metrics_",),
    "str.c": ("strbuf_",),  # slices and buffers are one file
}
LIBRARIES_NOT_OURS = ("libweir_llhttp.a",)
MEMBER = re.compile(r"^[^:]*:([\w.+-]+)\.o: *[0-9a-f]* ([A-Z]) (\w+)$")


def prefixes(name):
    stem = re.sub(r"\.(c|cu|cpp)$", "", name)
    return (stem,) + GROUPS.get(name, ())


def check_lines(lines):
    """`lines` as nm -A -g --defined-only prints them."""
    problems = []
    for line in lines:
        match = MEMBER.match(line)
        if not match:
            continue
        name, _, symbol = match.groups()
        if not any(symbol == p or symbol.startswith(p if p.endswith("_") else p + "_")
                   for p in prefixes(name)):
            problems.append(f"{name}: global symbol {symbol} does not start with "
                            f"{' or '.join(prefixes(name))}")
    return problems


def check(root):
    build = os.environ.get("WEIR_BUILD", os.path.join(root, "build", "release"))
    libraries = [p for p in sorted(glob.glob(os.path.join(build, "libweir_*.a")))
                 if os.path.basename(p) not in LIBRARIES_NOT_OURS]
    if not libraries:
        print(f"no libraries in {build}: build first")
        sys.exit(77)
    done = subprocess.run(["nm", "-A", "-g", "--defined-only", *libraries], check=True, text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    return check_lines(done.stdout.splitlines())


if __name__ == "__main__":
    tree.main(check)
