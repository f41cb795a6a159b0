/* vec_portable.h -- sixteen virtual lanes in plain C; see vec_avx512.h.
 *
 * Purpose    The functions of vec_avx512.h with the same bits, for any machine, and the reference
 *            the others are tested against.
 * Ownership  Values.
 * Threads    Pure functions.
 * Limits     As vec_avx512.h. Slow where fmaf is not an instruction.
 */
#ifndef KERNELS_CPU_VEC_PORTABLE_H
#define KERNELS_CPU_VEC_PORTABLE_H

#include <math.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#include "kernels/kmath.h"

#define VEC_INLINE static inline
/* No registers to aim for: small code instead. */
#define BODY_INLINE static
#define UNROLL

typedef struct {
    float lane[16];
} v16;
typedef struct {
    int32_t lane[16];
} v16i;
typedef struct {
    uint8_t byte[64];
} v64;
typedef struct {
    int8_t byte[4];
} vquad;

enum {
    VEC_TILES = 1,
    VEC_ROWS = 1,
    VEC_NARROW_ROWS = 8,
    VEC_STREAM_ROWS = 8,
    VEC_QUERIES = 1,
    VEC_FLOAT_ROWS = 1,
    VEC_BYTE_QUERIES = 1,
    VEC_BYTE_VECTORS = 4
};

/* One statement for every lane i of the result r. */
#define VEC_LANES(type, statement) \
    type r;                        \
    for (int i = 0; i < 16; i++) { \
        statement;                 \
    }                              \
    return r

VEC_INLINE v16 v16_set(float x) {
    VEC_LANES(v16, r.lane[i] = x);
}
VEC_INLINE v16 v16_zero(void) {
    return v16_set(0);
}
VEC_INLINE v16 v16_load(const float *p) {
    v16 r;
    memcpy(&r, p, sizeof(r));
    return r;
}
VEC_INLINE void v16_store(float *p, v16 v) {
    memcpy(p, &v, sizeof(v));
}
VEC_INLINE v16 v16_load_f16(const uint16_t *p) {
    VEC_LANES(v16, r.lane[i] = kmath_f16(p[i]));
}
VEC_INLINE v16 v16_load_bf16(const uint16_t *p) {
    VEC_LANES(v16, r.lane[i] = kmath_bf16(p[i]));
}
VEC_INLINE v16 v16_load_e4m3(const uint8_t *p) {
    VEC_LANES(v16, r.lane[i] = kmath_e4m3(p[i]));
}
VEC_INLINE void v16_store_f16(uint16_t *p, v16 v) {
    for (int i = 0; i < 16; i++) {
        p[i] = kmath_to_f16(v.lane[i]);
    }
}
VEC_INLINE void v16_store_bf16(uint16_t *p, v16 v) {
    for (int i = 0; i < 16; i++) {
        p[i] = kmath_to_bf16(v.lane[i]);
    }
}
VEC_INLINE v16 v16_add(v16 a, v16 b) {
    VEC_LANES(v16, r.lane[i] = a.lane[i] + b.lane[i]);
}
VEC_INLINE v16 v16_sub(v16 a, v16 b) {
    VEC_LANES(v16, r.lane[i] = a.lane[i] - b.lane[i]);
}
VEC_INLINE v16 v16_mul(v16 a, v16 b) {
    VEC_LANES(v16, r.lane[i] = a.lane[i] * b.lane[i]);
}
VEC_INLINE v16 v16_div(v16 a, v16 b) {
    VEC_LANES(v16, r.lane[i] = a.lane[i] / b.lane[i]);
}
VEC_INLINE v16 v16_fma(v16 a, v16 b, v16 c) {
    VEC_LANES(v16, r.lane[i] = fmaf(a.lane[i], b.lane[i], c.lane[i]));
}
VEC_INLINE v16 v16_max(v16 a, v16 b) {
    VEC_LANES(v16, r.lane[i] = a.lane[i] > b.lane[i] ? a.lane[i] : b.lane[i]);
}
VEC_INLINE v16 v16_min(v16 a, v16 b) {
    VEC_LANES(v16, r.lane[i] = a.lane[i] < b.lane[i] ? a.lane[i] : b.lane[i]);
}
VEC_INLINE v16 v16_abs(v16 a) {
    VEC_LANES(v16, r.lane[i] = fabsf(a.lane[i]));
}
VEC_INLINE v16 v16_first(v16 a, v16 b, int32_t n) {
    VEC_LANES(v16, r.lane[i] = i < n ? a.lane[i] : b.lane[i]);
}
VEC_INLINE v16i v16_bits(v16 a) {
    v16i r;
    memcpy(&r, &a, sizeof(r));
    return r;
}
VEC_INLINE v16 v16_from_bits(v16i a) {
    v16 r;
    memcpy(&r, &a, sizeof(r));
    return r;
}
VEC_INLINE v16 v16_from_int(v16i a) {
    VEC_LANES(v16, r.lane[i] = (float)a.lane[i]);
}
VEC_INLINE float v16_sum(v16 a) {
    for (int half = 8; half >= 1; half /= 2) {
        for (int i = 0; i < half; i++) {
            a.lane[i] = a.lane[i] + a.lane[i + half];
        }
    }
    return a.lane[0];
}
VEC_INLINE float v16_maximum(v16 a) {
    for (int half = 8; half >= 1; half /= 2) {
        for (int i = 0; i < half; i++) {
            a.lane[i] = a.lane[i] > a.lane[i + half] ? a.lane[i] : a.lane[i + half];
        }
    }
    return a.lane[0];
}
VEC_INLINE v16 v16_hadamard(v16 v) {
    for (int apart = 1; apart < 16; apart *= 2) {
        v16 r;
        for (int i = 0; i < 16; i++) {
            const float other = v.lane[i ^ apart];
            r.lane[i] = (i & apart) != 0 ? other - v.lane[i] : v.lane[i] + other;
        }
        v = r;
    }
    return v;
}
VEC_INLINE v16i v16i_set(int32_t x) {
    VEC_LANES(v16i, r.lane[i] = x);
}
VEC_INLINE v16i v16i_load(const int32_t *p) {
    VEC_LANES(v16i, r.lane[i] = p[i]);
}
VEC_INLINE void v16i_store(int32_t *p, v16i a) {
    memcpy(p, a.lane, sizeof(a.lane));
}
/* Integer lanes wrap around. */
VEC_INLINE v16i v16i_add(v16i a, v16i b) {
    VEC_LANES(v16i, r.lane[i] = (int32_t)((uint32_t)a.lane[i] + (uint32_t)b.lane[i]));
}
VEC_INLINE v16i v16i_sub(v16i a, v16i b) {
    VEC_LANES(v16i, r.lane[i] = (int32_t)((uint32_t)a.lane[i] - (uint32_t)b.lane[i]));
}
VEC_INLINE v16i v16i_shift_exponent(v16i a) {
    VEC_LANES(v16i, r.lane[i] = (int32_t)((uint32_t)a.lane[i] << 23));
}
VEC_INLINE v16i v16i_shift_right(v16i a, int by) {
    VEC_LANES(v16i, r.lane[i] = (int32_t)((uint32_t)a.lane[i] >> by));
}
VEC_INLINE v16i v16i_and(v16i a, v16i b) {
    VEC_LANES(v16i, r.lane[i] = a.lane[i] & b.lane[i]);
}
VEC_INLINE int32_t v16i_sum(v16i a) {
    uint32_t sum = 0;
    for (int i = 0; i < 16; i++) {
        sum += (uint32_t)a.lane[i];
    }
    return (int32_t)sum;
}
VEC_INLINE void v16i_store_i8(int8_t *p, v16i a) {
    for (int i = 0; i < 16; i++) {
        p[i] = (int8_t)a.lane[i];
    }
}

VEC_INLINE v64 v64_load(const uint8_t *p) {
    v64 r;
    memcpy(&r, p, sizeof(r));
    return r;
}
VEC_INLINE void v64_store(uint8_t *p, v64 v) {
    memcpy(p, &v, sizeof(v));
}
VEC_INLINE v64 v64_low(v64 v) {
    for (int i = 0; i < 64; i++) {
        v.byte[i] &= 15;
    }
    return v;
}
VEC_INLINE v64 v64_high(v64 v) {
    for (int i = 0; i < 64; i++) {
        v.byte[i] = (uint8_t)(v.byte[i] >> 4);
    }
    return v;
}
VEC_INLINE v16i v64_byte(v64 v, int j) {
    VEC_LANES(v16i, r.lane[i] = v.byte[4 * i + j]);
}
VEC_INLINE vquad vquad_load(const int8_t *p) {
    vquad r;
    memcpy(&r, p, sizeof(r));
    return r;
}
VEC_INLINE vquad vquad_load_once(const int8_t *p) {
    return vquad_load(p);
}
VEC_INLINE v16i vdot_start(int32_t offset, bool wide) {
    (void)wide;
    return v16i_set(offset);
}
VEC_INLINE v16i vdot_add(v16i sum, v64 weights, vquad activations, bool wide) {
    (void)wide;
    for (int i = 0; i < 16; i++) {
        for (int j = 0; j < 4; j++) {
            sum.lane[i] += weights.byte[4 * i + j] * activations.byte[j];
        }
    }
    return sum;
}
VEC_INLINE v16i vdot_block_wide(v16i sum, v64 weights, vquad activations) {
    return vdot_add(sum, weights, activations, true);
}
VEC_INLINE v16i vdot_block_signed(v16i sum, v64 weights, vquad activations) {
    for (int i = 0; i < 16; i++) {
        for (int j = 0; j < 4; j++) {
            sum.lane[i] += (int8_t)weights.byte[4 * i + j] * activations.byte[j];
        }
    }
    return sum;
}
VEC_INLINE void vec_prefetch(const uint8_t *p) {
    __builtin_prefetch(p);
}

#endif
