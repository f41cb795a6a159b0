/* loadstats.h -- what a load run measured, and its report.
 *
 * Purpose    Collects the times of each request and reduces them to the figures users compare:
 *            TTFT, TPOT, inter-token and end-to-end percentiles, throughput, goodput, failures.
 * Ownership  loadstats_open holds memory; loadstats_close gives it back.
 * Threads    One thread at a time.
 * Limits     The requests given at opening; LOADSTATS_GAPS_MAX inter-token gaps are kept (later
 *            ones are counted, not kept).
 * Source     Percentiles are nearest-rank on all samples: the smallest value such that at least
 *            that share of the samples is not larger. No interpolation, no histogram.
 */
#ifndef BENCH_LOADSTATS_H
#define BENCH_LOADSTATS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/base/status.h"
#include "engine/base/str.h"

enum { LOADSTATS_GAPS_MAX = 16 << 20 };

typedef enum {
    LOADSTATS_OK,
    LOADSTATS_CONNECT,   /* no connection */
    LOADSTATS_REFUSED,   /* 429 or 503 */
    LOADSTATS_CLIENT,    /* another 4xx */
    LOADSTATS_SERVER,    /* another 5xx */
    LOADSTATS_CUT,       /* closed before the answer was complete */
    LOADSTATS_MALFORMED, /* the answer was not what it should be */
    LOADSTATS_TIMEOUT,
    LOADSTATS_SHORT, /* fewer tokens than asked for with ignore_eos */
    LOADSTATS_RESULTS
} loadstats_result;

/* One request. Times are clock_now_us; 0: did not happen. */
typedef struct {
    loadstats_result result;
    int64_t scheduled_us; /* when it should have been sent: all latencies count from here */
    int64_t sent_us;
    int64_t first_us; /* first token */
    int64_t last_us;  /* last token */
    int64_t end_us;
    int32_t prompt_tokens;
    int32_t output_tokens;
    int32_t cached_tokens;
} loadstats_request;

typedef struct loadstats loadstats;

MUST_USE status loadstats_open(size_t requests_max, loadstats **out, diag *d);
void loadstats_close(loadstats *s);

void loadstats_add(loadstats *s, const loadstats_request *r);
/* Time between two tokens of a stream. */
void loadstats_add_gap(loadstats *s, int64_t gap_us);

typedef struct {
    size_t count;
    double mean_ms, p50_ms, p90_ms, p95_ms, p99_ms, max_ms;
} loadstats_spread;

typedef struct {
    size_t requests;
    size_t completed;
    size_t failures[LOADSTATS_RESULTS];                  /* [LOADSTATS_OK] is 0 */
    double duration_s;                                   /* first scheduled to last end */
    int64_t prompt_tokens, output_tokens, cached_tokens; /* of completed requests */
    double requests_per_second, output_tokens_per_second, tokens_per_second;
    loadstats_spread ttft, tpot, gap, total, lag; /* lag: scheduled to sent */
    loadstats_spread refusal;                     /* sent to a 429 or 503 read whole */
    size_t good;                                  /* completed within both limits */
    double good_per_second;
    double good_share;             /* of all requests */
    double steady_good_per_second; /* of those that ended before the last arrival, in that time */
} loadstats_report;

/* Limits of 0 are no limits. TPOT is (last - first) / (tokens - 1), of requests with 2 or more. */
void loadstats_reduce(loadstats *s, double ttft_limit_ms, double tpot_limit_ms,
                      loadstats_report *out);

/* Nearest rank in sorted[count], count > 0, share in (0, 1]. */
int64_t loadstats_percentile(const int64_t *sorted, size_t count, double share);

const char *loadstats_result_name(loadstats_result r);

/* The members of the JSON object, without its braces. */
void loadstats_write_json(const loadstats_report *r, strbuf *out);
void loadstats_write_text(const loadstats_report *r, strbuf *out);

#endif
