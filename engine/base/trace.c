/* trace.c -- a ring of spans that any thread writes.
 *
 * A writer takes a ticket; the ticket's slot is its own until it is published. A slot's `ticket`
 * word is 2*t+1 while span t is being written and 2*t+2 when it is whole. A writer that was put to
 * sleep for a whole turn of the ring may meet a later writer on its slot: the one that finds the
 * slot busy or newer drops its span. Every field is atomic, so the reader's race with a writer is
 * defined, and the reader checks the ticket again after its copy (a sequence lock; Boehm, "Can
 * seqlocks get along with programming language memory models?", MSPC 2012). */
#include "engine/base/trace.h"

#include <inttypes.h>
#include <stdatomic.h>
#include <stdbool.h>

#include "engine/base/check.h"

typedef struct {
    _Atomic uint64_t ticket;
    _Atomic uint64_t request_id;
    _Atomic(const char *) name;
    _Atomic int64_t start_us;
    _Atomic int64_t end_us;
    _Atomic uint32_t lane;
} span_slot;

struct trace {
    span_slot *slots; /* [slots_count] */
    uint64_t slots_count;
    _Atomic uint64_t next;
};

status trace_open(trace **out, arena *a, uint32_t spans_max) {
    CHECK(spans_max >= 1 && spans_max <= 1u << 24);
    *out = NULL;
    trace *t = ARENA_TAKE(a, 1, trace);
    if (!t) {
        return STATUS_NOMEM;
    }
    t->slots_count = 1;
    while (t->slots_count < spans_max) {
        t->slots_count *= 2;
    }
    t->slots = ARENA_TAKE(a, t->slots_count, span_slot);
    if (!t->slots) {
        return STATUS_NOMEM;
    }
    *out = t;
    return STATUS_OK;
}

void trace_span(trace *t, uint64_t request_id, const char *name, int64_t start_us, int64_t end_us,
                uint32_t lane) {
    if (!t) {
        return;
    }
    uint64_t ticket = atomic_fetch_add_explicit(&t->next, 1, memory_order_relaxed);
    span_slot *s = &t->slots[ticket & (t->slots_count - 1)];
    uint64_t before = atomic_load_explicit(&s->ticket, memory_order_relaxed);
    if ((before & 1) || before > 2 * ticket ||
        !atomic_compare_exchange_strong_explicit(&s->ticket, &before, 2 * ticket + 1,
                                                 memory_order_acquire, memory_order_relaxed)) {
        return;
    }
    /* Release on each field: a reader that sees a new field sees the odd ticket before it. */
    atomic_store_explicit(&s->request_id, request_id, memory_order_release);
    atomic_store_explicit(&s->name, name, memory_order_release);
    atomic_store_explicit(&s->start_us, start_us, memory_order_release);
    atomic_store_explicit(&s->end_us, end_us, memory_order_release);
    atomic_store_explicit(&s->lane, lane, memory_order_release);
    atomic_store_explicit(&s->ticket, 2 * ticket + 2, memory_order_release);
}

uint64_t trace_recorded(const trace *t) {
    return t ? atomic_load_explicit(&t->next, memory_order_relaxed) : 0;
}

typedef struct {
    uint64_t request_id;
    const char *name;
    int64_t start_us;
    int64_t end_us;
    uint32_t lane;
} span_copy;

static bool copy_span(span_slot *s, uint64_t ticket, span_copy *out) {
    if (atomic_load_explicit(&s->ticket, memory_order_acquire) != 2 * ticket + 2) {
        return false;
    }
    /* Acquire on each field: none is read after the ticket is looked at again. */
    out->request_id = atomic_load_explicit(&s->request_id, memory_order_acquire);
    out->name = atomic_load_explicit(&s->name, memory_order_acquire);
    out->start_us = atomic_load_explicit(&s->start_us, memory_order_acquire);
    out->end_us = atomic_load_explicit(&s->end_us, memory_order_acquire);
    out->lane = atomic_load_explicit(&s->lane, memory_order_acquire);
    return atomic_load_explicit(&s->ticket, memory_order_relaxed) == 2 * ticket + 2;
}

static void put_json_string(strbuf *out, const char *text) {
    (void)strbuf_append_char(out, '"');
    for (; *text; text++) {
        unsigned char c = (unsigned char)*text;
        if (c == '"' || c == '\\') {
            (void)strbuf_append_char(out, '\\');
            (void)strbuf_append_char(out, (char)c);
        } else if (c < 0x20) {
            (void)strbuf_printf(out, "\\u%04x", c);
        } else {
            (void)strbuf_append_char(out, (char)c);
        }
    }
    (void)strbuf_append_char(out, '"');
}

void trace_dump(const trace *t, const char *process, int pid, strbuf *out) {
    (void)strbuf_printf(out,
                        "{\"displayTimeUnit\":\"ms\",\"traceEvents\":[\n{\"ph\":\"M\",\"name\":"
                        "\"process_name\",\"pid\":%d,\"tid\":0,\"args\":{\"name\":",
                        pid);
    put_json_string(out, process);
    (void)strbuf_append_z(out, "}}");
    uint64_t end = trace_recorded(t);
    uint64_t begin = t && end > t->slots_count ? end - t->slots_count : 0;
    for (uint64_t ticket = begin; ticket < end; ticket++) {
        span_copy s;
        if (!copy_span(&t->slots[ticket & (t->slots_count - 1)], ticket, &s)) {
            continue;
        }
        (void)strbuf_append_z(out, ",\n{\"ph\":\"X\",\"name\":");
        put_json_string(out, s.name);
        (void)strbuf_printf(out,
                            ",\"pid\":%d,\"tid\":%" PRIu32 ",\"ts\":%" PRId64 ",\"dur\":%" PRId64
                            ",\"args\":{\"request\":\"%" PRIx64 "\"}}",
                            pid, s.lane, s.start_us, s.end_us - s.start_us, s.request_id);
    }
    (void)strbuf_append_z(out, "\n]}\n");
}
