/* llama_load.c -- keys and tensors of llama_load.h.
 *
 * The tensors are taken in file order, so that a cold file is read once from front to back, and the
 * file's pages are let go as soon as a tensor is repacked: a model never lies in memory twice.
 */
#define _GNU_SOURCE
#include "models/arch/llama_load.h"

#include <math.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "engine/base/limits.h"
#include "engine/base/mem.h"

enum { NAME_BYTES = 96 };

/* -- keys ----------------------------------------------------------------------------------- */

/* An integer in [min, max]; `fallback` when there is no such key, unless that is 0. */
static status llama_integer(const gguf *file, const char *key, uint64_t min, uint64_t max,
                            uint64_t fallback, int32_t *out, diag *d) {
    uint64_t v = 0;
    status s = gguf_get_u64(file, key, &v, d);
    if (s == STATUS_NOTFOUND && fallback > 0) {
        v = fallback;
        s = STATUS_OK;
    }
    TRY(s);
    if (v < min || v > max) {
        return status_fail(d, STATUS_CORRUPT, "%s is %llu: it must be from %llu to %llu", key,
                           (unsigned long long)v, (unsigned long long)min, (unsigned long long)max);
    }
    *out = (int32_t)v;
    return STATUS_OK;
}

static status llama_real(const gguf *file, const char *key, double min, double max, double fallback,
                         double *out, diag *d) {
    double v = 0;
    status s = gguf_get_f64(file, key, &v, d);
    if (s == STATUS_NOTFOUND && fallback > 0) {
        v = fallback;
        s = STATUS_OK;
    }
    TRY(s);
    if (!(v >= min && v <= max)) {
        return status_fail(d, STATUS_CORRUPT, "%s is %g: it must be from %g to %g", key, v, min,
                           max);
    }
    *out = v;
    return STATUS_OK;
}

/* The rotary scaling that files name: none and linear. Llama 3's factors are a tensor. */
static status llama_rope_scaling(const gguf *file, llama_load_shape *m, diag *d) {
    m->rope_scale = 1;
    str type = {NULL, 0};
    status s = gguf_get_str(file, "llama.rope.scaling.type", &type, d);
    double factor = 1;
    if (s == STATUS_NOTFOUND) {
        TRY(llama_real(file, "llama.rope.scale_linear", 1, 1e6, 1, &factor, d));
    } else {
        TRY(s);
        if (str_equal_z(type, "linear")) {
            TRY(llama_real(file, "llama.rope.scaling.factor", 1, 1e6, 0, &factor, d));
        } else if (!str_equal_z(type, "none")) {
            return status_fail(d, STATUS_UNSUPPORTED,
                               "llama.rope.scaling.type is \"%.*s\": only none and linear are "
                               "supported",
                               (int)(type.bytes < 64 ? type.bytes : 64), type.data);
        }
    }
    m->rope_scale = 1 / factor;
    return STATUS_OK;
}

static status llama_attention_keys(const gguf *file, llama_load_shape *m, diag *d) {
    TRY(llama_integer(file, "llama.attention.head_count", 1, LLAMA_HEADS_MAX, 0, &m->heads, d));
    TRY(llama_integer(file, "llama.attention.head_count_kv", 1, (uint64_t)m->heads,
                      (uint64_t)m->heads, &m->kv_heads, d));
    if (m->heads % m->kv_heads != 0) {
        return status_fail(d, STATUS_CORRUPT,
                           "llama.attention.head_count %d is not a multiple of head_count_kv %d",
                           m->heads, m->kv_heads);
    }
    bool stated = gguf_has(file, "llama.attention.key_length");
    if (!stated && m->width % m->heads != 0) {
        return status_fail(d, STATUS_CORRUPT,
                           "llama.embedding_length %d is not a multiple of attention.head_count %d",
                           m->width, m->heads);
    }
    uint64_t head = stated ? 0 : (uint64_t)(m->width / m->heads);
    TRY(llama_integer(file, "llama.attention.key_length", 1, LLAMA_WIDTH_MAX, head, &m->head_dim,
                      d));
    if (m->head_dim % 16 != 0 || m->head_dim > OPS_HEAD_DIM_MAX) {
        return status_fail(d, STATUS_UNSUPPORTED,
                           "heads of %d elements: only multiples of 16 up to %d are supported",
                           m->head_dim, OPS_HEAD_DIM_MAX);
    }
    int32_t value = 0;
    TRY(llama_integer(file, "llama.attention.value_length", 1, LLAMA_WIDTH_MAX,
                      (uint64_t)m->head_dim, &value, d));
    if (value != m->head_dim) {
        return status_fail(d, STATUS_UNSUPPORTED,
                           "llama.attention.value_length %d differs from the keys' length %d",
                           value, m->head_dim);
    }
    TRY(llama_integer(file, "llama.rope.dimension_count", 2, (uint64_t)m->head_dim,
                      (uint64_t)m->head_dim, &m->rope_dim, d));
    if (m->rope_dim % 2 != 0) {
        return status_fail(d, STATUS_CORRUPT, "llama.rope.dimension_count %d is odd", m->rope_dim);
    }
    TRY(llama_real(file, "llama.rope.freq_base", 1, 1e12, 10000, &m->rope_base, d));
    return llama_rope_scaling(file, m, d);
}

/* The vocabulary is what the embedding has rows for; the keys must not say otherwise, since a token
 * past the table would be a hole. */
static status llama_vocab(const gguf *file, llama_load_shape *m, diag *d) {
    gguf_tensor embedding;
    TRY(gguf_tensor_find(file, "token_embd.weight", &embedding, d));
    if (embedding.dims[1] < 1 || embedding.dims[1] > MODEL_VOCAB_MAX) {
        return status_fail(d, STATUS_CORRUPT, "tensor token_embd.weight has %llu rows: 1 to %d",
                           (unsigned long long)embedding.dims[1], MODEL_VOCAB_MAX);
    }
    m->vocab = (int32_t)embedding.dims[1];
    int32_t stated = 0;
    TRY(llama_integer(file, "llama.vocab_size", 1, MODEL_VOCAB_MAX, (uint64_t)m->vocab, &stated,
                      d));
    gguf_array tokens = {GGUF_KIND_STRING, 0, NULL, NULL};
    if (gguf_has(file, "tokenizer.ggml.tokens")) {
        TRY(gguf_get_array(file, "tokenizer.ggml.tokens", &tokens, d));
    }
    if (stated != m->vocab || tokens.count > (uint64_t)m->vocab) {
        return status_fail(d, STATUS_CORRUPT,
                           "tensor token_embd.weight has %d rows, but llama.vocab_size is %d and "
                           "tokenizer.ggml.tokens has %llu",
                           m->vocab, stated, (unsigned long long)tokens.count);
    }
    return STATUS_OK;
}

status llama_load_keys(const gguf *file, llama_load_shape *out, diag *d) {
    llama_load_shape m = {0};
    TRY(llama_integer(file, "llama.block_count", 1, LIMIT_LAYERS, 0, &m.layers, d));
    TRY(llama_integer(file, "llama.embedding_length", 1, LLAMA_WIDTH_MAX, 0, &m.width, d));
    TRY(llama_integer(file, "llama.feed_forward_length", 1, LLAMA_FFN_MAX, 0, &m.ffn, d));
    TRY(llama_integer(file, "llama.context_length", 1, LIMIT_CONTEXT_TOKENS, 0, &m.context_tokens,
                      d));
    uint64_t experts = 0;
    status s = gguf_get_u64(file, "llama.expert_count", &experts, d);
    if (s != STATUS_NOTFOUND) {
        TRY(s);
    }
    if (experts > 0) {
        return status_fail(d, STATUS_UNSUPPORTED,
                           "llama.expert_count is %llu: mixtures of experts "
                           "are not supported",
                           (unsigned long long)experts);
    }
    double epsilon = 0;
    TRY(llama_real(file, "llama.attention.layer_norm_rms_epsilon", 0, 0.1, 0, &epsilon, d));
    m.epsilon = (float)epsilon;
    TRY(llama_attention_keys(file, &m, d));
    TRY(llama_vocab(file, &m, d));
    *out = m;
    return STATUS_OK;
}

/* -- tensors -------------------------------------------------------------------------------- */

typedef enum { SPAN_WIDTH, SPAN_QUERY, SPAN_KV, SPAN_FFN } llama_span;

/* Indexed by LLAMA_Q ... */
static const struct {
    const char *name;
    llama_span inputs, outputs;
} llama_matrices[LLAMA_MATRICES] = {
    {"attn_q", SPAN_WIDTH, SPAN_QUERY}, {"attn_k", SPAN_WIDTH, SPAN_KV},
    {"attn_v", SPAN_WIDTH, SPAN_KV},    {"attn_output", SPAN_QUERY, SPAN_WIDTH},
    {"ffn_gate", SPAN_WIDTH, SPAN_FFN}, {"ffn_up", SPAN_WIDTH, SPAN_FFN},
    {"ffn_down", SPAN_FFN, SPAN_WIDTH}};

static const char *const llama_norms[LLAMA_VECTORS - LLAMA_MATRICES] = {"attn_norm", "ffn_norm"};

typedef struct {
    const gguf *file;
    const llama_load_shape *shape;
    backend *device;
    backend_activations activations;
    llama_load_weights *out;
    diag *d;
} llama_loader;

static int32_t llama_span_elements(const llama_load_shape *m, llama_span span) {
    switch (span) {
        case SPAN_QUERY:
            return m->heads * m->head_dim;
        case SPAN_KV:
            return m->kv_heads * m->head_dim;
        case SPAN_FFN:
            return m->ffn;
        default:
            return m->width;
    }
}

static status llama_shape_fits(const llama_loader *l, const gguf_tensor *t, int32_t inputs,
                               int32_t outputs) {
    bool fits = t->dims[0] == (uint64_t)inputs && t->dims[1] == (uint64_t)outputs &&
                t->dims[2] == 1 && t->dims[3] == 1;
    if (!fits) {
        return status_fail(l->d, STATUS_CORRUPT,
                           "tensor %.*s is %llu x %llu x %llu x %llu: %d x %d expected",
                           (int)t->name.bytes, t->name.data, (unsigned long long)t->dims[0],
                           (unsigned long long)t->dims[1], (unsigned long long)t->dims[2],
                           (unsigned long long)t->dims[3], inputs, outputs);
    }
    return STATUS_OK;
}

/* The backend has its own copy now: give the file's pages back. */
static void llama_let_go(const gguf_tensor *t) {
    uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
    uintptr_t from = ((uintptr_t)t->data + page - 1) / page * page;
    uintptr_t to = ((uintptr_t)t->data + t->bytes) / page * page;
    if (to > from) {
        (void)madvise((void *)from, to - from, MADV_DONTNEED);
    }
}

static status llama_take_matrix(const llama_loader *l, const gguf_tensor *t, int32_t inputs,
                                int32_t outputs, const backend_weight **out) {
    TRY(llama_shape_fits(l, t, inputs, outputs));
    diag why = {0};
    status s = backend_weight_load(l->device, (backend_type)t->type, t->data, t->bytes, outputs,
                                   inputs, l->activations, out, &why);
    if (s != STATUS_OK) {
        return status_fail(l->d, s, "tensor %.*s: %s", (int)t->name.bytes, t->name.data, why.text);
    }
    l->out->parameters += (uint64_t)inputs * (uint64_t)outputs;
    l->out->bytes += (*out)->bytes;
    llama_let_go(t);
    return STATUS_OK;
}

static status llama_is_f32(const llama_loader *l, const gguf_tensor *t, int32_t elements) {
    TRY(llama_shape_fits(l, t, elements, 1));
    if (t->type != GGUF_F32) {
        return status_fail(l->d, STATUS_UNSUPPORTED, "tensor %.*s is %s: F32 expected",
                           (int)t->name.bytes, t->name.data, gguf_type_name(t->type));
    }
    return STATUS_OK;
}

static status llama_take_vector(const llama_loader *l, const gguf_tensor *t, int32_t elements,
                                float **out) {
    TRY(llama_is_f32(l, t, elements));
    void *memory = NULL;
    status s = backend_alloc(l->device, t->bytes, &memory);
    if (s != STATUS_OK) {
        return status_fail(l->d, s, "tensor %.*s: no device memory for %llu bytes",
                           (int)t->name.bytes, t->name.data, (unsigned long long)t->bytes);
    }
    *out = memory;
    l->out->parameters += (uint64_t)elements;
    l->out->bytes += t->bytes;
    return backend_upload(l->device, memory, t->data, t->bytes);
}

/* Rotary factors stay on the host; a zero would divide by zero. */
static status llama_take_factors(const llama_loader *l, const gguf_tensor *t) {
    int32_t count = l->shape->rope_dim / 2;
    TRY(llama_is_f32(l, t, count));
    float *factors = (float *)(void *)mem_dup(t->data, t->bytes);
    if (!factors) {
        return status_fail(l->d, STATUS_NOMEM, "tensor rope_freqs.weight: out of memory");
    }
    l->out->freq_factors = factors;
    for (int32_t i = 0; i < count; i++) {
        if (!(factors[i] > 0 && factors[i] < 1e9f)) {
            return status_fail(l->d, STATUS_CORRUPT, "tensor rope_freqs.weight: element %d is %g",
                               i, (double)factors[i]);
        }
    }
    return STATUS_OK;
}

static status llama_unknown(const llama_loader *l, const gguf_tensor *t) {
    return status_fail(l->d, STATUS_UNSUPPORTED, "tensor %.*s is not part of a llama model",
                       (int)t->name.bytes, t->name.data);
}

/* `rest` is a layer tensor's name after "blk.N.". */
static status llama_take_layer(const llama_loader *l, const gguf_tensor *t, int64_t layer,
                               str rest) {
    llama_load_layer *to = &l->out->layers[layer];
    char name[NAME_BYTES];
    for (int i = 0; i < LLAMA_MATRICES; i++) {
        int32_t inputs = llama_span_elements(l->shape, llama_matrices[i].inputs);
        int32_t outputs = llama_span_elements(l->shape, llama_matrices[i].outputs);
        snprintf(name, sizeof(name), "%s.weight", llama_matrices[i].name);
        if (str_equal_z(rest, name)) {
            return llama_take_matrix(l, t, inputs, outputs, &to->matrix[i]);
        }
        snprintf(name, sizeof(name), "%s.bias", llama_matrices[i].name);
        if (str_equal_z(rest, name)) {
            return llama_take_vector(l, t, outputs, &to->vector[i]);
        }
    }
    for (int i = LLAMA_MATRICES; i < LLAMA_VECTORS; i++) {
        snprintf(name, sizeof(name), "%s.weight", llama_norms[i - LLAMA_MATRICES]);
        if (str_equal_z(rest, name)) {
            return llama_take_vector(l, t, l->shape->width, &to->vector[i]);
        }
    }
    return llama_unknown(l, t);
}

static status llama_take(const llama_loader *l, const gguf_tensor *t) {
    const llama_load_shape *m = l->shape;
    if (str_equal_z(t->name, "token_embd.weight")) {
        return llama_take_matrix(l, t, m->width, m->vocab, &l->out->embedding);
    }
    if (str_equal_z(t->name, "output.weight")) {
        return llama_take_matrix(l, t, m->width, m->vocab, &l->out->output);
    }
    if (str_equal_z(t->name, "output_norm.weight")) {
        return llama_take_vector(l, t, m->width, &l->out->output_norm);
    }
    if (str_equal_z(t->name, "rope_freqs.weight")) {
        return llama_take_factors(l, t);
    }
    size_t dot = str_find(t->name, str_from("."), 4);
    int64_t layer = 0;
    if (!str_starts_with(t->name, str_from("blk.")) || dot == SIZE_MAX ||
        !str_to_i64(str_of(t->name.data + 4, dot - 4), 0, m->layers - 1, &layer)) {
        return llama_unknown(l, t);
    }
    return llama_take_layer(l, t, layer, str_of(t->name.data + dot + 1, t->name.bytes - dot - 1));
}

static status llama_complete(const llama_loader *l) {
    const llama_load_weights *w = l->out;
    if (!w->output_norm) {
        return status_fail(l->d, STATUS_CORRUPT, "tensor output_norm.weight is missing");
    }
    for (int32_t layer = 0; layer < l->shape->layers; layer++) {
        const char *missing = NULL;
        for (int i = 0; i < LLAMA_MATRICES && !missing; i++) {
            missing = w->layers[layer].matrix[i] ? NULL : llama_matrices[i].name;
        }
        for (int i = LLAMA_MATRICES; i < LLAMA_VECTORS && !missing; i++) {
            missing = w->layers[layer].vector[i] ? NULL : llama_norms[i - LLAMA_MATRICES];
        }
        if (missing) {
            return status_fail(l->d, STATUS_CORRUPT, "tensor blk.%d.%s.weight is missing", layer,
                               missing);
        }
    }
    return STATUS_OK;
}

status llama_load_tensors(const gguf *file, const llama_load_shape *shape, backend *device,
                          backend_activations activations, llama_load_weights *out, diag *d) {
    *out = (llama_load_weights){0};
    out->layers = mem_calloc((size_t)shape->layers, sizeof(out->layers[0]));
    if (!out->layers) {
        return status_fail(d, STATUS_NOMEM, "no memory for %d layers", shape->layers);
    }
    llama_loader l = {file, shape, device, activations, out, d};
    for (uint64_t i = 0; i < gguf_tensors_count(file); i++) {
        gguf_tensor t;
        TRY(gguf_tensor_at(file, i, &t, d));
        TRY(llama_take(&l, &t));
    }
    if (!out->output) {
        out->output = out->embedding;
    }
    return llama_complete(&l);
}

void llama_load_free(const llama_load_shape *shape, backend *device, llama_load_weights *w) {
    for (int32_t layer = 0; w->layers && layer < shape->layers; layer++) {
        for (int i = 0; i < LLAMA_VECTORS; i++) {
            if (w->layers[layer].vector[i]) {
                backend_free(device, w->layers[layer].vector[i]);
            }
        }
    }
    if (w->output_norm) {
        backend_free(device, w->output_norm);
    }
    mem_free(w->freq_factors);
    mem_free(w->layers);
    *w = (llama_load_weights){0};
}
