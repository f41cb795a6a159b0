/* mesh.c -- one epoll of listener, accepted and dialled connections in their handshake. */
#define _GNU_SOURCE
#include "engine/net/mesh.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <unistd.h>

#include "engine/base/check.h"
#include "engine/base/clock.h"
#include "engine/base/log.h"
#include "engine/base/mem.h"

enum {
    LINES_MAX = MESH_HALF_OPEN + MESH_CALLS,
    TAG_LISTENER = LINES_MAX,
    TAG_WATCHED,
    ACCEPTS_PER_TURN = 16
};

/* One connection on its way. */
typedef struct {
    bool used, dialled, connecting, writing;
    int fd;
    int64_t due_us; /* of its end, if it is not done by then */
    uint64_t tag;
    hostport address; /* dialled: of whom; accepted: who dialled */
    handshake_result result;
    handshake shake;
} line;

struct mesh {
    mesh_options options;
    int epoll_fd, listen_fd;
    hostport address;
    mesh_counts counts;
    line lines[LINES_MAX]; /* the accepted ones first */
};

uint64_t mesh_new_epoch(void) {
    uint64_t random = 0;
    ssize_t n = getrandom(&random, sizeof random, 0);
    (void)n; /* without it the time still tells lives apart */
    return (uint64_t)clock_wall_us() << 10 | (random & 1023);
}

status mesh_open(const mesh_options *options, mesh **out, diag *d) {
    mesh *m = mem_calloc(1, sizeof *m);
    if (!m) {
        return status_fail(d, STATUS_NOMEM, "no memory for connections to other hosts");
    }
    m->options = *options;
    m->listen_fd = -1;
    m->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    if (m->epoll_fd < 0) {
        mem_free(m);
        return status_fail_errno(d, STATUS_IO, "epoll");
    }
    *out = m;
    return STATUS_OK;
}

static void line_end(mesh *m, line *l, bool keep_fd) {
    (void)epoll_ctl(m->epoll_fd, EPOLL_CTL_DEL, l->fd, NULL);
    if (!keep_fd) {
        (void)close(l->fd);
    }
    *l = (line){.used = false};
}

void mesh_close(mesh *m) {
    if (!m) {
        return;
    }
    for (int i = 0; i < LINES_MAX; i++) {
        if (m->lines[i].used) {
            line_end(m, &m->lines[i], false);
        }
    }
    if (m->listen_fd >= 0) {
        (void)close(m->listen_fd);
    }
    (void)close(m->epoll_fd);
    mem_free(m);
}

void mesh_set_self(mesh *m, const handshake_ident *self) {
    m->options.self = *self;
}

status mesh_listen(mesh *m, const hostport *address, diag *d) {
    CHECK(m->listen_fd < 0);
    TRY(hostport_listen(address, &m->listen_fd, d));
    struct epoll_event e = {.events = EPOLLIN, .data.u32 = TAG_LISTENER};
    if (hostport_local(m->listen_fd, &m->address) != STATUS_OK ||
        epoll_ctl(m->epoll_fd, EPOLL_CTL_ADD, m->listen_fd, &e) != 0) {
        return status_fail_errno(d, STATUS_IO, "polling the listening socket");
    }
    return STATUS_OK;
}

hostport mesh_address(const mesh *m) {
    return m->address;
}

int mesh_fd(const mesh *m) {
    return m->epoll_fd;
}

mesh_counts mesh_get_counts(const mesh *m) {
    return m->counts;
}

bool mesh_watch(mesh *m, int fd) {
    struct epoll_event e = {.events = EPOLLIN | EPOLLOUT | (uint32_t)EPOLLET,
                            .data.u32 = TAG_WATCHED};
    return epoll_ctl(m->epoll_fd, EPOLL_CTL_ADD, fd, &e) == 0;
}

void mesh_unwatch(mesh *m, int fd) {
    (void)epoll_ctl(m->epoll_fd, EPOLL_CTL_DEL, fd, NULL);
}

/* ---- lines ---------------------------------------------------------------------------------- */

static line *free_line(mesh *m, int first, int end) {
    for (int i = first; i < end; i++) {
        if (!m->lines[i].used) {
            return &m->lines[i];
        }
    }
    return NULL;
}

static bool poll_line(mesh *m, line *l, uint32_t events, int how) {
    struct epoll_event e = {.events = events, .data.u32 = (uint32_t)(l - m->lines)};
    return epoll_ctl(m->epoll_fd, how, l->fd, &e) == 0;
}

static bool begin(mesh *m, line *l, const mesh_call *call) {
    handshake_options o = {.self = m->options.self,
                           .version_min = m->options.version_min,
                           .version_max = m->options.version_max};
    memcpy(o.key, m->options.key, sizeof o.key);
    if (getrandom(o.nonce, sizeof o.nonce, 0) != (ssize_t)sizeof o.nonce) {
        return false;
    }
    if (call) {
        o.purpose = call->purpose;
        o.expects = call->expects;
        o.expected = call->expected;
        memcpy(o.token, call->token, sizeof o.token);
    }
    handshake_start(&l->shake, call != NULL, &o);
    l->result = HANDSHAKE_MORE;
    return poll_line(m, l, call ? EPOLLOUT : EPOLLIN, EPOLL_CTL_ADD);
}

status mesh_dial(mesh *m, const mesh_call *call, int64_t now_us) {
    line *l = free_line(m, MESH_HALF_OPEN, LINES_MAX);
    int fd;
    if (!l) {
        return STATUS_LIMIT;
    }
    /* A failure here is told like one later on: with an event. */
    *l = (line){.used = true,
                .dialled = true,
                .connecting = true,
                .fd = -1,
                .due_us = now_us + MESH_CALL_US,
                .tag = call->tag,
                .address = call->address};
    if (hostport_dial(&call->address, &fd, &l->shake.why) == STATUS_OK) {
        l->fd = fd;
        if (begin(m, l, call)) {
            return STATUS_OK;
        }
        (void)status_fail(&l->shake.why, STATUS_IO, "no memory for a connection");
    }
    l->due_us = 0;
    return STATUS_OK;
}

/* The oldest handshake makes room: one that is honest is done long before 31 others come. */
static line *line_for_stranger(mesh *m) {
    line *l = free_line(m, 0, MESH_HALF_OPEN);
    if (!l) {
        l = &m->lines[0];
        for (int i = 1; i < MESH_HALF_OPEN; i++) {
            l = m->lines[i].due_us < l->due_us ? &m->lines[i] : l;
        }
        m->counts.crowded_out++;
        line_end(m, l, false);
    }
    return l;
}

static void accept_some(mesh *m, int64_t now_us) {
    for (int i = 0; i < ACCEPTS_PER_TURN; i++) {
        hostport from = {.bytes = sizeof from.v6};
        int fd = accept4(m->listen_fd, &from.any, &from.bytes, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fd < 0) {
            return;
        }
        hostport_tune(fd);
        line *l = line_for_stranger(m);
        *l = (line){.used = true, .fd = fd, .due_us = now_us + MESH_HANDSHAKE_US, .address = from};
        if (!begin(m, l, NULL)) {
            line_end(m, l, false);
        }
    }
}

/* ---- events --------------------------------------------------------------------------------- */

/* Writes what the handshake has to say; false when the connection is broken. */
static bool write_line(mesh *m, line *l) {
    handshake *h = &l->shake;
    if (h->out_bytes == 0) {
        return true;
    }
    ssize_t n = send(l->fd, h->out, h->out_bytes, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (n < 0 && errno != EAGAIN && errno != EINTR) {
        return false;
    }
    if (n > 0) {
        h->out_bytes -= (size_t)n;
        memmove(h->out, h->out + n, h->out_bytes);
    }
    bool waits = h->out_bytes > 0;
    if (waits != l->writing) {
        l->writing = waits;
        return poll_line(m, l, EPOLLIN | (waits ? (uint32_t)EPOLLOUT : 0u), EPOLL_CTL_MOD);
    }
    return true;
}

/* Reads exactly what the handshake wants; false when the connection is broken. */
static bool read_line(mesh *m, line *l) {
    uint8_t part[HANDSHAKE_FRAME_BYTES];
    while (l->result == HANDSHAKE_MORE && l->shake.out_bytes == 0) {
        ssize_t n = recv(l->fd, part, handshake_wants(&l->shake), MSG_DONTWAIT);
        if (n < 0 && (errno == EAGAIN || errno == EINTR)) {
            return true;
        }
        if (n <= 0) {
            return false;
        }
        l->result = handshake_feed(&l->shake, part, (size_t)n);
        if (!write_line(m, l)) {
            return l->result == HANDSHAKE_REFUSED;
        }
    }
    return true;
}

static bool fail(mesh *m, line *l, mesh_event *out) {
    char address[HOSTPORT_TEXT_BYTES];
    *out = (mesh_event){.type = MESH_FAILED,
                        .tag = l->tag,
                        .fd = -1,
                        .refused = l->result == HANDSHAKE_REFUSED,
                        .why = l->shake.why};
    hostport_print(&l->address, address);
    m->counts.refused += out->refused;
    if (!l->dialled && out->refused) {
        LOG(WARN, "mesh", "connection refused", "from=%s why=\"%s\"", address, out->why.text);
    }
    bool tell = l->dialled;
    if (l->fd >= 0) {
        line_end(m, l, false);
    } else {
        *l = (line){.used = false};
    }
    return tell;
}

static bool finish(mesh *m, line *l, mesh_event *out) {
    const handshake *h = &l->shake;
    *out = (mesh_event){.type = l->dialled ? MESH_CONNECTED : MESH_ACCEPTED,
                        .tag = l->tag,
                        .fd = l->fd,
                        .peer = h->peer,
                        .purpose = h->purpose,
                        .version = h->version,
                        .keys = h->keys};
    memcpy(out->token, h->token, sizeof out->token);
    memcpy(out->secret, h->secret, sizeof out->secret);
    m->counts.accepted += !l->dialled;
    m->counts.connected += l->dialled;
    line_end(m, l, true);
    return true;
}

/* Moves a line on; true when there is something to tell of it. */
static bool step(mesh *m, line *l, mesh_event *out) {
    bool whole = true;
    if (l->connecting) {
        int error = 0;
        socklen_t bytes = sizeof error;
        (void)getsockopt(l->fd, SOL_SOCKET, SO_ERROR, &error, &bytes);
        if (error) {
            char address[HOSTPORT_TEXT_BYTES];
            hostport_print(&l->address, address);
            (void)status_fail(&l->shake.why, STATUS_IO, "connecting to %s: %s", address,
                              strerror(error));
            return fail(m, l, out);
        }
        l->connecting = false;
        l->writing = true; /* as it was dialled; write_line puts that right */
    }
    whole = write_line(m, l) && read_line(m, l);
    if (l->result == HANDSHAKE_REFUSED) {
        return fail(m, l, out);
    }
    if (whole && l->result == HANDSHAKE_DONE && l->shake.out_bytes == 0) {
        return finish(m, l, out);
    }
    if (!whole) {
        (void)status_fail(&l->shake.why, STATUS_CLOSED, "the other side hung up in the handshake");
        return fail(m, l, out);
    }
    return false;
}

static bool expire(mesh *m, int64_t now_us, mesh_event *out) {
    for (int i = 0; i < LINES_MAX; i++) {
        line *l = &m->lines[i];
        if (!l->used || now_us < l->due_us) {
            continue;
        }
        if (l->due_us) {
            m->counts.timed_out++;
            (void)status_fail(&l->shake.why, STATUS_TIMEOUT, "no answer within %d ms",
                              (l->dialled ? MESH_CALL_US : MESH_HANDSHAKE_US) / 1000);
        }
        if (fail(m, l, out)) {
            return true;
        }
    }
    return false;
}

bool mesh_next(mesh *m, int64_t now_us, mesh_event *out) {
    struct epoll_event e;
    while (epoll_wait(m->epoll_fd, &e, 1, 0) == 1) {
        if (e.data.u32 == TAG_LISTENER) {
            accept_some(m, now_us);
        } else if (e.data.u32 != TAG_WATCHED && step(m, &m->lines[e.data.u32], out)) {
            return true;
        }
    }
    return expire(m, now_us, out);
}
