/* body_rows.h -- row operators, written once over vec_*.h and compiled for each instruction set.
 *
 * Purpose    exp, RMS norm, SiLU and the input side of a linear operator.
 * Ownership  Included by isa_*.c only, after one of vec_*.h.
 * Threads    As isa.h.
 * Limits     As isa.h.
 */
#include "engine/base/check.h"
#include "engine/base/limits.h"
#include "kernels/backend.h"
#include "kernels/cpu/body_group.h"
#include "kernels/cpu/isa.h"

#include <math.h>

/* 1.5 * 2^23: adding it rounds a small float to an integer, to nearest even, in the low bits. */
#define VEC_ROUND_MAGIC 12582912.0f

VEC_INLINE v16i v16_round(v16 x) {
    const v16 magic = v16_set(VEC_ROUND_MAGIC);
    return v16i_sub(v16_bits(v16_add(x, magic)), v16_bits(magic));
}

/* exp(x) = 2^n exp(r), |r| <= ln 2 / 2, Taylor to r^7 (relative error below 1e-7). Arguments are
 * held within [-87, 88], where 2^n is a normal number. Ordinary tables and minimax fits would save
 * a step; what matters here is that every instruction set does these very operations. */
VEC_INLINE v16 v16_exp(v16 x) {
    x = v16_max(v16_min(x, v16_set(88.0f)), v16_set(-87.0f));
    const v16 shifted = v16_fma(x, v16_set(1.44269504088896341f), v16_set(VEC_ROUND_MAGIC));
    const v16 n = v16_sub(shifted, v16_set(VEC_ROUND_MAGIC));
    v16 r = v16_fma(n, v16_set(-0.693359375f), x); /* ln 2 in two parts, the first of ten bits */
    r = v16_fma(n, v16_set(2.12194440e-4f), r);
    v16 p = v16_set(1.0f / 5040.0f);
    p = v16_fma(p, r, v16_set(1.0f / 720.0f));
    p = v16_fma(p, r, v16_set(1.0f / 120.0f));
    p = v16_fma(p, r, v16_set(1.0f / 24.0f));
    p = v16_fma(p, r, v16_set(1.0f / 6.0f));
    p = v16_fma(p, r, v16_set(0.5f));
    p = v16_fma(p, r, v16_set(1.0f));
    p = v16_fma(p, r, v16_set(1.0f));
    const v16i power = v16i_add(v16i_shift_exponent(v16_bits(shifted)), v16i_set(127 << 23));
    return v16_mul(p, v16_from_bits(power));
}

VEC_INLINE v16 v16_silu_mul(v16 gate, v16 up) {
    const v16 e = v16_exp(v16_sub(v16_zero(), gate));
    return v16_mul(v16_div(gate, v16_add(v16_set(1.0f), e)), up);
}

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
            const v16 y =
                rows_norm(v16_load_some(x + i, n), inverse, v16_load_some(op->weight + i, n));
            v16_store_some(out + i, y, n);
        }
    }
}

static void rows_silu_mul(const float *gate, const float *up, float *out, int64_t count) {
    for (int64_t i = 0; i < count; i += 16) {
        const int64_t n = count - i;
        const v16 y = v16_silu_mul(v16_load_some(gate + i, n), v16_load_some(up + i, n));
        v16_store_some(out + i, y, n);
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

/* One row's group of 32 to int8: scale = max |x| / 127, nearest even. */
VEC_INLINE void rows_quantise(v16 a, v16 b, isa_panel *p, int32_t lane) {
    const float maximum = v16_maximum(v16_max(v16_abs(a), v16_abs(b)));
    const float scale = maximum / 127.0f;
    const v16 inverse = v16_set(maximum > 0 ? 127.0f / maximum : 0.0f);
    const v16i qa = v16_round(v16_mul(a, inverse)), qb = v16_round(v16_mul(b, inverse));
    v16i_store_i8(p->quant[lane], qa);
    v16i_store_i8(p->quant[lane] + 16, qb);
    const int32_t low = v16i_sum(qa), sum = (int32_t)((uint32_t)low + (uint32_t)v16i_sum(qb));
    p->scale[lane] = scale;
    p->scaled_sum[lane] = scale * (float)sum;
    p->offset[lane] = (int32_t)(0u - 128u * (uint32_t)sum);
    p->offset_low[lane] = (int32_t)(0u - 128u * (uint32_t)low);
}

static void rows_input_int8(const isa_input *in) {
    const int32_t groups = in->inputs / TILE_GROUP;
    for (int32_t r = in->row_first; r < in->row_first + in->rows; r++) {
        const int64_t at = (int64_t)(in->row_base + r) * in->inputs;
        const float inverse = rows_input_inverse(in->op, at, in->inputs);
        isa_panel *panel = in->panels + (int64_t)(r / ISA_PANEL_ROWS) * groups;
        for (int32_t g = 0; g < groups; g++) {
            const v16 a = rows_input(in->op, at, TILE_GROUP * g, 16, inverse);
            const v16 b = rows_input(in->op, at, TILE_GROUP * g + 16, 16, inverse);
            rows_quantise(a, b, &panel[g], r % ISA_PANEL_ROWS);
        }
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
