/* requant.c -- float weights as groups of int8, at load. */
#include "models/arch/requant.h"

#include <math.h>
#include <string.h>

#include "engine/base/mem.h"
#include "kernels/kmath.h"

enum { GROUP = 32, BLOCK_BYTES = 34, QUANT_MAX = 127 };

bool requant_fits(gguf_type type, uint64_t inputs) {
    return (type == GGUF_F32 || type == GGUF_F16 || type == GGUF_BF16) && inputs % GROUP == 0;
}

static void load_group(gguf_type type, const uint8_t *data, float x[GROUP]) {
    uint16_t halves[GROUP];
    if (type == GGUF_F32) {
        memcpy(x, data, GROUP * sizeof *x);
        return;
    }
    memcpy(halves, data, sizeof halves);
    for (int i = 0; i < GROUP; i++) {
        x[i] = type == GGUF_F16 ? kmath_f16(halves[i]) : kmath_bf16(halves[i]);
    }
}

/* False when a number is no number, or the scale does not fit F16. */
static bool store_block(const float x[GROUP], uint8_t block[BLOCK_BYTES]) {
    float top = 0;
    bool finite = true;
    for (int i = 0; i < GROUP; i++) {
        finite = finite && isfinite(x[i]);
        top = fabsf(x[i]) > top ? fabsf(x[i]) : top;
    }
    uint16_t scale = kmath_to_f16(top / QUANT_MAX);
    float inverse = top > 0 ? QUANT_MAX / top : 0;
    /* 1 / the least float is infinite, and zero times it would be none. */
    inverse = isfinite(inverse) ? inverse : 0;
    memcpy(block, &scale, sizeof scale);
    for (int i = 0; i < GROUP; i++) {
        block[sizeof scale + (size_t)i] = finite ? (uint8_t)(int8_t)lrintf(x[i] * inverse) : 0;
    }
    return finite && isfinite(kmath_f16(scale));
}

status requant_q8_0(gguf_type type, const void *data, uint64_t rows, uint64_t inputs, uint8_t **out,
                    diag *d) {
    uint64_t groups = rows * (inputs / GROUP);
    uint64_t step = GROUP * (type == GGUF_F32 ? sizeof(float) : sizeof(uint16_t));
    uint8_t *blocks = mem_alloc(groups, BLOCK_BYTES);
    if (blocks == NULL) {
        return status_fail(d, STATUS_NOMEM, "no memory for %llu groups of int8",
                           (unsigned long long)groups);
    }
    bool good = true;
    for (uint64_t g = 0; g < groups && good; g++) {
        float x[GROUP];
        load_group(type, (const uint8_t *)data + g * step, x);
        good = store_block(x, blocks + g * BLOCK_BYTES);
    }
    if (!good) {
        mem_free(blocks);
        return status_fail(d, STATUS_CORRUPT, "it has numbers that do not fit int8 groups");
    }
    *out = blocks;
    return STATUS_OK;
}
