/* backend_test.c -- every wrong argument is refused before a kernel sees it. */
#include "kernels/backend.h"

#include <criterion/criterion.h>
#include <math.h>
#include <string.h>

enum { WIDTH = 32, ROWS = 4, HEADS = 4, KV_HEADS = 2, HEAD_DIM = 16, PAGES = 3 };

static backend *device;
static const backend_weight *weight, *wider, *float_weight;
static backend_kv *pool;
static float x[64 * WIDTH], y[64 * WIDTH], z[64 * WIDTH];
static const uint32_t pages_good[2] = {0, 2}, pages_bad[2] = {0, 3};
static int32_t index_good[ROWS] = {0, 1, 2, 3}, index_bad[ROWS] = {0, 1, 2, -1};

static void setup(void) {
    static uint8_t blocks[WIDTH * 2 * 34], floats[WIDTH * WIDTH * 4];
    const backend_options options = {.threads = 1};
    const backend_kv_options kv = {2, KV_HEADS, HEAD_DIM, PAGES, BACKEND_KV_F16};
    const backend_activations int8 = BACKEND_ACTIVATIONS_INT8;
    cr_assert_eq(backend_open("cpu", &options, &device, NULL), STATUS_OK);
    cr_assert_eq(backend_weight_load(device, BACKEND_Q8_0, blocks, WIDTH * 34, WIDTH, WIDTH, int8,
                                     &weight, NULL),
                 STATUS_OK);
    cr_assert_eq(backend_weight_load(device, BACKEND_Q8_0, blocks, WIDTH * 2 * 34, WIDTH, 2 * WIDTH,
                                     int8, &wider, NULL),
                 STATUS_OK);
    cr_assert_eq(backend_weight_load(device, BACKEND_F32, floats, sizeof(floats), WIDTH, WIDTH,
                                     int8, &float_weight, NULL),
                 STATUS_OK);
    cr_assert_eq(backend_kv_open(device, &kv, &pool, NULL), STATUS_OK);
}

static void teardown(void) {
    backend_kv_close(device, pool);
    backend_close(device);
}

TestSuite(backend, .init = setup, .fini = teardown);

/* Each line: one field wrong, everything else as in the accepted case before it. */
#define REFUSED(call, op, good, field, value)                                            \
    do {                                                                                 \
        op = good;                                                                       \
        op.field = value;                                                                \
        cr_expect_eq(call(device, &op), STATUS_INVALID, #call ": " #field " = " #value); \
    } while (0)
#define ACCEPTED(call, good) cr_expect_eq(call(device, &(good)), STATUS_OK, #call)

Test(backend, embed_refuses_wrong_arguments) {
    const ops_embed good = {weight, index_good, y, ROWS, 1};
    ops_embed op;
    ACCEPTED(backend_embed, good);
    REFUSED(backend_embed, op, good, table, NULL);
    REFUSED(backend_embed, op, good, tokens, NULL);
    REFUSED(backend_embed, op, good, tokens, index_bad);
    REFUSED(backend_embed, op, good, out, NULL);
    REFUSED(backend_embed, op, good, rows, -1);
    REFUSED(backend_embed, op, good, rows, OPS_ROWS_MAX + 1);
    REFUSED(backend_embed, op, good, scale, 0);
    REFUSED(backend_embed, op, good, scale, INFINITY);
}

Test(backend, rmsnorm_refuses_wrong_arguments) {
    const ops_rmsnorm good = {x, z, y, ROWS, WIDTH, 1e-5f, false};
    ops_rmsnorm op;
    ACCEPTED(backend_rmsnorm, good);
    REFUSED(backend_rmsnorm, op, good, x, NULL);
    REFUSED(backend_rmsnorm, op, good, weight, NULL);
    REFUSED(backend_rmsnorm, op, good, out, NULL);
    REFUSED(backend_rmsnorm, op, good, out, x + 1);
    REFUSED(backend_rmsnorm, op, good, out, z);
    REFUSED(backend_rmsnorm, op, good, rows, -1);
    REFUSED(backend_rmsnorm, op, good, width, 0);
    REFUSED(backend_rmsnorm, op, good, epsilon, -1);
    REFUSED(backend_rmsnorm, op, good, epsilon, NAN);
    ops_rmsnorm adds = good;
    adds.accumulate = true;
    ACCEPTED(backend_rmsnorm, adds);
    REFUSED(backend_rmsnorm, op, adds, out, x);
}

Test(backend, silu_mul_refuses_wrong_arguments) {
    const ops_silu_mul good = {x, z, y, ROWS, WIDTH, false};
    ops_silu_mul op;
    ACCEPTED(backend_silu_mul, good);
    REFUSED(backend_silu_mul, op, good, gate, NULL);
    REFUSED(backend_silu_mul, op, good, up, NULL);
    REFUSED(backend_silu_mul, op, good, out, NULL);
    REFUSED(backend_silu_mul, op, good, out, x + WIDTH);
    REFUSED(backend_silu_mul, op, good, out, z + 1);
    REFUSED(backend_silu_mul, op, good, width, -5);
}

Test(backend, softcap_refuses_wrong_arguments) {
    const ops_softcap good = {x, ROWS, WIDTH, 30};
    ops_softcap op;
    ACCEPTED(backend_softcap, good);
    REFUSED(backend_softcap, op, good, x, NULL);
    REFUSED(backend_softcap, op, good, rows, -1);
    REFUSED(backend_softcap, op, good, width, 0);
    REFUSED(backend_softcap, op, good, cap, 0);
    REFUSED(backend_softcap, op, good, cap, NAN);
    REFUSED(backend_softcap, op, good, cap, INFINITY);
}

Test(backend, gather_refuses_wrong_arguments) {
    const ops_gather good = {x, index_good, y, ROWS, WIDTH, ROWS};
    ops_gather op;
    ACCEPTED(backend_gather, good);
    REFUSED(backend_gather, op, good, x, NULL);
    REFUSED(backend_gather, op, good, index, NULL);
    REFUSED(backend_gather, op, good, index, index_bad);
    REFUSED(backend_gather, op, good, x_rows, ROWS - 1);
    REFUSED(backend_gather, op, good, out, x + WIDTH);
    REFUSED(backend_gather, op, good, width, 0);
}

Test(backend, linear_refuses_wrong_arguments) {
    const ops_linear good = {.x = x,
                             .x_up = z,
                             .norm_weight = z,
                             .norm_epsilon = 1e-5f,
                             .rows = ROWS,
                             .parts = {{weight, NULL, y, false}, {weight, z, y + 1000, true}},
                             .parts_count = 2};
    ops_linear op;
    ACCEPTED(backend_linear, good);
    REFUSED(backend_linear, op, good, x, NULL);
    REFUSED(backend_linear, op, good, rows, -1);
    REFUSED(backend_linear, op, good, parts_count, 0);
    REFUSED(backend_linear, op, good, parts_count, 4);
    REFUSED(backend_linear, op, good, parts[0].weight, NULL);
    REFUSED(backend_linear, op, good, parts[1].weight, wider);
    REFUSED(backend_linear, op, good, parts[1].weight, float_weight);
    REFUSED(backend_linear, op, good, parts[0].out, NULL);
    REFUSED(backend_linear, op, good, parts[0].out, x);
    REFUSED(backend_linear, op, good, parts[1].out, y + 1);
    REFUSED(backend_linear, op, good, input, (ops_input)4);
    ops_linear fused = good;
    fused.input = OPS_INPUT_RMSNORM;
    ACCEPTED(backend_linear, fused);
    REFUSED(backend_linear, op, fused, norm_weight, NULL);
    REFUSED(backend_linear, op, fused, norm_epsilon, NAN);
    fused.input = OPS_INPUT_SILU_MUL;
    ACCEPTED(backend_linear, fused);
    REFUSED(backend_linear, op, fused, x_up, NULL);
    REFUSED(backend_linear, op, fused, x_up, y);
    fused.input = OPS_INPUT_GELU_MUL;
    ACCEPTED(backend_linear, fused);
    REFUSED(backend_linear, op, fused, x_up, NULL);
    REFUSED(backend_linear, op, fused, x_up, y);
}

static status chain_of(backend *b, const ops_linear *second) {
    const ops_linear chain[] = {
        {.x = x, .rows = ROWS, .parts = {{weight, NULL, y, false}}, .parts_count = 1}, *second};
    return backend_chain(b, chain, 2);
}

/* Memory of two operators is apart or the same rows: anything else would mix rows. */
Test(backend, chain_refuses_wrong_arguments) {
    const ops_linear good = {
        .x = x, .rows = ROWS, .parts = {{weight, NULL, y, false}}, .parts_count = 1};
    ops_linear op;
    ACCEPTED(chain_of, good);
    REFUSED(chain_of, op, good, rows, ROWS - 1);
    REFUSED(chain_of, op, good, x, NULL);
    REFUSED(chain_of, op, good, x, x + 1);
    REFUSED(chain_of, op, good, parts[0].out, y + 1);
    cr_expect_eq(backend_chain(device, &good, 0), STATUS_INVALID);
    cr_expect_eq(backend_chain(device, &good, OPS_CHAIN_MAX + 1), STATUS_INVALID);
    cr_expect_eq(backend_chain(device, NULL, 1), STATUS_INVALID);
}

Test(backend, rope_table_refuses_wrong_arguments) {
    static const float zero[HEAD_DIM] = {0};
    const ops_rope_table good = {index_good, NULL, y, 1e4, 1, 1, ROWS, HEAD_DIM};
    ops_rope_table op;
    ACCEPTED(backend_rope_table, good);
    REFUSED(backend_rope_table, op, good, positions, NULL);
    REFUSED(backend_rope_table, op, good, positions, index_bad);
    REFUSED(backend_rope_table, op, good, table, NULL);
    REFUSED(backend_rope_table, op, good, base, 0);
    REFUSED(backend_rope_table, op, good, base, INFINITY);
    REFUSED(backend_rope_table, op, good, position_scale, NAN);
    REFUSED(backend_rope_table, op, good, freq_factors, zero);
    REFUSED(backend_rope_table, op, good, dim, 15);
    REFUSED(backend_rope_table, op, good, dim, 0);
    REFUSED(backend_rope_table, op, good, dim, OPS_HEAD_DIM_MAX + 2);
}

static const ops_seq *seq_of(int32_t row_first, int32_t rows, int32_t position_first,
                             const uint32_t *pages, int32_t pages_count) {
    static ops_seq s;
    const ops_seq value = {row_first, rows, position_first, pages, pages_count};
    s = value;
    return &s;
}

Test(backend, rope_append_refuses_wrong_arguments) {
    const ops_seq seq = {0, ROWS, 14, pages_good, 2};
    const ops_rope_append good = {x, z,    z, y,     pool,     &seq,
                                  1, ROWS, 1, HEADS, HEAD_DIM, OPS_ROPE_NEOX};
    ops_rope_append op;
    ACCEPTED(backend_rope_append, good);
    REFUSED(backend_rope_append, op, good, q, NULL);
    REFUSED(backend_rope_append, op, good, k, NULL);
    REFUSED(backend_rope_append, op, good, v, NULL);
    REFUSED(backend_rope_append, op, good, table, NULL);
    REFUSED(backend_rope_append, op, good, kv, NULL);
    REFUSED(backend_rope_append, op, good, seqs, NULL);
    REFUSED(backend_rope_append, op, good, layer, 2);
    REFUSED(backend_rope_append, op, good, layer, -1);
    REFUSED(backend_rope_append, op, good, heads, 3);
    REFUSED(backend_rope_append, op, good, heads, 0);
    REFUSED(backend_rope_append, op, good, dim, HEAD_DIM + 2);
    REFUSED(backend_rope_append, op, good, pairs, (ops_rope_pairs)2);
    REFUSED(backend_rope_append, op, good, seqs, seq_of(0, ROWS + 1, 0, pages_good, 2));
    REFUSED(backend_rope_append, op, good, seqs, seq_of(-1, ROWS, 0, pages_good, 2));
    REFUSED(backend_rope_append, op, good, seqs, seq_of(0, ROWS, -1, pages_good, 2));
    REFUSED(backend_rope_append, op, good, seqs, seq_of(0, ROWS, 14, pages_good, 1));
    REFUSED(backend_rope_append, op, good, seqs, seq_of(0, ROWS, 14, pages_bad, 2));
    REFUSED(backend_rope_append, op, good, seqs, seq_of(0, ROWS, 14, NULL, 2));
    REFUSED(backend_rope_append, op, good, seqs, seq_of(0, ROWS, 1 << 20, pages_good, 2));
}

Test(backend, attention_refuses_wrong_arguments) {
    const ops_seq seq = {0, ROWS, 14, pages_good, 2}, twice[2] = {seq, seq};
    const ops_attention good = {x, y, pool, &seq, 1, ROWS, 0, HEADS, 0.25f, 0, 0, false};
    ops_attention op;
    ACCEPTED(backend_attention, good);
    REFUSED(backend_attention, op, good, q, NULL);
    REFUSED(backend_attention, op, good, out, NULL);
    REFUSED(backend_attention, op, good, out, x + 1);
    REFUSED(backend_attention, op, good, kv, NULL);
    REFUSED(backend_attention, op, good, layer, 2);
    REFUSED(backend_attention, op, good, heads, 5);
    REFUSED(backend_attention, op, good, scale, NAN);
    REFUSED(backend_attention, op, good, seqs_count, -1);
    REFUSED(backend_attention, op, good, seqs, seq_of(0, ROWS, 14, pages_bad, 2));
    REFUSED(backend_attention, op, good, window, -1);
    REFUSED(backend_attention, op, good, softcap, -1);
    REFUSED(backend_attention, op, good, softcap, NAN);
    ops_attention two = good;
    two.seqs_count = 2;
    REFUSED(backend_attention, op, two, seqs, twice);
}

Test(backend, no_rows_is_no_work) {
    const ops_embed embed = {weight, NULL, NULL, 0, 1};
    const ops_rmsnorm rmsnorm = {NULL, NULL, NULL, 0, WIDTH, 0, false};
    const ops_linear linear = {.parts = {{weight, NULL, NULL, false}}, .parts_count = 1};
    const ops_attention attention = {NULL, NULL, pool, NULL, 0, 0, 0, HEADS, 1, 0, 0, false};
    ACCEPTED(backend_embed, embed);
    ACCEPTED(backend_rmsnorm, rmsnorm);
    ACCEPTED(backend_linear, linear);
    ACCEPTED(backend_attention, attention);
}

Test(backend, opening_names_what_is_wrong) {
    static const struct {
        const char *name, *isa;
        int32_t threads;
        status expected;
        const char *param;
    } cases[] = {{"cpu", NULL, -1, STATUS_INVALID, "threads"},
                 {"cpu", NULL, 257, STATUS_INVALID, "threads"},
                 {"cpu", "sse9", 1, STATUS_INVALID, "isa"},
                 {"abacus", NULL, 1, STATUS_NOTFOUND, "backend"}};
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        const backend_options options = {.threads = cases[i].threads, .isa = cases[i].isa};
        backend *b = NULL;
        diag d = {STATUS_OK, "", ""};
        cr_expect_eq(backend_open(cases[i].name, &options, &b, &d), cases[i].expected);
        cr_expect_str_eq(d.param, cases[i].param);
        cr_expect_null(b);
    }
}

Test(backend, weights_that_do_not_fit_are_refused_with_a_reason) {
    static const struct {
        backend_type type;
        uint64_t bytes;
        int32_t outputs, inputs;
        status expected;
    } cases[] = {{BACKEND_Q4_0, 18, 1, 31, STATUS_UNSUPPORTED},
                 {BACKEND_Q4_K, 144, 1, 128, STATUS_UNSUPPORTED},
                 {(backend_type)5, 18, 1, 32, STATUS_UNSUPPORTED},
                 {BACKEND_Q4_0, 17, 1, 32, STATUS_CORRUPT},
                 {BACKEND_F32, 0, 0, 32, STATUS_INVALID},
                 {BACKEND_F32, 4, 1, -1, STATUS_INVALID}};
    static const uint8_t data[256];
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        const backend_weight *w = weight;
        diag d = {STATUS_OK, "", ""};
        cr_expect_eq(
            backend_weight_load(device, cases[i].type, data, cases[i].bytes, cases[i].outputs,
                                cases[i].inputs, BACKEND_ACTIVATIONS_INT8, &w, &d),
            cases[i].expected);
        cr_expect_null(w);
        cr_expect_neq(d.text[0], '\0');
    }
}

Test(backend, pools_that_cannot_be_are_refused) {
    static const backend_kv_options cases[] = {
        {0, 1, 64, 1, BACKEND_KV_F16},   {257, 1, 64, 1, BACKEND_KV_F16},
        {1, 0, 64, 1, BACKEND_KV_F16},   {1, 1, 60, 1, BACKEND_KV_F16},
        {1, 1, 272, 1, BACKEND_KV_F16},  {1, 1, 64, 0, BACKEND_KV_F16},
        {1, 1, 64, 1, BACKEND_KV_TYPES}, {256, 4096, 256, 4294967295u, BACKEND_KV_F32}};
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        backend_kv *kv = pool;
        diag d = {STATUS_OK, "", ""};
        cr_expect_neq(backend_kv_open(device, &cases[i], &kv, &d), STATUS_OK, "case %zu", i);
        cr_expect_null(kv);
        cr_expect_neq(d.text[0], '\0');
    }
}

Test(backend, a_page_is_where_the_header_says_and_copies_whole) {
    for (int32_t layer = 0; layer < 2; layer++) {
        uint8_t *page = backend_kv_page(pool, layer, 1);
        cr_assert_eq(page, pool->base + (uint64_t)(layer * PAGES + 1) * pool->layer_page_bytes);
        memset(page, layer + 1, pool->layer_page_bytes);
    }
    cr_assert_eq(backend_kv_copy(device, pool, 1, 2), STATUS_OK);
    cr_assert_eq(backend_kv_copy(device, pool, 1, 3), STATUS_INVALID);
    for (int32_t layer = 0; layer < 2; layer++) {
        cr_assert_eq(memcmp(backend_kv_page(pool, layer, 2), backend_kv_page(pool, layer, 1),
                            pool->layer_page_bytes),
                     0);
        cr_assert_eq(backend_kv_page(pool, layer, 0)[0], 0);
    }
}

Test(backend, device_memory_is_aligned_and_zeroed) {
    for (uint64_t bytes = 0; bytes < 300; bytes += 37) {
        uint8_t *p = NULL, back[300];
        cr_assert_eq(backend_alloc(device, bytes, (void **)&p), STATUS_OK);
        cr_assert_eq((uintptr_t)p % 64, 0);
        memset(back, 1, sizeof(back));
        cr_assert_eq(backend_download(device, back, p, bytes), STATUS_OK);
        for (uint64_t i = 0; i < bytes; i++) {
            cr_assert_eq(back[i], 0);
        }
        cr_assert_eq(backend_upload(device, p, x, bytes), STATUS_OK);
        backend_free(device, p);
    }
}

Test(backend, kv_dtype_is_the_wanted_one_or_the_backends_choice) {
    const struct backend cpu = {.name = "cpu"}, cuda = {.name = "cuda"};
    for (backend_kv_type type = 0; type < BACKEND_KV_TYPES; type++) {
        cr_expect_eq(backend_kv_choose(&cpu, type), type);
        cr_expect_eq(backend_kv_choose(&cuda, type), type);
    }
    cr_expect_eq(backend_kv_choose(&cpu, BACKEND_KV_TYPES), BACKEND_KV_INT8);
    cr_expect_eq(backend_kv_choose(&cuda, BACKEND_KV_TYPES), BACKEND_KV_F16);
}
