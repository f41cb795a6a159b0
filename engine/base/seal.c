/* seal.c -- SipHash-2-4-128 over a stream of pieces. */
#include "engine/base/seal.h"

#include <string.h>

static inline uint64_t rotate(uint64_t x, int bits) {
    return x << bits | x >> (64 - bits);
}

static inline void round_one(seal *s) {
    s->v0 += s->v1;
    s->v1 = rotate(s->v1, 13) ^ s->v0;
    s->v0 = rotate(s->v0, 32);
    s->v2 += s->v3;
    s->v3 = rotate(s->v3, 16) ^ s->v2;
    s->v0 += s->v3;
    s->v3 = rotate(s->v3, 21) ^ s->v0;
    s->v2 += s->v1;
    s->v1 = rotate(s->v1, 17) ^ s->v2;
    s->v2 = rotate(s->v2, 32);
}

static inline void take_word(seal *s, uint64_t word) {
    s->v3 ^= word;
    round_one(s);
    round_one(s);
    s->v0 ^= word;
}

/* Written out, so that the compiler sees one load. */
static inline uint64_t load(const uint8_t *p) {
    return (uint64_t)p[0] | (uint64_t)p[1] << 8 | (uint64_t)p[2] << 16 | (uint64_t)p[3] << 24 |
           (uint64_t)p[4] << 32 | (uint64_t)p[5] << 40 | (uint64_t)p[6] << 48 |
           (uint64_t)p[7] << 56;
}

static void store(uint8_t *out, uint64_t word) {
    for (int i = 0; i < 8; i++) {
        out[i] = (uint8_t)(word >> (8 * i));
    }
}

void seal_start_plain(seal *s, const uint8_t key[SEAL_KEY_BYTES]) {
    uint64_t k0 = load(key), k1 = load(key + 8);
    *s = (seal){.v0 = k0 ^ 0x736f6d6570736575u,
                .v1 = k1 ^ 0x646f72616e646f6du ^ 0xee,
                .v2 = k0 ^ 0x6c7967656e657261u,
                .v3 = k1 ^ 0x7465646279746573u};
}

void seal_start(seal *s, const uint8_t key[SEAL_KEY_BYTES], uint64_t counter) {
    uint8_t bytes[8];
    store(bytes, counter);
    seal_start_plain(s, key);
    seal_add(s, bytes, sizeof bytes);
}

void seal_add(seal *s, const void *data, size_t bytes) {
    const uint8_t *p = data;
    seal w = *s; /* in registers: the bytes added may alias anything */
    w.total_bytes += bytes;
    for (unsigned held = (unsigned)s->total_bytes & 7; held && bytes; bytes--) {
        w.word |= (uint64_t)*p++ << (8 * held);
        held = (held + 1) & 7;
        if (!held) {
            take_word(&w, w.word);
            w.word = 0;
        }
    }
    for (; bytes >= 8; bytes -= 8, p += 8) {
        take_word(&w, load(p));
    }
    for (size_t i = 0; i < bytes; i++) {
        w.word |= (uint64_t)p[i] << (8 * i);
    }
    *s = w;
}

void seal_finish(seal *s, uint8_t out[SEAL_TAG_BYTES]) {
    take_word(s, s->word | s->total_bytes << 56);
    s->v2 ^= 0xee;
    for (int half = 0; half < 2; half++) {
        for (int i = 0; i < 4; i++) {
            round_one(s);
        }
        store(out + 8 * half, s->v0 ^ s->v1 ^ s->v2 ^ s->v3);
        s->v1 ^= 0xdd;
    }
}

bool seal_equal(const uint8_t a[SEAL_TAG_BYTES], const uint8_t b[SEAL_TAG_BYTES]) {
    unsigned different = 0;
    for (int i = 0; i < SEAL_TAG_BYTES; i++) {
        different |= (unsigned)a[i] ^ (unsigned)b[i];
    }
    return different == 0;
}
