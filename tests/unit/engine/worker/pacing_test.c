/* pacing_test.c -- the size of groups follows the link and the computing. */
#include "engine/worker/pacing.h"

#include <criterion/criterion.h>

enum { LAYERS = 32, PAGE_TOKENS = 16, ROWS = 512 };

/* 4 MiB a layer of a chunk. */
static pacing made(void) {
    return pacing_make(LAYERS, LAYERS, 8, (4u << 20) / (ROWS / PAGE_TOKENS), PAGE_TOKENS);
}

/* Sixteen groups over a link of that speed. */
static void move(pacing *p, devpair_times *sum, double bytes_per_us, int64_t group_us) {
    devpair_times then = *sum;
    sum->groups += 16;
    sum->bytes += 16 * (4u << 20);
    sum->wire_us += (int64_t)(16 * (4u << 20) / bytes_per_us);
    sum->copy_us += 16 * group_us / 2;
    sum->ready_us += 16 * group_us / 2;
    pacing_moved(p, &then, sum);
}

static void compute(pacing *p, int64_t layer_us) {
    for (int i = 0; i < PACING_STEPS; i++) {
        pacing_step(p, ROWS, LAYERS * layer_us);
    }
}

Test(pacing, nothing_changes_before_enough_is_known) {
    pacing p = made();
    devpair_times sum = {0};
    cr_assert_not(pacing_weigh(&p));
    compute(&p, 2000);
    cr_assert_not(pacing_weigh(&p));
    p = made();
    move(&p, &sum, 1250, 200);
    cr_assert_not(pacing_weigh(&p));
    cr_assert_eq(p.layers_now, 8);
}

Test(pacing, large_groups_on_a_fast_link_and_small_ones_on_a_slow_one) {
    pacing p = made();
    devpair_times sum = {0};
    compute(&p, 2000);
    move(&p, &sum, 42000, 200);
    cr_assert(pacing_weigh(&p));
    cr_assert_eq(p.layers_now, 30, "as layout_test.c computes it: %u", p.layers_now);
    cr_assert_not(pacing_weigh(&p), "nothing has moved since");
    for (int i = 0; i < 100; i++) {
        move(&p, &sum, 1250, 200);
        (void)pacing_weigh(&p);
    }
    cr_assert_eq(p.layers_now, 2, "%u", p.layers_now);
    for (int i = 0; i < 100; i++) {
        move(&p, &sum, 42000, 200);
        (void)pacing_weigh(&p);
    }
    cr_assert_geq(p.layers_now, 29, "%u", p.layers_now);
}

Test(pacing, a_single_slow_transfer_does_not_turn_it_round) {
    pacing p = made();
    devpair_times sum = {0};
    compute(&p, 2000);
    for (int i = 0; i < 20; i++) {
        move(&p, &sum, 42000, 200);
        (void)pacing_weigh(&p);
    }
    move(&p, &sum, 1250, 200);
    (void)pacing_weigh(&p);
    cr_assert_geq(p.layers_now, 24, "%u", p.layers_now);
}

Test(pacing, it_stays_within_what_a_group_may_have) {
    pacing p = pacing_make(LAYERS, 5, 8, 1 << 16, PAGE_TOKENS);
    devpair_times sum = {0};
    cr_assert_eq(p.layers_now, 5);
    compute(&p, 2000);
    move(&p, &sum, 1e6, 5000);
    (void)pacing_weigh(&p);
    cr_assert_eq(p.layers_now, 4, "with five, two would be left that wait: %u", p.layers_now);
    devpair_times none = sum;
    none.groups += 100; /* nobody wanted them */
    none.empty += 100;
    pacing_moved(&p, &sum, &none);
    cr_assert_not(pacing_weigh(&p));
    pacing_step(&p, 0, 100);
    cr_assert_eq(p.layer_us, 2000);
}
