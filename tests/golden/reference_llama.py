#!/usr/bin/env python3
"""reference_llama.py -- a llama forward pass in NumPy float32, from a GGUF file.

The reference that weir's logits are held to. Every weight is dequantised to float32 with the `gguf`
package; activations, keys and values stay float32. Written from the papers (LLaMA, Touvron et al.
2023; RoFormer, Su et al. 2021), sharing nothing with the engine.

    reference_llama.py MODEL.gguf TOKENS > LOGPROBS

TOKENS has one window of token ids a line; each is run on its own from position 0. LOGPROBS gets, a
line a window, the natural-log probability of each token given those before it (from the second on).
Needs: pip install numpy gguf
"""
import sys

import numpy as np
from gguf import GGUFReader
from gguf.quants import dequantize


class Llama:
    def __init__(self, path):
        reader = GGUFReader(path)
        self.keys = {name: field for name, field in reader.fields.items()}
        self.w = {}
        for t in reader.tensors:
            shape = [int(n) for n in reversed(t.shape)]
            w = np.asarray(dequantize(t.data, t.tensor_type), dtype=np.float32)
            self.w[t.name] = w.reshape(shape)
        self.layers = self.key("block_count")
        self.width = self.key("embedding_length")
        self.heads = self.key("attention.head_count")
        self.kv_heads = self.key("attention.head_count_kv", self.heads)
        self.head = self.key("attention.key_length", self.width // self.heads)
        self.epsilon = np.float32(self.key("attention.layer_norm_rms_epsilon"))
        dim = self.key("rope.dimension_count", self.head)
        base = float(self.key("rope.freq_base", 10000.0))
        self.frequency = base ** (-np.arange(0, dim, 2, dtype=np.float64) / dim)
        if self.key("rope.scaling.type", "none") == "linear":
            self.frequency /= float(self.key("rope.scaling.factor"))
        if "rope_freqs.weight" in self.w:
            self.frequency /= self.w["rope_freqs.weight"].astype(np.float64)

    def key(self, name, default=None):
        field = self.keys.get("llama." + name)
        if field is None:
            if default is None:
                raise SystemExit(f"no key llama.{name}")
            return default
        return field.contents()

    def norm(self, x, name):
        mean = np.mean(x * x, axis=-1, keepdims=True, dtype=np.float32)
        return x / np.sqrt(mean + self.epsilon) * self.w[name]

    def linear(self, x, name):
        y = x @ self.w[name + ".weight"].T
        bias = self.w.get(name + ".bias")
        return y if bias is None else y + bias

    def turn(self, x, cos, sin):
        """Rotates the pairs (2i, 2i+1) of each head; elements past the rotary ones stay."""
        n = 2 * cos.shape[-1]
        out = x.copy()
        even, odd = x[..., 0:n:2], x[..., 1:n:2]
        out[..., 0:n:2] = even * cos - odd * sin
        out[..., 1:n:2] = even * sin + odd * cos
        return out

    def attend(self, layer, x, cos, sin, mask):
        n, p = len(x), f"blk.{layer}.attn_"
        h = self.norm(x, p + "norm.weight")
        q = self.turn(self.linear(h, p + "q").reshape(n, self.heads, self.head), cos, sin)
        k = self.turn(self.linear(h, p + "k").reshape(n, self.kv_heads, self.head), cos, sin)
        v = self.linear(h, p + "v").reshape(n, self.kv_heads, self.head)
        group = self.heads // self.kv_heads
        k, v = np.repeat(k, group, axis=1), np.repeat(v, group, axis=1)
        scores = q.transpose(1, 0, 2) @ k.transpose(1, 2, 0) / np.float32(np.sqrt(self.head)) + mask
        scores = np.exp(scores - scores.max(axis=-1, keepdims=True))
        scores /= scores.sum(axis=-1, keepdims=True)
        mixed = (scores @ v.transpose(1, 0, 2)).transpose(1, 0, 2).reshape(n, -1)
        return self.linear(mixed, p + "output")

    def logits(self, ids):
        n = len(ids)
        angle = np.arange(n)[:, None] * self.frequency
        cos = np.cos(angle).astype(np.float32)[:, None]
        sin = np.sin(angle).astype(np.float32)[:, None]
        mask = np.triu(np.full((n, n), -np.inf, dtype=np.float32), 1)
        x = self.w["token_embd.weight"][ids]
        for layer in range(self.layers):
            x = x + self.attend(layer, x, cos, sin, mask)
            p = f"blk.{layer}.ffn_"
            h = self.norm(x, p + "norm.weight")
            gate = self.linear(h, p + "gate")
            x = x + self.linear(gate / (1 + np.exp(-gate)) * self.linear(h, p + "up"), p + "down")
        x = self.norm(x, "output_norm.weight")
        output = self.w.get("output.weight", self.w["token_embd.weight"])
        return x @ output.T

    def logprobs(self, ids):
        """Of ids[1:], each given those before it."""
        z = self.logits(ids[:-1]).astype(np.float64)
        top = z.max(axis=-1)
        log_sum = top + np.log(np.exp(z - top[:, None]).sum(axis=-1))
        return z[np.arange(len(z)), ids[1:]] - log_sum


def main():
    if len(sys.argv) != 3:
        raise SystemExit(__doc__)
    model = Llama(sys.argv[1])
    with open(sys.argv[2], encoding="ascii") as f:
        for line in f:
            ids = [int(word) for word in line.split()]
            print(" ".join(f"{p:.6f}" for p in model.logprobs(ids)), flush=True)


if __name__ == "__main__":
    main()
