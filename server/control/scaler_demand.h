/* scaler_demand.h -- what comes in, and what will: rates from counters, a forecast from rates.
 *
 * Purpose    Turns cumulative counters of requests and tokens into the load of the last seconds,
 *            the smoothed load with its trend, and how much of both may be chance.
 * Ownership  Plain values.
 * Threads    One at a time.
 * Limits     Counters that are not numbers, or that start again, are a gap in what is known and
 *            never a load. Time that jumps is the caller's to smooth out.
 * Source     Holt's linear method with a damped trend (Gardner and McKenzie 1985) on means of
 *            SCALER_DEMAND_BUCKET_US; chance from the variance of compound Poisson sums.
 */
#ifndef SERVER_CONTROL_SCALER_DEMAND_H
#define SERVER_CONTROL_SCALER_DEMAND_H

#include <stdbool.h>
#include <stdint.h>

/* Since anything; NaN: not known now. */
typedef struct {
    double requests;        /* that came in */
    double prompt_tokens;   /* of them, those to be computed */
    double prompt_squares;  /* sum of the squares of each request's prompt_tokens */
    double finished;        /* requests that ended with an answer */
    double finished_tokens; /* of those answers */
} scaler_counters;

/* A load: everything finite, nothing negative. */
typedef struct {
    double requests_per_s;
    double prompt_mean;   /* tokens of a request; 0: not known */
    double prompt_square; /* mean of squares */
    double output_mean;   /* tokens of an answer; 0: not known */
} scaler_load;

enum {
    SCALER_DEMAND_BUCKET_US = 10000000,
    SCALER_DEMAND_FAST_US = 10000000,
    SCALER_DEMAND_SLOW_US = 250000000, /* what the smoothed load is a mean of, about */
    SCALER_DEMAND_HISTORY = 90         /* buckets: a quarter of an hour */
};

typedef struct {
    scaler_counters last;
    bool primed;
    /* the bucket that fills */
    scaler_counters sums;
    int64_t sums_us;
    /* the last SCALER_DEMAND_FAST_US, in as many parts */
    struct {
        double requests, prompt_tokens;
        int64_t us;
    } fast[16];
    uint32_t fast_next;
    /* smoothed, each a second; trends a bucket */
    double level[2], trend[2];                       /* requests, prompt tokens */
    double long_requests, long_tokens, long_squares; /* sums that fade with requests, not time */
    double spread;    /* of prompts: mean of squares over square of the mean; 0: not known */
    uint32_t buckets; /* so far, up to SCALER_DEMAND_HISTORY */
    double output_mean;
    double output_weight;
    double history[SCALER_DEMAND_HISTORY]; /* levels of requests, a ring */
    double history_tokens[SCALER_DEMAND_HISTORY];
    double raw[SCALER_DEMAND_HISTORY], raw_tokens[SCALER_DEMAND_HISTORY]; /* not smoothed */
    uint32_t history_next;
} scaler_demand;

/* Counters as they are now, `elapsed_us` after the last. */
void scaler_demand_note(scaler_demand *d, const scaler_counters *now, int64_t elapsed_us);

/* The load of the last `window_us`, at most SCALER_DEMAND_FAST_US; a first moment counts as a whole
 * window: one request is no flood. */
scaler_load scaler_demand_fast(const scaler_demand *d, int64_t window_us);

/* What is to be expected `ahead_us` from now. */
scaler_load scaler_demand_forecast(const scaler_demand *d, int64_t ahead_us);

/* The highest smoothed load of the last `window_us` (at most what is kept), and no more than what
 * came in any 30 s of it: a load that has ended is over. */
scaler_load scaler_demand_highest(const scaler_demand *d, int64_t window_us);

/* The least that a load may be, doubting as many deviations of chance in `window_us` as `z`. */
scaler_load scaler_demand_doubted(scaler_load load, double window_us, double z);

/* Standard deviation, relative to the load, of the work of requests at this rate that come within
 * `window_us`: what chance alone does. */
double scaler_demand_chance(const scaler_load *load, double window_us);

#endif
