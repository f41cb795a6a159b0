/* otlp.c -- a queue, a thread, a connection. */
#define _GNU_SOURCE
#include "server/http/otlp.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

#include "engine/base/clock.h"
#include "engine/base/log.h"
#include "engine/base/mem.h"
#include "engine/base/queue.h"
#include "engine/base/rng.h"
#include "server/http/webcall.h"

enum {
    CALL_US = 5000000,    /* of one try */
    BACKOFF_US = 1000000, /* before the second try; doubles */
    BACKOFF_MOST_US = 30000000,
    NAP_US = 20000, /* how soon a pause notices that it is time to end */
    IDLE_US = 60000000,
    BATCH_BYTES_MAX = 32 << 20
};

struct otlp {
    otlp_options options;
    char url[OTLP_URL_BYTES];
    webcall *call;
    arena arena;
    queue waiting; /* of void * */
    bool waiting_open, thread_started;
    pthread_t thread;
    strbuf batch;
    uint32_t batch_items, batch_spans;
    uint64_t jitter;
    bool troubled;               /* the last batch was not taken: told once */
    _Atomic int64_t close_by_us; /* 0: not closing */
    _Atomic uint64_t sent, dropped_full, dropped_refused, dropped_unreachable;
};

status otlp_url(const char *endpoint, char url[OTLP_URL_BYTES], diag *d) {
    str s = str_from(endpoint);
    bool http = str_starts_with(s, str_from("http://")) && s.bytes > 7;
    bool https = str_starts_with(s, str_from("https://")) && s.bytes > 8;
    bool plain = true;
    for (size_t i = 0; i < s.bytes; i++) {
        plain =
            plain && s.data[i] > ' ' && s.data[i] <= '~' && s.data[i] != '?' && s.data[i] != '#';
    }
    if (!(http || https) || !plain) {
        return status_fail_param(d, STATUS_INVALID, "otlp-endpoint",
                                 "%.200s is not like http://host:4318", endpoint);
    }
    const char *slash = s.data[s.bytes - 1] == '/' ? "" : "/";
    int n = snprintf(url, OTLP_URL_BYTES, "%s%sv1/traces", endpoint, slash);
    return n > 0 && n < OTLP_URL_BYTES
               ? STATUS_OK
               : status_fail_param(d, STATUS_INVALID, "otlp-endpoint", "the address is too long");
}

/* ---- sending -------------------------------------------------------------------------------- */

/* Microseconds that are left for a call, CALL_US at most. */
static int64_t time_left_us(const otlp *o) {
    int64_t by = atomic_load(&o->close_by_us);
    int64_t left = by ? by - clock_now_us() : CALL_US;
    return left < CALL_US ? left : CALL_US;
}

/* False when the exporter is to end: then nothing is tried again. */
static bool pause_for(const otlp *o, int64_t us) {
    int64_t until = clock_now_us() + us;
    int64_t now;
    while (!atomic_load(&o->close_by_us) && (now = clock_now_us()) < until) {
        clock_sleep_us(until - now < NAP_US ? until - now : NAP_US);
    }
    return !atomic_load(&o->close_by_us);
}

typedef enum { TAKEN, LATER, NEVER } reply_kind;

static reply_kind judge(int32_t code) {
    if (code >= 200 && code < 300) {
        return TAKEN;
    }
    return code == 429 || code == 502 || code == 503 || code == 504 ? LATER : NEVER;
}

/* One try. `wait_us`: how long the collector asks to be left alone; 0: it did not say. */
static reply_kind try_once(otlp *o, int64_t *wait_us, diag *d) {
    int64_t left = time_left_us(o);
    webcall_request r = {.method = "POST",
                         .url = o->url,
                         .body = strbuf_str(&o->batch),
                         .headers = o->options.headers ? o->options.headers->lines : NULL,
                         .headers_count = o->options.headers ? o->options.headers->count : 0,
                         .timeout_ms = left / 1000 + 1};
    webcall_answer a;
    *wait_us = 0;
    if (left <= 0) {
        (void)status_fail(d, STATUS_TIMEOUT, "no time is left");
        return LATER;
    }
    if (webcall_send(o->call, &r, &a, d) != STATUS_OK) {
        return LATER;
    }
    reply_kind kind = judge(a.status);
    if (kind != TAKEN) {
        int shown = (int)(a.body.bytes < 120 ? a.body.bytes : 120);
        (void)status_fail(d, STATUS_IO, "HTTP %d %.*s", (int)a.status, shown,
                          a.body.data ? a.body.data : "");
        *wait_us = a.retry_after_s * 1000000;
    }
    return kind;
}

/* Doubling from a second on, between half and one and a half times that: gateways that were turned
 * away together do not return together. */
static reply_kind try_for_a_while(otlp *o, diag *d) {
    int64_t give_up_us = clock_now_us() + OTLP_RETRY_US;
    for (int64_t backoff = BACKOFF_US;; backoff *= 2) {
        int64_t asked_us;
        reply_kind kind = try_once(o, &asked_us, d);
        backoff = backoff < BACKOFF_MOST_US ? backoff : BACKOFF_MOST_US;
        int64_t wait_us = backoff / 2 + (int64_t)rng_below(&o->jitter, (uint64_t)backoff);
        wait_us = asked_us > wait_us ? asked_us : wait_us;
        if (kind != LATER || clock_now_us() + wait_us > give_up_us || !pause_for(o, wait_us)) {
            return kind;
        }
    }
}

static void begin_batch(otlp *o) {
    strbuf_clear(&o->batch);
    o->batch_items = o->batch_spans = 0;
    otlpspan_begin(&o->batch, o->options.resource, o->options.resource_count, o->options.scope,
                   o->options.version);
}

static void send_batch(otlp *o) {
    diag d = {.text = "no memory"};
    otlpspan_end(&o->batch);
    reply_kind kind = o->batch.failed ? NEVER : try_for_a_while(o, &d);
    if (kind == TAKEN) {
        atomic_fetch_add(&o->sent, o->batch_items);
    } else {
        atomic_fetch_add(kind == NEVER ? &o->dropped_refused : &o->dropped_unreachable,
                         o->batch_items);
    }
    if ((kind != TAKEN) != o->troubled) {
        o->troubled = kind != TAKEN;
        if (o->troubled) {
            LOG(WARN, "otlp", "traces are being dropped", "url=%s why=\"%s\"", o->url, d.text);
        } else {
            LOG(INFO, "otlp", "traces are taken again", "url=%s", o->url);
        }
    }
}

static void *export_thread(void *argument) {
    otlp *o = argument;
    int64_t due_us = 0;
    (void)pthread_setname_np(pthread_self(), "weir-otlp");
    begin_batch(o);
    for (;;) {
        void *item;
        int64_t wait_us = o->batch_items ? due_us - clock_now_us() : IDLE_US;
        bool got = queue_pop_wait(&o->waiting, &item, wait_us > 0 ? wait_us : 0);
        if (got) {
            due_us = o->batch_items ? due_us : clock_now_us() + OTLP_BATCH_US;
            o->batch_spans += o->options.write(o->options.self, item, &o->batch);
            o->batch_items++;
            o->options.discard(o->options.self, item);
        }
        bool closing = atomic_load(&o->close_by_us) != 0;
        bool full = o->batch_spans >= OTLP_BATCH_SPANS;
        bool due = clock_now_us() >= due_us || (closing && !got);
        if (o->batch_items && (full || due)) {
            send_batch(o);
            begin_batch(o);
        }
        if (closing && !got) {
            return NULL;
        }
    }
}

/* ---- outside -------------------------------------------------------------------------------- */

status otlp_open(const otlp_options *options, otlp **out, diag *d) {
    otlp *o = mem_calloc(1, sizeof *o);
    if (!o || arena_open(&o->arena, OTLP_WAITING_MAX * sizeof(void *) + 65536) != STATUS_OK) {
        mem_free(o);
        return status_fail(d, STATUS_NOMEM, "no memory for traces");
    }
    o->options = *options;
    o->batch = strbuf_make(BATCH_BYTES_MAX);
    o->jitter = (uint64_t)clock_now_ns();
    (void)snprintf(o->url, sizeof o->url, "%s", options->url);
    status s = queue_open(&o->waiting, &o->arena, OTLP_WAITING_MAX, sizeof(void *), false, d);
    o->waiting_open = s == STATUS_OK;
    if (s == STATUS_OK && (s = webcall_open(&o->call)) != STATUS_OK) {
        s = status_fail(d, s, "no memory for traces");
    }
    if (s == STATUS_OK && pthread_create(&o->thread, NULL, export_thread, o) != 0) {
        s = status_fail_errno(d, STATUS_NOMEM, "starting the trace exporter");
    }
    o->thread_started = s == STATUS_OK;
    if (s != STATUS_OK) {
        otlp_close(o);
        return s;
    }
    *out = o;
    return STATUS_OK;
}

void otlp_close(otlp *o) {
    if (!o) {
        return;
    }
    atomic_store(&o->close_by_us, clock_now_us() + OTLP_CLOSE_US);
    if (o->waiting_open) {
        queue_shut(&o->waiting);
    }
    if (o->thread_started) {
        (void)pthread_join(o->thread, NULL);
    }
    if (o->waiting_open) {
        queue_close(&o->waiting);
    }
    webcall_close(o->call);
    strbuf_close(&o->batch);
    arena_close(&o->arena);
    mem_free(o);
}

void otlp_push(otlp *o, void *item) {
    if (!queue_push(&o->waiting, &item)) {
        atomic_fetch_add(&o->dropped_full, 1);
        o->options.discard(o->options.self, item);
    }
}

void otlp_count(otlp *o, otlp_counts *out) {
    *out = (otlp_counts){.sent = atomic_load(&o->sent),
                         .dropped_full = atomic_load(&o->dropped_full),
                         .dropped_refused = atomic_load(&o->dropped_refused),
                         .dropped_unreachable = atomic_load(&o->dropped_unreachable)};
}
