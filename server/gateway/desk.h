/* desk.h -- the gateway's sessions, and what the gate's actions do to them.
 *
 * Purpose    Opens a session for each API request, finds it again for each token, ends it. Every
 *            call into the gate is followed by desk_act: it carries out the gate's actions, and
 *            then what they lead to (a stop string ends a choice, a client has gone, a link broke),
 *            because the gate wants all its actions taken before it hears of anything new.
 * Ownership  gateway_state is gateway.c's; everything in it lives as long as gateway_run.
 * Threads    The gateway's thread.
 * Limits     gateway_options.requests_max sessions.
 */
#ifndef SERVER_GATEWAY_DESK_H
#define SERVER_GATEWAY_DESK_H

#include "engine/base/hash.h"
#include "server/api/session.h"
#include "server/control/autoscale.h"
#include "server/gateway/admit.h"
#include "server/gateway/fair.h"
#include "server/gateway/gatestats.h"
#include "server/gateway/gateway.h"
#include "server/gateway/pool.h"
#include "server/gateway/reqtrace.h"
#include "server/gateway/routelog.h"

typedef struct {
    session *session;                    /* NULL: free */
    request_id ids[LIMIT_BATCH_PROMPTS]; /* 0: this run has ended */
    request_id first_id;                 /* names the session in a trace */
    bool closing;                        /* in `gone`: to be ended when no action is under way */
    int32_t key;                         /* of the API, or -1 */
    uint64_t salt;
    uint64_t affinity;                  /* its workers go on serving it; 0: no session */
    int32_t priority;                   /* lower first */
    int64_t since_us;                   /* it came */
    uint32_t sent[LIMIT_BATCH_PROMPTS]; /* prompt tokens of a run without a first token */
    gatestats_end end;
} desk_slot;

/* A choice that its stop string ended. */
typedef struct {
    request_id request;
    int32_t choice;
} desk_ended;

typedef struct {
    const gateway_options *options;
    pool pool;
    gate *gate;
    router *router;
    routelog *routelog;
    gatestats *stats;
    fair *line; /* slots whose runs are not opened yet */
    admit admit;
    arena arena;
    hash_table runs;  /* request id -> slot << 8 | run */
    desk_slot *slots; /* [requests_max] */
    uint32_t *gone;   /* [gone_count] slots to be ended before they are finished */
    uint32_t gone_count;
    desk_ended *ended; /* [ended_count] of ended_max */
    uint32_t ended_count, ended_max;
    bool broken[LIMIT_WORKERS]; /* links to drop */
    message_scratch *scratch;
    autoscale *scale;       /* NULL: none */
    scaler_counters demand; /* since the start */
    double cached_share;    /* of prompts, of late */
    int64_t scale_due_us;
    message_latency latencies[MESSAGE_LATENCIES_MAX]; /* a ring: of requests that ended */
    uint64_t latencies_count, latencies_told;         /* ever */
    message_latency telling[MESSAGE_LATENCIES_MAX];
    uint64_t seed_state;
    int signal_fd;
    int64_t tick_due_us;
    int64_t leave_by_us; /* with a shared port: it is left until then; 0: not asked to stop */
    int64_t stop_by_us;  /* 0: serving */
    bool ready_said, workers_told;
    bool child_signal; /* a child has changed since the supervisor last looked */
    int32_t failed_starts;
    bool quit;
    status failed;
    diag *d;
} gateway_state;

/* Opens a session for a request with its prompts and puts it in line, or refuses it. Takes over
 * what the item has. */
void desk_start(gateway_state *g, intake_item *item);

/* The prefix pages that a caller may share with others of it. */
uint64_t desk_salt(const gateway_state *g, const exchange *x, const openai_request *r);

/* What the session of a request is called; 0: it has none, or has ended. */
uint64_t desk_affinity(const gateway_state *g, request_id request);

/* Opens the runs of those whose turn it is, as far as the workers should get more. */
void desk_let_through(gateway_state *g);

/* Ends what has waited in line too long. */
void desk_expire(gateway_state *g);

/* The client of `x` has left. */
void desk_gone(gateway_state *g, const exchange *x);

/* For traces: an attempt was sent to workers; a worker says something about a request. Before the
 * gate hears of it. */
void desk_sent(gateway_state *g, request_id request, uint32_t attempt, gate_choice to);
void desk_told(gateway_state *g, uint32_t worker, const message *m);

/* Carries out the gate's actions and what they lead to, until nothing is left. */
void desk_act(gateway_state *g);

/* No worker can ever serve this request. */
void desk_fail_never(gateway_state *g, request_id request);

/* 503 with Retry-After, or whatever `http_code` says. */
void desk_refuse(exchange *x, int http_code, const char *text);

/* A worker's link has ended: its requests go elsewhere. */
void desk_drop_worker(gateway_state *g, uint32_t worker);

/* A worker that is of no use any more ends, if it is this process's child. */
void desk_kill_worker(gateway_state *g, uint32_t worker, int64_t at_us);

/* Shutting down: what is left is answered with an error. */
void desk_close(gateway_state *g);

#endif
