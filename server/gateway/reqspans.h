/* reqspans.h -- the spans of a request, from what was noted of it.
 *
 * Purpose    One span for the request, and below it: tokenize, queue, and for each attempt
 *            "prefill queue", prefill, "kv transfer", decode.
 * Ownership  Borrows the note.
 * Threads    Pure.
 * Limits     2 + REQTRACE_ATTEMPTS * 4 + 1 spans.
 * Invariant  A span lies within its parent; the workers' durations are laid out backwards from the
 *            moment their message came, so no clocks are compared.
 */
#ifndef SERVER_GATEWAY_REQSPANS_H
#define SERVER_GATEWAY_REQSPANS_H

#include "server/gateway/reqtrace.h"

/* Adds the spans; returns how many. */
uint32_t reqspans_write(const reqtrace_note *n, strbuf *out);

#endif
