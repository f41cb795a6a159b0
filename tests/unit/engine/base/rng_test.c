/* rng_test.c -- the generator's fixed values and its coarse statistics; the clocks. */
#include "engine/base/rng.h"

#include <criterion/criterion.h>

#include "engine/base/clock.h"

Test(rng, equals_splitmix64) {
    /* The outputs of Vigna's splitmix64.c for the seed 1234567, as published with it. */
    static const uint64_t want[] = {6457827717110365317u, 3203168211198807973u,
                                    9817491932198370423u, 4593380528125082431u,
                                    16408922859458223821u};
    /* There the state advances by the golden ratio before each output. */
    uint64_t state = 1234567;
    for (int i = 0; i < 5; i++) {
        cr_assert_eq(rng_mix(state), want[i]);
        state += 0x9E3779B97F4A7C15u;
    }
}

Test(rng, a_position_depends_on_all_three_arguments) {
    uint64_t base = rng_at(1, 2, 3);
    cr_assert_eq(rng_at(1, 2, 3), base);
    cr_assert_neq(rng_at(2, 2, 3), base);
    cr_assert_neq(rng_at(1, 3, 3), base);
    cr_assert_neq(rng_at(1, 2, 4), base);
    cr_assert_neq(rng_at(2, 1, 3), base);
}

Test(rng, draws_are_even) {
    uint64_t state = 5;
    int counts[10] = {0};
    double sum = 0;
    for (int i = 0; i < 100000; i++) {
        counts[rng_below(&state, 10)]++;
        double u = rng_unit(rng_at(7, 0, (uint64_t)i));
        cr_assert(u >= 0 && u < 1);
        sum += u;
    }
    /* Five standard deviations of a fair draw. */
    for (int i = 0; i < 10; i++) {
        cr_assert(counts[i] > 10000 - 475 && counts[i] < 10000 + 475);
    }
    cr_assert(sum > 50000 - 457 && sum < 50000 + 457);
    cr_assert_eq(rng_unit(UINT64_MAX), 1 - 0x1p-53);
}

Test(clock, monotonic_time_goes_forward_through_a_sleep) {
    int64_t before_us = clock_now_us();
    int64_t before_ns = clock_now_ns();
    clock_sleep_us(2000);
    cr_assert_geq(clock_now_us() - before_us, 2000);
    cr_assert_geq(clock_now_ns() - before_ns, 2000000);
    /* 2020-01-01: the wall clock is one. */
    cr_assert_gt(clock_wall_us(), 1577836800000000);
}
