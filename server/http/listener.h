/* listener.h -- listening sockets: one's own, or one of several processes' on one port.
 *
 * Purpose    Binds, and lets a process that shares its port leave it without losing a connection.
 * Ownership  The descriptor is the caller's to close.
 * Threads    Any.
 * Limits     Processes that share a port are of one user (Linux's rule).
 *
 * Several sockets on one port (SO_REUSEPORT) share its connections by a hash of their addresses.
 * When one of them closes, connections whose handshake is under way or that nobody has accepted yet
 * are reset with it. So a process that leaves first has its socket drop SYNs: clients send them
 * again after a second, and then meet another process. What had begun goes on, is accepted, and
 * then the socket can close.
 */
#ifndef SERVER_HTTP_LISTENER_H
#define SERVER_HTTP_LISTENER_H

#include <stdbool.h>
#include <stdint.h>

#include "engine/base/status.h"

/* A socket on the first address of `host` that works; port 0: any free one. `shared`: others may be
 * on the port too; it does not listen yet, as from then on it has its share of what comes. */
MUST_USE status listener_open(const char *host, uint16_t port, bool shared, int *fd_out,
                              uint16_t *port_out, diag *d);

MUST_USE status listener_start(int fd, diag *d);

/* Connections that begin from now on are left to others. */
MUST_USE status listener_leave(int fd, diag *d);

#endif
