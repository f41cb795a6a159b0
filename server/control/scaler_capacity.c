/* scaler_capacity.c -- queueing formulas over step models. */
#include "server/control/scaler_capacity.h"

#include <math.h>

#include "engine/base/limits.h"

static const double busy_most = 0.85;   /* of a prefill pool, whatever the formula says */
static const double late_share = 0.03;  /* of first tokens; 5 % may be, the model errs */
static const double slack_least = 0.25; /* of the objective: what no number of workers shortens */
static const double step_share = 0.9;   /* of the objective of a token, for one step */
static const double spread_z = 1.65;    /* 95th percentile of what runs at once */

double scaler_capacity_prefill_us(const scaler_speed *s, const scaler_load *l) {
    if (!stepmodel_known(&s->prefill) || l->prompt_mean <= 0) {
        return 0;
    }
    double chunk = s->chunk_tokens > 0 ? s->chunk_tokens : 256;
    double chunks = fmax(1, l->prompt_mean / chunk + 0.5);
    return chunks * s->prefill.fixed_us + l->prompt_mean * s->prefill.row_us +
           l->prompt_square / 2 * s->prefill.work_us;
}

/* Share of first tokens later than the objective with `n` workers. */
static double late(double n, double rate, double mean_us, double spread, double slack_us) {
    double busy = rate * mean_us / 1e6 / n;
    if (busy >= busy_most) {
        return 1;
    }
    double waits = pow(busy, sqrt(2 * (n + 1)) - 1); /* share that waits at all */
    double wait_us = mean_us * (1 + spread) / 2 / (n * (1 - busy));
    return waits * exp(-slack_us / wait_us);
}

uint32_t scaler_capacity_prefill(const scaler_speed *s, const scaler_load *l,
                                 const scaler_slo *slo) {
    if (l->requests_per_s <= 0) {
        return 0;
    }
    double mean = scaler_capacity_prefill_us(s, l);
    if (mean <= 0) {
        return UINT32_MAX;
    }
    double spread = fmin(fmax(l->prompt_square / (l->prompt_mean * l->prompt_mean) - 1, 0), 10);
    double own = mean * (1 + spread_z * sqrt(spread));
    double slack = fmax(slo->ttft_us - own, slack_least * slo->ttft_us);
    uint32_t n = 1;
    while (n < SCALER_CAPACITY_MAX &&
           late(n, l->requests_per_s, mean, spread, slack) > late_share) {
        n++;
    }
    return n;
}

static double context_of(const scaler_load *l) {
    return l->prompt_mean + l->output_mean / 2;
}

static double step_us(const scaler_speed *s, const scaler_load *l, double batch) {
    return s->decode.fixed_us + batch * (s->decode.row_us + s->decode.work_us * context_of(l));
}

double scaler_capacity_batch(const scaler_speed *s, const scaler_load *l, double tpot_us) {
    if (!stepmodel_known(&s->decode)) {
        return 0;
    }
    double each = s->decode.row_us + s->decode.work_us * context_of(l);
    double most = s->seqs_max > 0 ? s->seqs_max : 64;
    if (s->pages > 0) {
        double pages = ceil((l->prompt_mean + l->output_mean) / LIMIT_PAGE_TOKENS) + 1;
        most = fmin(most, floor(0.9 * s->pages / pages));
    }
    double left = tpot_us * step_share - s->decode.fixed_us;
    double batch = each > 0 ? floor(left / each) : most;
    return fmax(1, fmin(batch, most));
}

double scaler_capacity_running(const scaler_speed *s, const scaler_load *l, double batch) {
    return l->requests_per_s * l->output_mean * step_us(s, l, batch) / 1e6;
}

uint32_t scaler_capacity_decode(const scaler_speed *s, const scaler_load *l,
                                const scaler_slo *slo) {
    if (l->requests_per_s <= 0) {
        return 0;
    }
    double batch = scaler_capacity_batch(s, l, slo->tpot_us);
    if (batch <= 0 || l->output_mean <= 0) {
        return UINT32_MAX;
    }
    double running = scaler_capacity_running(s, l, batch);
    double needed = ceil((running + spread_z * sqrt(running)) / batch);
    return (uint32_t)fmin(fmax(needed, 1), SCALER_CAPACITY_MAX);
}
