/* corenet.h -- a few workers' pure engines, joined by queues, with the test as their gateway.
 *
 * Purpose    Runs engine/core without sockets, threads or a model: messages wait in first-in
 *            first-out queues (encoded, so the wire format is exercised too), transfers wait in
 *            queues of their own, the model is hashmodel. The test says what moves next, or lets
 *            everything run. After every call each engine's invariants are checked.
 * Ownership  corenet_open takes memory until corenet_close.
 * Threads    One.
 * Limits     CORENET_WORKERS_MAX workers.
 *
 * Links of a worker: slots 0 and 1 are gateways, slot CORENET_FIRST + w is worker w.
 */
#ifndef TESTS_SUPPORT_CORENET_H
#define TESTS_SUPPORT_CORENET_H

#include "tests/support/hashmodel.h"

enum {
    CORENET_WORKERS_MAX = 4,
    CORENET_GATEWAY = 0, /* the slot */
    CORENET_OTHER_GATEWAY = 1,
    CORENET_FIRST = 2,
    CORENET_PEERS = CORENET_FIRST + CORENET_WORKERS_MAX,
    CORENET_LAYERS = 4
};

typedef struct {
    uint32_t workers;
    uint32_t roles[CORENET_WORKERS_MAX];
    uint32_t block_pages[CORENET_WORKERS_MAX]; /* 0: as `core` says */
    core_options core;                         /* roles and peers_max are filled in */
    int32_t eog;                               /* -1: none */
} corenet_options;

/* A message that a worker sent to a gateway. */
typedef struct {
    uint32_t worker;
    uint32_t gateway; /* slot */
    message m;        /* its pointers are good, but for submit */
} corenet_note;

typedef struct corenet corenet;

corenet_options corenet_defaults(void);
corenet *corenet_open(const corenet_options *o);
void corenet_close(corenet *n);

core *corenet_core(corenet *n, uint32_t worker);
core_stats corenet_stats(const corenet *n, uint32_t worker);
const hashmodel_options *corenet_model(const corenet *n);

/* Time. It also goes on by a microsecond with every call into an engine. */
void corenet_pass(corenet *n, int64_t us);
void corenet_tick(corenet *n, uint32_t worker);
void corenet_hand_back(corenet *n, uint32_t worker);

/* A message from a gateway (or, as if, from a worker's slot) at once. */
void corenet_say(corenet *n, uint32_t worker, uint32_t slot, const message *m);

/* SUBMIT and RESERVE of tokens[count] as the protocol has them; `peer`: a worker, or
 * MESSAGE_NO_WORKER (RESERVE: local). */
void corenet_submit(corenet *n, uint32_t worker, request_id request, uint32_t attempt,
                    uint32_t peer, const int32_t *tokens, int32_t prompt_count, int32_t count,
                    const request_params *params);
void corenet_reserve(corenet *n, uint32_t worker, request_id request, uint32_t attempt,
                     uint32_t peer, const int32_t *tokens, int32_t prompt_count, int32_t count,
                     const request_params *params);
void corenet_cancel(corenet *n, uint32_t worker, request_id request, uint32_t attempt);

/* What waits from one worker to another. Delivering or landing returns false when nothing does. */
uint32_t corenet_waiting(const corenet *n, uint32_t from, uint32_t to);
const message *corenet_peek(corenet *n, uint32_t from, uint32_t to);
void corenet_skip(corenet *n, uint32_t from, uint32_t to); /* the oldest is taken off, unread */
bool corenet_deliver(corenet *n, uint32_t from, uint32_t to);
uint32_t corenet_flying(const corenet *n, uint32_t from, uint32_t to);
bool corenet_land(corenet *n, uint32_t from, uint32_t to, bool damage);

/* The ends of a transfer by hand, for a test that plays the other worker itself. */
void corenet_end_send(corenet *n, uint32_t worker, uint32_t slot, uint32_t sequence);
void corenet_end_receive(corenet *n, uint32_t worker, uint32_t slot, uint32_t sequence,
                         core_received_result result);

/* How many messages of that type wait from one worker to another. */
uint32_t corenet_queued(corenet *n, uint32_t from, uint32_t to, message_type type);

/* Steps: whole, or in parts (begin; layers done so far; finish). False: nothing to do. */
bool corenet_step(corenet *n, uint32_t worker);
bool corenet_begin(corenet *n, uint32_t worker);
const core_batch *corenet_batch(const corenet *n, uint32_t worker); /* of the step begun, or NULL */
void corenet_layers(corenet *n, uint32_t worker, uint32_t layers_done);
void corenet_finish(corenet *n, uint32_t worker);

/* The same of a lane of workers whose core has two (core_options.multiplex). */
bool corenet_begin_lane(corenet *n, uint32_t worker, core_lane lane);
const core_batch *corenet_batch_lane(const corenet *n, uint32_t worker, core_lane lane);
void corenet_layers_lane(corenet *n, uint32_t worker, core_lane lane, uint32_t layers_done);
void corenet_finish_lane(corenet *n, uint32_t worker, core_lane lane);

/* Everything moves, in turns, until nothing does. */
void corenet_run(corenet *n);

/* One thing moves, drawn by `random`. False when nothing can. */
bool corenet_move_one(corenet *n, uint64_t *random);

/* A link between workers ends or begins; a gateway's link to a worker. Data on it is lost. */
void corenet_cut(corenet *n, uint32_t a, uint32_t b);
void corenet_join(corenet *n, uint32_t a, uint32_t b);
void corenet_gateway_cut(corenet *n, uint32_t worker, uint32_t slot);
void corenet_gateway_join(corenet *n, uint32_t worker, uint32_t slot);

/* The worker asked for the end of that link. */
bool corenet_asked_close(const corenet *n, uint32_t worker, uint32_t slot);

/* What the gateways heard, oldest first, since the last corenet_forget. */
uint32_t corenet_notes(const corenet *n);
const corenet_note *corenet_at(const corenet *n, uint32_t index);
uint32_t corenet_count(const corenet *n, uint32_t worker, message_type type);
const corenet_note *corenet_last(const corenet *n, uint32_t worker, message_type type);
void corenet_forget(corenet *n);

/* The tokens heard of a choice under an attempt (0: any) by index into out[max]; -1 where none. A
 * token heard twice must be the same. Returns one past the highest index; *done: a message said so.
 */
int32_t corenet_heard(const corenet *n, request_id request, uint32_t attempt, int32_t choice,
                      request_token *out, int32_t max, bool *done);

/* The oracle: the whole of a choice, from the tokens alone. Returns the count. */
int32_t corenet_expect(const corenet *n, const int32_t *prompt, int32_t prompt_count,
                       const request_params *params, int32_t choice, request_token *out,
                       int32_t max);

/* Greedy, no logprobs, one choice. */
request_params corenet_params(int32_t max_tokens);

#endif
