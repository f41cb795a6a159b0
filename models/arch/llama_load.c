/* llama_load.c -- tensors of llama_load.h.
 *
 * The tensors are taken in file order, so that a cold file is read once from front to back, and the
 * file's pages are let go as soon as a tensor is repacked: a model never lies in memory twice.
 */
#define _GNU_SOURCE
#include "models/arch/llama_load.h"

#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "engine/base/mem.h"
#include "models/arch/kvheads.h"
#include "models/arch/llama_slice.h"
#include "models/arch/requant.h"

enum { NAME_BYTES = 96 };

/* -- tensors -------------------------------------------------------------------------------- */

typedef enum { SPAN_WIDTH, SPAN_QUERY, SPAN_KV, SPAN_FFN, SPAN_HEAD } llama_span;

/* Indexed by LLAMA_Q ... */
static const struct {
    const char *name;
    llama_span inputs, outputs;
} llama_matrices[LLAMA_MATRICES] = {
    {"attn_q", SPAN_WIDTH, SPAN_QUERY}, {"attn_k", SPAN_WIDTH, SPAN_KV},
    {"attn_v", SPAN_WIDTH, SPAN_KV},    {"attn_output", SPAN_QUERY, SPAN_WIDTH},
    {"ffn_gate", SPAN_WIDTH, SPAN_FFN}, {"ffn_up", SPAN_WIDTH, SPAN_FFN},
    {"ffn_down", SPAN_FFN, SPAN_WIDTH}};

/* Indexed by LLAMA_ATTN_NORM ... */
static const struct {
    const char *name;
    llama_span elements;
} llama_norms[LLAMA_VECTORS - LLAMA_MATRICES] = {
    {"attn_norm", SPAN_WIDTH},           {"ffn_norm", SPAN_WIDTH},
    {"attn_q_norm", SPAN_HEAD},          {"attn_k_norm", SPAN_HEAD},
    {"post_attention_norm", SPAN_WIDTH}, {"post_ffw_norm", SPAN_WIDTH}};

typedef struct {
    const gguf *file;
    const llama_shape *shape;
    backend *device;
    const model_options *options;
    llama_load_weights *out;
    diag *d;
} llama_loader;

static int32_t llama_span_elements(const llama_shape *m, llama_span span) {
    switch (span) {
        case SPAN_QUERY:
            return m->heads * m->head_dim;
        case SPAN_KV:
            return m->kv_heads * m->head_dim;
        case SPAN_FFN:
            return m->ffn;
        case SPAN_HEAD:
            return m->head_dim;
        default:
            return m->width;
    }
}

/* What this rank keeps of it: heads and the inner width are shared out. */
static llama_slice llama_span_slice(const llama_loader *l, llama_span span) {
    bool split = span == SPAN_QUERY || span == SPAN_FFN;
    const model_options *o = l->options;
    if (span == SPAN_KV && o->ranks > 1) {
        const int32_t dim = l->shape->head_dim;
        kvheads h = kvheads_of(l->shape->kv_heads, o->rank, o->ranks);
        return (llama_slice){l->shape->kv_heads * dim, h.first * dim, h.count * dim};
    }
    return llama_slice_of(llama_span_elements(l->shape, span), split && o->ranks > 1, o->rank,
                          o->ranks);
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

static status llama_take_matrix(const llama_loader *l, const gguf_tensor *t, llama_slice inputs,
                                llama_slice outputs, const backend_weight **out) {
    TRY(llama_shape_fits(l, t, inputs.whole, outputs.whole));
    diag why = {0};
    const uint8_t *data;
    uint64_t bytes;
    backend_type type = (backend_type)t->type;
    uint8_t *copy = NULL, *blocks = NULL;
    status s = llama_slice_matrix(t, &inputs, &outputs, &data, &bytes, &copy, &why);
    if (s == STATUS_OK && l->options->weights == MODEL_WEIGHTS_Q8_0 &&
        requant_fits(t->type, (uint64_t)inputs.count)) {
        s = requant_q8_0(t->type, data, (uint64_t)outputs.count, (uint64_t)inputs.count, &blocks,
                         &why);
        data = blocks;
        type = BACKEND_Q8_0;
        bytes = backend_type_bytes(type, outputs.count, inputs.count);
    }
    if (s == STATUS_OK) {
        s = backend_weight_load(l->device, type, data, bytes, outputs.count, inputs.count,
                                l->options->activations, out, &why);
    }
    mem_free(blocks);
    mem_free(copy);
    if (s != STATUS_OK) {
        return status_fail(l->d, s, "tensor %.*s: %s", (int)t->name.bytes, t->name.data, why.text);
    }
    l->out->parameters += (uint64_t)inputs.whole * (uint64_t)outputs.whole;
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

static status llama_take_vector(const llama_loader *l, const gguf_tensor *t, llama_slice part,
                                float **out) {
    TRY(llama_is_f32(l, t, part.whole));
    void *memory = NULL;
    uint64_t bytes = (uint64_t)part.count * sizeof(float);
    status s = backend_alloc(l->device, bytes, &memory);
    if (s != STATUS_OK) {
        return status_fail(l->d, s, "tensor %.*s: no device memory for %llu bytes",
                           (int)t->name.bytes, t->name.data, (unsigned long long)bytes);
    }
    *out = memory;
    l->out->parameters += (uint64_t)part.whole;
    l->out->bytes += bytes;
    const uint8_t *data = t->data;
    return backend_upload(l->device, memory, data + (uint64_t)part.first * sizeof(float), bytes);
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

static bool llama_has_norm(const llama_shape *m, int i) {
    switch (i) {
        case LLAMA_Q_NORM:
        case LLAMA_K_NORM:
            return m->traits->head_norms;
        case LLAMA_ATTN_NORM_AFTER:
        case LLAMA_FFN_NORM_AFTER:
            return m->traits->norms_after;
        default:
            return true;
    }
}

static status llama_unknown(const llama_loader *l, const gguf_tensor *t) {
    return status_fail(l->d, STATUS_UNSUPPORTED, "tensor %.*s is not part of a %s model",
                       (int)t->name.bytes, t->name.data, l->shape->traits->arch);
}

/* `rest` is a layer tensor's name after "blk.N.". */
static status llama_take_layer(const llama_loader *l, const gguf_tensor *t, int64_t layer,
                               str rest) {
    llama_load_layer *to = &l->out->layers[layer];
    char name[NAME_BYTES];
    for (int i = 0; i < LLAMA_MATRICES; i++) {
        llama_slice inputs = llama_span_slice(l, llama_matrices[i].inputs);
        llama_slice outputs = llama_span_slice(l, llama_matrices[i].outputs);
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
        llama_slice elements = llama_span_slice(l, llama_norms[i - LLAMA_MATRICES].elements);
        snprintf(name, sizeof(name), "%s.weight", llama_norms[i - LLAMA_MATRICES].name);
        if (str_equal_z(rest, name) && llama_has_norm(l->shape, i)) {
            return llama_take_vector(l, t, elements, &to->vector[i]);
        }
    }
    return llama_unknown(l, t);
}

static status llama_take(const llama_loader *l, const gguf_tensor *t) {
    const llama_shape *m = l->shape;
    llama_slice width = {m->width, 0, m->width}, vocab = {m->vocab, 0, m->vocab};
    if (str_equal_z(t->name, "token_embd.weight")) {
        return llama_take_matrix(l, t, width, vocab, &l->out->embedding);
    }
    if (str_equal_z(t->name, "output.weight")) {
        if (l->options->rank > 0) { /* the first rank has the logits */
            return llama_shape_fits(l, t, m->width, m->vocab);
        }
        return llama_take_matrix(l, t, width, vocab, &l->out->output);
    }
    if (str_equal_z(t->name, "output_norm.weight")) {
        return llama_take_vector(l, t, width, &l->out->output_norm);
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

/* The name of a tensor that the layer lacks, without its number; false when it is complete. */
static bool llama_lacks(const llama_shape *m, const llama_load_layer *layer,
                        char name[NAME_BYTES]) {
    for (int i = 0; i < LLAMA_MATRICES; i++) {
        bool biased = m->traits->biases && i <= LLAMA_V;
        if (!layer->matrix[i] || (biased && !layer->vector[i])) {
            snprintf(name, NAME_BYTES, "%s.%s", llama_matrices[i].name,
                     layer->matrix[i] ? "bias" : "weight");
            return true;
        }
    }
    for (int i = LLAMA_MATRICES; i < LLAMA_VECTORS; i++) {
        if (!layer->vector[i] && llama_has_norm(m, i)) {
            snprintf(name, NAME_BYTES, "%s.weight", llama_norms[i - LLAMA_MATRICES].name);
            return true;
        }
    }
    return false;
}

static status llama_complete(const llama_loader *l) {
    const llama_load_weights *w = l->out;
    if (!w->output_norm) {
        return status_fail(l->d, STATUS_CORRUPT, "tensor output_norm.weight is missing");
    }
    for (int32_t layer = 0; layer < l->shape->layers; layer++) {
        char missing[NAME_BYTES];
        if (llama_lacks(l->shape, &w->layers[layer], missing)) {
            return status_fail(l->d, STATUS_CORRUPT, "tensor blk.%d.%s is missing", layer, missing);
        }
    }
    return STATUS_OK;
}

status llama_load_tensors(const gguf *file, const llama_shape *shape, backend *device,
                          const model_options *options, llama_load_weights *out, diag *d) {
    *out = (llama_load_weights){0};
    out->layers = mem_calloc((size_t)shape->layers, sizeof(out->layers[0]));
    if (!out->layers) {
        return status_fail(d, STATUS_NOMEM, "no memory for %d layers", shape->layers);
    }
    llama_loader l = {file, shape, device, options, out, d};
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

void llama_load_free(const llama_shape *shape, backend *device, llama_load_weights *w) {
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
