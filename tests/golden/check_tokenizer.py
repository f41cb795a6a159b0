#!/usr/bin/env python3
"""Compares `weir tokenize` with the `tokenizers` package, id for id.

For each model file the reference is built from the very vocabulary and merges in the file, with the
pre-tokenizer its family uses. Strings come from a seed: every code point of the assigned planes,
scripts mixed, emoji, white space, code, digits, contractions, texts of special tokens whole and
broken, invalid UTF-8, and runs without a blank.

    WEIR_BIN         the binary (default build/release/weir)
    WEIR_TEST_MODEL  a model file, such as the default model
    WEIR_VOCAB_DIR   a folder of ggml-vocab-NAME.gguf files with .inp and .out beside them

Prints `ok NAME`, `not ok NAME - why` or `skip NAME - why` a line; exits 1 if anything is not ok.
Needs `pip install tokenizers`.
"""

import os
import random
import struct
import subprocess
import sys
import tempfile

SEED = 20240229
SEPARATOR = "<<<piece-8c1f>>>"
SCALARS = {
    0: "B",
    1: "b",
    2: "H",
    3: "h",
    4: "I",
    5: "i",
    6: "f",
    7: "?",
    10: "Q",
    11: "q",
    12: "d"
}
FAILED = []
TOOL_FAILURES = (RuntimeError, OSError, subprocess.SubprocessError, ValueError)


def report(name, why=None):
    print("ok %s" % name if why is None else "not ok %s - %s" % (name, why), flush=True)
    if why is not None:
        FAILED.append(name)


def skip(name, why):
    print("skip %s - %s" % (name, why), flush=True)


# -- model files -----------------------------------------------------------------------------------


class Gguf:
    """The metadata of a GGUF file, read apart from the reader under test."""

    def __init__(self, path):
        with open(path, "rb") as f:
            self.f = f
            assert f.read(4) == b"GGUF"
            _, _, pairs = self.unpack("IQQ")
            self.meta = {}
            for _ in range(pairs):
                key = self.text()
                self.meta[key] = self.value(self.unpack("I")[0])

    def unpack(self, fmt):
        fmt = "<" + fmt
        return struct.unpack(fmt, self.f.read(struct.calcsize(fmt)))

    def text(self):
        return self.f.read(self.unpack("Q")[0]).decode("utf-8", "surrogateescape")

    def value(self, kind):
        if kind == 8:
            return self.text()
        if kind == 9:
            kind, count = self.unpack("IQ")
            if kind == 8:
                return [self.text() for _ in range(count)]
            return list(self.unpack(SCALARS[kind] * count))
        return self.unpack(SCALARS[kind])[0]

    def get(self, key, default=None):
        return self.meta.get("tokenizer.ggml." + key, default)


def byte_alphabet():
    """The characters of GPT-2's byte alphabet, by byte."""
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    out, extra = {b: chr(b) for b in shown}, 0
    for b in range(256):
        if b not in out:
            out[b] = chr(256 + extra)
            extra += 1
    return out


def pre_tokenizer(pre):
    """The package's pre-tokenizer for a name of tokenizer.ggml.pre."""
    from tokenizers import Regex, pre_tokenizers

    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    bare = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tiktoken = (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}%s| ?[^\s\p{L}\p{N}]+[\r\n]*"
        r"|\s*[\r\n]+|\s+(?!\S)|\s+")
    splits = {
        "default":
            level,
        "gpt-2":
            level,
        "gpt2":
            level,
        "smollm":
            pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), level]),
        "llama-bpe":
            pre_tokenizers.Sequence(
                [pre_tokenizers.Split(Regex(tiktoken % "{1,3}"), "isolated"), bare]),
        "qwen2":
            pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(tiktoken % ""), "isolated"), bare])
    }
    return splits[pre]


def build_reference(gguf):
    from tokenizers import AddedToken, Tokenizer, models

    pre = gguf.get("pre", "default")
    tokens = gguf.get("tokens")
    merges = [tuple(m.split(" ", 1)) for m in gguf.get("merges")]
    bpe = models.BPE(vocab={
        t: i for i, t in enumerate(tokens)
    },
                     merges=merges,
                     ignore_merges=pre == "llama-bpe")
    tokenizer = Tokenizer(bpe)
    tokenizer.pre_tokenizer = pre_tokenizer(pre)
    types = gguf.get("token_type")
    added = {3: [], 4: []}
    for token, kind in zip(tokens, types):
        if kind in added:
            added[kind].append(AddedToken(token, normalized=False, special=kind == 3))
    tokenizer.add_special_tokens(added[3])
    tokenizer.add_tokens(added[4])
    return tokenizer


def pieces_of(gguf):
    back = {c: b for b, c in byte_alphabet().items()}
    out = []
    for token, kind in zip(gguf.get("tokens"), gguf.get("token_type")):
        if kind == 1 and all(c in back for c in token):
            out.append(bytes(back[c] for c in token))
        else:
            out.append(token.encode("utf-8", "surrogateescape"))
    return out


# -- strings ---------------------------------------------------------------------------------------

SPACES = [
    chr(c) for c in (9, 10, 11, 12, 13, 0x20, 0x85, 0xA0, 0x1680, *range(0x2000, 0x200B), 0x2028,
                     0x2029, 0x202F, 0x205F, 0x3000)
] + ["\r\n", "\u180e", "\u200b", "\ufeff"]
WORDS = """the of and to in is that it was for on are as with his they at be this from have or by one had
not but what all were when we there can an your which their said if do will each about how up out them
then she many some so these would other into has more her two like him see time could no make than first
been its who now people my made over did down only way find use may water long little very after words
called just where most know unbelievable internationalisation antidisestablishmentarianism Привет мир
большой язык γειά σου κόσμε שלום עולם مرحبا بالعالم नमस्ते दुनिया こんにちは世界 你好世界 안녕하세요 สวัสดีชาวโลก
Ünïcödé naïve façade Straße İstanbul ﬁne ǅ ʼn œuvre ĳ""".split()
CONTRACTIONS = [
    "'s", "'t", "'re", "'ve", "'m", "'ll", "'d", "'S", "'T", "'RE", "'Ve", "'M", "'lL", "'D",
    "'\u017f", "'\u017fa", "\u2019s", "`s", "''s", "'r", "'l", "'v", "' s", "'n't", "'da", "'1"
]
EMOJI = [
    "\U0001f600", "\U0001f468\u200d\U0001f469\u200d\U0001f467\u200d\U0001f466", "\u2764\ufe0f",
    "\U0001f44d\U0001f3fd", "\U0001f1e9\U0001f1ea", "1\ufe0f\u20e3", "\U0001f3f4\u200d\u2620\ufe0f",
    "\U0001f469\U0001f3ff\u200d\U0001f680", "\U0001fae0", "\u203c\ufe0f",
    "\U0001f3f4\U000e0067\U000e0062"
]
CODE = [
    "def f(x):\n", "    return x + 1\n", "\tif (a != b) {\n", "}\n\n",
    "for (int i = 0; i < n; i++)", "#include <stdio.h>\r\n", "// comment", "/* x */", "x->y[3].z",
    "0xDEADBEEF", "1e-9", "SELECT *", "</div>", '<a href="x">', "&amp;", "\\n", "$(ls)", "foo_bar",
    "fooBar", "::", "===", "=>", "#!/bin/sh", "\t\t\t", "        ", "\n\n\n", "{{ x }}", "{% if %}",
    "@decorator", "a,b;c", "...", "!?", '"\'"'
]


def sweep():
    """Every code point of the planes that have any, with what stands beside it changing."""
    beside = ["", " ", "a", "1", "'", "\n", "  ", "-"]
    points = [
        c for c in (*range(0x323C0), *range(0xE0000, 0xE0200), *range(0xF0000, 0xF0100),
                    *range(0x10FF00, 0x110000)) if not 0xD800 <= c <= 0xDFFF
    ]
    for at in range(0, len(points), 48):
        yield "".join(beside[(c * 7 + c // 48) % 8] + chr(c) for c in points[at:at + 48])


def any_char(r):
    c = r.choice((r.randrange(0x80), r.randrange(0x800), r.randrange(0x10000), r.randrange(0x32400),
                  r.randrange(0x110000)))
    return chr(c) if not 0xD800 <= c <= 0xDFFF else "?"


def scripts(r):
    start = r.choice((r.randrange(0x3000), r.randrange(0xD780), r.randrange(0x10000, 0x20000)))
    block = [chr(start + i) for i in range(96) if not 0xD800 <= start + i <= 0xDFFF]
    return "".join(
        r.choice(block) if r.random() < 0.8 else r.choice((" ", "  ", "1", "a", "'", any_char(r)))
        for _ in range(r.randrange(1, 60)))


def emoji(r):
    return "".join(
        r.choice((r.choice(EMOJI), r.choice(EMOJI), r.choice(WORDS), " ", "\u200d", "\ufe0f",
                  chr(r.randrange(0x1F300, 0x1FB00)))) for _ in range(r.randrange(1, 20)))


def spaces(r):
    out = []
    for _ in range(r.randrange(1, 12)):
        if r.random() < 0.7:
            out.append(r.choice(SPACES) * r.choice((1, 1, 2, 3, 7, 40)))
        else:
            out.append(r.choice(WORDS + ["1", "42", ".", "'s"]))
    return "".join(out)


def code(r):
    return "".join(
        r.choice(CODE) if r.random() < 0.8 else r.choice(WORDS) for _ in range(r.randrange(1, 25)))


def digits(r):
    zeros = (0x30, 0x660, 0x6F0, 0x966, 0xFF10, 0x1D7CE, 0x10D40, 0x1E5F1, 0x11DE0)
    other = "\u00b2\u00bd\u2167\u2460\u3007\u4e00\u5341\U00016ff4"
    out = []
    for _ in range(r.randrange(1, 15)):
        zero = r.choice(zeros)
        out.append("".join(chr(zero + r.randrange(10)) for _ in range(r.randrange(1, 9))))
        out.append(r.choice(("", " ", "  ", ".", ",", "a", "\n", "-", r.choice(other))))
    return "".join(out)


def contractions(r):
    return "".join(
        r.choice((r.choice(WORDS), " ", "", r.choice(SPACES), "7")) + r.choice(CONTRACTIONS)
        for _ in range(r.randrange(1, 12)))


def specials(r, texts):
    out = []
    for _ in range(r.randrange(1, 8)):
        t = r.choice(texts)
        cut = r.randrange(len(t) + 1)
        change = list(t)
        change[r.randrange(len(t))] = r.choice("<|>_ xé")
        out.append(
            r.choice((t, t, t + t, t[:cut], t[cut:], t[:cut] + t, t.upper(), " " + t + " ",
                      "".join(change), r.choice(WORDS), "\n", "<", "|>")))
    return "".join(out)


def words(r):
    return "".join(
        r.choice(("", " ", " ", " ", "  ", "\n")) + r.choice(WORDS) +
        r.choice(("", "", "", ".", ", ")) for _ in range(r.randrange(1, 60)))


def runs(r):
    n = r.randrange(50, 3000)
    kind = r.randrange(4)
    if kind == 0:
        return r.choice("aAe.-=1 é\n\u4e00") * n
    if kind == 1:
        return "".join(r.choice("abcdefghijklmnopqrstuvwxyz") for _ in range(n))
    if kind == 2:
        return "".join(r.choice(WORDS) for _ in range(n // 5))
    return "".join(r.choice("!?.-=*#/\\<>|") for _ in range(n))


def broken(r):
    """Bytes, valid text with damage."""
    bad = [
        b"\x80", b"\xbf", b"\xc0\xaf", b"\xc1", b"\xe0\x80\x80", b"\xe2\x82", b"\xed\xa0\x80",
        b"\xed\xbf\xbf", b"\xf0\x9f", b"\xf0\x9f\x98", b"\xf0\x80\x80\x80", b"\xf4\x90\x80\x80",
        b"\xf5", b"\xff", b"\xfe", b"\xf1\x80\x80", b"\xe1\x80", b"\xc3",
        bytes((r.randrange(256))),
        r.randbytes(r.randrange(1, 9))
    ]
    out = b""
    for _ in range(r.randrange(1, 10)):
        text = r.choice((words, emoji, scripts))(r).encode()
        out += text[:r.randrange(len(text) + 1)] + r.choice(bad)
    return out


def make_strings(gguf):
    """Lists of byte strings by category."""
    r = random.Random(SEED)
    texts = [t for t, kind in zip(gguf.get("tokens"), gguf.get("token_type")) if kind in (3, 4)
            ][:400]
    plan = [("scripts", scripts, 3000), ("emoji", emoji, 1500), ("spaces", spaces, 3000),
            ("code", code, 2000), ("digits", digits, 2000), ("contractions", contractions, 2000),
            ("specials", lambda q: specials(q, texts), 2000), ("words", words, 2000),
            ("runs", runs, 300), ("broken", broken, 2500),
            ("mixed", lambda q: "".join(any_char(q) for _ in range(q.randrange(40))), 1500)]
    out = {"sweep": [s.encode() for s in sweep()]}
    for name, make, count in plan:
        made = (make(r) for _ in range(count))
        out[name] = [s if isinstance(s, bytes) else s.encode() for s in made]
    return out


# -- checks ----------------------------------------------------------------------------------------


def weir_tokenize(model, pieces, separator, *flags):
    binary = os.environ.get("WEIR_BIN", "build/release/weir")
    with tempfile.NamedTemporaryFile() as f:
        f.write(separator.join(pieces))
        f.flush()
        run = subprocess.run([
            binary, "tokenize", "--model", model, "--file", f.name, "--separator",
            separator.decode(), *flags
        ],
                             capture_output=True,
                             timeout=600,
                             check=False)
    if run.returncode != 0:
        raise RuntimeError(
            run.stderr.decode("utf-8", "replace").strip()[:300] or "exit %d" % run.returncode)
    lines = run.stdout.decode().split("\n")[:len(pieces)]
    return [[int(x) for x in line.split()] for line in lines]


def first_difference(pieces, got, want):
    if len(got) != len(want):
        return "%d lines for %d strings" % (len(got), len(want))
    wrong = [i for i in range(len(want)) if got[i] != want[i]]
    if not wrong:
        return None
    i = min(wrong, key=lambda k: len(pieces[k]))
    return "%d of %d differ, shortest %r: %s, the package says %s" % (
        len(wrong), len(want), pieces[i][:120], got[i][:40], want[i][:40])


def check_round_trip(name, gguf, groups, ids):
    """What the ids stand for is the text again, where the vocabulary has all its bytes."""
    pieces, known = pieces_of(gguf), set(gguf.get("tokens"))
    lacking = {b for b, c in byte_alphabet().items() if c not in known}
    wrong = total = 0
    for group, strings in groups.items():
        for text, one in zip(strings, ids[group]):
            if group != "broken" and not lacking.intersection(text):
                total += 1
                wrong += b"".join(pieces[i] for i in one) != text
    report("%s round trip (%d strings)" % (name, total),
           None if wrong == 0 else "%d differ" % wrong)


def check_model(name, path):
    try:
        import tokenizers
    except ImportError:
        return skip("%s against the tokenizers package" % name, "the package is not installed")
    gguf = Gguf(path)
    reference = build_reference(gguf)
    groups = make_strings(gguf)
    bos = ([gguf.get("bos_token_id")] if gguf.get("add_bos_token",
                                                  gguf.get("pre") == "llama-bpe") else [])
    ids, total = {}, 0
    for group, strings in groups.items():
        label = "%s %s (%d strings, tokenizers %s)" % (name, group, len(strings),
                                                       tokenizers.__version__)
        texts = [s.decode("utf-8", "replace") for s in strings]
        total += len(strings)
        try:
            got = weir_tokenize(path, strings, SEPARATOR.encode())
        except TOOL_FAILURES as e:
            return report(label, e)
        want = [bos + e.ids for e in reference.encode_batch(texts, add_special_tokens=False)]
        report(label, first_difference(strings, got, want))
        ids[group] = [one[len(bos):] for one in got]
    check_round_trip(name, gguf, groups, ids)
    reference.encode_special_tokens = True
    strings = groups["specials"]
    want = [
        e.ids
        for e in reference.encode_batch([s.decode() for s in strings], add_special_tokens=False)
    ]
    got = weir_tokenize(path, strings, SEPARATOR.encode(), "--no-special")
    report("%s special tokens as plain text (%d strings)" % (name, len(strings)),
           first_difference(strings, got, want))
    return report("%s at least 20000 strings (%d)" % (name, total),
                  None if total >= 20000 else "too few")


def check_published(name, path):
    """Ids published beside a vocabulary; nothing of ours made them."""
    with open(path + ".inp", "rb") as f:
        pieces = f.read().split(b"\n__ggml_vocab_test__\n")[:-1]
    with open(path + ".out", "rb") as f:
        want = [[int(x) for x in line.split()] for line in f.read().decode().split("\n")
               ][:len(pieces)]
    label = "%s published ids (%d strings)" % (name, len(pieces))
    try:
        got = weir_tokenize(path, pieces, b"\n__ggml_vocab_test__\n", "--no-special")
    except TOOL_FAILURES as e:
        return report(label, e)
    return report(label, first_difference(pieces, got, want))


def main():
    model = os.environ.get("WEIR_TEST_MODEL")
    if model:
        check_model("model", model)
    else:
        skip("model", "WEIR_TEST_MODEL is not set")
    folder = os.environ.get("WEIR_VOCAB_DIR")
    for name in ("gpt-2", "llama-bpe", "qwen2"):
        path = os.path.join(folder or "", "ggml-vocab-%s.gguf" % name)
        if folder is None or not os.path.exists(path):
            skip(name, "WEIR_VOCAB_DIR is not set" if folder is None else "%s is not there" % path)
            continue
        check_model(name, path)
        check_published(name, path)
    sys.exit(1 if FAILED else 0)


if __name__ == "__main__":
    main()
