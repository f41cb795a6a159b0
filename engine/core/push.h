/* push.h -- P's half of a transfer: announcing groups of pages as they are finished.
 *
 * Purpose    What a P announces to a D that granted room, in which order, and how it answers POSTED
 *            and refused announcements; the HANDOFF at the end.
 * Ownership  Works on the core's state.
 * Threads    The owner thread of the core.
 * Limits     LINKS_SENDS_MAX unfinished groups a link; the rest waits.
 */
#ifndef ENGINE_CORE_PUSH_H
#define ENGINE_CORE_PUSH_H

#include "engine/core/core_state.h"

/* Messages from D; the link they came on is up. */
void push_posted(core *c, uint32_t peer, const message *m);
void push_reject(core *c, uint32_t peer, const message *m);

/* Announces finished groups and hands over, for all records, until the outbox has some. */
void push_pump(core *c);

#endif
