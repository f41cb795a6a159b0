/* slab_test.c -- handles against a naive list of what is live. */
#include "engine/base/slab.h"

#include <criterion/criterion.h>
#include <string.h>

#include "engine/base/rng.h"

enum { COUNT = 50 };

Test(slab, stale_handles_are_refused_whatever_the_order_of_use) {
    arena a;
    cr_assert_eq(arena_open(&a, 1 << 20), STATUS_OK);
    slab s;
    cr_assert_eq(slab_open(&s, &a, COUNT, 24), STATUS_OK);
    struct {
        slab_handle h;
        uint64_t stamp;
        bool live;
    } known[2000];
    memset(known, 0, sizeof known);
    size_t known_count = 0;
    uint32_t live = 0;
    uint64_t random = 3;
    for (int op = 0; op < 20000; op++) {
        if (known_count < 2000 && rng_below(&random, 2)) {
            slab_handle h;
            uint64_t *object = slab_take(&s, &h);
            cr_assert_eq(object == NULL, live == COUNT);
            if (!object) {
                cr_assert(slab_is_none(h));
                continue;
            }
            cr_assert(object[0] == 0 && object[1] == 0 && object[2] == 0);
            object[0] = object[2] = rng_next(&random);
            known[known_count].h = h;
            known[known_count].stamp = object[0];
            known[known_count++].live = true;
            live++;
        } else if (known_count) {
            size_t i = rng_below(&random, known_count);
            uint64_t *object = slab_get(&s, known[i].h);
            cr_assert_eq(object != NULL, known[i].live);
            cr_assert(!object || object[2] == known[i].stamp);
            cr_assert_eq(slab_give(&s, known[i].h), known[i].live);
            live -= known[i].live;
            known[i].live = false;
        }
        cr_assert_eq(s.count, live);
    }
    uint32_t walked = 0;
    for (uint32_t i = 0; i < COUNT; i++) {
        slab_handle h;
        void *object = slab_at(&s, i, &h);
        cr_assert(!object || slab_get(&s, h) == object);
        walked += object != NULL;
    }
    cr_assert_eq(walked, live);
    arena_close(&a);
}

Test(slab, foreign_handles_are_refused) {
    arena a;
    cr_assert_eq(arena_open(&a, 1 << 20), STATUS_OK);
    slab s;
    cr_assert_eq(slab_open(&s, &a, 4, 1), STATUS_OK);
    slab_handle h;
    cr_assert_not_null(slab_take(&s, &h));
    static const slab_handle bad[] = {{0, 0}, {4, 1}, {UINT32_MAX, 1}, {0, 2}, {0, 3}, {1, 1}};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        cr_assert_null(slab_get(&s, bad[i]));
        cr_assert_not(slab_give(&s, bad[i]));
    }
    cr_assert(slab_same(h, (slab_handle){0, 1}));
    arena_close(&a);
}

Test(slab, objects_are_apart_and_aligned) {
    arena a;
    cr_assert_eq(arena_open(&a, 1 << 20), STATUS_OK);
    slab s;
    cr_assert_eq(slab_open(&s, &a, 8, 100), STATUS_OK);
    uint8_t *objects[8];
    for (int i = 0; i < 8; i++) {
        slab_handle h;
        objects[i] = slab_take(&s, &h);
        cr_assert_eq((uintptr_t)objects[i] % 64, 0);
        memset(objects[i], i + 1, 100);
    }
    for (int i = 0; i < 8; i++) {
        cr_assert(objects[i][0] == i + 1 && objects[i][99] == i + 1);
    }
    arena_close(&a);
}

Test(slab, refuses_when_the_arena_is_too_small) {
    arena a;
    cr_assert_eq(arena_open(&a, 4096), STATUS_OK);
    slab s;
    cr_assert_eq(slab_open(&s, &a, 1000, 64), STATUS_NOMEM);
    cr_assert_eq(slab_open(&s, &a, 2, SIZE_MAX - 3), STATUS_NOMEM);
    arena_close(&a);
}
