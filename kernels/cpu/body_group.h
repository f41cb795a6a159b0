/* body_group.h -- what all matrix kernels share: one group of weights in registers, and the end of
 * an output. Written once over vec_*.h.
 *
 * Purpose    Unpacks a group of 32 inputs x 16 outputs; adds bias and residual to finished sums.
 * Ownership  Included by isa_*.c and body_*.h only, after one of vec_*.h.
 * Threads    As isa.h.
 * Limits     As isa.h.
 */
#ifndef KERNELS_CPU_BODY_GROUP_H
#define KERNELS_CPU_BODY_GROUP_H

#include "kernels/cpu/isa.h"

/* n < 16 floats with zeros behind them. */
VEC_INLINE v16 v16_load_some(const float *p, int64_t n) {
    if (n >= 16) {
        return v16_load(p);
    }
    float lanes[16] = {0};
    for (int64_t i = 0; i < n; i++) {
        lanes[i] = p[i];
    }
    return v16_load(lanes);
}

VEC_INLINE void v16_store_some(float *p, v16 v, int64_t n) {
    if (n >= 16) {
        v16_store(p, v);
        return;
    }
    float lanes[16];
    v16_store(lanes, v);
    for (int64_t i = 0; i < n; i++) {
        p[i] = lanes[i];
    }
}

/* out (+)= acc + bias for up to 16 outputs. */
BODY_INLINE void group_finish(const isa_linear *l, v16 acc, int32_t row, int32_t output) {
    const int32_t n = l->outputs - output;
    float *out = l->out + (int64_t)row * l->outputs + output;
    if (l->bias != NULL) {
        acc = v16_add(acc, v16_load_some(l->bias + output, n));
    }
    if (l->accumulate) {
        acc = v16_add(v16_load_some(out, n), acc);
    }
    v16_store_some(out, acc, n);
}

BODY_INLINE v16 group_scales(const uint8_t *p, bool f32) {
    return f32 ? v16_load((const float *)(const void *)p)
               : v16_load_f16((const uint16_t *)(const void *)p);
}

/* A group in registers: 8 blocks of quants, scales, and minimums or the second scales. */
typedef struct {
    v64 quant[8];
    v16 scale, second;
} weight_group;

BODY_INLINE weight_group group_unpack(const uint8_t *w, tile_mode mode, bool nibbles, bool f32) {
    weight_group g;
    if (nibbles) {
        UNROLL for (int t = 0; t < 4; t++) {
            const v64 v = v64_load(w + TILE_BLOCK_BYTES * t);
            g.quant[t] = v64_low(v);
            g.quant[t + 4] = v64_high(v);
        }
    } else {
        UNROLL for (int t = 0; t < 8; t++) {
            g.quant[t] = v64_load(w + TILE_BLOCK_BYTES * t);
        }
    }
    const uint8_t *scales = w + TILE_BLOCK_BYTES * (nibbles ? 4 : 8);
    g.scale = group_scales(scales, f32);
    g.second = g.scale;
    if (mode == TILE_MINIMUM || mode == TILE_ZERO128_HALF) {
        g.second = group_scales(scales + TILE_OUTPUTS * (f32 ? 4 : 2), f32);
    }
    return g;
}

#endif
