/* apikeys.h -- who may call.
 *
 * Purpose    Keys are kept as SHA-256 digests only; a shown key is hashed and compared with every
 *            digest in constant time.
 * Ownership  apikeys_open holds memory; apikeys_close gives it back.
 * Threads    Read-only after it is filled.
 * Limits     LIMIT_API_KEYS keys of APIKEYS_BYTES_MIN..MAX printable bytes.
 */
#ifndef SERVER_HTTP_APIKEYS_H
#define SERVER_HTTP_APIKEYS_H

#include <stdint.h>

#include "engine/base/status.h"
#include "engine/base/str.h"

enum { APIKEYS_BYTES_MIN = 8, APIKEYS_BYTES_MAX = 256 };

typedef struct apikeys apikeys;

MUST_USE status apikeys_open(apikeys **out);
void apikeys_close(apikeys *k);

MUST_USE status apikeys_add(apikeys *k, str key, diag *d);

/* One key a line: the key itself, or "sha256:" and 64 hex digits. Blank lines and lines that start
 * with '#' are skipped. A file that others may read is refused when it holds keys in the clear. */
MUST_USE status apikeys_add_file(apikeys *k, const char *path, diag *d);

int32_t apikeys_count(const apikeys *k);

/* A name of that key which does not depend on who reads which file in which order: of its digest,
 * so as secret as the key. */
void apikeys_identity(const apikeys *k, int32_t number, uint64_t out[2]);

/* The number of the key in "Bearer KEY" (the value of an Authorization header), or -1. */
int32_t apikeys_find(const apikeys *k, str authorization);

#endif
