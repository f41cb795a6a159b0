/* picks_test.c -- tokens that the device chooses are the sampler's.
 *
 * The tests of a step on a device need one: WEIR_CUDA_MODULE names the module of the emulated one,
 * as in tests/plan.txt (cuda/steps). */
#define _GNU_SOURCE
#include "engine/worker/picks.h"

#include <criterion/criterion.h>
#include <math.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "engine/base/rng.h"
#include "engine/worker/stepper.h"
#include "tests/support/tinyfile.h"

enum { SEQS = 6, TOKENS = 9, WANTS = 90 };

static const int32_t ends[] = {TINYMODEL_EOS, 7};

static request_params plain(void) {
    return (request_params){
        .top_p = 1, .repetition_penalty = 1, .max_tokens = 50, .top_logprobs = -1, .choices = 1};
}

static picks *make(arena *a, int32_t wants_max) {
    picks *p = NULL;
    cr_assert_eq(arena_open(a, picks_bytes(wants_max)), STATUS_OK);
    cr_assert_eq(picks_create(a, wants_max, ends, 2, &p), STATUS_OK);
    return p;
}

Test(picks, a_row_says_what_the_want_depends_on) {
    arena a;
    picks *p = make(&a, 2);
    static request_params params;
    params = plain();
    params.temperature = 0.5f;
    params.seed = 99;
    params.min_tokens = 4;
    params.stop_ids[params.stop_ids_count++] = 30;
    params.biases[params.biases_count++] = (request_bias){3, -2};
    const int32_t history[] = {1, 2, 3};
    core_want wants[2] = {{.params = &params,
                           .logit_row = 1,
                           .prompt = history,
                           .prompt_count = 3,
                           .generated = history,
                           .generated_count = 2,
                           .choice = 5},
                          {.kind = CORE_WANT_SCORE, .params = &params, .token = 8}};
    float logits;
    model_batch b = {.logits = &logits};
    picks_ask(p, wants, 2, &b);
    cr_assert_eq(b.samples_count, 2);
    cr_assert_null(b.logits, "logits stay on the device");
    const ops_sample_row *r = b.samples;
    cr_assert(r->logit_row == 1 && r->scored == -1 && r->seed == 99);
    cr_assert(r->stream == 5 && r->position == 2);
    cr_assert(r->prompt_count == 3 && r->generated_count == 2);
    cr_assert(r->biases_count == 1 && r->biases[0].token == 3);
    cr_assert_eq(r->forbidden_count, 3, "both ends, and the stop id, before min_tokens");
    cr_assert_eq(r->forbidden[2], 30);
    cr_assert(r[1].scored == 8 && r[1].top_logprobs == 0);
    arena_close(&a);
}

Test(picks, an_end_is_noticed_and_a_score_has_its_position) {
    arena a;
    picks *p = make(&a, 3);
    request_params params = plain();
    core_want wants[3] = {{.params = &params, .generated_count = 3, .choice = 2},
                          {.params = &params, .generated_count = 49},
                          {.kind = CORE_WANT_SCORE, .params = &params, .token = 4, .position = 17}};
    model_batch b = {0};
    picks_ask(p, wants, 3, &b);
    b.sampled[0] = (ops_sampled){.token = 7};
    b.sampled[1] = (ops_sampled){.token = 8};
    b.sampled[2] = (ops_sampled){.token = 4, .top_count = 1, .top_token = {9}};
    request_token out[3];
    picks_take(p, wants, 3, out);
    cr_assert(out[0].end == REQUEST_STOP && out[0].index == 3 && out[0].choice == 2);
    cr_assert(out[1].end == REQUEST_LENGTH);
    cr_assert(out[2].index == 17 && out[2].end == REQUEST_RUNNING && out[2].top[0].token == 9);
    arena_close(&a);
}

/* ---- on a device ---------------------------------------------------------------------------- */

typedef struct {
    backend *device;
    model *model;
    int32_t tokens[SEQS * TOKENS], logit_rows[SEQS];
    uint32_t pages[SEQS];
    core_seq seqs[SEQS];
    request_params params[WANTS];
    core_want wants[WANTS];
    float logits[SEQS][TINYMODEL_VOCAB];
} bench;

static bool start(bench *b) {
    const char *module = getenv("WEIR_CUDA_MODULE");
    if (!module || access(module, R_OK) != 0) {
        return false;
    }
    diag d;
    tinymodel_options o = tinymodel_default(GGUF_F32);
    tinyfile_write(&o);
    cr_assert_eq(backend_open("cuda", NULL, &b->device, &d), STATUS_OK, "%s", d.text);
    model_options mo = {.path = tinyfile_path(),
                        .device = b->device,
                        .kv_pages = SEQS,
                        .context_tokens = 64,
                        .rows_max = 64,
                        .logit_rows_max = SEQS};
    cr_assert_eq(model_open(&mo, &b->model, &d), STATUS_OK, "%s", d.text);
    tinyfile_remove();
    return true;
}

static float one_of(uint64_t *state, const float *values, uint64_t count) {
    return values[rng_below(state, count)];
}

static void want_anything(core_want *w, request_params *p, const bench *b, uint64_t *state) {
    static const float temperatures[] = {0, 0.3f, 1, 5}, top_p[] = {1, 0.9f, 0.4f},
                       min_p[] = {0, 0, 0.1f}, repeats[] = {1, 1, 1.5f}, adds[] = {0, 0, 0.7f};
    *p = plain();
    p->temperature = one_of(state, temperatures, 4);
    p->top_p = one_of(state, top_p, 3);
    p->min_p = one_of(state, min_p, 3);
    p->top_k = rng_below(state, 2) == 0 ? 0 : (int32_t)rng_below(state, 20);
    p->repetition_penalty = one_of(state, repeats, 3);
    p->presence_penalty = one_of(state, adds, 3);
    p->frequency_penalty = one_of(state, adds, 3);
    p->seed = rng_next(state);
    p->min_tokens = (int32_t)rng_below(state, 8);
    p->ignore_eos = rng_below(state, 2) == 0;
    p->top_logprobs = (int32_t)rng_below(state, 7) - 1;
    for (uint64_t i = rng_below(state, 5); i > 0; i--) {
        p->biases[p->biases_count++] = (request_bias){(int32_t)rng_below(state, TINYMODEL_VOCAB),
                                                      (float)rng_below(state, 9) - 4};
    }
    const int32_t seq = (int32_t)rng_below(state, SEQS);
    *w = (core_want){.kind = rng_below(state, 5) == 0 ? CORE_WANT_SCORE : CORE_WANT_SAMPLE,
                     .logit_row = seq,
                     .params = p,
                     .prompt = b->tokens + seq * TOKENS,
                     .prompt_count = 4,
                     .generated = b->tokens + seq * TOKENS + 4,
                     .generated_count = TOKENS - 4,
                     .choice = (int32_t)rng_below(state, 8),
                     .token = (int32_t)rng_below(state, TINYMODEL_VOCAB)};
}

static core_batch make_batch(bench *b, uint64_t seed) {
    uint64_t state = seed;
    for (int32_t i = 0; i < SEQS * TOKENS; i++) {
        b->tokens[i] = (int32_t)rng_below(&state, TINYMODEL_VOCAB);
    }
    for (int32_t i = 0; i < SEQS; i++) {
        b->pages[i] = (uint32_t)i;
        b->seqs[i] = (core_seq){i * TOKENS, TOKENS, 0, &b->pages[i], 1, TOKENS};
        b->logit_rows[i] = (i + 1) * TOKENS - 1;
    }
    for (int32_t i = 0; i < WANTS; i++) {
        want_anything(&b->wants[i], &b->params[i], b, &state);
    }
    return (core_batch){.tokens = b->tokens,
                        .rows = SEQS * TOKENS,
                        .seqs = b->seqs,
                        .seqs_count = SEQS,
                        .logit_rows = b->logit_rows,
                        .logit_rows_count = SEQS,
                        .wants = b->wants,
                        .wants_count = WANTS};
}

/* The step's logits on the host, from the same device. */
static void run_logits(bench *b, const core_batch *batch) {
    model_seq seqs[SEQS];
    for (int32_t i = 0; i < SEQS; i++) {
        const core_seq *s = &b->seqs[i];
        seqs[i] = (model_seq){s->row_first, s->rows,        s->position_first,
                              s->pages,     s->pages_count, s->prompt_rows};
    }
    const model_batch m = {.tokens = b->tokens,
                           .rows = batch->rows,
                           .seqs = seqs,
                           .seqs_count = SEQS,
                           .logit_rows = b->logit_rows,
                           .logit_rows_count = SEQS,
                           .logits = b->logits[0]};
    cr_assert_eq(model_forward(b->model, &m), STATUS_OK);
}

static void check(const bench *b, const request_token *got, sampler *s, int32_t i) {
    const core_want *w = &b->wants[i];
    request_token want;
    if (w->kind == CORE_WANT_SCORE) {
        const int32_t top = w->params->top_logprobs > 0 ? w->params->top_logprobs : 0;
        sampler_prompt_logprob(s, b->logits[w->logit_row], w->token, top, &want);
        want.index = w->position;
    } else {
        const sampler_input in = picks_input(w, ends, 2);
        sampler_pick(s, &in, b->logits[w->logit_row], &want);
    }
    cr_assert_eq(got->token, want.token, "want %d: %d, not %d", i, got->token, want.token);
    cr_assert_eq(got->end, want.end, "want %d", i);
    cr_assert(got->index == want.index && got->choice == want.choice, "want %d", i);
    cr_assert_eq(got->top_count, want.top_count, "want %d", i);
    cr_assert_eq(memcmp(&got->logprob, &want.logprob, sizeof(float)), 0, "want %d", i);
    for (int32_t j = 0; j < want.top_count; j++) {
        cr_assert_eq(memcmp(&got->top[j], &want.top[j], sizeof want.top[j]), 0, "want %d", i);
    }
}

Test(picks, a_step_on_a_device_gives_the_samplers_tokens) {
    static bench b;
    diag d;
    if (!start(&b)) {
        cr_skip_test("WEIR_CUDA_MODULE names no module");
    }
    cr_assert(model_samples(b.model));
    stepper *step = NULL;
    const stepper_options so = {.model = b.model,
                                .device = b.device,
                                .seqs_max = SEQS,
                                .logit_rows_max = SEQS,
                                .wants_max = WANTS,
                                .eog = ends,
                                .eog_count = 2,
                                .progress_layers = 1};
    cr_assert_eq(stepper_open(&so, &step, &d), STATUS_OK, "%s", d.text);
    arena a;
    sampler *s = NULL;
    cr_assert_eq(arena_open(&a, sampler_bytes(TINYMODEL_VOCAB) + 4096), STATUS_OK);
    cr_assert_eq(sampler_create(&a, TINYMODEL_VOCAB, &s), STATUS_OK);
    for (uint64_t seed = 1; seed <= 3; seed++) {
        const core_batch batch = make_batch(&b, seed);
        stepper_result r;
        status failed;
        stepper_start(step, &batch);
        while (!stepper_finished(step, &r, &failed)) {
            struct pollfd p = {stepper_fd(step), POLLIN, 0};
            cr_assert_eq(poll(&p, 1, 60000), 1);
            (void)stepper_progress(step);
        }
        cr_assert_eq(failed, STATUS_OK);
        cr_assert_eq(r.count, WANTS);
        run_logits(&b, &batch);
        for (int32_t i = 0; i < WANTS; i++) {
            check(&b, &r.results[i], s, i);
        }
    }
    arena_close(&a);
    stepper_close(step);
    model_close(b.model);
    backend_close(b.device);
}
