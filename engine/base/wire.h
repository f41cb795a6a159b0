/* wire.h -- framed messages over a stream socket, with file descriptors.
 *
 * Purpose    Carries whole messages between processes over a connected stream socket without ever
 *            blocking: what cannot be sent now waits in a bounded buffer, what has half arrived
 *            waits for its rest. On Unix sockets a message may carry one file descriptor.
 * Ownership  wire_open takes the socket; wire_close closes it, and every descriptor not yet handed
 *            over. A received descriptor is the caller's.
 * Threads    One thread at a time.
 * Limits     A message is at most LIMIT_MESSAGE_BYTES; at most wire_options.out_bytes_max wait to
 *            be sent: a peer that never reads is a dead peer, not a growing one.
 * Format     Eight bytes before each message: magic, flags, length (all little-endian). On a sealed
 *            wire (between hosts) a tag over counter, header and message follows each message, and
 *            no frame without one is taken.
 */
#ifndef ENGINE_BASE_WIRE_H
#define ENGINE_BASE_WIRE_H

#include <stdbool.h>

#include "engine/base/seal.h"
#include "engine/base/str.h"

typedef struct wire wire;

typedef enum {
    WIRE_MESSAGE, /* one message was returned */
    WIRE_AGAIN,   /* nothing whole has arrived */
    WIRE_CLOSED   /* the peer is gone, or what it sent is no message; close the wire */
} wire_result;

/* Makes `fd` non-blocking, close-on-exec, and TCP_NODELAY where that applies. */
MUST_USE status wire_open(int fd, size_t out_bytes_max, wire **out);

/* A wire whose socket is still to come: what is sent waits, nothing is received. */
MUST_USE status wire_open_waiting(size_t out_bytes_max, wire **out);

/* Gives a waiting wire its connected socket, taken over either way, and the keys of its frames
 * (NULL: plain). */
MUST_USE status wire_attach(wire *l, int fd, const seal_keys *keys);

void wire_close(wire *l);
int wire_fd(const wire *l); /* -1 while it waits for its socket */

/* Queues a message; `fd` (or -1) is duplicated, so the caller keeps its own. Fails with
 * STATUS_LIMIT when too much is waiting and STATUS_CLOSED when the peer is known to be gone. */
MUST_USE status wire_send(wire *l, str message, int fd);

/* Whether a message with a descriptor can be queued now: few of those may wait at once. */
bool wire_takes_fd(const wire *l);

/* Writes what the socket takes now. False when the peer is gone. */
bool wire_flush(wire *l);

/* True while something waits to be sent: poll for POLLOUT. */
bool wire_wants_write(const wire *l);

/* The next message; `message` is valid until the next call on this wire. `fd` is -1 when the
 * message carried none. */
wire_result wire_receive(wire *l, str *message, int *fd);

/* Two connected wires' sockets in one call (socketpair). */
MUST_USE status wire_pair(int fds[2]);

#endif
