/* slab.h -- a fixed pool of equal objects, addressed by handles that go stale.
 *
 * Purpose    Requests, transfers, sequences: things that come and go and that others name. A handle
 *            is {index, generation}; once the object is given back, every old handle of it is
 *            refused, so a late message can never reach the slot's next tenant.
 * Ownership  The slab's memory is the arena's. An object is the taker's until slab_give.
 * Threads    One thread at a time.
 * Limits     The count given at creation. A slot's generation repeats after 2^31 reuses.
 */
#ifndef ENGINE_BASE_SLAB_H
#define ENGINE_BASE_SLAB_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/base/arena.h"
#include "engine/base/status.h"

#ifdef __cplusplus
extern "C" {
#endif

/* All zero is the handle of nothing: it never matches an object. */
typedef struct {
    uint32_t index;
    uint32_t generation; /* odd while the object is live */
} slab_handle;

typedef struct {
    uint8_t *objects;      /* [count_max][stride_bytes] */
    uint32_t *generations; /* [count_max], odd: live */
    uint32_t *free_next;   /* [count_max], the free list, last given first taken */
    size_t object_bytes;
    size_t stride_bytes;
    uint32_t free_first; /* UINT32_MAX: none */
    uint32_t count;
    uint32_t count_max;
} slab;

/* Memory for `count_max` objects of `object_bytes` each, every one aligned to 64 bytes. */
MUST_USE status slab_open(slab *s, arena *a, uint32_t count_max, size_t object_bytes);

/* A zeroed object and its handle; NULL when all are taken. */
MUST_USE void *slab_take(slab *s, slab_handle *out);

/* The object, or NULL when the handle is stale, foreign or zero. */
void *slab_get(const slab *s, slab_handle h);

/* Gives the object back; false (and nothing done) when the handle is stale. */
bool slab_give(slab *s, slab_handle h);

/* The live object at `index` and its handle, or NULL when that slot is free. For walks: index from
 * 0 to count_max - 1; giving the current object back during a walk is fine. */
void *slab_at(const slab *s, uint32_t index, slab_handle *out);

static inline bool slab_same(slab_handle a, slab_handle b) {
    return a.index == b.index && a.generation == b.generation;
}

static inline bool slab_is_none(slab_handle h) {
    return h.generation == 0;
}

#ifdef __cplusplus
}
#endif
#endif
