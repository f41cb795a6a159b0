/* sweeper.c -- the table of connections, and the thread that watches what MHD does not.
 *
 * Why the head is peeked: libmicrohttpd 0.9.75 (Debian 12) accepts folded lines, bare line feeds
 * and two Content-Lengths, and cuts text at NUL bytes, before any callback could object. A socket
 * is therefore MHD's to read only while the next bytes in it are a head that the guard passed. For
 * that a kept connection is suspended when its answer is out and resumed after the next head.
 * Bytes that MHD read ahead (pipelining) never pass: the head MHD parses then differs in length
 * from the one the guard saw, and sweeper_take_head refuses it.
 *
 * MHD also never looks at a suspended socket, so a client that leaves is seen here (EPOLLRDHUP).
 */
#define _GNU_SOURCE
#include "server/sweeper.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "engine/base/check.h"
#include "engine/base/clock.h"
#include "engine/base/log.h"
#include "engine/base/mem.h"
#include "server/reply.h"

enum {
    SWEEPER_EVENTS = 64,
    SWEEPER_PEEKS_MAX = 32, /* of one head at once; after that at most one a tick */
    SWEEPER_ACCEPTS = 64,   /* in a row */
    SWEEPER_RETRY_AFTER_S = 1
};

#define SWEEPER_LISTEN UINT64_MAX
#define SWEEPER_WAKE (UINT64_MAX - 1)

typedef enum {
    SWEEPER_FREE,
    SWEEPER_HEAD,   /* the sweeper waits for a head on a new socket */
    SWEEPER_IDLE,   /* the same on a kept connection, suspended in MHD */
    SWEEPER_BODY,   /* MHD reads head and body, or sends an answer made at once */
    SWEEPER_SERVE,  /* `served` is being worked on */
    SWEEPER_LINGER, /* refused: the answer is out, the client's bytes are thrown away */
    SWEEPER_CLOSING /* shut down; MHD will close it */
} sweeper_state;

struct sweeper_slot {
    int fd;
    uint32_t generation;
    sweeper_state state;
    struct MHD_Connection *connection; /* NULL until MHD has begun with it */
    exchange *served;                  /* a reference while in SWEEPER_SERVE */
    int64_t deadline_us;               /* 0: none */
    uint32_t peeks;                    /* of the head now awaited */
    bool partial;                      /* some of the head is there */
    bool passed;                       /* `head` is good for one sweeper_take_head */
    guard_head head;
    uint8_t address[16];
};

struct sweeper {
    sweeper_options options;
    struct MHD_Daemon *daemon;
    int listen_fd;
    int epoll_fd;
    int wake_fd;
    pthread_t thread;
    bool thread_started;
    char *peeked; /* [LIMIT_HEADER_BYTES] */

    pthread_mutex_t lock;
    sweeper_slot *slots; /* [slots_count] */
    uint32_t slots_count;
    bool draining;
    bool stopping;
    bool ended;
    sweeper_counts counts;
};

static void sweeper_lock(sweeper *s) {
    CHECK_EQ(pthread_mutex_lock(&s->lock), 0);
}

static void sweeper_unlock(sweeper *s) {
    CHECK_EQ(pthread_mutex_unlock(&s->lock), 0);
}

static void sweeper_wake(sweeper *s) {
    uint64_t one = 1;
    ssize_t n = write(s->wake_fd, &one, sizeof one);
    (void)n; /* a full counter wakes as well */
}

/* Watches for `events` from now on; an event that is there already comes again. */
static void sweeper_watch(sweeper *s, sweeper_slot *slot, int operation, uint32_t events) {
    struct epoll_event e = {.events = events | EPOLLET};
    e.data.u64 = ((uint64_t)slot->generation << 32) | (uint64_t)(slot - s->slots);
    if (epoll_ctl(s->epoll_fd, operation, slot->fd, &e) != 0) {
        LOG(ERROR, "http", "epoll_ctl failed", "fd=%d errno=%d", slot->fd, errno);
    }
}

/* The lock is held; the socket is the caller's to close. */
static void sweeper_free_slot(sweeper *s, sweeper_slot *slot) {
    (void)epoll_ctl(s->epoll_fd, EPOLL_CTL_DEL, slot->fd, NULL);
    uint32_t generation = slot->generation + 1;
    memset(slot, 0, sizeof *slot);
    slot->generation = generation;
    slot->fd = -1;
    s->counts.connections--;
}

/* What is left to do once the lock is released. */
typedef struct {
    struct MHD_Connection *resume;
    int hand_fd;    /* to MHD_add_connection, or -1 */
    exchange *left; /* exchange_leave, then exchange_drop */
} sweeper_after;

/* MHD has refused a socket and closed it. */
static void sweeper_forget(sweeper *s, int fd) {
    sweeper_lock(s);
    for (uint32_t i = 0; i < s->slots_count; i++) {
        sweeper_slot *slot = &s->slots[i];
        if (slot->fd == fd && slot->state != SWEEPER_FREE && slot->connection == NULL) {
            sweeper_free_slot(s, slot);
        }
    }
    sweeper_unlock(s);
}

static void sweeper_do_after(sweeper *s, sweeper_after *a) {
    if (a->left != NULL) {
        exchange_leave(a->left);
        exchange_drop(a->left);
    }
    if (a->resume != NULL) {
        MHD_resume_connection(a->resume);
    }
    if (a->hand_fd >= 0) {
        struct sockaddr_in any = {.sin_family = AF_INET};
        if (MHD_add_connection(s->daemon, a->hand_fd, (struct sockaddr *)&any, sizeof any) !=
            MHD_YES) {
            LOG(ERROR, "http", "connection not taken", "fd=%d", a->hand_fd);
            sweeper_forget(s, a->hand_fd);
        }
    }
}

/* The lock is held. The connection is over as far as the sweeper goes: MHD closes what it has. */
static void sweeper_shut(sweeper *s, sweeper_slot *slot, sweeper_after *a) {
    (void)shutdown(slot->fd, SHUT_RDWR);
    if (slot->connection == NULL &&
        (slot->state == SWEEPER_HEAD || slot->state == SWEEPER_LINGER)) {
        int fd = slot->fd;
        sweeper_free_slot(s, slot);
        (void)close(fd);
        return;
    }
    /* Suspended in these two states, so MHD must be woken to see the end. */
    bool suspended = slot->state == SWEEPER_IDLE || slot->state == SWEEPER_LINGER;
    if (suspended) {
        a->resume = slot->connection;
    }
    slot->state = SWEEPER_CLOSING;
    slot->deadline_us = 0;
}

/* The lock is held. Writes a whole answer by hand, then throws away what the client still sends:
 * closing at once would reset the connection and lose the answer on its way. */
static void sweeper_refuse(sweeper *s, sweeper_slot *slot, int code, const char *reason) {
    diag d;
    (void)status_fail(&d, STATUS_INVALID, "%s", reason);
    strbuf body = strbuf_make(4096);
    strbuf text = strbuf_make(8192);
    reply_write_error(&body, code, &d);
    strbuf_printf(&text,
                  "HTTP/1.1 %d %s\r\nContent-Type: application/json\r\nContent-Length: %zu\r\n"
                  "Connection: close\r\n",
                  code, reply_phrase(code), body.bytes);
    if (code == 503) {
        strbuf_printf(&text, "Retry-After: %d\r\n", SWEEPER_RETRY_AFTER_S);
    }
    strbuf_append_z(&text, "\r\n");
    strbuf_append_str(&text, strbuf_str(&body));
    ssize_t n = text.failed ? -1 : send(slot->fd, text.data, text.bytes, MSG_NOSIGNAL);
    (void)n; /* it fits an empty send buffer, or the client is gone */
    strbuf_close(&body);
    strbuf_close(&text);
    (void)shutdown(slot->fd, SHUT_WR);
    slot->state = SWEEPER_LINGER;
    slot->deadline_us = clock_now_us() + SWEEPER_LINGER_US;
    sweeper_watch(s, slot, EPOLL_CTL_MOD, EPOLLIN | EPOLLRDHUP);
}

static void sweeper_linger(sweeper *s, sweeper_slot *slot, sweeper_after *a) {
    for (int i = 0; i < 64; i++) {
        ssize_t n = recv(slot->fd, s->peeked, LIMIT_HEADER_BYTES, MSG_DONTWAIT);
        if (n < 0 && (errno == EAGAIN || errno == EINTR)) {
            return;
        }
        if (n <= 0) {
            break;
        }
    }
    sweeper_shut(s, slot, a);
}

static void sweeper_pass(sweeper *s, sweeper_slot *slot, const guard_head *head, sweeper_after *a) {
    slot->head = *head;
    slot->head.method = str_of(NULL, 0); /* they point into the peek buffer */
    slot->head.target = str_of(NULL, 0);
    slot->passed = true;
    slot->partial = false;
    slot->peeks = 0;
    slot->deadline_us = clock_now_us() + s->options.body_deadline_us;
    sweeper_watch(s, slot, EPOLL_CTL_MOD, EPOLLRDHUP);
    if (slot->state == SWEEPER_HEAD) {
        a->hand_fd = slot->fd;
    } else {
        a->resume = slot->connection;
    }
    slot->state = SWEEPER_BODY;
}

/* The lock is held. Looks at what has come of a head. */
static void sweeper_peek(sweeper *s, sweeper_slot *slot, sweeper_after *a) {
    ssize_t n = recv(slot->fd, s->peeked, LIMIT_HEADER_BYTES, MSG_PEEK | MSG_DONTWAIT);
    if (n < 0 && (errno == EAGAIN || errno == EINTR)) {
        return;
    }
    if (n <= 0) {
        sweeper_shut(s, slot, a);
        return;
    }
    if (!slot->partial) {
        slot->partial = true;
        if (slot->state == SWEEPER_IDLE) {
            slot->deadline_us = clock_now_us() + s->options.head_deadline_us;
        }
    }
    slot->peeks++;
    guard_head head;
    switch (guard_read(s->peeked, (size_t)n, &head)) {
        case GUARD_MORE:
            break;
        case GUARD_PASS:
            sweeper_pass(s, slot, &head, a);
            break;
        case GUARD_REFUSE:
            s->counts.refused_head++;
            sweeper_refuse(s, slot, head.code, head.reason);
            break;
    }
}

/* The lock is held. */
static void sweeper_event(sweeper *s, sweeper_slot *slot, uint32_t events, sweeper_after *a) {
    switch (slot->state) {
        case SWEEPER_HEAD:
        case SWEEPER_IDLE:
            if (slot->peeks < SWEEPER_PEEKS_MAX || (events & (EPOLLRDHUP | EPOLLHUP)) != 0) {
                sweeper_peek(s, slot, a);
            }
            break;
        case SWEEPER_LINGER:
            sweeper_linger(s, slot, a);
            break;
        case SWEEPER_SERVE:
            if ((events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR)) != 0) {
                exchange_hold(slot->served);
                a->left = slot->served;
            }
            break;
        case SWEEPER_FREE:
        case SWEEPER_BODY:
        case SWEEPER_CLOSING:
            break;
    }
}

static void sweeper_slot_event(sweeper *s, uint64_t id, uint32_t events) {
    sweeper_after a = {NULL, -1, NULL};
    sweeper_lock(s);
    sweeper_slot *slot = &s->slots[id & UINT32_MAX];
    if (slot->state != SWEEPER_FREE && slot->generation == (uint32_t)(id >> 32)) {
        sweeper_event(s, slot, events, &a);
    }
    sweeper_unlock(s);
    sweeper_do_after(s, &a);
}

/* The lock is held. A deadline has passed. */
static void sweeper_expire(sweeper *s, sweeper_slot *slot, sweeper_after *a) {
    bool partial_head =
        slot->partial && (slot->state == SWEEPER_HEAD || slot->state == SWEEPER_IDLE);
    if (slot->state != SWEEPER_LINGER) {
        s->counts.expired++;
    }
    if (slot->state == SWEEPER_BODY && slot->connection == NULL) {
        /* MHD had no memory to begin with it, and has closed it. */
        sweeper_free_slot(s, slot);
    } else if (partial_head) {
        sweeper_refuse(s, slot, 408, "the request head did not arrive in time");
    } else {
        sweeper_shut(s, slot, a);
    }
}

static void sweeper_tick_slot(sweeper *s, sweeper_slot *slot, int64_t now_us, sweeper_after *a) {
    exchange *served = NULL;
    sweeper_lock(s);
    if (slot->state == SWEEPER_SERVE) {
        served = slot->served;
        exchange_hold(served);
    } else if (slot->state != SWEEPER_FREE && slot->deadline_us != 0 &&
               now_us >= slot->deadline_us) {
        sweeper_expire(s, slot, a);
    } else if (slot->peeks >= SWEEPER_PEEKS_MAX &&
               (slot->state == SWEEPER_HEAD || slot->state == SWEEPER_IDLE)) {
        sweeper_peek(s, slot, a);
    }
    uint32_t generation = slot->generation;
    sweeper_unlock(s);
    if (served == NULL) {
        return;
    }
    if (exchange_tick(served, now_us)) {
        sweeper_lock(s);
        /* MHD may be stuck in a send that this ends. */
        if (slot->generation == generation && slot->served == served) {
            (void)shutdown(slot->fd, SHUT_RDWR);
        }
        sweeper_unlock(s);
    }
    exchange_drop(served);
}

static void sweeper_tick(sweeper *s) {
    int64_t now_us = clock_now_us();
    for (uint32_t i = 0; i < s->slots_count; i++) {
        sweeper_after a = {NULL, -1, NULL};
        sweeper_tick_slot(s, &s->slots[i], now_us, &a);
        sweeper_do_after(s, &a);
    }
}

/* The address without its port, in IPv6 form. */
static void sweeper_address(const struct sockaddr_storage *from, uint8_t out[16]) {
    memset(out, 0, 16);
    if (from->ss_family == AF_INET6) {
        memcpy(out, &((const struct sockaddr_in6 *)from)->sin6_addr, 16);
    } else if (from->ss_family == AF_INET) {
        memset(out + 10, 0xFF, 2);
        memcpy(out + 12, &((const struct sockaddr_in *)from)->sin_addr, 4);
    }
}

/* The lock is held. */
static bool sweeper_has_room(const sweeper *s, const uint8_t address[16]) {
    uint32_t served = 0;
    uint32_t same = 0;
    for (uint32_t i = 0; i < s->slots_count; i++) {
        const sweeper_slot *slot = &s->slots[i];
        if (slot->state != SWEEPER_FREE && slot->state != SWEEPER_LINGER) {
            served++;
            same += memcmp(slot->address, address, 16) == 0;
        }
    }
    return served < s->options.connections_max &&
           (s->options.per_address_max == 0 || same < s->options.per_address_max);
}

static void sweeper_take(sweeper *s, int fd, const struct sockaddr_storage *from) {
    uint8_t address[16];
    sweeper_address(from, address);
    /* Without it each event of a stream waits for the last one's acknowledgement: 40 ms. */
    int one = 1;
    (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    sweeper_lock(s);
    s->counts.accepted++;
    bool room = sweeper_has_room(s, address);
    s->counts.refused_full += !room;
    sweeper_slot *slot = NULL;
    for (uint32_t i = 0; slot == NULL && i < s->slots_count; i++) {
        slot = s->slots[i].state == SWEEPER_FREE ? &s->slots[i] : NULL;
    }
    if (slot != NULL) {
        s->counts.connections++;
        slot->fd = fd;
        slot->state = SWEEPER_HEAD;
        slot->deadline_us = clock_now_us() + s->options.head_deadline_us;
        memcpy(slot->address, address, 16);
        sweeper_watch(s, slot, EPOLL_CTL_ADD, EPOLLIN | EPOLLRDHUP);
        if (!room) {
            sweeper_refuse(s, slot, 503, "too many connections");
        }
    }
    sweeper_unlock(s);
    if (slot == NULL) {
        (void)close(fd);
    }
}

static void sweeper_accept(sweeper *s) {
    for (int i = 0; i < SWEEPER_ACCEPTS; i++) {
        struct sockaddr_storage from = {0};
        socklen_t bytes = sizeof from;
        int fd =
            accept4(s->listen_fd, (struct sockaddr *)&from, &bytes, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fd < 0) {
            if (errno != EAGAIN && errno != EINTR && errno != ECONNABORTED) {
                /* No descriptors: the pending connection stays; do not spin on it. */
                LOG(WARN, "http", "accept failed", "errno=%d", errno);
                clock_sleep_us(SWEEPER_TICK_US);
            }
            return;
        }
        sweeper_take(s, fd, &from);
    }
}

/* Closes the listening socket and what is idle. */
static void sweeper_begin_drain(sweeper *s) {
    (void)close(s->listen_fd);
    s->listen_fd = -1;
    for (uint32_t i = 0; i < s->slots_count; i++) {
        sweeper_after a = {NULL, -1, NULL};
        sweeper_slot *slot = &s->slots[i];
        sweeper_lock(s);
        if ((slot->state == SWEEPER_IDLE || slot->state == SWEEPER_HEAD) && !slot->partial) {
            sweeper_shut(s, slot, &a);
        }
        sweeper_unlock(s);
        sweeper_do_after(s, &a);
    }
}

static void *sweeper_main(void *arg) {
    sweeper *s = arg;
    int64_t tick_us = 0;
    for (;;) {
        sweeper_lock(s);
        bool draining = s->draining;
        bool ended = s->ended;
        bool busy = s->counts.connections > 0;
        sweeper_unlock(s);
        if (ended) {
            return NULL;
        }
        if (draining && s->listen_fd >= 0) {
            sweeper_begin_drain(s);
        }
        struct epoll_event events[SWEEPER_EVENTS];
        /* An idle server sleeps. */
        int n = epoll_wait(s->epoll_fd, events, SWEEPER_EVENTS, busy ? SWEEPER_TICK_US / 1000 : -1);
        for (int i = 0; i < n; i++) {
            if (events[i].data.u64 == SWEEPER_WAKE) {
                uint64_t count;
                ssize_t got = read(s->wake_fd, &count, sizeof count);
                (void)got;
            } else if (events[i].data.u64 == SWEEPER_LISTEN) {
                sweeper_accept(s);
            } else {
                sweeper_slot_event(s, events[i].data.u64, events[i].events);
            }
        }
        int64_t now_us = clock_now_us();
        if (busy && now_us >= tick_us) {
            sweeper_tick(s);
            tick_us = now_us + SWEEPER_TICK_US;
        }
    }
}

status sweeper_open(const sweeper_options *options, sweeper **out, diag *d) {
    sweeper *s = mem_calloc(1, sizeof *s);
    if (s == NULL) {
        return status_fail(d, STATUS_NOMEM, "no memory for the connection table");
    }
    s->options = *options;
    s->listen_fd = options->listen_fd;
    s->slots_count = options->connections_max + SWEEPER_REFUSED_MAX;
    s->slots = mem_calloc(s->slots_count, sizeof *s->slots);
    s->peeked = mem_alloc(1, LIMIT_HEADER_BYTES);
    s->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    s->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    CHECK_EQ(pthread_mutex_init(&s->lock, NULL), 0);
    struct epoll_event listen = {.events = EPOLLIN, .data.u64 = SWEEPER_LISTEN};
    struct epoll_event wake = {.events = EPOLLIN, .data.u64 = SWEEPER_WAKE};
    if (s->slots == NULL || s->peeked == NULL || s->epoll_fd < 0 || s->wake_fd < 0 ||
        epoll_ctl(s->epoll_fd, EPOLL_CTL_ADD, s->listen_fd, &listen) != 0 ||
        epoll_ctl(s->epoll_fd, EPOLL_CTL_ADD, s->wake_fd, &wake) != 0) {
        status code = status_fail_errno(d, STATUS_IO, "the connection table cannot be set up");
        sweeper_close(s);
        return code;
    }
    for (uint32_t i = 0; i < s->slots_count; i++) {
        s->slots[i].fd = -1;
    }
    *out = s;
    return STATUS_OK;
}

status sweeper_start(sweeper *s, struct MHD_Daemon *daemon, diag *d) {
    s->daemon = daemon;
    if (pthread_create(&s->thread, NULL, sweeper_main, s) != 0) {
        return status_fail(d, STATUS_IO, "the connection thread cannot be started");
    }
    s->thread_started = true;
    (void)pthread_setname_np(s->thread, "http-sweeper");
    return STATUS_OK;
}

void sweeper_drain(sweeper *s) {
    sweeper_lock(s);
    s->draining = true;
    sweeper_unlock(s);
    sweeper_wake(s);
}

/* Shuts what is open; the number of connections left. */
static uint32_t sweeper_shut_all(sweeper *s) {
    for (uint32_t i = 0; i < s->slots_count; i++) {
        sweeper_after a = {NULL, -1, NULL};
        sweeper_slot *slot = &s->slots[i];
        sweeper_lock(s);
        if (slot->state == SWEEPER_SERVE) {
            exchange_hold(slot->served);
            a.left = slot->served;
            (void)shutdown(slot->fd, SHUT_RDWR);
        } else if (slot->state != SWEEPER_FREE && slot->state != SWEEPER_CLOSING) {
            sweeper_shut(s, slot, &a);
        }
        sweeper_unlock(s);
        sweeper_do_after(s, &a);
    }
    sweeper_lock(s);
    uint32_t left = s->counts.connections;
    sweeper_unlock(s);
    return left;
}

void sweeper_stop(sweeper *s, int64_t wait_us) {
    sweeper_lock(s);
    s->draining = true;
    s->stopping = true;
    sweeper_unlock(s);
    sweeper_wake(s);
    int64_t end_us = clock_now_us() + wait_us;
    while (sweeper_shut_all(s) > 0 && clock_now_us() < end_us) {
        clock_sleep_us(1000);
    }
    sweeper_lock(s);
    s->ended = true;
    sweeper_unlock(s);
    sweeper_wake(s);
    if (s->thread_started) {
        CHECK_EQ(pthread_join(s->thread, NULL), 0);
        s->thread_started = false;
    }
}

void sweeper_close(sweeper *s) {
    for (uint32_t i = 0; s->slots != NULL && i < s->slots_count; i++) {
        if (s->slots[i].state != SWEEPER_FREE && s->slots[i].connection == NULL) {
            (void)close(s->slots[i].fd);
        }
    }
    int fds[3] = {s->listen_fd, s->epoll_fd, s->wake_fd};
    for (int i = 0; i < 3; i++) {
        if (fds[i] >= 0) {
            (void)close(fds[i]);
        }
    }
    pthread_mutex_destroy(&s->lock);
    mem_free(s->slots);
    mem_free(s->peeked);
    mem_free(s);
}

void sweeper_count(sweeper *s, sweeper_counts *out) {
    sweeper_lock(s);
    *out = s->counts;
    sweeper_unlock(s);
}

sweeper_slot *sweeper_started(sweeper *s, int fd, struct MHD_Connection *connection) {
    sweeper_lock(s);
    sweeper_slot *found = NULL;
    for (uint32_t i = 0; found == NULL && i < s->slots_count; i++) {
        if (s->slots[i].fd == fd && s->slots[i].state != SWEEPER_FREE) {
            found = &s->slots[i];
            found->connection = connection;
        }
    }
    sweeper_unlock(s);
    return found;
}

void sweeper_closed(sweeper *s, sweeper_slot *slot) {
    sweeper_lock(s);
    CHECK(slot->served == NULL);
    sweeper_free_slot(s, slot);
    sweeper_unlock(s);
}

bool sweeper_take_head(sweeper *s, sweeper_slot *slot, size_t bytes, guard_head *out) {
    sweeper_lock(s);
    bool good = slot->passed && slot->head.bytes == bytes && slot->state == SWEEPER_BODY;
    slot->passed = false;
    *out = slot->head;
    sweeper_unlock(s);
    return good;
}

bool sweeper_serving(sweeper *s, sweeper_slot *slot, exchange *x) {
    sweeper_lock(s);
    bool go = !s->stopping && slot->state == SWEEPER_BODY;
    if (go) {
        exchange_hold(x);
        slot->served = x;
        slot->state = SWEEPER_SERVE;
        slot->deadline_us = 0;
        sweeper_watch(s, slot, EPOLL_CTL_MOD, EPOLLRDHUP);
    }
    sweeper_unlock(s);
    return go;
}

void sweeper_finished(sweeper *s, sweeper_slot *slot, bool keep) {
    sweeper_lock(s);
    exchange *served = slot->served;
    slot->served = NULL;
    bool live = slot->state == SWEEPER_BODY || slot->state == SWEEPER_SERVE;
    if (live && keep && !s->draining && slot->connection != NULL) {
        slot->state = SWEEPER_IDLE;
        slot->deadline_us = clock_now_us() + s->options.idle_deadline_us;
        MHD_suspend_connection(slot->connection);
        sweeper_watch(s, slot, EPOLL_CTL_MOD, EPOLLIN | EPOLLRDHUP);
    } else {
        if (keep) {
            /* MHD would wait for a next request: let it see the end instead. */
            (void)shutdown(slot->fd, SHUT_RD);
        }
        slot->state = SWEEPER_CLOSING;
        slot->deadline_us = 0;
    }
    sweeper_unlock(s);
    if (served != NULL) {
        exchange_drop(served);
    }
}
