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

#include "engine/base/hostport.h"
#include "engine/base/wire.h"
#include "engine/core/core.h"
#include "engine/core/hello.h"
#include "engine/net/handshake.h"
#include "kernels/backend.h"
#include "kvtransfer/kvt.h"
#include "kvtransfer/shm.h"

enum { PEERS_MAX = LIMIT_WORKERS + LIMIT_GATEWAYS + 1, PEERS_OUT_BYTES_MAX = 64 << 20 };

/* A channel's connection that came before the HELLO. */
typedef struct {
    bool there;
    int fd;
    seal_keys keys;
} peers_early;

typedef struct {
    bool used;
    bool doomed;  /* broken: to be dropped when no core action is under way */
    bool greeted; /* its HELLO has come and fits */
    bool parent;  /* the gateway that started this process: it ends with it */
    bool remote;  /* on another host, or as if: reached over TCP */
    bool dials;   /* remote: this side dialled, or is to */
    core_peer_kind kind;
    uint32_t worker; /* MESSAGE_NO_WORKER for a gateway */
    uint64_t epoch;
    uint32_t roles;
    wire *wire;
    uint32_t transports;       /* what it was told may carry KV: HELLO_BITs */
    hello_transport transport; /* what does, once greeted */
    hello_reason reason;       /* ... and why that */
    bool converts;             /* its KV is of another type than here */
    uint64_t kv_page_bytes;    /* of its (layer, page) */
    backend_kv_type kv_type;
    kvt *sender, *receiver; /* NULL until set up */
    shm_pending offer;
    kvt_job *waiting; /* [waiting_count] sends that found no room, a ring of KVT_JOBS_MAX */
    uint32_t waiting_first, waiting_count;
    bool writing; /* polled for POLLOUT */
    /* remote */
    uint32_t serial;                     /* tells this use of the slot from the next */
    int64_t since_us;                    /* when the link was asked for, then when it stood */
    hostport address;                    /* of one that this side dials */
    uint8_t secret[HANDSHAKE_KEY_BYTES]; /* of the connection, once it stands */
    peers_early early[2];                /* PUSH, PULL */
} peer;

typedef struct {
    peer slots[PEERS_MAX];
    uint32_t count; /* slots ever used */
    uint32_t serial;
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

/* Adds a peer whose connection is still to come. */
MUST_USE status peers_add_waiting(peers *p, core_peer_kind kind, const message_peer *who,
                                  uint32_t *slot, diag *d);

/* Gives it the connection, taken over either way. */
MUST_USE status peers_attach(peers *p, uint32_t slot, int fd, const seal_keys *keys,
                             const uint8_t secret[HANDSHAKE_KEY_BYTES]);

/* The connection stands. */
bool peers_attached(const peers *p, uint32_t slot);

/* Closes everything the slot has; it may be used again. */
void peers_drop(peers *p, uint32_t slot);

/* The slot of a worker, or PEERS_MAX. */
uint32_t peers_find(const peers *p, uint32_t worker);

/* The slot of that life of a gateway on another host, or PEERS_MAX. */
uint32_t peers_find_gateway(const peers *p, uint64_t epoch);

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
