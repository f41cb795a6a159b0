/* picks.h -- what a step wants of its logits, when the device chooses the tokens.
 *
 * Purpose    Turns the core's wants into rows of ops_sample before a forward pass, and what came
 *            back into tokens after it. The tokens are sampler.h's.
 * Ownership  Memory of the caller's arena; wants are borrowed from the one call to the other.
 * Threads    One thread at a time.
 * Limits     wants_max of picks_create; SAMPLER_EOG_MAX.
 */
#ifndef ENGINE_WORKER_PICKS_H
#define ENGINE_WORKER_PICKS_H

#include "engine/base/arena.h"
#include "engine/core/core.h"
#include "engine/worker/sampler.h"
#include "models/arch/model.h"

typedef struct picks picks;

/* Bytes taken from the arena. */
uint64_t picks_bytes(int32_t wants_max);

/* eog: [eog_count], borrowed. */
MUST_USE status picks_create(arena *a, int32_t wants_max, const int32_t *eog, int32_t eog_count,
                             picks **out);

/* What a choice depends on besides the logits. */
sampler_input picks_input(const core_want *want, const int32_t *eog, int32_t eog_count);

/* Sets the batch's samples, and that its logits stay on the device. */
void picks_ask(picks *p, const core_want *wants, int32_t count, model_batch *batch);

/* results: [count] the tokens, when the batch has run. */
void picks_take(const picks *p, const core_want *wants, int32_t count, request_token *results);

#endif
