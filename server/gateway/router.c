/* router.c -- least predicted time to the first token for P, least time of the answer for D.
 *
 * (Predicted cost with exact prefix hits is how Dynamo and Mooncake route: Qin et al., "Mooncake",
 * FAST 2025, algorithm 1. That near-equals take turns is what keeps a cold worker from starving.)
 */
#include "server/gateway/router.h"

#include "engine/base/check.h"
#include "engine/base/rng.h"
#include "engine/core/pagename.h"
#include "server/gateway/breaker.h"
#include "server/gateway/routememo.h"

enum {
    EXPECTED_TOKENS = 128,      /* of an answer: what a D's time per token is weighed with */
    NO_ROOM_TOKENS = 1000,      /* waiting for others to end is like so many tokens */
    EXPECTED_MORE_US = 2000000, /* after its predicted time a worker has told, or has not got it */
    EXPECTED_PAGES = 512,       /* of one prompt that are remembered at a dispatch */
    AHEAD = 8,                  /* names made, and asked of memory, before they are looked up */
    SESSION_SHARE = 16,         /* a session's worker may cost this part more */
    SESSION_US_MAX = 20000,
    SAME_SHARE = 64, /* costs this near are the same */
    SAME_US = 200
};

enum { AS_PREFILL, AS_DECODE, SIDES };

/* What is known of a worker beside its view. */
typedef struct {
    breaker breaker;
    uint64_t sequence; /* of its last CACHED */
    bool synced;       /* the index has what it told, all of it */
    uint64_t turn[SIDES];
} known;

struct router {
    router_options options;
    pageindex *index;
    routememo memo;
    known *known;                        /* [workers_max] */
    uint32_t *held;                      /* [workers_max] pages of the prompt at hand */
    router_candidate *candidates[SIDES]; /* [workers_max] */
    router_explanation last;
    uint64_t names[EXPECTED_PAGES]; /* [names_count] of the first pages of the prompt at hand */
    uint32_t names_count;
    uint64_t serial; /* of the last router_choose */
    uint64_t turn;   /* requests remembered */
    uint64_t random;
};

uint64_t router_bytes(const router_options *o) {
    return sizeof(router) + pageindex_bytes(o->workers_max, o->pages_max) +
           routememo_bytes(o->expected_max) +
           (uint64_t)o->workers_max *
               (sizeof(known) + sizeof(uint32_t) + SIDES * sizeof(router_candidate)) +
           4096;
}

status router_create(arena *a, const router_options *options, router **out) {
    CHECK_EQ(options->page_tokens, LIMIT_PAGE_TOKENS);
    CHECK(options->workers_max >= 1 && options->workers_max <= PAGEINDEX_WORKERS_MAX);
    router *r = ARENA_TAKE(a, 1, router);
    if (r == NULL) {
        return STATUS_NOMEM;
    }
    *r = (router){.options = *options, .random = options->seed};
    TRY(pageindex_create(a, options->workers_max, options->pages_max, &r->index));
    TRY(routememo_open(&r->memo, a, options->expected_max));
    r->known = ARENA_TAKE(a, options->workers_max, known);
    r->held = ARENA_TAKE(a, options->workers_max, uint32_t);
    for (int side = 0; side < SIDES; side++) {
        r->candidates[side] = ARENA_TAKE(a, options->workers_max, router_candidate);
    }
    if (!r->known || !r->held || !r->candidates[AS_PREFILL] || !r->candidates[AS_DECODE]) {
        return STATUS_NOMEM;
    }
    *out = r;
    return STATUS_OK;
}

/* ---- who has what --------------------------------------------------------------------------- */

/* Those of `set` that are not in `still` had `pages` pages. */
static void note_held(router *r, const pageindex_set *set, const pageindex_set *still,
                      uint32_t pages) {
    for (uint32_t i = 0; i < PAGEINDEX_WORDS; i++) {
        uint64_t gone = set->workers[i] & (still ? ~still->workers[i] : UINT64_MAX);
        for (; gone; gone &= gone - 1) {
            uint32_t worker = i * 64 + (uint32_t)__builtin_ctzll(gone);
            if (worker < r->options.workers_max) {
                r->held[worker] = pages;
            }
        }
    }
}

/* One page on: false when nobody has all up to here. */
static bool walk_page(router *r, uint64_t name, int64_t now_us, uint32_t page, pageindex_set *set) {
    pageindex_set holders = {{0}};
    pageindex_holders(r->index, name, &holders);
    routememo_holders(&r->memo, name, now_us, &holders);
    uint64_t any = 0;
    for (uint32_t i = 0; i < PAGEINDEX_WORDS; i++) {
        holders.workers[i] &= page == 0 ? UINT64_MAX : set->workers[i];
        any |= holders.workers[i];
    }
    if (page > 0) {
        note_held(r, set, &holders, page);
    }
    *set = holders;
    return any != 0;
}

/* held[w]: leading pages of the prompt that w has, or is expected to. The last token is always
 * computed: its logits are wanted. */
static void find_held(router *r, const router_request *q) {
    for (uint32_t w = 0; w < r->options.workers_max; w++) {
        r->held[w] = 0;
    }
    r->names_count = 0;
    uint32_t pages = (uint32_t)(q->prompt_count - 1) / LIMIT_PAGE_TOKENS;
    uint64_t names[AHEAD], name = 0;
    pageindex_set set;
    for (uint32_t page = 0; page < pages; page++) {
        for (uint32_t k = 0; page % AHEAD == 0 && k < AHEAD && page + k < pages; k++) {
            name = pagename_next(name, q->salt, q->prompt + (size_t)(page + k) * LIMIT_PAGE_TOKENS);
            names[k] = name;
            if (page + k < EXPECTED_PAGES) {
                r->names[page + k] = name;
                r->names_count = page + k + 1;
            }
            pageindex_prefetch(r->index, name);
            routememo_prefetch(&r->memo, name);
        }
        if (!walk_page(r, names[page % AHEAD], q->now_us, page, &set)) {
            return;
        }
    }
    if (pages > 0) {
        note_held(r, &set, NULL, pages);
    }
}

void router_remember(router *r, const router_request *q, const router_choice *choice) {
    const uint32_t workers[SIDES] = {choice->prefill, choice->decode};
    int64_t until_us = q->now_us + choice->predicted_us + EXPECTED_MORE_US;
    uint32_t pages = (uint32_t)q->prompt_count / LIMIT_PAGE_TOKENS;
    uint32_t named = choice->serial != 0 && choice->serial == r->serial ? r->names_count : 0;
    uint64_t name = 0;
    for (uint32_t page = 0; page < pages && page < EXPECTED_PAGES; page++) {
        name = page < named
                   ? r->names[page]
                   : pagename_next(name, q->salt, q->prompt + (size_t)page * LIMIT_PAGE_TOKENS);
        for (int side = 0; side < SIDES; side++) {
            if (workers[side] != MESSAGE_NO_WORKER) {
                routememo_expect(&r->memo, name, workers[side], q->now_us, until_us);
            }
        }
    }
    r->turn++;
    for (int side = 0; side < SIDES; side++) {
        if (workers[side] != MESSAGE_NO_WORKER) {
            r->known[workers[side]].turn[side] = r->turn;
            breaker_sent(&r->known[workers[side]].breaker, q->now_us);
        }
    }
    routememo_session_set(&r->memo, (routememo_session){q->session, (uint16_t)choice->prefill,
                                                        (uint16_t)choice->decode});
}

bool router_cached(router *r, uint32_t worker, const message_cached *told) {
    CHECK_LT(worker, r->options.workers_max);
    known *k = &r->known[worker];
    bool gap = told->sequence != k->sequence + 1;
    k->sequence = told->sequence;
    if (told->snapshot || gap) {
        pageindex_forget(r->index, worker);
        k->synced = told->snapshot;
    }
    for (uint32_t i = 0; i < told->count && k->synced; i++) {
        uint64_t name = told->pages[i] & ~1ull;
        if (name == 0) {
            continue; /* no page's name */
        }
        if (told->pages[i] & 1) {
            pageindex_gain(r->index, worker, name);
        } else {
            pageindex_lose(r->index, worker, name);
        }
    }
    return k->synced;
}

bool router_cached_all(router *r, uint32_t worker, uint64_t sequence) {
    CHECK_LT(worker, r->options.workers_max);
    known *k = &r->known[worker];
    if (sequence == k->sequence) {
        return true; /* or everything was asked for, and is on its way */
    }
    pageindex_forget(r->index, worker);
    k->sequence = sequence;
    k->synced = false;
    return false;
}

void router_forget_worker(router *r, uint32_t worker) {
    CHECK_LT(worker, r->options.workers_max);
    pageindex_forget(r->index, worker);
    routememo_forget(&r->memo, worker);
    r->known[worker].sequence = 0;
    r->known[worker].synced = false;
}

void router_failed(router *r, uint32_t worker, int64_t now_us) {
    CHECK_LT(worker, r->options.workers_max);
    breaker_failed(&r->known[worker].breaker, now_us);
}

void router_heard(router *r, uint32_t worker, const message *m, int64_t now_us) {
    CHECK_LT(worker, r->options.workers_max);
    bool draining = m->reason == MESSAGE_REASON_DRAINING || m->reason == MESSAGE_REASON_GONE ||
                    m->reason == MESSAGE_REASON_ROLE;
    if (m->type == MESSAGE_TOKENS || m->type == MESSAGE_ADOPTED) {
        breaker_succeeded(&r->known[worker].breaker);
    } else if (m->type == MESSAGE_LINK_LOST && m->worker < r->options.workers_max) {
        router_failed(r, m->worker, now_us);
    } else if (m->type == MESSAGE_REJECT && !draining) {
        router_failed(r, worker, now_us);
    }
}

pageindex_counts router_index_count(const router *r) {
    return pageindex_count(r->index);
}

const pageindex *router_index(const router *r) {
    return r->index;
}

/* ---- what a worker can do ------------------------------------------------------------------- */

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

static bool takes_work(const router_view *v, uint32_t role) {
    return v->up && !v->draining && (v->roles & role) != 0;
}

/* P needs room for what it computes: the prompt and what was delivered. */
static bool fits_prefill(const router *r, const router_view *v, const router_request *q) {
    uint64_t tokens = (uint64_t)q->prompt_count + (uint64_t)q->delivered;
    return pages_of(tokens, r->options.page_tokens) <= v->pages_total &&
           tokens <= v->context_tokens;
}

/* A request larger than an empty pool would be preempted alone, for ever (PROTOCOL, gaps). What
 * does not fit at present queues on D. */
static router_fitness fits_decode(const router *r, const router_view *v, const router_request *q) {
    uint64_t most = (uint64_t)q->prompt_count + (uint64_t)q->max_tokens;
    uint64_t pages = router_pages_needed(q, r->options.page_tokens);
    if (pages > v->pages_total || most > v->context_tokens) {
        return ROUTER_TOO_SMALL;
    }
    if (r->options.running_max > 0 && v->running + v->waiting >= r->options.running_max) {
        return ROUTER_FULL;
    }
    return ROUTER_FITS;
}

static router_fitness fitness_of(const router *r, uint32_t w, const router_request *q) {
    return breaker_allows(&r->known[w].breaker, q->now_us) ? ROUTER_FITS : ROUTER_BROKEN;
}

/* ---- candidates and their cost -------------------------------------------------------------- */

/* What it has of the prompt. The last attempt's P may hold everything already. */
static int32_t cached_on(const router *r, const router_request *q, uint32_t w) {
    return w == q->prefill_last ? q->prompt_count - 1 : (int32_t)(r->held[w] * LIMIT_PAGE_TOKENS);
}

static void cost_prefill(const router *r, const router_view *v, const routecost_reference *ref,
                         const router_request *q, router_candidate *c) {
    c->cached_tokens = cached_on(r, q, c->worker);
    int64_t own = (int64_t)q->prompt_count + q->delivered - c->cached_tokens;
    c->queue_us = routecost_queue_us(v, ref, q->now_us);
    c->compute_us = routecost_prefill_us(v, ref, own, c->cached_tokens);
}

static void cost_decode(const router *r, const router_view *v, const routecost_reference *ref,
                        const router_request *q, router_candidate *c) {
    uint32_t page_tokens = r->options.page_tokens;
    int64_t context = (int64_t)q->prompt_count + q->delivered;
    uint64_t held = r->held[c->worker];
    uint64_t now = pages_of((uint64_t)context, page_tokens);
    now = now > held ? now - held : 0;
    c->cached_tokens = (int32_t)(held * page_tokens);
    c->token_us = routecost_token_us(v, ref, context, page_tokens);
    if (takes_work(v, MESSAGE_ROLE_PREFILL)) {
        cost_prefill(r, v, ref, q, c); /* it will compute the prompt itself */
    } else {
        c->transfer_us = (int64_t)now * r->options.transfer_page_us;
    }
    c->room_us = now > v->pages_free ? c->token_us * NO_ROOM_TOKENS : 0;
}

static int64_t total_us(const router_request *q, const router_candidate *c) {
    int64_t tokens = q->max_tokens < EXPECTED_TOKENS ? q->max_tokens : EXPECTED_TOKENS;
    return c->queue_us + c->compute_us + c->transfer_us + c->room_us + c->token_us * tokens;
}

static void apply_session(const router *r, const router_request *q, int side, router_candidate *c) {
    routememo_session s = routememo_session_of(&r->memo, q->session);
    if (c->worker == (side == AS_PREFILL ? s.prefill : s.decode)) {
        int64_t us = c->cost_us / SESSION_SHARE;
        c->session_us = us < SESSION_US_MAX ? us : SESSION_US_MAX;
        c->cost_us -= c->session_us;
    }
}

/* ---- picking -------------------------------------------------------------------------------- */

typedef struct {
    const router_candidate *best; /* NULL: none fits now */
    router_reason reason;
    bool possible; /* some worker could hold it, if not now */
    bool exists;   /* some worker of the role takes work */
} pick;

/* Whoever has had nothing for longest, of those like the best. */
static const router_candidate *take_turn(const router *r, int side, uint32_t count,
                                         router_fitness fitness, int64_t most_us, uint32_t *like) {
    const router_candidate *best = NULL;
    *like = 0;
    for (uint32_t i = 0; i < count; i++) {
        const router_candidate *c = &r->candidates[side][i];
        if (c->fitness != fitness || c->cost_us > most_us) {
            continue;
        }
        ++*like;
        if (!best || r->known[c->worker].turn[side] < r->known[best->worker].turn[side]) {
            best = c;
        }
    }
    return best;
}

static const router_candidate *at_random(router *r, int side, uint32_t count,
                                         router_fitness fitness) {
    uint32_t fit = 0;
    for (uint32_t i = 0; i < count; i++) {
        fit += r->candidates[side][i].fitness == fitness;
    }
    uint64_t left = rng_below(&r->random, fit);
    const router_candidate *c = r->candidates[side];
    while (c->fitness != fitness || left-- > 0) {
        c++;
    }
    return c;
}

static router_reason reason_of(const router *r, int side, uint32_t count, const router_candidate *c,
                               uint32_t fit, uint32_t like) {
    if (fit == 1) {
        return ROUTER_BY_ONE;
    }
    if (c->session_us > 0) {
        return ROUTER_BY_SESSION;
    }
    if (like > 1) {
        return ROUTER_BY_TURN;
    }
    for (uint32_t i = 0; i < count; i++) {
        if (r->candidates[side][i].cached_tokens > c->cached_tokens) {
            return ROUTER_BY_LOAD;
        }
    }
    return c->cached_tokens > 0 ? ROUTER_BY_CACHE : ROUTER_BY_LOAD;
}

/* Those that fit; if none, those that refused it; if none, those that are broken: a request never
 * waits for nothing. */
static pick pick_best(router *r, int side, uint32_t count) {
    pick p = {.best = NULL, .exists = count > 0};
    router_fitness fitness = ROUTER_FITNESSES;
    int64_t least = INT64_MAX;
    uint32_t fit = 0, like = 0;
    for (uint32_t i = 0; i < count; i++) {
        const router_candidate *c = &r->candidates[side][i];
        p.possible = p.possible || c->fitness != ROUTER_TOO_SMALL;
        if (c->fitness > ROUTER_BROKEN || c->fitness > fitness) {
            continue;
        }
        if (c->fitness < fitness) {
            fitness = c->fitness;
            least = INT64_MAX;
            fit = 0;
        }
        fit++;
        least = c->cost_us < least ? c->cost_us : least;
    }
    if (fit == 0) {
        return p;
    }
    if (r->options.policy == ROUTER_RANDOM) {
        p.best = at_random(r, side, count, fitness);
        p.reason = ROUTER_BY_POLICY;
    } else if (r->options.policy == ROUTER_ROUND_ROBIN) {
        p.best = take_turn(r, side, count, fitness, INT64_MAX, &like);
        p.reason = ROUTER_BY_POLICY;
    } else {
        p.best = take_turn(r, side, count, fitness, least + least / SAME_SHARE + SAME_US, &like);
        p.reason = reason_of(r, side, count, p.best, fit, like);
    }
    return p;
}

static pick pick_prefill(router *r, const router_view *views, uint32_t views_count,
                         const routecost_reference *ref, const router_request *q) {
    uint32_t count = 0;
    for (uint32_t w = 0; w < views_count; w++) {
        if (!takes_work(&views[w], MESSAGE_ROLE_PREFILL)) {
            continue;
        }
        router_candidate *c = &r->candidates[AS_PREFILL][count++];
        *c = (router_candidate){.worker = w, .fitness = fitness_of(r, w, q)};
        if (!fits_prefill(r, &views[w], q)) {
            c->fitness = ROUTER_TOO_SMALL;
            continue;
        }
        cost_prefill(r, &views[w], ref, q, c);
        c->cost_us = c->queue_us + c->compute_us;
        apply_session(r, q, AS_PREFILL, c);
    }
    r->last.prefill_count = count;
    return pick_best(r, AS_PREFILL, count);
}

static pick pick_decode(router *r, const router_view *views, uint32_t views_count,
                        const routecost_reference *ref, const router_request *q) {
    uint32_t count = 0;
    for (uint32_t w = 0; w < views_count; w++) {
        if (!takes_work(&views[w], MESSAGE_ROLE_DECODE)) {
            continue;
        }
        router_candidate *c = &r->candidates[AS_DECODE][count++];
        *c = (router_candidate){.worker = w, .fitness = fits_decode(r, &views[w], q)};
        if (c->fitness != ROUTER_FITS) {
            continue;
        }
        c->fitness = fitness_of(r, w, q);
        if (c->fitness == ROUTER_FITS && w == q->decode_avoid) {
            c->fitness = ROUTER_AVOIDED;
        }
        cost_decode(r, &views[w], ref, q, c);
        c->cost_us = total_us(q, c);
        apply_session(r, q, AS_DECODE, c);
    }
    r->last.decode_count = count;
    return pick_best(r, AS_DECODE, count);
}

/* ---- choosing ------------------------------------------------------------------------------- */

static router_choice local_choice(const router_view *views, const routecost_reference *ref,
                                  const router_request *q, const pick *d, router_path path) {
    const router_view *v = &views[d->best->worker];
    int32_t cached = d->best->cached_tokens;
    int64_t own = (int64_t)q->prompt_count + q->delivered - cached;
    int64_t compute_us = routecost_prefill_us(v, ref, own, cached);
    return (router_choice){
        .prefill = MESSAGE_NO_WORKER,
        .decode = d->best->worker,
        .cached_tokens = cached,
        .predicted_us = routecost_queue_us(v, ref, q->now_us) + compute_us,
        .compute_us = compute_us,
        .path = path,
        .reason = d->reason,
    };
}

static router_choice pair_choice(const pick *p, uint32_t decode, router_path path) {
    const router_candidate *c = p->best;
    return (router_choice){
        .prefill = c->worker,
        .decode = decode,
        .cached_tokens = c->cached_tokens,
        .predicted_us = c->queue_us + c->compute_us,
        .compute_us = c->compute_us,
        .path = path,
        .reason = p->reason,
    };
}

static router_result choose(router *r, const router_view *views, uint32_t views_count,
                            const router_request *q, router_choice *out) {
    routecost_reference ref = routecost_refer(views, views_count, q->now_us);
    find_held(r, q);
    pick p = pick_prefill(r, views, views_count, &ref, q);
    if (q->prefill_only && p.best) {
        *out = pair_choice(&p, MESSAGE_NO_WORKER, ROUTER_PATH_PREFILL_ONLY);
        return ROUTER_CHOSEN;
    }
    pick d = pick_decode(r, views, views_count, &ref, q);
    if (!d.best) {
        return d.exists && !d.possible ? ROUTER_NEVER : ROUTER_NONE_NOW;
    }
    /* A worker of both roles computes straight into the pages it decodes from. Without a P that
     * could do it, any D does. */
    int64_t lacking = (int64_t)q->prompt_count + q->delivered -
                      (int64_t)r->held[d.best->worker] * LIMIT_PAGE_TOKENS;
    if (views[d.best->worker].roles & MESSAGE_ROLE_PREFILL) {
        *out = local_choice(views, &ref, q, &d, ROUTER_PATH_LOCAL_ROLES);
    } else if (!p.best) {
        *out = local_choice(views, &ref, q, &d, ROUTER_PATH_LOCAL_NO_PREFILL);
    } else if (lacking <= r->options.local_prefill_max) {
        *out = local_choice(views, &ref, q, &d, ROUTER_PATH_LOCAL_SHORT);
    } else {
        *out = pair_choice(&p, d.best->worker, ROUTER_PATH_PAIR);
    }
    return ROUTER_CHOSEN;
}

router_result router_choose(router *r, const router_view *views, uint32_t views_count,
                            const router_request *q, router_choice *out) {
    CHECK_LE(views_count, r->options.workers_max);
    CHECK(q->prompt_count >= 1 && q->choices >= 1 && q->max_tokens >= 0 && q->now_us >= 0);
    r->last = (router_explanation){.prefill = r->candidates[AS_PREFILL],
                                   .decode = r->candidates[AS_DECODE]};
    r->last.result = choose(r, views, views_count, q, out);
    r->serial++;
    if (r->last.result == ROUTER_CHOSEN) {
        out->serial = r->serial;
        r->last.choice = *out;
    }
    return r->last.result;
}

const router_explanation *router_last(const router *r) {
    return &r->last;
}

void router_charge(router_view *views, const router_choice *choice, const router_request *q,
                   uint32_t page_tokens) {
    uint64_t tokens = (uint64_t)q->prompt_count + (uint64_t)q->delivered;
    if (choice->prefill != MESSAGE_NO_WORKER) {
        routecost_sent_prompt(&views[choice->prefill], tokens, choice->compute_us, q->now_us);
    }
    if (choice->decode != MESSAGE_NO_WORKER) {
        router_view *v = &views[choice->decode];
        routecost_sent_decode(v, pages_of(tokens, page_tokens) + 1);
        if (choice->prefill == MESSAGE_NO_WORKER) {
            routecost_sent_prompt(v, tokens, choice->compute_us, q->now_us);
            v->waiting--; /* it counts as running already */
        }
    }
}

/* ---- names ---------------------------------------------------------------------------------- */

const char *router_path_name(router_path p) {
    static const char *const names[ROUTER_PATHS] = {"pair", "prefill-only", "local-roles",
                                                    "local-short", "local-no-prefill"};
    return p < ROUTER_PATHS ? names[p] : "?";
}

const char *router_reason_name(router_reason r) {
    static const char *const names[ROUTER_REASONS] = {"only-one", "cache",   "load",
                                                      "turn",     "session", "policy"};
    return r < ROUTER_REASONS ? names[r] : "?";
}

const char *router_fitness_name(router_fitness f) {
    static const char *const names[ROUTER_FITNESSES] = {"fits", "avoided", "broken", "full",
                                                        "too-small"};
    return f < ROUTER_FITNESSES ? names[f] : "?";
}
