/* halffloat_test.c -- every 16-bit float against the formula of its format. */
#include "models/file/halffloat.h"

#include <criterion/criterion.h>
#include <math.h>

/* Sign, `exponent_bits` of exponent, the rest fraction (IEEE 754, section 3.4). */
static double value_of(uint16_t bits, int exponent_bits) {
    int fraction_bits = 15 - exponent_bits, bias = (1 << (exponent_bits - 1)) - 1;
    int exponent = bits >> fraction_bits & ((1 << exponent_bits) - 1);
    double fraction = (double)(bits & ((1 << fraction_bits) - 1)) / (double)(1 << fraction_bits);
    double sign = bits >> 15 ? -1 : 1;
    if (exponent == (1 << exponent_bits) - 1) {
        return fraction == 0 ? sign * INFINITY : NAN;
    }
    return exponent == 0 ? sign * ldexp(fraction, 1 - bias)
                         : sign * ldexp(1 + fraction, exponent - bias);
}

Test(halffloat, every_bit_pattern_is_its_value) {
    for (int bits = 0; bits < 1 << 16; bits++) {
        double f16 = value_of((uint16_t)bits, 5), bf16 = value_of((uint16_t)bits, 8);
        double got16 = (double)halffloat_f16((uint16_t)bits);
        double gotb16 = (double)halffloat_bf16((uint16_t)bits);
        cr_assert(isnan(f16) ? isnan(got16) : f16 == got16 && !signbit(f16) == !signbit(got16),
                  "f16 %04x is %g", bits, got16);
        cr_assert(
            isnan(bf16) ? isnan(gotb16) : bf16 == gotb16 && !signbit(bf16) == !signbit(gotb16),
            "bf16 %04x is %g", bits, gotb16);
    }
}
