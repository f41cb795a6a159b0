/* hash.c -- the table, SipHash-2-4, XXH64. */
#define _GNU_SOURCE
#include "engine/base/hash.h"

#include <errno.h>
#include <string.h>
#include <sys/random.h>

#include "engine/base/bytes.h"
#include "engine/base/check.h"
#include "engine/base/rng.h"
#include "engine/base/sip.h"

status hash_open(hash_table *t, arena *a, uint32_t entries_max, uint64_t seed) {
    CHECK(entries_max >= 1 && entries_max <= 1u << 29);
    uint32_t slots = 4;
    /* At most 3/4 full: linear probing stays short (Knuth, TAOCP 6.4: 8.5 probes for a miss). */
    while ((uint64_t)slots * 3 < (uint64_t)entries_max * 4) {
        slots *= 2;
    }
    *t = (hash_table){.seed = seed, .slots = slots, .entries_max = entries_max};
    t->entries = ARENA_TAKE(a, slots, hash_entry);
    t->used = ARENA_TAKE(a, slots, uint8_t);
    return t->entries && t->used ? STATUS_OK : STATUS_NOMEM;
}

static uint32_t home_of(const hash_table *t, uint64_t key) {
    return (uint32_t)rng_mix(key ^ t->seed) & (t->slots - 1);
}

/* The slot of the key, or the free slot where it would go. */
static uint32_t slot_of(const hash_table *t, uint64_t key) {
    uint32_t at = home_of(t, key);
    while (t->used[at] && t->entries[at].key != key) {
        at = (at + 1) & (t->slots - 1);
    }
    return at;
}

bool hash_get(const hash_table *t, uint64_t key, uint64_t *value) {
    uint32_t at = slot_of(t, key);
    if (!t->used[at]) {
        return false;
    }
    if (value) {
        *value = t->entries[at].value;
    }
    return true;
}

bool hash_put(hash_table *t, uint64_t key, uint64_t value) {
    uint32_t at = slot_of(t, key);
    if (!t->used[at]) {
        if (t->count == t->entries_max) {
            return false;
        }
        t->used[at] = 1;
        t->count++;
    }
    t->entries[at] = (hash_entry){key, value};
    return true;
}

bool hash_delete(hash_table *t, uint64_t key, uint64_t *value) {
    uint32_t hole = slot_of(t, key);
    if (!t->used[hole]) {
        return false;
    }
    if (value) {
        *value = t->entries[hole].value;
    }
    /* Knuth's algorithm R: an entry further on moves into the hole unless its home lies after the
     * hole (cyclically), where a search for it would never pass the hole. */
    uint32_t mask = t->slots - 1;
    for (uint32_t at = (hole + 1) & mask; t->used[at]; at = (at + 1) & mask) {
        uint32_t home = home_of(t, t->entries[at].key);
        if (((at - home) & mask) >= ((at - hole) & mask)) {
            t->entries[hole] = t->entries[at];
            hole = at;
        }
    }
    t->used[hole] = 0;
    t->count--;
    return true;
}

void hash_clear(hash_table *t) {
    memset(t->used, 0, t->slots);
    t->count = 0;
}

bool hash_next(const hash_table *t, uint32_t *cursor, hash_entry *out) {
    for (; *cursor < t->slots; (*cursor)++) {
        if (t->used[*cursor]) {
            *out = t->entries[(*cursor)++];
            return true;
        }
    }
    return false;
}

status hash_key_random(hash_key *out, diag *d) {
    uint8_t *at = (uint8_t *)out;
    size_t left = sizeof *out;
    while (left) {
        ssize_t got = getrandom(at, left, 0);
        if (got < 0 && errno == EINTR) {
            continue;
        }
        if (got <= 0) {
            return status_fail_errno(d, STATUS_IO, "getrandom");
        }
        at += got;
        left -= (size_t)got;
    }
    return STATUS_OK;
}

/* x86-64 and arm64 Linux are little-endian, as both algorithms want their words. */
_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "little-endian words");

static inline uint64_t load64(const uint8_t *p) {
    uint64_t v;
    memcpy(&v, p, 8);
    return v;
}

static inline uint32_t load32(const uint8_t *p) {
    uint32_t v;
    memcpy(&v, p, 4);
    return v;
}

uint64_t hash_bytes(hash_key key, const void *data, size_t bytes) {
    sip s = sip_start(key.k0, key.k1);
    const uint8_t *p = data;
    size_t left = bytes;
    for (; left >= 8; p += 8, left -= 8) {
        sip_word(&s, load64(p));
    }
    sip_word(&s, (uint64_t)bytes << 56 | bytes_get(p, (int)left));
    s.v2 ^= 0xFF;
    for (int i = 0; i < 4; i++) {
        sip_round(&s);
    }
    return sip_sum(&s);
}

#define XXH_PRIME1 0x9E3779B185EBCA87u
#define XXH_PRIME2 0xC2B2AE3D27D4EB4Fu
#define XXH_PRIME3 0x165667B19E3779F9u
#define XXH_PRIME4 0x85EBCA77C2B2AE63u
#define XXH_PRIME5 0x27D4EB2F165667C5u

static inline uint64_t xxh_round(uint64_t lane, uint64_t word) {
    return sip_rotate(lane + word * XXH_PRIME2, 31) * XXH_PRIME1;
}

static inline uint64_t xxh_merge(uint64_t h, uint64_t lane) {
    return (h ^ xxh_round(0, lane)) * XXH_PRIME1 + XXH_PRIME4;
}

static uint64_t xxh_finish(uint64_t h, const uint8_t *p, size_t left) {
    for (; left >= 8; p += 8, left -= 8) {
        h = sip_rotate(h ^ xxh_round(0, load64(p)), 27) * XXH_PRIME1 + XXH_PRIME4;
    }
    if (left >= 4) {
        h = sip_rotate(h ^ load32(p) * XXH_PRIME1, 23) * XXH_PRIME2 + XXH_PRIME3;
        p += 4;
        left -= 4;
    }
    for (; left; p++, left--) {
        h = sip_rotate(h ^ *p * XXH_PRIME5, 11) * XXH_PRIME1;
    }
    h = (h ^ h >> 33) * XXH_PRIME2;
    h = (h ^ h >> 29) * XXH_PRIME3;
    return h ^ h >> 32;
}

uint64_t hash_checksum64(uint64_t seed, const void *data, size_t bytes) {
    const uint8_t *p = data;
    size_t left = bytes;
    uint64_t h;
    if (bytes < 32) {
        h = seed + XXH_PRIME5;
    } else {
        /* Four lanes that do not wait for each other: a stripe of 32 bytes costs one lane's
         * latency, about five cycles. */
        uint64_t a = seed + XXH_PRIME1 + XXH_PRIME2;
        uint64_t b = seed + XXH_PRIME2;
        uint64_t c = seed;
        uint64_t e = seed - XXH_PRIME1;
        for (; left >= 32; p += 32, left -= 32) {
            a = xxh_round(a, load64(p));
            b = xxh_round(b, load64(p + 8));
            c = xxh_round(c, load64(p + 16));
            e = xxh_round(e, load64(p + 24));
        }
        h = sip_rotate(a, 1) + sip_rotate(b, 7) + sip_rotate(c, 12) + sip_rotate(e, 18);
        h = xxh_merge(xxh_merge(xxh_merge(xxh_merge(h, a), b), c), e);
    }
    return xxh_finish(h + bytes, p, left);
}
