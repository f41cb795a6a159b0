#!/usr/bin/env python3
"""Writes pretok_cuts.txt: where the `tokenizers` package cuts text, for each pre-tokenizer.

A line is: the text's bytes in hexadecimal, then for each pre-tokenizer its name and the length of
each piece in bytes. Cuts are checked apart from ids because a vocabulary hides most of them: a wrong cut only
changes ids where a merge would have crossed it. Needs `pip install tokenizers`.

    python3 tests/golden/make_pretok_cuts.py > tests/golden/pretok_cuts.txt
"""

import random
import re

import check_tokenizer as check

YOUNG = "models/text/pretok_unicode.h"
NAMES = ("gpt2", "smollm", "llama-bpe", "qwen2")
COUNT = 60  # strings of each sort


def young_points():
    """The first and last of each range of letters and numbers younger than Unicode 14."""
    with open(YOUNG) as f:
        return sorted({int(x, 16) for x in re.findall(r"x\{([0-9a-f]+)\}", f.read())})


def young(r, points):
    beside = ["a", " ", "1", ".", "\n", "  ", "'s", ""]
    return "".join(
        chr(max(0,
                r.choice(points) + r.choice((-1, 0, 0, 0, 1)))) + r.choice(beside)
        for _ in range(r.randrange(1, 12)))


def strings():
    r = random.Random(check.SEED)
    points = young_points()
    makers = (check.scripts, check.emoji, check.spaces, check.code, check.digits,
              check.contractions, check.words, lambda q: young(q, points),
              lambda q: young(q, points),
              lambda q: "".join(check.any_char(q) for _ in range(q.randrange(1, 20))))
    for make in makers:
        for _ in range(COUNT):
            text = make(r)[:40]
            if text:
                yield text


def lengths(splitter, text):
    ends = [end for _, (_, end) in splitter.pre_tokenize_str(text)]
    out = [len(text[a:b].encode()) for a, b in zip([0] + ends, ends)]
    assert sum(out) == len(text.encode())
    return out


def main():
    splitters = {name: check.pre_tokenizer(name) for name in NAMES}
    for text in strings():
        line = [text.encode().hex()]
        for name in NAMES:
            line += [name, *lengths(splitters[name], text)]
        print(*line)


main()
