/* pagename.h -- what workers and gateways call a page of KV when they talk about caches.
 *
 * Purpose    The name of a page says its tenant, all tokens before it and its own, so that a
 *            gateway can tell from a prompt which pages of it a worker has.
 * Ownership  None.
 * Threads    Pure.
 * Limits     64 bits: a collision makes a router's guess wrong and nothing else, since a worker
 *            compares tokens. Callers cannot construct one without knowing the salt.
 */
#ifndef ENGINE_CORE_PAGENAME_H
#define ENGINE_CORE_PAGENAME_H

#include <string.h>

#include "engine/base/hash.h"
#include "engine/base/limits.h"

/* `before`: the name of the page before it, 0 at the start. tokens[LIMIT_PAGE_TOKENS]. Never 0; bit
 * 0 is clear, for messages to use. */
static inline uint64_t pagename_next(uint64_t before, uint64_t salt, const int32_t *tokens) {
    struct {
        uint64_t before;
        int32_t tokens[LIMIT_PAGE_TOKENS];
    } data = {.before = before};
    memcpy(data.tokens, tokens, sizeof data.tokens);
    uint64_t name = hash_bytes((hash_key){salt, 0x7061676573}, &data, sizeof data) & ~1ull;
    return name ? name : 2;
}

#endif
