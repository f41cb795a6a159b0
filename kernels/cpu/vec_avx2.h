/* vec_avx2.h -- sixteen virtual lanes as pairs of AVX2 registers; see vec_avx512.h.
 *
 * Purpose    The functions of vec_avx512.h with the same bits.
 * Ownership  Values.
 * Threads    Pure functions.
 * Limits     As vec_avx512.h.
 */
#ifndef KERNELS_CPU_VEC_AVX2_H
#define KERNELS_CPU_VEC_AVX2_H

#include <immintrin.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

/* For functions whose constant parameters shape their register blocks, and the loops over these:
 * arrays must become registers. Instrumented builds want small code instead: unrolled, these files
 * take a sanitizer a quarter of an hour. */
#ifdef WEIR_SMALL_CODE
#define VEC_INLINE static inline
#define BODY_INLINE static
#define UNROLL
#else
#define VEC_INLINE static inline __attribute__((always_inline))
#define BODY_INLINE static inline __attribute__((always_inline))
#define UNROLL _Pragma("GCC unroll 16")
#endif

typedef struct {
    __m256 a, b; /* lanes 0-7, 8-15 */
} v16;
typedef struct {
    __m256i a, b;
} v16i;
typedef v16i v64;
typedef __m256i vquad;

enum {
    VEC_TILES = 1,
    VEC_ROWS = 2,
    VEC_NARROW_ROWS = 8,
    VEC_STREAM_ROWS = 8,
    VEC_QUERIES = 2,
    VEC_FLOAT_ROWS = 4,
    VEC_BYTE_QUERIES = 1,
    VEC_BYTE_VECTORS = 2
};

VEC_INLINE v16 v16_make(__m256 a, __m256 b) {
    const v16 v = {a, b};
    return v;
}
VEC_INLINE v16i v16i_make(__m256i a, __m256i b) {
    const v16i v = {a, b};
    return v;
}
VEC_INLINE v16 v16_zero(void) {
    return v16_make(_mm256_setzero_ps(), _mm256_setzero_ps());
}
VEC_INLINE v16 v16_set(float x) {
    return v16_make(_mm256_set1_ps(x), _mm256_set1_ps(x));
}
VEC_INLINE v16 v16_load(const float *p) {
    return v16_make(_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8));
}
VEC_INLINE void v16_store(float *p, v16 v) {
    _mm256_storeu_ps(p, v.a);
    _mm256_storeu_ps(p + 8, v.b);
}
VEC_INLINE v16 v16_load_f16(const uint16_t *p) {
    const __m128i *h = (const __m128i *)(const void *)p;
    return v16_make(_mm256_cvtph_ps(_mm_loadu_si128(h)), _mm256_cvtph_ps(_mm_loadu_si128(h + 1)));
}
VEC_INLINE v16 v16_load_bf16(const uint16_t *p) {
    const __m128i *h = (const __m128i *)(const void *)p;
    const __m256i a = _mm256_cvtepu16_epi32(_mm_loadu_si128(h));
    const __m256i b = _mm256_cvtepu16_epi32(_mm_loadu_si128(h + 1));
    return v16_make(_mm256_castsi256_ps(_mm256_slli_epi32(a, 16)),
                    _mm256_castsi256_ps(_mm256_slli_epi32(b, 16)));
}
/* e4m3 is f16 with other widths: its exponent counts from 7 instead of 15. */
VEC_INLINE v16 v16_load_e4m3(const uint8_t *p) {
    const __m256i bytes = _mm256_cvtepu8_epi16(_mm_loadu_si128((const __m128i *)(const void *)p));
    const __m256i sign = _mm256_and_si256(bytes, _mm256_set1_epi16(0x80));
    const __m256i rest = _mm256_and_si256(bytes, _mm256_set1_epi16(0x7f));
    const __m256i nan = _mm256_cmpeq_epi16(rest, _mm256_set1_epi16(0x7f));
    const __m256i half = _mm256_or_si256(_mm256_slli_epi16(sign, 8), _mm256_slli_epi16(rest, 7));
    const __m256i bits = _mm256_or_si256(half, _mm256_and_si256(nan, _mm256_set1_epi16(0x7e00)));
    const __m256 by = _mm256_set1_ps(256.0f);
    return v16_make(_mm256_mul_ps(_mm256_cvtph_ps(_mm256_castsi256_si128(bits)), by),
                    _mm256_mul_ps(_mm256_cvtph_ps(_mm256_extracti128_si256(bits, 1)), by));
}
VEC_INLINE void v16_store_f16(uint16_t *p, v16 v) {
    __m128i *h = (__m128i *)(void *)p;
    _mm_storeu_si128(h, _mm256_cvtps_ph(v.a, _MM_FROUND_TO_NEAREST_INT));
    _mm_storeu_si128(h + 1, _mm256_cvtps_ph(v.b, _MM_FROUND_TO_NEAREST_INT));
}
VEC_INLINE __m128i v8_bf16(__m256 v) {
    const __m256i bits = _mm256_castps_si256(v), high = _mm256_srli_epi32(bits, 16);
    const __m256i odd = _mm256_and_si256(high, _mm256_set1_epi32(1));
    const __m256i up = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
    const __m256i quiet = _mm256_or_si256(high, _mm256_set1_epi32(64));
    const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(v, v, _CMP_UNORD_Q));
    const __m256i r = _mm256_blendv_epi8(_mm256_srli_epi32(up, 16), quiet, nan);
    return _mm_packus_epi32(_mm256_castsi256_si128(r), _mm256_extracti128_si256(r, 1));
}
VEC_INLINE void v16_store_bf16(uint16_t *p, v16 v) {
    __m128i *h = (__m128i *)(void *)p;
    _mm_storeu_si128(h, v8_bf16(v.a));
    _mm_storeu_si128(h + 1, v8_bf16(v.b));
}
VEC_INLINE v16 v16_add(v16 x, v16 y) {
    return v16_make(_mm256_add_ps(x.a, y.a), _mm256_add_ps(x.b, y.b));
}
VEC_INLINE v16 v16_sub(v16 x, v16 y) {
    return v16_make(_mm256_sub_ps(x.a, y.a), _mm256_sub_ps(x.b, y.b));
}
VEC_INLINE v16 v16_mul(v16 x, v16 y) {
    return v16_make(_mm256_mul_ps(x.a, y.a), _mm256_mul_ps(x.b, y.b));
}
VEC_INLINE v16 v16_div(v16 x, v16 y) {
    return v16_make(_mm256_div_ps(x.a, y.a), _mm256_div_ps(x.b, y.b));
}
VEC_INLINE v16 v16_fma(v16 x, v16 y, v16 z) {
    return v16_make(_mm256_fmadd_ps(x.a, y.a, z.a), _mm256_fmadd_ps(x.b, y.b, z.b));
}
VEC_INLINE v16 v16_max(v16 x, v16 y) {
    return v16_make(_mm256_max_ps(x.a, y.a), _mm256_max_ps(x.b, y.b));
}
VEC_INLINE v16 v16_min(v16 x, v16 y) {
    return v16_make(_mm256_min_ps(x.a, y.a), _mm256_min_ps(x.b, y.b));
}
VEC_INLINE v16 v16_abs(v16 x) {
    const __m256 sign = _mm256_set1_ps(-0.0f);
    return v16_make(_mm256_andnot_ps(sign, x.a), _mm256_andnot_ps(sign, x.b));
}
VEC_INLINE v16 v16_first(v16 x, v16 y, int32_t n) {
    const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    const __m256i ma = _mm256_cmpgt_epi32(_mm256_set1_epi32(n), lane);
    const __m256i mb =
        _mm256_cmpgt_epi32(_mm256_set1_epi32(n), _mm256_add_epi32(lane, _mm256_set1_epi32(8)));
    return v16_make(_mm256_blendv_ps(y.a, x.a, _mm256_castsi256_ps(ma)),
                    _mm256_blendv_ps(y.b, x.b, _mm256_castsi256_ps(mb)));
}
VEC_INLINE v16i v16_bits(v16 x) {
    return v16i_make(_mm256_castps_si256(x.a), _mm256_castps_si256(x.b));
}
VEC_INLINE v16 v16_from_bits(v16i x) {
    return v16_make(_mm256_castsi256_ps(x.a), _mm256_castsi256_ps(x.b));
}
VEC_INLINE v16 v16_from_int(v16i x) {
    return v16_make(_mm256_cvtepi32_ps(x.a), _mm256_cvtepi32_ps(x.b));
}
VEC_INLINE float v16_sum(v16 x) {
    const __m256 e = _mm256_add_ps(x.a, x.b);
    const __m128 f = _mm_add_ps(_mm256_castps256_ps128(e), _mm256_extractf128_ps(e, 1));
    const __m128 g = _mm_add_ps(f, _mm_movehl_ps(f, f));
    return _mm_cvtss_f32(_mm_add_ss(g, _mm_shuffle_ps(g, g, 1)));
}
VEC_INLINE float v16_maximum(v16 x) {
    const __m256 e = _mm256_max_ps(x.a, x.b);
    const __m128 f = _mm_max_ps(_mm256_castps256_ps128(e), _mm256_extractf128_ps(e, 1));
    const __m128 g = _mm_max_ps(f, _mm_movehl_ps(f, f));
    return _mm_cvtss_f32(_mm_max_ss(g, _mm_shuffle_ps(g, g, 1)));
}
VEC_INLINE __m256 v8_hadamard(__m256 v) {
    __m256 s = _mm256_permute_ps(v, 0xb1);
    v = _mm256_blend_ps(_mm256_add_ps(v, s), _mm256_sub_ps(s, v), 0xaa);
    s = _mm256_permute_ps(v, 0x4e);
    v = _mm256_blend_ps(_mm256_add_ps(v, s), _mm256_sub_ps(s, v), 0xcc);
    s = _mm256_permute2f128_ps(v, v, 1);
    return _mm256_blend_ps(_mm256_add_ps(v, s), _mm256_sub_ps(s, v), 0xf0);
}
VEC_INLINE v16 v16_hadamard(v16 x) {
    const __m256 a = v8_hadamard(x.a), b = v8_hadamard(x.b);
    return v16_make(_mm256_add_ps(a, b), _mm256_sub_ps(a, b));
}
VEC_INLINE v16i v16i_set(int32_t x) {
    return v16i_make(_mm256_set1_epi32(x), _mm256_set1_epi32(x));
}
VEC_INLINE v16i v16i_load(const int32_t *p) {
    const __m256i *from = (const __m256i *)(const void *)p;
    return v16i_make(_mm256_loadu_si256(from), _mm256_loadu_si256(from + 1));
}
VEC_INLINE void v16i_store(int32_t *p, v16i x) {
    _mm256_storeu_si256((__m256i *)(void *)p, x.a);
    _mm256_storeu_si256((__m256i *)(void *)p + 1, x.b);
}
VEC_INLINE v16i v16i_add(v16i x, v16i y) {
    return v16i_make(_mm256_add_epi32(x.a, y.a), _mm256_add_epi32(x.b, y.b));
}
VEC_INLINE v16i v16i_sub(v16i x, v16i y) {
    return v16i_make(_mm256_sub_epi32(x.a, y.a), _mm256_sub_epi32(x.b, y.b));
}
VEC_INLINE v16i v16i_shift_exponent(v16i x) {
    return v16i_make(_mm256_slli_epi32(x.a, 23), _mm256_slli_epi32(x.b, 23));
}
VEC_INLINE v16i v16i_shift_right(v16i x, int by) {
    const __m128i count = _mm_cvtsi32_si128(by);
    return v16i_make(_mm256_srl_epi32(x.a, count), _mm256_srl_epi32(x.b, count));
}
VEC_INLINE v16i v16i_and(v16i x, v16i y) {
    return v16i_make(_mm256_and_si256(x.a, y.a), _mm256_and_si256(x.b, y.b));
}
VEC_INLINE int32_t v16i_sum(v16i x) {
    const __m256i e = _mm256_add_epi32(x.a, x.b);
    const __m128i f = _mm_add_epi32(_mm256_castsi256_si128(e), _mm256_extracti128_si256(e, 1));
    const __m128i g = _mm_add_epi32(f, _mm_shuffle_epi32(f, 0x4e));
    return _mm_cvtsi128_si32(_mm_add_epi32(g, _mm_shuffle_epi32(g, 0xb1)));
}
VEC_INLINE void v16i_store_i8(int8_t *p, v16i x) {
    const __m256i low = _mm256_set1_epi32(255);
    const __m256i a = _mm256_and_si256(x.a, low), b = _mm256_and_si256(x.b, low);
    const __m128i c = _mm_packus_epi32(_mm256_castsi256_si128(a), _mm256_extracti128_si256(a, 1));
    const __m128i d = _mm_packus_epi32(_mm256_castsi256_si128(b), _mm256_extracti128_si256(b, 1));
    _mm_storeu_si128((__m128i *)(void *)p, _mm_packus_epi16(c, d));
}

VEC_INLINE v64 v64_load(const uint8_t *p) {
    const __m256i *q = (const __m256i *)(const void *)p;
    return v16i_make(_mm256_loadu_si256(q), _mm256_loadu_si256(q + 1));
}
VEC_INLINE void v64_store(uint8_t *p, v64 v) {
    __m256i *q = (__m256i *)(void *)p;
    _mm256_storeu_si256(q, v.a);
    _mm256_storeu_si256(q + 1, v.b);
}
VEC_INLINE v64 v64_low(v64 v) {
    const __m256i mask = _mm256_set1_epi8(15);
    return v16i_make(_mm256_and_si256(v.a, mask), _mm256_and_si256(v.b, mask));
}
VEC_INLINE v64 v64_high(v64 v) {
    const __m256i mask = _mm256_set1_epi8(15);
    return v16i_make(_mm256_and_si256(_mm256_srli_epi16(v.a, 4), mask),
                     _mm256_and_si256(_mm256_srli_epi16(v.b, 4), mask));
}
VEC_INLINE v16i v64_byte(v64 v, int j) {
    const __m128i count = _mm_cvtsi32_si128(8 * j);
    const __m256i mask = _mm256_set1_epi32(255);
    return v16i_make(_mm256_and_si256(_mm256_srl_epi32(v.a, count), mask),
                     _mm256_and_si256(_mm256_srl_epi32(v.b, count), mask));
}
VEC_INLINE vquad vquad_load(const int8_t *p) {
    int32_t four;
    memcpy(&four, p, sizeof(four));
    return _mm256_set1_epi32(four);
}
VEC_INLINE vquad vquad_load_once(const int8_t *p) {
    return vquad_load(p);
}
#ifdef VEC_AVX_VNNI
VEC_INLINE v16i vdot_start(int32_t offset, bool wide) {
    (void)wide;
    return v16i_set(offset);
}
VEC_INLINE v16i vdot_add(v16i sum, v64 weights, vquad activations, bool wide) {
    (void)wide;
    return v16i_make(_mm256_dpbusd_avx_epi32(sum.a, weights.a, activations),
                     _mm256_dpbusd_avx_epi32(sum.b, weights.b, activations));
}
#else
VEC_INLINE v16i vdot_start(int32_t offset, bool wide) {
    return v16i_set(wide ? 0 : offset); /* wide: the zero is taken off the weights themselves */
}
/* vpmaddubsw adds pairs of products to 16 bits with saturation. Unsigned weights below 32 cannot
 * reach it (2 * 31 * 127). Bytes around 128 become magnitude and sign, and the sign moves to the
 * activation: 2 * 128 * 127 = 32512 fits. */
VEC_INLINE __m256i vdot_half(__m256i sum, __m256i weights, __m256i activations, bool wide) {
    __m256i pairs;
    if (wide) {
        const __m256i w = _mm256_xor_si256(weights, _mm256_set1_epi8((char)0x80));
        pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(activations, w));
    } else {
        pairs = _mm256_maddubs_epi16(weights, activations);
    }
    return _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}
VEC_INLINE v16i vdot_add(v16i sum, v64 weights, vquad activations, bool wide) {
    return v16i_make(vdot_half(sum.a, weights.a, activations, wide),
                     vdot_half(sum.b, weights.b, activations, wide));
}
#endif
VEC_INLINE __m256i vdot_half_signed(__m256i sum, __m256i weights, __m256i activations) {
#ifdef VEC_AVX_VNNI
    return _mm256_dpbusd_avx_epi32(sum, activations, weights);
#else
    const __m256i pairs = _mm256_maddubs_epi16(activations, weights);
    return _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
#endif
}
VEC_INLINE v16i vdot_block_wide(v16i sum, v64 weights, vquad activations) {
    return vdot_add(sum, weights, activations, true);
}
VEC_INLINE v16i vdot_block_signed(v16i sum, v64 weights, vquad activations) {
    return v16i_make(vdot_half_signed(sum.a, weights.a, activations),
                     vdot_half_signed(sum.b, weights.b, activations));
}
VEC_INLINE void vec_prefetch(const uint8_t *p) {
    _mm_prefetch((const char *)p, _MM_HINT_T0);
}

#endif
