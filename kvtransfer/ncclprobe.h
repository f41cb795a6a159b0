/* ncclprobe.h -- whether NCCL can carry a worker's KV, and what NCCL would call its device.
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

/* Opens NCCL. `*id` is the same for two processes exactly where NCCL would take their devices for
 * one: the host (or NCCL_HOSTID) and the bus address. NOTFOUND: no NCCL, or no such device.
 * UNSUPPORTED: built without it. */
MUST_USE status ncclprobe_device(int device, uint64_t *id, diag *d);

/* Lets workers of one GPU join with each other: this process counts as a host of its own, called
 * `name`, unless it has been given a name. Before NCCL is asked anything. */
void ncclprobe_apart(const char *name);

#endif
