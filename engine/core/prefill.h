/* prefill.h -- the prefill worker's column of the protocol table.
 *
 * Purpose    What a P does with each message and event about a request in each of its states: NONE,
 *            WORK, granted, handed (engine/core/README.md has the table; names in brackets such as
 *            [R5] are its rules).
 * Ownership  Works on the core's state.
 * Threads    The owner thread of the core.
 * Limits     None of its own.
 */
#ifndef ENGINE_CORE_PREFILL_H
#define ENGINE_CORE_PREFILL_H

#include "engine/core/core_state.h"

/* Messages; the link they came on is up and of the right kind. */
void prefill_submit(core *c, uint32_t peer, const message *m);
void prefill_grant(core *c, uint32_t peer, const message *m);
void prefill_queued(core *c, uint32_t peer, const message *m);
void prefill_refused(core *c, uint32_t peer, const message *m);
void prefill_adopted(core *c, uint32_t peer, const message *m);
void prefill_cancel(core *c, uint32_t peer, const message *m);

/* Link events; the link's transfers are over already. */
void prefill_worker_down(core *c, uint32_t peer);
void prefill_gateway_down(core *c, uint32_t peer);

/* Leases and parked grants that have ended. */
void prefill_tick(core *c);

/* Everything goes back to the gateways: this worker ends. */
void prefill_hand_back(core *c);

/* Takes pages for the whole prompt, those found in the prefix cache first, evicting ungranted work
 * that comes after it where it must. All or none: work that has started never waits for pages, so
 * granted work always finishes. */
bool prefill_start(core *c, record *r);

/* Takes the pages of one record that may lose them to `for_record` (NULL: to decoding, which goes
 * before all ungranted work). False: there is none. */
bool prefill_evict(core *c, const record *for_record);

/* `rows` more tokens of the prompt are computed. `samples` [choices] when these were the last and
 * first tokens were wanted, else NULL. */
void prefill_computed(core *c, record *r, int32_t rows, const request_token *samples);

/* The grant is lost: D, its link or its patience is gone. The pages stay, but can be taken [R7]. */
void prefill_lose_grant(record *r);

#endif
