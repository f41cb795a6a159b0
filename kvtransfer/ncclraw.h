/* ncclraw.h -- a plain loop of ncclSend: what `weir bench kv` sets the NCCL transport beside.
 *
 * Purpose    Messages of one size from one rank to another, queued on one stream as fast as NCCL
 *            takes them: no pages, no announcements, no deadlines.
 * Ownership  ncclraw_close gives everything back.
 * Threads    One.
 * Limits     Blocks. For measurements between two processes that trust each other.
 */
#ifndef KVTRANSFER_NCCLRAW_H
#define KVTRANSFER_NCCLRAW_H

#include <stdbool.h>
#include <stdint.h>

#include "engine/base/status.h"

enum { NCCLRAW_ID_BYTES = 128 };

typedef struct ncclraw ncclraw;

/* How many devices there are, and a unique id for both ranks. */
MUST_USE status ncclraw_id(uint8_t id[NCCLRAW_ID_BYTES], diag *d);
MUST_USE status ncclraw_devices(int *count, diag *d);

MUST_USE status ncclraw_open(int device, bool receiver, const uint8_t id[NCCLRAW_ID_BYTES],
                             int ctas_max, uint64_t bytes, ncclraw **out, diag *d);
void ncclraw_close(ncclraw *r);

/* `count` messages of `bytes` (as opened, or less); returns when they are through. */
MUST_USE status ncclraw_run(ncclraw *r, uint64_t bytes, uint32_t count);

#endif
