/* body_rows.h -- row operators, written once over vec_*.h and compiled for each instruction set.
 *
 * Purpose    RMS norm, SiLU and the input side of a linear operator.
 * Ownership  Included by isa_*.c only, after one of vec_*.h.
 * Threads    As isa.h.
 * Limits     As isa.h.
 */
#include "engine/base/check.h"
#include "engine/base/limits.h"
#include "kernels/backend.h"
#include "kernels/cpu/body_exp.h"
#include "kernels/cpu/body_group.h"
#include "kernels/cpu/isa.h"

#include <math.h>

/* 1 / sqrt(mean(x^2) + epsilon). */
static float rows_inverse_rms(const float *x, int32_t width, float epsilon) {
    v16 sum = v16_zero();
    for (int32_t i = 0; i < width; i += 16) {
        const v16 v = v16_load_some(x + i, width - i);
        sum = v16_fma(v, v, sum);
    }
    return 1.0f / sqrtf(v16_sum(sum) / (float)width + epsilon);
}

VEC_INLINE v16 rows_norm(v16 x, float inverse, v16 weight) {
    return v16_mul(v16_mul(x, v16_set(inverse)), weight);
}

static void rows_rmsnorm(const ops_rmsnorm *op, int32_t row_first, int32_t rows) {
    const int32_t width = op->width;
    for (int32_t r = row_first; r < row_first + rows; r++) {
        const float *x = op->x + (int64_t)r * width;
        float *out = op->out + (int64_t)r * width;
        const float inverse = rows_inverse_rms(x, width, op->epsilon);
        for (int32_t i = 0; i < width; i += 16) {
            const int32_t n = width - i;
            v16 y = rows_norm(v16_load_some(x + i, n), inverse, v16_load_some(op->weight + i, n));
            if (op->accumulate) {
                y = v16_add(v16_load_some(out + i, n), y);
            }
            v16_store_some(out + i, y, n);
        }
    }
}

static void rows_silu_mul(const ops_silu_mul *op, int32_t row_first, int32_t rows) {
    const int64_t end = (int64_t)(row_first + rows) * op->width;
    for (int64_t i = (int64_t)row_first * op->width; i < end; i += 16) {
        const int64_t n = end - i;
        const v16 gate = v16_load_some(op->gate + i, n), up = v16_load_some(op->up + i, n);
        v16_store_some(op->out + i, op->gelu ? v16_gelu_mul(gate, up) : v16_silu_mul(gate, up), n);
    }
}

static void rows_softcap(const ops_softcap *op, int32_t row_first, int32_t rows) {
    const int64_t end = (int64_t)(row_first + rows) * op->width;
    const v16 cap = v16_set(op->cap);
    for (int64_t i = (int64_t)row_first * op->width; i < end; i += 16) {
        const int64_t n = end - i;
        const v16 x = v16_div(v16_load_some(op->x + i, n), cap);
        v16_store_some(op->x + i, v16_mul(v16_tanh(x), cap), n);
    }
}

/* Sixteen inputs of a linear operator after its transform. */
VEC_INLINE v16 rows_input(const ops_linear *op, int64_t at, int32_t i, int32_t n, float inverse) {
    const v16 x = v16_load_some(op->x + at + i, n);
    switch (op->input) {
        case OPS_INPUT_RMSNORM:
            return rows_norm(x, inverse, v16_load_some(op->norm_weight + i, n));
        case OPS_INPUT_SILU_MUL:
            return v16_silu_mul(x, v16_load_some(op->x_up + at + i, n));
        case OPS_INPUT_GELU_MUL:
            return v16_gelu_mul(x, v16_load_some(op->x_up + at + i, n));
        case OPS_INPUT_PLAIN:
            break;
    }
    return x;
}

static float rows_input_inverse(const ops_linear *op, int64_t at, int32_t inputs) {
    if (op->input != OPS_INPUT_RMSNORM) {
        return 1.0f;
    }
    return rows_inverse_rms(op->x + at, inputs, op->norm_epsilon);
}

/* One group of up to 16 rows on its way to int8. */
typedef struct {
    float x[ISA_PANEL_ROWS][TILE_GROUP];
    float maximum[ISA_PANEL_ROWS];
} rows_group;

VEC_INLINE void rows_group_take(const isa_input *in, int32_t group, const float *inverse_rms,
                                rows_group *out) {
    for (int32_t r = 0; r < in->rows; r++) {
        const int64_t at = (int64_t)(in->row_base + in->row_first + r) * in->inputs;
        const int32_t i = TILE_GROUP * group;
        const v16 a = rows_input(in->op, at, i, 16, inverse_rms[r]);
        const v16 b = rows_input(in->op, at, i + 16, 16, inverse_rms[r]);
        v16_store(out->x[r], a);
        v16_store(out->x[r] + 16, b);
        out->maximum[r] = v16_maximum(v16_max(v16_abs(a), v16_abs(b)));
    }
}

/* scale = max |x| / 127; quants to nearest even. `halves`: somebody wants the sums of inputs 0-15.
 */
VEC_INLINE void rows_group_put(const rows_group *group, int32_t rows, bool halves, isa_panel *p) {
    float inverse[ISA_PANEL_ROWS];
    int32_t sum[ISA_PANEL_ROWS] = {0}, low[ISA_PANEL_ROWS] = {0};
    const v16 maximum = v16_load(group->maximum);
    v16_store(p->scale, v16_div(maximum, v16_set(127.0f)));
    v16_store(inverse, v16_div(v16_set(127.0f), maximum));
    for (int32_t r = 0; r < rows; r++) {
        const v16 factor = v16_set(group->maximum[r] > 0 ? inverse[r] : 0.0f);
        const v16i qa = v16_round(v16_mul(v16_load(group->x[r]), factor));
        const v16i qb = v16_round(v16_mul(v16_load(group->x[r] + 16), factor));
        v16i_store_i8(p->quant[r], qa);
        v16i_store_i8(p->quant[r] + 16, qb);
        sum[r] = v16i_sum(v16i_add(qa, qb));
        low[r] = halves ? v16i_sum(qa) : 0;
    }
    for (int32_t r = 0; r < ISA_PANEL_ROWS; r++) {
        p->scaled_sum[r] = p->scale[r] * (float)sum[r];
        p->offset[r] = -128 * sum[r];
        p->offset_low[r] = -128 * low[r];
    }
}

/* A group is taken while the one before is put: its maxima are in memory when they are wanted. */
static void rows_input_int8(const isa_input *in) {
    const int32_t groups = in->inputs / TILE_GROUP, end = in->group_first + in->groups;
    isa_panel *panel = in->panels + (int64_t)(in->row_first / ISA_PANEL_ROWS) * groups;
    rows_group two[2] = {0};
    float inverse_rms[ISA_PANEL_ROWS];
    bool halves = false;
    for (int32_t p = 0; p < in->op->parts_count; p++) {
        halves = halves || in->op->parts[p].weight->type == BACKEND_Q6_K;
    }
    for (int32_t r = 0; r < in->rows; r++) {
        const int64_t at = (int64_t)(in->row_base + in->row_first + r) * in->inputs;
        inverse_rms[r] = rows_input_inverse(in->op, at, in->inputs);
    }
    rows_group_take(in, in->group_first, inverse_rms, &two[in->group_first % 2]);
    for (int32_t g = in->group_first; g < end; g++) {
        if (g + 1 < end) {
            rows_group_take(in, g + 1, inverse_rms, &two[(g + 1) % 2]);
        }
        rows_group_put(&two[g % 2], in->rows, halves, &panel[g]);
    }
}

static void rows_input_f32(const isa_input *in) {
    for (int32_t r = in->row_first; r < in->row_first + in->rows; r++) {
        const int64_t at = (int64_t)(in->row_base + r) * in->inputs;
        const float inverse = rows_input_inverse(in->op, at, in->inputs);
        for (int32_t i = 0; i < in->inputs; i += 16) {
            const int32_t n = in->inputs - i;
            const v16 y = rows_input(in->op, at, i, n, inverse);
            v16_store_some(in->x + (int64_t)r * in->inputs + i, y, n);
        }
    }
}
