/* kvstats.h -- the KV channels' numbers as metrics.
 *
 * Purpose    Series of the transfers, by transport, and of the pairs: all together, and by peer.
 * Ownership  The registry's arena.
 * Threads    The owner thread.
 * Limits     KVSTATS_PEERS_MAX peers have series of their own, the first that move something; those
 *            that come later share peer="other". A worker keeps its series when it comes back.
 */
#ifndef ENGINE_WORKER_KVSTATS_H
#define ENGINE_WORKER_KVSTATS_H

#include "engine/base/metrics.h"
#include "engine/core/hello.h"
#include "kvtransfer/devpair.h"

enum { KVSTATS_PEERS_MAX = 16 };

/* What went to and came from one peer. */
typedef struct {
    uint32_t worker;
    metrics_counter *bytes[2], *groups[2], *copy_us[2], *wire_us[2]; /* received, sent */
    metrics_gauge *rate[2];
    metrics_counter *handshake_us, *ready_us;
    metrics_counter *waited_us, *exposed_us, *transfers, *broken;
} kvstats_peer;

typedef struct {
    metrics *registry;
    kvstats_peer peers[KVSTATS_PEERS_MAX + 1]; /* [peers_count], the last one is all others */
    uint32_t peers_count, peers_max;
    metrics_gauge *links[HELLO_TRANSPORTS];
    metrics_gauge *chosen[HELLO_TRANSPORTS][HELLO_REASONS]; /* NULL: never yet */
    metrics_counter *broken[HELLO_TRANSPORTS];
    metrics_histogram *waited_us[HELLO_TRANSPORTS], *moved_us[HELLO_TRANSPORTS];
    metrics_gauge *pairs, *staging_bytes, *aborts, *group_layers;
    metrics_histogram *handshake_us;
    metrics_counter *ready_us, *pack_us, *unpack_us;
    metrics_counter *wire_us[2], *bytes[2], *groups[2], *empty[2]; /* received, sent */
} kvstats;

/* At most `peers_max` peers (0, or more than there may be: KVSTATS_PEERS_MAX) have their own. */
void kvstats_open(metrics *m, uint32_t peers_max, kvstats *out);

/* The series of that worker, made when they are first asked for. */
const kvstats_peer *kvstats_of(kvstats *s, uint32_t worker);

typedef uint32_t kvstats_chosen[HELLO_TRANSPORTS][HELLO_REASONS];

/* Links to other workers that have a KV channel, by what carries it and why. */
void kvstats_links(kvstats *s, const kvstats_chosen links);

/* A channel to that worker has failed. */
void kvstats_broken(kvstats *s, hello_transport t, uint32_t worker);

/* P: that worker adopted a request, `exposed_us` after its last group had left; as it says, it had
 * no room for `waited_us`, and the pages took `moved_us`. */
void kvstats_adopted(kvstats *s, hello_transport t, uint32_t worker, uint32_t waited_us,
                     uint32_t moved_us, int64_t exposed_us);

/* One side of the pair with that worker over NCCL has come from `then` to `now`. */
void kvstats_moved(kvstats *s, uint32_t worker, bool sender, const devpair_times *then,
                   const devpair_times *now);

/* Layers of a group. */
void kvstats_paced(const kvstats *s, uint32_t group_layers);

/* Communicators; device memory of staging; aborts that have not returned. */
void kvstats_pairs(const kvstats *s, uint32_t pairs);
void kvstats_held(const kvstats *s, uint64_t staging_bytes, unsigned aborts);

#endif
