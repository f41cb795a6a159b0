/* stepmodel.h -- how long steps take on this worker, learnt from the steps it runs.
 *
 * Purpose    Fits, while the worker serves, us = fixed + row * rows + work * (attention's share)
 *            for steps of prompts and for decode steps, so that routers and controllers can ask
 *            what a prompt or a batch would cost. Samples of a cold start are left out, old ones
 *            fade, slow outliers weigh little, and no part is negative: a fit can be late, never
 *            absurd.
 * Ownership  Plain values.
 * Threads    One at a time.
 * Limits     None. Everything that comes out is finite.
 * Source     Least squares by the normal equations with exponential forgetting (Haykin, "Adaptive
 *            Filter Theory", on recursive least squares), on the error relative to the step, with a
 *            small ridge towards the one-parameter fit: what the samples cannot tell apart (prompts
 *            that are all of one length) stays where extrapolation is sane.
 */
#ifndef ENGINE_CORE_STEPMODEL_H
#define ENGINE_CORE_STEPMODEL_H

#include <stdbool.h>
#include <stdint.h>

/* Prompts: rows of chunks, and pairs of a row and a position it attends to. Decoding: sequences,
 * and tokens of KV that they attend to. */
typedef struct {
    float fixed_us;   /* of a step */
    float row_us;     /* each prompt row, or sequence */
    float work_us;    /* each pair, or token attended to */
    uint32_t samples; /* 0: not known; of steps like these, cold ones left out */
} stepmodel_fit;

/* What a step did. */
typedef struct {
    int64_t prompt_rows, prompt_pairs;
    int64_t decode_rows, decode_context;
} stepmodel_work;

/* Normal equations of us = x . parts. */
typedef struct {
    double m[3][4];
} stepmodel_sums;

typedef enum { STEPMODEL_PREFILL, STEPMODEL_DECODE, STEPMODEL_PHASES } stepmodel_phase;

typedef struct {
    stepmodel_sums sums[STEPMODEL_PHASES];
    stepmodel_fit fits[STEPMODEL_PHASES];
    uint32_t seen[STEPMODEL_PHASES]; /* cold ones too, up to where that matters */
} stepmodel;

/* Samples after which a fit is good enough to be used. */
enum { STEPMODEL_SAMPLES_KNOWN = 4 };

static inline bool stepmodel_known(const stepmodel_fit *f) {
    return f->samples >= STEPMODEL_SAMPLES_KNOWN;
}

/* A step of `w` took `us`. */
void stepmodel_observe(stepmodel *s, const stepmodel_work *w, int64_t us);

/* Pairs of a chunk of `rows` rows behind `before` tokens. */
static inline int64_t stepmodel_pairs(int64_t rows, int64_t before) {
    return rows * before + rows * (rows + 1) / 2;
}

/* Time of one step. 0 when the fit is not known. */
double stepmodel_step_us(const stepmodel_fit *f, int64_t rows, int64_t work);

/* Time of all steps that compute `tokens` prompt tokens with `pairs`, alone, in chunks. */
double stepmodel_prefill_us(const stepmodel_fit *f, int64_t tokens, int64_t pairs,
                            int32_t chunk_tokens);

/* Adds the point (x, us), its error counted relative to `scale`, after all earlier ones were
 * weighed with `keep`. */
void stepmodel_add(stepmodel_sums *s, const double x[3], double us, double scale, double keep);

/* The parts of least squares, none negative. `alone` is the part that explains everything where
 * the points cannot tell the parts apart, or -1 for none; `ridge` is how much that counts. */
void stepmodel_solve(const stepmodel_sums *s, int alone, double ridge, double out[3]);

#endif
