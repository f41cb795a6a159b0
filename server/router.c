/* router.c -- least predicted time to the first token for P, room for D.
 *
 * The prefix table remembers, for the hash of every page-aligned prefix seen lately, up to four
 * workers that computed or received it.
 */
#include "server/router.h"

#include "engine/base/check.h"

enum {
    WAYS = 4,               /* workers remembered a prefix */
    SPEED_UNKNOWN = 1000,   /* tokens a second, until a worker has told */
    STEP_UNKNOWN_US = 20000 /* likewise */
};

typedef struct {
    uint64_t hash;         /* 0: empty */
    uint8_t workers[WAYS]; /* newest first; NOBODY: none */
} prefix;

#define NOBODY 255

static_assert(LIMIT_WORKERS < NOBODY, "a worker's number fits a byte");

struct router {
    router_options options;
    prefix *prefixes; /* [slots] direct mapped: the newer of two prefixes stays */
    uint32_t slots;   /* a power of two */
};

status router_create(arena *a, const router_options *options, router **out) {
    CHECK(options->page_tokens >= 1 && options->page_tokens <= LIMIT_PAGE_TOKENS);
    CHECK(options->prefixes_max >= 1 && options->prefixes_max <= 1u << 24);
    router *r = ARENA_TAKE(a, 1, router);
    if (r == NULL) {
        return STATUS_NOMEM;
    }
    r->options = *options;
    r->slots = 1;
    while (r->slots < options->prefixes_max) {
        r->slots *= 2;
    }
    r->prefixes = ARENA_TAKE(a, r->slots, prefix);
    if (r->prefixes == NULL) {
        return STATUS_NOMEM;
    }
    *out = r;
    return STATUS_OK;
}

/* The hash of a prefix one page longer than the one hashed before. Never 0. */
static uint64_t chain(const router *r, uint64_t before, uint64_t salt, const int32_t *page) {
    struct {
        uint64_t before, salt;
        int32_t tokens[LIMIT_PAGE_TOKENS];
    } data = {.before = before, .salt = salt};
    for (uint32_t i = 0; i < r->options.page_tokens; i++) {
        data.tokens[i] = page[i];
    }
    uint64_t hash = hash_bytes(r->options.key, &data, sizeof(data));
    return hash ? hash : 1;
}

/* Tokens of the prompt that each worker is believed to hold, [LIMIT_WORKERS]. The last token is
 * always computed: its logits are wanted. */
static void cached_tokens(const router *r, const router_request *q, int32_t *cached) {
    for (uint32_t w = 0; w < LIMIT_WORKERS; w++) {
        cached[w] = 0;
    }
    int32_t page_tokens = (int32_t)r->options.page_tokens;
    uint64_t hash = 0;
    for (int32_t at = 0; at + page_tokens < q->prompt_count; at += page_tokens) {
        hash = chain(r, hash, q->salt, q->prompt + at);
        const prefix *p = &r->prefixes[hash & (r->slots - 1)];
        if (p->hash != hash) {
            return;
        }
        for (uint32_t k = 0; k < WAYS; k++) {
            /* A gap means that the worker has forgotten the start: what follows is no use. */
            if (p->workers[k] != NOBODY && cached[p->workers[k]] == at) {
                cached[p->workers[k]] = at + page_tokens;
            }
        }
    }
}

static void remember(router *r, uint64_t hash, uint32_t worker) {
    prefix *p = &r->prefixes[hash & (r->slots - 1)];
    if (p->hash != hash) {
        *p = (prefix){.hash = hash, .workers = {NOBODY, NOBODY, NOBODY, NOBODY}};
    }
    uint32_t k = 0;
    while (k < WAYS - 1 && p->workers[k] != worker) {
        k++;
    }
    for (; k > 0; k--) {
        p->workers[k] = p->workers[k - 1];
    }
    p->workers[0] = (uint8_t)worker;
}

void router_remember(router *r, const router_request *q, const router_choice *choice) {
    int32_t page_tokens = (int32_t)r->options.page_tokens;
    uint64_t hash = 0;
    for (int32_t at = 0; at + page_tokens <= q->prompt_count; at += page_tokens) {
        hash = chain(r, hash, q->salt, q->prompt + at);
        if (choice->prefill != MESSAGE_NO_WORKER) {
            remember(r, hash, choice->prefill);
        }
        if (choice->decode != MESSAGE_NO_WORKER) {
            remember(r, hash, choice->decode);
        }
    }
}

void router_forget_worker(router *r, uint32_t worker) {
    CHECK_LT(worker, LIMIT_WORKERS);
    for (uint32_t i = 0; i < r->slots; i++) {
        for (uint32_t k = 0; k < WAYS; k++) {
            if (r->prefixes[i].hash != 0 && r->prefixes[i].workers[k] == worker) {
                r->prefixes[i].workers[k] = NOBODY;
            }
        }
    }
}

static uint64_t pages_of(uint64_t tokens, uint32_t page_tokens) {
    return (tokens + page_tokens - 1) / page_tokens;
}

uint64_t router_pages_needed(const router_request *q, uint32_t page_tokens) {
    CHECK(page_tokens > 0);
    uint64_t prompt = (uint64_t)q->prompt_count;
    uint64_t most = prompt + (uint64_t)q->max_tokens;
    if (q->choices == 1) {
        return pages_of(most, page_tokens);
    }
    /* Whole pages of the prompt are shared; the rest is each choice's own. */
    uint64_t shared = prompt / page_tokens;
    return shared + (uint64_t)q->choices * (pages_of(most, page_tokens) - shared);
}

/* ---- what a worker can do ------------------------------------------------------------------- */

typedef enum { FIT_NEVER, FIT_LATER, FIT_NOW } fit;

static bool takes_work(const router_view *v, uint32_t role) {
    return v->up && !v->draining && (v->roles & role) != 0;
}

/* P needs room for what it computes: the prompt and what was delivered. */
static fit fits_prefill(const router *r, const router_view *v, const router_request *q) {
    uint64_t tokens = (uint64_t)q->prompt_count + (uint64_t)q->delivered;
    if (pages_of(tokens, r->options.page_tokens) > v->pages_total || tokens > v->context_tokens) {
        return FIT_NEVER;
    }
    return FIT_NOW;
}

/* A request larger than an empty pool would be preempted alone, for ever (PROTOCOL, gaps). What
 * does not fit at present queues on D. */
static fit fits_decode(const router *r, const router_view *v, const router_request *q) {
    uint64_t most = (uint64_t)q->prompt_count + (uint64_t)q->max_tokens;
    uint64_t pages = router_pages_needed(q, r->options.page_tokens);
    if (pages > v->pages_total || most > v->context_tokens) {
        return FIT_NEVER;
    }
    if (r->options.running_max > 0 && v->running + v->waiting >= r->options.running_max) {
        return FIT_LATER;
    }
    return FIT_NOW;
}

static int64_t compute_us(const router_view *v, uint64_t tokens) {
    uint64_t speed = v->tokens_per_second ? v->tokens_per_second : SPEED_UNKNOWN;
    return (int64_t)(tokens * 1000000 / speed);
}

/* Time until `v` has computed what is queued there and then this request. */
static int64_t prefill_us(const router_view *v, const router_request *q, int32_t cached) {
    uint64_t own = (uint64_t)(q->prompt_count + q->delivered - cached);
    return compute_us(v, v->queued_tokens) + compute_us(v, own);
}

typedef struct {
    uint32_t worker; /* MESSAGE_NO_WORKER: none fits now */
    int64_t cost_us;
    bool possible; /* some worker could hold it, if not now */
    bool exists;   /* some worker of the role takes work */
} pick;

static pick pick_prefill(const router *r, const router_view *views, uint32_t count,
                         const router_request *q, const int32_t *cached) {
    pick best = {.worker = MESSAGE_NO_WORKER};
    for (uint32_t w = 0; w < count; w++) {
        const router_view *v = &views[w];
        if (!takes_work(v, MESSAGE_ROLE_PREFILL)) {
            continue;
        }
        best.exists = true;
        if (fits_prefill(r, v, q) == FIT_NEVER) {
            continue;
        }
        best.possible = true;
        /* The last attempt's P may hold everything already. */
        int32_t held = w == q->prefill_last ? q->prompt_count - 1 : cached[w];
        int64_t cost = prefill_us(v, q, held);
        if (best.worker == MESSAGE_NO_WORKER || cost < best.cost_us) {
            best.worker = w;
            best.cost_us = cost;
        }
    }
    return best;
}

/* The wait for room weighs as much as the tokens others will still make there, and every running
 * request makes a step a little longer. Unequal terms in one unit: time per token. */
static int64_t decode_cost_us(const router *r, const router_view *v, const router_request *q,
                              int32_t cached) {
    int64_t step = v->step_us ? v->step_us : STEP_UNKNOWN_US;
    int64_t cost = step * (1 + (int64_t)v->running + 2 * (int64_t)v->waiting);
    uint64_t held = (uint64_t)cached / r->options.page_tokens;
    uint64_t now =
        pages_of((uint64_t)q->prompt_count + (uint64_t)q->delivered, r->options.page_tokens);
    now = now > held ? now - held : 0;
    cost += (int64_t)now * r->options.transfer_page_us;
    if (now > v->pages_free) {
        cost += step * 1000; /* it would queue until others end */
    }
    if (v->pages_total > 0) {
        cost += step * (int64_t)(v->pages_total - v->pages_free) / (int64_t)v->pages_total;
    }
    return cost;
}

static pick pick_decode(const router *r, const router_view *views, uint32_t count,
                        const router_request *q, const int32_t *cached) {
    pick best = {.worker = MESSAGE_NO_WORKER};
    bool best_avoided = false;
    for (uint32_t w = 0; w < count; w++) {
        const router_view *v = &views[w];
        if (!takes_work(v, MESSAGE_ROLE_DECODE)) {
            continue;
        }
        best.exists = true;
        fit f = fits_decode(r, v, q);
        best.possible = best.possible || f != FIT_NEVER;
        if (f != FIT_NOW) {
            continue;
        }
        bool avoided = w == q->decode_avoid;
        int64_t cost = decode_cost_us(r, v, q, cached[w]);
        bool better = avoided == best_avoided ? cost < best.cost_us : best_avoided;
        if (best.worker == MESSAGE_NO_WORKER || better) {
            best.worker = w;
            best.cost_us = cost;
            best_avoided = avoided;
        }
    }
    return best;
}

/* ---- choosing ------------------------------------------------------------------------------- */

static void choose_local(const router_view *views, const router_request *q, uint32_t decode,
                         const int32_t *cached, router_choice *out) {
    *out = (router_choice){
        .prefill = MESSAGE_NO_WORKER,
        .decode = decode,
        .cached_tokens = cached[decode],
        .predicted_us = prefill_us(&views[decode], q, cached[decode]),
    };
}

router_result router_choose(router *r, const router_view *views, uint32_t views_count,
                            const router_request *q, router_choice *out) {
    CHECK_LE(views_count, LIMIT_WORKERS);
    CHECK(q->prompt_count >= 1 && q->choices >= 1 && q->max_tokens >= 0);
    int32_t cached[LIMIT_WORKERS];
    cached_tokens(r, q, cached);
    pick p = pick_prefill(r, views, views_count, q, cached);
    if (q->prefill_only && p.worker != MESSAGE_NO_WORKER) {
        *out = (router_choice){p.worker, MESSAGE_NO_WORKER, cached[p.worker], p.cost_us};
        return ROUTER_CHOSEN;
    }
    pick d = pick_decode(r, views, views_count, q, cached);
    if (d.worker == MESSAGE_NO_WORKER) {
        return d.exists && !d.possible ? ROUTER_NEVER : ROUTER_NONE_NOW;
    }
    int32_t uncached = q->prompt_count + q->delivered - cached[d.worker];
    /* A worker of both roles computes straight into the pages it decodes from. Without a P that
     * could do it, any D does. */
    if ((views[d.worker].roles & MESSAGE_ROLE_PREFILL) != 0 || p.worker == MESSAGE_NO_WORKER ||
        uncached <= r->options.local_prefill_max) {
        choose_local(views, q, d.worker, cached, out);
        return ROUTER_CHOSEN;
    }
    *out = (router_choice){p.worker, d.worker, cached[p.worker], p.cost_us};
    return ROUTER_CHOSEN;
}
