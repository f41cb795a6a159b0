/* admit_test.c -- predictions and verdicts as tables. */
#include "server/gateway/admit.h"

#include <criterion/criterion.h>

static const admit_fleet fleet = {.workers = 1, .told_rate = 1000};

Test(admit, nothing_is_refused_without_an_objective_or_before_a_rate_is_known) {
    int64_t wait;
    admit_request r = {.own_work = 100, .waiting_work = 1000000, .key_work = 1000000, .keys = 1};
    admit off = {.slo_us = 0, .sent_work = 1000};
    cr_assert_eq(admit_judge(&off, &fleet, &r, &wait), ADMIT_TAKE);
    admit on = {.slo_us = 1000000, .sent_work = 1000};
    const admit_fleet silent = {.workers = 1};
    cr_assert_eq(admit_judge(&on, &silent, &r, &wait), ADMIT_TAKE);
    cr_assert_eq(admit_judge(&on, &fleet, &r, &wait), ADMIT_SYSTEM_BUSY);
}

Test(admit, the_wait_is_the_work_ahead_over_the_rate) {
    admit a = {.slo_us = 1000000, .sent_work = 300};
    admit_request r = {.own_work = 100, .waiting_work = 300, .key_work = 300, .keys = 1};
    int64_t wait;
    cr_assert_eq(admit_judge(&a, &fleet, &r, &wait), ADMIT_TAKE);
    cr_assert_eq(wait, 700000);
    r.waiting_work = r.key_work = 600;
    cr_assert_eq(admit_judge(&a, &fleet, &r, &wait), ADMIT_SYSTEM_BUSY);
    cr_assert_eq(wait, 1000000);
}

Test(admit, a_long_request_is_taken_by_an_idle_server) {
    admit a = {.slo_us = 1000000};
    admit_request r = {.own_work = 100000, .keys = 1};
    int64_t wait;
    cr_assert_eq(admit_judge(&a, &fleet, &r, &wait), ADMIT_TAKE);
    a.sent_work = 200; /* and by one that could begin it in half the objective */
    cr_assert_eq(admit_judge(&a, &fleet, &r, &wait), ADMIT_TAKE);
    a.sent_work = 500;
    cr_assert_eq(admit_judge(&a, &fleet, &r, &wait), ADMIT_SYSTEM_BUSY);
}

Test(admit, a_key_above_its_share_is_told_so_and_another_is_taken) {
    admit a = {.slo_us = 1000000, .sent_work = 100};
    admit_request greedy = {.own_work = 50, .waiting_work = 2000, .key_work = 1900, .keys = 2};
    admit_request modest = {.own_work = 50, .waiting_work = 2000, .key_work = 100, .keys = 2};
    int64_t wait;
    cr_assert_eq(admit_judge(&a, &fleet, &greedy, &wait), ADMIT_KEY_BUSY);
    cr_assert_eq(admit_judge(&a, &fleet, &modest, &wait), ADMIT_TAKE);
}

Test(admit, the_rate_is_measured_only_while_requests_wait) {
    admit a = {.slo_us = 1000000};
    cr_assert_eq(admit_rate(&a, &fleet, true), 1000u);
    int64_t now = 5000000;
    admit_count(&a, &fleet, true, now);
    for (int i = 0; i < 10; i++) { /* 50 tokens each 100 ms: 500 a second */
        admit_sent(&a, 50);
        admit_count(&a, &fleet, true, now += 100000);
        admit_over(&a, 50, true);
    }
    cr_assert_eq(admit_rate(&a, &fleet, true), 500u);
    cr_assert_eq(admit_rate(&a, &fleet, false), 500u);
    const admit_fleet fast = {.workers = 1, .told_rate = 8000};
    cr_assert_eq(admit_rate(&a, &fast, false), 2000u, "what is old is not believed too much");
    admit_count(&a, &fleet, false, now += 100000);
    cr_assert_eq(a.busy_us, 1000000);
    admit_sent(&a, 50);
    admit_over(&a, 50, true);
    admit_count(&a, &fleet, true, now + 60000000);
    cr_assert_eq(admit_rate(&a, &fleet, true), 500u, "idle time and its tokens do not count");
    cr_assert_eq(a.sent_work, 0u);
    cr_assert_eq(a.sent_count, 0u);
}

Test(admit, workers_with_more_than_one_request_each_are_busy) {
    admit a = {.slo_us = 1000000};
    int64_t now = 5000000;
    admit_sent(&a, 50);
    admit_count(&a, &fleet, false, now);
    admit_sent(&a, 50);
    admit_count(&a, &fleet, false, now += 1000000);
    cr_assert_eq(a.busy_us, 0, "one at a time is no measure");
    admit_count(&a, &fleet, false, now += 100000);
    admit_over(&a, 50, true);
    admit_count(&a, &fleet, false, now += 100000);
    cr_assert_eq(a.busy_us, 100000);
    cr_assert_eq(a.done_work, 50u);
}

Test(admit, old_measurements_fade) {
    admit a = {.slo_us = 1000000};
    int64_t now = 1;
    admit_count(&a, &fleet, true, now);
    for (int i = 0; i < 400; i++) { /* 1000 a second for 20 s, then 100 a second for 20 s */
        uint64_t work = i < 200 ? 100 : 10;
        admit_sent(&a, work);
        admit_count(&a, &fleet, true, now += 100000);
        admit_over(&a, work, true);
    }
    cr_assert_leq(admit_rate(&a, &fleet, true), 140u);
    cr_assert_geq(admit_rate(&a, &fleet, true), 100u);
}

Test(admit, workers_get_enough_to_be_busy_and_no_more) {
    admit a = {.slo_us = 0};
    cr_assert(admit_room(&a, &fleet, 100000), "a worker without work gets any request");
    admit_sent(&a, 400);
    cr_assert(admit_room(&a, &fleet, 100000), "and one in advance");
    admit_sent(&a, 100);
    cr_assert(admit_room(&a, &fleet, 12));
    cr_assert_not(admit_room(&a, &fleet, 13));
    const admit_fleet fast = {.workers = 2, .told_rate = 50000};
    cr_assert(admit_room(&a, &fast, 9500));
    cr_assert_not(admit_room(&(admit){.sent_work = 500, .sent_count = 4}, &fast, 9501));
}
