/* pageindex.h -- which workers have which pages of KV, for a router.
 *
 * Purpose    An inverted index: the name of a page (engine/core/pagename.h) -> the workers that
 *            have it. A walk along a prompt's pages keeps the workers that have had all of them so
 *            far, a word of workers at a time, and ends when none is left.
 * Ownership  Memory is the arena's.
 * Threads    One thread.
 * Limits     workers_max workers, pages_max names; a gain past that is dropped and counted: the
 *            index then knows less than is true, never more. 16 bytes a slot, at most 3/4 full;
 *            a page that more than four workers have takes a set of workers_max bits, of which
 *            there is room for eight bytes a page: one for every page up to 64 workers.
 * Source     Open addressing with linear probing and backward-shift deletion (Knuth, "The Art of
 *            Computer Programming", vol. 3, 6.4, algorithm R).
 */
#ifndef SERVER_GATEWAY_PAGEINDEX_H
#define SERVER_GATEWAY_PAGEINDEX_H

#include <stdbool.h>
#include <stdint.h>

#include "engine/base/arena.h"

enum {
    PAGEINDEX_WORKERS_MAX = 1024,
    PAGEINDEX_WORDS = PAGEINDEX_WORKERS_MAX / 64,
    PAGEINDEX_PAGES_MAX = 1 << 24
};

typedef struct pageindex pageindex;

typedef struct {
    uint64_t workers[PAGEINDEX_WORDS];
} pageindex_set;

typedef struct {
    uint32_t pages;   /* names known */
    uint64_t entries; /* (name, worker) */
    uint64_t dropped; /* gains that found no room */
} pageindex_counts;

uint64_t pageindex_bytes(uint32_t workers_max, uint32_t pages_max);
MUST_USE status pageindex_create(arena *a, uint32_t workers_max, uint32_t pages_max,
                                 pageindex **out);

/* What is there already, or not, changes nothing. `name` is not 0. */
void pageindex_gain(pageindex *ix, uint32_t worker, uint64_t name);
void pageindex_lose(pageindex *ix, uint32_t worker, uint64_t name);

/* The worker has nothing any more. Reads the whole table. */
void pageindex_forget(pageindex *ix, uint32_t worker);

/* Adds the workers that have the page to `out`. */
void pageindex_holders(const pageindex *ix, uint64_t name, pageindex_set *out);

/* Asks for the memory where the page's holders are, soon to be read. */
void pageindex_prefetch(const pageindex *ix, uint64_t name);

pageindex_counts pageindex_count(const pageindex *ix);

/* Aborts when an invariant is broken. Slow. */
void pageindex_validate(const pageindex *ix);

static inline void pageindex_set_add(pageindex_set *s, uint32_t worker) {
    s->workers[worker / 64] |= 1ull << (worker % 64);
}

static inline bool pageindex_set_has(const pageindex_set *s, uint32_t worker) {
    return (s->workers[worker / 64] >> (worker % 64)) & 1;
}

#endif
