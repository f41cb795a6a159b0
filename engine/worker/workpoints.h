/* workpoints.h -- the fault points that a worker's messages pass.
 *
 * Purpose    Every message has a point before it is written, one after, and one where it is heard:
 *            `prefill.before_handoff`, `decode.after_grant`, `prefill.on_posted`. The names are put
 *            together from the side that says or hears it and message_event_name, so a new message
 *            has its points at once. engine/base/README.md lists them.
 * Ownership  None.
 * Threads    Any.
 * Limits     Unarmed, each is one predictable branch.
 */
#ifndef ENGINE_WORKER_WORKPOINTS_H
#define ENGINE_WORKER_WORKPOINTS_H

#include "engine/core/message.h"

/* True: the link is to break here. `roles` are the worker's. */
bool workpoints_before(uint32_t roles, const message *m);
bool workpoints_after(uint32_t roles, const message *m);
bool workpoints_on(uint32_t roles, const message *m);

#endif
