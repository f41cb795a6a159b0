/* routecost_test.c -- predictions from what workers measured, by hand. */
#include "server/gateway/routecost.h"

#include <criterion/criterion.h>

static const stepmodel_fit PREFILL = {.fixed_us = 1000, .row_us = 10, .work_us = 0, .samples = 9};
static const stepmodel_fit DECODE = {.fixed_us = 5000, .row_us = 100, .work_us = 1, .samples = 9};

static routecost_view measured(void) {
    return (routecost_view){.up = true,
                            .pages_total = 100,
                            .pages_free = 90,
                            .chunk_tokens = 100,
                            .prefill_fit = PREFILL,
                            .decode_fit = DECODE};
}

Test(routecost, a_prompt_costs_its_chunks_and_rows) {
    routecost_view v = measured();
    routecost_reference r = {.step_us = 0};
    cr_expect_eq(routecost_prefill_us(&v, &r, 250, 0), 3 * 1000 + 250 * 10);
    cr_expect_eq(routecost_prefill_us(&v, &r, 0, 500), 0);
}

Test(routecost, attention_makes_the_end_of_a_long_prompt_dear) {
    routecost_view v = measured();
    routecost_reference r = {.step_us = 0};
    v.prefill_fit.work_us = 0.5f;
    cr_expect_eq(routecost_prefill_us(&v, &r, 10, 1000), 1000 + 100 + (10000 + 55) / 2);
}

Test(routecost, a_queue_is_worked_off_as_time_passes) {
    routecost_view v = measured();
    routecost_reference r = {.step_us = 0};
    message_heartbeat h = {.queued_us = 5000, .queued_tokens = 77, .prefill_fit = PREFILL};
    routecost_told(&v, &h, 1000000);
    cr_expect_eq(routecost_queue_us(&v, &r, 1000000), 5000);
    cr_expect_eq(routecost_queue_us(&v, &r, 1003000), 2000);
    routecost_sent_prompt(&v, 10, 700, 1003000);
    cr_expect_eq(routecost_queue_us(&v, &r, 1003000), 2700);
    cr_expect_eq(routecost_queue_us(&v, &r, 2000000), 0);
    routecost_sent_prompt(&v, 10, 700, 2000000);
    cr_expect_eq(routecost_queue_us(&v, &r, 2000000), 700, "an idle worker begins at once");
    routecost_told(&v, &h, 2000001);
    cr_expect_eq(routecost_queue_us(&v, &r, 2000001), 5000, "what it says counts");
    cr_expect_eq(routecost_queue_us(&v, &r, 1), 5000, "a clock that went back adds nothing");
}

Test(routecost, a_token_costs_the_batch_with_it) {
    routecost_view v = measured();
    routecost_reference r = {.step_us = 0};
    v.running = 3;
    cr_expect_eq(routecost_token_us(&v, &r, 50, 16), 5000 + 4 * 100 + 10 * 16 + 50);
    routecost_sent_decode(&v, 5);
    cr_expect_eq(routecost_token_us(&v, &r, 50, 16), 5000 + 5 * 100 + 15 * 16 + 50);
}

Test(routecost, who_has_not_measured_is_like_one_that_has) {
    routecost_view views[3] = {
        {.up = false, .prefill_fit = {1, 1, 1, 9}}, {.up = true}, measured()};
    routecost_reference r = routecost_refer(views, 3, 0);
    cr_expect_eq(routecost_prefill_us(&views[1], &r, 100, 0), 1000 + 100 * 10);
    cr_expect_eq(routecost_token_us(&views[1], &r, 0, 16), 5000 + 100);
    views[1].tokens_per_second = 500;
    cr_expect_eq(routecost_prefill_us(&views[1], &r, 100, 0), 200000, "its own word counts more");
    routecost_reference none = routecost_refer(views, 1, 0);
    cr_expect_gt(routecost_prefill_us(&views[0], &none, 100, 0), 0);
}

Test(routecost, what_was_measured_long_ago_counts_less_and_less) {
    routecost_view views[2] = {measured(), measured()};
    const message_heartbeat idle = {.prefill_fit = {4000, 40, 0, 9},
                                    .decode_fit = {20000, 400, 4, 9},
                                    .pages_free = 100,
                                    .pages_total = 100};
    const message_heartbeat busy = {.queued_tokens = 1,
                                    .prefill_fit = PREFILL,
                                    .decode_fit = DECODE,
                                    .pages_free = 100,
                                    .pages_total = 100};
    routecost_told(&views[0], &idle, 1000000); /* the first that is heard of it */
    int64_t prompt_us = 4000 + 100 * 40, token_us = 20400;
    for (int64_t now_us = 1000000; now_us < 100000000; now_us += 1000000) {
        routecost_told(&views[0], &idle, now_us);
        routecost_told(&views[1], &busy, now_us);
        routecost_reference r = routecost_refer(views, 2, now_us);
        int64_t prompt = routecost_prefill_us(&views[0], &r, 100, 0);
        int64_t token = routecost_token_us(&views[0], &r, 0, 16);
        cr_expect(prompt == 8000 || prompt < prompt_us, "%lld", (long long)prompt);
        cr_expect(token == 20400 || token < token_us, "%lld", (long long)token);
        cr_expect_eq(routecost_prefill_us(&views[1], &r, 100, 0), 2000, "it works all the time");
        prompt_us = prompt;
        token_us = token;
        if (now_us == 11000000) {
            cr_expect_eq(prompt, (8000 + 2000) / 2);
            cr_expect_eq(token, (20400 + 5100) / 2);
        }
    }
    cr_expect_lt(prompt_us, 2600);
    routecost_sent_prompt(&views[0], 100, prompt_us, 100000000);
    routecost_reference r = routecost_refer(views, 2, 100000000);
    cr_expect_eq(routecost_prefill_us(&views[0], &r, 100, 0), 8000, "until it has work again");
}

Test(routecost, nothing_overflows) {
    routecost_view v = measured();
    routecost_reference r = {.step_us = 0};
    message_heartbeat h = {.queued_us = UINT64_MAX / 2,
                           .queued_tokens = UINT64_MAX / 2,
                           .running = UINT32_MAX,
                           .waiting = UINT32_MAX,
                           .prefill_fit = {3e38f, 3e38f, 3e38f, 9},
                           .decode_fit = {3e38f, 3e38f, 3e38f, 9}};
    routecost_told(&v, &h, 5);
    for (int i = 0; i < 3; i++) {
        cr_expect_leq(routecost_queue_us(&v, &r, 5), ROUTECOST_US_MAX);
        int64_t us = routecost_prefill_us(&v, &r, 1 << 20, 1 << 20);
        cr_expect_leq(us, ROUTECOST_US_MAX);
        routecost_sent_prompt(&v, UINT64_MAX / 8, us, 5);
        cr_expect_leq(routecost_token_us(&v, &r, 1 << 20, 16), ROUTECOST_US_MAX);
        h.prefill_fit.samples = 0;
        routecost_told(&v, &h, 5);
    }
}
