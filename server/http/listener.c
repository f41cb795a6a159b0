/* listener.c -- bind, listen, and the filter that turns SYNs away. */
#define _GNU_SOURCE
#include "server/http/listener.h"

#include <errno.h>
#include <linux/filter.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdio.h>
#include <sys/socket.h>
#include <unistd.h>

#include "engine/base/check.h"

enum { TCP_FLAGS_OFFSET = 13, TCP_SYN = 0x02, TCP_ACK = 0x10 };

static bool bind_to(int fd, const struct addrinfo *a, bool shared) {
    int one = 1;
    return setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one) == 0 &&
           (!shared || setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &one, sizeof one) == 0) &&
           bind(fd, a->ai_addr, a->ai_addrlen) == 0 && (shared || listen(fd, SOMAXCONN) == 0);
}

status listener_open(const char *host, uint16_t port, bool shared, int *fd_out, uint16_t *port_out,
                     diag *d) {
    char service[8];
    snprintf(service, sizeof service, "%u", (unsigned)port);
    struct addrinfo hints = {
        .ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE};
    struct addrinfo *list = NULL;
    int code = getaddrinfo(host, service, &hints, &list);
    if (code != 0) {
        return status_fail_param(d, STATUS_INVALID, "host", "%s: %s", host, gai_strerror(code));
    }
    int fd = -1;
    for (struct addrinfo *a = list; fd < 0 && a != NULL; a = a->ai_next) {
        fd = socket(a->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
        if (fd >= 0 && !bind_to(fd, a, shared)) {
            int saved = errno;
            (void)close(fd);
            errno = saved;
            fd = -1;
        }
    }
    freeaddrinfo(list);
    if (fd < 0) {
        return status_fail_errno(d, STATUS_IO, "cannot listen on %s port %u", host, (unsigned)port);
    }
    struct sockaddr_storage bound = {0};
    socklen_t bytes = sizeof bound;
    CHECK_EQ(getsockname(fd, (struct sockaddr *)&bound, &bytes), 0);
    *port_out = ntohs(bound.ss_family == AF_INET6 ? ((struct sockaddr_in6 *)&bound)->sin6_port
                                                  : ((struct sockaddr_in *)&bound)->sin_port);
    *fd_out = fd;
    return STATUS_OK;
}

status listener_start(int fd, diag *d) {
    return listen(fd, SOMAXCONN) == 0 ? STATUS_OK : status_fail_errno(d, STATUS_IO, "listening");
}

/* A socket filter sees segments from the TCP header on; one that returns 0 drops the segment. What
 * is accepted from now on inherits the filter, and never gets a SYN. */
status listener_leave(int fd, diag *d) {
    struct sock_filter program[] = {
        BPF_STMT(BPF_LD | BPF_B | BPF_ABS, TCP_FLAGS_OFFSET),
        BPF_STMT(BPF_ALU | BPF_AND | BPF_K, TCP_SYN | TCP_ACK),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, TCP_SYN, 1, 0),
        BPF_STMT(BPF_RET | BPF_K, UINT32_MAX),
        BPF_STMT(BPF_RET | BPF_K, 0),
    };
    struct sock_fprog filter = {sizeof program / sizeof program[0], program};
    return setsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, &filter, sizeof filter) == 0
               ? STATUS_OK
               : status_fail_errno(d, STATUS_IO, "leaving the port");
}
