/* pageindex.c -- page name -> workers, open-addressed. */
#include "server/gateway/pageindex.h"

#include <assert.h>

#include "engine/base/check.h"
#include "engine/base/rng.h"

enum { INLINE = 4 };

#define NOBODY UINT16_MAX
#define MANY (UINT16_MAX - 1) /* workers[0]: a set, its number in the last two */

typedef struct {
    uint64_t name;            /* 0: empty */
    uint16_t workers[INLINE]; /* NOBODY after the last */
} slot;

static_assert(PAGEINDEX_WORKERS_MAX < MANY, "a worker's number fits");
static_assert(sizeof(slot) == 16, "four slots a cache line");

struct pageindex {
    slot *slots; /* [slots_count] a power of two */
    uint32_t slots_count;
    uint32_t workers_max, pages_max, words;
    uint64_t *sets; /* [sets_max][words] */
    uint32_t *free; /* [free_count] numbers of sets */
    uint32_t sets_max, free_count;
    uint64_t *of_worker; /* [workers_max] entries */
    pageindex_counts count;
};

static uint32_t slots_of(uint32_t pages_max) {
    uint32_t slots = 16;
    while (slots / 4 * 3 < pages_max) {
        slots *= 2;
    }
    return slots;
}

static uint32_t words_of(uint32_t workers_max) {
    return (workers_max + 63) / 64;
}

static uint32_t sets_of(uint32_t workers_max, uint32_t pages_max) {
    return pages_max / words_of(workers_max) + 1;
}

uint64_t pageindex_bytes(uint32_t workers_max, uint32_t pages_max) {
    return sizeof(pageindex) + (uint64_t)slots_of(pages_max) * sizeof(slot) +
           (uint64_t)sets_of(workers_max, pages_max) * (words_of(workers_max) * 8 + 4) +
           8ull * workers_max + 1024;
}

status pageindex_create(arena *a, uint32_t workers_max, uint32_t pages_max, pageindex **out) {
    CHECK(workers_max >= 1 && workers_max <= PAGEINDEX_WORKERS_MAX);
    CHECK(pages_max >= 1 && pages_max <= PAGEINDEX_PAGES_MAX);
    pageindex *ix = ARENA_TAKE(a, 1, pageindex);
    if (!ix) {
        return STATUS_NOMEM;
    }
    *ix = (pageindex){.slots_count = slots_of(pages_max),
                      .workers_max = workers_max,
                      .pages_max = pages_max,
                      .words = words_of(workers_max),
                      .sets_max = sets_of(workers_max, pages_max)};
    ix->slots = ARENA_TAKE(a, ix->slots_count, slot);
    ix->sets = ARENA_TAKE(a, (size_t)ix->sets_max * ix->words, uint64_t);
    ix->free = ARENA_TAKE(a, ix->sets_max, uint32_t);
    ix->of_worker = ARENA_TAKE(a, workers_max, uint64_t);
    if (!ix->slots || !ix->sets || !ix->free || !ix->of_worker) {
        return STATUS_NOMEM;
    }
    for (uint32_t i = ix->sets_max; i-- > 0;) {
        ix->free[ix->free_count++] = i;
    }
    *out = ix;
    return STATUS_OK;
}

/* Names are hashes with bit 0 clear. */
static uint32_t home_of(const pageindex *ix, uint64_t name) {
    return (uint32_t)(rng_mix(name)) & (ix->slots_count - 1);
}

void pageindex_prefetch(const pageindex *ix, uint64_t name) {
    __builtin_prefetch(&ix->slots[home_of(ix, name)]);
}

/* Where the name is, or the empty slot where it would be. */
static uint32_t find(const pageindex *ix, uint64_t name) {
    uint32_t at = home_of(ix, name);
    while (ix->slots[at].name != 0 && ix->slots[at].name != name) {
        at = (at + 1) & (ix->slots_count - 1);
    }
    return at;
}

/* ---- a page's workers ----------------------------------------------------------------------- */

static uint32_t set_number(const slot *s) {
    return (uint32_t)s->workers[2] << 16 | s->workers[3];
}

static uint64_t *set_of(const pageindex *ix, const slot *s) {
    CHECK_LT(set_number(s), ix->sets_max);
    return ix->sets + (size_t)set_number(s) * ix->words;
}

/* How many are there, up to INLINE. */
static int inline_count(const slot *s) {
    int n = 0;
    while (n < INLINE && s->workers[n] != NOBODY) {
        n++;
    }
    return n;
}

/* False: no set is free. */
static bool widen(pageindex *ix, slot *s) {
    if (ix->free_count == 0) {
        return false;
    }
    uint32_t number = ix->free[--ix->free_count];
    uint64_t *words = ix->sets + (size_t)number * ix->words;
    for (uint32_t i = 0; i < ix->words; i++) {
        words[i] = 0;
    }
    for (int i = 0; i < INLINE; i++) {
        words[s->workers[i] / 64] |= 1ull << (s->workers[i] % 64);
    }
    s->workers[0] = MANY;
    s->workers[1] = NOBODY;
    s->workers[2] = (uint16_t)(number >> 16);
    s->workers[3] = (uint16_t)number;
    return true;
}

static bool has(const pageindex *ix, const slot *s, uint32_t worker) {
    if (s->workers[0] == MANY) {
        return (set_of(ix, s)[worker / 64] >> (worker % 64)) & 1;
    }
    for (int i = 0; i < INLINE; i++) {
        if (s->workers[i] == worker) {
            return true;
        }
    }
    return false;
}

/* Back to a short list when INLINE or fewer are left. */
static void narrow(pageindex *ix, slot *s) {
    const uint64_t *words = set_of(ix, s);
    uint16_t workers[INLINE] = {NOBODY, NOBODY, NOBODY, NOBODY};
    int n = 0;
    for (uint32_t i = 0; i < ix->words; i++) {
        for (uint64_t w = words[i]; w; w &= w - 1) {
            if (n == INLINE) {
                return;
            }
            workers[n++] = (uint16_t)(i * 64 + (uint32_t)__builtin_ctzll(w));
        }
    }
    ix->free[ix->free_count++] = set_number(s);
    for (int i = 0; i < INLINE; i++) {
        s->workers[i] = workers[i];
    }
}

static void take_out(pageindex *ix, slot *s, uint32_t worker) {
    if (s->workers[0] == MANY) {
        set_of(ix, s)[worker / 64] &= ~(1ull << (worker % 64));
        narrow(ix, s);
    } else {
        int last = inline_count(s) - 1, at = 0;
        while (s->workers[at] != worker) {
            at++;
        }
        s->workers[at] = s->workers[last];
        s->workers[last] = NOBODY;
    }
    ix->of_worker[worker]--;
    ix->count.entries--;
}

/* ---- the table ------------------------------------------------------------------------------ */

void pageindex_gain(pageindex *ix, uint32_t worker, uint64_t name) {
    CHECK_LT(worker, ix->workers_max);
    CHECK(name != 0);
    slot *s = &ix->slots[find(ix, name)];
    bool known = s->name != 0;
    if (known && has(ix, s, worker)) {
        return;
    }
    int n = known && s->workers[0] != MANY ? inline_count(s) : 0;
    if ((!known && ix->count.pages == ix->pages_max) || (n == INLINE && !widen(ix, s))) {
        ix->count.dropped++;
        return;
    }
    if (!known) {
        *s = (slot){name, {NOBODY, NOBODY, NOBODY, NOBODY}};
        ix->count.pages++;
    }
    if (s->workers[0] == MANY) {
        set_of(ix, s)[worker / 64] |= 1ull << (worker % 64);
    } else {
        s->workers[n] = (uint16_t)worker;
    }
    ix->of_worker[worker]++;
    ix->count.entries++;
}

/* What follows moves up, as far as it is nearer to its home then. */
static void delete_slot(pageindex *ix, uint32_t hole) {
    uint32_t mask = ix->slots_count - 1;
    for (uint32_t at = (hole + 1) & mask; ix->slots[at].name != 0; at = (at + 1) & mask) {
        uint32_t home = home_of(ix, ix->slots[at].name);
        if (((at - home) & mask) >= ((at - hole) & mask)) {
            ix->slots[hole] = ix->slots[at];
            hole = at;
        }
    }
    ix->slots[hole].name = 0;
    ix->count.pages--;
}

static void lose_at(pageindex *ix, uint32_t at, uint32_t worker) {
    slot *s = &ix->slots[at];
    take_out(ix, s, worker);
    if (s->workers[0] == NOBODY) {
        delete_slot(ix, at);
    }
}

void pageindex_lose(pageindex *ix, uint32_t worker, uint64_t name) {
    CHECK_LT(worker, ix->workers_max);
    uint32_t at = find(ix, name);
    if (ix->slots[at].name != 0 && has(ix, &ix->slots[at], worker)) {
        lose_at(ix, at, worker);
    }
}

void pageindex_forget(pageindex *ix, uint32_t worker) {
    CHECK_LT(worker, ix->workers_max);
    for (uint32_t at = 0; at < ix->slots_count && ix->of_worker[worker] > 0;) {
        const slot *s = &ix->slots[at];
        if (s->name != 0 && has(ix, s, worker)) {
            lose_at(ix, at, worker); /* what moved here is looked at too */
        } else {
            at++;
        }
    }
    CHECK_EQ(ix->of_worker[worker], 0);
}

void pageindex_holders(const pageindex *ix, uint64_t name, pageindex_set *out) {
    const slot *s = &ix->slots[find(ix, name)];
    if (s->name == 0) {
        return;
    }
    if (s->workers[0] == MANY) {
        const uint64_t *words = set_of(ix, s);
        for (uint32_t i = 0; i < ix->words; i++) {
            out->workers[i] |= words[i];
        }
        return;
    }
    for (int i = 0; i < INLINE && s->workers[i] != NOBODY; i++) {
        pageindex_set_add(out, s->workers[i]);
    }
}

pageindex_counts pageindex_count(const pageindex *ix) {
    return ix->count;
}

void pageindex_validate(const pageindex *ix) {
    pageindex_counts n = {.dropped = ix->count.dropped};
    uint32_t sets = 0;
    for (uint32_t at = 0; at < ix->slots_count; at++) {
        const slot *s = &ix->slots[at];
        if (s->name == 0) {
            continue;
        }
        n.pages++;
        CHECK_EQ(find(ix, s->name), at);
        if (s->workers[0] == MANY) {
            sets++;
            uint32_t members = 0;
            for (uint32_t i = 0; i < ix->words; i++) {
                members += (uint32_t)__builtin_popcountll(set_of(ix, s)[i]);
            }
            CHECK(members > INLINE);
            n.entries += members;
        } else {
            CHECK(inline_count(s) > 0);
            n.entries += (uint64_t)inline_count(s);
        }
    }
    CHECK(n.pages == ix->count.pages && n.entries == ix->count.entries);
    CHECK_EQ(sets + ix->free_count, ix->sets_max);
}
