/* ropescale_test.c -- stretched rotary embeddings, against numbers that `transformers` 5.23 gives
 * (modeling_rope_utils.ROPE_INIT_FUNCTIONS, inverse frequency at rest over the stretched one), and
 * keys that must be refused. Whole models are compared in tests/golden/check_hf.py. */
#define _GNU_SOURCE
#include "models/arch/ropescale.h"

#include <criterion/criterion.h>
#include <math.h>

#include "engine/base/mem.h"
#include "tests/unit/models/file/gguf_build.h"

enum { DIM = 16 };

static void factors_are(const ropescale *s, double base, const double want[DIM / 2]) {
    float *got;
    cr_assert_eq(ropescale_factors(s, base, DIM, &got), STATUS_OK);
    cr_assert_not_null(got);
    for (int i = 0; i < DIM / 2; i++) {
        cr_assert(fabs((double)got[i] - want[i]) < 2e-6 * want[i], "pair %d: %.8f, not %.8f", i,
                  (double)got[i], want[i]);
    }
    mem_free(got);
}

Test(ropescale, factors_are_those_of_the_reference) {
    const ropescale llama3 = {
        .kind = ROPESCALE_LLAMA3, .factor = 8, .trained_tokens = 8192, .low = 1, .high = 4};
    factors_are(&llama3, 500000, (double[]){1, 1, 1, 1, 2.69453, 8, 8, 8});
    ropescale yarn = {.kind = ROPESCALE_YARN,
                      .factor = 4,
                      .trained_tokens = 32768,
                      .beta_fast = 32,
                      .beta_slow = 1,
                      .whole = true};
    factors_are(&yarn, 1e6, (double[]){1, 1, 1, 1.333333, 2, 4, 4, 4});
    yarn = (ropescale){.kind = ROPESCALE_YARN,
                       .factor = 16,
                       .trained_tokens = 4096,
                       .beta_fast = 16,
                       .beta_slow = 2};
    factors_are(&yarn, 10000, (double[]){1, 1, 1, 1, 1.680101, 13.13178, 16, 16});
}

Test(ropescale, none_and_linear_slow_no_pair) {
    ropescale s = {.kind = ROPESCALE_LINEAR, .factor = 4};
    float *got;
    cr_assert_eq(ropescale_factors(&s, 10000, DIM, &got), STATUS_OK);
    cr_assert_null(got);
}

typedef struct {
    const char *key;
    double value;
} number;

static status read_keys(const char *type, const number *numbers, ropescale *s, diag *d) {
    gguf_build b = gguf_build_make();
    gguf *g;
    if (type != NULL) {
        gguf_build_pair_str(&b, "x.rope.scaling.type", type);
    }
    for (; numbers->key != NULL; numbers++) {
        gguf_build_scalar(&b, numbers->key, GGUF_KIND_F64, &numbers->value, 8);
    }
    gguf_build_pair_str(&b, "general.architecture", "x");
    cr_assert_eq(gguf_build_open(&b, &g, d), STATUS_OK, "%s", d->text);
    status result = ropescale_read(g, "x", s, d);
    gguf_close(g);
    gguf_build_close(&b);
    return result;
}

#define FACTOR \
    { "x.rope.scaling.factor", 4 }
#define TRAINED \
    { "x.rope.scaling.original_context_length", 64 }

Test(ropescale, keys_are_read) {
    ropescale s;
    diag d = {0};
    cr_assert_eq(read_keys(NULL, (number[]){{NULL, 0}}, &s, &d), STATUS_OK, "%s", d.text);
    cr_assert(s.position_scale == 1 && s.magnitude == 1);
    cr_assert_eq(read_keys("linear", (number[]){FACTOR, {NULL, 0}}, &s, &d), STATUS_OK);
    cr_assert_eq(s.position_scale, 0.25);
    cr_assert_eq(read_keys("yarn", (number[]){FACTOR, TRAINED, {NULL, 0}}, &s, &d), STATUS_OK);
    cr_assert(s.kind == ROPESCALE_YARN && s.beta_fast == 32 && s.beta_slow == 1 && s.whole);
    cr_assert(s.position_scale == 1 && fabs(s.magnitude - (1 + 0.1 * log(4))) < 1e-12);
    cr_assert_eq(read_keys("llama3",
                           (number[]){FACTOR,
                                      TRAINED,
                                      {"x.rope.scaling.low_freq_factor", 1},
                                      {"x.rope.scaling.high_freq_factor", 4},
                                      {NULL, 0}},
                           &s, &d),
                 STATUS_OK, "%s", d.text);
    cr_assert(s.kind == ROPESCALE_LLAMA3 && s.trained_tokens == 64 && s.low == 1 && s.high == 4);
}

Test(ropescale, keys_that_make_no_scaling_are_refused) {
    static const struct {
        const char *type;
        number numbers[5];
        status code;
        const char *says;
    } rows[] = {
        {"longrope", {FACTOR}, STATUS_UNSUPPORTED, "\"longrope\""},
        {"linear", {{NULL, 0}}, STATUS_NOTFOUND, "x.rope.scaling.factor"},
        {"linear",
         {{"x.rope.scaling.factor", 0.5}},
         STATUS_CORRUPT,
         "x.rope.scaling.factor is 0.5"},
        {"yarn", {FACTOR}, STATUS_NOTFOUND, "original_context_length"},
        {"yarn",
         {FACTOR, TRAINED, {"x.rope.scaling.yarn_beta_fast", 0}},
         STATUS_CORRUPT,
         "yarn_beta_fast"},
        {"llama3", {FACTOR, TRAINED}, STATUS_NOTFOUND, "low_freq_factor"},
        {"llama3",
         {FACTOR,
          TRAINED,
          {"x.rope.scaling.low_freq_factor", 4},
          {"x.rope.scaling.high_freq_factor", 4}},
         STATUS_CORRUPT,
         "must be above low_freq_factor"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        ropescale s;
        diag d = {0};
        status result = read_keys(rows[i].type, rows[i].numbers, &s, &d);
        cr_assert_eq(result, rows[i].code, "%s: %s", status_name(result), d.text);
        cr_assert(strstr(d.text, rows[i].says) != NULL, "\"%s\" lacks \"%s\"", d.text,
                  rows[i].says);
    }
}
