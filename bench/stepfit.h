/* stepfit.h -- step times fitted to a profile of the timed backend (engine/worker/timedprofile.h).
 *
 * Purpose    Collects how long runs of steps took, and writes fixed, per-row and per-context times
 *            of prefill and decode by least squares on the relative error, with that error.
 * Ownership  Plain values.
 * Threads    One.
 * Limits     STEPFIT_POINTS_MAX points of each phase; more are left out.
 */
#ifndef BENCH_STEPFIT_H
#define BENCH_STEPFIT_H

#include <stdint.h>

#include "engine/base/status.h"

enum { STEPFIT_POINTS_MAX = 512 };

typedef struct {
    double work[STEPFIT_POINTS_MAX][3]; /* steps, rows, context tokens */
    double us[STEPFIT_POINTS_MAX];
    int32_t count;
} stepfit;

void stepfit_add(stepfit *f, double steps, double rows, double context, double us);

/* us = out . work, no part negative. Returns the root mean square of the relative error. */
double stepfit_solve(const stepfit *f, double out[3]);

MUST_USE status stepfit_write(const char *path, const char *about, const stepfit *prefill,
                              const stepfit *decode, uint64_t kv_bytes_per_token, diag *d);

#endif
