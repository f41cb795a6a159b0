/* body_spread.h -- what keys are spread by before they become bytes, and queries that meet them.
 *
 * Purpose    A Hadamard transform of a head.
 * Ownership  Included by isa_*.c and body_*.h only, after one of vec_*.h.
 * Threads    Pure functions.
 * Limits     Heads as in ops.h.
 */
#ifndef KERNELS_CPU_BODY_SPREAD_H
#define KERNELS_CPU_BODY_SPREAD_H

#include "kernels/ops.h"

/* Largest power of two that divides the elements of a head. */
static inline int32_t spread_width(int32_t dim) {
    return dim & -dim;
}

/* A Hadamard transform of each run of spread_width elements: what is large in a few
 * dimensions of all keys becomes middling in all, and one scale fits them better (Ashkboos et al.,
 * QuaRot, arXiv 2404.00456). Queries go through the same, and products grow by that width. */
BODY_INLINE void spread_of(const float *x, float *out, int32_t dim, const int vectors) {
    const int32_t width = spread_width(dim);
    v16 v[OPS_HEAD_DIM_MAX / 16];
    UNROLL for (int i = 0; i < vectors; i++) {
        v[i] = v16_hadamard(v16_load(x + 16 * i));
    }
    UNROLL for (int apart = 1; apart < OPS_HEAD_DIM_MAX / 16; apart *= 2) {
        UNROLL for (int i = 0; i < vectors; i++) {
            if (16 * apart < width && i + apart < vectors && (i & apart) == 0) {
                const v16 a = v[i], b = v[i + apart];
                v[i] = v16_add(a, b);
                v[i + apart] = v16_sub(a, b);
            }
        }
    }
    UNROLL for (int i = 0; i < vectors; i++) {
        v16_store(out + 16 * i, v[i]);
    }
}

static inline void spread_head(const float *x, float *out, int32_t dim) {
    if (dim == 64) {
        spread_of(x, out, 64, 64 / 16); /* in registers */
    } else {
        spread_of(x, out, dim, dim / 16);
    }
}

#endif
