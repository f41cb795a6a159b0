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
#include "server/http/sweeper.h"

#include <errno.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "engine/base/clock.h"
#include "engine/base/limits.h"
#include "engine/base/log.h"
#include "engine/base/mem.h"
#include "server/http/listener.h"
#include "server/http/sweeper_table.h"

enum {
    SWEEPER_EVENTS = 64,
    SWEEPER_ACCEPTS = 64,      /* in a row */
    SWEEPER_RUNS = 2,          /* of libmicrohttpd, the same */
    SWEEPER_DRAIN_US = 1000000 /* for a first head, once no more connections are taken */
};

/* Whose thread this is. */
static _Thread_local const sweeper *sweeper_here;

#define SWEEPER_LISTEN UINT64_MAX
#define SWEEPER_WAKE (UINT64_MAX - 1)
#define SWEEPER_MHD (UINT64_MAX - 2)

static void sweeper_wake(sweeper *s) {
    uint64_t one = 1;
    ssize_t n = write(s->wake_fd, &one, sizeof one);
    (void)n; /* a full counter wakes as well */
}

static void sweeper_slot_event(sweeper *s, uint64_t id, uint32_t events) {
    sweeper_after a = {NULL, -1, NULL};
    sweeper_table_lock(s);
    sweeper_slot *slot = &s->slots[id & UINT32_MAX];
    if (slot->state != SWEEPER_FREE && slot->generation == (uint32_t)(id >> 32)) {
        sweeper_heads_event(s, slot, events, &a);
    }
    sweeper_table_unlock(s);
    sweeper_slots_after(s, &a);
}

static void sweeper_tick_slot(sweeper *s, sweeper_slot *slot, int64_t now_us, sweeper_after *a) {
    exchange *served = NULL;
    sweeper_table_lock(s);
    if (slot->state == SWEEPER_SERVE) {
        served = slot->served;
        exchange_hold(served);
    } else if (slot->state != SWEEPER_FREE && slot->deadline_us != 0 &&
               now_us >= slot->deadline_us) {
        sweeper_heads_expire(s, slot, a);
    } else if (slot->peeks >= SWEEPER_PEEKS_MAX &&
               (slot->state == SWEEPER_HEAD || slot->state == SWEEPER_IDLE)) {
        sweeper_heads_peek(s, slot, a);
    } else if (slot->state == SWEEPER_BODY && slot->half_closed) {
        /* MHD takes a read that is shorter than its buffer for all there is, and waits for an edge
         * that the end of the body has already had. This makes a new one. */
        (void)shutdown(slot->fd, SHUT_RD);
    }
    uint32_t generation = slot->generation;
    sweeper_table_unlock(s);
    if (served == NULL) {
        return;
    }
    if (exchange_tick(served, now_us)) {
        sweeper_table_lock(s);
        /* MHD may be stuck in a send that this ends. */
        if (slot->generation == generation && slot->served == served) {
            (void)shutdown(slot->fd, SHUT_RDWR);
        }
        sweeper_table_unlock(s);
    }
    exchange_drop(served);
}

static void sweeper_tick(sweeper *s) {
    int64_t now_us = clock_now_us();
    for (uint32_t i = 0; i < s->slots_count; i++) {
        sweeper_after a = {NULL, -1, NULL};
        sweeper_tick_slot(s, &s->slots[i], now_us, &a);
        sweeper_slots_after(s, &a);
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
        sweeper_slots_take(s, fd, &from);
    }
}

static bool sweeper_has_bytes(const sweeper_slot *slot) {
    char first;
    return recv(slot->fd, &first, 1, MSG_PEEK | MSG_DONTWAIT) > 0;
}

/* Closes the listening socket and what is idle. Who has just connected is about to ask, or has
 * asked already: it gets its answer, if it does not take its time. */
static void sweeper_begin_drain(sweeper *s) {
    sweeper_accept(s);
    (void)close(s->listen_fd);
    s->listen_fd = -1;
    int64_t soon_us = clock_now_us() + SWEEPER_DRAIN_US;
    for (uint32_t i = 0; i < s->slots_count; i++) {
        sweeper_after a = {NULL, -1, NULL};
        sweeper_slot *slot = &s->slots[i];
        sweeper_table_lock(s);
        if (slot->state == SWEEPER_IDLE && !slot->partial && !sweeper_has_bytes(slot)) {
            sweeper_slots_shut(s, slot, &a);
        } else if (slot->state == SWEEPER_HEAD && !slot->partial && slot->deadline_us > soon_us) {
            slot->deadline_us = soon_us;
        }
        sweeper_table_unlock(s);
        sweeper_slots_after(s, &a);
    }
}

/* A turn of libmicrohttpd: what was resumed, what came, what has taken too long. It ends requests a
 * turn after their answer is out: two in a row spare a look at the sockets. */
static void sweeper_run(sweeper *s) {
    s->pending = true;
    for (int i = 0; i < SWEEPER_RUNS && s->pending; i++) {
        MHD_UNSIGNED_LONG_LONG wait_ms = 0;
        (void)atomic_exchange(&s->woken, false); /* first: who comes later wakes us again */
        s->resumed = false;
        (void)MHD_run(s->daemon);
        s->pending =
            s->resumed || (MHD_get_timeout(s->daemon, &wait_ms) == MHD_YES && wait_ms == 0);
    }
}

/* A daemon without a thread of its own has no way to be woken either. Many are woken at once. */
void sweeper_resume(sweeper *s, struct MHD_Connection *connection) {
    MHD_resume_connection(connection);
    if (!s->runs) {
        return;
    }
    if (sweeper_here == s) {
        s->resumed = true;
    } else if (!atomic_exchange(&s->woken, true)) {
        sweeper_wake(s);
    }
}

/* Looks at the heads that came while their connection's answer was going out. */
static void sweeper_look_again(sweeper *s) {
    for (uint32_t i = 0; i < s->again_count; i++) {
        sweeper_slot_event(s, s->again[i], EPOLLIN);
        s->pending = s->pending || s->resumed;
    }
    s->again_count = 0;
}

static void sweeper_handle(sweeper *s, const struct epoll_event *e) {
    if (e->data.u64 == SWEEPER_LISTEN) {
        sweeper_accept(s);
    } else if (e->data.u64 < SWEEPER_MHD) {
        sweeper_slot_event(s, e->data.u64, e->events);
    }
}

/* An idle server sleeps. */
static int sweeper_wait_ms(const sweeper *s, bool busy) {
    return s->pending ? 0 : busy ? SWEEPER_TICK_US / 1000 : -1;
}

static void *sweeper_main(void *arg) {
    sweeper *s = arg;
    int64_t tick_us = 0;
    sweeper_here = s;
    for (;;) {
        sweeper_table_lock(s);
        bool draining = s->draining;
        bool ended = s->ended;
        bool busy = s->counts.connections > 0;
        sweeper_table_unlock(s);
        if (ended) {
            return NULL;
        }
        if (draining && s->listen_fd >= 0) {
            sweeper_begin_drain(s);
        }
        struct epoll_event events[SWEEPER_EVENTS];
        int n = epoll_wait(s->epoll_fd, events, SWEEPER_EVENTS, sweeper_wait_ms(s, busy));
        for (int i = 0; i < n; i++) {
            sweeper_handle(s, &events[i]);
        }
        int64_t now_us = clock_now_us();
        if (busy && now_us >= tick_us) {
            sweeper_tick(s);
            tick_us = now_us + SWEEPER_TICK_US;
        }
        if (s->runs) {
            sweeper_run(s);
            sweeper_look_again(s);
        }
    }
}

static bool sweeper_watch_listener(sweeper *s) {
    struct epoll_event listen = {.events = EPOLLIN, .data.u64 = SWEEPER_LISTEN};
    return epoll_ctl(s->epoll_fd, EPOLL_CTL_ADD, s->listen_fd, &listen) == 0;
}

status sweeper_open(const sweeper_options *options, sweeper **out, diag *d) {
    sweeper *s = mem_calloc(1, sizeof *s);
    if (s == NULL) {
        (void)close(options->listen_fd);
        return status_fail(d, STATUS_NOMEM, "no memory for the connection table");
    }
    s->options = *options;
    s->listen_fd = options->listen_fd;
    s->slots_count = options->connections_max + SWEEPER_REFUSED_MAX;
    s->slots = mem_calloc(s->slots_count, sizeof *s->slots);
    s->peeked = mem_alloc(1, LIMIT_HEADER_BYTES);
    s->again = mem_alloc(s->slots_count, sizeof *s->again);
    s->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    s->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    CHECK_EQ(pthread_mutex_init(&s->lock, NULL), 0);
    /* Each write is an edge, so that nobody needs to read. */
    struct epoll_event wake = {.events = EPOLLIN | EPOLLET, .data.u64 = SWEEPER_WAKE};
    if (s->slots == NULL || s->peeked == NULL || s->again == NULL || s->epoll_fd < 0 ||
        s->wake_fd < 0 || (!options->later && !sweeper_watch_listener(s)) ||
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

static bool sweeper_watch_daemon(sweeper *s) {
    const union MHD_DaemonInfo *info = MHD_get_daemon_info(s->daemon, MHD_DAEMON_INFO_EPOLL_FD);
    struct epoll_event e = {.events = EPOLLIN, .data.u64 = SWEEPER_MHD};
    return info != NULL && epoll_ctl(s->epoll_fd, EPOLL_CTL_ADD, info->epoll_fd, &e) == 0;
}

status sweeper_start(sweeper *s, struct MHD_Daemon *daemon, bool runs, diag *d) {
    s->daemon = daemon;
    s->runs = runs;
    if (runs && !sweeper_watch_daemon(s)) {
        return status_fail_errno(d, STATUS_IO, "the HTTP server's events");
    }
    if (pthread_create(&s->thread, NULL, sweeper_main, s) != 0) {
        return status_fail(d, STATUS_IO, "the connection thread cannot be started");
    }
    s->thread_started = true;
    (void)pthread_setname_np(s->thread, "http-sweeper");
    return STATUS_OK;
}

status sweeper_listen(sweeper *s, diag *d) {
    TRY(listener_start(s->listen_fd, d));
    return sweeper_watch_listener(s) ? STATUS_OK : status_fail_errno(d, STATUS_IO, "listening");
}

status sweeper_leave(sweeper *s, diag *d) {
    return listener_leave(s->listen_fd, d);
}

void sweeper_drain(sweeper *s) {
    sweeper_table_lock(s);
    s->draining = true;
    sweeper_table_unlock(s);
    sweeper_wake(s);
}

/* Shuts what is open; the number of connections left. */
static uint32_t sweeper_shut_all(sweeper *s) {
    for (uint32_t i = 0; i < s->slots_count; i++) {
        sweeper_after a = {NULL, -1, NULL};
        sweeper_slot *slot = &s->slots[i];
        sweeper_table_lock(s);
        if (slot->state == SWEEPER_SERVE) {
            exchange_hold(slot->served);
            a.left = slot->served;
            (void)shutdown(slot->fd, SHUT_RDWR);
        } else if (slot->state != SWEEPER_FREE && slot->state != SWEEPER_CLOSING) {
            sweeper_slots_shut(s, slot, &a);
        }
        sweeper_table_unlock(s);
        sweeper_slots_after(s, &a);
    }
    sweeper_table_lock(s);
    uint32_t left = s->counts.connections;
    sweeper_table_unlock(s);
    return left;
}

void sweeper_stop(sweeper *s, int64_t wait_us) {
    sweeper_table_lock(s);
    s->draining = true;
    s->stopping = true;
    sweeper_table_unlock(s);
    sweeper_wake(s);
    int64_t end_us = clock_now_us() + wait_us;
    while (sweeper_shut_all(s) > 0 && clock_now_us() < end_us) {
        clock_sleep_us(1000);
    }
    sweeper_table_lock(s);
    s->ended = true;
    sweeper_table_unlock(s);
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
    mem_free(s->again);
    mem_free(s);
}

void sweeper_count(sweeper *s, sweeper_counts *out) {
    sweeper_table_lock(s);
    *out = s->counts;
    sweeper_table_unlock(s);
}

sweeper_slot *sweeper_started(sweeper *s, int fd, struct MHD_Connection *connection) {
    sweeper_table_lock(s);
    sweeper_slot *found = NULL;
    for (uint32_t i = 0; found == NULL && i < s->slots_count; i++) {
        if (s->slots[i].fd == fd && s->slots[i].state != SWEEPER_FREE) {
            found = &s->slots[i];
            found->connection = connection;
        }
    }
    sweeper_table_unlock(s);
    return found;
}

void sweeper_closed(sweeper *s, sweeper_slot *slot) {
    sweeper_table_lock(s);
    CHECK(slot->served == NULL);
    sweeper_slots_free(s, slot);
    sweeper_table_unlock(s);
}

bool sweeper_take_head(sweeper *s, sweeper_slot *slot, size_t bytes, guard_head *out) {
    sweeper_table_lock(s);
    bool good = slot->passed && slot->head.bytes == bytes && slot->state == SWEEPER_BODY;
    slot->passed = false;
    *out = slot->head;
    sweeper_table_unlock(s);
    return good;
}

bool sweeper_serving(sweeper *s, sweeper_slot *slot, exchange *x) {
    sweeper_table_lock(s);
    bool go = !s->stopping && slot->state == SWEEPER_BODY && !slot->half_closed;
    if (go) {
        exchange_hold(x);
        slot->served = x;
        slot->state = SWEEPER_SERVE;
        slot->deadline_us = 0;
    }
    sweeper_table_unlock(s);
    return go;
}

void sweeper_finished(sweeper *s, sweeper_slot *slot, bool keep) {
    sweeper_table_lock(s);
    exchange *served = slot->served;
    slot->served = NULL;
    bool live = slot->state == SWEEPER_BODY || slot->state == SWEEPER_SERVE;
    bool watch = false;
    if (live && keep && !s->draining && slot->connection != NULL) {
        slot->state = SWEEPER_IDLE;
        slot->deadline_us = clock_now_us() + s->options.idle_deadline_us;
        MHD_suspend_connection(slot->connection);
        if (slot->early && !slot->half_closed && sweeper_here == s) {
            s->again[s->again_count++] = sweeper_slot_id(s, slot);
        } else {
            watch = slot->early || slot->half_closed;
        }
    } else {
        if (keep) {
            /* MHD would wait for a next request: let it see the end instead. */
            (void)shutdown(slot->fd, SHUT_RD);
        }
        slot->state = SWEEPER_CLOSING;
        slot->deadline_us = 0;
    }
    sweeper_table_unlock(s);
    if (watch) {
        /* Only this thread closes the socket, so it is still the slot's; with the lock held, the
         * sweeper would wake up only to wait. */
        sweeper_slots_watch(s, slot, EPOLL_CTL_MOD, EPOLLIN | EPOLLRDHUP);
    }
    if (served != NULL) {
        exchange_drop(served);
    }
}
