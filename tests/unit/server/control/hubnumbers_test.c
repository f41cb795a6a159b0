/* hubnumbers_test.c -- no number ever goes to an earlier life than one that had it. */
#include "server/control/hubnumbers.h"

#include <criterion/criterion.h>
#include <string.h>

#include "engine/base/rng.h"

enum { ANY = UINT32_MAX, FAILED = UINT32_MAX - 1 };

static uint32_t give(hubnumbers *n, uint32_t wanted, uint64_t epoch, int64_t now_us) {
    uint32_t number;
    diag d;
    return hubnumbers_give(n, wanted, epoch, now_us, &number, &d) == STATUS_OK ? number : FAILED;
}

Test(hubnumbers, newcomers_get_the_first_free_number_that_is_not_reserved) {
    hubnumbers n = {.reserved = 2};
    cr_assert_eq(give(&n, ANY, 100, 0), 2);
    cr_assert_eq(give(&n, ANY, 101, 0), 3);
    hubnumbers_leave(&n, 2, 0);
    cr_assert_eq(give(&n, ANY, 102, 0), 2);
    cr_assert_eq(give(&n, 1, 50, 0), 1, "who asks for a reserved one has it");
}

Test(hubnumbers, a_life_that_was_away_has_its_number_back_unless_another_took_it) {
    hubnumbers n = {.reserved = 0};
    cr_assert_eq(give(&n, ANY, 100, 0), 0);
    hubnumbers_leave(&n, 0, 0);
    cr_assert_eq(give(&n, 0, 100, 0), 0);
    cr_assert(hubnumbers_replaces(&n, 0, 100), "the same life over a new connection");
    hubnumbers_leave(&n, 0, 0);
    cr_assert_eq(give(&n, ANY, 200, 0), 0);
    cr_assert_not(hubnumbers_replaces(&n, 0, 100));
    cr_assert_eq(give(&n, 0, 100, 0), 1, "its own is held by another");
    hubnumbers_leave(&n, 0, 0);
    hubnumbers_leave(&n, 1, 0);
    cr_assert_eq(give(&n, 0, 100, 0), 1, "and was a later life's");
}

Test(hubnumbers, a_clock_that_went_back_does_not_revive_an_old_life) {
    hubnumbers n = {.reserved = 1};
    cr_assert_eq(give(&n, 0, 500, 0), 0);
    cr_assert_not(hubnumbers_replaces(&n, 0, 400));
    cr_assert(hubnumbers_replaces(&n, 0, 501), "the next life of a reserved number");
    cr_assert_eq(give(&n, 0, 400, 0), FAILED);
    for (uint32_t i = 1; i < LIMIT_WORKERS; i++) {
        cr_assert_eq(give(&n, ANY, 1000 + i, 0), i);
    }
    uint32_t number;
    diag d;
    cr_assert_eq(hubnumbers_give(&n, ANY, 9999, 0, &number, &d), STATUS_LIMIT);
    hubnumbers_leave(&n, 7, 1000000);
    cr_assert_eq(hubnumbers_give(&n, ANY, 900, 1000000, &number, &d), STATUS_MISMATCH);
    cr_assert(strstr(d.text, "clock") != NULL, "%s", d.text);
    cr_assert_eq(give(&n, ANY, 900, 999999 + HUBNUMBERS_MEMORY_US), FAILED);
    cr_assert_eq(give(&n, ANY, 900, 1000000 + HUBNUMBERS_MEMORY_US), 7,
                 "nobody remembers the old life any more");
}

/* Whoever comes and goes with whatever clock: while it is remembered, the epochs that a number had
 * only grow. */
Test(hubnumbers, epochs_of_a_number_grow) {
    hubnumbers n = {.reserved = 3};
    uint64_t had[LIMIT_WORKERS] = {0}, rng = 11;
    int64_t left[LIMIT_WORKERS] = {0}, now = 0;
    for (int i = 0; i < 20000; i++) {
        uint32_t wanted = rng_below(&rng, 2) ? ANY : (uint32_t)rng_below(&rng, 12);
        uint64_t epoch = 1 + rng_below(&rng, 1000 + (uint64_t)i);
        now += (int64_t)rng_below(&rng, 2000000);
        if (rng_below(&rng, 2)) {
            uint32_t number = (uint32_t)rng_below(&rng, LIMIT_WORKERS);
            if (n.list[number].held) {
                hubnumbers_leave(&n, number, now);
                left[number] = now;
            }
            continue;
        }
        if (hubnumbers_replaces(&n, wanted, epoch)) {
            hubnumbers_leave(&n, wanted, now);
            left[wanted] = now;
        }
        uint32_t number = give(&n, wanted, epoch, now);
        if (number != FAILED) {
            bool forgotten = now - left[number] >= HUBNUMBERS_MEMORY_US;
            cr_assert(epoch >= had[number] || forgotten, "number %u", number);
            cr_assert(number >= n.reserved || number == wanted);
            had[number] = epoch;
        }
    }
}
