/* loadstats_test.c -- figures of a load run against a naive computation. */
#include "bench/loadstats.h"

#include <cjson/cJSON.h>
#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>

#include "engine/base/rng.h"

enum { N = 500 };

/* The definition: the smallest sample such that at least `share` of the samples are not larger. */
static int64_t naive_percentile(const int64_t *values, size_t count, double share) {
    int64_t best = INT64_MAX;
    for (size_t i = 0; i < count; i++) {
        size_t below = 0;
        for (size_t k = 0; k < count; k++) {
            below += values[k] <= values[i];
        }
        if ((double)below >= share * (double)count - 1e-9 && values[i] < best) {
            best = values[i];
        }
    }
    return best;
}

static int compare(const void *a, const void *b) {
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x > y) - (x < y);
}

Test(loadstats, percentiles_are_nearest_rank) {
    uint64_t random = 3;
    static const double shares[] = {0.01, 0.25, 0.5, 0.9, 0.95, 0.99, 1.0};
    for (int round = 0; round < 300; round++) {
        size_t count = 1 + rng_below(&random, 120);
        int64_t values[120];
        for (size_t i = 0; i < count; i++) {
            values[i] = (int64_t)rng_below(&random, 50);
        }
        int64_t sorted[120];
        for (size_t i = 0; i < count; i++) {
            sorted[i] = values[i];
        }
        qsort(sorted, count, sizeof sorted[0], compare);
        for (size_t k = 0; k < sizeof shares / sizeof shares[0]; k++) {
            cr_assert_eq(loadstats_percentile(sorted, count, shares[k]),
                         naive_percentile(values, count, shares[k]), "%zu values, %g", count,
                         shares[k]);
        }
    }
}

static void assert_spread(const loadstats_spread *s, const int64_t *us, size_t count) {
    cr_assert_eq(s->count, count);
    double sum = 0, max = 0;
    for (size_t i = 0; i < count; i++) {
        sum += (double)us[i];
        max = fmax(max, (double)us[i]);
    }
    cr_assert_float_eq(s->mean_ms, sum / (double)count / 1e3, 1e-9);
    cr_assert_float_eq(s->max_ms, max / 1e3, 1e-9);
    cr_assert_float_eq(s->p50_ms, (double)naive_percentile(us, count, 0.5) / 1e3, 1e-9);
    cr_assert_float_eq(s->p90_ms, (double)naive_percentile(us, count, 0.9) / 1e3, 1e-9);
    cr_assert_float_eq(s->p95_ms, (double)naive_percentile(us, count, 0.95) / 1e3, 1e-9);
    cr_assert_float_eq(s->p99_ms, (double)naive_percentile(us, count, 0.99) / 1e3, 1e-9);
}

static const int64_t last_arrival = 1000000 + (N - 1) * 1000;

static void add_gaps(loadstats *s, int64_t *gaps, uint64_t *random) {
    for (int i = 0; i < N; i++) {
        gaps[i] = (int64_t)rng_below(random, 90000);
        loadstats_add_gap(s, gaps[i]);
    }
}

Test(loadstats, figures_equal_a_naive_computation) {
    loadstats *s = NULL;
    diag d;
    cr_assert_eq(loadstats_open(N, &s, &d), STATUS_OK);
    uint64_t random = 9;
    static int64_t ttft[N], tpot[N], total[N], lag[N], gaps[N], refusal[N];
    size_t refusals = 0, steady = 0;
    size_t ok = 0, good = 0, multi = 0, lags = 0;
    int64_t prompt = 0, output = 0, last_end = 0;
    size_t failures[LOADSTATS_RESULTS] = {0};
    for (int i = 0; i < N; i++) {
        loadstats_request r = {.scheduled_us = 1000000 + i * 1000};
        r.sent_us = r.scheduled_us + (int64_t)rng_below(&random, 5000);
        r.first_us = r.sent_us + 1 + (int64_t)rng_below(&random, 200000);
        r.output_tokens = 1 + (int32_t)rng_below(&random, 20);
        r.last_us = r.first_us + (int64_t)rng_below(&random, 300000) * (r.output_tokens > 1);
        r.end_us = r.last_us + 100;
        r.prompt_tokens = 1 + (int32_t)rng_below(&random, 100);
        r.result = rng_below(&random, 4) == 0
                       ? (loadstats_result)(1 + rng_below(&random, LOADSTATS_RESULTS - 1))
                       : LOADSTATS_OK;
        loadstats_add(s, &r);
        lag[lags++] = r.sent_us - r.scheduled_us;
        refusal[refusals] = r.end_us - r.sent_us;
        refusals += r.result == LOADSTATS_REFUSED;
        last_end = r.end_us > last_end ? r.end_us : last_end;
        if (r.result != LOADSTATS_OK) {
            failures[r.result]++;
            continue;
        }
        ttft[ok] = r.first_us - r.scheduled_us;
        total[ok] = r.end_us - r.scheduled_us;
        bool fast = ttft[ok] <= 100000;
        ok++;
        if (r.output_tokens > 1) {
            tpot[multi] = (r.last_us - r.first_us) / (r.output_tokens - 1);
            fast = fast && tpot[multi] <= 15000;
            multi++;
        }
        good += fast;
        steady += fast && r.end_us <= last_arrival;
        prompt += r.prompt_tokens;
        output += r.output_tokens;
    }
    add_gaps(s, gaps, &random);
    loadstats_report f;
    loadstats_reduce(s, 100, 15, &f);
    cr_assert_eq(f.requests, N);
    cr_assert_eq(f.completed, ok);
    for (int i = 1; i < LOADSTATS_RESULTS; i++) {
        cr_assert_eq(f.failures[i], failures[i]);
    }
    assert_spread(&f.ttft, ttft, ok);
    assert_spread(&f.tpot, tpot, multi);
    assert_spread(&f.total, total, ok);
    assert_spread(&f.lag, lag, lags);
    assert_spread(&f.refusal, refusal, refusals);
    assert_spread(&f.gap, gaps, N);
    double seconds = (double)(last_end - 1000000) / 1e6;
    cr_assert_float_eq(f.duration_s, seconds, 1e-9);
    cr_assert_float_eq(f.requests_per_second, (double)ok / seconds, 1e-9);
    cr_assert_float_eq(f.output_tokens_per_second, (double)output / seconds, 1e-9);
    cr_assert_float_eq(f.tokens_per_second, (double)(prompt + output) / seconds, 1e-9);
    cr_assert_eq(f.good, good);
    cr_assert_float_eq(f.steady_good_per_second,
                       (double)steady * 1e6 / (double)(last_arrival - 1000000), 1e-9);
    cr_assert_float_eq(f.good_share, (double)good / N, 1e-12);
    loadstats_close(s);
}

Test(loadstats, a_late_start_counts_as_latency) {
    loadstats *s = NULL;
    diag d;
    cr_assert_eq(loadstats_open(1, &s, &d), STATUS_OK);
    /* Due at 1 s, sent at 3 s because no connection was free, first token 0.1 s later. */
    loadstats_request r = {.scheduled_us = 1000000,
                           .sent_us = 3000000,
                           .first_us = 3100000,
                           .last_us = 3100000,
                           .end_us = 3100000,
                           .output_tokens = 1};
    loadstats_add(s, &r);
    loadstats_report f;
    loadstats_reduce(s, 0, 0, &f);
    cr_assert_float_eq(f.ttft.p50_ms, 2100, 1e-9);
    cr_assert_float_eq(f.total.p50_ms, 2100, 1e-9);
    cr_assert_float_eq(f.lag.p50_ms, 2000, 1e-9);
    loadstats_close(s);
}

Test(loadstats, json_can_be_read_back) {
    loadstats *s = NULL;
    diag d;
    cr_assert_eq(loadstats_open(2, &s, &d), STATUS_OK);
    loadstats_report f;
    for (int i = 0; i < 2; i++) {
        loadstats_reduce(s, 0, 0, &f);
        strbuf out = strbuf_make(1 << 16);
        strbuf_append_char(&out, '{');
        loadstats_write_json(&f, &out);
        strbuf_append_char(&out, '}');
        cJSON *root = cJSON_Parse(out.data);
        cr_assert(root != NULL, "%s", out.data);
        cr_assert_eq(cJSON_GetObjectItem(root, "requests")->valueint, i);
        cr_assert_eq(
            cJSON_GetObjectItem(cJSON_GetObjectItem(root, "failures"), "timeout")->valueint, i);
        cJSON_Delete(root);
        strbuf_close(&out);
        loadstats_request r = {.result = LOADSTATS_TIMEOUT, .scheduled_us = 1, .end_us = 2};
        loadstats_add(s, &r);
    }
    loadstats_close(s);
}
