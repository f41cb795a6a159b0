/* stepfit.c -- least squares over step times; the workers' own fit (engine/core/stepmodel) does it.
 */
#define _GNU_SOURCE
#include "bench/stepfit.h"

#include <math.h>
#include <stdio.h>

#include "engine/core/stepmodel.h"

void stepfit_add(stepfit *f, double steps, double rows, double context, double us) {
    if (f->count < STEPFIT_POINTS_MAX && us > 0) {
        const double work[3] = {steps, rows, context};
        for (int k = 0; k < 3; k++) {
            f->work[f->count][k] = work[k];
        }
        f->us[f->count++] = us;
    }
}

double stepfit_solve(const stepfit *f, double out[3]) {
    stepmodel_sums sums = {{{0}}};
    for (int32_t i = 0; i < f->count; i++) {
        stepmodel_add(&sums, f->work[i], f->us[i], f->us[i], 1);
    }
    stepmodel_solve(&sums, -1, 0, out);
    double sum = 0;
    for (int32_t i = 0; i < f->count; i++) {
        double is = 0;
        for (int k = 0; k < 3; k++) {
            is += out[k] * f->work[i][k];
        }
        sum += (is / f->us[i] - 1) * (is / f->us[i] - 1);
    }
    return f->count > 0 ? sqrt(sum / f->count) : 0;
}

status stepfit_write(const char *path, const char *about, const stepfit *prefill,
                     const stepfit *decode, uint64_t kv_bytes_per_token, diag *d) {
    double p[3], g[3];
    double p_error = stepfit_solve(prefill, p), g_error = stepfit_solve(decode, g);
    FILE *f = fopen(path, "w");
    if (!f) {
        return status_fail_errno(d, STATUS_IO, "--profile-out %s", path);
    }
    (void)fprintf(f,
                  "# %s\n# residual (relative, root mean square): prefill %.1f %% of %d points, "
                  "decode %.1f %% of %d\nprefill-us = %.2f\nprefill-token-us = %.3f\n"
                  "prefill-context-us = %.4f\ndecode-us = %.2f\ndecode-seq-us = %.3f\n"
                  "decode-context-us = %.4f\nkv-bytes-per-token = %llu\n",
                  about, 100 * p_error, prefill->count, 100 * g_error, decode->count, p[0], p[1],
                  p[2], g[0], g[1], g[2], (unsigned long long)kv_bytes_per_token);
    if (fclose(f) != 0) {
        return status_fail_errno(d, STATUS_IO, "--profile-out %s", path);
    }
    (void)fprintf(stderr, "%s: residual prefill %.1f %%, decode %.1f %%\n", path, 100 * p_error,
                  100 * g_error);
    return STATUS_OK;
}
