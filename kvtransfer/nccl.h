/* nccl.h -- the NCCL transport: pages from one device to another.
 *
 * Purpose    Moves pages of a (P, D) pair over a communicator of two ranks. P packs a group into
 *            device staging and announces it; D judges the announcement, posts its receive into
 *            staging of its own and says ready; only then P posts its send. README.md draws it.
 * Ownership  A side owns its connection, its communicator and its staging. NCCL never writes a
 *            pool: D copies from staging, in kvt_receive, after the receive ended. Staging stays
 *            until its communicator is aborted (ncclhold.h); if that hangs it is never given back.
 * Threads    As kvt.h; all channels of one device from one thread, which NCCL wants.
 * Limits     A group is at most nccl_options.stage_bytes; `window` groups are under way at once.
 * Set-up     As tcp.h: both sides are opened at once and given a connection of their own; the
 *            unique id travels on it, sealed. The communicator is made by the first kvt_send.
 * Waits      Nothing blocks: each call looks how far things are; kvt_event_fd ticks while something
 *            is under way. What is later than its deadline breaks the channel.
 */
#ifndef KVTRANSFER_NCCL_H
#define KVTRANSFER_NCCL_H

#include "engine/base/seal.h"
#include "kvtransfer/kvt.h"

/* Defaults and limits of times. */
enum {
    NCCL_SETUP_US = 15000000,    /* offer to the end of the warm-up transfer */
    NCCL_TRANSFER_US = 10000000, /* announcement to the end of its transfer */
    NCCL_ABORT_US = 5000000,     /* after this an abort counts as hung */
    NCCL_CTAS = 2,
    NCCL_WINDOW = 4,
    NCCL_WINDOW_MAX = 16
};

typedef struct {
    int device;
    int ctas_max;         /* 0: NCCL_CTAS */
    int window;           /* groups under way at once; 0: NCCL_WINDOW */
    uint64_t stage_bytes; /* of the device's memory, for each group under way */
    int64_t setup_us;     /* 0: NCCL_SETUP_US */
    int64_t transfer_us;  /* 0: NCCL_TRANSFER_US */
} nccl_options;

/* NOTFOUND: no NCCL here. UNSUPPORTED: built without it. */
MUST_USE status nccl_open(const kvt_pool *pool, const nccl_options *options, uint64_t generation,
                          bool receiver, kvt **out, diag *d);

/* Gives the side its connected socket, taken over either way. */
MUST_USE status nccl_attach(kvt *k, int fd, const seal_keys *keys, diag *d);

/* What a side has moved since it was opened. Sums of microseconds; the device's own events. */
typedef struct {
    uint64_t groups, bytes, empty; /* empty: junk, or not wanted */
    int64_t setup_us;              /* of the pair, from the offer to the end of its warm-up */
    int64_t copy_us;               /* pages to staging (P), staging to pages (D) */
    int64_t ready_us;              /* P: announced, until D's receive was posted */
    int64_t wire_us;               /* in ncclSend (P), ncclRecv (D) */
} nccl_times;
void nccl_get_times(const kvt *k, nccl_times *out);

/* Why the channel failed, "" before. */
const char *nccl_reason(const kvt *k);

/* Communicators whose abort has not returned. `*hung`: one has been at it for NCCL_ABORT_US; its
 * device is lost to this process, which should end. */
unsigned nccl_aborting(bool *hung);

/* Bytes of staging that channels of this process have. */
uint64_t nccl_staged(void);

#endif
