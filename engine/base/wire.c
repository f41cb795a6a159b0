/* wire.c -- framing, buffering and descriptor passing over a stream socket.
 *
 * A descriptor rides on the first byte of its message (SCM_RIGHTS, unix(7)). The kernel never
 * merges bytes that carry descriptors with bytes that follow, but it may hand over a message's
 * descriptor before its last byte, so received descriptors queue up and a frame that says it has
 * one takes the oldest. */
#define _GNU_SOURCE
#include "engine/base/wire.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <unistd.h>

#include "engine/base/bytes.h"
#include "engine/base/check.h"
#include "engine/base/limits.h"
#include "engine/base/mem.h"

enum {
    HEADER_BYTES = 8,
    MAGIC = 0x4C57, /* "WL" */
    FLAG_FD = 1,
    FLAG_SEALED = 2,
    FDS_MAX = 16, /* descriptors waiting in one direction */
    READ_BYTES = 64 << 10
};

typedef struct {
    int fd;
    uint64_t offset; /* in the stream: the first byte of its message */
} waiting_fd;

struct wire {
    int fd; /* -1: still to come */
    bool dead;
    bool sealed;
    bool forged; /* a tag was wrong: nothing after it is looked at */
    seal_keys keys;
    uint64_t frames_sent, frames_received; /* the counters under the tags */
    strbuf in;
    size_t in_used; /* bytes at the front of `in` already handed out */
    strbuf out;
    uint64_t out_sent; /* stream offset of out.data[0] */
    waiting_fd out_fds[FDS_MAX];
    int out_fds_count;
    int in_fds[FDS_MAX];
    int in_fds_count;
};

status wire_open_waiting(size_t out_bytes_max, wire **out) {
    wire *l = mem_calloc(1, sizeof *l);
    if (!l) {
        return STATUS_NOMEM;
    }
    l->fd = -1;
    l->in = strbuf_make(LIMIT_MESSAGE_BYTES + HEADER_BYTES + SEAL_TAG_BYTES + READ_BYTES);
    l->out = strbuf_make(out_bytes_max);
    *out = l;
    return STATUS_OK;
}

static status prepare_socket(int fd) {
    int flags = fcntl(fd, F_GETFL);
    if (flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0 ||
        fcntl(fd, F_SETFD, FD_CLOEXEC) < 0) {
        return STATUS_IO;
    }
    int on = 1; /* refused on Unix sockets, which have no delay to switch off */
    (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    return STATUS_OK;
}

status wire_open(int fd, size_t out_bytes_max, wire **out) {
    wire *l;
    TRY(wire_open_waiting(out_bytes_max, &l));
    if (prepare_socket(fd) != STATUS_OK) {
        wire_close(l); /* which has not taken the socket over */
        return STATUS_IO;
    }
    l->fd = fd;
    *out = l;
    return STATUS_OK;
}

void wire_close(wire *l) {
    if (!l) {
        return;
    }
    for (int i = 0; i < l->out_fds_count; i++) {
        (void)close(l->out_fds[i].fd);
    }
    for (int i = 0; i < l->in_fds_count; i++) {
        (void)close(l->in_fds[i]);
    }
    if (l->fd >= 0) {
        (void)close(l->fd);
    }
    strbuf_close(&l->in);
    strbuf_close(&l->out);
    mem_free(l);
}

int wire_fd(const wire *l) {
    return l->fd;
}

bool wire_wants_write(const wire *l) {
    return !l->dead && l->fd >= 0 && l->out.bytes > 0;
}

static void put_header(uint8_t out[HEADER_BYTES], uint32_t bytes, int flags) {
    bytes_put(out, MAGIC, 2);
    out[2] = (uint8_t)flags;
    out[3] = 0;
    bytes_put(out + 4, bytes, 4);
}

static void make_tag(const uint8_t key[SEAL_KEY_BYTES], uint64_t counter, const void *header,
                     str message, uint8_t out[SEAL_TAG_BYTES]) {
    seal s;
    seal_start(&s, key, counter);
    seal_add(&s, header, HEADER_BYTES);
    seal_add(&s, message.data, message.bytes);
    seal_finish(&s, out);
}

/* Room is reserved by the caller, so nothing here fails. */
static bool put_frame(wire *l, str message, int flags) {
    uint8_t header[HEADER_BYTES];
    put_header(header, (uint32_t)message.bytes, flags | (l->sealed ? FLAG_SEALED : 0));
    bool put = strbuf_append(&l->out, header, HEADER_BYTES) && strbuf_append_str(&l->out, message);
    if (put && l->sealed) {
        uint8_t tag[SEAL_TAG_BYTES];
        make_tag(l->keys.send, l->frames_sent++, header, message, tag);
        put = strbuf_append(&l->out, tag, SEAL_TAG_BYTES);
    }
    return put;
}

status wire_send(wire *l, str message, int fd) {
    if (l->dead) {
        return STATUS_CLOSED;
    }
    CHECK(message.bytes <= LIMIT_MESSAGE_BYTES);
    CHECK(fd < 0 || (!l->sealed && l->fd >= 0));
    /* A waiting wire's frames get their tags later: they have room from the start. */
    size_t frame_bytes =
        HEADER_BYTES + message.bytes + (l->sealed || l->fd < 0 ? SEAL_TAG_BYTES : 0);
    if (l->out.bytes + frame_bytes > l->out.bytes_max || (fd >= 0 && l->out_fds_count == FDS_MAX)) {
        return STATUS_LIMIT;
    }
    if (fd >= 0) {
        int copy = fcntl(fd, F_DUPFD_CLOEXEC, 0);
        if (copy < 0) {
            return STATUS_IO;
        }
        l->out_fds[l->out_fds_count++] = (waiting_fd){copy, l->out_sent + l->out.bytes};
    }
    if (!strbuf_reserve(&l->out, frame_bytes) || !put_frame(l, message, fd >= 0 ? FLAG_FD : 0)) {
        l->dead = true; /* half a frame must never be followed by another */
        return STATUS_NOMEM;
    }
    return STATUS_OK;
}

bool wire_takes_fd(const wire *l) {
    return !l->dead && l->out_fds_count < FDS_MAX;
}

status wire_attach(wire *l, int fd, const seal_keys *keys) {
    CHECK(l->fd < 0);
    l->fd = fd;
    if (prepare_socket(fd) != STATUS_OK) {
        l->dead = true;
        return STATUS_IO;
    }
    if (!keys) {
        return STATUS_OK;
    }
    l->sealed = true;
    l->keys = *keys;
    strbuf waiting = l->out;
    l->out = strbuf_make(waiting.bytes_max + waiting.bytes / HEADER_BYTES * SEAL_TAG_BYTES);
    for (size_t at = 0; at < waiting.bytes;) {
        uint32_t bytes = (uint32_t)bytes_get((const uint8_t *)waiting.data + at + 4, 4);
        l->dead = l->dead || !put_frame(l, str_of(waiting.data + at + HEADER_BYTES, bytes), 0);
        at += HEADER_BYTES + bytes;
    }
    strbuf_close(&waiting);
    return l->dead ? STATUS_NOMEM : STATUS_OK;
}

/* Sends up to the next descriptor's first byte, or from it, with the descriptor. */
static ssize_t send_some(wire *l) {
    size_t bytes = l->out.bytes;
    bool with_fd = false;
    if (l->out_fds_count > 0) {
        uint64_t ahead = l->out_fds[0].offset - l->out_sent;
        with_fd = ahead == 0;
        if (!with_fd && ahead < bytes) {
            bytes = (size_t)ahead;
        } else if (with_fd && l->out_fds_count > 1 && l->out_fds[1].offset - l->out_sent < bytes) {
            bytes = (size_t)(l->out_fds[1].offset - l->out_sent);
        }
    }
    struct iovec iov = {l->out.data, bytes};
    union {
        struct cmsghdr align;
        char bytes[CMSG_SPACE(sizeof(int))];
    } control;
    struct msghdr m = {.msg_iov = &iov, .msg_iovlen = 1};
    if (with_fd) {
        m.msg_control = control.bytes;
        m.msg_controllen = sizeof control.bytes;
        struct cmsghdr *c = CMSG_FIRSTHDR(&m);
        c->cmsg_level = SOL_SOCKET;
        c->cmsg_type = SCM_RIGHTS;
        c->cmsg_len = CMSG_LEN(sizeof(int));
        memcpy(CMSG_DATA(c), &l->out_fds[0].fd, sizeof(int));
    }
    ssize_t sent = sendmsg(l->fd, &m, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (sent > 0 && with_fd) {
        (void)close(l->out_fds[0].fd);
        l->out_fds_count--;
        memmove(l->out_fds, l->out_fds + 1, (size_t)l->out_fds_count * sizeof l->out_fds[0]);
    }
    return sent;
}

bool wire_flush(wire *l) {
    size_t done = 0;
    while (!l->dead && l->fd >= 0 && l->out.bytes > 0) {
        ssize_t sent = send_some(l);
        if (sent < 0 && errno == EINTR) {
            continue;
        }
        if (sent < 0 && (errno == EAGAIN || errno == EWOULDBLOCK || errno == ETOOMANYREFS)) {
            break; /* the last: of this user, as many descriptors are on their way as may be */
        }
        if (sent <= 0) {
            l->dead = true;
            break;
        }
        done = (size_t)sent;
        l->out_sent += done;
        strbuf_consume(&l->out, done);
    }
    return !l->dead;
}

static void keep_fds(wire *l, struct msghdr *m) {
    for (struct cmsghdr *c = CMSG_FIRSTHDR(m); c; c = CMSG_NXTHDR(m, c)) {
        if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS) {
            continue;
        }
        size_t count = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
        for (size_t i = 0; i < count; i++) {
            int fd;
            memcpy(&fd, CMSG_DATA(c) + i * sizeof fd, sizeof fd);
            if (l->in_fds_count < FDS_MAX) {
                l->in_fds[l->in_fds_count++] = fd;
            } else {
                (void)close(fd);
                l->dead = true;
            }
        }
    }
    if (m->msg_flags & MSG_CTRUNC) {
        l->dead = true;
    }
}

/* Reads once; false when nothing came. */
static bool read_some(wire *l) {
    if (l->in_used) {
        strbuf_consume(&l->in, l->in_used);
        l->in_used = 0;
    }
    if (!strbuf_reserve(&l->in, READ_BYTES)) {
        l->dead = true;
        return false;
    }
    struct iovec iov = {l->in.data + l->in.bytes, READ_BYTES};
    union {
        struct cmsghdr align;
        char bytes[CMSG_SPACE(sizeof(int) * FDS_MAX)];
    } control;
    struct msghdr m = {.msg_iov = &iov,
                       .msg_iovlen = 1,
                       .msg_control = control.bytes,
                       .msg_controllen = sizeof control.bytes};
    ssize_t got;
    do {
        got = recvmsg(l->fd, &m, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
    } while (got < 0 && errno == EINTR);
    if (got < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) {
        return false;
    }
    if (got <= 0) {
        l->dead = true;
        return false;
    }
    keep_fds(l, &m);
    l->in.bytes += (size_t)got;
    return true;
}

static bool header_fits(const wire *l, const uint8_t *p) {
    int flags = l->sealed ? FLAG_SEALED : p[2] & FLAG_FD;
    return (p[0] | p[1] << 8) == MAGIC && p[2] == flags && p[3] == 0 &&
           bytes_get(p + 4, 4) <= LIMIT_MESSAGE_BYTES;
}

/* A whole frame at the front of `in`, if there is one. */
static wire_result take_frame(wire *l, str *message, int *fd) {
    const uint8_t *p = (const uint8_t *)l->in.data + l->in_used;
    size_t have = l->in.bytes - l->in_used;
    if (have < HEADER_BYTES) {
        return WIRE_AGAIN;
    }
    if (!header_fits(l, p)) {
        l->dead = true;
        return WIRE_CLOSED;
    }
    size_t bytes = bytes_get(p + 4, 4);
    size_t frame_bytes = HEADER_BYTES + bytes + (l->sealed ? SEAL_TAG_BYTES : 0);
    if (have < frame_bytes) {
        return WIRE_AGAIN;
    }
    *message = str_of((const char *)p + HEADER_BYTES, bytes);
    *fd = -1;
    if (l->sealed) {
        uint8_t tag[SEAL_TAG_BYTES];
        make_tag(l->keys.receive, l->frames_received++, p, *message, tag);
        if (!seal_equal(tag, p + HEADER_BYTES + bytes)) {
            l->dead = l->forged = true;
            return WIRE_CLOSED;
        }
    }
    if (p[2] & FLAG_FD) {
        if (l->in_fds_count == 0) {
            l->dead = true;
            return WIRE_CLOSED;
        }
        *fd = l->in_fds[0];
        l->in_fds_count--;
        memmove(l->in_fds, l->in_fds + 1, (size_t)l->in_fds_count * sizeof l->in_fds[0]);
    }
    l->in_used += frame_bytes;
    return WIRE_MESSAGE;
}

wire_result wire_receive(wire *l, str *message, int *fd) {
    if (l->fd < 0 && !l->dead) {
        return WIRE_AGAIN;
    }
    while (!l->forged) {
        /* What a peer said before it died is still heard. */
        wire_result r = l->in.data ? take_frame(l, message, fd) : WIRE_AGAIN;
        if (r != WIRE_AGAIN) {
            return r;
        }
        if (l->dead) {
            return WIRE_CLOSED;
        }
        if (!read_some(l) && !l->dead) {
            return WIRE_AGAIN;
        }
    }
    return WIRE_CLOSED;
}

status wire_pair(int fds[2]) {
    return socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) == 0 ? STATUS_OK : STATUS_IO;
}
