/* loadstats.c -- what a load run measured, and its report. */
#include "bench/loadstats.h"

#include <math.h>
#include <stdlib.h>

#include "engine/base/check.h"
#include "engine/base/mem.h"

struct loadstats {
    loadstats_request *requests; /* [requests_max] */
    size_t requests_count;
    size_t requests_max;
    int64_t *gaps; /* [gaps_room] */
    size_t gaps_count;
    size_t gaps_room;
    int64_t *scratch; /* [requests_max] */
};

status loadstats_open(size_t requests_max, loadstats **out, diag *d) {
    loadstats *s = mem_calloc(1, sizeof *s);
    if (s != NULL) {
        s->requests_max = requests_max;
        s->requests = mem_calloc(requests_max, sizeof *s->requests);
        s->scratch = mem_calloc(requests_max, sizeof *s->scratch);
    }
    if (s == NULL || s->requests == NULL || s->scratch == NULL) {
        loadstats_close(s);
        return status_fail(d, STATUS_NOMEM, "no memory for %zu requests", requests_max);
    }
    *out = s;
    return STATUS_OK;
}

void loadstats_close(loadstats *s) {
    if (s != NULL) {
        mem_free(s->requests);
        mem_free(s->gaps);
        mem_free(s->scratch);
        mem_free(s);
    }
}

void loadstats_add(loadstats *s, const loadstats_request *r) {
    CHECK_LT(s->requests_count, s->requests_max);
    s->requests[s->requests_count++] = *r;
}

void loadstats_add_gap(loadstats *s, int64_t gap_us) {
    if (s->gaps_count == s->gaps_room) {
        size_t room = s->gaps_room == 0 ? 4096 : 2 * s->gaps_room;
        int64_t *grown =
            room <= LOADSTATS_GAPS_MAX ? mem_realloc(s->gaps, room, sizeof *grown) : NULL;
        if (grown == NULL) {
            return;
        }
        s->gaps = grown;
        s->gaps_room = room;
    }
    s->gaps[s->gaps_count++] = gap_us;
}

int64_t loadstats_percentile(const int64_t *sorted, size_t count, double share) {
    CHECK(count > 0);
    size_t rank = (size_t)ceil(share * (double)count);
    rank = rank < 1 ? 1 : rank;
    return sorted[(rank < count ? rank : count) - 1];
}

static int loadstats_compare(const void *a, const void *b) {
    int64_t x = *(const int64_t *)a;
    int64_t y = *(const int64_t *)b;
    return (x > y) - (x < y);
}

/* Sorts `values` in place. */
static loadstats_spread loadstats_spread_of(int64_t *values, size_t count) {
    loadstats_spread s = {.count = count};
    if (count == 0) {
        return s;
    }
    qsort(values, count, sizeof *values, loadstats_compare);
    double sum = 0;
    for (size_t i = 0; i < count; i++) {
        sum += (double)values[i];
    }
    s.mean_ms = sum / (double)count / 1e3;
    s.p50_ms = (double)loadstats_percentile(values, count, 0.50) / 1e3;
    s.p90_ms = (double)loadstats_percentile(values, count, 0.90) / 1e3;
    s.p95_ms = (double)loadstats_percentile(values, count, 0.95) / 1e3;
    s.p99_ms = (double)loadstats_percentile(values, count, 0.99) / 1e3;
    s.max_ms = (double)values[count - 1] / 1e3;
    return s;
}

/* What is measured of one request, -1 when it does not apply. */
typedef enum { TIME_TTFT, TIME_TPOT, TIME_TOTAL, TIME_LAG, TIME_REFUSAL } loadstats_time;

static int64_t loadstats_time_us(const loadstats_request *r, loadstats_time t) {
    if (t == TIME_LAG) {
        return r->sent_us != 0 ? r->sent_us - r->scheduled_us : -1;
    }
    if (t == TIME_REFUSAL) {
        return r->result == LOADSTATS_REFUSED ? r->end_us - r->sent_us : -1;
    }
    if (r->result != LOADSTATS_OK) {
        return -1;
    }
    switch (t) {
        case TIME_TTFT:
            return r->first_us != 0 ? r->first_us - r->scheduled_us : -1;
        case TIME_TPOT:
            return r->first_us != 0 && r->output_tokens >= 2
                       ? (r->last_us - r->first_us) / (r->output_tokens - 1)
                       : -1;
        case TIME_TOTAL:
        case TIME_LAG:
        case TIME_REFUSAL:
            break;
    }
    return r->end_us - r->scheduled_us;
}

static loadstats_spread loadstats_spread_of_requests(loadstats *s, loadstats_time t) {
    size_t n = 0;
    for (size_t i = 0; i < s->requests_count; i++) {
        int64_t us = loadstats_time_us(&s->requests[i], t);
        if (us >= 0) {
            s->scratch[n++] = us;
        }
    }
    return loadstats_spread_of(s->scratch, n);
}

static bool loadstats_is_good(const loadstats_request *r, double ttft_ms, double tpot_ms) {
    int64_t ttft = loadstats_time_us(r, TIME_TTFT);
    int64_t tpot = loadstats_time_us(r, TIME_TPOT);
    /* Without a stream there is no first token: the whole answer is what the user waits for. */
    ttft = ttft >= 0 ? ttft : loadstats_time_us(r, TIME_TOTAL);
    return r->result == LOADSTATS_OK && (ttft_ms <= 0 || (double)ttft <= ttft_ms * 1e3) &&
           (tpot_ms <= 0 || tpot < 0 || (double)tpot <= tpot_ms * 1e3);
}

static size_t loadstats_good_until(const loadstats *s, int64_t end_us, double ttft_ms,
                                   double tpot_ms) {
    size_t n = 0;
    for (size_t i = 0; i < s->requests_count; i++) {
        const loadstats_request *r = &s->requests[i];
        n += r->end_us <= end_us && loadstats_is_good(r, ttft_ms, tpot_ms);
    }
    return n;
}

void loadstats_reduce(loadstats *s, double ttft_limit_ms, double tpot_limit_ms,
                      loadstats_report *out) {
    *out = (loadstats_report){.requests = s->requests_count};
    int64_t from_us = INT64_MAX;
    int64_t to_us = INT64_MIN;
    int64_t last_us = INT64_MIN; /* the last arrival */
    for (size_t i = 0; i < s->requests_count; i++) {
        const loadstats_request *r = &s->requests[i];
        from_us = r->scheduled_us < from_us ? r->scheduled_us : from_us;
        to_us = r->end_us > to_us ? r->end_us : to_us;
        last_us = r->scheduled_us > last_us ? r->scheduled_us : last_us;
        if (r->result != LOADSTATS_OK) {
            out->failures[r->result]++;
            continue;
        }
        out->completed++;
        out->prompt_tokens += r->prompt_tokens;
        out->output_tokens += r->output_tokens;
        out->cached_tokens += r->cached_tokens;
        out->good += loadstats_is_good(r, ttft_limit_ms, tpot_limit_ms);
    }
    out->ttft = loadstats_spread_of_requests(s, TIME_TTFT);
    out->tpot = loadstats_spread_of_requests(s, TIME_TPOT);
    out->total = loadstats_spread_of_requests(s, TIME_TOTAL);
    out->lag = loadstats_spread_of_requests(s, TIME_LAG);
    out->refusal = loadstats_spread_of_requests(s, TIME_REFUSAL);
    out->gap = loadstats_spread_of(s->gaps, s->gaps_count);
    if (s->requests_count == 0 || to_us <= from_us) {
        return;
    }
    out->duration_s = (double)(to_us - from_us) / 1e6;
    out->requests_per_second = (double)out->completed / out->duration_s;
    out->output_tokens_per_second = (double)out->output_tokens / out->duration_s;
    out->tokens_per_second = (double)(out->prompt_tokens + out->output_tokens) / out->duration_s;
    out->good_per_second = (double)out->good / out->duration_s;
    out->good_share = (double)out->good / (double)out->requests;
    if (last_us > from_us) {
        out->steady_good_per_second =
            (double)loadstats_good_until(s, last_us, ttft_limit_ms, tpot_limit_ms) * 1e6 /
            (double)(last_us - from_us);
    }
}

const char *loadstats_result_name(loadstats_result r) {
    static const char *const names[LOADSTATS_RESULTS] = {
        "ok",        "connect",   "refused", "client_error",  "server_error",
        "cut_short", "malformed", "timeout", "too_few_tokens"};
    return names[r];
}

static void loadstats_spread_json(strbuf *out, const char *name, const loadstats_spread *s) {
    strbuf_printf(out,
                  ",\"%s\":{\"count\":%zu,\"mean\":%.3f,\"p50\":%.3f,\"p90\":%.3f,\"p95\":%.3f,"
                  "\"p99\":%.3f,\"max\":%.3f}",
                  name, s->count, s->mean_ms, s->p50_ms, s->p90_ms, s->p95_ms, s->p99_ms,
                  s->max_ms);
}

void loadstats_write_json(const loadstats_report *r, strbuf *out) {
    strbuf_printf(out, "\"requests\":%zu,\"completed\":%zu,\"failed\":%zu,\"failures\":{",
                  r->requests, r->completed, r->requests - r->completed);
    for (int i = 1; i < LOADSTATS_RESULTS; i++) {
        strbuf_printf(out, "%s\"%s\":%zu", i > 1 ? "," : "",
                      loadstats_result_name((loadstats_result)i), r->failures[i]);
    }
    strbuf_printf(out,
                  "},\"duration_s\":%.6f,\"prompt_tokens\":%lld,\"cached_tokens\":%lld,"
                  "\"output_tokens\":%lld,\"requests_per_second\":%.6f,"
                  "\"output_tokens_per_second\":%.6f,\"tokens_per_second\":%.6f",
                  r->duration_s, (long long)r->prompt_tokens, (long long)r->cached_tokens,
                  (long long)r->output_tokens, r->requests_per_second, r->output_tokens_per_second,
                  r->tokens_per_second);
    strbuf_printf(out,
                  ",\"goodput\":{\"requests\":%zu,\"requests_per_second\":%.6f,\"share\":%.6f,"
                  "\"steady_requests_per_second\":%.6f}",
                  r->good, r->good_per_second, r->good_share, r->steady_good_per_second);
    loadstats_spread_json(out, "ttft_ms", &r->ttft);
    loadstats_spread_json(out, "tpot_ms", &r->tpot);
    loadstats_spread_json(out, "itl_ms", &r->gap);
    loadstats_spread_json(out, "e2e_ms", &r->total);
    loadstats_spread_json(out, "lag_ms", &r->lag);
    loadstats_spread_json(out, "refusal_ms", &r->refusal);
}

static void loadstats_spread_text(strbuf *out, const char *name, const loadstats_spread *s) {
    if (s->count > 0) {
        strbuf_printf(out, "%-22s %9.1f %9.1f %9.1f %9.1f %9.1f %9.1f\n", name, s->mean_ms,
                      s->p50_ms, s->p90_ms, s->p95_ms, s->p99_ms, s->max_ms);
    }
}

void loadstats_write_text(const loadstats_report *r, strbuf *out) {
    strbuf_printf(out, "requests               %zu completed, %zu failed in %.2f s\n", r->completed,
                  r->requests - r->completed, r->duration_s);
    for (int i = 1; i < LOADSTATS_RESULTS; i++) {
        if (r->failures[i] > 0) {
            strbuf_printf(out, "  failed: %-12s %zu\n", loadstats_result_name((loadstats_result)i),
                          r->failures[i]);
        }
    }
    strbuf_printf(out, "tokens                 %lld prompt (%lld cached), %lld output\n",
                  (long long)r->prompt_tokens, (long long)r->cached_tokens,
                  (long long)r->output_tokens);
    strbuf_printf(out,
                  "throughput             %.2f requests/s, %.1f output tokens/s, %.1f tokens/s\n",
                  r->requests_per_second, r->output_tokens_per_second, r->tokens_per_second);
    strbuf_printf(out, "goodput                %.2f requests/s (%.1f %% of all requests)\n",
                  r->good_per_second, 100 * r->good_share);
    strbuf_printf(out, "%-22s %9s %9s %9s %9s %9s %9s\n", "ms", "mean", "p50", "p90", "p95", "p99",
                  "max");
    loadstats_spread_text(out, "time to first token", &r->ttft);
    loadstats_spread_text(out, "time per output token", &r->tpot);
    loadstats_spread_text(out, "between tokens", &r->gap);
    loadstats_spread_text(out, "end to end", &r->total);
    loadstats_spread_text(out, "sent after schedule", &r->lag);
    loadstats_spread_text(out, "sent to refusal", &r->refusal);
}
