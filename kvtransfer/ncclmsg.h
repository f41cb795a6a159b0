/* ncclmsg.h -- what the two sides of an NCCL channel say to each other.
 *
 * Purpose    Writing and reading the messages; README.md draws who says what when. An announcement
 *            is a frame (frame.h) and told apart by its size.
 * Ownership  Plain values.
 * Threads    Pure functions.
 * Limits     NCCLMSG_BYTES_MAX a message.
 */
#ifndef KVTRANSFER_NCCLMSG_H
#define KVTRANSFER_NCCLMSG_H

#include <stdbool.h>
#include <stdint.h>

#include "engine/base/str.h"
#include "kvtransfer/frame.h"

enum { NCCLMSG_ID_BYTES = 128, NCCLMSG_BYTES_MAX = 8 + 8 + NCCLMSG_ID_BYTES };

typedef enum {
    NCCLMSG_OFFER,    /* P: a unique id, for the channel of this generation */
    NCCLMSG_ANNOUNCE, /* P: the group's frame */
    NCCLMSG_READY,    /* D: its receive is posted */
    NCCLMSG_DONE      /* D: its post is over */
} ncclmsg_kind;

typedef struct {
    ncclmsg_kind kind;
    uint64_t generation;          /* OFFER */
    uint8_t id[NCCLMSG_ID_BYTES]; /* OFFER */
    frame frame;                  /* ANNOUNCE */
    uint32_t sequence;            /* READY, DONE */
} ncclmsg;

/* Bytes written to `out`. */
uint32_t ncclmsg_put(const ncclmsg *m, uint8_t out[NCCLMSG_BYTES_MAX]);

/* False when it is none of them. */
bool ncclmsg_get(str text, ncclmsg *out);

#endif
