/* router_test.c -- which workers a request gets, as tables of fleets. */
#include "server/gateway/router.h"

#include <criterion/criterion.h>
#include <string.h>

#include "engine/base/rng.h"
#include "engine/core/cachelog.h"
#include "engine/core/pagename.h"

enum { P = MESSAGE_ROLE_PREFILL, D = MESSAGE_ROLE_DECODE, BOTH = P | D, NONE = -1, PAGE = 16 };

typedef struct {
    arena memory;
    router *r;
} bench;

static router_options options_default(void) {
    return (router_options){.workers_max = 64,
                            .pages_max = 4096,
                            .expected_max = 1024,
                            .page_tokens = PAGE,
                            .local_prefill_max = 0,
                            .transfer_page_us = 100};
}

static bench start(router_options o) {
    bench b;
    cr_assert_eq(arena_open(&b.memory, router_bytes(&o)), STATUS_OK);
    cr_assert_eq(router_create(&b.memory, &o, &b.r), STATUS_OK);
    return b;
}

static void finish(bench *b) {
    arena_close(&b->memory);
}

/* Prompts that differ from the first token on when `base` does. */
static const int32_t *prompt_of(int32_t base) {
    static int32_t tokens[4096];
    for (int32_t i = 0; i < 4096; i++) {
        tokens[i] = base * 10000 + i;
    }
    return tokens;
}

static router_request request_of(int32_t base, int32_t prompt_count, int32_t max_tokens) {
    return (router_request){.prompt = prompt_of(base),
                            .prompt_count = prompt_count,
                            .max_tokens = max_tokens,
                            .choices = 1,
                            .prefill_only = max_tokens <= 1,
                            .prefill_last = MESSAGE_NO_WORKER,
                            .decode_avoid = MESSAGE_NO_WORKER};
}

/* A worker as one line of a table; 0 in numbers means the default. */
typedef struct {
    uint32_t roles;
    bool down, draining;
    uint32_t free, total, running, waiting, queued, speed, context;
} line;

static router_view view_of(line l) {
    return (router_view){.up = l.roles != 0 && !l.down,
                         .draining = l.draining,
                         .roles = l.roles,
                         .pages_total = l.total ? l.total : 1000,
                         .pages_free = l.free ? l.free : (l.total ? l.total : 1000),
                         .context_tokens = l.context ? l.context : 8192,
                         .running = l.running,
                         .waiting = l.waiting,
                         .queued_tokens = l.queued,
                         .tokens_per_second = l.speed ? l.speed : 1000,
                         .step_us = 10000};
}

typedef struct {
    const char *name;
    line fleet[4];
    router_result result;
    int prefill, decode;
    int32_t prompt, max_tokens; /* 0: 200 and 50 */
    int32_t local_max;
    int avoid, last; /* worker, 0: none (worker 0 is never needed there) */
    uint32_t running_max;
} choice_case;

static const choice_case cases[] = {
    {.name = "a pair", .fleet = {{.roles = P}, {.roles = D}}, .prefill = 0, .decode = 1},
    {.name = "nobody", .fleet = {{0}}, .result = ROUTER_NONE_NOW},
    {.name = "no decode worker", .fleet = {{.roles = P}}, .result = ROUTER_NONE_NOW},
    {.name = "decode worker down",
     .fleet = {{.roles = P}, {.roles = D, .down = true}},
     .result = ROUTER_NONE_NOW},
    {.name = "decode worker drains",
     .fleet = {{.roles = P}, {.roles = D, .draining = true}},
     .result = ROUTER_NONE_NOW},
    {.name = "no prefill worker: D does it", .fleet = {{.roles = D}}, .prefill = NONE, .decode = 0},
    {.name = "prefill worker down: D does it",
     .fleet = {{.roles = P, .down = true}, {.roles = D}},
     .prefill = NONE,
     .decode = 1},
    {.name = "both roles: local", .fleet = {{.roles = BOTH}}, .prefill = NONE, .decode = 0},
    {.name = "shorter queue of P",
     .fleet = {{.roles = P, .queued = 900}, {.roles = P, .queued = 100}, {.roles = D}},
     .prefill = 1,
     .decode = 2},
    {.name = "faster P in spite of its queue",
     .fleet = {{.roles = P, .speed = 1000},
               {.roles = P, .queued = 300, .speed = 5000},
               {.roles = D}},
     .prefill = 1,
     .decode = 2},
    {.name = "draining P is left out",
     .fleet = {{.roles = P, .draining = true}, {.roles = P, .queued = 900}, {.roles = D}},
     .prefill = 1,
     .decode = 2},
    {.name = "D with fewer running",
     .fleet = {{.roles = P}, {.roles = D, .running = 5}, {.roles = D, .running = 2}},
     .prefill = 0,
     .decode = 2},
    {.name = "D with room",
     .fleet = {{.roles = P}, {.roles = D, .free = 3}, {.roles = D, .running = 9}},
     .prefill = 0,
     .decode = 2},
    {.name = "D refused it before",
     .fleet = {{.roles = P}, {.roles = D}, {.roles = D, .running = 50}},
     .prefill = 0,
     .decode = 2,
     .avoid = 1},
    {.name = "the D that refused is better than none",
     .fleet = {{.roles = P}, {.roles = D}},
     .prefill = 0,
     .decode = 1,
     .avoid = 1},
    {.name = "P of the last attempt holds it",
     .fleet = {{.roles = D}, {.roles = P, .queued = 10}, {.roles = P}},
     .prefill = 1,
     .decode = 0,
     .last = 1},
    {.name = "unless its queue costs more",
     .fleet = {{.roles = D}, {.roles = P, .queued = 4000}, {.roles = P}},
     .prefill = 2,
     .decode = 0,
     .last = 1},
    {.name = "short prompt stays on D",
     .fleet = {{.roles = P}, {.roles = D}},
     .prefill = NONE,
     .decode = 1,
     .prompt = 30,
     .max_tokens = 50,
     .local_max = 32},
    {.name = "a token too long does not",
     .fleet = {{.roles = P}, {.roles = D}},
     .prefill = 0,
     .decode = 1,
     .prompt = 33,
     .max_tokens = 50,
     .local_max = 32},
    {.name = "one token needs P alone",
     .fleet = {{.roles = P}, {.roles = D}},
     .prefill = 0,
     .decode = NONE,
     .prompt = 200,
     .max_tokens = 1},
    {.name = "one token, no P",
     .fleet = {{.roles = D}},
     .prefill = NONE,
     .decode = 0,
     .prompt = 200,
     .max_tokens = 1},
    {.name = "pages never suffice",
     .fleet = {{.roles = P}, {.roles = D, .total = 15}},
     .result = ROUTER_NEVER,
     .prompt = 200,
     .max_tokens = 50},
    {.name = "pages just suffice",
     .fleet = {{.roles = P}, {.roles = D, .total = 16}},
     .prefill = 0,
     .decode = 1,
     .prompt = 200,
     .max_tokens = 50},
    {.name = "one D is too small, the other is not",
     .fleet = {{.roles = P}, {.roles = D, .total = 15}, {.roles = D, .running = 30}},
     .prefill = 0,
     .decode = 2},
    {.name = "context never suffices",
     .fleet = {{.roles = P}, {.roles = D, .context = 249}},
     .result = ROUTER_NEVER,
     .prompt = 200,
     .max_tokens = 50},
    {.name = "too large for any P: D does it",
     .fleet = {{.roles = P, .total = 12}, {.roles = D}},
     .prefill = NONE,
     .decode = 1},
    {.name = "D at its bound",
     .fleet = {{.roles = P}, {.roles = D, .running = 3, .waiting = 1}},
     .result = ROUTER_NONE_NOW,
     .running_max = 4},
    {.name = "D below its bound",
     .fleet = {{.roles = P}, {.roles = D, .running = 3}},
     .prefill = 0,
     .decode = 1,
     .running_max = 4},
};

static uint32_t worker_of(int w) {
    return w == NONE ? MESSAGE_NO_WORKER : (uint32_t)w;
}

Test(router, chooses) {
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        const choice_case *c = &cases[i];
        router_options o = options_default();
        o.local_prefill_max = c->local_max;
        o.running_max = c->running_max;
        bench b = start(o);
        router_view views[4];
        for (int w = 0; w < 4; w++) {
            views[w] = view_of(c->fleet[w]);
        }
        router_request q =
            request_of(1, c->prompt ? c->prompt : 200, c->max_tokens ? c->max_tokens : 50);
        q.decode_avoid = c->avoid ? (uint32_t)c->avoid : MESSAGE_NO_WORKER;
        q.prefill_last = c->last ? (uint32_t)c->last : MESSAGE_NO_WORKER;
        router_choice got;
        router_result r = router_choose(b.r, views, 4, &q, &got);
        cr_assert_eq(r, c->result, "%s: %d", c->name, r);
        if (r == ROUTER_CHOSEN) {
            cr_assert_eq(got.prefill, worker_of(c->prefill), "%s: P %d", c->name, (int)got.prefill);
            cr_assert_eq(got.decode, worker_of(c->decode), "%s: D %d", c->name, (int)got.decode);
        }
        finish(&b);
    }
}

Test(router, sends_a_known_prefix_where_it_was_computed) {
    bench b = start(options_default());
    router_view views[3] = {view_of((line){.roles = P, .queued = 100}), view_of((line){.roles = P}),
                            view_of((line){.roles = D})};
    router_request q = request_of(1, 320, 50);
    router_choice first = {.prefill = 0, .decode = 2};
    router_remember(b.r, &q, &first);
    router_choice got;
    cr_assert_eq(router_choose(b.r, views, 3, &q, &got), ROUTER_CHOSEN);
    cr_assert_eq(got.prefill, 0);
    cr_assert_eq(got.cached_tokens, 304); /* not the page of the last token */
    q = request_of(2, 320, 50);
    cr_assert_eq(router_choose(b.r, views, 3, &q, &got), ROUTER_CHOSEN);
    cr_assert_eq(got.prefill, 1);
    cr_assert_eq(got.cached_tokens, 0);
    finish(&b);
}

Test(router, credits_only_the_part_that_is_shared) {
    bench b = start(options_default());
    router_view views[2] = {view_of((line){.roles = P}), view_of((line){.roles = D})};
    router_request q = request_of(1, 100, 50); /* 6 whole pages */
    router_remember(b.r, &q, &(router_choice){.prefill = 0, .decode = 1});
    q = request_of(1, 320, 50);
    router_choice got;
    cr_assert_eq(router_choose(b.r, views, 2, &q, &got), ROUTER_CHOSEN);
    cr_assert_eq(got.cached_tokens, 96);
    finish(&b);
}

Test(router, does_not_share_prefixes_between_tenants) {
    bench b = start(options_default());
    router_view views[2] = {view_of((line){.roles = P}), view_of((line){.roles = D})};
    router_request q = request_of(1, 320, 50);
    router_remember(b.r, &q, &(router_choice){.prefill = 0, .decode = 1});
    q.salt = 9;
    router_choice got;
    cr_assert_eq(router_choose(b.r, views, 2, &q, &got), ROUTER_CHOSEN);
    cr_assert_eq(got.cached_tokens, 0);
    finish(&b);
}

Test(router, keeps_on_d_what_d_has_cached) {
    router_options o = options_default();
    o.local_prefill_max = 32;
    bench b = start(o);
    router_view views[2] = {view_of((line){.roles = P}), view_of((line){.roles = D})};
    router_request q = request_of(1, 320, 50);
    router_choice got;
    cr_assert_eq(router_choose(b.r, views, 2, &q, &got), ROUTER_CHOSEN);
    cr_assert_eq(got.prefill, 0);
    router_remember(b.r, &q, &got);
    cr_assert_eq(router_choose(b.r, views, 2, &q, &got), ROUTER_CHOSEN);
    cr_assert_eq(got.prefill, MESSAGE_NO_WORKER); /* 16 tokens are left */
    cr_assert_eq(got.decode, 1);
    router_forget_worker(b.r, 1);
    cr_assert_eq(router_choose(b.r, views, 2, &q, &got), ROUTER_CHOSEN);
    cr_assert_eq(got.prefill, 0);
    finish(&b);
}

Test(router, forgets_a_worker_that_restarted) {
    bench b = start(options_default());
    router_view views[2] = {view_of((line){.roles = P}), view_of((line){.roles = D})};
    router_request q = request_of(1, 320, 50);
    router_remember(b.r, &q, &(router_choice){.prefill = 0, .decode = 1});
    router_forget_worker(b.r, 0);
    router_choice got;
    cr_assert_eq(router_choose(b.r, views, 2, &q, &got), ROUTER_CHOSEN);
    cr_assert_eq(got.cached_tokens, 0);
    finish(&b);
}

Test(router, remembers_the_four_latest_workers_of_a_prefix) {
    bench b = start(options_default());
    router_request q = request_of(1, 320, 50);
    router_view views[8];
    for (uint32_t w = 0; w < 8; w++) {
        views[w] = view_of((line){.roles = w == 7 ? D : P});
    }
    for (uint32_t w = 0; w < 6; w++) {
        router_remember(b.r, &q, &(router_choice){.prefill = w, .decode = MESSAGE_NO_WORKER});
    }
    for (uint32_t w = 0; w < 6; w++) {
        for (uint32_t k = 0; k < 7; k++) {
            views[k].up = k == w;
        }
        router_choice got;
        cr_assert_eq(router_choose(b.r, views, 8, &q, &got), ROUTER_CHOSEN);
        cr_assert_eq(got.cached_tokens > 0, w >= 2, "worker %u", w);
    }
    finish(&b);
}

/* Oracle: the pages of each choice counted one token at a time. */
Test(router, counts_the_pages_a_request_may_need) {
    uint64_t state = 3;
    for (int i = 0; i < 1000; i++) {
        router_request q =
            request_of(1, 1 + (int32_t)rng_below(&state, 200), (int32_t)rng_below(&state, 100));
        q.choices = 1 + (int32_t)rng_below(&state, 8);
        uint64_t pages = 0;
        for (int32_t choice = 0; choice < q.choices; choice++) {
            for (int32_t at = 0; at < q.prompt_count + q.max_tokens; at += PAGE) {
                bool shared = at + PAGE <= q.prompt_count;
                pages += choice == 0 || !shared;
            }
        }
        cr_assert_eq(router_pages_needed(&q, PAGE), pages);
    }
}

Test(router, survives_any_fleet) {
    uint64_t state = 1;
    bench b = start(options_default());
    for (int i = 0; i < 20000; i++) {
        router_view views[6];
        for (int w = 0; w < 6; w++) {
            views[w] = (router_view){.up = rng_below(&state, 4) > 0,
                                     .draining = rng_below(&state, 6) == 0,
                                     .roles = (uint32_t)rng_below(&state, 4),
                                     .pages_total = (uint32_t)rng_below(&state, 60),
                                     .context_tokens = (uint32_t)rng_below(&state, 2000),
                                     .running = (uint32_t)rng_below(&state, 9),
                                     .queued_tokens = rng_below(&state, 1 << 20),
                                     .tokens_per_second = (uint32_t)rng_below(&state, 3) * 500,
                                     .step_us = (uint32_t)rng_below(&state, 3) * 9000};
            views[w].pages_free = (uint32_t)rng_below(&state, views[w].pages_total + 1);
        }
        router_request q =
            request_of((int32_t)rng_below(&state, 5), 1 + (int32_t)rng_below(&state, 900),
                       (int32_t)rng_below(&state, 100));
        q.prefill_last = rng_below(&state, 2) ? (uint32_t)rng_below(&state, 6) : UINT32_MAX;
        q.decode_avoid = rng_below(&state, 2) ? (uint32_t)rng_below(&state, 6) : UINT32_MAX;
        router_choice c;
        if (router_choose(b.r, views, 6, &q, &c) != ROUTER_CHOSEN) {
            continue;
        }
        cr_assert(c.prefill != c.decode && c.predicted_us >= 0);
        cr_assert(c.decode != MESSAGE_NO_WORKER || q.prefill_only);
        if (c.prefill != MESSAGE_NO_WORKER) {
            const router_view *v = &views[c.prefill];
            cr_assert(v->up && !v->draining && (v->roles & P));
        }
        if (c.decode != MESSAGE_NO_WORKER) {
            const router_view *v = &views[c.decode];
            cr_assert(v->up && !v->draining && (v->roles & D));
            cr_assert_leq(router_pages_needed(&q, PAGE), v->pages_total);
        }
        router_remember(b.r, &q, &c);
    }
    finish(&b);
}

/* ---- what workers tell ---------------------------------------------------------------------- */

/* The worker says that it has the first `pages` pages of the prompt. */
static bool tell(bench *b, uint32_t worker, uint64_t sequence, bool snapshot,
                 const router_request *q, uint32_t pages, bool gained) {
    uint64_t names[64], name = 0;
    for (uint32_t i = 0; i < pages; i++) {
        name = pagename_next(name, q->salt, q->prompt + i * PAGE);
        names[i] = name | gained;
    }
    message_cached m = {sequence, snapshot, pages, names};
    return router_cached(b->r, worker, &m);
}

static int32_t cached_on(bench *b, const router_view *views, const router_request *q,
                         uint32_t worker) {
    router_choice got;
    cr_assert_eq(router_choose(b->r, views, 3, q, &got), ROUTER_CHOSEN);
    const router_explanation *e = router_last(b->r);
    for (uint32_t i = 0; i < e->prefill_count; i++) {
        if (e->prefill[i].worker == worker) {
            return e->prefill[i].cached_tokens;
        }
    }
    return -1;
}

Test(router, knows_exactly_what_workers_say_they_have) {
    bench b = start(options_default());
    router_view views[3] = {view_of((line){.roles = P}), view_of((line){.roles = P}),
                            view_of((line){.roles = D})};
    router_request q = request_of(1, 320, 50);
    cr_assert(tell(&b, 0, 1, true, &q, 4, true));
    cr_assert(tell(&b, 1, 1, true, &q, 12, true));
    cr_expect_eq(cached_on(&b, views, &q, 0), 64);
    cr_expect_eq(cached_on(&b, views, &q, 1), 192);
    cr_assert(tell(&b, 1, 2, false, &q, 1, false)); /* the first page: the rest is no use */
    cr_expect_eq(cached_on(&b, views, &q, 1), 0);
    q.salt = 7;
    cr_expect_eq(cached_on(&b, views, &q, 0), 0, "another tenant's");
    finish(&b);
}

Test(router, asks_for_all_when_a_message_is_missing) {
    bench b = start(options_default());
    router_view views[3] = {view_of((line){.roles = P}), view_of((line){.roles = P}),
                            view_of((line){.roles = D})};
    router_request q = request_of(1, 320, 50);
    cr_assert(tell(&b, 0, 1, true, &q, 4, true));
    cr_expect_not(tell(&b, 0, 3, false, &q, 8, true));
    cr_expect_eq(cached_on(&b, views, &q, 0), 0, "nothing is better than wrong");
    cr_expect(tell(&b, 0, 4, true, &q, 6, true), "the snapshot it asked for");
    cr_expect_eq(cached_on(&b, views, &q, 0), 96);
    cr_expect(router_cached_all(b.r, 0, 4));
    cr_expect_not(router_cached_all(b.r, 0, 5), "the last message was lost");
    cr_expect(router_cached_all(b.r, 0, 5), "asked for once");
    router_forget_worker(b.r, 0);
    cr_expect(tell(&b, 0, 1, true, &q, 2, true), "its next life counts from 1");
    finish(&b);
}

/* Caches that change, messages that are lost, and an index that must be exactly the caches whenever
 * all has been told; what may be wrong with it is planted. */
enum { INDEX_WORKERS = 2, INDEX_PROMPTS = 6, INDEX_PAGES = 8 };

typedef enum {
    INDEX_FINE,
    INDEX_NO_RESYNC,     /* a gap is seen, and nobody asks for what is missing */
    INDEX_DEAF_TO_BEATS, /* that the last message was lost is not seen */
    INDEX_EVENT_LOST     /* of a message that came, one change is left out */
} index_bug;

typedef struct {
    bench b;
    arena memory;
    cachelog logs[INDEX_WORKERS];
    cachelog_reader readers[INDEX_WORKERS];
    uint64_t state;
} index_world;

static uint64_t index_name(const router_request *q, uint32_t page) {
    uint64_t name = 0;
    for (uint32_t i = 0; i <= page; i++) {
        name = pagename_next(name, q->salt, q->prompt + i * PAGE);
    }
    return name;
}

static void index_churn(index_world *w, int changes) {
    for (int i = 0; i < changes; i++) {
        cachelog *l = &w->logs[rng_below(&w->state, INDEX_WORKERS)];
        uint32_t slot = (uint32_t)rng_below(&w->state, INDEX_PROMPTS * INDEX_PAGES);
        router_request q = request_of((int32_t)(slot / INDEX_PAGES), 320, 50);
        if (!l->names[slot]) {
            cachelog_gain(l, slot, index_name(&q, slot % INDEX_PAGES));
        } else if (rng_below(&w->state, 3) == 0) {
            cachelog_lose(l, slot);
        }
    }
}

static void index_tell(index_world *w, uint32_t worker, bool lossy, index_bug bug) {
    cachelog_reader *r = &w->readers[worker];
    message_cached m;
    for (bool room = true; cachelog_read(&w->logs[worker], r, &room, &m); room = true) {
        m.count -= bug == INDEX_EVENT_LOST && m.count > 0 && rng_below(&w->state, 50) == 0;
        bool lost = lossy && rng_below(&w->state, 10) == 0;
        if (!lost && !router_cached(w->b.r, worker, &m) && bug != INDEX_NO_RESYNC) {
            cachelog_restart(r);
        }
    }
    if (!router_cached_all(w->b.r, worker, r->sequence) && bug != INDEX_NO_RESYNC &&
        bug != INDEX_DEAF_TO_BEATS) {
        cachelog_restart(r);
    }
}

static bool index_is_exact(index_world *w) {
    router_view views[3] = {view_of((line){.roles = P}), view_of((line){.roles = P}),
                            view_of((line){.roles = D})};
    for (int32_t p = 0; p < INDEX_PROMPTS; p++) {
        for (uint32_t worker = 0; worker < INDEX_WORKERS; worker++) {
            router_request q = request_of(p, 320, 50);
            int32_t pages = 0;
            while (pages < INDEX_PAGES && w->logs[worker].names[p * INDEX_PAGES + pages]) {
                pages++;
            }
            if (cached_on(&w->b, views, &q, worker) != pages * PAGE) {
                return false;
            }
        }
    }
    return true;
}

/* Whether the index was exact each time that it had to be. */
static bool index_survives(index_bug bug) {
    index_world w = {.b = start(options_default()), .state = 3};
    uint64_t bytes = INDEX_WORKERS * (cachelog_bytes(INDEX_PROMPTS * INDEX_PAGES) + 4096);
    bool exact = true;
    cr_assert_eq(arena_open(&w.memory, bytes), STATUS_OK);
    for (uint32_t i = 0; i < INDEX_WORKERS; i++) {
        cr_assert_eq(cachelog_open(&w.logs[i], &w.memory, INDEX_PROMPTS * INDEX_PAGES, 5),
                     STATUS_OK);
    }
    for (int turn = 0; turn < 400 && exact; turn++) {
        bool quiet = turn % 8 == 7; /* nothing changes and nothing is lost: it all arrives */
        index_churn(&w, quiet ? 0 : 20);
        for (uint32_t i = 0; i < (quiet ? 3 : 1) * INDEX_WORKERS; i++) {
            index_tell(&w, i % INDEX_WORKERS, !quiet, bug);
        }
        exact = !quiet || index_is_exact(&w);
    }
    arena_close(&w.memory);
    finish(&w.b);
    return exact;
}

Test(router, has_exactly_the_caches_though_messages_are_lost) {
    cr_expect(index_survives(INDEX_FINE));
}

Test(router, an_index_that_loses_events_is_found) {
    cr_expect_not(index_survives(INDEX_NO_RESYNC));
    cr_expect_not(index_survives(INDEX_DEAF_TO_BEATS));
    cr_expect_not(index_survives(INDEX_EVENT_LOST));
}

Test(router, expects_what_it_sent_for_a_short_time_only) {
    bench b = start(options_default());
    router_view views[3] = {view_of((line){.roles = P}), view_of((line){.roles = P}),
                            view_of((line){.roles = D})};
    router_request q = request_of(1, 320, 50);
    router_remember(b.r, &q, &(router_choice){.prefill = 0, .decode = 2, .predicted_us = 1000000});
    q.now_us = 2900000;
    cr_expect_eq(cached_on(&b, views, &q, 0), 304);
    q.now_us = 3100000; /* it has told, or has not got it */
    cr_expect_eq(cached_on(&b, views, &q, 0), 0);
    finish(&b);
}

/* ---- turns, sessions, circuits -------------------------------------------------------------- */

Test(router, equals_take_turns) {
    bench b = start(options_default());
    router_view views[5] = {view_of((line){.roles = P}), view_of((line){.roles = P}),
                            view_of((line){.roles = P}), view_of((line){.roles = D}),
                            view_of((line){.roles = D})};
    uint32_t count[5] = {0};
    for (int i = 0; i < 60; i++) {
        router_request q = request_of(i + 1, 320, 50);
        router_choice c;
        cr_assert_eq(router_choose(b.r, views, 5, &q, &c), ROUTER_CHOSEN);
        cr_expect_eq(c.reason, ROUTER_BY_TURN);
        router_remember(b.r, &q, &c);
        count[c.prefill]++;
        count[c.decode]++;
    }
    for (int w = 0; w < 5; w++) {
        cr_expect_eq(count[w], w < 3 ? 20 : 30, "worker %d: %u", w, count[w]);
    }
    finish(&b);
}

Test(router, a_session_stays_where_it_was_unless_that_costs_more) {
    bench b = start(options_default());
    router_view views[3] = {view_of((line){.roles = P}), view_of((line){.roles = P}),
                            view_of((line){.roles = D})};
    router_request q = request_of(1, 320, 50);
    q.session = 5;
    router_remember(b.r, &q, &(router_choice){.prefill = 0, .decode = 2});
    q = request_of(2, 320, 50);
    q.session = 5;
    router_choice c;
    cr_assert_eq(router_choose(b.r, views, 3, &q, &c), ROUTER_CHOSEN);
    cr_expect(c.prefill == 0 && c.reason == ROUTER_BY_SESSION);
    q.session = 6;
    cr_assert_eq(router_choose(b.r, views, 3, &q, &c), ROUTER_CHOSEN);
    cr_expect_eq(c.prefill, 1, "it is the other's turn");
    q.session = 5;
    views[0].queued_tokens = 400;
    cr_assert_eq(router_choose(b.r, views, 3, &q, &c), ROUTER_CHOSEN);
    cr_expect_eq(c.prefill, 1);
    finish(&b);
}

Test(router, leaves_out_a_worker_that_fails_until_there_is_no_other) {
    bench b = start(options_default());
    router_view views[3] = {view_of((line){.roles = P}),
                            view_of((line){.roles = P, .queued = 5000}),
                            view_of((line){.roles = D})};
    router_request q = request_of(1, 320, 50);
    router_choice c;
    message reject = {.type = MESSAGE_REJECT, .reason = MESSAGE_REASON_STATE};
    message token = {.type = MESSAGE_TOKENS};
    for (int i = 0; i < 3; i++) {
        router_heard(b.r, 0, &reject, 1000);
    }
    q.now_us = 2000;
    cr_assert_eq(router_choose(b.r, views, 3, &q, &c), ROUTER_CHOSEN);
    cr_expect_eq(c.prefill, 1);
    views[1].up = false;
    cr_assert_eq(router_choose(b.r, views, 3, &q, &c), ROUTER_CHOSEN);
    cr_expect_eq(c.prefill, 0, "better than none");
    views[1].up = true;
    q.now_us = 2000000; /* a probe is due */
    cr_assert_eq(router_choose(b.r, views, 3, &q, &c), ROUTER_CHOSEN);
    cr_expect_eq(c.prefill, 0);
    router_remember(b.r, &q, &c);
    cr_assert_eq(router_choose(b.r, views, 3, &q, &c), ROUTER_CHOSEN);
    cr_expect_eq(c.prefill, 1, "one probe at a time");
    router_heard(b.r, 0, &token, 2000001);
    cr_assert_eq(router_choose(b.r, views, 3, &q, &c), ROUTER_CHOSEN);
    cr_expect_eq(c.prefill, 0, "it works again");
    reject.reason = MESSAGE_REASON_DRAINING;
    for (int i = 0; i < 9; i++) {
        router_heard(b.r, 0, &reject, 2000002);
    }
    cr_assert_eq(router_choose(b.r, views, 3, &q, &c), ROUTER_CHOSEN);
    cr_expect_eq(c.prefill, 0, "to drain is no failure");
    finish(&b);
}

Test(router, other_policies_ignore_cost) {
    for (int policy = ROUTER_RANDOM; policy <= ROUTER_ROUND_ROBIN; policy++) {
        router_options o = options_default();
        o.policy = (router_policy)policy;
        bench b = start(o);
        router_view views[3] = {view_of((line){.roles = P, .queued = 9000}),
                                view_of((line){.roles = P}), view_of((line){.roles = D})};
        int first = 0;
        for (int i = 0; i < 400; i++) {
            router_request q = request_of(1, 320, 50);
            router_choice c;
            cr_assert_eq(router_choose(b.r, views, 3, &q, &c), ROUTER_CHOSEN);
            cr_expect_eq(c.reason, ROUTER_BY_POLICY);
            router_remember(b.r, &q, &c);
            first += c.prefill == 0;
        }
        cr_expect(policy == ROUTER_ROUND_ROBIN ? first == 200 : first > 140 && first < 260);
        finish(&b);
    }
}

/* Whatever is popular, whoever is fast: under a load that keeps the fleet busy each worker gets
 * something in every stretch of requests. */
Test(router, no_worker_starves_under_any_load) {
    uint64_t state = 11;
    for (int run = 0; run < 40; run++) {
        router_options o = options_default();
        bench b = start(o);
        router_view views[6];
        uint32_t served[6] = {0};
        int64_t now = 1000000;
        int64_t prefixes = 1 + (int64_t)rng_below(&state, 8);
        for (int w = 0; w < 6; w++) {
            views[w] = view_of((line){.roles = w < 4 ? P : D});
            views[w].chunk_tokens = 256;
            views[w].prefill_fit =
                (stepmodel_fit){100, 10 + (float)rng_below(&state, 20), 0.001f, 50};
            views[w].decode_fit =
                (stepmodel_fit){5000, 50 + (float)rng_below(&state, 100), 0.01f, 50};
        }
        for (int i = 0; i < 600; i++) {
            /* More prompts than one worker can compute, however much of them it has. */
            router_request q = request_of(1 + (int32_t)rng_below(&state, (uint64_t)prefixes),
                                          160 + 16 * (int32_t)rng_below(&state, 100), 50);
            int32_t prompt[2048];
            memcpy(prompt, q.prompt, (size_t)q.prompt_count * sizeof *prompt);
            for (int32_t k = q.prompt_count / 2; k < q.prompt_count; k++) {
                prompt[k] = (int32_t)rng_below(&state, 50000);
            }
            q.prompt = prompt;
            q.now_us = now += 1500;
            router_choice c;
            cr_assert_eq(router_choose(b.r, views, 6, &q, &c), ROUTER_CHOSEN);
            router_remember(b.r, &q, &c);
            router_charge(views, &c, &q, PAGE);
            served[c.prefill]++;
            served[c.decode]++;
            uint32_t ended = 4 + (uint32_t)rng_below(&state, 2); /* a request ends on a D */
            if (views[ended].running > 4) {
                views[ended].running--;
                views[ended].pages_free = 800;
            }
        }
        for (int w = 0; w < 6; w++) {
            cr_expect_geq(served[w], 30, "run %d: worker %d got %u", run, w, served[w]);
        }
        finish(&b);
    }
}
