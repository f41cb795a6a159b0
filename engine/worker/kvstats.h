/* kvstats.h -- the KV channels' numbers as metrics.
 *
 * Purpose    Series of the transfers, by transport.
 * Ownership  The registry's arena.
 * Threads    The owner thread.
 * Limits     None.
 */
#ifndef ENGINE_WORKER_KVSTATS_H
#define ENGINE_WORKER_KVSTATS_H

#include "engine/base/metrics.h"
#include "engine/core/hello.h"

typedef struct {
    metrics_gauge *links[HELLO_TRANSPORTS];
} kvstats;

void kvstats_open(metrics *m, kvstats *out);

/* Links to other workers that have a KV channel, by what carries it. */
void kvstats_links(const kvstats *s, const uint32_t links[HELLO_TRANSPORTS]);

#endif
