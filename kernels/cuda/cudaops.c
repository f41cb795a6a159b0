/* cudaops.c -- from the operators of ops.h to launches: host arrays sent, structs filled. */
#include <math.h>

#include "kernels/cuda/cudastate.h"

/* A launch, unless a graph is going to do it. */
#define LAUNCH(c, launch) \
    ((c)->graph_mode == CUDAGRAPH_REPLAYED ? STATUS_OK : cudastate_check((c), (launch)))

static const cuda_matrix *matrix_of(const backend_weight *w) {
    return &((const cudastate_weight *)w)->matrix;
}

/* The call's host array on the device. */
static status send_index(cudastate *c, const void *host, uint64_t bytes, const void **device) {
    TRY(cudastate_reserve(c, &c->index, bytes));
    *device = c->index.memory;
    return cudastream_send(c, c->index.memory, host, bytes);
}

status cudaops_embed(backend *b, const ops_embed *op) {
    cudastate *c = (cudastate *)b;
    const void *tokens;
    TRY(send_index(c, op->tokens, (uint64_t)op->rows * sizeof(int32_t), &tokens));
    const cuda_embed k = {*matrix_of(op->table), tokens, op->out, op->rows, op->scale};
    return LAUNCH(c, plain_embed(&k, c->stream));
}

status cudaops_rmsnorm(backend *b, const ops_rmsnorm *op) {
    cudastate *c = (cudastate *)b;
    const cuda_rmsnorm k = {op->x,     op->weight,  op->out,       op->rows,
                            op->width, op->epsilon, op->accumulate};
    return LAUNCH(c, plain_rmsnorm(&k, c->stream));
}

status cudaops_silu_mul(backend *b, const ops_silu_mul *op) {
    cudastate *c = (cudastate *)b;
    const cuda_silu_mul k = {op->gate, op->up, op->out, (int64_t)op->rows * op->width, op->gelu};
    return LAUNCH(c, plain_silu_mul(&k, c->stream));
}

status cudaops_softcap(backend *b, const ops_softcap *op) {
    cudastate *c = (cudastate *)b;
    const cuda_softcap k = {op->x, (int64_t)op->rows * op->width, op->cap};
    return LAUNCH(c, plain_softcap(&k, c->stream));
}

status cudaops_gather(backend *b, const ops_gather *op) {
    cudastate *c = (cudastate *)b;
    const void *index;
    TRY(send_index(c, op->index, (uint64_t)op->rows * sizeof(int32_t), &index));
    const cuda_gather k = {op->x, index, op->out, op->rows, op->width};
    return LAUNCH(c, plain_gather(&k, c->stream));
}

/* The rows as the plain kernel meets them: x itself, or transformed in `input`. */
static status linear_input(cudastate *c, const ops_linear *op, int32_t inputs, const float **x) {
    *x = op->x;
    if (op->input == OPS_INPUT_PLAIN) {
        return STATUS_OK;
    }
    const uint64_t floats = (uint64_t)op->rows * (uint64_t)inputs;
    TRY(cudastate_reserve(c, &c->input, floats * sizeof(float)));
    *x = c->input.memory;
    if (op->input == OPS_INPUT_RMSNORM) {
        const cuda_rmsnorm k = {
            op->x, op->norm_weight, c->input.memory, op->rows, inputs, op->norm_epsilon, false};
        return LAUNCH(c, plain_rmsnorm(&k, c->stream));
    }
    const cuda_silu_mul k = {op->x, op->x_up, c->input.memory, (int64_t)floats,
                             op->input == OPS_INPUT_GELU_MUL};
    return LAUNCH(c, plain_silu_mul(&k, c->stream));
}

static status linear_plain(cudastate *c, const ops_linear *op) {
    const float *x;
    TRY(linear_input(c, op, op->parts[0].weight->inputs, &x));
    for (int32_t i = 0; i < op->parts_count; i++) {
        const ops_linear_part *p = &op->parts[i];
        const cuda_linear k = {*matrix_of(p->weight), x, p->bias, p->out, op->rows, p->accumulate};
        TRY(LAUNCH(c, plain_linear(&k, c->stream)));
    }
    return STATUS_OK;
}

/* Rows to bf16 in `input`. */
static status linear_rows(cudastate *c, const ops_linear *op, cuda_rows *r) {
    static const cuda_rows_input inputs[] = {[OPS_INPUT_PLAIN] = CUDA_ROWS_PLAIN,
                                             [OPS_INPUT_RMSNORM] = CUDA_ROWS_RMSNORM,
                                             [OPS_INPUT_SILU_MUL] = CUDA_ROWS_SILU_MUL,
                                             [OPS_INPUT_GELU_MUL] = CUDA_ROWS_GELU_MUL};
    const int32_t width = op->parts[0].weight->inputs;
    const int32_t stride = (width + CUDA_SPAN - 1) / CUDA_SPAN * CUDA_SPAN + 32;
    const uint64_t passes = ((uint64_t)op->rows + CUDA_ROWS_PASS - 1) / CUDA_ROWS_PASS;
    const uint64_t elements = passes * CUDA_ROWS_PASS * (uint64_t)stride;
    TRY(cudastate_reserve(c, &c->input, elements * 2 + elements / 32 * sizeof(float)));
    *r = (cuda_rows){.x = op->x,
                     .x_up = op->x_up,
                     .norm_weight = op->norm_weight,
                     .norm_epsilon = op->norm_epsilon,
                     .input = inputs[op->input],
                     .rows = op->rows,
                     .width = width,
                     .stride = stride,
                     .rows_bf16 = c->input.memory,
                     .sums = (float *)(void *)((uint8_t *)c->input.memory + elements * 2)};
    return LAUNCH(c, stream_rows(r, c->stream));
}

status cudaops_linear(backend *b, const ops_linear *op) {
    cudastate *c = (cudastate *)b;
    if (c->plain) {
        return linear_plain(c, op);
    }
    cuda_rows r;
    TRY(linear_rows(c, op, &r));
    /* Parts of one storage share a launch. */
    for (int32_t first = 0; first < op->parts_count;) {
        if (cudalibrary_can(c, op, &op->parts[first])) {
            const status s = cudalibrary_product(c, &r, &op->parts[first]);
            if (s == STATUS_OK) {
                first++;
                continue;
            }
            if (s != STATUS_UNSUPPORTED) {
                return s;
            }
        }
        cuda_product k = {
            .rows_bf16 = r.rows_bf16, .sums = r.sums, .rows = op->rows, .stride = r.stride};
        const cuda_store store = matrix_of(op->parts[first].weight)->store;
        for (; first < op->parts_count && matrix_of(op->parts[first].weight)->store == store;
             first++) {
            const ops_linear_part *p = &op->parts[first];
            k.parts[k.parts_count++] =
                (cuda_product_part){*matrix_of(p->weight), p->bias, p->out, p->accumulate};
        }
        TRY(LAUNCH(c, stream_product(&k, c->multiprocessors, c->stream)));
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
    TRY(cudastream_send(c, at, frequency, frequency_bytes));
    TRY(cudastream_send(c, at + frequency_bytes, op->positions, position_bytes));
    const cuda_rope_table k = {(const int32_t *)(const void *)(at + frequency_bytes),
                               (const double *)(const void *)at,
                               op->table,
                               op->magnitude,
                               op->rows,
                               op->dim};
    return LAUNCH(c, plain_rope_table(&k, c->stream));
}

static cuda_kv_layer kv_layer_of(const backend_kv *kv, int32_t layer) {
    const uint64_t layer_bytes = (uint64_t)kv->shape.pages * kv->layer_page_bytes;
    return (cuda_kv_layer){.layer = kv->base + (uint64_t)layer * layer_bytes,
                           .page_bytes = kv->layer_page_bytes,
                           .head_bytes = kv->head_bytes,
                           .kv_heads = kv->shape.kv_heads,
                           .head_dim = kv->shape.head_dim,
                           .type = (cuda_kv_type)kv->shape.type};
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
    TRY(cudabatch_tables(c, op->seqs, op->seqs_count, op->rows, &k.batch));
    return LAUNCH(c,
                  c->plain ? plain_rope_append(&k, c->stream) : fused_rope_append(&k, c->stream));
}

status cudaops_attention(backend *b, const ops_attention *op) {
    cudastate *c = (cudastate *)b;
    cuda_attention k = {.q = op->q,
                        .out = op->out,
                        .kv = kv_layer_of(op->kv, op->layer),
                        .rows = op->rows,
                        .heads = op->heads,
                        .scale = op->scale,
                        .softcap = op->softcap,
                        .window = op->window};
    TRY(cudabatch_tables(c, op->seqs, op->seqs_count, op->rows, &k.batch));
    if (c->plain || op->seqs_count == 0 || !attention_tensor_can(&k, c->shared_max)) {
        return LAUNCH(c, plain_attention(&k, c->stream));
    }
    const cudabatch_heads heads = {k.heads, k.kv.kv_heads, k.kv.head_dim, k.window};
    TRY(cudabatch_work(c, op->seqs, op->seqs_count, op->rows, &heads, &k.work));
    return LAUNCH(c, attention_tensor(&k, c->stream));
}
