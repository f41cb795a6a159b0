/* outbox.h -- the actions an event leaves for the shell, oldest first.
 *
 * Purpose    A bounded list, filled by one core call and emptied by core_next before the next call.
 * Ownership  Memory is the arena's. Tokens that messages point to are copied in here, since the
 *            request they belong to may be gone when the message is encoded.
 * Threads    The owner thread of the core.
 * Limits     The counts given at creation are what one call can produce; more is a bug (CHECK).
 */
#ifndef ENGINE_CORE_OUTBOX_H
#define ENGINE_CORE_OUTBOX_H

#include "engine/core/core.h"

typedef struct {
    core_action *actions;  /* [actions_max] */
    request_token *tokens; /* [tokens_max] */
    uint32_t actions_max, tokens_max;
    uint32_t count, next; /* actions; the next to go out */
    uint32_t tokens_count;
} outbox;

uint64_t outbox_bytes(uint32_t actions_max, uint32_t tokens_max);
MUST_USE status outbox_open(outbox *o, arena *a, uint32_t actions_max, uint32_t tokens_max);

/* A zeroed action at the end. */
core_action *outbox_add(outbox *o, core_action_kind kind, uint32_t peer);

/* Room for `count` tokens, zeroed, that lives until the outbox is emptied. */
request_token *outbox_tokens(outbox *o, int32_t count);

/* The oldest action, or NULL; when there is none, all room is free again. */
const core_action *outbox_take(outbox *o);
bool outbox_is_empty(const outbox *o);

#endif
