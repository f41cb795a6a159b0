/* kvstats_test.c -- sums that a channel reports again and again are counted once. */
#include "engine/worker/kvstats.h"

#include <criterion/criterion.h>

static kvstats opened(arena *a) {
    metrics *m;
    kvstats s;
    cr_assert_eq(arena_open(a, 8 << 20), STATUS_OK);
    cr_assert_eq(metrics_open(&m, a), STATUS_OK);
    kvstats_open(m, &s);
    return s;
}

Test(kvstats, sums_of_a_pair_are_counted_by_what_they_grew) {
    arena a;
    kvstats s = opened(&a);
    nccl_times none = {0};
    nccl_times first = {.groups = 2,
                        .bytes = 100,
                        .empty = 1,
                        .setup_us = 7,
                        .copy_us = 10,
                        .ready_us = 3,
                        .wire_us = 20};
    nccl_times second = {.groups = 5,
                         .bytes = 400,
                         .empty = 1,
                         .setup_us = 7,
                         .copy_us = 15,
                         .ready_us = 4,
                         .wire_us = 50};
    kvstats_moved(&s, true, &none, &first);
    kvstats_moved(&s, true, &first, &second);
    kvstats_moved(&s, true, &second, &second);
    kvstats_moved(&s, false, &none, &first);
    cr_assert_eq(metrics_count(s.bytes[1]), 400);
    cr_assert_eq(metrics_count(s.bytes[0]), 100);
    cr_assert_eq(metrics_count(s.groups[1]), 5);
    cr_assert_eq(metrics_count(s.empty[1]), 1);
    cr_assert_eq(metrics_count(s.pack_us), 15);
    cr_assert_eq(metrics_count(s.unpack_us), 10);
    cr_assert_eq(metrics_count(s.wire_us[1]), 50);
    cr_assert_eq(metrics_observed(s.handshake_us), 1, "a pair is set up once, and P counts it");
    arena_close(&a);
}

Test(kvstats, each_transport_has_its_own_series) {
    arena a;
    kvstats s = opened(&a);
    uint32_t links[HELLO_TRANSPORTS] = {[HELLO_SHM] = 1, [HELLO_NCCL] = 3};
    kvstats_links(&s, links);
    kvstats_broken(&s, HELLO_NCCL);
    kvstats_adopted(&s, HELLO_TCP, 5, 9);
    cr_assert_eq(metrics_gauge_value(s.links[HELLO_NCCL]), 3);
    cr_assert_eq(metrics_gauge_value(s.links[HELLO_TCP]), 0);
    cr_assert_eq(metrics_count(s.broken[HELLO_NCCL]), 1);
    cr_assert_eq(metrics_count(s.broken[HELLO_SHM]), 0);
    cr_assert_eq(metrics_observed(s.waited_us[HELLO_TCP]), 1);
    cr_assert_eq(metrics_observed(s.moved_us[HELLO_NCCL]), 0);
    arena_close(&a);
}
