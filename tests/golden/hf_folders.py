"""hf_folders.py -- small random models as Hugging Face folders, made of nothing but this file.

Weights are a function of their name and index, so whoever needs a folder writes it anew and only
what a reference made of it is kept (hf_logits.txt, by make_hf_logits.py):

    h = crc32(name) + index * 0x9E3779B9          (all modulo 2^32)
    h ^= h >> 16; h *= 0x85EBCA6B; h ^= h >> 13; h *= 0xC2B2AE35; h ^= h >> 16
    value = offset + spread * (h / 2^31 - 1)      rounded to the folder's dtype

`write(folder, case)` writes one; CASES has them all; `tokens(case)` are the windows that are scored.
"""

import json
import os
import struct
import zlib

VOCAB = 320
CONTEXT = 256
WINDOWS, WINDOW_TOKENS = 2, 48
ENDS = ["<|end|>", "<|stop|>"]

LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 32}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}

GEMMA = {"hidden_activation": "gelu_pytorch_tanh", "head_dim": 32, "tie_word_embeddings": True,
         "num_hidden_layers": 4, "sliding_window": 20, "query_pre_attn_scalar": 24}
NEAR_FAR = {"sliding_attention": {"rope_type": "default", "rope_theta": 3000.0},
            "full_attention": {"rope_type": "linear", "factor": 4.0, "rope_theta": 50000.0}}

# name: family, dtype, shards, config fields over the defaults
CASES = {
    "llama": ("llama", "F32", 1, {"tie_word_embeddings": True}),
    "llama-untied-llama3": ("llama", "BF16", 1, {"rope_scaling": LLAMA3, "rope_theta": 500000.0}),
    "llama-sharded-biases": ("llama", "F16", 3, {"attention_bias": True, "mlp_bias": True}),
    "llama-linear": ("llama", "BF16", 2, {"rope_scaling": {"type": "linear", "factor": 2.0}}),
    "llama-heads": ("llama", "BF16", 1, {"num_key_value_heads": 4, "rms_norm_eps": 1e-5}),
    "mistral-window": ("mistral", "BF16", 1, {"sliding_window": 64, "head_dim": 32}),
    "mistral-short-window": ("mistral", "BF16", 1, {"sliding_window": 20}),
    "mistral-no-window": ("mistral", "BF16", 2, {"sliding_window": None, "rope_theta": 1e6}),
    "qwen2": ("qwen2", "BF16", 1, {"tie_word_embeddings": True, "rope_theta": 1e6}),
    "qwen2-sharded-yarn": ("qwen2", "F32", 2, {"rope_scaling": YARN,
                                               "max_position_embeddings": 64}),
    "qwen2-window": ("qwen2", "F16", 1, {"use_sliding_window": True, "sliding_window": 20,
                                         "max_window_layers": 1}),
    "qwen3-windows": ("qwen3", "BF16", 1, {
        "head_dim": 32, "use_sliding_window": True, "sliding_window": 20, "num_hidden_layers": 3,
        "layer_types": ["sliding_attention", "full_attention", "sliding_attention"]}),
    "qwen3": ("qwen3", "BF16", 1, {"tie_word_embeddings": True, "head_dim": 32}),
    "qwen3-sharded": ("qwen3", "BF16", 4, {
        "head_dim": 16, "num_key_value_heads": 1,
        "rope_parameters": dict(YARN, rope_theta=1e6, attention_factor=1.25, beta_fast=16.0)}),
}

CASES.update({
    # Scores and logits of these reach several times their caps.
    "gemma2": ("gemma2", "BF16", 1, dict(GEMMA, attn_logit_softcapping=2.0,
                                         final_logit_softcapping=6.0)),
    "gemma2-sharded": ("gemma2", "F32", 3, dict(GEMMA, attn_logit_softcapping=None,
                                                final_logit_softcapping=None, head_dim=16,
                                                query_pre_attn_scalar=16)),
    "gemma2-layers": ("gemma2", "F16", 1, dict(GEMMA, num_hidden_layers=3, layer_types=[
        "full_attention", "full_attention", "sliding_attention"])),
    "gemma3": ("gemma3", "BF16", 1, dict(GEMMA, num_hidden_layers=7, rope_theta=1e6,
                                         rope_local_base_freq=1e4)),
    "gemma3-near-far": ("gemma3", "F32", 2, dict(GEMMA, rope_parameters=NEAR_FAR,
                                                 sliding_window_pattern=2)),
})

# The same text model beside an image tower, of which the folder has one tensor.
NESTED = {"gemma3-images": "model.language_model.", "gemma3-images-older": "language_model.model."}
for name in NESTED:
    CASES[name] = ("gemma3", "BF16", 1, dict(GEMMA, num_hidden_layers=7, rope_theta=1e6,
                                             rope_local_base_freq=1e4))

CLASSES = {"llama": "LlamaForCausalLM", "mistral": "MistralForCausalLM",
           "qwen2": "Qwen2ForCausalLM", "qwen3": "Qwen3ForCausalLM",
           "gemma2": "Gemma2ForCausalLM", "gemma3": "Gemma3ForCausalLM"}
TYPES = {"gemma3": "gemma3_text"}


def config(case):
    family, dtype, _, fields = CASES[case]
    c = {"architectures": [CLASSES[family]], "model_type": TYPES.get(family, family),
         "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
         "num_key_value_heads": 2, "vocab_size": VOCAB, "max_position_embeddings": CONTEXT,
         "rms_norm_eps": 1e-6, "hidden_act": "silu", "tie_word_embeddings": False,
         "bos_token_id": None, "eos_token_id": VOCAB - 2,
         "dtype": {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}[dtype]}
    if family.startswith("gemma"):
        del c["hidden_act"]
    if "rope_parameters" not in fields:
        c["rope_theta"] = 10000.0
    c.update(fields)
    if case in NESTED:
        outer = {"architectures": ["Gemma3ForConditionalGeneration"], "model_type": "gemma3",
                 "dtype": c.pop("dtype"), "eos_token_id": c.pop("eos_token_id"),
                 "vision_config": {"model_type": "siglip_vision_model", "hidden_size": 16,
                                   "intermediate_size": 32, "num_hidden_layers": 1,
                                   "num_attention_heads": 2, "image_size": 28, "patch_size": 14},
                 "mm_tokens_per_image": 4, "image_token_index": 3, "boi_token_index": 4,
                 "eoi_token_index": 5}
        del c["architectures"]
        return dict(outer, text_config=c)
    return c


# -- weights ---------------------------------------------------------------------------------------


def tensors(case):
    """(name, shape, offset, spread) of each."""
    family, _, _, _ = CASES[case]
    c = config(case)
    c = c.get("text_config", c)
    width, ffn = c["hidden_size"], c["intermediate_size"]
    head = c.get("head_dim") or width // c["num_attention_heads"]
    query, key = head * c["num_attention_heads"], head * c["num_key_value_heads"]
    attention_bias = family == "qwen2" or c.get("attention_bias", False)
    gemma = family.startswith("gemma")
    one = 0.0 if gemma else 1.0  # Gemma adds it to the weights of norms

    def matrix(name, rows, columns, gain=1.0):
        return (name, [rows, columns], 0.0, gain * (3.0 / columns)**0.5)

    # Gemma multiplies what it looks up, and adds to it what has been normalised.
    yield matrix("model.embed_tokens.weight", VOCAB, width, 1.0 if gemma else 4.0)
    for i in range(c["num_hidden_layers"]):
        at = "model.layers.%d." % i
        yield (at + "input_layernorm.weight", [width], one, 0.3)
        for name, rows, columns in (("q", query, width), ("k", key, width), ("v", key, width),
                                    ("o", width, query)):
            yield matrix(at + "self_attn.%s_proj.weight" % name, rows, columns, 2.0)
            if attention_bias and (name != "o" or family == "llama"):
                yield (at + "self_attn.%s_proj.bias" % name, [rows], 0.0, 0.5)
        if family in ("qwen3", "gemma3"):
            yield (at + "self_attn.q_norm.weight", [head], one, 0.5)
            yield (at + "self_attn.k_norm.weight", [head], one, 0.5)
        yield (at + "post_attention_layernorm.weight", [width], one, 0.3)
        if gemma:
            yield (at + "pre_feedforward_layernorm.weight", [width], one, 0.3)
            yield (at + "post_feedforward_layernorm.weight", [width], one, 0.3)
        for name, rows, columns in (("gate", ffn, width), ("up", ffn, width), ("down", width, ffn)):
            yield matrix(at + "mlp.%s_proj.weight" % name, rows, columns, 2.0)
            if c.get("mlp_bias"):
                yield (at + "mlp.%s_proj.bias" % name, [rows], 0.0, 0.5)
    yield ("model.norm.weight", [width], 3.0 if gemma else 1.0, 0.3)
    if not c["tie_word_embeddings"]:
        yield matrix("lm_head.weight", VOCAB, width, 4.0)


def values(name, count, offset, spread):
    start = zlib.crc32(name.encode())
    for i in range(count):
        h = (start + i * 0x9E3779B9) & 0xFFFFFFFF
        h ^= h >> 16
        h = h * 0x85EBCA6B & 0xFFFFFFFF
        h ^= h >> 13
        h = h * 0xC2B2AE35 & 0xFFFFFFFF
        h ^= h >> 16
        yield offset + spread * (h / 2**31 - 1)


def pack(numbers, dtype):
    numbers = list(numbers)
    if dtype != "BF16":
        return struct.pack("<%d%s" % (len(numbers), "f" if dtype == "F32" else "e"), *numbers)
    wide = struct.unpack("<%dI" % len(numbers), struct.pack("<%df" % len(numbers), *numbers))
    # To the nearest, of two the even one.
    return struct.pack("<%dH" % len(wide), *((w + 0x7FFF + (w >> 16 & 1)) >> 16 for w in wide))


def safetensors(path, parts):
    """`parts`: (name, dtype, shape, bytes)."""
    header, at = {"__metadata__": {"format": "pt"}}, 0
    for name, dtype, shape, data in parts:
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + len(data)]}
        at += len(data)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text)
        for part in parts:
            f.write(part[3])


# -- the tokenizer ---------------------------------------------------------------------------------


def byte_alphabet():
    printable = list(range(0x21, 0x7F)) + list(range(0xA1, 0xAD)) + list(range(0xAE, 0x100))
    others = [b for b in range(256) if b not in printable]
    return {**{b: chr(b) for b in printable}, **{b: chr(256 + i) for i, b in enumerate(others)}}


def tokenizer():
    """Bytes, then merges of pairs that are there already, then two ends: VOCAB tokens."""
    alphabet = byte_alphabet()
    vocab = {alphabet[b]: b for b in range(256)}
    pairs = [("t", "h"), ("th", "e"), ("i", "n"), ("a", "n"), ("e", "r"), ("o", "n"), ("r", "e"),
             ("Ġ", "the"), ("Ġ", "a"), ("in", "g"), ("an", "d"), ("Ġ", "and"), ("o", "f")]
    letters = "etaoinshrdlucmfwypvbgk"
    pairs += [(a, b) for a in letters for b in letters]
    merges = []
    for left, right in pairs:
        if len(vocab) < VOCAB - 2 and left + right not in vocab:
            vocab[left + right] = len(vocab)
            merges.append([left, right])
    return {
        "version": "1.0", "truncation": None, "padding": None,
        "added_tokens": [{"id": VOCAB - 2 + i, "content": text, "single_word": False,
                          "lstrip": False, "rstrip": False, "normalized": False, "special": True}
                         for i, text in enumerate(ENDS)],
        "normalizer": None,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True,
                          "use_regex": True},
        "post_processor": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": False,
                           "use_regex": True},
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True,
                    "use_regex": True},
        "model": {"type": "BPE", "dropout": None, "unk_token": None,
                  "continuing_subword_prefix": "", "end_of_word_suffix": "", "fuse_unk": False,
                  "byte_fallback": False, "ignore_merges": False, "vocab": vocab,
                  "merges": merges},
    }


TEMPLATE = ("{% for m in messages %}{{ m.role + ': ' + m.content + eos_token }}{% endfor %}"
            "{% if add_generation_prompt %}{{ 'assistant:' }}{% endif %}")


# -- folders ---------------------------------------------------------------------------------------


def dump(folder, name, value):
    with open(os.path.join(folder, name), "w", encoding="utf-8") as f:
        json.dump(value, f, ensure_ascii=False)


def write(folder, case):
    os.makedirs(folder, exist_ok=True)
    _, dtype, shards, _ = CASES[case]
    parts = []
    for name, shape, offset, spread in tensors(case):
        count = shape[0] * (shape[1] if len(shape) > 1 else 1)
        own = name.replace("model.", NESTED.get(case, "model."), 1)
        parts.append((own, dtype, shape, pack(values(name, count, offset, spread), dtype)))
    if case in NESTED:
        parts.append(("vision_tower.vision_model.post_layernorm.bias", dtype, [16], bytes(32)))
    if shards == 1:
        safetensors(os.path.join(folder, "model.safetensors"), parts)
    else:
        where = {}
        for i in range(shards):
            file = "model-%05d-of-%05d.safetensors" % (i + 1, shards)
            own = parts[i * len(parts) // shards:(i + 1) * len(parts) // shards]
            safetensors(os.path.join(folder, file), own)
            where.update({part[0]: file for part in own})
        dump(folder, "model.safetensors.index.json",
             {"metadata": {"total_size": sum(len(p[3]) for p in parts)}, "weight_map": where})
    dump(folder, "config.json", config(case))
    dump(folder, "generation_config.json", {"eos_token_id": [VOCAB - 2, VOCAB - 1]})
    dump(folder, "tokenizer.json", tokenizer())
    dump(folder, "tokenizer_config.json", {
        "tokenizer_class": "PreTrainedTokenizerFast", "eos_token": ENDS[0],
        "pad_token": {"content": ENDS[1]}, "chat_template": TEMPLATE})


def tokens(case):
    """WINDOWS lists of WINDOW_TOKENS ids, none of them an end."""
    start = zlib.crc32(case.encode())
    return [[(start + w * 7919 + i * i * 31 + i * 17) % (VOCAB - 2) for i in range(WINDOW_TOKENS)]
            for w in range(WINDOWS)]
