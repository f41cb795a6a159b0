/* scaler_capacity_test.c -- workers that a load needs, against arithmetic by hand. */
#include "server/control/scaler_capacity.h"

#include <criterion/criterion.h>

static const scaler_speed speed = {.prefill = {0, 1000, 0, 100},
                                   .decode = {20000, 500, 0, 100},
                                   .chunk_tokens = 256,
                                   .seqs_max = 64};
static const scaler_slo slo = {2e6, 50e3};

static scaler_load load(double rate, double prompt, double output) {
    return (scaler_load){rate, prompt, prompt * prompt, output};
}

Test(scaler_capacity, no_load_needs_nobody_and_a_little_one) {
    scaler_load none = load(0, 0, 0), little = load(0.01, 100, 10);
    cr_assert_eq(scaler_capacity_prefill(&speed, &none, &slo), 0);
    cr_assert_eq(scaler_capacity_decode(&speed, &none, &slo), 0);
    cr_assert_eq(scaler_capacity_prefill(&speed, &little, &slo), 1);
    cr_assert_eq(scaler_capacity_decode(&speed, &little, &slo), 1);
}

Test(scaler_capacity, prefill_holds_the_work_and_more_for_a_tighter_objective) {
    scaler_load l = load(40, 200, 10); /* 8 s of work a second */
    uint32_t n = scaler_capacity_prefill(&speed, &l, &slo);
    cr_assert(n >= 9 && n <= 12, "%u", n);
    scaler_slo tight = {3e5, 50e3};
    cr_assert_gt(scaler_capacity_prefill(&speed, &l, &tight), n);
    for (uint32_t before = 0, rate = 1; rate < 100; rate++) {
        l = load(rate, 200, 10);
        n = scaler_capacity_prefill(&speed, &l, &slo);
        cr_assert_geq(n, before);
        before = n;
    }
}

Test(scaler_capacity, an_objective_that_no_number_of_workers_keeps_asks_for_no_flood) {
    scaler_load l = load(1, 10000, 10); /* 10 s a prompt */
    cr_assert_leq(scaler_capacity_prefill(&speed, &l, &slo), 40);
}

Test(scaler_capacity, a_batch_keeps_the_objective_of_a_token_and_the_pool) {
    scaler_load l = load(10, 100, 300);
    cr_assert_float_eq(scaler_capacity_batch(&speed, &l, 50e3), 50, 0.1); /* 45 ms of steps */
    scaler_speed small = speed;
    small.pages = 300; /* 26 pages a sequence */
    cr_assert_float_eq(scaler_capacity_batch(&small, &l, 50e3), 10, 0.1);
    cr_assert_float_eq(scaler_capacity_running(&speed, &l, 50), 135, 1e-6);
    uint32_t n = scaler_capacity_decode(&speed, &l, &slo);
    cr_assert_eq(n, 4); /* (135 + 1.65 * 11.6) / 50 */
}

Test(scaler_capacity, what_is_not_measured_is_not_known) {
    scaler_speed unknown = {.seqs_max = 64};
    scaler_load l = load(10, 100, 300), no_answers = load(10, 100, 0);
    cr_assert_eq(scaler_capacity_prefill(&unknown, &l, &slo), UINT32_MAX);
    cr_assert_eq(scaler_capacity_decode(&unknown, &l, &slo), UINT32_MAX);
    cr_assert_eq(scaler_capacity_decode(&speed, &no_answers, &slo), UINT32_MAX);
}
