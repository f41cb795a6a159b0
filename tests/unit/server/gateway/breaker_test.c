/* breaker_test.c -- when a worker that fails gets requests again. */
#include "server/gateway/breaker.h"

#include <criterion/criterion.h>

Test(breaker, opens_after_failures_in_a_row_and_no_fewer) {
    breaker b = {0};
    for (int i = 0; i < 10; i++) {
        breaker_failed(&b, 100);
        breaker_failed(&b, 100);
        cr_expect(breaker_allows(&b, 100));
        breaker_succeeded(&b);
    }
    breaker_failed(&b, 100);
    breaker_failed(&b, 100);
    breaker_failed(&b, 100);
    cr_expect_not(breaker_allows(&b, 100));
    cr_expect_not(breaker_allows(&b, 100 + BREAKER_OPEN_US - 1));
    cr_expect(breaker_allows(&b, 100 + BREAKER_OPEN_US));
}

Test(breaker, half_open_takes_one_probe_whose_end_decides) {
    breaker b = {.failures = BREAKER_FAILURES};
    cr_expect(breaker_allows(&b, 50));
    breaker_sent(&b, 50);
    cr_expect_not(breaker_allows(&b, 60), "one probe is enough");
    cr_expect(breaker_allows(&b, 50 + BREAKER_OPEN_US_MAX), "it was never answered");
    breaker_failed(&b, 70);
    cr_expect_not(breaker_allows(&b, 80), "open again");
    breaker_sent(&b, 70 + BREAKER_OPEN_US_MAX);
    breaker_succeeded(&b);
    cr_expect(breaker_allows(&b, 71) && !breaker_tripped(&b));
}

Test(breaker, stays_open_longer_each_time_up_to_a_bound) {
    breaker b = {0};
    int64_t last = 0;
    for (int i = 0; i < 100; i++) {
        breaker_failed(&b, 0);
        cr_expect_geq(b.open_until_us, last);
        cr_expect_leq(b.open_until_us, BREAKER_OPEN_US_MAX);
        last = b.open_until_us;
    }
    cr_expect_eq(last, BREAKER_OPEN_US_MAX);
}
