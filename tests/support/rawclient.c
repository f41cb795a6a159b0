/* rawclient.c -- a TCP client that sends exactly the bytes a test says. */
#define _GNU_SOURCE
#include "tests/support/rawclient.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "engine/base/check.h"
#include "engine/base/clock.h"
#include "engine/base/mem.h"

void rawclient_open(rawclient *c, uint16_t port) {
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(port)};
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    CHECK(c->fd >= 0);
    CHECK_EQ(connect(c->fd, (struct sockaddr *)&to, sizeof to), 0);
    c->got = mem_calloc(1, RAWCLIENT_BYTES + 1);
    CHECK(c->got != NULL);
    c->got_bytes = 0;
    c->ended = false;
}

void rawclient_close(rawclient *c) {
    (void)close(c->fd);
    mem_free(c->got);
    c->got = NULL;
}

bool rawclient_send(rawclient *c, const void *data, size_t bytes) {
    const char *p = data;
    while (bytes > 0) {
        ssize_t n = send(c->fd, p, bytes, MSG_NOSIGNAL);
        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n <= 0) {
            return false;
        }
        p += n;
        bytes -= (size_t)n;
    }
    return true;
}

bool rawclient_send_z(rawclient *c, const char *text) {
    return rawclient_send(c, text, strlen(text));
}

/* One read; false at the end or the deadline. */
static bool rawclient_read(rawclient *c, int64_t end_us) {
    int64_t left_us = end_us - clock_now_us();
    struct pollfd p = {.fd = c->fd, .events = POLLIN};
    if (c->ended || left_us <= 0 || poll(&p, 1, (int)(left_us / 1000) + 1) <= 0) {
        return false;
    }
    char scratch[4096];
    size_t room = RAWCLIENT_BYTES - c->got_bytes;
    char *to = room > 0 ? c->got + c->got_bytes : scratch;
    ssize_t n = recv(c->fd, to, room > 0 ? room : sizeof scratch, 0);
    if (n <= 0) {
        c->ended = true; /* a reset counts as an end */
        return false;
    }
    if (room > 0) {
        c->got_bytes += (size_t)n;
        c->got[c->got_bytes] = 0;
    }
    return true;
}

bool rawclient_wait_for(rawclient *c, const char *text) {
    int64_t end_us = clock_now_us() + RAWCLIENT_WAIT_MS * 1000LL;
    while (memmem(c->got, c->got_bytes, text, strlen(text)) == NULL) {
        if (!rawclient_read(c, end_us)) {
            return false;
        }
    }
    return true;
}

bool rawclient_wait_end(rawclient *c) {
    int64_t end_us = clock_now_us() + RAWCLIENT_WAIT_MS * 1000LL;
    while (rawclient_read(c, end_us)) {
    }
    return c->ended;
}

int rawclient_status(const rawclient *c, int n) {
    const char *at = c->got;
    for (int i = 0;; i++) {
        at = memmem(at, c->got_bytes - (size_t)(at - c->got), "HTTP/1.1 ", 9);
        if (at == NULL) {
            return 0;
        }
        at += 9;
        if (i == n) {
            return (int)strtol(at, NULL, 10);
        }
    }
}

void rawclient_clear(rawclient *c) {
    c->got_bytes = 0;
    c->got[0] = 0;
}
