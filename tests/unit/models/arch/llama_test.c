/* llama_test.c -- llama.c and llama_load.c: numbers against a naive forward pass in double
 * precision, and files that must be refused, by name. */
#define _GNU_SOURCE
#include "models/arch/llama.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "engine/base/mem.h"
#include "engine/base/rng.h"
#include "tests/support/naivellama.h"
#include "tests/support/tinyfile.h"

enum { TOKENS = 90, PAGES = 8 };

TestSuite(llama, .fini = tinyfile_remove);

static backend *open_cpu(void) {
    backend *device = NULL;
    diag d = {0};
    backend_options options = {.threads = 1};
    cr_assert_eq(backend_open("cpu", &options, &device, &d), STATUS_OK, "%s", d.text);
    return device;
}

static status open_model(backend *device, backend_activations activations, backend_kv_type kv,
                         model **out, diag *d) {
    model_options o = {.path = tinyfile_path(),
                       .device = device,
                       .kv_pages = PAGES,
                       .kv_type = kv,
                       .activations = activations,
                       .rows_max = TOKENS,
                       .logit_rows_max = TOKENS};
    return model_open(&o, out, d);
}

static void forward_all(model *m, const int32_t *tokens, float *logits) {
    static const uint32_t pages[PAGES] = {5, 3, 7, 0, 2, 6, 1, 4};
    int32_t rows[TOKENS];
    for (int32_t i = 0; i < TOKENS; i++) {
        rows[i] = i;
    }
    model_seq seq = {0, TOKENS, 0, pages, PAGES, TOKENS};
    model_batch batch = {.tokens = tokens,
                         .rows = TOKENS,
                         .seqs = &seq,
                         .seqs_count = 1,
                         .logit_rows = rows,
                         .logit_rows_count = TOKENS,
                         .logits = logits};
    cr_assert_eq(model_forward(m, &batch), STATUS_OK);
}

static const double kv_bounds[BACKEND_KV_TYPES] = {[BACKEND_KV_F32] = 2e-4,
                                                   [BACKEND_KV_F16] = 5e-2,
                                                   [BACKEND_KV_BF16] = 0.4,
                                                   [BACKEND_KV_INT8] = 2.5,
                                                   [BACKEND_KV_FP8] = 6};

Test(llama, agrees_with_a_naive_forward_pass) {
    static const struct {
        const char *name;
        bool untied, biases, factors;
        float linear, base;
        uint32_t head_dim, kv_heads, rope_dim, layers, window;
    } cases[] = {
        {"plain", false, false, false, 0, 10000, 0, 2, 0, 2, 0},
        {"own output matrix", true, false, false, 0, 10000, 0, 2, 0, 2, 0},
        {"biases", false, true, false, 0, 10000, 0, 2, 0, 2, 0},
        {"frequency factors", false, false, true, 0, 500000, 0, 2, 0, 2, 0},
        {"linear scaling", false, false, false, 4, 10000, 0, 2, 0, 2, 0},
        {"no base in the file", false, false, false, 0, 0, 0, 2, 0, 2, 0},
        {"heads wider than the width", false, false, false, 0, 10000, 32, 2, 0, 2, 0},
        {"one kv head", false, false, false, 0, 10000, 0, 1, 0, 1, 0},
        {"a kv head a head", true, true, true, 2, 10000, 16, 4, 0, 3, 0},
        {"part of a head turns", false, false, false, 0, 10000, 0, 2, 8, 2, 0},
        {"a window of a few", false, false, false, 0, 10000, 0, 2, 0, 2, 7},
        {"a window of pages", false, false, false, 0, 10000, 0, 2, 0, 2, 40},
        {"heads that do not divide the width", false, false, false, 0, 10000, 16, 3, 0, 2, 0},
    };
    int32_t tokens[TOKENS];
    for (int32_t i = 0; i < TOKENS; i++) {
        tokens[i] = (int32_t)(rng_at(3, 0, (uint64_t)i) % TINYMODEL_VOCAB);
    }
    double *want = mem_alloc(TOKENS * TINYMODEL_VOCAB, sizeof(*want));
    float *got = mem_alloc(TOKENS * TINYMODEL_VOCAB, sizeof(*got));
    for (size_t c = 0; c < sizeof(cases) / sizeof(cases[0]); c++) {
        tinymodel_options o = tinymodel_default(GGUF_F32);
        o.tied = !cases[c].untied;
        o.biases = cases[c].biases;
        o.freq_factors = cases[c].factors;
        o.rope_linear = cases[c].linear;
        o.rope_base = cases[c].base;
        o.head_dim = cases[c].head_dim;
        o.kv_heads = cases[c].kv_heads;
        o.heads = cases[c].kv_heads == 3 ? 3 : 4;
        o.layers = cases[c].layers;
        o.window = cases[c].window;
        if (cases[c].rope_dim) {
            o.overrides[0] = (tinymodel_override){"llama.rope.dimension_count", cases[c].rope_dim};
        }
        tinyfile_write(&o);
        naivellama_logits(tinyfile_path(), tokens, TOKENS, want);
        for (int kv = 0; kv < BACKEND_KV_TYPES; kv++) {
            backend *device = open_cpu();
            model *m = NULL;
            diag d = {0};
            cr_assert_eq(open_model(device, BACKEND_ACTIVATIONS_F32, (backend_kv_type)kv, &m, &d),
                         STATUS_OK, "%s: %s", cases[c].name, d.text);
            forward_all(m, tokens, got);
            double worst = 0, size = 0;
            for (int32_t i = 0; i < TOKENS * TINYMODEL_VOCAB; i++) {
                worst = fmax(worst, fabs((double)got[i] - want[i]));
                size = fmax(size, fabs(want[i]));
            }
            cr_assert(worst < kv_bounds[kv], "%s, kv %d: %g of %g", cases[c].name, kv, worst, size);
            cr_assert(size > 3, "%s: the logits say something", cases[c].name);
            model_close(m);
            backend_close(device);
        }
    }
    mem_free(got);
    mem_free(want);
}

Test(llama, info_is_what_the_file_says) {
    tinymodel_options o = tinymodel_default(GGUF_Q4_1);
    o.tied = false;
    tinyfile_write(&o);
    backend *device = open_cpu();
    model *m = NULL;
    diag d = {0};
    cr_assert_eq(open_model(device, BACKEND_ACTIVATIONS_INT8, BACKEND_KV_F16, &m, &d), STATUS_OK,
                 "%s", d.text);
    const model_info *i = model_get_info(m);
    cr_assert_str_eq(i->arch, "llama");
    cr_assert_str_eq(i->name, "tiny");
    cr_assert_eq(i->layers, 2);
    cr_assert_eq(i->width, 64);
    cr_assert_eq(i->heads, 4);
    cr_assert_eq(i->kv_heads, 2);
    cr_assert_eq(i->head_dim, 16);
    cr_assert_eq(i->vocab, TINYMODEL_VOCAB);
    cr_assert_eq(i->context_tokens, 512);
    /* Two matrices of the vocabulary, a norm, and per layer q, k, v, out, two norms, the FFN. */
    uint64_t layer = 64 * 64 + 2 * 64 * 32 + 64 * 64 + 2 * 64 + 3 * 64 * 128;
    cr_assert_eq(i->parameters, 2 * 64 * TINYMODEL_VOCAB + 64 + 2 * layer);
    cr_assert_eq(i->kv_layer_page_bytes, 2 * 16 * 2 * 16 * 2);
    uint64_t hash = i->file_hash;
    char numerics[96];
    snprintf(numerics, sizeof(numerics), "%s", i->numerics);
    model_close(m);
    o.seed = 2;
    tinyfile_write(&o);
    cr_assert_eq(open_model(device, BACKEND_ACTIVATIONS_F32, BACKEND_KV_F16, &m, &d), STATUS_OK);
    cr_assert_neq(model_get_info(m)->file_hash, hash, "other weights, other hash");
    cr_assert_str_neq(model_get_info(m)->numerics, numerics, "activations are part of the class");
    model_close(m);
    backend_close(device);
}

/* Opens the written file and expects a refusal whose text has `says`. */
static void refused(status code, const char *says) {
    backend *device = open_cpu();
    model *m = NULL;
    diag d = {0};
    status s = open_model(device, BACKEND_ACTIVATIONS_INT8, BACKEND_KV_F16, &m, &d);
    cr_assert_neq(s, STATUS_OK, "accepted; expected: %s", says);
    cr_assert(code == s, "%s: %s", status_name(s), d.text);
    cr_assert(strstr(d.text, says) != NULL, "\"%s\" lacks \"%s\"", d.text, says);
    backend_close(device);
}

Test(llama, refuses_keys_that_make_no_model) {
    static const struct {
        const char *key;
        uint32_t value;
        status code;
        const char *says;
    } cases[] = {
        {"llama.block_count", 0, STATUS_CORRUPT, "llama.block_count is 0"},
        {"llama.block_count", 257, STATUS_CORRUPT, "llama.block_count is 257"},
        {"llama.block_count", 3, STATUS_CORRUPT, "blk.2.attn_q.weight is missing"},
        {"llama.block_count", 1, STATUS_UNSUPPORTED, "blk.1.attn_norm.weight is not part"},
        {"llama.embedding_length", 0, STATUS_CORRUPT, "llama.embedding_length"},
        {"llama.embedding_length", 66, STATUS_CORRUPT, "llama.embedding_length 66"},
        {"llama.embedding_length", 128, STATUS_CORRUPT, "tensor token_embd.weight"},
        {"llama.embedding_length", 0xFFFFFFFFu, STATUS_CORRUPT, "llama.embedding_length"},
        {"llama.feed_forward_length", 0, STATUS_CORRUPT, "llama.feed_forward_length"},
        {"llama.feed_forward_length", 64, STATUS_CORRUPT, "tensor blk.0.ffn_gate.weight"},
        {"llama.context_length", 0, STATUS_CORRUPT, "llama.context_length is 0"},
        {"llama.context_length", 0x80000000u, STATUS_CORRUPT, "llama.context_length"},
        {"llama.attention.head_count", 0, STATUS_CORRUPT, "llama.attention.head_count is 0"},
        {"llama.attention.head_count", 5, STATUS_CORRUPT, "llama.attention.head_count 5"},
        {"llama.attention.head_count", 8, STATUS_UNSUPPORTED, "heads of 8 elements"},
        {"llama.attention.head_count", 0xFFFFFFFFu, STATUS_CORRUPT, "llama.attention.head_count"},
        {"llama.attention.head_count_kv", 0, STATUS_CORRUPT, "llama.attention.head_count_kv is 0"},
        {"llama.attention.head_count_kv", 3, STATUS_CORRUPT, "head_count_kv 3"},
        {"llama.attention.head_count_kv", 8, STATUS_CORRUPT, "llama.attention.head_count_kv is 8"},
        {"llama.attention.head_count_kv", 4, STATUS_CORRUPT, "tensor blk.0.attn_k.weight"},
        {"llama.vocab_size", 319, STATUS_CORRUPT, "llama.vocab_size is 319"},
        {"llama.rope.dimension_count", 1, STATUS_CORRUPT, "llama.rope.dimension_count"},
        {"llama.rope.dimension_count", 7, STATUS_CORRUPT, "llama.rope.dimension_count 7 is odd"},
        {"llama.rope.dimension_count", 18, STATUS_CORRUPT, "llama.rope.dimension_count"},
        {"llama.expert_count", 8, STATUS_UNSUPPORTED, "llama.expert_count is 8"},
    };
    for (size_t c = 0; c < sizeof(cases) / sizeof(cases[0]); c++) {
        tinymodel_options o = tinymodel_default(GGUF_Q4_0);
        o.overrides[0] = (tinymodel_override){cases[c].key, cases[c].value};
        tinyfile_write(&o);
        refused(cases[c].code, cases[c].says);
    }
}

Test(llama, refuses_missing_keys_and_tensors_by_name) {
    static const char *const names[] = {"general.architecture",
                                        "llama.block_count",
                                        "llama.context_length",
                                        "llama.embedding_length",
                                        "llama.feed_forward_length",
                                        "llama.attention.head_count",
                                        "llama.attention.layer_norm_rms_epsilon",
                                        "token_embd.weight",
                                        "output_norm.weight",
                                        "blk.0.attn_norm.weight",
                                        "blk.0.attn_q.weight",
                                        "blk.1.attn_k.weight",
                                        "blk.1.attn_v.weight",
                                        "blk.0.attn_output.weight",
                                        "blk.1.ffn_norm.weight",
                                        "blk.0.ffn_gate.weight",
                                        "blk.1.ffn_up.weight",
                                        "blk.1.ffn_down.weight"};
    for (size_t c = 0; c < sizeof(names) / sizeof(names[0]); c++) {
        tinymodel_options o = tinymodel_default(GGUF_Q8_0);
        o.omit = names[c];
        tinyfile_write(&o);
        bool sought = strncmp(names[c], "blk", 3) != 0 && strncmp(names[c], "output", 6) != 0;
        refused(sought ? STATUS_NOTFOUND : STATUS_CORRUPT, names[c]);
    }
}

Test(llama, refuses_wrong_shapes_by_name) {
    static const char *const names[] = {
        "token_embd.weight",        "output.weight",          "output_norm.weight",
        "rope_freqs.weight",        "blk.0.attn_norm.weight", "blk.1.attn_q.weight",
        "blk.1.attn_q.bias",        "blk.0.attn_k.weight",    "blk.0.attn_v.bias",
        "blk.0.attn_output.weight", "blk.1.ffn_norm.weight",  "blk.0.ffn_gate.weight",
        "blk.0.ffn_up.weight",      "blk.0.ffn_down.weight"};
    for (size_t c = 0; c < sizeof(names) / sizeof(names[0]); c++) {
        tinymodel_options o = tinymodel_default(GGUF_F16);
        o.tied = false;
        o.biases = true;
        o.freq_factors = true;
        o.narrow = names[c];
        tinyfile_write(&o);
        refused(STATUS_CORRUPT, names[c]);
    }
}

Test(llama, refuses_other_architectures_by_name) {
    tinymodel_options o = tinymodel_default(GGUF_F32);
    o.arch = "mamba";
    tinyfile_write(&o);
    refused(STATUS_UNSUPPORTED, "\"mamba\"");
}

Test(llama, norms_must_be_float32) {
    /* Written as a matrix type, a norm would be read as something it is not. */
    tinymodel_options o = tinymodel_default(GGUF_F32);
    tinyfile_write(&o);
    FILE *f = fopen(tinyfile_path(), "r+b");
    static char bytes[1 << 20];
    size_t count = fread(bytes, 1, sizeof(bytes), f);
    char *name = memmem(bytes, count, "output_norm.weight", 18);
    cr_assert(name != NULL);
    name[18 + 4 + 8] = GGUF_F16; /* after the name: dims count, one dim, type */
    rewind(f);
    cr_assert_eq(fwrite(bytes, 1, count, f), count);
    fclose(f);
    refused(STATUS_UNSUPPORTED, "output_norm.weight is F16");
}

/* Whatever the bytes, opening ends with a model or a text; under the sanitizers also cleanly. */
Test(llama, survives_any_damage, .timeout = 120) {
    tinymodel_options o = tinymodel_default(GGUF_Q4_0);
    o.layers = 1;
    tinyfile_write(&o);
    static char whole[1 << 20];
    FILE *f = fopen(tinyfile_path(), "rb");
    size_t count = fread(whole, 1, sizeof(whole), f);
    fclose(f);
    backend *device = open_cpu();
    uint64_t random = 5;
    int32_t tokens[TOKENS] = {0};
    float *logits = mem_alloc(TOKENS * TINYMODEL_VOCAB, sizeof(*logits));
    static char bytes[1 << 20];
    int opened = 0;
    for (int i = 0; i < 400; i++) {
        memcpy(bytes, whole, count);
        size_t keep = i % 4 == 0 ? (size_t)rng_below(&random, count) + 1 : count;
        for (uint64_t hits = 1 + rng_below(&random, 4); hits > 0; hits--) {
            /* The metadata is the first fifth or so of the file. */
            size_t at = (size_t)rng_below(&random, i % 2 ? count / 4 : count);
            bytes[at] = (char)rng_next(&random);
        }
        f = fopen(tinyfile_path(), "wb");
        cr_assert_eq(fwrite(bytes, 1, keep, f), keep);
        fclose(f);
        model *m = NULL;
        diag d = {0};
        if (open_model(device, BACKEND_ACTIVATIONS_INT8, BACKEND_KV_F16, &m, &d) == STATUS_OK) {
            if (model_get_info(m)->vocab == TINYMODEL_VOCAB &&
                model_get_info(m)->context_tokens >= TOKENS) {
                forward_all(m, tokens, logits);
            }
            model_close(m);
            opened++;
        } else {
            cr_assert(d.text[0] != 0);
        }
    }
    cr_assert(opened > 10 && opened < 390, "%d of 400 opened", opened);
    mem_free(logits);
    backend_close(device);
}
