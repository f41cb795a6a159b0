/* workstats.h -- a worker's numbers as metrics.
 *
 * Purpose    Registers the worker's series, copies the core's counters into them, and times each
 *            KV transfer from both ends.
 * Ownership  The arena's.
 * Threads    The owner thread.
 * Limits     WORKSTATS_TRANSFERS_MAX transfers timed at once; more are not timed.
 */
#ifndef ENGINE_WORKER_WORKSTATS_H
#define ENGINE_WORKER_WORKSTATS_H

#include "engine/base/arena.h"
#include "engine/base/metrics.h"
#include "engine/core/core.h"
#include "engine/core/stepcost.h"
#include "engine/worker/pricetable.h"

enum { WORKSTATS_TRANSFERS_MAX = 4096 };

typedef struct workstats workstats;

MUST_USE status workstats_open(arena *a, uint64_t cell_bytes, int64_t now_us, workstats **out);

/* Where series of other files go. */
metrics *workstats_registry(workstats *w);

/* Copies the core's numbers. */
void workstats_refresh(workstats *w, const core *c, int64_t now_us);

/* The series of time, operations and money: of these pools, in the units of `times`, with the
 * shape of the model (zeros: it computes nothing). Once, before the rest. */
void workstats_device(workstats *w, const waste *times, uint32_t roles_able,
                      const stepcost_shape *shape, const pricetable_entry *price);

/* Copies the sums of time. */
void workstats_waste(workstats *w, const waste *times, int64_t now_us);

/* A step took `busy_us`. */
void workstats_step(workstats *w, int32_t rows, int64_t busy_us);

/* What it was put together of. */
void workstats_cost(workstats *w, const core_batch *batch);

/* P: the last group of a request is on its way; D has adopted it. The time between is what the
 * transfer cost beyond the computing (returned; 0 when not known). */
void workstats_handed(workstats *w, request_id request, uint32_t attempt, int64_t now_us);
int64_t workstats_adopted(workstats *w, request_id request, uint32_t attempt, int64_t now_us);

/* D: one group was copied in and checked. */
void workstats_copied(workstats *w, uint64_t bytes, int64_t copy_us);

void workstats_snapshot(const workstats *w, strbuf *out);

#endif
