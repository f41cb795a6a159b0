/* body_append.h -- turning queries and keys, and writing keys and values to their pages; written
 * once over vec_*.h.
 *
 * Purpose    Rotation (Su et al., RoFormer, arXiv 2104.09864) and the dtypes of the KV pool.
 * Ownership  Included by isa_*.c only, after body_rows.h.
 * Threads    As isa.h.
 * Limits     As isa.h.
 */
#include "kernels/cpu/body_spread.h"
#include "kernels/kmath.h"

/* `pairs` pairs side by side, by way of a copy: the compiler makes vectors of loops of known length
 * whose sides do not overlap. */
BODY_INLINE void rows_turn(const float *from, float *to, const float *cosine, const float *sine,
                           const int32_t pairs) {
    float a[16], b[16];
    for (int32_t i = 0; i < pairs; i++) {
        a[i] = from[2 * i];
        b[i] = from[2 * i + 1];
    }
    for (int32_t i = 0; i < pairs; i++) {
        const float x = a[i], y = b[i];
        a[i] = fmaf(x, cosine[i], -(y * sine[i]));
        b[i] = fmaf(x, sine[i], y * cosine[i]);
    }
    for (int32_t i = 0; i < pairs; i++) {
        to[2 * i] = a[i];
        to[2 * i + 1] = b[i];
    }
}

/* The same with pairs `half` elements apart. */
BODY_INLINE void rows_turn_halves(const float *from, float *to, const float *table, int32_t half) {
    const v16 minus = v16_set(-1.0f);
    int32_t i = 0;
    for (; i + 16 <= half; i += 16) {
        const v16 a = v16_load(from + i), b = v16_load(from + half + i);
        const v16 c = v16_load(table + i), s = v16_load(table + half + i);
        v16_store(to + i, v16_fma(a, c, v16_mul(v16_mul(b, s), minus)));
        v16_store(to + half + i, v16_fma(a, s, v16_mul(b, c)));
    }
    for (; i < half; i++) {
        const float a = from[i], b = from[half + i], c = table[i], s = table[half + i];
        to[i] = fmaf(a, c, -(b * s));
        to[half + i] = fmaf(a, s, b * c);
    }
}

/* Turns one head: (a, b) -> (a cos - b sin, a sin + b cos). */
static void rows_rope(const float *from, float *to, int32_t head_dim, int32_t dim,
                      ops_rope_pairs pairs, const float *table) {
    const int32_t half = dim / 2;
    if (pairs == OPS_ROPE_NEOX) {
        rows_turn_halves(from, to, table, half);
    } else {
        int32_t i = 0;
        for (; i + 16 <= half; i += 16) {
            rows_turn(from + 2 * i, to + 2 * i, table + i, table + half + i, 16);
        }
        for (; i < half; i++) {
            rows_turn(from + 2 * i, to + 2 * i, table + i, table + half + i, 1);
        }
    }
    for (int32_t i = dim; i < head_dim && to != from; i++) {
        to[i] = from[i];
    }
}

/* Writes one row's key and value of one kv head into slot `slot` of its page. */
static void append_f32(float *k, int32_t dim, int32_t slot, const float *key, const float *value) {
    for (int32_t i = 0; i < dim; i++) {
        k[LIMIT_PAGE_TOKENS * i + slot] = key[i];
    }
    memcpy(k + LIMIT_PAGE_TOKENS * dim + slot * dim, value, (size_t)dim * sizeof(float));
}

BODY_INLINE void append_half(uint16_t *k, int32_t dim, int32_t slot, const float *key,
                             const float *value, const bool f16) {
    uint16_t *v = k + LIMIT_PAGE_TOKENS * dim + slot * dim;
    for (int32_t i = 0; i < dim; i += 16) {
        uint16_t lanes[16];
        if (f16) {
            v16_store_f16(lanes, v16_load(key + i));
            v16_store_f16(v + i, v16_load(value + i));
        } else {
            v16_store_bf16(lanes, v16_load(key + i));
            v16_store_bf16(v + i, v16_load(value + i));
        }
        for (int32_t j = 0; j < 16; j++) {
            k[LIMIT_PAGE_TOKENS * (i + j) + slot] = lanes[j];
        }
    }
}

static void append_fp8(uint8_t *k, int32_t dim, int32_t slot, const float *key,
                       const float *value) {
    uint8_t *v = k + LIMIT_PAGE_TOKENS * dim + slot * dim;
    for (int32_t i = 0; i < dim; i++) {
        k[LIMIT_PAGE_TOKENS * i + slot] = kmath_to_e4m3(key[i]);
        v[i] = kmath_to_e4m3(value[i]);
    }
}

/* One head to int8. The scale is max |x| / 127 in BF16, rounded up, so that no byte passes 127; the
 * bytes are made with the rounded scale, which costs no accuracy. A scale whose inverse has no
 * float (the head is zero, but for numbers too small to matter) makes zeros. */
static uint16_t append_quantise(const float *x, int32_t dim, int8_t *out) {
    v16 top = v16_zero();
    for (int32_t i = 0; i < dim; i += 16) {
        top = v16_max(v16_abs(v16_load(x + i)), top);
    }
    const uint16_t scale = (uint16_t)((kmath_bits(v16_maximum(top) / 127.0f) + 0xffffu) >> 16);
    const float inverse = 1.0f / kmath_bf16(scale);
    const v16 by = v16_set(inverse < INFINITY ? inverse : 0.0f);
    for (int32_t i = 0; i < dim; i += 16) {
        v16i_store_i8(out + i, v16_round(v16_mul(v16_load(x + i), by)));
    }
    return scale;
}

/* backend.h has the places. */
static void append_int8(uint8_t *head, int32_t dim, int32_t slot, const float *key,
                        const float *value) {
    int8_t k[OPS_HEAD_DIM_MAX], v[OPS_HEAD_DIM_MAX];
    uint8_t *values = head + LIMIT_PAGE_TOKENS * dim + slot / 4 * 4 * dim + slot % 4;
    uint16_t *scales = (uint16_t *)(void *)(head + 2 * LIMIT_PAGE_TOKENS * dim);
    float spread[OPS_HEAD_DIM_MAX];
    spread_head(key, spread, dim);
    scales[slot] = append_quantise(spread, dim, k);
    scales[LIMIT_PAGE_TOKENS + slot] = append_quantise(value, dim, v);
    for (int32_t i = 0; i < dim; i += 4) {
        uint32_t four;
        memcpy(&four, k + i, sizeof(four));
        four ^= 0x80808080u; /* each byte + 128 */
        memcpy(head + i / 4 * 64 + slot * 4, &four, sizeof(four));
    }
    for (int32_t i = 0; i < dim; i++) {
        values[4 * i] = (uint8_t)v[i];
    }
}

static void append_head(const backend_kv *kv, uint8_t *head, int32_t slot, const float *key,
                        const float *value) {
    const int32_t dim = kv->shape.head_dim;
    uint16_t *half = (uint16_t *)(void *)head;
    switch (kv->shape.type) {
        case BACKEND_KV_F16:
            append_half(half, dim, slot, key, value, true);
            break;
        case BACKEND_KV_F32:
            append_f32((float *)(void *)head, dim, slot, key, value);
            break;
        case BACKEND_KV_BF16:
            append_half(half, dim, slot, key, value, false);
            break;
        case BACKEND_KV_INT8:
            append_int8(head, dim, slot, key, value);
            break;
        case BACKEND_KV_FP8:
            append_fp8(head, dim, slot, key, value);
            break;
        case BACKEND_KV_TYPES:
            break;
    }
}

static void rows_rope_append(const ops_rope_append *op, const ops_seq *seq, int32_t row_first,
                             int32_t rows) {
    const backend_kv *kv = op->kv;
    const int32_t dim = kv->shape.head_dim, kv_heads = kv->shape.kv_heads;
    for (int32_t i = row_first; i < row_first + rows; i++) {
        const int64_t r = seq->row_first + i;
        const int32_t position = seq->position_first + i;
        const float *table = op->table + r * op->dim;
        for (int32_t h = 0; h < op->heads; h++) {
            float *q = op->q + (r * op->heads + h) * dim;
            rows_rope(q, q, dim, op->dim, op->pairs, table);
        }
        const uint32_t page = seq->pages[position / LIMIT_PAGE_TOKENS];
        for (int32_t h = 0; h < kv_heads; h++) {
            const int64_t at = (r * kv_heads + h) * dim;
            float key[OPS_HEAD_DIM_MAX];
            rows_rope(op->k + at, key, dim, op->dim, op->pairs, table);
            append_head(kv, isa_kv_head(kv, op->layer, page, h), position % LIMIT_PAGE_TOKENS, key,
                        op->v + at);
        }
    }
}
