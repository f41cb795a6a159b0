/* backend.c -- opening by name, and the one place where arguments are checked. */
#include "kernels/backend.h"

#include <math.h>
#include <string.h>

#include "engine/base/check.h"
#include "engine/base/limits.h"
#include "engine/base/mem.h"
#include "kernels/cpu/cpu.h"
#include "kernels/module.h"

/* A wrong argument is the caller's error, never undefined behaviour of a kernel. */
#define REFUSE_UNLESS(condition)   \
    do {                           \
        if (!(condition)) {        \
            return STATUS_INVALID; \
        }                          \
    } while (0)

status backend_open(const char *name, const backend_options *options, backend **out, diag *d) {
    static const backend_options defaults = {.memory_fraction = BACKEND_MEMORY_FRACTION};
    const backend_options *o = options != NULL ? options : &defaults;
    REFUSE_UNLESS(name != NULL && out != NULL);
    *out = NULL;
    if (o->threads < 0 || o->threads > LIMIT_THREADS) {
        return status_fail_param(d, STATUS_INVALID, "threads", "threads: %d is not in 1 .. %d",
                                 (int)o->threads, (int)LIMIT_THREADS);
    }
    if (strcmp(name, "cpu") == 0) {
        return cpu_open(o, out, d);
    }
    if (strcmp(name, "cuda") == 0) {
        return module_open(o, out, d);
    }
    return status_fail_param(d, STATUS_NOTFOUND, "backend", "backend \"%s\" is unknown (cpu, cuda)",
                             name);
}

const char *backend_choose(const backend_options *options, diag *why) {
    why->text[0] = 0;
    return module_usable(options, why) ? "cuda" : "cpu";
}

uint64_t backend_room(const backend *b) {
    return b->table->room != NULL ? b->table->room(b) : 0;
}

void backend_memory(const backend *b, uint64_t *free_bytes, uint64_t *total_bytes) {
    *free_bytes = *total_bytes = 0;
    if (b->table->memory != NULL) {
        b->table->memory(b, free_bytes, total_bytes);
    }
}

const char *backend_fault(const backend *b) {
    return b->table->fault != NULL ? b->table->fault(b) : "";
}

void backend_close(backend *b) {
    if (b != NULL) {
        b->table->close(b);
    }
}

status backend_share(backend *of, int32_t threads, backend **out, diag *d) {
    REFUSE_UNLESS(of != NULL && out != NULL && threads >= 0 && threads <= LIMIT_THREADS);
    *out = NULL;
    if (of->table->share == NULL || of->ranks > 0) {
        return status_fail(d, STATUS_UNSUPPORTED,
                           "backend \"%s\" cannot run two steps at once on one device", of->name);
    }
    return of->table->share(of, threads, out, d);
}

void backend_use_threads(backend *b, int32_t threads) {
    if (b->table->use_threads) {
        b->table->use_threads(b, threads);
    }
}

const char *backend_numerics(const backend *b) {
    return b->numerics;
}

status backend_alloc(backend *b, uint64_t bytes, void **out) {
    return b->table->alloc(b, bytes, out);
}

void backend_free(backend *b, void *device) {
    if (device != NULL) {
        b->table->free(b, device);
    }
}

status backend_upload(backend *b, void *device, const void *host, uint64_t bytes) {
    return b->table->upload(b, device, host, bytes);
}

status backend_download(backend *b, void *host, const void *device, uint64_t bytes) {
    return b->table->download(b, host, device, bytes);
}

/* What a weight meets when `wanted` was asked for. */
static backend_activations weight_activations(backend_type type, int32_t inputs,
                                              backend_activations wanted) {
    const bool half = type == BACKEND_F16 || type == BACKEND_BF16;
    const bool pairs = wanted == BACKEND_ACTIVATIONS_BF16 && inputs % 32 == 0;
    return type == BACKEND_F32 || (half && !pairs) ? BACKEND_ACTIVATIONS_F32 : wanted;
}

status backend_weight_load(backend *b, backend_type type, const void *data, uint64_t bytes,
                           int32_t outputs, int32_t inputs, backend_activations activations,
                           const backend_weight **out, diag *d) {
    REFUSE_UNLESS(b != NULL && data != NULL && out != NULL);
    *out = NULL;
    if (outputs < 1 || inputs < 1 || outputs > OPS_WIDTH_MAX || inputs > OPS_WIDTH_MAX) {
        return status_fail(d, STATUS_INVALID, "a weight of %d x %d elements", (int)outputs,
                           (int)inputs);
    }
    const uint64_t expected = backend_type_bytes(type, outputs, inputs);
    if (expected == 0) {
        return status_fail(d, STATUS_UNSUPPORTED,
                           "weight type %s (%d) with %d inputs: unknown type, or the inputs do not "
                           "divide into its blocks",
                           backend_type_name(type), (int)type, (int)inputs);
    }
    if (bytes != expected) {
        return status_fail(d, STATUS_CORRUPT, "a %s weight of %d x %d takes %llu bytes, not %llu",
                           backend_type_name(type), (int)outputs, (int)inputs,
                           (unsigned long long)expected, (unsigned long long)bytes);
    }
    if ((unsigned)activations >= BACKEND_ACTIVATIONS_TYPES) {
        return status_fail_param(d, STATUS_INVALID, "activations", "unknown activations mode %d",
                                 (int)activations);
    }
    const bool pairs =
        activations == BACKEND_ACTIVATIONS_BF16 || activations == BACKEND_ACTIVATIONS_MIXED;
    if (pairs && !b->bf16) {
        return status_fail_param(d, STATUS_UNSUPPORTED, "activations",
                                 "activations of bf16 need a CPU with AMX-BF16");
    }
    const backend_weight shape = {type, weight_activations(type, inputs, activations), outputs,
                                  inputs, 0};
    return b->table->weight_load(b, &shape, data, bytes, out, d);
}

status backend_kv_open(backend *b, const backend_kv_options *options, backend_kv **out, diag *d) {
    REFUSE_UNLESS(b != NULL && options != NULL && out != NULL);
    *out = NULL;
    const backend_kv_options *o = options;
    if (backend_kv_head_bytes(BACKEND_KV_F32, o->head_dim) == 0) {
        return status_fail_param(d, STATUS_UNSUPPORTED, "head_dim",
                                 "head_dim %d is not a multiple of 16 up to %d", (int)o->head_dim,
                                 (int)OPS_HEAD_DIM_MAX);
    }
    if (o->layers < 1 || o->layers > LIMIT_LAYERS || o->kv_heads < 1 || o->kv_heads > 4096 ||
        o->pages < 1 || backend_kv_head_bytes(o->type, o->head_dim) == 0) {
        return status_fail(d, STATUS_INVALID,
                           "KV pool of %d layers, %d kv heads, %u pages, type %d", (int)o->layers,
                           (int)o->kv_heads, (unsigned)o->pages, (int)o->type);
    }
    const uint64_t head_bytes = backend_kv_head_bytes(o->type, o->head_dim);
    const uint64_t page_bytes = head_bytes * (uint64_t)o->kv_heads;
    uint64_t total;
    if (!mem_mul(page_bytes * (uint64_t)o->layers, o->pages, &total) || total > INT64_MAX) {
        return status_fail_param(d, STATUS_LIMIT, "kv_pages", "a pool of %u pages is too large",
                                 (unsigned)o->pages);
    }
    backend_kv *kv = (backend_kv *)mem_calloc(1, sizeof(*kv));
    if (kv == NULL) {
        return status_fail(d, STATUS_NOMEM, "no memory for a KV pool");
    }
    kv->shape = *o;
    kv->head_bytes = head_bytes;
    kv->layer_page_bytes = page_bytes;
    const status s = b->table->kv_open(b, kv, d);
    if (s != STATUS_OK) {
        mem_free(kv);
        return s;
    }
    *out = kv;
    return STATUS_OK;
}

void backend_kv_close(backend *b, backend_kv *kv) {
    if (kv != NULL) {
        b->table->kv_close(b, kv);
        mem_free(kv);
    }
}

uint8_t *backend_kv_page(const backend_kv *kv, int32_t layer, uint32_t page) {
    CHECK(layer >= 0 && layer < kv->shape.layers);
    CHECK_LT(page, kv->shape.pages);
    return kv->base + ((uint64_t)layer * kv->shape.pages + page) * kv->layer_page_bytes;
}

bool backend_kv_on_host(const backend *b) {
    return b->table->kv_read == NULL;
}

static bool run_fine(const backend_kv *kv, const backend_kv_run *r) {
    if (r == NULL || r->layer_first < 0 || r->layers < 0 ||
        r->layers > kv->shape.layers - r->layer_first) {
        return false;
    }
    for (uint32_t i = 0; i < r->pages_count; i++) {
        if (r->pages[i] >= kv->shape.pages) {
            return false;
        }
    }
    return true;
}

status backend_kv_read(backend *b, const backend_kv *kv, const backend_kv_run *run, uint8_t *out) {
    REFUSE_UNLESS(kv != NULL && out != NULL && run_fine(kv, run) && !backend_kv_on_host(b));
    return b->table->kv_read(b, kv, run, out);
}

status backend_kv_write(backend *b, const backend_kv *kv, const backend_kv_run *run,
                        const uint8_t *in) {
    REFUSE_UNLESS(kv != NULL && in != NULL && run_fine(kv, run) && !backend_kv_on_host(b));
    return b->table->kv_write(b, kv, run, in);
}

static status pack(backend *b, const backend_kv *kv, const backend_kv_run *run, bool gather,
                   backend_kv_type type, void *staging, uint32_t *list, void *stream) {
    REFUSE_UNLESS(kv != NULL && staging != NULL && list != NULL && run_fine(kv, run));
    if (!b->table->kv_pack) {
        return STATUS_UNSUPPORTED;
    }
    return run->layers == 0 || run->pages_count == 0
               ? STATUS_OK
               : b->table->kv_pack(b, kv, run, gather, type, staging, list, stream);
}

status backend_kv_gather(backend *b, const backend_kv *kv, const backend_kv_run *run, void *staging,
                         uint32_t *list, void *stream) {
    return pack(b, kv, run, true, kv->shape.type, staging, list, stream);
}

status backend_kv_scatter(backend *b, const backend_kv *kv, const backend_kv_run *run,
                          const void *staging, uint32_t *list, void *stream) {
    return pack(b, kv, run, false, kv->shape.type, (void *)(uintptr_t)staging, list, stream);
}

status backend_kv_convert(backend *b, const backend_kv *kv, const backend_kv_run *run,
                          backend_kv_type type, const void *staging, uint32_t *list, void *stream) {
    REFUSE_UNLESS(type < BACKEND_KV_TYPES);
    return pack(b, kv, run, false, type, (void *)(uintptr_t)staging, list, stream);
}

status backend_kv_pack_slice(backend *b, const backend_kv *kv, const backend_kv_run *run,
                             bool gather, backend_kv_type type, const backend_kv_slice *slice,
                             void *stream) {
    REFUSE_UNLESS(kv != NULL && run_fine(kv, run) && slice != NULL && slice->staging != NULL);
    REFUSE_UNLESS(type < BACKEND_KV_TYPES && (!gather || type == kv->shape.type));
    const uint64_t bytes =
        backend_kv_head_bytes(type, kv->shape.head_dim) * (uint64_t)kv->shape.kv_heads;
    REFUSE_UNLESS(bytes <= slice->page_bytes && slice->first <= slice->page_bytes - bytes);
    if (!b->table->kv_pack_slice) {
        return STATUS_UNSUPPORTED;
    }
    return run->layers == 0 || run->pages_count == 0
               ? STATUS_OK
               : b->table->kv_pack_slice(b, kv, run, gather, type, slice, stream);
}

status backend_kv_copy(backend *b, backend_kv *kv, uint32_t from, uint32_t to) {
    REFUSE_UNLESS(kv != NULL && from < kv->shape.pages && to < kv->shape.pages);
    return from == to ? STATUS_OK : b->table->kv_copy(b, kv, from, to);
}

static bool rows_fine(int32_t rows) {
    return rows >= 0 && rows <= OPS_ROWS_MAX;
}

static bool width_fine(int32_t width) {
    return width >= 1 && width <= OPS_WIDTH_MAX;
}

/* True when [a, a + a_floats) and [b, b + b_floats) share memory. */
static bool overlaps(const float *a, int64_t a_floats, const float *b, int64_t b_floats) {
    const uintptr_t x = (uintptr_t)a, y = (uintptr_t)b;
    return x < y + (uintptr_t)b_floats * sizeof(float) &&
           y < x + (uintptr_t)a_floats * sizeof(float);
}

status backend_embed(backend *b, const ops_embed *op) {
    REFUSE_UNLESS(op != NULL && rows_fine(op->rows));
    if (op->rows == 0) {
        return STATUS_OK;
    }
    REFUSE_UNLESS(op->table != NULL && op->tokens != NULL && op->out != NULL);
    REFUSE_UNLESS(isfinite(op->scale) && op->scale != 0);
    for (int32_t r = 0; r < op->rows; r++) {
        REFUSE_UNLESS(op->tokens[r] >= 0 && op->tokens[r] < op->table->outputs);
    }
    return b->table->embed(b, op);
}

status backend_rmsnorm(backend *b, const ops_rmsnorm *op) {
    REFUSE_UNLESS(op != NULL && rows_fine(op->rows));
    if (op->rows == 0) {
        return STATUS_OK;
    }
    REFUSE_UNLESS(width_fine(op->width) && op->x != NULL && op->weight != NULL && op->out != NULL);
    REFUSE_UNLESS(op->epsilon >= 0);
    const int64_t floats = (int64_t)op->rows * op->width;
    REFUSE_UNLESS((op->out == op->x && !op->accumulate) ||
                  !overlaps(op->x, floats, op->out, floats));
    REFUSE_UNLESS(!overlaps(op->weight, op->width, op->out, floats));
    return b->table->rmsnorm(b, op);
}

status backend_silu_mul(backend *b, const ops_silu_mul *op) {
    REFUSE_UNLESS(op != NULL && rows_fine(op->rows));
    if (op->rows == 0) {
        return STATUS_OK;
    }
    REFUSE_UNLESS(width_fine(op->width) && op->gate != NULL && op->up != NULL && op->out != NULL);
    const int64_t floats = (int64_t)op->rows * op->width;
    REFUSE_UNLESS(op->out == op->gate || !overlaps(op->gate, floats, op->out, floats));
    REFUSE_UNLESS(op->out == op->up || !overlaps(op->up, floats, op->out, floats));
    return b->table->silu_mul(b, op);
}

status backend_softcap(backend *b, const ops_softcap *op) {
    REFUSE_UNLESS(op != NULL && rows_fine(op->rows));
    if (op->rows == 0) {
        return STATUS_OK;
    }
    REFUSE_UNLESS(width_fine(op->width) && op->x != NULL);
    REFUSE_UNLESS(isfinite(op->cap) && op->cap > 0);
    return b->table->softcap(b, op);
}

status backend_gather(backend *b, const ops_gather *op) {
    REFUSE_UNLESS(op != NULL && rows_fine(op->rows));
    if (op->rows == 0) {
        return STATUS_OK;
    }
    REFUSE_UNLESS(width_fine(op->width) && rows_fine(op->x_rows));
    REFUSE_UNLESS(op->x != NULL && op->index != NULL && op->out != NULL);
    REFUSE_UNLESS(
        !overlaps(op->x, (int64_t)op->x_rows * op->width, op->out, (int64_t)op->rows * op->width));
    for (int32_t r = 0; r < op->rows; r++) {
        REFUSE_UNLESS(op->index[r] >= 0 && op->index[r] < op->x_rows);
    }
    return b->table->gather(b, op);
}

static status linear_input_check(const ops_linear *op, int32_t inputs) {
    REFUSE_UNLESS(op->x != NULL);
    switch (op->input) {
        case OPS_INPUT_PLAIN:
            return STATUS_OK;
        case OPS_INPUT_RMSNORM:
            REFUSE_UNLESS(op->norm_weight != NULL && op->norm_epsilon >= 0);
            return STATUS_OK;
        case OPS_INPUT_SILU_MUL:
        case OPS_INPUT_GELU_MUL:
            REFUSE_UNLESS(op->x_up != NULL);
            REFUSE_UNLESS(inputs >= 1);
            return STATUS_OK;
    }
    return STATUS_INVALID;
}

static status linear_check(const ops_linear *op) {
    REFUSE_UNLESS(op != NULL && rows_fine(op->rows));
    REFUSE_UNLESS(op->parts_count >= 1 && op->parts_count <= OPS_LINEAR_PARTS_MAX);
    const backend_weight *first = op->parts[0].weight;
    REFUSE_UNLESS(first != NULL);
    for (int32_t i = 0; i < op->parts_count; i++) {
        const backend_weight *w = op->parts[i].weight;
        REFUSE_UNLESS(w != NULL && w->inputs == first->inputs);
        REFUSE_UNLESS(w->activations == first->activations);
    }
    if (op->rows == 0) {
        return STATUS_OK;
    }
    TRY(linear_input_check(op, first->inputs));
    const int64_t x_floats = (int64_t)op->rows * first->inputs;
    const bool gated = op->input == OPS_INPUT_SILU_MUL || op->input == OPS_INPUT_GELU_MUL;
    for (int32_t i = 0; i < op->parts_count; i++) {
        const ops_linear_part *p = &op->parts[i];
        const int64_t floats = (int64_t)op->rows * p->weight->outputs;
        REFUSE_UNLESS(p->out != NULL && !overlaps(op->x, x_floats, p->out, floats));
        REFUSE_UNLESS(!gated || !overlaps(op->x_up, x_floats, p->out, floats));
        for (int32_t j = 0; j < i; j++) {
            REFUSE_UNLESS(!overlaps(op->parts[j].out,
                                    (int64_t)op->rows * op->parts[j].weight->outputs, p->out,
                                    floats));
        }
    }
    return STATUS_OK;
}

status backend_linear(backend *b, const ops_linear *op) {
    TRY(linear_check(op));
    return op->rows == 0 ? STATUS_OK : b->table->linear(b, op);
}

/* Memory of an operator that has a row for each row of the chain. */
typedef struct {
    const float *at;
    int32_t width;
} chain_rows;

static int chain_memory(const ops_linear *op, chain_rows out[2 + OPS_LINEAR_PARTS_MAX]) {
    const int32_t inputs = op->parts[0].weight->inputs;
    const bool gated = op->input == OPS_INPUT_SILU_MUL || op->input == OPS_INPUT_GELU_MUL;
    int count = 0;
    out[count++] = (chain_rows){op->x, inputs};
    if (gated) {
        out[count++] = (chain_rows){op->x_up, inputs};
    }
    for (int32_t i = 0; i < op->parts_count; i++) {
        out[count++] = (chain_rows){op->parts[i].out, op->parts[i].weight->outputs};
    }
    return count;
}

/* Memory of two operators is apart, or the same rows of both. */
static status chain_check(const ops_linear *first, const ops_linear *second) {
    chain_rows a[2 + OPS_LINEAR_PARTS_MAX], b[2 + OPS_LINEAR_PARTS_MAX];
    const int a_count = chain_memory(first, a), b_count = chain_memory(second, b);
    for (int i = 0; i < a_count * b_count; i++) {
        const chain_rows *m = &a[i / b_count], *n = &b[i % b_count];
        const int64_t rows = first->rows;
        REFUSE_UNLESS((m->at == n->at && m->width == n->width) ||
                      !overlaps(m->at, rows * m->width, n->at, rows * n->width));
    }
    return STATUS_OK;
}

status backend_chain(backend *b, const ops_linear *ops, int32_t count) {
    REFUSE_UNLESS(ops != NULL && count >= 1 && count <= OPS_CHAIN_MAX);
    for (int32_t i = 0; i < count; i++) {
        TRY(linear_check(&ops[i]));
        REFUSE_UNLESS(ops[i].rows == ops[0].rows);
    }
    if (ops[0].rows == 0) {
        return STATUS_OK;
    }
    for (int32_t i = 0; i < count * count; i++) {
        if (i / count < i % count) {
            TRY(chain_check(&ops[i / count], &ops[i % count]));
        }
    }
    if (b->table->chain != NULL) {
        return b->table->chain(b, ops, count);
    }
    for (int32_t i = 0; i < count; i++) {
        TRY(b->table->linear(b, &ops[i]));
    }
    return STATUS_OK;
}

status backend_rope_table(backend *b, const ops_rope_table *op) {
    REFUSE_UNLESS(op != NULL && rows_fine(op->rows));
    if (op->rows == 0) {
        return STATUS_OK;
    }
    REFUSE_UNLESS(op->positions != NULL && op->table != NULL);
    REFUSE_UNLESS(op->dim >= 2 && op->dim % 2 == 0 && op->dim <= OPS_HEAD_DIM_MAX);
    REFUSE_UNLESS(isfinite(op->base) && op->base > 0 && isfinite(op->position_scale));
    for (int32_t i = 0; op->freq_factors != NULL && i < op->dim / 2; i++) {
        REFUSE_UNLESS(isfinite(op->freq_factors[i]) && op->freq_factors[i] > 0);
    }
    for (int32_t r = 0; r < op->rows; r++) {
        REFUSE_UNLESS(op->positions[r] >= 0 && op->positions[r] < LIMIT_CONTEXT_TOKENS);
    }
    return b->table->rope_table(b, op);
}

/* Sequences ascending and apart, every page they reach inside the pool. */
static status seqs_check(const backend_kv *kv, const ops_seq *seqs, int32_t seqs_count,
                         int32_t rows) {
    REFUSE_UNLESS(seqs_count >= 0 && (seqs_count == 0 || seqs != NULL));
    int64_t row_next = 0;
    for (int32_t i = 0; i < seqs_count; i++) {
        const ops_seq *s = &seqs[i];
        REFUSE_UNLESS(s->rows >= 0 && s->row_first >= row_next);
        row_next = (int64_t)s->row_first + s->rows;
        REFUSE_UNLESS(row_next <= rows && s->position_first >= 0);
        const int64_t tokens = (int64_t)s->position_first + s->rows;
        REFUSE_UNLESS(tokens <= LIMIT_CONTEXT_TOKENS);
        const int64_t pages = (tokens + LIMIT_PAGE_TOKENS - 1) / LIMIT_PAGE_TOKENS;
        REFUSE_UNLESS(s->pages_count >= pages && (pages == 0 || s->pages != NULL));
        for (int64_t p = 0; p < pages; p++) {
            REFUSE_UNLESS(s->pages[p] < kv->shape.pages);
        }
    }
    return STATUS_OK;
}

/* The same for an operator, unless its batch was checked when the forward pass began. */
static status layer_check(const backend *b, const backend_kv *kv, const ops_seq *seqs,
                          int32_t seqs_count, int32_t rows) {
    const ops_batch *begun = &b->begun;
    if (begun->seqs != NULL && begun->seqs == seqs && begun->kv == kv &&
        begun->seqs_count == seqs_count && begun->rows == rows) {
        return STATUS_OK;
    }
    return seqs_check(kv, seqs, seqs_count, rows);
}

static bool heads_fine(const backend_kv *kv, int32_t layer, int32_t heads) {
    return layer >= 0 && layer < kv->shape.layers && heads >= 1 && heads <= 1024 &&
           heads % kv->shape.kv_heads == 0;
}

status backend_reserve(backend *b, const ops_sizes *s) {
    REFUSE_UNLESS(s != NULL && s->rows_max >= 1 && s->rows_max <= OPS_ROWS_MAX);
    REFUSE_UNLESS(s->context_tokens >= 1 && s->context_tokens <= LIMIT_CONTEXT_TOKENS);
    REFUSE_UNLESS(width_fine(s->width_max) && s->heads >= 1 && s->heads <= 1024);
    REFUSE_UNLESS(s->kv_heads >= 1 && s->heads % s->kv_heads == 0);
    REFUSE_UNLESS(s->head_dim >= 1 && s->head_dim <= OPS_HEAD_DIM_MAX);
    REFUSE_UNLESS(s->windows >= 0 && s->windows <= OPS_WINDOWS_MAX);
    REFUSE_UNLESS(s->logit_rows_max >= 0 && s->vocab >= 0 && s->vocab <= OPS_VOCAB_MAX);
    return b->table->reserve != NULL ? b->table->reserve(b, s) : STATUS_OK;
}

status backend_batch(backend *b, const ops_batch *op) {
    b->begun.seqs = NULL;
    REFUSE_UNLESS(op != NULL && op->kv != NULL && rows_fine(op->rows));
    REFUSE_UNLESS(heads_fine(op->kv, 0, op->heads));
    REFUSE_UNLESS(op->windows_count >= 0 && op->windows_count <= OPS_WINDOWS_MAX);
    for (int32_t i = 0; i < op->windows_count; i++) {
        REFUSE_UNLESS(op->windows[i] >= 0);
    }
    TRY(seqs_check(op->kv, op->seqs, op->seqs_count, op->rows));
    if (op->rows > 0 && b->table->batch != NULL) {
        TRY(b->table->batch(b, op));
    }
    b->begun = *op;
    return STATUS_OK;
}

int32_t backend_graph_rows(const backend *b, int32_t rows) {
    return b->table->graph_rows != NULL && rows >= 1 ? b->table->graph_rows(b, rows) : 0;
}

status backend_batch_end(backend *b) {
    return b->table->batch_end != NULL ? b->table->batch_end(b) : STATUS_OK;
}

status backend_notify(backend *b, void (*call)(void *context, int32_t number), void *context,
                      int32_t number) {
    if (b->table->notify != NULL) {
        return b->table->notify(b, call, context, number);
    }
    call(context, number);
    return STATUS_OK;
}

status backend_rope_append(backend *b, const ops_rope_append *op) {
    REFUSE_UNLESS(op != NULL && op->kv != NULL && rows_fine(op->rows));
    REFUSE_UNLESS(heads_fine(op->kv, op->layer, op->heads));
    REFUSE_UNLESS(op->dim >= 2 && op->dim % 2 == 0 && op->dim <= op->kv->shape.head_dim);
    REFUSE_UNLESS(op->pairs == OPS_ROPE_INTERLEAVED || op->pairs == OPS_ROPE_NEOX);
    TRY(layer_check(b, op->kv, op->seqs, op->seqs_count, op->rows));
    if (op->rows == 0) {
        return STATUS_OK;
    }
    REFUSE_UNLESS(op->q != NULL && op->k != NULL && op->v != NULL && op->table != NULL);
    return b->table->rope_append(b, op);
}

status backend_attention(backend *b, const ops_attention *op) {
    REFUSE_UNLESS(op != NULL && op->kv != NULL && rows_fine(op->rows));
    REFUSE_UNLESS(heads_fine(op->kv, op->layer, op->heads) && isfinite(op->scale) &&
                  op->window >= 0 && isfinite(op->softcap) && op->softcap >= 0 &&
                  (!op->bf16 || b->bf16));
    TRY(layer_check(b, op->kv, op->seqs, op->seqs_count, op->rows));
    if (op->rows == 0) {
        return STATUS_OK;
    }
    REFUSE_UNLESS(op->q != NULL && op->out != NULL);
    const int64_t floats = (int64_t)op->rows * op->heads * op->kv->shape.head_dim;
    REFUSE_UNLESS(!overlaps(op->q, floats, op->out, floats));
    return b->table->attention(b, op);
}

status backend_group_make(backend *b, backend_group_id *out, diag *d) {
    REFUSE_UNLESS(out != NULL);
    if (b->table->group_make == NULL) {
        return status_fail_param(d, STATUS_UNSUPPORTED, "backend",
                                 "the %s backend does not share a model among devices", b->name);
    }
    return b->table->group_make(b, out, d);
}

status backend_group_join(backend *b, const backend_group_id *id, int32_t rank, int32_t ranks,
                          diag *d) {
    REFUSE_UNLESS(id != NULL && b->table->group_join != NULL && b->ranks == 0);
    REFUSE_UNLESS(ranks >= 2 && ranks <= BACKEND_RANKS_MAX && rank >= 0 && rank < ranks);
    TRY(b->table->group_join(b, id, rank, ranks, d));
    b->ranks = ranks;
    return STATUS_OK;
}

void backend_group_leave(backend *b) {
    if (b->table->group_leave != NULL) {
        b->table->group_leave(b);
    }
}

status backend_all_reduce(backend *b, const ops_all_reduce *op) {
    REFUSE_UNLESS(op != NULL && rows_fine(op->rows) && b->ranks > 0);
    if (op->rows == 0) {
        return STATUS_OK;
    }
    REFUSE_UNLESS(width_fine(op->width) && op->x != NULL);
    return b->table->all_reduce(b, op);
}

bool backend_samples(const backend *b) {
    return b->table->sample != NULL;
}

static bool sample_row_fine(const ops_sample *op, const ops_sample_row *r) {
    return r->logit_row >= 0 && r->logit_row < op->logit_rows && r->scored >= -1 &&
           r->scored < op->vocab && r->top_logprobs <= OPS_TOP_MAX && r->prompt_count >= 0 &&
           r->generated_count >= 0 &&
           (int64_t)r->prompt_count + r->generated_count <= LIMIT_CONTEXT_TOKENS &&
           r->biases_count >= 0 && r->biases_count <= OPS_VOCAB_MAX &&
           (r->prompt_count == 0 || r->prompt != NULL) &&
           (r->generated_count == 0 || r->generated != NULL) &&
           (r->biases_count == 0 || r->biases != NULL) && r->forbidden_count >= 0 &&
           r->forbidden_count <= OPS_FORBIDDEN_MAX &&
           (r->forbidden_count == 0 || r->forbidden != NULL) && r->temperature >= 0 &&
           r->repetition_penalty > 0;
}

status backend_sample(backend *b, const ops_sample *op) {
    REFUSE_UNLESS(op != NULL && rows_fine(op->rows) && rows_fine(op->logit_rows));
    REFUSE_UNLESS(backend_samples(b));
    if (op->rows == 0) {
        return STATUS_OK;
    }
    REFUSE_UNLESS(op->logits != NULL && op->rows_of != NULL && op->out != NULL);
    REFUSE_UNLESS(op->vocab >= 1 && op->vocab <= OPS_VOCAB_MAX);
    for (int32_t i = 0; i < op->rows; i++) {
        REFUSE_UNLESS(sample_row_fine(op, &op->rows_of[i]));
    }
    return b->table->sample(b, op);
}

status backend_sync(backend *b) {
    return b->table->sync(b);
}
