/* marks.h -- what a worker remembers, for one lease, about requests it has no record of.
 *
 * Purpose    Tombstones (the request left, messages up to this attempt are late) and parked grants
 *            (the GRANT came before its SUBMIT). At most one mark a request: the newest attempt.
 * Ownership  Memory is the arena's.
 * Threads    The owner thread of the core.
 * Limits     The count given at creation; past it the oldest mark is forgotten. For tombstones that
 *            is safe: they save work and noise, correctness does not rest on them. A grant must not
 *            be forgotten, so ask marks_full first.
 */
#ifndef ENGINE_CORE_MARKS_H
#define ENGINE_CORE_MARKS_H

#include "engine/base/hash.h"
#include "engine/core/request.h"

typedef struct {
    request_id request;
    int64_t expires_us;
    uint32_t attempt;
    uint32_t peer;         /* parked grant: the link it came on */
    uint32_t prefix_pages; /* parked grant */
    bool used;
} marks_entry;

/* A ring in the order of expiry (all marks live equally long), with holes. */
typedef struct {
    marks_entry *entries; /* [slots] */
    hash_table by_request;
    uint32_t first, span; /* slots in use, holes included */
    uint32_t count_max, slots;
} marks;

uint64_t marks_bytes(uint32_t count_max);
MUST_USE status marks_open(marks *m, arena *a, uint32_t count_max, uint64_t seed);

/* Remembers `e`, unless a mark of the same request with a newer attempt is there. */
void marks_put(marks *m, const marks_entry *e);

/* The mark, or NULL. */
const marks_entry *marks_get(const marks *m, request_id request);

/* The next mark of another request would push out the oldest. */
bool marks_full(const marks *m);

void marks_drop(marks *m, request_id request);
void marks_drop_peer(marks *m, uint32_t peer);
void marks_expire(marks *m, int64_t now_us);
uint32_t marks_count(const marks *m);

#endif
