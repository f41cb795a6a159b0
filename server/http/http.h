/* http.h -- the HTTP server: listening socket, connections, requests in, answers out.
 *
 * Purpose    Takes connections, lets no request through whose head is not beyond doubt (guard.h),
 *            collects bodies within limits and deadlines, and hands each whole request over as an
 *            exchange. Notices within a moment when a client leaves. libmicrohttpd does the reading
 *            and writing; the sweeper (sweeper.h) does what it does not: heads, deadlines, refusals
 *            over the limit, clients that leave while suspended, heartbeats.
 * Ownership  http_open holds sockets, threads and memory; http_close gives them back.
 * Threads    http_open, http_stop_accepting, http_close: one thread. The handlers are called from
 *            the server's threads, several at once when threads > 1, and must not block.
 * Limits     http_options; LIMIT_HEADERS, LIMIT_HEADER_BYTES.
 */
#ifndef SERVER_HTTP_HTTP_H
#define SERVER_HTTP_HTTP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/base/status.h"
#include "engine/base/str.h"
#include "server/http/exchange.h"

typedef struct http http;

/* Zero means the default in parentheses. */
typedef struct {
    const char *host;            /* ("127.0.0.1") name or address to listen on */
    uint16_t port;               /* 0: any free port; http_port tells which */
    bool shared_port;            /* other processes may have it too; http_accept begins */
    uint32_t connections_max;    /* (320) open connections; more are answered 503 at once */
    uint32_t per_address_max;    /* (no limit) open connections of one client address */
    uint32_t threads;            /* (1) threads that read and write */
    size_t body_bytes_max;       /* (LIMIT_BODY_BYTES) */
    int64_t head_deadline_us;    /* (5 s) from accept, or from a later head's first byte */
    int64_t idle_deadline_us;    /* (75 s) between two requests of a connection */
    int64_t body_deadline_us;    /* (30 s) from the end of the head */
    int64_t stall_deadline_us;   /* (30 s) without the client taking a byte that waits */
    int64_t heartbeat_us;        /* (10 s) silence on an event stream until a comment is sent */
    const char *heartbeat_bytes; /* (": keep-alive\n\n") sent only on text/event-stream */
} http_options;

/* A head that passed the guard, before its body is read. */
typedef struct {
    str method;
    str path;           /* no query; starts with '/' */
    str query;          /* after '?', may be empty */
    str authorization;  /* value of the header, empty when there is none */
    str content_type;   /* value of the header, empty when there is none */
    int64_t body_bytes; /* Content-Length; 0 without a body; -1 when chunked */
} http_head;

/* What to do with a head. http_code 0: read the body, then call `request`. Otherwise the answer,
 * which is sent without reading the body. */
typedef struct {
    int http_code;
    int32_t key;    /* becomes exchange_key */
    int32_t route;  /* becomes the `route` of `request` */
    char allow[48]; /* value of an Allow header, "" for none */
    bool challenge; /* send WWW-Authenticate: Bearer */
    diag error;     /* text of the error object */
} http_verdict;

typedef struct {
    void *self;
    void (*admit)(void *self, const http_head *head, http_verdict *verdict);
    /* A whole request. The exchange reference is the callee's to release. */
    void (*request)(void *self, exchange *x, int32_t route);
    /* The client of a handed-over exchange has left before its answer was out. At most once an
     * exchange, from a server thread; the exchange is alive during the call. */
    void (*gone)(void *self, exchange *x);
} http_handlers;

/* Counted since http_open. */
typedef struct {
    uint64_t accepted;     /* connections */
    uint64_t refused_full; /* answered 503: too many connections */
    uint64_t refused_head; /* refused by the guard */
    uint64_t expired;      /* closed at a deadline */
    uint64_t requests;     /* handed over */
    uint64_t gone;         /* clients that left before their answer was out */
    uint32_t connections;  /* now */
    uint32_t exchanges;    /* handed over and not yet answered in full, now */
} http_counts;

MUST_USE status http_open(const http_options *options, const http_handlers *handlers, http **out,
                          diag *d);

/* The port it listens on. */
uint16_t http_port(const http *h);

void http_count(http *h, http_counts *out);

/* With a shared port, takes connections from now on; else it did from http_open on. */
MUST_USE status http_accept(http *h, diag *d);

/* With a shared port, before http_stop_accepting: connections that begin from now on are for the
 * others; those that have begun, and requests on those there are, are served as ever, and each
 * answer is its connection's last. */
MUST_USE status http_leave(http *h, diag *d);

/* Drain: no new connections; idle ones close; requests under way go on. */
void http_stop_accepting(http *h);

/* Closes everything. The gateway should have answered or released all exchanges before; clients of
 * those that are left are cut off, and exchanges that the gateway still holds stay valid (and
 * gone) until released. */
void http_close(http *h);

#endif
