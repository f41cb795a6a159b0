#!/usr/bin/env python3
"""make_tokens.py -- the token windows of the logits golden file.

    make_tokens.py MODEL.gguf TEXT WINDOW > TOKENS

Tokenises TEXT with the `tokenizers` package and the model file's own vocabulary and merges, and
cuts the ids into windows, one a line. logits_smollm2.tokens was made from SmolLM2-135M-Instruct
(Q4_1) and Debian's /usr/share/common-licenses/GPL-3 with WINDOW 512.
Needs: pip install tokenizers gguf
"""
import sys

from gguf import GGUFReader
from tokenizers import Tokenizer, models, pre_tokenizers


def main():
    if len(sys.argv) != 4:
        raise SystemExit(__doc__)
    fields = GGUFReader(sys.argv[1]).fields
    tokens = fields["tokenizer.ggml.tokens"].contents()
    merges = [tuple(m.split(" ", 1)) for m in fields["tokenizer.ggml.merges"].contents()]
    tokenizer = Tokenizer(models.BPE({t: i for i, t in enumerate(tokens)}, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True),
         pre_tokenizers.ByteLevel(add_prefix_space=False)])
    with open(sys.argv[2], encoding="utf-8") as f:
        ids = tokenizer.encode(f.read()).ids
    window = int(sys.argv[3])
    for at in range(0, len(ids), window):
        print(" ".join(str(i) for i in ids[at:at + window]))


if __name__ == "__main__":
    main()
