/* cpufew_test.c -- few rows of int8: a chain gives the bits of its operators, taken apart, row by
 * row, in one thread without vector instructions. */
#include <criterion/criterion.h>
#include <string.h>

#include "tests/unit/kernels/cpu/cputest.h"

TestSuite(cpufew, .fini = cputest_end);

enum { WIDTH = 96, FFN = 1536, OPS = 3, WEIGHTS = 4, ROWS_MAX = 129 };

/* The end of a layer: attention's output, gate and up, down. */
typedef struct {
    uint8_t *data[WEIGHTS];
    float *bias[WEIGHTS], *norm;
    ops_input gated;
} layer;

/* With Q6_K, which has two scales a group, for down. */
static const backend_type TYPES[WEIGHTS] = {BACKEND_Q8_0, BACKEND_Q4_1, BACKEND_Q4_0, BACKEND_Q6_K};

static int32_t inputs_of(int w) {
    return w == 3 ? FFN : WIDTH;
}

static int32_t outputs_of(int w) {
    return w == 1 || w == 2 ? FFN : WIDTH;
}

static layer layer_take(ops_input gated) {
    layer e = {.norm = cputest_floats(WIDTH), .gated = gated};
    for (int i = 0; i < WEIGHTS; i++) {
        e.data[i] = cputest_matrix(TYPES[i], outputs_of(i), inputs_of(i));
        e.bias[i] = cputest_floats(outputs_of(i));
    }
    return e;
}

static void layer_load(backend *b, const layer *e, const backend_weight *w[WEIGHTS]) {
    for (int i = 0; i < WEIGHTS; i++) {
        w[i] = cputest_load(b, TYPES[i], e->data[i], outputs_of(i), inputs_of(i),
                            BACKEND_ACTIVATIONS_INT8);
    }
}

static void product(backend *b, const backend_weight *w, const float *bias, const float *x,
                    float *out, bool accumulate) {
    const ops_linear op = {
        .x = x, .rows = 1, .parts = {{w, bias, out, accumulate}}, .parts_count = 1};
    cr_assert_eq(backend_linear(b, &op), STATUS_OK);
}

/* x [rows, WIDTH] in place. */
static void apart(const layer *e, const float *mixed, float *x, int32_t rows) {
    backend *b = cputest_open("portable", 1);
    const backend_weight *w[WEIGHTS];
    layer_load(b, e, w);
    float *normed = cputest_zeros(WIDTH), *gate = cputest_zeros(FFN), *up = cputest_zeros(FFN);
    for (int32_t r = 0; r < rows; r++, mixed += WIDTH, x += WIDTH) {
        const ops_rmsnorm norm = {x, e->norm, normed, 1, WIDTH, 1e-5f, false};
        const ops_silu_mul act = {gate, up, gate, 1, FFN, e->gated == OPS_INPUT_GELU_MUL};
        product(b, w[0], e->bias[0], mixed, x, true);
        cr_assert_eq(backend_rmsnorm(b, &norm), STATUS_OK);
        product(b, w[1], e->bias[1], normed, gate, false);
        product(b, w[2], e->bias[2], normed, up, false);
        cr_assert_eq(backend_silu_mul(b, &act), STATUS_OK);
        product(b, w[3], e->bias[3], gate, x, true);
    }
    backend_close(b);
}

static void together(backend *b, const layer *e, const float *mixed, float *x, int32_t rows) {
    const backend_weight *w[WEIGHTS];
    layer_load(b, e, w);
    float *gate = cputest_zeros(rows * FFN), *up = cputest_zeros(rows * FFN);
    const ops_linear ops[OPS] = {
        {.x = mixed, .rows = rows, .parts = {{w[0], e->bias[0], x, true}}, .parts_count = 1},
        {.x = x,
         .norm_weight = e->norm,
         .norm_epsilon = 1e-5f,
         .input = OPS_INPUT_RMSNORM,
         .rows = rows,
         .parts = {{w[1], e->bias[1], gate, false}, {w[2], e->bias[2], up, false}},
         .parts_count = 2},
        {.x = gate,
         .x_up = up,
         .input = e->gated,
         .rows = rows,
         .parts = {{w[3], e->bias[3], x, true}},
         .parts_count = 1}};
    cr_assert_eq(backend_chain(b, ops, OPS), STATUS_OK);
}

static void check_chains(ops_input gated) {
    static const struct {
        int32_t threads, rows;
    } cases[] = {{1, 1}, {1, 9}, {2, 1}, {2, 2}, {2, 17}, {2, 128}, {2, ROWS_MAX}, {3, 1}, {17, 1}};
    const layer e = layer_take(gated);
    const float *mixed = cputest_floats(ROWS_MAX * WIDTH);
    const float *x = cputest_floats(ROWS_MAX * WIDTH);
    float *expected = cputest_zeros(ROWS_MAX * WIDTH), *out = cputest_zeros(ROWS_MAX * WIDTH);
    memcpy(expected, x, ROWS_MAX * WIDTH * sizeof(float));
    apart(&e, mixed, expected, ROWS_MAX);
    for (int i = 0; i < CPUTEST_ISAS_COUNT; i++) {
        for (size_t c = 0; c < sizeof(cases) / sizeof(cases[0]); c++) {
            backend *b = cputest_open(CPUTEST_ISAS[i], cases[c].threads);
            if (b != NULL) {
                memcpy(out, x, ROWS_MAX * WIDTH * sizeof(float));
                together(b, &e, mixed, out, cases[c].rows);
                cputest_same_bits(out, expected, cases[c].rows * WIDTH, "chain");
            }
            backend_close(b);
        }
    }
}

Test(cpufew, a_chain_equals_its_operators_apart_silu) {
    check_chains(OPS_INPUT_SILU_MUL);
}

Test(cpufew, a_chain_equals_its_operators_apart_gelu) {
    check_chains(OPS_INPUT_GELU_MUL);
}
