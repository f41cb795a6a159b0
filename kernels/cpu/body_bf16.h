/* body_bf16.h -- weights as bf16: what the two kernels of AMX-BF16 share.
 *
 * Purpose    Makes one group of 16 outputs x 32 inputs of a file's numbers; turns 16 x 16 words.
 * Ownership  Included by isa_amxbf16.c and isa_amxrows.c only, after vec_avx512.h.
 * Threads    As isa.h.
 * Limits     As isa.h.
 *
 * Of four bits a weight has 16 values a group: they are computed and rounded once, and looked up.
 * Weights that also meet int8 lie by inputs (tile.h): their outputs are brought together first.
 */
#ifndef KERNELS_CPU_BODY_BF16_H
#define KERNELS_CPU_BODY_BF16_H

#include "kernels/cpu/body_group.h"

enum { BF16_TILE_BYTES = 1024 /* one register: 16 x 64 */ };

/* Tile loads do not tell the compiler that they read memory. */
#define BF16_WRITTEN() __asm__ volatile("" ::: "memory")

/* Registers 0-3: four sums that follow each other, or zeros for NULL. */
BODY_INLINE void bf16_load_sums(const uint8_t *sums) {
    if (sums == NULL) {
        _tile_zero(0);
        _tile_zero(1);
        _tile_zero(2);
        _tile_zero(3);
    } else {
        _tile_loadd(0, sums, 64);
        _tile_loadd(1, sums + BF16_TILE_BYTES, 64);
        _tile_loadd(2, sums + 2 * BF16_TILE_BYTES, 64);
        _tile_loadd(3, sums + 3 * BF16_TILE_BYTES, 64);
    }
}

/* Scales and minimums of 16 outputs, so that a weight is fma(quant, scale, minimum): of inputs 0-15
 * and 16-31 where these differ. */
typedef struct {
    _Alignas(64) float scale[2][TILE_OUTPUTS];
    _Alignas(64) float minimum[2][TILE_OUTPUTS];
} bf16_scales;

BODY_INLINE void bf16_scales_take(const uint8_t *at, bf16_scales *to, const tile_shape s) {
    const size_t bytes = TILE_OUTPUTS * (s.scale_f32 ? 4 : 2);
    const v16 scale = group_scales(at, s.scale_f32);
    v16_store(to->scale[0], scale);
    if (s.mode == TILE_MINIMUM) {
        v16_store(to->minimum[0], group_scales(at + bytes, s.scale_f32));
        return;
    }
    /* Exact, as is the sum with any quant times the scale. */
    const v16 zero = v16_set(s.mode == TILE_ZERO8 ? -8.0f : -128.0f);
    v16_store(to->minimum[0], v16_mul(scale, zero));
    if (s.mode == TILE_ZERO128_HALF) {
        const v16 second = group_scales(at + bytes, s.scale_f32);
        v16_store(to->scale[1], second);
        v16_store(to->minimum[1], v16_mul(second, zero));
    }
}

BODY_INLINE __m512i bf16_round_two(v16 low, v16 high) {
    return (__m512i)_mm512_cvtne2ps_pbh(high, low);
}

/* Nibbles of one output. A word's index is twice its nibble, plus one: the upper half of that value
 * in a table of floats, to which half a step of bf16 was added before: rounded to nearest, halves
 * away from zero. */
BODY_INLINE __m512i bf16_nibbles(const uint8_t *quants, v16 scale, v16 minimum,
                                 const tile_order order) {
    /* A word's nibbles are inputs j, 8 + j, 16 + j and 24 + j; the two in the middle change places
     * where the bytes came from blocks by input. */
    const int64_t second = order == TILE_BY_INPUT ? 0x0000000700000007 : 0x0000000300000003;
    const int64_t third = order == TILE_BY_INPUT ? 0x0000000300000003 : 0x0000000700000007;
    const __m512i turns = _mm512_set_epi64(0x0000000b0000000b, 0x0000000b0000000b, third, third,
                                           second, second, 0x0000001f0000001f, 0x0000001f0000001f);
    const v16 levels = _mm512_set_ps(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
    const v16i values = v16_bits(v16_fma(levels, scale, minimum));
    const __m128i packed = _mm_loadu_si128((const __m128i *)(const void *)quants);
    const __m512i four = _mm512_rorv_epi32(_mm512_broadcast_i32x4(packed), turns);
    const __m512i index = _mm512_or_si512(four, _mm512_set1_epi16(1));
    return _mm512_permutexvar_epi16(index, v16i_add(values, v16i_set(0x8000)));
}

/* Sixteen bytes of one output, as f32. */
BODY_INLINE v16 bf16_bytes(const uint8_t *quants, v16 scale, v16 minimum) {
    const __m128i q = _mm_loadu_si128((const __m128i *)(const void *)quants);
    return v16_fma(v16_from_int(_mm512_cvtepu8_epi32(q)), scale, minimum);
}

/* Four vectors of 16 outputs to one of 16 bytes an output: output 4 i + k of the vectors is lane i
 * of vector k. Of nibbles, a word has the bytes j and 8 + j; of bytes, they follow each other. */
BODY_INLINE void bf16_by_output(const uint8_t *w, uint8_t *to, const bool nibbles) {
    const __m512i a = v64_load(w), b = v64_load(w + 64);
    const __m512i c = v64_load(w + 128), d = v64_load(w + 192);
    const __m512i ac = nibbles ? _mm512_unpacklo_epi8(a, c) : _mm512_unpacklo_epi32(a, b);
    const __m512i ac2 = nibbles ? _mm512_unpackhi_epi8(a, c) : _mm512_unpackhi_epi32(a, b);
    const __m512i bd = nibbles ? _mm512_unpacklo_epi8(b, d) : _mm512_unpacklo_epi32(c, d);
    const __m512i bd2 = nibbles ? _mm512_unpackhi_epi8(b, d) : _mm512_unpackhi_epi32(c, d);
    v64_store(to, _mm512_unpacklo_epi64(ac, bd));
    v64_store(to + 64, _mm512_unpackhi_epi64(ac, bd));
    v64_store(to + 128, _mm512_unpacklo_epi64(ac2, bd2));
    v64_store(to + 192, _mm512_unpackhi_epi64(ac2, bd2));
}

/* Where output `c` is after that. */
BODY_INLINE int bf16_output_at(int c) {
    return c % 4 * 64 + c / 4 * 16;
}

/* The tile of a group: made at `slot`, or where it lies already. */
BODY_INLINE const uint8_t *bf16_make(const uint8_t *w, uint8_t *slot, const tile_format format,
                                     const tile_order order) {
    const tile_shape s = tile_shape_of(format);
    if (format == TILE_BF16) {
        return w;
    }
    if (format == TILE_F16) {
        UNROLL for (int c = 0; c < TILE_OUTPUTS; c++) {
            const uint16_t *half = (const uint16_t *)(const void *)w + TILE_GROUP * c;
            v64_store(slot + 64 * c, bf16_round_two(v16_load_f16(half), v16_load_f16(half + 16)));
        }
        return slot;
    }
    const int bytes = s.nibbles ? 16 : 32, second = s.mode == TILE_ZERO128_HALF ? 1 : 0;
    const bool by_input = order == TILE_BY_INPUT;
    _Alignas(64) uint8_t turned[TILE_OUTPUTS * TILE_GROUP];
    bf16_scales k;
    bf16_scales_take(w + TILE_OUTPUTS * bytes, &k, s);
    for (int half = 0; by_input && half < bytes / 16; half++) {
        bf16_by_output(w + 256 * half, turned + 256 * half, s.nibbles);
    }
    /* Scales are to be read one by one from memory: the port that would move them between lanes is
     * what this loop runs out of first. */
    __asm__ volatile("" ::"r"(&k) : "memory");
    UNROLL for (int c = 0; c < TILE_OUTPUTS; c++) {
        const v16 scale = v16_set(k.scale[0][c]), minimum = v16_set(k.minimum[0][c]);
        const uint8_t *q = by_input ? turned + bf16_output_at(c) : w + bytes * c;
        if (s.nibbles) {
            v64_store(slot + 64 * c, bf16_nibbles(q, scale, minimum, order));
        } else {
            const v16 low = bf16_bytes(q, scale, minimum);
            const v16 high = bf16_bytes(q + (by_input ? 256 : 16), v16_set(k.scale[second][c]),
                                        v16_set(k.minimum[second][c]));
            v64_store(slot + 64 * c, bf16_round_two(low, high));
        }
    }
    return slot;
}

/* X(name, format, order) for all that is stored: 16-bit floats by output alone, F32 never. */
#define BF16_STORED(X)                      \
    X(q4_0, TILE_Q4_0, TILE_BY_OUTPUT)      \
    X(q4_1, TILE_Q4_1, TILE_BY_OUTPUT)      \
    X(q4_k, TILE_Q4_K, TILE_BY_OUTPUT)      \
    X(q5_1, TILE_Q5_1, TILE_BY_OUTPUT)      \
    X(q5_k, TILE_Q5_K, TILE_BY_OUTPUT)      \
    X(q8_0, TILE_Q8_0, TILE_BY_OUTPUT)      \
    X(q6_k, TILE_Q6_K, TILE_BY_OUTPUT)      \
    X(f16, TILE_F16, TILE_BY_OUTPUT)        \
    X(bf16, TILE_BF16, TILE_BY_OUTPUT)      \
    X(q4_0_input, TILE_Q4_0, TILE_BY_INPUT) \
    X(q4_1_input, TILE_Q4_1, TILE_BY_INPUT) \
    X(q4_k_input, TILE_Q4_K, TILE_BY_INPUT) \
    X(q5_1_input, TILE_Q5_1, TILE_BY_INPUT) \
    X(q5_k_input, TILE_Q5_K, TILE_BY_INPUT) \
    X(q8_0_input, TILE_Q8_0, TILE_BY_INPUT) \
    X(q6_k_input, TILE_Q6_K, TILE_BY_INPUT)

/* Rows to columns. */
BODY_INLINE void bf16_transpose(v16 r[16]) {
    v16 t[16];
    UNROLL for (int i = 0; i < 16; i += 2) {
        t[i] = _mm512_unpacklo_ps(r[i], r[i + 1]);
        t[i + 1] = _mm512_unpackhi_ps(r[i], r[i + 1]);
    }
    UNROLL for (int i = 0; i < 16; i += 4) {
        UNROLL for (int j = 0; j < 2; j++) {
            const __m512d a = _mm512_castps_pd(t[i + j]), b = _mm512_castps_pd(t[i + j + 2]);
            r[i + 2 * j] = _mm512_castpd_ps(_mm512_unpacklo_pd(a, b));
            r[i + 2 * j + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(a, b));
        }
    }
    UNROLL for (int i = 0; i < 16; i += 8) {
        UNROLL for (int j = 0; j < 4; j++) {
            t[i + j] = _mm512_shuffle_f32x4(r[i + j], r[i + j + 4], 0x88);
            t[i + j + 4] = _mm512_shuffle_f32x4(r[i + j], r[i + j + 4], 0xdd);
        }
    }
    UNROLL for (int j = 0; j < 8; j++) {
        r[j] = _mm512_shuffle_f32x4(t[j], t[j + 8], 0x88);
        r[j + 8] = _mm512_shuffle_f32x4(t[j], t[j + 8], 0xdd);
    }
}

#endif
