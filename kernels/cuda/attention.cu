/* attention.cu -- attention on the tensor cores: prompts and decoding with one arithmetic.
 *
 * A tile of query rows (a row: one token and one of the heads that share a kv head, so that each
 * key is read once for all of them) goes over the positions it sees: tiles of keys and values come
 * from the pages by cp.async, two under way; scores, online softmax and values in registers, as in
 * Dao, "FlashAttention-2" (2023). A warp owns 16 rows.
 *
 * Order of arithmetic, for each (row, head), whatever else is computed beside it: tiles of TILE
 * absolute positions, inside a split of CUDA_SPLIT_TOKENS from a fresh start; scores by mma over
 * dimensions ascending; weights rounded to 16 bits, their sum one more column of the values, all
 * ones, so that mma adds it up too; splits joined in order by join(). Tiles that a row does not see
 * add exact zeros. So a row has the same bits in a prompt's kernel and in decoding's.
 */
#include <cuda_fp8.h>
#include <math.h>

#include "kernels/cuda/cuda_ops.h"
#include "kernels/cuda/ptx.cuh"

namespace {

constexpr int PAGE_TOKENS = 16;
constexpr float LOG2_E = 1.44269504088896341f;

/* ---- splits ---- */

/* What two sums are multiplied with when they become one: 2^(own greatest - common greatest). */
__device__ float share_of(float top, float common) {
    return top == common ? 1.0f : exp2f(top - common);
}

__device__ float join(float sum, float share, float next, float next_share) {
    return __fmaf_rn(next, next_share, __fmul_rn(sum, share));
}

/* + 0 makes one zero of two, which depend on how many unseen tiles were added. */
__device__ float quotient(float sum, float weights) {
    return sum / weights + 0.0f;
}

/* ---- elements ---- */

__device__ uint32_t pair_f16(float low, float high) {
    const __half2 pair = __floats2half2_rn(low, high);
    return *(const uint32_t *)&pair;
}

__device__ uint32_t pair_bf16(float low, float high) {
    const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
    return *(const uint32_t *)&pair;
}

/* Two of four bytes around 128 as f16: 1024 + u is 0x6400 | u, exactly. */
__device__ uint32_t bytes_f16(uint32_t bytes, uint32_t selector) {
    const uint32_t biased = __byte_perm(bytes, 0x64646464u, selector);
    const __half2 value = __hsub2(*(const __half2 *)&biased, __float2half2_rn(1152.0f));
    return *(const uint32_t *)&value;
}

/* The same as bf16, by way of 2^23 + u in f32: its upper half holds eight bits exactly. */
__device__ uint32_t bytes_bf16(uint32_t bytes, int low, int high) {
    const uint32_t a = __byte_perm(bytes, 0x4b000000u, 0x7440u | (uint32_t)low);
    const uint32_t b = __byte_perm(bytes, 0x4b000000u, 0x7440u | (uint32_t)high);
    const float x = __int_as_float((int)a) - 8388736.0f, y = __int_as_float((int)b) - 8388736.0f;
    return __byte_perm((uint32_t)__float_as_int(x), (uint32_t)__float_as_int(y), 0x7632);
}

/* Two e4m3, the lower halves' bytes of `pair`, as f16: exactly. */
__device__ uint32_t e4m3_f16(uint32_t pair) {
    const __half2_raw value = __nv_cvt_fp8x2_to_halfraw2((__nv_fp8x2_storage_t)pair, __NV_E4M3);
    return (uint32_t)value.x | (uint32_t)value.y << 16;
}

/* ---- shapes ---- */

template <cuda_kv_type TYPE>
constexpr bool BYTES = TYPE == CUDA_KV_INT8 || TYPE == CUDA_KV_FP8;

template <cuda_kv_type TYPE, int DIM, int WARPS>
struct shape {
    static constexpr int THREADS = WARPS * 32;
    static constexpr int TILE = DIM > 128 ? 32 : 64; /* positions */
    static constexpr int ROW_BYTES = DIM * (BYTES<TYPE> ? 1 : 2);
    static constexpr int PIECES = ROW_BYTES / 16;
    /* So that eight rows' pieces lie in different banks: pieces change places where their number
     * is a power of two, else rows are a piece longer. */
    static constexpr bool SWIZZLED = !BYTES<TYPE> && (PIECES & (PIECES - 1)) == 0;
    static constexpr int STRIDE = ROW_BYTES + (SWIZZLED ? 0 : 16);
    static constexpr bool Q_HELD = DIM <= 128;             /* in registers; else in shared memory */
    static constexpr int STEPS = DIM / 16;                 /* of the scores */
    static constexpr int COLUMNS = DIM / 8;                /* blocks of eight dimensions */
    static constexpr int TILES = CUDA_SPLIT_TOKENS / TILE; /* of a split */
    static constexpr bool WEIGHTS_F16 = TYPE == CUDA_KV_F16 || TYPE == CUDA_KV_FP8;
    static constexpr bool SCORES_F16 = TYPE != CUDA_KV_BF16;

    struct stage {
        unsigned char k[TILE * STRIDE];
        unsigned char v[TILE * STRIDE];
        __nv_bfloat16 scales[2][TYPE == CUDA_KV_INT8 ? TILE : 8]; /* of k, of v */
    };
    struct shared {
        stage stages[2];
        float joined[COLUMNS * 4 + 4][THREADS];                   /* split_join */
        uint32_t q[Q_HELD ? 1 : STEPS * 4][Q_HELD ? 1 : THREADS]; /* a thread's own too */
    };
};

template <class S>
__device__ int piece_at(int row, int piece) {
    return row * S::STRIDE + (S::SWIZZLED ? piece ^ (row & 7) : piece) * 16;
}

/* Piece `even` + `odd` (0 or 1) of a row: `even` is known when this is compiled, so that few
 * different sums are left to be held in registers. */
template <class S>
__device__ int piece_of_two(int row, int even, int odd) {
    if (!S::SWIZZLED) {
        return row * S::STRIDE + odd * 16 + even * 16;
    }
    return row * S::STRIDE + (((even & 7) | odd) ^ (row & 7)) * 16 + (even & ~7) * 16;
}

/* What a thread holds of its warp's 16 rows: index 0 of pairs is row g, 1 is row g + 8. */
template <class S>
struct state {
    uint32_t q[S::Q_HELD ? S::STEPS : 1][4];
    float score[S::TILE / 8][4]; /* then weights */
    float sum[S::COLUMNS][4];
    float weights[4]; /* sums of weights: elements 0 and 2 count */
    float top[2];
    int32_t high[2]; /* the last position seen; -1: no row */
};

/* ---- loading ---- */

/* Tile `tile` of positions up to `last` on its way to a stage; what is beyond is zero. */
template <cuda_kv_type TYPE, class S>
__device__ void load_tile(typename S::stage &stage, const cuda_attention &op, const uint32_t *pages,
                          int32_t kv_head, int32_t tile, int32_t last) {
    const uint64_t head = (uint64_t)kv_head * op.kv.head_bytes;
#pragma unroll(S::Q_HELD ? 4 : 1)
    for (int i = (int)threadIdx.x; i < S::TILE * S::PIECES; i += S::THREADS) {
        const int row = i / S::PIECES, piece = i % S::PIECES;
        const int32_t position = tile * S::TILE + row;
        const bool there = position <= last;
        const uint32_t page = there ? pages[position / PAGE_TOKENS] : 0;
        const uint8_t *from = op.kv.layer + page * op.kv.page_bytes + head +
                              position % PAGE_TOKENS * S::ROW_BYTES + piece * 16;
        ptx_copy16(stage.k + piece_at<S>(row, piece), there ? from : op.kv.layer, there);
        ptx_copy16(stage.v + piece_at<S>(row, piece),
                   there ? from + PAGE_TOKENS * S::ROW_BYTES : op.kv.layer, there);
    }
    if (TYPE == CUDA_KV_INT8) {
        for (int i = (int)threadIdx.x; i < S::TILE / 8 * 2; i += S::THREADS) {
            const int which = i % 2, eight = i / 2;
            const int32_t position = tile * S::TILE + eight * 8;
            const bool there = position <= last;
            const uint32_t page = there ? pages[position / PAGE_TOKENS] : 0;
            const uint8_t *from = op.kv.layer + page * op.kv.page_bytes + head +
                                  2 * PAGE_TOKENS * S::ROW_BYTES + which * 2 * PAGE_TOKENS +
                                  position % PAGE_TOKENS * 2;
            ptx_copy16(&stage.scales[which][eight * 8], there ? from : op.kv.layer, there);
        }
    }
}

/* The batch row of row `r` (g or g + 8) of this thread's warp, counted from the item's first, and
 * the head; false: no such row. */
__device__ bool row_of(const cuda_attention &op, const cuda_attention_item &item, int32_t kv_head,
                       int r, int32_t *token, int32_t *head) {
    const int32_t at = (int32_t)threadIdx.x / 32 * 16 + (int32_t)threadIdx.x % 32 / 4 + r * 8;
    const int32_t group = op.heads / op.kv.kv_heads;
    *token = at / group;
    *head = kv_head * group + at % group;
    return *token < item.rows;
}

/* This lane's queries: the A operand of each step. Of keys of one byte a lane reads four
 * dimensions at a time: lane t has 4 t .. 4 t + 3 of a step, else
 * 2 t, 2 t + 1, 2 t + 8, 2 t + 9. */
template <cuda_kv_type TYPE, class S>
__device__ void load_q(state<S> &s, uint32_t (*kept)[S::Q_HELD ? 1 : S::THREADS],
                       const cuda_attention &op, const cuda_attention_item &item, int32_t kv_head) {
    const int t = (int)threadIdx.x % 4;
    const float *rows[2] = {nullptr, nullptr};
#pragma unroll
    for (int r = 0; r < 2; r++) {
        int32_t token, head;
        s.high[r] = -1;
        if (row_of(op, item, kv_head, r, &token, &head)) {
            rows[r] = op.q + ((int64_t)(item.row_first + token) * op.heads + head) * S::COLUMNS * 8;
            s.high[r] = item.position_first + token;
        }
    }
#pragma unroll
    for (int step = 0; step < S::STEPS; step++) {
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const int d = step * 16 + (BYTES<TYPE> ? 4 * t + i / 2 * 2 : 2 * t + i / 2 * 8);
            float2 pair = make_float2(0.0f, 0.0f);
            if (rows[i % 2] != nullptr) {
                pair = *(const float2 *)(rows[i % 2] + d);
            }
            const uint32_t both =
                S::SCORES_F16 ? pair_f16(pair.x, pair.y) : pair_bf16(pair.x, pair.y);
            if (S::Q_HELD) {
                s.q[S::Q_HELD ? step : 0][i] = both;
            } else {
                kept[step * 4 + i][S::Q_HELD ? 0 : threadIdx.x] = both;
            }
        }
    }
}

/* ---- one tile ---- */

template <bool F16>
__device__ void multiply(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    if (F16) {
        ptx_mma_f16(d, a, b0, b1);
    } else {
        ptx_mma_bf16(d, a, b0, b1);
    }
}

/* score = Q K^T. */
template <cuda_kv_type TYPE, class S>
__device__ void scores(state<S> &s, const uint32_t (*kept)[S::Q_HELD ? 1 : S::THREADS],
                       const typename S::stage &stage) {
    const int lane = (int)threadIdx.x % 32;
#pragma unroll
    for (int n = 0; n < S::TILE / 8; n++) {
        for (int i = 0; i < 4; i++) {
            s.score[n][i] = 0;
        }
    }
#pragma unroll
    for (int step = 0; step < S::STEPS; step++) {
        uint32_t a[4];
#pragma unroll
        for (int i = 0; i < 4; i++) {
            a[i] = S::Q_HELD ? s.q[S::Q_HELD ? step : 0][i]
                             : kept[step * 4 + i][S::Q_HELD ? 0 : threadIdx.x];
        }
        if (BYTES<TYPE>) {
#pragma unroll
            for (int n = 0; n < S::TILE / 8; n++) {
                const unsigned char *row = stage.k + (n * 8 + lane / 4) * S::STRIDE;
                uint32_t word = *(const uint32_t *)(row + step * 16 + lane % 4 * 4);
                if (TYPE == CUDA_KV_FP8) {
                    ptx_mma_f16(s.score[n], a, e4m3_f16(word & 0xffff), e4m3_f16(word >> 16));
                } else {
                    word ^= 0x80808080u;
                    ptx_mma_f16(s.score[n], a, bytes_f16(word, 0x4140), bytes_f16(word, 0x4342));
                }
            }
        } else {
#pragma unroll
            for (int n = 0; n < S::TILE / 16; n++) {
                const int token = n * 16 + lane / 16 * 8 + lane % 8;
                uint32_t b[4];
                ptx_ldmatrix(b, stage.k + piece_of_two<S>(token, step * 2, lane / 8 % 2));
                multiply<S::SCORES_F16>(s.score[2 * n], a, b[0], b[1]);
                multiply<S::SCORES_F16>(s.score[2 * n + 1], a, b[2], b[3]);
            }
        }
    }
}

/* Scores in units of log2, and what a row does not see at minus infinity; then the online softmax:
 * scores become weights, and what was summed before is rescaled. */
template <cuda_kv_type TYPE, class S>
__device__ void soften(state<S> &s, const typename S::stage &stage, const cuda_attention &op,
                       int32_t first) {
    const int t = (int)threadIdx.x % 4;
    const float cap = op.softcap * LOG2_E;
    const float scale = op.scale * LOG2_E * (op.softcap > 0 ? 2.0f / op.softcap : 1.0f);
    const int32_t window = op.window > 0 ? op.window : 1 << 30;
    float top[2] = {s.top[0], s.top[1]};
#pragma unroll
    for (int n = 0; n < S::TILE / 8; n++) {
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const int column = n * 8 + 2 * t + i % 2;
            const int32_t position = first + column;
            float score = s.score[n][i];
            if (TYPE == CUDA_KV_INT8) {
                score =
                    score * __bfloat162float(stage.scales[0][TYPE == CUDA_KV_INT8 ? column : 0]);
            }
            score = score * scale;
            if (op.softcap > 0) { /* tanh(x) = 1 - 2 / (e^2x + 1) */
                score = cap - __fdividef(2.0f * cap, exp2f(score) + 1.0f);
            }
            const bool seen = position <= s.high[i / 2] && position > s.high[i / 2] - window;
            s.score[n][i] = seen ? score : -INFINITY;
            top[i / 2] = fmaxf(top[i / 2], s.score[n][i]);
        }
    }
    float keep[2];
#pragma unroll
    for (int r = 0; r < 2; r++) {
        top[r] = fmaxf(top[r], __shfl_xor_sync(0xffffffffu, top[r], 1));
        top[r] = fmaxf(top[r], __shfl_xor_sync(0xffffffffu, top[r], 2));
        keep[r] = share_of(s.top[r], top[r]);
        s.top[r] = top[r];
    }
#pragma unroll
    for (int n = 0; n < S::TILE / 8; n++) {
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const float score = s.score[n][i];
            s.score[n][i] = score == -INFINITY ? 0.0f : exp2f(score - top[i / 2]);
        }
    }
#pragma unroll
    for (int c = 0; c < S::COLUMNS; c++) {
#pragma unroll
        for (int i = 0; i < 4; i++) {
            s.sum[c][i] *= keep[i / 2];
        }
    }
#pragma unroll
    for (int i = 0; i < 4; i++) {
        s.weights[i] *= keep[i / 2];
    }
}

template <bool F16>
__device__ uint32_t pair_of(float low, float high) {
    return F16 ? pair_f16(low, high) : pair_bf16(low, high);
}

/* Weights of 16 positions as an A operand. */
template <class S>
__device__ void weights_at(uint32_t (&a)[4], const state<S> &s, int step) {
#pragma unroll
    for (int i = 0; i < 4; i++) {
        const float *w = s.score[2 * step + i / 2] + i % 2 * 2;
        a[i] = pair_of<S::WEIGHTS_F16>(w[0], w[1]);
    }
}

/* sum += weights V, 16-bit values; and the sums of the weights. */
template <class S>
__device__ void values_add(state<S> &s, const typename S::stage &stage) {
    constexpr uint32_t ONES = S::WEIGHTS_F16 ? 0x3c003c00u : 0x3f803f80u;
    const int lane = (int)threadIdx.x % 32;
#pragma unroll
    for (int step = 0; step < S::TILE / 16; step++) {
        uint32_t a[4];
        weights_at(a, s, step);
        multiply<S::WEIGHTS_F16>(s.weights, a, ONES, ONES);
        const int token = step * 16 + lane / 8 % 2 * 8 + lane % 8;
#pragma unroll
        for (int c = 0; c < S::COLUMNS; c += 2) {
            uint32_t b[4];
            ptx_ldmatrix_t(b, stage.v + piece_of_two<S>(token, c, lane / 16));
            multiply<S::WEIGHTS_F16>(s.sum[c], a, b[0], b[1]);
            multiply<S::WEIGHTS_F16>(s.sum[c + 1], a, b[2], b[3]);
        }
    }
}

/* Bytes `low` and `low` + 2 of four as a pair that weights are multiplied with. */
template <cuda_kv_type TYPE>
__device__ uint32_t two_of(uint32_t bytes, int low) {
    return TYPE == CUDA_KV_FP8 ? e4m3_f16(__byte_perm(bytes, 0, low == 0 ? 0x4420 : 0x4431))
                               : bytes_bf16(bytes ^ 0x80808080u, low, low + 2);
}

/* Weights of 16 positions as an A operand, times the scales of their INT8 values. */
template <class S>
__device__ void weights_scaled(uint32_t (&a)[4], const state<S> &s, const typename S::stage &stage,
                               int step) {
    const int t = (int)threadIdx.x % 4;
#pragma unroll
    for (int e = 0; e < 4; e++) {
        const int n = step * 2 + e / 2;
        const float *w = s.score[n] + e % 2 * 2;
        const __nv_bfloat16 *scale = &stage.scales[1][n * 8 + 2 * t];
        a[e] = pair_bf16(w[0] > 0 ? w[0] * __bfloat162float(scale[0]) : 0.0f,
                         w[1] > 0 ? w[1] * __bfloat162float(scale[1]) : 0.0f);
    }
}

/* The same for values of a byte; INT8's scales go to the weights. A transposed 8 x 8 matrix of
 * pairs of bytes gives a lane two dimensions of two positions; even dimensions and odd ones become
 * columns of their own (dimension_of). */
template <cuda_kv_type TYPE, class S>
__device__ void values_add_bytes(state<S> &s, const typename S::stage &stage) {
    constexpr uint32_t ONES = S::WEIGHTS_F16 ? 0x3c003c00u : 0x3f803f80u;
    const int lane = (int)threadIdx.x % 32;
#pragma unroll
    for (int part = 0; part < S::TILE / 32; part++) {
        uint32_t a[2][4];
#pragma unroll
        for (int i = 0; i < 2; i++) {
            weights_at(a[i], s, part * 2 + i);
            multiply<S::WEIGHTS_F16>(s.weights, a[i], ONES, ONES);
            if (TYPE == CUDA_KV_INT8) {
                weights_scaled(a[i], s, stage, part * 2 + i);
            }
        }
        const unsigned char *row = stage.v + (part * 32 + lane) * S::STRIDE;
#pragma unroll
        for (int c = 0; c < S::COLUMNS; c += 2) {
            uint32_t b[4];
            ptx_ldmatrix_t(b, row + c * 8);
#pragma unroll
            for (int i = 0; i < 2; i++) {
                multiply<S::WEIGHTS_F16>(s.sum[c], a[i], two_of<TYPE>(b[2 * i], 0),
                                         two_of<TYPE>(b[2 * i + 1], 0));
                multiply<S::WEIGHTS_F16>(s.sum[c + 1], a[i], two_of<TYPE>(b[2 * i], 1),
                                         two_of<TYPE>(b[2 * i + 1], 1));
            }
        }
    }
}

/* ---- the ends of splits ---- */

/* The dimension of element i of column block c. */
template <cuda_kv_type TYPE>
__device__ int dimension_of(int c, int i) {
    const int t = (int)threadIdx.x % 4;
    return BYTES<TYPE> ? c / 2 * 16 + 4 * t + i % 2 * 2 + c % 2 : c * 8 + 2 * t + i % 2;
}

template <class S>
__device__ void split_begin(state<S> &s) {
#pragma unroll
    for (int c = 0; c < S::COLUMNS; c++) {
        for (int i = 0; i < 4; i++) {
            s.sum[c][i] = 0;
        }
    }
    for (int i = 0; i < 4; i++) {
        s.weights[i] = 0;
    }
    s.top[0] = s.top[1] = -INFINITY;
}

/* Adds a finished split to those before it in `joined`: a thread's values, then two greatest
 * scores, then two sums. */
template <class S>
__device__ void split_join(const state<S> &s, float (*joined)[S::THREADS], bool first) {
    float share[2], next_share[2];
#pragma unroll
    for (int r = 0; r < 2; r++) {
        float *top = &joined[S::COLUMNS * 4 + r][threadIdx.x];
        float *weights = &joined[S::COLUMNS * 4 + 2 + r][threadIdx.x];
        const float common = first ? s.top[r] : fmaxf(*top, s.top[r]);
        share[r] = first ? 0.0f : share_of(*top, common);
        next_share[r] = share_of(s.top[r], common);
        *weights =
            first ? s.weights[2 * r] : join(*weights, share[r], s.weights[2 * r], next_share[r]);
        *top = common;
    }
#pragma unroll
    for (int c = 0; c < S::COLUMNS; c++) {
#pragma unroll
        for (int i = 0; i < 4; i++) {
            float *at = &joined[c * 4 + i][threadIdx.x];
            *at = first ? s.sum[c][i] : join(*at, share[i / 2], s.sum[c][i], next_share[i / 2]);
        }
    }
}

/* Joined rows go out; or, of an item with one split, to the slots for merge_kernel. */
template <cuda_kv_type TYPE, class S>
__device__ void rows_finish(const cuda_attention &op, const cuda_attention_item &item,
                            int32_t kv_head, const float (*joined)[S::THREADS]) {
    constexpr int DIM = S::COLUMNS * 8;
#pragma unroll
    for (int r = 0; r < 2; r++) {
        int32_t token, head;
        if (!row_of(op, item, kv_head, r, &token, &head)) {
            continue;
        }
        const float top = joined[S::COLUMNS * 4 + r][threadIdx.x];
        const float weights = joined[S::COLUMNS * 4 + 2 + r][threadIdx.x];
        const bool slot = item.slot >= 0;
        const int64_t row = slot ? item.slot + token : item.row_first + token;
        float *to = slot ? op.work.slots + (row * op.heads + head) * (DIM + 2)
                         : op.out + (row * op.heads + head) * DIM;
#pragma unroll
        for (int c = 0; c < S::COLUMNS; c++) {
#pragma unroll
            for (int i = 0; i < 2; i++) {
                const float sum = joined[c * 4 + 2 * r + i][threadIdx.x];
                to[dimension_of<TYPE>(c, i)] = slot ? sum : quotient(sum, weights);
            }
        }
        if (slot && threadIdx.x % 4 == 0) {
            to[DIM] = top;
            to[DIM + 1] = weights;
        }
    }
}

/* ---- kernels ---- */

/* blockIdx.x: which item from `first` on; blockIdx.y: which kv head. */
template <cuda_kv_type TYPE, int DIM, int WARPS>
__global__ void __launch_bounds__(WARPS * 32, DIM > 128 ? 1 : 2)
    attention_kernel(cuda_attention op, int32_t first) {
    using S = shape<TYPE, DIM, WARPS>;
    PTX_SHARED(raw);
    typename S::shared &shared = *(typename S::shared *)raw;
    /* Read again where it is needed: registers are scarce. */
    const cuda_attention_item &item = op.work.items[first + (int32_t)blockIdx.x];
    const int32_t kv_head = (int32_t)blockIdx.y;
    const uint32_t *pages = op.batch.pages + op.batch.pages_first[item.seq];
    const int32_t last = item.position_first + item.rows - 1;
    const int32_t tile_first = item.split_first * S::TILES;
    const int32_t tiles_all = last / S::TILE + 1, tiles_own = tile_first + item.splits * S::TILES;
    const int32_t tile_end = tiles_own < tiles_all ? tiles_own : tiles_all;
    if (tile_first >= tile_end) {
        return;
    }
    load_tile<TYPE, S>(shared.stages[0], op, pages, kv_head, tile_first, last);
    ptx_copy_commit();
    state<S> s;
    load_q<TYPE, S>(s, shared.q, op, item, kv_head);
    split_begin(s);
    for (int32_t tile = tile_first; tile < tile_end; tile++) {
        if (tile + 1 < tile_end) {
            load_tile<TYPE, S>(shared.stages[(tile + 1 - tile_first) % 2], op, pages, kv_head,
                               tile + 1, last);
        }
        ptx_copy_commit();
        ptx_copy_wait<1>();
        __syncthreads();
        const typename S::stage &stage = shared.stages[(tile - tile_first) % 2];
        scores<TYPE, S>(s, shared.q, stage);
        soften<TYPE, S>(s, stage, op, tile * S::TILE);
        if constexpr (BYTES<TYPE>) {
            values_add_bytes<TYPE, S>(s, stage);
        } else {
            values_add<S>(s, stage);
        }
        if ((tile + 1) % S::TILES == 0 || tile + 1 == tile_end) {
            split_join(s, shared.joined, tile / S::TILES == item.split_first);
            split_begin(s);
        }
        __syncthreads();
    }
    rows_finish<TYPE, S>(op, item, kv_head, shared.joined);
}

/* A warp a (row, head): its splits in order. */
__global__ void merge_kernel(cuda_attention op) {
    const cuda_attention_merge merge = op.work.merges[blockIdx.x];
    const int32_t head = (int32_t)blockIdx.y, dim = op.kv.head_dim;
    if (merge.splits == 0) { /* there to make a number round */
        return;
    }
    const int64_t size = dim + 2, step = (int64_t)merge.stride * op.heads * size;
    const float *slots = op.work.slots + ((int64_t)merge.slot * op.heads + head) * size;
    for (int32_t d = (int32_t)threadIdx.x; d < dim; d += 32) {
        float sum = slots[d], top = slots[dim], weights = slots[dim + 1];
        for (int32_t i = 1; i < merge.splits; i++) {
            const float *next = slots + i * step;
            const float common = fmaxf(top, next[dim]);
            const float share = share_of(top, common), next_share = share_of(next[dim], common);
            sum = join(sum, share, next[d], next_share);
            weights = join(weights, share, next[dim + 1], next_share);
            top = common;
        }
        op.out[((int64_t)merge.row * op.heads + head) * dim + d] = quotient(sum, weights);
    }
}

template <cuda_kv_type TYPE, int DIM, int WARPS>
cudaError_t launch(const cuda_attention &op, int32_t first, int32_t items, cudaStream_t stream) {
    using S = shape<TYPE, DIM, WARPS>;
    if (items == 0) {
        return cudaSuccess;
    }
    const dim3 grid((unsigned)items, (unsigned)op.kv.kv_heads);
    return ptx_launch(attention_kernel<TYPE, DIM, WARPS>, grid, dim3(S::THREADS),
                      sizeof(typename S::shared), stream, op, first);
}

template <cuda_kv_type TYPE, int DIM>
cudaError_t launch_both(const cuda_attention &op, cudaStream_t stream) {
    const cudaError_t e = launch<TYPE, DIM, 4>(op, 0, op.work.wide, stream);
    return e != cudaSuccess ? e : launch<TYPE, DIM, 1>(op, op.work.wide, op.work.narrow, stream);
}

template <cuda_kv_type TYPE>
cudaError_t launch_type(const cuda_attention &op, cudaStream_t stream) {
    switch (op.kv.head_dim) {
        case 64:
            return launch_both<TYPE, 64>(op, stream);
        case 80:
            return launch_both<TYPE, 80>(op, stream);
        case 96:
            return launch_both<TYPE, 96>(op, stream);
        case 128:
            return launch_both<TYPE, 128>(op, stream);
        case 256:
            return launch_both<TYPE, 256>(op, stream);
        default:
            return cudaErrorInvalidValue;
    }
}

size_t shared_bytes(int32_t head_dim) {
    switch (head_dim) { /* of the type that needs most */
        case 64:
            return sizeof(shape<CUDA_KV_F16, 64, 4>::shared);
        case 80:
            return sizeof(shape<CUDA_KV_F16, 80, 4>::shared);
        case 96:
            return sizeof(shape<CUDA_KV_F16, 96, 4>::shared);
        case 128:
            return sizeof(shape<CUDA_KV_F16, 128, 4>::shared);
        case 256:
            return sizeof(shape<CUDA_KV_F16, 256, 4>::shared);
        default:
            return SIZE_MAX;
    }
}

}  // namespace

bool attention_tensor_can(const cuda_attention *op, int shared_max) {
    return op->kv.type != CUDA_KV_F32 && op->heads / op->kv.kv_heads <= CUDA_TILE_WIDE &&
           shared_bytes(op->kv.head_dim) <= (size_t)shared_max;
}

cudaError_t attention_tensor(const cuda_attention *op, cudaStream_t stream) {
    cudaError_t e = cudaErrorInvalidValue;
    if (op->kv.type == CUDA_KV_F16) {
        e = launch_type<CUDA_KV_F16>(*op, stream);
    } else if (op->kv.type == CUDA_KV_BF16) {
        e = launch_type<CUDA_KV_BF16>(*op, stream);
    } else if (op->kv.type == CUDA_KV_INT8) {
        e = launch_type<CUDA_KV_INT8>(*op, stream);
    } else if (op->kv.type == CUDA_KV_FP8) {
        e = launch_type<CUDA_KV_FP8>(*op, stream);
    }
    if (e != cudaSuccess || op->work.merges_count == 0) {
        return e;
    }
    const dim3 grid((unsigned)op->work.merges_count, (unsigned)op->heads);
    return ptx_launch(merge_kernel, grid, dim3(32), 0, stream, *op);
}
