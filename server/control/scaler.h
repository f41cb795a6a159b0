/* scaler.h -- the controller's core: what is observed in, actions with reasons out. Pure.
 *
 * Purpose    Sizes the prefill and the decode pool, each on its own. A slow loop forecasts the load
 *            and sets the floor; a fast loop reacts above it, to rates that chance does not explain
 *            and to work that piles up. A role is flipped before a process is started, and both
 *            before anything waits; workers leave only when those that stay hold the load.
 * Ownership  Plain values: a scaler is a struct without pointers.
 * Threads    One at a time.
 * Limits     LIMIT_WORKERS workers; SCALER_ACTIONS_MAX actions a step.
 * Rules      No decision in a pool while one is pending there; a pending one has a deadline. All
 *            time inside is the sum of what passed between steps, a jump of the caller's clock
 *            counting as SCALER_GAP_US. What is not a number is not known. There is no state that
 *            the workers do not show again: a new scaler adopts what it finds, and takes nothing
 *            away before it has watched for `hold_us`.
 */
#ifndef SERVER_CONTROL_SCALER_H
#define SERVER_CONTROL_SCALER_H

#include "engine/base/limits.h"
#include "server/control/scaler_capacity.h"

enum {
    SCALER_ACTIONS_MAX = LIMIT_WORKERS,
    SCALER_DECISIONS_MAX = 64, /* remembered */
    SCALER_REASON_BYTES = 160,
    SCALER_GAP_US = 5000000,
    SCALER_NO_WORKER = -1
};

typedef enum { SCALER_PREFILL, SCALER_DECODE, SCALER_POOLS } scaler_pool;

typedef enum {
    SCALER_STARTING, /* asked for, or up and without work yet */
    SCALER_SERVING,
    SCALER_FLIPPING, /* told to change to `pool`, not yet heard that it has */
    SCALER_STOPPING  /* drains; it is its pool's no more */
} scaler_phase;

typedef struct {
    uint32_t id; /* the driver's */
    scaler_pool pool;
    scaler_phase phase;
    bool flips; /* its role can be changed */
    uint32_t running, waiting;
    uint64_t queued_tokens, queued_us; /* prompt work there; queued_us 0: not known */
    uint32_t pages_total, pages_free;
    int32_t chunk_tokens;
    stepmodel_fit prefill_fit, decode_fit;
} scaler_worker;

typedef struct {
    scaler_worker workers[LIMIT_WORKERS];
    uint32_t workers_count;
    scaler_counters counters;
    uint32_t held; /* requests that no worker has yet */
    double held_tokens;
} scaler_observation;

typedef struct {
    uint32_t min, max; /* workers */
} scaler_bounds;

typedef struct {
    scaler_bounds bounds[SCALER_POOLS];
    double gpus[SCALER_POOLS]; /* of a worker; a fraction where several share one */
    double gpus_max;           /* of both pools, with those that still drain */
    scaler_slo slo;
    double seqs_max;  /* that a worker decodes at once */
    int64_t start_us; /* a start that takes longer has failed */
    int64_t flip_us;  /* a flip */
    int64_t drain_us; /* a drain: after it the worker is ended */
    int64_t hold_us;  /* no less than the load of this long stays provided for */
    int64_t idle_us;  /* without a request, until a pool whose min is 0 goes */
    int64_t cold_us;  /* how far ahead to look: what a start takes, about */
    int64_t react_us; /* what piles up for so long is acted upon */
    bool fixed;       /* nobody starts or ends workers here: roles are flipped, and that is all */
    bool dry_run;
} scaler_options;

typedef enum {
    SCALER_START,
    SCALER_STOP, /* after a drain */
    SCALER_END,  /* at once: it did not start, or its drain took too long */
    SCALER_FLIP,
    SCALER_KINDS
} scaler_kind;

typedef struct {
    scaler_kind kind;
    scaler_pool pool; /* START, FLIP: the new one; else the old */
    int32_t worker;   /* an id; START: SCALER_NO_WORKER */
    char reason[SCALER_REASON_BYTES];
} scaler_action;

typedef enum {
    SCALER_PENDING,
    SCALER_DONE,
    SCALER_LATE,
    SCALER_REFUSED,
    SCALER_ADVICE
} scaler_outcome;

typedef struct {
    int64_t at_us; /* caller's clock */
    scaler_action action;
    scaler_outcome outcome;
} scaler_decision;

typedef struct {
    uint32_t serving, starting, stopping;
    uint32_t floor;  /* what the forecast wants */
    uint32_t wanted; /* after both loops and all bounds */
    double busy;     /* share of capacity that the smoothed load takes */
    bool pending;
    char why[SCALER_REASON_BYTES]; /* why it is as it is */
    /* inside */
    bool waits_start, waits_flip;
    uint32_t serving_wanted;
    int64_t by_us;                           /* of what is pending */
    int64_t changed_us, grown_us, shrunk_us; /* shrunk_us 0: has grown since */
    int64_t hold_times;
    int64_t piled_us;  /* work has piled up since; 0: it has not */
    double piled_work; /* then */
    int64_t backoff_us, start_after_us;
    int64_t refused_us; /* an action was: nothing is asked again before */
} scaler_state;

typedef struct {
    scaler_options options;
    scaler_state pools[SCALER_POOLS];
    scaler_demand demand;
    scaler_speed speed;
    scaler_load forecast, fast, highest;
    int64_t time_us, now_us;
    bool begun;
    int64_t request_us; /* the last time that there was something to do */
    double requests;
    /* stops under way, by worker */
    struct {
        bool used;
        uint32_t id;
        int64_t by_us;
    } stops[LIMIT_WORKERS];
    scaler_action actions[SCALER_ACTIONS_MAX];
    uint32_t actions_count;
    scaler_decision decisions[SCALER_DECISIONS_MAX]; /* a ring */
    uint64_t decisions_count;                        /* ever */
} scaler;

/* Defaults of everything that is 0. */
void scaler_open(scaler *s, const scaler_options *options);

/* One turn, about once a second. What is to be done is in actions[0 .. actions_count). */
void scaler_step(scaler *s, const scaler_observation *o, int64_t now_us);

/* New bounds, from an operator. */
void scaler_set_bounds(scaler *s, scaler_pool pool, scaler_bounds bounds);

/* An operator's action, which is then pending as one of its own would be. False: that pool has one
 * pending. The caller carries it out. */
bool scaler_order(scaler *s, const scaler_action *a, int64_t now_us);

/* `a`, of this turn or ordered, could not be carried out: it is pending no more, and its pool asks
 * again soon. */
void scaler_refused(scaler *s, const scaler_action *a);

const char *scaler_pool_name(scaler_pool p);
const char *scaler_kind_name(scaler_kind k);
const char *scaler_phase_name(scaler_phase p);
const char *scaler_outcome_name(scaler_outcome o);

#endif
