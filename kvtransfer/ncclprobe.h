/* ncclprobe.h -- which device a worker's KV is on, and whether NCCL can carry it.
 *
 * Purpose    What a worker says of itself before any pair is made: a peer on the same device is
 *            found at the join, and not by a communicator that fails.
 * Ownership  None; NCCL stays loaded once it was.
 * Threads    At start, before other threads.
 * Limits     None.
 */
#ifndef KVTRANSFER_NCCLPROBE_H
#define KVTRANSFER_NCCLPROBE_H

#include <stdint.h>

#include "engine/base/status.h"

/* `*id` is the same for two processes where NCCL would take their devices for one: the host (or
 * NCCL_HOSTID), which its upper 32 bits name alone, and the bus address. NOTFOUND: no CUDA runtime,
 * or no such device. UNSUPPORTED: built without NCCL. */
MUST_USE status ncclprobe_device(int device, uint64_t *id, diag *d);

/* NOTFOUND with the loader's reason where there is no NCCL. */
MUST_USE status ncclprobe_opens(diag *d);

/* Lets workers of one GPU join with each other: this process counts as a host of its own, called
 * `name`, unless it has been given a name. Before NCCL is asked anything. */
void ncclprobe_apart(const char *name);

#endif
