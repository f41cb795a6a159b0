/* ring.c -- a single-producer, single-consumer ring (Lamport, "Specifying concurrent program
 * modules", 1983; with each side's cached view of the other's index).
 *
 * Memory orders: each index has one writer, so a side reads its own index relaxed. The producer's
 * release store of tail makes the item's bytes visible to the consumer's acquire load of tail; the
 * consumer's release store of head says it has finished reading the slot before the producer's
 * acquire load of head lets it be overwritten. */
#include "engine/base/ring.h"

#include <string.h>

#include "engine/base/check.h"

status ring_open(ring *r, arena *a, uint32_t items_min, size_t item_bytes) {
    CHECK(items_min >= 1 && items_min <= 1u << 30 && item_bytes >= 1);
    memset(r, 0, sizeof *r);
    r->slots = 1;
    while (r->slots < items_min) {
        r->slots *= 2;
    }
    r->item_bytes = item_bytes;
    atomic_init(&r->head, 0);
    atomic_init(&r->tail, 0);
    r->items = arena_take(a, r->slots, item_bytes, 64);
    return r->items ? STATUS_OK : STATUS_NOMEM;
}

static uint8_t *slot_at(const ring *r, uint64_t index) {
    return r->items + (size_t)(index & (r->slots - 1)) * r->item_bytes;
}

bool ring_push(ring *r, const void *item) {
    uint64_t tail = atomic_load_explicit(&r->tail, memory_order_relaxed);
    if (tail - r->head_seen == r->slots) {
        r->head_seen = atomic_load_explicit(&r->head, memory_order_acquire);
        if (tail - r->head_seen == r->slots) {
            return false;
        }
    }
    memcpy(slot_at(r, tail), item, r->item_bytes);
    atomic_store_explicit(&r->tail, tail + 1, memory_order_release);
    return true;
}

const void *ring_front(ring *r) {
    uint64_t head = atomic_load_explicit(&r->head, memory_order_relaxed);
    if (head == r->tail_seen) {
        r->tail_seen = atomic_load_explicit(&r->tail, memory_order_acquire);
        if (head == r->tail_seen) {
            return NULL;
        }
    }
    return slot_at(r, head);
}

bool ring_pop(ring *r, void *item) {
    const void *front = ring_front(r);
    if (!front) {
        return false;
    }
    memcpy(item, front, r->item_bytes);
    uint64_t head = atomic_load_explicit(&r->head, memory_order_relaxed);
    atomic_store_explicit(&r->head, head + 1, memory_order_release);
    return true;
}

uint64_t ring_count(ring *r) {
    /* Head first: tail only grows, so the difference is never negative. */
    uint64_t head = atomic_load_explicit(&r->head, memory_order_acquire);
    uint64_t tail = atomic_load_explicit(&r->tail, memory_order_acquire);
    uint64_t count = tail - head;
    return count < r->slots ? count : r->slots;
}
