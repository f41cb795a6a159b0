/* core_random_test.c -- engines under random traffic and random faults: every answer exact, and not
 * a page held at the end. A small gateway retries as the protocol's table says. */
#include <criterion/criterion.h>
#include <string.h>

#include "engine/base/rng.h"
#include "tests/support/corenet.h"

enum { REQUESTS = 24, TOKENS_MAX = 160, PROMPT_MAX = 120, WORKERS = 4 };

typedef struct {
    request_id id;
    uint32_t attempt;
    uint32_t p, d; /* MESSAGE_NO_WORKER: none */
    bool open, done, cancelled, retry, adopted;
    int32_t prompt_count;
    int32_t prompt[PROMPT_MAX];
    request_params params;
    int32_t got[LIMIT_CHOICES]; /* tokens in a row from the first */
    request_token tokens[LIMIT_CHOICES][TOKENS_MAX];
    bool has[LIMIT_CHOICES][TOKENS_MAX];
} traffic;

typedef struct {
    corenet *n;
    uint64_t random;
    uint32_t heard; /* notes read */
    uint32_t prefills, decodes;
    uint32_t retries, faults;
    traffic requests[REQUESTS];
} world;

static uint32_t draw(world *w, uint32_t bound) {
    return (uint32_t)rng_below(&w->random, bound);
}

static void draw_request(world *w, traffic *t, request_id id) {
    *t = (traffic){.id = id};
    t->prompt_count = 1 + (int32_t)draw(w, PROMPT_MAX);
    /* Few different beginnings, so that prefixes are shared. */
    uint64_t family = draw(w, 3);
    int32_t shared = (int32_t)draw(w, 100);
    for (int32_t i = 0; i < t->prompt_count; i++) {
        t->prompt[i] = (int32_t)(rng_at(i < shared ? family : id + 1000, 3, (uint64_t)i) % 50000);
    }
    t->params = corenet_params(1 + (int32_t)draw(w, 40));
    t->params.choices = draw(w, 3) == 0 ? 2 + (int32_t)draw(w, 3) : 1;
    t->params.temperature = (float)draw(w, 2);
    t->params.seed = id;
    t->params.top_logprobs = (int32_t)draw(w, 4) - 1;
}

/* One step of the gateway: attempt + 1 on a new pair, with what the client has. */
static void dispatch(world *w, traffic *t) {
    uint32_t old_p = t->p;
    uint32_t old_d = t->d;
    t->attempt++;
    t->retry = t->adopted = false;
    t->open = true;
    if (draw(w, 2) == 0 || t->attempt == 1) {
        t->p = draw(w, w->prefills);
        t->d = WORKERS - 1 - draw(w, w->decodes);
        if (draw(w, 4) == 0) {
            t->p = MESSAGE_NO_WORKER;
        }
    }
    if (t->attempt > 1) {
        for (uint32_t v = 0; v < WORKERS; v++) {
            if ((v == old_p || v == old_d) && v != t->p && v != t->d) {
                corenet_cancel(w->n, v, t->id, t->attempt - 1);
            }
        }
    }
    int32_t tokens[PROMPT_MAX + TOKENS_MAX];
    memcpy(tokens, t->prompt, sizeof t->prompt);
    int32_t delivered = t->params.choices == 1 ? t->got[0] : 0;
    for (int32_t i = 0; i < delivered; i++) {
        tokens[t->prompt_count + i] = t->tokens[0][i].token;
    }
    if (t->p != MESSAGE_NO_WORKER) {
        corenet_submit(w->n, t->p, t->id, t->attempt, t->d, tokens, t->prompt_count,
                       t->prompt_count + delivered, &t->params);
    }
    corenet_reserve(w->n, t->d, t->id, t->attempt, t->p, tokens, t->prompt_count,
                    t->prompt_count + delivered, &t->params);
}

static void take_tokens(traffic *t, const message *m) {
    for (int32_t i = 0; i < m->tokens.tokens_count; i++) {
        const request_token *k = &m->tokens.tokens[i];
        if (t->has[k->choice][k->index]) {
            cr_assert_eq(t->tokens[k->choice][k->index].token, k->token);
            cr_assert_eq(t->tokens[k->choice][k->index].end, k->end);
        }
        t->tokens[k->choice][k->index] = *k;
        t->has[k->choice][k->index] = true;
    }
    bool all = true;
    for (int32_t c = 0; c < t->params.choices; c++) {
        while (t->has[c][t->got[c]]) {
            t->got[c]++;
        }
        all = all && t->got[c] > 0 && t->tokens[c][t->got[c] - 1].end != REQUEST_RUNNING;
    }
    t->done = all;
}

/* The gateway's row of the table. */
static void hear(world *w) {
    for (; w->heard < corenet_notes(w->n); w->heard++) {
        const corenet_note *note = corenet_at(w->n, w->heard);
        const message *m = &note->m;
        if (message_of_link(m->type)) {
            continue;
        }
        cr_assert(m->request >= 1 && m->request <= REQUESTS);
        traffic *t = &w->requests[m->request - 1];
        if (m->attempt != t->attempt || t->done || t->cancelled ||
            (note->worker != t->p && note->worker != t->d)) {
            continue;
        }
        bool from_d = note->worker == t->d;
        switch (m->type) {
            case MESSAGE_TOKENS:
                take_tokens(t, m);
                break;
            case MESSAGE_ADOPTED:
                t->adopted = true;
                break;
            case MESSAGE_ALREADY_ADOPTED:
                t->adopted = true;
                if (t->p != MESSAGE_NO_WORKER && t->p != t->d) {
                    corenet_cancel(w->n, t->p, t->id, t->attempt);
                }
                break;
            case MESSAGE_REJECT:
                cr_assert_neq(m->reason, MESSAGE_REASON_STATE, "request %d: %s rejected",
                              (int)m->request, message_type_name(m->about));
                t->retry = t->retry || from_d || !t->adopted;
                break;
            case MESSAGE_LINK_LOST:
                if (from_d || !t->adopted) {
                    t->retry = t->retry || !t->adopted;
                } else {
                    corenet_cancel(w->n, t->p, t->id, t->attempt);
                }
                break;
            case MESSAGE_REFUSED:
                cr_assert_neq(m->reason, MESSAGE_REASON_LIMIT);
                t->retry = t->retry || !t->adopted;
                break;
            case MESSAGE_PREEMPTED:
                t->retry = true;
                break;
            default:
                cr_assert_fail("unexpected %s", message_type_name(m->type));
        }
        if (t->done) {
            for (uint32_t v = 0; v < WORKERS; v++) {
                if (v == t->p || v == t->d) {
                    corenet_cancel(w->n, v, t->id, t->attempt);
                }
            }
        }
    }
    for (uint32_t i = 0; i < REQUESTS; i++) {
        traffic *t = &w->requests[i];
        if (t->open && t->retry && !t->done && !t->cancelled) {
            w->retries++;
            dispatch(w, t);
        }
    }
}

static void renew(world *w) {
    message_lease list[REQUESTS];
    message m = {.type = MESSAGE_LEASES, .leases.list = list};
    for (uint32_t i = 0; i < REQUESTS; i++) {
        const traffic *t = &w->requests[i];
        if (t->open && !t->done && !t->cancelled && !t->adopted) {
            list[m.leases.count++] = (message_lease){t->id, t->attempt};
        }
    }
    for (uint32_t v = 0; v < WORKERS; v++) {
        corenet_say(w->n, v, CORENET_GATEWAY, &m);
    }
}

/* A channel may be torn down for a transfer that hangs, which only a tick finds out; never because
 * a message made no sense. */
static void tear_down(world *w, bool ticked) {
    for (uint32_t v = 0; v < WORKERS; v++) {
        for (uint32_t s = 0; s < CORENET_PEERS; s++) {
            if (corenet_asked_close(w->n, v, s)) {
                cr_assert(ticked && s >= CORENET_FIRST, "worker %u closed slot %u", v, s);
                corenet_cut(w->n, v, s - CORENET_FIRST);
                corenet_join(w->n, v, s - CORENET_FIRST);
            }
        }
    }
}

static void tick(world *w) {
    tear_down(w, false);
    for (uint32_t v = 0; v < WORKERS; v++) {
        corenet_tick(w->n, v);
    }
    tear_down(w, true);
}

static void fault(world *w) {
    traffic *t = &w->requests[draw(w, REQUESTS)];
    uint32_t a = draw(w, WORKERS);
    uint32_t b = draw(w, WORKERS);
    w->faults++;
    switch (draw(w, 7)) {
        case 0: /* a client leaves */
            if (t->open && !t->done) {
                t->cancelled = true;
                for (uint32_t v = 0; v < WORKERS; v++) {
                    if (v == t->p || v == t->d) {
                        corenet_cancel(w->n, v, t->id, t->attempt);
                    }
                }
            }
            break;
        case 1: /* a link is cut, and comes back */
            corenet_cut(w->n, a, b);
            corenet_join(w->n, a, b);
            break;
        case 2: /* the gateway tries anew of its own will */
            if (t->open && !t->done && !t->cancelled) {
                dispatch(w, t);
            }
            break;
        case 3: /* bytes are damaged */
            (void)corenet_land(w->n, a, b, true);
            break;
        case 4: /* time passes, leases are renewed or not */
            corenet_pass(w->n, 8000000);
            if (draw(w, 3) != 0) {
                renew(w);
            }
            tick(w);
            break;
        case 5: /* a worker is fenced: everything ends, its links are new */
            if (draw(w, 3) == 0) {
                for (uint32_t v = 0; v < WORKERS; v++) {
                    corenet_cut(w->n, a, v);
                }
                corenet_gateway_cut(w->n, a, CORENET_GATEWAY);
                hear(w);
                corenet_gateway_join(w->n, a, CORENET_GATEWAY);
                for (uint32_t v = 0; v < WORKERS; v++) {
                    corenet_join(w->n, a, v);
                }
                for (uint32_t i = 0; i < REQUESTS; i++) {
                    traffic *r = &w->requests[i];
                    r->retry = r->retry || (r->d == a) || (r->p == a && !r->adopted);
                }
            }
            break;
        default: /* everything that waits moves */
            corenet_run(w->n);
    }
}

static void finish(world *w) {
    for (int round = 0; round < 400; round++) {
        corenet_run(w->n);
        hear(w);
        corenet_pass(w->n, 1000000);
        renew(w);
        tick(w);
        bool open = false;
        for (uint32_t i = 0; i < REQUESTS; i++) {
            open = open || !(w->requests[i].done || w->requests[i].cancelled);
        }
        if (!open) {
            break;
        }
    }
    /* What nobody renews any more ends by itself. */
    corenet_run(w->n);
    corenet_pass(w->n, 40000000);
    tick(w);
    corenet_run(w->n);
}

static void check(world *w) {
    static request_token right[TOKENS_MAX];
    for (uint32_t i = 0; i < REQUESTS; i++) {
        const traffic *t = &w->requests[i];
        cr_assert(t->done || t->cancelled, "request %d ended (attempt %u)", (int)t->id, t->attempt);
        for (int32_t c = 0; c < t->params.choices; c++) {
            int32_t count =
                corenet_expect(w->n, t->prompt, t->prompt_count, &t->params, c, right, TOKENS_MAX);
            cr_assert(t->cancelled || t->got[c] == count);
            for (int32_t k = 0; k < t->got[c]; k++) {
                cr_assert_eq(t->tokens[c][k].token, right[k].token, "request %d token %d",
                             (int)t->id, k);
                cr_assert_eq(t->tokens[c][k].end, right[k].end);
                cr_assert_float_eq(t->tokens[c][k].logprob, right[k].logprob, 0);
                cr_assert_eq(memcmp(t->tokens[c][k].top, right[k].top,
                                    (size_t)right[k].top_count * sizeof *right[k].top),
                             0);
            }
        }
    }
    for (uint32_t v = 0; v < WORKERS; v++) {
        core_stats s = corenet_stats(w->n, v);
        cr_assert_eq(s.pages_owned, 0, "worker %u", v);
        cr_assert_eq(s.pages_quarantined, 0, "worker %u", v);
        cr_assert(core_idle(corenet_core(w->n, v)));
    }
}

static void run_world(uint64_t seed, uint32_t faults_in_1000, world *w) {
    *w = (world){.random = rng_mix(seed)};
    corenet_options o = corenet_defaults();
    o.workers = WORKERS;
    for (uint32_t v = 0; v < WORKERS; v++) {
        o.roles[v] = v < 2 ? MESSAGE_ROLE_PREFILL : MESSAGE_ROLE_DECODE;
    }
    w->prefills = w->decodes = 2;
    o.core.pages = 24 + draw(w, 40); /* the worst request needs 6 + 4 * 4 pages */
    o.core.prefill_chunk_tokens = 16 * (1 + (int32_t)draw(w, 3));
    o.core.group_layers = 1 + draw(w, CORENET_LAYERS);
    o.core.group_cells_max = CORENET_LAYERS * (1 + draw(w, 3));
    o.core.headroom_tokens = (int32_t)draw(w, 40);
    o.core.step_tokens_max = 24 + (int32_t)draw(w, 100);
    o.core.logit_rows_max = 9 + (int32_t)draw(w, 20);
    /* Not drawn in turn: without lanes the seeds mean what they meant. */
    o.core.multiplex = rng_at(seed, 0x6c616e6573, 0) % 2;
    /* Not drawn in turn: without blocks the seeds mean what they meant. */
    for (uint32_t v = 0; v < WORKERS && rng_at(seed, 0x626c6f636b, WORKERS) % 2; v++) {
        o.block_pages[v] = 1u << rng_at(seed, 0x626c6f636b, v) % 4;
        o.core.pages += 12; /* up to four choices of two blocks each */
    }
    w->n = corenet_open(&o);
    for (uint32_t i = 0; i < REQUESTS; i++) {
        draw_request(w, &w->requests[i], i + 1);
    }
    uint32_t opened = 0;
    for (uint32_t step = 0; step < 3000; step++) {
        if (opened < REQUESTS && draw(w, 40) == 0) {
            dispatch(w, &w->requests[opened++]);
        }
        if (draw(w, 20) == 0) { /* as measurements of a link have it */
            core_set_group_layers(corenet_core(w->n, draw(w, WORKERS)),
                                  CORENET_FIRST + draw(w, WORKERS),
                                  1 + (uint32_t)draw(w, CORENET_LAYERS));
        }
        if (draw(w, 1000) < faults_in_1000) {
            fault(w);
        } else if (!corenet_move_one(w->n, &w->random) && opened == REQUESTS) {
            break;
        }
        hear(w);
    }
    while (opened < REQUESTS) {
        dispatch(w, &w->requests[opened++]);
    }
    finish(w);
    check(w);
    corenet_close(w->n);
}

Test(core_random, traffic_without_faults_is_exact_and_leaves_nothing) {
    static world w;
    for (uint64_t seed = 1; seed <= 60; seed++) {
        run_world(seed, 0, &w);
    }
}

Test(core_random, traffic_with_faults_is_exact_and_leaves_nothing) {
    static world w;
    uint32_t retries = 0;
    for (uint64_t seed = 1; seed <= 150; seed++) {
        run_world(seed, 40, &w);
        retries += w.retries;
    }
    cr_assert_gt(retries, 100, "the faults were felt");
}
