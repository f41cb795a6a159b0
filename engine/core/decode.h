/* decode.h -- the decode worker's column of the protocol table.
 *
 * Purpose    What a D does with each message and event about a request in each of its states: NONE,
 *            QUEUED, RESERVED, DECODING (engine/core/README.md has the table).
 * Ownership  Works on the core's state.
 * Threads    The owner thread of the core.
 * Limits     None of its own.
 */
#ifndef ENGINE_CORE_DECODE_H
#define ENGINE_CORE_DECODE_H

#include "engine/core/core_state.h"

/* Messages; the link they came on is up and of the right kind. */
void decode_reserve(core *c, uint32_t peer, const message *m);
void decode_announce(core *c, uint32_t peer, const message *m);
void decode_handoff(core *c, uint32_t peer, const message *m);
void decode_cancel(core *c, uint32_t peer, const message *m);

/* A posted receive of that record has ended; its pages are unpinned. */
void decode_received(core *c, const links_transfer *t, core_received_result result);

/* Link events; the link's transfers are over already. */
void decode_worker_down(core *c, uint32_t peer);
void decode_gateway_down(core *c, uint32_t peer);

/* Leases and queue deadlines that have ended. */
void decode_tick(core *c);

/* Grants queued requests, those that go on first, oldest first, while there is room. */
void decode_admit(core *c);

/* A prompt that another worker has granted lacks `pages` free ones here: the youngest reservation
 * that waits for its P and whose request comes after `least` is refused (ROLE: it costs the request
 * no retry). False, and nothing changed, when all such reservations together would not be enough.
 * Why that ends every circle: engine/core/README.md, "Roles that change". */
bool decode_yield(core *c, request_id least, uint32_t pages);

/* Out of pages, or out of time: the request goes back to the gateway. */
void decode_preempt(core *c, record *r, message_reason reason);

/* Everything goes back to the gateways: this worker ends. */
void decode_hand_back(core *c);

/* `rows` more tokens of a prompt that D computes itself; `samples` as in prefill_computed. */
void decode_computed(core *c, record *r, int32_t rows, const request_token *samples);

/* A step picked one token for each of `choices[count]` of the record. */
void decode_picked(core *c, record *r, const int32_t *choices, const request_token *tokens,
                   int32_t count);

/* Tells again what the gateway lost, for all records, until the outbox has some [R3]. */
void decode_pump(core *c);

#endif
