/* trace.h -- where the time of each request went.
 *
 * Purpose    Spans (request, name, from, to, lane) kept in a ring; the newest are dumped as Chrome
 *            trace JSON (chrome://tracing, Perfetto). Off unless opened: a NULL trace takes spans
 *            and forgets them.
 * Ownership  The ring is the arena's. Span names are static strings.
 * Threads    trace_span: any threads. trace_dump: any thread, during recording too; spans being
 *            overwritten at that moment are left out.
 * Limits     The newest `spans_max` spans (rounded up to a power of two).
 * Source     "Trace Event Format", Google: complete events ("ph":"X").
 */
#ifndef ENGINE_BASE_TRACE_H
#define ENGINE_BASE_TRACE_H

#include <stddef.h>
#include <stdint.h>

#include "engine/base/arena.h"
#include "engine/base/status.h"
#include "engine/base/str.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct trace trace;

/* `spans_max` from 1 to 2^24; 40 bytes each. */
MUST_USE status trace_open(trace **out, arena *a, uint32_t spans_max);

/* One span. Times are clock_now_us. `lane` is the row it is drawn in (a slot, a thread). */
void trace_span(trace *t, uint64_t request_id, const char *name, int64_t start_us, int64_t end_us,
                uint32_t lane);

/* Spans ever recorded, those overwritten since included. */
uint64_t trace_recorded(const trace *t);

/* A JSON object with "traceEvents"; `process` names the process in it, `pid` tells processes
 * apart when several dumps are merged. */
void trace_dump(const trace *t, const char *process, int pid, strbuf *out);

#ifdef __cplusplus
}
#endif
#endif
