/* admit.h -- how much work is let through to the workers, and when more is refused.
 *
 * Purpose    Predicts the time to the first token that a new request would have: the prompt tokens
 *            ahead of it, over the rate at which prompts have been getting their first tokens while
 *            the workers were busy: requests waited here, or workers had more than one each. That
 *            rate contains whatever the bottleneck is: prefill, decode slots, KV pages, dead
 *            workers. Before it is known, what the workers tell stands in. Past the objective a
 *            request is refused at once: by then waiting would make it late, and everybody behind
 *            it.
 * Ownership  Plain data.
 * Threads    One thread.
 * Limits     None. Work is in prompt tokens.
 */
#ifndef SERVER_GATEWAY_ADMIT_H
#define SERVER_GATEWAY_ADMIT_H

#include <stdbool.h>
#include <stdint.h>

typedef struct {
    int64_t slo_us;     /* objective for the time to the first token; 0: refuse nothing */
    uint64_t sent_work; /* sent to workers, no first token yet */
    uint32_t sent_count;
    uint64_t done_work; /* got a first token in the last seconds in which workers were busy */
    int64_t busy_us;    /* those seconds */
    int64_t counted_us; /* time up to which busy_us is counted */
} admit;

/* The workers, as their heartbeats tell. */
typedef struct {
    uint32_t workers;   /* that compute prompts */
    uint64_t told_rate; /* tokens a second of all of them; 0: not known */
} admit_fleet;

/* What a new request meets. */
typedef struct {
    uint64_t own_work;
    uint64_t waiting_work; /* of all keys */
    uint64_t key_work;     /* of this one's key, waiting */
    uint32_t keys;         /* with requests waiting, this one's among them */
} admit_request;

typedef enum {
    ADMIT_TAKE,
    ADMIT_SYSTEM_BUSY, /* 503 */
    ADMIT_KEY_BUSY     /* 429: its key has more than its share of what waits */
} admit_verdict;

/* Call when something changes: the time since the last call counts if the workers have been busy in
 * it. `waiting`: requests wait to be sent. */
void admit_count(admit *a, const admit_fleet *f, bool waiting, int64_t now_us);

/* Work went to the workers; it got its first token (`done`) or ended without. */
void admit_sent(admit *a, uint64_t work);
void admit_over(admit *a, uint64_t work, bool done);

/* True when the workers should get more: enough to be never idle, no more, since what they have
 * cannot be put in order any more. */
bool admit_room(const admit *a, const admit_fleet *f, uint64_t work);

/* Tokens a second; 0: not known. */
uint64_t admit_rate(const admit *a, const admit_fleet *f, bool waiting);

/* `wait_us`: predicted time to the first token, 0 when not known. */
admit_verdict admit_judge(const admit *a, const admit_fleet *f, const admit_request *r,
                          int64_t *wait_us);

#endif
