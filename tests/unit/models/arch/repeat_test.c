/* repeat_test.c -- decode steps that a device launches as one give what they give launch by launch.
 *
 * Needs a device: WEIR_CUDA_MODULE names the module of the emulated one, as in tests/plan.txt
 * (cuda/graphs), whose launches are counted. */
#define _GNU_SOURCE
#include <criterion/criterion.h>
#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "models/arch/model.h"
#include "tests/support/tinyfile.h"

enum { SEQS = 11, PAGES_EACH = 20, CONTEXT = 16 * PAGES_EACH, LONG = 280 };

typedef struct {
    backend *device;
    model *model;
    uint32_t pages[SEQS][PAGES_EACH];
    int32_t length[SEQS]; /* tokens in the pages */
} bench;

/* `windowed`: a model whose layers differ, so that there are two plans of attention and two tables
 * of rotations, and whose heads go to the tensor cores. */
static bool start(bench *b, bool windowed) {
    const char *module = getenv("WEIR_CUDA_MODULE");
    if (!module || access(module, R_OK) != 0) {
        return false;
    }
    diag d;
    tinymodel_options o = tinymodel_default(GGUF_Q8_0);
    o.context = CONTEXT;
    if (windowed) {
        o.arch = "gemma3";
        o.layers = 7;
        o.head_dim = 64;
        o.window = 40;
        o.reals[0] = (tinymodel_real){"llama.attn_logit_softcapping", 2};
    }
    tinyfile_write(&o);
    cr_assert_eq(backend_open("cuda", NULL, &b->device, &d), STATUS_OK, "%s", d.text);
    model_options mo = {.path = tinyfile_path(),
                        .device = b->device,
                        .kv_pages = SEQS * PAGES_EACH,
                        .context_tokens = CONTEXT,
                        .rows_max = CONTEXT,
                        .logit_rows_max = 16};
    cr_assert_eq(model_open(&mo, &b->model, &d), STATUS_OK, "%s", d.text);
    tinyfile_remove();
    for (uint32_t i = 0; i < SEQS; i++) {
        for (uint32_t p = 0; p < PAGES_EACH; p++) {
            b->pages[i][p] = p * SEQS + i;
        }
        b->length[i] = 0;
    }
    return true;
}

static void stop(bench *b) {
    model_close(b->model);
    backend_close(b->device);
}

static void on_layer(void *context, int32_t layers_done) {
    int32_t *seen = context;
    *seen = layers_done;
}

static model_seq seq_of(bench *b, int32_t i, int32_t row_first, int32_t rows) {
    const model_seq s = {row_first, rows, b->length[i], b->pages[i], PAGES_EACH, 0};
    b->length[i] += rows;
    return s;
}

static void prompt(bench *b, int32_t seq, int32_t count) {
    static int32_t tokens[CONTEXT];
    for (int32_t i = 0; i < count; i++) {
        tokens[i] = (i * 7 + seq * 13) % TINYMODEL_VOCAB;
    }
    const model_seq s = seq_of(b, seq, 0, count);
    const model_batch m = {.tokens = tokens, .rows = count, .seqs = &s, .seqs_count = 1};
    cr_assert_eq(model_forward(b->model, &m), STATUS_OK);
}

/* A row of each of the first `seqs` sequences. Whoever asks to be told of layers gets no graph. */
static void decode(bench *b, int32_t seqs, int32_t step, bool told, float *logits) {
    int32_t tokens[SEQS], rows[SEQS], seen = 0;
    model_seq s[SEQS];
    for (int32_t i = 0; i < seqs; i++) {
        tokens[i] = (step * 5 + i * 3) % TINYMODEL_VOCAB;
        rows[i] = i;
        s[i] = seq_of(b, i, i, 1);
    }
    const model_batch m = {.tokens = tokens,
                           .rows = seqs,
                           .seqs = s,
                           .seqs_count = seqs,
                           .logit_rows = rows,
                           .logit_rows_count = seqs,
                           .logits = logits,
                           .on_layer = told ? on_layer : NULL,
                           .context = &seen};
    cr_assert_eq(model_forward(b->model, &m), STATUS_OK);
    cr_assert_eq(seen, told ? model_get_info(b->model)->layers : 0);
}

/* One sequence is long enough for splits; steps cross pages and change the number of rows. */
static void run(bench *b, bool told, float (*logits)[SEQS * TINYMODEL_VOCAB], int32_t steps) {
    for (int32_t i = 0; i < SEQS; i++) {
        prompt(b, i, i == 1 ? LONG : 3 + i);
    }
    static const int32_t seqs[] = {3, 3, 4, 1, 11, 11, 10, 3};
    for (int32_t step = 0; step < steps; step++) {
        decode(b, seqs[step % 8], step, told, logits[step]);
    }
}

enum { STEPS = 24 };

static void check_graph(bool windowed) {
    static float apart[STEPS][SEQS * TINYMODEL_VOCAB], together[STEPS][SEQS * TINYMODEL_VOCAB];
    bench b;
    if (!start(&b, windowed)) {
        cr_skip_test("WEIR_CUDA_MODULE names no module");
    }
    run(&b, true, apart, STEPS);
    stop(&b);
    cr_assert(start(&b, windowed));
    run(&b, false, together, STEPS);
    stop(&b);
    for (int32_t i = 0; i < STEPS; i++) {
        cr_assert_eq(memcmp(apart[i], together[i], sizeof apart[i]), 0, "step %d", i);
    }
}

Test(repeat, a_graph_gives_the_bits_of_its_launches) {
    check_graph(false);
}

Test(repeat, a_graph_with_two_plans_gives_them_too) {
    check_graph(true);
}

Test(repeat, a_step_seen_before_is_one_launch) {
    unsigned long (*graphs)(void) = NULL;
    unsigned long (*launches)(void) = NULL;
    static float logits[SEQS * TINYMODEL_VOCAB];
    bench b;
    if (!start(&b, false)) {
        cr_skip_test("WEIR_CUDA_MODULE names no module");
    }
    void *emulated = dlopen("libweir_emu.so", RTLD_NOW | RTLD_NOLOAD);
    if (!emulated) {
        cr_skip_test("launches are counted on the emulated device alone");
    }
    *(void **)(void *)&graphs = dlsym(emulated, "emu_graph_launches");
    *(void **)(void *)&launches = dlsym(emulated, "emu_kernel_launches");
    cr_assert(graphs && launches);
    for (int32_t i = 0; i < SEQS; i++) {
        prompt(&b, i, 3);
    }
    decode(&b, 3, 0, false, logits);
    cr_assert_eq(graphs(), 1);
    const unsigned long first = launches();
    decode(&b, 3, 1, false, logits);
    decode(&b, 4, 2, false, logits); /* padded to the same number of rows */
    cr_assert_eq(graphs(), 3);
    cr_assert_eq(launches(), first, "nothing but the graph was launched");
    decode(&b, 5, 3, false, logits);
    cr_assert_gt(launches(), first, "another number of rows is another graph");
    const unsigned long second = launches();
    decode(&b, 3, 4, true, logits);
    cr_assert_gt(launches(), second, "whoever is told of layers gets launches");
    cr_assert_eq(graphs(), 4);
    (void)dlclose(emulated);
    stop(&b);
}
