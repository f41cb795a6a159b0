/* stream.cu -- matrix products that read each weight once: y = W x for one row or many.
 *
 * Decoding is bound by the bytes of the weights, so a block streams tiles of 16 outputs through the
 * tensor cores as they lie (cuda_ops.h), 16 bytes a lane and load, dequantised in registers; the
 * rows wait in shared memory. W is the A operand and the rows are B: 8 rows are one column block of
 * an m16n8k16 product, so few rows waste little.
 *
 * Order of arithmetic, for each (row, output), whatever the number of rows: warp w of a block sums
 * chunks w, w + 8, w + 16, ... in order; a quantised group's products are summed by mma, then one
 * fma with its scale and one with its minimum; the eight warps' sums are added in order; then the
 * bias; then what was there. Rows are bf16, quants exact: a product loses only what x lost. Many
 * rows (a prompt) are gemm.cu's, in the same order.
 */
#include "kernels/cuda/cuda_ops.h"
#include "kernels/cuda/fragment.cuh"
#include "kernels/cuda/ptx.cuh"

namespace {

constexpr int WARPS = 8;
constexpr int THREADS = WARPS * 32;
constexpr int ROWS = 8;       /* of a column block */
constexpr int BLOCKS_MAX = 8; /* column blocks of a pass: 64 rows */
constexpr int SHARED_X_MAX = 160 * 1024;

/* ---- rows to bf16 ---- */

__device__ float prepared(const cuda_rows &op, const float *x, int32_t row, int32_t k,
                          float factor) {
    const float value = x[k];
    switch (op.input) {
        case CUDA_ROWS_RMSNORM:
            return value * factor * op.norm_weight[k];
        case CUDA_ROWS_SILU_MUL:
            return value / (1.0f + expf(-value)) * op.x_up[(int64_t)row * op.width + k];
        case CUDA_ROWS_GELU_MUL: {
            const float inner = 0.7978845608f * (value + 0.044715f * value * value * value);
            return 0.5f * value * (1.0f + tanhf(inner)) * op.x_up[(int64_t)row * op.width + k];
        }
        default:
            return value;
    }
}

struct rows_shared {
    float squares[WARPS];
};

/* A block a row. A warp takes 32 inputs at a time, so that it can sum a group for the minimums. */
__global__ void rows_kernel(cuda_rows op) {
    PTX_SHARED(raw);
    rows_shared &shared = *(rows_shared *)raw;
    const int32_t row = (int32_t)blockIdx.x;
    const int warp = (int)threadIdx.x / 32, lane = (int)threadIdx.x % 32;
    float factor = 1.0f;
    const float *x = op.x + (int64_t)row * op.width;
    if (op.add != nullptr) {
        const float *add = op.add + (int64_t)row * op.width;
        float *sum = op.x_out + (int64_t)row * op.width;
        for (int32_t k = (int32_t)threadIdx.x; k < op.width; k += THREADS) {
            sum[k] = x[k] + add[k];
        }
        x = sum;
        __syncthreads();
    }
    if (op.input == CUDA_ROWS_RMSNORM) {
        float squares = 0;
        for (int32_t k = (int32_t)threadIdx.x; k < op.width; k += THREADS) {
            squares = __fmaf_rn(x[k], x[k], squares);
        }
        squares = ptx_warp_sum(squares);
        if (lane == 0) {
            shared.squares[warp] = squares;
        }
        __syncthreads();
        float sum = 0;
        for (int w = 0; w < WARPS; w++) {
            sum += shared.squares[w];
        }
        factor = 1.0f / sqrtf(sum / (float)op.width + op.norm_epsilon);
    }
    __nv_bfloat16 *out = (__nv_bfloat16 *)op.rows_bf16 + (int64_t)row * op.stride;
    for (int32_t group = warp; group < op.stride / 32; group += WARPS) {
        const int32_t k = group * 32 + lane;
        const float value = k < op.width ? prepared(op, x, row, k, factor) : 0.0f;
        const __nv_bfloat16 rounded = __float2bfloat16_rn(value);
        out[k] = rounded;
        const float sum = ptx_warp_sum(__bfloat162float(rounded));
        if (lane == 0) {
            op.sums[(int64_t)row * (op.stride / 32) + group] = sum;
        }
    }
}

/* ---- the product ---- */

template <int BLOCKS>
struct product_state {
    float sum[BLOCKS][4];   /* outputs g, g + 8 of rows 2 t, 2 t + 1 of each column block */
    float group[BLOCKS][4]; /* of the group under way */
};

/* One step of 16 inputs from input `k` on. `x` is where this lane's row begins in shared memory. */
template <cuda_store STORE, int BLOCKS>
__device__ void step_add(float (&d)[BLOCKS][4], const uint4 &first, const uint4 &second, int step,
                         __nv_bfloat162 zero, const __nv_bfloat16 *x, int32_t stride, int32_t k) {
    uint32_t a[4];
    fragment_of<STORE>(a, first, second, step, zero);
#pragma unroll
    for (int b = 0; b < BLOCKS; b++) {
        const uint2 pair = *(const uint2 *)(x + (int64_t)b * ROWS * stride + k);
        ptx_mma_bf16(d[b], a, pair.x, pair.y);
    }
}

/* A quantised chunk: groups of scale_group inputs, each summed apart, then scaled. */
template <cuda_store STORE, int BLOCKS>
__device__ void chunk_quantised(product_state<BLOCKS> &s, const cuda_product &op,
                                const cuda_matrix &m, int64_t tile, int32_t chunk,
                                const uint4 &first, const uint4 &second, const __nv_bfloat16 *x,
                                int32_t row_first) {
    constexpr int STEPS = STORE == CUDA_STORE_NIBBLES ? 8 : 4;
    const int lane = (int)threadIdx.x % 32, g = lane / 4, t = lane % 4;
    const __nv_bfloat162 zero = __float2bfloat162_rn(128.0f + (float)m.zero);
    const int group_steps = m.scale_group / CUDA_STEP;
#pragma unroll
    for (int step = 0; step < STEPS; step++) {
        const int32_t k = (chunk * STEPS + step) * CUDA_STEP;
        if (step % group_steps == 0) {
#pragma unroll
            for (int b = 0; b < BLOCKS; b++) {
                for (int i = 0; i < 4; i++) {
                    s.group[b][i] = 0;
                }
            }
        }
        step_add<STORE, BLOCKS>(s.group, first, second, step, zero, x, op.stride, k);
        if ((step + 1) % group_steps != 0) {
            continue;
        }
        const int64_t row = (tile * m.spans + k / CUDA_SPAN) * CUDA_TILE + g;
        const int per_span = CUDA_SPAN / m.scale_group, at = k % CUDA_SPAN / m.scale_group;
        const float low = fragment_span(m, m.scales, row, per_span, at);
        const float high = fragment_span(m, m.scales, row + 8, per_span, at);
#pragma unroll
        for (int b = 0; b < BLOCKS; b++) {
            s.sum[b][0] = __fmaf_rn(s.group[b][0], low, s.sum[b][0]);
            s.sum[b][1] = __fmaf_rn(s.group[b][1], low, s.sum[b][1]);
            s.sum[b][2] = __fmaf_rn(s.group[b][2], high, s.sum[b][2]);
            s.sum[b][3] = __fmaf_rn(s.group[b][3], high, s.sum[b][3]);
        }
        if (m.minimums == nullptr) {
            continue;
        }
        const float low_min = fragment_span(m, m.minimums, row, 4, k % CUDA_SPAN / 32);
        const float high_min = fragment_span(m, m.minimums, row + 8, 4, k % CUDA_SPAN / 32);
#pragma unroll
        for (int b = 0; b < BLOCKS; b++) {
            const int64_t of = (int64_t)(row_first + b * ROWS + 2 * t) * (op.stride / 32) + k / 32;
            const float even = op.sums[of], odd = op.sums[of + op.stride / 32];
            s.sum[b][0] = __fmaf_rn(low_min, even, s.sum[b][0]);
            s.sum[b][1] = __fmaf_rn(low_min, odd, s.sum[b][1]);
            s.sum[b][2] = __fmaf_rn(high_min, even, s.sum[b][2]);
            s.sum[b][3] = __fmaf_rn(high_min, odd, s.sum[b][3]);
        }
    }
}

template <cuda_store STORE, int BLOCKS>
__device__ void chunk_plain(product_state<BLOCKS> &s, const cuda_product &op, int32_t chunk,
                            const uint4 &first, const uint4 &second, const __nv_bfloat16 *x) {
    constexpr int STEPS = STORE == CUDA_STORE_F32 ? 1 : 2;
    const __nv_bfloat162 none = __float2bfloat162_rn(0.0f);
#pragma unroll
    for (int step = 0; step < STEPS; step++) {
        const int32_t k = (chunk * STEPS + step) * CUDA_STEP;
        step_add<STORE, BLOCKS>(s.sum, first, second, step, none, x, op.stride, k);
    }
}

/* Element i of `sum` belongs to output g + 8 (i / 2) of the tile and row 2 t + i % 2. */
template <int BLOCKS>
__device__ void tile_finish(const cuda_product &op, const cuda_product_part &part, int64_t tile,
                            int32_t row_first, const float *sums) {
    for (int i = (int)threadIdx.x; i < BLOCKS * ROWS * CUDA_TILE; i += THREADS) {
        const int output_in = i % CUDA_TILE, row_in = i / CUDA_TILE;
        const int64_t output = tile * CUDA_TILE + output_in;
        const int32_t row = row_first + row_in;
        if (output >= part.weight.outputs || row >= op.rows) {
            continue;
        }
        const int lane = output_in % 8 * 4 + row_in % ROWS / 2;
        const int element = output_in / 8 * 2 + row_in % 2;
        float sum = 0;
        for (int w = 0; w < WARPS; w++) {
            sum += sums[((w * BLOCKS + row_in / ROWS) * 32 + lane) * 4 + element];
        }
        if (part.bias != nullptr) {
            sum = sum + part.bias[output];
        }
        float *out = part.out + (int64_t)row * part.weight.outputs + output;
        *out = part.accumulate ? *out + sum : sum;
    }
}

template <cuda_store STORE, int BLOCKS>
__device__ void tile_product(const cuda_product &op, const cuda_product_part &part, int64_t tile,
                             int32_t row_first, const __nv_bfloat16 *rows, float *sums) {
    const cuda_matrix &m = part.weight;
    const int warp = (int)threadIdx.x / 32, lane = (int)threadIdx.x % 32;
    const __nv_bfloat16 *x = rows + (int64_t)(lane / 4) * op.stride + lane % 4 * 4;
    product_state<BLOCKS> s = {};
    for (int32_t chunk = warp; chunk < m.chunks; chunk += WARPS) {
        const uint8_t *at = m.values + ((tile * m.chunks + chunk) * 64 + lane) * CUDA_CHUNK_BYTES;
        const uint4 first = ptx_load_once(at);
        const uint4 second = ptx_load_once(at + 32 * CUDA_CHUNK_BYTES);
        if (STORE == CUDA_STORE_NIBBLES || STORE == CUDA_STORE_BYTES) {
            chunk_quantised<STORE, BLOCKS>(s, op, m, tile, chunk, first, second, x, row_first);
        } else {
            chunk_plain<STORE, BLOCKS>(s, op, chunk, first, second, x);
        }
    }
#pragma unroll
    for (int b = 0; b < BLOCKS; b++) {
        for (int i = 0; i < 4; i++) {
            sums[((warp * BLOCKS + b) * 32 + lane) * 4 + i] = s.sum[b][i];
        }
    }
    __syncthreads();
    tile_finish<BLOCKS>(op, part, tile, row_first, sums);
    __syncthreads();
}

/* blockIdx.y: which 8 * BLOCKS rows. Blocks of x share out the tiles of all parts. */
template <cuda_store STORE, int BLOCKS>
__global__ void __launch_bounds__(THREADS) product_kernel(cuda_product op) {
    PTX_SHARED(raw);
    float *sums = (float *)raw; /* [WARPS, BLOCKS, 32, 4] */
    const int32_t row_first = (int32_t)blockIdx.y * ROWS * BLOCKS;
    const __nv_bfloat16 *rows =
        (const __nv_bfloat16 *)op.rows_bf16 + (int64_t)row_first * op.stride;
    if (op.rows_shared) {
        __nv_bfloat16 *copy = (__nv_bfloat16 *)(raw + WARPS * BLOCKS * 32 * 4 * sizeof(float));
        const int32_t pieces = ROWS * BLOCKS * op.stride / 8;
        for (int32_t i = (int32_t)threadIdx.x; i < pieces; i += THREADS) {
            ptx_copy16(copy + (int64_t)i * 8, rows + (int64_t)i * 8, true);
        }
        ptx_copy_commit();
        ptx_copy_wait<0>();
        __syncthreads();
        rows = copy;
    }
    int64_t tile_first = 0;
    for (int32_t p = 0; p < op.parts_count; p++) {
        const int64_t tiles = (op.parts[p].weight.outputs + CUDA_TILE - 1) / CUDA_TILE;
        /* The first tile of this part that is this block's. */
        const int64_t skip = (tile_first + gridDim.x - 1 - blockIdx.x) / gridDim.x;
        for (int64_t t = skip * gridDim.x + blockIdx.x - tile_first; t < tiles; t += gridDim.x) {
            tile_product<STORE, BLOCKS>(op, op.parts[p], t, row_first, rows, sums);
        }
        tile_first += tiles;
    }
}

template <cuda_store STORE, int BLOCKS>
cudaError_t launch(const cuda_product &op, int multiprocessors, cudaStream_t stream) {
    cuda_product k = op;
    const size_t sums = (size_t)WARPS * BLOCKS * 32 * 4 * sizeof(float);
    const size_t rows = (size_t)ROWS * BLOCKS * (size_t)op.stride * sizeof(__nv_bfloat16);
    k.rows_shared = rows <= SHARED_X_MAX;
    int64_t tiles = 0;
    for (int32_t p = 0; p < op.parts_count; p++) {
        tiles += (op.parts[p].weight.outputs + CUDA_TILE - 1) / CUDA_TILE;
    }
    const unsigned row_blocks = (unsigned)((op.rows + ROWS * BLOCKS - 1) / (ROWS * BLOCKS));
    const int64_t wanted = k.rows_shared ? 2 * (int64_t)multiprocessors : tiles;
    const dim3 grid((unsigned)(wanted < tiles ? wanted : tiles), row_blocks);
    return ptx_launch(product_kernel<STORE, BLOCKS>, grid, dim3(THREADS),
                      sums + (k.rows_shared ? rows : 0), stream, k);
}

template <cuda_store STORE>
cudaError_t launch_rows(const cuda_product &op, int multiprocessors, cudaStream_t stream) {
    if (op.rows <= ROWS) {
        return launch<STORE, 1>(op, multiprocessors, stream);
    }
    if (op.rows <= 2 * ROWS) {
        return launch<STORE, 2>(op, multiprocessors, stream);
    }
    if (op.rows <= 4 * ROWS) {
        return launch<STORE, 4>(op, multiprocessors, stream);
    }
    if (op.rows > BLOCKS_MAX * ROWS && STORE != CUDA_STORE_F32) {
        return gemm_product(&op, stream);
    }
    return launch<STORE, BLOCKS_MAX>(op, multiprocessors, stream);
}

}  // namespace

cudaError_t stream_rows(const cuda_rows *op, cudaStream_t stream) {
    return ptx_launch(rows_kernel, dim3((unsigned)op->rows), dim3(THREADS), sizeof(rows_shared),
                      stream, *op);
}

cudaError_t stream_product(const cuda_product *op, int multiprocessors, cudaStream_t stream) {
    switch (op->parts[0].weight.store) {
        case CUDA_STORE_F32:
            return launch_rows<CUDA_STORE_F32>(*op, multiprocessors, stream);
        case CUDA_STORE_F16:
            return launch_rows<CUDA_STORE_F16>(*op, multiprocessors, stream);
        case CUDA_STORE_BF16:
            return launch_rows<CUDA_STORE_BF16>(*op, multiprocessors, stream);
        case CUDA_STORE_NIBBLES:
            return launch_rows<CUDA_STORE_NIBBLES>(*op, multiprocessors, stream);
        case CUDA_STORE_BYTES:
            return launch_rows<CUDA_STORE_BYTES>(*op, multiprocessors, stream);
    }
    return cudaErrorInvalidValue;
}
