/* trace_test.c -- the ring of spans and its JSON, read back by a small parser. */
#include "engine/base/trace.h"

#include <criterion/criterion.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>

typedef struct {
    char name[32];
    long long pid, lane, start_us, duration_us;
    uint64_t request;
} seen_span;

/* The spans of a dump; every other line must be the frame or the process name. */
static size_t read_dump(const strbuf *b, seen_span *out, size_t max) {
    cr_assert_not(b->failed);
    size_t count = 0;
    for (const char *line = strstr(b->data, "[\n") + 2; *line; line = strchr(line, '\n') + 1) {
        seen_span s;
        int got =
            sscanf(line,
                   "{\"ph\":\"X\",\"name\":\"%31[^\"]\",\"pid\":%lld,\"tid\":%lld,\"ts\":%lld,"
                   "\"dur\":%lld,\"args\":{\"request\":\"%" SCNx64 "\"}}",
                   s.name, &s.pid, &s.lane, &s.start_us, &s.duration_us, &s.request);
        if (got == 6) {
            cr_assert_lt(count, max);
            out[count++] = s;
        } else {
            cr_assert(strstr(line, "process_name") || strncmp(line, "]}\n", 3) == 0, "%s", line);
        }
    }
    return count;
}

Test(trace, keeps_the_newest_spans_in_order) {
    arena a;
    cr_assert_eq(arena_open(&a, 1 << 20), STATUS_OK);
    trace *t;
    cr_assert_eq(trace_open(&t, &a, 5), STATUS_OK);
    for (uint32_t i = 0; i < 20; i++) {
        trace_span(t, 0xABC0 + i, "prefill", 1000 + i, 1500 + 2 * i, i % 3);
    }
    cr_assert_eq(trace_recorded(t), 20);
    strbuf b = strbuf_make(1 << 20);
    trace_dump(t, "a \"quoted\"\nname", 42, &b);
    cr_assert_not_null(strstr(b.data, "\"name\":\"a \\\"quoted\\\"\\u000aname\""));
    seen_span spans[16];
    cr_assert_eq(read_dump(&b, spans, 16), 8);
    for (uint32_t i = 0; i < 8; i++) {
        cr_assert_str_eq(spans[i].name, "prefill");
        cr_assert(spans[i].pid == 42 && spans[i].lane == (12 + i) % 3);
        cr_assert(spans[i].start_us == 1012 + i && spans[i].duration_us == 500 + 12 + i);
        cr_assert_eq(spans[i].request, 0xABC0 + 12 + i);
    }
    strbuf_close(&b);
    arena_close(&a);
}

Test(trace, a_closed_trace_takes_spans_and_dumps_an_empty_list) {
    trace_span(NULL, 1, "x", 0, 1, 0);
    strbuf b = strbuf_make(4096);
    trace_dump(NULL, "gateway", 1, &b);
    seen_span none;
    cr_assert_eq(read_dump(&b, &none, 0), 0);
    strbuf_close(&b);
}

enum { WRITERS = 3, EACH = 20000 };

static void *record(void *arg) {
    trace *t = arg;
    for (uint32_t i = 0; i < EACH; i++) {
        /* All fields tell the same number, so a torn span shows. */
        trace_span(t, i, "work", i, 2 * (int64_t)i, i);
    }
    return NULL;
}

Test(trace, dumps_only_whole_spans_while_threads_record) {
    arena a;
    cr_assert_eq(arena_open(&a, 1 << 20), STATUS_OK);
    trace *t;
    cr_assert_eq(trace_open(&t, &a, 16), STATUS_OK);
    pthread_t threads[WRITERS];
    for (int i = 0; i < WRITERS; i++) {
        cr_assert_eq(pthread_create(&threads[i], NULL, record, t), 0);
    }
    for (int round = 0; round < 200; round++) {
        strbuf b = strbuf_make(1 << 16);
        trace_dump(t, "p", 1, &b);
        seen_span spans[16];
        size_t count = read_dump(&b, spans, 16);
        for (size_t i = 0; i < count; i++) {
            cr_assert(spans[i].lane == spans[i].start_us &&
                      spans[i].duration_us == spans[i].start_us &&
                      spans[i].request == (uint64_t)spans[i].start_us);
        }
        strbuf_close(&b);
    }
    for (int i = 0; i < WRITERS; i++) {
        cr_assert_eq(pthread_join(threads[i], NULL), 0);
    }
    cr_assert_eq(trace_recorded(t), WRITERS * EACH);
    arena_close(&a);
}
