/* ranks_test.c -- a model on several devices gives what it gives on one.
 *
 * Needs devices: WEIR_CUDA_MODULE names the module of the emulated ones, as in tests/plan.txt
 * (cuda/ranks). */
#define _GNU_SOURCE
#include <criterion/criterion.h>
#include <math.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "engine/base/mem.h"
#include "engine/base/rng.h"
#include "models/arch/model.h"
#include "tests/support/naivellama.h"
#include "tests/support/tinyfile.h"

enum { TOKENS = 70, PAGES = 8, SEQS = 3, LOGITS = TOKENS * TINYMODEL_VOCAB, RANKS_MAX = 4 };

typedef struct {
    backend *devices[RANKS_MAX];
    int32_t ranks;
    model *model;
    diag d;
} bench;

static int32_t tokens[TOKENS];

static bool devices_there(void) {
    const char *module = getenv("WEIR_CUDA_MODULE");
    return module && access(module, R_OK) == 0;
}

static void write_model(const tinymodel_options *o) {
    tinyfile_write(o);
    for (int32_t i = 0; i < TOKENS; i++) {
        tokens[i] = (int32_t)(rng_at(3, 0, (uint64_t)i) % TINYMODEL_VOCAB);
    }
}

static void begin(void) {
    (void)setenv("EMU_DEVICES", "4", 1); /* read when the module first asks for a device */
}

TestSuite(ranks, .init = begin, .fini = tinyfile_remove);

static status start(bench *b, int32_t ranks, const char *isa, backend_kv_type kv) {
    *b = (bench){.ranks = ranks};
    for (int32_t r = 0; r < ranks; r++) {
        const backend_options o = {.device = r, .isa = isa, .deterministic = true};
        TRY(backend_open("cuda", &o, &b->devices[r], &b->d));
    }
    const model_options o = {.path = tinyfile_path(),
                             .device = b->devices[0],
                             .others = b->devices + 1,
                             .ranks = ranks,
                             .kv_pages = PAGES * SEQS,
                             .kv_type = kv,
                             .activations = BACKEND_ACTIVATIONS_F32,
                             .rows_max = TOKENS,
                             .logit_rows_max = TOKENS};
    return model_open(&o, &b->model, &b->d);
}

static void stop(bench *b) {
    model_close(b->model);
    for (int32_t r = 0; r < b->ranks; r++) {
        backend_close(b->devices[r]);
    }
}

/* Tokens [first, first + count) of a sequence with these PAGES pages; logits of all of them. */
static status forward_in(bench *b, const uint32_t *pages, int32_t first, int32_t count,
                         float *logits) {
    int32_t rows[TOKENS];
    for (int32_t i = 0; i < count; i++) {
        rows[i] = i;
    }
    const model_seq s = {0, count, first, pages, PAGES, 0};
    const model_batch m = {.tokens = tokens + first,
                           .rows = count,
                           .seqs = &s,
                           .seqs_count = 1,
                           .logit_rows = rows,
                           .logit_rows_count = count,
                           .logits = logits};
    return model_forward(b->model, &m);
}

/* The pages of sequence `seq`, which no other has. */
static void pages_of(int32_t seq, uint32_t *pages) {
    for (uint32_t p = 0; p < PAGES; p++) {
        pages[p] = (PAGES - 1 - p) * SEQS + (uint32_t)seq;
    }
}

static status forward(bench *b, int32_t seq, int32_t first, int32_t count, float *logits) {
    uint32_t pages[PAGES];
    pages_of(seq, pages);
    return forward_in(b, pages, first, count, logits);
}

static double apart(const float *got, const double *want) {
    double worst = 0;
    for (int32_t i = 0; i < LOGITS; i++) {
        worst = fmax(worst, fabs((double)got[i] - want[i]));
    }
    return worst;
}

static tinymodel_options shared_out(gguf_type type) {
    tinymodel_options o = tinymodel_default(type);
    o.kv_heads = 4;
    return o;
}

Test(ranks, agree_with_a_naive_forward_pass) {
    static const struct {
        const char *name;
        int32_t ranks;
        bool untied, biases;
        uint32_t heads, kv_heads, window;
    } cases[] = {
        {"two", 2, false, false, 4, 4, 0},
        {"two, with biases", 2, true, true, 4, 4, 0},
        {"two, grouped heads", 2, false, false, 4, 2, 0},
        {"two, a window", 2, false, false, 4, 4, 20},
        {"four, with biases", 4, true, true, 4, 4, 0},
        {"four, two have the same kv head", 4, true, true, 4, 2, 0},
        {"two, all have the only one", 2, false, true, 4, 1, 0},
        {"four, all have the only one", 4, false, false, 4, 1, 20},
    };
    static float got[LOGITS];
    static double want[LOGITS];
    if (!devices_there()) {
        cr_skip_test("WEIR_CUDA_MODULE names no module");
    }
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        tinymodel_options o = tinymodel_default(GGUF_F32);
        o.heads = cases[i].heads;
        o.kv_heads = cases[i].kv_heads;
        o.tied = !cases[i].untied;
        o.biases = cases[i].biases;
        o.window = cases[i].window;
        write_model(&o);
        naivellama_logits(tinyfile_path(), tokens, TOKENS, want);
        bench b;
        cr_assert_eq(start(&b, cases[i].ranks, "plain", BACKEND_KV_F32), STATUS_OK, "%s: %s",
                     cases[i].name, b.d.text);
        cr_assert_eq(forward(&b, 0, 0, TOKENS, got), STATUS_OK);
        /* As for one device (llama_test). */
        cr_assert_lt(apart(got, want), 2e-4, "%s: %g", cases[i].name, apart(got, want));
        stop(&b);
    }
}

Test(ranks, quantised_weights_are_cut_at_their_blocks) {
    static const gguf_type types[] = {GGUF_Q8_0, GGUF_Q4_0, GGUF_BF16, GGUF_Q6_K};
    static float one[LOGITS], two[LOGITS];
    if (!devices_there()) {
        cr_skip_test("WEIR_CUDA_MODULE names no module");
    }
    for (size_t i = 0; i < sizeof types / sizeof types[0]; i++) {
        tinymodel_options o = shared_out(types[i]);
        o.head_dim = types[i] == GGUF_Q6_K ? 128 : 16; /* 512 inputs: a block of 256 a rank */
        write_model(&o);
        bench b;
        cr_assert_eq(start(&b, 1, NULL, BACKEND_KV_F16), STATUS_OK, "%s", b.d.text);
        const uint64_t parameters = model_get_info(b.model)->parameters;
        cr_assert(strstr(model_get_info(b.model)->numerics, "tp=") == NULL);
        cr_assert_eq(forward(&b, 0, 0, TOKENS, one), STATUS_OK);
        stop(&b);
        cr_assert_eq(start(&b, 2, NULL, BACKEND_KV_F16), STATUS_OK, "%s", b.d.text);
        cr_assert_eq(model_get_info(b.model)->parameters, parameters);
        cr_assert(strstr(model_get_info(b.model)->numerics, " tp=2") != NULL, "%s",
                  model_get_info(b.model)->numerics);
        cr_assert_eq(forward(&b, 0, 0, TOKENS, two), STATUS_OK);
        stop(&b);
        double worst = 0, size = 0;
        for (int32_t n = 0; n < LOGITS; n++) {
            worst = fmax(worst, fabs((double)one[n] - (double)two[n]));
            size = fmax(size, fabs((double)one[n]));
        }
        /* Another order of additions, then rows rounded to bf16. */
        cr_assert(worst < 0.04 * size, "type %d: %g of %g", (int)types[i], worst, size);
    }
}

Test(ranks, chunks_change_no_bit) {
    static float whole[LOGITS], parts[LOGITS];
    if (!devices_there()) {
        cr_skip_test("WEIR_CUDA_MODULE names no module");
    }
    for (int32_t ranks = 2; ranks <= 4; ranks += 2) {
        tinymodel_options o = shared_out(ranks == 2 ? GGUF_Q8_0 : GGUF_BF16);
        write_model(&o);
        bench b;
        cr_assert_eq(start(&b, ranks, NULL, BACKEND_KV_F16), STATUS_OK, "%s", b.d.text);
        cr_assert(strstr(model_get_info(b.model)->numerics, "/exact") != NULL);
        cr_assert_eq(forward(&b, 0, 0, TOKENS, whole), STATUS_OK);
        static const int32_t chunks[] = {17, 1, 1, 30, 1, 20};
        int32_t first = 0;
        for (size_t i = 0; i < sizeof chunks / sizeof chunks[0]; i++) {
            cr_assert_eq(forward(&b, 1, first, chunks[i], parts + first * TINYMODEL_VOCAB),
                         STATUS_OK);
            first += chunks[i];
        }
        cr_assert_eq(first, TOKENS);
        cr_assert_eq(memcmp(whole, parts, sizeof whole), 0, "%d ranks", ranks);
        stop(&b);
    }
}

/* Layer 0's keys and values come before the first sum of ranks: one device has the same bits. */
static void check_page(uint32_t kv_heads) {
    enum { LAYERS = 2, ROOM = 1 << 16 };
    enum { LAST = 3 }; /* tokens */
    static float logits[LOGITS], again[LAST * TINYMODEL_VOCAB];
    static uint8_t one[ROOM], two[ROOM], back[ROOM];
    tinymodel_options o = shared_out(GGUF_Q8_0);
    o.kv_heads = kv_heads;
    write_model(&o);
    uint32_t table[PAGES];
    pages_of(0, table);
    const uint32_t pages[] = {table[0], table[2]}, others[] = {1, 4};
    const backend_kv_run first = {0, 1, pages, 2}, all = {0, LAYERS, pages, 2},
                         into = {0, LAYERS, others, 2};
    bench b;
    cr_assert_eq(start(&b, 1, NULL, BACKEND_KV_INT8), STATUS_OK, "%s", b.d.text);
    const model_info info = *model_get_info(b.model);
    const uint64_t bytes = info.kv_layer_page_bytes;
    cr_assert_leq(LAYERS * 2 * bytes, ROOM);
    cr_assert_eq(forward(&b, 0, 0, TOKENS, logits), STATUS_OK);
    cr_assert_eq(model_kv_read(b.model, &first, one), STATUS_OK);
    stop(&b);
    cr_assert_eq(start(&b, 2, NULL, BACKEND_KV_INT8), STATUS_OK, "%s", b.d.text);
    cr_assert_eq(model_get_info(b.model)->kv_layer_page_bytes, bytes);
    cr_assert_eq(model_get_info(b.model)->kv_heads, info.kv_heads);
    cr_assert_str_eq(model_get_info(b.model)->kv_layout, info.kv_layout);
    cr_assert_eq(forward(&b, 0, 0, TOKENS, logits), STATUS_OK);
    cr_assert_eq(model_kv_read(b.model, &first, two), STATUS_OK);
    cr_assert_eq(memcmp(one, two, 2 * bytes), 0);
    cr_assert_eq(model_kv_read(b.model, &all, two), STATUS_OK);
    cr_assert_eq(model_kv_write(b.model, &into, two), STATUS_OK);
    model_kv_copy(b.model, 4, 7);
    table[0] = 1;
    table[2] = 7;
    /* A copy is done when a step is; what was written is on every device, not just the one read. */
    cr_assert_eq(forward_in(&b, table, TOKENS - LAST, LAST, again), STATUS_OK);
    cr_assert_eq(memcmp(again, logits + (TOKENS - LAST) * TINYMODEL_VOCAB, sizeof again), 0);
    const backend_kv_run copied = {0, LAYERS, (const uint32_t[]){1, 7}, 2};
    cr_assert_eq(model_kv_read(b.model, &copied, back), STATUS_OK);
    cr_assert_eq(memcmp(two, back, LAYERS * 2 * bytes), 0);
    stop(&b);
}

Test(ranks, a_page_is_the_page_of_one_device) {
    if (!devices_there()) {
        cr_skip_test("WEIR_CUDA_MODULE names no module");
    }
    check_page(4);
    check_page(1); /* which both have */
}

typedef struct {
    int32_t calls, last;
    bool apart;
} told;

static void on_layer(void *context, int32_t layers_done) {
    told *t = context;
    t->apart = t->apart || layers_done != t->last + 1;
    t->last = layers_done;
    t->calls++;
}

Test(ranks, a_layer_is_done_when_all_have_done_it) {
    if (!devices_there()) {
        cr_skip_test("WEIR_CUDA_MODULE names no module");
    }
    tinymodel_options o = shared_out(GGUF_Q8_0);
    o.layers = 5;
    write_model(&o);
    bench b;
    cr_assert_eq(start(&b, 4, "plain", BACKEND_KV_F32) == STATUS_OK, false, "16 inputs a rank");
    stop(&b);
    o = shared_out(GGUF_F16);
    o.layers = 5;
    write_model(&o);
    cr_assert_eq(start(&b, 4, "plain", BACKEND_KV_F32), STATUS_OK, "%s", b.d.text);
    for (int32_t i = 0; i < 3; i++) {
        told t = {0, 0, false};
        const uint32_t pages[] = {2, 1};
        const model_seq s = {0, 20, 0, pages, 2, 20};
        const model_batch m = {.tokens = tokens,
                               .rows = 20,
                               .seqs = &s,
                               .seqs_count = 1,
                               .on_layer = on_layer,
                               .context = &t};
        cr_assert_eq(model_forward(b.model, &m), STATUS_OK);
        cr_assert(t.calls == 5 && t.last == 5 && !t.apart, "%d calls", t.calls);
    }
    stop(&b);
}

static void refused(const tinymodel_options *o, int32_t ranks, const char *says) {
    bench b;
    write_model(o);
    cr_assert_neq(start(&b, ranks, NULL, BACKEND_KV_F16), STATUS_OK);
    cr_assert(strstr(b.d.text, says) != NULL, "%s", b.d.text);
    stop(&b);
}

Test(ranks, what_does_not_divide_is_refused_by_name) {
    if (!devices_there()) {
        cr_skip_test("WEIR_CUDA_MODULE names no module");
    }
    tinymodel_options o = tinymodel_default(GGUF_F32);
    o.heads = o.kv_heads = 3;
    o.head_dim = 16;
    refused(&o, 2, "--tensor-parallel-size 2: this model has 3 heads, 3 kv heads and an inner");
    o = tinymodel_default(GGUF_F32);
    o.heads = 12;
    o.kv_heads = 3;
    o.head_dim = 16;
    refused(&o, 4, "--tensor-parallel-size 4: this model has 12 heads, 3 kv heads");
    o = shared_out(GGUF_Q6_K);
    refused(&o, 2,
            "attn_output.weight: --tensor-parallel-size 2: a rank's 128 inputs are no whole");
}

Test(ranks, a_device_that_breaks_is_named) {
    static float logits[LOGITS];
    if (!devices_there()) {
        cr_skip_test("WEIR_CUDA_MODULE names no module");
    }
    (void)setenv("EMU_CUDA_FAULT", "cudaLaunchKernel,error=700,after=100,device=1", 1);
    tinymodel_options o = shared_out(GGUF_Q8_0);
    write_model(&o);
    bench b;
    cr_assert_eq(start(&b, 2, NULL, BACKEND_KV_F16), STATUS_OK, "%s", b.d.text);
    status s = STATUS_OK;
    for (int32_t i = 0; i < 50 && s == STATUS_OK; i++) {
        s = forward(&b, 0, 0, 5, logits);
    }
    cr_assert_eq(s, STATUS_DEVICE);
    cr_assert(strstr(model_fault(b.model), "rank 1 of 2: ") == model_fault(b.model), "%s",
              model_fault(b.model));
    cr_assert(strlen(model_fault(b.model)) > strlen("rank 1 of 2: "));
    stop(&b);
}

Test(ranks, the_cpu_is_one_device) {
    backend *device;
    model *m;
    diag d;
    tinymodel_options o = shared_out(GGUF_F32);
    write_model(&o);
    cr_assert_eq(backend_open("cpu", NULL, &device, &d), STATUS_OK);
    backend *const others[] = {device};
    const model_options mo = {.path = tinyfile_path(),
                              .device = device,
                              .others = others,
                              .ranks = 2,
                              .rows_max = TOKENS,
                              .logit_rows_max = TOKENS};
    cr_assert_eq(model_open(&mo, &m, &d), STATUS_UNSUPPORTED);
    cr_assert(strstr(d.text, "the cpu backend does not share a model") != NULL, "%s", d.text);
    backend_close(device);
}
