/* queue.h -- a bounded queue from any threads to any threads, with a lock and a wake-up.
 *
 * Purpose    Many threads hand items to one (HTTP connections to the gateway's loop) where a lock
 *            per item does not matter. With an eventfd the consumer can sleep in poll.
 * Ownership  The items' memory is the arena's; queue_close releases lock and descriptor.
 * Threads    Any, after queue_open has returned and before queue_close is called.
 * Limits     The items given at creation; a full queue refuses, which is the back-pressure.
 */
#ifndef ENGINE_BASE_QUEUE_H
#define ENGINE_BASE_QUEUE_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/base/arena.h"
#include "engine/base/status.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
    pthread_mutex_t lock;
    pthread_cond_t filled;
    uint8_t *items; /* [items_max][item_bytes] */
    size_t item_bytes;
    uint32_t items_max;
    uint32_t first;
    uint32_t count;
    uint32_t waiting; /* threads in queue_pop_wait */
    int fd;           /* eventfd or -1 */
    bool closed;      /* queue_shut was called */
} queue;

/* With `with_fd`, queue_fd gives a descriptor that polls readable exactly while the queue holds an
 * item or is shut. */
MUST_USE status queue_open(queue *q, arena *a, uint32_t items_max, size_t item_bytes, bool with_fd,
                           diag *d);
void queue_close(queue *q);

/* Copies one item in; false when full or shut. */
MUST_USE bool queue_push(queue *q, const void *item);

/* Copies the oldest item out; false when empty. */
MUST_USE bool queue_pop(queue *q, void *item);

/* As queue_pop, and waits up to `wait_us` for an item; false when none came or the queue is shut
 * and empty. */
MUST_USE bool queue_pop_wait(queue *q, void *item, int64_t wait_us);

/* No more pushes; what is inside can still be popped, and waiters wake. */
void queue_shut(queue *q);

uint32_t queue_count(queue *q);

static inline int queue_fd(const queue *q) {
    return q->fd;
}

#ifdef __cplusplus
}
#endif
#endif
