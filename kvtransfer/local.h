/* local.h -- the transport inside one process: the receiver copies from the sender's pages.
 *
 * Purpose    Joins a prefill and a decode engine that share an address space: no staging, one copy,
 *            the same verbs and checks. Also what tests run the protocol over.
 * Ownership  Both sides hold the channel; it goes when both are closed.
 * Threads    Both sides on one thread.
 * Limits     KVT_JOBS_MAX sends on their way.
 */
#ifndef KVTRANSFER_LOCAL_H
#define KVTRANSFER_LOCAL_H

#include "kvtransfer/kvt.h"

MUST_USE status local_pair(const kvt_pool *from, const kvt_pool *to, uint64_t generation,
                           kvt **sender, kvt **receiver, diag *d);

#endif
