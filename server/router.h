/* router.h -- chooses the workers of a request, as a pure function of what is known about them.
 *
 * Purpose    For one pending request: a pair (P, D), or D alone when the prompt's uncached part is
 *            short or there is no other way, or why not. P with the least predicted time to the
 *            first token, D by room for KV and load. Remembers, in a bounded table, which worker
 *            served which prompt prefix, and credits it with those pages.
 * Ownership  router_create takes its table from the arena. Views are the caller's.
 * Threads    One thread (the gateway's loop).
 * Limits     LIMIT_WORKERS views; prefixes_max remembered pages, the oldest in a set forgotten
 *            first. Affinity is a guess (workers evict on their own): being wrong costs time only.
 */
#ifndef SERVER_ROUTER_H
#define SERVER_ROUTER_H

#include "engine/base/arena.h"
#include "engine/base/hash.h"
#include "engine/core/message.h"

typedef struct router router;

typedef struct {
    uint32_t prefixes_max;     /* pages remembered; rounded up to a power of two */
    uint32_t page_tokens;      /* of the workers' pages */
    int32_t local_prefill_max; /* tokens; an uncached part not longer stays on D; 0: never */
    int64_t transfer_page_us;  /* exposed transfer time a page, for the prediction */
    uint32_t running_max;      /* requests a D decodes at once; 0: no bound */
    hash_key key;              /* keeps clients from constructing collisions */
} router_options;

/* A worker as the gateway knows it: its HELLO, last HEARTBEAT, and what was sent to it since. */
typedef struct {
    bool up;
    bool draining;
    uint32_t roles; /* MESSAGE_ROLE_* bits */
    uint32_t pages_total;
    uint32_t pages_free;
    uint32_t context_tokens;
    uint32_t running;           /* requests with work */
    uint32_t waiting;           /* requests queued */
    uint64_t queued_tokens;     /* prompt tokens not yet computed, with those just sent */
    uint32_t tokens_per_second; /* prefill speed; 0: not known yet */
    uint32_t step_us;           /* 0: not known yet */
} router_view;

typedef struct {
    const int32_t *prompt; /* [prompt_count] */
    int32_t prompt_count;
    int32_t delivered; /* generated tokens that are sent along */
    int32_t max_tokens;
    int32_t choices;
    uint64_t salt;         /* prefixes are shared only inside it */
    bool prefill_only;     /* no D needed */
    uint32_t prefill_last; /* worker or MESSAGE_NO_WORKER: may hold the prompt's pages */
    uint32_t decode_avoid; /* worker or MESSAGE_NO_WORKER: others first */
} router_request;

typedef enum {
    ROUTER_CHOSEN,
    ROUTER_NONE_NOW, /* no usable worker at present: stay pending */
    ROUTER_NEVER     /* larger than every worker that is up: refuse it */
} router_result;

/* prefill MESSAGE_NO_WORKER: local on decode. decode MESSAGE_NO_WORKER: P alone. */
typedef struct {
    uint32_t prefill;
    uint32_t decode;
    int32_t cached_tokens; /* guessed, on the worker that prefills */
    int64_t predicted_us;  /* time to the first token */
} router_choice;

MUST_USE status router_create(arena *a, const router_options *options, router **out);

/* Chooses; does not remember. `views` is indexed by worker number. */
router_result router_choose(router *r, const router_view *views, uint32_t views_count,
                            const router_request *request, router_choice *out);

/* Says that the choice was taken: its workers will hold the prompt's prefix from now on. */
void router_remember(router *r, const router_request *request, const router_choice *choice);

/* The worker restarted: what it held is gone. */
void router_forget_worker(router *r, uint32_t worker);

/* Pages that a request can need at most: prompt, and every choice's tokens. */
uint64_t router_pages_needed(const router_request *request, uint32_t page_tokens);

#endif
