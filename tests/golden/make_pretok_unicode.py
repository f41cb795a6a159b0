#!/usr/bin/env python3
"""Writes models/text/pretok_unicode.h: letters and numbers younger than Unicode 14.

PCRE2 as Debian 12 ships it (10.42) knows Unicode 14; the `tokenizers` package knows later versions.
This asks the package, code point by code point, what it takes for a letter or a number, and lists
what Unicode 14 (Python 3.11's unicodedata) does not. Needs Python 3.11
and `pip install tokenizers`.

    python3 tests/golden/make_pretok_unicode.py > models/text/pretok_unicode.h
"""

import sys
import unicodedata

import tokenizers
from tokenizers import Regex, pre_tokenizers


def members(splitter):
    """Code points that `splitter` cuts out of their surroundings."""
    found = set()
    for c in range(0x110000):
        if (
            not 0xD800 <= c <= 0xDFFF
            and len(splitter.pre_tokenize_str("\x01" + chr(c) + "\x01")) == 3
        ):
            found.add(c)
    return found


def younger(found, category):
    return sorted(c for c in found if not unicodedata.category(chr(c)).startswith(category))


def ranges(points):
    out = []
    for c in points:
        if out and out[-1][1] == c - 1:
            out[-1][1] = c
        else:
            out.append([c, c])
    return out


def macro(name, points):
    parts = [
        "\\\\x{%x}" % a if a == b else "\\\\x{%x}-\\\\x{%x}" % (a, b) for a, b in ranges(points)
    ]
    lines, line = [], ""
    for part in parts:
        if len(line) + len(part) > 84:
            lines.append(line)
            line = ""
        line += part
    lines.append(line)
    body = " \\\n".join('    "%s"' % text for text in lines)
    return "#define %s \\\n%s\n" % (name, body)


def main():
    if unicodedata.unidata_version != "14.0.0":
        sys.exit("this needs a Python with Unicode 14 (3.11), not %s" % unicodedata.unidata_version)
    letters = younger(members(pre_tokenizers.Split(Regex(r"\p{L}"), "isolated")), "L")
    numbers = younger(members(pre_tokenizers.Split(Regex(r"\p{N}"), "isolated")), "N")
    digits = younger(members(pre_tokenizers.Digits(True)), "N")
    print("/* pretok_unicode.h -- letters and numbers younger than Unicode 14.")
    print(" *")
    print(
        " * Purpose    Members of character classes for PCRE2, whose own tables may be older than "
        "those"
    )
    print(
        " *            of the `tokenizers` package (%s), which the ids must equal."
        % tokenizers.__version__
    )
    print(" *            Made by tests/golden/make_pretok_unicode.py.")
    print(" * Ownership  Constants.")
    print(" * Threads    Constants.")
    print(
        " * Limits     %d letters, %d numbers, %d that the Digits pre-tokenizer takes."
        % (len(letters), len(numbers), len(digits))
    )
    print(" */")
    print("#ifndef MODELS_TEXT_PRETOK_UNICODE_H\n#define MODELS_TEXT_PRETOK_UNICODE_H\n")
    print("/* clang-format off */")
    print(macro("PRETOK_UNICODE_LETTERS", letters))
    print(macro("PRETOK_UNICODE_NUMBERS", numbers))
    print("/* Of the package's Digits, which has Unicode tables of its own. */")
    print(macro("PRETOK_UNICODE_DIGITS", digits))
    print("#endif")


main()
