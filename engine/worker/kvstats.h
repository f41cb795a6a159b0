/* kvstats.h -- the KV channels' numbers as metrics.
 *
 * Purpose    Series of the transfers, by transport, and of the pairs over NCCL.
 * Ownership  The registry's arena.
 * Threads    The owner thread.
 * Limits     None.
 */
#ifndef ENGINE_WORKER_KVSTATS_H
#define ENGINE_WORKER_KVSTATS_H

#include "engine/base/metrics.h"
#include "engine/core/hello.h"
#include "kvtransfer/nccl.h"

typedef struct {
    metrics_gauge *links[HELLO_TRANSPORTS];
    metrics_counter *broken[HELLO_TRANSPORTS];
    metrics_histogram *waited_us[HELLO_TRANSPORTS], *moved_us[HELLO_TRANSPORTS];
    metrics_gauge *pairs, *staging_bytes, *aborts;
    metrics_histogram *handshake_us;
    metrics_counter *ready_us, *pack_us, *unpack_us;
    metrics_counter *wire_us[2], *bytes[2], *groups[2], *empty[2]; /* received, sent */
} kvstats;

void kvstats_open(metrics *m, kvstats *out);

/* Links to other workers that have a KV channel, by what carries it. */
void kvstats_links(const kvstats *s, const uint32_t links[HELLO_TRANSPORTS]);

/* A channel has failed. */
void kvstats_broken(const kvstats *s, hello_transport t);

/* A request was adopted: how long D had no room for it, and how long its pages took. */
void kvstats_adopted(const kvstats *s, hello_transport t, uint32_t waited_us, uint32_t moved_us);

/* One side of a pair over NCCL has come from `then` to `now`. */
void kvstats_moved(const kvstats *s, bool sender, const nccl_times *then, const nccl_times *now);

/* Communicators; device memory of staging; aborts that have not returned. */
void kvstats_pairs(const kvstats *s, uint32_t pairs);
void kvstats_held(const kvstats *s, uint64_t staging_bytes, unsigned aborts);

#endif
