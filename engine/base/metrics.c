/* metrics.c -- the registry and the updates of its series. */
#define _GNU_SOURCE
#include "engine/base/metrics.h"

#include <string.h>

#include "engine/base/check.h"
#include "engine/base/limits.h"
#include "engine/base/metrics_format.h"

/* HdrHistogram's cut: values below 2*SUB have a bucket each, then each power of two has SUB. */
enum {
    SUB_BITS = 5,
    SUB = 1 << SUB_BITS,
    VALUE_BITS = 42, /* 2^42 us is 50 days; larger values are counted there */
    FINE_BUCKETS = (VALUE_BITS - SUB_BITS + 1) * SUB
};

struct metrics_histogram {
    uint64_t bounds[LIMIT_METRIC_BOUNDS]; /* [bounds_count], rising */
    _Atomic uint64_t counts[LIMIT_METRIC_BOUNDS + 1];
    _Atomic uint64_t sum;
    uint32_t bounds_count;
    _Atomic uint64_t fine[FINE_BUCKETS];
};

typedef struct {
    const char *name;
    const char *help;
    char labels[LIMIT_METRIC_LABEL_BYTES];
    double scale;
    metrics_kind kind;
    union {
        metrics_counter counter;
        metrics_gauge gauge;
        metrics_histogram *histogram;
    } at;
} series;

struct metrics {
    series *series;                /* [LIMIT_METRIC_SERIES] */
    metrics_histogram *histograms; /* [LIMIT_METRIC_HISTOGRAMS] */
    _Atomic uint32_t series_count; /* published with release: a reader sees whole series */
    uint32_t histograms_count;
};

status metrics_open(metrics **out, arena *a) {
    *out = NULL;
    metrics *m = ARENA_TAKE(a, 1, metrics);
    if (!m) {
        return STATUS_NOMEM;
    }
    m->series = ARENA_TAKE(a, LIMIT_METRIC_SERIES, series);
    m->histograms = ARENA_TAKE(a, LIMIT_METRIC_HISTOGRAMS, metrics_histogram);
    if (!m->series || !m->histograms) {
        return STATUS_NOMEM;
    }
    *out = m;
    return STATUS_OK;
}

static uint32_t series_published(const metrics *m) {
    return atomic_load_explicit(&m->series_count, memory_order_acquire);
}

/* The series of that name and labels; a new one has `kind` METRICS_NONE and is not published. */
static series *find_or_make(metrics *m, const char *name, const char *labels, metrics_kind kind) {
    uint32_t count = series_published(m);
    for (uint32_t i = 0; i < count; i++) {
        series *s = &m->series[i];
        if (strcmp(s->name, name) == 0) {
            /* One family has one type: anything else is not valid exposition. */
            CHECK_EQ(s->kind, kind);
            if (strcmp(s->labels, labels) == 0) {
                return s;
            }
        }
    }
    CHECK_LT(count, LIMIT_METRIC_SERIES);
    CHECK_LT(strlen(labels), LIMIT_METRIC_LABEL_BYTES);
    CHECK(metrics_format_name_ok(str_from(name)));
    CHECK(metrics_format_labels_ok(str_from(labels)));
    series *s = &m->series[count];
    s->name = name;
    memcpy(s->labels, labels, strlen(labels) + 1);
    return s;
}

static void publish(metrics *m, series *s, metrics_kind kind, const char *help, double scale) {
    s->kind = kind;
    s->help = help;
    s->scale = scale;
    atomic_store_explicit(&m->series_count, series_published(m) + 1, memory_order_release);
}

metrics_counter *metrics_new_counter(metrics *m, const char *name, const char *labels,
                                     const char *help, double scale) {
    series *s = find_or_make(m, name, labels, METRICS_COUNTER);
    if (s->kind == METRICS_NONE) {
        publish(m, s, METRICS_COUNTER, help, scale);
    }
    return &s->at.counter;
}

metrics_gauge *metrics_new_gauge(metrics *m, const char *name, const char *labels,
                                 const char *help) {
    series *s = find_or_make(m, name, labels, METRICS_GAUGE);
    if (s->kind == METRICS_NONE) {
        publish(m, s, METRICS_GAUGE, help, 1);
    }
    return &s->at.gauge;
}

static const uint64_t bounds_default_us[] = {
    100,     250,     500,     1000,     2500,     5000,     10000,    25000,     50000,
    75000,   100000,  150000,  200000,   300000,   500000,   750000,   1000000,   1500000,
    2500000, 5000000, 7500000, 10000000, 15000000, 30000000, 60000000, 120000000, 300000000};

metrics_histogram *metrics_new_histogram(metrics *m, const char *name, const char *labels,
                                         const char *help, double scale, const uint64_t *bounds,
                                         size_t bounds_count) {
    series *s = find_or_make(m, name, labels, METRICS_HISTOGRAM);
    if (s->kind == METRICS_HISTOGRAM) {
        return s->at.histogram;
    }
    if (bounds_count == 0) {
        bounds = bounds_default_us;
        bounds_count = sizeof bounds_default_us / sizeof bounds_default_us[0];
    }
    CHECK_LE(bounds_count, LIMIT_METRIC_BOUNDS);
    CHECK_LT(m->histograms_count, LIMIT_METRIC_HISTOGRAMS);
    metrics_histogram *h = &m->histograms[m->histograms_count++];
    for (size_t i = 0; i < bounds_count; i++) {
        CHECK(i == 0 || bounds[i] > bounds[i - 1]);
        h->bounds[i] = bounds[i];
    }
    h->bounds_count = (uint32_t)bounds_count;
    s->at.histogram = h;
    publish(m, s, METRICS_HISTOGRAM, help, scale);
    return h;
}

static uint64_t bits_of(double value) {
    uint64_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

static double double_of(uint64_t bits) {
    double value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

void metrics_set(metrics_gauge *g, double value) {
    atomic_store_explicit(&g->bits, bits_of(value), memory_order_relaxed);
}

void metrics_gauge_add(metrics_gauge *g, double delta) {
    uint64_t before = atomic_load_explicit(&g->bits, memory_order_relaxed);
    while (!atomic_compare_exchange_weak_explicit(&g->bits, &before,
                                                  bits_of(double_of(before) + delta),
                                                  memory_order_relaxed, memory_order_relaxed)) {
    }
}

double metrics_gauge_value(const metrics_gauge *g) {
    return double_of(atomic_load_explicit(&g->bits, memory_order_relaxed));
}

static uint32_t fine_bucket(uint64_t value) {
    if (value >= 1ull << VALUE_BITS) {
        value = (1ull << VALUE_BITS) - 1;
    }
    if (value < 2 * SUB) {
        return (uint32_t)value;
    }
    uint32_t shift = 63u - (uint32_t)__builtin_clzll(value) - SUB_BITS;
    return shift * SUB + (uint32_t)(value >> shift);
}

/* The middle of a bucket's values. */
static double fine_middle(uint32_t bucket) {
    if (bucket < 2 * SUB) {
        return bucket;
    }
    uint32_t shift = bucket / SUB - 1;
    double low = (double)((uint64_t)(bucket - shift * SUB) << shift);
    return low + (double)((1ull << shift) - 1) / 2;
}

void metrics_observe(metrics_histogram *h, uint64_t value) {
    uint32_t i = 0;
    while (i < h->bounds_count && value > h->bounds[i]) {
        i++;
    }
    atomic_fetch_add_explicit(&h->counts[i], 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&h->sum, value, memory_order_relaxed);
    atomic_fetch_add_explicit(&h->fine[fine_bucket(value)], 1, memory_order_relaxed);
}

uint64_t metrics_observed(const metrics_histogram *h) {
    uint64_t count = 0;
    for (uint32_t i = 0; i <= h->bounds_count; i++) {
        count += atomic_load_explicit(&h->counts[i], memory_order_relaxed);
    }
    return count;
}

double metrics_percentile(const metrics_histogram *h, double q) {
    uint64_t total = 0;
    for (uint32_t i = 0; i < FINE_BUCKETS; i++) {
        total += atomic_load_explicit(&h->fine[i], memory_order_relaxed);
    }
    if (total == 0) {
        return 0;
    }
    double rank = q * (double)total;
    uint64_t below = 0;
    uint32_t last = 0;
    for (uint32_t i = 0; i < FINE_BUCKETS; i++) {
        uint64_t here = atomic_load_explicit(&h->fine[i], memory_order_relaxed);
        below += here;
        last = here ? i : last;
        if (here && (double)below >= rank) {
            break;
        }
    }
    return fine_middle(last);
}

void metrics_label(strbuf *out, const char *name, const char *value) {
    if (out->bytes) {
        (void)strbuf_append_char(out, ',');
    }
    (void)strbuf_append_z(out, name);
    (void)strbuf_append_z(out, "=\"");
    for (; *value; value++) {
        if (*value == '\\' || *value == '"') {
            (void)strbuf_append_char(out, '\\');
            (void)strbuf_append_char(out, *value);
        } else if (*value == '\n') {
            (void)strbuf_append_z(out, "\\n");
        } else {
            (void)strbuf_append_char(out, *value);
        }
    }
    (void)strbuf_append_char(out, '"');
}

static void put_series(const series *s, strbuf *out) {
    metrics_format_sample sample = {.kind = s->kind,
                                    .name = str_from(s->name),
                                    .help = str_from(s->help),
                                    .labels = str_from(s->labels),
                                    .scale = s->scale};
    uint64_t counts[LIMIT_METRIC_BOUNDS + 1];
    if (s->kind == METRICS_COUNTER) {
        sample.value = metrics_count(&s->at.counter);
    } else if (s->kind == METRICS_GAUGE) {
        sample.value = atomic_load_explicit(&s->at.gauge.bits, memory_order_relaxed);
    } else {
        const metrics_histogram *h = s->at.histogram;
        for (uint32_t i = 0; i <= h->bounds_count; i++) {
            counts[i] = atomic_load_explicit(&h->counts[i], memory_order_relaxed);
        }
        sample.value = atomic_load_explicit(&h->sum, memory_order_relaxed);
        sample.bounds_count = h->bounds_count;
        sample.bounds = (const uint8_t *)h->bounds;
        sample.counts = (const uint8_t *)counts;
    }
    metrics_format_put(&sample, out);
}

void metrics_snapshot(const metrics *m, strbuf *out) {
    metrics_format_start(out);
    uint32_t count = series_published(m);
    for (uint32_t i = 0; i < count; i++) {
        put_series(&m->series[i], out);
    }
}
