/* sip.h -- the state of SipHash and its round, for the two hashes built on it.
 *
 * Purpose    hash_bytes (SipHash-2-4) and seal (SipHash-2-4-128) share it. After Aumasson and
 *            Bernstein, "SipHash: a fast short-input PRF" (2012).
 * Ownership  The caller's.
 * Threads    Any.
 * Limits     None.
 */
#ifndef ENGINE_BASE_SIP_H
#define ENGINE_BASE_SIP_H

#include <stdint.h>

typedef struct {
    uint64_t v0, v1, v2, v3;
} sip;

static inline sip sip_start(uint64_t k0, uint64_t k1) {
    return (sip){k0 ^ 0x736f6d6570736575u, k1 ^ 0x646f72616e646f6du, k0 ^ 0x6c7967656e657261u,
                 k1 ^ 0x7465646279746573u};
}

static inline uint64_t sip_rotate(uint64_t x, int bits) {
    return x << bits | x >> (64 - bits);
}

static inline void sip_round(sip *s) {
    s->v0 += s->v1;
    s->v1 = sip_rotate(s->v1, 13) ^ s->v0;
    s->v0 = sip_rotate(s->v0, 32);
    s->v2 += s->v3;
    s->v3 = sip_rotate(s->v3, 16) ^ s->v2;
    s->v0 += s->v3;
    s->v3 = sip_rotate(s->v3, 21) ^ s->v0;
    s->v2 += s->v1;
    s->v1 = sip_rotate(s->v1, 17) ^ s->v2;
    s->v2 = sip_rotate(s->v2, 32);
}

static inline void sip_word(sip *s, uint64_t word) {
    s->v3 ^= word;
    sip_round(s);
    sip_round(s);
    s->v0 ^= word;
}

static inline uint64_t sip_sum(const sip *s) {
    return s->v0 ^ s->v1 ^ s->v2 ^ s->v3;
}

#endif
