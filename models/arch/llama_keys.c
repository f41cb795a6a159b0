/* llama_keys.c -- a llama model's shape, from the keys of its file. */
#include "models/arch/llama_keys.h"

#include <math.h>
#include <stdio.h>

#include "engine/base/limits.h"
#include "models/arch/model.h"

enum { KEY_BYTES = 96 };

typedef struct {
    const gguf *file;
    const char *arch;
    diag *d;
} reader;

static const char *key_of(const reader *r, const char *name, char key[KEY_BYTES]) {
    (void)snprintf(key, KEY_BYTES, "%s.%s", r->arch, name);
    return key;
}

/* An integer in [min, max]; `fallback` when there is no such key, unless that is 0. */
static status take_integer(const reader *r, const char *name, uint64_t min, uint64_t max,
                           uint64_t fallback, int32_t *out) {
    char key[KEY_BYTES];
    uint64_t v = 0;
    status s = gguf_get_u64(r->file, key_of(r, name, key), &v, r->d);
    if (s == STATUS_NOTFOUND && fallback > 0) {
        v = fallback;
        s = STATUS_OK;
    }
    TRY(s);
    if (v < min || v > max) {
        return status_fail(r->d, STATUS_CORRUPT, "%s is %llu: it must be from %llu to %llu", key,
                           (unsigned long long)v, (unsigned long long)min, (unsigned long long)max);
    }
    *out = (int32_t)v;
    return STATUS_OK;
}

static status take_real(const reader *r, const char *name, double min, double max, double fallback,
                        double *out) {
    char key[KEY_BYTES];
    double v = 0;
    status s = gguf_get_f64(r->file, key_of(r, name, key), &v, r->d);
    if (s == STATUS_NOTFOUND && fallback > 0) {
        v = fallback;
        s = STATUS_OK;
    }
    TRY(s);
    if (!(v >= min && v <= max)) {
        return status_fail(r->d, STATUS_CORRUPT, "%s is %g: it must be from %g to %g", key, v, min,
                           max);
    }
    *out = v;
    return STATUS_OK;
}

/* As take_real, where 0 is a fallback like any other. */
static status take_optional(const reader *r, const char *name, double min, double max,
                            double fallback, double *out) {
    char key[KEY_BYTES];
    *out = fallback;
    return gguf_has(r->file, key_of(r, name, key)) ? take_real(r, name, min, max, 0, out)
                                                   : STATUS_OK;
}

/* Converters to GGUF reorder llama's heads to turn neighbours; who takes them as they were trained
 * says so. */
static status read_pairs(const reader *r, llama_shape *m) {
    char key[KEY_BYTES];
    str pairs = {NULL, 0};
    m->pairs = m->traits->pairs;
    status s = gguf_get_str(r->file, key_of(r, "rope.pairs", key), &pairs, r->d);
    if (s == STATUS_NOTFOUND) {
        return STATUS_OK;
    }
    TRY(s);
    if (str_equal_z(pairs, "halves")) {
        m->pairs = OPS_ROPE_NEOX;
    } else if (str_equal_z(pairs, "neighbours")) {
        m->pairs = OPS_ROPE_INTERLEAVED;
    } else {
        return status_fail(r->d, STATUS_UNSUPPORTED, "%s is neither halves nor neighbours", key);
    }
    return STATUS_OK;
}

static status read_rope(const reader *r, llama_shape *m) {
    TRY(take_integer(r, "rope.dimension_count", 2, (uint64_t)m->head_dim, (uint64_t)m->head_dim,
                     &m->rope_dim));
    if (m->rope_dim % 2 != 0) {
        return status_fail(r->d, STATUS_CORRUPT, "%s.rope.dimension_count %d is odd", r->arch,
                           m->rope_dim);
    }
    TRY(take_real(r, "rope.freq_base", 1, 1e12, 10000, &m->rope_base));
    TRY(take_optional(r, "rope.freq_base_swa", 1, 1e12, m->traits->window_base, &m->window_base));
    TRY(read_pairs(r, m));
    TRY(ropescale_read(r->file, r->arch, &m->scaling, r->d));
    if (m->scaling.kind == ROPESCALE_YARN && m->rope_base < 1.001) {
        return status_fail(r->d, STATUS_CORRUPT, "%s.rope.freq_base %g is too low for yarn",
                           r->arch, m->rope_base);
    }
    return STATUS_OK;
}

static status read_attention(const reader *r, llama_shape *m) {
    TRY(take_integer(r, "attention.head_count", 1, LLAMA_HEADS_MAX, 0, &m->heads));
    TRY(take_integer(r, "attention.head_count_kv", 1, (uint64_t)m->heads, (uint64_t)m->heads,
                     &m->kv_heads));
    if (m->heads % m->kv_heads != 0) {
        return status_fail(r->d, STATUS_CORRUPT,
                           "%s.attention.head_count %d is not a multiple of head_count_kv %d",
                           r->arch, m->heads, m->kv_heads);
    }
    char key[KEY_BYTES];
    bool stated = gguf_has(r->file, key_of(r, "attention.key_length", key));
    if (!stated && m->width % m->heads != 0) {
        return status_fail(r->d, STATUS_CORRUPT,
                           "%s.embedding_length %d is not a multiple of attention.head_count %d",
                           r->arch, m->width, m->heads);
    }
    uint64_t head = stated ? 0 : (uint64_t)(m->width / m->heads);
    TRY(take_integer(r, "attention.key_length", 1, LLAMA_WIDTH_MAX, head, &m->head_dim));
    if (m->head_dim % 16 != 0 || m->head_dim > OPS_HEAD_DIM_MAX) {
        return status_fail(r->d, STATUS_UNSUPPORTED,
                           "heads of %d elements: only multiples of 16 up to %d are supported",
                           m->head_dim, OPS_HEAD_DIM_MAX);
    }
    int32_t value = 0;
    TRY(take_integer(r, "attention.value_length", 1, LLAMA_WIDTH_MAX, (uint64_t)m->head_dim,
                     &value));
    if (value != m->head_dim) {
        return status_fail(r->d, STATUS_UNSUPPORTED,
                           "%s.attention.value_length %d differs from the keys' length %d", r->arch,
                           value, m->head_dim);
    }
    return STATUS_OK;
}

/* The vocabulary is what the embedding has rows for; the keys must not say otherwise, since a token
 * past the table would be a hole. */
static status read_vocab(const reader *r, llama_shape *m) {
    gguf_tensor embedding;
    TRY(gguf_tensor_find(r->file, "token_embd.weight", &embedding, r->d));
    if (embedding.dims[1] < 1 || embedding.dims[1] > MODEL_VOCAB_MAX) {
        return status_fail(r->d, STATUS_CORRUPT, "tensor token_embd.weight has %llu rows: 1 to %d",
                           (unsigned long long)embedding.dims[1], MODEL_VOCAB_MAX);
    }
    m->vocab = (int32_t)embedding.dims[1];
    int32_t stated = 0;
    TRY(take_integer(r, "vocab_size", 1, MODEL_VOCAB_MAX, (uint64_t)m->vocab, &stated));
    gguf_array tokens = {GGUF_KIND_STRING, 0, NULL, NULL};
    if (gguf_has(r->file, "tokenizer.ggml.tokens")) {
        TRY(gguf_get_array(r->file, "tokenizer.ggml.tokens", &tokens, r->d));
    }
    if (stated != m->vocab || tokens.count > (uint64_t)m->vocab) {
        return status_fail(r->d, STATUS_CORRUPT,
                           "tensor token_embd.weight has %d rows, but %s.vocab_size is %d and "
                           "tokenizer.ggml.tokens has %llu",
                           m->vocab, r->arch, stated, (unsigned long long)tokens.count);
    }
    return STATUS_OK;
}

/* Which layers have the window: a number n, of n layers all but the last; or a list. */
static status read_pattern(const reader *r, llama_shape *m) {
    char key[KEY_BYTES];
    gguf_array list;
    (void)key_of(r, "attention.sliding_window_pattern", key);
    if (gguf_has(r->file, key) && gguf_get_array(r->file, key, &list, NULL) == STATUS_OK) {
        bool numbers = list.kind == GGUF_KIND_BOOL || list.kind == GGUF_KIND_I32;
        if (!numbers || list.count != (uint64_t)m->layers) {
            return status_fail(r->d, STATUS_CORRUPT, "%s must hold a flag for each of %d layers",
                               key, m->layers);
        }
        for (int32_t i = 0; i < m->layers; i++) {
            m->windowed[i] = gguf_array_i64(&list, (uint64_t)i) != 0;
        }
        return STATUS_OK;
    }
    uint64_t every = (uint64_t)m->traits->full_every;
    status s = gguf_get_u64(r->file, key, &every, r->d);
    if (s != STATUS_NOTFOUND) {
        TRY(s);
    }
    for (int32_t i = 0; i < m->layers; i++) {
        m->windowed[i] = every == 0 || (uint64_t)i % every + 1 < every;
    }
    return STATUS_OK;
}

/* What scores are multiplied with, and the caps. Gemma's files do not say that their largest models
 * divide by another number than the others: it is known by the layers. */
static status read_scores(const reader *r, llama_shape *m) {
    const llama_traits *t = m->traits;
    const bool by_width = t->by_width_layers > 0 && m->layers == t->by_width_layers;
    double scale = 1.0 / sqrt(by_width ? (double)m->width / m->heads : (double)m->head_dim);
    double cap = 0, logits_cap = 0;
    TRY(take_optional(r, "attention.scale", 1e-6, 1e6, scale, &scale));
    TRY(take_optional(r, "attn_logit_softcapping", 0, 1e6, t->softcap, &cap));
    TRY(take_optional(r, "final_logit_softcapping", 0, 1e6, t->logits_softcap, &logits_cap));
    m->attention_scale = (float)scale;
    m->softcap = cap > 1e-3 ? (float)cap : 0;
    m->logits_softcap = logits_cap > 1e-3 ? (float)logits_cap : 0;
    return STATUS_OK;
}

/* The window; and what the forward pass does not do must not be in the file. */
static status read_extras(const reader *r, llama_shape *m) {
    static const char *const names[] = {"expert_count", "attention.sliding_window"};
    uint64_t values[2] = {0, (uint64_t)m->traits->window};
    char key[KEY_BYTES];
    for (int i = 0; i < 2; i++) {
        status s = gguf_get_u64(r->file, key_of(r, names[i], key), &values[i], r->d);
        if (s != STATUS_NOTFOUND) {
            TRY(s);
        }
    }
    if (values[0] > 0) {
        return status_fail(r->d, STATUS_UNSUPPORTED,
                           "%s.expert_count is %llu: mixtures of experts are not supported",
                           r->arch, (unsigned long long)values[0]);
    }
    m->window = values[1] < (uint64_t)m->context_tokens ? (int32_t)values[1] : 0;
    return read_pattern(r, m);
}

status llama_keys_read(const gguf *file, const llama_traits *traits, llama_shape *out, diag *d) {
    const reader r = {file, traits->arch, d};
    llama_shape m = {.traits = traits};
    TRY(take_integer(&r, "block_count", 1, LIMIT_LAYERS, 0, &m.layers));
    TRY(take_integer(&r, "embedding_length", 1, LLAMA_WIDTH_MAX, 0, &m.width));
    TRY(take_integer(&r, "feed_forward_length", 1, LLAMA_FFN_MAX, 0, &m.ffn));
    TRY(take_integer(&r, "context_length", 1, LIMIT_CONTEXT_TOKENS, 0, &m.context_tokens));
    TRY(read_extras(&r, &m));
    double epsilon = 0;
    TRY(take_real(&r, "attention.layer_norm_rms_epsilon", 0, 0.1, 0, &epsilon));
    m.epsilon = (float)epsilon;
    TRY(read_attention(&r, &m));
    TRY(read_scores(&r, &m));
    TRY(read_rope(&r, &m));
    TRY(read_vocab(&r, &m));
    *out = m;
    return STATUS_OK;
}
