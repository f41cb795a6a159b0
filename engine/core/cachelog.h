/* cachelog.h -- what has come into a worker's prefix cache and gone from it, to be told to
 * gateways.
 *
 * Purpose    A ring of changes, and a reader a gateway: it gets everything there is in parts, then
 *            the changes since, in order; when it falls so far behind that the ring has lost some,
 *            or says that it lost a message, it gets everything again.
 * Ownership  Memory is the arena's. What a message points to lives until the next change.
 * Threads    The owner thread of the core.
 * Limits     CACHELOG_CHANGES(pages) changes; MESSAGE_CACHED_MAX pages a message.
 * Exactness  A snapshot is taken in parts while the cache changes. It is exact in the end because
 *            the changes since its beginning are told after it, and gaining what is there already
 *            or losing what is not is nothing.
 */
#ifndef ENGINE_CORE_CACHELOG_H
#define ENGINE_CORE_CACHELOG_H

#include "engine/base/hash.h"
#include "engine/core/message.h"

typedef struct {
    uint64_t *names;   /* [pages] 0: the page is not in the cache */
    hash_table counts; /* name -> how many pages have it: a gain is told once, a loss at the last */
    uint64_t *ring;    /* [ring_count] by position, a power of two */
    uint64_t next;     /* position of the next change */
    uint64_t *parts;   /* [MESSAGE_CACHED_MAX] the part of a snapshot that is being told */
    uint32_t pages, ring_count;
} cachelog;

typedef struct {
    uint64_t sequence; /* of the last message */
    uint64_t position; /* changes before it are told, or in the snapshot */
    uint32_t page;     /* the snapshot goes on here */
    bool begun, told;  /* a snapshot; to its end */
} cachelog_reader;

uint64_t cachelog_bytes(uint32_t pages);
MUST_USE status cachelog_open(cachelog *l, arena *a, uint32_t pages, uint64_t seed);

void cachelog_gain(cachelog *l, uint32_t page, uint64_t name);
void cachelog_lose(cachelog *l, uint32_t page);

/* The next message for this reader, a zeroed one at first; false when it knows everything. Parts of
 * snapshots share room: `*snapshot_room` is cleared when it is taken, and must be set by the caller
 * when no message that points to it is waiting any more. */
bool cachelog_read(cachelog *l, cachelog_reader *r, bool *snapshot_room, message_cached *out);

/* The reader has lost a message: everything again, under the numbers that follow. */
void cachelog_restart(cachelog_reader *r);

#endif
