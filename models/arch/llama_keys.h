/* llama_keys.h -- a llama model's shape, from the keys of its file.
 *
 * Purpose    Reads and checks every key the family understands. Qwen2, Qwen3 and Mistral differ
 *            from llama in a few traits only, so they share its keys under their own prefix.
 * Ownership  Plain values; the traits are static.
 * Threads    Pure functions of an opened file.
 * Limits     LLAMA_*_MAX below; head_dim as the backend's.
 */
#ifndef MODELS_ARCH_LLAMA_KEYS_H
#define MODELS_ARCH_LLAMA_KEYS_H

#include "engine/base/limits.h"
#include "kernels/ops.h"
#include "models/arch/ropescale.h"
#include "models/file/gguf.h"

enum { LLAMA_WIDTH_MAX = 1 << 16, LLAMA_HEADS_MAX = 1024, LLAMA_FFN_MAX = 1 << 20 };

/* What sets a family apart from llama. */
typedef struct {
    const char *arch;     /* general.architecture, and the prefix of its keys */
    ops_rope_pairs pairs; /* unless the file has ARCH.rope.pairs */
    bool biases;          /* queries, keys and values must have one */
    bool head_norms;      /* RMS norm of every head of queries and keys before they turn */
    /* Gemma's: */
    bool norms_after;        /* RMS norms of what attention and the FFN add to the residual */
    bool gelu;               /* instead of SiLU */
    bool scales_embedding;   /* by sqrt(width) */
    int32_t full_every;      /* of so many layers the last has no window; 0: all have it */
    int32_t window;          /* unless the file says so */
    double window_base;      /* rotation of layers with a window, unscaled; 0: as all others */
    double softcap;          /* of scores, unless the file says so; 0: none */
    double logits_softcap;   /* likewise */
    int32_t by_width_layers; /* a model of so many divides scores by sqrt(width / heads) */
} llama_traits;

typedef struct {
    const llama_traits *traits;
    int32_t layers, width, heads, kv_heads, head_dim, ffn, vocab, context_tokens;
    int32_t rope_dim; /* elements of a head that turn */
    ops_rope_pairs pairs;
    double rope_base;
    ropescale scaling;
    float epsilon;  /* of the norms */
    int32_t window; /* positions that a token sees, itself among them; 0: all before it */
    bool windowed[LIMIT_LAYERS];   /* layers that the window and window_base are of */
    double window_base;            /* 0: they turn as the others */
    float attention_scale;         /* what scores are multiplied with */
    float softcap, logits_softcap; /* 0: none */
} llama_shape;

MUST_USE status llama_keys_read(const gguf *file, const llama_traits *traits, llama_shape *out,
                                diag *d);

#endif
