/* pages.cu -- pages to and from packed staging, for transfers.
 *
 * Staging is [layers][pages][heads] of a kv head's bytes, as they lie in a page: a range of heads
 * of a page is one run of bytes there and here, whatever tensor parallelism each side has. The side
 * that scatters may keep another type than the one that gathered: then each token is read, and
 * rounded anew as rope_append would have done.
 */
#include "kernels/cuda/cuda_ops.h"
#include "kernels/cuda/pages.cuh"
#include "kernels/cuda/ptx.cuh"

namespace {

constexpr int THREADS = 256;
constexpr int WARPS = THREADS / 32;

/* Head `head_first` of page number `index` of layer number `layer` of the range, in the pool. */
__device__ uint8_t *page_of(const cuda_pages &op, int32_t layer, int32_t index) {
    return op.pool + (uint64_t)(op.layer_first + layer) * op.layer_bytes +
           (uint64_t)op.pages[index] * op.page_bytes + (uint64_t)op.head_first * op.head_bytes;
}

__device__ uint8_t *staging_of(const cuda_pages &op, int32_t layer, int32_t index) {
    return op.staging + ((uint64_t)layer * op.count + index) * op.heads * op.staging_head_bytes;
}

/* A block a page of a layer, 16 bytes a thread at a time. */
template <bool GATHER>
__global__ void copy_kernel(cuda_pages op) {
    const int32_t index = (int32_t)blockIdx.x, layer = (int32_t)blockIdx.y;
    uint4 *page = (uint4 *)page_of(op, layer, index);
    uint4 *staging = (uint4 *)staging_of(op, layer, index);
    const uint64_t pieces = (uint64_t)op.heads * op.head_bytes / sizeof(uint4);
    for (uint64_t i = threadIdx.x; i < pieces; i += THREADS) {
        if (GATHER) {
            staging[i] = page[i];
        } else {
            page[i] = staging[i];
        }
    }
}

/* A block a page of a layer, a warp a head's token at a time: its keys, then its values. */
__global__ void convert_kernel(cuda_pages op) {
    const int32_t index = (int32_t)blockIdx.x, layer = (int32_t)blockIdx.y;
    const int32_t warp = (int32_t)threadIdx.x / 32, lane = (int32_t)threadIdx.x % 32;
    for (int32_t i = warp; i < op.heads * 2 * PAGES_TOKENS; i += WARPS) {
        const int32_t head = i / (2 * PAGES_TOKENS), token = i % PAGES_TOKENS;
        const int which = i / PAGES_TOKENS % 2;
        uint8_t *from = staging_of(op, layer, index) + head * op.staging_head_bytes;
        uint8_t *to = page_of(op, layer, index) + head * op.head_bytes;
        float value[PAGES_LANE_DIMS];
#pragma unroll
        for (int32_t j = 0; j < PAGES_LANE_DIMS; j++) {
            const int32_t d = lane + j * 32;
            value[j] = d < op.head_dim
                           ? pages_get(op.staging_type, op.head_dim, from, which, token, d)
                           : 0.0f;
        }
        pages_put(op.type, op.head_dim, to, which, token, value);
    }
}

}  // namespace

cudaError_t pages_gather(const cuda_pages *op, cudaStream_t stream) {
    const dim3 grid((unsigned)op->count, (unsigned)op->layers);
    if (op->staging_type != op->type) {
        return cudaErrorInvalidValue;
    }
    return ptx_launch(copy_kernel<true>, grid, dim3(THREADS), 0, stream, *op);
}

cudaError_t pages_scatter(const cuda_pages *op, cudaStream_t stream) {
    const dim3 grid((unsigned)op->count, (unsigned)op->layers);
    if (op->staging_type != op->type) {
        return ptx_launch(convert_kernel, grid, dim3(THREADS), 0, stream, *op);
    }
    return ptx_launch(copy_kernel<false>, grid, dim3(THREADS), 0, stream, *op);
}
