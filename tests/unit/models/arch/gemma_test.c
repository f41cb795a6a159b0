/* gemma_test.c -- gemma2.c and gemma3.c: GGUF files against a naive forward pass in double
 * precision, with the values that such files leave out; the same bits however tokens are cut; and
 * files that must be refused, by name. Folders are held to `transformers` by tests/golden. */
#define _GNU_SOURCE
#include <criterion/criterion.h>
#include <math.h>
#include <string.h>
#include <unistd.h>

#include "engine/base/mem.h"
#include "engine/base/rng.h"
#include "models/arch/model.h"
#include "tests/support/naivellama.h"
#include "tests/support/tinyfile.h"

enum { TOKENS = 90, PAGES = 8 };

static int32_t tokens[TOKENS];

static void prepare(void) {
    for (int32_t i = 0; i < TOKENS; i++) {
        tokens[i] = (int32_t)(rng_at(3, 0, (uint64_t)i) % TINYMODEL_VOCAB);
    }
}

TestSuite(gemma, .init = prepare, .fini = tinyfile_remove);

static tinymodel_options gemma(const char *arch) {
    tinymodel_options o = tinymodel_default(GGUF_F32);
    o.arch = arch;
    o.layers = 7;
    o.head_dim = 32;
    o.window = 20;
    return o;
}

/* All tokens' logits, `chunk` tokens a step. */
static float *logits_of(backend_activations activations, backend_kv_type kv, int32_t threads,
                        int32_t chunk) {
    static const uint32_t pages[PAGES] = {5, 3, 7, 0, 2, 6, 1, 4};
    int32_t rows[TOKENS];
    float *logits = mem_alloc(TOKENS * TINYMODEL_VOCAB, sizeof(*logits));
    backend *device = NULL;
    model *m = NULL;
    diag d = {0};
    backend_options options = {.threads = threads};
    cr_assert_eq(backend_open("cpu", &options, &device, &d), STATUS_OK, "%s", d.text);
    model_options o = {.path = tinyfile_path(),
                       .device = device,
                       .kv_pages = PAGES,
                       .kv_type = kv,
                       .activations = activations,
                       .rows_max = TOKENS,
                       .logit_rows_max = TOKENS};
    cr_assert_eq(model_open(&o, &m, &d), STATUS_OK, "%s", d.text);
    for (int32_t i = 0; i < TOKENS; i++) {
        rows[i] = i;
    }
    for (int32_t at = 0; at < TOKENS; at += chunk) {
        int32_t count = TOKENS - at < chunk ? TOKENS - at : chunk;
        model_seq seq = {0, count, at, pages, PAGES, count};
        model_batch batch = {.tokens = tokens + at,
                             .rows = count,
                             .seqs = &seq,
                             .seqs_count = 1,
                             .logit_rows = rows,
                             .logit_rows_count = count,
                             .logits = logits + (ptrdiff_t)at * TINYMODEL_VOCAB};
        cr_assert_eq(model_forward(m, &batch), STATUS_OK);
    }
    model_close(m);
    backend_close(device);
    return logits;
}

static void check_naive(const tinymodel_options *o, const char *what) {
    double *want = mem_alloc(TOKENS * TINYMODEL_VOCAB, sizeof(*want));
    tinyfile_write(o);
    naivellama_logits(tinyfile_path(), tokens, TOKENS, want);
    float *got = logits_of(BACKEND_ACTIVATIONS_F32, BACKEND_KV_F32, 1, TOKENS);
    double worst = 0, size = 0;
    for (int32_t i = 0; i < TOKENS * TINYMODEL_VOCAB; i++) {
        worst = fmax(worst, fabs((double)got[i] - want[i]));
        size = fmax(size, fabs(want[i]));
    }
    cr_assert(worst < 2e-4, "%s, %s: %g of %g", o->arch, what, worst, size);
    cr_assert(size > 1, "%s, %s: the logits say something", o->arch, what);
    mem_free(got);
    mem_free(want);
}

Test(gemma, agrees_with_a_naive_forward_pass) {
    for (int family = 0; family < 2; family++) {
        tinymodel_options o = gemma(family == 0 ? "gemma2" : "gemma3");
        check_naive(&o, "what files leave out");
        o.window = 0;
        check_naive(&o, "no window said");
        o.window = 33;
        o.rope_linear = 4;
        o.overrides[0] = (tinymodel_override){"llama.attention.sliding_window_pattern", 3};
        o.reals[0] = (tinymodel_real){"llama.attn_logit_softcapping", 0.8f};
        o.reals[1] = (tinymodel_real){"llama.final_logit_softcapping", 1.5f};
        o.reals[2] = (tinymodel_real){"llama.rope.freq_base_swa", 700};
        o.reals[3] = (tinymodel_real){"llama.attention.scale", 0.4f};
        check_naive(&o, "every key said");
    }
}

Test(gemma, chunks_and_threads_change_no_bit) {
    static const int32_t chunks[] = {1, 7, 16, 50};
    for (int kv = 0; kv < BACKEND_KV_TYPES; kv++) {
        tinymodel_options o = gemma(kv % 2 == 0 ? "gemma2" : "gemma3");
        o.type = kv < 2 ? GGUF_Q8_0 : GGUF_Q4_1;
        o.reals[0] = (tinymodel_real){"llama.attn_logit_softcapping", 0.8f};
        tinyfile_write(&o);
        float *whole = logits_of(BACKEND_ACTIVATIONS_INT8, (backend_kv_type)kv, 1, TOKENS);
        for (int32_t i = 0; i < 4; i++) {
            float *cut =
                logits_of(BACKEND_ACTIVATIONS_INT8, (backend_kv_type)kv, 1 + i % 3, chunks[i]);
            cr_assert_eq(memcmp(cut, whole, TOKENS * TINYMODEL_VOCAB * sizeof(float)), 0,
                         "%s, chunks of %d", backend_kv_type_name((backend_kv_type)kv), chunks[i]);
            mem_free(cut);
        }
        mem_free(whole);
    }
}

/* The model of 46 layers divides scores by the root of width / heads, though no key says so. */
Test(gemma, the_largest_gemma2_is_known_by_its_layers) {
    tinymodel_options o = gemma("gemma2");
    o.layers = 46;
    tinyfile_write(&o);
    float *unsaid = logits_of(BACKEND_ACTIVATIONS_F32, BACKEND_KV_F32, 1, TOKENS);
    o.reals[0] = (tinymodel_real){"llama.attention.scale", 0.25f}; /* 64 wide, 4 heads */
    tinyfile_write(&o);
    float *said = logits_of(BACKEND_ACTIVATIONS_F32, BACKEND_KV_F32, 1, TOKENS);
    cr_assert_eq(memcmp(unsaid, said, TOKENS * TINYMODEL_VOCAB * sizeof(float)), 0);
    o.reals[0].value = 1 / sqrtf(32);
    tinyfile_write(&o);
    float *other = logits_of(BACKEND_ACTIVATIONS_F32, BACKEND_KV_F32, 1, TOKENS);
    cr_assert_neq(memcmp(unsaid, other, TOKENS * TINYMODEL_VOCAB * sizeof(float)), 0);
    mem_free(unsaid);
    mem_free(said);
    mem_free(other);
}

static void refused(const tinymodel_options *o, const char *says) {
    backend *device = NULL;
    model *m = NULL;
    diag d = {0};
    backend_options options = {.threads = 1};
    tinyfile_write(o);
    cr_assert_eq(backend_open("cpu", &options, &device, &d), STATUS_OK);
    model_options mo = {.path = tinyfile_path(),
                        .device = device,
                        .kv_pages = PAGES,
                        .rows_max = TOKENS,
                        .logit_rows_max = 1};
    status s = model_open(&mo, &m, &d);
    cr_assert(s == STATUS_CORRUPT || s == STATUS_NOTFOUND, "%s: %s", says, status_name(s));
    cr_assert(strstr(d.text, says) != NULL, "\"%s\" lacks \"%s\"", d.text, says);
    backend_close(device);
}

Test(gemma, refuses_missing_tensors_and_wrong_keys_by_name) {
    static const char *const tensors[] = {"blk.1.post_attention_norm.weight",
                                          "blk.6.post_ffw_norm.weight", "blk.0.attn_q_norm.weight",
                                          "blk.2.attn_k_norm.weight"};
    static const tinymodel_real reals[] = {{"llama.attn_logit_softcapping", -1},
                                           {"llama.final_logit_softcapping", NAN},
                                           {"llama.rope.freq_base_swa", 0},
                                           {"llama.attention.scale", 0}};
    for (size_t i = 0; i < 4; i++) {
        tinymodel_options o = gemma("gemma3");
        o.omit = tensors[i];
        refused(&o, tensors[i]);
        o.omit = NULL;
        o.reals[0] = reals[i];
        refused(&o, reals[i].key + strlen("llama"));
    }
}
