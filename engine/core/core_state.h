/* core_state.h -- what the files behind core.h share: the engine's whole state.
 *
 * Purpose    One struct, so that the protocol's two sides (prefill.c, decode.c) and the scheduler
 *            (sched.c) are functions on the same state. Nothing outside engine/core includes it.
 * Ownership  Memory is the arena's.
 * Threads    The owner thread; see core.h.
 * Limits     core_options.
 */
#ifndef ENGINE_CORE_CORE_STATE_H
#define ENGINE_CORE_CORE_STATE_H

#include "engine/core/core.h"
#include "engine/core/links.h"
#include "engine/core/marks.h"
#include "engine/core/outbox.h"
#include "engine/core/prefix.h"
#include "engine/core/record.h"
#include "engine/core/tokenlog.h"

/* A sequence in a step in flight. */
typedef struct {
    record *record; /* stays in its place until the step ends, even if the request leaves */
    int32_t choice;
    int32_t rows;
    bool prompt; /* rows of the prompt, else one decode row */
} core_item;

typedef struct {
    bool in_flight;
    int64_t started_us;
    int32_t layers_done;
    int32_t prompt_rows;
    core_batch batch;
    int32_t *tokens;     /* [step_tokens_max] */
    core_seq *seqs;      /* [items_max] */
    core_item *items;    /* [items_max] one a seq */
    int32_t *logit_rows; /* [logit_rows_max] */
    core_want *wants;    /* [wants_max] */
    int32_t *want_items; /* [wants_max] the item each is of */
    core_copy *copies;   /* [copies_max] */
    int32_t items_max, wants_max, copies_max;
} core_step;

struct core {
    core_options options;
    blocks *blocks;
    prefix *prefix;
    record_table records;
    links links;
    outbox outbox;
    tokenlog log;
    marks tombstones[RECORD_ROLES];
    marks parked; /* grants that came before their SUBMIT */
    core_step steps[CORE_LANES];
    core_stats stats;
    stepmodel model;
    message unsent; /* where messages to links that are down are written */
    bool draining;
    uint32_t accepts;  /* roles of new requests */
    bool growth_waits; /* a decode row waits for pages that a step in flight will free: nobody else
                        * takes any before it */
    bool drained;      /* core_next has returned false since the last event */
    bool pump;         /* announcements or replays may be waiting to go out */
    int64_t now_us;    /* of the event being handled */
    int64_t tick_us;   /* when the next tick is due */
    int64_t beat_us;   /* when the next heartbeat is due */
    uint32_t *holders; /* [pages] scratch of core_validate and decode_yield */
    uint32_t *touched; /* [pages] scratch of core_validate */
};

static inline uint32_t core_lanes(const core_options *o) {
    return o->multiplex ? CORE_LANES : 1;
}

/* The options as they are given may leave it 0; core.options never does. */
static inline uint32_t core_block_pages(const core_options *o) {
    return o->block_pages > 0 ? o->block_pages : 1;
}

static inline bool core_stepping(const core *c) {
    bool any = false;
    for (uint32_t i = 0; i < CORE_LANES; i++) {
        any = any || c->steps[i].in_flight;
    }
    return any;
}

/* A message to a link, zeroed but for the type, request and attempt, to be filled in. Goes nowhere
 * when the link is down. */
message *core_send(core *c, uint32_t peer, message_type type, request_id request, uint32_t attempt);

/* Answers a message that cannot be acted on. core_close also tears down the link it came on: such a
 * message never comes from a correct peer. core_close_link does that alone. */
void core_reject(core *c, uint32_t peer, const message *about, message_reason reason);
void core_close(core *c, uint32_t peer, const message *about);
void core_close_link(core *c, uint32_t peer);

/* Pages of the blocks that `tokens` tokens need, and of those that they fill. */
static inline uint32_t core_pages_of(const core *c, int64_t tokens) {
    uint32_t block = c->options.block_pages;
    return (record_pages_of(tokens) + block - 1) / block * block;
}
static inline uint32_t core_whole_pages(const core *c, int32_t tokens) {
    uint32_t pages = (uint32_t)(tokens / LIMIT_PAGE_TOKENS);
    return pages - pages % c->options.block_pages;
}

/* Prompt tokens whose computing was saved; what D holds of a prompt that P computed saved none. */
static inline int32_t core_cached_told(const record *r) {
    return r->role == RECORD_PREFILL || r->local ? r->cached : 0;
}

/* What messages tell of a time; 0 when one of its ends is not known. */
static inline uint32_t core_span_us(int64_t from_us, int64_t to_us) {
    int64_t us = from_us > 0 && to_us > from_us ? to_us - from_us : 0;
    return us < UINT32_MAX ? (uint32_t)us : UINT32_MAX;
}

/* Tokens for the gateway, copied. The first tell how long the prompt took. */
void core_send_tokens(core *c, record *r, const request_token *tokens, int32_t count, bool done);

/* The request leaves: its pages are free, or quarantined while something touches them; late
 * messages will meet a tombstone. */
void core_leave(core *c, record *r);

/* Gives up all pages; the record stays. No step may be in flight with them. */
void core_drop_pages(core *c, record *r);

/* Makes the pages of the first `tokens` tokens of a choice findable, whole pages only. */
void core_register(core *c, record *r, int32_t choice, int32_t tokens);

/* Of a request's first `tokens` tokens, those whose KV the prefix cache may hold. */
int32_t core_cacheable(const core *c, const record *r, int32_t tokens);

/* Whether a SUBMIT or RESERVE makes sense here at all: NONE, or why not. */
message_reason core_check_submit(const core *c, const message_submit *s);

#endif
