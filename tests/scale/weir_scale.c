/* weir_scale.c -- days of load under the production scaler, held against an oracle.
 *
 *     weir_scale [--days N] [--seed N] [NAME...]     the scenarios, or those named
 *     weir_scale --rates FILE                        a load curve: lines of seconds,requests_per_s
 *
 * The oracle knows the curve, changes its pools at once and for nothing, and has at every moment
 * the fewest workers that, held at that load for good, keep the objectives for 95 % of requests:
 * found by simulation of fixed pools, not by the scaler's formulas. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/check.h"
#include "engine/base/str.h"
#include "tests/scale/fleet.h"

enum { POOL_MAX = 24, CURVE_MAX = 1 << 16 };

static const double aim = 0.95, cost_most = 1.25, peak = 10;
static const double pi = 3.14159265358979;

static double able[SCALER_POOLS][POOL_MAX + 1]; /* requests a second that n workers hold */

static bool failed;

static void say(bool good, const char *name, const char *what, double value) {
    failed = failed || !good;
    if (good) {
        (void)printf("ok %s_%s (%.3f)\n", name, what, value);
    } else {
        (void)printf("not ok %s_%s - %.4f\n", name, what, value);
    }
    (void)fflush(stdout);
}

/* ---- curves --------------------------------------------------------------------------------- */

static double constant(const void *self, double s) {
    (void)s;
    return *(const double *)self;
}

static double step(const void *self, double s) {
    (void)self;
    double h = s / 3600;
    return fmod(h, 8) < 4 ? 0.35 * peak : 0.9 * peak;
}

static double diurnal(const void *self, double s) {
    (void)self;
    return peak * (0.5 - 0.4 * cos(2 * pi * s / 86400));
}

static double spike(const void *self, double s) {
    (void)self;
    double in_h = fmod(s, 10800);
    return in_h >= 7200 && in_h < 7800 ? 0.9 * peak : 0.3 * peak;
}

static double on_off(const void *self, double s) {
    (void)self;
    return fmod(s, 7200) < 3600 ? 0.7 * peak : 0;
}

/* An outside curve, scaled so that its highest is `peak`. */
typedef struct {
    double at_s[CURVE_MAX], rate[CURVE_MAX];
    int32_t count;
} table;

static double from_table(const void *self, double s) {
    const table *t = self;
    int32_t low = 0, high = t->count - 1;
    while (low < high) {
        int32_t mid = (low + high + 1) / 2;
        if (t->at_s[mid] <= s) {
            low = mid;
        } else {
            high = mid - 1;
        }
    }
    return t->rate[low];
}

static bool read_table(const char *path, table *t) {
    FILE *in = fopen(path, "r");
    char text[256];
    double highest = 0;
    if (!in) {
        return false;
    }
    while (t->count < CURVE_MAX && fgets(text, sizeof text, in)) {
        char *end;
        double s = strtod(text, &end);
        if (end == text || *end != ',') {
            continue; /* a heading */
        }
        t->at_s[t->count] = s;
        t->rate[t->count] = fmax(0, strtod(end + 1, NULL));
        highest = fmax(highest, t->rate[t->count++]);
    }
    (void)fclose(in);
    for (int32_t i = 0; i < t->count && highest > 0; i++) {
        t->rate[i] *= peak / highest;
    }
    return t->count > 1 && highest > 0;
}

/* ---- settings ------------------------------------------------------------------------------- */

static fleet_options base(uint64_t seed) {
    return (fleet_options){.seed = seed,
                           .seconds = 86400,
                           .rate_max = peak,
                           .prompt_mean = 900,
                           .prompt_spread = 0.8,
                           .output_mean = 300,
                           .output_spread = 0.7,
                           .start_s = 20,
                           .flip_s = 0.5,
                           .options = {.bounds = {{1, 32}, {1, 32}},
                                       .slo = {2e6, 50e3},
                                       .seqs_max = 64,
                                       .start_us = 120000000},
                           .workers = {2, 2}};
}

/* ---- the oracle ----------------------------------------------------------------------------- */

static bool holds(scaler_pool pool, uint32_t n, double rate) {
    fleet_options o = base(99);
    o.fixed = true;
    o.workers[pool] = n;
    o.workers[1 - pool] = 30; /* the other pool is never in the way */
    o.rate = constant;
    o.curve = &rate;
    o.rate_max = rate;
    o.seconds = fmin(20000 / rate, 40000);
    fleet_result r = fleet_run(&o, 0);
    double good = pool == SCALER_PREFILL ? r.first_in_time : r.tokens_in_time;
    return good >= aim * (r.requests + r.unfinished * (r.unfinished > 0.02 * r.requests));
}

static void learn_oracle(void) {
    for (int p = 0; p < SCALER_POOLS; p++) {
        for (uint32_t n = 1; n <= POOL_MAX; n++) {
            double low = able[p][n - 1], high = low + 3;
            for (int i = 0; i < 6; i++) {
                double mid = (low + high) / 2;
                if (holds((scaler_pool)p, n, mid)) {
                    low = mid;
                } else {
                    high = mid;
                }
            }
            able[p][n] = low;
            if (low > peak) {
                for (; n < POOL_MAX; n++) {
                    able[p][n + 1] = low;
                }
            }
        }
    }
}

static double oracle_gpu_hours(const fleet_options *o) {
    double sum = 0;
    for (double s = 0.5; s < o->seconds; s += 10) {
        double rate = o->rate(o->curve, s);
        for (int p = 0; p < SCALER_POOLS; p++) {
            uint32_t n = 0;
            while (n < POOL_MAX && able[p][n] < rate) {
                n++;
            }
            uint32_t least = o->options.bounds[p].min;
            sum += n > least ? n : least;
        }
    }
    return sum * 10 / 3600;
}

/* ---- scenarios ------------------------------------------------------------------------------ */

static void report(const char *name, const fleet_options *o, const fleet_result *r, bool cost) {
    double all = r->requests + r->unfinished;
    double oracle = oracle_gpu_hours(o);
    (void)printf(
        "# %s: %.0f requests, %.2f %% first tokens and %.2f %% answers in time, %.1f GPU "
        "hours (oracle %.1f), %.1f + %.1f workers, %u starts %u stops %u flips %u ends\n",
        name, r->requests, 100 * r->first_in_time / r->requests,
        100 * r->tokens_in_time / r->requests, r->gpu_hours, oracle, r->mean[0], r->mean[1],
        r->starts, r->stops, r->flips, r->ends);
    say(r->both_in_time >= aim * all, name, "objectives_kept", r->both_in_time / all);
    if (cost) {
        say(r->gpu_hours <= cost_most * oracle, name, "gpu_hours_near_the_oracle",
            r->gpu_hours / oracle);
    }
    say(r->while_pending == 0, name, "no_decision_while_one_is_pending", r->while_pending);
    say(r->over_cap == 0, name, "never_over_the_cap", r->over_cap);
}

typedef struct {
    const char *name;
    fleet_curve *rate;
    double days;
} scenario;

static void run_curves(const char *only, uint64_t seed, double days) {
    static const scenario list[] = {
        {"step", step, 1}, {"diurnal", diurnal, 2}, {"spike", spike, 1}, {"on_off", on_off, 1}};
    for (size_t i = 0; i < sizeof list / sizeof *list; i++) {
        if (only && strcmp(only, list[i].name) != 0) {
            continue;
        }
        fleet_options o = base(seed + i);
        o.rate = list[i].rate;
        o.seconds = list[i].days * days * 86400;
        if (o.rate == on_off) {
            o.options.bounds[0].min = o.options.bounds[1].min = 0;
        }
        fleet_result r = fleet_run(&o, 0);
        report(list[i].name, &o, &r, true);
        if (o.rate == on_off) {
            say(r.low[0] == 0 && r.low[1] == 0, list[i].name, "goes_to_zero", r.low[0]);
        }
    }
}

static void run_constant(const char *only, uint64_t seed, double days) {
    static const double rates[] = {1.3, 4.7, 8.2};
    if (only && strcmp(only, "constant") != 0) {
        return;
    }
    for (size_t i = 0; i < sizeof rates / sizeof *rates; i++) {
        char name[32];
        fleet_options o = base(seed + 10 + i);
        o.rate = constant;
        o.curve = &rates[i];
        o.rate_max = rates[i];
        o.seconds = days * 86400;
        fleet_result r = fleet_run(&o, 7200);
        (void)snprintf(name, sizeof name, "constant_%.1f", rates[i]);
        report(name, &o, &r, true);
        /* Arrivals are random: a burst may be a load for a moment, once a day. */
        say(r.late_actions <= 2 * days, name, "no_oscillation", r.late_actions);
        o.even = true;
        r = fleet_run(&o, 3600);
        say(r.late_actions == 0, name, "even_no_action_at_all", r.late_actions);
    }
}

static void run_faults(const char *only, uint64_t seed) {
    if (only && strcmp(only, "faults") != 0) {
        return;
    }
    fleet_options o = base(seed + 20);
    o.rate = diurnal;
    o.nan_share = 0.05;
    o.jump_share = 0.001;
    o.stuck_share = 0.1;
    o.slow_share = 0.1;
    o.death_s = 1800;
    fleet_result r = fleet_run(&o, INFINITY);
    report("faults", &o, &r, false);
    say(r.deaths > 20 && r.ends > 0, "faults", "happened", r.deaths);
    static const double shifted = 3;
    o = base(seed + 21);
    o.rate = constant;
    o.curve = &shifted;
    o.rate_max = shifted;
    o.seconds = 43200;
    o.shift_s = 21600;
    o.options.gpus_max = 6; /* all in use before and after: only flips help */
    o.workers[0] = 4;
    r = fleet_run(&o, INFINITY);
    report("shift_at_the_cap", &o, &r, false);
    say(r.flips > 0 && r.flips < 10, "shift_at_the_cap", "flips", r.flips);
    say(r.end[SCALER_DECODE] > r.end[SCALER_PREFILL], "shift_at_the_cap", "decode_has_more",
        r.end[SCALER_DECODE]);
}

static int run_rates(const char *path, uint64_t seed) {
    static table t;
    if (!read_table(path, &t)) {
        (void)printf("not ok rates - cannot read %s\n", path);
        return 1;
    }
    fleet_options o = base(seed);
    o.rate = from_table;
    o.curve = &t;
    o.seconds = fmin(t.at_s[t.count - 1], 14 * 86400);
    fleet_result r = fleet_run(&o, INFINITY);
    report("outside", &o, &r, true);
    return failed ? 1 : 0;
}

int main(int argc, char **argv) {
    const char *only = NULL, *rates = NULL;
    int64_t seed = 1;
    double days = 1;
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--seed") == 0 && i + 1 < argc) {
            CHECK(str_to_i64(str_from(argv[++i]), 0, INT64_MAX / 2, &seed));
        } else if (strcmp(argv[i], "--days") == 0 && i + 1 < argc) {
            CHECK(str_to_f64(str_from(argv[++i]), &days));
        } else if (strcmp(argv[i], "--rates") == 0 && i + 1 < argc) {
            rates = argv[++i];
        } else {
            only = argv[i];
        }
    }
    learn_oracle();
    for (int p = 0; p < SCALER_POOLS; p++) {
        (void)printf("# oracle, %s: requests/s that 1, 2, 4, 8 workers hold: %.2f %.2f %.2f %.2f\n",
                     scaler_pool_name((scaler_pool)p), able[p][1], able[p][2], able[p][4],
                     able[p][8]);
    }
    if (rates) {
        return run_rates(rates, (uint64_t)seed);
    }
    run_constant(only, (uint64_t)seed, days);
    run_curves(only, (uint64_t)seed, days);
    run_faults(only, (uint64_t)seed);
    return failed ? 1 : 0;
}
