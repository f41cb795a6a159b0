/* cudalibrary_test.c -- many rows go to cuBLASLt unless bits must repeat; what comes back is close.
 *
 * Needs a device: WEIR_CUDA_MODULE names the module of the emulated one, as in tests/plan.txt
 * (cuda/library), whose products are counted. */
#define _GNU_SOURCE
#include <criterion/criterion.h>
#include <dlfcn.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "kernels/backend.h"

enum { INPUTS = 96, OUTPUTS = 48, ROWS = 260, Q8_BLOCK = 34 };

typedef struct {
    backend *device;
    const backend_weight *weight;
    float *x, *bias, *out; /* device */
} bench;

static float noise(uint32_t i) {
    i = (i ^ 61) ^ (i >> 16);
    i *= 9;
    i ^= i >> 4;
    i *= 0x27d4eb2d;
    i ^= i >> 15;
    return (float)(i % 2001) / 1000.0f - 1;
}

static float *take(backend *b, int32_t count, uint32_t salt) {
    void *memory;
    float *host = calloc((size_t)count, sizeof *host);
    cr_assert_eq(backend_alloc(b, (uint64_t)count * sizeof(float), &memory), STATUS_OK);
    for (int32_t i = 0; i < count; i++) {
        host[i] = noise((uint32_t)i + salt);
    }
    cr_assert_eq(backend_upload(b, memory, host, (uint64_t)count * sizeof(float)), STATUS_OK);
    free(host);
    return memory;
}

/* Q8_0: groups of a half-float scale (here 2^-7) and 32 bytes. */
static void load(bench *b) {
    static uint8_t data[OUTPUTS * INPUTS / 32 * Q8_BLOCK];
    diag d;
    for (size_t i = 0; i < sizeof data; i++) {
        data[i] = (uint8_t)(int8_t)(100 * noise((uint32_t)i + 5));
    }
    for (size_t g = 0; g < sizeof data; g += Q8_BLOCK) {
        data[g] = 0;
        data[g + 1] = 0x20;
    }
    cr_assert_eq(backend_weight_load(b->device, BACKEND_Q8_0, data, sizeof data, OUTPUTS, INPUTS,
                                     BACKEND_ACTIVATIONS_INT8, &b->weight, &d),
                 STATUS_OK, "%s", d.text);
}

static bool start(bench *b, bool deterministic) {
    const backend_options o = {.deterministic = deterministic};
    const ops_sizes sizes = {.rows_max = ROWS,
                             .context_tokens = ROWS,
                             .width_max = INPUTS,
                             .heads = 2,
                             .kv_heads = 1,
                             .head_dim = 64};
    diag d;
    const char *module = getenv("WEIR_CUDA_MODULE");
    if (!module || access(module, R_OK) != 0) {
        return false;
    }
    cr_assert_eq(backend_open("cuda", &o, &b->device, &d), STATUS_OK, "%s", d.text);
    load(b);
    cr_assert_eq(backend_reserve(b->device, &sizes), STATUS_OK);
    b->x = take(b->device, ROWS * INPUTS, 1);
    b->bias = take(b->device, OUTPUTS, 3);
    b->out = take(b->device, ROWS * OUTPUTS, 2);
    return true;
}

static void stop(bench *b) {
    backend_free(b->device, b->x);
    backend_free(b->device, b->bias);
    backend_free(b->device, b->out);
    backend_close(b->device);
}

/* out = (out +) W x (+ bias), of the first `rows`. */
static void multiply(const bench *b, int32_t rows, bool bias, float *out) {
    const ops_linear op = {.x = b->x,
                           .rows = rows,
                           .parts = {{b->weight, bias ? b->bias : NULL, b->out, true}},
                           .parts_count = 1};
    cr_assert_eq(backend_linear(b->device, &op), STATUS_OK);
    cr_assert_eq(backend_download(b->device, out, b->out, (uint64_t)rows * OUTPUTS * sizeof(float)),
                 STATUS_OK);
}

static unsigned long products(void) {
    unsigned long (*count)(void) = NULL;
    void *emulated = dlopen("libweir_emu.so", RTLD_NOW | RTLD_NOLOAD);
    if (!emulated) {
        cr_skip_test("products are counted on the emulated device alone");
    }
    *(void **)(void *)&count = dlsym(emulated, "emu_cublas_matmuls");
    if (!count) {
        cr_skip_test("built without cuBLASLt's header");
    }
    return count();
}

Test(cudalibrary, many_rows_are_its_and_as_exact_as_bf16) {
    static float ours[ROWS * OUTPUTS], its[ROWS * OUTPUTS];
    bench b;
    if (!start(&b, true)) {
        cr_skip_test("WEIR_CUDA_MODULE names no module");
    }
    cr_assert(strstr(backend_numerics(b.device), "/exact") != NULL);
    multiply(&b, ROWS, false, ours);
    cr_assert_eq(products(), 0, "deterministic: no library");
    stop(&b);
    cr_assert(start(&b, false));
    cr_assert(strstr(backend_numerics(b.device), "/fast") != NULL);
    multiply(&b, ROWS, false, its);
    cr_assert_eq(products(), 1);
    stop(&b);
    double apart = 0, size = 0;
    for (int32_t i = 0; i < ROWS * OUTPUTS; i++) {
        apart = fmax(apart, fabs((double)its[i] - (double)ours[i]));
        size = fmax(size, fabs((double)ours[i]));
    }
    cr_assert_lt(apart, 0.01 * size, "%g of %g", apart, size);
}

Test(cudalibrary, few_rows_and_biases_are_ours) {
    static float first[ROWS * OUTPUTS], again[ROWS * OUTPUTS];
    bench b;
    if (!start(&b, false)) {
        cr_skip_test("WEIR_CUDA_MODULE names no module");
    }
    multiply(&b, 255, false, first);
    multiply(&b, ROWS, true, first);
    cr_assert_eq(products(), 0);
    stop(&b);
    /* And what is ours has the bits of --deterministic. */
    cr_assert(start(&b, true));
    multiply(&b, 255, false, again);
    multiply(&b, ROWS, true, again);
    cr_assert_eq(memcmp(first, again, sizeof first), 0);
    stop(&b);
}
