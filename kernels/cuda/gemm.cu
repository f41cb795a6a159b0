/* gemm.cu -- matrix products of many rows (prompts) from packed weights: a fixed order of
 * arithmetic without a library.
 *
 * A block makes 128 outputs of 64 rows: a warp two tiles of 16 outputs, whose weights are
 * dequantised in registers once for all 64 rows. Weights and rows come by cp.async, two stages.
 *
 * The order is stream.cu's, so that a row has the same bits in a prompt and in decoding: there warp
 * w of eight sums chunks w, w + 8, ... and the eight sums are added in order. Here one warp does
 * the eight passes one after the other, and adds each to a total that waits in shared memory.
 */
#include "kernels/cuda/cuda_ops.h"
#include "kernels/cuda/fragment.cuh"
#include "kernels/cuda/ptx.cuh"

namespace {

constexpr int WARPS = 4;
constexpr int THREADS = WARPS * 32;
constexpr int TILES = 2; /* of outputs, a warp */
constexpr int ROWS = 64;
constexpr int BLOCKS = ROWS / 8; /* column blocks of mma */
constexpr int PASSES = 8;        /* the warps of stream.cu */

template <cuda_store STORE>
struct shape {
    static constexpr bool QUANTISED = STORE == CUDA_STORE_NIBBLES || STORE == CUDA_STORE_BYTES;
    static constexpr int STEPS = STORE == CUDA_STORE_NIBBLES ? 8 : QUANTISED ? 4 : 2; /* a chunk */
    static constexpr int CHUNK_INPUTS = STEPS * CUDA_STEP;
    static constexpr int CHUNKS = QUANTISED ? 1 : 2; /* a stage */
    static constexpr int INPUTS = CHUNKS * CHUNK_INPUTS;
    /* Four rows' 8 bytes a lane lie in different banks. */
    static constexpr int STRIDE = INPUTS + 16;
    static constexpr int GROUP_BLOCKS = QUANTISED ? BLOCKS : 1;

    struct stage {
        __nv_bfloat16 x[ROWS * STRIDE];
        uint4 weights[CHUNKS][TILES][2][THREADS]; /* a thread's own */
    };
    struct shared {
        stage stages[2];
        float total[TILES][BLOCKS][4][THREADS]; /* a thread's own */
    };
};

/* Which weights and rows are this block's. */
struct place {
    const cuda_matrix *m;
    int64_t tile[TILES]; /* the last one of the matrix where this warp has none */
    int32_t row_first;
};

template <class S>
struct sums {
    float sum[TILES][BLOCKS][4];
    float group[TILES][S::GROUP_BLOCKS][4];
};

/* The first of a stage's chunks: chunk `pass` + PASSES * `at`. */
struct cursor {
    int32_t pass, at;
};

__device__ int32_t chunks_of(int32_t pass, int32_t chunks) {
    return pass < chunks ? (chunks - pass - 1) / PASSES + 1 : 0;
}

template <class S>
__device__ cursor next_of(cursor c, int32_t chunks) {
    c.at += S::CHUNKS;
    while (c.pass < PASSES && c.at >= chunks_of(c.pass, chunks)) {
        c.pass++;
        c.at = 0;
    }
    return c;
}

template <class S>
__device__ void load_stage(typename S::stage &stage, const cuda_product &op, const place &p,
                           cursor c) {
    constexpr int PIECES = S::CHUNK_INPUTS / 8; /* of a row of a chunk */
    const __nv_bfloat16 *rows = (const __nv_bfloat16 *)op.rows_bf16;
#pragma unroll
    for (int n = 0; n < S::CHUNKS; n++) {
        const int32_t chunk = c.pass + PASSES * (c.at + n);
        const bool there = chunk < p.m->chunks;
        const int32_t from = there ? chunk : c.pass;
#pragma unroll
        for (int i = 0; i < ROWS * PIECES / THREADS; i++) {
            const int piece = (i * THREADS + (int)threadIdx.x) % PIECES;
            const int row = (i * THREADS + (int)threadIdx.x) / PIECES;
            ptx_copy16(stage.x + row * S::STRIDE + n * S::CHUNK_INPUTS + piece * 8,
                       rows + (int64_t)(p.row_first + row) * op.stride + from * S::CHUNK_INPUTS +
                           piece * 8,
                       there);
        }
#pragma unroll
        for (int i = 0; i < TILES; i++) {
            const uint8_t *at =
                p.m->values +
                ((p.tile[i] * p.m->chunks + from) * 64 + (int)threadIdx.x % 32) * CUDA_CHUNK_BYTES;
            ptx_copy16(&stage.weights[n][i][0][threadIdx.x], at, there);
            ptx_copy16(&stage.weights[n][i][1][threadIdx.x], at + 32 * CUDA_CHUNK_BYTES, there);
        }
    }
}

/* One step of 16 inputs for both tiles. */
template <cuda_store STORE, int D>
__device__ void step_add(float (&d)[TILES][D][4], const typename shape<STORE>::stage &stage, int n,
                         int step, __nv_bfloat162 zero) {
    using S = shape<STORE>;
    const int lane = (int)threadIdx.x % 32;
    uint32_t a[TILES][4];
#pragma unroll
    for (int i = 0; i < TILES; i++) {
        fragment_of<STORE>(a[i], stage.weights[n][i][0][threadIdx.x],
                           stage.weights[n][i][1][threadIdx.x], step, zero);
    }
    const __nv_bfloat16 *x =
        stage.x + lane / 4 * S::STRIDE + lane % 4 * 4 + n * S::CHUNK_INPUTS + step * CUDA_STEP;
#pragma unroll
    for (int b = 0; b < BLOCKS; b++) {
        const uint2 pair = *(const uint2 *)(x + b * 8 * S::STRIDE);
#pragma unroll
        for (int i = 0; i < TILES; i++) {
            ptx_mma_bf16(d[i][b], a[i], pair.x, pair.y);
        }
    }
}

/* sum += factor of the outputs g and g + 8 times values of the rows 2 t and 2 t + 1. */
__device__ void scaled_add(float (&sum)[4], float low, float high, const float (&values)[4]) {
    sum[0] = __fmaf_rn(values[0], low, sum[0]);
    sum[1] = __fmaf_rn(values[1], low, sum[1]);
    sum[2] = __fmaf_rn(values[2], high, sum[2]);
    sum[3] = __fmaf_rn(values[3], high, sum[3]);
}

/* A finished group of inputs from `k` on (its last step), scaled and added; and its minimums. */
template <class S>
__device__ void group_add(sums<S> &s, const cuda_product &op, const place &p, int32_t k) {
    const cuda_matrix &m = *p.m;
    const int lane = (int)threadIdx.x % 32, g = lane / 4, t = lane % 4;
    const int per_span = CUDA_SPAN / m.scale_group, at = k % CUDA_SPAN / m.scale_group;
#pragma unroll
    for (int i = 0; i < TILES; i++) {
        const int64_t row = (p.tile[i] * m.spans + k / CUDA_SPAN) * CUDA_TILE + g;
        const float low = fragment_span(m, m.scales, row, per_span, at);
        const float high = fragment_span(m, m.scales, row + 8, per_span, at);
#pragma unroll
        for (int b = 0; b < BLOCKS; b++) {
            scaled_add(s.sum[i][b], low, high, s.group[i][b]);
        }
        if (m.minimums == nullptr) {
            continue;
        }
        const float low_min = fragment_span(m, m.minimums, row, 4, k % CUDA_SPAN / 32);
        const float high_min = fragment_span(m, m.minimums, row + 8, 4, k % CUDA_SPAN / 32);
#pragma unroll
        for (int b = 0; b < BLOCKS; b++) {
            const int64_t of = (int64_t)(p.row_first + b * 8 + 2 * t) * (op.stride / 32) + k / 32;
            const float even = op.sums[of], odd = op.sums[of + op.stride / 32];
            const float values[4] = {even, odd, even, odd};
            scaled_add(s.sum[i][b], low_min, high_min, values);
        }
    }
}

template <cuda_store STORE>
__device__ void chunk_add(sums<shape<STORE>> &s, const cuda_product &op, const place &p,
                          const typename shape<STORE>::stage &stage, int n, int32_t chunk) {
    using S = shape<STORE>;
    if constexpr (!S::QUANTISED) {
        const __nv_bfloat162 none = __float2bfloat162_rn(0.0f);
#pragma unroll
        for (int step = 0; step < S::STEPS; step++) {
            step_add<STORE, BLOCKS>(s.sum, stage, n, step, none);
        }
    } else {
        const __nv_bfloat162 zero = __float2bfloat162_rn(128.0f + (float)p.m->zero);
        const int group_steps = p.m->scale_group / CUDA_STEP;
#pragma unroll
        for (int step = 0; step < S::STEPS; step++) {
            if (step % group_steps == 0) {
#pragma unroll
                for (int e = 0; e < TILES * BLOCKS * 4; e++) {
                    s.group[e / (BLOCKS * 4)][e / 4 % BLOCKS][e % 4] = 0;
                }
            }
            step_add<STORE, BLOCKS>(s.group, stage, n, step, zero);
            if ((step + 1) % group_steps == 0) {
                group_add<S>(s, op, p, (chunk * S::STEPS + step) * CUDA_STEP);
            }
        }
    }
}

/* A pass is over: total += sum, and the sum starts anew. */
template <class S>
__device__ void pass_end(sums<S> &s, float (&total)[TILES][BLOCKS][4][THREADS], bool first) {
#pragma unroll
    for (int e = 0; e < TILES * BLOCKS * 4; e++) {
        const int i = e / (BLOCKS * 4), b = e / 4 % BLOCKS;
        float *at = &total[i][b][e % 4][threadIdx.x];
        *at = (first ? 0.0f : *at) + s.sum[i][b][e % 4];
        s.sum[i][b][e % 4] = 0;
    }
}

template <class S>
__device__ void finish(const cuda_product &op, const cuda_product_part &part, const place &p,
                       int64_t tile_first, const float (&total)[TILES][BLOCKS][4][THREADS]) {
    const int lane = (int)threadIdx.x % 32;
#pragma unroll
    for (int i = 0; i < TILES; i++) {
#pragma unroll
        for (int e = 0; e < BLOCKS * 4; e++) {
            const int64_t output = (tile_first + i) * CUDA_TILE + lane / 4 + e % 4 / 2 * 8;
            const int32_t row = p.row_first + e / 4 * 8 + lane % 4 * 2 + e % 2;
            if (output >= part.weight.outputs || row >= op.rows) {
                continue;
            }
            float sum = total[i][e / 4][e % 4][threadIdx.x];
            if (part.bias != nullptr) {
                sum = sum + part.bias[output];
            }
            float *out = part.out + (int64_t)row * part.weight.outputs + output;
            *out = part.accumulate ? *out + sum : sum;
        }
    }
}

__device__ int64_t tiles_of(const cuda_product_part &part) {
    return (part.weight.outputs + CUDA_TILE - 1) / CUDA_TILE;
}

/* blockIdx.x: which 64 rows, so that blocks with the same weights run together; blockIdx.y: which
 * 128 outputs, of the parts one after the other. */
template <cuda_store STORE>
__global__ void __launch_bounds__(THREADS, 2) gemm_kernel(cuda_product op) {
    using S = shape<STORE>;
    PTX_SHARED(raw);
    typename S::shared &shared = *(typename S::shared *)raw;
    int32_t number = 0, block = (int32_t)blockIdx.y;
    for (; number + 1 < op.parts_count; number++) {
        const int32_t blocks =
            (int32_t)((tiles_of(op.parts[number]) + WARPS * TILES - 1) / (WARPS * TILES));
        if (block < blocks) {
            break;
        }
        block -= blocks;
    }
    const cuda_product_part &part = op.parts[number];
    const int64_t tile_first = ((int64_t)block * WARPS + (int)threadIdx.x / 32) * TILES;
    place p = {&part.weight, {}, (int32_t)blockIdx.x * ROWS};
    for (int i = 0; i < TILES; i++) {
        const int64_t last = tiles_of(part) - 1;
        p.tile[i] = tile_first + i < last ? tile_first + i : last;
    }
    const int32_t chunks = part.weight.chunks;
    cursor now = {0, 0};
    load_stage<S>(shared.stages[0], op, p, now);
    ptx_copy_commit();
    sums<S> s = {};
    for (int number_of_stage = 0; now.pass < PASSES; number_of_stage++) {
        const cursor next = next_of<S>(now, chunks);
        if (next.pass < PASSES) {
            load_stage<S>(shared.stages[(number_of_stage + 1) % 2], op, p, next);
        }
        ptx_copy_commit();
        ptx_copy_wait<1>();
        __syncthreads();
#pragma unroll
        for (int n = 0; n < S::CHUNKS; n++) {
            const int32_t chunk = now.pass + PASSES * (now.at + n);
            if (chunk < chunks) {
                chunk_add<STORE>(s, op, p, shared.stages[number_of_stage % 2], n, chunk);
            }
        }
        if (next.pass != now.pass) {
            pass_end<S>(s, shared.total, now.pass == 0);
        }
        now = next;
        __syncthreads();
    }
    finish<S>(op, part, p, tile_first, shared.total);
}

template <cuda_store STORE>
cudaError_t launch(const cuda_product &op, cudaStream_t stream) {
    int64_t blocks = 0;
    for (int32_t i = 0; i < op.parts_count; i++) {
        const int64_t tiles = (op.parts[i].weight.outputs + CUDA_TILE - 1) / CUDA_TILE;
        blocks += (tiles + WARPS * TILES - 1) / (WARPS * TILES);
    }
    const dim3 grid((unsigned)((op.rows + ROWS - 1) / ROWS), (unsigned)blocks);
    return ptx_launch(gemm_kernel<STORE>, grid, dim3(THREADS),
                      sizeof(typename shape<STORE>::shared), stream, op);
}

}  // namespace

cudaError_t gemm_product(const cuda_product *op, cudaStream_t stream) {
    switch (op->parts[0].weight.store) {
        case CUDA_STORE_F16:
            return launch<CUDA_STORE_F16>(*op, stream);
        case CUDA_STORE_BF16:
            return launch<CUDA_STORE_BF16>(*op, stream);
        case CUDA_STORE_NIBBLES:
            return launch<CUDA_STORE_NIBBLES>(*op, stream);
        case CUDA_STORE_BYTES:
            return launch<CUDA_STORE_BYTES>(*op, stream);
        case CUDA_STORE_F32:
            break;
    }
    return cudaErrorInvalidValue;
}
