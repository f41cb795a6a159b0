/* frame.c -- encoding of the transfer header. */
#include "kvtransfer/frame.h"

#include "engine/base/bytes.h"
#include "engine/base/hash.h"

enum { MAGIC = 0x4B565746 /* "FWVK" */, VERSION = 1, FLAG_JUNK = 1 };

uint64_t frame_checksum(uint64_t seed, const void *data, uint64_t bytes) {
    return hash_checksum64(seed, data, (size_t)bytes);
}

void frame_put(const frame *f, uint8_t out[FRAME_BYTES]) {
    bytes_put(out, MAGIC, 4);
    bytes_put(out + 4, VERSION, 2);
    bytes_put(out + 6, f->junk ? FLAG_JUNK : 0, 2);
    bytes_put(out + 8, f->generation, 8);
    bytes_put(out + 16, f->request, 8);
    bytes_put(out + 24, f->attempt, 4);
    bytes_put(out + 28, f->group, 4);
    bytes_put(out + 32, f->sequence, 4);
    bytes_put(out + 36, 0, 4);
    bytes_put(out + 40, f->payload_bytes, 8);
    bytes_put(out + 48, f->checksum, 8);
    bytes_put(out + 56, frame_checksum(0, out, 56), 8);
}

status frame_get(const uint8_t in[FRAME_BYTES], frame *out) {
    uint64_t flags = bytes_get(in + 6, 2);
    if (bytes_get(in, 4) != MAGIC || bytes_get(in + 4, 2) != VERSION || flags > FLAG_JUNK ||
        bytes_get(in + 36, 4) != 0 || bytes_get(in + 56, 8) != frame_checksum(0, in, 56)) {
        return STATUS_CORRUPT;
    }
    out->junk = flags == FLAG_JUNK;
    out->generation = bytes_get(in + 8, 8);
    out->request = bytes_get(in + 16, 8);
    out->attempt = (uint32_t)bytes_get(in + 24, 4);
    out->group = (uint32_t)bytes_get(in + 28, 4);
    out->sequence = (uint32_t)bytes_get(in + 32, 4);
    out->payload_bytes = bytes_get(in + 40, 8);
    out->checksum = bytes_get(in + 48, 8);
    return STATUS_OK;
}
