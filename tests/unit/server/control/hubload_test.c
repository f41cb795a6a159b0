/* hubload_test.c -- rates of several gateways add, and what is not known is no load. */
#include "server/control/hubload.h"

#include <criterion/criterion.h>

enum { S = 1000000 };

static message_load load(uint64_t requests) {
    return (message_load){.requests = requests,
                          .prompt_tokens = 10 * requests,
                          .prompt_squares = 100 * requests,
                          .finished = requests / 2,
                          .finished_tokens = requests,
                          .held = 3};
}

static void tell(hubload *l, uint64_t epoch, uint64_t requests, int64_t now_us) {
    message_load m = load(requests);
    hubload_told(l, epoch, &m, now_us);
}

Test(hubload, what_gateways_grow_by_adds) {
    hubload l = {.latencies_count = 0};
    tell(&l, 7, 1000, S);
    tell(&l, 9, 50, S);
    cr_assert_eq(l.sums.requests, 0, "what was before the first word is not known");
    tell(&l, 7, 1010, 2 * S);
    tell(&l, 9, 54, 2 * S);
    cr_assert_eq(l.sums.requests, 14);
    cr_assert_eq(l.sums.prompt_tokens, 140);
    cr_assert_eq(l.sums.prompt_squares, 1400);
    cr_assert_eq(l.sums.finished, 7);
    cr_assert_eq(l.sums.finished_tokens, 14);
    cr_assert_eq(hubload_held(&l), 6);
    hubload_left(&l, 9);
    cr_assert_eq(hubload_held(&l), 3, "what it held is gone with it");
    tell(&l, 9, 56, 3 * S);
    cr_assert_eq(l.sums.requests, 16, "it was away for a moment");
}

Test(hubload, silence_and_a_new_start_are_no_flood) {
    hubload l = {.latencies_count = 0};
    tell(&l, 7, 10, S);
    tell(&l, 7, 500, 10 * S);
    cr_assert_eq(l.sums.requests, 0);
    tell(&l, 7, 501, 11 * S);
    cr_assert_eq(l.sums.requests, 1);
    tell(&l, 7, 4, 12 * S);
    cr_assert_eq(l.sums.requests, 1, "sums that shrink are another's");
    tell(&l, 7, 6, 13 * S);
    cr_assert_eq(l.sums.requests, 3);
}

Test(hubload, gateways_that_left_make_room_and_a_full_house_is_kept) {
    hubload l = {.latencies_count = 0};
    for (uint64_t g = 1; g <= LIMIT_GATEWAYS; g++) {
        tell(&l, g, 5, S);
    }
    tell(&l, 99, 5, S);
    cr_assert_eq(hubload_held(&l), 3 * LIMIT_GATEWAYS, "no room for one more");
    hubload_left(&l, 4);
    tell(&l, 99, 5, S);
    tell(&l, 99, 8, 2 * S);
    cr_assert_eq(l.sums.requests, 3);
    cr_assert_eq(hubload_held(&l), 3 * LIMIT_GATEWAYS);
}

Test(hubload, the_latest_latencies_are_kept) {
    hubload l = {.latencies_count = 0};
    message_latency some[2] = {{100, 10}, {200, 0}};
    message_load m = load(1);
    m.latencies = some;
    m.latencies_count = 2;
    for (int i = 0; i < HUBLOAD_LATENCIES; i++) {
        some[0].ttft_us = (uint32_t)i;
        hubload_told(&l, 7, &m, S);
    }
    cr_assert_eq(l.latencies_count, 2 * HUBLOAD_LATENCIES);
    cr_assert_eq(l.latencies[HUBLOAD_LATENCIES - 2].ttft_us, HUBLOAD_LATENCIES - 1);
    cr_assert_eq(l.latencies[HUBLOAD_LATENCIES - 1].ttft_us, 200);
}
