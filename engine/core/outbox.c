/* outbox.c -- the actions an event leaves for the shell, oldest first. */
#include "engine/core/outbox.h"

#include <string.h>

#include "engine/base/check.h"

uint64_t outbox_bytes(uint32_t actions_max, uint32_t tokens_max) {
    CHECK(actions_max > 0 && tokens_max > 0);
    return (uint64_t)actions_max * sizeof(core_action) +
           (uint64_t)tokens_max * sizeof(request_token) + 256;
}

status outbox_open(outbox *o, arena *a, uint32_t actions_max, uint32_t tokens_max) {
    CHECK(actions_max > 0 && tokens_max > 0);
    *o = (outbox){.actions_max = actions_max, .tokens_max = tokens_max};
    o->actions = ARENA_TAKE(a, actions_max, core_action);
    o->tokens = ARENA_TAKE(a, tokens_max, request_token);
    return o->actions && o->tokens ? STATUS_OK : STATUS_NOMEM;
}

core_action *outbox_add(outbox *o, core_action_kind kind, uint32_t peer) {
    CHECK_LT(o->count, o->actions_max);
    core_action *a = &o->actions[o->count++];
    memset(a, 0, sizeof *a);
    a->kind = kind;
    a->peer = peer;
    return a;
}

request_token *outbox_tokens(outbox *o, int32_t count) {
    CHECK(count >= 0);
    CHECK_LE((uint32_t)count, o->tokens_max - o->tokens_count);
    request_token *t = o->tokens + o->tokens_count;
    o->tokens_count += (uint32_t)count;
    memset(t, 0, (size_t)count * sizeof *t);
    return t;
}

const core_action *outbox_take(outbox *o) {
    CHECK_LE(o->next, o->count);
    if (o->next == o->count) {
        o->next = o->count = o->tokens_count = 0;
        return NULL;
    }
    return &o->actions[o->next++];
}

bool outbox_is_empty(const outbox *o) {
    return o->next == o->count;
}
