/* cpupool.c -- compute threads: a counter of items for each, a short spin, then a futex.
 *
 * A phase's items are cut into one run a thread; who has done its own takes from the others' runs.
 * So what a thread reads lies together, and is the same from one job to the next, as long as nobody
 * is late. Whoever does a phase's last item opens the next one: no thread waits for the caller.
 *
 * A thread's `ticket` holds the phase's generation (high half) and the items left in its run (low
 * half); it waits for another generation, and sleeps on that half. Taking an item is a
 * compare-and-swap on both, so a thread that wakes up late, with an old generation, takes nothing.
 * The job's fields are read after a take: until that item is done the job cannot end, so they are
 * that job's. (Read before, they could be half of the next job's.)
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
    _Alignas(64) _Atomic uint64_t ticket;
    _Atomic uint32_t sleeps;
    cpupool *pool;
    pthread_t handle;
    int32_t index;
} worker;

struct cpupool {
    _Alignas(64) _Atomic uint32_t done; /* items of this phase that are finished */
    _Alignas(64) _Atomic(const cpupool_phase *) phases;
    _Atomic uint32_t phases_count;
    _Atomic uint32_t base; /* generation of the job's first phase */
    _Atomic int32_t runs;  /* threads the job is given to */
    _Atomic bool stop;
    uint32_t generation; /* the last one used; the caller's */
    int32_t threads;
    int32_t called;  /* threads that jobs are given to now: cpupool_use */
    worker *workers; /* [threads]; the first is the caller */
    arena memory;    /* holds this struct too */
};

static void pause_briefly(void) {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#endif
}

/* The half of a ticket that has the generation. */
static void *generation_word(worker *w) {
    return (uint8_t *)&w->ticket + (__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__ ? 4 : 0);
}

static void futex_wait(worker *w, uint32_t seen) {
    (void)syscall(SYS_futex, generation_word(w), FUTEX_WAIT_PRIVATE, seen, NULL, NULL, 0);
}

static void futex_wake(worker *w) {
    (void)syscall(SYS_futex, generation_word(w), FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
}

static uint32_t generation_of(worker *w) {
    return (uint32_t)(atomic_load_explicit(&w->ticket, memory_order_acquire) >> 32);
}

/* Spins until the generation differs from `seen`; false when the time is over. */
static bool spin_while(worker *w, uint32_t seen, int64_t spin_ns) {
    const int64_t end_ns = clock_now_ns() + spin_ns;
    do {
        for (int i = 0; i < SPINS_PER_CLOCK; i++) {
            if (generation_of(w) != seen) {
                return true;
            }
            pause_briefly();
        }
    } while (clock_now_ns() < end_ns);
    return false;
}

/* Its store comes before its look at `sleeps`, the thread's store before its look at `ticket` (both
 * in the one order of sequential consistency): one of the two sees the other. */
static void call(worker *w, uint32_t generation, uint32_t items) {
    atomic_store(&w->ticket, ((uint64_t)generation << 32) | items);
    if (atomic_load(&w->sleeps) != 0) {
        futex_wake(w);
    }
}

/* The first item of a thread's run. */
static uint32_t run_first(uint32_t items, int32_t runs, int32_t thread) {
    const uint64_t of = (uint64_t)(uint32_t)runs;
    return (uint32_t)(((uint64_t)items * (uint32_t)thread + of - 1) / of);
}

/* By the thread that has done the last item of the phase before, or by the caller. */
static void phase_open(cpupool *p, const cpupool_phase *phase, uint32_t generation, int32_t runs,
                       int32_t thread) {
    const uint32_t items = (uint32_t)phase->items;
    atomic_store_explicit(&p->done, 0, memory_order_relaxed);
    for (int32_t i = 1; i <= runs; i++) { /* its own last: others need not wait for it */
        const int32_t to = (thread + i) % runs;
        const uint32_t first = run_first(items, runs, to), end = run_first(items, runs, to + 1);
        if (first < end) { /* else the phase could end before this thread is told of it */
            call(&p->workers[to], generation, end - first);
        }
    }
}

/* Takes an item of this generation from a thread's run: its number in the run from the end, or 0.
 */
static uint32_t take(worker *from, uint32_t generation) {
    uint64_t ticket = atomic_load_explicit(&from->ticket, memory_order_acquire);
    while ((uint32_t)(ticket >> 32) == generation && (uint32_t)ticket != 0) {
        if (atomic_compare_exchange_weak_explicit(&from->ticket, &ticket, ticket - 1,
                                                  memory_order_acq_rel, memory_order_acquire)) {
            return (uint32_t)ticket;
        }
    }
    return 0;
}

/* After the last item: opens the next phase, or tells the caller that the job is over. */
static void phase_end(cpupool *p, uint32_t generation, int32_t runs, int32_t thread) {
    const uint32_t next = generation + 1 - atomic_load_explicit(&p->base, memory_order_relaxed);
    if (next == atomic_load_explicit(&p->phases_count, memory_order_relaxed)) {
        call(&p->workers[0], generation + 1, 0);
        return;
    }
    const cpupool_phase *phases = atomic_load_explicit(&p->phases, memory_order_relaxed);
    phase_open(p, &phases[next], generation + 1, runs, thread);
}

/* Takes and runs items of this generation until there are none. */
static void work(cpupool *p, uint32_t generation, int32_t thread) {
    const int32_t runs = atomic_load_explicit(&p->runs, memory_order_relaxed);
    uint32_t finished = 0, items = 0;
    for (int32_t i = 0; i < runs; i++) {
        const int32_t from = (thread + i) % runs;
        for (;;) {
            const uint32_t left = take(&p->workers[from], generation);
            if (left == 0) {
                break;
            }
            const cpupool_phase *phase =
                atomic_load_explicit(&p->phases, memory_order_relaxed) +
                (generation - atomic_load_explicit(&p->base, memory_order_relaxed));
            items = (uint32_t)phase->items;
            phase->fn(phase->context, (int32_t)(run_first(items, runs, from + 1) - left), thread);
            finished++;
        }
    }
    /* Told once a phase, not per item: one shared line less to fight for. */
    if (finished > 0 && atomic_fetch_add(&p->done, finished) + finished == items) {
        phase_end(p, generation, runs, thread);
    }
}

/* Waits until a thread is called to another generation than `seen`. */
static uint32_t await(worker *w, uint32_t seen, int64_t spin_ns) {
    if (!spin_while(w, seen, spin_ns)) {
        atomic_store(&w->sleeps, 1);
        while ((uint32_t)(atomic_load(&w->ticket) >> 32) == seen) {
            futex_wait(w, seen);
        }
        atomic_store(&w->sleeps, 0);
    }
    return generation_of(w);
}

static void *worker_main(void *argument) {
    worker *w = argument;
    cpupool *p = w->pool;
    char name[16];
    (void)snprintf(name, sizeof(name), "weir-cpu-%d", (int)w->index);
    (void)pthread_setname_np(pthread_self(), name);
    uint32_t seen = 0;
    for (;;) {
        seen = await(w, seen, SPIN_WORKER_NS);
        if (atomic_load_explicit(&p->stop, memory_order_acquire)) {
            return NULL;
        }
        work(p, seen, w->index);
    }
}

void cpupool_use(cpupool *p, int32_t threads) {
    p->called = threads < 1 ? 1 : threads > p->threads ? p->threads : threads;
}

void cpupool_phases(cpupool *p, const cpupool_phase *phases, int32_t count) {
    int32_t most = 0;
    for (int32_t i = 0; i < count; i++) {
        CHECK_LT(0, phases[i].items);
        most = phases[i].items > most ? phases[i].items : most;
    }
    if (p->called == 1 || most <= 1) {
        for (int32_t i = 0; i < count; i++) {
            for (int32_t item = 0; item < phases[i].items; item++) {
                phases[i].fn(phases[i].context, item, 0);
            }
        }
        return;
    }
    const uint32_t first = p->generation + 1, over = first + (uint32_t)count;
    p->generation = over;
    atomic_store_explicit(&p->phases, phases, memory_order_relaxed);
    atomic_store_explicit(&p->phases_count, (uint32_t)count, memory_order_relaxed);
    atomic_store_explicit(&p->base, first, memory_order_relaxed);
    atomic_store_explicit(&p->runs, p->called, memory_order_relaxed);
    phase_open(p, phases, first, p->called, 0);
    worker *caller = &p->workers[0];
    uint32_t seen = generation_of(caller);
    while (seen != over) {
        work(p, seen, 0);
        seen = await(caller, seen, SPIN_CALLER_NS);
    }
}

void cpupool_run(cpupool *p, cpupool_fn fn, void *context, int32_t items) {
    CHECK_LE(0, items);
    const cpupool_phase phase = {fn, context, items};
    if (items > 0) {
        cpupool_phases(p, &phase, 1);
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
        worker *w = &p->workers[i];
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
        call(&p->workers[i], p->generation + 1, 0);
        (void)pthread_join(p->workers[i].handle, NULL);
    }
    arena memory = p->memory;
    arena_close(&memory);
}
