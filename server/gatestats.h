/* gatestats.h -- the gateway's own series for /metrics.
 *
 * Purpose    What users of the API see: requests by how they ended, tokens, time to first token,
 *            time per output token, end to end; and what the gate did about failures.
 * Ownership  The arena's.
 * Threads    The gateway's thread.
 * Limits     A fixed set of series.
 */
#ifndef SERVER_GATESTATS_H
#define SERVER_GATESTATS_H

#include "engine/base/metrics.h"
#include "engine/core/gate.h"
#include "server/http.h"
#include "server/session.h"

typedef struct gatestats gatestats;

typedef enum { GATESTATS_OK, GATESTATS_CANCELLED, GATESTATS_FAILED, GATESTATS_ENDS } gatestats_end;

MUST_USE status gatestats_open(arena *a, gatestats **out);

/* A session has ended. */
void gatestats_session(gatestats *g, gatestats_end end, const session_times *t);

/* The page: own series and those of the workers. */
void gatestats_render(gatestats *g, const gate *core, const http_counts *connections,
                      uint64_t restarts, const metrics_remote *remotes, size_t remotes_count,
                      strbuf *out);

#endif
