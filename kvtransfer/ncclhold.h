/* ncclhold.h -- what a channel has on its device, and how it is given back.
 *
 * Purpose    A communicator that has failed ends only by an abort, which may take long or for ever,
 *            and until then its operations may write staging. So all of it is let go together: a
 *            helper thread aborts, and only then gives the rest back.
 * Ownership  Staging is kept for the next pair that wants as much, and never freed: cudaFree waits
 *            for the whole device, and so for other pairs' transfers.
 * Threads    ncclhold_let_go and the counts: any. A hold: one thread at a time.
 * Limits     NCCLHOLD_ABORTS aborts at once; NCCLHOLD_STAGES kept stagings (what is more is freed).
 */
#ifndef KVTRANSFER_NCCLHOLD_H
#define KVTRANSFER_NCCLHOLD_H

#ifdef WEIR_HAVE_NCCL
#include <stdbool.h>
#include <stdint.h>

#include "kvtransfer/devpair.h"
#include "kvtransfer/ncclapi.h"

enum { NCCLHOLD_ABORTS = 64, NCCLHOLD_STAGES = 64, NCCLHOLD_EVENTS = 4 * DEVPAIR_WINDOW_MAX };

typedef struct {
    ncclComm_t comm;
    cudaStream_t wire, copy; /* NCCL's operations; copies between pages and staging */
    cudaEvent_t events[NCCLHOLD_EVENTS];
    void *stage;
    uint64_t stage_bytes;
    int device;
    int slot;        /* of the abort */
    int64_t rest_us; /* another process has staging mapped, and may read until then; or 0 */
} ncclhold;

/* Streams, `events` events and staging (0 bytes: none) on the current device, the hold's. */
cudaError_t ncclhold_take(ncclhold *h, unsigned events, uint64_t stage_bytes);

/* Lets go of everything in `h`, which is empty afterwards. Returns at once. Copies have ended. */
void ncclhold_let_go(ncclhold *h);

/* The device does not end what it was asked for: counts as an abort that hangs. */
void ncclhold_lost(void);

/* Aborts that have not returned. `*hung`: one has been at it for NCCL_ABORT_US. */
unsigned ncclhold_aborting(bool *hung);

/* Bytes of staging that pairs have now. */
uint64_t ncclhold_staged(void);
#endif
#endif
