/* ring.h -- a bounded queue from one thread to one other, without locks.
 *
 * Purpose    The way data crosses between two threads of a process: a fixed number of fixed-size
 *            items, copied in and out.
 * Ownership  The ring's memory is the arena's.
 * Threads    ring_push: the producer only. ring_pop, ring_front: the consumer only. ring_count:
 *            either, exact only for what the caller itself does next.
 * Limits     At least the items given at creation (rounded up to a power of two); a full ring
 *            refuses.
 */
#ifndef ENGINE_BASE_RING_H
#define ENGINE_BASE_RING_H

#include <stdalign.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/base/arena.h"
#include "engine/base/status.h"

/* head and tail count for ever; the slot is the count modulo slots. Each side keeps its last view
 * of the other's count beside its own, so that it reads the other's cache line only when the ring
 * looks full or empty. */
typedef struct {
    alignas(64) _Atomic uint64_t head; /* items ever popped; written by the consumer */
    uint64_t tail_seen;                /* the consumer's */
    alignas(64) _Atomic uint64_t tail; /* items ever pushed; written by the producer */
    uint64_t head_seen;                /* the producer's */
    alignas(64) uint8_t *items;        /* [slots][item_bytes] */
    size_t item_bytes;
    uint64_t slots; /* a power of two */
} ring;

/* `items_min` from 1 to 2^30. */
MUST_USE status ring_open(ring *r, arena *a, uint32_t items_min, size_t item_bytes);

/* Copies one item in; false when full. */
MUST_USE bool ring_push(ring *r, const void *item);

/* Copies the oldest item out; false when empty. */
MUST_USE bool ring_pop(ring *r, void *item);

/* The oldest item in place, or NULL; valid until the next ring_pop. */
const void *ring_front(ring *r);

uint64_t ring_count(ring *r);

#endif
