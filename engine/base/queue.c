/* queue.c -- a ring under a mutex. The eventfd's count is 1 while the queue holds something (or is
 * shut) and 0 otherwise; it changes under the lock, so poll never misses an item. */
#define _GNU_SOURCE
#include "engine/base/queue.h"

#include <errno.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include "engine/base/check.h"
#include "engine/base/clock.h"

status queue_open(queue *q, arena *a, uint32_t items_max, size_t item_bytes, bool with_fd,
                  diag *d) {
    CHECK(items_max >= 1 && item_bytes >= 1);
    memset(q, 0, sizeof *q);
    q->fd = -1;
    q->items_max = items_max;
    q->item_bytes = item_bytes;
    q->items = arena_take(a, items_max, item_bytes, 64);
    if (!q->items) {
        return status_fail(d, STATUS_NOMEM, "queue of %u items: no memory", items_max);
    }
    if (with_fd) {
        q->fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
        if (q->fd < 0) {
            return status_fail_errno(d, STATUS_IO, "eventfd");
        }
    }
    /* Waits are measured on the monotonic clock, so that setting the wall clock moves none. */
    pthread_condattr_t attr;
    CHECK_EQ(pthread_condattr_init(&attr), 0);
    CHECK_EQ(pthread_condattr_setclock(&attr, CLOCK_MONOTONIC), 0);
    CHECK_EQ(pthread_cond_init(&q->filled, &attr), 0);
    CHECK_EQ(pthread_condattr_destroy(&attr), 0);
    /* Who was woken by the descriptor finds the lock held for a moment more: it spins for that. */
    pthread_mutexattr_t kind;
    CHECK_EQ(pthread_mutexattr_init(&kind), 0);
    CHECK_EQ(pthread_mutexattr_settype(&kind, PTHREAD_MUTEX_ADAPTIVE_NP), 0);
    CHECK_EQ(pthread_mutex_init(&q->lock, &kind), 0);
    CHECK_EQ(pthread_mutexattr_destroy(&kind), 0);
    return STATUS_OK;
}

void queue_close(queue *q) {
    CHECK_EQ(pthread_mutex_destroy(&q->lock), 0);
    CHECK_EQ(pthread_cond_destroy(&q->filled), 0);
    if (q->fd >= 0) {
        (void)close(q->fd);
        q->fd = -1;
    }
}

static void fd_raise(queue *q) {
    if (q->fd >= 0) {
        uint64_t one = 1;
        CHECK_EQ(write(q->fd, &one, sizeof one), (ssize_t)sizeof one);
    }
}

static void fd_lower(queue *q) {
    if (q->fd >= 0) {
        uint64_t count;
        CHECK_EQ(read(q->fd, &count, sizeof count), (ssize_t)sizeof count);
    }
}

bool queue_push(queue *q, const void *item) {
    CHECK_EQ(pthread_mutex_lock(&q->lock), 0);
    bool ok = !q->closed && q->count < q->items_max;
    bool wake = ok && q->waiting > 0;
    if (ok) {
        uint32_t at = (uint32_t)(((uint64_t)q->first + q->count) % q->items_max);
        memcpy(q->items + (size_t)at * q->item_bytes, item, q->item_bytes);
        q->count++;
        if (q->count == 1) {
            fd_raise(q);
        }
    }
    if (wake) {
        CHECK_EQ(pthread_cond_signal(&q->filled), 0);
    }
    CHECK_EQ(pthread_mutex_unlock(&q->lock), 0);
    return ok;
}

static bool pop_locked(queue *q, void *item) {
    if (q->count == 0) {
        return false;
    }
    memcpy(item, q->items + (size_t)q->first * q->item_bytes, q->item_bytes);
    q->first = q->first + 1 == q->items_max ? 0 : q->first + 1;
    q->count--;
    if (q->count == 0 && !q->closed) {
        fd_lower(q);
    }
    return true;
}

bool queue_pop(queue *q, void *item) {
    CHECK_EQ(pthread_mutex_lock(&q->lock), 0);
    bool ok = pop_locked(q, item);
    CHECK_EQ(pthread_mutex_unlock(&q->lock), 0);
    return ok;
}

bool queue_pop_wait(queue *q, void *item, int64_t wait_us) {
    int64_t until_us = clock_now_us() + (wait_us > 0 ? wait_us : 0);
    struct timespec until = {(time_t)(until_us / 1000000), (long)(until_us % 1000000) * 1000};
    CHECK_EQ(pthread_mutex_lock(&q->lock), 0);
    int rc = 0;
    while (q->count == 0 && !q->closed && rc != ETIMEDOUT) {
        q->waiting++;
        rc = pthread_cond_timedwait(&q->filled, &q->lock, &until);
        q->waiting--;
        CHECK(rc == 0 || rc == ETIMEDOUT);
    }
    bool ok = pop_locked(q, item);
    CHECK_EQ(pthread_mutex_unlock(&q->lock), 0);
    return ok;
}

void queue_shut(queue *q) {
    CHECK_EQ(pthread_mutex_lock(&q->lock), 0);
    if (!q->closed) {
        q->closed = true;
        if (q->count == 0) {
            fd_raise(q);
        }
        CHECK_EQ(pthread_cond_broadcast(&q->filled), 0);
    }
    CHECK_EQ(pthread_mutex_unlock(&q->lock), 0);
}

uint32_t queue_count(queue *q) {
    CHECK_EQ(pthread_mutex_lock(&q->lock), 0);
    uint32_t count = q->count;
    CHECK_EQ(pthread_mutex_unlock(&q->lock), 0);
    return count;
}
