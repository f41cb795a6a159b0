/* scaler_demand_test.c -- rates, forecasts, and what is chance. */
#include "server/control/scaler_demand.h"

#include <criterion/criterion.h>
#include <math.h>

enum { SECOND = 1000000 };

static scaler_demand d;
static scaler_counters c;

static void pass(int seconds, double rate, double prompt) {
    for (int i = 0; i < seconds; i++) {
        c.requests += rate;
        c.prompt_tokens += rate * prompt;
        c.prompt_squares += rate * prompt * prompt;
        c.finished += rate;
        c.finished_tokens += rate * 7;
        scaler_demand_note(&d, &c, SECOND);
    }
}

static void begin(void) {
    d = (scaler_demand){0};
    c = (scaler_counters){0};
    scaler_demand_note(&d, &c, 0);
}

Test(scaler_demand, a_steady_load_is_told_as_it_is) {
    begin();
    pass(300, 4, 100);
    scaler_load f = scaler_demand_forecast(&d, 30 * SECOND);
    cr_assert_float_eq(f.requests_per_s, 4, 1e-6);
    cr_assert_float_eq(f.prompt_mean, 100, 1e-6);
    cr_assert_float_eq(f.prompt_square, 10000, 1e-3);
    cr_assert_float_eq(f.output_mean, 7, 1e-6);
    cr_assert_float_eq(scaler_demand_fast(&d, SCALER_DEMAND_FAST_US).requests_per_s, 4, 1e-6);
    cr_assert_float_eq(scaler_demand_highest(&d, 100 * SECOND).requests_per_s, 4, 1e-6);
}

Test(scaler_demand, the_fast_load_follows_within_its_window) {
    begin();
    pass(300, 4, 100);
    pass(10, 40, 100);
    cr_assert_float_eq(scaler_demand_fast(&d, SCALER_DEMAND_FAST_US).requests_per_s, 40, 1e-6);
    cr_assert_lt(scaler_demand_forecast(&d, 0).requests_per_s, 10);
}

Test(scaler_demand, a_load_that_grows_is_forecast_ahead) {
    begin();
    for (int i = 0; i < 1200; i++) {
        pass(1, 10 + i / 10.0, 100);
    }
    double now = scaler_demand_forecast(&d, 0).requests_per_s;
    cr_assert_gt(scaler_demand_forecast(&d, 60 * SECOND).requests_per_s, now + 1);
}

Test(scaler_demand, a_load_that_has_ended_is_over) {
    begin();
    pass(600, 4, 100);
    pass(120, 0, 0);
    cr_assert_gt(scaler_demand_highest(&d, 300 * SECOND).requests_per_s, 3);
    cr_assert_eq(scaler_demand_highest(&d, 60 * SECOND).requests_per_s, 0);
}

Test(scaler_demand, counters_that_start_again_or_are_no_numbers_are_a_gap) {
    begin();
    pass(100, 4, 100);
    c = (scaler_counters){0};
    pass(100, 4, 100);
    scaler_counters bad = {NAN, 1, 1, 1, 1};
    scaler_demand_note(&d, &bad, SECOND);
    scaler_demand_note(&d, &c, -5);
    pass(100, 4, 100);
    scaler_load f = scaler_demand_forecast(&d, 0);
    cr_assert(f.requests_per_s > 3 && f.requests_per_s < 4.1);
}

Test(scaler_demand, chance_shrinks_with_what_was_counted) {
    scaler_load l = {.requests_per_s = 1, .prompt_mean = 10, .prompt_square = 100};
    cr_assert_float_eq(scaler_demand_chance(&l, 100.0 * SECOND), 0.1, 1e-9);
    cr_assert_eq(scaler_demand_doubted(l, 100.0 * SECOND, 20).requests_per_s, 0);
    cr_assert_float_eq(scaler_demand_doubted(l, 100.0 * SECOND, 2).requests_per_s, 0.8, 1e-9);
}
