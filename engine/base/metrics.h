/* metrics.h -- counters, gauges and histograms, and their Prometheus text.
 *
 * Purpose    Every number weir reports is one of these. A process registers its series at start and
 *            updates them without locks; the gateway renders its own and its workers' series (sent
 *            as snapshots) as one page, each family under one HELP and TYPE.
 * Ownership  A registry and its series are the arena's. Names and helps are static strings; labels
 *            are copied.
 * Threads    Registration: one thread at a time. Updates, renders, snapshots: any thread at any
 *            time after the registration; a render sees each number at some moment of the call.
 * Limits     LIMIT_METRIC_SERIES series, LIMIT_METRIC_HISTOGRAMS of them histograms,
 *            LIMIT_METRIC_LABEL_BYTES of labels a series; past them the registration aborts (the
 *            set of series is the program's, not the input's).
 * Source     Text exposition format 0.0.4 (prometheus.io). Histogram buckets as in HdrHistogram
 *            (Tene): powers of two cut into 32 linear parts, so a percentile is within 3.2 %.
 */
#ifndef ENGINE_BASE_METRICS_H
#define ENGINE_BASE_METRICS_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/base/arena.h"
#include "engine/base/status.h"
#include "engine/base/str.h"

typedef struct metrics metrics;
typedef struct metrics_histogram metrics_histogram;

/* Whole numbers in the unit of the update; `scale` given at registration turns them into the unit
 * of the name. A *_seconds_total counted in microseconds has scale 1e-6. */
typedef struct {
    _Atomic uint64_t value;
} metrics_counter;

typedef struct {
    _Atomic uint64_t bits; /* of a double */
} metrics_gauge;

MUST_USE status metrics_open(metrics **out, arena *a);

/* `labels` is what stands between the braces: "" or "reason=\"stop\",code=\"200\"" (make it with
 * metrics_label when a value is not a constant). The same name and labels again gives the same
 * series. */
metrics_counter *metrics_new_counter(metrics *m, const char *name, const char *labels,
                                     const char *help, double scale);
metrics_gauge *metrics_new_gauge(metrics *m, const char *name, const char *labels,
                                 const char *help);

/* `bounds` [bounds_count] are the `le` values, rising, in the unit of the update (so 1000 is 1 ms
 * with scale 1e-6); +Inf is added. NULL and 0: a default of 100 us .. 300 s for microseconds. */
metrics_histogram *metrics_new_histogram(metrics *m, const char *name, const char *labels,
                                         const char *help, double scale, const uint64_t *bounds,
                                         size_t bounds_count);

/* Appends `name="value"` with the value escaped, after a comma when `out` is not empty. */
void metrics_label(strbuf *out, const char *name, const char *value);

static inline void metrics_add(metrics_counter *c, uint64_t n) {
    atomic_fetch_add_explicit(&c->value, n, memory_order_relaxed);
}

static inline uint64_t metrics_count(const metrics_counter *c) {
    return atomic_load_explicit(&c->value, memory_order_relaxed);
}

/* Brings a counter up to a total that is kept elsewhere; a smaller one is ignored, for counters
 * only grow. One thread a counter. */
static inline void metrics_follow(metrics_counter *c, uint64_t total) {
    uint64_t have = metrics_count(c);
    if (total > have) {
        metrics_add(c, total - have);
    }
}

void metrics_set(metrics_gauge *g, double value);
void metrics_gauge_add(metrics_gauge *g, double delta);
double metrics_gauge_value(const metrics_gauge *g);

void metrics_observe(metrics_histogram *h, uint64_t value);

/* Observations so far. */
uint64_t metrics_observed(const metrics_histogram *h);

/* The value below which a share `q` (0..1) of the observations lie, in the unit of the update; 0
 * when there are none. */
double metrics_percentile(const metrics_histogram *h, double q);

/* All series, for another process to render. */
void metrics_snapshot(const metrics *m, strbuf *out);

/* A snapshot that came from another process, and the labels that say which:
 * `role="prefill",worker="prefill-0"`. */
typedef struct {
    str snapshot;
    const char *extra_labels;
} metrics_remote;

/* Writes the page: the series of `m` (may be NULL) and of the remotes, grouped by family. Returns
 * how many remotes were malformed and left out; `out->failed` tells when it did not fit. */
size_t metrics_render(const metrics *m, const metrics_remote *remotes, size_t remotes_count,
                      strbuf *out);

#endif
