/* marks_test.c -- tombstones and parked grants. */
#include "engine/core/marks.h"

#include <criterion/criterion.h>

#include "engine/base/rng.h"

static marks make(arena *a, uint32_t count) {
    marks m;
    cr_assert_eq(arena_open(a, marks_bytes(count)), STATUS_OK);
    cr_assert_eq(marks_open(&m, a, count, 9), STATUS_OK);
    return m;
}

static marks_entry entry(request_id request, uint32_t attempt, int64_t expires_us) {
    return (marks_entry){.request = request, .attempt = attempt, .expires_us = expires_us};
}

Test(marks, newest_attempt_wins) {
    arena a;
    marks m = make(&a, 4);
    marks_entry e = entry(1, 5, 100);
    marks_put(&m, &e);
    e = entry(1, 4, 101);
    marks_put(&m, &e);
    cr_assert_eq(marks_get(&m, 1)->attempt, 5);
    e = entry(1, 6, 102);
    marks_put(&m, &e);
    cr_assert_eq(marks_get(&m, 1)->attempt, 6);
    cr_assert_eq(marks_count(&m), 1);
    arena_close(&a);
}

Test(marks, full_table_forgets_the_oldest) {
    arena a;
    marks m = make(&a, 3);
    for (request_id i = 1; i <= 5; i++) {
        marks_entry e = entry(i, 1, (int64_t)i);
        marks_put(&m, &e);
    }
    cr_assert_null(marks_get(&m, 2));
    cr_assert_not_null(marks_get(&m, 3));
    cr_assert_eq(marks_count(&m), 3);
    arena_close(&a);
}

Test(marks, ends_when_its_time_is_over_or_its_link_goes) {
    arena a;
    marks m = make(&a, 8);
    for (request_id i = 1; i <= 6; i++) {
        marks_entry e = entry(i, 1, (int64_t)i * 10);
        e.peer = (uint32_t)(i % 2);
        marks_put(&m, &e);
    }
    marks_expire(&m, 20);
    cr_assert_null(marks_get(&m, 2));
    cr_assert_not_null(marks_get(&m, 3));
    marks_drop_peer(&m, 1);
    cr_assert_null(marks_get(&m, 3));
    cr_assert_not_null(marks_get(&m, 4));
    cr_assert_eq(marks_count(&m), 2);
    arena_close(&a);
}

Test(marks, equals_an_array_over_random_operations) {
    enum { REQUESTS = 40 };
    arena a;
    marks m = make(&a, REQUESTS);
    marks_entry naive[REQUESTS] = {{0}};
    uint64_t random = 3;
    for (int64_t now = 1; now < 100000; now++) {
        request_id r = rng_below(&random, REQUESTS);
        marks_entry e = entry(r, (uint32_t)rng_below(&random, 9), now + 50);
        switch (rng_below(&random, 4)) {
            case 0:
            case 1:
                /* The ring may forget early when holes fill it; these stay below that. */
                if (m.span < REQUESTS) {
                    if (!naive[r].used || naive[r].attempt <= e.attempt) {
                        naive[r] = e;
                        naive[r].used = true;
                    }
                    marks_put(&m, &e);
                }
                break;
            case 2:
                naive[r].used = false;
                marks_drop(&m, r);
                break;
            default:
                for (int i = 0; i < REQUESTS; i++) {
                    naive[i].used = naive[i].used && naive[i].expires_us > now;
                }
                marks_expire(&m, now);
        }
        const marks_entry *got = marks_get(&m, r);
        cr_assert_eq(got != NULL, naive[r].used);
        cr_assert(!got || got->attempt == naive[r].attempt);
    }
    arena_close(&a);
}
