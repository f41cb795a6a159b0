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
                if (!naive[r].used || naive[r].attempt <= e.attempt) {
                    naive[r] = e;
                    naive[r].used = true;
                }
                marks_put(&m, &e);
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

/* Each request leaves a mark, and its CANCEL another in its place: a hole a request in a full ring,
 * which once made every mark move all others. */
Test(marks, holes_in_a_full_ring_push_nobody_out) {
    enum { COUNT = 64 };
    arena a;
    marks m = make(&a, COUNT);
    for (request_id i = 1; i <= 100 * COUNT; i++) {
        marks_entry e = entry(i, 1, (int64_t)i);
        marks_put(&m, &e);
        e = entry(i > 5 ? i - 5 : 1, 2, (int64_t)i);
        marks_put(&m, &e);
        cr_assert_leq(marks_count(&m), COUNT);
        for (request_id k = i > COUNT ? i - COUNT + 1 : 1; k <= i; k++) {
            cr_assert_not_null(marks_get(&m, k), "%d of %d", (int)k, (int)i);
        }
    }
    arena_close(&a);
}

Test(marks, holes_behind_one_that_stays_are_gathered_once_in_many_marks) {
    enum { COUNT = 64 };
    arena a;
    marks m = make(&a, COUNT);
    uint32_t moved = 0;
    marks_entry stays = entry(1, 1, 1000000);
    marks_put(&m, &stays);
    for (request_id i = 2; i <= 100 * COUNT; i++) {
        marks_entry e = entry(i, 1, 1000000);
        uint32_t before = m.span;
        marks_put(&m, &e);
        moved += m.span <= before;
        marks_drop(&m, i);
    }
    cr_assert_not_null(marks_get(&m, 1));
    cr_assert_eq(marks_count(&m), 1);
    cr_assert(moved > 0 && moved <= 100, "moved together %u times", moved);
    arena_close(&a);
}
