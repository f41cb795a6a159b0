/* handshake.h -- two ends of a new connection prove that they hold the cluster's key.
 *
 * Purpose    A pure state machine: bytes in, bytes out. The dialler says who it is and what for,
 *            both give nonces, each proves the key over everything said so far, and both come out
 *            with fresh keys for each direction. Whatever does not fit is refused with a reason
 *            that both ends have in text.
 * Ownership  A handshake is the caller's memory; nothing is allocated.
 * Threads    One thread at a time each.
 * Limits     A frame is at most HANDSHAKE_FRAME_BYTES and is read exactly: not one byte of what
 *            follows the handshake is taken from the socket.
 * Format     engine/net/README.md.
 */
#ifndef ENGINE_NET_HANDSHAKE_H
#define ENGINE_NET_HANDSHAKE_H

#include "engine/base/seal.h"
#include "engine/base/sha256.h"
#include "engine/base/status.h"

enum {
    HANDSHAKE_HEADER_BYTES = 8,
    HANDSHAKE_FRAME_BYTES = 256,
    HANDSHAKE_NONCE_BYTES = 32,
    HANDSHAKE_TOKEN_BYTES = 16,
    HANDSHAKE_KEY_BYTES = 32
};

typedef enum { HANDSHAKE_HUB = 1, HANDSHAKE_GATEWAY, HANDSHAKE_WORKER } handshake_kind;

typedef enum {
    HANDSHAKE_CONTROL = 1, /* messages */
    HANDSHAKE_PUSH,        /* KV pages, from the dialler */
    HANDSHAKE_PULL         /* KV pages, to the dialler */
} handshake_purpose;

/* Who one end is. */
typedef struct {
    handshake_kind kind;
    uint32_t roles;  /* of a worker, else 0 */
    uint32_t worker; /* its number; UINT32_MAX: has none */
    uint64_t epoch;  /* unique for each life of a process */
} handshake_ident;

typedef struct {
    handshake_ident self;
    uint8_t key[HANDSHAKE_KEY_BYTES]; /* of the cluster */
    uint8_t nonce[HANDSHAKE_NONCE_BYTES];
    uint16_t version_min, version_max; /* of the message protocol */
    /* dialler only */
    handshake_purpose purpose;
    uint8_t token[HANDSHAKE_TOKEN_BYTES]; /* PUSH, PULL: which control link it belongs to */
    bool expects;                         /* `expected` must answer, in kind, worker and epoch */
    handshake_ident expected;
} handshake_options;

typedef enum {
    HANDSHAKE_MORE,   /* send `out`, then feed what handshake_wants says */
    HANDSHAKE_DONE,   /* send `out`; the rest is filled */
    HANDSHAKE_REFUSED /* send `out`, then close; `why` says why */
} handshake_result;

typedef struct {
    handshake_options options;
    bool dialler;
    int state;
    uint8_t in[HANDSHAKE_FRAME_BYTES];
    size_t in_bytes;
    uint8_t out[HANDSHAKE_FRAME_BYTES]; /* [out_bytes] to be sent; the caller sets out_bytes 0 */
    size_t out_bytes;
    sha256 transcript;
    uint8_t expected_welcome[SHA256_BYTES];
    diag why;
    /* when done */
    handshake_ident peer;
    handshake_purpose purpose;
    uint8_t token[HANDSHAKE_TOKEN_BYTES]; /* as the dialler gave it */
    uint16_t version;
    seal_keys keys;
    uint8_t secret[HANDSHAKE_KEY_BYTES]; /* of this connection; tokens come from it */
} handshake;

/* The dialler has its first frame in `out` after this. */
void handshake_start(handshake *h, bool dialler, const handshake_options *options);

/* Bytes that the frame being read still lacks, as far as is known. */
size_t handshake_wants(const handshake *h);

/* Takes at most handshake_wants bytes. */
handshake_result handshake_feed(handshake *h, const void *data, size_t bytes);

/* The token of a KV connection that goes with a control link. */
void handshake_kv_token(const uint8_t secret[HANDSHAKE_KEY_BYTES], handshake_purpose purpose,
                        uint8_t out[HANDSHAKE_TOKEN_BYTES]);

const char *handshake_kind_name(handshake_kind k);

#endif
