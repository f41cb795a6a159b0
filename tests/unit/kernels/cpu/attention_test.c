/* attention_test.c -- attention over pages: right, and the same bits however it is cut. */
#include "tests/unit/kernels/cpu/cputest.h"

TestSuite(attention, .fini = cputest_end);

enum {
    HEADS = 6,
    KV_HEADS = 2,
    POOL_PAGES = 160,
    TOKENS_MAX = 1200, /* past two merges of partial results */
    PAGES_MAX = (TOKENS_MAX + 15) / 16
};

/* Inputs of one sequence, before rotation. */
typedef struct {
    int32_t tokens, head_dim;
    float *q, *k, *v; /* [tokens, heads or kv_heads, head_dim] */
} inputs;

static inputs make_inputs(int32_t tokens, int32_t head_dim) {
    const inputs in = {tokens, head_dim, cputest_floats((int64_t)tokens * HEADS * head_dim),
                       cputest_floats((int64_t)tokens * KV_HEADS * head_dim),
                       cputest_floats((int64_t)tokens * KV_HEADS * head_dim)};
    return in;
}

static backend_kv *open_pool(backend *b, int32_t head_dim, backend_kv_type type) {
    const backend_kv_options o = {2, KV_HEADS, head_dim, POOL_PAGES, type};
    backend_kv *kv = NULL;
    diag d;
    cr_assert_eq(backend_kv_open(b, &o, &kv, &d), STATUS_OK);
    /* What a page held before must not matter: every slot starts as NaN, in either type. */
    memset(kv->base, 0xff, 2 * (size_t)POOL_PAGES * kv->layer_page_bytes);
    return kv;
}

/* Runs tokens [first, first + rows) of each sequence as one batch, all starting at `first`. */
static void forward(backend *b, backend_kv *kv, const inputs *in, int32_t seqs,
                    const uint32_t (*pages)[PAGES_MAX], int32_t first, int32_t rows, float **out) {
    const int32_t dim = in[0].head_dim, total = seqs * rows;
    const int64_t q_row = HEADS * dim, kv_row = KV_HEADS * dim;
    float *q = cputest_zeros(total * q_row), *y = cputest_zeros(total * q_row);
    float *k = cputest_zeros(total * kv_row), *v = cputest_zeros(total * kv_row);
    float *table = cputest_zeros((int64_t)total * dim);
    int32_t *positions = cputest_take(total, sizeof(int32_t));
    ops_seq list[4];
    for (int32_t s = 0; s < seqs; s++) {
        const ops_seq seq = {s * rows, rows, first, pages[s], PAGES_MAX};
        list[s] = seq;
        memcpy(q + s * rows * q_row, in[s].q + first * q_row, (size_t)(rows * q_row) * 4);
        memcpy(k + s * rows * kv_row, in[s].k + first * kv_row, (size_t)(rows * kv_row) * 4);
        memcpy(v + s * rows * kv_row, in[s].v + first * kv_row, (size_t)(rows * kv_row) * 4);
        for (int32_t r = 0; r < rows; r++) {
            positions[s * rows + r] = first + r;
        }
    }
    const ops_rope_table rope = {positions, NULL, table, 10000, 1, 1, total, dim};
    const ops_rope_append append = {q,    k,     v, table, kv,  list,
                                    seqs, total, 1, HEADS, dim, OPS_ROPE_NEOX};
    const ops_attention attention = {
        q, y, kv, list, seqs, total, 1, HEADS, 1.0f / sqrtf((float)dim)};
    cr_assert_eq(backend_rope_table(b, &rope), STATUS_OK);
    cr_assert_eq(backend_rope_append(b, &append), STATUS_OK);
    cr_assert_eq(backend_attention(b, &attention), STATUS_OK);
    for (int32_t s = 0; s < seqs; s++) {
        memcpy(out[s] + first * q_row, y + s * rows * q_row, (size_t)(rows * q_row) * 4);
    }
}

/* Pages in order, or scattered. */
static void make_pages(uint32_t (*pages)[PAGES_MAX], int32_t seqs, bool scattered) {
    for (int32_t s = 0; s < seqs; s++) {
        for (int32_t i = 0; i < PAGES_MAX; i++) {
            const uint32_t n = (uint32_t)(s * PAGES_MAX + i);
            pages[s][i] = scattered ? (n * 77 + 13) % POOL_PAGES : n;
        }
    }
}

/* All tokens, in chunks of the given size. */
static float *whole(backend *b, const inputs *in, backend_kv_type type, int32_t chunk,
                    bool scattered) {
    uint32_t pages[1][PAGES_MAX];
    make_pages(pages, 1, scattered);
    backend_kv *kv = open_pool(b, in->head_dim, type);
    float *out = cputest_zeros((int64_t)in->tokens * HEADS * in->head_dim);
    for (int32_t t = 0; t < in->tokens; t += chunk) {
        const int32_t left = in->tokens - t;
        forward(b, kv, in, 1, pages, t, left < chunk ? left : chunk, &out);
    }
    backend_kv_close(b, kv);
    return out;
}

static void rotate(const float *x, int32_t position, int32_t dim, double *out) {
    for (int32_t i = 0; i < dim / 2; i++) {
        const double angle = position * (double)(float)pow(10000.0, -2.0 * i / dim);
        out[i] = (double)x[i] * cos(angle) - (double)x[i + dim / 2] * sin(angle);
        out[i + dim / 2] = (double)x[i] * sin(angle) + (double)x[i + dim / 2] * cos(angle);
    }
}

/* Textbook attention of one row and head in double. */
static void naive(const inputs *in, int32_t row, int32_t head, double *out) {
    const int32_t dim = in->head_dim, kv_head = head / (HEADS / KV_HEADS);
    double q[OPS_HEAD_DIM_MAX], k[OPS_HEAD_DIM_MAX], weight[TOKENS_MAX], sum = 0, top = -1e300;
    rotate(in->q + (row * HEADS + head) * dim, row, dim, q);
    for (int32_t t = 0; t <= row; t++) {
        rotate(in->k + (t * KV_HEADS + kv_head) * dim, t, dim, k);
        weight[t] = 0;
        for (int32_t i = 0; i < dim; i++) {
            weight[t] += q[i] * k[i] / sqrt(dim);
        }
        top = weight[t] > top ? weight[t] : top;
    }
    memset(out, 0, (size_t)dim * sizeof(double));
    for (int32_t t = 0; t <= row; t++) {
        sum += weight[t] = exp(weight[t] - top);
        for (int32_t i = 0; i < dim; i++) {
            out[i] += weight[t] * (double)in->v[(t * KV_HEADS + kv_head) * dim + i];
        }
    }
    for (int32_t i = 0; i < dim; i++) {
        out[i] /= sum;
    }
}

static void check_naive(int32_t tokens, int32_t head_dim, backend_kv_type type, double bound) {
    backend *b = cputest_open("auto", 2);
    const inputs in = make_inputs(tokens, head_dim);
    const float *out = whole(b, &in, type, tokens, true);
    for (int32_t row = 0; row < tokens; row += row < 70 ? 1 : 41) {
        for (int32_t head = 0; head < HEADS; head++) {
            double expected[OPS_HEAD_DIM_MAX];
            naive(&in, row, head, expected);
            for (int32_t i = 0; i < head_dim; i++) {
                const double got = (double)out[(row * HEADS + head) * head_dim + i];
                cr_assert_lt(fabs(got - expected[i]), bound, "row %d head %d dim %d: %g, not %g",
                             row, head, i, got, expected[i]);
            }
        }
    }
    backend_close(b);
}

Test(attention, equals_textbook_attention_in_double) {
    check_naive(TOKENS_MAX, 64, BACKEND_KV_F32, 2e-5);
    check_naive(300, 80, BACKEND_KV_F32, 2e-5);
    check_naive(90, 16, BACKEND_KV_F32, 2e-5);
    check_naive(90, 256, BACKEND_KV_F32, 5e-5);
    check_naive(300, 64, BACKEND_KV_F16, 2e-2);
}

/* One order of arithmetic, whatever the chunks, threads, pages and instruction set. */
static void check_cuts(int32_t tokens, int32_t head_dim, backend_kv_type type,
                       const int32_t *chunks, int32_t chunks_count) {
    const inputs in = make_inputs(tokens, head_dim);
    const int64_t count = (int64_t)tokens * HEADS * head_dim;
    backend *one = cputest_open("auto", 1);
    const float *expected = whole(one, &in, type, tokens, false);
    backend_close(one);
    for (int32_t i = 0; i < CPUTEST_ISAS_COUNT * chunks_count; i++) {
        const int32_t chunk = chunks[i % chunks_count];
        const char *isa = CPUTEST_ISAS[i / chunks_count];
        if (strcmp(isa, "portable") == 0 && i % chunks_count != 0) {
            continue; /* slow, and the cuts are above the instruction set */
        }
        backend *b = cputest_open(isa, 1 + i % 3);
        if (b != NULL) {
            float *out = whole(b, &in, type, chunk, i % 2 == 0);
            cputest_same_bits(out, expected, count, isa);
        }
        backend_close(b);
    }
}

Test(attention, chunks_pages_threads_and_isa_change_no_bit) {
    static const int32_t few[] = {700, 256, 100, 17, 16, 5}, every[] = {200, 1, 3};
    check_cuts(700, 64, BACKEND_KV_F16, few, 6);
    check_cuts(650, 48, BACKEND_KV_F32, few, 6);
    check_cuts(200, 64, BACKEND_KV_F16, every, 3);
}

/* Long contexts of few rows are split over positions between threads. */
Test(attention, split_over_positions_changes_no_bit) {
    const inputs in = make_inputs(TOKENS_MAX, 64);
    float *outs[4];
    for (int32_t threads = 1; threads <= 4; threads++) {
        uint32_t pages[1][PAGES_MAX];
        make_pages(pages, 1, false);
        backend *b = cputest_open("auto", threads);
        backend_kv *kv = open_pool(b, 64, BACKEND_KV_F16);
        outs[threads - 1] = cputest_zeros((int64_t)TOKENS_MAX * HEADS * 64);
        forward(b, kv, &in, 1, pages, 0, TOKENS_MAX - 150, &outs[threads - 1]);
        for (int32_t t = TOKENS_MAX - 150; t < TOKENS_MAX; t += 3) {
            forward(b, kv, &in, 1, pages, t, 3, &outs[threads - 1]);
        }
        backend_kv_close(b, kv);
        backend_close(b);
        cputest_same_bits(outs[threads - 1], outs[0], (int64_t)TOKENS_MAX * HEADS * 64, "threads");
    }
}

Test(attention, sequences_of_a_batch_do_not_meet) {
    enum { SEQS = 2, TOKENS = 600 };
    const inputs in[SEQS] = {make_inputs(TOKENS, 64), make_inputs(TOKENS, 64)};
    uint32_t pages[SEQS][PAGES_MAX];
    make_pages(pages, SEQS, true);
    for (int32_t threads = 1; threads <= 3; threads++) {
        backend *b = cputest_open("auto", threads);
        backend_kv *kv = open_pool(b, 64, BACKEND_KV_F16);
        float *out[SEQS];
        for (int32_t s = 0; s < SEQS; s++) {
            out[s] = cputest_zeros((int64_t)TOKENS * HEADS * 64);
        }
        forward(b, kv, in, SEQS, (const uint32_t(*)[PAGES_MAX])pages, 0, TOKENS - 9, out);
        for (int32_t t = TOKENS - 9; t < TOKENS; t++) {
            forward(b, kv, in, SEQS, (const uint32_t(*)[PAGES_MAX])pages, t, 1, out);
        }
        for (int32_t s = 0; s < SEQS; s++) {
            const float *alone = whole(b, &in[s], BACKEND_KV_F16, TOKENS, false);
            cputest_same_bits(out[s], alone, (int64_t)TOKENS * HEADS * 64, "sequence");
        }
        backend_kv_close(b, kv);
        backend_close(b);
    }
}
