/* metrics_render.c -- the Prometheus text page, from this process's series and those of others.
 *
 * Everything is first turned into samples; sorting them by family brings those of all processes
 * under one HELP and TYPE. Rendering takes heap memory for the samples: it happens once a scrape.
 */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "engine/base/limits.h"
#include "engine/base/mem.h"
#include "engine/base/metrics.h"
#include "engine/base/metrics_format.h"

typedef struct {
    metrics_format_sample s;
    str extra_labels;
    uint32_t order; /* keeps the order of registration inside a family */
} page_sample;

typedef struct {
    page_sample *samples; /* [capacity] */
    size_t count;
    size_t capacity;
} page;

static bool page_grow(page *p) {
    if (p->count < p->capacity) {
        return true;
    }
    size_t capacity = p->capacity ? p->capacity * 2 : 256;
    page_sample *samples = mem_realloc(p->samples, capacity, sizeof *samples);
    if (!samples) {
        return false;
    }
    p->samples = samples;
    p->capacity = capacity;
    return true;
}

/* Adds a snapshot's samples, all or none. */
static bool page_add(page *p, str snapshot, str extra_labels) {
    size_t before = p->count;
    size_t at = 0;
    for (;;) {
        metrics_format_sample s;
        metrics_format_result r = metrics_format_next(snapshot, &at, &s);
        if (r == METRICS_FORMAT_END) {
            return true;
        }
        if (r == METRICS_FORMAT_BAD || p->count - before >= LIMIT_METRIC_SERIES || !page_grow(p)) {
            p->count = before;
            return false;
        }
        p->samples[p->count] = (page_sample){s, extra_labels, (uint32_t)p->count};
        p->count++;
    }
}

static int compare_names(str a, str b) {
    size_t bytes = a.bytes < b.bytes ? a.bytes : b.bytes;
    int c = memcmp(a.data, b.data, bytes);
    return c ? c : (a.bytes > b.bytes) - (a.bytes < b.bytes);
}

static int compare_samples(const void *x, const void *y) {
    const page_sample *a = x;
    const page_sample *b = y;
    int c = compare_names(a->s.name, b->s.name);
    return c ? c : (a->order > b->order) - (a->order < b->order);
}

/* Shortest of the usual precisions that reads back as the same number, as 0.0.4 wants it. */
static void put_number(strbuf *out, double value) {
    if (isnan(value)) {
        (void)strbuf_append_z(out, "NaN");
        return;
    }
    if (isinf(value)) {
        (void)strbuf_append_z(out, value < 0 ? "-Inf" : "+Inf");
        return;
    }
    char text[40];
    for (int digits = 15; digits <= 17; digits++) {
        (void)snprintf(text, sizeof text, "%.*g", digits, value);
        if (strtod(text, NULL) == value) {
            break;
        }
    }
    (void)strbuf_append_z(out, text);
}

/* A count in the exported unit. Scales such as 1e-6 are divisions: 100 * 1e-6 is not 0.0001. */
static double scaled(uint64_t count, double scale) {
    double inverse = rint(1 / scale);
    if (scale < 1 && fabs(inverse * scale - 1) < 1e-12) {
        return (double)count / inverse;
    }
    return (double)count * scale;
}

static void put_help(strbuf *out, str help) {
    for (size_t i = 0; i < help.bytes; i++) {
        char c = help.data[i];
        if (c == '\\') {
            (void)strbuf_append_z(out, "\\\\");
        } else if (c == '\n') {
            (void)strbuf_append_z(out, "\\n");
        } else {
            (void)strbuf_append_char(out, c);
        }
    }
}

static void put_header(strbuf *out, const metrics_format_sample *s) {
    static const char *const types[METRICS_KINDS] = {"", "counter", "gauge", "histogram"};
    (void)strbuf_append_z(out, "# HELP ");
    (void)strbuf_append_str(out, s->name);
    (void)strbuf_append_char(out, ' ');
    put_help(out, s->help);
    (void)strbuf_append_z(out, "\n# TYPE ");
    (void)strbuf_append_str(out, s->name);
    (void)strbuf_printf(out, " %s\n", types[s->kind]);
}

/* name_suffix{labels,extra,le="..."} and a blank. `le` may be NULL. */
static void put_name(strbuf *out, const page_sample *p, const char *suffix, const char *le) {
    (void)strbuf_append_str(out, p->s.name);
    (void)strbuf_append_z(out, suffix);
    str parts[3] = {p->s.labels, p->extra_labels, str_from(le)};
    bool any = false;
    for (int i = 0; i < 3; i++) {
        if (parts[i].bytes) {
            (void)strbuf_append_char(out, any ? ',' : '{');
            any = true;
            (void)strbuf_append_str(out, parts[i]);
        }
    }
    (void)strbuf_append_z(out, any ? "} " : " ");
}

static uint64_t number_at(const uint8_t *numbers, uint32_t index) {
    uint64_t v;
    memcpy(&v, numbers + (size_t)index * 8, 8);
    return v;
}

static void put_histogram(strbuf *out, const page_sample *p) {
    const metrics_format_sample *s = &p->s;
    uint64_t below = 0;
    for (uint32_t i = 0; i <= s->bounds_count; i++) {
        below += number_at(s->counts, i);
        strbuf le = strbuf_make(64);
        (void)strbuf_append_z(&le, "le=\"");
        put_number(&le, i < s->bounds_count ? scaled(number_at(s->bounds, i), s->scale)
                                            : (double)INFINITY);
        (void)strbuf_append_z(&le, "\"");
        put_name(out, p, "_bucket", le.data);
        strbuf_close(&le);
        (void)strbuf_printf(out, "%" PRIu64 "\n", below);
    }
    put_name(out, p, "_sum", NULL);
    put_number(out, scaled(s->value, s->scale));
    (void)strbuf_append_char(out, '\n');
    put_name(out, p, "_count", NULL);
    (void)strbuf_printf(out, "%" PRIu64 "\n", below);
}

static void put_sample(strbuf *out, const page_sample *p) {
    if (p->s.kind == METRICS_HISTOGRAM) {
        put_histogram(out, p);
        return;
    }
    put_name(out, p, "", NULL);
    if (p->s.kind == METRICS_GAUGE) {
        double value;
        memcpy(&value, &p->s.value, sizeof value);
        put_number(out, value);
    } else if (p->s.scale == 1) {
        (void)strbuf_printf(out, "%" PRIu64, p->s.value);
    } else {
        put_number(out, scaled(p->s.value, p->s.scale));
    }
    (void)strbuf_append_char(out, '\n');
}

static void put_page(const page *p, strbuf *out) {
    const page_sample *head = NULL;
    for (size_t i = 0; i < p->count; i++) {
        const page_sample *now = &p->samples[i];
        if (!head || !str_equal(head->s.name, now->s.name)) {
            head = now;
            put_header(out, &now->s);
        }
        /* A process of another version may have changed a family's type: its samples would make
         * the whole page unreadable, so they are left out. */
        if (now->s.kind == head->s.kind) {
            put_sample(out, now);
        }
    }
}

size_t metrics_render(const metrics *m, const metrics_remote *remotes, size_t remotes_count,
                      strbuf *out) {
    page p = {0};
    size_t refused = 0;
    strbuf own = strbuf_make((size_t)LIMIT_METRIC_SERIES * 2048);
    if (m) {
        metrics_snapshot(m, &own);
        if (own.failed || !page_add(&p, strbuf_str(&own), str_of(NULL, 0))) {
            out->failed = true;
        }
    }
    for (size_t i = 0; i < remotes_count; i++) {
        str extra = str_from(remotes[i].extra_labels);
        if (!metrics_format_labels_ok(extra) || !page_add(&p, remotes[i].snapshot, extra)) {
            refused++;
        }
    }
    if (p.count) {
        qsort(p.samples, p.count, sizeof *p.samples, compare_samples);
    }
    put_page(&p, out);
    mem_free(p.samples);
    strbuf_close(&own);
    return refused;
}
