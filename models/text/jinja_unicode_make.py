#!/usr/bin/env python3
"""Writes jinja_unicode_table.h: what Python's str methods know of each character.

Run it with the Python whose templates are the reference; its unicodedata version goes into the
header. Usage: jinja_unicode_make.py > jinja_unicode_table.h
"""
import sys
import unicodedata

POINTS = [c for c in range(0x110000) if not 0xD800 <= c <= 0xDFFF]


def ranges(name, what, test):
    """Runs of characters of a class, every `stride` characters (cased scripts alternate)."""
    rows = []
    for c in POINTS:
        if not test(chr(c)):
            continue
        if rows:
            start, end, stride = rows[-1]
            step = c - end
            if step in (1, 2) and stride in (0, step):
                rows[-1] = (start, c, step)
                continue
            if step == 1 and stride == 2 and end - start == 2:
                rows[-1] = (start, start, 0)
                rows.append((end, c, 1))
                continue
        rows.append((c, c, 0))
    print(f"/* {what} */")
    print(f"static const jinja_range {name}[] = {{")
    flow(f"{{0x{a:x}, 0x{b:x}, {s or 1}}}" for a, b, s in rows)
    print("};\n")


def flow(cells):
    line = "   "
    for cell in cells:
        if len(line) + len(cell) + 2 > 100:
            print(line)
            line = "   "
        line += " " + cell + ","
    print(line)


def mapping(name, what, change):
    """Runs of single characters that move by one distance, every `stride` characters."""
    rows, special = [], []
    for c in POINTS:
        to = change(chr(c))
        if len(to) > 1:
            special.append((c, [ord(x) for x in to]))
        elif ord(to) != c:
            delta = ord(to) - c
            if rows and rows[-1][2] == delta:
                start, end, _, stride = rows[-1]
                step = c - end
                if step in (1, 2) and stride in (0, step):
                    rows[-1] = (start, c, delta, step)
                    continue
            rows.append((c, c, delta, 0))
    rows = [(a, b, d, s or 1) for a, b, d, s in rows]
    print(f"/* {what} */")
    print(f"static const jinja_case {name}[] = {{")
    flow(f"{{0x{a:x}, 0x{b:x}, {d}, {s}}}" for a, b, d, s in rows)
    print("};\n")
    print(f"static const jinja_special {name}_special[] = {{")
    flow("{0x%x, {%s}}" % (c, ", ".join(hex(x) for x in (to + [0, 0])[:3])) for c, to in special)
    print("};\n")


def main():
    print("/* jinja_unicode_table.h -- classes and case of Unicode characters.\n *\n"
          " * Purpose    Constant tables for jinja_unicode.c, written by jinja_unicode_make.py.\n"
          " * Ownership  None.\n"
          " * Threads    Constants.\n"
          f" * Limits     Unicode {unicodedata.unidata_version}.\n */")
    print("#ifndef MODELS_TEXT_JINJA_UNICODE_TABLE_H")
    print("#define MODELS_TEXT_JINJA_UNICODE_TABLE_H\n")
    print("#include <stdint.h>\n")
    print("/* clang-format off */")
    print("typedef struct { uint32_t first, last, stride; } jinja_range;")
    print("typedef struct { uint32_t first, last; int32_t delta; uint32_t stride; } jinja_case;")
    print("typedef struct { uint32_t from, to[3]; } jinja_special;\n")
    ranges("unicode_alpha", "str.isalpha", str.isalpha)
    ranges("unicode_decimal", "str.isdecimal", str.isdecimal)
    ranges("unicode_digit", "str.isdigit", str.isdigit)
    ranges("unicode_numeric", "str.isnumeric", str.isnumeric)
    ranges("unicode_space", "str.isspace", str.isspace)
    ranges("unicode_printable", "str.isprintable", str.isprintable)
    ranges("unicode_lower", "str.islower", str.islower)
    ranges("unicode_upper", "str.isupper", str.isupper)
    ranges("unicode_title", "title case letters, neither upper nor lower",
           lambda c: unicodedata.category(c) == "Lt")
    mapping("unicode_to_lower", "str.lower", lambda c: c.lower() if c != "\u0130" else "i\u0307")
    mapping("unicode_to_upper", "str.upper", str.upper)
    mapping("unicode_to_title", "the first letter of str.title", str.title)
    print("/* clang-format on */")
    print("#endif")


if __name__ == "__main__":
    sys.exit(main())
