/* routesim.h -- a fleet under a load of prompts that share beginnings, simulated, for one policy.
 *
 * Purpose    The production router (server/gateway/router), told by heartbeats, and the production
 *            prefix cache (engine/core/prefix) in each worker; workers compute one prompt at a
 *            time, as long as a step model says. What comes out is the time to the first token.
 * Ownership  None.
 * Threads    One; virtual time.
 * Limits     ROUTESIM_WORKERS_MAX workers of each role.
 */
#ifndef BENCH_ROUTESIM_H
#define BENCH_ROUTESIM_H

#include "server/gateway/router.h"

enum { ROUTESIM_WORKERS_MAX = 64 };

typedef struct {
    uint32_t prefill, decode; /* workers */
    uint32_t prefixes;        /* different beginnings, the k-th as often as 1 / k */
    int32_t prefix_tokens;
    uint32_t worker_pages;
    double load; /* offered prompt work over what the workers do without a cache */
    double seconds;
    uint64_t seed;
    router_policy policy;
} routesim_options;

typedef struct {
    int64_t requests;
    double ttft_mean_us, ttft_p50_us, ttft_p99_us;
    double cached_share; /* of all prompt tokens */
    double least_share;  /* requests of the prefill worker with fewest, over the mean */
} routesim_result;

MUST_USE status routesim_run(const routesim_options *o, routesim_result *out);

#endif
