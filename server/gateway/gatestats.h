/* gatestats.h -- the gateway's own series for /metrics.
 *
 * Purpose    What users of the API see: requests by how they ended, tokens, time to first token,
 *            time per output token, end to end; and what the gate did about failures.
 * Ownership  The arena's.
 * Threads    The gateway's thread.
 * Limits     A fixed set of series.
 */
#ifndef SERVER_GATEWAY_GATESTATS_H
#define SERVER_GATEWAY_GATESTATS_H

#include "engine/base/metrics.h"
#include "engine/core/gate.h"
#include "server/api/session.h"
#include "server/gateway/router.h"
#include "server/http/http.h"
#include "server/http/otlp.h"

typedef struct gatestats gatestats;

typedef enum { GATESTATS_OK, GATESTATS_CANCELLED, GATESTATS_FAILED, GATESTATS_ENDS } gatestats_end;

typedef enum {
    GATESTATS_REFUSED_KEY,    /* 429 */
    GATESTATS_REFUSED_SYSTEM, /* 503: no place */
    GATESTATS_REFUSED_LATE,   /* 503: it would begin after the objective */
    GATESTATS_REFUSALS
} gatestats_refusal;

/* `model_name`: what the `vllm:` series call it. */
MUST_USE status gatestats_open(arena *a, const char *model_name, gatestats **out);

/* A session has ended. */
void gatestats_session(gatestats *g, gatestats_end end, const session_times *t);

/* A request was turned away when it came. */
void gatestats_refused(gatestats *g, gatestats_refusal why);

/* A request was sent to workers. */
void gatestats_routed(gatestats *g, router_path path, router_reason reason);

/* What became of traces. */
void gatestats_traces(gatestats *g, const otlp_counts *c);

/* What the router knows of caches. */
void gatestats_index(gatestats *g, pageindex_counts c);

/* What requests and all workers' KV pools hold, for the `vllm:` series. */
void gatestats_pages(gatestats *g, const gate *protocol, uint32_t waiting, uint64_t pages_total,
                     uint64_t pages_free);

/* The page: own series and those of the workers. `waiting`: requests in the gateway's line. */
void gatestats_render(gatestats *g, const gate *protocol, uint32_t waiting,
                      const http_counts *connections, uint64_t restarts,
                      const metrics_remote *remotes, size_t remotes_count, strbuf *out);

#endif
