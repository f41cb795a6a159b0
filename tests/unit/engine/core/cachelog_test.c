/* cachelog_test.c -- a reader of changes ends up knowing exactly what the cache has. */
#include "engine/core/cachelog.h"

#include <criterion/criterion.h>
#include <string.h>

#include "engine/base/rng.h"
#include "engine/core/pagename.h"

enum { PAGES = 3000, NAMES = 400 };

typedef struct {
    arena a;
    cachelog l;
    uint64_t state;
} cache;

static cache start(uint64_t seed) {
    cache c = {.state = seed};
    cr_assert_eq(arena_open(&c.a, cachelog_bytes(PAGES) + 4096), STATUS_OK);
    cr_assert_eq(cachelog_open(&c.l, &c.a, PAGES, 5), STATUS_OK);
    return c;
}

/* A gateway: names it thinks are there, by number. */
typedef struct {
    bool has[NAMES + 1];
    uint64_t sequence;
    bool synced;
} listener;

static uint64_t name_of(uint64_t k) {
    return 2 * k;
}

/* False: it must ask again. */
static bool hear(listener *g, const message_cached *m) {
    bool gap = m->sequence != g->sequence + 1;
    g->sequence = m->sequence;
    if (m->snapshot) {
        memset(g->has, 0, sizeof g->has);
        g->synced = true;
    } else if (gap) {
        g->synced = false;
    }
    for (uint32_t i = 0; i < m->count && g->synced; i++) {
        g->has[m->pages[i] / 2] = m->pages[i] & 1;
    }
    return g->synced;
}

static void churn(cache *c, int changes) {
    for (int i = 0; i < changes; i++) {
        uint32_t page = (uint32_t)rng_below(&c->state, PAGES);
        if (c->l.names[page]) {
            cachelog_lose(&c->l, page);
        } else {
            cachelog_gain(&c->l, page, name_of(1 + rng_below(&c->state, NAMES)));
        }
    }
}

static void expect_same(const cache *c, const listener *g) {
    bool has[NAMES + 1] = {false};
    for (uint32_t i = 0; i < PAGES; i++) {
        has[c->l.names[i] / 2] = true;
    }
    for (int k = 1; k <= NAMES; k++) {
        cr_assert_eq(has[k], g->has[k], "name %d", k);
    }
}

Test(cachelog, readers_know_exactly_what_is_there_though_messages_are_lost) {
    cache c = start(1);
    cachelog_reader r[2] = {{0}, {0}};
    listener g[2] = {{.synced = false}, {.synced = false}};
    int compared = 0;
    for (int turn = 0; turn < 3000; turn++) {
        churn(&c, (int)rng_below(&c.state, turn % 100 == 0 ? 20000 : 50));
        bool quiet = turn % 10 == 9; /* nothing lost, and everything told */
        bool room = true;
        for (int k = 0; k < 2; k++) {
            message_cached m;
            if (quiet && g[k].sequence != r[k].sequence) { /* as a heartbeat shows */
                g[k].sequence = r[k].sequence;
                cachelog_restart(&r[k]);
            }
            if (!quiet && rng_below(&c.state, 3) == 0) {
                continue;
            }
            while (cachelog_read(&c.l, &r[k], &room, &m)) {
                bool lost = !quiet && rng_below(&c.state, 20) == 0;
                if (!lost && !hear(&g[k], &m)) {
                    cachelog_restart(&r[k]);
                }
                room = true;
            }
            if (quiet) {
                cr_assert(g[k].synced);
                expect_same(&c, &g[k]);
                compared++;
            }
        }
    }
    cr_assert_eq(compared, 600);
    arena_close(&c.a);
}

Test(cachelog, a_page_computed_twice_is_lost_with_its_last_copy) {
    cache c = start(2);
    cachelog_reader r = {0};
    bool room = true;
    message_cached m;
    cr_assert(cachelog_read(&c.l, &r, &room, &m) && m.snapshot && m.count == 0 && m.sequence == 1);
    cachelog_gain(&c.l, 1, 8);
    cachelog_gain(&c.l, 2, 8);
    cachelog_lose(&c.l, 1);
    cr_assert(cachelog_read(&c.l, &r, &room, &m) && m.count == 1 && m.pages[0] == 9);
    cr_assert_not(cachelog_read(&c.l, &r, &room, &m));
    cachelog_lose(&c.l, 2);
    cr_assert(cachelog_read(&c.l, &r, &room, &m) && m.count == 1 && m.pages[0] == 8);
    arena_close(&c.a);
}

Test(cachelog, parts_of_snapshots_take_turns) {
    cache c = start(3);
    cachelog_reader r[2] = {{0}, {0}};
    message_cached m;
    bool room = true;
    cachelog_gain(&c.l, 1, 8);
    cr_assert(cachelog_read(&c.l, &r[0], &room, &m));
    cr_assert_not(cachelog_read(&c.l, &r[1], &room, &m), "the other's part is still to be sent");
    room = true;
    cr_assert(cachelog_read(&c.l, &r[1], &room, &m) && m.snapshot && m.count == 1);
    arena_close(&c.a);
}

Test(cachelog, names_tell_tenants_beginnings_and_tokens_apart) {
    int32_t tokens[LIMIT_PAGE_TOKENS] = {1, 2, 3};
    uint64_t first = pagename_next(0, 7, tokens);
    cr_assert(first != 0 && !(first & 1));
    cr_expect_neq(pagename_next(0, 8, tokens), first);
    cr_expect_neq(pagename_next(first, 7, tokens), first);
    tokens[15] = 1;
    cr_expect_neq(pagename_next(0, 7, tokens), first);
}
