/* vec_avx512.h -- sixteen virtual lanes as AVX-512 registers. The contract:
 * every function here exists in vec_avx2.h and vec_portable.h and gives the same bits.
 *
 * Purpose    v16: 16 floats; v16i: 16 int32; v64: four inputs of 16 outputs as bytes.
 * Ownership  Values.
 * Threads    Pure functions.
 * Limits     v16_max and v16_min return their second argument when either is NaN.
 */
#ifndef KERNELS_CPU_VEC_AVX512_H
#define KERNELS_CPU_VEC_AVX512_H

#include <immintrin.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

/* For functions whose constant parameters shape their register blocks, and the loops over these:
 * arrays must become registers. Instrumented builds want small code instead: unrolled, these files
 * take a sanitizer a quarter of an hour. */
#ifdef WEIR_SMALL_CODE
#define VEC_INLINE static inline
#define BODY_INLINE static __attribute__((unused)) /* not every body is every file's */
#define UNROLL
#else
#define VEC_INLINE static inline __attribute__((always_inline))
#define BODY_INLINE static inline __attribute__((always_inline))
#define UNROLL _Pragma("GCC unroll 16")
#endif

typedef __m512 v16;
typedef __m512i v16i;
typedef __m512i v64;
typedef __m512i vquad; /* four activations, in every output's place */

/* Shapes of register blocks that fit 32 registers. */
enum {
    VEC_TILES = 3,
    VEC_ROWS = 4,
    VEC_NARROW_ROWS = 16,
    VEC_STREAM_ROWS = 64,
    VEC_QUERIES = 6,
    VEC_FLOAT_ROWS = 6,
    VEC_BYTE_QUERIES = 3,
    VEC_BYTE_VECTORS = 4
};

VEC_INLINE v16 v16_zero(void) {
    return _mm512_setzero_ps();
}
VEC_INLINE v16 v16_set(float x) {
    return _mm512_set1_ps(x);
}
VEC_INLINE v16 v16_load(const float *p) {
    return _mm512_loadu_ps(p);
}
VEC_INLINE void v16_store(float *p, v16 v) {
    _mm512_storeu_ps(p, v);
}
VEC_INLINE v16 v16_load_f16(const uint16_t *p) {
    return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(const void *)p));
}
VEC_INLINE v16 v16_load_bf16(const uint16_t *p) {
    const __m256i half = _mm256_loadu_si256((const __m256i *)(const void *)p);
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16));
}
/* e4m3 is f16 with other widths: its exponent counts from 7 instead of 15. */
VEC_INLINE v16 v16_load_e4m3(const uint8_t *p) {
    const __m256i bytes = _mm256_cvtepu8_epi16(_mm_loadu_si128((const __m128i *)(const void *)p));
    const __m256i sign = _mm256_and_si256(bytes, _mm256_set1_epi16(0x80));
    const __m256i rest = _mm256_and_si256(bytes, _mm256_set1_epi16(0x7f));
    const __m256i nan = _mm256_cmpeq_epi16(rest, _mm256_set1_epi16(0x7f));
    const __m256i half = _mm256_or_si256(_mm256_slli_epi16(sign, 8), _mm256_slli_epi16(rest, 7));
    const __m256i bits = _mm256_or_si256(half, _mm256_and_si256(nan, _mm256_set1_epi16(0x7e00)));
    return _mm512_mul_ps(_mm512_cvtph_ps(bits), _mm512_set1_ps(256.0f));
}
VEC_INLINE void v16_store_f16(uint16_t *p, v16 v) {
    _mm256_storeu_si256((__m256i *)(void *)p, _mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT));
}
/* To nearest even; NaN stays NaN. */
VEC_INLINE void v16_store_bf16(uint16_t *p, v16 v) {
    const __m512i bits = _mm512_castps_si512(v), high = _mm512_srli_epi32(bits, 16);
    const __m512i odd = _mm512_and_si512(high, _mm512_set1_epi32(1));
    const __m512i up = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
    const __m512i quiet = _mm512_or_si512(high, _mm512_set1_epi32(64));
    const __mmask16 nan = _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q);
    const __m512i result = _mm512_mask_mov_epi32(_mm512_srli_epi32(up, 16), nan, quiet);
    _mm256_storeu_si256((__m256i *)(void *)p, _mm512_cvtepi32_epi16(result));
}
VEC_INLINE v16 v16_add(v16 a, v16 b) {
    return _mm512_add_ps(a, b);
}
VEC_INLINE v16 v16_sub(v16 a, v16 b) {
    return _mm512_sub_ps(a, b);
}
VEC_INLINE v16 v16_mul(v16 a, v16 b) {
    return _mm512_mul_ps(a, b);
}
VEC_INLINE v16 v16_div(v16 a, v16 b) {
    return _mm512_div_ps(a, b);
}
VEC_INLINE v16 v16_fma(v16 a, v16 b, v16 c) {
    return _mm512_fmadd_ps(a, b, c);
}
VEC_INLINE v16 v16_max(v16 a, v16 b) {
    return _mm512_max_ps(a, b);
}
VEC_INLINE v16 v16_min(v16 a, v16 b) {
    return _mm512_min_ps(a, b);
}
VEC_INLINE v16 v16_abs(v16 a) {
    return _mm512_abs_ps(a);
}
/* Lanes below n of `a`, the others of `b`. */
VEC_INLINE v16 v16_first(v16 a, v16 b, int32_t n) {
    const unsigned below = n >= 16 ? 0xffffu : (1u << (n < 0 ? 0 : n)) - 1u;
    const __mmask16 mask = (__mmask16)(below & 0xffffu);
    return _mm512_mask_blend_ps(mask, b, a);
}
VEC_INLINE v16i v16_bits(v16 a) {
    return _mm512_castps_si512(a);
}
VEC_INLINE v16 v16_from_bits(v16i a) {
    return _mm512_castsi512_ps(a);
}
VEC_INLINE v16 v16_from_int(v16i a) {
    return _mm512_cvtepi32_ps(a);
}
/* Lanes i and i + 8, then 4, 2, 1: the one order of every horizontal reduction. */
VEC_INLINE float v16_sum(v16 a) {
    const __m256 e = _mm256_add_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps(a, 1));
    const __m128 f = _mm_add_ps(_mm256_castps256_ps128(e), _mm256_extractf128_ps(e, 1));
    const __m128 g = _mm_add_ps(f, _mm_movehl_ps(f, f));
    return _mm_cvtss_f32(_mm_add_ss(g, _mm_shuffle_ps(g, g, 1)));
}
VEC_INLINE float v16_maximum(v16 a) {
    const __m256 e = _mm256_max_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps(a, 1));
    const __m128 f = _mm_max_ps(_mm256_castps256_ps128(e), _mm256_extractf128_ps(e, 1));
    const __m128 g = _mm_max_ps(f, _mm_movehl_ps(f, f));
    return _mm_cvtss_f32(_mm_max_ss(g, _mm_shuffle_ps(g, g, 1)));
}
/* Sums and differences of lanes 1, 2, 4 and 8 apart, in that order: (a, b) -> (a + b, a - b). */
VEC_INLINE v16 v16_hadamard(v16 v) {
    __m512 s = _mm512_permute_ps(v, 0xb1);
    v = _mm512_mask_sub_ps(_mm512_add_ps(v, s), 0xaaaa, s, v);
    s = _mm512_permute_ps(v, 0x4e);
    v = _mm512_mask_sub_ps(_mm512_add_ps(v, s), 0xcccc, s, v);
    s = _mm512_shuffle_f32x4(v, v, 0xb1);
    v = _mm512_mask_sub_ps(_mm512_add_ps(v, s), 0xf0f0, s, v);
    s = _mm512_shuffle_f32x4(v, v, 0x4e);
    return _mm512_mask_sub_ps(_mm512_add_ps(v, s), 0xff00, s, v);
}
VEC_INLINE v16i v16i_set(int32_t x) {
    return _mm512_set1_epi32(x);
}
VEC_INLINE v16i v16i_load(const int32_t *p) {
    return _mm512_loadu_si512(p);
}
VEC_INLINE void v16i_store(int32_t *p, v16i a) {
    _mm512_storeu_si512(p, a);
}
VEC_INLINE v16i v16i_add(v16i a, v16i b) {
    return _mm512_add_epi32(a, b);
}
VEC_INLINE v16i v16i_sub(v16i a, v16i b) {
    return _mm512_sub_epi32(a, b);
}
VEC_INLINE v16i v16i_shift_exponent(v16i a) {
    return _mm512_slli_epi32(a, 23);
}
VEC_INLINE v16i v16i_shift_right(v16i a, int by) {
    return _mm512_srl_epi32(a, _mm_cvtsi32_si128(by));
}
VEC_INLINE v16i v16i_and(v16i a, v16i b) {
    return _mm512_and_si512(a, b);
}
VEC_INLINE int32_t v16i_sum(v16i a) {
    return _mm512_reduce_add_epi32(a);
}
/* The low byte of each lane. */
VEC_INLINE void v16i_store_i8(int8_t *p, v16i a) {
    _mm_storeu_si128((__m128i *)(void *)p, _mm512_cvtepi32_epi8(a));
}

VEC_INLINE v64 v64_load(const uint8_t *p) {
    return _mm512_loadu_si512(p);
}
VEC_INLINE void v64_store(uint8_t *p, v64 v) {
    _mm512_storeu_si512(p, v);
}
VEC_INLINE v64 v64_low(v64 v) {
    return _mm512_and_si512(v, _mm512_set1_epi8(15));
}
VEC_INLINE v64 v64_high(v64 v) {
    return _mm512_and_si512(_mm512_srli_epi16(v, 4), _mm512_set1_epi8(15));
}
/* Byte j of every output, as int32. */
VEC_INLINE v16i v64_byte(v64 v, int j) {
    return _mm512_and_si512(_mm512_srl_epi32(v, _mm_cvtsi32_si128(8 * j)), _mm512_set1_epi32(255));
}
VEC_INLINE vquad vquad_load(const int8_t *p) {
    int32_t four;
    memcpy(&four, p, sizeof(four));
    __m512i v = _mm512_set1_epi32(four);
    /* Kept in a register: folded into each product, the load would be done once a tile, and loads
     * are what this loop runs out of first. */
    __asm__("" : "+v"(v));
    return v;
}
/* As vquad_load, for one product only. */
VEC_INLINE vquad vquad_load_once(const int8_t *p) {
    int32_t four;
    memcpy(&four, p, sizeof(four));
    return _mm512_set1_epi32(four);
}
/* A dot product of bytes around 128 (`wide`) or small unsigned ones starts from `offset` = minus
 * the zero times the sum of activations; the sum is exact, so how it is made is free. */
VEC_INLINE v16i vdot_start(int32_t offset, bool wide) {
    (void)wide;
    return _mm512_set1_epi32(offset);
}
VEC_INLINE v16i vdot_add(v16i sum, v64 weights, vquad activations, bool wide) {
    (void)wide;
    return _mm512_dpbusd_epi32(sum, weights, activations);
}
/* vdot_add of bytes around 128, and of signed bytes with activations 0 .. 127 (no offset), for
 * large blocks of sums. Written as instructions: of intrinsics, gcc 12 copies each sum of such a
 * block to the stack and back. */
VEC_INLINE v16i vdot_block_wide(v16i sum, v64 weights, vquad activations) {
    __asm__("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(weights), "v"(activations));
    return sum;
}
VEC_INLINE v16i vdot_block_signed(v16i sum, v64 weights, vquad activations) {
    __asm__("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(activations), "v"(weights));
    return sum;
}
VEC_INLINE void vec_prefetch(const uint8_t *p) {
    _mm_prefetch((const char *)p, _MM_HINT_T0);
}

#endif
