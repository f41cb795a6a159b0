/* sched.h -- continuous batching: what the next step computes, and what its results mean.
 *
 * Purpose    Fills a batch: first one row for every sequence that decodes, then chunks of prompts
 *            in the order granted, local, ungranted, each oldest first and before those the ones
 *            that go on from another worker (record.h).
 * Ownership  The batch is the core's; records in it stay in place until the step ends.
 * Threads    The owner thread of the core; another thread reads the batch meanwhile.
 * Limits     core_options: rows, logit rows and sequences of a step.
 * Exactness  A row's result does not depend on the rest of the batch, so how steps are put together
 *            is for latency alone.
 * Source     Chunked prefill: Agrawal et al., "Sarathi-Serve", OSDI 2024; continuous batching: Yu
 *            et al., "Orca", OSDI 2022.
 */
#ifndef ENGINE_CORE_SCHED_H
#define ENGINE_CORE_SCHED_H

#include "engine/core/core_state.h"

uint64_t sched_bytes(const core_options *o);
MUST_USE status sched_open(core *c, arena *a);

/* Puts the lane's next step together; false when there is nothing to compute. */
bool sched_plan(core *c, uint32_t lane);

/* Applies the results of the lane's step in flight. */
void sched_commit(core *c, uint32_t lane, const request_token *results, int32_t results_count);

#endif
