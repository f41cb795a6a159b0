/* clusterkey.h -- the secret that the processes of one cluster share.
 *
 * Purpose    Reads it from a file or the environment, and says where it may be left out: only where
 *            nothing but this machine can connect.
 * Ownership  Plain values.
 * Threads    Any.
 * Limits     CLUSTERKEY_BYTES_MIN to CLUSTERKEY_BYTES_MAX bytes, white space at the ends left out.
 */
#ifndef ENGINE_NET_CLUSTERKEY_H
#define ENGINE_NET_CLUSTERKEY_H

#include "engine/base/hostport.h"
#include "engine/net/handshake.h"

enum { CLUSTERKEY_BYTES_MIN = 16, CLUSTERKEY_BYTES_MAX = 4096 };

typedef struct {
    bool given;
    uint8_t key[HANDSHAKE_KEY_BYTES]; /* derived; without a key, a constant */
} clusterkey;

/* From `path`, or else from WEIR_CLUSTER_KEY, or none. */
MUST_USE status clusterkey_read(const char *path, clusterkey *out, diag *d);

/* A secret for one more use of the key, the same wherever the key is; `purpose` names it. */
void clusterkey_derive(const clusterkey *k, const char *purpose, uint8_t out[HANDSHAKE_KEY_BYTES]);

/* Refuses an address that other hosts reach, or are reached at, when there is no key. `what` is the
 * flag at fault. */
MUST_USE status clusterkey_check(const clusterkey *k, const hostport *address, const char *what,
                                 diag *d);

/* Parses an address given as flag `what`, and checks it. */
MUST_USE status clusterkey_address(const clusterkey *k, const char *text, const char *what,
                                   hostport *out, diag *d);

#endif
