/* arena_test.c -- alignment, limits, reset, and the abort of a sealed arena. */
#include "engine/base/arena.h"

#include <criterion/criterion.h>
#include <signal.h>
#include <string.h>

Test(arena, gives_zeroed_aligned_memory_that_does_not_overlap) {
    arena a;
    cr_assert_eq(arena_open(&a, 1 << 20), STATUS_OK);
    uint8_t *end = NULL;
    for (size_t align = 1; align <= 4096; align *= 2) {
        uint8_t *p = arena_take(&a, 3, 11, align);
        cr_assert_not_null(p);
        cr_assert_eq((uintptr_t)p % align, 0);
        cr_assert(end == NULL || p >= end);
        for (int i = 0; i < 33; i++) {
            cr_assert_eq(p[i], 0);
        }
        memset(p, 0xEE, 33);
        end = p + 33;
    }
    arena_close(&a);
}

Test(arena, refuses_past_its_maximum_and_on_overflow) {
    arena a;
    cr_assert_eq(arena_open(&a, 4096), STATUS_OK);
    cr_assert_null(arena_take(&a, 1, 4097, 1));
    cr_assert_null(arena_take(&a, SIZE_MAX / 2, 3, 1));
    cr_assert_null(arena_take(&a, 1, SIZE_MAX, 64));
    cr_assert_not_null(arena_take(&a, 1, 4000, 1));
    cr_assert_null(arena_take(&a, 1, 97, 1));
    cr_assert_not_null(arena_take(&a, 1, 96, 1));
    cr_assert_not_null(arena_take(&a, 0, 8, 1));
    arena_close(&a);
}

Test(arena, reset_zeroes_and_opens_again) {
    arena a;
    cr_assert_eq(arena_open(&a, 1 << 16), STATUS_OK);
    uint8_t *p = arena_take(&a, 1, 1 << 16, 1);
    memset(p, 1, 1 << 16);
    arena_seal(&a);
    arena_reset(&a);
    uint8_t *q = arena_take(&a, 1, 1 << 16, 1);
    cr_assert_eq(p, q);
    for (size_t i = 0; i < 1 << 16; i++) {
        cr_assert_eq(q[i], 0);
    }
    arena_close(&a);
    arena_close(&a);
}

Test(arena, says_no_when_the_system_does) {
    arena a;
    cr_assert_eq(arena_open(&a, SIZE_MAX / 2), STATUS_NOMEM);
    arena_close(&a);
}

Test(arena, taking_from_a_sealed_arena_is_a_bug, .signal = SIGABRT) {
    arena a;
    cr_assert_eq(arena_open(&a, 4096), STATUS_OK);
    arena_seal(&a);
    (void)!arena_take(&a, 1, 1, 1);
}
