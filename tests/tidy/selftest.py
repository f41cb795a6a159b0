#!/usr/bin/env python3
"""selftest.py -- each tidy check finds what it is there to find, and is silent on a clean tree."""

import os
import sys
import tempfile

import banned
import flags
import format as clang_format
import headers
import kernels
import layers
import names
import sizes
import symbols

CLEAN_H = """/* thing.h -- a thing.
 *
 * Purpose    To be a thing.
 * Ownership  None.
 * Threads    Any.
 * Limits     None.
 */
#ifndef ENGINE_BASE_THING_H
#define ENGINE_BASE_THING_H

int thing_count(void);

#endif
"""
CLEAN_C = """/* thing.c -- a thing. */
#include "engine/base/thing.h"

/* Words such as malloc(3) and strcpy(a, b) in comments and "atoi(x)" in strings are no calls. */
static const char *const text = "free(p); sprintf(q)";

int thing_count(void) {
    return text[0] == 'f' ? 1 : 2;
}
"""
CLEAN = {"engine/base/thing.h": CLEAN_H, "engine/base/thing.c": CLEAN_C}

LONG_BODY = "".join(f"    x += {i};\n" for i in range(70))
LONG = "/* long.c -- long. */\nint long_sum(int x) {\n" + LONG_BODY + "    return x;\n}\n"

# (check, extra files, a part of each message that must appear; none: no message may)
CASES = [
    (layers.check, {}, []),
    (layers.check, {"engine/base/up.c": '/* up.c -- x. */\n#include "server/http/http.h"\n',
                    "server/http/http.h": ""}, ["engine/base may not include server/http/http.h"]),
    (layers.check, {"engine/core/a.c": '#include "engine/worker/b.h"\n', "engine/worker/b.h": ""},
     ["engine/core may not include engine/worker/b.h"]),
    (layers.check, {"kvtransfer/a.c": '#include "kernels/ops.h"\n#include "kernels/backend.h"\n',
                    "kernels/ops.h": "", "kernels/backend.h": ""},
     ["kvtransfer may not include kernels/ops.h"]),
    (layers.check, {"engine/base/a.c": "#include <microhttpd.h>\n"}, ["include microhttpd.h"]),
    (layers.check, {"engine/worker/a.c": "#include <cuda_runtime.h>\n"}, ["cuda_runtime.h"]),
    (layers.check, {"kvtransfer/ncclapi.h": "#include <nccl.h>\n"}, []),
    (layers.check, {"server/a.c": '#include "tests/support/x.h"\n', "tests/support/x.h": ""},
     ["only tests see tests"]),
    (layers.check, {"engine/base/a.c": '#include "thing.h"\n'}, ["not a path from the root"]),
    (layers.check, {"engine/other/a.c": '#include "engine/base/thing.h"\n'}, ["in no layer"]),
    (sizes.check, {}, []),
    (sizes.check, {"engine/base/long.c": LONG}, ["long.c:2: long_sum has 73 lines"]),
    (sizes.check, {"engine/base/long.c": LONG, "tests/tidy/sizes_allowed.txt":
                   "engine/base/long.c long_sum 73 one table\n"}, []),
    (sizes.check, {"engine/base/long.c": LONG, "tests/tidy/sizes_allowed.txt":
                   "engine/base/long.c long_sum 80 one table\n"}, ["has 73 lines now, not 80"]),
    (sizes.check, {"tests/tidy/sizes_allowed.txt": "engine/base/thing.c gone 80 why\n"},
     ["has no function gone"]),
    (sizes.check, {"tests/tidy/sizes_allowed.txt": "engine/base/thing.c gone 80\n"},
     ["want `path"]),
    (sizes.check, {"engine/base/wide.c": "/* " + "x" * 98 + " */\n"}, ["wide.c:1: 104 columns"]),
    (sizes.check, {"engine/base/tall.c": "\n" * 801}, ["tall.c: 801 lines"]),
    (banned.check, {}, []),
    (banned.check, {"engine/base/a.c": "int x = atoi(s);\nvoid *p = malloc (3);\n"},
     ["a.c:1: atoi is banned", "a.c:2: malloc outside mem.c"]),
    (banned.check, {"engine/base/a.c": "x->free(p); m.malloc(2); my_free(q); freed(1);\n"}, []),
    (banned.check, {"engine/base/mem.c": "p = malloc(3);\n", "tests/unit/a.c": "free(p);\n"}, []),
    (banned.check, {"server/README.md": "a TO" + "DO\n"}, ["README.md:1"]),
    (headers.check, {}, []),
    (headers.check, {"engine/base/a.c": "/* b.c -- wrong name. */\n"}, ["`/* a.c -- what it is`"]),
    (headers.check, {"engine/base/thing.h": CLEAN_H.replace("Ownership", "Owner")},
     ["no line that begins with `Ownership`"]),
    (headers.check, {"engine/base/thing.h": CLEAN_H.replace("a thing.\n", "a thing, which\n * is one.\n")},
     ["`is one.` stands under no word"]),
    (headers.check, {"engine/base/thing.h": CLEAN_H.replace("_BASE_", "_")}, ["wants the guard"]),
    (headers.check, {"engine/base/thing.h": CLEAN_H.replace("(void)", "(size_t n)")},
     ["does not compile on its own"]),
    (kernels.check, {"kernels/cuda/ptx.cuh": 'asm("nop;");\n',
                     "kernels/cuda/ptx_hopper.cuh": "k<<<1, 2>>>();\n"}, []),
    (kernels.check,
     {"kernels/cuda/a.cu": '/* asm <<< */ x = y << 2;\n  asm volatile("");\nk<<<1, 2>>>();\n'},
     ["a.cu:2: inline PTX", "a.cu:3: a launch with brackets"]),
    (names.check, {}, []),
    (names.check, {"server/thing.c": ""}, ["the name is taken by engine/base/thing.c"]),
    (clang_format.check, {}, []),
    (clang_format.check, {"engine/base/a.c": "int  a_x( void );\n"}, ["a.c:1"]),
]
SYMBOLS = [
    ("libweir_base.a:hash.c.o:0000000000000010 T hash_get", 0),
    ("libweir_base.a:hash.c.o:0000000000000010 T hashed_get", 1),
    ("libweir_base.a:hash.c.o:0000000000000010 T table_get", 1),
    ("libweir_base.a:failpoint.c.o:0000000000000000 B failpoint_armed", 0),
    ("libweir_base.a:metrics_render.c.o:0000000000000000 T metrics_render", 0),
]

HELP = flags.read_help("""usage: weir serve [options]

options:
  --port N                      where it
                                listens (from 0 to 65535; default 8000)
  --[no-]stream                 in parts
  --route NAME                  how (one of cost,
                                round-robin; default cost)
""")
HELPS = {"serve": HELP, "controller": {"listen": None}, "worker": {"model": None}}
FLAGS = [
    ("`weir serve --port 1 --no-stream`, `weir serve`; a `--wheel` of another\n", []),
    ("text\n    ./weir serve --port 0 \\\n        --prot 1   # --not\n", ["x.md:2: ", "no --prot"]),
    ("weir controller --listen A -- --model M --listen B\n", ["`weir worker` has no --listen"]),
    ("| `--route cost\\|round-robin --port 1` | `--any` |\n", []),
    ("| `--route cost\\|round` | |\n", ["--route takes cost, round-robin, not cost, round"]),
    ("| `--rout cost` | |\n", ["has no --rout"]),
]


def write(root, files):
    for path, text in files.items():
        full = os.path.join(root, path)
        os.makedirs(os.path.dirname(full), exist_ok=True)
        with open(full, "w", encoding="utf-8") as f:
            f.write(text)


def run(check, extra):
    here = os.path.abspath(os.path.join(os.path.dirname(__file__), "..", ".."))
    with tempfile.TemporaryDirectory() as root:
        write(root, {**CLEAN, **extra})
        os.symlink(os.path.join(here, ".clang-format"), os.path.join(root, ".clang-format"))
        return check(root)


def main():
    failed = 0
    for check, extra, wants in CASES:
        if check is clang_format.check and not clang_format.find():
            continue
        got = run(check, extra)
        good = len(got) == len(wants) and all(w in "\n".join(got) for w in wants)
        if not good:
            failed += 1
            print(f"{check.__module__} on {sorted(extra)}: said {got}, want {wants}")
    for line, count in SYMBOLS:
        if len(symbols.check_lines([line])) != count:
            failed += 1
            print(f"symbols on {line}: want {count} problems")
    for text, wants in FLAGS:
        got = "\n".join([*flags.check_calls("x.md", text, HELPS),
                         *flags.check_table("x.md", text, HELP)])
        if bool(got) != bool(wants) or not all(w in got for w in wants):
            failed += 1
            print(f"flags on {text!r}: said {got!r}, want {wants}")
    print(f"{len(CASES) + len(SYMBOLS) + len(FLAGS)} cases, {failed} wrong")
    sys.exit(1 if failed else 0)


main()
