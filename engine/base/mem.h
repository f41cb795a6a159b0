/* mem.h -- the one place that calls malloc.
 *
 * Purpose    Heap memory for what outlives or outgrows an arena: parsers' results, a request's text
 *            at the gateway. Engine state lives in arenas (arena.h).
 * Ownership  mem_free takes back what mem_alloc, mem_calloc, mem_realloc and mem_dup gave.
 * Threads    Any.
 * Limits     Sizes are products checked for overflow; a product that overflows is NULL, as is a
 *            refusal by the system. Zero bytes gives a valid pointer.
 */
#ifndef ENGINE_BASE_MEM_H
#define ENGINE_BASE_MEM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/base/status.h"

#ifdef __cplusplus
extern "C" {
#endif

/* `count` elements of `bytes` each, uninitialised. NULL when there is no memory. */
MUST_USE void *mem_alloc(size_t count, size_t bytes);

/* As mem_alloc, zeroed. */
MUST_USE void *mem_calloc(size_t count, size_t bytes);

/* Grows or shrinks; on NULL the old block is still the caller's. */
MUST_USE void *mem_realloc(void *p, size_t count, size_t bytes);

/* A copy of `bytes` bytes with a terminating zero byte after them. */
MUST_USE char *mem_dup(const void *p, size_t bytes);

void mem_free(void *p);

/* a * b and a + b, false when the result does not fit. For sizes that come from outside. */
MUST_USE bool mem_mul(uint64_t a, uint64_t b, uint64_t *out);
MUST_USE bool mem_add(uint64_t a, uint64_t b, uint64_t *out);

#ifdef __cplusplus
}
#endif
#endif
