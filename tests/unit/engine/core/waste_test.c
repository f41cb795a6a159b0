/* waste_test.c -- with a clock of the test's own: states add up to the time allocated, and an
 * engine without a step to run says what it waits for. */
#include "engine/core/waste.h"

#include <criterion/criterion.h>

#include "engine/base/rng.h"
#include "tests/support/corenet.h"

enum { P = 0, D = 1 };

static uint64_t sum(uint64_t us[WASTE_POOLS][WASTE_STATES]) {
    uint64_t all = 0;
    for (int p = 0; p < WASTE_POOLS; p++) {
        for (int s = 0; s < WASTE_STATES; s++) {
            all += us[p][s];
        }
    }
    return all;
}

Test(waste, each_moment_belongs_to_the_state_it_was_in) {
    waste w;
    uint64_t us[WASTE_POOLS][WASTE_STATES];
    waste_begin(&w, WASTE_POOL_DECODE, 1000);
    waste_enter(&w, WASTE_POOL_DECODE, WASTE_NO_WORK, 1700);
    waste_enter(&w, WASTE_POOL_DECODE, WASTE_BUSY, 1750);
    waste_stepped(&w, 60, 1850);
    waste_enter(&w, WASTE_POOL_PREFILL, WASTE_NO_ROOM, 1853);
    waste_total(&w, 2000, us);
    cr_expect_eq(us[WASTE_POOL_DECODE][WASTE_START], 700);
    cr_expect_eq(us[WASTE_POOL_DECODE][WASTE_NO_WORK], 50);
    cr_expect_eq(us[WASTE_POOL_DECODE][WASTE_BUSY], 60);
    cr_expect_eq(us[WASTE_POOL_DECODE][WASTE_CPU_STAGE], 43);
    cr_expect_eq(us[WASTE_POOL_PREFILL][WASTE_NO_ROOM], 147);
    cr_expect_eq(sum(us), 1000);
}

Test(waste, looking_changes_nothing) {
    waste w;
    uint64_t once[WASTE_POOLS][WASTE_STATES], again[WASTE_POOLS][WASTE_STATES];
    waste_begin(&w, WASTE_POOL_BOTH, 0);
    waste_total(&w, 500, once);
    waste_total(&w, 500, again);
    cr_expect_arr_eq(once, again, sizeof once);
    cr_expect_eq(sum(again), 500);
}

Test(waste, states_add_up_exactly_whatever_happens) {
    uint64_t seed = 7;
    for (int round = 0; round < 200; round++) {
        waste w;
        uint64_t us[WASTE_POOLS][WASTE_STATES];
        int64_t began = (int64_t)rng_below(&seed, 1u << 30), now = began, latest = began;
        waste_begin(&w, (waste_pool)rng_below(&seed, WASTE_POOLS), now);
        for (int i = 0; i < 100; i++) {
            /* Now and then the clock stands still, or goes back. */
            now += (int64_t)rng_below(&seed, 5000) - (rng_below(&seed, 20) == 0 ? 6000 : 0);
            latest = now > latest ? now : latest;
            if (w.state == WASTE_BUSY) {
                waste_stepped(&w, (int64_t)rng_below(&seed, 6000), now);
            } else {
                waste_enter(&w, (waste_pool)rng_below(&seed, WASTE_POOLS),
                            (waste_state)rng_below(&seed, WASTE_STATES), now);
            }
            waste_total(&w, now, us);
            cr_assert_eq(sum(us), (uint64_t)(latest - began), "round %d, event %d", round, i);
        }
    }
}

/* ---- why an engine has nothing to run -------------------------------------------------------- */

static int32_t prompt[512];

static corenet *open_net(uint32_t pages) {
    corenet_options o = corenet_defaults();
    if (pages > 0) {
        o.core.pages = pages;
    }
    for (int i = 0; i < 512; i++) {
        prompt[i] = (int32_t)(rng_at(1, 2, (uint64_t)i) % 50000);
    }
    return corenet_open(&o);
}

static waste_state stall(corenet *n, uint32_t worker) {
    cr_assert_not(corenet_begin(n, worker), "there is a step to run");
    return waste_stall(corenet_core(n, worker));
}

Test(waste, without_requests_there_is_no_work) {
    corenet *n = open_net(0);
    cr_expect_eq(stall(n, P), WASTE_NO_WORK);
    cr_expect_eq(stall(n, D), WASTE_NO_WORK);
    corenet_close(n);
}

Test(waste, decode_waits_for_a_prompt_then_for_its_pages) {
    corenet *n = open_net(0);
    request_params params = corenet_params(30);
    corenet_reserve(n, D, 1, 1, P, prompt, 60, 60, &params);
    cr_expect_eq(stall(n, D), WASTE_PREFILL);
    corenet_submit(n, P, 1, 1, D, prompt, 60, 60, &params);
    while (corenet_deliver(n, D, P)) {
    }
    while (corenet_step(n, P)) {
    }
    cr_expect_eq(stall(n, D), WASTE_PREFILL, "nothing has been announced yet");
    cr_assert(corenet_deliver(n, P, D));
    cr_expect_eq(stall(n, D), WASTE_TRANSFER);
    cr_expect_eq(stall(n, P), WASTE_NO_WORK, "what it had is computed");
    corenet_run(n);
    cr_expect_eq(stall(n, D), WASTE_NO_WORK);
    corenet_close(n);
}

Test(waste, decode_without_room_says_so) {
    corenet *n = open_net(6);
    request_params params = corenet_params(30);
    corenet_reserve(n, D, 1, 1, P, prompt, 60, 60, &params);
    corenet_submit(n, P, 1, 1, D, prompt, 60, 60, &params);
    while (corenet_deliver(n, D, P)) {
    }
    while (corenet_step(n, P)) {
    }
    cr_assert(corenet_deliver(n, P, D)); /* a transfer is under way */
    corenet_reserve(n, D, 2, 1, P, prompt + 100, 60, 60, &params);
    cr_expect_eq(stall(n, D), WASTE_TRANSFER, "the first has its place");
    corenet_cancel(n, D, 1, 1);
    cr_expect_eq(stall(n, D), WASTE_NO_ROOM, "its pages cannot be had before the transfer's end");
    corenet_close(n);
}

Test(waste, a_prompt_that_finds_no_pages_is_want_of_room) {
    corenet *n = open_net(8);
    request_params params = corenet_params(30);
    corenet_submit(n, P, 1, 1, D, prompt, 100, 100, &params);
    message grant = {.type = MESSAGE_GRANT, .request = 1, .attempt = 1, .pages = 7};
    corenet_say(n, P, CORENET_FIRST + D, &grant);
    while (corenet_step(n, P)) {
    }
    cr_expect_eq(stall(n, P), WASTE_NO_WORK);
    corenet_submit(n, P, 2, 1, D, prompt + 200, 100, 100, &params);
    cr_expect_eq(stall(n, P), WASTE_NO_ROOM, "the first one's pages wait to be sent");
    corenet_close(n);
}

/* ---- what was computed in vain ----------------------------------------------------------------
 */

Test(waste, rows_of_a_request_that_leaves_are_lost_those_of_a_step_under_way_too) {
    corenet *n = open_net(0);
    request_params params = corenet_params(30);
    corenet_submit(n, P, 1, 1, D, prompt, 100, 100, &params);
    cr_assert(corenet_step(n, P));
    uint64_t computed = corenet_stats(n, P).prompt_tokens_computed;
    cr_assert(corenet_begin(n, P));
    uint64_t rows = (uint64_t)corenet_batch(n, P)->rows;
    corenet_cancel(n, P, 1, 1);
    cr_expect_eq(corenet_stats(n, P).prompt_tokens_lost, computed);
    corenet_finish(n, P);
    cr_expect_eq(corenet_stats(n, P).prompt_tokens_lost, computed + rows);
    corenet_close(n);
}

Test(waste, a_new_attempt_that_goes_on_with_what_there_is_loses_nothing) {
    corenet *n = open_net(0);
    request_params params = corenet_params(30);
    corenet_submit(n, P, 1, 1, D, prompt, 100, 100, &params);
    cr_assert(corenet_step(n, P));
    corenet_submit(n, P, 1, 2, D, prompt, 100, 100, &params);
    corenet_reserve(n, D, 1, 2, P, prompt, 100, 100, &params);
    corenet_run(n);
    cr_expect_eq(corenet_stats(n, P).prompt_tokens_computed, 100);
    cr_expect_eq(corenet_stats(n, P).prompt_tokens_lost, 0);
    cr_expect_eq(corenet_stats(n, P).prompt_tokens_repeated, 0);
    corenet_close(n);
}

Test(waste, a_prompt_that_goes_on_from_elsewhere_is_computed_again) {
    corenet *n = open_net(0);
    request_params params = corenet_params(30);
    corenet_submit(n, P, 1, 2, D, prompt, 97, 100, &params);
    corenet_reserve(n, D, 1, 2, P, prompt, 97, 100, &params);
    corenet_run(n);
    cr_expect_eq(corenet_stats(n, P).prompt_tokens_repeated, 100);
    cr_expect_eq(corenet_stats(n, P).prompt_tokens_lost, 0);
    corenet_close(n);
}
