/* loadrun.c -- sends requests at their times and collects what comes back. */
#define _GNU_SOURCE
#include "bench/loadrun.h"

#include <math.h>
#include <stdio.h>
#include <sys/epoll.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "bench/loadcall.h"
#include "engine/base/clock.h"
#include "engine/base/mem.h"
#include "engine/base/rng.h"

enum { LOADRUN_EVENTS = 256, LOADRUN_TICK_MS = 100, LOADRUN_BAR = 30 };

typedef struct {
    const loadrun_options *o;
    loadstats *stats;
    loadcall *calls; /* [connections_max] */
    int64_t *idle;   /* [idle_count] calls without a request, last used first */
    int64_t idle_count;
    int64_t started, ended, failed;
    int64_t tokens;
    int64_t start_us;
    int64_t shown_us;
    int epoll_fd, timer_fd;
} loadrun_state;

void loadrun_arrivals(double rate, bool poisson, uint64_t seed, int64_t *out_us, int64_t count) {
    uint64_t random = rng_mix(seed ^ 0x61727269);
    double at_s = 0;
    for (int64_t i = 0; i < count; i++) {
        out_us[i] = (int64_t)(at_s * 1e6);
        /* 1 - u is in (0, 1], so the logarithm is finite. */
        double gap = poisson ? -log(1 - rng_unit(rng_next(&random))) : 1;
        at_s += gap / rate;
    }
}

static void loadrun_finish(loadrun_state *s, loadcall *c) {
    s->ended++;
    s->failed += c->record.result != LOADSTATS_OK;
    s->tokens += c->record.output_tokens;
    if (s->stats != NULL) {
        loadstats_add(s->stats, &c->record);
    }
    s->idle[s->idle_count++] = c - s->calls;
}

static void loadrun_start_one(loadrun_state *s, int64_t scheduled_us) {
    loadcall *c = &s->calls[s->idle[--s->idle_count]];
    c->record = (loadstats_request){.scheduled_us = scheduled_us};
    c->stats = s->stats;
    c->min_tokens = s->o->min_tokens;
    str request = strbuf_str(&s->o->requests[s->started++]);
    if (loadcall_begin(c, request, s->o->stream, s->o->timeout_us)) {
        loadrun_finish(s, c);
    }
}

/* Starts all that is due; the time of the next arrival, or 0 when there is none to wait for. */
static int64_t loadrun_start_due(loadrun_state *s) {
    while (s->started < s->o->requests_count && s->idle_count > 0) {
        int64_t now_us = clock_now_us();
        int64_t due_us = now_us;
        if (s->o->arrivals_us != NULL) {
            due_us = s->start_us + s->o->arrivals_us[s->started];
        }
        if (due_us > now_us) {
            return due_us;
        }
        loadrun_start_one(s, due_us);
    }
    return 0;
}

static void loadrun_set_timer(loadrun_state *s, int64_t at_us) {
    struct itimerspec when = {
        .it_value = {.tv_sec = at_us / 1000000, .tv_nsec = (at_us % 1000000) * 1000}};
    (void)timerfd_settime(s->timer_fd, TFD_TIMER_ABSTIME, &when, NULL);
}

static void loadrun_show(loadrun_state *s, bool last) {
    int64_t now_us = clock_now_us();
    if (!s->o->progress || (!last && now_us - s->shown_us < LOADRUN_TICK_MS * 1000)) {
        return;
    }
    s->shown_us = now_us;
    double seconds = (double)(now_us - s->start_us) / 1e6;
    int64_t filled = s->ended * LOADRUN_BAR / s->o->requests_count;
    char bar[LOADRUN_BAR + 1];
    for (int64_t i = 0; i < LOADRUN_BAR; i++) {
        bar[i] = i < filled ? '#' : '.';
    }
    bar[LOADRUN_BAR] = 0;
    fprintf(stderr, "\r%s [%s] %lld/%lld, %lld failed, %.1f requests/s, %.0f tokens/s \x1b[K%s",
            s->stats != NULL ? "measuring" : "warming up", bar, (long long)s->ended,
            (long long)s->o->requests_count, (long long)s->failed,
            seconds > 0 ? (double)s->ended / seconds : 0,
            seconds > 0 ? (double)s->tokens / seconds : 0, last ? "\n" : "");
}

static void loadrun_loop(loadrun_state *s) {
    int64_t checked_us = 0;
    while (s->ended < s->o->requests_count) {
        int64_t next_us = loadrun_start_due(s);
        loadrun_set_timer(s, next_us); /* 0 disarms */
        struct epoll_event events[LOADRUN_EVENTS];
        int n = s->ended < s->o->requests_count
                    ? epoll_wait(s->epoll_fd, events, LOADRUN_EVENTS, LOADRUN_TICK_MS)
                    : 0;
        for (int i = 0; i < n; i++) {
            if (events[i].data.u64 == UINT64_MAX) {
                uint64_t expirations;
                ssize_t got = read(s->timer_fd, &expirations, sizeof expirations);
                (void)got;
            } else if (loadcall_step(&s->calls[events[i].data.u64], events[i].events)) {
                loadrun_finish(s, &s->calls[events[i].data.u64]);
            }
        }
        int64_t now_us = clock_now_us();
        if (now_us - checked_us > LOADRUN_TICK_MS * 1000) {
            checked_us = now_us;
            for (int64_t i = 0; i < s->o->connections_max; i++) {
                if (s->calls[i].state != LOADCALL_IDLE && loadcall_step(&s->calls[i], 0)) {
                    loadrun_finish(s, &s->calls[i]);
                }
            }
        }
        loadrun_show(s, false);
    }
    loadrun_show(s, true);
}

status loadrun(const loadrun_options *o, loadstats *stats, diag *d) {
    loadrun_state s = {.o = o, .stats = stats};
    if (o->requests_count == 0) {
        return STATUS_OK;
    }
    s.epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    s.timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
    s.calls = mem_calloc((size_t)o->connections_max, sizeof *s.calls);
    s.idle = mem_calloc((size_t)o->connections_max, sizeof *s.idle);
    struct epoll_event timer = {.events = EPOLLIN, .data.u64 = UINT64_MAX};
    status code = STATUS_OK;
    if (s.epoll_fd < 0 || s.timer_fd < 0 || s.calls == NULL || s.idle == NULL ||
        epoll_ctl(s.epoll_fd, EPOLL_CTL_ADD, s.timer_fd, &timer) != 0) {
        code = status_fail_errno(d, STATUS_IO, "the load run cannot be set up");
    } else {
        for (int64_t i = o->connections_max; i-- > 0;) {
            loadcall_open(&s.calls[i], o->to, s.epoll_fd, (uint64_t)i);
            s.idle[s.idle_count++] = i;
        }
        s.start_us = clock_now_us();
        loadrun_loop(&s);
        for (int64_t i = 0; i < o->connections_max; i++) {
            loadcall_close(&s.calls[i]);
        }
    }
    int fds[2] = {s.epoll_fd, s.timer_fd};
    for (int i = 0; i < 2; i++) {
        if (fds[i] >= 0) {
            (void)close(fds[i]);
        }
    }
    mem_free(s.calls);
    mem_free(s.idle);
    return code;
}
