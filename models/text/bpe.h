/* bpe.h -- byte-pair merging by rank.
 *
 * Purpose    A table of merges (a pair of token ids, its rank, the token it becomes), and the
 *            merging of one word: as long as any pair has a merge, the pair with the lowest rank is
 *            merged, the leftmost of equals.
 * Ownership  bpe_create holds the table until bpe_destroy. A bpe_scratch is the caller's; zero it
 *            to start, bpe_scratch_close frees what it grew.
 * Threads    bpe_add from one thread; then bpe_merge from any, each with its own scratch.
 * Limits     Words of at most 2^31 symbols. Time O(n log n), memory 24 bytes a symbol of the
 *            longest word; short words take neither heap nor scratch.
 * Source     Sennrich, Haddow, Birch, "Neural machine translation of rare words with subword units"
 *            (ACL 2016), with a priority queue in place of the scan over all pairs.
 */
#ifndef MODELS_TEXT_BPE_H
#define MODELS_TEXT_BPE_H

#include <stddef.h>
#include <stdint.h>

#include "engine/base/status.h"

typedef struct bpe bpe;

/* `merges_max` is how many pairs will be added. */
MUST_USE status bpe_create(size_t merges_max, bpe **out, diag *d);
void bpe_destroy(bpe *b);

/* (left, right) becomes `merged`, ids >= 0. Of two with the same pair, the later holds. */
void bpe_add(bpe *b, int32_t left, int32_t right, uint32_t rank, int32_t merged);

typedef struct {
    uint64_t *heap; /* [2 * capacity] rank << 32 | position, smallest first */
    uint32_t *next; /* [capacity] position of the symbol to the right */
    uint32_t *prev; /* [capacity] position of the symbol to the left */
    size_t capacity;
} bpe_scratch;

void bpe_scratch_close(bpe_scratch *s);

/* Merges symbols[*count] in place and sets *count. STATUS_NOMEM for a long word without memory. */
MUST_USE status bpe_merge(const bpe *b, bpe_scratch *s, int32_t *symbols, size_t *count);

#endif
