/* cpuops.c -- row operators: shared out in blocks of rows. */
#include <math.h>
#include <string.h>

#include "kernels/cpu/cpustate.h"
#include "kernels/kmath.h"

enum { APPEND_ROWS_MIN = 2 }; /* worth telling another thread of */

typedef struct {
    const cpu *c;
    const void *op;
} row_job;

static void rows_run(const cpu *c, cpupool_fn fn, const void *op, int32_t rows) {
    row_job job = {c, op};
    cpupool_run(c->pool, fn, &job, (rows + CPU_ROW_ITEM - 1) / CPU_ROW_ITEM);
}

static int32_t item_rows(int32_t item, int32_t rows) {
    const int32_t left = rows - item * CPU_ROW_ITEM;
    return left < CPU_ROW_ITEM ? left : CPU_ROW_ITEM;
}

static void embed_item(void *context, int32_t item, int32_t thread) {
    const row_job *j = context;
    const ops_embed *op = j->op;
    const cpu_weight *w = (const cpu_weight *)(const void *)op->table;
    (void)thread;
    const int32_t first = item * CPU_ROW_ITEM, inputs = w->shape.inputs;
    for (int32_t r = first; r < first + item_rows(item, op->rows); r++) {
        tile_unpack_row(w->format, w->order, w->tiles, inputs, op->tokens[r],
                        op->out + (int64_t)r * inputs);
        for (int32_t k = 0; k < inputs && op->scale != 1.0f; k++) {
            op->out[(int64_t)r * inputs + k] *= op->scale;
        }
    }
}

status cpuops_embed(backend *b, const ops_embed *op) {
    rows_run(cpu_of(b), embed_item, op, op->rows);
    return STATUS_OK;
}

static void rmsnorm_item(void *context, int32_t item, int32_t thread) {
    const row_job *j = context;
    const ops_rmsnorm *op = j->op;
    (void)thread;
    j->c->kernels->rmsnorm(op, item * CPU_ROW_ITEM, item_rows(item, op->rows));
}

status cpuops_rmsnorm(backend *b, const ops_rmsnorm *op) {
    rows_run(cpu_of(b), rmsnorm_item, op, op->rows);
    return STATUS_OK;
}

static void silu_mul_item(void *context, int32_t item, int32_t thread) {
    const row_job *j = context;
    const ops_silu_mul *op = j->op;
    (void)thread;
    j->c->kernels->silu_mul(op, item * CPU_ROW_ITEM, item_rows(item, op->rows));
}

status cpuops_silu_mul(backend *b, const ops_silu_mul *op) {
    rows_run(cpu_of(b), silu_mul_item, op, op->rows);
    return STATUS_OK;
}

static void softcap_item(void *context, int32_t item, int32_t thread) {
    const row_job *j = context;
    const ops_softcap *op = j->op;
    (void)thread;
    j->c->kernels->softcap(op, item * CPU_ROW_ITEM, item_rows(item, op->rows));
}

status cpuops_softcap(backend *b, const ops_softcap *op) {
    rows_run(cpu_of(b), softcap_item, op, op->rows);
    return STATUS_OK;
}

status cpuops_gather(backend *b, const ops_gather *op) {
    (void)b;
    const size_t bytes = (size_t)op->width * sizeof(float);
    for (int32_t r = 0; r < op->rows; r++) {
        memcpy(op->out + (int64_t)r * op->width, op->x + (int64_t)op->index[r] * op->width, bytes);
    }
    return STATUS_OK;
}

typedef struct {
    const ops_rope_table *op;
    float frequency[OPS_HEAD_DIM_MAX / 2];
} rope_job;

static void rope_table_item(void *context, int32_t item, int32_t thread) {
    const rope_job *j = context;
    const ops_rope_table *op = j->op;
    (void)thread;
    const int32_t first = item * CPU_ROW_ITEM, half = op->dim / 2;
    for (int32_t r = first; r < first + item_rows(item, op->rows); r++) {
        float *row = op->table + (int64_t)r * op->dim;
        const double position = (double)op->positions[r] * op->position_scale;
        for (int32_t i = 0; i < half; i++) {
            double sine, cosine;
            kmath_sincos(position * (double)j->frequency[i], &sine, &cosine);
            row[i] = (float)cosine * op->magnitude;
            row[half + i] = (float)sine * op->magnitude;
        }
    }
}

/* Frequencies are rounded to f32, which hides the last bits in which C libraries' pow differ;
 * models are trained with f32 frequencies too. */
status cpuops_rope_table(backend *b, const ops_rope_table *op) {
    rope_job job = {.op = op};
    for (int32_t i = 0; i < op->dim / 2; i++) {
        const double frequency = pow(op->base, -2.0 * (double)i / (double)op->dim);
        const double factor = op->freq_factors != NULL ? (double)op->freq_factors[i] : 1.0;
        job.frequency[i] = (float)(frequency / factor);
    }
    cpupool_run(cpu_of(b)->pool, rope_table_item, &job,
                (op->rows + CPU_ROW_ITEM - 1) / CPU_ROW_ITEM);
    return STATUS_OK;
}

typedef struct {
    const cpu *c;
    const ops_rope_append *op;
    int32_t rows; /* of an item */
} append_job;

/* The part of each sequence that lies in this block of batch rows. */
static void rope_append_item(void *context, int32_t item, int32_t thread) {
    const append_job *j = context;
    const ops_rope_append *op = j->op;
    (void)thread;
    const int32_t first = item * j->rows, left = op->rows - first;
    const int32_t end = first + (left < j->rows ? left : j->rows);
    for (int32_t i = 0; i < op->seqs_count; i++) {
        const ops_seq *s = &op->seqs[i];
        const int32_t from = s->row_first > first ? s->row_first : first;
        const int32_t last = s->row_first + s->rows;
        const int32_t to = last < end ? last : end;
        if (from < to) {
            j->c->kernels->rope_append(op, s, from - s->row_first, to - from);
        }
    }
}

/* Rows of one sequence write the same lines of a page, rows of different ones wait for different
 * pages to come: such are shared out to all threads, be they ever so few. */
status cpuops_rope_append(backend *b, const ops_rope_append *op) {
    const cpu *c = cpu_of(b);
    append_job job = {c, op, CPU_ROW_ITEM};
    if (op->seqs_count == op->rows) {
        const int32_t each = cpu_divide_up(op->rows, 2 * c->shared.threads);
        job.rows = each < APPEND_ROWS_MIN ? APPEND_ROWS_MIN
                   : each < CPU_ROW_ITEM  ? each
                                          : CPU_ROW_ITEM;
    }
    cpupool_run(c->pool, rope_append_item, &job, cpu_divide_up(op->rows, job.rows));
    return STATUS_OK;
}
