/* shm.h -- the shared-memory transport: a ring the sender writes and the receiver reads.
 *
 * Purpose    Moves pages between processes of one machine through a sealed memfd. The sender owns
 *            the ring and never sees the receiver's pool; the receiver copies out and checks.
 * Ownership  Each side closes its own mapping; the memory goes when both have. Nothing has a name
 *            in a file system, so nothing can be left behind or attached to by a stranger.
 * Threads    As kvt.h.
 * Limits     SHM_RING_BYTES_MAX; the receiver checks the size and the seals before it maps.
 * Set-up     The sender passes three descriptors over the wire that joins the workers (memory,
 *            "data" event, "room" event), each in a frame of its own; the receiver gives every
 *            frame that shm_is_offer recognises to shm_accept until a channel comes out.
 */
#ifndef KVTRANSFER_SHM_H
#define KVTRANSFER_SHM_H

#include "kvtransfer/kvt.h"

enum { SHM_RING_BYTES_MIN = 1 << 16, SHM_RING_BYTES_MAX = 1 << 28 };

/* A sender with a new ring of `ring_bytes` (a power of two), offered over `w`. */
MUST_USE status shm_offer(const kvt_pool *pool, uint64_t ring_bytes, uint64_t generation, wire *w,
                          kvt **out, diag *d);

/* What a receiver has of an offer so far. */
typedef struct {
    int fds[3]; /* memory, data event, room event */
    int count;
} shm_pending;

void shm_pending_clear(shm_pending *p); /* closes what is there; also the first call */

bool shm_is_offer(str message);

/* Takes one frame of an offer with its descriptor. *out is NULL until the last one. */
MUST_USE status shm_accept(shm_pending *p, const kvt_pool *pool, str message, int fd, kvt **out,
                           diag *d);

#endif
