/* attention_test.c -- attention over pages: right, and the same bits however it is cut. */
#include "tests/unit/kernels/cpu/attentiontest.h"

TestSuite(attention, .fini = cputest_end);

/* Textbook attention of one row and head in double, of the keys and values in the pages. */
static void naive(const inputs *in, const backend_kv *kv, const uint32_t *pages, int32_t row,
                  int32_t head, double *out) {
    static double weight[TOKENS_MAX];
    const int32_t dim = in->of.head_dim, kv_head = head / (in->of.heads / in->of.kv_heads);
    double q[OPS_HEAD_DIM_MAX], x[OPS_HEAD_DIM_MAX], sum = 0, top = -1e300;
    const int32_t low = window > 0 && row >= window ? row - window + 1 : 0;
    rotate(in->q + ((int64_t)row * in->of.heads + head) * dim, row, dim, q);
    for (int32_t t = low; t <= row; t++) {
        const uint8_t *page = backend_kv_page(kv, 1, pages[t / 16]);
        kvtest_read(kv, page + (uint64_t)kv_head * kv->head_bytes, t % 16, true, x);
        weight[t] = 0;
        for (int32_t i = 0; i < dim; i++) {
            weight[t] += q[i] * x[i] / sqrt(dim);
        }
        weight[t] = softcap > 0 ? (double)softcap * tanh(weight[t] / (double)softcap) : weight[t];
        top = weight[t] > top ? weight[t] : top;
    }
    memset(out, 0, (size_t)dim * sizeof(double));
    for (int32_t t = low; t <= row; t++) {
        const uint8_t *page = backend_kv_page(kv, 1, pages[t / 16]);
        kvtest_read(kv, page + (uint64_t)kv_head * kv->head_bytes, t % 16, false, x);
        sum += weight[t] = exp(weight[t] - top);
        for (int32_t i = 0; i < dim; i++) {
            out[i] += weight[t] * x[i];
        }
    }
    for (int32_t i = 0; i < dim; i++) {
        out[i] /= sum;
    }
}

static void check_naive(const inputs *in, int32_t chunk, double bound, int32_t rows_from) {
    uint32_t pages[1][PAGES_MAX];
    backend *b = cputest_open("auto", 2);
    backend_kv *kv = NULL;
    const float *out = whole(b, in, chunk, true, &kv, pages);
    for (int32_t row = rows_from; row < in->tokens; row++) {
        for (int32_t head = 0; looked_at(row, in->tokens) && head < in->of.heads; head++) {
            double expected[OPS_HEAD_DIM_MAX];
            naive(in, kv, pages[0], row, head, expected);
            for (int32_t i = 0; i < in->of.head_dim; i++) {
                const double got =
                    (double)out[((int64_t)row * in->of.heads + head) * in->of.head_dim + i];
                cr_assert_lt(fabs(got - expected[i]), bound,
                             "%s, row %d head %d dim %d: %g, not %g",
                             backend_kv_type_name(in->of.type), row, head, i, got, expected[i]);
            }
        }
    }
    backend_kv_close(b, kv);
    backend_close(b);
}

/* int8 adds the rounding of queries to 14 bits of their largest number, and of a tile's weights to
 * 14 bits beside its largest value; values here reach 10. */
static double bound_of(backend_kv_type type) {
    return type == BACKEND_KV_INT8 ? 5e-3 : 5e-5;
}

Test(attention, equals_textbook_attention_in_double) {
    static const struct {
        int32_t tokens, heads, kv_heads, head_dim;
    } cases[] = {{600, 6, 2, 64}, {1100, 2, 1, 64}, {150, 3, 3, 80},  {90, 7, 1, 16},
                 {70, 4, 4, 96},  {130, 8, 2, 128}, {65, 5, 1, 192},  {81, 4, 2, 256},
                 {17, 6, 2, 48},  {1, 6, 2, 64},    {64, 10, 10, 112}};
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        for (backend_kv_type type = 0; type < BACKEND_KV_TYPES; type++) {
            const shape of = {cases[i].heads, cases[i].kv_heads, cases[i].head_dim, type};
            const inputs in = make_inputs(cases[i].tokens, of);
            check_naive(&in, 128, bound_of(type), 0);
            cputest_end();
        }
    }
}

Test(attention, equals_textbook_attention_at_long_positions) {
    for (backend_kv_type type = 0; type < BACKEND_KV_TYPES; type++) {
        const inputs in = make_inputs(TOKENS_MAX, (shape){3, 1, 64, type});
        check_naive(&in, 2048, bound_of(type), TOKENS_MAX - 200);
        cputest_end();
    }
}

/* One order of arithmetic, whatever the chunks, threads, pages and instruction set. */
static void check_cuts(int32_t tokens, shape of, const int32_t *chunks, int32_t chunks_count) {
    const inputs in = make_inputs(tokens, of);
    chunks_count = chunks_count < CPUTEST_CUTS_MAX ? chunks_count : CPUTEST_CUTS_MAX;
    backend *one = cputest_open("auto", 1);
    const float *expected = whole(one, &in, tokens, false, NULL, NULL);
    backend_close(one);
    for (int32_t i = 0; i < CPUTEST_ISAS_COUNT * chunks_count; i++) {
        const int32_t chunk = chunks[i % chunks_count];
        const char *isa = CPUTEST_ISAS[i / chunks_count];
        if (strcmp(isa, "portable") == 0 && i % chunks_count != 0) {
            continue; /* slow, and the cuts are above the instruction set */
        }
        backend *b = cputest_open(isa, 1 + i % 3);
        if (b != NULL) {
            float *out = whole(b, &in, chunk, i % 2 == 0, NULL, NULL);
            cputest_same_bits(out, expected, out_floats(&in), isa);
        }
        backend_close(b);
    }
    cputest_end();
}

Test(attention, chunks_pages_threads_and_isa_change_no_bit) {
    static const int32_t few[] = {650, 256, 100, 17, 16, 5}, every[] = {200, 1, 3};
    for (backend_kv_type type = 0; type < BACKEND_KV_TYPES; type++) {
        check_cuts(650, (shape){6, 2, 64, type}, few, 6);
        check_cuts(200, (shape){6, 2, 64, type}, every, 3);
        check_cuts(200, (shape){4, 4, 48, type}, few + 2, 4);
        check_cuts(90, (shape){7, 1, 80, type}, few + 3, 3);
        check_cuts(70, (shape){4, 2, 256, type}, few + 3, 3);
    }
}

/* Long contexts of few rows are split over positions between threads. */
Test(attention, split_over_positions_changes_no_bit) {
    enum { TOKENS = 1200 };
    for (backend_kv_type type = 0; type < BACKEND_KV_TYPES; type++) {
        const inputs in = make_inputs(TOKENS, (shape){6, 2, 64, type});
        float *outs[4];
        for (int32_t threads = 1; threads <= 4; threads++) {
            uint32_t pages[1][PAGES_MAX];
            backend *b = cputest_open("auto", threads);
            backend_kv *kv = open_pool(b, in.of, make_pages(pages, 1, TOKENS, false));
            const uint32_t(*list)[PAGES_MAX] = (const uint32_t(*)[PAGES_MAX])pages;
            outs[threads - 1] = cputest_zeros(out_floats(&in));
            forward(b, kv, &in, 1, list, 0, TOKENS - 150, &outs[threads - 1]);
            for (int32_t t = TOKENS - 150; t < TOKENS; t += 3) {
                forward(b, kv, &in, 1, list, t, 3, &outs[threads - 1]);
            }
            backend_kv_close(b, kv);
            backend_close(b);
            cputest_same_bits(outs[threads - 1], outs[0], out_floats(&in), "threads");
        }
        cputest_end();
    }
}

Test(attention, sequences_of_a_batch_do_not_meet) {
    enum { SEQS = 2, TOKENS = 600 };
    for (int32_t i = 0; i < BACKEND_KV_TYPES * 3; i++) {
        const shape of = {6, 2, 64, (backend_kv_type)(i / 3)};
        const inputs in[SEQS] = {make_inputs(TOKENS, of), make_inputs(TOKENS, of)};
        uint32_t pages[SEQS][PAGES_MAX];
        backend *b = cputest_open("auto", 1 + i % 3);
        backend_kv *kv = open_pool(b, of, make_pages(pages, SEQS, TOKENS, true));
        const uint32_t(*list)[PAGES_MAX] = (const uint32_t(*)[PAGES_MAX])pages;
        float *out[SEQS] = {cputest_zeros(out_floats(in)), cputest_zeros(out_floats(in))};
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

/* Windows smaller than a page, at the edges of pages, tiles and chunks, and larger than all. */
static const int32_t windows[] = {1, 5, 16, 17, 64, 127, 300, 513, 900};
enum { WINDOWS = sizeof(windows) / sizeof(windows[0]) };

Test(attention, a_window_equals_textbook_attention_over_it) {
    static const int32_t head_dims[] = {64, 80, 96, 128, 256};
    for (int32_t i = 0; i < WINDOWS * BACKEND_KV_TYPES; i++) {
        const backend_kv_type type = (backend_kv_type)(i / WINDOWS);
        window = windows[i % WINDOWS];
        const int32_t head_dim = head_dims[i % 5], tokens = head_dim == 64 ? 1100 : 200;
        const inputs in = make_inputs(tokens, (shape){4, 2, head_dim, type});
        check_naive(&in, 128, bound_of(type), 0);
        cputest_end();
    }
}

Test(attention, cuts_of_a_window_change_no_bit) {
    static const int32_t chunks[] = {100, 17, 5};
    for (int32_t i = 0; i < 12; i++) {
        window = windows[i % WINDOWS];
        check_cuts(window > 200 ? 610 : 150, (shape){6, 2, 64, (backend_kv_type)(i % 4)}, chunks,
                   3);
    }
}

/* Chunks that nobody sees are left out, and the others are split between threads. */
Test(attention, a_window_split_over_positions_changes_no_bit) {
    enum { TOKENS = 1700, TAIL = 40 };
    static const int32_t wide[] = {600, 1030};
    for (int32_t i = 0; i < 2 * BACKEND_KV_TYPES; i++) {
        window = wide[i % 2];
        const inputs in = make_inputs(TOKENS, (shape){6, 2, 64, (backend_kv_type)(i / 2)});
        float *outs[4];
        for (int32_t threads = 1; threads <= 4; threads++) {
            uint32_t pages[1][PAGES_MAX];
            backend *b = cputest_open("auto", threads);
            backend_kv *kv = open_pool(b, in.of, make_pages(pages, 1, TOKENS, false));
            const uint32_t(*list)[PAGES_MAX] = (const uint32_t(*)[PAGES_MAX])pages;
            float *out = outs[threads - 1] = cputest_zeros(out_floats(&in));
            forward(b, kv, &in, 1, list, 0, TOKENS - TAIL, &out);
            for (int32_t t = TOKENS - TAIL; t < TOKENS; t += 4) {
                forward(b, kv, &in, 1, list, t, 4, &out);
            }
            backend_kv_close(b, kv);
            backend_close(b);
            cputest_same_bits(out, outs[0], out_floats(&in), "threads");
        }
        cputest_end();
    }
}

/* A cap that most scores feel, as Gemma 2 has it; every other case with a window. */
Test(attention, a_soft_cap_equals_textbook_attention_with_it) {
    static const int32_t head_dims[BACKEND_KV_TYPES] = {64, 80, 256, 64, 64};
    for (int32_t i = 0; i < BACKEND_KV_TYPES; i++) {
        const backend_kv_type type = (backend_kv_type)i;
        softcap = i % 2 == 0 ? 0.7f : 4;
        window = i % 2 == 0 ? 0 : 70;
        const int32_t tokens = head_dims[i] == 64 ? 530 : 90; /* past a chunk, or past a tile */
        const inputs in = make_inputs(tokens, (shape){4, 2, head_dims[i], type});
        check_naive(&in, 128, bound_of(type), 0);
        cputest_end();
    }
}

Test(attention, cuts_with_a_soft_cap_change_no_bit) {
    static const int32_t chunks[] = {100, 17};
    for (int32_t i = 0; i < BACKEND_KV_TYPES; i++) {
        softcap = 1.5f;
        window = i % 2 == 0 ? 0 : 100;
        check_cuts(150, (shape){6, 2, 64, (backend_kv_type)i}, chunks, 2);
    }
}
