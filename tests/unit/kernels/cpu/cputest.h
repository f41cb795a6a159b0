/* cputest.h -- what the tests of the CPU backend share: random data, backends of every kind.
 *
 * Purpose    Seeded noise, random weights of every format, one backend an instruction set.
 * Ownership  cputest_end, at the end of every test, frees what cputest_* took.
 * Threads    One.
 * Limits     Failures abort the test.
 */
#ifndef TESTS_UNIT_KERNELS_CPU_CPUTEST_H
#define TESTS_UNIT_KERNELS_CPU_CPUTEST_H

#include <criterion/criterion.h>
#include <math.h>
#include <stddef.h>
#include <string.h>

#include "engine/base/mem.h"
#include "engine/base/rng.h"
#include "kernels/backend.h"
#include "kernels/kmath.h"

static const backend_type CPUTEST_QUANTISED[] = {BACKEND_Q4_0, BACKEND_Q4_1, BACKEND_Q5_0,
                                                 BACKEND_Q5_1, BACKEND_Q8_0, BACKEND_Q4_K,
                                                 BACKEND_Q5_K, BACKEND_Q6_K};
static const backend_type CPUTEST_PLAIN[] = {BACKEND_F32, BACKEND_F16, BACKEND_BF16};
/* Threads share work above the instruction sets, so ThreadSanitizer sees one of them. */
#ifdef __SANITIZE_THREAD__
static const char *const CPUTEST_ISAS[] = {"auto"};
#else
static const char *const CPUTEST_ISAS[] = {"portable", "avx2", "avxvnni", "avx512", "amx"};
#endif
/* Sanitizers look at memory and threads, not at bits: a few of many cuts show them all there is. */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
enum { CPUTEST_CUTS_MAX = 2 };
#else
enum { CPUTEST_CUTS_MAX = 99 };
#endif
enum {
    CPUTEST_QUANTISED_COUNT = 8,
    CPUTEST_PLAIN_COUNT = 3,
    CPUTEST_ISAS_COUNT = sizeof(CPUTEST_ISAS) / sizeof(CPUTEST_ISAS[0])
};

static uint64_t cputest_state = 1;

static inline uint32_t cputest_random(void) {
    return (uint32_t)rng_next(&cputest_state);
}

/* Around zero, mostly within 1, now and then ten times that, as activations are. */
static inline float cputest_noise(void) {
    float sum = 0;
    for (int i = 0; i < 4; i++) {
        sum += (float)(cputest_random() >> 8) / 16777216.0f - 0.5f;
    }
    return cputest_random() % 64 == 0 ? 10 * sum : sum;
}

/* Memory of one test, given back by cputest_end. */
typedef struct cputest_block {
    struct cputest_block *next;
    max_align_t data[];
} cputest_block;
static cputest_block *cputest_blocks;

static inline void *cputest_take(int64_t count, size_t bytes) {
    cputest_block *block = mem_calloc(1, sizeof(*block) + (size_t)count * bytes);
    cr_assert(block != NULL);
    block->next = cputest_blocks;
    cputest_blocks = block;
    return block->data;
}

static inline void cputest_end(void) {
    while (cputest_blocks != NULL) {
        cputest_block *next = cputest_blocks->next;
        mem_free(cputest_blocks);
        cputest_blocks = next;
    }
}

static inline float *cputest_zeros(int64_t count) {
    return cputest_take(count, sizeof(float));
}

static inline float *cputest_floats(int64_t count) {
    float *p = cputest_zeros(count);
    for (int64_t i = 0; i < count; i++) {
        p[i] = cputest_noise();
    }
    return p;
}

/* A random matrix in a file's format: noise for plain ones, random quants with small scales else.
 */
static inline uint8_t *cputest_matrix(backend_type type, int32_t outputs, int32_t inputs) {
    static const struct {
        backend_type type;
        uint64_t block;
        int scales[2], count;
    } blocks[] = {{BACKEND_Q4_0, 18, {0, 0}, 1},  {BACKEND_Q4_1, 20, {0, 2}, 2},
                  {BACKEND_Q5_0, 22, {0, 0}, 1},  {BACKEND_Q5_1, 24, {0, 2}, 2},
                  {BACKEND_Q8_0, 34, {0, 0}, 1},  {BACKEND_Q4_K, 144, {0, 2}, 2},
                  {BACKEND_Q5_K, 176, {0, 2}, 2}, {BACKEND_Q6_K, 210, {208, 0}, 1}};
    const uint64_t bytes = backend_type_bytes(type, outputs, inputs);
    cr_assert_gt(bytes, 0);
    uint8_t *p = cputest_take((int64_t)bytes, 1);
    for (uint64_t i = 0; i < bytes; i++) {
        p[i] = (uint8_t)cputest_random();
    }
    for (size_t b = 0; b < sizeof(blocks) / sizeof(blocks[0]); b++) {
        for (uint64_t at = 0; blocks[b].type == type && at < bytes; at += blocks[b].block) {
            for (int s = 0; s < blocks[b].count; s++) {
                const uint16_t half = kmath_to_f16(0.02f * cputest_noise());
                memcpy(p + at + blocks[b].scales[s], &half, sizeof(half));
            }
        }
    }
    for (uint64_t i = 0; type == BACKEND_F32 && i < bytes; i += 4) {
        const float x = cputest_noise();
        memcpy(p + i, &x, sizeof(x));
    }
    for (uint64_t i = 0; (type == BACKEND_F16 || type == BACKEND_BF16) && i < bytes; i += 2) {
        const float x = cputest_noise();
        const uint16_t half =
            type == BACKEND_F16 ? kmath_to_f16(x) : (uint16_t)(kmath_bits(x) >> 16);
        memcpy(p + i, &half, sizeof(half));
    }
    return p;
}

/* NULL when this machine lacks the instruction set. */
static inline backend *cputest_open(const char *isa, int32_t threads) {
    const backend_options options = {.threads = threads, .isa = isa};
    backend *b = NULL;
    diag d;
    const status s = backend_open("cpu", &options, &b, &d);
    if (s == STATUS_UNSUPPORTED) {
        return NULL;
    }
    cr_assert_eq(s, STATUS_OK, "%s", d.text);
    return b;
}

static inline const backend_weight *cputest_load(backend *b, backend_type type, const uint8_t *data,
                                                 int32_t outputs, int32_t inputs,
                                                 backend_activations activations) {
    const backend_weight *w = NULL;
    diag d;
    const status s = backend_weight_load(b, type, data, backend_type_bytes(type, outputs, inputs),
                                         outputs, inputs, activations, &w, &d);
    cr_assert_eq(s, STATUS_OK, "%s", d.text);
    return w;
}

static inline void cputest_same_bits(const float *a, const float *b, int64_t count,
                                     const char *what) {
    for (int64_t i = 0; i < count; i++) {
        cr_assert_eq(kmath_bits(a[i]), kmath_bits(b[i]), "%s: element %lld: %.9g and %.9g", what,
                     (long long)i, (double)a[i], (double)b[i]);
    }
}

#endif
