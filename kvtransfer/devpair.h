/* devpair.h -- channels between two devices, whatever carries the bytes.
 *
 * Purpose    What NCCL (nccl.h) and IPC (ipc.h) channels have in common for their users. P packs a
 *            group into staging on its device and announces it; D judges the announcement against
 *            its post and gets the bytes as the transport does that. README.md draws both.
 * Ownership  A side owns its connection and what it has on its device. Nobody writes a peer's pool:
 *            D copies to its pages itself. What a failed pair may still touch is given back only
 *            when it no longer can (ncclhold.h).
 * Threads    As kvt.h; all channels of one device from one thread, which NCCL wants.
 * Limits     A group is at most devpair_options.stage_bytes; `window` groups are under way at once.
 * Set-up     As tcp.h: both sides are opened at once and given a connection of their own, on which
 *            an offer travels, sealed. Nothing is set up before the first kvt_send.
 * Waits      Nothing blocks: each call looks how far things are; kvt_event_fd ticks while something
 *            is under way. What is later than its deadline breaks the channel.
 */
#ifndef KVTRANSFER_DEVPAIR_H
#define KVTRANSFER_DEVPAIR_H

#include "engine/base/seal.h"
#include "kvtransfer/kvt.h"

/* Defaults and limits. */
enum {
    DEVPAIR_SETUP_US = 15000000,    /* offer to the end of the warm-up transfer */
    DEVPAIR_TRANSFER_US = 10000000, /* announcement to the end of its transfer */
    DEVPAIR_WINDOW = 4,
    DEVPAIR_WINDOW_MAX = 16
};

typedef struct {
    int device;
    int ctas_max;         /* nccl; 0: NCCL_CTAS */
    int window;           /* groups under way at once; 0: DEVPAIR_WINDOW */
    uint64_t stage_bytes; /* of the device's memory, for each group under way */
    int64_t setup_us;     /* nccl; 0: DEVPAIR_SETUP_US */
    int64_t transfer_us;  /* 0: DEVPAIR_TRANSFER_US */
} devpair_options;

/* Gives the side its connected socket, taken over either way. UNSUPPORTED: built without NCCL. */
MUST_USE status devpair_attach(kvt *k, int fd, const seal_keys *keys, diag *d);

/* What a side has moved since it was opened. Sums of microseconds; the device's own events. */
typedef struct {
    uint64_t groups, bytes, empty; /* empty: junk, or not wanted */
    int64_t setup_us;              /* of the pair, from the offer on; nccl: with its warm-up */
    int64_t copy_us;               /* pages to staging (P), staging to pages (D) */
    int64_t ready_us;              /* nccl, P: announced, until D's receive was posted */
    int64_t wire_us;               /* nccl: in ncclSend (P), ncclRecv (D); ipc, P: announced, until
                                    * D had it */
} devpair_times;
void devpair_get_times(const kvt *k, devpair_times *out);

/* Why the channel failed, "" before. */
const char *devpair_reason(const kvt *k);

#endif
