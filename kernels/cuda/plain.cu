/* plain.cu -- every operator as simply as it can be written: the reference of the fast kernels.
 *
 * One thread an output wherever that is possible, sums in ascending order with written fused
 * multiply-adds: a result depends on its own row and on nothing else.
 */
#include <math.h>

#include "kernels/cuda/cuda_ops.h"
#include "kernels/cuda/pages.cuh"
#include "kernels/cuda/ptx.cuh"

namespace {

constexpr int THREADS = 128;
constexpr int WARP = 32;
constexpr int PAGE_TOKENS = PAGES_TOKENS;
constexpr int DIMS_PER_LANE = PAGES_LANE_DIMS;

unsigned blocks_for(int64_t threads) {
    return (unsigned)((threads + THREADS - 1) / THREADS);
}

__device__ int64_t thread_number() {
    return (int64_t)blockIdx.x * THREADS + threadIdx.x;
}

__device__ float half_or_float(const void *p, int64_t i, bool f32) {
    return f32 ? ((const float *)p)[i] : __half2float(((const __half *)p)[i]);
}

struct four {
    float w[4];
};

/* Where the four inputs k .. k + 3 (k a multiple of 4) of output o lie, and which step of its chunk
 * they are (cuda_ops.h). */
__device__ const uint8_t *four_at(const cuda_matrix &m, int32_t o, int32_t k, int chunk_steps,
                                  int *step) {
    const int32_t chunk = k / (chunk_steps * CUDA_STEP);
    *step = k / CUDA_STEP % chunk_steps;
    const int64_t tile = o / CUDA_TILE;
    const int half = o % CUDA_TILE / 8, lane = o % 8 * 4 + k % CUDA_STEP / 4;
    return m.values + (((tile * m.chunks + chunk) * 2 + half) * 32 + lane) * CUDA_CHUNK_BYTES;
}

__device__ float span_at(const cuda_matrix &m, const void *plane, int32_t o, int32_t k, int group) {
    const int64_t at = ((int64_t)(o / CUDA_TILE) * m.spans + k / CUDA_SPAN) * CUDA_TILE;
    return half_or_float(plane, (at + o % CUDA_TILE) * (CUDA_SPAN / group) + k % CUDA_SPAN / group,
                         m.scales_f32);
}

/* Weights (o, k .. k + 3), whatever their storage; k is a multiple of 4. */
__device__ four matrix_at(const cuda_matrix &m, int32_t o, int32_t k) {
    four f;
    int step;
    if (m.store == CUDA_STORE_F32) {
        const float *p = (const float *)four_at(m, o, k, 1, &step);
        for (int i = 0; i < 4; i++) {
            f.w[i] = p[i];
        }
        return f;
    }
    if (m.store == CUDA_STORE_F16 || m.store == CUDA_STORE_BF16) {
        const uint8_t *p = four_at(m, o, k, 2, &step);
        for (int i = 0; i < 4; i++) {
            f.w[i] = m.store == CUDA_STORE_F16
                         ? __half2float(((const __half *)p)[step * 4 + i])
                         : __bfloat162float(((const __nv_bfloat16 *)p)[step * 4 + i]);
        }
        return f;
    }
    const float scale = span_at(m, m.scales, o, k, m.scale_group);
    const float minimum = m.minimums != nullptr ? span_at(m, m.minimums, o, k, 32) : 0.0f;
    const bool nibbles = m.store == CUDA_STORE_NIBBLES;
    const uint8_t *p = four_at(m, o, k, nibbles ? 8 : 4, &step);
    for (int i = 0; i < 4; i++) {
        const int quant = nibbles ? p[step / 2 * 4 + i] >> (step % 2 * 4) & 15
                                  : ((const int8_t *)p)[step * 4 + i];
        f.w[i] = __fmaf_rn(scale, (float)(quant - m.zero), minimum);
    }
    return f;
}

/* One thread four elements; a row ends with fewer where its width is no multiple of 4. */
__global__ void embed_kernel(cuda_embed op) {
    const int64_t i = thread_number();
    const int32_t width = op.table.inputs, fours = (width + 3) / 4;
    if (i < (int64_t)op.rows * fours) {
        const int64_t row = i / fours;
        const int32_t first = (int32_t)(i % fours) * 4;
        const four f = matrix_at(op.table, op.tokens[row], first);
        for (int32_t k = 0; k < 4 && first + k < width; k++) {
            op.out[row * width + first + k] = f.w[k] * op.scale;
        }
    }
}

/* One thread four elements. */
__global__ void unpack_kernel(cuda_unpack op) {
    const int64_t i = thread_number();
    const int32_t fours = op.stride / 4;
    if (i < (int64_t)op.matrix.outputs * fours) {
        const int32_t row = (int32_t)(i / fours), first = (int32_t)(i % fours) * 4;
        __nv_bfloat16 *out = (__nv_bfloat16 *)op.out + (int64_t)row * op.stride + first;
        four f = {};
        if (first < op.matrix.inputs) {
            f = matrix_at(op.matrix, row, first);
        }
        for (int32_t k = 0; k < 4; k++) {
            out[k] = __float2bfloat16_rn(first + k < op.matrix.inputs ? f.w[k] : 0.0f);
        }
    }
}

/* A warp a row: lane l adds the squares of elements l, l + 32, ... in order. */
__global__ void rmsnorm_kernel(cuda_rmsnorm op) {
    const int32_t row = (int32_t)blockIdx.x, lane = (int32_t)threadIdx.x;
    const float *x = op.x + (int64_t)row * op.width;
    float *out = op.out + (int64_t)row * op.width;
    float squares = 0;
    for (int32_t i = lane; i < op.width; i += WARP) {
        squares = __fmaf_rn(x[i], x[i], squares);
    }
    const float mean = ptx_warp_sum(squares) / (float)op.width;
    const float factor = 1.0f / sqrtf(mean + op.epsilon);
    for (int32_t i = lane; i < op.width; i += WARP) {
        const float y = x[i] * factor * op.weight[i];
        out[i] = op.accumulate ? out[i] + y : y;
    }
}

/* SiLU, or GELU with tanh: Hendrycks and Gimpel, "Gaussian Error Linear Units" (2016). */
__device__ float gated(float gate, bool gelu) {
    if (gelu) {
        const float inner = 0.7978845608f * (gate + 0.044715f * gate * gate * gate);
        return 0.5f * gate * (1.0f + tanhf(inner));
    }
    return gate / (1.0f + expf(-gate));
}

__global__ void silu_mul_kernel(cuda_silu_mul op) {
    const int64_t i = thread_number();
    if (i < op.count) {
        op.out[i] = gated(op.gate[i], op.gelu) * op.up[i];
    }
}

__global__ void softcap_kernel(cuda_softcap op) {
    const int64_t i = thread_number();
    if (i < op.count) {
        op.x[i] = op.cap * tanhf(op.x[i] / op.cap);
    }
}

__global__ void sum_kernel(cuda_sum op) {
    const int64_t i = thread_number();
    if (i < op.count) {
        float sum = op.rank == 0 ? op.x[i] : op.parts[i];
        for (int32_t r = 1; r < op.ranks; r++) {
            sum += r == op.rank ? op.x[i] : op.parts[r * op.stride + i];
        }
        op.x[i] = sum;
    }
}

/* A thread a row, elements one after the other. */
__global__ void rows_kernel(cuda_rows op) {
    const int64_t row = thread_number();
    if (row >= op.rows) {
        return;
    }
    const float *x = op.x + row * op.width;
    if (op.add != nullptr) {
        for (int32_t k = 0; k < op.width; k++) {
            op.x_out[row * op.width + k] = x[k] + op.add[row * op.width + k];
        }
        x = op.x_out + row * op.width;
    }
    float squares = 0;
    for (int32_t k = 0; k < op.width; k++) {
        squares = __fmaf_rn(x[k], x[k], squares);
    }
    const float factor = 1.0f / sqrtf(squares / (float)op.width + op.norm_epsilon);
    __nv_bfloat16 *out = (__nv_bfloat16 *)op.rows_bf16 + row * op.stride;
    float sum = 0;
    for (int32_t k = 0; k < op.stride; k++) {
        float value = 0;
        if (k < op.width) {
            value = x[k];
            if (op.input == CUDA_ROWS_RMSNORM) {
                value = value * factor * op.norm_weight[k];
            } else if (op.input != CUDA_ROWS_PLAIN) {
                value = gated(value, op.input == CUDA_ROWS_GELU_MUL) * op.x_up[row * op.width + k];
            }
        }
        out[k] = __float2bfloat16_rn(value);
        sum = (k % 32 == 0 ? 0.0f : sum) + __bfloat162float(out[k]);
        if (k % 32 == 31) {
            op.sums[row * (op.stride / 32) + k / 32] = sum;
        }
    }
}

__global__ void gather_kernel(cuda_gather op) {
    const int64_t i = thread_number();
    if (i < (int64_t)op.rows * op.width) {
        const int64_t from = op.index[i / op.width];
        op.out[i] = op.x[from * op.width + i % op.width];
    }
}

__global__ void linear_kernel(cuda_linear op) {
    const int64_t i = thread_number();
    if (i >= (int64_t)op.rows * op.weight.outputs) {
        return;
    }
    const int64_t row = i / op.weight.outputs;
    const int32_t output = (int32_t)(i % op.weight.outputs), inputs = op.weight.inputs;
    const float *x = op.x + row * inputs;
    float sum = 0;
    for (int32_t first = 0; first < inputs; first += 4) {
        const four f = matrix_at(op.weight, output, first);
        for (int32_t k = 0; k < 4 && first + k < inputs; k++) {
            sum = __fmaf_rn(f.w[k], x[first + k], sum);
        }
    }
    if (op.bias != nullptr) {
        sum = sum + op.bias[output];
    }
    op.out[i] = op.accumulate ? op.out[i] + sum : sum;
}

__global__ void rope_table_kernel(cuda_rope_table op) {
    const int64_t i = thread_number();
    const int32_t half = op.dim / 2;
    if (i >= (int64_t)op.rows * half) {
        return;
    }
    const int64_t row = i / half, pair = i % half;
    double sine, cosine;
    sincos((double)op.positions[row] * op.frequencies[pair], &sine, &cosine);
    op.table[row * op.dim + pair] = op.magnitude * (float)cosine;
    op.table[row * op.dim + half + pair] = op.magnitude * (float)sine;
}

/* The page of a position of a row's sequence, at kv head `head`. */
__device__ uint8_t *kv_head_at(const cuda_kv_layer &kv, const cuda_batch &batch, int32_t seq,
                               int32_t position, int32_t head) {
    const uint32_t page = batch.pages[batch.pages_first[seq] + position / PAGE_TOKENS];
    return kv.layer + (uint64_t)page * kv.page_bytes + (uint64_t)head * kv.head_bytes;
}

/* Element d of a head after its turn; elements past `dim` stay as they are. */
__device__ float turned(const float *head, const float *table, int32_t d, int32_t dim,
                        bool interleaved) {
    if (d >= dim) {
        return head[d];
    }
    const int32_t half = dim / 2;
    const int32_t pair = interleaved ? d / 2 : d % half;
    const bool second = interleaved ? d % 2 != 0 : d >= half;
    const float a = head[interleaved ? 2 * pair : pair];
    const float b = head[interleaved ? 2 * pair + 1 : pair + half];
    const float cosine = table[pair], sine = table[half + pair];
    return second ? __fmaf_rn(a, sine, __fmul_rn(b, cosine))
                  : __fmaf_rn(-b, sine, __fmul_rn(a, cosine));
}

/* A warp a (row, head): first the query heads in place, then the kv heads into the pages. All lanes
 * read a head before any writes it. */
__global__ void rope_append_kernel(cuda_rope_append op) {
    const int32_t row = (int32_t)blockIdx.x, lane = (int32_t)threadIdx.x;
    const int32_t seq = op.batch.row_seq[row], dim = op.kv.head_dim;
    if (seq < 0) {
        return;
    }
    const float *table = op.table + (int64_t)row * op.dim;
    const int32_t kv_head = (int32_t)blockIdx.y - op.heads;
    if (kv_head < 0) {
        float *head = op.q + ((int64_t)row * op.heads + (int32_t)blockIdx.y) * dim;
        float value[DIMS_PER_LANE];
        for (int32_t i = 0, d = lane; d < dim; i++, d += WARP) {
            value[i] = turned(head, table, d, op.dim, op.interleaved);
        }
        __syncwarp();
        for (int32_t i = 0, d = lane; d < dim; i++, d += WARP) {
            head[d] = value[i];
        }
        return;
    }
    const int32_t position = op.batch.position[row];
    const int64_t at = ((int64_t)row * op.kv.kv_heads + kv_head) * dim;
    uint8_t *page = kv_head_at(op.kv, op.batch, seq, position, kv_head);
    float k[DIMS_PER_LANE], v[DIMS_PER_LANE];
    for (int32_t i = 0, d = lane; d < dim; i++, d += WARP) {
        k[i] = turned(op.k + at, table, d, op.dim, op.interleaved);
        v[i] = op.v[at + d];
    }
    pages_put(op.kv.type, dim, page, 0, position % PAGE_TOKENS, k);
    pages_put(op.kv.type, dim, page, 1, position % PAGE_TOKENS, v);
}

/* A warp a (row, head), 32 absolute positions at a time with a running maximum (Milakov and
 * Gimelshein, "Online normalizer calculation for softmax", 2018): lane l scores position 32 t + l,
 * then owns elements l, l + 32, ... of the result. */
struct attention_shared {
    float q[WARP * DIMS_PER_LANE];
    float weight[WARP];
};

__device__ float plain_score(const cuda_attention &op, int32_t seq, int32_t kv_head,
                             int32_t position, const float *q) {
    uint8_t *page = kv_head_at(op.kv, op.batch, seq, position, kv_head);
    float score = 0;
    for (int32_t d = 0; d < op.kv.head_dim; d++) {
        score = __fmaf_rn(
            q[d], pages_get(op.kv.type, op.kv.head_dim, page, 0, position % PAGE_TOKENS, d), score);
    }
    score *= op.scale;
    return op.softcap > 0 ? op.softcap * tanhf(score / op.softcap) : score;
}

__global__ void attention_kernel(cuda_attention op) {
    PTX_SHARED(raw);
    attention_shared &shared = *(attention_shared *)raw;
    const int32_t row = (int32_t)blockIdx.x, head = (int32_t)blockIdx.y;
    const int32_t lane = (int32_t)threadIdx.x, dim = op.kv.head_dim;
    const int32_t seq = op.batch.row_seq[row];
    if (seq < 0) {
        return;
    }
    const int32_t kv_head = head / (op.heads / op.kv.kv_heads);
    const int64_t at = ((int64_t)row * op.heads + head) * dim;
    for (int32_t d = lane; d < dim; d += WARP) {
        shared.q[d] = op.q[at + d];
    }
    __syncwarp();
    const int32_t last = op.batch.position[row];
    const int32_t low = op.window > 0 && last >= op.window ? last - op.window + 1 : 0;
    float top = -INFINITY, total = 0, sum[DIMS_PER_LANE] = {};
    for (int32_t first = low / WARP * WARP; first <= last; first += WARP) {
        const int32_t position = first + lane;
        const bool seen = position >= low && position <= last;
        const float score = seen ? plain_score(op, seq, kv_head, position, shared.q) : -INFINITY;
        const float new_top = fmaxf(top, ptx_warp_max(score));
        const float keep = expf(top - new_top);
        const float weight = seen ? expf(score - new_top) : 0.0f;
        top = new_top;
        total = __fmaf_rn(total, keep, ptx_warp_sum(weight));
        shared.weight[lane] = weight;
        __syncwarp();
        for (int32_t i = 0, d = lane; d < dim; i++, d += WARP) {
            sum[i] *= keep;
            for (int32_t t = 0; t < WARP && first + t <= last; t++) {
                if (first + t >= low) {
                    uint8_t *page = kv_head_at(op.kv, op.batch, seq, first + t, kv_head);
                    sum[i] = __fmaf_rn(
                        shared.weight[t],
                        pages_get(op.kv.type, dim, page, 1, (first + t) % PAGE_TOKENS, d), sum[i]);
                }
            }
        }
        __syncwarp();
    }
    for (int32_t i = 0, d = lane; d < dim; i++, d += WARP) {
        op.out[at + d] = sum[i] / total;
    }
}

}  // namespace

cudaError_t plain_embed(const cuda_embed *op, cudaStream_t stream) {
    const int64_t threads = (int64_t)op->rows * ((op->table.inputs + 3) / 4);
    return ptx_launch(embed_kernel, dim3(blocks_for(threads)), dim3(THREADS), 0, stream, *op);
}

cudaError_t plain_unpack(const cuda_unpack *op, cudaStream_t stream) {
    const int64_t threads = (int64_t)op->matrix.outputs * (op->stride / 4);
    return ptx_launch(unpack_kernel, dim3(blocks_for(threads)), dim3(THREADS), 0, stream, *op);
}

cudaError_t plain_rmsnorm(const cuda_rmsnorm *op, cudaStream_t stream) {
    return ptx_launch(rmsnorm_kernel, dim3((unsigned)op->rows), dim3(WARP), 0, stream, *op);
}

cudaError_t plain_silu_mul(const cuda_silu_mul *op, cudaStream_t stream) {
    return ptx_launch(silu_mul_kernel, dim3(blocks_for(op->count)), dim3(THREADS), 0, stream, *op);
}

cudaError_t plain_softcap(const cuda_softcap *op, cudaStream_t stream) {
    return ptx_launch(softcap_kernel, dim3(blocks_for(op->count)), dim3(THREADS), 0, stream, *op);
}

cudaError_t plain_sum(const cuda_sum *op, cudaStream_t stream) {
    return ptx_launch(sum_kernel, dim3(blocks_for(op->count)), dim3(THREADS), 0, stream, *op);
}

cudaError_t plain_rows(const cuda_rows *op, cudaStream_t stream) {
    return ptx_launch(rows_kernel, dim3(blocks_for(op->rows)), dim3(THREADS), 0, stream, *op);
}

cudaError_t plain_gather(const cuda_gather *op, cudaStream_t stream) {
    const int64_t threads = (int64_t)op->rows * op->width;
    return ptx_launch(gather_kernel, dim3(blocks_for(threads)), dim3(THREADS), 0, stream, *op);
}

cudaError_t plain_linear(const cuda_linear *op, cudaStream_t stream) {
    const int64_t threads = (int64_t)op->rows * op->weight.outputs;
    return ptx_launch(linear_kernel, dim3(blocks_for(threads)), dim3(THREADS), 0, stream, *op);
}

cudaError_t plain_rope_table(const cuda_rope_table *op, cudaStream_t stream) {
    const int64_t threads = (int64_t)op->rows * (op->dim / 2);
    return ptx_launch(rope_table_kernel, dim3(blocks_for(threads)), dim3(THREADS), 0, stream, *op);
}

cudaError_t plain_rope_append(const cuda_rope_append *op, cudaStream_t stream) {
    const dim3 grid((unsigned)op->rows, (unsigned)(op->heads + op->kv.kv_heads));
    return ptx_launch(rope_append_kernel, grid, dim3(WARP), 0, stream, *op);
}

cudaError_t plain_attention(const cuda_attention *op, cudaStream_t stream) {
    const dim3 grid((unsigned)op->rows, (unsigned)op->heads);
    return ptx_launch(attention_kernel, grid, dim3(WARP), sizeof(attention_shared), stream, *op);
}
