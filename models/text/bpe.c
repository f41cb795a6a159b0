/* bpe.c -- byte-pair merging by rank.
 *
 * Words are mostly a handful of bytes: those are merged in an array, scanning for the lowest rank.
 * Longer words take a heap of (rank, position) and a list of positions. The heap is never searched:
 * an entry whose pair has changed since it was pushed is recognised when it comes up (the pair now
 * at its position has another rank, or is gone) and dropped.
 */
#include "models/text/bpe.h"

#include <string.h>

#include "engine/base/check.h"
#include "engine/base/mem.h"
#include "engine/base/rng.h"

enum { SHORT_SYMBOLS = 48 };

#define KEY_NONE UINT64_MAX
#define RANK_NONE UINT32_MAX
#define END UINT32_MAX

typedef struct {
    uint64_t key; /* left << 32 | right, or KEY_NONE */
    uint32_t rank;
    int32_t merged;
} slot;

struct bpe {
    slot *slots; /* [mask + 1] open addressing, at most half full */
    uint64_t mask;
    size_t count;
    size_t count_max;
};

static uint64_t key_of(int32_t left, int32_t right) {
    return (uint64_t)(uint32_t)left << 32 | (uint32_t)right;
}

status bpe_create(size_t merges_max, bpe **out, diag *d) {
    size_t slots = 16;
    while (slots / 2 < merges_max) {
        slots *= 2;
    }
    bpe *b = mem_calloc(1, sizeof *b);
    slot *table = mem_alloc(slots, sizeof *table);
    if (b == NULL || table == NULL) {
        mem_free(b);
        mem_free(table);
        return status_fail(d, STATUS_NOMEM, "no memory for %zu merges", merges_max);
    }
    for (size_t i = 0; i < slots; i++) {
        table[i].key = KEY_NONE;
    }
    *b = (bpe){table, slots - 1, 0, merges_max};
    *out = b;
    return STATUS_OK;
}

void bpe_destroy(bpe *b) {
    if (b != NULL) {
        mem_free(b->slots);
        mem_free(b);
    }
}

/* The slot that holds `key`, or the empty one where it would go. */
static slot *slot_of(const bpe *b, uint64_t key) {
    uint64_t i = rng_mix(key) & b->mask;
    while (b->slots[i].key != key && b->slots[i].key != KEY_NONE) {
        i = (i + 1) & b->mask;
    }
    return &b->slots[i];
}

void bpe_add(bpe *b, int32_t left, int32_t right, uint32_t rank, int32_t merged) {
    CHECK(left >= 0 && right >= 0 && merged >= 0 && rank != RANK_NONE);
    uint64_t key = key_of(left, right);
    slot *s = slot_of(b, key);
    if (s->key == KEY_NONE) {
        CHECK(b->count < b->count_max);
        b->count++;
    }
    *s = (slot){key, rank, merged};
}

static slot pair_slot(const bpe *b, int32_t left, int32_t right) {
    const slot *s = slot_of(b, key_of(left, right));
    if (s->key == KEY_NONE) {
        return (slot){KEY_NONE, RANK_NONE, -1};
    }
    return *s;
}

/* -- short words ----------------------------------------------------------------------------- */

static size_t merge_short(const bpe *b, int32_t *symbols, size_t count) {
    slot pairs[SHORT_SYMBOLS]; /* pairs[i] joins symbols[i] and symbols[i + 1] */
    for (size_t i = 0; i + 1 < count; i++) {
        pairs[i] = pair_slot(b, symbols[i], symbols[i + 1]);
    }
    while (count > 1) {
        size_t best = 0;
        for (size_t i = 1; i + 1 < count; i++) {
            best = pairs[i].rank < pairs[best].rank ? i : best;
        }
        if (pairs[best].rank == RANK_NONE) {
            break;
        }
        symbols[best] = pairs[best].merged;
        size_t after = count - (best + 2); /* symbols to the right of the merged two */
        memmove(symbols + best + 1, symbols + best + 2, after * sizeof *symbols);
        if (after > 0) {
            memmove(pairs + best, pairs + best + 1, after * sizeof *pairs);
            pairs[best] = pair_slot(b, symbols[best], symbols[best + 1]);
        }
        if (best > 0) {
            pairs[best - 1] = pair_slot(b, symbols[best - 1], symbols[best]);
        }
        count--;
    }
    return count;
}

/* -- long words ------------------------------------------------------------------------------ */

static void sift_down(uint64_t *heap, size_t count, size_t at) {
    uint64_t moving = heap[at];
    for (size_t child = 2 * at + 1; child < count; child = 2 * at + 1) {
        if (child + 1 < count && heap[child + 1] < heap[child]) {
            child++;
        }
        if (heap[child] >= moving) {
            break;
        }
        heap[at] = heap[child];
        at = child;
    }
    heap[at] = moving;
}

static void heap_push(uint64_t *heap, size_t *count, uint64_t entry) {
    size_t at = (*count)++;
    while (at > 0 && heap[(at - 1) / 2] > entry) {
        heap[at] = heap[(at - 1) / 2];
        at = (at - 1) / 2;
    }
    heap[at] = entry;
}

static uint64_t heap_pop(uint64_t *heap, size_t *count) {
    uint64_t top = heap[0];
    heap[0] = heap[--*count];
    if (*count > 0) {
        sift_down(heap, *count, 0);
    }
    return top;
}

static status scratch_grow(bpe_scratch *s, size_t symbols) {
    if (symbols <= s->capacity) {
        return STATUS_OK;
    }
    bpe_scratch_close(s);
    s->heap = mem_alloc(symbols, 2 * sizeof *s->heap);
    s->next = mem_alloc(symbols, sizeof *s->next);
    s->prev = mem_alloc(symbols, sizeof *s->prev);
    if (s->heap == NULL || s->next == NULL || s->prev == NULL) {
        bpe_scratch_close(s);
        return STATUS_NOMEM;
    }
    s->capacity = symbols;
    return STATUS_OK;
}

void bpe_scratch_close(bpe_scratch *s) {
    mem_free(s->heap);
    mem_free(s->next);
    mem_free(s->prev);
    *s = (bpe_scratch){0};
}

static void push_pair(const bpe *b, bpe_scratch *s, size_t *heap_count, const int32_t *symbols,
                      uint32_t left) {
    slot pair = pair_slot(b, symbols[left], symbols[s->next[left]]);
    if (pair.rank != RANK_NONE) {
        heap_push(s->heap, heap_count, (uint64_t)pair.rank << 32 | left);
    }
}

/* Joins the symbol at `left` with the one to its right. */
static void join(bpe_scratch *s, int32_t *symbols, uint32_t left, int32_t merged) {
    uint32_t right = s->next[left];
    symbols[left] = merged;
    symbols[right] = -1;
    s->next[left] = s->next[right];
    if (s->next[right] != END) {
        s->prev[s->next[right]] = left;
    }
}

static status merge_long(const bpe *b, bpe_scratch *s, int32_t *symbols, size_t *count) {
    size_t n = *count;
    TRY(scratch_grow(s, n));
    size_t heap_count = 0;
    for (size_t i = 0; i < n; i++) {
        s->prev[i] = i == 0 ? END : (uint32_t)(i - 1);
        s->next[i] = i + 1 == n ? END : (uint32_t)(i + 1);
        slot pair =
            i + 1 == n ? (slot){.rank = RANK_NONE} : pair_slot(b, symbols[i], symbols[i + 1]);
        if (pair.rank != RANK_NONE) {
            s->heap[heap_count++] = (uint64_t)pair.rank << 32 | i;
        }
    }
    for (size_t i = heap_count / 2; i > 0; i--) {
        sift_down(s->heap, heap_count, i - 1);
    }
    while (heap_count > 0) {
        uint64_t top = heap_pop(s->heap, &heap_count);
        uint32_t left = (uint32_t)top;
        if (symbols[left] < 0 || s->next[left] == END) {
            continue;
        }
        slot pair = pair_slot(b, symbols[left], symbols[s->next[left]]);
        if (pair.rank != top >> 32) {
            continue;
        }
        join(s, symbols, left, pair.merged);
        /* Each merge pops one entry and pushes at most two, and there are at most n - 1 merges, so
         * the heap never passes 2 n. */
        if (s->next[left] != END) {
            push_pair(b, s, &heap_count, symbols, left);
        }
        if (s->prev[left] != END) {
            push_pair(b, s, &heap_count, symbols, s->prev[left]);
        }
    }
    size_t kept = 0;
    for (size_t i = 0; i < n; i++) {
        if (symbols[i] >= 0) {
            symbols[kept++] = symbols[i];
        }
    }
    *count = kept;
    return STATUS_OK;
}

status bpe_merge(const bpe *b, bpe_scratch *s, int32_t *symbols, size_t *count) {
    if (*count <= SHORT_SYMBOLS) {
        *count = merge_short(b, symbols, *count);
        return STATUS_OK;
    }
    return merge_long(b, s, symbols, count);
}
