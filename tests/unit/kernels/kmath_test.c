/* kmath_test.c -- half floats against the compiler's own, sines against long double. */
#include "kernels/kmath.h"

#include <criterion/criterion.h>

Test(kmath, every_half_becomes_the_float_it_is) {
    for (uint32_t h = 0; h < 65536; h++) {
        const uint16_t bits = (uint16_t)h;
        _Float16 half;
        memcpy(&half, &bits, sizeof(half));
        const float expected = (float)half, got = kmath_f16(bits);
        cr_assert(isnan(expected) ? isnan(got) : kmath_bits(got) == kmath_bits(expected), "%x", h);
        cr_assert(
            isnan(expected) ? (kmath_to_f16(got) & 0x7e00) == 0x7e00 : kmath_to_f16(got) == bits,
            "%x", h);
    }
}

Test(kmath, floats_round_to_the_nearest_half_even_on_ties) {
    uint32_t u = 1;
    for (int i = 0; i < 2000000; i++) {
        /* Every other one lies at or next to a tie between two halves. */
        u = u * 1664525u + 1013904223u;
        const uint32_t near = (u & 0xffffe000u) + 0x1000u + (u & 1u) - ((u >> 1) & 1u);
        const float f = kmath_float(i % 2 == 0 ? u : near);
        const _Float16 half = (_Float16)f;
        uint16_t expected;
        memcpy(&expected, &half, sizeof(expected));
        if (!isnan(f)) {
            cr_assert_eq(kmath_to_f16(f), expected, "%a", (double)f);
        }
    }
}

Test(kmath, bf16_is_the_upper_half_of_a_float) {
    cr_assert_eq(kmath_bf16(0x3f80), 1.0f);
    cr_assert_eq(kmath_bf16(0xc049), -3.140625f);
}

/* The nearest of all 253 finite values, by search; on a tie the one whose last bit is 0. */
static uint8_t nearest_e4m3(float f) {
    uint8_t best = 0;
    double least = INFINITY;
    for (int v = 0; v < 0x7f; v++) {
        double distance = fabs(fabs((double)f) - (double)kmath_e4m3((uint8_t)v));
        if (distance < least || (distance == least && v % 2 == 0)) {
            least = distance;
            best = (uint8_t)v;
        }
    }
    return (uint8_t)(best | (signbit(f) ? 0x80 : 0));
}

Test(kmath, e4m3_is_the_nearest_of_its_values_even_on_ties_and_saturates) {
    uint32_t u = 1;
    for (int v = 0; v < 256; v++) {
        if ((v & 0x7f) != 0x7f) {
            cr_assert_eq(kmath_to_e4m3(kmath_e4m3((uint8_t)v)), v, "%x", v);
        }
    }
    for (int i = 0; i < 200000; i++) {
        /* Exponents around those of FP8; every other one at or next to a tie. */
        u = u * 1664525u + 1013904223u;
        uint32_t bits = (u & 0x80ffffffu) | ((0x6fu + (u >> 24) % 26u) << 23);
        if (i % 2 == 0) {
            bits = (bits & 0xfff00000u) + 0x80000u + (u & 1u) - ((u >> 1) & 1u);
        }
        const float f = kmath_float(bits);
        cr_assert_eq(kmath_to_e4m3(f), nearest_e4m3(f), "%a", (double)f);
    }
    cr_assert_eq(kmath_to_e4m3(INFINITY), 0x7e);
    cr_assert_eq(kmath_to_e4m3(-1e9f), 0xfe);
    cr_assert_eq(kmath_e4m3(0x7e), 448.0f);
    cr_assert_eq(kmath_e4m3(0x01), 0.001953125f);
    cr_assert(isnan(kmath_e4m3(kmath_to_e4m3(NAN))));
}

Test(kmath, sincos_is_good_to_1e15) {
    for (int i = 0; i < 400000; i++) {
        const double x = (i - 200000) * (i % 3 == 0 ? 5.0 : 0.01) + 1e-9 * i;
        double s, c;
        kmath_sincos(x, &s, &c);
        cr_assert_lt(fabsl((long double)s - sinl((long double)x)), 1e-15L, "sin %.17g", x);
        cr_assert_lt(fabsl((long double)c - cosl((long double)x)), 1e-15L, "cos %.17g", x);
    }
}
