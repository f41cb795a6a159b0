/* exchange_inner.h -- the HTTP side of an exchange.
 *
 * Purpose    What http.c and sweeper.c do with an exchange and the gateway does not.
 * Ownership  As exchange.h: these work on the HTTP side's reference.
 * Threads    exchange_wait, exchange_queue, exchange_finish: the connection's MHD thread.
 *            exchange_leave, exchange_tick: any.
 * Limits     As exchange.h.
 */
#ifndef SERVER_HTTP_EXCHANGE_INNER_H
#define SERVER_HTTP_EXCHANGE_INNER_H

#include <microhttpd.h>
#include <stdatomic.h>

#include "server/http/exchange.h"

/* What all exchanges of one server share. */
typedef struct {
    void *self;
    void (*gone)(void *self, exchange *x);
    void (*resume)(void *self, struct MHD_Connection *connection);
    const char *heartbeat_bytes;
    int64_t heartbeat_us;
    int64_t stall_us;
    _Atomic uint64_t gone_count;
} exchange_hooks;

/* Takes over `body`'s memory. One reference, the HTTP side's. */
MUST_USE exchange *exchange_open(exchange_hooks *hooks, str method, str path, strbuf *body,
                                 int32_t key, int64_t received_us);

/* The trace headers, copied. Before anybody else has the exchange. */
void exchange_set_trace(exchange *x, str traceparent, str tracestate);

/* X-Session-Id, copied. Before anybody else has the exchange. */
void exchange_set_session(exchange *x, str name);

/* References of the HTTP side: they do not oblige anybody to answer. */
void exchange_hold(exchange *x);
void exchange_drop(exchange *x);

/* True once there is an answer or the start of one. */
bool exchange_answered(const exchange *x);

/* What the connection does next. */
typedef enum {
    EXCHANGE_READY,   /* an answer is there: exchange_queue */
    EXCHANGE_WAITING, /* the connection is suspended until there is one */
    EXCHANGE_LEFT     /* close the connection */
} exchange_next;

exchange_next exchange_wait(exchange *x, struct MHD_Connection *connection);

/* Queues the answer on the connection. `close` ends the connection after it. */
enum MHD_Result exchange_queue(exchange *x, struct MHD_Connection *connection, bool close);

/* The connection will not touch the exchange again; `complete`: its answer was sent in full. Gives
 * back the HTTP side's reference. */
void exchange_finish(exchange *x, bool complete);

/* The client has left: wakes the connection, tells the gateway once. */
void exchange_leave(exchange *x);

/* Now and then: sends a heartbeat when due. True when the client has left or stalled: the
 * connection is to be closed (the gateway has been told). */
bool exchange_tick(exchange *x, int64_t now_us);

#endif
