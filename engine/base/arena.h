/* arena.h -- bump allocation with one lifetime.
 *
 * Purpose    Memory whose lifetime is in the signature: whatever takes an arena lives as long as
 *            the arena does. Engine memory is taken at start-up, then the arena is sealed.
 * Ownership  arena_open holds pages from the system; arena_close gives them all back.
 * Threads    One thread at a time.
 * Limits     The maximum is given at creation; pages are only touched when used. Past the maximum
 *            arena_take returns NULL. Taking from a sealed arena is a bug and aborts.
 */
#ifndef ENGINE_BASE_ARENA_H
#define ENGINE_BASE_ARENA_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/base/status.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
    uint8_t *base;
    size_t used_bytes;
    size_t bytes_max;
    bool sealed;
} arena;

/* Reserves `bytes_max` of address space. */
MUST_USE status arena_open(arena *a, size_t bytes_max);
void arena_close(arena *a);

/* `count * bytes` zeroed bytes aligned to `align` (a power of two <= 4096); NULL when full. */
MUST_USE void *arena_take(arena *a, size_t count, size_t bytes, size_t align);

/* Shorthand for an array of a type, cache-line aligned. */
#define ARENA_TAKE(a, count, type) ((type *)arena_take((a), (count), sizeof(type), 64))

/* Forgets everything taken; the memory is zeroed again when next taken. */
void arena_reset(arena *a);

/* From here on arena_take is a bug: serving allocates nothing. */
void arena_seal(arena *a);

#ifdef __cplusplus
}
#endif
#endif
