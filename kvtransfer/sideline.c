/* sideline.c -- a connection and a timer in one epoll descriptor. */
#define _GNU_SOURCE
#include "kvtransfer/sideline.h"

#include <sys/epoll.h>
#include <sys/timerfd.h>
#include <unistd.h>

status sideline_open(sideline *s) {
    struct epoll_event e = {.events = (uint32_t)EPOLLET | EPOLLIN};
    *s = (sideline){.epoll_fd = epoll_create1(EPOLL_CLOEXEC),
                    .timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC)};
    return s->epoll_fd < 0 || s->timer_fd < 0 ||
                   epoll_ctl(s->epoll_fd, EPOLL_CTL_ADD, s->timer_fd, &e) != 0
               ? STATUS_IO
               : STATUS_OK;
}

static void close_fd(int fd) {
    if (fd >= 0) {
        (void)close(fd);
    }
}

void sideline_close(sideline *s) {
    wire_close(s->wire);
    close_fd(s->timer_fd);
    close_fd(s->epoll_fd);
}

status sideline_attach(sideline *s, int fd, const seal_keys *keys, const char *who, diag *d) {
    struct epoll_event e = {.events = (uint32_t)EPOLLET | EPOLLIN | EPOLLOUT | EPOLLRDHUP};
    wire *w = NULL;
    if (s->wire) {
        (void)close(fd);
        return status_fail(d, STATUS_INVALID, "%s: the channel has its connection", who);
    }
    status made = wire_open_waiting(SIDELINE_BYTES_MAX, &w);
    if (made != STATUS_OK) {
        (void)close(fd);
        return status_fail(d, made, "%s: no memory for a connection", who);
    }
    made = wire_attach(w, fd, keys);
    if (made != STATUS_OK || epoll_ctl(s->epoll_fd, EPOLL_CTL_ADD, fd, &e) != 0) {
        wire_close(w);
        return status_fail(d, STATUS_IO, "%s: polling the connection", who);
    }
    s->wire = w;
    return STATUS_OK;
}

bool sideline_say(sideline *s, str text) {
    return wire_send(s->wire, text, -1) == STATUS_OK && wire_flush(s->wire);
}

void sideline_tick(sideline *s, bool on) {
    if (on != s->ticking) {
        long ns = on ? SIDELINE_TICK_US * 1000L : 0;
        struct itimerspec t = {{0, ns}, {0, ns}};
        (void)timerfd_settime(s->timer_fd, 0, &t, NULL);
        s->ticking = on;
    }
}

int sideline_event_fd(const sideline *s) {
    return s->epoll_fd;
}

/* A timer that nobody reads ticks once, and an edge that was taken does not come again: so the edge
 * first. A tick between the two is read, and the next one comes. */
void sideline_event_clear(const sideline *s) {
    struct epoll_event e[2];
    uint64_t ticks;
    (void)epoll_wait(s->epoll_fd, e, 2, 0);
    ssize_t read_bytes = read(s->timer_fd, &ticks, sizeof ticks);
    (void)read_bytes;
}
