/* fair.h -- who is served next among those that wait: equal shares for API keys.
 *
 * Purpose    Requests wait here while the workers have enough to do. Between keys: deficit round
 *            robin over what requests cost (Shreedhar and Varghese, 1995), so that a key's share
 *            does not grow with the number or the size of its requests. Inside a key: the smallest
 *            rank first; the caller ranks by arrival plus a multiple of the request's own work, so
 *            that short requests pass long ones and no request is passed for ever.
 * Ownership  fair_create takes everything from the arena. Items are numbers of the caller's.
 * Threads    One thread.
 * Limits     items_max items, numbered from 0; keys_max keys, likewise.
 */
#ifndef SERVER_GATEWAY_FAIR_H
#define SERVER_GATEWAY_FAIR_H

#include "engine/base/arena.h"
#include "engine/base/status.h"

typedef struct fair fair;

typedef struct {
    uint32_t key;
    uint32_t cost; /* against the key's share; at least 1 */
    uint32_t work; /* only summed up: fair_work, fair_key_work */
    int64_t rank;
} fair_item;

enum { FAIR_NONE = UINT32_MAX };

/* `quantum`: cost a key may spend before the next key's turn. */
MUST_USE status fair_create(arena *a, uint32_t items_max, uint32_t keys_max, uint32_t quantum,
                            fair **out);

/* `item` must not wait already. */
void fair_push(fair *f, uint32_t item, const fair_item *what);

/* The next item, or FAIR_NONE. It stays the next until it is removed, whatever is pushed. */
uint32_t fair_next(fair *f);

/* Charges the item to its key and takes it out. `item` must be fair_next's answer. */
void fair_take(fair *f, uint32_t item);

/* Takes an item out without a charge: it has left by itself. Nothing if it does not wait. */
void fair_remove(fair *f, uint32_t item);

bool fair_waits(const fair *f, uint32_t item);
uint32_t fair_count(const fair *f);
uint32_t fair_keys(const fair *f); /* keys with something waiting */
uint64_t fair_work(const fair *f);
uint64_t fair_key_work(const fair *f, uint32_t key);

#endif
