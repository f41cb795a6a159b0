/* ipc.h -- the IPC transport: pages between devices of one host, read from the peer's memory.
 *
 * Purpose    P packs a group into staging on its device and announces it; D, another process of
 *            the same host, has that staging mapped (cudaIpcOpenMemHandle) and copies from it
 *            straight into the pages of its post. The two devices may be one. devpair.h is the
 *            rest of what its users need.
 * Ownership  As devpair.h. Nobody writes a peer's memory: D reads P's staging. Staging that was
 *            mapped is kept for the next pair and never freed; what D may still be reading rests
 *            for `transfer_us` before.
 * Threads    As devpair.h.
 * Limits     As devpair.h.
 * Set-up     The handle of the staging travels on the pair's connection, sealed.
 */
#ifndef KVTRANSFER_IPC_H
#define KVTRANSFER_IPC_H

#include "kvtransfer/devpair.h"

/* NOTFOUND: no CUDA runtime. UNSUPPORTED: built without it. */
MUST_USE status ipc_open(const kvt_pool *pool, const devpair_options *options, uint64_t generation,
                         bool receiver, kvt **out, diag *d);

/* NOTFOUND with the reason where this process cannot have channels. */
MUST_USE status ipc_available(diag *d);

#endif
