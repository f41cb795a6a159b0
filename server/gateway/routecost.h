/* routecost.h -- what a request would cost on a worker, from what the worker has measured.
 *
 * Purpose    A worker as a router knows it, and the predictions made of that: how long its queue of
 *            prompts still takes, how long this prompt would, how long a token would take beside
 *            those that decode there. Who has not measured yet is taken to be like one that has;
 *            so is, more and more, who has measured nothing for long: a measure that was bad once
 *            must not keep a worker from the work that would correct it.
 * Ownership  Plain values.
 * Threads    Pure functions.
 * Limits     Times are at most ROUTECOST_US_MAX.
 */
#ifndef SERVER_GATEWAY_ROUTECOST_H
#define SERVER_GATEWAY_ROUTECOST_H

#include "engine/core/message.h"

#define ROUTECOST_US_MAX ((int64_t)1000000000000)

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
    uint32_t chunk_tokens;      /* most rows of a prompt in a step; 0: no bound known */
    int64_t queued_us;          /* predicted time of queued_tokens, at `told_us` */
    int64_t told_us;
    int64_t worked_us; /* when it last had work, or was first heard of; 0: not yet */
    stepmodel_fit prefill_fit, decode_fit;
} routecost_view;

/* What stands in for what a worker does not know: the measurements of the one that has worked last.
 */
typedef struct {
    int64_t now_us;
    stepmodel_fit prefill_fit, decode_fit;
    uint32_t tokens_per_second, step_us, chunk_tokens;
} routecost_reference;

routecost_reference routecost_refer(const routecost_view *views, uint32_t views_count,
                                    int64_t now_us);

/* Until its queue of prompts is done. */
int64_t routecost_queue_us(const routecost_view *v, const routecost_reference *r, int64_t now_us);

/* `tokens` behind `before` tokens that are there, alone. */
int64_t routecost_prefill_us(const routecost_view *v, const routecost_reference *r, int64_t tokens,
                             int64_t before);

/* Of one token, with one request of `context` tokens more than decode there now. */
int64_t routecost_token_us(const routecost_view *v, const routecost_reference *r, int64_t context,
                           uint32_t page_tokens);

/* The worker has told. */
void routecost_told(routecost_view *v, const message_heartbeat *h, int64_t now_us);

/* A prompt of `tokens` that takes `us` was sent there; or a request that will decode there with
 * `pages`. */
void routecost_sent_prompt(routecost_view *v, uint64_t tokens, int64_t us, int64_t now_us);
void routecost_sent_decode(routecost_view *v, uint64_t pages);

#endif
