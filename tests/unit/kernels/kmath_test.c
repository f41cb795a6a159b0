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

Test(kmath, sincos_is_good_to_1e15) {
    for (int i = 0; i < 400000; i++) {
        const double x = (i - 200000) * (i % 3 == 0 ? 5.0 : 0.01) + 1e-9 * i;
        double s, c;
        kmath_sincos(x, &s, &c);
        cr_assert_lt(fabsl((long double)s - sinl((long double)x)), 1e-15L, "sin %.17g", x);
        cr_assert_lt(fabsl((long double)c - cosl((long double)x)), 1e-15L, "cos %.17g", x);
    }
}
