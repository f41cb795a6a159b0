/* blocks_test.c -- the page pool against a naive model. */
#include "engine/core/blocks.h"

#include <criterion/criterion.h>
#include <string.h>

#include "engine/base/rng.h"

enum { PAGES = 24 };

static blocks *make(arena *a, uint32_t pages) {
    blocks *b = NULL;
    cr_assert_eq(arena_open(a, blocks_bytes(pages)), STATUS_OK);
    cr_assert_eq(blocks_create(a, pages, 1, &b), STATUS_OK);
    return b;
}

Test(blocks, takes_all_or_none) {
    arena a;
    blocks *b = make(&a, 4);
    uint32_t ids[4];
    cr_assert(blocks_take(b, 3, ids));
    cr_assert_not(blocks_take(b, 2, ids + 2));
    cr_assert_eq(blocks_free_count(b), 1);
    cr_assert(blocks_take(b, 0, ids));
    arena_close(&a);
}

Test(blocks, page_without_holder_stays_out_of_reach_until_nothing_touches_it) {
    arena a;
    blocks *b = make(&a, 1);
    uint32_t id, other;
    cr_assert(blocks_take(b, 1, &id));
    blocks_pin(b, id);
    blocks_pin(b, id); /* two transfers of two attempts: a count, not a bit */
    blocks_drop(b, id);
    cr_assert_eq(blocks_count(b).quarantined, 1);
    cr_assert_not(blocks_take(b, 1, &other));
    blocks_unpin(b, id);
    cr_assert_not(blocks_take(b, 1, &other));
    blocks_unpin(b, id);
    cr_assert(blocks_take(b, 1, &other));
    blocks_validate(b);
    arena_close(&a);
}

Test(blocks, forgets_pages_without_content_first_then_the_longest_unused) {
    arena a;
    blocks *b = make(&a, 5);
    uint32_t ids[5], got[5];
    cr_assert(blocks_take(b, 5, ids));
    blocks_set_cached(b, ids[0], true);
    blocks_set_cached(b, ids[2], true);
    blocks_set_cached(b, ids[4], true);
    const uint32_t order[] = {4, 1, 0, 3, 2};
    for (int i = 0; i < 5; i++) {
        blocks_drop(b, ids[order[i]]);
    }
    cr_assert(blocks_take(b, 5, got));
    const uint32_t wanted[] = {3, 1, 4, 0, 2};
    for (int i = 0; i < 5; i++) {
        cr_assert_eq(got[i], ids[wanted[i]], "place %d", i);
    }
    arena_close(&a);
}

/* The naive model: an array of structs and, for the order, the time of the last release. */
typedef struct {
    uint32_t references, pins;
    bool cached;
    uint64_t freed_at; /* larger is later */
} naive_page;

typedef struct {
    naive_page pages[PAGES];
    uint64_t time;
} naive;

static bool naive_free(const naive_page *p) {
    return p->references == 0 && p->pins == 0;
}

/* Which page must be handed out: without content the latest freed, else the earliest freed. */
static uint32_t naive_next(const naive *m) {
    uint32_t best = PAGES;
    for (uint32_t i = 0; i < PAGES; i++) {
        const naive_page *p = &m->pages[i];
        if (!naive_free(p)) {
            continue;
        }
        const naive_page *q = best < PAGES ? &m->pages[best] : NULL;
        bool better = !q || (q->cached && !p->cached) ||
                      (q->cached == p->cached &&
                       (p->cached ? p->freed_at < q->freed_at : p->freed_at > q->freed_at));
        best = better ? i : best;
    }
    return best;
}

static void compare(const naive *m, const blocks *b) {
    blocks_counts n = {.total = PAGES};
    for (uint32_t i = 0; i < PAGES; i++) {
        const naive_page *p = &m->pages[i];
        n.free += naive_free(p);
        n.cached += naive_free(p) && p->cached;
        n.owned += p->references > 0;
        n.quarantined += p->references == 0 && p->pins > 0;
        cr_assert_eq(blocks_references(b, i), p->references);
        cr_assert_eq(blocks_pins(b, i), p->pins);
        cr_assert_eq(blocks_is_cached(b, i), p->cached);
    }
    blocks_counts got = blocks_count(b);
    cr_assert_eq(memcmp(&n, &got, sizeof n), 0);
    blocks_validate(b);
}

static void settle(naive *m, naive_page *p) {
    if (naive_free(p)) {
        p->freed_at = ++m->time;
    }
}

static void one_operation(naive *m, blocks *b, uint64_t *random) {
    uint32_t page = (uint32_t)rng_below(random, PAGES);
    naive_page *p = &m->pages[page];
    uint32_t id;
    switch (rng_below(random, 7)) {
        case 0: {
            uint32_t next = naive_next(m);
            cr_assert_eq(blocks_take(b, 1, &id), next < PAGES);
            if (next < PAGES) {
                cr_assert_eq(id, next);
                m->pages[next].references = 1;
            }
            break;
        }
        case 1:
            if (p->references > 0 || p->cached) {
                blocks_hold(b, page);
                p->references++;
            }
            break;
        case 2:
        case 3:
            if (p->references > 0) {
                blocks_drop(b, page);
                p->references--;
                settle(m, p);
            }
            break;
        case 4:
            if (p->references > 0 && p->pins < 3) {
                blocks_pin(b, page);
                p->pins++;
            }
            break;
        case 5:
            if (p->pins > 0) {
                blocks_unpin(b, page);
                p->pins--;
                if (p->references == 0) {
                    settle(m, p);
                }
            }
            break;
        default: {
            bool cached = rng_below(random, 2) != 0;
            if (p->cached != cached) {
                blocks_set_cached(b, page, cached);
                p->cached = cached;
                settle(m, p);
            }
        }
    }
}

Test(blocks, equals_a_naive_model_over_random_operations) {
    arena a;
    blocks *b = make(&a, PAGES);
    static naive m;
    uint64_t random = 11;
    for (uint32_t i = 0; i < PAGES; i++) {
        m.pages[i].freed_at = PAGES - i; /* a new pool hands out page 0 first */
    }
    m.time = PAGES;
    for (int i = 0; i < 100000; i++) {
        one_operation(&m, b, &random);
        if (i % 7 == 0) {
            compare(&m, b);
        }
    }
    compare(&m, b);
    arena_close(&a);
}
