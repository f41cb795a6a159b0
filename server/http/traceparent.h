/* traceparent.h -- which trace a request belongs to, as HTTP headers say it.
 *
 * Purpose    Reads and writes the `traceparent` header, and says whether a `tracestate` may be
 *            passed on.
 * Ownership  Plain values; strs borrow.
 * Threads    Pure functions.
 * Limits     A tracestate of at most TRACEPARENT_STATE_BYTES, with TRACEPARENT_STATE_MEMBERS
 *            members.
 * Source     W3C Trace Context (version 00), https://www.w3.org/TR/trace-context/
 */
#ifndef SERVER_HTTP_TRACEPARENT_H
#define SERVER_HTTP_TRACEPARENT_H

#include <stdbool.h>
#include <stdint.h>

#include "engine/base/str.h"

enum {
    TRACEPARENT_BYTES = 55, /* of version 00 */
    TRACEPARENT_TEXT_BYTES = TRACEPARENT_BYTES + 1,
    TRACEPARENT_STATE_BYTES = 512,
    TRACEPARENT_STATE_MEMBERS = 32,
    TRACEPARENT_SAMPLED = 1, /* the caller may have recorded its part */
    TRACEPARENT_RANDOM = 2   /* the trace id is random: its low 7 bytes are good for sampling */
};

/* Ids as numbers: 0 in all of one is no id. */
typedef struct {
    uint64_t trace_high, trace_low;
    uint64_t span;
    uint8_t flags; /* TRACEPARENT_SAMPLED, TRACEPARENT_RANDOM */
} traceparent;

/* False when the header is not what the specification allows: the request then has no parent. A
 * version above 00 is read as far as 00 knows it. */
MUST_USE bool traceparent_read(str header, traceparent *out);

/* Version 00, zero-terminated. */
void traceparent_write(const traceparent *t, char out[TRACEPARENT_TEXT_BYTES]);

/* The value may be passed on as it is. An empty one may not: there is nothing to pass on. */
MUST_USE bool traceparent_state_fits(str header);

#endif
