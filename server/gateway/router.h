/* router.h -- chooses the workers of a request, as a pure function of what is known about them.
 *
 * Purpose    For one pending request: a pair (P, D), or D alone when the prompt's uncached part is
 *            short or there is no other way, or why not. P with the least predicted time to the
 *            first token (its queue, and the part of the prompt it does not have), D with the least
 *            predicted time of the answer (time per token, pages to be sent, room). Of those that
 *            cost about the same, the one that has had nothing for longest: load spreads, and
 *            nobody starves. Knows exactly which pages workers have, from what they tell.
 * Ownership  router_create takes its tables from the arena. Views are the caller's.
 * Threads    One thread (the gateway's loop).
 * Limits     workers_max views; pages_max names of pages and expected_max expected ones. Knowing
 *            less than is true costs time only.
 */
#ifndef SERVER_GATEWAY_ROUTER_H
#define SERVER_GATEWAY_ROUTER_H

#include "engine/base/arena.h"
#include "engine/core/message.h"
#include "server/gateway/pageindex.h"
#include "server/gateway/routecost.h"

typedef struct router router;

typedef routecost_view router_view;

/* The others are for comparison, and for finding out whether routing is to blame. */
typedef enum { ROUTER_COST, ROUTER_RANDOM, ROUTER_ROUND_ROBIN } router_policy;

typedef struct {
    uint32_t workers_max;      /* <= PAGEINDEX_WORKERS_MAX */
    uint32_t pages_max;        /* of the index of what workers have */
    uint32_t expected_max;     /* of pages that workers are about to have */
    uint32_t page_tokens;      /* of the workers' pages; LIMIT_PAGE_TOKENS */
    int32_t local_prefill_max; /* tokens; an uncached part not longer stays on D; 0: never */
    int64_t transfer_page_us;  /* exposed transfer time a page, for the prediction */
    uint32_t running_max;      /* requests a D decodes at once; 0: no bound */
    router_policy policy;
    uint64_t seed; /* of the random policy */
} router_options;

typedef struct {
    const int32_t *prompt; /* [prompt_count] */
    int32_t prompt_count;
    int32_t delivered; /* generated tokens that are sent along */
    int32_t max_tokens;
    int32_t choices;
    uint64_t salt;         /* prefixes are shared only inside it */
    uint64_t session;      /* its workers are preferred; 0: none */
    bool prefill_only;     /* no D needed */
    uint32_t prefill_last; /* worker or MESSAGE_NO_WORKER: may hold the prompt's pages */
    uint32_t decode_avoid; /* worker or MESSAGE_NO_WORKER: others first */
    int64_t now_us;
} router_request;

typedef enum {
    ROUTER_CHOSEN,
    ROUTER_NONE_NOW, /* no usable worker at present: stay pending */
    ROUTER_NEVER     /* larger than every worker that is up: refuse it */
} router_result;

typedef enum {
    ROUTER_PATH_PAIR,
    ROUTER_PATH_PREFILL_ONLY,     /* nothing is to be decoded */
    ROUTER_PATH_LOCAL_ROLES,      /* D computes prompts too */
    ROUTER_PATH_LOCAL_SHORT,      /* what D lacks is not worth a transfer */
    ROUTER_PATH_LOCAL_NO_PREFILL, /* there is no P */
    ROUTER_PATHS
} router_path;

/* Why the worker that computes the prompt. */
typedef enum {
    ROUTER_BY_ONE,     /* no other could */
    ROUTER_BY_CACHE,   /* cheapest, and has most of the prompt */
    ROUTER_BY_LOAD,    /* cheapest, though others have more of the prompt, or none has any */
    ROUTER_BY_TURN,    /* one of several that cost the same */
    ROUTER_BY_SESSION, /* cheapest, because it had the session's last request */
    ROUTER_BY_POLICY,  /* not by cost */
    ROUTER_REASONS
} router_reason;

/* prefill MESSAGE_NO_WORKER: local on decode. decode MESSAGE_NO_WORKER: P alone. */
typedef struct {
    uint32_t prefill;
    uint32_t decode;
    int32_t cached_tokens; /* on the worker that prefills */
    int64_t predicted_us;  /* time to the first token */
    int64_t compute_us;    /* of it, its own: what the queue grows by */
    router_path path;
    router_reason reason;
    uint64_t serial; /* of the router_choose that made it; 0: none did */
} router_choice;

typedef enum {
    ROUTER_FITS,
    ROUTER_AVOIDED, /* it refused this request before */
    ROUTER_BROKEN,  /* it failed too often lately */
    ROUTER_FULL,    /* has as many requests as it may */
    ROUTER_TOO_SMALL,
    ROUTER_FITNESSES
} router_fitness;

/* A worker that was looked at, and the terms of its cost. */
typedef struct {
    uint32_t worker;
    router_fitness fitness;
    int32_t cached_tokens;
    int64_t queue_us;    /* its prompts */
    int64_t compute_us;  /* this one */
    int64_t transfer_us; /* D: pages to be sent there */
    int64_t token_us;    /* D: a token of the answer */
    int64_t room_us;     /* D: until there are pages */
    int64_t session_us;  /* taken off */
    int64_t cost_us;
} router_candidate;

typedef struct {
    router_result result;
    router_choice choice; /* when chosen */
    const router_candidate *prefill, *decode;
    uint32_t prefill_count, decode_count;
} router_explanation;

uint64_t router_bytes(const router_options *options);
MUST_USE status router_create(arena *a, const router_options *options, router **out);

/* Chooses; does not remember. `views` is indexed by worker number, views_count <= workers_max. */
router_result router_choose(router *r, const router_view *views, uint32_t views_count,
                            const router_request *request, router_choice *out);

/* What the last router_choose saw; until the next. */
const router_explanation *router_last(const router *r);

/* Says that the choice was taken: its workers will hold the prompt's prefix soon. */
void router_remember(router *r, const router_request *request, const router_choice *choice);

/* The choice adds to what its workers have to do. */
void router_charge(router_view *views, const router_choice *choice, const router_request *request,
                   uint32_t page_tokens);

/* A worker told what its cache has gained and lost. False: something is missing, ask it for all
 * (RESYNC). */
bool router_cached(router *r, uint32_t worker, const message_cached *told);
/* The same by what a HEARTBEAT says was told last. */
bool router_cached_all(router *r, uint32_t worker, uint64_t sequence);

/* The worker restarted: what it held is gone. */
void router_forget_worker(router *r, uint32_t worker);

/* A message about a request came from it: progress, or a failure of its own. */
void router_heard(router *r, uint32_t worker, const message *m, int64_t now_us);
/* Its link ended while it served. */
void router_failed(router *r, uint32_t worker, int64_t now_us);

/* Pages that a request can need at most: prompt, and every choice's tokens. */
uint64_t router_pages_needed(const router_request *request, uint32_t page_tokens);

pageindex_counts router_index_count(const router *r);
/* The index itself, for tests. */
const pageindex *router_index(const router *r);

const char *router_path_name(router_path p);
const char *router_reason_name(router_reason r);
const char *router_fitness_name(router_fitness f);

#endif
