/* tile_test.c -- packed weights give back exactly what the file's format means. */
#include <stdio.h>

#include "tests/unit/kernels/cpu/cputest.h"

TestSuite(tile, .fini = cputest_end);

enum { GOLDEN_FLOATS_MAX = 2 * 512 };

/* The embedding reads rows out of packed tiles: a whole way there and back for each format. */
Test(tile, every_format_means_what_the_gguf_package_says) {
    FILE *f = fopen(WEIR_SOURCE_DIR "/tests/golden/quant/quant.bin", "rb");
    cr_assert(f != NULL);
    backend *b = cputest_open("auto", 1);
    int32_t head[4], formats = 0;
    while (fread(head, sizeof(head), 1, f) == 1) {
        const backend_type type = (backend_type)head[0];
        const int32_t rows = head[1], inputs = head[2];
        cr_assert_eq(backend_type_bytes(type, rows, inputs), (uint64_t)head[3]);
        uint8_t *data = cputest_take(head[3], 1);
        float expected[GOLDEN_FLOATS_MAX], got[GOLDEN_FLOATS_MAX];
        cr_assert_leq(rows * inputs, GOLDEN_FLOATS_MAX);
        cr_assert_eq(fread(data, 1, (size_t)head[3], f), (size_t)head[3]);
        cr_assert_eq(fread(expected, sizeof(float), (size_t)(rows * inputs), f), rows * inputs);
        const backend_weight *w =
            cputest_load(b, type, data, rows, inputs, BACKEND_ACTIVATIONS_INT8);
        const int32_t tokens[] = {0, 1};
        const ops_embed op = {w, tokens, got, rows, 1};
        cr_assert_eq(backend_embed(b, &op), STATUS_OK);
        for (int32_t i = 0; i < rows * inputs; i++) {
            cr_assert(got[i] == expected[i], "%s element %d: %.9g, not %.9g",
                      backend_type_name(type), i, (double)got[i], (double)expected[i]);
        }
        formats++;
    }
    cr_assert_eq(formats, CPUTEST_QUANTISED_COUNT);
    fclose(f);
    backend_close(b);
}

Test(tile, plain_formats_keep_every_bit) {
    const int32_t outputs = 21, inputs = 19;
    backend *b = cputest_open("auto", 2);
    for (int i = 0; i < CPUTEST_PLAIN_COUNT; i++) {
        const backend_type type = CPUTEST_PLAIN[i];
        uint8_t *data = cputest_matrix(type, outputs, inputs);
        const backend_weight *w =
            cputest_load(b, type, data, outputs, inputs, BACKEND_ACTIVATIONS_F32);
        for (int32_t o = 0; o < outputs; o++) {
            float got[19];
            const ops_embed op = {w, &o, got, 1, 1};
            cr_assert_eq(backend_embed(b, &op), STATUS_OK);
            for (int32_t k = 0; k < inputs; k++) {
                const int32_t at = o * inputs + k;
                float expected;
                if (type == BACKEND_F32) {
                    memcpy(&expected, data + 4 * at, 4);
                } else {
                    uint16_t half;
                    memcpy(&half, data + 2 * at, 2);
                    expected = kmath_float((uint32_t)half << 16);
                    if (type == BACKEND_F16) {
                        _Float16 h;
                        memcpy(&h, &half, 2);
                        expected = (float)h;
                    }
                }
                cr_assert(got[k] == expected, "%s", backend_type_name(type));
            }
        }
    }
    backend_close(b);
}
