/* core.h -- one worker's whole engine as a pure state machine: requests, pages, steps, messages.
 *
 * Purpose    Decides everything a worker does and does none of it: the shell (engine/worker) feeds
 *            in what happened (messages, links, finished transfers, finished steps, time) and
 *            carries out what comes back (messages and transfers as actions, steps as batches).
 *            engine/core/README.md has the state x message table that this implements.
 * Ownership  All memory is the arena's; nothing is allocated after core_create. What an action
 *            points to lives until the next core call; what a batch points to, until its commit.
 * Threads    One owner thread makes every call. Between core_plan and core_commit another thread
 *            may read the batch and what it points to, while the owner goes on calling the rest.
 * Limits     The core_options. Peers are slots numbered by the shell, below peers_max.
 * Contract   After every call that can produce actions (all but the getters), the owner calls
 *            core_next until it returns false before it makes another call. That bounds the queue.
 * Pages      A page is never handed out again while a transfer or the step in flight may touch it;
 *            it is quarantined until core_sent, core_received, core_link_down or core_commit.
 */
#ifndef ENGINE_CORE_CORE_H
#define ENGINE_CORE_CORE_H

#include "engine/base/arena.h"
#include "engine/base/slab.h"
#include "engine/core/message.h"
#include "engine/core/waste.h"

typedef struct core core;

typedef struct {
    uint32_t roles;               /* MESSAGE_ROLE_* bits: of these there may be requests */
    uint32_t pages;               /* of the KV pool; ids 0 .. pages - 1 */
    uint32_t block_pages;         /* of them handed out and shared together (blocks.h), a divisor of
                                   * `pages`; 0: 1. Peers may differ in it */
    uint32_t layers;              /* of the model */
    int32_t context_tokens;       /* most tokens of a sequence */
    int32_t seqs_max;             /* sequences that decode at once; a batch has at most twice as
                                   * many, the others being chunks of prompts */
    int32_t queue_max;            /* requests waiting beside them, each role */
    int32_t step_tokens_max;      /* rows of a batch, >= seqs_max + LIMIT_PAGE_TOKENS */
    int32_t logit_rows_max;       /* rows of a batch whose logits are wanted, > seqs_max */
    int32_t prefill_chunk_tokens; /* of one sequence in a step, and in all beside decode rows;
                                   * a multiple of LIMIT_PAGE_TOKENS */
    int32_t headroom_tokens;      /* reserved on D past the prompt */
    uint32_t group_layers;        /* layers pushed at once while later ones compute */
    uint32_t group_cells_max;     /* (layer, page) cells of a transfer, >= layers and >= pages of a
                                   * chunk; the shell's buffers follow from it */
    uint32_t peers_max;           /* link slots */
    uint32_t tombstones_max;      /* remembered ends, each role; the oldest go first */
    int64_t lease_us;             /* 30 s */
    int64_t queue_deadline_us;    /* longest wait for room on D */
    int64_t quarantine_us;        /* a transfer its request has left may take this long, then its
                                   * channel is torn down */
    int64_t heartbeat_us;         /* 1 s: how often this worker says it is alive */
    int64_t silence_us;           /* 3 s: a worker link this quiet is torn down */
    bool multiplex;               /* two lanes (below): a step of prompts and one of decode rows can
                                   * be in flight at once */
    bool prompts_apart;           /* KV of a prompt's tokens differs from that of the same tokens
                                   * when generated: core_seq.prompt_rows */
    uint64_t hash_key[2];         /* secret of the prefix cache */
    const waste *waste;           /* the owner's, told in heartbeats; NULL: none */
} core_options;

/* What core_create takes from its arena, at most (address space: it is touched as it is used). */
uint64_t core_bytes(const core_options *options);
MUST_USE status core_create(arena *a, const core_options *options, core **out, diag *d);

/* ---- links ---------------------------------------------------------------------------------- */

typedef enum { CORE_GATEWAY, CORE_WORKER } core_peer_kind;

/* A usable link. Worker links: call it as soon as the link exists (when PEER was accepted), so that
 * a RESERVE behind the PEER finds it. A worker may be its own peer, over a loop-back. */
void core_link_up(core *c, uint32_t peer, core_peer_kind kind, uint32_t worker, uint64_t epoch,
                  int64_t now_us);

/* The link has ended and nothing from it will touch a page any more: its transfers are aborted. The
 * slot may be used again. A gateway's end frees everything that gateway asked for. */
void core_link_down(core *c, uint32_t peer, int64_t now_us);

/* A decoded message from a peer. HELLO, PEER and METRICS are the shell's and must not come here. */
void core_message(core *c, uint32_t peer, const message *m, int64_t now_us);

/* ---- transfers ------------------------------------------------------------------------------ */

typedef enum { CORE_RECEIVED_OK, CORE_RECEIVED_JUNK, CORE_RECEIVED_DAMAGED } core_received_result;

/* A CORE_TRANSFER_SEND no longer reads its pages. */
void core_sent(core *c, uint32_t peer, uint32_t sequence, int64_t now_us);

/* A CORE_TRANSFER_RECEIVE has ended and no longer writes its pages. */
void core_received(core *c, uint32_t peer, uint32_t sequence, core_received_result result,
                   int64_t now_us);

/* ---- time ----------------------------------------------------------------------------------- */

/* Leases, deadlines, heartbeats. Call at core_deadline_us, or more often. */
void core_tick(core *c, int64_t now_us);

/* When core_tick has something to do next. */
int64_t core_deadline_us(const core *c);

/* No new requests from now on (the same as a DRAIN message). */
void core_drain(core *c);

/* The drain has lasted long enough: every request goes back to its gateway, which gives it to
 * others at no cost. What is left are the step in flight and transfers, until core_idle. */
void core_hand_back(core *c, int64_t now_us);

/* New requests are only of these roles from now on, a part of core_options.roles; those of others
 * end where they are. A SUBMIT or RESERVE that is not is refused with MESSAGE_REASON_ROLE; so is a
 * reservation whose room a granted prompt needs (README.md, "Roles that change"). */
void core_set_roles(core *c, uint32_t roles);
uint32_t core_roles(const core *c);

/* As core_options.group_layers, but for this link while it is up. More than the model has are the
 * model's. */
void core_set_group_layers(core *c, uint32_t peer, uint32_t layers);

/* No requests, no step of any lane, no transfer that touches a page. */
bool core_idle(const core *c);

/* ---- steps ---------------------------------------------------------------------------------- */

/* One sequence's share of a batch (the fields of models/arch/model.h's model_seq). */
typedef struct {
    int32_t row_first;
    int32_t rows;
    int32_t position_first;
    const uint32_t *pages; /* [pages_count] block table */
    int32_t pages_count;
    int32_t prompt_rows; /* the first of its rows that are the caller's prompt; the others were
                          * generated, here or (computed again) by an earlier attempt */
} core_seq;

typedef enum {
    CORE_WANT_SAMPLE, /* pick the next token */
    CORE_WANT_SCORE   /* the logprob of a prompt token that is known */
} core_want_kind;

/* One thing wanted of a row of logits; several may want the same row. The fields are what
 * engine/worker/sampler.h asks for. */
typedef struct {
    core_want_kind kind;
    int32_t logit_row; /* index into core_batch.logit_rows */
    request_id request;
    const request_params *params;
    const int32_t *prompt;    /* [prompt_count] */
    const int32_t *generated; /* [generated_count] of this choice so far */
    int32_t prompt_count;
    int32_t generated_count;
    int32_t choice;   /* number of the choice: choice_first and up */
    int32_t token;    /* SCORE: the token to score */
    int32_t position; /* SCORE: its position */
} core_want;

typedef struct {
    uint32_t from, to;
} core_copy;

typedef struct {
    const int32_t *tokens; /* [rows] */
    int32_t rows;
    const core_seq *seqs; /* [seqs_count] */
    int32_t seqs_count;
    const int32_t *logit_rows; /* [logit_rows_count] ascending */
    int32_t logit_rows_count;
    const core_want
        *wants; /* [wants_count] at most logit_rows_max + 2 * LIMIT_CHOICES * seqs_max */
    int32_t wants_count;
    const core_copy *copies; /* [copies_count] whole pages to copy before the forward, in order */
    int32_t copies_count;
} core_batch;

/* A lane has at most one step in flight. Without core_options.multiplex there is the first alone,
 * and its steps mix; with it prompts are the first lane's and rows of what decodes the second's. No
 * sequence is in both: it goes over when the step of its last prompt row is committed, and stays in
 * the pages it has. Both may read pages of one prefix; only one writes a page. */
typedef enum { CORE_LANE_PROMPTS, CORE_LANE_DECODE, CORE_LANES } core_lane;

/* Chooses the lane's next step. False: nothing to run now. It has none in flight. */
bool core_plan(core *c, core_lane lane, int64_t now_us, core_batch *out);

/* The first lane's step has the KV of layers [0, layers_done) of all its rows in the pool. */
void core_progress(core *c, int32_t layers_done, int64_t now_us);

/* The lane's step is done; results: [wants_count], one a want, as sampler_pick and
 * sampler_prompt_logprob fill them. A full context is noticed here. */
void core_commit(core *c, core_lane lane, const request_token *results, int32_t results_count,
                 int64_t now_us);

/* ---- actions -------------------------------------------------------------------------------- */

typedef enum {
    CORE_SEND,             /* send `message` to `peer` */
    CORE_TRANSFER_SEND,    /* send the cells of `transfer` to `peer`, then call core_sent */
    CORE_TRANSFER_RECEIVE, /* post a receive from `peer`, then call core_received; the POSTED that
                            * tells the peer follows as an action of its own */
    CORE_CLOSE             /* tear down the link to `peer` and its data path (with its own time
                            * limit: an abort that hangs ends the worker), then core_link_down */
} core_action_kind;

typedef struct {
    uint32_t sequence; /* of this link and direction */
    request_id request;
    uint32_t attempt;
    uint32_t group;
    uint32_t layer_first, layers;
    const uint32_t *pages; /* [pages_count] page ids here; NULL when junk */
    uint32_t pages_count;
    bool junk; /* the request is gone: as many bytes of anything, flagged as junk */
} core_transfer;

typedef struct {
    core_action_kind kind;
    uint32_t peer;
    message message;
    core_transfer transfer;
} core_action;

/* The next action, oldest first; false when there is none. */
bool core_next(core *c, core_action *out);

/* ---- looking in ----------------------------------------------------------------------------- */

typedef struct {
    /* counters */
    uint64_t steps;
    uint64_t prompt_tokens_computed; /* rows of prompts that this worker ran */
    uint64_t prompt_tokens_cached;   /* found in the prefix cache instead */
    uint64_t prompt_tokens_received; /* came with transferred pages */
    uint64_t prompt_tokens_repeated; /* computed again: the request was further, elsewhere */
    uint64_t prompt_tokens_lost;     /* computed for nothing: evicted, or the request left */
    uint64_t tokens_generated;
    uint64_t requests_accepted;
    uint64_t requests_finished; /* ended here with their last token */
    uint64_t handoffs, adoptions;
    uint64_t refusals;    /* REFUSED sent */
    uint64_t rejects;     /* REJECT sent */
    uint64_t preemptions; /* PREEMPTED sent for want of pages */
    uint64_t handed_back; /* requests given back at the end of a drain */
    uint64_t evictions;   /* ungranted prefills that lost their pages */
    uint64_t replays;     /* ALREADY_ADOPTED sent */
    uint64_t leases_expired;
    uint64_t groups_sent, groups_received;
    uint64_t cells_sent, cells_received; /* (layer, page) cells; times their bytes: bytes moved */
    uint64_t groups_junk_sent, groups_junk_received;
    uint64_t groups_damaged; /* checksum failures */
    uint64_t links_closed;   /* CORE_CLOSE */
    /* gauges */
    uint32_t pages_total, pages_free, pages_cached, pages_owned, pages_quarantined;
    uint32_t running;       /* requests with pages */
    uint32_t waiting;       /* requests without */
    uint64_t queued_tokens; /* prompt tokens not yet computed */
    uint32_t parked_grants;
    uint32_t step_us;           /* smoothed */
    uint32_t tokens_per_second; /* smoothed prefill speed; 0: not known */
    uint64_t queued_us;         /* predicted time of queued_tokens; 0: not known */
    stepmodel_fit prefill_fit, decode_fit;
} core_stats;

void core_get_stats(const core *c, core_stats *out);

/* What its gateways hear of it, to be told to others; no link's cached_sequence. */
message_heartbeat core_get_heartbeat(const core *c);

/* Checks every invariant (page accounting, holders against reference counts, lists against tables)
 * and aborts if one is broken. Slow: for tests. */
void core_validate(const core *c);

#endif
