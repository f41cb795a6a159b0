/* cpupool.c -- compute threads: one counter of items, a short spin, then a futex.
 *
 * `ticket` holds the job's generation (high half) and the items left to take (low half). Taking an
 * item is a compare-and-swap on both, so a thread that wakes up late, with an old generation, takes
 * nothing. The job's fields are read after a take: until that item is done the job cannot end, so
 * they are that job's. (Read before, they could be half of the next job's.)
 */
#define _GNU_SOURCE
#include "kernels/cpu/cpupool.h"

#include <linux/futex.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "engine/base/arena.h"
#include "engine/base/check.h"
#include "engine/base/clock.h"
#include "engine/base/limits.h"

enum {
    SPIN_WORKER_NS = 50000, /* bridges the gap between two operators */
    SPIN_CALLER_NS = 20000,
    SPINS_PER_CLOCK = 64 /* pauses between two looks at the clock */
};

typedef struct {
    _Alignas(64) _Atomic uint32_t wake; /* the last generation it was called to; it sleeps on it */
    _Atomic uint32_t sleeps;
    cpupool *pool;
    pthread_t handle;
    int32_t index;
} worker;

struct cpupool {
    _Alignas(64) _Atomic uint64_t ticket;
    _Alignas(64) _Atomic uint32_t done; /* items finished; the caller sleeps on it */
    _Atomic uint32_t caller_sleeps;
    _Alignas(64) _Atomic(cpupool_fn) fn;
    _Atomic(void *) context;
    _Atomic uint32_t items;
    _Atomic bool stop;
    uint32_t generation; /* of the last job; the caller's */
    int32_t threads;
    int32_t called;  /* threads that jobs are given to now: cpupool_use */
    worker *workers; /* [threads - 1] */
    arena memory;    /* holds this struct too */
};

static void pause_briefly(void) {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#endif
}

static void futex_wait(_Atomic uint32_t *word, uint32_t seen) {
    (void)syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, seen, NULL, NULL, 0);
}

static void futex_wake(_Atomic uint32_t *word, int count) {
    (void)syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, count, NULL, NULL, 0);
}

/* Spins until the word differs from `seen`; false when the time is over. */
static bool spin_while(_Atomic uint32_t *word, uint32_t seen, int64_t spin_ns) {
    const int64_t end_ns = clock_now_ns() + spin_ns;
    do {
        for (int i = 0; i < SPINS_PER_CLOCK; i++) {
            if (atomic_load_explicit(word, memory_order_acquire) != seen) {
                return true;
            }
            pause_briefly();
        }
    } while (clock_now_ns() < end_ns);
    return false;
}

/* Takes and runs items of this generation until there are none. */
static void work(cpupool *p, uint32_t generation, int32_t thread) {
    uint32_t finished = 0;
    uint64_t ticket = atomic_load_explicit(&p->ticket, memory_order_acquire);
    while ((uint32_t)(ticket >> 32) == generation && (uint32_t)ticket != 0) {
        if (atomic_compare_exchange_weak_explicit(&p->ticket, &ticket, ticket - 1,
                                                  memory_order_acq_rel, memory_order_acquire)) {
            const cpupool_fn fn = atomic_load_explicit(&p->fn, memory_order_relaxed);
            void *context = atomic_load_explicit(&p->context, memory_order_relaxed);
            const uint32_t items = atomic_load_explicit(&p->items, memory_order_relaxed);
            fn(context, (int32_t)(items - (uint32_t)ticket), thread);
            finished++;
            ticket = atomic_load_explicit(&p->ticket, memory_order_acquire);
        }
    }
    if (finished == 0) {
        return;
    }
    /* Told once a job, not per item: one shared line less to fight for. */
    atomic_fetch_add(&p->done, finished);
    if (atomic_load(&p->caller_sleeps) != 0) {
        futex_wake(&p->done, 1);
    }
}

static void *worker_main(void *argument) {
    worker *w = argument;
    cpupool *p = w->pool;
    char name[16];
    (void)snprintf(name, sizeof(name), "weir-cpu-%d", (int)w->index);
    (void)pthread_setname_np(pthread_self(), name);
    uint32_t seen = 0;
    for (;;) {
        if (!spin_while(&w->wake, seen, SPIN_WORKER_NS)) {
            atomic_store(&w->sleeps, 1);
            while (atomic_load(&w->wake) == seen) {
                futex_wait(&w->wake, seen);
            }
            atomic_store(&w->sleeps, 0);
        }
        seen = atomic_load_explicit(&w->wake, memory_order_acquire);
        if (atomic_load_explicit(&p->stop, memory_order_acquire)) {
            return NULL;
        }
        work(p, seen, w->index);
    }
}

/* Its store comes before its look at `sleeps`, the worker's store before its look at `wake` (both
 * in the one order of sequential consistency): one of the two sees the other. */
static void call(worker *w, uint32_t generation) {
    atomic_store(&w->wake, generation);
    if (atomic_load(&w->sleeps) != 0) {
        futex_wake(&w->wake, 1);
    }
}

void cpupool_use(cpupool *p, int32_t threads) {
    p->called = threads < 1 ? 1 : threads > p->threads ? p->threads : threads;
}

void cpupool_run(cpupool *p, cpupool_fn fn, void *context, int32_t items) {
    CHECK_LE(0, items);
    if (p->called == 1 || items <= 1) {
        for (int32_t i = 0; i < items; i++) {
            fn(context, i, 0);
        }
        return;
    }
    const uint32_t generation = ++p->generation;
    atomic_store_explicit(&p->fn, fn, memory_order_relaxed);
    atomic_store_explicit(&p->context, context, memory_order_relaxed);
    atomic_store_explicit(&p->items, (uint32_t)items, memory_order_relaxed);
    atomic_store_explicit(&p->done, 0, memory_order_relaxed);
    atomic_store_explicit(&p->ticket, ((uint64_t)generation << 32) | (uint32_t)items,
                          memory_order_release);
    const int32_t called = items < p->called ? items : p->called;
    for (int32_t i = 1; i < called; i++) {
        call(&p->workers[i - 1], generation);
    }
    work(p, generation, 0);
    for (;;) {
        const uint32_t done = atomic_load_explicit(&p->done, memory_order_acquire);
        if (done == (uint32_t)items) {
            return;
        }
        if (!spin_while(&p->done, done, SPIN_CALLER_NS)) {
            atomic_store(&p->caller_sleeps, 1);
            if (atomic_load(&p->done) == done) {
                futex_wait(&p->done, done);
            }
            atomic_store(&p->caller_sleeps, 0);
        }
    }
}

status cpupool_open(int32_t threads, cpupool **out, diag *d) {
    *out = NULL;
    CHECK(threads >= 1 && threads <= LIMIT_THREADS);
    arena memory;
    if (arena_open(&memory, sizeof(cpupool) + (size_t)threads * sizeof(worker) + 4096) !=
        STATUS_OK) {
        return status_fail(d, STATUS_NOMEM, "no memory for a thread pool");
    }
    cpupool *p = ARENA_TAKE(&memory, 1, cpupool);
    worker *workers = ARENA_TAKE(&memory, (size_t)threads, worker);
    CHECK(p != NULL && workers != NULL);
    p->workers = workers;
    p->memory = memory;
    p->threads = 1;
    for (int32_t i = 1; i < threads; i++) {
        worker *w = &p->workers[i - 1];
        w->pool = p;
        w->index = i;
        if (pthread_create(&w->handle, NULL, worker_main, w) != 0) {
            cpupool_close(p);
            return status_fail_errno(d, STATUS_IO, "compute thread %d of %d did not start", (int)i,
                                     (int)threads);
        }
        p->threads = i + 1;
    }
    p->called = threads;
    *out = p;
    return STATUS_OK;
}

void cpupool_close(cpupool *p) {
    if (p == NULL) {
        return;
    }
    atomic_store_explicit(&p->stop, true, memory_order_release);
    for (int32_t i = 1; i < p->threads; i++) {
        call(&p->workers[i - 1], p->generation + 1);
        (void)pthread_join(p->workers[i - 1].handle, NULL);
    }
    arena memory = p->memory;
    arena_close(&memory);
}
