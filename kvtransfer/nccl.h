/* nccl.h -- the NCCL transport: pages from one device to another.
 *
 * Purpose    Moves pages of a (P, D) pair over a communicator of two ranks, from staging of P's to
 *            staging of D's. devpair.h is the rest of what its users need.
 * Ownership  As devpair.h. NCCL never writes a pool: D copies from staging after the receive ended.
 *            Staging stays until its communicator is aborted (ncclhold.h); if that hangs it is
 *            never given back.
 * Threads    As devpair.h.
 * Limits     As devpair.h.
 * Set-up     The unique id travels on the pair's connection, sealed. The communicator is made by
 *            the first kvt_send and proven by a first transfer.
 */
#ifndef KVTRANSFER_NCCL_H
#define KVTRANSFER_NCCL_H

#include "kvtransfer/devpair.h"

enum {
    NCCL_ABORT_US = 5000000, /* after this an abort counts as hung */
    NCCL_CTAS = 2
};

/* NOTFOUND: no NCCL here. UNSUPPORTED: built without it. */
MUST_USE status nccl_open(const kvt_pool *pool, const devpair_options *options, uint64_t generation,
                          bool receiver, kvt **out, diag *d);

/* Communicators whose abort has not returned. `*hung`: one has been at it for NCCL_ABORT_US; its
 * device is lost to this process, which should end. */
unsigned nccl_aborting(bool *hung);

/* Bytes of staging that channels of this process have. */
uint64_t nccl_staged(void);

#endif
