#!/usr/bin/env python3
"""sizes.py -- functions of at most 70 lines, lines of at most 100 columns (Python:
110), files of at most 800.

A longer function needs a line in sizes_allowed.txt: `path function lines reason`. An entry that is
no longer needed, or allows more than the function has, is an error too: the list may only shrink.
"""

import os
import re

import tree

FUNCTION_LINES_MAX = 70
COLUMNS_MAX = 100
PYTHON_COLUMNS_MAX = 110  # names of options and paths are long there
FILE_LINES_MAX = 800
ALLOWED = os.path.join("tests", "tidy", "sizes_allowed.txt")

NAME = re.compile(r"([A-Za-z_]\w*)\s*\(")


def functions(text):
    """(name, first line, lines) of each function body: a brace that opens after `)` at depth 0."""
    code = tree.code_only(text)
    code = re.sub(r"^[ \t]*#(?:[^\n]*\\\n)*[^\n]*", lambda m: re.sub(r"[^\n]", " ", m.group(0)),
                  code, flags=re.MULTILINE)
    code = re.sub(r'extern ""\s*\{', lambda m: re.sub(r"[^\n]", " ", m.group(0)), code)
    depth, head, start = 0, 0, None
    for i, c in enumerate(code):
        if c == "{":
            if depth == 0:
                before = code[head:i]
                if before.rstrip().endswith(")") and NAME.search(before):
                    begin = head + len(before) - len(before.lstrip())
                    start = (function_name(before), begin)
            depth += 1
        elif c == "}":
            depth = max(0, depth - 1)
            if depth == 0:
                if start:
                    name, begin = start
                    first = code.count("\n", 0, begin) + 1
                    yield name, first, code.count("\n", begin, i) + 1
                    start = None
                head = i + 1
        elif c == ";" and depth == 0:
            head = i + 1


def function_name(before):
    """The last name before a parenthesis, but for attributes and Criterion's Test(suite, name)."""
    test = re.search(r"\b(?:Test|ParameterizedTest)\s*\(\s*([^)]*)\)", before)
    if test:
        words = [w.strip() for w in test.group(1).split(",")]
        return ".".join(words[:2])
    names = [n for n in NAME.findall(before) if not n.startswith("__")]
    return names[0] if names else "?"


def read_allowed(root):
    allowed, problems = {}, []
    path = os.path.join(root, ALLOWED)
    if os.path.exists(path):
        for number, line in enumerate(tree.read(root, ALLOWED).splitlines(), 1):
            words = line.split(None, 3)
            if not words or words[0].startswith("#"):
                continue
            if len(words) < 4 or not words[2].isdigit():
                problems.append(f"{ALLOWED}:{number}: want `path function lines reason`")
                continue
            allowed[words[0], words[1]] = (int(words[2]), number)
    return allowed, problems


def check(root):
    allowed, problems = read_allowed(root)
    for path in tree.files(root, tree.C_SUFFIXES + (".py",)):
        text = tree.read(root, path)
        lines = text.split("\n")
        if len(lines) - 1 > FILE_LINES_MAX:
            problems.append(f"{path}: {len(lines) - 1} lines, at most {FILE_LINES_MAX}")
        for number, line in enumerate(lines, 1):
            most = PYTHON_COLUMNS_MAX if path.endswith(".py") else COLUMNS_MAX
            if len(line) > most:
                problems.append(f"{path}:{number}: {len(line)} columns, at most {most}")
        if path.endswith(".py"):
            continue
        for name, first, count in functions(text):
            limit, entry = allowed.pop((path, name), (FUNCTION_LINES_MAX, 0))
            if count > limit:
                problems.append(f"{path}:{first}: {name} has {count} lines, at most {limit}")
            elif entry and count < limit:
                problems.append(f"{ALLOWED}:{entry}: {name} has {count} lines now, not {limit}")
    for (path, name), (_, number) in allowed.items():
        problems.append(f"{ALLOWED}:{number}: {path} has no function {name}")
    return problems


if __name__ == "__main__":
    tree.main(check)
