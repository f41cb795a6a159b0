/* scaler_demand.c -- counters to rates, rates to a forecast. */
#include "server/control/scaler_demand.h"

#include <math.h>

enum { RAW_BUCKETS = 3, FAST_PARTS = 16, REQUESTS = 0, TOKENS, PARTS };

static const double level_gain = 0.08, trend_gain = 0.05, trend_kept = 0.9;
static const double output_kept = 0.995;  /* an answer's weight after each later one */
static const double spread_kept = 0.9997; /* likewise, a prompt's */

static bool usable(double x) {
    return isfinite(x) && x >= 0;
}

static bool all_usable(const scaler_counters *c) {
    return usable(c->requests) && usable(c->prompt_tokens) && usable(c->prompt_squares) &&
           usable(c->finished) && usable(c->finished_tokens);
}

static bool follows(const scaler_counters *now, const scaler_counters *last) {
    return now->requests >= last->requests && now->prompt_tokens >= last->prompt_tokens &&
           now->prompt_squares >= last->prompt_squares && now->finished >= last->finished &&
           now->finished_tokens >= last->finished_tokens;
}

static void close_bucket(scaler_demand *d) {
    double seconds = (double)d->sums_us / 1e6;
    const double rate[PARTS] = {d->sums.requests / seconds, d->sums.prompt_tokens / seconds};
    for (int i = 0; i < PARTS; i++) {
        if (d->buckets == 0) {
            d->level[i] = rate[i];
            continue;
        }
        /* The first buckets count as a plain mean: a start is no trend. */
        double gain = fmax(level_gain, 1.0 / (d->buckets + 1.0));
        double before = d->level[i];
        d->level[i] = fmax(0, gain * rate[i] + (1 - gain) * (before + trend_kept * d->trend[i]));
        d->trend[i] =
            trend_gain * (d->level[i] - before) + (1 - trend_gain) * trend_kept * d->trend[i];
    }
    d->history[d->history_next] = d->level[REQUESTS];
    d->history_tokens[d->history_next] = d->level[TOKENS];
    d->raw[d->history_next] = rate[REQUESTS];
    d->raw_tokens[d->history_next] = rate[TOKENS];
    d->history_next = (d->history_next + 1) % SCALER_DEMAND_HISTORY;
    d->buckets += d->buckets < SCALER_DEMAND_HISTORY;
    d->sums = (scaler_counters){0};
    d->sums_us = 0;
}

static void note_outputs(scaler_demand *d, double finished, double tokens) {
    if (finished <= 0) {
        return;
    }
    double kept = pow(output_kept, finished);
    double weight = d->output_weight * kept + finished;
    d->output_mean = (d->output_mean * d->output_weight * kept + tokens) / weight;
    d->output_weight = weight;
}

/* How unequal prompts are takes thousands of them to know: it is learnt more slowly than their
 * number and their mean. */
static void note_spread(scaler_demand *d, double requests, double tokens, double squares) {
    double kept = pow(spread_kept, requests);
    d->long_requests = d->long_requests * kept + requests;
    d->long_tokens = d->long_tokens * kept + tokens;
    d->long_squares = d->long_squares * kept + squares;
    if (d->long_tokens > 0) {
        double mean = d->long_tokens / d->long_requests;
        d->spread = fmin(d->long_squares / d->long_requests / (mean * mean), 10);
    }
}

void scaler_demand_note(scaler_demand *d, const scaler_counters *now, int64_t elapsed_us) {
    if (!all_usable(now)) {
        return; /* when they are back, what came meanwhile counts as having come then */
    }
    if (!d->primed || !follows(now, &d->last)) {
        d->primed = true;
        d->last = *now;
        return;
    }
    if (elapsed_us <= 0) {
        return;
    }
    double requests = now->requests - d->last.requests;
    double tokens = now->prompt_tokens - d->last.prompt_tokens;
    double squares = now->prompt_squares - d->last.prompt_squares;
    d->fast[d->fast_next].requests = requests;
    d->fast[d->fast_next].prompt_tokens = tokens;
    d->fast[d->fast_next].us = elapsed_us;
    d->fast_next = (d->fast_next + 1) % FAST_PARTS;
    note_outputs(d, now->finished - d->last.finished,
                 now->finished_tokens - d->last.finished_tokens);
    note_spread(d, requests, tokens, squares);
    d->sums.requests += requests;
    d->sums.prompt_tokens += tokens;
    d->sums_us += elapsed_us;
    d->last = *now;
    if (d->sums_us >= SCALER_DEMAND_BUCKET_US) {
        close_bucket(d);
    }
}

static scaler_load load_of(const scaler_demand *d, double requests, double tokens) {
    scaler_load l = {.requests_per_s = fmax(0, requests), .output_mean = d->output_mean};
    if (l.requests_per_s > 0) {
        l.prompt_mean = fmax(0, tokens) / l.requests_per_s;
        l.prompt_square = fmax(d->spread, 1) * l.prompt_mean * l.prompt_mean;
    }
    return l;
}

scaler_load scaler_demand_fast(const scaler_demand *d, int64_t window_us) {
    double requests = 0, tokens = 0;
    int64_t us = 0;
    for (uint32_t i = 1; i <= FAST_PARTS && us < window_us; i++) {
        uint32_t at = (d->fast_next + FAST_PARTS - i) % FAST_PARTS;
        requests += d->fast[at].requests;
        tokens += d->fast[at].prompt_tokens;
        us += d->fast[at].us;
    }
    double seconds = (double)(us > window_us ? us : window_us) / 1e6;
    return load_of(d, requests / seconds, tokens / seconds);
}

scaler_load scaler_demand_forecast(const scaler_demand *d, int64_t ahead_us) {
    double steps = (double)ahead_us / SCALER_DEMAND_BUCKET_US;
    double reach = 0; /* sum of the damped trend's powers */
    for (double kept = trend_kept; steps > 0 && kept > 1e-3; steps--, kept *= trend_kept) {
        reach += kept * fmin(steps, 1);
    }
    double out[PARTS];
    scaler_load level = load_of(d, d->level[REQUESTS], d->level[TOKENS]);
    double chance = 2 * scaler_demand_chance(&level, SCALER_DEMAND_SLOW_US);
    for (int i = 0; i < PARTS; i++) {
        double grows = reach * d->trend[i];
        grows = fabs(grows) > chance * d->level[i] ? grows : 0; /* chance is no trend */
        double ahead = d->level[i] + grows;
        out[i] = fmin(fmax(ahead, 0), 2 * d->level[i]); /* a trend never more than doubles it */
    }
    return load_of(d, out[REQUESTS], out[TOKENS]);
}

static double highest(const scaler_demand *d, const double *level, const double *raw,
                      uint32_t count) {
    double smooth = 0, most = 0;
    for (uint32_t i = 1; i <= count; i++) {
        double sum = 0;
        uint32_t parts = 0;
        for (uint32_t k = i; k < i + RAW_BUCKETS && k <= d->buckets; k++, parts++) {
            sum += raw[(d->history_next + SCALER_DEMAND_HISTORY - k) % SCALER_DEMAND_HISTORY];
        }
        smooth = fmax(smooth,
                      level[(d->history_next + SCALER_DEMAND_HISTORY - i) % SCALER_DEMAND_HISTORY]);
        most = fmax(most, sum / parts);
    }
    return fmin(smooth, most);
}

scaler_load scaler_demand_highest(const scaler_demand *d, int64_t window_us) {
    uint32_t count = (uint32_t)(window_us / SCALER_DEMAND_BUCKET_US);
    count = count > 0 ? count : 1;
    count = count < d->buckets ? count : d->buckets;
    return load_of(d, highest(d, d->history, d->raw, count),
                   highest(d, d->history_tokens, d->raw_tokens, count));
}

scaler_load scaler_demand_doubted(scaler_load l, double window_us, double z) {
    double count = l.requests_per_s * window_us / 1e6;
    if (count <= 0 || l.prompt_mean <= 0) {
        return l;
    }
    double square = l.prompt_square / (l.prompt_mean * l.prompt_mean);
    double mean = fmax(0, 1 - z * sqrt(fmin(fmax(square - 1, 0), 10) / count));
    l.requests_per_s *= fmax(0, 1 - z / sqrt(count));
    l.prompt_mean *= mean;
    l.prompt_square *= mean * mean;
    return l;
}

double scaler_demand_chance(const scaler_load *load, double window_us) {
    double count = load->requests_per_s * window_us / 1e6;
    double spread =
        load->prompt_mean > 0 ? load->prompt_square / (load->prompt_mean * load->prompt_mean) : 1;
    return count > 0 ? sqrt(fmin(spread, 10) / count) : 1;
}
