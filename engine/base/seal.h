/* seal.h -- a keyed 128-bit tag over a frame: who has not the key cannot make or change one.
 *
 * Purpose    Message authentication for frames between hosts. The tag covers a counter too, so a
 *            frame repeated, dropped or out of order does not verify either.
 * Ownership  A seal is the caller's memory.
 * Threads    One thread at a time each.
 * Limits     A key is 128 bits, made fresh for each direction of each connection.
 * Source     SipHash-2-4 with 128-bit output (Aumasson, Bernstein, "SipHash: a fast short-input
 *            PRF", INDOCRYPT 2012). Chosen over HMAC-SHA-256 by measurement: engine/net/README.md.
 */
#ifndef ENGINE_BASE_SEAL_H
#define ENGINE_BASE_SEAL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/base/sip.h"

enum { SEAL_KEY_BYTES = 16, SEAL_TAG_BYTES = 16 };

/* The keys of one connection, as one end sees them. */
typedef struct {
    uint8_t send[SEAL_KEY_BYTES];
    uint8_t receive[SEAL_KEY_BYTES];
} seal_keys;

typedef struct {
    sip state;
    uint64_t word; /* bytes not yet taken in, the lowest first */
    uint64_t total_bytes;
} seal;

/* Starts the tag of frame number `counter`. */
void seal_start(seal *s, const uint8_t key[SEAL_KEY_BYTES], uint64_t counter);

/* As seal_start without a counter: the plain function, for known answers. */
void seal_start_plain(seal *s, const uint8_t key[SEAL_KEY_BYTES]);

void seal_add(seal *s, const void *data, size_t bytes);
void seal_finish(seal *s, uint8_t out[SEAL_TAG_BYTES]);

/* Compares in a time that does not depend on where they differ. */
bool seal_equal(const uint8_t a[SEAL_TAG_BYTES], const uint8_t b[SEAL_TAG_BYTES]);

#endif
