/* sha256.c -- FIPS 180-4 in plain C, and with the SHA extension of x86-64 where the CPU has it. */
#include "engine/base/sha256.h"

#include <stdatomic.h>
#include <string.h>
#if defined(__x86_64__)
#include <cpuid.h>
#include <immintrin.h>
#endif

/* FIPS 180-4, 4.2.2: the first 32 bits of the fractions of the cube roots of the first 64 primes.
 */
static const uint32_t round_words[64] = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2};

static inline uint32_t rotate(uint32_t x, int bits) {
    return x >> bits | x << (32 - bits);
}

static void blocks_portable(uint32_t state[8], const uint8_t *p, size_t count) {
    for (; count; count--, p += SHA256_BLOCK_BYTES) {
        uint32_t w[64];
        for (int i = 0; i < 16; i++) {
            w[i] = (uint32_t)p[4 * i] << 24 | (uint32_t)p[4 * i + 1] << 16 |
                   (uint32_t)p[4 * i + 2] << 8 | p[4 * i + 3];
        }
        for (int i = 16; i < 64; i++) {
            uint32_t s0 = rotate(w[i - 15], 7) ^ rotate(w[i - 15], 18) ^ w[i - 15] >> 3;
            uint32_t s1 = rotate(w[i - 2], 17) ^ rotate(w[i - 2], 19) ^ w[i - 2] >> 10;
            w[i] = w[i - 16] + s0 + w[i - 7] + s1;
        }
        uint32_t v[8];
        memcpy(v, state, sizeof v);
        for (int i = 0; i < 64; i++) {
            uint32_t s1 = rotate(v[4], 6) ^ rotate(v[4], 11) ^ rotate(v[4], 25);
            uint32_t choose = (v[4] & v[5]) ^ (~v[4] & v[6]);
            uint32_t t1 = v[7] + s1 + choose + round_words[i] + w[i];
            uint32_t s0 = rotate(v[0], 2) ^ rotate(v[0], 13) ^ rotate(v[0], 22);
            uint32_t majority = (v[0] & v[1]) ^ (v[0] & v[2]) ^ (v[1] & v[2]);
            memmove(v + 1, v, 7 * sizeof v[0]);
            v[4] += t1;
            v[0] = t1 + s0 + majority;
        }
        for (int i = 0; i < 8; i++) {
            state[i] += v[i];
        }
    }
}

#if defined(__x86_64__)
/* The instructions keep the state as ABEF and CDGH; sha256rnds2 does two rounds with the low two
 * words of its third operand (Intel SDM, SHA256RNDS2, SHA256MSG1, SHA256MSG2). */
__attribute__((target("sha,sse4.1"))) static void blocks_native(uint32_t state[8], const uint8_t *p,
                                                                size_t count) {
    const __m128i swap = _mm_set_epi64x(0x0c0d0e0f08090a0bll, 0x0405060700010203ll);
    __m128i dcba = _mm_loadu_si128((const __m128i *)(const void *)state);
    __m128i hgfe = _mm_loadu_si128((const __m128i *)(const void *)(state + 4));
    __m128i cdab = _mm_shuffle_epi32(dcba, 0xB1);
    __m128i efgh = _mm_shuffle_epi32(hgfe, 0x1B);
    __m128i abef = _mm_alignr_epi8(cdab, efgh, 8);
    __m128i cdgh = _mm_blend_epi16(efgh, cdab, 0xF0);
    for (; count; count--, p += SHA256_BLOCK_BYTES) {
        __m128i abef_before = abef;
        __m128i cdgh_before = cdgh;
        __m128i w[4];
        for (int i = 0; i < 4; i++) {
            w[i] = _mm_shuffle_epi8(_mm_loadu_si128((const __m128i *)(const void *)(p + 16 * i)),
                                    swap);
        }
        for (int i = 0; i < 16; i++) {
            __m128i now = w[i & 3];
            if (i >= 4) {
                /* w[t] = w[t-16] + s0(w[t-15]) + w[t-7] + s1(w[t-2]), four t at once. */
                __m128i sum = _mm_sha256msg1_epu32(now, w[(i + 1) & 3]);
                sum = _mm_add_epi32(sum, _mm_alignr_epi8(w[(i + 3) & 3], w[(i + 2) & 3], 4));
                now = w[i & 3] = _mm_sha256msg2_epu32(sum, w[(i + 3) & 3]);
            }
            __m128i wk = _mm_add_epi32(
                now, _mm_loadu_si128((const __m128i *)(const void *)(round_words + 4 * i)));
            cdgh = _mm_sha256rnds2_epu32(cdgh, abef, wk);
            abef = _mm_sha256rnds2_epu32(abef, cdgh, _mm_shuffle_epi32(wk, 0x0E));
        }
        abef = _mm_add_epi32(abef, abef_before);
        cdgh = _mm_add_epi32(cdgh, cdgh_before);
    }
    __m128i feba = _mm_shuffle_epi32(abef, 0x1B);
    __m128i dchg = _mm_shuffle_epi32(cdgh, 0xB1);
    _mm_storeu_si128((__m128i *)(void *)state, _mm_blend_epi16(feba, dchg, 0xF0));
    _mm_storeu_si128((__m128i *)(void *)(state + 4), _mm_alignr_epi8(dchg, feba, 8));
}

static bool ask_cpu(void) {
    unsigned a, b, c, d;
    return __get_cpuid_count(7, 0, &a, &b, &c, &d) && (b & 1u << 29) &&       /* SHA */
           __get_cpuid(1, &a, &b, &c, &d) && (c & 1u << 19) && (c & 1u << 9); /* SSE4.1, SSSE3 */
}

/* Asked once: in a virtual machine the question alone takes longer than many blocks. Threads that
 * ask at the same time get the same answer. */
static bool has_sha_instructions(void) {
    static _Atomic int known; /* 0: not yet, 1: no, 2: yes */
    int answer = atomic_load_explicit(&known, memory_order_relaxed);
    if (!answer) {
        answer = ask_cpu() ? 2 : 1;
        atomic_store_explicit(&known, answer, memory_order_relaxed);
    }
    return answer == 2;
}
#endif

static void add_blocks(uint32_t state[8], const uint8_t *p, size_t count) {
#if defined(__x86_64__)
    if (has_sha_instructions()) {
        blocks_native(state, p, count);
        return;
    }
#endif
    blocks_portable(state, p, count);
}

void sha256_start(sha256 *s) {
    static const uint32_t first[8] = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                                      0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
    memset(s, 0, sizeof *s);
    memcpy(s->state, first, sizeof first);
}

void sha256_add(sha256 *s, const void *data, size_t bytes) {
    if (bytes == 0) {
        return;
    }
    const uint8_t *p = data;
    size_t held = (size_t)(s->total_bytes % SHA256_BLOCK_BYTES);
    s->total_bytes += bytes;
    if (held) {
        size_t take = SHA256_BLOCK_BYTES - held;
        if (take > bytes) {
            take = bytes;
        }
        memcpy(s->block + held, p, take);
        p += take;
        bytes -= take;
        if (held + take < SHA256_BLOCK_BYTES) {
            return;
        }
        add_blocks(s->state, s->block, 1);
    }
    if (bytes >= SHA256_BLOCK_BYTES) {
        size_t whole = bytes / SHA256_BLOCK_BYTES;
        add_blocks(s->state, p, whole);
        p += whole * SHA256_BLOCK_BYTES;
        bytes %= SHA256_BLOCK_BYTES;
    }
    memcpy(s->block, p, bytes);
}

void sha256_finish(sha256 *s, uint8_t out[SHA256_BYTES]) {
    uint64_t bits = s->total_bytes * 8;
    uint8_t tail[SHA256_BLOCK_BYTES + 8] = {0x80};
    size_t held = (size_t)(s->total_bytes % SHA256_BLOCK_BYTES);
    size_t zeros_to = held < 56 ? 56 - held : 120 - held;
    for (int i = 0; i < 8; i++) {
        tail[zeros_to + (size_t)i] = (uint8_t)(bits >> (56 - 8 * i));
    }
    sha256_add(s, tail, zeros_to + 8);
    for (int i = 0; i < SHA256_BYTES; i++) {
        out[i] = (uint8_t)(s->state[i / 4] >> (24 - 8 * (i % 4)));
    }
    memset(s, 0, sizeof *s);
}

void sha256_of(const void *data, size_t bytes, uint8_t out[SHA256_BYTES]) {
    sha256 s;
    sha256_start(&s);
    sha256_add(&s, data, bytes);
    sha256_finish(&s, out);
}

void sha256_hmac(const void *key, size_t key_bytes, const void *data, size_t bytes,
                 uint8_t out[SHA256_BYTES]) {
    uint8_t pad[SHA256_BLOCK_BYTES] = {0};
    if (key_bytes > sizeof pad) {
        sha256_of(key, key_bytes, pad);
    } else if (key_bytes) {
        memcpy(pad, key, key_bytes);
    }
    for (size_t i = 0; i < sizeof pad; i++) {
        pad[i] ^= 0x36;
    }
    sha256 s;
    sha256_start(&s);
    sha256_add(&s, pad, sizeof pad);
    sha256_add(&s, data, bytes);
    uint8_t inner[SHA256_BYTES];
    sha256_finish(&s, inner);
    for (size_t i = 0; i < sizeof pad; i++) {
        pad[i] ^= 0x36 ^ 0x5C;
    }
    sha256_start(&s);
    sha256_add(&s, pad, sizeof pad);
    sha256_add(&s, inner, sizeof inner);
    sha256_finish(&s, out);
}

void sha256_hex(const uint8_t digest[SHA256_BYTES], char out[SHA256_HEX_BYTES]) {
    static const char digits[] = "0123456789abcdef";
    for (int i = 0; i < SHA256_BYTES; i++) {
        out[2 * i] = digits[digest[i] >> 4];
        out[2 * i + 1] = digits[digest[i] & 15];
    }
    out[2 * SHA256_BYTES] = '\0';
}

bool sha256_equal(const uint8_t a[SHA256_BYTES], const uint8_t b[SHA256_BYTES]) {
    volatile uint8_t differ = 0;
    for (int i = 0; i < SHA256_BYTES; i++) {
        differ = (uint8_t)(differ | (a[i] ^ b[i]));
    }
    return differ == 0;
}
