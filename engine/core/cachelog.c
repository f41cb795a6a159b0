/* cachelog.c -- changes of a prefix cache, for gateways. */
#include "engine/core/cachelog.h"

#include "engine/base/check.h"

static const uint64_t GAINED = 1; /* bit 0 of a change */

static uint32_t ring_of(uint32_t pages) {
    uint32_t count = 1024;
    while (count < 2 * pages) { /* the whole cache is replaced between two messages */
        count *= 2;
    }
    return count;
}

uint64_t cachelog_bytes(uint32_t pages) {
    CHECK(pages > 0 && pages < 1u << 28);
    /* A hash table is at most 3/4 full and a power of two: below 3 slots an entry. */
    return (uint64_t)pages * (8 + 3 * 17) + 8ull * ring_of(pages) + 8ull * MESSAGE_CACHED_MAX +
           4096;
}

status cachelog_open(cachelog *l, arena *a, uint32_t pages, uint64_t seed) {
    *l = (cachelog){.pages = pages, .ring_count = ring_of(pages)};
    l->names = ARENA_TAKE(a, pages, uint64_t);
    l->ring = ARENA_TAKE(a, l->ring_count, uint64_t);
    l->parts = ARENA_TAKE(a, MESSAGE_CACHED_MAX, uint64_t);
    return l->names && l->ring && l->parts ? hash_open(&l->counts, a, pages, seed) : STATUS_NOMEM;
}

static void put(cachelog *l, uint64_t change) {
    l->ring[l->next++ & (l->ring_count - 1)] = change;
}

void cachelog_gain(cachelog *l, uint32_t page, uint64_t name) {
    CHECK_LT(page, l->pages);
    CHECK(l->names[page] == 0 && name != 0 && !(name & GAINED));
    l->names[page] = name;
    uint64_t count = 0;
    (void)hash_get(&l->counts, name, &count);
    CHECK(hash_put(&l->counts, name, count + 1));
    if (count == 0) {
        put(l, name | GAINED);
    }
}

void cachelog_lose(cachelog *l, uint32_t page) {
    CHECK_LT(page, l->pages);
    uint64_t name = l->names[page], count = 0;
    CHECK(name != 0 && hash_get(&l->counts, name, &count) && count > 0);
    l->names[page] = 0;
    if (count > 1) {
        CHECK(hash_put(&l->counts, name, count - 1));
    } else {
        CHECK(hash_delete(&l->counts, name, NULL));
        put(l, name);
    }
}

void cachelog_restart(cachelog_reader *r) {
    *r = (cachelog_reader){.sequence = r->sequence};
}

static bool read_part(cachelog *l, cachelog_reader *r, message_cached *out) {
    uint32_t count = 0;
    bool first = !r->begun;
    if (first) {
        r->begun = true;
        r->position = l->next;
    }
    while (r->page < l->pages && count < MESSAGE_CACHED_MAX) {
        uint64_t name = l->names[r->page++];
        if (name) {
            l->parts[count++] = name | GAINED;
        }
    }
    r->told = r->page == l->pages;
    *out = (message_cached){++r->sequence, first, count, l->parts};
    return true;
}

bool cachelog_read(cachelog *l, cachelog_reader *r, bool *snapshot_room, message_cached *out) {
    if (r->begun && l->next - r->position > l->ring_count) {
        cachelog_restart(r);
    }
    if (!r->told) {
        bool room = *snapshot_room;
        *snapshot_room = false;
        return room && read_part(l, r, out);
    }
    uint32_t at = (uint32_t)(r->position & (l->ring_count - 1));
    uint64_t count = l->next - r->position;
    if (count > l->ring_count - at) {
        count = l->ring_count - at; /* up to the ring's end: the rest is the next message */
    }
    if (count > MESSAGE_CACHED_MAX) {
        count = MESSAGE_CACHED_MAX;
    }
    if (count == 0) {
        return false;
    }
    *out = (message_cached){++r->sequence, false, (uint32_t)count, l->ring + at};
    r->position += count;
    return true;
}
