/* hostport.h -- HOST:PORT as users write it, and TCP sockets to and from it.
 *
 * Purpose    Parses and prints addresses, listens, dials without blocking, and sets what every
 *            link between hosts needs: no delay, and an end to links whose other side has silently
 *            gone.
 * Ownership  Descriptors returned are the caller's: non-blocking, close-on-exec.
 * Threads    Any; the functions keep nothing.
 * Limits     Names are resolved when parsed (getaddrinfo: may block for the resolver's time, so
 *            parse at start-up; what peers send must be numeric). IPv4, and IPv6 in brackets.
 */
#ifndef ENGINE_BASE_HOSTPORT_H
#define ENGINE_BASE_HOSTPORT_H

#include <netinet/in.h>
#include <stdbool.h>

#include "engine/base/str.h"

enum { HOSTPORT_TEXT_BYTES = 64, HOSTPORT_DEAD_MS = 5000 };

typedef struct {
    union {
        struct sockaddr any;
        struct sockaddr_in v4;
        struct sockaddr_in6 v6;
    };
    socklen_t bytes;
} hostport;

/* "host:port", "1.2.3.4:5", "[::1]:5". `numeric`: no names, never blocks. */
MUST_USE status hostport_parse(str text, bool numeric, hostport *out, diag *d);
void hostport_print(const hostport *a, char out[HOSTPORT_TEXT_BYTES]);

bool hostport_is_loopback(const hostport *a);
bool hostport_is_any(const hostport *a); /* 0.0.0.0 or [::] */
uint16_t hostport_port(const hostport *a);
void hostport_set_port(hostport *a, uint16_t port);

/* A listening socket; port 0 takes a free one. */
MUST_USE status hostport_listen(const hostport *a, int *fd, diag *d);

/* A connection under way: writable when it is there, or has failed. */
MUST_USE status hostport_dial(const hostport *a, int *fd, diag *d);

/* This end of a socket. */
MUST_USE status hostport_local(int fd, hostport *out);

/* The address of this machine from which `there` is reached, port 0. Nothing is sent. */
MUST_USE status hostport_toward(const hostport *there, hostport *out);

/* No delay; keep-alive and TCP_USER_TIMEOUT end the link after HOSTPORT_DEAD_MS without an answer.
 * Sockets that are not TCP are left as they are. */
void hostport_tune(int fd);

#endif
