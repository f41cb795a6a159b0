/* requant_test.c -- floats as groups of int8: each number within half a step, blocks by hand. */
#define _GNU_SOURCE
#include "models/arch/requant.h"

#include <criterion/criterion.h>
#include <math.h>
#include <string.h>

#include "engine/base/mem.h"
#include "engine/base/rng.h"
#include "kernels/kmath.h"

enum { ROWS = 5, INPUTS = 96, COUNT = ROWS * INPUTS, BLOCK = 34 };

/* Numbers of that type at an odd address, and what they are. */
static uint8_t *numbers(gguf_type type, float *values) {
    uint8_t *data = mem_alloc(COUNT * 4 + 1, 1);
    uint64_t random = 9;
    cr_assert_not_null(data);
    for (int i = 0; i < COUNT; i++) {
        float v = (float)((double)rng_below(&random, 20001) / 10000 - 1) * (float)(1 + i % 7);
        uint16_t half = type == GGUF_F16 ? kmath_to_f16(v) : kmath_to_bf16(v);
        if (type == GGUF_F32) {
            memcpy(data + 1 + 4 * i, &v, 4);
        } else {
            memcpy(data + 1 + 2 * i, &half, 2);
            v = type == GGUF_F16 ? kmath_f16(half) : kmath_bf16(half);
        }
        values[i] = v;
    }
    return data;
}

Test(requant, every_number_is_within_half_a_step) {
    static const gguf_type types[] = {GGUF_F32, GGUF_F16, GGUF_BF16};
    for (int t = 0; t < 3; t++) {
        float values[COUNT];
        uint8_t *data = numbers(types[t], values), *blocks;
        diag d = {0};
        cr_assert_eq(requant_q8_0(types[t], data + 1, ROWS, INPUTS, &blocks, &d), STATUS_OK, "%s",
                     d.text);
        for (int i = 0; i < COUNT; i++) {
            uint16_t scale_bits;
            memcpy(&scale_bits, blocks + i / 32 * BLOCK, 2);
            float scale = kmath_f16(scale_bits), top = 0;
            for (int k = 0; k < 32; k++) {
                top = fmaxf(top, fabsf(values[i / 32 * 32 + k]));
            }
            float got = scale * (float)(int8_t)blocks[i / 32 * BLOCK + 2 + i % 32];
            /* Half a step, and the scale's own rounding to 11 bits. */
            cr_assert(fabsf(got - values[i]) <= top * (0.501f / 127 + 1.0f / 2048),
                      "type %d, %d: %g for %g", t, i, (double)got, (double)values[i]);
        }
        mem_free(blocks);
        mem_free(data);
    }
}

Test(requant, blocks_are_those_of_the_format) {
    float x[64] = {0};
    x[0] = 127;
    x[1] = -127;
    x[2] = 63.4f;
    uint8_t *blocks;
    diag d = {0};
    cr_assert_eq(requant_q8_0(GGUF_F32, x, 1, 64, &blocks, &d), STATUS_OK, "%s", d.text);
    static const uint8_t start[] = {0x00, 0x3C, 127, 0x81, 63, 0}; /* a scale of 1.0 */
    cr_assert_arr_eq(blocks, start, sizeof start);
    for (int i = 0; i < BLOCK; i++) {
        cr_assert_eq(blocks[BLOCK + i], 0, "zeros stay zeros, whatever their scale");
    }
    mem_free(blocks);
}

Test(requant, only_floats_in_whole_groups_fit) {
    cr_assert(requant_fits(GGUF_BF16, 64) && requant_fits(GGUF_F32, 32));
    cr_assert(!requant_fits(GGUF_BF16, 48) && !requant_fits(GGUF_Q4_0, 64));
}

Test(requant, numbers_that_do_not_fit_are_refused) {
    static const float rows[] = {INFINITY, NAN, 1e9f};
    for (int i = 0; i < 3; i++) {
        float x[32] = {0};
        uint8_t *blocks;
        diag d = {0};
        x[7] = rows[i];
        cr_assert_eq(requant_q8_0(GGUF_F32, x, 1, 32, &blocks, &d), STATUS_CORRUPT);
        cr_assert(strstr(d.text, "do not fit") != NULL, "%s", d.text);
    }
    float least[32] = {0};
    uint8_t *blocks;
    diag d = {0};
    least[0] = 1e-45f;
    cr_assert_eq(requant_q8_0(GGUF_F32, least, 1, 32, &blocks, &d), STATUS_OK);
    mem_free(blocks);
}
