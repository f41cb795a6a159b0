/* kvtest.h -- keys and values as backend.h says they lie in a page, read one number at a time.
 *
 * Purpose    What attention and the writing of pages are held to.
 * Ownership  None.
 * Threads    One.
 * Limits     None.
 */
#ifndef TESTS_UNIT_KERNELS_CPU_KVTEST_H
#define TESTS_UNIT_KERNELS_CPU_KVTEST_H

#include "tests/unit/kernels/cpu/cputest.h"

static inline double kvtest_half(const uint8_t *p, int64_t element, bool f16) {
    uint16_t h;
    memcpy(&h, p + 2 * element, sizeof(h));
    return (double)(f16 ? kmath_f16(h) : kmath_bf16(h));
}

/* +1 or -1: the element of a Hadamard matrix. */
static inline double kvtest_sign(int32_t row, int32_t column) {
    int32_t common = row & column, odd = 0;
    for (; common != 0; common &= common - 1) {
        odd ^= 1;
    }
    return odd ? -1 : 1;
}

/* Key (or value) of a token, [head_dim], from the bytes of its kv head in its page. */
static inline void kvtest_read(const backend_kv *kv, const uint8_t *head, int32_t slot, bool key,
                               double *out) {
    const int32_t dim = kv->shape.head_dim, width = dim & -dim;
    double spread[OPS_HEAD_DIM_MAX];
    for (int32_t d = 0; d < dim; d++) {
        const int64_t at = key ? d * 16 + slot : (int64_t)16 * dim + slot * dim + d;
        float f;
        switch (kv->shape.type) {
            case BACKEND_KV_F32:
                memcpy(&f, head + 4 * at, sizeof(f));
                out[d] = (double)f;
                break;
            case BACKEND_KV_F16:
            case BACKEND_KV_BF16:
                out[d] = kvtest_half(head, at, kv->shape.type == BACKEND_KV_F16);
                break;
            case BACKEND_KV_FP8:
                out[d] = (double)kmath_e4m3(head[at]);
                break;
            default:
                out[d] = key ? head[d / 4 * 64 + slot * 4 + d % 4] - 128
                             : (int8_t)head[16 * dim + slot / 4 * dim * 4 + d * 4 + slot % 4];
                out[d] *= kvtest_half(head + 32 * dim, slot + (key ? 0 : 16), false);
                break;
        }
        spread[d] = out[d];
    }
    for (int32_t d = 0; kv->shape.type == BACKEND_KV_INT8 && key && d < dim; d++) {
        out[d] = 0;
        for (int32_t j = 0; j < width; j++) {
            out[d] += kvtest_sign(d % width, j) * spread[d / width * width + j] / width;
        }
    }
}

#endif
