/* sha256.h -- SHA-256 and HMAC-SHA-256.
 *
 * Purpose    Identity that nobody can forge: the model's hash, hashes of API keys, the proof that a
 *            peer knows the shared secret.
 * Ownership  A sha256 is the caller's memory; it may be copied to fork a digest.
 * Threads    One thread at a time each.
 * Limits     2^61 bytes of input.
 * Source     FIPS 180-4; RFC 2104. Uses the CPU's SHA instructions where it has them.
 */
#ifndef ENGINE_BASE_SHA256_H
#define ENGINE_BASE_SHA256_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum { SHA256_BYTES = 32, SHA256_BLOCK_BYTES = 64, SHA256_HEX_BYTES = 65 };

typedef struct {
    uint32_t state[8];
    uint64_t total_bytes;
    uint8_t block[SHA256_BLOCK_BYTES];
} sha256;

void sha256_start(sha256 *s);
void sha256_add(sha256 *s, const void *data, size_t bytes);
void sha256_finish(sha256 *s, uint8_t out[SHA256_BYTES]);

/* The three above in one. */
void sha256_of(const void *data, size_t bytes, uint8_t out[SHA256_BYTES]);

void sha256_hmac(const void *key, size_t key_bytes, const void *data, size_t bytes,
                 uint8_t out[SHA256_BYTES]);

/* Lower-case hex and a zero byte. */
void sha256_hex(const uint8_t digest[SHA256_BYTES], char out[SHA256_HEX_BYTES]);

/* Compares in a time that does not depend on where they differ. */
bool sha256_equal(const uint8_t a[SHA256_BYTES], const uint8_t b[SHA256_BYTES]);

#ifdef __cplusplus
}
#endif
#endif
