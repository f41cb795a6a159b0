/* naivellama.c -- LLaMA (Touvron et al. 2023) with rotary pairs (2i, 2i+1) (Su et al. 2021), row by
 * row, keys and values of all layers kept in one plain array. */
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
} naive;

static int64_t naive_integer(const gguf *g, const char *key, int64_t fallback) {
    int64_t v = fallback;
    CHECK(gguf_get_i64(g, key, &v, NULL) == STATUS_OK || fallback > 0);
    return v;
}

static double naive_real(const gguf *g, const char *key, double fallback) {
    double v = fallback;
    return gguf_get_f64(g, key, &v, NULL) == STATUS_OK ? v : fallback;
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
    const gguf *g = n->file;
    n->layers = naive_integer(g, "llama.block_count", 0);
    n->width = naive_integer(g, "llama.embedding_length", 0);
    n->heads = naive_integer(g, "llama.attention.head_count", 0);
    n->kv_heads = naive_integer(g, "llama.attention.head_count_kv", 0);
    n->ffn = naive_integer(g, "llama.feed_forward_length", 0);
    n->vocab = naive_integer(g, "llama.vocab_size", 0);
    n->head = naive_integer(g, "llama.attention.key_length", n->width / n->heads);
    n->rope_dim = naive_integer(g, "llama.rope.dimension_count", n->head);
    n->epsilon = naive_real(g, "llama.attention.layer_norm_rms_epsilon", 0);
    n->base = naive_real(g, "llama.rope.freq_base", 10000);
    n->scale = 1 / naive_real(g, "llama.rope.scaling.factor", 1);
    n->window = naive_real(g, "llama.attention.sliding_window", 1e9);
    n->factors = naive_tensor(n, -1, "rope_freqs.weight");
}

static void naive_norm(const naive *n, const double *x, const float *w, double *out) {
    double sum = 0;
    for (int64_t i = 0; i < n->width; i++) {
        sum += x[i] * x[i];
    }
    for (int64_t i = 0; i < n->width; i++) {
        out[i] = x[i] / sqrt(sum / (double)n->width + n->epsilon) * (double)w[i];
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

static void naive_turn(const naive *n, double *x, int64_t heads, int64_t position) {
    for (int64_t h = 0; h < heads; h++) {
        for (int64_t i = 0; i < n->rope_dim / 2; i++) {
            double angle =
                (double)position * n->scale * pow(n->base, -2.0 * (double)i / (double)n->rope_dim);
            angle /= n->factors ? (double)n->factors[i] : 1;
            double *pair = x + h * n->head + 2 * i;
            double even = pair[0], odd = pair[1];
            pair[0] = even * cos(angle) - odd * sin(angle);
            pair[1] = even * sin(angle) + odd * cos(angle);
        }
    }
}

/* One head of one row over positions 0 .. position. */
static void naive_head(const naive *n, const double *q, const double *k, const double *v,
                       int64_t stride, int64_t position, double *score, double *out) {
    double top = -INFINITY, sum = 0;
    const double begin = (double)position - n->window + 1;
    const int64_t low = begin > 0 ? (int64_t)begin : 0;
    for (int64_t p = low; p <= position; p++) {
        double dot = 0;
        for (int64_t i = 0; i < n->head; i++) {
            dot += q[i] * k[p * stride + i];
        }
        score[p] = dot / sqrt((double)n->head);
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
    naive_norm(n, x, T("attn_norm.weight"), h);
    naive_linear(T("attn_q.weight"), T("attn_q.bias"), h, n->width, all, q);
    naive_linear(T("attn_k.weight"), T("attn_k.bias"), h, n->width, kv, own_k);
    naive_linear(T("attn_v.weight"), T("attn_v.bias"), h, n->width, kv, own_v);
    naive_turn(n, q, n->heads, position);
    naive_turn(n, own_k, n->kv_heads, position);
    for (int64_t i = 0; i < n->heads; i++) {
        int64_t from = i / (n->heads / n->kv_heads) * n->head;
        naive_head(n, q + i * n->head, k + from, v + from, kv, position, score,
                   mixed + i * n->head);
    }
    naive_linear(T("attn_output.weight"), T("attn_output.bias"), mixed, all, n->width, h);
    for (int64_t i = 0; i < n->width; i++) {
        x[i] += h[i];
    }
    naive_norm(n, x, T("ffn_norm.weight"), h);
    naive_linear(T("ffn_gate.weight"), T("ffn_gate.bias"), h, n->width, n->ffn, gate);
    naive_linear(T("ffn_up.weight"), T("ffn_up.bias"), h, n->width, n->ffn, up);
    for (int64_t i = 0; i < n->ffn; i++) {
        gate[i] = gate[i] / (1 + exp(-gate[i])) * up[i];
    }
    naive_linear(T("ffn_down.weight"), T("ffn_down.bias"), gate, n->ffn, n->width, h);
#undef T
    for (int64_t i = 0; i < n->width; i++) {
        x[i] += h[i];
    }
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
            x[i] = (double)embedding[tokens[p] * n.width + i];
        }
        for (int64_t layer = 0; layer < n.layers; layer++) {
            naive_layer(&n, layer, p, x, k + layer * count * kv, v + layer * count * kv, scratch,
                        longest);
        }
        naive_norm(&n, x, naive_tensor(&n, -1, "output_norm.weight"), scratch);
        naive_linear(output ? output : embedding, NULL, scratch, n.width, n.vocab,
                     logits + (ptrdiff_t)p * n.vocab);
    }
    mem_free(scratch);
    mem_free(v);
    mem_free(k);
    gguf_close(n.file);
}
