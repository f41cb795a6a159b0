/* rows_test.c -- row operators against double, and against each other's instruction sets. */
#define _GNU_SOURCE
#include "tests/unit/kernels/cpu/cputest.h"

TestSuite(rows, .fini = cputest_end);

static const int32_t WIDTHS[] = {1, 15, 16, 17, 576, 1000};
enum { WIDTHS_COUNT = 6, ROWS = 37 };

Test(rows, rmsnorm_equals_double_and_every_isa_agrees) {
    for (int w = 0; w < WIDTHS_COUNT; w++) {
        const int32_t width = WIDTHS[w];
        float *x = cputest_floats(ROWS * width), *weight = cputest_floats(width), *first = NULL;
        for (int i = 0; i < CPUTEST_ISAS_COUNT; i++) {
            backend *b = cputest_open(CPUTEST_ISAS[i], 2);
            if (b == NULL) {
                continue;
            }
            float *out = cputest_zeros(ROWS * width);
            const ops_rmsnorm op = {x, weight, out, ROWS, width, 1e-5f, false};
            cr_assert_eq(backend_rmsnorm(b, &op), STATUS_OK);
            first = first == NULL ? out : first;
            cputest_same_bits(out, first, ROWS * width, b->isa);
            backend_close(b);
        }
        for (int32_t r = 0; r < ROWS; r++) {
            double sum = 0;
            for (int32_t k = 0; k < width; k++) {
                sum += (double)x[r * width + k] * (double)x[r * width + k];
            }
            for (int32_t k = 0; k < width; k++) {
                const double y =
                    (double)x[r * width + k] / sqrt(sum / width + 1e-5) * (double)weight[k];
                cr_assert_lt(fabs(y - (double)first[r * width + k]), 1e-6 * (1 + fabs(y)));
            }
        }
    }
}

static double gated(double gate, bool gelu) {
    return gelu ? 0.5 * gate * (1 + tanh(sqrt(2 / M_PI) * (gate + 0.044715 * gate * gate * gate)))
                : gate / (1 + exp(-gate));
}

static void check_gate(bool gelu) {
    for (int w = 0; w < WIDTHS_COUNT; w++) {
        const int32_t width = WIDTHS[w], count = ROWS * width;
        float *gate = cputest_floats(count), *up = cputest_floats(count), *first = NULL;
        for (int32_t i = 0; i < count; i += 5) {
            gate[i] *= 20; /* both ends of the curve */
        }
        gate[0] = -1000;
        gate[count - 1] = 1000;
        for (int i = 0; i < CPUTEST_ISAS_COUNT; i++) {
            backend *b = cputest_open(CPUTEST_ISAS[i], 2);
            if (b == NULL) {
                continue;
            }
            float *out = cputest_zeros(count);
            const ops_silu_mul op = {gate, up, out, ROWS, width, gelu};
            cr_assert_eq(backend_silu_mul(b, &op), STATUS_OK);
            first = first == NULL ? out : first;
            cputest_same_bits(out, first, count, b->isa);
            backend_close(b);
        }
        for (int32_t i = 0; i < count; i++) {
            /* GELU's argument of exp grows with the gate's cube, and so does its rounding. */
            const double y = gated((double)gate[i], gelu) * (double)up[i];
            const double bound = gelu ? 2e-7 * fabs((double)up[i]) : 1e-30;
            cr_assert_lt(fabs(y - (double)first[i]), 1e-6 * fabs(y) + bound, "%g: %g, not %g",
                         (double)gate[i], (double)first[i], y);
        }
    }
}

Test(rows, silu_mul_equals_double_and_every_isa_agrees) {
    check_gate(false);
}

Test(rows, gelu_mul_equals_double_and_every_isa_agrees) {
    check_gate(true);
}

/* From far below the cap, where hardly anything changes, to far above. */
Test(rows, softcap_equals_double_and_every_isa_agrees) {
    for (int w = 0; w < WIDTHS_COUNT; w++) {
        const int32_t width = WIDTHS[w], count = ROWS * width;
        float *x = cputest_floats(count), *first = NULL;
        for (int32_t i = 0; i < count; i++) {
            x[i] *= powf(10, (float)(i % 9 - 5)) * 2;
        }
        x[count - 1] = -1e30f;
        for (int i = 0; i < CPUTEST_ISAS_COUNT; i++) {
            backend *b = cputest_open(CPUTEST_ISAS[i], 2);
            if (b == NULL) {
                continue;
            }
            float *out = cputest_zeros(count);
            memcpy(out, x, (size_t)count * sizeof(float));
            const ops_softcap op = {out, ROWS, width, 30};
            cr_assert_eq(backend_softcap(b, &op), STATUS_OK);
            first = first == NULL ? out : first;
            cputest_same_bits(out, first, count, b->isa);
            backend_close(b);
        }
        for (int32_t i = 0; i < count; i++) {
            const double y = 30 * tanh((double)x[i] / 30);
            cr_assert_lt(fabs(y - (double)first[i]), 5e-7 * fabs(y) + 1e-30, "%g: %g, not %g",
                         (double)x[i], (double)first[i], y);
        }
    }
}

/* A row's bits do not depend on how many rows there are, or who does them. */
Test(rows, each_row_is_the_same_alone) {
    enum { WIDTH = 91, MANY = 512 };
    float *gate = cputest_floats(MANY * WIDTH), *up = cputest_floats(MANY * WIDTH);
    float *all = cputest_zeros(MANY * WIDTH), *one = cputest_zeros(WIDTH);
    backend *b = cputest_open("auto", 3), *single = cputest_open("auto", 1);
    const ops_silu_mul gelu = {gate, up, all, MANY, WIDTH, true};
    const ops_softcap cap = {all, MANY, WIDTH, 0.5f};
    cr_assert_eq(backend_silu_mul(b, &gelu), STATUS_OK);
    cr_assert_eq(backend_softcap(b, &cap), STATUS_OK);
    for (int32_t r = 0; r < MANY; r += 37) {
        const ops_silu_mul gelu_one = {gate + r * WIDTH, up + r * WIDTH, one, 1, WIDTH, true};
        const ops_softcap cap_one = {one, 1, WIDTH, 0.5f};
        cr_assert_eq(backend_silu_mul(single, &gelu_one), STATUS_OK);
        cr_assert_eq(backend_softcap(single, &cap_one), STATUS_OK);
        cputest_same_bits(one, all + r * WIDTH, WIDTH, "row");
    }
    backend_close(single);
    backend_close(b);
}

Test(rows, a_norm_adds_to_what_is_there) {
    enum { WIDTH = 90 };
    backend *b = cputest_open("auto", 2);
    float *x = cputest_floats(ROWS * WIDTH), *weight = cputest_floats(WIDTH);
    float *norm = cputest_zeros(ROWS * WIDTH), *sum = cputest_floats(ROWS * WIDTH);
    float *before = cputest_zeros(ROWS * WIDTH);
    memcpy(before, sum, ROWS * WIDTH * sizeof(float));
    const ops_rmsnorm alone = {x, weight, norm, ROWS, WIDTH, 1e-5f, false};
    const ops_rmsnorm adds = {x, weight, sum, ROWS, WIDTH, 1e-5f, true};
    cr_assert_eq(backend_rmsnorm(b, &alone), STATUS_OK);
    cr_assert_eq(backend_rmsnorm(b, &adds), STATUS_OK);
    for (int32_t i = 0; i < ROWS * WIDTH; i++) {
        cr_assert_eq(sum[i], before[i] + norm[i]);
    }
    backend_close(b);
}

Test(rows, in_place_is_the_same) {
    enum { WIDTH = 96 };
    backend *b = cputest_open("auto", 2);
    float *x = cputest_floats(ROWS * WIDTH), *up = cputest_floats(ROWS * WIDTH);
    float *weight = cputest_floats(WIDTH), *out = cputest_zeros(ROWS * WIDTH);
    const ops_silu_mul apart = {x, up, out, ROWS, WIDTH, false};
    const ops_silu_mul over = {x, up, up, ROWS, WIDTH, false};
    cr_assert_eq(backend_silu_mul(b, &apart), STATUS_OK);
    cr_assert_eq(backend_silu_mul(b, &over), STATUS_OK);
    cputest_same_bits(up, out, ROWS * WIDTH, "silu");
    const ops_rmsnorm far = {x, weight, out, ROWS, WIDTH, 0, false};
    const ops_rmsnorm near = {x, weight, x, ROWS, WIDTH, 0, false};
    cr_assert_eq(backend_rmsnorm(b, &far), STATUS_OK);
    cr_assert_eq(backend_rmsnorm(b, &near), STATUS_OK);
    cputest_same_bits(x, out, ROWS * WIDTH, "rmsnorm");
    backend_close(b);
}

Test(rows, gather_takes_rows_in_the_order_asked) {
    enum { WIDTH = 5 };
    static const int32_t index[] = {3, 0, 3, 36};
    backend *b = cputest_open("auto", 1);
    float *x = cputest_floats(ROWS * WIDTH), out[4 * WIDTH];
    const ops_gather op = {x, index, out, 4, WIDTH, ROWS};
    cr_assert_eq(backend_gather(b, &op), STATUS_OK);
    for (int32_t r = 0; r < 4; r++) {
        cputest_same_bits(out + r * WIDTH, x + index[r] * WIDTH, WIDTH, "gather");
    }
    backend_close(b);
}

/* One row of q through the table and the rotation, against long double. */
static void check_rope(backend *b, int32_t position, ops_rope_pairs pairs, int32_t dim,
                       const float *factors, double scale) {
    enum { HEAD_DIM = 64 };
    const backend_kv_options o = {1, 1, HEAD_DIM, 1, BACKEND_KV_F32};
    backend_kv *kv = NULL;
    diag d;
    cr_assert_eq(backend_kv_open(b, &o, &kv, &d), STATUS_OK);
    float *q = cputest_floats(HEAD_DIM), *table = cputest_zeros(dim), before[HEAD_DIM];
    const float *k = cputest_floats(HEAD_DIM), *v = cputest_floats(HEAD_DIM);
    memcpy(before, q, sizeof(before));
    const ops_rope_table rope = {&position, factors, table, 500000, scale, 1, 1, dim};
    cr_assert_eq(backend_rope_table(b, &rope), STATUS_OK);
    const uint32_t page = 0;
    const ops_seq seq = {0, 1, 7, &page, 1}; /* slot 7; the table says where it turns to */
    const ops_rope_append op = {q, k, v, table, kv, &seq, 1, 1, 0, 1, dim, pairs};
    cr_assert_eq(backend_rope_append(b, &op), STATUS_OK);
    for (int32_t i = 0; i < HEAD_DIM; i++) {
        cr_assert_eq(((float *)(void *)kv->base)[16 * HEAD_DIM + 7 * HEAD_DIM + i], v[i]);
    }
    for (int32_t i = 0; i < dim / 2; i++) {
        const int32_t a = pairs == OPS_ROPE_NEOX ? i : 2 * i;
        const int32_t c = pairs == OPS_ROPE_NEOX ? i + dim / 2 : 2 * i + 1;
        const double frequency =
            pow(500000, -2.0 * i / dim) / (factors != NULL ? (double)factors[i] : 1);
        const long double angle = (long double)position * scale * (float)frequency;
        const long double y[2] = {before[a] * cosl(angle) - before[c] * sinl(angle),
                                  before[a] * sinl(angle) + before[c] * cosl(angle)};
        cr_assert_lt(fabsl(y[0] - (long double)q[a]), 2e-6L, "position %d pair %d", position, i);
        cr_assert_lt(fabsl(y[1] - (long double)q[c]), 2e-6L, "position %d pair %d", position, i);
        const float *key = (const float *)(const void *)kv->base;
        const long double turned = k[a] * cosl(angle) - k[c] * sinl(angle);
        cr_assert_lt(fabsl(turned - (long double)key[16 * a + 7]), 2e-6L);
    }
    for (int32_t i = dim; i < HEAD_DIM; i++) {
        cr_assert_eq(q[i], before[i]);
        cr_assert_eq(((float *)(void *)kv->base)[16 * i + 7], k[i]);
    }
    backend_kv_close(b, kv);
}

Test(rows, rope_turns_pairs_as_long_double_does) {
    static const int32_t positions[] = {0, 1, 2, 17, 1000, 8191, 131071, (1 << 20) - 1};
    float factors[32];
    for (int i = 0; i < 32; i++) {
        factors[i] = 1.0f + (float)i / 8;
    }
    backend *b = cputest_open("auto", 1);
    for (int i = 0; i < 8; i++) {
        check_rope(b, positions[i], OPS_ROPE_NEOX, 64, NULL, 1);
        check_rope(b, positions[i], OPS_ROPE_INTERLEAVED, 64, factors, 1);
        check_rope(b, positions[i], OPS_ROPE_NEOX, 32, factors, 0.25);
        check_rope(b, positions[i], OPS_ROPE_INTERLEAVED, 16, NULL, 1);
    }
    backend_close(b);
}

Test(rows, rope_and_pages_are_the_same_on_every_isa) {
    enum { HEAD_DIM = 80, KV_HEADS = 2, HEADS = 4, TOKENS = 40 };
    static const uint32_t pages[] = {2, 0, 1};
    float *q = cputest_floats(TOKENS * HEADS * HEAD_DIM);
    float *k = cputest_floats(TOKENS * KV_HEADS * HEAD_DIM);
    float *v = cputest_floats(TOKENS * KV_HEADS * HEAD_DIM);
    float *turned[CPUTEST_ISAS_COUNT * 2];
    uint8_t *bytes[CPUTEST_ISAS_COUNT * 2];
    int32_t count = 0;
    for (int i = 0; i < CPUTEST_ISAS_COUNT * 2; i++) {
        backend *b = cputest_open(CPUTEST_ISAS[i / 2], 2);
        if (b == NULL) {
            continue;
        }
        const backend_kv_options o = {1, KV_HEADS, HEAD_DIM, 3, BACKEND_KV_F16};
        backend_kv *kv = NULL;
        int32_t positions[TOKENS];
        for (int32_t t = 0; t < TOKENS; t++) {
            positions[t] = t;
        }
        cr_assert_eq(backend_kv_open(b, &o, &kv, NULL), STATUS_OK);
        float *table = cputest_zeros(TOKENS * HEAD_DIM);
        const ops_rope_table rope = {positions, NULL, table, 1e4, 1, 1, TOKENS, HEAD_DIM};
        cr_assert_eq(backend_rope_table(b, &rope), STATUS_OK);
        turned[count] = cputest_zeros(TOKENS * HEADS * HEAD_DIM);
        memcpy(turned[count], q, TOKENS * HEADS * HEAD_DIM * sizeof(float));
        const ops_seq seq = {0, TOKENS, 0, pages, 3};
        const ops_rope_append op = {
            turned[count],       k, v, table, kv, &seq, 1, TOKENS, 0, HEADS, HEAD_DIM,
            OPS_ROPE_INTERLEAVED};
        cr_assert_eq(backend_rope_append(b, &op), STATUS_OK);
        bytes[count] = cputest_take(3, kv->layer_page_bytes);
        memcpy(bytes[count], kv->base, 3 * kv->layer_page_bytes);
        cputest_same_bits(turned[count], turned[0], TOKENS * HEADS * HEAD_DIM, b->isa);
        cr_assert_eq(memcmp(bytes[count], bytes[0], 3 * kv->layer_page_bytes), 0, "%s", b->isa);
        backend_kv_close(b, kv);
        backend_close(b);
        count++;
    }
}
