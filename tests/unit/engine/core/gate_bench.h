/* gate_bench.h -- a gate with five workers joined, and a log of what it does.
 *
 * Purpose    Shared by the tests of gate.c, ledger.c and journal.c.
 * Ownership  start() takes, finish() frees.
 * Threads    One.
 * Limits     LOG_MAX actions between two clears.
 */
#ifndef TESTS_UNIT_ENGINE_CORE_GATE_BENCH_H
#define TESTS_UNIT_ENGINE_CORE_GATE_BENCH_H

#include "engine/core/gate.h"

#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/rng.h"

enum {
    P1 = 1,
    P2 = 2,
    D1 = 3,
    D2 = 4,
    OTHER = 5,
    NONE = -1,
    LEASE_US = 30000000,
    DEADLINE_US = 10000000
};

enum { LOG_MAX = 4096 };

typedef struct {
    gate *g;
    int64_t now;
    gate_action log[LOG_MAX]; /* [count] since the last clear */
    int count;
    int32_t submitted[LOG_MAX]; /* tokens of the last SUBMIT or RESERVE */
    request_params params;      /* likewise */
    message_lease leases[64];   /* of the last LEASES */
    uint32_t leases_count;
} bench;

static inline gate_options options_default(void) {
    return (gate_options){.requests_max = 16,
                          .id_first = 100,
                          .lease_us = LEASE_US,
                          .pending_deadline_us = DEADLINE_US,
                          .retry_percent = 10,
                          .retry_burst = 50,
                          .attempts_max = 6};
}

static inline void drain(bench *b) {
    gate_action a;
    while (gate_next(b->g, &a)) {
        cr_assert_lt(b->count, LOG_MAX);
        if (a.type == GATE_SEND) {
            const message *m = &a.message;
            if (m->type == MESSAGE_SUBMIT || m->type == MESSAGE_RESERVE) {
                memcpy(b->submitted, m->submit.tokens, (size_t)m->submit.tokens_count * 4);
                b->params = *m->submit.params;
            } else if (m->type == MESSAGE_LEASES) {
                memcpy(b->leases, m->leases.list, m->leases.count * sizeof(message_lease));
                b->leases_count = m->leases.count;
            }
        }
        b->log[b->count++] = a;
    }
}

static inline void clear(bench *b) {
    drain(b);
    b->count = 0;
}

static inline bench *start_with(gate_options o) {
    bench *b = calloc(1, sizeof(*b));
    cr_assert_eq(gate_create(&o, &b->g), STATUS_OK);
    b->now = 1000000;
    for (uint32_t w = P1; w <= OTHER; w++) {
        gate_link_up(b->g, w, 7, b->now);
    }
    return b;
}

static inline bench *start(void) {
    return start_with(options_default());
}

static inline void finish(bench *b) {
    gate_destroy(b->g);
    free(b);
}

static inline request_params params_of(int32_t max_tokens, int32_t choices) {
    return (request_params){.top_p = 1,
                            .repetition_penalty = 1,
                            .max_tokens = max_tokens,
                            .choices = choices,
                            .top_logprobs = -1};
}

static const int32_t prompt[] = {11, 12, 13, 14, 15, 16, 17};
enum { PROMPT_COUNT = sizeof(prompt) / sizeof(prompt[0]) };

static inline request_id open_params(bench *b, const request_params *p) {
    gate_request r = {.tokens = prompt, .tokens_count = PROMPT_COUNT, .salt = 42, .params = p};
    request_id id;
    cr_assert_eq(gate_open(b->g, &r, b->now, &id), GATE_OPENED);
    return id;
}

static inline request_id open_one(bench *b, int32_t max_tokens, int32_t choices) {
    request_params p = params_of(max_tokens, choices);
    return open_params(b, &p);
}

static inline uint32_t worker_of(int w) {
    return w == NONE ? MESSAGE_NO_WORKER : (uint32_t)w;
}

static inline void dispatch(bench *b, request_id run, int p, int d) {
    gate_dispatch(b->g, run, (gate_choice){worker_of(p), worker_of(d)}, b->now);
}

static inline bool pending(bench *b, gate_pending *out) {
    uint64_t cursor = 0;
    return gate_pending_next(b->g, &cursor, b->now, out);
}

/* The attempt that waits, 0 when nothing does. */
static inline uint32_t pending_attempt(bench *b) {
    gate_pending p;
    return pending(b, &p) ? p.attempt : 0;
}

static inline void say(bench *b, int worker, message m) {
    gate_message(b->g, (uint32_t)worker, &m, b->now);
    drain(b);
}

static inline message plain(message_type type, request_id id, uint32_t attempt) {
    return (message){.type = type, .request = id, .attempt = attempt};
}

static inline void say_plain(bench *b, int worker, message_type type, request_id id,
                             uint32_t attempt) {
    say(b, worker, plain(type, id, attempt));
}

static inline request_token token_of(int32_t choice, int32_t index, request_end end) {
    return (request_token){
        .choice = choice, .index = index, .token = 1000 * (choice + 1) + index, .end = end};
}

static inline void say_token(bench *b, int worker, request_id id, uint32_t attempt, int32_t choice,
                             int32_t index, request_end end) {
    request_token t = token_of(choice, index, end);
    message m = plain(MESSAGE_TOKENS, id, attempt);
    m.tokens = (message_tokens){.tokens_count = 1, .tokens = &t, .done = end != REQUEST_RUNNING};
    say(b, worker, m);
}

static inline int sent_count(const bench *b, int worker, message_type type) {
    int n = 0;
    for (int i = 0; i < b->count; i++) {
        n += b->log[i].type == GATE_SEND && b->log[i].worker == (uint32_t)worker &&
             b->log[i].message.type == type;
    }
    return n;
}

static inline int count_of(const bench *b, gate_action_type type) {
    int n = 0;
    for (int i = 0; i < b->count; i++) {
        n += b->log[i].type == type;
    }
    return n;
}

/* Checks that the tokens delivered since the last clear are exactly `from..to` of the choice. */
static inline void tokens_are(const bench *b, request_id id, int32_t choice, int32_t from,
                              int32_t to) {
    for (int i = 0; i < b->count; i++) {
        const gate_action *a = &b->log[i];
        if (a->type == GATE_TOKEN && a->token.choice == choice) {
            cr_assert_eq(a->request, id);
            cr_assert_eq(a->token.index, from);
            cr_assert_eq(a->token.token, 1000 * (choice + 1) + from);
            from++;
        }
    }
    cr_assert_eq(from, to + 1, "tokens of choice %d end before %d", choice, from);
}

#endif
