/* ledger.h -- what gate.c keeps of each request, and the moves its table is written in.
 *
 * Purpose    Internal to the gateway core (gate.h is the interface): the structs of records and
 *            runs, the list of those that wait, the queue of actions, messages made from records.
 *            A `record` is what a caller opened: its prompt, and the journal of what the client
 *            has. A `ledger_run` is one row of the protocol: an id on the wire, an attempt number,
 *            the workers it is on. A record has one run until a request of several choices is
 *            split; then one a choice.
 * Ownership  The gate owns all of it.
 * Threads    The gate's.
 * Limits     The gate_options.
 */
#ifndef ENGINE_CORE_LEDGER_H
#define ENGINE_CORE_LEDGER_H

#include "engine/base/arena.h"
#include "engine/base/hash.h"
#include "engine/core/gate.h"
#include "engine/core/journal.h"

typedef enum {
    LEDGER_RUN_NONE,
    LEDGER_RUN_PENDING,
    LEDGER_RUN_RUNNING,
    LEDGER_RUN_ADOPTED
} ledger_run_state;

typedef struct ledger_record ledger_record;
typedef struct ledger_run ledger_run;

struct ledger_run {
    ledger_run_state state;
    ledger_record *owner;
    request_id id;
    uint32_t attempt;
    uint32_t failures;        /* attempts in a row that gave the client nothing */
    uint32_t prefill, decode; /* of this attempt; MESSAGE_NO_WORKER: none, or its part is over */
    uint32_t prefill_left, decode_left; /* of the last attempt, while PENDING: may hold things */
    uint32_t decode_avoid;
    int32_t choice_first, choices; /* of the record's */
    int32_t delivered;             /* sent along with this attempt */
    bool scores;                   /* prompt logprobs are this run's to bring */
    bool scores_awaited;           /* nothing else is due any more */
    int64_t since_us;              /* PENDING, or scores_awaited: for how long */
    int64_t not_before_us;         /* PENDING: not offered earlier */
    uint64_t order;                /* in the pending list: by the record's age */
    ledger_run *before, *after;
};

struct ledger_record {
    bool live;  /* the slot is taken */
    bool ended; /* DONE or FAILED is on its way to the shell */
    bool split;
    request_id id;
    uint64_t salt;
    uint64_t trace[2];
    uint64_t numerics; /* class that its tokens so far were made in; 0: none yet */
    int32_t *prompt;   /* [prompt_count] */
    int32_t prompt_count;
    request_params *params;
    journal tokens;
    int32_t scores_next; /* position whose logprob is due; prompt_count: all delivered */
    int32_t cached_tokens;
    ledger_run runs[LIMIT_CHOICES];
};

/* An action waiting for the shell. SUBMIT, RESERVE and LEASES are made when they are taken: an
 * attempt that is over by then is not sent at all. */
typedef struct {
    gate_action_type type;
    uint32_t worker;
    message_type send;
    message_type about;
    message_announce announce; /* REJECT about one */
    request_id request;        /* SEND: of the ledger_run */
    uint32_t attempt;
    gate_failure failure;
    const char *text;
    request_token token;
} ledger_action;

typedef struct {
    bool up;
    uint64_t epoch;
} ledger_peer;

struct gate {
    gate_options options;
    arena memory;
    ledger_peer peers[LIMIT_WORKERS];
    ledger_record *records; /* [requests_max] */
    uint32_t *unused;       /* [unused_count] indexes of records */
    uint32_t unused_count;
    hash_table by_request, by_run; /* id > address */
    request_id id_next;
    ledger_run *pending_first, *pending_last;
    ledger_run *walk; /* what gate_pending_next returns next */
    uint64_t walk_order;
    uint32_t pending_count;
    ledger_action *queue; /* [queue_slots] a ring */
    uint64_t queue_head, queue_tail, queue_slots;
    int64_t lease_next_us;
    uint64_t numerics;     /* class of the workers */
    uint64_t retry_credit; /* hundredths of a retry */
    message_lease *leases; /* [requests_max * LIMIT_CHOICES] of the LEASES being taken */
    request_params params; /* of the record being shown or sent */
    int32_t *tokens;       /* [tokens_capacity] of the SUBMIT being taken */
    size_t tokens_capacity;
    gate_counts counts;
};

MUST_USE status ledger_memory(gate *g);

ledger_record *ledger_find(const gate *g, request_id id);
ledger_run *ledger_find_run(const gate *g, request_id id);

/* The new action at the queue's end. */
ledger_action *ledger_push(gate *g, gate_action_type type);
void ledger_send(gate *g, uint32_t worker, message_type type, request_id id, uint32_t attempt);

/* False for MESSAGE_NO_WORKER. */
bool ledger_usable(const gate *g, uint32_t worker);

/* CANCEL, if the worker is still there to be told. */
void ledger_cancel_at(gate *g, uint32_t worker, request_id id, uint32_t attempt);

/* Into and out of the list of runs that wait for workers. */
void ledger_wait(gate *g, ledger_run *r, int64_t now_us);
void ledger_wait_over(gate *g, ledger_run *r);

ledger_run *ledger_run_start(gate *g, ledger_record *rec, uint32_t slot, request_id id);

/* The run is over: whoever may still hold something for it lets go. */
void ledger_run_stop(gate *g, ledger_run *r);

void ledger_stop(gate *g, ledger_record *rec);
void ledger_free(gate *g, ledger_record *rec);
void ledger_fail(gate *g, ledger_record *rec, gate_failure failure, const char *text);

/* What the workers are asked for: the caller's params for the run's choices. A run that only lacks
 * prompt logprobs generates nothing. */
void ledger_run_params(const ledger_run *r, request_params *out);

/* Tokens that go along with the prompt: only a run of one choice has any. */
int32_t ledger_run_delivered(const ledger_run *r);

/* At most one token is still to come. */
bool ledger_run_prefill_only(const ledger_run *r);

/* Prompt logprobs are still to come. */
bool ledger_run_scores_due(const ledger_run *r);

/* The message of a SEND; false when what it was about is over, or the worker gone. */
bool ledger_message(gate *g, const ledger_action *a, message *out);

#endif
