/* kmath.h -- scalar arithmetic with one result on every machine.
 *
 * Purpose    Half floats, brain floats, FP8, and double sine and cosine, made of IEEE operations
 *            in a written order: their bits do not change with the C library or the CPU.
 * Ownership  None.
 * Threads    Pure functions.
 * Limits     kmath_sincos is good to 1e-15 for |x| < 2^20 and defined for every finite x.
 */
#ifndef KERNELS_KMATH_H
#define KERNELS_KMATH_H

#include <math.h>
#include <stdint.h>
#include <string.h>

#ifdef __cplusplus
extern "C" {
#endif

static inline uint32_t kmath_bits(float f) {
    uint32_t u;
    memcpy(&u, &f, sizeof(u));
    return u;
}

static inline float kmath_float(uint32_t u) {
    float f;
    memcpy(&f, &u, sizeof(f));
    return f;
}

/* IEEE binary16 to binary32: exact. */
static inline float kmath_f16(uint16_t h) {
    const uint32_t sign = (uint32_t)(h & 0x8000u) << 16;
    const uint32_t exponent = (h >> 10) & 31u, fraction = h & 1023u;
    if (exponent == 0) { /* zero and subnormal: fraction * 2^-24 */
        const float magnitude = (float)fraction * 5.9604644775390625e-8f;
        return kmath_float(sign | kmath_bits(magnitude));
    }
    if (exponent == 31) {
        const uint32_t quiet = fraction != 0 ? 0x400000u : 0u;
        return kmath_float(sign | 0x7f800000u | quiet | (fraction << 13));
    }
    return kmath_float(sign | ((exponent + 112u) << 23) | (fraction << 13));
}

/* binary32 to binary16, to nearest even, as the F16C instructions do. */
static inline uint16_t kmath_to_f16(float f) {
    const uint32_t u = kmath_bits(f), sign = (u >> 16) & 0x8000u, magnitude = u & 0x7fffffffu;
    if (magnitude > 0x7f800000u) {
        return (uint16_t)(sign | 0x7e00u | ((magnitude >> 13) & 0x3ffu));
    }
    if (magnitude >= 0x477ff000u) { /* 65520 and more round to infinity */
        return (uint16_t)(sign | 0x7c00u);
    }
    if (magnitude < 0x38800000u) { /* subnormal result: adding 0.5 leaves the rounded fraction */
        const float shifted = kmath_float(magnitude) + 0.5f;
        return (uint16_t)(sign | (kmath_bits(shifted) - 0x3f000000u));
    }
    const uint32_t odd = (magnitude >> 13) & 1u;
    return (uint16_t)(sign | ((magnitude + 0xfffu + odd - 0x38000000u) >> 13));
}

static inline float kmath_bf16(uint16_t h) {
    return kmath_float((uint32_t)h << 16);
}

/* binary32 to bfloat16, to nearest even; NaN stays NaN. */
static inline uint16_t kmath_to_bf16(float f) {
    const uint32_t u = kmath_bits(f), high = u >> 16;
    if ((u & 0x7fffffffu) > 0x7f800000u) {
        return (uint16_t)(high | 64u);
    }
    return (uint16_t)((u + 0x7fffu + (high & 1u)) >> 16);
}

/* FP8 e4m3 (OCP 8-bit floating point, 2023) to binary32: exact. There is no infinity. */
static inline float kmath_e4m3(uint8_t v) {
    const uint32_t sign = (uint32_t)(v & 0x80u) << 24, exponent = (v >> 3) & 15u, fraction = v & 7u;
    if ((v & 0x7fu) == 0x7fu) {
        return kmath_float(sign | 0x7fc00000u);
    }
    if (exponent == 0) { /* zero and subnormal: fraction * 2^-9 */
        return kmath_float(sign | kmath_bits((float)fraction * 0.001953125f));
    }
    return kmath_float(sign | ((exponent + 120u) << 23) | (fraction << 20));
}

/* binary32 to FP8 e4m3, to nearest even; what is larger than 448 becomes 448. */
static inline uint8_t kmath_to_e4m3(float f) {
    const uint32_t u = kmath_bits(f), sign = (u >> 24) & 0x80u, magnitude = u & 0x7fffffffu;
    if (magnitude > 0x7f800000u) {
        return 0x7fu;
    }
    if (magnitude >= 0x43e00000u) { /* 448 */
        return (uint8_t)(sign | 0x7eu);
    }
    if (magnitude < 0x3c800000u) { /* below 2^-6: adding 2^14 leaves multiples of 2^-9 */
        const float shifted = kmath_float(magnitude) + 16384.0f;
        return (uint8_t)(sign | (kmath_bits(shifted) - 0x46800000u));
    }
    const uint32_t odd = (magnitude >> 20) & 1u;
    return (uint8_t)(sign | ((magnitude + 0x7ffffu + odd - 0x3c000000u) >> 20));
}

/* Sine and cosine: reduction by pi/2 in three parts (Cody and Waite, "Software Manual for the
 * Elementary Functions", 1980), then Taylor series, whose remainder on [-pi/4, pi/4] is below
 * 5e-17. The first part of pi/2 has 33 bits, so its product with the quadrant is exact. */
static inline void kmath_sincos(double x, double *sine, double *cosine) {
    const double magic = 6755399441055744.0; /* 1.5 * 2^52: adding it rounds to an integer */
    const double quadrant_shifted = x * 0.63661977236758134308 + magic;
    const double quadrant = quadrant_shifted - magic;
    double r = x - quadrant * 1.57079632673412561417e+00;
    r = r - quadrant * 6.07710050630396597660e-11;
    r = r - quadrant * 2.02226624879595063154e-21;
    const double z = r * r;
    double s = -1.0 / 1307674368000.0;
    s = s * z + 1.0 / 6227020800.0;
    s = s * z - 1.0 / 39916800.0;
    s = s * z + 1.0 / 362880.0;
    s = s * z - 1.0 / 5040.0;
    s = s * z + 1.0 / 120.0;
    s = s * z - 1.0 / 6.0;
    s = r + r * z * s;
    double c = 1.0 / 20922789888000.0;
    c = c * z - 1.0 / 87178291200.0;
    c = c * z + 1.0 / 479001600.0;
    c = c * z - 1.0 / 3628800.0;
    c = c * z + 1.0 / 40320.0;
    c = c * z - 1.0 / 720.0;
    c = c * z + 1.0 / 24.0;
    c = 1.0 - (0.5 * z - z * z * c);
    uint64_t bits;
    memcpy(&bits, &quadrant_shifted, sizeof(bits));
    const uint64_t turn = bits & 3u;
    const double a = (turn & 1u) != 0 ? c : s, b = (turn & 1u) != 0 ? s : c;
    *sine = (turn & 2u) != 0 ? -a : a;
    *cosine = (turn == 1u || turn == 2u) ? -b : b;
}

#ifdef __cplusplus
}
#endif
#endif
