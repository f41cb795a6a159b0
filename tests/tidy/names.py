#!/usr/bin/env python3
"""names.py -- C file names are unique in the tree, so that a symbol's prefix names one file."""

import os

import tree


def check(root):
    seen, problems = {}, []
    for path in tree.files(root):
        name = os.path.basename(path)
        if name in seen:
            problems.append(f"{path}: the name is taken by {seen[name]}")
        seen[name] = path
    return problems


if __name__ == "__main__":
    tree.main(check)
