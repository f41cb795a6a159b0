#!/usr/bin/env python3
"""make_hf_logits.py [CASE...] > hf_logits.txt -- what `transformers` makes of the folders of hf_folders.py.

A line a case and window, in float32 on the CPU, eager attention: the natural-log probability of each
token given those before it, from the second on; then a line with the tokens that greedy decoding
adds to the first window's first GREEDY_PROMPT tokens, for as long as the best logit leads by
GREEDY_LEAD (after that rounding decides).

    pip install torch transformers && make_hf_logits.py > hf_logits.txt
"""

import tempfile
import sys

import torch
import transformers

import hf_folders

GREEDY_PROMPT, GREEDY_TOKENS, GREEDY_LEAD = 16, 24, 0.05


def main():
    transformers.logging.set_verbosity_error()
    print("# transformers %s, torch %s" % (transformers.__version__, torch.__version__.split("+")[0]))
    for case in sys.argv[1:] or hf_folders.CASES:
        with tempfile.TemporaryDirectory() as folder:
            hf_folders.write(folder, case)
            model, said = transformers.AutoModelForCausalLM.from_pretrained(
                folder, dtype=torch.float32, attn_implementation="eager", output_loading_info=True)
            wrong = [k for k in said["missing_keys"] | said["unexpected_keys"]
                     if "vision" not in k and "multi_modal" not in k]
            if wrong:
                sys.exit("%s: %s" % (case, said))
            model.eval()
            windows = hf_folders.tokens(case)
            with torch.no_grad():
                for window in windows:
                    ids = torch.tensor([window])
                    logs = torch.log_softmax(model(ids).logits[0].double(), -1)
                    row = [logs[i, window[i + 1]].item() for i in range(len(window) - 1)]
                    print(case, " ".join("%.6f" % x for x in row))
                ids, added = list(windows[0][:GREEDY_PROMPT]), []
                while len(added) < GREEDY_TOKENS:
                    best = torch.topk(model(torch.tensor([ids])).logits[0, -1], 2)
                    if best.values[0] - best.values[1] < GREEDY_LEAD:
                        break
                    added.append(best.indices[0].item())
                    ids.append(added[-1])
                print(case, "greedy", " ".join(map(str, added)), flush=True)


if __name__ == "__main__":
    main()
