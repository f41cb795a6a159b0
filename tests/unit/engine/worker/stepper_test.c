/* stepper_test.c -- a step on its thread gives what the model and the sampler give by themselves.
 */
#define _GNU_SOURCE
#include "engine/worker/stepper.h"

#include <criterion/criterion.h>
#include <poll.h>
#include <unistd.h>

#include "engine/worker/sampler.h"
#include "tests/support/tinyfile.h"

enum { ROWS = 20, PAGES = 8 };

typedef struct {
    backend *device;
    model *model;
    stepper *stepper;
} bench;

static void open_model(bench *b) {
    diag d;
    tinymodel_options o = tinymodel_default(GGUF_F32);
    tinyfile_write(&o);
    backend_options bo = {.threads = 1};
    cr_assert_eq(backend_open("cpu", &bo, &b->device, &d), STATUS_OK);
    model_options mo = {.path = tinyfile_path(),
                        .device = b->device,
                        .kv_pages = PAGES,
                        .context_tokens = 64,
                        .rows_max = 64,
                        .logit_rows_max = 8};
    cr_assert_eq(model_open(&mo, &b->model, &d), STATUS_OK, "%s", d.text);
    tinyfile_remove();
}

static void start(bench *b) {
    static const int32_t eog[] = {TINYMODEL_EOS};
    diag d;
    *b = (bench){0};
    open_model(b);
    stepper_options o = {.model = b->model,
                         .seqs_max = 4,
                         .logit_rows_max = 8,
                         .wants_max = 8,
                         .eog = eog,
                         .eog_count = 1,
                         .progress_layers = 1};
    cr_assert_eq(stepper_open(&o, &b->stepper, &d), STATUS_OK);
}

static void stop(bench *b) {
    stepper_close(b->stepper);
    model_close(b->model);
    backend_close(b->device);
}

static request_params greedy(void) {
    return (request_params){
        .top_p = 1, .repetition_penalty = 1, .max_tokens = 5, .top_logprobs = 2, .choices = 1};
}

/* A prompt of ROWS tokens in pages 3 and 5; two things are wanted of its last rows. */
typedef struct {
    int32_t tokens[ROWS], logit_rows[2];
    uint32_t pages[2];
    core_seq seq;
    request_params params;
    core_want wants[2];
    core_batch batch;
} work;

static void make_work(work *w) {
    *w = (work){.logit_rows = {ROWS - 2, ROWS - 1}, .pages = {3, 5}, .params = greedy()};
    for (int32_t i = 0; i < ROWS; i++) {
        w->tokens[i] = 10 + 3 * i;
    }
    w->seq = (core_seq){0, ROWS, 0, w->pages, 2, ROWS};
    w->wants[0] = (core_want){.kind = CORE_WANT_SCORE,
                              .logit_row = 0,
                              .params = &w->params,
                              .token = w->tokens[ROWS - 1],
                              .position = ROWS - 1};
    w->wants[1] = (core_want){.kind = CORE_WANT_SAMPLE,
                              .logit_row = 1,
                              .params = &w->params,
                              .prompt = w->tokens,
                              .prompt_count = ROWS};
    w->batch = (core_batch){.tokens = w->tokens,
                            .rows = ROWS,
                            .seqs = &w->seq,
                            .seqs_count = 1,
                            .logit_rows = w->logit_rows,
                            .logit_rows_count = 2,
                            .wants = w->wants,
                            .wants_count = 2};
}

static stepper_result run_step(bench *b, const core_batch *batch) {
    stepper_result r;
    status failed;
    stepper_start(b->stepper, batch);
    cr_assert(stepper_running(b->stepper));
    int32_t layers = 0;
    while (!stepper_finished(b->stepper, &r, &failed)) {
        struct pollfd p = {stepper_fd(b->stepper), POLLIN, 0};
        cr_assert_eq(poll(&p, 1, 60000), 1);
        int32_t now = stepper_progress(b->stepper);
        cr_assert_geq(now, layers);
        layers = now;
    }
    cr_assert_eq(failed, STATUS_OK);
    cr_assert_not(stepper_running(b->stepper));
    cr_assert_not(stepper_finished(b->stepper, &r, &failed), "told once");
    return r;
}

Test(stepper, a_step_is_the_forward_pass_and_the_sampler) {
    bench b;
    work w;
    start(&b);
    make_work(&w);
    stepper_result r = run_step(&b, &w.batch);
    cr_assert_eq(r.count, 2);

    bench alone = {0};
    open_model(&alone);
    static float logits[2][TINYMODEL_VOCAB];
    model_seq seq = {0, ROWS, 0, w.pages, 2, ROWS};
    model_batch mb = {.tokens = w.tokens,
                      .rows = ROWS,
                      .seqs = &seq,
                      .seqs_count = 1,
                      .logit_rows = w.logit_rows,
                      .logit_rows_count = 2,
                      .logits = logits[0]};
    cr_assert_eq(model_forward(alone.model, &mb), STATUS_OK);
    int32_t best = 0;
    for (int32_t i = 1; i < TINYMODEL_VOCAB; i++) {
        best = logits[1][i] > logits[1][best] ? i : best;
    }
    cr_assert_eq(r.results[1].token, best);
    cr_assert_eq(r.results[1].top[0].token, best);

    arena a;
    sampler *s;
    request_token score;
    cr_assert_eq(arena_open(&a, sampler_bytes(TINYMODEL_VOCAB) + 4096), STATUS_OK);
    cr_assert_eq(sampler_create(&a, TINYMODEL_VOCAB, &s), STATUS_OK);
    sampler_prompt_logprob(s, logits[0], w.tokens[ROWS - 1], 2, &score);
    cr_assert_eq(r.results[0].token, w.tokens[ROWS - 1]);
    cr_assert(!(r.results[0].logprob < score.logprob) && !(r.results[0].logprob > score.logprob));
    arena_close(&a);
    stop(&alone);
    stop(&b);
}

Test(stepper, copies_come_before_the_forward_pass) {
    bench b;
    work w;
    start(&b);
    make_work(&w);
    stepper_result r = run_step(&b, &w.batch);
    int32_t token = r.results[1].token;
    request_params params = greedy();
    /* The next token twice: over the prompt's own second page, and over a copy of it. */
    int32_t next[2];
    for (int32_t copied = 0; copied < 2; copied++) {
        core_copy copy = {5, 6};
        uint32_t pages[2] = {3, copied ? 6 : 5};
        core_seq seq = {0, 1, ROWS, pages, 2, 0};
        int32_t row = 0;
        core_want want = {.kind = CORE_WANT_SAMPLE,
                          .params = &params,
                          .prompt = w.tokens,
                          .prompt_count = ROWS,
                          .generated = &token,
                          .generated_count = 1};
        core_batch batch = {.tokens = &token,
                            .rows = 1,
                            .seqs = &seq,
                            .seqs_count = 1,
                            .logit_rows = &row,
                            .logit_rows_count = 1,
                            .wants = &want,
                            .wants_count = 1,
                            .copies = &copy,
                            .copies_count = copied};
        next[copied] = run_step(&b, &batch).results[0].token;
    }
    cr_assert_eq(next[0], next[1]);
    stop(&b);
}

Test(stepper, closing_waits_for_the_step_in_flight) {
    for (int i = 0; i < 20; i++) {
        bench b;
        work w;
        start(&b);
        make_work(&w);
        if (i % 2) {
            stepper_start(b.stepper, &w.batch);
        }
        stop(&b);
    }
    stepper_close(NULL);
}
