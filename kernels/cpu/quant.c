/* quant.c -- the block formats of weight files, one group of 32 weights at a time. */
#include "kernels/cpu/quant.h"

#include <string.h>

#include "engine/base/check.h"
#include "kernels/kmath.h"

enum {
    Q4_0_BYTES = 18,
    Q4_1_BYTES = 20,
    Q5_0_BYTES = 22,
    Q5_1_BYTES = 24,
    Q8_0_BYTES = 34,
    SUPER_GROUPS = 8, /* groups of 32 in a block of the K formats */
    Q4_K_BYTES = 144,
    Q5_K_BYTES = 176,
    Q6_K_BYTES = 210,
    K_SCALES = 4, /* offset of the packed six-bit scales: after d and dmin */
    K_DATA = 16   /* offset of what follows them */
};

static float half_at(const uint8_t *p) {
    uint16_t h;
    memcpy(&h, p, sizeof(h));
    return kmath_f16(h);
}

/* Sixteen bytes hold inputs 0-15 in their low halves and 16-31 in their high halves. */
static void nibbles_get(const uint8_t *p, uint8_t *quant) {
    for (int i = 0; i < 16; i++) {
        quant[i] = p[i] & 15;
        quant[16 + i] = p[i] >> 4;
    }
}

/* Adds the fifth bits, bit i of a 32-bit word for input i. */
static void fifth_bits_add(const uint8_t *p, uint8_t *quant) {
    for (int i = 0; i < 32; i++) {
        quant[i] = (uint8_t)(quant[i] | (((p[i >> 3] >> (i & 7)) & 1) << 4));
    }
}

/* Six-bit scale and minimum of group j: groups 0-3 have their low bits to themselves; groups 4-7
 * have four bits in the last four bytes and their top two in the high bits of the first eight. */
static void k_scale_get(const uint8_t *s, int j, uint32_t *scale, uint32_t *minimum) {
    if (j < 4) {
        *scale = s[j] & 63u;
        *minimum = s[j + 4] & 63u;
    } else {
        *scale = (s[j + 4] & 15u) | ((uint32_t)(s[j - 4] >> 6) << 4);
        *minimum = (uint32_t)(s[j + 4] >> 4) | ((uint32_t)(s[j] >> 6) << 4);
    }
}

static void k45_get(const uint8_t *block, int j, const uint8_t *fifth, const uint8_t *quants,
                    quant_group *out) {
    uint32_t scale, minimum;
    k_scale_get(block + K_SCALES, j, &scale, &minimum);
    out->scale[0] = out->scale[1] = half_at(block) * (float)scale;
    out->minimum = -(half_at(block + 2) * (float)minimum);
    const uint8_t *pair = quants + 32 * (j / 2); /* two groups share 32 bytes */
    const int shift = 4 * (j % 2);
    for (int i = 0; i < 32; i++) {
        const int high = fifth != NULL ? ((fifth[i] >> j) & 1) << 4 : 0;
        out->quant[i] = (uint8_t)(((pair[i] >> shift) & 15) | high);
    }
}

/* Six-bit quants moved from 32 to 128 in the middle, as the other signed bytes. */
static void k6_get(const uint8_t *block, int j, quant_group *out) {
    const int side = j / 4, quarter = j % 4; /* 128 inputs a side, 32 a quarter */
    const uint8_t *low = block + 64 * side + 32 * (quarter % 2);
    const uint8_t *high = block + 128 + 32 * side;
    const int8_t *scales = (const int8_t *)block + 192 + 8 * side + 2 * quarter;
    const float d = half_at(block + 208);
    out->scale[0] = d * (float)scales[0];
    out->scale[1] = d * (float)scales[1];
    out->minimum = 0;
    for (int i = 0; i < 32; i++) {
        const int four = (low[i] >> (4 * (quarter / 2))) & 15;
        const int two = (high[i] >> (2 * quarter)) & 3;
        out->quant[i] = (uint8_t)((four | (two << 4)) - 32 + 128);
    }
}

static void simple_scale(const uint8_t *block, bool minimum, quant_group *out) {
    out->scale[0] = out->scale[1] = half_at(block);
    out->minimum = minimum ? half_at(block + 2) : 0;
}

void quant_get(backend_type type, const uint8_t *row, int32_t group, quant_group *out) {
    const size_t g = (size_t)group;
    const uint8_t *super;
    switch (type) {
        case BACKEND_Q4_0:
            simple_scale(row + g * Q4_0_BYTES, false, out);
            nibbles_get(row + g * Q4_0_BYTES + 2, out->quant);
            return;
        case BACKEND_Q4_1:
            simple_scale(row + g * Q4_1_BYTES, true, out);
            nibbles_get(row + g * Q4_1_BYTES + 4, out->quant);
            return;
        case BACKEND_Q5_0:
            simple_scale(row + g * Q5_0_BYTES, false, out);
            nibbles_get(row + g * Q5_0_BYTES + 6, out->quant);
            fifth_bits_add(row + g * Q5_0_BYTES + 2, out->quant);
            for (int i = 0; i < 32; i++) {
                out->quant[i] = (uint8_t)(out->quant[i] - 16 + 128);
            }
            return;
        case BACKEND_Q5_1:
            simple_scale(row + g * Q5_1_BYTES, true, out);
            nibbles_get(row + g * Q5_1_BYTES + 8, out->quant);
            fifth_bits_add(row + g * Q5_1_BYTES + 4, out->quant);
            return;
        case BACKEND_Q8_0:
            simple_scale(row + g * Q8_0_BYTES, false, out);
            for (int i = 0; i < 32; i++) {
                out->quant[i] = row[g * Q8_0_BYTES + 2 + (size_t)i] ^ 0x80u;
            }
            return;
        case BACKEND_Q4_K:
            super = row + g / SUPER_GROUPS * Q4_K_BYTES;
            k45_get(super, (int)(g % SUPER_GROUPS), NULL, super + K_DATA, out);
            return;
        case BACKEND_Q5_K:
            super = row + g / SUPER_GROUPS * Q5_K_BYTES;
            k45_get(super, (int)(g % SUPER_GROUPS), super + K_DATA, super + K_DATA + 32, out);
            return;
        case BACKEND_Q6_K:
            k6_get(row + g / SUPER_GROUPS * Q6_K_BYTES, (int)(g % SUPER_GROUPS), out);
            return;
        case BACKEND_F32:
        case BACKEND_F16:
        case BACKEND_BF16:
            break;
    }
    UNREACHABLE();
}
