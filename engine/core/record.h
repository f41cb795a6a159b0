/* record.h -- the requests of a worker: what it knows of each, and which pages each holds.
 *
 * Purpose    One record a (role, request): its prompt and parameters, its place in the protocol,
 *            its block tables. Prefill and decode records live in one table and two lists: first
 *            requests that go on (their clients have tokens already), then new ones, each in the
 *            order of arrival.
 * Ownership  Memory is the arena's. A record holds one reference to each page of each block table.
 * Threads    The owner thread of the core. What a batch points to (tokens, params, block tables) is
 *            not changed while a step is in flight; a record that leaves then stays in its place
 *            until the step ends (RECORD_GONE), its pages quarantined.
 * Limits     record_options.
 */
#ifndef ENGINE_CORE_RECORD_H
#define ENGINE_CORE_RECORD_H

#include "engine/base/hash.h"
#include "engine/base/slab.h"
#include "engine/core/message.h"
#include "engine/core/prefix.h"

typedef enum { RECORD_PREFILL, RECORD_DECODE, RECORD_ROLES } record_role;

typedef enum {
    RECORD_GONE,     /* left while a step reads it */
    RECORD_WORK,     /* prefill */
    RECORD_QUEUED,   /* decode: waits for room */
    RECORD_RESERVED, /* decode: granted, receiving */
    RECORD_DECODING  /* decode: adopted, or computing the prompt itself */
} record_state;

enum { RECORD_NONE = UINT32_MAX };

/* One choice. On P only the first has pages. */
typedef struct {
    uint32_t *pages; /* [pages_count] block table, of whole blocks (blocks.h) */
    uint32_t pages_count;
    uint32_t spare;     /* which spare table and buffer it took; RECORD_NONE: the record's own */
    int32_t *generated; /* [generated_count] */
    int32_t generated_count;
    int32_t replay_next; /* index of the next token to tell again; == generated_count: none */
    request_end end;
} record_seq;

typedef struct record record;
struct record {
    slab_handle self;
    record_role role;
    record_state state;
    request_id request;
    uint32_t attempt;
    uint32_t gateway; /* link */
    uint32_t peer;    /* link to the other worker; RECORD_NONE: none, or not any more */
    uint64_t order;   /* smaller is older: of arrival, after those that go on from elsewhere */
    record *next, *previous;
    int64_t lease_us;    /* when it ends */
    int64_t deadline_us; /* decode, queued: when it ends */
    uint64_t salt;
    /* For traces: when it came, when its prompt was begun (D of a pair: its first pages were
     * announced), and, on D, when it had room. 0: not yet, or told already. */
    int64_t since_us, begun_us, room_us;
    int32_t prompt_count;
    int32_t tokens_count; /* prompt and what was delivered before this record */
    int32_t *tokens;      /* [context_tokens + 1]; the first choice goes on in it */
    int32_t computed;     /* tokens whose KV is in the pages */
    int32_t cached;       /* of them found in the prefix cache */
    prefix_chain chain;   /* how far the pages are known to the prefix cache */
    bool in_step;
    int32_t step_rows; /* rows of its prompt in the step in flight */
    bool local;        /* computes its prompt and decodes here; P: has no D */

    /* prefill */
    bool granted, handed, sampled;
    bool first_told;      /* the first tokens went to the gateway under this attempt */
    uint32_t groups;      /* announced */
    uint32_t page_next;   /* the range under way starts here */
    uint32_t range_pages; /* of the range under way; 0: none */
    uint32_t layer_next;  /* of the range under way */
    bool range_whole;     /* the range was fully computed when it was opened */
    request_token first[LIMIT_CHOICES];

    /* decode. The cursor above says what was announced; arrived counts what came. */
    uint32_t arrived;
    uint32_t handoff_groups; /* 0: no HANDOFF yet */
    uint32_t prefix_pages;   /* held already when granted */
    bool fork_pending;       /* the choices' own last pages still have to be copied */

    record_seq seqs[LIMIT_CHOICES];
    request_params params;
};

typedef struct {
    uint32_t count_max;  /* records, those of a step in flight included */
    uint32_t spares_max; /* choices beside the first of each record */
    int32_t context_tokens;
    uint32_t block_pages;
    uint32_t lives_max[RECORD_ROLES];
} record_options;

typedef struct {
    slab slab;
    hash_table by_request[RECORD_ROLES];
    record *first[RECORD_ROLES], *last[RECORD_ROLES];
    uint32_t lives[RECORD_ROLES];
    record_options options;
    uint32_t seq_pages_max;
    uint64_t order_next;
    int32_t *tokens;       /* [count_max, context_tokens + 1] */
    uint32_t *pages;       /* [count_max, seq_pages_max] */
    int32_t *spare_tokens; /* [spares_max, context_tokens + 1] */
    uint32_t *spare_pages; /* [spares_max, seq_pages_max] */
    uint32_t *spares_free; /* [spares_free_count] */
    uint32_t spares_free_count;
} record_table;

uint64_t record_bytes(const record_options *options);
MUST_USE status record_open(record_table *t, arena *a, const record_options *options);

/* A new record for the message at the end of its kind (see above), or in `before`'s place and with
 * its order if that is of its kind; tokens and params are copied. NULL when the role has all it
 * may. The request has no live record of this role, except `before`. */
record *record_add(record_table *t, record_role role, const message *m, record *before);

/* The live record, or NULL. */
record *record_find(const record_table *t, record_role role, request_id request);
record *record_get(const record_table *t, slab_handle h);

/* Takes it out of the lists and of sight; record_free gives the slot back. */
void record_unlink(record_table *t, record *r);
void record_free(record_table *t, record *r);

/* A table and a buffer for a choice beside the first. False: none left. */
bool record_seq_open(record_table *t, record *r, int32_t choice);

/* Pages that hold `tokens` tokens. */
static inline uint32_t record_pages_of(int64_t tokens) {
    return (uint32_t)((tokens + LIMIT_PAGE_TOKENS - 1) / LIMIT_PAGE_TOKENS);
}

/* Tokens of a choice: prompt, delivered and generated. */
static inline int32_t record_seq_tokens(const record *r, const record_seq *s) {
    return r->prompt_count + s->generated_count;
}

/* What generation can reach: positions whose KV is ever needed. */
int64_t record_kv_tokens_max(int32_t prompt_count, int32_t tokens_count, int32_t max_tokens,
                             int32_t context_tokens);

#endif
