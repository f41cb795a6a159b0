/* attentiontest.h -- running attention over pages, in batches and chunks of any shape.
 *
 * Purpose    What the tests of attention share; they differ in what they hold it to.
 * Ownership  As cputest.h.
 * Threads    One.
 * Limits     Failures abort the test.
 */
#ifndef TESTS_UNIT_KERNELS_CPU_ATTENTIONTEST_H
#define TESTS_UNIT_KERNELS_CPU_ATTENTIONTEST_H

#include "tests/unit/kernels/cpu/kvtest.h"

enum {
    TOKENS_MAX = 8300, /* past many merges of partial results */
    PAGES_MAX = (TOKENS_MAX + 15) / 16,
    SEQS_MAX = 4
};

static int32_t window; /* 0: none */
static float softcap;  /* 0: none */
static bool bf16;      /* ops_attention.bf16 */

/* Heads of a model, and the dtype of its cache. */
typedef struct {
    int32_t heads, kv_heads, head_dim;
    backend_kv_type type;
} shape;

/* Inputs of one sequence, before rotation. */
typedef struct {
    int32_t tokens;
    shape of;
    float *q, *k, *v; /* [tokens, heads or kv_heads, head_dim] */
} inputs;

static inline inputs make_inputs(int32_t tokens, shape of) {
    const int64_t kv_floats = (int64_t)tokens * of.kv_heads * of.head_dim;
    const inputs in = {tokens, of, cputest_floats((int64_t)tokens * of.heads * of.head_dim),
                       cputest_floats(kv_floats), cputest_floats(kv_floats)};
    return in;
}

static inline int64_t out_floats(const inputs *in) {
    return (int64_t)in->tokens * in->of.heads * in->of.head_dim;
}

static inline backend_kv *open_pool(backend *b, shape of, uint32_t pages) {
    const backend_kv_options o = {2, of.kv_heads, of.head_dim, pages, of.type};
    backend_kv *kv = NULL;
    diag d;
    cr_assert_eq(backend_kv_open(b, &o, &kv, &d), STATUS_OK);
    /* What a page held before must not matter: every float and scale starts as NaN. */
    memset(kv->base, 0xff, 2 * (size_t)pages * kv->layer_page_bytes);
    return kv;
}

/* Runs tokens [first, first + rows) of each sequence as one batch, all starting at `first`. */
static inline void forward(backend *b, backend_kv *kv, const inputs *in, int32_t seqs,
                           const uint32_t (*pages)[PAGES_MAX], int32_t first, int32_t rows,
                           float **out) {
    const int32_t dim = in[0].of.head_dim, heads = in[0].of.heads, total = seqs * rows;
    const int64_t q_row = heads * dim, kv_row = in[0].of.kv_heads * dim;
    float *q = cputest_zeros(total * q_row), *y = cputest_zeros(total * q_row);
    float *k = cputest_zeros(total * kv_row), *v = cputest_zeros(total * kv_row);
    float *table = cputest_zeros((int64_t)total * dim);
    int32_t *positions = cputest_take(total, sizeof(int32_t));
    ops_seq list[SEQS_MAX];
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
                                    seqs, total, 1, heads, dim, OPS_ROPE_NEOX};
    const ops_attention attention = {
        q, y, kv, list, seqs, total, 1, heads, 1.0f / sqrtf((float)dim), window, softcap, bf16};
    cr_assert_eq(backend_rope_table(b, &rope), STATUS_OK);
    cr_assert_eq(backend_rope_append(b, &append), STATUS_OK);
    cr_assert_eq(backend_attention(b, &attention), STATUS_OK);
    for (int32_t s = 0; s < seqs; s++) {
        memcpy(out[s] + first * q_row, y + s * rows * q_row, (size_t)(rows * q_row) * 4);
    }
}

/* Pages of sequences of so many tokens, in order or scattered; returns how many there are. */
static inline uint32_t make_pages(uint32_t (*pages)[PAGES_MAX], int32_t seqs, int32_t tokens,
                                  bool scattered) {
    const uint32_t each = ((uint32_t)tokens + 15) / 16, all = each * (uint32_t)seqs;
    const uint32_t step = all % 7 != 0 && all % 11 != 0 ? 77 : 1; /* without common divisors */
    memset(pages, 0, (size_t)seqs * sizeof(pages[0]));
    for (uint32_t n = 0; n < all; n++) {
        pages[n / each][n % each] = scattered ? (n * step + 13) % all : n;
    }
    return all;
}

/* All tokens, in chunks of the given size; and the pool with them, if asked for. */
static inline float *whole(backend *b, const inputs *in, int32_t chunk, bool scattered,
                           backend_kv **pool, uint32_t (*pages)[PAGES_MAX]) {
    uint32_t own[1][PAGES_MAX];
    uint32_t(*list)[PAGES_MAX] = pages != NULL ? pages : own;
    backend_kv *kv = open_pool(b, in->of, make_pages(list, 1, in->tokens, scattered));
    float *out = cputest_zeros(out_floats(in));
    for (int32_t t = 0; t < in->tokens; t += chunk) {
        const int32_t left = in->tokens - t;
        forward(b, kv, in, 1, (const uint32_t(*)[PAGES_MAX])list, t, left < chunk ? left : chunk,
                &out);
    }
    if (pool != NULL) {
        *pool = kv;
    } else {
        backend_kv_close(b, kv);
    }
    return out;
}

static inline void rotate(const float *x, int32_t position, int32_t dim, double *out) {
    for (int32_t i = 0; i < dim / 2; i++) {
        const double angle = position * (double)(float)pow(10000.0, -2.0 * i / dim);
        out[i] = (double)x[i] * cos(angle) - (double)x[i + dim / 2] * sin(angle);
        out[i + dim / 2] = (double)x[i] * sin(angle) + (double)x[i + dim / 2] * cos(angle);
    }
}

/* Rows at the edges of pages, tiles and chunks, some between, and the last. */
static inline bool looked_at(int32_t row, int32_t tokens) {
    return row < 3 || row % 512 < 1 || row % 512 > 510 || row % 61 == 0 || row == 15 || row == 16 ||
           row == 63 || row == 64 || row == tokens - 1;
}

#endif
