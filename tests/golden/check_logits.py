#!/usr/bin/env python3
"""check_logits.py -- holds weir's logits to the float32 reference, teacher-forced on English text.

    check_logits.py WEIR_LOGITS MODEL.gguf             7,624 predictions against the golden file
                                                       (commit tier: half a minute)
    check_logits.py --full WEIR_LOGITS MODEL.gguf      the reference itself computed anew as well
                                                       (needs numpy and gguf; full tier)
    check_logits.py --cuda WEIR_LOGITS MODEL.gguf      the first tokens of the text on the CUDA backend,
                                                       emulated where WEIR_CUDA_MODULE says so
    check_logits.py --tiny WEIR_LOGITS WEIR_TINYMODEL  random tiny models of every weight format
                                                       against the reference (needs numpy and gguf);
                                                       with --cuda on that backend

The reference log probabilities lie in logits_smollm2.logprobs, made from
SmolLM2-135M-Instruct.Q4_1.gguf by
    reference_llama.py MODEL.gguf logits_smollm2.tokens > logits_smollm2.logprobs
(the tokens by make_tokens.py). Perplexity of the second halves of the 14 whole windows under that
reference is 18.300, which two other implementations gave for the same file and text.
Rounding activations to int8 moves each log probability by some 0.06 at random, so perplexity over n
tokens comes out within about 0.1 x sqrt(7,624 / n) % of its expectation: use them all.
MODEL may be left out: then WEIR_TEST_MODEL names it, and without either the check is skipped by
name, exit status 77.
"""
import math
import os
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
TOKENS = os.path.join(HERE, "logits_smollm2.tokens")
LOGPROBS = os.path.join(HERE, "logits_smollm2.logprobs")

# mode: mean |difference| of log probabilities, relative difference of perplexity
BOUNDS = {
    "f32, kv f32": (0.0001, 0.00002),
    "f32, kv f16": (0.002, 0.0002),
    "f32, kv bf16": (0.012, 0.0005),
    "f32, kv int8": (0.03, 0.0015),
    "f32, kv fp8": (0.13, 0.022),
    "int8, kv f16": (0.08, 0.005),
    "int8, kv int8": (0.085, 0.005),
    "bf16, kv f16": (0.018, 0.0025),
    "bf16, kv int8": (0.032, 0.0025),
    "mixed, kv int8": (0.055, 0.004),
}
# Of each window with mixed activations: half of a whole one, and what follows counts as generated.
PROMPT = 256
# An emulated device takes half a second a token, so it gets few. The plain kernels compute in float32,
# the tensor cores with rows rounded to bf16.
CUDA_TOKENS = {"commit": 40, "full": 300}
CUDA_BOUNDS = {("plain", "f32, kv f32"): (0.0001, 0.0001), ("auto", "f32, kv f16"): (0.02, 0.01)}
TINY_TYPES = "f32 f16 bf16 q4_0 q4_1 q5_0 q5_1 q8_0 q4_k q5_k q6_k".split()
# A random model magnifies rounding and is no text model: its int8 path is held loosely, to find a
# format that is read wrongly.
TINY_BOUNDS = {"f32, kv f32": 0.0002, "int8, kv f16": 0.3, "bf16, kv f32": 0.12}
CUDA_TINY_BOUNDS = {"plain": {"f32, kv f32": 0.0002}, "auto": {"f32, kv f32": 0.06}}


def parse(text):
    return [[float(word) for word in line.split()] for line in text.splitlines()]


def weir(tool, model, tokens, *options):
    return parse(subprocess.run([tool, model, tokens, *options], check=True, stdout=subprocess.PIPE,
                                text=True).stdout)


def flags(mode):
    """"f32, kv f16" as arguments."""
    activations, kv = mode.split(", kv ")
    prompt = ["--prompt", str(PROMPT)] if activations == "mixed" else []
    return ["--activations", activations, "--kv", kv, *prompt]


def missing(tool, model, mode):
    """Whether this CPU lacks what the mode needs, said by name."""
    if not mode.startswith(("bf16", "mixed")):
        return False
    with tempfile.NamedTemporaryFile("w") as tokens:
        tokens.write("1 2 3\n")
        tokens.flush()
        done = subprocess.run([tool, model, tokens.name, *flags(mode)], stdout=subprocess.DEVNULL,
                              stderr=subprocess.PIPE, text=True)
    if done.returncode and "AMX-BF16" in done.stderr:
        print(f"skip logits, activations {mode} - no AMX-BF16 on this machine", flush=True)
        return True
    return False


def perplexity(values):
    return math.exp(-sum(values) / len(values))


def compare(name, got, want):
    """Mean |difference| and relative difference of perplexity."""
    if [len(line) for line in got] != [len(line) for line in want]:
        raise SystemExit(f"{name}: not the tokens that were asked for")
    got = [p for line in got for p in line]
    want = [p for line in want for p in line]
    distance = [abs(a - b) for a, b in zip(got, want)]
    mean = sum(distance) / len(distance)
    ratio = perplexity(got) / perplexity(want) - 1
    error = math.sqrt(sum(d * d for d in distance)) / len(distance)  # of the mean, as if independent
    print(f"{name}: {len(got)} tokens, mean |d logprob| {mean:.6f}, largest {max(distance):.4f}, "
          f"perplexity {perplexity(got):.4f} against {perplexity(want):.4f} ({100 * ratio:+.4f} %, "
          f"standard error {100 * error:.2f} %)",
          flush=True)
    return mean, abs(ratio)


def check_text(tool, model, want):
    good = True
    for mode, (mean_max, ratio_max) in BOUNDS.items():
        if missing(tool, model, mode):
            continue
        got = weir(tool, model, TOKENS, *flags(mode))
        mean, ratio = compare(f"activations {mode}", got, want)
        if mean > mean_max or ratio > ratio_max:
            print(f"FAIL: {mode}: allowed are {mean_max} and {100 * ratio_max} %")
            good = False
    return good


def check_cuda(tool, model, golden):
    count = CUDA_TOKENS[os.environ.get("WEIR_TIER", "commit")]
    good = True
    with open(TOKENS, encoding="ascii") as f:
        ids = f.readline().split()[:count]
    with tempfile.NamedTemporaryFile("w") as tokens:
        tokens.write(" ".join(ids) + "\n")
        tokens.flush()
        for (isa, mode), (mean_max, ratio_max) in CUDA_BOUNDS.items():
            got = weir(tool, model, tokens.name, "--backend", "cuda", "--isa", isa, *flags(mode))
            mean, ratio = compare(f"cuda {isa}, {mode}", got, [golden[0][:count - 1]])
            if mean > mean_max or ratio > ratio_max:
                print(f"FAIL: cuda {isa}, {mode}: allowed are {mean_max} and {100 * ratio_max} %")
                good = False
    return good


def reference(model, tokens):
    script = os.path.join(HERE, "reference_llama.py")
    return parse(subprocess.run([sys.executable, script, model, tokens], check=True,
                                stdout=subprocess.PIPE, text=True).stdout)


def check_tiny(tool, maker, bounds, *options):
    good = True
    with tempfile.TemporaryDirectory() as folder:
        tokens = os.path.join(folder, "tokens")
        with open(tokens, "w", encoding="ascii") as f:
            for window in range(3):
                ids = [(7 + i * i * 31 + window * 101) % 320 for i in range(200)]
                f.write(" ".join(map(str, ids)) + "\n")
        for kind in TINY_TYPES:
            model = os.path.join(folder, kind + ".gguf")
            subprocess.run([maker, model, kind], check=True)
            want = reference(model, tokens)
            for mode, mean_max in bounds.items():
                if missing(tool, model, mode):
                    continue
                got = weir(tool, model, tokens, *flags(mode), *options)
                mean, _ = compare(f"tiny {kind}, activations {mode}", got, want)
                if mean > mean_max:
                    print(f"FAIL: tiny {kind}, {mode}: allowed is {mean_max}")
                    good = False
    return good


def main():
    args = [a for a in sys.argv[1:] if not a.startswith("--")]
    full, tiny, cuda = (flag in sys.argv for flag in ("--full", "--tiny", "--cuda"))
    module = os.environ.get("WEIR_CUDA_MODULE", "")
    if cuda and module and not os.path.exists(module):
        print(f"skipped: {module} was not built: CUDA's headers are not installed")
        sys.exit(77)
    if len(args) == 1 and not tiny:
        args.append(os.environ.get("WEIR_TEST_MODEL", ""))
    if len(args) != 2:
        raise SystemExit(__doc__)
    if tiny and cuda:
        good = [check_tiny(*args, bounds, "--backend", "cuda", "--isa", isa)
                for isa, bounds in CUDA_TINY_BOUNDS.items()]
        sys.exit(0 if all(good) else 1)
    if tiny:
        sys.exit(0 if check_tiny(*args, TINY_BOUNDS) else 1)
    tool, model = args
    if not model:
        print("skipped: logits against the float32 reference: WEIR_TEST_MODEL names no model file")
        sys.exit(77)
    with open(LOGPROBS, encoding="ascii") as f:
        golden = parse(f.read())
    if cuda:
        sys.exit(0 if check_cuda(tool, model, golden) else 1)
    good = True
    if full:
        want = reference(model, TOKENS)
        mean, ratio = compare("reference against its golden file", want, golden)
        good = mean < 1e-4 and ratio < 1e-5
    good = check_text(tool, model, golden) and good
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
