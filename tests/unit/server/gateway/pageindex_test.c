/* pageindex_test.c -- the index against a plain matrix of who has what. */
#include "server/gateway/pageindex.h"

#include <criterion/criterion.h>
#include <string.h>

#include "engine/base/rng.h"

enum { WORKERS = 130, NAMES = 300 };

typedef struct {
    arena a;
    pageindex *ix;
    bool has[NAMES][WORKERS];
    uint64_t state;
} world;

static world *start(uint32_t pages_max) {
    static world w;
    memset(&w, 0, sizeof w);
    cr_assert_eq(arena_open(&w.a, pageindex_bytes(WORKERS, pages_max)), STATUS_OK);
    cr_assert_eq(pageindex_create(&w.a, WORKERS, pages_max, &w.ix), STATUS_OK);
    return &w;
}

/* Homes that are near each other, so that runs of slots form. */
static uint64_t name_of(uint32_t k) {
    return 2 + 2ull * k;
}

static void expect_same(const world *w) {
    uint64_t entries = 0;
    for (uint32_t k = 0; k < NAMES; k++) {
        pageindex_set s = {{0}};
        pageindex_holders(w->ix, name_of(k), &s);
        for (uint32_t i = 0; i < WORKERS; i++) {
            cr_assert_eq(pageindex_set_has(&s, i), w->has[k][i], "page %u worker %u", k, i);
            entries += w->has[k][i];
        }
    }
    cr_assert_eq(pageindex_count(w->ix).entries, entries);
    pageindex_validate(w->ix);
}

Test(pageindex, says_what_a_matrix_says) {
    world *w = start(NAMES * 4);
    for (int turn = 0; turn < 40; turn++) {
        for (int i = 0; i < 2000; i++) {
            uint32_t k = (uint32_t)rng_below(&w->state, NAMES);
            /* Some pages are everybody's, most are a few workers'. */
            uint32_t worker = (uint32_t)rng_below(&w->state, k % 10 == 0 ? WORKERS : 6);
            bool gain = rng_below(&w->state, 10) < (turn % 2 ? 7 : 3);
            (gain ? pageindex_gain : pageindex_lose)(w->ix, worker, name_of(k));
            w->has[k][worker] = gain;
        }
        uint32_t gone = (uint32_t)rng_below(&w->state, WORKERS);
        pageindex_forget(w->ix, gone);
        for (uint32_t k = 0; k < NAMES; k++) {
            w->has[k][gone] = false;
        }
        expect_same(w);
    }
    for (uint32_t i = 0; i < WORKERS; i++) {
        pageindex_forget(w->ix, i);
    }
    cr_assert_eq(pageindex_count(w->ix).pages, 0);
    cr_assert_eq(pageindex_count(w->ix).dropped, 0);
    pageindex_validate(w->ix);
    arena_close(&w->a);
}

Test(pageindex, full_it_drops_what_is_new_and_keeps_what_it_has) {
    world *w = start(64);
    for (uint32_t k = 0; k < 80; k++) {
        pageindex_gain(w->ix, k % 3, name_of(k));
    }
    cr_expect_eq(pageindex_count(w->ix).pages, 64);
    cr_expect_eq(pageindex_count(w->ix).dropped, 16);
    pageindex_set s = {{0}};
    pageindex_holders(w->ix, name_of(63), &s);
    cr_expect(pageindex_set_has(&s, 63 % 3));
    pageindex_lose(w->ix, 0, name_of(0));
    pageindex_gain(w->ix, 2, name_of(79));
    cr_expect_eq(pageindex_count(w->ix).pages, 64);
    pageindex_validate(w->ix);
    arena_close(&w->a);
}

Test(pageindex, without_a_free_set_a_fifth_worker_is_not_noted) {
    world *w = start(3); /* two sets of three words */
    for (uint32_t k = 0; k < 3; k++) {
        for (uint32_t i = 0; i < 10; i++) {
            pageindex_gain(w->ix, i, name_of(k));
        }
    }
    cr_expect_eq(pageindex_count(w->ix).entries, 10 + 10 + 4);
    cr_expect_eq(pageindex_count(w->ix).dropped, 6);
    pageindex_forget(w->ix, 0);
    pageindex_validate(w->ix);
    arena_close(&w->a);
}
