/* hash.h -- a fixed table from 64 bits to 64 bits, a keyed hash, and a fast checksum.
 *
 * Purpose    hash_table: looks up what has an id. hash_bytes: a hash whose collisions nobody can
 *            construct without the key (prefix cache chains, anything a client chooses).
 *            hash_checksum64: finds damage, not malice, in KV pages at memory speed.
 * Ownership  A table's memory is the arena's.
 * Threads    A table: one thread at a time. The functions are pure.
 * Limits     The entries given at creation; hash_put past them fails.
 * Source     hash_bytes is SipHash-2-4 (Aumasson, Bernstein, "SipHash: a fast short-input PRF",
 *            INDOCRYPT 2012). hash_checksum64 is XXH64, written from its public specification
 *            (Collet, "xxHash fast digest algorithm", revision 0.1.1): scalar, the same on every
 *            machine, more than 5 GB/s.
 */
#ifndef ENGINE_BASE_HASH_H
#define ENGINE_BASE_HASH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/base/arena.h"
#include "engine/base/status.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
    uint64_t key;
    uint64_t value;
} hash_entry;

/* Linear probing in a power-of-two array at most 3/4 full; deletion shifts back, so there are no
 * tombstones and a long-lived table does not slow down. Any key is legal, 0 too. */
typedef struct {
    hash_entry *entries; /* [slots] */
    uint8_t *used;       /* [slots] 0 or 1 */
    uint64_t seed;       /* mixed into the slot, so that ids chosen outside do not cluster */
    uint32_t slots;
    uint32_t count;
    uint32_t entries_max;
} hash_table;

/* `entries_max` from 1 to 2^29. */
MUST_USE status hash_open(hash_table *t, arena *a, uint32_t entries_max, uint64_t seed);

/* False when the key is not there; `value` may be NULL. */
bool hash_get(const hash_table *t, uint64_t key, uint64_t *value);

/* Adds or replaces. False when the key is new and the table is full. */
MUST_USE bool hash_put(hash_table *t, uint64_t key, uint64_t value);

/* False when the key is not there; `value` (may be NULL) gets what it held. */
bool hash_delete(hash_table *t, uint64_t key, uint64_t *value);

void hash_clear(hash_table *t);

/* Walks in no order: set `*cursor` to 0, call until it returns false. The table must not change
 * during the walk. */
bool hash_next(const hash_table *t, uint32_t *cursor, hash_entry *out);

typedef struct {
    uint64_t k0;
    uint64_t k1;
} hash_key;

/* A key from the system's random source. */
MUST_USE status hash_key_random(hash_key *out, diag *d);

/* SipHash-2-4 of `bytes` bytes. */
uint64_t hash_bytes(hash_key key, const void *data, size_t bytes);

/* XXH64 of `bytes` bytes. */
uint64_t hash_checksum64(uint64_t seed, const void *data, size_t bytes);

#ifdef __cplusplus
}
#endif
#endif
