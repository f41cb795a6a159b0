/* frame.c -- encoding of the transfer header. */
#include "kvtransfer/frame.h"

#include <string.h>

#include "engine/base/hash.h"

enum { MAGIC = 0x4B565746 /* "FWVK" */, VERSION = 1, FLAG_JUNK = 1 };

static void put(uint8_t *out, uint64_t value, int bytes) {
    for (int i = 0; i < bytes; i++) {
        out[i] = (uint8_t)(value >> (8 * i));
    }
}

static uint64_t get(const uint8_t *in, int bytes) {
    uint64_t value = 0;
    for (int i = 0; i < bytes; i++) {
        value |= (uint64_t)in[i] << (8 * i);
    }
    return value;
}

uint64_t frame_checksum(uint64_t seed, const void *data, uint64_t bytes) {
    return hash_checksum64(seed, data, (size_t)bytes);
}

void frame_put(const frame *f, uint8_t out[FRAME_BYTES]) {
    put(out, MAGIC, 4);
    put(out + 4, VERSION, 2);
    put(out + 6, f->junk ? FLAG_JUNK : 0, 2);
    put(out + 8, f->generation, 8);
    put(out + 16, f->request, 8);
    put(out + 24, f->attempt, 4);
    put(out + 28, f->group, 4);
    put(out + 32, f->sequence, 4);
    put(out + 36, 0, 4);
    put(out + 40, f->payload_bytes, 8);
    put(out + 48, f->checksum, 8);
    put(out + 56, frame_checksum(0, out, 56), 8);
}

status frame_get(const uint8_t in[FRAME_BYTES], frame *out) {
    uint64_t flags = get(in + 6, 2);
    if (get(in, 4) != MAGIC || get(in + 4, 2) != VERSION || flags > FLAG_JUNK ||
        get(in + 36, 4) != 0 || get(in + 56, 8) != frame_checksum(0, in, 56)) {
        return STATUS_CORRUPT;
    }
    out->junk = flags == FLAG_JUNK;
    out->generation = get(in + 8, 8);
    out->request = get(in + 16, 8);
    out->attempt = (uint32_t)get(in + 24, 4);
    out->group = (uint32_t)get(in + 28, 4);
    out->sequence = (uint32_t)get(in + 32, 4);
    out->payload_bytes = get(in + 40, 8);
    out->checksum = get(in + 48, 8);
    return STATUS_OK;
}
