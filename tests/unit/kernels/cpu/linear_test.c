/* linear_test.c -- matrix products: the written arithmetic, bit for bit, in every shape. */
#include <stdio.h>

#include "kernels/cpu/quant.h"
#include "tests/unit/kernels/cpu/cputest.h"

/* The arithmetic of kernels/README.md, one scalar at a time, from the file's own blocks. */
typedef struct {
    int8_t quant[32];
    float scale;
} spec_group;

TestSuite(linear, .fini = cputest_end);

enum { INPUTS_MAX = 2048 };

static spec_group spec_quantise(const float *x) {
    spec_group g;
    float maximum = 0;
    for (int i = 0; i < 32; i++) {
        maximum = fabsf(x[i]) > maximum ? fabsf(x[i]) : maximum;
    }
    g.scale = maximum / 127.0f;
    const float inverse = maximum > 0 ? 127.0f / maximum : 0.0f;
    for (int i = 0; i < 32; i++) {
        g.quant[i] = (int8_t)nearbyintf(x[i] * inverse);
    }
    return g;
}

static bool has_minimum(backend_type type) {
    return type == BACKEND_Q4_1 || type == BACKEND_Q5_1 || type == BACKEND_Q4_K ||
           type == BACKEND_Q5_K;
}

static int zero_of(backend_type type) {
    return has_minimum(type) ? 0 : type == BACKEND_Q4_0 ? 8 : 128;
}

static float spec_int8(backend_type type, const uint8_t *row, int32_t inputs, const float *x) {
    float acc = 0;
    for (int32_t g = 0; g < inputs / 32; g++) {
        quant_group w;
        quant_get(type, row, g, &w);
        const spec_group a = spec_quantise(x + 32 * g);
        int32_t dot[2] = {0, 0}, sum = 0;
        for (int i = 0; i < 32; i++) {
            dot[i / 16] += (w.quant[i] - zero_of(type)) * a.quant[i];
            sum += a.quant[i];
        }
        if (type == BACKEND_Q6_K) {
            acc = fmaf((float)dot[0], w.scale[0] * a.scale, acc);
            acc = fmaf((float)dot[1], w.scale[1] * a.scale, acc);
            continue;
        }
        acc = fmaf((float)(dot[0] + dot[1]), w.scale[0] * a.scale, acc);
        if (has_minimum(type)) {
            acc = fmaf(w.minimum, a.scale * (float)sum, acc);
        }
    }
    return acc;
}

static void weights_of(backend_type type, const uint8_t *row, int32_t inputs, float *w) {
    for (int32_t k = 0; k < inputs; k++) {
        if (type == BACKEND_F32) {
            memcpy(&w[k], row + 4 * k, 4);
        } else if (type == BACKEND_F16 || type == BACKEND_BF16) {
            uint16_t half;
            memcpy(&half, row + 2 * k, 2);
            w[k] = type == BACKEND_F16 ? kmath_f16(half) : kmath_bf16(half);
        } else {
            quant_group q;
            quant_get(type, row, k / 32, &q);
            w[k] = q.scale[k % 32 / 16] * (float)(q.quant[k % 32] - zero_of(type)) + q.minimum;
        }
    }
}

static float spec_f32(const float *w, int32_t inputs, const float *x) {
    float acc = 0;
    for (int32_t k = 0; k < inputs; k++) {
        acc = fmaf(w[k], x[k], acc);
    }
    return acc;
}

static void run(backend *b, const backend_weight *w, const float *x, float *out, int32_t rows) {
    const ops_linear op = {
        .x = x, .rows = rows, .parts = {{w, NULL, out, false}}, .parts_count = 1};
    cr_assert_eq(backend_linear(b, &op), STATUS_OK);
}

/* Rows around every switch between kernels; outputs that end within a tile; inputs past a block. */
static void check_spec(backend_type type, backend_activations mode, int32_t outputs,
                       int32_t inputs) {
    const int32_t rows_max = 14;
    uint8_t *data = cputest_matrix(type, outputs, inputs);
    float *x = cputest_floats(rows_max * inputs), *expected = cputest_zeros(rows_max * outputs);
    const uint64_t row_bytes = backend_type_bytes(type, 1, inputs);
    const bool int8 = mode == BACKEND_ACTIVATIONS_INT8;
    memset(x + inputs, 0, 32 * sizeof(float)); /* a group of zeros has scale 0 */
    float weights[INPUTS_MAX];
    cr_assert_leq(inputs, INPUTS_MAX);
    for (int32_t o = 0; o < outputs; o++) {
        const uint8_t *row = data + (uint64_t)o * row_bytes;
        weights_of(type, row, inputs, weights);
        for (int32_t r = 0; r < rows_max; r++) {
            const float *in = x + r * inputs;
            expected[r * outputs + o] =
                int8 ? spec_int8(type, row, inputs, in) : spec_f32(weights, inputs, in);
        }
    }
    for (int i = 0; i < CPUTEST_ISAS_COUNT; i++) {
        backend *b = cputest_open(CPUTEST_ISAS[i], 2);
        if (b == NULL) {
            continue;
        }
        const backend_weight *w = cputest_load(b, type, data, outputs, inputs, mode);
        for (int32_t rows = 1; rows <= rows_max; rows++) {
            float *out = cputest_floats(rows * outputs);
            char what[96];
            (void)snprintf(what, sizeof(what), "%s on %s, %d rows", backend_type_name(type), b->isa,
                           (int)rows);
            run(b, w, x, out, rows);
            cputest_same_bits(out, expected, rows * outputs, what);
        }
        backend_close(b);
    }
}

Test(linear, int8_is_the_written_arithmetic_bit_for_bit) {
    for (int i = 0; i < CPUTEST_QUANTISED_COUNT; i++) {
        check_spec(CPUTEST_QUANTISED[i], BACKEND_ACTIVATIONS_INT8, 77, 768);
        check_spec(CPUTEST_QUANTISED[i], BACKEND_ACTIVATIONS_INT8, 5, 256);
    }
    check_spec(BACKEND_Q4_1, BACKEND_ACTIVATIONS_INT8, 48, 32);
    check_spec(BACKEND_Q8_0, BACKEND_ACTIVATIONS_INT8, 33, 608);
}

Test(linear, f32_is_the_written_arithmetic_bit_for_bit) {
    for (int i = 0; i < CPUTEST_QUANTISED_COUNT; i++) {
        check_spec(CPUTEST_QUANTISED[i], BACKEND_ACTIVATIONS_F32, 70, 512);
    }
    for (int i = 0; i < CPUTEST_PLAIN_COUNT; i++) {
        check_spec(CPUTEST_PLAIN[i], BACKEND_ACTIVATIONS_F32, 70, 301);
        check_spec(CPUTEST_PLAIN[i], BACKEND_ACTIVATIONS_F32, 1, 35);
    }
}

/* Half a step of a group's scale for each activation, times the weight it meets. */
Test(linear, int8_error_is_within_half_a_step_of_each_activation) {
    const int32_t outputs = 48, inputs = 1024, rows = 3;
    backend *b = cputest_open("auto", 1);
    for (int i = 0; i < CPUTEST_QUANTISED_COUNT; i++) {
        const backend_type type = CPUTEST_QUANTISED[i];
        uint8_t *data = cputest_matrix(type, outputs, inputs);
        float *x = cputest_floats(rows * inputs), *out = cputest_zeros(rows * outputs);
        run(b, cputest_load(b, type, data, outputs, inputs, BACKEND_ACTIVATIONS_INT8), x, out,
            rows);
        for (int32_t r = 0; r < rows; r++) {
            for (int32_t o = 0; o < outputs; o++) {
                float w[1024];
                weights_of(type, data + (uint64_t)o * backend_type_bytes(type, 1, inputs), inputs,
                           w);
                double exact = 0, bound = 1e-5, magnitude = 0;
                for (int32_t k = 0; k < inputs; k++) {
                    const float scale = spec_quantise(x + r * inputs + k / 32 * 32).scale;
                    exact += (double)w[k] * (double)x[r * inputs + k];
                    bound += fabs((double)w[k]) * (double)scale * 0.5001;
                    magnitude += fabs((double)w[k] * (double)x[r * inputs + k]);
                }
                cr_assert_lt(fabs(exact - (double)out[r * outputs + o]), bound + 1e-5 * magnitude);
            }
        }
    }
    backend_close(b);
}

/* Each row alone on one thread of plain C against every batch, thread count and instruction set. */
static void check_batches(backend_type type, backend_activations mode) {
    enum { ROWS = 512, OUTPUTS = 112, INPUTS = 256 };
    uint8_t *data = cputest_matrix(type, OUTPUTS, INPUTS);
    float *x = cputest_floats(ROWS * INPUTS), *alone = cputest_zeros(ROWS * OUTPUTS);
    float *out = cputest_zeros(ROWS * OUTPUTS);
    backend *plain = cputest_open("portable", 1);
    const backend_weight *w = cputest_load(plain, type, data, OUTPUTS, INPUTS, mode);
    for (int32_t r = 0; r < ROWS; r++) {
        run(plain, w, x + r * INPUTS, alone + r * OUTPUTS, 1);
    }
    backend_close(plain);
    for (int i = 0; i < CPUTEST_ISAS_COUNT * 3; i++) {
        backend *b = cputest_open(CPUTEST_ISAS[i / 3], i % 3 + 1);
        if (b == NULL) {
            continue;
        }
        w = cputest_load(b, type, data, OUTPUTS, INPUTS, mode);
        for (int32_t c = 1; c <= 43; c++) {
            static const int32_t large[] = {128, 200, 512};
            const int32_t rows = c <= 40 ? c : large[c - 41];
            const int32_t first = (c * 7) % (ROWS - rows + 1);
            if (i / 3 == 0 && c % 8 != 1) {
                continue; /* plain C is slow: a few counts are enough */
            }
            run(b, w, x + first * INPUTS, out, rows);
            cputest_same_bits(out, alone + first * OUTPUTS, rows * OUTPUTS, b->isa);
        }
        backend_close(b);
    }
}

Test(linear, row_depends_on_itself_alone_int8) {
    check_batches(BACKEND_Q4_1, BACKEND_ACTIVATIONS_INT8);
    check_batches(BACKEND_Q8_0, BACKEND_ACTIVATIONS_INT8);
    check_batches(BACKEND_Q6_K, BACKEND_ACTIVATIONS_INT8);
}

Test(linear, row_depends_on_itself_alone_f32) {
    check_batches(BACKEND_Q4_0, BACKEND_ACTIVATIONS_F32);
    check_batches(BACKEND_BF16, BACKEND_ACTIVATIONS_F32);
}

/* Three weights, transforms, bias and residual in one call against the same in steps. */
static void check_fused(backend *b, ops_input input, backend_activations mode, int32_t rows) {
    enum { INPUTS = 512, PARTS = 3 };
    static const int32_t outputs[PARTS] = {96, 48, 40};
    static const backend_type types[PARTS] = {BACKEND_Q4_1, BACKEND_Q8_0, BACKEND_Q5_K};
    float *x = cputest_floats(rows * INPUTS), *up = cputest_floats(rows * INPUTS);
    float *norm = cputest_floats(INPUTS), *middle = cputest_zeros(rows * INPUTS);
    const bool gated = input == OPS_INPUT_SILU_MUL || input == OPS_INPUT_GELU_MUL;
    ops_linear op = {.x = x,
                     .x_up = gated ? up : NULL,
                     .norm_weight = input == OPS_INPUT_RMSNORM ? norm : NULL,
                     .norm_epsilon = 1e-5f,
                     .input = input,
                     .rows = rows,
                     .parts_count = PARTS};
    const ops_rmsnorm rms = {x, norm, middle, rows, INPUTS, 1e-5f, false};
    const ops_silu_mul gate = {x, up, middle, rows, INPUTS, input == OPS_INPUT_GELU_MUL};
    memcpy(middle, x, (size_t)(rows * INPUTS) * sizeof(float));
    if (input == OPS_INPUT_RMSNORM) {
        cr_assert_eq(backend_rmsnorm(b, &rms), STATUS_OK);
    } else if (gated) {
        cr_assert_eq(backend_silu_mul(b, &gate), STATUS_OK);
    }
    float *expected[PARTS];
    for (int p = 0; p < PARTS; p++) {
        uint8_t *data = cputest_matrix(types[p], outputs[p], INPUTS);
        const backend_weight *w = cputest_load(b, types[p], data, outputs[p], INPUTS, mode);
        const int32_t count = rows * outputs[p];
        float *bias = p == 0 ? NULL : cputest_floats(outputs[p]);
        float *out = cputest_floats(count);
        expected[p] = cputest_zeros(count);
        run(b, w, middle, expected[p], rows);
        for (int32_t i = 0; i < count; i++) {
            const float y = expected[p][i] + (bias != NULL ? bias[i % outputs[p]] : 0);
            expected[p][i] = p < 2 ? out[i] + y : y;
        }
        const ops_linear_part part = {w, bias, out, p < 2};
        op.parts[p] = part;
    }
    cr_assert_eq(backend_linear(b, &op), STATUS_OK);
    for (int p = 0; p < PARTS; p++) {
        cputest_same_bits(op.parts[p].out, expected[p], rows * outputs[p], "fused");
    }
}

Test(linear, fused_inputs_bias_and_residual_equal_separate_steps) {
    static const int32_t rows[] = {1, 6, 70};
    for (int i = 0; i < CPUTEST_ISAS_COUNT; i++) {
        backend *b = cputest_open(CPUTEST_ISAS[i], 2);
        for (int c = 0; b != NULL && c < 24; c++) {
            check_fused(b, (ops_input)(c % 4), (backend_activations)(c / 4 % 2), rows[c / 8]);
        }
        backend_close(b);
    }
}
