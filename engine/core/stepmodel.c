/* stepmodel.c -- least squares over step times, all at once (bench/stepfit) or as they come. */
#include "engine/core/stepmodel.h"

#include <math.h>

#include "engine/base/check.h"

enum {
    COLD = 3,  /* steps of a phase that warm caches and allocators, and say nothing */
    PARTS = 3, /* fixed, row, work */
    FIXED = 0, /* what decoding mostly is: reading the weights */
    ROW = 1    /* what prompts mostly are */
};

static const double KEEP = 1 - 1.0 / 256; /* a sample's weight is halved by the next 177 */
static const double RIDGE = 1e-3;
static const double PART_US_MAX = 1e9;

void stepmodel_add(stepmodel_sums *s, const double x[3], double us, double scale, double keep) {
    CHECK(scale > 0);
    for (int r = 0; r < PARTS; r++) {
        for (int c = 0; c < PARTS; c++) {
            s->m[r][c] = keep * s->m[r][c] + x[r] / scale * (x[c] / scale);
        }
        s->m[r][PARTS] = keep * s->m[r][PARTS] + x[r] / scale * (us / scale);
    }
}

/* Gauss-Jordan with the parts that `on` leaves out fixed at 0. */
static void solve_some(const stepmodel_sums *s, const bool on[3], const double prior[3],
                       double ridge, double out[3]) {
    double m[3][4] = {{0}};
    for (int r = 0; r < PARTS; r++) {
        for (int c = 0; c < PARTS; c++) {
            m[r][c] = on[r] && on[c] ? s->m[r][c] : 0;
        }
        m[r][PARTS] = on[r] ? s->m[r][PARTS] + ridge * s->m[r][r] * prior[r] : 0;
        m[r][r] = m[r][r] > 0 ? m[r][r] * (1 + 1e-12 + ridge) : 1; /* 1: no point has it */
    }
    for (int k = 0; k < PARTS; k++) {
        m[k][k] = m[k][k] > 0 ? m[k][k] : 1; /* what rounding left of two parts that go together */
        for (int r = 0; r < PARTS; r++) {
            double times = r == k ? 0 : m[r][k] / m[k][k];
            for (int c = 0; c < PARTS + 1 && times != 0; c++) {
                m[r][c] -= times * m[k][c];
            }
        }
    }
    for (int k = 0; k < PARTS; k++) {
        out[k] = on[k] ? m[k][PARTS] / m[k][k] : 0;
    }
}

void stepmodel_solve(const stepmodel_sums *s, int alone, double ridge, double out[3]) {
    CHECK(alone >= -1 && alone < PARTS);
    bool on[3] = {true, true, true};
    double prior[3] = {0};
    if (alone >= 0 && s->m[alone][alone] > 0) {
        prior[alone] = s->m[alone][PARTS] / s->m[alone][alone];
    }
    for (;;) {
        int worst = -1;
        solve_some(s, on, prior, ridge, out);
        for (int k = 0; k < PARTS; k++) {
            worst = out[k] < 0 && (worst < 0 || out[k] < out[worst]) ? k : worst;
        }
        if (worst < 0) {
            return;
        }
        on[worst] = false;
    }
}

double stepmodel_step_us(const stepmodel_fit *f, int64_t rows, int64_t work) {
    if (!stepmodel_known(f)) {
        return 0;
    }
    return (double)f->fixed_us + (double)f->row_us * (double)rows +
           (double)f->work_us * (double)work;
}

double stepmodel_prefill_us(const stepmodel_fit *f, int64_t tokens, int64_t pairs,
                            int32_t chunk_tokens) {
    CHECK(tokens >= 0 && pairs >= 0);
    int64_t chunk = chunk_tokens > 0 ? chunk_tokens : tokens + 1;
    int64_t steps = (tokens + chunk - 1) / chunk;
    return steps == 0 ? 0
                      : stepmodel_step_us(f, tokens, pairs) +
                            (stepmodel_known(f) ? (double)f->fixed_us * (double)(steps - 1) : 0);
}

static bool usable(const double parts[3]) {
    for (int k = 0; k < PARTS; k++) {
        if (!isfinite(parts[k]) || parts[k] < 0 || parts[k] > PART_US_MAX) {
            return false;
        }
    }
    return true;
}

static void observe_phase(stepmodel *s, stepmodel_phase phase, const double x[3], double us) {
    stepmodel_fit *f = &s->fits[phase];
    if (s->seen[phase] < COLD) {
        s->seen[phase]++;
        return;
    }
    /* Relative to the larger of what it took and should have: a step that was held up (or whose
     * clock was) counts little either way. */
    double expected = stepmodel_step_us(f, (int64_t)x[1], (int64_t)x[2]);
    stepmodel_add(&s->sums[phase], x, us, us > expected ? us : expected, KEEP);
    double parts[3];
    stepmodel_solve(&s->sums[phase], phase == STEPMODEL_PREFILL ? ROW : FIXED, RIDGE, parts);
    if (usable(parts)) {
        uint32_t samples = f->samples;
        *f = (stepmodel_fit){(float)parts[0], (float)parts[1], (float)parts[2],
                             samples < UINT32_MAX ? samples + 1 : samples};
    }
}

void stepmodel_observe(stepmodel *s, const stepmodel_work *w, int64_t us) {
    double took = (double)us;
    CHECK(w->prompt_rows >= 0 && w->prompt_pairs >= 0);
    CHECK(w->decode_rows >= 0 && w->decode_context >= 0);
    if (us <= 0) {
        return;
    }
    const double decode[3] = {1, (double)w->decode_rows, (double)w->decode_context};
    const double prompt[3] = {1, (double)w->prompt_rows, (double)w->prompt_pairs};
    if (w->prompt_rows == 0) {
        if (w->decode_rows > 0) {
            observe_phase(s, STEPMODEL_DECODE, decode, took);
        }
        return;
    }
    if (w->decode_rows > 0) {
        /* Both at once read the weights once: what the decode rows add is taken off, as far as it
         * is known. */
        const stepmodel_fit *f = &s->fits[STEPMODEL_DECODE];
        if (!stepmodel_known(f)) {
            return;
        }
        took -= (double)f->row_us * decode[1] + (double)f->work_us * decode[2];
        if (took <= 0) {
            return;
        }
    }
    observe_phase(s, STEPMODEL_PREFILL, prompt, took);
}
