#!/usr/bin/env python3
"""check_hf_tokenizer.py -- tokenizer.json of every family against the `tokenizers` package, id for id.

For each pipeline that models/file/hfpipeline.h knows, a small vocabulary is trained with the package,
saved into a folder of hf_folders.py, and `weir tokenize` reads the same tokenizer.json as the package
does. Strings are every STEPth of check_tokenizer.py.

    WEIR_BIN   the binary (default build/release/weir)

Needs `pip install tokenizers`; without it everything is skipped.
"""

import json
import os
import random
import sys
import tempfile
import unicodedata

import check_tokenizer as common
import hf_folders

STEP, VOCAB = 9, 900
BLANK = "\u2581"
SPECIALS = ["<|begin|>", "<|end|>", "<call>"]  # the last is no control token


def corpus():
    for name in sorted(os.listdir(os.path.dirname(os.path.abspath(__file__)))):
        if name.endswith(".py"):
            with open(os.path.join(os.path.dirname(os.path.abspath(__file__)), name),
                      encoding="utf-8") as f:
                yield from f.read().splitlines()
    yield from (" ".join(common.WORDS[i:] + common.WORDS[:i]) for i in range(0, 100, 7))


def byte_level(pre, ignore_merges=False, normalizer=None, begin=False):
    """A byte-level pipeline, as Llama 3, Qwen, GPT-2 and SmolLM have it."""
    from tokenizers import (AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors,
                            trainers)

    t = Tokenizer(models.BPE(ignore_merges=ignore_merges))
    t.pre_tokenizer = common.pre_tokenizer(pre)
    t.decoder = decoders.ByteLevel()
    t.train_from_iterator(corpus(), trainers.BpeTrainer(
        vocab_size=VOCAB, show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    t.add_special_tokens([AddedToken(s, normalized=False, special=True) for s in SPECIALS[:2]])
    t.add_tokens([AddedToken(SPECIALS[2], normalized=False)])
    if normalizer is not None:
        t.normalizer = normalizer
    level = processors.ByteLevel(trim_offsets=False)
    t.post_processor = level
    if begin:
        t.post_processor = processors.Sequence([level, processors.TemplateProcessing(
            single=SPECIALS[0] + " $A", special_tokens=[(SPECIALS[0], t.token_to_id(SPECIALS[0]))])])
    return t


def by_characters(normalizer=None, pre=None, ends=False):
    """Blanks as U+2581 and byte fallback, as Llama 2 and Mistral have it: the bytes are put before
    what training found."""
    from tokenizers import AddedToken, Tokenizer, models, processors, trainers

    t = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    if normalizer is not None:
        t.normalizer = normalizer
    if pre is not None:
        t.pre_tokenizer = pre
    t.train_from_iterator((w for line in corpus() for w in line.split("=")),
                          trainers.BpeTrainer(vocab_size=VOCAB - 260, show_progress=False,
                                              limit_alphabet=120))
    made = json.loads(t.to_str())
    texts = ["<unk>"] + ["<0x%02X>" % b for b in range(256)]
    texts += sorted(made["model"]["vocab"], key=made["model"]["vocab"].get)
    made["model"]["vocab"] = {text: i for i, text in enumerate(texts)}
    t = Tokenizer.from_str(json.dumps(made))
    t.add_special_tokens([AddedToken(s, normalized=False, special=True) for s in SPECIALS[:2]])
    t.add_tokens([AddedToken(SPECIALS[2], normalized=False)])
    t.post_processor = processors.TemplateProcessing(
        single="%s $A%s" % (SPECIALS[0], " " + SPECIALS[1] if ends else ""),
        special_tokens=[(s, t.token_to_id(s)) for s in SPECIALS[:2]])
    return t


def pipelines():
    from tokenizers import normalizers, pre_tokenizers

    space = pre_tokenizers.Metaspace
    older = normalizers.Sequence([normalizers.Prepend(BLANK), normalizers.Replace(" ", BLANK)])
    return {
        "gpt2": lambda: byte_level("gpt2"),
        "smollm": lambda: byte_level("smollm"),
        "llama3": lambda: byte_level("llama-bpe", ignore_merges=True, begin=True),
        "llama3, merges first": lambda: byte_level("llama-bpe"),
        "qwen": lambda: byte_level("qwen2", normalizer=normalizers.NFC()),
        "qwen without NFC": lambda: byte_level("qwen2"),
        "llama2": lambda: by_characters(normalizer=older),
        "llama2 without a prefix": lambda: by_characters(
            normalizer=normalizers.Replace(" ", BLANK), ends=True),
        "mistral, first": lambda: by_characters(pre=space(BLANK, "first", split=False)),
        "mistral, always": lambda: by_characters(pre=space(BLANK, "always", split=False)),
        "mistral, never": lambda: by_characters(pre=space(BLANK, "never", split=False)),
        # Gemma's cut at blanks finds none: the normalizer has written them otherwise.
        "gemma": lambda: by_characters(normalizer=normalizers.Replace(" ", BLANK),
                                       pre=pre_tokenizers.Split(" ", "merged_with_previous")),
        "mistral, split": lambda: by_characters(pre=space(BLANK, "first", split=True)),
    }


class Specials:
    """What check_tokenizer.make_strings asks of a model file."""

    def get(self, key):
        return SPECIALS if key == "tokens" else [3] * len(SPECIALS)


def accented(r):
    """Letters with marks, apart and in any order; syllables of Hangul in pieces."""
    marks = [chr(c) for c in (0x300, 0x301, 0x308, 0x323, 0x327, 0x328, 0x345, 0x5B0, 0x93C, 0x3099)]
    letters = list("aeioucdsnzAEÄöüσωλкигיבकगか ") + [chr(c) for c in (
        0x1100, 0x1161, 0x11A8, 0xAC00, 0x1EA5, 0x2126, 0x212B, 0xF900, 0x0958, 0x1D15E)]
    return "".join(r.choice(letters) + "".join(r.choice(marks) for _ in range(r.randrange(4)))
                   for _ in range(r.randrange(1, 12)))


def same_unicode(normalizer, strings):
    """Without the strings that only a newer Unicode would change: the package's has no combining
    classes for a few marks of the last years, and Python's has. They may not be many."""
    kept = [s for s in strings if normalizer.normalize_str(s.decode("utf-8", "replace")) ==
            unicodedata.normalize("NFC", s.decode("utf-8", "replace"))]
    if len(strings) - len(kept) > 10:
        common.report("hf normalizer", "%d strings differ from Python's" %
                      (len(strings) - len(kept)))
    return kept


def check(name, tokenizer, strings, folder):
    if tokenizer.normalizer is not None and name == "qwen":
        strings = same_unicode(tokenizer.normalizer, strings)
    tokenizer.save(os.path.join(folder, "tokenizer.json"))
    label = "hf %s (%d strings)" % (name, len(strings))
    texts = [s.decode("utf-8", "replace") for s in strings]
    try:
        got = common.weir_tokenize(folder, strings, common.SEPARATOR.encode())
    except common.TOOL_FAILURES as e:
        return common.report(label, e)
    want = [e.ids for e in tokenizer.encode_batch(texts)]
    common.report(label, common.first_difference(strings, got, want))
    return None


def main():
    try:
        import tokenizers  # noqa: F401
    except ImportError:
        return common.skip("hf tokenizers", "the tokenizers package is not installed")
    strings = [s for group in common.make_strings(Specials()).values() for s in group][::STEP]
    r = random.Random(common.SEED)
    strings += [accented(r).encode() for _ in range(1500)]
    with tempfile.TemporaryDirectory() as folder:
        hf_folders.write(folder, "llama")
        for name, build in pipelines().items():
            check(name, build(), strings, folder)
    return sys.exit(1 if common.FAILED else 0)


if __name__ == "__main__":
    main()
