/* hostport.c -- addresses and TCP sockets. */
#define _GNU_SOURCE
#include "engine/base/hostport.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netdb.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <sys/socket.h>
#include <unistd.h>

enum { HOST_BYTES = 256, BACKLOG = 64 };

status hostport_parse(str text, bool numeric, hostport *out, diag *d) {
    char host[HOST_BYTES];
    int64_t port;
    size_t colon = text.bytes;
    while (colon > 0 && text.data[colon - 1] != ':') {
        colon--;
    }
    str name = str_of(text.data, colon ? colon - 1 : 0);
    str digits = str_of(text.data + colon, text.bytes - colon);
    bool brackets = name.bytes > 2 && name.data[0] == '[' && name.data[name.bytes - 1] == ']';
    if (brackets) {
        name = str_of(name.data + 1, name.bytes - 2);
    }
    bool colons = str_find(name, str_from(":"), 0) != SIZE_MAX;
    /* A zone (fe80::1%eth0) means something on this machine alone, and addresses are told to
     * others. */
    bool zone = str_find(name, str_from("%"), 0) != SIZE_MAX;
    if (name.bytes == 0 || name.bytes >= sizeof host || colons != brackets || zone ||
        memchr(name.data, 0, name.bytes) || !str_to_i64(digits, 0, 65535, &port)) {
        return status_fail(d, STATUS_INVALID, "\"%.*s\" is no HOST:PORT",
                           (int)(text.bytes < 200 ? text.bytes : 200), text.data);
    }
    (void)snprintf(host, sizeof host, "%.*s", (int)name.bytes, name.data);
    struct addrinfo hints = {.ai_family = AF_UNSPEC,
                             .ai_socktype = SOCK_STREAM,
                             .ai_flags = numeric ? AI_NUMERICHOST : 0};
    struct addrinfo *found;
    int error = getaddrinfo(host, NULL, &hints, &found);
    if (error) {
        return status_fail(d, STATUS_INVALID, "%s: %s", host, gai_strerror(error));
    }
    *out = (hostport){.bytes = found->ai_addrlen};
    bool fits = found->ai_addrlen == sizeof out->v4 || found->ai_addrlen == sizeof out->v6;
    if (fits) {
        memcpy(&out->any, found->ai_addr, found->ai_addrlen);
        hostport_set_port(out, (uint16_t)port);
    }
    freeaddrinfo(found);
    return fits ? STATUS_OK : status_fail(d, STATUS_INVALID, "%s: no IP address", host);
}

void hostport_print(const hostport *a, char out[HOSTPORT_TEXT_BYTES]) {
    char host[INET6_ADDRSTRLEN] = "?";
    bool v6 = a->any.sa_family == AF_INET6;
    const void *address = v6 ? (const void *)&a->v6.sin6_addr : (const void *)&a->v4.sin_addr;
    (void)inet_ntop(a->any.sa_family, address, host, sizeof host);
    (void)snprintf(out, HOSTPORT_TEXT_BYTES, v6 ? "[%s]:%u" : "%s:%u", host, hostport_port(a));
}

bool hostport_is_loopback(const hostport *a) {
    if (a->any.sa_family == AF_INET6) {
        return IN6_IS_ADDR_LOOPBACK(&a->v6.sin6_addr);
    }
    return ntohl(a->v4.sin_addr.s_addr) >> 24 == IN_LOOPBACKNET;
}

bool hostport_is_any(const hostport *a) {
    if (a->any.sa_family == AF_INET6) {
        return IN6_IS_ADDR_UNSPECIFIED(&a->v6.sin6_addr);
    }
    return a->v4.sin_addr.s_addr == htonl(INADDR_ANY);
}

uint16_t hostport_port(const hostport *a) {
    return ntohs(a->any.sa_family == AF_INET6 ? a->v6.sin6_port : a->v4.sin_port);
}

void hostport_set_port(hostport *a, uint16_t port) {
    if (a->any.sa_family == AF_INET6) {
        a->v6.sin6_port = htons(port);
    } else {
        a->v4.sin_port = htons(port);
    }
}

static int stream_socket(const hostport *a) {
    return socket(a->any.sa_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
}

status hostport_listen(const hostport *a, int *fd, diag *d) {
    char text[HOSTPORT_TEXT_BYTES];
    int on = 1;
    hostport_print(a, text);
    *fd = stream_socket(a);
    if (*fd < 0 || setsockopt(*fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) != 0 ||
        bind(*fd, &a->any, a->bytes) != 0 || listen(*fd, BACKLOG) != 0) {
        status s = status_fail_errno(d, STATUS_IO, "listening on %s", text);
        if (*fd >= 0) {
            (void)close(*fd);
        }
        return s;
    }
    return STATUS_OK;
}

status hostport_dial(const hostport *a, int *fd, diag *d) {
    char text[HOSTPORT_TEXT_BYTES];
    hostport_print(a, text);
    *fd = stream_socket(a);
    if (*fd >= 0) {
        hostport_tune(*fd);
    }
    if (*fd < 0 || (connect(*fd, &a->any, a->bytes) != 0 && errno != EINPROGRESS)) {
        status s = status_fail_errno(d, STATUS_IO, "connecting to %s", text);
        if (*fd >= 0) {
            (void)close(*fd);
        }
        return s;
    }
    return STATUS_OK;
}

status hostport_local(int fd, hostport *out) {
    *out = (hostport){.bytes = sizeof out->v6};
    return getsockname(fd, &out->any, &out->bytes) == 0 ? STATUS_OK : STATUS_IO;
}

status hostport_toward(const hostport *there, hostport *out) {
    hostport to = *there;
    if (hostport_port(&to) == 0) {
        hostport_set_port(&to, 9);
    }
    int fd = socket(to.any.sa_family, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    status s = fd >= 0 && connect(fd, &to.any, to.bytes) == 0 ? hostport_local(fd, out) : STATUS_IO;
    if (fd >= 0) {
        (void)close(fd);
    }
    hostport_set_port(out, 0);
    return s;
}

void hostport_tune(int fd) {
    const struct {
        int level, name, value;
    } options[] = {
        {IPPROTO_TCP, TCP_NODELAY, 1},  {SOL_SOCKET, SO_KEEPALIVE, 1},
        {IPPROTO_TCP, TCP_KEEPIDLE, 2}, {IPPROTO_TCP, TCP_KEEPINTVL, 1},
        {IPPROTO_TCP, TCP_KEEPCNT, 3},  {IPPROTO_TCP, TCP_USER_TIMEOUT, HOSTPORT_DEAD_MS}};
    for (size_t i = 0; i < sizeof options / sizeof options[0]; i++) {
        (void)setsockopt(fd, options[i].level, options[i].name, &options[i].value,
                         sizeof options[i].value);
    }
}
