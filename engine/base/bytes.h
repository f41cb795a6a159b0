/* bytes.h -- integers as bytes of a frame, least significant first.
 *
 * Purpose    The order of bytes in everything weir puts on a wire, whatever the machine's own.
 * Ownership  None.
 * Threads    Any.
 * Limits     1 to 8 bytes; a value's higher bytes are left out.
 */
#ifndef ENGINE_BASE_BYTES_H
#define ENGINE_BASE_BYTES_H

#include <stdint.h>

static inline void bytes_put(uint8_t *out, uint64_t value, int bytes) {
    for (int i = 0; i < bytes; i++) {
        out[i] = (uint8_t)(value >> (8 * i));
    }
}

static inline uint64_t bytes_get(const uint8_t *in, int bytes) {
    uint64_t value = 0;
    for (int i = 0; i < bytes; i++) {
        value |= (uint64_t)in[i] << (8 * i);
    }
    return value;
}

/* bytes_get of 8, written out so that the compiler sees one load. */
static inline uint64_t bytes_get64(const uint8_t *p) {
    return (uint64_t)p[0] | (uint64_t)p[1] << 8 | (uint64_t)p[2] << 16 | (uint64_t)p[3] << 24 |
           (uint64_t)p[4] << 32 | (uint64_t)p[5] << 40 | (uint64_t)p[6] << 48 |
           (uint64_t)p[7] << 56;
}

#endif
