/* naivellama.c -- LLaMA (Touvron et al. 2023) with rotary pairs (2i, 2i+1) (Su et al. 2021), row by
 * row, keys and values of all layers kept in one plain array; and what Gemma 2 and 3 do otherwise
 * (arXiv 2408.00118, 2503.19786), with the values that their files leave out. */
#define _GNU_SOURCE
#include "tests/support/naivellama.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "engine/base/check.h"
#include "engine/base/mem.h"
#include "models/file/gguf.h"

typedef struct {
    gguf *file;
    int64_t layers, width, heads, kv_heads, head, ffn, rope_dim, vocab;
    double epsilon, base, scale, window;
    const float *factors; /* [rope_dim / 2] or NULL */
    int gemma;            /* 0: llama */
    int64_t full_every;   /* of so many layers the last sees everything; 0: they are all alike */
    double near_base, cap, logits_cap, divisor; /* of layers with a window; 0: none; of scores */
} naive;

static const char *naive_key(const naive *n, const char *name, char key[96]) {
    static const char *const archs[] = {"llama", "", "gemma2", "gemma3"};
    snprintf(key, 96, "%s.%s", archs[n->gemma], name);
    return key;
}

static int64_t naive_integer(const naive *n, const char *name, int64_t fallback) {
    char key[96];
    int64_t v = fallback;
    CHECK(gguf_get_i64(n->file, naive_key(n, name, key), &v, NULL) == STATUS_OK || fallback > 0);
    return v;
}

static double naive_real(const naive *n, const char *name, double fallback) {
    char key[96];
    double v = fallback;
    return gguf_get_f64(n->file, naive_key(n, name, key), &v, NULL) == STATUS_OK ? v : fallback;
}

/* A tensor's floats, or NULL; `layer` < 0 for those outside the layers. */
static const float *naive_tensor(const naive *n, int64_t layer, const char *name) {
    char full[96];
    if (layer < 0) {
        snprintf(full, sizeof(full), "%s", name);
    } else {
        snprintf(full, sizeof(full), "blk.%d.%s", (int)layer, name);
    }
    gguf_tensor t;
    if (gguf_tensor_find(n->file, full, &t, NULL) != STATUS_OK) {
        return NULL;
    }
    CHECK_EQ(t.type, GGUF_F32);
    return t.data;
}

static void naive_open(naive *n, const char *path) {
    CHECK(gguf_open(path, &n->file, NULL) == STATUS_OK);
    str arch;
    CHECK(gguf_get_str(n->file, "general.architecture", &arch, NULL) == STATUS_OK);
    n->gemma = str_equal_z(arch, "gemma2") ? 2 : str_equal_z(arch, "gemma3") ? 3 : 0;
    n->layers = naive_integer(n, "block_count", 0);
    n->width = naive_integer(n, "embedding_length", 0);
    n->heads = naive_integer(n, "attention.head_count", 0);
    n->kv_heads = naive_integer(n, "attention.head_count_kv", 0);
    n->ffn = naive_integer(n, "feed_forward_length", 0);
    n->vocab = naive_integer(n, "vocab_size", 0);
    n->head = naive_integer(n, "attention.key_length", n->width / n->heads);
    n->rope_dim = naive_integer(n, "rope.dimension_count", n->head);
    n->epsilon = naive_real(n, "attention.layer_norm_rms_epsilon", 0);
    n->base = naive_real(n, "rope.freq_base", 10000);
    n->scale = 1 / naive_real(n, "rope.scaling.factor", 1);
    n->window = naive_real(n, "attention.sliding_window", n->gemma == 2 ? 4096 : 1e9);
    int64_t every = naive_integer(n, "attention.sliding_window_pattern", INT64_MAX);
    int64_t unsaid = n->gemma == 2 ? 2 : n->gemma == 3 ? 6 : 0;
    n->full_every = every == INT64_MAX ? unsaid : every;
    n->near_base = naive_real(n, "rope.freq_base_swa", n->gemma == 3 ? 10000 : 0);
    n->cap = naive_real(n, "attn_logit_softcapping", n->gemma == 2 ? 50 : 0);
    n->logits_cap = naive_real(n, "final_logit_softcapping", n->gemma == 2 ? 30 : 0);
    n->divisor = 1 / naive_real(n, "attention.scale", 1 / sqrt((double)n->head));
    n->factors = naive_tensor(n, -1, "rope_freqs.weight");
}

static void naive_norm(const naive *n, const double *x, const float *w, int64_t width,
                       double *out) {
    double sum = 0;
    for (int64_t i = 0; i < width; i++) {
        sum += x[i] * x[i];
    }
    for (int64_t i = 0; i < width; i++) {
        out[i] = x[i] / sqrt(sum / (double)width + n->epsilon) * (double)w[i];
    }
}

/* Whether a layer is one of those with a window. */
static bool naive_near(const naive *n, int64_t layer) {
    return n->full_every == 0 || (layer + 1) % n->full_every != 0;
}

static double naive_cap(double x, double cap) {
    return cap > 0 ? cap * tanh(x / cap) : x;
}

/* x += y; Gemma adds its norm. */
static void naive_add(const naive *n, double *x, double *y, const float *norm) {
    if (n->gemma) {
        naive_norm(n, y, norm, n->width, y);
    }
    for (int64_t i = 0; i < n->width; i++) {
        x[i] += y[i];
    }
}

static void naive_linear(const float *w, const float *bias, const double *x, int64_t inputs,
                         int64_t outputs, double *out) {
    for (int64_t o = 0; o < outputs; o++) {
        double sum = bias ? (double)bias[o] : 0;
        for (int64_t i = 0; i < inputs; i++) {
            sum += (double)w[o * inputs + i] * x[i];
        }
        out[o] = sum;
    }
}

static void naive_turn(const naive *n, double *x, int64_t heads, int64_t position, bool near) {
    near = near && n->near_base > 0;
    const double base = near ? n->near_base : n->base, scale = near ? 1 : n->scale;
    for (int64_t h = 0; h < heads; h++) {
        for (int64_t i = 0; i < n->rope_dim / 2; i++) {
            double angle =
                (double)position * scale * pow(base, -2.0 * (double)i / (double)n->rope_dim);
            angle /= n->factors ? (double)n->factors[i] : 1;
            double *a = x + h * n->head + (n->gemma ? i : 2 * i);
            double *b = n->gemma ? a + n->rope_dim / 2 : a + 1;
            double even = *a, odd = *b;
            *a = even * cos(angle) - odd * sin(angle);
            *b = even * sin(angle) + odd * cos(angle);
        }
    }
}

/* One head of one row over positions 0 .. position. */
static void naive_head(const naive *n, const double *q, const double *k, const double *v,
                       int64_t stride, int64_t position, double window, double *score,
                       double *out) {
    double top = -INFINITY, sum = 0;
    const double begin = (double)position - window + 1;
    const int64_t low = begin > 0 ? (int64_t)begin : 0;
    for (int64_t p = low; p <= position; p++) {
        double dot = 0;
        for (int64_t i = 0; i < n->head; i++) {
            dot += q[i] * k[p * stride + i];
        }
        score[p] = naive_cap(dot / n->divisor, n->cap);
        top = score[p] > top ? score[p] : top;
    }
    memset(out, 0, (size_t)n->head * sizeof(*out));
    for (int64_t p = low; p <= position; p++) {
        double w = exp(score[p] - top);
        sum += w;
        for (int64_t i = 0; i < n->head; i++) {
            out[i] += w * v[p * stride + i];
        }
    }
    for (int64_t i = 0; i < n->head; i++) {
        out[i] /= sum;
    }
}

/* k and v: this layer's [tokens, kv_heads, head]; scratch: at least 6 of the longest row. */
static void naive_layer(const naive *n, int64_t layer, int64_t position, double *x, double *k,
                        double *v, double *scratch, int64_t longest) {
    double *h = scratch, *q = h + longest, *mixed = q + longest, *gate = mixed + longest;
    double *up = gate + longest, *score = up + longest;
    int64_t kv = n->kv_heads * n->head, all = n->heads * n->head;
    double *own_k = k + position * kv, *own_v = v + position * kv;
#define T(name) naive_tensor(n, layer, name)
    const bool near = naive_near(n, layer);
    naive_norm(n, x, T("attn_norm.weight"), n->width, h);
    naive_linear(T("attn_q.weight"), T("attn_q.bias"), h, n->width, all, q);
    naive_linear(T("attn_k.weight"), T("attn_k.bias"), h, n->width, kv, own_k);
    naive_linear(T("attn_v.weight"), T("attn_v.bias"), h, n->width, kv, own_v);
    for (int64_t i = 0; n->gemma == 3 && i < n->heads + n->kv_heads; i++) {
        bool key = i >= n->heads;
        double *head = key ? own_k + (i - n->heads) * n->head : q + i * n->head;
        naive_norm(n, head, key ? T("attn_k_norm.weight") : T("attn_q_norm.weight"), n->head, head);
    }
    naive_turn(n, q, n->heads, position, near);
    naive_turn(n, own_k, n->kv_heads, position, near);
    for (int64_t i = 0; i < n->heads; i++) {
        int64_t from = i / (n->heads / n->kv_heads) * n->head;
        naive_head(n, q + i * n->head, k + from, v + from, kv, position, near ? n->window : 1e9,
                   score, mixed + i * n->head);
    }
    naive_linear(T("attn_output.weight"), T("attn_output.bias"), mixed, all, n->width, h);
    naive_add(n, x, h, T("post_attention_norm.weight"));
    naive_norm(n, x, T("ffn_norm.weight"), n->width, h);
    naive_linear(T("ffn_gate.weight"), T("ffn_gate.bias"), h, n->width, n->ffn, gate);
    naive_linear(T("ffn_up.weight"), T("ffn_up.bias"), h, n->width, n->ffn, up);
    for (int64_t i = 0; i < n->ffn; i++) {
        const double g = gate[i], inner = sqrt(2 / M_PI) * (g + 0.044715 * g * g * g);
        gate[i] = (n->gemma ? 0.5 * g * (1 + tanh(inner)) : g / (1 + exp(-g))) * up[i];
    }
    naive_linear(T("ffn_down.weight"), T("ffn_down.bias"), gate, n->ffn, n->width, h);
    naive_add(n, x, h, T("post_ffw_norm.weight"));
#undef T
}

void naivellama_logits(const char *path, const int32_t *tokens, int32_t count, double *logits) {
    naive n = {0};
    naive_open(&n, path);
    int64_t kv = n.kv_heads * n.head, longest = n.width + n.ffn + n.heads * n.head + count;
    double *k = mem_alloc((size_t)(n.layers * count * kv), sizeof(*k));
    double *v = mem_alloc((size_t)(n.layers * count * kv), sizeof(*v));
    double *scratch = mem_alloc((size_t)(7 * longest), sizeof(*scratch));
    CHECK(k && v && scratch);
    double *x = scratch + 6 * longest;
    const float *embedding = naive_tensor(&n, -1, "token_embd.weight");
    const float *output = naive_tensor(&n, -1, "output.weight");
    for (int32_t p = 0; p < count; p++) {
        for (int64_t i = 0; i < n.width; i++) {
            x[i] =
                (double)embedding[tokens[p] * n.width + i] * (n.gemma ? sqrt((double)n.width) : 1);
        }
        for (int64_t layer = 0; layer < n.layers; layer++) {
            naive_layer(&n, layer, p, x, k + layer * count * kv, v + layer * count * kv, scratch,
                        longest);
        }
        naive_norm(&n, x, naive_tensor(&n, -1, "output_norm.weight"), n.width, scratch);
        naive_linear(output ? output : embedding, NULL, scratch, n.width, n.vocab,
                     logits + (ptrdiff_t)p * n.vocab);
        for (int64_t i = 0; i < n.vocab; i++) {
            logits[p * n.vocab + i] = naive_cap(logits[p * n.vocab + i], n.logits_cap);
        }
    }
    mem_free(scratch);
    mem_free(v);
    mem_free(k);
    gguf_close(n.file);
}
