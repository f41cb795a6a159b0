/* exchange.h -- one HTTP request and its answer, shared by two threads.
 *
 * Purpose    The HTTP side makes an exchange when a whole request has arrived; the gateway answers
 *            it from its own thread: at once (exchange_respond), or as a stream (exchange_begin,
 *            exchange_write ..., exchange_end). Bytes wait in a bounded buffer until the client
 *            takes them.
 * Ownership  Counted: the HTTP side holds one reference, the gateway one, which it gives back with
 *            exchange_release when it is done. Released without an answer, the client gets a 500.
 *            Strs and pointers that an exchange gives out live as long as the caller's reference.
 * Threads    Any. The answering calls belong to one thread at a time (the gateway's).
 * Limits     EXCHANGE_BUFFER_BYTES may wait for a slow client; a client that takes nothing for the
 *            stall limit (http_options) has left, as far as anyone is concerned.
 */
#ifndef SERVER_HTTP_EXCHANGE_H
#define SERVER_HTTP_EXCHANGE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/base/status.h"
#include "engine/base/str.h"

enum { EXCHANGE_BUFFER_BYTES = 1 << 20, EXCHANGE_RESPONSE_BYTES = 64 << 20, EXCHANGE_LEFT_MAX = 2 };

typedef struct exchange exchange;

/* One more response header. */
typedef struct {
    const char *name;
    const char *value;
} exchange_header;

/* The request. `path` has no query. The body is complete. */
str exchange_method(const exchange *x);
str exchange_path(const exchange *x);
str exchange_body(const exchange *x);

/* Which API key the client showed: its number from 0, or -1 when the server has no keys. */
int32_t exchange_key(const exchange *x);

/* When the last byte of the request had arrived: clock_now_us. */
int64_t exchange_received_us(const exchange *x);

/* Which trace the client says it belongs to: the values of `traceparent` and `tracestate`, as they
 * came; empty without. */
str exchange_traceparent(const exchange *x);
str exchange_tracestate(const exchange *x);

/* The value of X-Session-Id; empty without. */
str exchange_session(const exchange *x);

/* How it went. */
typedef struct {
    int http_code; /* 0: no answer was begun */
    bool complete; /* it was sent in full */
    int64_t received_us;
    int64_t ended_us; /* the last byte was out, or the client was known to have left */
} exchange_ending;

/* Lets something go along with the exchange, and a header with its answer. Before anybody else has
 * the exchange; once. `ended` is called when nobody has it any more, from the thread that was the
 * last to give it back. */
void exchange_attach(exchange *x, void *attached,
                     void (*ended)(void *attached, const exchange_ending *how),
                     const exchange_header *header);
void *exchange_attached(const exchange *x); /* NULL: nothing */

/* Leaves `thing` with the exchange, to be given to `close` when nobody has that any more: what an
 * HTTP thread allocated for a request is so mostly freed by one, not by the gateway's, which would
 * have to wait for that thread's part of the heap. By the gateway, EXCHANGE_LEFT_MAX times. */
void exchange_leave_with(exchange *x, void *thing, void (*close)(void *thing));

/* The whole answer. The body is copied. False when the client has left (or an answer was already
 * given, which is a bug of the caller's, counted and otherwise ignored). */
bool exchange_respond(exchange *x, int http_code, const char *content_type, str body,
                      const exchange_header *headers, size_t headers_count);

/* Starts a streamed answer. False when the client has left. */
bool exchange_begin(exchange *x, int http_code, const char *content_type,
                    const exchange_header *headers, size_t headers_count);

/* Adds whole events to the stream (heartbeat comments may go between two calls, never inside one).
 * False when the client has left or its buffer is full; the caller then cancels the work: nothing
 * more will be sent. */
bool exchange_write(exchange *x, str bytes);

/* Ends the stream as it should end. */
void exchange_end(exchange *x);

/* Ends the stream so that the client can tell that it is cut short: what was written is sent, then
 * the connection closes without the end of the chunked encoding. */
void exchange_cut(exchange *x);

/* True once the client has left; the `gone` callback was or is being called. */
bool exchange_gone(const exchange *x);

void exchange_acquire(exchange *x);
void exchange_release(exchange *x);

#endif
