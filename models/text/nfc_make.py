#!/usr/bin/env python3
"""nfc_make.py -- writes nfc_table.h: canonical decompositions, combining classes and exclusions.

From Python's unicodedata (the Unicode Character Database): nothing is fetched. Hangul syllables are
left out, being arithmetic.
"""

import sys
import unicodedata

LINE = 99


def put(name, kind, cells):
    print("static const %s %s[] = {" % (kind, name))
    line = "   "
    for cell in cells:
        if len(line) + len(cell) + 2 > LINE:
            print(line)
            line = "   "
        line += " " + cell + ","
    print(line + "\n};\n")


def main():
    scalars = [c for c in range(sys.maxunicode + 1) if not 0xD800 <= c < 0xE000]
    pairs, singles, classes = [], [], []
    for c in scalars:
        parts = unicodedata.decomposition(chr(c))
        if parts and not parts.startswith("<"):
            left, right = ([int(p, 16) for p in parts.split()] + [0])[:2]
            back = unicodedata.normalize("NFC", chr(left) + chr(right)) if right else ""
            if right:
                pairs.append((c, left, right, back == chr(c)))
            else:
                singles.append("{0x%X, 0x%X}" % (c, left))
        ccc = unicodedata.combining(chr(c))
        if ccc and classes and classes[-1][1] == c - 1 and classes[-1][2] == ccc:
            classes[-1][1] = c
        elif ccc:
            classes.append([c, c, ccc])
    print("/* nfc_table.h -- made by nfc_make.py from Unicode %s.\n *" % unicodedata.unidata_version)
    print(" * Purpose    Canonical decompositions and combining classes, sorted, for nfc.c.\n"
          " * Ownership  Static data.\n * Threads    Constant.\n"
          " * Limits     Without Hangul syllables, which are arithmetic.\n */")
    print("#ifndef MODELS_TEXT_NFC_TABLE_H\n#define MODELS_TEXT_NFC_TABLE_H\n\n#include <stdint.h>\n")
    print("typedef struct {\n    uint32_t whole, left, right;\n} nfc_pair;\n")
    print("typedef struct {\n    uint32_t whole, left;\n} nfc_single;\n")
    print("typedef struct {\n    uint32_t from, to, class;\n} nfc_range;\n")
    print("/* clang-format off */")
    put("nfc_pairs", "nfc_pair", ["{0x%X, 0x%X, 0x%X}" % p[:3] for p in pairs])
    print("/* What composes again: indexes into nfc_pairs, sorted by left, then right. */")
    joins = sorted((p[1], p[2], i) for i, p in enumerate(pairs) if p[3])
    put("nfc_joins", "uint16_t", ["%d" % j[2] for j in joins])
    put("nfc_singles", "nfc_single", singles)
    put("nfc_classes", "nfc_range", ["{0x%X, 0x%X, %d}" % tuple(r) for r in classes])
    print("/* clang-format on */\n\n#endif")


if __name__ == "__main__":
    main()
