/* cpupool.h -- compute threads that share out the items of one job.
 *
 * Purpose    Runs fn(context, item, thread) for every item. Each thread begins with a run of items
 *            of its own and then takes from the others', so a thread the system has put aside
 *            delays only the item it holds. The caller works too. Idle threads spin for some tens
 *            of microseconds, then sleep on a futex.
 * Ownership  cpupool_open holds threads until cpupool_close.
 * Threads    cpupool_run: one thread at a time.
 * Limits     1 <= threads <= LIMIT_THREADS; items < 2^31.
 */
#ifndef KERNELS_CPU_CPUPOOL_H
#define KERNELS_CPU_CPUPOOL_H

#include <stdint.h>

#include "engine/base/status.h"

typedef struct cpupool cpupool;

/* `thread` is 0 .. threads - 1, fixed for a thread: an index for scratch memory. */
typedef void (*cpupool_fn)(void *context, int32_t item, int32_t thread);

MUST_USE status cpupool_open(int32_t threads, cpupool **out, diag *d);
void cpupool_close(cpupool *p);

/* Gives jobs to the first `threads` threads from now on (1 .. those opened); the others sleep. For
 * cores that are lent: results never depend on it. */
void cpupool_use(cpupool *p, int32_t threads);

/* Items that need not wait for each other. */
typedef struct {
    cpupool_fn fn;
    void *context;
    int32_t items; /* at least 1 */
} cpupool_phase;

/* Phases one after another: every item of one is done before the next begins. Returns when all are
 * done. Threads go from phase to phase by themselves, which takes a fraction of a run's time. */
void cpupool_phases(cpupool *p, const cpupool_phase *phases, int32_t count);

/* One phase, of any number of items. */
void cpupool_run(cpupool *p, cpupool_fn fn, void *context, int32_t items);

#endif
