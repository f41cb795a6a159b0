/* pairs_test.c -- matrix products of bf16: the written arithmetic, bit for bit, in every shape.
 *
 * The expectation is scalar: what Intel's manual says of TDPBF16PS, one number at a time. A machine
 * without AMX-BF16 skips these tests by name and has that of the refusal.
 */
#include <float.h>
#include <stdio.h>

#include "kernels/cpu/quant.h"
#include "tests/unit/kernels/cpu/cputest.h"

TestSuite(pairs, .fini = cputest_end);

enum { INPUTS_MAX = 2048 };

static backend *open_pairs(const char *test, int32_t threads) {
    backend *b = cputest_open("auto", threads);
    if (!b->bf16) {
        printf("skip pairs/%s - no AMX-BF16 on this machine\n", test);
        backend_close(b);
        return NULL;
    }
    return b;
}

/* Numbers too small for 8 bits of exponent are zeros to the tile unit, and to its conversions. */
static float spec_flush(float x) {
    return fabsf(x) < FLT_MIN ? copysignf(0, x) : x;
}

static float spec_round(float x) {
    const uint32_t bits = kmath_bits(spec_flush(x));
    return kmath_float((bits + 0x7fffu + (bits >> 16 & 1u)) & 0xffff0000u);
}

/* Weights of four bits are rounded before they are looked up: halves away from zero. */
static float spec_round_weight(backend_type type, float w) {
    if (type == BACKEND_Q4_0 || type == BACKEND_Q4_1 || type == BACKEND_Q4_K) {
        return spec_flush(kmath_float((kmath_bits(w) + 0x8000u) & 0xffff0000u));
    }
    return spec_flush(spec_round(w));
}

static float spec_weight(backend_type type, const uint8_t *row, int32_t k) {
    if (type == BACKEND_F16 || type == BACKEND_BF16) {
        uint16_t half;
        memcpy(&half, row + 2 * k, 2);
        return type == BACKEND_F16 ? kmath_f16(half) : kmath_bf16(half);
    }
    const bool minimum = type == BACKEND_Q4_1 || type == BACKEND_Q5_1 || type == BACKEND_Q4_K ||
                         type == BACKEND_Q5_K;
    const int zero = minimum ? 0 : type == BACKEND_Q4_0 ? 8 : 128;
    quant_group q;
    quant_get(type, row, k / 32, &q);
    return q.scale[k % 32 / 16] * (float)(q.quant[k % 32] - zero) + q.minimum;
}

/* The weights of one output as the tile unit meets them. */
static void spec_weights(backend_type type, const uint8_t *row, int32_t inputs, float *w) {
    for (int32_t k = 0; k < inputs; k++) {
        w[k] = spec_round_weight(type, spec_weight(type, row, k));
    }
}

static float spec_output(const float *w, int32_t inputs, const float *x) {
    float acc = 0;
    for (int32_t g = 0; g < inputs; g += 32) {
        float part[2] = {0, 0};
        for (int32_t k = g; k < g + 32; k++) {
            part[k % 2] = spec_flush(fmaf(w[k], spec_round(x[k]), part[k % 2]));
        }
        acc = spec_flush(acc + spec_flush(part[0] + part[1]));
    }
    return acc;
}

static void run(backend *b, const backend_weight *w, const float *x, float *out, int32_t rows) {
    const ops_linear op = {
        .x = x, .rows = rows, .parts = {{w, NULL, out, false}}, .parts_count = 1, .prompt = true};
    cr_assert_eq(backend_linear(b, &op), STATUS_OK);
}

/* The expected products of every row with every output. */
static float *spec_all(backend_type type, const uint8_t *data, int32_t outputs, int32_t inputs,
                       const float *x, int32_t rows) {
    float *expected = cputest_zeros((int64_t)rows * outputs), w[INPUTS_MAX];
    const uint64_t row_bytes = backend_type_bytes(type, 1, inputs);
    cr_assert_leq(inputs, INPUTS_MAX);
    for (int32_t o = 0; o < outputs; o++) {
        spec_weights(type, data + (uint64_t)o * row_bytes, inputs, w);
        for (int32_t r = 0; r < rows; r++) {
            expected[r * outputs + o] = spec_output(w, inputs, x + r * inputs);
        }
    }
    return expected;
}

static void check_spec(backend *b, backend_type type, int32_t outputs, int32_t inputs,
                       backend_activations activations) {
    const int32_t rows_max = 70, counts[] = {1, 2, 15, 16, 17, 33, 48, 64, 65, 70};
    uint8_t *data = cputest_matrix(type, outputs, inputs);
    float *x = cputest_floats(rows_max * inputs), *out = cputest_zeros(rows_max * outputs);
    memset(x + inputs, 0, 32 * sizeof(float));
    x[3] = 1e-39f; /* no number to the tile unit */
    const float *expected = spec_all(type, data, outputs, inputs, x, rows_max);
    const backend_weight *w = cputest_load(b, type, data, outputs, inputs, activations);
    cr_assert_eq(w->activations, activations);
    for (size_t i = 0; i < sizeof(counts) / sizeof(counts[0]); i++) {
        char what[96];
        (void)snprintf(what, sizeof(what), "%s, %d rows", backend_type_name(type), (int)counts[i]);
        run(b, w, x, out, counts[i]);
        cputest_same_bits(out, expected, counts[i] * outputs, what);
    }
}

Test(pairs, products_are_the_tile_units_arithmetic_bit_for_bit) {
    backend *b = open_pairs("products_are_the_tile_units_arithmetic_bit_for_bit", 2);
    for (int i = 0; b != NULL && i < CPUTEST_QUANTISED_COUNT; i++) {
        check_spec(b, CPUTEST_QUANTISED[i], 77, 768, BACKEND_ACTIVATIONS_BF16);
        check_spec(b, CPUTEST_QUANTISED[i], 5, 256, BACKEND_ACTIVATIONS_BF16);
        check_spec(b, CPUTEST_QUANTISED[i], 77, 768, BACKEND_ACTIVATIONS_MIXED);
        check_spec(b, CPUTEST_QUANTISED[i], 5, 256, BACKEND_ACTIVATIONS_MIXED);
    }
    if (b != NULL) {
        check_spec(b, BACKEND_F16, 40, 96, BACKEND_ACTIVATIONS_BF16);
        check_spec(b, BACKEND_BF16, 77, 608, BACKEND_ACTIVATIONS_BF16);
        check_spec(b, BACKEND_Q4_1, 48, 32, BACKEND_ACTIVATIONS_BF16);
        check_spec(b, BACKEND_Q8_0, 33, 1216, BACKEND_ACTIVATIONS_BF16);
        backend_close(b);
    }
}

/* Each row alone on one thread against every batch and thread count. */
Test(pairs, row_depends_on_itself_alone) {
    enum { ROWS = 600, OUTPUTS = 112, INPUTS = 1280 };
    static const backend_type types[] = {BACKEND_Q4_1, BACKEND_Q8_0, BACKEND_Q6_K, BACKEND_BF16};
    for (int t = 0; t < 4; t++) {
        uint8_t *data = cputest_matrix(types[t], OUTPUTS, INPUTS);
        float *x = cputest_floats(ROWS * INPUTS), *alone = cputest_zeros(ROWS * OUTPUTS);
        float *out = cputest_zeros(ROWS * OUTPUTS);
        for (int threads = 1; threads <= 3; threads++) {
            backend *b = open_pairs("row_depends_on_itself_alone", threads);
            if (b == NULL) {
                return;
            }
            const backend_weight *w =
                cputest_load(b, types[t], data, OUTPUTS, INPUTS, BACKEND_ACTIVATIONS_BF16);
            for (int32_t r = 0; r < ROWS && threads == 1; r++) {
                run(b, w, x + r * INPUTS, alone + r * OUTPUTS, 1);
            }
            for (int32_t c = 1; c <= 72; c++) {
                static const int32_t large[] = {128, 200, 512, 513, 600};
                const int32_t rows = c <= 67 ? c : large[c - 68];
                const int32_t first = (c * 7) % (ROWS - rows + 1);
                run(b, w, x + first * INPUTS, out, rows);
                cputest_same_bits(out, alone + first * OUTPUTS, rows * OUTPUTS,
                                  backend_type_name(types[t]));
            }
            backend_close(b);
        }
    }
}

/* The end of a layer: attention's output, gate and up, down. */
typedef struct {
    const backend_weight *w[4];
    const float *bias[4], *norm;
    ops_input gated;
} layer_end;

enum { WIDTH = 96, FFN = 1568, CHAIN_OPS = 3, CHAIN_ROWS = 600, CHAIN_STEP = 40 };

static layer_end layer_take(backend *b, ops_input gated, bool biased,
                            backend_activations activations) {
    static const backend_type types[] = {BACKEND_Q8_0, BACKEND_Q4_1, BACKEND_Q4_0, BACKEND_Q5_1};
    layer_end e = {.norm = cputest_floats(WIDTH), .gated = gated};
    for (int i = 0; i < 4; i++) {
        const int32_t inputs = i == 3 ? FFN : WIDTH, outputs = i == 1 || i == 2 ? FFN : WIDTH;
        const uint8_t *data = cputest_matrix(types[i], outputs, inputs);
        e.w[i] = cputest_load(b, types[i], data, outputs, inputs, activations);
        e.bias[i] = biased ? cputest_floats(outputs) : NULL;
    }
    return e;
}

static void layer_ops(const layer_end *e, const float *mixed, float *x, int32_t rows,
                      ops_linear ops[CHAIN_OPS]) {
    float *gate = cputest_zeros(rows * FFN), *up = cputest_zeros(rows * FFN);
    ops[0] = (ops_linear){
        .x = mixed, .rows = rows, .parts = {{e->w[0], e->bias[0], x, true}}, .parts_count = 1};
    ops[1] = (ops_linear){
        .x = x,
        .norm_weight = e->norm,
        .norm_epsilon = 1e-5f,
        .input = OPS_INPUT_RMSNORM,
        .rows = rows,
        .parts = {{e->w[1], e->bias[1], gate, false}, {e->w[2], e->bias[2], up, false}},
        .parts_count = 2};
    ops[2] = (ops_linear){.x = gate,
                          .x_up = up,
                          .input = e->gated,
                          .rows = rows,
                          .parts = {{e->w[3], e->bias[3], x, true}},
                          .parts_count = 1};
    for (int i = 0; i < CHAIN_OPS; i++) {
        ops[i].prompt = true;
    }
}

/* The whole chain against its operators one by one, a few rows at a time. */
static void check_chain(backend *b, ops_input gated, bool biased, int32_t rows,
                        backend_activations activations) {
    const layer_end e = layer_take(b, gated, biased, activations);
    const float *mixed = cputest_floats(rows * WIDTH);
    float *x = cputest_floats(rows * WIDTH), *expected = cputest_zeros(rows * WIDTH);
    ops_linear ops[CHAIN_OPS];
    memcpy(expected, x, (size_t)(rows * WIDTH) * sizeof(float));
    for (int32_t first = 0; first < rows; first += CHAIN_STEP) {
        const int32_t left = rows - first;
        layer_ops(&e, mixed + first * WIDTH, expected + first * WIDTH,
                  left < CHAIN_STEP ? left : CHAIN_STEP, ops);
        for (int i = 0; i < CHAIN_OPS; i++) {
            cr_assert_eq(backend_linear(b, &ops[i]), STATUS_OK);
        }
    }
    layer_ops(&e, mixed, x, rows, ops);
    cr_assert_eq(backend_chain(b, ops, CHAIN_OPS), STATUS_OK);
    cputest_same_bits(x, expected, rows * WIDTH, "chain");
}

Test(pairs, a_chain_equals_its_operators_one_by_one) {
    static const int32_t rows[] = {33, 150, 273, CHAIN_ROWS, 64, 9};
    for (int threads = 1; threads <= 2; threads++) {
        backend *b = open_pairs("a_chain_equals_its_operators_one_by_one", threads);
        for (int c = 0; b != NULL && c < 6; c++) {
            const ops_input gated = c % 2 == 0 ? OPS_INPUT_SILU_MUL : OPS_INPUT_GELU_MUL;
            check_chain(b, gated, c % 3 == 0, rows[c], BACKEND_ACTIVATIONS_BF16);
            check_chain(b, gated, c % 3 == 0, rows[c], BACKEND_ACTIVATIONS_MIXED);
        }
        if (b != NULL) {
            backend_close(b);
        }
    }
}

/* One weight has both: rows of prompts as above, others as if it had been loaded for int8. */
Test(pairs, rows_that_are_no_prompts_meet_int8) {
    enum { ROWS = 70, OUTPUTS = 77, INPUTS = 512 };
    backend *b = open_pairs("rows_that_are_no_prompts_meet_int8", 2);
    for (int i = 0; b != NULL && i < CPUTEST_QUANTISED_COUNT; i++) {
        const backend_type type = CPUTEST_QUANTISED[i];
        uint8_t *data = cputest_matrix(type, OUTPUTS, INPUTS);
        float *x = cputest_floats(ROWS * INPUTS), *out = cputest_zeros(ROWS * OUTPUTS);
        float *expected = cputest_zeros(ROWS * OUTPUTS);
        const backend_weight *int8 =
            cputest_load(b, type, data, OUTPUTS, INPUTS, BACKEND_ACTIVATIONS_INT8);
        const backend_weight *mixed =
            cputest_load(b, type, data, OUTPUTS, INPUTS, BACKEND_ACTIVATIONS_MIXED);
        cr_assert_eq(mixed->bytes, int8->bytes, "weights are kept once");
        run(b, int8, x, expected, ROWS);
        for (int32_t rows = 1; rows <= ROWS; rows += rows == 1 ? 8 : 61) {
            const ops_linear op = {
                .x = x, .rows = rows, .parts = {{mixed, NULL, out, false}}, .parts_count = 1};
            cr_assert_eq(backend_linear(b, &op), STATUS_OK);
            cputest_same_bits(out, expected, rows * OUTPUTS, backend_type_name(type));
        }
    }
    if (b != NULL) {
        backend_close(b);
    }
}

/* Rounding to bf16 moves a weight and an activation by at most 2^-9 of itself each. */
Test(pairs, error_is_within_half_a_step_of_each_number) {
    const int32_t outputs = 48, inputs = 1024, rows = 3;
    backend *b = open_pairs("error_is_within_half_a_step_of_each_number", 1);
    for (int i = 0; b != NULL && i < CPUTEST_QUANTISED_COUNT; i++) {
        const backend_type type = CPUTEST_QUANTISED[i];
        uint8_t *data = cputest_matrix(type, outputs, inputs);
        float *x = cputest_floats(rows * inputs), *out = cputest_zeros(rows * outputs);
        run(b, cputest_load(b, type, data, outputs, inputs, BACKEND_ACTIVATIONS_BF16), x, out,
            rows);
        for (int32_t r = 0; r < rows * outputs; r++) {
            const uint8_t *row =
                data + (uint64_t)(r % outputs) * backend_type_bytes(type, 1, inputs);
            double exact = 0, magnitude = 0;
            for (int32_t k = 0; k < inputs; k++) {
                const double product =
                    (double)spec_weight(type, row, k) * (double)x[r / outputs * inputs + k];
                exact += product;
                magnitude += fabs(product);
            }
            cr_assert_lt(fabs(exact - (double)out[r]), magnitude * (2.01 / 512));
        }
    }
    if (b != NULL) {
        backend_close(b);
    }
}

/* The embedding reads what the products read. */
Test(pairs, packed_weights_give_back_what_the_file_says) {
    backend *b = open_pairs("packed_weights_give_back_what_the_file_says", 2);
    const int32_t outputs = 21, inputs = 256;
    for (int i = 0; b != NULL && i < CPUTEST_QUANTISED_COUNT + 2; i++) {
        const backend_type type = i < CPUTEST_QUANTISED_COUNT
                                      ? CPUTEST_QUANTISED[i]
                                      : CPUTEST_PLAIN[i - CPUTEST_QUANTISED_COUNT + 1];
        uint8_t *data = cputest_matrix(type, outputs, inputs);
        const backend_weight *w =
            cputest_load(b, type, data, outputs, inputs, BACKEND_ACTIVATIONS_BF16);
        for (int32_t o = 0; o < outputs; o++) {
            float got[256];
            const ops_embed op = {w, &o, got, 1, 1};
            cr_assert_eq(backend_embed(b, &op), STATUS_OK);
            for (int32_t k = 0; k < inputs; k++) {
                const float expected =
                    spec_weight(type, data + (uint64_t)o * backend_type_bytes(type, 1, inputs), k);
                cr_assert(got[k] == expected, "%s %d %d: %.9g, not %.9g", backend_type_name(type),
                          (int)o, (int)k, (double)got[k], (double)expected);
            }
        }
    }
    if (b != NULL) {
        backend_close(b);
    }
}

/* f32 weights, and 16-bit ones whose inputs make no tile, meet what they always met. */
Test(pairs, weights_that_fit_no_tile_meet_f32) {
    backend *b = open_pairs("weights_that_fit_no_tile_meet_f32", 2);
    const int32_t outputs = 20, inputs[] = {64, 33};
    for (int i = 0; b != NULL && i < 2; i++) {
        const backend_type type = i == 0 ? BACKEND_F32 : BACKEND_BF16;
        uint8_t *data = cputest_matrix(type, outputs, inputs[i]);
        float *x = cputest_floats(3 * inputs[i]), got[60], expected[60];
        const backend_weight *w =
            cputest_load(b, type, data, outputs, inputs[i], BACKEND_ACTIVATIONS_BF16);
        cr_assert_eq(w->activations, BACKEND_ACTIVATIONS_F32);
        run(b, w, x, got, 3);
        run(b, cputest_load(b, type, data, outputs, inputs[i], BACKEND_ACTIVATIONS_F32), x,
            expected, 3);
        cputest_same_bits(got, expected, 60, "f32");
    }
    if (b != NULL) {
        backend_close(b);
    }
}

Test(pairs, an_instruction_set_without_them_refuses_and_chooses_int8) {
    backend *b = cputest_open("portable", 1);
    uint8_t *data = cputest_matrix(BACKEND_Q4_0, 16, 32);
    const backend_weight *w = NULL;
    diag d = {0};
    cr_assert_eq(backend_weight_load(b, BACKEND_Q4_0, data, 16 * 18, 16, 32,
                                     BACKEND_ACTIVATIONS_BF16, &w, &d),
                 STATUS_UNSUPPORTED);
    cr_assert(strstr(d.text, "AMX-BF16") != NULL);
    cr_assert_eq(backend_activations_choose(b, BACKEND_ACTIVATIONS_TYPES),
                 BACKEND_ACTIVATIONS_INT8);
    cr_assert_eq(backend_weight_load(b, BACKEND_Q4_0, data, 16 * 18, 16, 32,
                                     BACKEND_ACTIVATIONS_MIXED, &w, &d),
                 STATUS_UNSUPPORTED);
    cr_assert_eq(backend_activations_choose(b, BACKEND_ACTIVATIONS_F32), BACKEND_ACTIVATIONS_F32);
    backend_close(b);
}
