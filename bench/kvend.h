/* kvend.h -- one end of a channel for `weir bench kv`: pools, the transport, whole transfers.
 *
 * Purpose    Opens P's or D's end over two sockets and moves the pages of so many tokens, in groups
 *            as a worker cuts them, waiting as a worker waits (for the channel's descriptor).
 * Ownership  kvend_close gives everything back.
 * Threads    One, and one process an end; `local` has both ends in one.
 * Limits     KVEND_POOL_PAGES pages a pool: longer prompts name them again and again. A transfer
 *            has at most KVT_JOBS_MAX groups.
 */
#ifndef BENCH_KVEND_H
#define BENCH_KVEND_H

#include "kernels/backend.h"
#include "kvtransfer/kvt.h"

enum { KVEND_POOL_PAGES = 256, KVEND_RING_BYTES = 32 << 20 };

typedef enum {
    KVEND_LOCAL,
    KVEND_SHM,
    KVEND_TCP,
    KVEND_IPC,
    KVEND_NCCL,
    KVEND_TRANSPORTS
} kvend_transport;

typedef struct {
    uint32_t layers, kv_heads, head_dim;
    uint64_t group_bytes;
} kvend_shape;

typedef struct {
    kvend_shape shape;
    kvend_transport transport;
    uint64_t unit; /* bytes of a (layer, page) */
    uint8_t *host; /* [layers, KVEND_POOL_PAGES, unit]; NULL: the pool is a device's */
    backend *device;
    backend_kv *kv;
    wire *wire; /* shm */
    kvt *channel;
    kvt *other; /* local: D's end */
    uint32_t sequence;
} kvend;

extern const char *const kvend_names[KVEND_TRANSPORTS + 1];

/* The pools are a device's. */
bool kvend_on_device(kvend_transport t);

/* `data`: the connection, taken over either way; `gpu`: which device (ipc, nccl). */
MUST_USE status kvend_open(kvend *e, kvend_transport t, const kvend_shape *shape, bool receiver,
                           int data, int gpu, diag *d);
/* local: P's end, opened, gets D's pool too. */
MUST_USE status kvend_join(kvend *p, kvend *d, diag *why);
void kvend_close(kvend *e);

/* Groups of a transfer of `tokens` tokens, and its bytes. */
uint32_t kvend_groups(const kvend *e, uint32_t tokens);
uint64_t kvend_bytes(const kvend *e, uint32_t tokens);

/* D allows the whole transfer; P sends it, D waits until all of it has arrived. */
MUST_USE status kvend_post(kvend *e, uint32_t tokens);
MUST_USE status kvend_send(kvend *e, uint32_t tokens);
MUST_USE status kvend_receive(kvend *e, uint32_t tokens);

/* The same pages copied from one place to another by memcpy. */
void kvend_copy(kvend *e, uint32_t tokens, uint8_t *to);
#endif
