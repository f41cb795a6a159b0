/* append_test.c -- what a page holds: each dtype in its places, rounded no further than it must. */
#include "tests/unit/kernels/cpu/kvtest.h"

TestSuite(append, .fini = cputest_end);

enum { KV_HEADS = 2, TOKENS = 37, PAGES = 3 };

/* Writes TOKENS rows without turning them; the pool starts as 0xff. */
static backend_kv *append(backend *b, int32_t head_dim, backend_kv_type type, const float *k,
                          const float *v) {
    static const uint32_t pages[PAGES] = {2, 0, 1};
    const backend_kv_options o = {1, KV_HEADS, head_dim, PAGES, type};
    backend_kv *kv = NULL;
    int32_t positions[TOKENS] = {0};
    cr_assert_eq(backend_kv_open(b, &o, &kv, NULL), STATUS_OK);
    memset(kv->base, 0xff, (size_t)PAGES * kv->layer_page_bytes);
    float *q = cputest_zeros((int64_t)TOKENS * KV_HEADS * head_dim);
    float *table = cputest_zeros((int64_t)TOKENS * 2);
    const ops_rope_table rope = {positions, NULL, table, 1, 0, 1, TOKENS, 2};
    const ops_seq seq = {0, TOKENS, 0, pages, PAGES};
    const ops_rope_append op = {q, k, v, table, kv, &seq, 1, TOKENS, 0, KV_HEADS, 2, OPS_ROPE_NEOX};
    cr_assert_eq(backend_rope_table(b, &rope), STATUS_OK);
    cr_assert_eq(backend_rope_append(b, &op), STATUS_OK);
    return kv;
}

/* How far a number read back may be from x, in a head of largest magnitude `top` and sum of
 * magnitudes `sum`: half a unit in the last place; int8's unit is the scale, which BF16 rounds up
 * by less than 1/128, and a spread key's largest magnitude is at most the sum. */
static double rounding(backend_kv_type type, double x, double top, double sum, bool key) {
    switch (type) {
        case BACKEND_KV_F32:
            return 0;
        case BACKEND_KV_F16:
            return fabs(x) / 2048 + 3e-8;
        case BACKEND_KV_BF16:
            return fabs(x) / 256 + 5e-41;
        case BACKEND_KV_FP8: /* three bits behind the first, multiples of 2^-9, at most 448 */
            return fmax(fabs(x) / 16 + 0.000977, fabs(x) - 448);
        default:
            return 0.5 * (key ? sum : top) / 127 * (1 + 1.0 / 128) * 1.0001 + 1e-37;
    }
}

static void check_head(const backend_kv *kv, int32_t token, int32_t head, const float *x,
                       bool key) {
    static const uint32_t pages[PAGES] = {2, 0, 1};
    const int32_t dim = kv->shape.head_dim;
    const uint8_t *page = backend_kv_page(kv, 0, pages[token / 16]);
    double got[OPS_HEAD_DIM_MAX], top = 0, sum = 0;
    kvtest_read(kv, page + (uint64_t)head * kv->head_bytes, token % 16, key, got);
    for (int32_t i = 0; i < dim; i++) {
        top = fmax(top, fabs((double)x[i]));
        sum += fabs((double)x[i]);
    }
    for (int32_t i = 0; i < dim; i++) {
        const double bound = rounding(kv->shape.type, (double)x[i], top, sum, key);
        cr_assert_leq(fabs(got[i] - (double)x[i]), bound, "%s of %d, token %d, %s %d: %g, not %g",
                      backend_kv_type_name(kv->shape.type), dim, token, key ? "key" : "value", i,
                      got[i], (double)x[i]);
    }
}

Test(append, pages_hold_keys_and_values_where_the_header_says) {
    static const int32_t dims[] = {16, 48, 64, 80, 96, 128, 256};
    for (size_t i = 0; i < BACKEND_KV_TYPES * sizeof(dims) / sizeof(dims[0]); i++) {
        const int32_t dim = dims[i / BACKEND_KV_TYPES];
        const backend_kv_type type = (backend_kv_type)(i % BACKEND_KV_TYPES);
        float *k = cputest_floats((int64_t)TOKENS * KV_HEADS * dim);
        float *v = cputest_floats((int64_t)TOKENS * KV_HEADS * dim);
        /* Heads of nothing, of almost nothing, of one large number. */
        memset(k, 0, (size_t)dim * sizeof(float));
        memset(v, 0, (size_t)dim * sizeof(float));
        for (int32_t d = 0; d < dim; d++) {
            k[dim + d] = v[dim + d] = type == BACKEND_KV_F16 ? 1e-7f : 1e-39f;
        }
        k[2 * dim + 7] = v[3 * dim + 5] = 6e4f;
        backend *b = cputest_open("auto", 2);
        backend_kv *kv = append(b, dim, type, k, v);
        cr_assert_eq(kv->head_bytes, backend_kv_head_bytes(type, dim));
        for (int32_t at = 0; at < TOKENS * KV_HEADS; at++) {
            check_head(kv, at / KV_HEADS, at % KV_HEADS, k + (int64_t)at * dim, true);
            check_head(kv, at / KV_HEADS, at % KV_HEADS, v + (int64_t)at * dim, false);
        }
        backend_kv_close(b, kv);
        backend_close(b);
        cputest_end();
    }
}

Test(append, pages_are_the_same_bytes_on_every_isa) {
    enum { DIM = 80 };
    for (backend_kv_type type = 0; type < BACKEND_KV_TYPES; type++) {
        const float *k = cputest_floats(TOKENS * KV_HEADS * DIM);
        float *v = cputest_floats(TOKENS * KV_HEADS * DIM);
        v[3] = NAN; /* stays one, in dtypes that have it */
        uint8_t *first = NULL;
        for (int i = 0; i < CPUTEST_ISAS_COUNT; i++) {
            backend *b = cputest_open(CPUTEST_ISAS[i], 1);
            if (b == NULL) {
                continue;
            }
            backend_kv *kv = append(b, DIM, type, k, v);
            const size_t bytes = PAGES * kv->layer_page_bytes;
            if (first == NULL) {
                first = cputest_take((int64_t)bytes, 1);
                memcpy(first, kv->base, bytes);
                double got[DIM];
                kvtest_read(kv, backend_kv_page(kv, 0, 2), 0, false, got);
                cr_assert(type == BACKEND_KV_INT8 || isnan(got[3]));
            }
            cr_assert_eq(memcmp(first, kv->base, bytes), 0, "%s on %s", backend_kv_type_name(type),
                         CPUTEST_ISAS[i]);
            backend_kv_close(b, kv);
            backend_close(b);
        }
        cputest_end();
    }
}

Test(append, a_layout_names_its_dtype_and_head_dim) {
    backend *b = cputest_open("auto", 1);
    char seen[2 * BACKEND_KV_TYPES][BACKEND_LAYOUT_BYTES];
    for (int i = 0; i < 2 * BACKEND_KV_TYPES; i++) {
        const backend_kv_options o = {1, 1, i % 2 ? 64 : 128, 1, (backend_kv_type)(i / 2)};
        backend_kv *kv = NULL;
        cr_assert_eq(backend_kv_open(b, &o, &kv, NULL), STATUS_OK);
        memcpy(seen[i], kv->layout, sizeof(seen[i]));
        cr_assert_not_null(strstr(seen[i], backend_kv_type_name(o.type)), "%s", seen[i]);
        for (int j = 0; j < i; j++) {
            cr_assert_str_neq(seen[i], seen[j]);
        }
        backend_kv_close(b, kv);
    }
    backend_close(b);
}
