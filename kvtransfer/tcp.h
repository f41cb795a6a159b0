/* tcp.h -- the TCP transport: pages as a stream of sealed frames between two hosts.
 *
 * Purpose    Moves pages over a connection of their own, beside the messages. Bytes go from the
 *            sender's pages to the socket and from the socket into the posted pages, with no copy
 *            between; each header and each payload has a tag (engine/base/seal.h) that is checked
 *            before anybody may use what arrived.
 * Ownership  A side owns its socket once it has it. The pages of a send are read until kvt_sent
 *            reports it.
 * Threads    As kvt.h.
 * Limits     One job is on the wire at a time: kvt_send says AGAIN until it has gone to the socket.
 *            A payload is at most TCP_PAYLOAD_BYTES_MAX.
 * Set-up     Both sides are opened at once; the connection is attached when it is there. Until then
 *            a sender says AGAIN and a receiver waits.
 */
#ifndef KVTRANSFER_TCP_H
#define KVTRANSFER_TCP_H

#include "engine/base/seal.h"
#include "kvtransfer/kvt.h"

enum { TCP_PAYLOAD_BYTES_MAX = 1 << 28 };

MUST_USE status tcp_open(const kvt_pool *pool, uint64_t generation, bool receiver, kvt **out,
                         diag *d);

/* Gives the side its connected socket, taken over either way. */
MUST_USE status tcp_attach(kvt *k, int fd, const seal_keys *keys, diag *d);

bool tcp_attached(const kvt *k);

#endif
