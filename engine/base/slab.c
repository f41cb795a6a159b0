/* slab.c -- a free list and a generation per slot. */
#include "engine/base/slab.h"

#include <string.h>

#include "engine/base/check.h"

enum { FREE_NONE = UINT32_MAX };

status slab_open(slab *s, arena *a, uint32_t count_max, size_t object_bytes) {
    CHECK(count_max >= 1 && count_max < FREE_NONE && object_bytes >= 1);
    *s = (slab){.object_bytes = object_bytes, .count_max = count_max};
    size_t stride;
    if (__builtin_add_overflow(object_bytes, (size_t)63, &stride)) {
        return STATUS_NOMEM;
    }
    s->stride_bytes = stride & ~(size_t)63;
    s->objects = arena_take(a, count_max, s->stride_bytes, 64);
    s->generations = ARENA_TAKE(a, count_max, uint32_t);
    s->free_next = ARENA_TAKE(a, count_max, uint32_t);
    if (!s->objects || !s->generations || !s->free_next) {
        return STATUS_NOMEM;
    }
    for (uint32_t i = 0; i + 1 < count_max; i++) {
        s->free_next[i] = i + 1;
    }
    s->free_next[count_max - 1] = FREE_NONE;
    return STATUS_OK;
}

static void *object_at(const slab *s, uint32_t index) {
    return s->objects + (size_t)index * s->stride_bytes;
}

void *slab_take(slab *s, slab_handle *out) {
    uint32_t index = s->free_first;
    if (index == FREE_NONE) {
        *out = (slab_handle){0};
        return NULL;
    }
    CHECK_LT(index, s->count_max);
    CHECK((s->generations[index] & 1) == 0);
    s->free_first = s->free_next[index];
    s->generations[index]++;
    s->count++;
    *out = (slab_handle){index, s->generations[index]};
    /* Zeroed on the way out, not back in: a stale pointer's last write cannot leak through. */
    memset(object_at(s, index), 0, s->object_bytes);
    return object_at(s, index);
}

void *slab_get(const slab *s, slab_handle h) {
    if (h.index >= s->count_max || (h.generation & 1) == 0 ||
        s->generations[h.index] != h.generation) {
        return NULL;
    }
    return object_at(s, h.index);
}

bool slab_give(slab *s, slab_handle h) {
    if (!slab_get(s, h)) {
        return false;
    }
    CHECK(s->count > 0);
    s->generations[h.index]++;
    s->free_next[h.index] = s->free_first;
    s->free_first = h.index;
    s->count--;
    return true;
}

void *slab_at(const slab *s, uint32_t index, slab_handle *out) {
    CHECK_LT(index, s->count_max);
    if ((s->generations[index] & 1) == 0) {
        return NULL;
    }
    *out = (slab_handle){index, s->generations[index]};
    return object_at(s, index);
}
