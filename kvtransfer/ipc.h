/* ipc.h -- the IPC transport: pages between devices of one host, read from the peer's memory.
 *
 * Purpose    P packs a group into staging on its device and announces it; D, another process of
 *            the same host, has that staging mapped (cudaIpcOpenMemHandle) and copies from it
 *            straight into the pages of its post. The two devices may be one. README.md draws it.
 * Ownership  As nccl.h. Nobody writes a peer's memory: D reads P's staging, and pages are read and
 *            written by their owner alone. Staging that was mapped is kept for the next pair and
 *            never freed; what D may still be reading rests for `transfer_us` before.
 * Threads    As kvt.h.
 * Limits     A group is at most nccl_options.stage_bytes; `window` groups are under way at once.
 * Set-up     As nccl.h, but no NCCL: the handle travels where the unique id does.
 * Waits      As nccl.h.
 */
#ifndef KVTRANSFER_IPC_H
#define KVTRANSFER_IPC_H

#include "kvtransfer/nccl.h"

/* `ctas_max` and `setup_us` do not matter here. NOTFOUND: no CUDA runtime. UNSUPPORTED: built
 * without it. */
MUST_USE status ipc_open(const kvt_pool *pool, const nccl_options *options, uint64_t generation,
                         bool receiver, kvt **out, diag *d);

/* Gives the side its connected socket, taken over either way. */
MUST_USE status ipc_attach(kvt *k, int fd, const seal_keys *keys, diag *d);

/* As nccl_get_times: wire_us is P's time from announcement to D's answer; D's copy_us is the
 * whole of its part. */
void ipc_get_times(const kvt *k, nccl_times *out);

/* Why the channel failed, "" before. */
const char *ipc_reason(const kvt *k);

/* NOTFOUND with the reason where this process cannot have channels. */
MUST_USE status ipc_available(diag *d);

#endif
