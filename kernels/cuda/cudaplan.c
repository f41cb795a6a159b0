/* cudaplan.c -- how a batch's attention is shared out among blocks.
 *
 * A sequence of few rows (decoding) is bound by the reading of its keys and values: each split is a
 * block's, and the splits are joined by a second kernel. A sequence of many rows (a prompt) has
 * enough tiles of rows to fill the device: a block does all splits of its tile and joins them
 * itself.
 */
#include "kernels/cuda/cudaplan.h"

#include <stddef.h>

/* One sequence under way. */
typedef struct {
    const cudaplan_shape *shape;
    cuda_attention_item *items;
    cuda_attention_merge *merges;
    cudaplan_counts n;
    int32_t wide_all; /* narrow items lie behind this many */
} planning;

static int32_t split_first_of(const cudaplan_shape *shape, int32_t position) {
    if (shape->window == 0 || position < shape->window) {
        return 0;
    }
    return (position - shape->window + 1) / CUDA_SPLIT_TOKENS;
}

static void item_add(planning *p, bool narrow, cuda_attention_item item) {
    int32_t *count = narrow ? &p->n.narrow : &p->n.wide;
    if (p->items != NULL) {
        p->items[(narrow ? p->wide_all : 0) + *count] = item;
    }
    *count += 1;
}

/* Rows of one tile. */
static void tile_add(planning *p, const ops_seq *s, int32_t seq, int32_t row, int32_t rows,
                     bool apart) {
    const cudaplan_shape *shape = p->shape;
    const bool narrow = rows * (shape->heads / shape->kv_heads) <= CUDA_TILE_NARROW;
    const int32_t position = s->position_first + row;
    const int32_t first = split_first_of(shape, position);
    const int32_t splits = (position + rows - 1) / CUDA_SPLIT_TOKENS + 1 - first;
    cuda_attention_item item = {.seq = seq,
                                .row_first = s->row_first + row,
                                .rows = rows,
                                .position_first = position,
                                .split_first = first,
                                .splits = splits,
                                .slot = -1};
    if (!apart || splits == 1 || (int64_t)splits * rows > shape->slots_max - p->n.slots) {
        item_add(p, narrow, item);
        return;
    }
    for (int32_t i = 0; i < rows; i++) {
        if (p->merges != NULL) {
            p->merges[p->n.merges] =
                (cuda_attention_merge){item.row_first + i, p->n.slots + i, rows, splits};
        }
        p->n.merges++;
    }
    item.splits = 1;
    for (int32_t i = 0; i < splits; i++) {
        item.split_first = first + i;
        item.slot = p->n.slots;
        item_add(p, narrow, item);
        p->n.slots += rows;
    }
}

static cudaplan_counts pass(planning p, const ops_seq *seqs, int32_t seqs_count) {
    const int32_t tile_rows = CUDA_TILE_WIDE / (p.shape->heads / p.shape->kv_heads);
    for (int32_t i = 0; i < seqs_count; i++) {
        const ops_seq *s = &seqs[i];
        for (int32_t row = 0; row < s->rows; row += tile_rows) {
            const int32_t left = s->rows - row;
            tile_add(&p, s, i, row, left < tile_rows ? left : tile_rows, s->rows <= tile_rows);
        }
    }
    return p.n;
}

cudaplan_counts cudaplan_attention(const cudaplan_shape *shape, const ops_seq *seqs,
                                   int32_t seqs_count, cuda_attention_item *items,
                                   cuda_attention_merge *merges) {
    const cudaplan_counts counts = pass((planning){.shape = shape}, seqs, seqs_count);
    if (items != NULL) {
        (void)pass(
            (planning){.shape = shape, .items = items, .merges = merges, .wide_all = counts.wide},
            seqs, seqs_count);
    }
    return counts;
}
