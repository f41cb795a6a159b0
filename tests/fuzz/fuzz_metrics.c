/* fuzz_metrics.c -- metrics snapshots of other processes: what was read is read again the same
 * after it was written, and no snapshot can break out of its lines on the page. */
#define _GNU_SOURCE
#include "engine/base/mem.h"
#include "engine/base/metrics.h"
#include "engine/base/metrics_format.h"
#include "tests/fuzz/fuzz.h"

enum { PAGE_MAX = 1 << 22 };

static void check_again(const metrics_format_sample *s) {
    strbuf b = strbuf_make(1 << 20);
    metrics_format_start(&b);
    metrics_format_put(s, &b);
    CHECK(!b.failed);
    metrics_format_sample t;
    size_t at = 0;
    CHECK_EQ(metrics_format_next(strbuf_str(&b), &at, &t), METRICS_FORMAT_SAMPLE);
    CHECK(t.kind == s->kind && t.value == s->value && memcmp(&t.scale, &s->scale, 8) == 0);
    CHECK(str_equal(t.name, s->name) && str_equal(t.help, s->help));
    CHECK(str_equal(t.labels, s->labels) && t.bounds_count == s->bounds_count);
    size_t n = s->bounds_count;
    CHECK(n == 0 || memcmp(t.bounds, s->bounds, n * 8) == 0);
    CHECK(s->kind != METRICS_HISTOGRAM || memcmp(t.counts, s->counts, (n + 1) * 8) == 0);
    CHECK_EQ(metrics_format_next(strbuf_str(&b), &at, &t), METRICS_FORMAT_END);
    strbuf_close(&b);
}

/* Every line is a comment or `name{labels} number`. */
static void check_page(str page) {
    CHECK(str_utf8_valid(page));
    for (size_t at = 0; at < page.bytes;) {
        size_t end = str_find(page, str_from("\n"), at);
        CHECK(end != SIZE_MAX && end > at);
        str line = str_of(page.data + at, end - at);
        bool comment = str_starts_with(line, str_from("# HELP ")) ||
                       str_starts_with(line, str_from("# TYPE "));
        char c = line.data[0];
        CHECK(comment || c == '_' || c == ':' || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'));
        const char *space = memrchr(line.data, ' ', line.bytes);
        CHECK(comment || (space != NULL && space + 1 < line.data + line.bytes));
        at = end + 1;
    }
}

FUZZ_TARGET(metrics, FUZZ_ALLOWANCE_BYTES + 2 * PAGE_MAX) {
    fuzz_input in = {data, bytes, 0};
    /* Two workers, so that families meet. */
    size_t first = fuzz_below(&in, 65536);
    str parts[2] = {fuzz_take(&in, first), fuzz_take(&in, bytes)};
    metrics_remote remotes[2];
    size_t bad = 0;
    for (int i = 0; i < 2; i++) {
        char *copy = fuzz_copy(parts[i]);
        remotes[i] = (metrics_remote){str_of(copy, parts[i].bytes), "worker=\"w\""};
        size_t at = 0;
        metrics_format_sample s;
        metrics_format_result r;
        while ((r = metrics_format_next(remotes[i].snapshot, &at, &s)) == METRICS_FORMAT_SAMPLE) {
            CHECK_LE(at, parts[i].bytes);
            check_again(&s);
        }
        bad += r == METRICS_FORMAT_BAD;
    }
    strbuf page = strbuf_make(PAGE_MAX);
    size_t left_out = metrics_render(NULL, remotes, 2, &page);
    CHECK_EQ(left_out, bad);
    if (!page.failed) {
        check_page(strbuf_str(&page));
    }
    strbuf_close(&page);
    mem_free((char *)remotes[0].snapshot.data);
    mem_free((char *)remotes[1].snapshot.data);
}
