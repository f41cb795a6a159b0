/* link.h -- framed messages over a stream socket, with file descriptors.
 *
 * Purpose    Carries whole messages between processes over a connected stream socket without ever
 *            blocking: what cannot be sent now waits in a bounded buffer, what has half arrived
 *            waits for its rest. On Unix sockets a message may carry one file descriptor.
 * Ownership  link_open takes the socket; link_close closes it, and every descriptor not yet handed
 *            over. A received descriptor is the caller's.
 * Threads    One thread at a time.
 * Limits     A message is at most LIMIT_MESSAGE_BYTES; at most link_options.out_bytes_max wait to
 *            be sent: a peer that never reads is a dead peer, not a growing one.
 * Format     Eight bytes before each message: magic, flags, length (all little-endian).
 */
#ifndef ENGINE_BASE_LINK_H
#define ENGINE_BASE_LINK_H

#include <stdbool.h>

#include "engine/base/str.h"

typedef struct link link;

typedef enum {
    LINK_MESSAGE, /* one message was returned */
    LINK_AGAIN,   /* nothing whole has arrived */
    LINK_CLOSED   /* the peer is gone, or what it sent is no message; close the link */
} link_result;

/* Makes `fd` non-blocking, close-on-exec, and TCP_NODELAY where that applies. */
MUST_USE status link_open(int fd, size_t out_bytes_max, link **out);
void link_close(link *l);
int link_fd(const link *l);

/* Queues a message; `fd` (or -1) is duplicated, so the caller keeps its own. Fails with
 * STATUS_LIMIT when too much is waiting and STATUS_CLOSED when the peer is known to be gone. */
MUST_USE status link_send(link *l, str message, int fd);

/* Writes what the socket takes now. False when the peer is gone. */
bool link_flush(link *l);

/* True while something waits to be sent: poll for POLLOUT. */
bool link_wants_write(const link *l);

/* The next message; `message` is valid until the next call on this link. `fd` is -1 when the
 * message carried none. */
link_result link_receive(link *l, str *message, int *fd);

/* Two connected links' sockets in one call (socketpair). */
MUST_USE status link_pair(int fds[2]);

#endif
