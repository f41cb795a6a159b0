/* kvstats_test.c -- sums that a channel reports again and again are counted once. */
#include "engine/worker/kvstats.h"

#include <criterion/criterion.h>

static kvstats opened(arena *a, uint32_t peers_max) {
    metrics *m;
    kvstats s;
    cr_assert_eq(arena_open(a, 8 << 20), STATUS_OK);
    cr_assert_eq(metrics_open(&m, a), STATUS_OK);
    kvstats_open(m, peers_max, &s);
    return s;
}

Test(kvstats, sums_of_a_pair_are_counted_by_what_they_grew) {
    arena a;
    kvstats s = opened(&a, 0);
    devpair_times none = {0};
    devpair_times first = {.groups = 2,
                           .bytes = 100,
                           .empty = 1,
                           .setup_us = 7,
                           .copy_us = 10,
                           .ready_us = 3,
                           .wire_us = 20};
    devpair_times second = {.groups = 5,
                            .bytes = 400,
                            .empty = 1,
                            .setup_us = 7,
                            .copy_us = 15,
                            .ready_us = 4,
                            .wire_us = 50};
    kvstats_moved(&s, 7, true, &none, &first);
    kvstats_moved(&s, 7, true, &first, &second);
    kvstats_moved(&s, 7, true, &second, &second);
    kvstats_moved(&s, 7, false, &none, &first);
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
    kvstats s = opened(&a, 0);
    kvstats_chosen links = {[HELLO_SHM][HELLO_HOST_MEMORY] = 1,
                            [HELLO_NCCL][HELLO_TWO_HOSTS] = 2,
                            [HELLO_NCCL][HELLO_NO_IPC] = 1};
    kvstats_links(&s, links);
    kvstats_broken(&s, HELLO_NCCL, 7);
    kvstats_adopted(&s, HELLO_TCP, 7, 5, 9, 2);
    cr_assert_eq(metrics_gauge_value(s.links[HELLO_NCCL]), 3);
    cr_assert_eq(metrics_gauge_value(s.links[HELLO_TCP]), 0);
    cr_assert_eq(metrics_gauge_value(s.chosen[HELLO_NCCL][HELLO_TWO_HOSTS]), 2);
    cr_assert_null(s.chosen[HELLO_IPC][HELLO_ONE_HOST], "what never was has no series");
    kvstats_links(&s, (kvstats_chosen){[HELLO_NCCL][HELLO_NO_IPC] = 1});
    cr_assert_eq(metrics_gauge_value(s.chosen[HELLO_NCCL][HELLO_TWO_HOSTS]), 0);
    cr_assert_eq(metrics_gauge_value(s.links[HELLO_NCCL]), 1);
    cr_assert_eq(metrics_count(s.broken[HELLO_NCCL]), 1);
    cr_assert_eq(metrics_count(s.broken[HELLO_SHM]), 0);
    cr_assert_eq(metrics_observed(s.waited_us[HELLO_TCP]), 1);
    cr_assert_eq(metrics_observed(s.moved_us[HELLO_NCCL]), 0);
    arena_close(&a);
}

Test(kvstats, each_peer_has_its_own_sums) {
    arena a;
    kvstats s = opened(&a, 0);
    devpair_times none = {0};
    devpair_times now = {
        .groups = 2, .bytes = 300, .setup_us = 7, .copy_us = 10, .ready_us = 3, .wire_us = 20};
    kvstats_moved(&s, 7, true, &none, &now);
    kvstats_moved(&s, 7, true, &now, &now);
    kvstats_moved(&s, 9, false, &none, &now);
    kvstats_adopted(&s, HELLO_SHM, 9, 5, 9, 2);
    kvstats_broken(&s, HELLO_SHM, 9);
    const kvstats_peer *sent = kvstats_of(&s, 7), *received = kvstats_of(&s, 9);
    cr_assert_neq(sent, received);
    cr_assert_eq(metrics_count(sent->bytes[1]), 300);
    cr_assert_eq(metrics_count(sent->bytes[0]), 0);
    cr_assert_eq(metrics_count(sent->copy_us[1]), 10);
    cr_assert_eq(metrics_count(sent->wire_us[1]), 20);
    cr_assert_eq(metrics_count(sent->ready_us), 3);
    cr_assert_eq(metrics_count(sent->handshake_us), 7);
    cr_assert_eq(metrics_gauge_value(sent->rate[1]), 15e6, "kept when nothing moves");
    cr_assert_eq(metrics_count(sent->broken), 0);
    cr_assert_eq(metrics_count(received->bytes[0]), 300);
    cr_assert_eq(metrics_count(received->groups[0]), 2);
    cr_assert_eq(metrics_count(received->waited_us), 5);
    cr_assert_eq(metrics_count(received->exposed_us), 2);
    cr_assert_eq(metrics_count(received->transfers), 1);
    cr_assert_eq(metrics_count(received->broken), 1);
    arena_close(&a);
}

Test(kvstats, peers_beyond_the_limit_share_one) {
    static const uint32_t limits[] = {2, 0, KVSTATS_PEERS_MAX + 5};
    for (size_t i = 0; i < sizeof limits / sizeof limits[0]; i++) {
        arena a;
        kvstats s = opened(&a, limits[i]);
        uint32_t own = limits[i] == 2 ? 2 : KVSTATS_PEERS_MAX;
        for (uint32_t worker = 0; worker < own + 100; worker++) {
            kvstats_broken(&s, HELLO_TCP, worker);
            kvstats_broken(&s, HELLO_TCP, worker);
        }
        cr_assert_eq(s.peers_count, own + 1);
        cr_assert_eq(metrics_count(kvstats_of(&s, own - 1)->broken), 2);
        cr_assert_eq(metrics_count(kvstats_of(&s, own)->broken), 200);
        cr_assert_eq(kvstats_of(&s, own + 3), kvstats_of(&s, own + 50));
        arena_close(&a);
    }
}
