/* halffloat.c -- 16-bit floats to float, exactly. */
#include "models/file/halffloat.h"

#include <math.h>
#include <string.h>

float halffloat_f16(uint16_t bits) {
    int exponent = bits >> 10 & 31, fraction = bits & 1023;
    float magnitude;
    if (exponent == 31) {
        magnitude = fraction == 0 ? INFINITY : NAN;
    } else if (exponent == 0) {
        magnitude = ldexpf((float)fraction, -24);
    } else {
        magnitude = ldexpf((float)(fraction + 1024), exponent - 25);
    }
    return bits >> 15 ? -magnitude : magnitude;
}

float halffloat_bf16(uint16_t bits) {
    uint32_t wide = (uint32_t)bits << 16;
    float value;
    memcpy(&value, &wide, sizeof value);
    return value;
}
