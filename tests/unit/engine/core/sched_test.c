/* sched_test.c -- how steps are put together. (corenet checks every batch of every test for what
 * must always hold: budgets, order, and that nobody else reads what a batch writes.) */
#include "engine/core/sched.h"

#include <criterion/criterion.h>
#include <string.h>

#include "engine/base/rng.h"
#include "tests/support/corenet.h"

enum { P = 0, D = 1 };

static int32_t prompt[512];

static corenet *open_net(const corenet_options *o) {
    for (int i = 0; i < 512; i++) {
        prompt[i] = (int32_t)(rng_at(1, 2, (uint64_t)i) % 50000);
    }
    return corenet_open(o);
}

static void submit(corenet *n, request_id id, int32_t from, int32_t count) {
    request_params params = corenet_params(30);
    corenet_submit(n, P, id, 1, D, prompt + from, count, count, &params);
}

static void local(corenet *n, request_id id, int32_t from, int32_t count) {
    request_params params = corenet_params(30);
    corenet_reserve(n, D, id, 1, MESSAGE_NO_WORKER, prompt + from, count, count, &params);
}

/* rows[i] is what sequence i of the next step has; -1 after the last. */
static void expect_rows(corenet *n, uint32_t worker, const int32_t *rows) {
    cr_assert(corenet_begin(n, worker));
    const core_batch *b = corenet_batch(n, worker);
    int32_t i = 0;
    for (; rows[i] >= 0; i++) {
        cr_assert_lt(i, b->seqs_count, "%d sequences, no more", b->seqs_count);
        cr_assert_eq(b->seqs[i].rows, rows[i], "sequence %d has %d rows", i, b->seqs[i].rows);
    }
    cr_assert_eq(i, b->seqs_count, "%d sequences", b->seqs_count);
    corenet_finish(n, worker);
}

Test(sched, several_short_prompts_share_a_step_oldest_first) {
    corenet_options o = corenet_defaults(); /* 64 rows a step, 32 a prompt */
    corenet *n = open_net(&o);
    submit(n, 1, 0, 10);
    submit(n, 2, 10, 20);
    submit(n, 3, 30, 50);
    submit(n, 4, 80, 10);
    expect_rows(n, P, (int32_t[]){10, 20, 32, 2, -1});
    expect_rows(n, P, (int32_t[]){18, 8, -1});
    corenet_close(n);
}

Test(sched, chunks_end_with_pages) {
    corenet_options o = corenet_defaults();
    o.core.step_tokens_max = 40;
    o.core.prefill_chunk_tokens = 48;
    corenet *n = open_net(&o);
    submit(n, 1, 0, 100);
    expect_rows(n, P, (int32_t[]){32, -1});
    expect_rows(n, P, (int32_t[]){32, -1});
    expect_rows(n, P, (int32_t[]){36, -1});
    corenet_close(n);
}

Test(sched, granted_prompts_go_before_older_ungranted_ones) {
    corenet_options o = corenet_defaults();
    o.core.step_tokens_max = 32;
    corenet *n = open_net(&o);
    submit(n, 1, 0, 64);
    submit(n, 2, 100, 16);
    message m = {.type = MESSAGE_GRANT, .request = 2, .attempt = 1, .pages = 1};
    corenet_say(n, P, CORENET_FIRST + D, &m);
    expect_rows(n, P, (int32_t[]){16, 16, -1});
    cr_assert_eq(corenet_at(n, 0)->m.request, 2);
    corenet_close(n);
}

Test(sched, prompts_of_streams_that_have_begun_go_first) {
    corenet_options o = corenet_defaults();
    o.core.step_tokens_max = 32;
    corenet *n = open_net(&o);
    request_params params = corenet_params(30);
    submit(n, 1, 0, 40);
    submit(n, 2, 40, 24);
    corenet_submit(n, P, 3, 2, D, prompt + 100, 10, 13, &params); /* three tokens are told */
    expect_rows(n, P, (int32_t[]){13, 16, 3, -1});
    cr_assert_eq(corenet_at(n, 0)->m.request, 3);
    cr_assert_eq(corenet_at(n, 0)->m.tokens.tokens[0].index, 3);
    corenet_close(n);
}

Test(sched, decode_rows_come_first_and_prompts_beside_them_are_short) {
    corenet_options o = corenet_defaults();
    corenet *n = open_net(&o);
    local(n, 1, 0, 10);
    local(n, 2, 10, 12);
    expect_rows(n, D, (int32_t[]){10, 12, -1});
    local(n, 3, 100, 40);
    local(n, 4, 200, 40);
    expect_rows(n, D, (int32_t[]){1, 1, 32, -1});
    expect_rows(n, D, (int32_t[]){1, 1, 8, 16, -1});
    expect_rows(n, D, (int32_t[]){1, 1, 1, 24, -1});
    expect_rows(n, D, (int32_t[]){1, 1, 1, 1, -1});
    corenet_close(n);
}

Test(sched, prompt_waits_with_its_last_row_for_a_row_of_logits) {
    corenet_options o = corenet_defaults();
    o.core.seqs_max = 4;
    o.core.logit_rows_max = 5;
    corenet *n = open_net(&o);
    for (request_id id = 1; id <= 7; id++) {
        submit(n, id, 20 * (int32_t)id, 5);
    }
    /* Five may sample; the two others compute all but their last row. */
    expect_rows(n, P, (int32_t[]){5, 5, 5, 5, 5, 4, 4, -1});
    expect_rows(n, P, (int32_t[]){1, 1, -1});
    cr_assert_eq(corenet_count(n, P, MESSAGE_TOKENS), 7);
    corenet_close(n);
}

Test(sched, nothing_to_do_is_no_step) {
    corenet_options o = corenet_defaults();
    corenet *n = open_net(&o);
    cr_assert_not(corenet_begin(n, P));
    submit(n, 1, 0, 10);
    cr_assert(corenet_step(n, P));
    cr_assert_not(corenet_begin(n, P), "it waits for a grant");
    corenet_close(n);
}

Test(sched, composition_of_steps_changes_no_token) {
    static const struct {
        int32_t step, chunk, logits, seqs;
        uint32_t pages;
    } shapes[] = {{24, 16, 9, 8, 64},
                  {64, 48, 10, 8, 64},
                  {500, 256, 40, 8, 64},
                  {17, 16, 2, 1, 40},
                  {30, 32, 5, 3, 40}};
    request_token right[64], heard[64];
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        corenet_options o = corenet_defaults();
        o.core.step_tokens_max = shapes[i].step;
        o.core.prefill_chunk_tokens = shapes[i].chunk;
        o.core.logit_rows_max = shapes[i].logits;
        o.core.seqs_max = shapes[i].seqs;
        o.core.pages = shapes[i].pages;
        o.core.queue_max = 16;
        corenet *n = open_net(&o);
        for (request_id id = 1; id <= 8; id++) {
            local(n, id, (int32_t)id * 10, 20 + (int32_t)id * 13);
        }
        corenet_run(n);
        for (request_id id = 1; id <= 8; id++) {
            bool done;
            request_params params = corenet_params(30);
            cr_assert_eq(corenet_heard(n, id, 1, 0, heard, 64, &done), 30);
            corenet_expect(n, prompt + id * 10, 20 + (int32_t)id * 13, &params, 0, right, 64);
            for (int32_t k = 0; k < 30; k++) {
                cr_assert_eq(heard[k].token, right[k].token);
            }
        }
        corenet_close(n);
    }
}

Test(sched, measures_steps_and_prefill_speed) {
    corenet_options o = corenet_defaults();
    corenet *n = open_net(&o);
    submit(n, 1, 0, 200);
    cr_assert_eq(corenet_stats(n, P).tokens_per_second, 0, "not known yet");
    cr_assert(corenet_begin(n, P));
    corenet_pass(n, 31994); /* 32 tokens in 32 ms, with the calls' own microseconds */
    corenet_finish(n, P);
    core_stats s = corenet_stats(n, P);
    cr_assert_eq(s.steps, 1);
    cr_assert(s.step_us >= 31994 && s.step_us <= 32010);
    cr_assert(s.tokens_per_second >= 999 && s.tokens_per_second <= 1001);
    cr_assert_eq(s.queued_tokens, 200 - 32);
    corenet_close(n);
}

/* ---- two lanes ------------------------------------------------------------------------------ */

static corenet *open_lanes(uint32_t pages) {
    corenet_options o = corenet_defaults();
    o.core.multiplex = true;
    o.core.pages = pages;
    o.core.headroom_tokens = 0;
    return open_net(&o);
}

/* Its prompt is computed, so that it decodes. */
static void local_begun(corenet *n, request_id id, int32_t from, int32_t count) {
    local(n, id, from, count);
    while (corenet_begin(n, D)) {
        corenet_finish(n, D);
    }
}

Test(sched, with_two_lanes_a_prompt_and_decode_rows_are_computed_at_once) {
    corenet *n = open_lanes(64);
    local_begun(n, 1, 0, 20);
    local(n, 2, 100, 64);
    cr_assert(corenet_begin_lane(n, D, CORE_LANE_DECODE));
    cr_assert(corenet_begin_lane(n, D, CORE_LANE_PROMPTS));
    const core_batch *decodes = corenet_batch_lane(n, D, CORE_LANE_DECODE);
    const core_batch *prompts = corenet_batch_lane(n, D, CORE_LANE_PROMPTS);
    cr_assert_eq(decodes->rows, 1);
    cr_assert_eq(decodes->seqs[0].position_first, 20);
    cr_assert_eq(prompts->rows, 32);
    cr_assert_eq(prompts->seqs[0].position_first, 0);
    for (int i = 0; i < 3; i++) { /* decoding goes on beside one long step of prompts */
        corenet_finish_lane(n, D, CORE_LANE_DECODE);
        cr_assert(corenet_begin_lane(n, D, CORE_LANE_DECODE));
        cr_assert_eq(corenet_batch_lane(n, D, CORE_LANE_DECODE)->rows, 1);
    }
    corenet_finish_lane(n, D, CORE_LANE_DECODE);
    corenet_finish_lane(n, D, CORE_LANE_PROMPTS);
    corenet_close(n);
}

Test(sched, a_finished_prompt_is_decoded_from_the_pages_it_lies_in) {
    corenet *n = open_lanes(64);
    local(n, 1, 0, 20);
    cr_assert(corenet_begin_lane(n, D, CORE_LANE_PROMPTS));
    const core_seq *s = &corenet_batch_lane(n, D, CORE_LANE_PROMPTS)->seqs[0];
    uint32_t pages[2] = {s->pages[0], s->pages[1]};
    cr_assert_not(corenet_begin_lane(n, D, CORE_LANE_DECODE), "it is in one lane at a time");
    corenet_finish_lane(n, D, CORE_LANE_PROMPTS);
    cr_assert(corenet_begin_lane(n, D, CORE_LANE_DECODE));
    const core_batch *b = corenet_batch_lane(n, D, CORE_LANE_DECODE);
    cr_assert_eq(b->copies_count, 0);
    cr_assert_eq(b->seqs[0].pages_count, 2);
    cr_assert_eq(memcmp(b->seqs[0].pages, pages, sizeof pages), 0);
    cr_assert_not(corenet_begin_lane(n, D, CORE_LANE_PROMPTS));
    corenet_finish_lane(n, D, CORE_LANE_DECODE);
    corenet_close(n);
}

Test(sched, pages_of_a_request_that_leaves_are_not_used_before_its_own_lane_ends) {
    corenet *n = open_lanes(8);
    local_begun(n, 1, 0, 16);
    local(n, 2, 100, 64);
    cr_assert(corenet_begin_lane(n, D, CORE_LANE_PROMPTS));
    corenet_cancel(n, D, 2, 1);
    cr_assert_geq(corenet_stats(n, D).pages_quarantined, 4);
    local(n, 3, 200, 64);
    cr_assert(corenet_begin_lane(n, D, CORE_LANE_DECODE));
    corenet_finish_lane(n, D, CORE_LANE_DECODE); /* another lane's end changes nothing */
    cr_assert_geq(corenet_stats(n, D).pages_quarantined, 4);
    cr_assert_eq(corenet_stats(n, D).waiting, 1);
    corenet_finish_lane(n, D, CORE_LANE_PROMPTS);
    cr_assert_eq(corenet_stats(n, D).pages_quarantined, 0);
    cr_assert_eq(corenet_stats(n, D).waiting, 0);
    corenet_close(n);
}

/* The older sequence needs a page, and the younger's prompt is being computed. */
Test(sched, a_row_waits_for_the_pages_of_a_prompt_sent_away_in_flight) {
    corenet *n = open_lanes(6);
    local_begun(n, 1, 0, 15);
    local(n, 2, 100, 31);
    local(n, 3, 200, 31);
    local(n, 4, 300, 16); /* no room: it is queued */
    cr_assert(corenet_begin_lane(n, D, CORE_LANE_PROMPTS));
    uint32_t preempted = 0;
    for (int i = 0; corenet_begin_lane(n, D, CORE_LANE_DECODE); i++) {
        cr_assert_lt(i, 40, "it runs out of pages");
        corenet_finish_lane(n, D, CORE_LANE_DECODE);
    }
    preempted = (uint32_t)corenet_stats(n, D).preemptions;
    cr_assert_eq(preempted, 1, "one is enough: %u", preempted);
    cr_assert_not(corenet_begin_lane(n, D, CORE_LANE_DECODE));
    cr_assert_eq(corenet_stats(n, D).preemptions, 1, "nobody else is sent away meanwhile");
    corenet_finish_lane(n, D, CORE_LANE_PROMPTS);
    cr_assert_eq(corenet_stats(n, D).waiting, 1, "the room is the older one's first");
    cr_assert(corenet_begin_lane(n, D, CORE_LANE_DECODE));
    cr_assert_eq(corenet_stats(n, D).preemptions, 1);
    corenet_finish_lane(n, D, CORE_LANE_DECODE);
    corenet_run(n);
    core_validate(corenet_core(n, D));
    corenet_close(n);
}
