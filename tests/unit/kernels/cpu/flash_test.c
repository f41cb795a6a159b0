/* flash_test.c -- attention of bf16: near the same sums in double, and the same bits however it is
 * cut. A machine without AMX-BF16 skips these tests by name; pairs_test.c has its refusal.
 */
#include <stdio.h>

#include "tests/unit/kernels/cpu/attentiontest.h"

static void begin(void) {
    bf16 = true;
}

TestSuite(flash, .init = begin, .fini = cputest_end);

static backend *open_flash(const char *test, int32_t threads) {
    backend *b = cputest_open("auto", threads);
    if (!b->bf16) {
        printf("skip flash/%s - no AMX-BF16 on this machine\n", test);
        backend_close(b);
        return NULL;
    }
    return b;
}

static double rounded(double x) {
    const uint32_t bits = kmath_bits((float)x);
    return (double)kmath_float((bits + 0x7fffu + (bits >> 16 & 1u)) & 0xffff0000u);
}

/* A key or value as the tile unit meets it; of int8 keys still spread, as queries then are. */
static void meet(const backend_kv *kv, const uint8_t *head, int32_t slot, bool key, double *out) {
    const int32_t dim = kv->shape.head_dim;
    const bool bytes = kv->shape.type == BACKEND_KV_INT8;
    kvtest_read(kv, head, slot, key, out);
    for (int32_t d = 0; bytes && key && d < dim; d++) {
        out[d] = head[d / 4 * 64 + slot * 4 + d % 4] - 128;
        out[d] *= kvtest_half(head + 32 * dim, slot, false);
    }
    for (int32_t d = 0; d < dim; d++) {
        out[d] = rounded(out[d]);
    }
}

/* A query as the tile unit meets it: times what makes its scores powers of two, or shares of a
 * soft-cap. */
static void meet_query(const inputs *in, int32_t row, int32_t head, double *out) {
    const int32_t dim = in->of.head_dim, width = dim & -dim;
    const double by = softcap > 0 ? 1 / (sqrt(dim) * (double)softcap) : log2(exp(1)) / sqrt(dim);
    double q[OPS_HEAD_DIM_MAX];
    rotate(in->q + ((int64_t)row * in->of.heads + head) * dim, row, dim, q);
    for (int32_t d = 0; d < dim; d++) {
        out[d] = q[d];
        if (in->of.type == BACKEND_KV_INT8) {
            out[d] = 0;
            for (int32_t j = 0; j < width; j++) {
                out[d] += kvtest_sign(d % width, j) * q[d / width * width + j] / width;
            }
        }
        out[d] = rounded(out[d] * by);
    }
}

/* One row and head in double, of rounded inputs; and the weighted sum of magnitudes, which bounds
 * what rounding the weights may do. */
static void naive(const inputs *in, const backend_kv *kv, const uint32_t *pages, int32_t row,
                  int32_t head, double *out, double *magnitude) {
    static double weight[TOKENS_MAX];
    const int32_t dim = in->of.head_dim, kv_head = head / (in->of.heads / in->of.kv_heads);
    const int32_t low = window > 0 && row >= window ? row - window + 1 : 0;
    double q[OPS_HEAD_DIM_MAX], x[OPS_HEAD_DIM_MAX], sum = 0, top = -1e300;
    meet_query(in, row, head, q);
    for (int32_t t = low; t <= row; t++) {
        const uint8_t *page = backend_kv_page(kv, 1, pages[t / 16]);
        meet(kv, page + (uint64_t)kv_head * kv->head_bytes, t % 16, true, x);
        weight[t] = 0;
        for (int32_t d = 0; d < dim; d++) {
            weight[t] += q[d] * x[d];
        }
        if (softcap > 0) {
            weight[t] = tanh(weight[t]) * (double)softcap * log2(exp(1));
        }
        top = weight[t] > top ? weight[t] : top;
    }
    memset(out, 0, (size_t)dim * sizeof(double));
    memset(magnitude, 0, (size_t)dim * sizeof(double));
    for (int32_t t = low; t <= row; t++) {
        sum += weight[t] = exp2(weight[t] - top);
    }
    for (int32_t t = low; t <= row; t++) {
        const uint8_t *page = backend_kv_page(kv, 1, pages[t / 16]);
        meet(kv, page + (uint64_t)kv_head * kv->head_bytes, t % 16, false, x);
        for (int32_t d = 0; d < dim; d++) {
            out[d] += weight[t] / sum * x[d];
            magnitude[d] += weight[t] / sum * fabs(x[d]);
        }
    }
}

/* Weights round by a 256th at most, exponentials by less than a 10000th; that queries are rotated
 * in float may round one of their numbers to its other neighbour. */
static void check_naive(int32_t tokens, shape of, int32_t chunk, int32_t rows_from) {
    uint32_t pages[1][PAGES_MAX];
    const inputs in = make_inputs(tokens, of);
    backend *b = open_flash("naive", 2);
    if (b == NULL) {
        return;
    }
    backend_kv *kv = NULL;
    const float *out = whole(b, &in, chunk, true, &kv, pages);
    for (int32_t row = rows_from; row < tokens; row++) {
        for (int32_t head = 0; looked_at(row, tokens) && head < of.heads; head++) {
            double expected[OPS_HEAD_DIM_MAX], magnitude[OPS_HEAD_DIM_MAX];
            naive(&in, kv, pages[0], row, head, expected, magnitude);
            for (int32_t i = 0; i < of.head_dim; i++) {
                const double got = (double)out[((int64_t)row * of.heads + head) * of.head_dim + i];
                cr_assert_lt(fabs(got - expected[i]), magnitude[i] / 200 + 1e-3,
                             "%s, row %d head %d dim %d: %g, not %g", backend_kv_type_name(of.type),
                             row, head, i, got, expected[i]);
            }
        }
    }
    backend_kv_close(b, kv);
    backend_close(b);
    cputest_end();
}

Test(flash, equals_the_same_sums_in_double) {
    static const struct {
        int32_t tokens, heads, kv_heads, head_dim;
    } cases[] = {{600, 6, 2, 64}, {1100, 2, 1, 64}, {150, 3, 3, 80}, {90, 7, 1, 16},
                 {70, 4, 4, 96},  {130, 8, 2, 128}, {81, 4, 2, 256}, {17, 6, 2, 48},
                 {1, 6, 2, 64},   {64, 10, 10, 112}};
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        for (backend_kv_type type = 0; type < BACKEND_KV_TYPES; type++) {
            check_naive(cases[i].tokens,
                        (shape){cases[i].heads, cases[i].kv_heads, cases[i].head_dim, type}, 128,
                        0);
        }
    }
}

Test(flash, equals_them_at_long_positions) {
    check_naive(5000, (shape){3, 1, 64, BACKEND_KV_INT8}, 1300, 4900);
}

Test(flash, a_window_or_a_soft_cap_equals_them_with_it) {
    static const int32_t windows[] = {1, 5, 16, 33, 64, 127, 300, 513};
    static const int32_t head_dims[] = {64, 80, 128, 256};
    for (int32_t i = 0; i < 16; i++) {
        window = i % 4 == 3 ? 0 : windows[i / 2];
        softcap = i % 2 == 0 ? 0 : 1.5f;
        const int32_t head_dim = head_dims[i % 3 == 0 ? 0 : i % 4];
        check_naive(head_dim == 64 ? 700 : 150,
                    (shape){4, 2, head_dim, (backend_kv_type)(i % BACKEND_KV_TYPES)}, 128, 0);
    }
}

/* One order of arithmetic, whatever the chunks, threads and pages: and so the batch. */
static void check_cuts(int32_t tokens, shape of, const int32_t *chunks, int32_t chunks_count) {
    const inputs in = make_inputs(tokens, of);
    backend *one = open_flash("cuts", 1);
    if (one == NULL) {
        return;
    }
    const float *expected = whole(one, &in, tokens, false, NULL, NULL);
    backend_close(one);
    for (int32_t i = 0; i < chunks_count && i < CPUTEST_CUTS_MAX; i++) {
        backend *b = cputest_open("auto", 1 + i % 3);
        const float *out = whole(b, &in, chunks[i], i % 2 == 0, NULL, NULL);
        cputest_same_bits(out, expected, out_floats(&in), "cut");
        backend_close(b);
    }
    cputest_end();
}

Test(flash, chunks_pages_and_threads_change_no_bit) {
    static const int32_t few[] = {650, 256, 100, 17, 16, 5}, every[] = {200, 1, 3};
    for (int32_t i = 0; i < 3 * BACKEND_KV_TYPES; i++) {
        const backend_kv_type type = (backend_kv_type)(i / 3);
        window = i % 3 == 1 ? 70 : 0;
        softcap = i % 3 == 2 ? 2 : 0;
        check_cuts(650, (shape){6, 2, 64, type}, few, 6);
        check_cuts(200, (shape){6, 2, 64, type}, every, 3);
        check_cuts(200, (shape){4, 4, 48, type}, few + 2, 4);
        check_cuts(90, (shape){7, 1, 80, type}, few + 3, 3);
        check_cuts(70, (shape){4, 2, 256, type}, few + 3, 3);
    }
}

/* Rows of few queries over long contexts: threads share the positions. */
Test(flash, split_over_positions_changes_no_bit) {
    enum { TOKENS = 1200 };
    const inputs in = make_inputs(TOKENS, (shape){6, 2, 64, BACKEND_KV_INT8});
    float *outs[4];
    for (int32_t threads = 1; threads <= 4; threads++) {
        uint32_t pages[1][PAGES_MAX];
        backend *b = open_flash("split", threads);
        if (b == NULL) {
            return;
        }
        backend_kv *kv = open_pool(b, in.of, make_pages(pages, 1, TOKENS, false));
        const uint32_t(*list)[PAGES_MAX] = (const uint32_t(*)[PAGES_MAX])pages;
        float *out = outs[threads - 1] = cputest_zeros(out_floats(&in));
        forward(b, kv, &in, 1, list, 0, TOKENS - 30, &out);
        for (int32_t t = TOKENS - 30; t < TOKENS; t += 3) {
            forward(b, kv, &in, 1, list, t, 3, &out);
        }
        backend_kv_close(b, kv);
        backend_close(b);
        cputest_same_bits(out, outs[0], out_floats(&in), "threads");
    }
    cputest_end();
}

Test(flash, sequences_of_a_batch_do_not_meet) {
    enum { SEQS = 3, TOKENS = 150 };
    for (backend_kv_type type = 0; type < BACKEND_KV_TYPES; type++) {
        const shape of = {6, 2, 64, type};
        const inputs in[SEQS] = {make_inputs(TOKENS, of), make_inputs(TOKENS, of),
                                 make_inputs(TOKENS, of)};
        uint32_t pages[SEQS][PAGES_MAX];
        backend *b = open_flash("batch", 2);
        if (b == NULL) {
            return;
        }
        backend_kv *kv = open_pool(b, of, make_pages(pages, SEQS, TOKENS, true));
        const uint32_t(*list)[PAGES_MAX] = (const uint32_t(*)[PAGES_MAX])pages;
        float *out[SEQS];
        for (int32_t s = 0; s < SEQS; s++) {
            out[s] = cputest_zeros(out_floats(in));
        }
        forward(b, kv, in, SEQS, list, 0, TOKENS - 9, out);
        for (int32_t t = TOKENS - 9; t < TOKENS; t++) {
            forward(b, kv, in, SEQS, list, t, 1, out);
        }
        for (int32_t s = 0; s < SEQS; s++) {
            const float *alone = whole(b, &in[s], TOKENS, false, NULL, NULL);
            cputest_same_bits(out[s], alone, out_floats(in), "sequence");
        }
        backend_kv_close(b, kv);
        backend_close(b);
        cputest_end();
    }
}

/* What later tokens of a batch hold, numbers or not, reaches no row before them. */
Test(flash, later_tokens_change_no_bit) {
    enum { TOKENS = 100, FROM = 70 };
    static const float wild[] = {NAN, INFINITY, -INFINITY, 3e38f};
    for (int32_t i = 0; i < 4 * BACKEND_KV_TYPES; i++) {
        const shape of = {6, 2, 64, (backend_kv_type)(i / 4)};
        inputs in = make_inputs(TOKENS, of);
        backend *b = open_flash("later", 2);
        if (b == NULL) {
            return;
        }
        const float *expected = whole(b, &in, TOKENS, false, NULL, NULL);
        for (int32_t j = FROM * 128; j < TOKENS * 128; j++) {
            in.k[j] = j % 3 == 0 ? wild[i % 4] : in.k[j];
            in.v[j] = j % 5 == 0 ? wild[i % 4] : in.v[j];
        }
        const float *out = whole(b, &in, TOKENS, false, NULL, NULL);
        cputest_same_bits(out, expected, FROM * 6 * 64, "row before");
        backend_close(b);
        cputest_end();
    }
}
