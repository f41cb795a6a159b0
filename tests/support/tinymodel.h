/* tinymodel.h -- writes a small random llama model as a GGUF file.
 *
 * Purpose    A model that loads and answers in milliseconds, for tests of everything above the
 *            kernels: random weights, a byte-level BPE vocabulary, a ChatML template. The same
 *            options and seed give the same file, byte for byte.
 * Ownership  Writes one file; keeps nothing.
 * Threads    Any.
 * Limits     The file is at most TINYMODEL_BYTES_MAX.
 */
#ifndef TESTS_SUPPORT_TINYMODEL_H
#define TESTS_SUPPORT_TINYMODEL_H

#include <stdbool.h>
#include <stdint.h>

#include "engine/base/status.h"
#include "models/file/gguf_type.h"

enum {
    TINYMODEL_BYTES_MAX = 256 << 20,
    TINYMODEL_VOCAB = 320, /* 3 control tokens, 256 bytes, 61 merged */
    TINYMODEL_BOS = 1,     /* <|im_start|> */
    TINYMODEL_EOS = 2,     /* <|im_end|> */
    TINYMODEL_OVERRIDES_MAX = 4,
    TINYMODEL_REALS_MAX = 4
};

typedef struct {
    const char *key; /* as of llama: "llama.attn_logit_softcapping" */
    float value;
} tinymodel_real;

/* Spoils a file on purpose: the integer under `key` becomes `value`. */
typedef struct {
    const char *key; /* as in the file: "llama.block_count" */
    uint32_t value;
} tinymodel_override;

typedef struct {
    uint64_t seed;
    gguf_type type; /* of the matrices; norms are F32 */
    uint32_t layers, width, heads, kv_heads, ffn, context;
    uint32_t head_dim; /* 0: width / heads, and no key_length in the file */
    bool tied;         /* no output.weight: the embedding is used */
    bool biases;       /* on q, k, v and the attention output */
    bool freq_factors; /* a rope_freqs.weight tensor */
    float rope_base;   /* 0: no key in the file (10000 is meant) */
    uint32_t window;   /* 0: no key in the file */
    float rope_linear; /* > 0: linear scaling by this factor */
    const char *arch;  /* NULL: "llama". "gemma2", "gemma3": its own keys' prefix and tensors */
    tinymodel_real reals[TINYMODEL_REALS_MAX]; /* more keys, up to the first NULL */
    const char *omit;                          /* key or tensor to leave out, or NULL */
    const char *narrow;                        /* tensor whose first dimension is halved, or NULL */
    tinymodel_override overrides[TINYMODEL_OVERRIDES_MAX]; /* up to the first NULL key */
} tinymodel_options;

/* 2 layers, width 64, 4 heads on 2 KV heads, FFN 128, context 512, tied, seed 1; the K formats get
 * width 256 and FFN 512, as their blocks need. */
tinymodel_options tinymodel_default(gguf_type type);

MUST_USE status tinymodel_write(const char *path, const tinymodel_options *o, diag *d);

/* "f32", "q4_0", ...: false when there is no such type. */
MUST_USE bool tinymodel_type_from(const char *text, gguf_type *out);

#endif
