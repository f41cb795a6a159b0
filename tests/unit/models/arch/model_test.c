/* model_test.c -- what model.h promises: a row's logits and KV depend on its sequence alone. The
 * same tokens are run many ways and compared bit for bit; llama_test.c says that they are also
 * right. WEIR_TEST_MODEL names a real GGUF file for the tests that want one. */
#define _GNU_SOURCE
#include "models/arch/model.h"

#include <criterion/criterion.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "engine/base/mem.h"
#include "engine/base/rng.h"
#include "tests/support/tinyfile.h"

enum { TOKENS = 150, PAGES = 64, SEQS_MAX = 8 };

/* Tokens for the real model: a sanitizer makes each many times slower. */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
enum { REAL_TOKENS = 20, REAL_SEQS = 2 };
#else
enum { REAL_TOKENS = 70, REAL_SEQS = 4 };
#endif

typedef struct {
    backend *device;
    model *m;
    int32_t vocab;
} bed;

typedef struct {
    const char *path;
    int32_t threads;
    backend_activations activations;
    backend_kv_type kv;
} how;

static void write_model(gguf_type type) {
    tinymodel_options o = tinymodel_default(type);
    tinyfile_write(&o);
}

TestSuite(model, .fini = tinyfile_remove);

static bed open_bed(how h) {
    bed b = {0};
    diag d = {0};
    backend_options options = {.threads = h.threads};
    cr_assert_eq(backend_open("cpu", &options, &b.device, &d), STATUS_OK, "%s", d.text);
    model_options o = {.path = h.path,
                       .device = b.device,
                       .kv_pages = PAGES,
                       .kv_type = h.kv,
                       .activations = h.activations,
                       .rows_max = 4 * TOKENS,
                       .logit_rows_max = 4 * TOKENS};
    cr_assert_eq(model_open(&o, &b.m, &d), STATUS_OK, "%s", d.text);
    b.vocab = model_get_info(b.m)->vocab;
    return b;
}

static void close_bed(bed *b) {
    model_close(b->m);
    backend_close(b->device);
}

/* One sequence under way: tokens of its own, pages of its own. */
typedef struct {
    int32_t tokens[TOKENS];
    uint32_t pages[PAGES];
    int32_t done, count, prompt;
    float *logits; /* [count, vocab], filled as it goes */
} sequence;

/* `first` + i * `step` modulo PAGES are its pages. */
static sequence *make_sequence(uint64_t seed, int32_t count, int32_t vocab, uint32_t first,
                               uint32_t step) {
    sequence *s = mem_calloc(1, sizeof(*s));
    s->count = count;
    s->prompt = 2 * count / 3;
    s->logits = mem_calloc((size_t)count * (size_t)vocab, sizeof(float));
    for (int32_t i = 0; i < count; i++) {
        s->tokens[i] = (int32_t)(rng_at(seed, 1, (uint64_t)i) % (uint64_t)vocab);
    }
    for (uint32_t i = 0; i < PAGES; i++) {
        s->pages[i] = (first + i * step) % PAGES;
    }
    return s;
}

static void free_sequence(sequence *s) {
    mem_free(s->logits);
    mem_free(s);
}

/* One forward pass: rows[i] rows of seqs[i], all logits wanted. */
static void step(bed *b, sequence *const *seqs, const int32_t *rows, int32_t count) {
    static _Thread_local int32_t tokens[4 * TOKENS], wanted[4 * TOKENS];
    model_seq shares[SEQS_MAX];
    int32_t total = 0;
    for (int32_t i = 0; i < count; i++) {
        int32_t prompt = seqs[i]->prompt - seqs[i]->done;
        shares[i] = (model_seq){.row_first = total,
                                .rows = rows[i],
                                .position_first = seqs[i]->done,
                                .pages = seqs[i]->pages,
                                .pages_count = (seqs[i]->done + rows[i] + 15) / 16,
                                .prompt_rows = prompt < 0         ? 0
                                               : prompt < rows[i] ? prompt
                                                                  : rows[i]};
        memcpy(tokens + total, seqs[i]->tokens + seqs[i]->done,
               (size_t)rows[i] * sizeof(tokens[0]));
        total += rows[i];
    }
    for (int32_t i = 0; i < total; i++) {
        wanted[i] = i;
    }
    float *logits = mem_alloc((size_t)total * (size_t)b->vocab, sizeof(float));
    model_batch batch = {.tokens = tokens,
                         .rows = total,
                         .seqs = shares,
                         .seqs_count = count,
                         .logit_rows = wanted,
                         .logit_rows_count = total,
                         .logits = logits};
    cr_assert_eq(model_forward(b->m, &batch), STATUS_OK);
    for (int32_t i = 0; i < count; i++) {
        memcpy(seqs[i]->logits + (ptrdiff_t)seqs[i]->done * b->vocab,
               logits + (ptrdiff_t)shares[i].row_first * b->vocab,
               (size_t)rows[i] * (size_t)b->vocab * sizeof(float));
        seqs[i]->done += rows[i];
    }
    mem_free(logits);
}

static void run_chunked(bed *b, sequence *s, int32_t chunk) {
    while (s->done < s->count) {
        int32_t rows = s->count - s->done < chunk ? s->count - s->done : chunk;
        step(b, &s, &rows, 1);
    }
}

static void same_logits(const sequence *a, const sequence *b, int32_t vocab, const char *what) {
    for (int32_t i = 0; i < a->count; i++) {
        size_t at = (size_t)i * (size_t)vocab;
        cr_assert_eq(memcmp(a->logits + at, b->logits + at, (size_t)vocab * sizeof(float)), 0,
                     "%s: position %d differs", what, i);
    }
}

/* The bytes of every page that the two sequences fill. */
static void same_kv(const bed *a, const sequence *x, const bed *b, const sequence *y) {
    const model_info *info = model_get_info(a->m);
    for (int32_t layer = 0; layer < info->layers; layer++) {
        for (int32_t i = 0; i < (x->count + 15) / 16; i++) {
            cr_assert_eq(memcmp(model_kv_page(a->m, layer, x->pages[i]),
                                model_kv_page(b->m, layer, y->pages[i]), info->kv_layer_page_bytes),
                         0, "layer %d page %d", layer, i);
        }
    }
}

static const int32_t chunks[] = {1, 3, 7, 16, 64, TOKENS};

/* Every way to run `count` tokens against one pass over all of them. */
static void check_exact(how h, int32_t count) {
    char what[64];
    bed first = open_bed(h);
    sequence *whole = make_sequence(9, count, first.vocab, 0, 1);
    run_chunked(&first, whole, count);
    for (size_t c = 0; c < sizeof(chunks) / sizeof(chunks[0]); c++) {
        how other = h;
        other.threads = 1 + (int32_t)c % 3;
        bed b = open_bed(other);
        sequence *s = make_sequence(9, count, b.vocab, 17 + 5 * (uint32_t)c, 27); /* 27: odd, so
                                                                            all pages differ */
        run_chunked(&b, s, chunks[c]);
        snprintf(what, sizeof(what), "chunk %d, %d threads", chunks[c], other.threads);
        same_logits(whole, s, b.vocab, what);
        same_kv(&first, whole, &b, s);
        free_sequence(s);
        close_bed(&b);
    }
    free_sequence(whole);
    close_bed(&first);
}

Test(model, chunks_pages_and_threads_change_no_bit) {
    static const gguf_type types[] = {GGUF_F32,  GGUF_F16,  GGUF_BF16, GGUF_Q4_0,
                                      GGUF_Q4_1, GGUF_Q5_0, GGUF_Q5_1, GGUF_Q8_0,
                                      GGUF_Q4_K, GGUF_Q5_K, GGUF_Q6_K};
    for (size_t t = 0; t < sizeof(types) / sizeof(types[0]); t++) {
        write_model(types[t]);
        how h = {tinyfile_path(), 1, BACKEND_ACTIVATIONS_INT8,
                 t % 2 ? BACKEND_KV_F32 : BACKEND_KV_F16};
        check_exact(h, TOKENS);
        h.activations = BACKEND_ACTIVATIONS_F32;
        check_exact(h, 70);
    }
}

/* Random mixes of prefill chunks and decode rows of several sequences. */
static void check_mixes(how h, int32_t sequences, int32_t count) {
    bed b = open_bed(h);
    sequence *mixed[SEQS_MAX], *alone[SEQS_MAX];
    uint32_t each = PAGES / (uint32_t)sequences;
    for (int32_t i = 0; i < sequences; i++) {
        mixed[i] = make_sequence(20 + (uint64_t)i, count - 7 * i, b.vocab, each * (uint32_t)i, 1);
        alone[i] = make_sequence(20 + (uint64_t)i, count - 7 * i, b.vocab, 0, 1);
    }
    uint64_t random = 4;
    for (;;) {
        sequence *chosen[SEQS_MAX];
        int32_t rows[SEQS_MAX], picked = 0;
        bool over = true;
        for (int32_t i = 0; i < sequences; i++) {
            int32_t left = mixed[i]->count - mixed[i]->done;
            over = over && left == 0;
            if (left > 0 && rng_below(&random, 4) > 0) {
                int32_t want = rng_below(&random, 2) ? 1 : 1 + (int32_t)rng_below(&random, 40);
                chosen[picked] = mixed[i];
                rows[picked++] = want < left ? want : left;
            }
        }
        if (over) {
            break;
        }
        if (picked > 0) {
            step(&b, chosen, rows, picked);
        }
    }
    for (int32_t i = 0; i < sequences; i++) {
        run_chunked(&b, alone[i], count);
        same_logits(mixed[i], alone[i], b.vocab, "mixed");
        free_sequence(mixed[i]);
        free_sequence(alone[i]);
    }
    close_bed(&b);
}

Test(model, batch_mates_change_no_bit) {
    static const gguf_type types[] = {GGUF_F32, GGUF_Q4_0, GGUF_Q4_1, GGUF_Q8_0, GGUF_Q6_K};
    for (size_t t = 0; t < sizeof(types) / sizeof(types[0]); t++) {
        write_model(types[t]);
        check_mixes((how){tinyfile_path(), 2, BACKEND_ACTIVATIONS_INT8, BACKEND_KV_F16}, 6, 120);
        check_mixes((how){tinyfile_path(), 3, BACKEND_ACTIVATIONS_F32, BACKEND_KV_F32}, 3, 60);
    }
}

static bool has_bf16(const char *test) {
    backend *device = NULL;
    diag d;
    cr_assert_eq(backend_open("cpu", NULL, &device, &d), STATUS_OK);
    const bool has = device->bf16;
    backend_close(device);
    if (!has) {
        printf("skip model/%s - no AMX-BF16 on this machine\n", test);
    }
    return has;
}

Test(model, prompts_of_bf16_beside_rows_of_int8_change_no_bit) {
    static const gguf_type types[] = {GGUF_F32, GGUF_BF16, GGUF_Q4_0, GGUF_Q4_1, GGUF_Q8_0};
    bool has = has_bf16("prompts_of_bf16_beside_rows_of_int8_change_no_bit");
    for (size_t t = 0; has && t < sizeof(types) / sizeof(types[0]); t++) {
        write_model(types[t]);
        check_exact((how){tinyfile_path(), 1, BACKEND_ACTIVATIONS_MIXED, BACKEND_KV_INT8}, TOKENS);
        check_mixes((how){tinyfile_path(), 2, BACKEND_ACTIVATIONS_MIXED, BACKEND_KV_F16}, 6, 120);
    }
}

/* With nothing but a prompt it is bf16's model, with none int8's. */
Test(model, mixed_is_bf16_of_prompts_and_int8_of_the_rest) {
    bool has = has_bf16("mixed_is_bf16_of_prompts_and_int8_of_the_rest");
    for (int all = 0; has && all < 2; all++) {
        write_model(GGUF_Q4_1);
        how h = {tinyfile_path(), 2, BACKEND_ACTIVATIONS_MIXED, BACKEND_KV_F16};
        bed b = open_bed(h);
        h.activations = all ? BACKEND_ACTIVATIONS_BF16 : BACKEND_ACTIVATIONS_INT8;
        bed other = open_bed(h);
        sequence *x = make_sequence(9, TOKENS, b.vocab, 0, 1);
        sequence *y = make_sequence(9, TOKENS, b.vocab, 0, 1);
        x->prompt = all ? TOKENS : 0;
        run_chunked(&b, x, 64);
        run_chunked(&other, y, 64);
        same_logits(x, y, b.vocab, all ? "bf16" : "int8");
        same_kv(&b, x, &other, y);
        free_sequence(x);
        free_sequence(y);
        close_bed(&b);
        close_bed(&other);
    }
}

Test(model, the_real_model_is_exact_too) {
    const char *real = getenv("WEIR_TEST_MODEL");
    if (!real) {
        cr_skip_test("WEIR_TEST_MODEL names no model file");
    }
    check_exact((how){real, 1, BACKEND_ACTIVATIONS_INT8, BACKEND_KV_F16}, REAL_TOKENS);
    check_mixes((how){real, 2, BACKEND_ACTIVATIONS_INT8, BACKEND_KV_F16}, REAL_SEQS, REAL_TOKENS);
    if (has_bf16("the_real_model_is_exact_too (mixed)")) {
        check_mixes((how){real, 2, BACKEND_ACTIVATIONS_MIXED, BACKEND_KV_INT8}, REAL_SEQS,
                    REAL_TOKENS);
    }
}

Test(model, asking_for_fewer_logits_changes_none) {
    write_model(GGUF_Q4_1);
    bed b = open_bed((how){tinyfile_path(), 2, BACKEND_ACTIVATIONS_INT8, BACKEND_KV_F16});
    sequence *all = make_sequence(3, 40, b.vocab, 0, 1);
    run_chunked(&b, all, 40);
    static const int32_t some[] = {0, 5, 6, 31, 39};
    float *logits = mem_alloc(5 * (size_t)b.vocab, sizeof(float));
    for (int32_t count = 0; count <= 5; count++) {
        uint32_t pages[3] = {40, 41, 42};
        model_seq seq = {0, 40, 0, pages, 3, 40};
        model_batch batch = {.tokens = all->tokens,
                             .rows = 40,
                             .seqs = &seq,
                             .seqs_count = 1,
                             .logit_rows = some,
                             .logit_rows_count = count,
                             .logits = logits};
        cr_assert_eq(model_forward(b.m, &batch), STATUS_OK);
        for (int32_t i = 0; i < count; i++) {
            cr_assert_eq(
                memcmp(logits + (ptrdiff_t)i * b.vocab, all->logits + (ptrdiff_t)some[i] * b.vocab,
                       (size_t)b.vocab * sizeof(float)),
                0);
        }
        for (int32_t layer = 0; layer < 2; layer++) {
            cr_assert_eq(memcmp(model_kv_page(b.m, layer, 41), model_kv_page(b.m, layer, 1),
                                model_get_info(b.m)->kv_layer_page_bytes),
                         0, "the cache is whole with %d logits", count);
        }
    }
    mem_free(logits);
    free_sequence(all);
    close_bed(&b);
}

typedef struct {
    bed *b;
    int32_t calls;
    uint8_t early[2][4096]; /* page 0 of each layer when its callback came */
} watcher;

static void watch(void *context, int32_t layers_done) {
    watcher *w = context;
    cr_assert_eq(layers_done, ++w->calls, "one call a layer, in order");
    memcpy(w->early[layers_done - 1], model_kv_page(w->b->m, layers_done - 1, 0),
           model_get_info(w->b->m)->kv_layer_page_bytes);
}

Test(model, on_layer_comes_when_the_layers_kv_is_final) {
    write_model(GGUF_Q8_0);
    bed b = open_bed((how){tinyfile_path(), 2, BACKEND_ACTIVATIONS_INT8, BACKEND_KV_F16});
    cr_assert_leq(model_get_info(b.m)->kv_layer_page_bytes, 4096);
    watcher w = {&b, 0, {{0}}};
    int32_t tokens[20] = {5, 6, 7}, wanted = 19;
    uint32_t pages[2] = {0, 1};
    float *logits = mem_alloc((size_t)b.vocab, sizeof(float));
    model_seq seq = {0, 20, 0, pages, 2, 20};
    for (int32_t logit_rows = 0; logit_rows <= 1; logit_rows++) {
        w.calls = 0;
        model_batch batch = {.tokens = tokens,
                             .rows = 20,
                             .seqs = &seq,
                             .seqs_count = 1,
                             .logit_rows = &wanted,
                             .logit_rows_count = logit_rows,
                             .logits = logits,
                             .on_layer = watch,
                             .context = &w};
        cr_assert_eq(model_forward(b.m, &batch), STATUS_OK);
        cr_assert_eq(w.calls, 2, "also when no logits are wanted");
        for (int32_t layer = 0; layer < 2; layer++) {
            cr_assert_eq(memcmp(w.early[layer], model_kv_page(b.m, layer, 0),
                                model_get_info(b.m)->kv_layer_page_bytes),
                         0);
            bool written = false;
            for (int i = 0; i < 64; i++) {
                written = written || w.early[layer][i] != 0;
            }
            cr_assert(written);
        }
    }
    mem_free(logits);
    close_bed(&b);
}

Test(model, a_copied_page_serves_as_well) {
    write_model(GGUF_Q4_0);
    bed b = open_bed((how){tinyfile_path(), 1, BACKEND_ACTIVATIONS_INT8, BACKEND_KV_F16});
    sequence *a = make_sequence(8, 60, b.vocab, 0, 1), *fork = make_sequence(8, 60, b.vocab, 0, 1);
    int32_t rows = 40;
    step(&b, &a, &rows, 1);
    model_kv_copy(b.m, 2, 50); /* the last page, part filled: copy on write */
    fork->pages[2] = 50;
    fork->pages[3] = 51;
    fork->done = 40;
    memcpy(fork->logits, a->logits, 40 * (size_t)b.vocab * sizeof(float));
    a->tokens[40] = 7; /* the first goes another way and writes its own page */
    run_chunked(&b, a, 5);
    run_chunked(&b, fork, 20);
    sequence *straight = make_sequence(8, 60, b.vocab, 20, 1);
    run_chunked(&b, straight, 60);
    same_logits(straight, fork, b.vocab, "forked");
    cr_assert_neq(
        memcmp(a->logits + 59 * (ptrdiff_t)b.vocab, fork->logits + 59 * (ptrdiff_t)b.vocab, 64), 0);
    free_sequence(a);
    free_sequence(fork);
    free_sequence(straight);
    close_bed(&b);
}

Test(model, logits_depend_on_every_earlier_page) {
    write_model(GGUF_Q4_1);
    bed b = open_bed((how){tinyfile_path(), 1, BACKEND_ACTIVATIONS_INT8, BACKEND_KV_F16});
    for (uint32_t page = 0; page < 6; page++) {
        sequence *good = make_sequence(8, 100, b.vocab, 0, 1);
        sequence *bad = make_sequence(8, 100, b.vocab, 0, 1);
        int32_t rows = 99, one = 1;
        step(&b, &good, &rows, 1);
        bad->done = 99;
        step(&b, &good, &one, 1);
        bad->pages[page] = 60; /* zeroes: never written */
        step(&b, &bad, &one, 1);
        cr_assert_neq(
            memcmp(good->logits + 99 * (ptrdiff_t)b.vocab, bad->logits + 99 * (ptrdiff_t)b.vocab,
                   (size_t)b.vocab * sizeof(float)),
            0, "page %u", page);
        free_sequence(good);
        free_sequence(bad);
    }
    close_bed(&b);
}

Test(model, refuses_what_is_no_batch) {
    write_model(GGUF_Q8_0);
    bed b = open_bed((how){tinyfile_path(), 1, BACKEND_ACTIVATIONS_INT8, BACKEND_KV_F16});
    static const uint32_t pages[33] = {0};
    static const uint32_t far[2] = {PAGES, PAGES + 1};
    static const struct {
        const char *what;
        model_seq seq;
        int32_t rows, seqs, token, logit_row[2], logit_rows;
        status expected;
    } cases[] = {
        {"fine", {0, 4, 0, pages, 1, 0}, 4, 1, 0, {3}, 1, STATUS_OK},
        {"empty", {0, 0, 0, pages, 1, 0}, 0, 0, 0, {0}, 0, STATUS_OK},
        {"the last position", {0, 4, 508, pages, 32, 0}, 4, 1, 0, {3}, 1, STATUS_OK},
        {"past the context", {0, 4, 509, pages, 33, 0}, 4, 1, 0, {3}, 1, STATUS_INVALID},
        {"far past the context",
         {0, 4, INT32_MAX - 1, pages, 33, 0},
         4,
         1,
         0,
         {3},
         1,
         STATUS_INVALID},
        {"before the start", {0, 4, -1, pages, 1, 0}, 4, 1, 0, {3}, 1, STATUS_INVALID},
        {"a row of nobody", {0, 3, 0, pages, 1, 0}, 4, 1, 0, {3}, 1, STATUS_INVALID},
        {"rows of nobody first", {1, 3, 0, pages, 1, 0}, 4, 1, 0, {3}, 1, STATUS_INVALID},
        {"more rows than there are", {0, 5, 0, pages, 1, 0}, 4, 1, 0, {3}, 1, STATUS_INVALID},
        {"no rows in a sequence", {0, 0, 0, pages, 1, 0}, 0, 1, 0, {0}, 0, STATUS_INVALID},
        {"too many rows", {0, 601, 0, pages, 33, 0}, 601, 1, 0, {3}, 1, STATUS_INVALID},
        {"logits of no row", {0, 4, 0, pages, 1, 0}, 4, 1, 0, {4}, 1, STATUS_INVALID},
        {"logits before the rows", {0, 4, 0, pages, 1, 0}, 4, 1, 0, {-1}, 1, STATUS_INVALID},
        {"two rows", {0, 4, 0, pages, 1, 0}, 4, 1, 0, {1, 3}, 2, STATUS_OK},
        {"a row twice", {0, 4, 0, pages, 1, 0}, 4, 1, 0, {3, 3}, 2, STATUS_INVALID},
        {"rows the wrong way", {0, 4, 0, pages, 1, 0}, 4, 1, 0, {3, 1}, 2, STATUS_INVALID},
        {"a token outside", {0, 4, 0, pages, 1, 0}, 4, 1, TINYMODEL_VOCAB, {3}, 1, STATUS_INVALID},
        {"a negative token", {0, 4, 0, pages, 1, 0}, 4, 1, -1, {3}, 1, STATUS_INVALID},
        {"too few pages", {0, 4, 16, pages, 1, 0}, 4, 1, 0, {3}, 1, STATUS_INVALID},
        {"all of them a prompt", {0, 4, 0, pages, 1, 4}, 4, 1, 0, {3}, 1, STATUS_OK},
        {"more of a prompt than rows", {0, 4, 0, pages, 1, 5}, 4, 1, 0, {3}, 1, STATUS_INVALID},
        {"fewer than none of a prompt", {0, 4, 0, pages, 1, -1}, 4, 1, 0, {3}, 1, STATUS_INVALID},
        {"a page outside", {0, 4, 0, far, 1, 0}, 4, 1, 0, {3}, 1, STATUS_INVALID},
    };
    float *logits = mem_alloc(2 * (size_t)b.vocab, sizeof(float));
    static int32_t tokens[700];
    for (size_t c = 0; c < sizeof(cases) / sizeof(cases[0]); c++) {
        tokens[2] = cases[c].token;
        model_batch batch = {.tokens = tokens,
                             .rows = cases[c].rows,
                             .seqs = &cases[c].seq,
                             .seqs_count = cases[c].seqs,
                             .logit_rows = cases[c].logit_row,
                             .logit_rows_count = cases[c].logit_rows,
                             .logits = logits};
        status s = model_forward(b.m, &batch);
        cr_assert(s == cases[c].expected, "%s: %s", cases[c].what, status_name(s));
    }
    mem_free(logits);
    close_bed(&b);
}

Test(model, the_pool_is_sized_by_pages_or_bytes) {
    write_model(GGUF_Q8_0);
    static const struct {
        uint32_t pages;
        uint64_t bytes;
        int32_t context, expected_context;
        uint32_t least, most;
    } cases[] = {
        {7, 0, 0, 512, 7, 7},          {0, 0, 0, 512, 0, 0},
        {0, 1, 0, 512, 32, 33},        /* a whole context at least */
        {0, 1, 64, 64, 4, 5},          /* of a shorter context, if so asked */
        {0, 409600, 64, 64, 100, 100}, /* 2 layers x 2,048 bytes a page */
        {3, 409600, 1000, 512, 3, 3},  /* pages win; no context longer than trained */
    };
    for (size_t c = 0; c < sizeof(cases) / sizeof(cases[0]); c++) {
        backend *device = NULL;
        model *m = NULL;
        diag d = {0};
        backend_options options = {.threads = 1};
        cr_assert_eq(backend_open("cpu", &options, &device, &d), STATUS_OK);
        model_options o = {.path = tinyfile_path(),
                           .device = device,
                           .kv_pages = cases[c].pages,
                           .kv_bytes = cases[c].bytes,
                           .context_tokens = cases[c].context,
                           .rows_max = 4,
                           .logit_rows_max = 1};
        cr_assert_eq(model_open(&o, &m, &d), STATUS_OK, "%s", d.text);
        const model_info *i = model_get_info(m);
        cr_assert_eq(i->context_tokens, cases[c].expected_context, "case %zu", c);
        cr_assert(i->kv_pages >= cases[c].least && i->kv_pages <= cases[c].most,
                  "case %zu: %u pages", c, i->kv_pages);
        if (i->kv_pages == 0) {
            int32_t token = 0;
            uint32_t page = 0;
            model_seq seq = {0, 1, 0, &page, 1, 1};
            model_batch batch = {
                .tokens = &token, .rows = 1, .seqs = &seq, .seqs_count = 1, .logit_rows_count = 0};
            cr_assert_eq(model_forward(m, &batch), STATUS_INVALID, "no pool, no forward");
        }
        model_close(m);
        backend_close(device);
    }
}

Test(model, refuses_a_file_that_is_none) {
    backend *device = NULL;
    model *m = NULL;
    diag d = {0};
    cr_assert_eq(backend_open("cpu", NULL, &device, &d), STATUS_OK);
    static const char *const paths[] = {"/nonexistent/model.gguf", "/", "/dev/null"};
    for (size_t i = 0; i < 3; i++) {
        model_options o = {
            .path = paths[i], .device = device, .kv_pages = 1, .rows_max = 1, .logit_rows_max = 1};
        d.text[0] = 0;
        cr_assert_neq(model_open(&o, &m, &d), STATUS_OK);
        cr_assert(strstr(d.text, paths[i]) != NULL, "\"%s\"", d.text);
    }
    backend_close(device);
}

/* ---- two batches at once --------------------------------------------------------------------- */

typedef struct {
    bed b;
    sequence *s;
    int32_t chunk;
} runner;

static void *run_beside(void *context) {
    runner *r = context;
    run_chunked(&r->b, r->s, r->chunk);
    return NULL;
}

Test(model, two_threads_over_one_set_of_weights_and_pages_change_no_bit) {
    static const backend_activations ways[] = {BACKEND_ACTIVATIONS_INT8, BACKEND_ACTIVATIONS_F32};
    write_model(GGUF_Q4_K);
    for (size_t i = 0; i < sizeof(ways) / sizeof(ways[0]); i++) {
        how h = {tinyfile_path(), 2, ways[i], BACKEND_KV_INT8};
        diag d = {0};
        bed first = open_bed(h), second = first, alone = open_bed(h);
        cr_assert_eq(backend_share(first.device, 0, &second.device, &d), STATUS_OK, "%s", d.text);
        cr_assert_eq(model_share(first.m, second.device, 4 * TOKENS, 4 * TOKENS, &second.m, &d),
                     STATUS_OK, "%s", d.text);
        sequence *x = make_sequence(1, TOKENS, first.vocab, 0, 1);
        sequence *y = make_sequence(2, TOKENS, first.vocab, PAGES / 2, 1);
        sequence *x_alone = make_sequence(1, TOKENS, first.vocab, 0, 1);
        sequence *y_alone = make_sequence(2, TOKENS, first.vocab, PAGES / 2, 1);
        run_chunked(&alone, x_alone, TOKENS);
        run_chunked(&alone, y_alone, TOKENS);
        pthread_t thread;
        runner beside = {second, y, 1};
        cr_assert_eq(pthread_create(&thread, NULL, run_beside, &beside), 0);
        run_chunked(&first, x, 64);
        pthread_join(thread, NULL);
        same_logits(x_alone, x, first.vocab, "the first");
        same_logits(y_alone, y, first.vocab, "the one beside it");
        same_kv(&alone, y_alone, &first, y);
        free_sequence(x);
        free_sequence(y);
        free_sequence(x_alone);
        free_sequence(y_alone);
        close_bed(&second);
        close_bed(&first);
        close_bed(&alone);
    }
}
