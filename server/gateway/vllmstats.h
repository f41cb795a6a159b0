/* vllmstats.h -- the series that vLLM's users and routers read, under vLLM's names.
 *
 * Purpose    Endpoint pickers (llm-d's, the Gateway API's), production-stack's router, KEDA
 *            examples and dashboards ask an endpoint for `vllm:` series. A gateway is the endpoint
 *            here: the values are those of all its workers together.
 * Ownership  The arena's.
 * Threads    The gateway's thread.
 * Limits     One model name, one engine.
 */
#ifndef SERVER_GATEWAY_VLLMSTATS_H
#define SERVER_GATEWAY_VLLMSTATS_H

#include "engine/base/metrics.h"
#include "server/api/session.h"

typedef struct vllmstats vllmstats;

MUST_USE status vllmstats_open(arena *a, metrics *m, const char *model_name, vllmstats **out);

/* A session has ended; `whole`: as its client wanted. */
void vllmstats_session(vllmstats *v, const session_times *t, bool whole);

/* As of now: requests at workers and in the line, pages of all workers' pools, preemptions. */
typedef struct {
    uint64_t running, waiting;
    uint64_t pages_total, pages_free;
} vllmstats_now;

void vllmstats_set(vllmstats *v, const vllmstats_now *now);

#endif
