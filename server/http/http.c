/* http.c -- the HTTP server: listening socket, connections, requests in, answers out. */
#define _GNU_SOURCE
#include "server/http/http.h"

#include <errno.h>
#include <microhttpd.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

#include "engine/base/check.h"
#include "engine/base/clock.h"
#include "engine/base/limits.h"
#include "engine/base/log.h"
#include "engine/base/mem.h"
#include "server/http/exchange_inner.h"
#include "server/http/listener.h"
#include "server/http/refusal.h"
#include "server/http/sweeper.h"

enum {
    /* MHD's memory for one connection: its read buffer, which grows to hold a whole head, the
     * parsed headers, and the answer's head. MHD clears all of it before each request. */
    HTTP_CONNECTION_BYTES = LIMIT_HEADER_BYTES + (16 << 10),
    /* A refused body up to this many times the limit is read and thrown away, so that the client
     * gets to read the refusal instead of a reset connection. */
    HTTP_DISCARD_FACTOR = 4,
    HTTP_STOP_WAIT_US = 2000000
};

struct http {
    http_options options;
    http_handlers handlers;
    exchange_hooks hooks;
    sweeper *sweep;
    struct MHD_Daemon *daemon;
    uint16_t port;
    _Atomic bool leaving; /* every answer is its connection's last */
    _Atomic uint64_t requests;
    _Atomic uint32_t exchanges;
};

/* One request while MHD works on it: its `con_cls`. */
typedef struct {
    sweeper_slot *slot;
    guard_head head;
    http_verdict verdict;
    strbuf body;
    uint64_t body_seen; /* bytes that arrived, thrown away or not */
    bool close;         /* the connection ends with this answer */
    exchange *x;        /* NULL until the request is whole */
} http_call;

static enum MHD_Result http_send_refusal(http_call *call, struct MHD_Connection *c) {
    const http_verdict *v = &call->verdict;
    strbuf body = strbuf_make(4096);
    refusal_write(&body, v->http_code, &v->error);
    struct MHD_Response *r =
        MHD_create_response_from_buffer(body.bytes, body.data, MHD_RESPMEM_MUST_COPY);
    strbuf_close(&body);
    bool ok =
        r != NULL && MHD_add_response_header(r, "Content-Type", "application/json") == MHD_YES &&
        (v->allow[0] == 0 || MHD_add_response_header(r, "Allow", v->allow) == MHD_YES) &&
        (!v->challenge || MHD_add_response_header(r, "WWW-Authenticate", "Bearer") == MHD_YES) &&
        (!call->close || MHD_add_response_header(r, "Connection", "close") == MHD_YES);
    enum MHD_Result result = ok ? MHD_queue_response(c, (unsigned)v->http_code, r) : MHD_NO;
    if (r != NULL) {
        MHD_destroy_response(r);
    }
    return result;
}

static void http_refuse(http_call *call, int code, const char *text) {
    call->verdict.http_code = code;
    (void)status_fail(&call->verdict.error, STATUS_LIMIT, "%s", text);
}

static str http_header(struct MHD_Connection *c, const char *name) {
    return str_from(MHD_lookup_connection_value(c, MHD_HEADER_KIND, name));
}

/* The head is there: decides what happens with the request before a byte of its body is read. */
static enum MHD_Result http_begin(http *h, struct MHD_Connection *c, const char *url,
                                  const char *method, void **con_cls) {
    const union MHD_ConnectionInfo *info =
        MHD_get_connection_info(c, MHD_CONNECTION_INFO_SOCKET_CONTEXT);
    sweeper_slot *slot = info != NULL ? info->socket_context : NULL;
    const union MHD_ConnectionInfo *size =
        MHD_get_connection_info(c, MHD_CONNECTION_INFO_REQUEST_HEADER_SIZE);
    guard_head head;
    if (slot == NULL || size == NULL ||
        !sweeper_take_head(h->sweep, slot, size->header_size, &head)) {
        return MHD_NO;
    }
    http_call *call = mem_calloc(1, sizeof *call);
    if (call == NULL) {
        return MHD_NO;
    }
    *con_cls = call;
    call->slot = slot;
    call->head = head;
    call->body = strbuf_make(h->options.body_bytes_max);
    /* MHD ends a chunked body where its own parser does: no second request after one. */
    call->close = head.chunked || !head.keep || atomic_load(&h->leaving);
    http_head view = {.method = str_from(method),
                      .path = str_from(url),
                      .authorization = http_header(c, "Authorization"),
                      .content_type = http_header(c, "Content-Type"),
                      .body_bytes = head.chunked ? -1 : head.body_bytes};
    call->verdict.key = -1;
    h->handlers.admit(h->handlers.self, &view, &call->verdict);
    if (call->verdict.http_code == 0 && (uint64_t)head.body_bytes > h->options.body_bytes_max) {
        http_refuse(call, 413, "the request body is too large");
    }
    bool discard = !head.expects && !head.chunked &&
                   (uint64_t)head.body_bytes <= HTTP_DISCARD_FACTOR * h->options.body_bytes_max;
    if (call->verdict.http_code != 0 && !discard) {
        call->close = true;
        return http_send_refusal(call, c);
    }
    return MHD_YES;
}

static enum MHD_Result http_collect(http *h, http_call *call, const char *data, size_t *bytes) {
    call->body_seen += *bytes;
    if (call->verdict.http_code == 0 && !strbuf_append(&call->body, data, *bytes)) {
        bool large = call->body_seen > h->options.body_bytes_max;
        http_refuse(call, large ? 413 : 503,
                    large ? "the request body is too large" : "out of memory");
        call->close = true;
    }
    *bytes = 0;
    return call->body_seen <= HTTP_DISCARD_FACTOR * h->options.body_bytes_max ? MHD_YES : MHD_NO;
}

/* The trace headers of a request. */
typedef struct {
    const char *parent;
    int parents;  /* more than one is as none: nobody knows which is right */
    strbuf state; /* may come in several headers, which are one list */
} http_trace;

static enum MHD_Result http_trace_header(void *cls, enum MHD_ValueKind kind, const char *name,
                                         const char *value) {
    (void)kind;
    http_trace *t = cls;
    if (strcasecmp(name, "traceparent") == 0) {
        t->parent = value;
        t->parents++;
    } else if (strcasecmp(name, "tracestate") == 0) {
        (void)(t->state.bytes && strbuf_append_char(&t->state, ','));
        (void)(value && strbuf_append_z(&t->state, value));
    }
    return MHD_YES;
}

static void http_read_trace(exchange *x, struct MHD_Connection *c) {
    http_trace t = {.state = strbuf_make(LIMIT_HEADER_BYTES)};
    (void)MHD_get_connection_values(c, MHD_HEADER_KIND, http_trace_header, &t);
    if (t.parents == 1) {
        str none = {NULL, 0};
        exchange_set_trace(x, str_from(t.parent), t.state.failed ? none : strbuf_str(&t.state));
    }
    strbuf_close(&t.state);
}

/* The request is whole: hands it over. */
static enum MHD_Result http_dispatch(http *h, struct MHD_Connection *c, http_call *call, str method,
                                     str path) {
    call->x =
        exchange_open(&h->hooks, method, path, &call->body, call->verdict.key, clock_now_us());
    if (call->x == NULL) {
        return MHD_NO;
    }
    http_read_trace(call->x, c);
    exchange_set_session(call->x, http_header(c, "X-Session-Id"));
    atomic_fetch_add(&h->requests, 1);
    atomic_fetch_add(&h->exchanges, 1);
    exchange_acquire(call->x);
    h->handlers.request(h->handlers.self, call->x, call->verdict.route);
    /* What was answered at once needs no watching. */
    if (!exchange_answered(call->x) && !sweeper_serving(h->sweep, call->slot, call->x)) {
        exchange_leave(call->x);
    }
    return MHD_YES;
}

static enum MHD_Result http_handle(void *cls, struct MHD_Connection *c, const char *url,
                                   const char *method, const char *version, const char *data,
                                   size_t *bytes, void **con_cls) {
    (void)version;
    http *h = cls;
    if (*con_cls == NULL) {
        return http_begin(h, c, url, method, con_cls);
    }
    http_call *call = *con_cls;
    if (*bytes > 0) {
        return http_collect(h, call, data, bytes);
    }
    if (call->verdict.http_code != 0) {
        return http_send_refusal(call, c);
    }
    if (call->x == NULL && http_dispatch(h, c, call, str_from(method), str_from(url)) == MHD_NO) {
        return MHD_NO;
    }
    switch (exchange_wait(call->x, c)) {
        case EXCHANGE_READY:
            call->close = call->close || atomic_load(&h->leaving);
            return exchange_queue(call->x, c, call->close);
        case EXCHANGE_WAITING:
            return MHD_YES;
        case EXCHANGE_LEFT:
            break;
    }
    return MHD_NO;
}

static void http_completed(void *cls, struct MHD_Connection *c, void **con_cls,
                           enum MHD_RequestTerminationCode toe) {
    http *h = cls;
    http_call *call = *con_cls;
    *con_cls = NULL;
    if (call == NULL) {
        return;
    }
    bool complete = toe == MHD_REQUEST_TERMINATED_COMPLETED_OK;
    if (call->x != NULL) {
        atomic_fetch_sub(&h->exchanges, 1);
        exchange_finish(call->x, complete);
    }
    sweeper_finished(h->sweep, call->slot, complete && !call->close);
    if (toe == MHD_REQUEST_TERMINATED_WITH_ERROR) {
        /* MHD 0.9.75 looks at a connection that its reader ended no more before its timeout, but it
         * looks at what is resumed. */
        MHD_suspend_connection(c);
        sweeper_resume(h->sweep, c);
    }
    strbuf_close(&call->body);
    mem_free(call);
}

static void http_connection(void *cls, struct MHD_Connection *c, void **socket_context,
                            enum MHD_ConnectionNotificationCode code) {
    http *h = cls;
    if (code == MHD_CONNECTION_NOTIFY_STARTED) {
        const union MHD_ConnectionInfo *info =
            MHD_get_connection_info(c, MHD_CONNECTION_INFO_CONNECTION_FD);
        *socket_context = info != NULL ? sweeper_started(h->sweep, info->connect_fd, c) : NULL;
    } else if (*socket_context != NULL) {
        sweeper_closed(h->sweep, *socket_context);
        *socket_context = NULL;
    }
}

PRINTF_LIKE(2, 0)
static void http_mhd_log(void *cls, const char *format, va_list args) {
    (void)cls;
    if (!log_enabled(LOG_DEBUG)) {
        return;
    }
    char text[256];
    vsnprintf(text, sizeof text, format, args);
    text[strcspn(text, "\n")] = 0;
    LOG(DEBUG, "http", "libmicrohttpd", "text=\"%s\"", text);
}

static void http_defaults(http_options *o) {
    o->host = o->host != NULL ? o->host : "127.0.0.1";
    o->connections_max = o->connections_max != 0 ? o->connections_max : 320;
    o->threads = o->threads != 0 ? o->threads : 1;
    o->body_bytes_max = o->body_bytes_max != 0 ? o->body_bytes_max : LIMIT_BODY_BYTES;
    o->head_deadline_us = o->head_deadline_us != 0 ? o->head_deadline_us : 5000000;
    o->idle_deadline_us = o->idle_deadline_us != 0 ? o->idle_deadline_us : 75000000;
    o->body_deadline_us = o->body_deadline_us != 0 ? o->body_deadline_us : 30000000;
    o->stall_deadline_us = o->stall_deadline_us != 0 ? o->stall_deadline_us : 30000000;
    o->heartbeat_us = o->heartbeat_us != 0 ? o->heartbeat_us : 10000000;
    o->heartbeat_bytes = o->heartbeat_bytes != NULL ? o->heartbeat_bytes : ": keep-alive\n\n";
}

static status http_start_daemon(http *h, diag *d) {
    const http_options *o = &h->options;
    /* The sweeper keeps the limit; MHD divides its own among its threads, and must never reach it
     * (it would close a connection without a word). */
    unsigned limit = (o->connections_max + SWEEPER_REFUSED_MAX + 1) * o->threads;
    unsigned timeout_s = (unsigned)((o->stall_deadline_us + 999999) / 1000000);
    struct MHD_OptionItem pool[] = {{MHD_OPTION_THREAD_POOL_SIZE, (intptr_t)o->threads, NULL},
                                    {MHD_OPTION_END, 0, NULL}};
    struct MHD_OptionItem none[] = {{MHD_OPTION_END, 0, NULL}};
    /* A single thread is the sweeper's: a request then wakes nobody on its way in. */
    unsigned threads = o->threads > 1 ? MHD_USE_INTERNAL_POLLING_THREAD : MHD_NO_FLAG;
    h->daemon =
        MHD_start_daemon(threads | MHD_USE_EPOLL | MHD_ALLOW_SUSPEND_RESUME | MHD_USE_ITC |
                             MHD_USE_NO_LISTEN_SOCKET | MHD_USE_ERROR_LOG,
                         0, NULL, NULL, http_handle, h, MHD_OPTION_EXTERNAL_LOGGER, http_mhd_log,
                         NULL, MHD_OPTION_STRICT_FOR_CLIENT, 1, MHD_OPTION_CONNECTION_LIMIT, limit,
                         MHD_OPTION_CONNECTION_MEMORY_LIMIT, (size_t)HTTP_CONNECTION_BYTES,
                         MHD_OPTION_CONNECTION_TIMEOUT, timeout_s, MHD_OPTION_NOTIFY_COMPLETED,
                         http_completed, h, MHD_OPTION_NOTIFY_CONNECTION, http_connection, h,
                         MHD_OPTION_ARRAY, o->threads > 1 ? pool : none, MHD_OPTION_END);
    if (h->daemon == NULL) {
        return status_fail_errno(d, STATUS_IO, "the HTTP server cannot be started");
    }
    return STATUS_OK;
}

static void http_gone(void *self, exchange *x) {
    http *h = self;
    h->handlers.gone(h->handlers.self, x);
}

static void http_resume(void *self, struct MHD_Connection *c) {
    const http *h = self;
    sweeper_resume(h->sweep, c);
}

status http_open(const http_options *options, const http_handlers *handlers, http **out, diag *d) {
    http *h = mem_calloc(1, sizeof *h);
    if (h == NULL) {
        return status_fail(d, STATUS_NOMEM, "no memory for the HTTP server");
    }
    h->options = *options;
    h->handlers = *handlers;
    http_defaults(&h->options);
    h->hooks.self = h;
    h->hooks.gone = http_gone;
    h->hooks.resume = http_resume;
    h->hooks.heartbeat_bytes = h->options.heartbeat_bytes;
    h->hooks.heartbeat_us = h->options.heartbeat_us;
    h->hooks.stall_us = h->options.stall_deadline_us;
    sweeper_options so = {.listen_fd = -1,
                          .later = h->options.shared_port,
                          .connections_max = h->options.connections_max,
                          .per_address_max = h->options.per_address_max,
                          .head_deadline_us = h->options.head_deadline_us,
                          .idle_deadline_us = h->options.idle_deadline_us,
                          .body_deadline_us = h->options.body_deadline_us};
    status code = listener_open(h->options.host, h->options.port, h->options.shared_port,
                                &so.listen_fd, &h->port, d);
    if (code == STATUS_OK) {
        code = sweeper_open(&so, &h->sweep, d);
    }
    if (code == STATUS_OK) {
        code = http_start_daemon(h, d);
    }
    if (code == STATUS_OK) {
        code = sweeper_start(h->sweep, h->daemon, h->options.threads == 1, d);
    }
    if (code != STATUS_OK) {
        http_close(h);
        return code;
    }
    *out = h;
    return STATUS_OK;
}

uint16_t http_port(const http *h) {
    return h->port;
}

void http_count(http *h, http_counts *out) {
    sweeper_counts c;
    sweeper_count(h->sweep, &c);
    *out = (http_counts){.accepted = c.accepted,
                         .refused_full = c.refused_full,
                         .refused_head = c.refused_head,
                         .expired = c.expired,
                         .requests = atomic_load(&h->requests),
                         .gone = atomic_load(&h->hooks.gone_count),
                         .connections = c.connections,
                         .exchanges = atomic_load(&h->exchanges)};
}

status http_accept(http *h, diag *d) {
    return h->options.shared_port ? sweeper_listen(h->sweep, d) : STATUS_OK;
}

status http_leave(http *h, diag *d) {
    atomic_store(&h->leaving, true);
    return sweeper_leave(h->sweep, d);
}

void http_stop_accepting(http *h) {
    atomic_store(&h->leaving, true);
    sweeper_drain(h->sweep);
}

void http_close(http *h) {
    if (h->sweep != NULL) {
        sweeper_stop(h->sweep, HTTP_STOP_WAIT_US);
    }
    if (h->daemon != NULL) {
        MHD_stop_daemon(h->daemon);
    }
    if (h->sweep != NULL) {
        sweeper_close(h->sweep);
    }
    mem_free(h);
}
