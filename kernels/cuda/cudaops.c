/* cudaops.c -- from the operators of ops.h to launches: host arrays sent, structs filled. */
#include <math.h>
#include <string.h>

#include "engine/base/limits.h"
#include "engine/base/mem.h"
#include "kernels/cuda/cudastate.h"

static const cuda_matrix *matrix_of(const backend_weight *w) {
    return &((const cudastate_weight *)w)->matrix;
}

/* The call's host array on the device. */
static status send_index(cudastate *c, const void *host, uint64_t bytes, const void **device) {
    TRY(cudastate_reserve(c, &c->index, bytes));
    *device = c->index.memory;
    return cudastate_send(c, c->index.memory, host, bytes);
}

status cudaops_embed(backend *b, const ops_embed *op) {
    cudastate *c = (cudastate *)b;
    const void *tokens;
    TRY(send_index(c, op->tokens, (uint64_t)op->rows * sizeof(int32_t), &tokens));
    const cuda_embed k = {*matrix_of(op->table), tokens, op->out, op->rows};
    return cudastate_check(c, plain_embed(&k, c->stream));
}

status cudaops_rmsnorm(backend *b, const ops_rmsnorm *op) {
    cudastate *c = (cudastate *)b;
    const cuda_rmsnorm k = {op->x, op->weight, op->out, op->rows, op->width, op->epsilon};
    return cudastate_check(c, plain_rmsnorm(&k, c->stream));
}

status cudaops_silu_mul(backend *b, const ops_silu_mul *op) {
    cudastate *c = (cudastate *)b;
    const cuda_silu_mul k = {op->gate, op->up, op->out, (int64_t)op->rows * op->width};
    return cudastate_check(c, plain_silu_mul(&k, c->stream));
}

status cudaops_gather(backend *b, const ops_gather *op) {
    cudastate *c = (cudastate *)b;
    const void *index;
    TRY(send_index(c, op->index, (uint64_t)op->rows * sizeof(int32_t), &index));
    const cuda_gather k = {op->x, index, op->out, op->rows, op->width};
    return cudastate_check(c, plain_gather(&k, c->stream));
}

/* The rows as the weights meet them: x itself, or transformed in `input`. */
static status linear_input(cudastate *c, const ops_linear *op, int32_t inputs, const float **x) {
    *x = op->x;
    if (op->input == OPS_INPUT_PLAIN) {
        return STATUS_OK;
    }
    const uint64_t floats = (uint64_t)op->rows * (uint64_t)inputs;
    TRY(cudastate_reserve(c, &c->input, floats * sizeof(float)));
    *x = c->input.memory;
    if (op->input == OPS_INPUT_RMSNORM) {
        const cuda_rmsnorm k = {op->x,    op->norm_weight, c->input.memory,
                                op->rows, inputs,          op->norm_epsilon};
        return cudastate_check(c, plain_rmsnorm(&k, c->stream));
    }
    const cuda_silu_mul k = {op->x, op->x_up, c->input.memory, (int64_t)floats};
    return cudastate_check(c, plain_silu_mul(&k, c->stream));
}

status cudaops_linear(backend *b, const ops_linear *op) {
    cudastate *c = (cudastate *)b;
    const float *x;
    TRY(linear_input(c, op, op->parts[0].weight->inputs, &x));
    for (int32_t i = 0; i < op->parts_count; i++) {
        const ops_linear_part *p = &op->parts[i];
        const cuda_linear k = {*matrix_of(p->weight), x, p->bias, p->out, op->rows, p->accumulate};
        TRY(cudastate_check(c, plain_linear(&k, c->stream)));
    }
    return STATUS_OK;
}

status cudaops_rope_table(backend *b, const ops_rope_table *op) {
    cudastate *c = (cudastate *)b;
    double frequency[OPS_HEAD_DIM_MAX / 2];
    const int32_t half = op->dim / 2;
    for (int32_t i = 0; i < half; i++) {
        const double factor = op->freq_factors != NULL ? (double)op->freq_factors[i] : 1.0;
        frequency[i] =
            op->position_scale * pow(op->base, -2.0 * (double)i / (double)op->dim) / factor;
    }
    const uint64_t frequency_bytes = (uint64_t)half * sizeof(double);
    const uint64_t position_bytes = (uint64_t)op->rows * sizeof(int32_t);
    TRY(cudastate_reserve(c, &c->index, frequency_bytes + position_bytes));
    uint8_t *at = c->index.memory;
    TRY(cudastate_send(c, at, frequency, frequency_bytes));
    TRY(cudastate_send(c, at + frequency_bytes, op->positions, position_bytes));
    const cuda_rope_table k = {(const int32_t *)(const void *)(at + frequency_bytes),
                               (const double *)(const void *)at,
                               op->table,
                               op->magnitude,
                               op->rows,
                               op->dim};
    return cudastate_check(c, plain_rope_table(&k, c->stream));
}

/* Sequences as the kernels read them, in one run of four-byte words: row_seq[rows], position[rows],
 * pages_first[seqs], then the block tables. */
static void tables_fill(const ops_seq *seqs, int32_t seqs_count, int32_t rows, int32_t *words) {
    int32_t *row_seq = words, *position = words + rows, *first = words + 2 * (int64_t)rows;
    int32_t *pages = first + seqs_count;
    int32_t used = 0;
    for (int32_t r = 0; r < rows; r++) {
        row_seq[r] = -1;
        position[r] = 0;
    }
    for (int32_t i = 0; i < seqs_count; i++) {
        const ops_seq *s = &seqs[i];
        const int32_t tokens = s->position_first + s->rows;
        const int32_t count = (tokens + LIMIT_PAGE_TOKENS - 1) / LIMIT_PAGE_TOKENS;
        for (int32_t r = 0; r < s->rows; r++) {
            row_seq[s->row_first + r] = i;
            position[s->row_first + r] = s->position_first + r;
        }
        first[i] = used;
        memcpy(pages + used, s->pages, (size_t)count * sizeof(pages[0]));
        used += count;
    }
}

/* The batch on the device; it is sent again only when it is another one than before. */
static status batch_of(cudastate *c, const ops_seq *seqs, int32_t seqs_count, int32_t rows,
                       cuda_batch *out) {
    uint64_t words = 2 * (uint64_t)rows + (uint64_t)seqs_count;
    for (int32_t i = 0; i < seqs_count; i++) {
        const int32_t tokens = seqs[i].position_first + seqs[i].rows;
        words += (uint64_t)((tokens + LIMIT_PAGE_TOKENS - 1) / LIMIT_PAGE_TOKENS);
    }
    const uint64_t bytes = words * sizeof(int32_t);
    int32_t *fresh = mem_alloc(words, sizeof(fresh[0]));
    if (fresh == NULL) {
        return STATUS_NOMEM;
    }
    tables_fill(seqs, seqs_count, rows, fresh);
    if (c->tables_host != NULL && c->tables_bytes == bytes &&
        memcmp(c->tables_host, fresh, bytes) == 0) {
        mem_free(fresh);
    } else {
        mem_free(c->tables_host);
        c->tables_host = (uint8_t *)fresh;
        c->tables_bytes = bytes;
        TRY(cudastate_reserve(c, &c->tables, bytes));
        TRY(cudastate_send(c, c->tables.memory, fresh, bytes));
    }
    const int32_t *at = c->tables.memory;
    *out = (cuda_batch){.row_seq = at,
                        .position = at + rows,
                        .pages_first = at + 2 * (int64_t)rows,
                        .pages = (const uint32_t *)(at + 2 * (int64_t)rows + seqs_count)};
    return STATUS_OK;
}

static cuda_kv_layer kv_layer_of(const backend_kv *kv, int32_t layer) {
    const uint64_t layer_bytes = (uint64_t)kv->shape.pages * kv->layer_page_bytes;
    return (cuda_kv_layer){.layer = kv->base + (uint64_t)layer * layer_bytes,
                           .page_bytes = kv->layer_page_bytes,
                           .head_bytes = kv->head_bytes,
                           .kv_heads = kv->shape.kv_heads,
                           .head_dim = kv->shape.head_dim,
                           .f32 = kv->shape.type == BACKEND_KV_F32};
}

status cudaops_rope_append(backend *b, const ops_rope_append *op) {
    cudastate *c = (cudastate *)b;
    cuda_rope_append k = {.q = op->q,
                          .k = op->k,
                          .v = op->v,
                          .table = op->table,
                          .kv = kv_layer_of(op->kv, op->layer),
                          .rows = op->rows,
                          .heads = op->heads,
                          .dim = op->dim,
                          .interleaved = op->pairs == OPS_ROPE_INTERLEAVED};
    TRY(batch_of(c, op->seqs, op->seqs_count, op->rows, &k.batch));
    return cudastate_check(c, plain_rope_append(&k, c->stream));
}

status cudaops_attention(backend *b, const ops_attention *op) {
    cudastate *c = (cudastate *)b;
    cuda_attention k = {.q = op->q,
                        .out = op->out,
                        .kv = kv_layer_of(op->kv, op->layer),
                        .rows = op->rows,
                        .heads = op->heads,
                        .scale = op->scale};
    TRY(batch_of(c, op->seqs, op->seqs_count, op->rows, &k.batch));
    return cudastate_check(c, plain_attention(&k, c->stream));
}
