/* cudaplan.h -- how a batch's attention is shared out among blocks.
 *
 * Purpose    From sequences to items of work (cuda_ops.h), on the host, so that a launch needs no
 *            count from the device. What is chosen here is speed alone: every choice gives the same
 *            bits, because splits lie at fixed positions and are joined in order.
 * Ownership  The caller's arrays.
 * Threads    Pure functions.
 * Limits     heads / kv_heads <= CUDA_TILE_WIDE.
 */
#ifndef KERNELS_CUDA_CUDAPLAN_H
#define KERNELS_CUDA_CUDAPLAN_H

#include "kernels/cuda/cuda_ops.h"
#include "kernels/ops.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
    int32_t heads, kv_heads;
    int32_t window;    /* as cuda_attention */
    int32_t slots_max; /* sequences that would need more are not split */
} cudaplan_shape;

typedef struct {
    int32_t wide, narrow, merges, slots;
} cudaplan_counts;

/* Counts, and fills what is not NULL: items[wide + narrow], merges[merges]. */
cudaplan_counts cudaplan_attention(const cudaplan_shape *shape, const ops_seq *seqs,
                                   int32_t seqs_count, cuda_attention_item *items,
                                   cuda_attention_merge *merges);

#ifdef __cplusplus
}
#endif
#endif
