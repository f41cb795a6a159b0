/* stepfit.c -- least squares over step times, by the normal equations. */
#define _GNU_SOURCE
#include "bench/stepfit.h"

#include <math.h>
#include <stdio.h>

void stepfit_add(stepfit *f, double steps, double rows, double context, double us) {
    if (f->count < STEPFIT_POINTS_MAX && us > 0) {
        const double work[3] = {steps, rows, context};
        for (int k = 0; k < 3; k++) {
            f->work[f->count][k] = work[k];
        }
        f->us[f->count++] = us;
    }
}

/* Gauss-Jordan with the parts that `on` leaves out fixed at 0. */
static void solve_some(const stepfit *f, const int on[3], double out[3]) {
    double m[3][4] = {{0}};
    for (int32_t i = 0; i < f->count; i++) {
        for (int r = 0; r < 3; r++) {
            double x = f->work[i][r] / f->us[i];
            for (int c = 0; c < 3; c++) {
                m[r][c] += on[r] && on[c] ? x * f->work[i][c] / f->us[i] : 0;
            }
            m[r][3] += on[r] ? x : 0;
        }
    }
    for (int k = 0; k < 3; k++) {
        m[k][k] = m[k][k] > 0 ? m[k][k] * (1 + 1e-12) : 1; /* points that do not tell it apart */
        for (int r = 0; r < 3; r++) {
            double times = r == k ? 0 : m[r][k] / m[k][k];
            for (int c = 0; c < 4 && times != 0; c++) {
                m[r][c] -= times * m[k][c];
            }
        }
    }
    for (int k = 0; k < 3; k++) {
        out[k] = on[k] ? m[k][3] / m[k][k] : 0;
    }
}

double stepfit_solve(const stepfit *f, double out[3]) {
    int on[3] = {1, 1, 1};
    for (;;) {
        int worst = -1;
        solve_some(f, on, out);
        for (int k = 0; k < 3; k++) {
            worst = out[k] < 0 && (worst < 0 || out[k] < out[worst]) ? k : worst;
        }
        if (worst < 0) {
            break;
        }
        on[worst] = 0;
    }
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
