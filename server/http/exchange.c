/* exchange.c -- one HTTP request and its answer, shared by two threads. */
#define _GNU_SOURCE
#include "server/http/exchange.h"

#include <pthread.h>
#include <stdatomic.h>
#include <string.h>

#include "engine/base/check.h"
#include "engine/base/clock.h"
#include "engine/base/log.h"
#include "engine/base/mem.h"
#include "server/http/exchange_inner.h"

enum {
    EXCHANGE_HEADERS_MAX = 8,
    EXCHANGE_VALUE_BYTES = 256,
    EXCHANGE_BLOCK_BYTES = 16 << 10,
    EXCHANGE_OUT_BYTES = 900 /* room for a short answer, made by the thread that will free it */
};

typedef enum {
    EXCHANGE_OPEN,   /* no answer yet */
    EXCHANGE_WHOLE,  /* the answer is in `out` */
    EXCHANGE_STREAM, /* the answer runs through `out` */
    EXCHANGE_ENDED,  /* the stream is complete; `out` may hold its rest */
    EXCHANGE_CUT     /* the stream ends badly after the rest of `out` */
} exchange_stage;

typedef struct {
    char name[64];
    char value[EXCHANGE_VALUE_BYTES];
} exchange_header_copy;

struct exchange {
    _Atomic uint32_t references; /* everybody's */
    _Atomic uint32_t holders;    /* of those, the gateway's */
    exchange_hooks *hooks;

    /* The request: never changes. */
    char *method;
    char *path;
    size_t method_bytes;
    size_t path_bytes;
    strbuf body;
    int32_t key;
    int64_t received_us;
    char *traceparent, *tracestate; /* NULL: none */
    char *session;                  /* NULL: none */
    void *attached;
    void (*ended)(void *attached, const exchange_ending *how);

    struct { /* what waits for the last reference's end */
        void *thing;
        void (*close)(void *thing);
    } left[EXCHANGE_LEFT_MAX];
    size_t left_count;

    pthread_mutex_t lock; /* the rest */
    exchange_stage stage;
    bool queued;    /* MHD has the response */
    bool gone;      /* the client has left */
    bool events;    /* text/event-stream: heartbeats may be sent */
    bool suspended; /* `connection` waits for us */
    bool complete;  /* the connection sent all of the answer */
    int64_t ended_us;
    struct MHD_Connection *connection;
    int http_code;
    size_t headers_count;
    strbuf out;
    size_t out_sent;     /* bytes of `out` that the connection has taken */
    int64_t written_us;  /* when bytes were last added */
    int64_t progress_us; /* when the connection last took bytes, or the first bytes came */

    /* Not cleared at the start: these are most of an exchange. */
    exchange_header_copy extra; /* of every answer; no name: none */
    exchange_header_copy headers[EXCHANGE_HEADERS_MAX];
};

exchange *exchange_open(exchange_hooks *hooks, str method, str path, strbuf *body, int32_t key,
                        int64_t received_us) {
    exchange *x = mem_alloc(1, sizeof *x);
    if (x == NULL) {
        return NULL;
    }
    memset(x, 0, offsetof(exchange, extra));
    x->extra.name[0] = '\0';
    x->method = mem_dup(method.data, method.bytes);
    x->path = mem_dup(path.data, path.bytes);
    if (x->method == NULL || x->path == NULL || pthread_mutex_init(&x->lock, NULL) != 0) {
        mem_free(x->method);
        mem_free(x->path);
        mem_free(x);
        return NULL;
    }
    x->method_bytes = method.bytes;
    x->path_bytes = path.bytes;
    x->body = *body;
    *body = strbuf_make(0);
    x->out = strbuf_make(EXCHANGE_RESPONSE_BYTES);
    (void)strbuf_reserve(&x->out, EXCHANGE_OUT_BYTES);
    x->hooks = hooks;
    x->key = key;
    x->received_us = received_us;
    atomic_init(&x->references, 1);
    return x;
}

str exchange_method(const exchange *x) {
    return str_of(x->method, x->method_bytes);
}

str exchange_path(const exchange *x) {
    return str_of(x->path, x->path_bytes);
}

str exchange_body(const exchange *x) {
    return strbuf_str(&x->body);
}

int32_t exchange_key(const exchange *x) {
    return x->key;
}

int64_t exchange_received_us(const exchange *x) {
    return x->received_us;
}

str exchange_traceparent(const exchange *x) {
    return str_from(x->traceparent);
}

str exchange_tracestate(const exchange *x) {
    return str_from(x->tracestate);
}

str exchange_session(const exchange *x) {
    return str_from(x->session);
}

void *exchange_attached(const exchange *x) {
    return x->attached;
}

/* Without memory for it the request has no session: it only steers. */
void exchange_set_session(exchange *x, str name) {
    x->session = name.bytes ? mem_dup(name.data, name.bytes) : NULL;
}

/* Without memory for them the request has no parent: a trace is not worth an error. */
void exchange_set_trace(exchange *x, str traceparent, str tracestate) {
    if (traceparent.bytes) {
        x->traceparent = mem_dup(traceparent.data, traceparent.bytes);
        x->tracestate = tracestate.bytes ? mem_dup(tracestate.data, tracestate.bytes) : NULL;
    }
}

static void exchange_copy_text(char *to, size_t bytes_max, const char *from) {
    size_t bytes = strnlen(from, bytes_max - 1);
    memcpy(to, from, bytes);
    to[bytes] = '\0';
}

static void exchange_copy_header(exchange_header_copy *to, const exchange_header *h) {
    exchange_copy_text(to->name, sizeof to->name, h->name);
    exchange_copy_text(to->value, sizeof to->value, h->value);
}

void exchange_attach(exchange *x, void *attached,
                     void (*ended)(void *attached, const exchange_ending *how),
                     const exchange_header *header) {
    CHECK(x->attached == NULL);
    x->attached = attached;
    x->ended = ended;
    if (header) {
        exchange_copy_header(&x->extra, header);
    }
}

void exchange_leave_with(exchange *x, void *thing, void (*close)(void *thing)) {
    CHECK_LT(x->left_count, EXCHANGE_LEFT_MAX);
    x->left[x->left_count].thing = thing;
    x->left[x->left_count++].close = close;
}

static void exchange_lock(const exchange *x) {
    CHECK_EQ(pthread_mutex_lock((pthread_mutex_t *)&x->lock), 0);
}

static void exchange_unlock(const exchange *x) {
    CHECK_EQ(pthread_mutex_unlock((pthread_mutex_t *)&x->lock), 0);
}

bool exchange_gone(const exchange *x) {
    exchange_lock(x);
    bool gone = x->gone;
    exchange_unlock(x);
    return gone;
}

/* Unlocks, then lets the connection look again, if `wake`: with the lock held, its thread would
 * wake up only to wait. Each suspension is answered by exactly one resumption, and a suspended
 * connection stays until then. */
static void exchange_unlock_waking(exchange *x, bool wake) {
    struct MHD_Connection *waiting = wake && x->suspended ? x->connection : NULL;
    exchange_hooks *hooks = x->hooks;
    x->suspended = x->suspended && !wake;
    exchange_unlock(x);
    if (waiting != NULL) {
        hooks->resume(hooks->self, waiting);
    }
}

static void exchange_copy_headers(exchange *x, const char *content_type,
                                  const exchange_header *headers, size_t count) {
    exchange_header type = {"Content-Type", content_type};
    x->headers_count = 0;
    for (size_t i = 0; i <= count; i++) {
        const exchange_header *h = i == 0 ? &type : &headers[i - 1];
        if (h->value == NULL || x->headers_count == EXCHANGE_HEADERS_MAX) {
            continue;
        }
        exchange_copy_header(&x->headers[x->headers_count++], h);
    }
    if (x->extra.name[0] && x->headers_count < EXCHANGE_HEADERS_MAX) {
        x->headers[x->headers_count++] = x->extra;
    }
}

/* The lock is held. False when an answer can no longer be given. */
static bool exchange_start(exchange *x, int http_code, const char *content_type,
                           const exchange_header *headers, size_t count) {
    if (x->stage != EXCHANGE_OPEN) {
        LOG(ERROR, "http", "answered twice", "code=%d", http_code);
        return false;
    }
    if (x->gone) {
        return false;
    }
    x->http_code = http_code;
    x->events = content_type != NULL && strncmp(content_type, "text/event-stream", 17) == 0;
    x->written_us = clock_now_us();
    x->progress_us = x->written_us;
    exchange_copy_headers(x, content_type, headers, count);
    return true;
}

bool exchange_respond(exchange *x, int http_code, const char *content_type, str body,
                      const exchange_header *headers, size_t headers_count) {
    exchange_lock(x);
    bool ok = exchange_start(x, http_code, content_type, headers, headers_count);
    if (ok) {
        if (!strbuf_append_str(&x->out, body)) {
            LOG(ERROR, "http", "answer too large", "bytes=%zu", body.bytes);
            x->http_code = 500;
            strbuf_clear(&x->out);
        }
        x->stage = EXCHANGE_WHOLE;
    }
    exchange_unlock_waking(x, ok);
    return ok;
}

bool exchange_begin(exchange *x, int http_code, const char *content_type,
                    const exchange_header *headers, size_t headers_count) {
    exchange_lock(x);
    bool ok = exchange_start(x, http_code, content_type, headers, headers_count);
    if (ok) {
        x->stage = EXCHANGE_STREAM;
    }
    exchange_unlock_waking(x, ok);
    return ok;
}

/* The lock is held. */
static bool exchange_append(exchange *x, str bytes, int64_t now_us) {
    size_t waiting = x->out.bytes - x->out_sent;
    if (bytes.bytes > EXCHANGE_BUFFER_BYTES || waiting > EXCHANGE_BUFFER_BYTES - bytes.bytes) {
        return false;
    }
    if (waiting == 0) {
        strbuf_clear(&x->out);
        x->out_sent = 0;
        x->progress_us = now_us;
    } else if (x->out_sent > x->out.bytes / 2) {
        strbuf_consume(&x->out, x->out_sent);
        x->out_sent = 0;
    }
    if (!strbuf_append_str(&x->out, bytes)) {
        return false;
    }
    x->written_us = now_us;
    return true;
}

bool exchange_write(exchange *x, str bytes) {
    exchange_lock(x);
    bool ok = x->stage == EXCHANGE_STREAM && !x->gone;
    if (ok && !exchange_append(x, bytes, clock_now_us())) {
        /* The client is too slow for what it asked. The caller learns it from us, so `gone` is
         * not called; the sweeper closes the connection. */
        ok = false;
        x->gone = true;
        atomic_fetch_add(&x->hooks->gone_count, 1);
    }
    exchange_unlock_waking(x, true);
    return ok;
}

static void exchange_stop(exchange *x, exchange_stage stage) {
    exchange_lock(x);
    bool open = x->stage == EXCHANGE_STREAM;
    if (open) {
        x->stage = stage;
    }
    exchange_unlock_waking(x, open);
}

void exchange_end(exchange *x) {
    exchange_stop(x, EXCHANGE_ENDED);
}

void exchange_cut(exchange *x) {
    exchange_stop(x, EXCHANGE_CUT);
}

bool exchange_answered(const exchange *x) {
    exchange_lock(x);
    bool answered = x->stage != EXCHANGE_OPEN;
    exchange_unlock(x);
    return answered;
}

exchange_next exchange_wait(exchange *x, struct MHD_Connection *connection) {
    exchange_lock(x);
    exchange_next next = EXCHANGE_WAITING;
    if (x->gone) {
        next = EXCHANGE_LEFT;
    } else if (x->stage != EXCHANGE_OPEN) {
        next = EXCHANGE_READY;
    } else {
        x->connection = connection;
        x->suspended = true;
        MHD_suspend_connection(connection);
    }
    exchange_unlock(x);
    return next;
}

/* MHD's content reader: gives what is there, or suspends until there is more. */
static ssize_t exchange_pull(void *cls, uint64_t position, char *buffer, size_t bytes_max) {
    (void)position;
    exchange *x = cls;
    exchange_lock(x);
    ssize_t result = 0;
    size_t waiting = x->out.bytes - x->out_sent;
    if (x->gone) {
        result = MHD_CONTENT_READER_END_WITH_ERROR;
    } else if (waiting > 0) {
        size_t n = waiting < bytes_max ? waiting : bytes_max;
        memcpy(buffer, x->out.data + x->out_sent, n);
        x->out_sent += n;
        x->progress_us = clock_now_us();
        result = (ssize_t)n;
    } else if (x->stage == EXCHANGE_ENDED) {
        result = MHD_CONTENT_READER_END_OF_STREAM;
    } else if (x->stage == EXCHANGE_CUT) {
        result = MHD_CONTENT_READER_END_WITH_ERROR;
    } else {
        x->suspended = true;
        MHD_suspend_connection(x->connection);
    }
    exchange_unlock(x);
    return result;
}

enum MHD_Result exchange_queue(exchange *x, struct MHD_Connection *connection, bool close) {
    exchange_lock(x);
    x->connection = connection;
    struct MHD_Response *response = NULL;
    if (!x->queued && x->stage == EXCHANGE_WHOLE) {
        response =
            MHD_create_response_from_buffer_with_free_callback(x->out.bytes, x->out.data, mem_free);
        if (response != NULL) {
            x->out = strbuf_make(0); /* it is the response's now */
        }
    } else if (!x->queued) {
        response = MHD_create_response_from_callback(MHD_SIZE_UNKNOWN, EXCHANGE_BLOCK_BYTES,
                                                     exchange_pull, x, NULL);
    }
    x->queued = true;
    bool ok = response != NULL;
    for (size_t i = 0; ok && i < x->headers_count; i++) {
        ok = MHD_add_response_header(response, x->headers[i].name, x->headers[i].value) == MHD_YES;
    }
    if (ok && close) {
        ok = MHD_add_response_header(response, "Connection", "close") == MHD_YES;
    }
    unsigned code = (unsigned)x->http_code;
    exchange_unlock(x);
    enum MHD_Result result = ok ? MHD_queue_response(connection, code, response) : MHD_NO;
    if (response != NULL) {
        MHD_destroy_response(response);
    }
    return result;
}

void exchange_leave(exchange *x) {
    exchange_lock(x);
    bool tell = !x->gone && (x->stage == EXCHANGE_OPEN || x->stage == EXCHANGE_STREAM);
    x->gone = true;
    exchange_unlock_waking(x, true);
    if (tell) {
        atomic_fetch_add(&x->hooks->gone_count, 1);
        x->hooks->gone(x->hooks->self, x);
    }
}

void exchange_finish(exchange *x, bool complete) {
    exchange_lock(x);
    x->connection = NULL;
    x->suspended = false;
    x->complete = complete;
    x->ended_us = clock_now_us();
    exchange_unlock(x);
    if (!complete) {
        exchange_leave(x);
    }
    exchange_drop(x);
}

bool exchange_tick(exchange *x, int64_t now_us) {
    exchange_lock(x);
    bool gone = x->gone;
    bool waiting = x->out.bytes > x->out_sent;
    bool beat = false;
    bool stalled = !gone && x->queued && waiting && now_us - x->progress_us > x->hooks->stall_us;
    if (!gone && !stalled && x->queued && x->stage == EXCHANGE_STREAM && x->events && !waiting &&
        now_us - x->written_us >= x->hooks->heartbeat_us) {
        beat = exchange_append(x, str_from(x->hooks->heartbeat_bytes), now_us);
    }
    exchange_unlock_waking(x, beat);
    if (stalled) {
        exchange_leave(x);
    }
    return gone || stalled;
}

/* Nobody will answer any more: the client is owed an end. */
static void exchange_answer_lost(exchange *x) {
    static const char text[] =
        "{\"error\":{\"message\":\"the request was lost inside the server\","
        "\"type\":\"InternalServerError\",\"param\":null,\"code\":500}}";
    exchange_lock(x);
    bool lost = x->stage == EXCHANGE_OPEN && !x->gone;
    bool open = x->stage == EXCHANGE_STREAM;
    exchange_unlock(x);
    if (lost) {
        (void)exchange_respond(x, 500, "application/json", str_from(text), NULL, 0);
    } else if (open) {
        exchange_cut(x);
    }
}

void exchange_acquire(exchange *x) {
    atomic_fetch_add_explicit(&x->holders, 1, memory_order_relaxed);
    exchange_hold(x);
}

void exchange_release(exchange *x) {
    uint32_t before = atomic_fetch_sub_explicit(&x->holders, 1, memory_order_acq_rel);
    CHECK_LT(0, (int64_t)before);
    if (before == 1) {
        exchange_answer_lost(x);
    }
    exchange_drop(x);
}

void exchange_hold(exchange *x) {
    atomic_fetch_add_explicit(&x->references, 1, memory_order_relaxed);
}

void exchange_drop(exchange *x) {
    uint32_t before = atomic_fetch_sub_explicit(&x->references, 1, memory_order_acq_rel);
    CHECK_LT(0, (int64_t)before);
    if (before > 1) {
        return;
    }
    if (x->ended) {
        exchange_ending how = {.http_code = x->http_code,
                               .complete = x->complete,
                               .received_us = x->received_us,
                               .ended_us = x->ended_us ? x->ended_us : clock_now_us()};
        x->ended(x->attached, &how);
    }
    for (size_t i = 0; i < x->left_count; i++) {
        x->left[i].close(x->left[i].thing);
    }
    pthread_mutex_destroy(&x->lock);
    strbuf_close(&x->body);
    strbuf_close(&x->out);
    mem_free(x->traceparent);
    mem_free(x->tracestate);
    mem_free(x->session);
    mem_free(x->method);
    mem_free(x->path);
    mem_free(x);
}
