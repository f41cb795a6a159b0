/* fused.cu -- rotary positions and the KV cache's new rows in one pass.
 *
 * A warp a (row, head): lane l has the pairs l, l + 32, ... so that each element is read once and
 * turned in registers; a head of k is turned and rounded into its page in the same breath. The
 * arithmetic is plain.cu's, element for element.
 */
#include "kernels/cuda/cuda_ops.h"
#include "kernels/cuda/pages.cuh"
#include "kernels/cuda/ptx.cuh"

namespace {

constexpr int WARPS = 4;
constexpr int PAIRS = PAGES_LANE_DIMS / 2; /* of a lane */

/* Both elements of a lane's pairs, and where they are in the head; -1: no such pair. */
struct pairs {
    float value[PAIRS][2];
    int32_t at[PAIRS][2];
};

/* Pair p of a head: the first dim / 2 turn; those behind are neighbours that stay as they are. */
__device__ void pair_place(int32_t (&at)[2], int32_t p, int32_t head_dim, int32_t dim,
                           bool interleaved) {
    const int32_t turning = dim / 2;
    if (p >= head_dim / 2) {
        at[0] = at[1] = -1;
    } else if (p >= turning || interleaved) {
        at[0] = 2 * p;
        at[1] = 2 * p + 1;
    } else {
        at[0] = p;
        at[1] = p + turning;
    }
}

__device__ void pairs_load(pairs &own, const float *head, const float *table,
                           const cuda_rope_append &op) {
    const int32_t lane = (int32_t)threadIdx.x % 32, turning = op.dim / 2;
#pragma unroll
    for (int i = 0; i < PAIRS; i++) {
        const int32_t p = lane + i * 32;
        pair_place(own.at[i], p, op.kv.head_dim, table != nullptr ? op.dim : 0, op.interleaved);
        if (own.at[i][0] < 0) {
            continue;
        }
        const float a = head[own.at[i][0]], b = head[own.at[i][1]];
        own.value[i][0] = a;
        own.value[i][1] = b;
        if (table != nullptr && p < turning) {
            const float cosine = table[p], sine = table[turning + p];
            own.value[i][0] = __fmaf_rn(-b, sine, __fmul_rn(a, cosine));
            own.value[i][1] = __fmaf_rn(a, sine, __fmul_rn(b, cosine));
        }
    }
}

__device__ void pairs_to_page(const pairs &own, const cuda_kv_layer &kv, uint8_t *page, int which,
                              int32_t token) {
    float scale = 0;
    if (kv.type == CUDA_KV_INT8) {
        float largest = 0;
#pragma unroll
        for (int i = 0; i < PAIRS; i++) {
            if (own.at[i][0] >= 0) {
                largest = fmaxf(largest, fmaxf(fabsf(own.value[i][0]), fabsf(own.value[i][1])));
            }
        }
        scale = pages_put_scale(kv.head_dim, page, which, token, ptx_warp_max(largest));
    }
    const int32_t first = (which * PAGES_TOKENS + token) * kv.head_dim;
#pragma unroll
    for (int i = 0; i < PAIRS; i++) {
        if (own.at[i][0] >= 0) {
            pages_put_one(kv.type, page, first + own.at[i][0], own.value[i][0], scale);
            pages_put_one(kv.type, page, first + own.at[i][1], own.value[i][1], scale);
        }
    }
}

__global__ void __launch_bounds__(WARPS * 32) rope_append_kernel(cuda_rope_append op) {
    const int32_t row = (int32_t)blockIdx.x, seq = op.batch.row_seq[row];
    const int32_t number = (int32_t)blockIdx.y * WARPS + (int32_t)threadIdx.x / 32;
    const int32_t dim = op.kv.head_dim;
    if (seq < 0 || number >= op.heads + op.kv.kv_heads) {
        return;
    }
    const float *table = op.table + (int64_t)row * op.dim;
    pairs own;
    if (number < op.heads) {
        float *head = op.q + ((int64_t)row * op.heads + number) * dim;
        pairs_load(own, head, table, op);
#pragma unroll
        for (int i = 0; i < PAIRS; i++) {
            if (own.at[i][0] >= 0) {
                head[own.at[i][0]] = own.value[i][0];
                head[own.at[i][1]] = own.value[i][1];
            }
        }
        return;
    }
    const int32_t kv_head = number - op.heads, position = op.batch.position[row];
    const int64_t at = ((int64_t)row * op.kv.kv_heads + kv_head) * dim;
    const uint32_t number_of_page =
        op.batch.pages[op.batch.pages_first[seq] + position / PAGES_TOKENS];
    uint8_t *page = op.kv.layer + (uint64_t)number_of_page * op.kv.page_bytes +
                    (uint64_t)kv_head * op.kv.head_bytes;
    pairs_load(own, op.k + at, table, op);
    pairs_to_page(own, op.kv, page, 0, position % PAGES_TOKENS);
    pairs_load(own, op.v + at, nullptr, op);
    pairs_to_page(own, op.kv, page, 1, position % PAGES_TOKENS);
}

}  // namespace

cudaError_t fused_rope_append(const cuda_rope_append *op, cudaStream_t stream) {
    const unsigned heads = (unsigned)(op->heads + op->kv.kv_heads);
    const dim3 grid((unsigned)op->rows, (heads + WARPS - 1) / WARPS);
    return ptx_launch(rope_append_kernel, grid, dim3(WARPS * 32), 0, stream, *op);
}
