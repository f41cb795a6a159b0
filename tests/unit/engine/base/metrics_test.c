/* metrics_test.c -- updates, percentiles against a sorted list, and the text page read back. */
#include "engine/base/metrics.h"

#include <criterion/criterion.h>
#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

#include "engine/base/limits.h"
#include "engine/base/rng.h"

static metrics *open_registry(arena *a) {
    cr_assert_eq(arena_open(a, 16 << 20), STATUS_OK);
    metrics *m;
    cr_assert_eq(metrics_open(&m, a), STATUS_OK);
    return m;
}

static strbuf render(const metrics *m, const metrics_remote *remotes, size_t count,
                     size_t refused) {
    strbuf b = strbuf_make(8 << 20);
    cr_assert_eq(metrics_render(m, remotes, count, &b), refused);
    cr_assert_not(b.failed);
    (void)strbuf_append_z(&b, "");
    return b;
}

Test(metrics, the_page_is_the_text_format_to_the_byte) {
    arena a;
    metrics *m = open_registry(&a);
    metrics_counter *busy = metrics_new_counter(m, "weir_busy_seconds_total", "role=\"prefill\"",
                                                "Time \\ spent\nbusy.", 1e-6);
    metrics_gauge *pages = metrics_new_gauge(m, "weir_pages", "", "Pages in use.");
    static const uint64_t bounds[] = {100, 1000, 2500};
    metrics_histogram *h =
        metrics_new_histogram(m, "weir_ttft_seconds", "model=\"a\"", "TTFT.", 1e-6, bounds, 3);
    metrics_counter *other =
        metrics_new_counter(m, "weir_busy_seconds_total", "role=\"decode\"", "other help", 1e-6);
    metrics_add(busy, 1500000);
    metrics_add(other, 1);
    metrics_set(pages, 12);
    metrics_gauge_add(pages, -0.5);
    static const uint64_t values[] = {1, 100, 101, 2500, 2501, 5000000};
    for (size_t i = 0; i < 6; i++) {
        metrics_observe(h, values[i]);
    }
    strbuf b = render(m, NULL, 0, 0);
    cr_assert_str_eq(b.data,
                     "# HELP weir_busy_seconds_total Time \\\\ spent\\nbusy.\n"
                     "# TYPE weir_busy_seconds_total counter\n"
                     "weir_busy_seconds_total{role=\"prefill\"} 1.5\n"
                     "weir_busy_seconds_total{role=\"decode\"} 1e-06\n"
                     "# HELP weir_pages Pages in use.\n"
                     "# TYPE weir_pages gauge\n"
                     "weir_pages 11.5\n"
                     "# HELP weir_ttft_seconds TTFT.\n"
                     "# TYPE weir_ttft_seconds histogram\n"
                     "weir_ttft_seconds_bucket{model=\"a\",le=\"0.0001\"} 2\n"
                     "weir_ttft_seconds_bucket{model=\"a\",le=\"0.001\"} 3\n"
                     "weir_ttft_seconds_bucket{model=\"a\",le=\"0.0025\"} 4\n"
                     "weir_ttft_seconds_bucket{model=\"a\",le=\"+Inf\"} 6\n"
                     "weir_ttft_seconds_sum{model=\"a\"} 5.005203\n"
                     "weir_ttft_seconds_count{model=\"a\"} 6\n");
    strbuf_close(&b);
    arena_close(&a);
}

Test(metrics, the_same_series_is_registered_once) {
    arena a;
    metrics *m = open_registry(&a);
    metrics_counter *c = metrics_new_counter(m, "x_total", "a=\"1\"", "h", 1);
    cr_assert_eq(metrics_new_counter(m, "x_total", "a=\"1\"", "h", 1), c);
    cr_assert_neq(metrics_new_counter(m, "x_total", "a=\"2\"", "h", 1), c);
    metrics_histogram *h = metrics_new_histogram(m, "x_us", "", "h", 1, NULL, 0);
    cr_assert_eq(metrics_new_histogram(m, "x_us", "", "h", 1, NULL, 0), h);
    arena_close(&a);
}

Test(metrics, numbers_read_back_as_what_they_were) {
    static const double values[] = {0, -0.0, 1, 0.1, 1e300, 1.0 / 3, 123456789012345678.0, -2.5};
    for (size_t i = 0; i < sizeof values / sizeof values[0]; i++) {
        arena a;
        metrics *m = open_registry(&a);
        metrics_set(metrics_new_gauge(m, "g", "", ""), values[i]);
        strbuf b = render(m, NULL, 0, 0);
        cr_assert_eq(strtod(strstr(b.data, "\ng ") + 3, NULL), values[i]);
        strbuf_close(&b);
        arena_close(&a);
    }
    arena a;
    metrics *m = open_registry(&a);
    metrics_set(metrics_new_gauge(m, "nan", "", ""), (double)NAN);
    metrics_set(metrics_new_gauge(m, "inf", "", ""), (double)-INFINITY);
    strbuf b = render(m, NULL, 0, 0);
    cr_assert(strstr(b.data, "\nnan NaN\n") && strstr(b.data, "\ninf -Inf\n"));
    strbuf_close(&b);
    arena_close(&a);
}

static int compare_u64(const void *x, const void *y) {
    uint64_t a = *(const uint64_t *)x;
    uint64_t b = *(const uint64_t *)y;
    return (a > b) - (a < b);
}

Test(metrics, percentiles_are_within_their_bound_of_a_sorted_list) {
    enum { COUNT = 20000 };
    static uint64_t values[COUNT];
    arena a;
    metrics *m = open_registry(&a);
    metrics_histogram *h = metrics_new_histogram(m, "h", "", "", 1, NULL, 0);
    cr_assert_eq(metrics_percentile(h, 0.5), 0);
    uint64_t random = 11;
    for (int i = 0; i < COUNT; i++) {
        /* Spread over twelve powers of ten. */
        values[i] = (uint64_t)pow(10, 12 * rng_unit(rng_next(&random)));
        metrics_observe(h, values[i]);
    }
    qsort(values, COUNT, sizeof values[0], compare_u64);
    static const double shares[] = {0, 0.001, 0.01, 0.1, 0.25, 0.5, 0.9, 0.99, 0.999, 1};
    for (size_t i = 0; i < sizeof shares / sizeof shares[0]; i++) {
        size_t rank = (size_t)ceil(shares[i] * COUNT);
        double want = (double)values[rank ? rank - 1 : 0];
        double got = metrics_percentile(h, shares[i]);
        cr_assert(fabs(got - want) <= want / 32 + 0.5, "%g: %g, want %g", shares[i], got, want);
    }
    cr_assert_eq(metrics_observed(h), COUNT);
    metrics_observe(h, UINT64_MAX);
    cr_assert_geq(metrics_percentile(h, 1), 0x1p41);
    arena_close(&a);
}

Test(metrics, labels_are_escaped) {
    strbuf b = strbuf_make(100);
    metrics_label(&b, "path", "C:\\x\n\"q\"");
    metrics_label(&b, "k", "v");
    cr_assert_str_eq(b.data, "path=\"C:\\\\x\\n\\\"q\\\"\",k=\"v\"");
    strbuf_close(&b);
}

Test(metrics, series_of_several_processes_share_one_family) {
    arena a1;
    arena a2;
    metrics *gateway = open_registry(&a1);
    metrics *worker = open_registry(&a2);
    metrics_add(metrics_new_counter(gateway, "weir_requests_total", "code=\"200\"", "Requests.", 1),
                3);
    metrics_add(metrics_new_counter(worker, "weir_steps_total", "", "Steps.", 1), 7);
    metrics_add(metrics_new_counter(worker, "weir_requests_total", "", "Requests.", 1), 2);
    metrics_observe(metrics_new_histogram(worker, "weir_step_us", "", "Step.", 1, NULL, 0), 250);
    strbuf snapshot = strbuf_make(1 << 20);
    metrics_snapshot(worker, &snapshot);
    metrics_remote remotes[] = {
        {strbuf_str(&snapshot), "role=\"prefill\",worker=\"prefill-0\""},
        {strbuf_str(&snapshot), "role=\"decode\",worker=\"decode-0\""},
    };
    strbuf b = render(gateway, remotes, 2, 0);
    cr_assert_not_null(strstr(b.data,
                              "# TYPE weir_requests_total counter\n"
                              "weir_requests_total{code=\"200\"} 3\n"
                              "weir_requests_total{role=\"prefill\",worker=\"prefill-0\"} 2\n"
                              "weir_requests_total{role=\"decode\",worker=\"decode-0\"} 2\n"));
    cr_assert_not_null(
        strstr(b.data, "weir_step_us_bucket{role=\"decode\",worker=\"decode-0\",le=\"250\"} 1\n"));
    const char *first = strstr(b.data, "# TYPE weir_steps_total");
    cr_assert_not_null(first);
    cr_assert_null(strstr(first + 1, "# TYPE weir_steps_total"));
    strbuf_close(&b);
    strbuf_close(&snapshot);
    arena_close(&a1);
    arena_close(&a2);
}

Test(metrics, a_family_of_another_type_is_left_out) {
    arena a1;
    arena a2;
    metrics *ours = open_registry(&a1);
    metrics *theirs = open_registry(&a2);
    (void)metrics_new_counter(ours, "x", "", "h", 1);
    (void)metrics_new_gauge(theirs, "x", "", "h");
    strbuf snapshot = strbuf_make(4096);
    metrics_snapshot(theirs, &snapshot);
    metrics_remote remote = {strbuf_str(&snapshot), "w=\"1\""};
    strbuf b = render(ours, &remote, 1, 0);
    cr_assert_str_eq(b.data, "# HELP x h\n# TYPE x counter\nx 0\n");
    strbuf_close(&b);
    strbuf_close(&snapshot);
    arena_close(&a1);
    arena_close(&a2);
}

static void make_rich(metrics *m) {
    metrics_add(metrics_new_counter(m, "a_total", "x=\"1\",y=\"\\\"\"", "Help.", 1e-6), 5);
    metrics_set(metrics_new_gauge(m, "b", "", "Help."), 1.5);
    metrics_observe(metrics_new_histogram(m, "c", "z=\"2\"", "Help.", 1, NULL, 0), 9);
}

Test(metrics, cut_snapshots_are_refused_whole) {
    arena a;
    metrics *m = open_registry(&a);
    make_rich(m);
    strbuf snapshot = strbuf_make(1 << 16);
    metrics_snapshot(m, &snapshot);
    size_t whole = 0;
    for (size_t bytes = 0; bytes <= snapshot.bytes; bytes++) {
        /* An exact copy on the heap: reading past its end is seen by the sanitizer. */
        char *copy = malloc(bytes ? bytes : 1);
        memcpy(copy, snapshot.data, bytes);
        metrics_remote remote = {str_of(copy, bytes), ""};
        strbuf b = strbuf_make(1 << 16);
        whole += metrics_render(NULL, &remote, 1, &b) == 0;
        strbuf_close(&b);
        free(copy);
    }
    /* The bare start, after the first, the second, and the third series. */
    cr_assert_eq(whole, 4);
    strbuf_close(&snapshot);
    arena_close(&a);
}

/* A page must parse whatever was sent: one sample or comment a line. */
static void expect_sane(const strbuf *b) {
    for (const char *line = b->data; line && *line; line = strchr(line, '\n') + 1) {
        const char *end = strchr(line, '\n');
        cr_assert_not_null(end, "the last line must end");
        if (*line == '#') {
            continue;
        }
        const char *blank = end;
        while (blank > line && *blank != ' ') {
            blank--;
        }
        char *number_end;
        (void)strtod(blank + 1, &number_end);
        cr_assert(blank > line && number_end == end, "%.*s", (int)(end - line), line);
    }
}

Test(metrics, spoiled_snapshots_never_spoil_the_page) {
    arena a;
    metrics *m = open_registry(&a);
    make_rich(m);
    strbuf snapshot = strbuf_make(1 << 16);
    metrics_snapshot(m, &snapshot);
    uint64_t random = 99;
    for (int round = 0; round < 20000; round++) {
        char *copy = malloc(snapshot.bytes);
        memcpy(copy, snapshot.data, snapshot.bytes);
        for (uint64_t n = rng_below(&random, 4) + 1; n; n--) {
            copy[rng_below(&random, snapshot.bytes)] = (char)rng_next(&random);
        }
        metrics_remote remote = {str_of(copy, snapshot.bytes), "w=\"1\""};
        strbuf b = strbuf_make(1 << 16);
        (void)metrics_render(NULL, &remote, 1, &b);
        (void)strbuf_append_z(&b, "");
        expect_sane(&b);
        strbuf_close(&b);
        free(copy);
    }
    strbuf_close(&snapshot);
    arena_close(&a);
}

Test(metrics, labels_that_would_break_the_page_are_refused) {
    static const struct {
        const char *labels;
        bool ok;
    } rows[] = {
        {"", true},
        {"a=\"b\"", true},
        {"a=\"b\",c=\"d\"", true},
        {"a=\"\\\\\"", true},
        {"a=\"b\",", false},
        {"a=b", false},
        {"a=\"b", false},
        {"=\"b\"", false},
        {"a=\"b\"c", false},
        {"1a=\"b\"", false},
        {"a=\"b\nc\"", false},
        {"a=\"\\x\"", false},
        {"a=\"b\"} 1\n", false},
        {"a=\"\xff\"", false},
        {"a", false},
        {"a=\"\\", false},
    };
    arena a;
    metrics *m = open_registry(&a);
    make_rich(m);
    strbuf snapshot = strbuf_make(1 << 16);
    metrics_snapshot(m, &snapshot);
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        metrics_remote remote = {strbuf_str(&snapshot), rows[i].labels};
        strbuf b = strbuf_make(1 << 16);
        cr_assert_eq(metrics_render(NULL, &remote, 1, &b), rows[i].ok ? 0 : 1, "%s",
                     rows[i].labels);
        strbuf_close(&b);
    }
    strbuf_close(&snapshot);
    arena_close(&a);
}

enum { THREADS = 4, EACH = 50000 };

typedef struct {
    metrics_counter *counter;
    metrics_gauge *gauge;
    metrics_histogram *histogram;
} shared_series;

static void *update(void *arg) {
    shared_series *s = arg;
    for (uint64_t i = 0; i < EACH; i++) {
        metrics_add(s->counter, 2);
        metrics_gauge_add(s->gauge, 1);
        metrics_observe(s->histogram, i);
    }
    return NULL;
}

Test(metrics, no_update_of_any_thread_is_lost) {
    arena a;
    metrics *m = open_registry(&a);
    shared_series s = {metrics_new_counter(m, "c", "", "", 1), metrics_new_gauge(m, "g", "", ""),
                       metrics_new_histogram(m, "h", "", "", 1, NULL, 0)};
    pthread_t threads[THREADS];
    for (int i = 0; i < THREADS; i++) {
        cr_assert_eq(pthread_create(&threads[i], NULL, update, &s), 0);
    }
    strbuf while_running = render(m, NULL, 0, 0);
    strbuf_close(&while_running);
    for (int i = 0; i < THREADS; i++) {
        cr_assert_eq(pthread_join(threads[i], NULL), 0);
    }
    cr_assert_eq(metrics_count(s.counter), 2 * THREADS * EACH);
    cr_assert_eq(metrics_gauge_value(s.gauge), THREADS * EACH);
    cr_assert_eq(metrics_observed(s.histogram), THREADS * EACH);
    arena_close(&a);
}

Test(metrics, a_page_that_does_not_fit_says_so) {
    arena a;
    metrics *m = open_registry(&a);
    make_rich(m);
    strbuf b = strbuf_make(100);
    (void)metrics_render(m, NULL, 0, &b);
    cr_assert(b.failed);
    strbuf_close(&b);
    arena_close(&a);
}
