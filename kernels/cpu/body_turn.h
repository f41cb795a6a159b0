/* body_turn.h -- keys and values of pages as tiles of bf16: what isa_amxflash.c multiplies with.
 *
 * Purpose    Rounds 32 x 16 numbers of any dtype and turns them: keys by token, values by
 *            dimension.
 * Ownership  Included by isa_amxflash.c only, after body_bf16.h.
 * Threads    As isa.h.
 * Limits     Values become finite, and those after the last token zero, for weights of zero meet
 *            them. Keys of such slots are what the page holds: their scores are left out by name.
 */
#ifndef KERNELS_CPU_BODY_TURN_H
#define KERNELS_CPU_BODY_TURN_H

#include "engine/base/limits.h"
#include "kernels/backend.h"
#include "kernels/cpu/body_bf16.h"
#include "kernels/cpu/body_exp.h"
#include "kernels/cpu/body_spread.h"

/* The largest float of bf16; and what a scale of 127 of these may be. */
#define TURN_MOST 3.38953139e38f
#define TURN_SCALE_MOST 2.65e36f

/* Two pages of values, of which `tokens` tokens are there (the second may be any, with 16). */
typedef struct {
    const uint8_t *page[2];
    int32_t tokens;
} turn_pages;

BODY_INLINE v16 turn_load(const uint8_t *base, int64_t element, const backend_kv_type type) {
    const uint16_t *half = (const uint16_t *)(const void *)base + element;
    return type == BACKEND_KV_F16    ? v16_load_f16(half)
           : type == BACKEND_KV_BF16 ? v16_load_bf16(half)
           : type == BACKEND_KV_FP8  ? v16_load_e4m3(base + element)
                                     : v16_load((const float *)(const void *)base + element);
}

/* Words of two vectors, in turns. */
BODY_INLINE v16 turn_pair(v16 even, v16 odd) {
    const __m512i order =
        _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6,
                         21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
    return v16_from_bits(_mm512_permutexvar_epi16(order, bf16_round_two(even, odd)));
}

BODY_INLINE void turn_store(v16 pairs[16], uint8_t *to) {
    bf16_transpose(pairs);
    UNROLL for (int i = 0; i < 16; i++) {
        v64_store(to + 64 * i, v16_bits(pairs[i]));
    }
}

BODY_INLINE void turn_keys_floats(const uint8_t *page, int32_t head_dim, uint8_t *to,
                                  const backend_kv_type type) {
    for (int32_t d = 0; d < head_dim; d += TILE_GROUP, to += BF16_TILE_BYTES) {
        v16 pairs[16];
        UNROLL for (int i = 0; i < 16; i++) {
            const int64_t at = (int64_t)(d + 2 * i) * LIMIT_PAGE_TOKENS;
            pairs[i] = i < 8 || d + 16 < head_dim
                           ? turn_pair(turn_load(page, at, type),
                                       turn_load(page, at + LIMIT_PAGE_TOKENS, type))
                           : v16_zero();
        }
        turn_store(pairs, to);
    }
}

BODY_INLINE v16 turn_value(const turn_pages *p, int32_t token, int32_t head_dim, int32_t d,
                           const backend_kv_type type) {
    if (token >= p->tokens) {
        return v16_zero();
    }
    const uint8_t *page = p->page[token / LIMIT_PAGE_TOKENS];
    const int64_t at =
        ((int64_t)LIMIT_PAGE_TOKENS + token % LIMIT_PAGE_TOKENS) * (int64_t)head_dim + d;
    const v16 x = v16_min(turn_load(page, at, type), v16_set(TURN_MOST));
    return v16_max(x, v16_set(-TURN_MOST));
}

BODY_INLINE void turn_values_floats(const turn_pages *p, int32_t head_dim, int64_t apart,
                                    uint8_t *to, const backend_kv_type type) {
    for (int32_t d = 0; d < head_dim; d += 16, to += apart) {
        v16 pairs[16];
        UNROLL for (int i = 0; i < 16; i++) {
            pairs[i] = turn_pair(turn_value(p, 2 * i, head_dim, d, type),
                                 turn_value(p, 2 * i + 1, head_dim, d, type));
        }
        turn_store(pairs, to);
    }
}

/* Four lines of [16 lanes][4 bytes] to 16 runs of 16 bytes: that of lane i at [i % 4][i / 4]. */
BODY_INLINE void turn_bytes(v64 a, v64 b, v64 c, v64 d, uint8_t (*to)[4][16]) {
    const v64 low = _mm512_unpacklo_epi32(a, b), high = _mm512_unpackhi_epi32(a, b);
    const v64 low2 = _mm512_unpacklo_epi32(c, d), high2 = _mm512_unpackhi_epi32(c, d);
    v64_store(to[0][0], _mm512_unpacklo_epi64(low, low2));
    v64_store(to[1][0], _mm512_unpackhi_epi64(low, low2));
    v64_store(to[2][0], _mm512_unpacklo_epi64(high, high2));
    v64_store(to[3][0], _mm512_unpackhi_epi64(high, high2));
}

BODY_INLINE __m128i turn_run(uint8_t (*from)[4][16], int lane) {
    return _mm_load_si128((const __m128i *)(const void *)from[lane % 4][lane / 4]);
}

/* Of 16 tokens, 32 dimensions of keys (or 16, and zeros), bytes around 128. */
BODY_INLINE void turn_keys_bytes(const uint8_t *line, const float *scale, const float *origin,
                                 uint8_t *to, const bool both) {
    const uint8_t *line2 = both ? line + 4 * 64 : line;
    _Alignas(64) uint8_t runs[2][4][4][16];
    turn_bytes(v64_load(line), v64_load(line + 64), v64_load(line + 128), v64_load(line + 192),
               runs[0]);
    turn_bytes(v64_load(line2), v64_load(line2 + 64), v64_load(line2 + 128), v64_load(line2 + 192),
               runs[1]);
    UNROLL for (int i = 0; i < 16; i++) {
        const v16 by = v16_set(scale[i]), from = v16_set(origin[i]);
        const v16 low = v16_from_int(_mm512_cvtepu8_epi32(turn_run(runs[0], i)));
        const v16 high = v16_from_int(_mm512_cvtepu8_epi32(turn_run(runs[1], i)));
        v64_store(to + 64 * i, bf16_round_two(v16_fma(low, by, from),
                                              both ? v16_fma(high, by, from) : v16_zero()));
    }
}

/* Each token's keys have a scale. */
static void turn_keys_int8(const uint8_t *page, int32_t head_dim, uint8_t *to) {
    const uint16_t *scales =
        (const uint16_t *)(const void *)(page + 2 * LIMIT_PAGE_TOKENS * (int64_t)head_dim);
    _Alignas(64) float scale[LIMIT_PAGE_TOKENS], origin[LIMIT_PAGE_TOKENS];
    v16_store(scale, v16_load_bf16(scales));
    v16_store(origin, v16_mul(v16_load(scale), v16_set(-128.0f)));
    for (int32_t d = 0; d < head_dim; d += TILE_GROUP, to += BF16_TILE_BYTES) {
        if (d + 16 < head_dim) {
            turn_keys_bytes(page + d * LIMIT_PAGE_TOKENS, scale, origin, to, true);
        } else {
            turn_keys_bytes(page + d * LIMIT_PAGE_TOKENS, scale, origin, to, false);
        }
    }
}

/* Scales of 16 tokens of which `tokens` are there. */
BODY_INLINE v16 turn_value_scales(const uint8_t *page, int32_t head_dim, int32_t tokens) {
    const uint16_t *scales =
        (const uint16_t *)(const void *)(page + 2 * LIMIT_PAGE_TOKENS * (int64_t)head_dim) +
        LIMIT_PAGE_TOKENS;
    return v16_first(v16_min(v16_load_bf16(scales), v16_set(TURN_SCALE_MOST)), v16_zero(), tokens);
}

static void turn_values_int8(const turn_pages *p, int32_t head_dim, int64_t apart, uint8_t *to) {
    const int64_t row = 4 * (int64_t)head_dim; /* of four tokens */
    const v16 scale = turn_value_scales(p->page[0], head_dim, p->tokens);
    const v16 scale2 = turn_value_scales(p->page[1], head_dim, p->tokens - LIMIT_PAGE_TOKENS);
    for (int32_t d = 0; d < head_dim; d += 16, to += apart) {
        const uint8_t *line = p->page[0] + LIMIT_PAGE_TOKENS * (int64_t)head_dim + 4 * d;
        const uint8_t *line2 = p->page[1] + LIMIT_PAGE_TOKENS * (int64_t)head_dim + 4 * d;
        _Alignas(64) uint8_t runs[2][4][4][16];
        turn_bytes(v64_load(line), v64_load(line + row), v64_load(line + 2 * row),
                   v64_load(line + 3 * row), runs[0]);
        turn_bytes(v64_load(line2), v64_load(line2 + row), v64_load(line2 + 2 * row),
                   v64_load(line2 + 3 * row), runs[1]);
        UNROLL for (int i = 0; i < 16; i++) {
            const v16 low = v16_from_int(_mm512_cvtepi8_epi32(turn_run(runs[0], i)));
            const v16 high = v16_from_int(_mm512_cvtepi8_epi32(turn_run(runs[1], i)));
            v64_store(to + 64 * i, bf16_round_two(v16_mul(low, scale), v16_mul(high, scale2)));
        }
    }
}

/* One page's keys: [head_dim / 32 up][16 tokens][32 dimensions]. */
static __attribute__((noinline)) void turn_keys(const backend_kv *kv, const uint8_t *page,
                                                uint8_t *to) {
    const int32_t head_dim = kv->shape.head_dim;
    switch (kv->shape.type) {
        case BACKEND_KV_F16:
            turn_keys_floats(page, head_dim, to, BACKEND_KV_F16);
            break;
        case BACKEND_KV_BF16:
            turn_keys_floats(page, head_dim, to, BACKEND_KV_BF16);
            break;
        case BACKEND_KV_F32:
            turn_keys_floats(page, head_dim, to, BACKEND_KV_F32);
            break;
        case BACKEND_KV_FP8:
            turn_keys_floats(page, head_dim, to, BACKEND_KV_FP8);
            break;
        case BACKEND_KV_INT8:
            turn_keys_int8(page, head_dim, to);
            break;
        case BACKEND_KV_TYPES:
            break;
    }
}

/* Two pages' values: tiles of [16 dimensions][32 tokens], `apart` bytes each from the next. */
static __attribute__((noinline)) void turn_values(const backend_kv *kv, const turn_pages *p,
                                                  int64_t apart, uint8_t *to) {
    const int32_t head_dim = kv->shape.head_dim;
    switch (kv->shape.type) {
        case BACKEND_KV_F16:
            turn_values_floats(p, head_dim, apart, to, BACKEND_KV_F16);
            break;
        case BACKEND_KV_BF16:
            turn_values_floats(p, head_dim, apart, to, BACKEND_KV_BF16);
            break;
        case BACKEND_KV_F32:
            turn_values_floats(p, head_dim, apart, to, BACKEND_KV_F32);
            break;
        case BACKEND_KV_FP8:
            turn_values_floats(p, head_dim, apart, to, BACKEND_KV_FP8);
            break;
        case BACKEND_KV_INT8:
            turn_values_int8(p, head_dim, apart, to);
            break;
        case BACKEND_KV_TYPES:
            break;
    }
}

#endif
