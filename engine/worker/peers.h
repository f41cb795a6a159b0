/* peers.h -- a worker's links: wires to gateways and workers, and the KV channels beside them.
 *
 * Purpose    Slots that the core knows by number. Each has a wire; a worker peer has a KV channel
 *            too, of which this side is the sender, the receiver, or (between two workers with both
 *            roles) one of each. Sends that find no room wait here, in order.
 * Ownership  A slot owns its wire and channels until peers_drop.
 * Threads    The owner thread.
 * Limits     PEERS_MAX slots.
 */
#ifndef ENGINE_WORKER_PEERS_H
#define ENGINE_WORKER_PEERS_H

#include "engine/base/wire.h"
#include "engine/core/core.h"
#include "kvtransfer/kvt.h"
#include "kvtransfer/shm.h"

enum { PEERS_MAX = LIMIT_WORKERS + 1, PEERS_OUT_BYTES_MAX = 64 << 20 };

typedef struct {
    bool used;
    bool doomed;  /* broken: to be dropped when no core action is under way */
    bool greeted; /* its HELLO has come and fits */
    core_peer_kind kind;
    uint32_t worker; /* MESSAGE_NO_WORKER for a gateway */
    uint64_t epoch;
    uint32_t roles;
    wire *wire;
    kvt *sender, *receiver; /* NULL until set up */
    shm_pending offer;
    kvt_job *waiting; /* [waiting_count] sends that found no room, a ring of KVT_JOBS_MAX */
    uint32_t waiting_first, waiting_count;
    bool writing; /* polled for POLLOUT */
} peer;

typedef struct {
    peer slots[PEERS_MAX];
    int epoll_fd;
} peers;

/* What woke the owner: packed into epoll's data. */
typedef enum { PEERS_WIRE, PEERS_SENDER, PEERS_RECEIVER, PEERS_OTHER } peers_event;

static inline uint64_t peers_tag(uint32_t slot, peers_event event) {
    return (uint64_t)event << 32 | slot;
}

MUST_USE status peers_open(peers *p, diag *d);
void peers_close(peers *p);

/* Adds a connected socket as a peer in a free slot; the descriptor is taken over either way. */
MUST_USE status peers_add(peers *p, int fd, core_peer_kind kind, const message_peer *who,
                          uint32_t *slot, diag *d);

/* Closes everything the slot has; it may be used again. */
void peers_drop(peers *p, uint32_t slot);

/* The slot of a worker, or PEERS_MAX. */
uint32_t peers_find(const peers *p, uint32_t worker);

/* Polls the descriptor of a channel that was just set up. */
MUST_USE status peers_watch(peers *p, uint32_t slot, peers_event event, int fd);

/* Sends a message; a failure dooms the peer. */
void peers_send(peers *p, uint32_t slot, str bytes);

/* Writes what waits on all wires and polls for the rest. */
void peers_flush(peers *p);

/* Queues or sends a job on the slot's sender; a failure dooms the peer. */
void peers_push(peers *p, uint32_t slot, const kvt_job *job);

/* Tries again what waits for room. */
void peers_retry(peers *p, uint32_t slot);

#endif
