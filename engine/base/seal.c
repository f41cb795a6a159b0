/* seal.c -- SipHash-2-4-128 over a stream of pieces. */
#include "engine/base/seal.h"

#include "engine/base/bytes.h"

void seal_start_plain(seal *s, const uint8_t key[SEAL_KEY_BYTES]) {
    *s = (seal){.state = sip_start(bytes_get64(key), bytes_get64(key + 8))};
    s->state.v1 ^= 0xee;
}

void seal_start(seal *s, const uint8_t key[SEAL_KEY_BYTES], uint64_t counter) {
    uint8_t bytes[8];
    bytes_put(bytes, counter, 8);
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
            sip_word(&w.state, w.word);
            w.word = 0;
        }
    }
    for (; bytes >= 8; bytes -= 8, p += 8) {
        sip_word(&w.state, bytes_get64(p));
    }
    for (size_t i = 0; i < bytes; i++) {
        w.word |= (uint64_t)p[i] << (8 * i);
    }
    *s = w;
}

void seal_finish(seal *s, uint8_t out[SEAL_TAG_BYTES]) {
    sip_word(&s->state, s->word | s->total_bytes << 56);
    s->state.v2 ^= 0xee;
    for (int half = 0; half < 2; half++) {
        for (int i = 0; i < 4; i++) {
            sip_round(&s->state);
        }
        bytes_put(out + 8 * half, sip_sum(&s->state), 8);
        s->state.v1 ^= 0xdd;
    }
}

bool seal_equal(const uint8_t a[SEAL_TAG_BYTES], const uint8_t b[SEAL_TAG_BYTES]) {
    unsigned different = 0;
    for (int i = 0; i < SEAL_TAG_BYTES; i++) {
        different |= (unsigned)a[i] ^ (unsigned)b[i];
    }
    return different == 0;
}
