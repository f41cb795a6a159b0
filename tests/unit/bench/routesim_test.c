/* routesim_test.c -- in simulation, routing by cost beats what does not look. */
#include "bench/routesim.h"

#include <criterion/criterion.h>

static routesim_result with(router_policy policy, uint64_t seed) {
    routesim_options o = {.prefill = 4,
                          .decode = 2,
                          .prefixes = 48,
                          .prefix_tokens = 1024,
                          .worker_pages = 1500,
                          .load = 0.7,
                          .seconds = 60,
                          .seed = seed,
                          .policy = policy};
    routesim_result r;
    cr_assert_eq(routesim_run(&o, &r), STATUS_OK);
    cr_assert_gt(r.requests, 1000);
    return r;
}

Test(routesim, cost_beats_random_and_round_robin_on_shared_prefixes) {
    for (uint64_t seed = 1; seed <= 3; seed++) {
        routesim_result cost = with(ROUTER_COST, seed);
        routesim_result turns = with(ROUTER_ROUND_ROBIN, seed);
        routesim_result chance = with(ROUTER_RANDOM, seed);
        cr_expect_lt(cost.ttft_mean_us, 0.8 * turns.ttft_mean_us);
        cr_expect_lt(cost.ttft_mean_us, 0.8 * chance.ttft_mean_us);
        cr_expect_gt(cost.cached_share, turns.cached_share);
        cr_expect_gt(cost.least_share, 0.4, "nobody starves");
    }
}

Test(routesim, the_same_seed_is_the_same_run) {
    routesim_result a = with(ROUTER_COST, 5), b = with(ROUTER_COST, 5);
    cr_expect_eq(a.requests, b.requests);
    cr_expect(a.ttft_mean_us >= b.ttft_mean_us && a.ttft_mean_us <= b.ttft_mean_us);
}
