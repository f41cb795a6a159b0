/* timed.h -- the timed backend: a worker that sleeps where it would compute.
 *
 * Purpose    Fleets of dozens of workers on two cores, with the real processes, messages and KV
 *            transfers. A token's KV is a hash of the token and of the KV before it; the next token
 *            is a hash of all KV read through the block table, so one wrong, stale or missing page
 *            changes the tokens, and nothing else does: not the batch, the chunks or the worker.
 *            Of the sampling parameters, stop ids, max_tokens, min_tokens, ignore_eos and, above
 *            temperature 0, the seed count; the others don't. Log probabilities are made up.
 * Ownership  timed_open holds the pool until timed_close. The profile is copied.
 * Threads    timed_run: the step thread; timed_kv_page: any thread, as model_kv_page.
 * Limits     One layer of 8 bytes a token.
 */
#ifndef ENGINE_WORKER_TIMED_H
#define ENGINE_WORKER_TIMED_H

#include "engine/core/core.h"
#include "engine/worker/timedprofile.h"
#include "models/arch/model.h"

typedef struct timed timed;

typedef struct {
    const char *model_path;   /* its name, context and vocabulary are taken, its weights not */
    const char *profile_path; /* NULL or "": the default profile */
    uint64_t kv_bytes;        /* of a pool of KV as the profile has it; at least one context */
    int32_t context_tokens;   /* 0: what the model was trained for */
    const int32_t *eog;       /* [eog_count] must outlive the model */
    int32_t eog_count;
} timed_options;

/* Returns when the profile's start time has passed. */
MUST_USE status timed_open(const timed_options *options, timed **out, diag *d);
void timed_close(timed *t);

const model_info *timed_info(const timed *t);
const timedprofile *timed_profile(const timed *t);

/* The bytes of a page: [model_info.kv_layer_page_bytes]. */
uint8_t *timed_kv_page(const timed *t, uint32_t page);

/* A step in two halves: the copies and all rows' KV, then a sleep until the step, begun at
 * `started_us`, has lasted as long as the profile says; and the results, [wants_count]. */
void timed_run(timed *t, const core_batch *b, int64_t started_us);
void timed_results(const timed *t, const core_batch *b, request_token *results);

#endif
