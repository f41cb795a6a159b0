/* fleet.h -- a simulated fleet for days: queues, batches and cold starts, under the real scaler.
 *
 * Purpose    Requests arrive as a load curve says and go where the production router sends them;
 *            prefill workers serve one prompt after the other; decode workers share a step among
 *            their batch; starts, flips and drains take time. The production scaler sees what its
 *            controller would tell it, once a second.
 * Ownership  fleet_open takes what fleet_close gives back.
 * Threads    One.
 * Limits     LIMIT_WORKERS workers.
 */
#ifndef TESTS_SCALE_FLEET_H
#define TESTS_SCALE_FLEET_H

#include <stddef.h>

#include "server/control/scaler.h"

/* Requests a second at a time; `self` is the curve's own. */
typedef double fleet_curve(const void *self, double at_s);

typedef struct {
    uint64_t seed;
    double seconds;
    bool even; /* arrivals at equal distances, of equal sizes */
    fleet_curve *rate;
    const void *curve;
    double rate_max;                                               /* of the curve */
    double prompt_mean, prompt_spread, output_mean, output_spread; /* log-normal; spread: sigma */
    double shift_s; /* from then on prompts are a quarter as long, answers four times; 0: never */
    double start_s, flip_s;
    scaler_options options;
    bool fixed; /* no scaler: this many workers all the time */
    uint32_t workers[SCALER_POOLS];
    /* faults, a share of the ticks or starts */
    double nan_share, jump_share, stuck_share, slow_share;
    double death_s; /* mean time between deaths; 0: none */
} fleet_options;

typedef struct {
    double requests, first_in_time, tokens_in_time, both_in_time;
    double gpu_hours;
    uint32_t starts, stops, flips, ends, deaths, unfinished;
    uint32_t late_actions;  /* after `quiet_s` */
    uint32_t while_pending; /* decisions in a pool with one pending: never */
    uint32_t over_cap;      /* ticks with more GPUs than there are */
    double mean[SCALER_POOLS], end[SCALER_POOLS], low[SCALER_POOLS];
} fleet_result;

/* Step times of the simulated workers. */
extern const stepmodel_fit fleet_prefill_fit, fleet_decode_fit;

/* `quiet_s`: from when on a constant load should see no action. */
fleet_result fleet_run(const fleet_options *o, double quiet_s);

#endif
