/* frame.h -- the header before each group of KV pages on a host data path.
 *
 * Purpose    Says exactly which write this is, so that a late, repeated, damaged or foreign one is
 *            recognised before its bytes are used.
 * Ownership  Plain values.
 * Threads    Pure functions.
 * Limits     FRAME_BYTES a header, a multiple of a cache line.
 * Format     Little-endian words: magic and version, flags, generation, request, attempt, group,
 *            sequence, payload bytes, payload checksum; the header's own checksum last.
 */
#ifndef KVTRANSFER_FRAME_H
#define KVTRANSFER_FRAME_H

#include <stdbool.h>
#include <stdint.h>

#include "engine/base/status.h"

enum { FRAME_BYTES = 64 };

typedef struct {
    bool junk;           /* the request is gone: no payload follows */
    uint64_t generation; /* of the channel */
    uint64_t request;
    uint32_t attempt;
    uint32_t group;
    uint32_t sequence;
    uint64_t payload_bytes;
    uint64_t checksum; /* of the payload, frame_checksum over its runs in order */
} frame;

void frame_put(const frame *f, uint8_t out[FRAME_BYTES]);

/* STATUS_CORRUPT when the bytes are no header. */
MUST_USE status frame_get(const uint8_t in[FRAME_BYTES], frame *out);

/* Checksums of consecutive runs chain: pass the last result as `seed`, 0 first. */
uint64_t frame_checksum(uint64_t seed, const void *data, uint64_t bytes);

#endif
