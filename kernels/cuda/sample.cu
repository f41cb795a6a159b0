/* sample.cu -- from logits to tokens on the device: the choices of engine/worker/sampler.c.
 *
 * A block a row. Weights are the same 64-bit integers as there, so sums do not depend on their
 * order and a draw is exact. Cuts (top_k, top_p, the best tokens' logprobs) are found by radix
 * select: the order of likelihood is an order of 64-bit keys, and the cut's key is made known eight
 * bits at a time, from a histogram of counts or weights. The vocabulary is never sorted. The
 * reference is sampler.c, which the tests hold this to.
 */
#include <float.h>
#include <math.h>

#include "kernels/cuda/cuda_ops.h"
#include "kernels/cuda/ptx.cuh"

namespace {

constexpr int THREADS = 512;
constexpr int WARPS = THREADS / 32;
constexpr int DIGITS = 256;
constexpr float WEIGHT_ONE = 17592186044416.0f; /* 2^44 */
constexpr float TEMPERATURE_MIN = 1e-5f;
constexpr float LOGPROB_MIN = -9999.0f;
constexpr uint32_t OF_PROMPT = 1u << 31; /* in counts; below it: how often it was generated */

struct sample_shared {
    unsigned long long histogram[DIGITS];
    unsigned long long warp[WARPS];
    unsigned long long keys[CUDA_TOP_MAX];
    unsigned long long chosen; /* of a digit: the histogram's sum above it */
    unsigned found;            /* the digit; DIGITS: the target is not reached */
    unsigned keys_count;
};

/* ---- numbers, bit for bit sampler.c's ---- */

__device__ float sane(float x) {
    const int bits = __float_as_int(x);
    if ((bits & 0x7fffffff) < 0x7f800000) {
        return x;
    }
    return bits == 0x7f800000 ? FLT_MAX : -INFINITY;
}

/* exp(-y) for y >= 0. */
__device__ float exp_minus(float y) {
    const int bits = __float_as_int(y);
    const float x = -__int_as_float(bits < 0x42a00000 ? bits : 0x42a00000); /* at most 80 */
    const float rounder = 12582912.0f;
    const float n = (x * 1.44269504f + rounder) - rounder;
    const float r = (x - n * 0.693359375f) - n * -2.12194440e-4f;
    float p = 1.0f / 5040;
    p = p * r + 1.0f / 720;
    p = p * r + 1.0f / 120;
    p = p * r + 1.0f / 24;
    p = p * r + 1.0f / 6;
    p = p * r + 0.5f;
    p = p * r + 1.0f;
    p = p * r + 1.0f;
    return p * __int_as_float(((int)n + 127) << 23);
}

__device__ uint64_t key_of(float logit, int32_t token) {
    const uint32_t bits = (uint32_t)__float_as_int(logit + 0.0f); /* -0 and 0 are one value */
    const uint32_t ordered = bits ^ (bits >> 31 != 0 ? 0xffffffffu : 0x80000000u);
    return (uint64_t)ordered << 32 | (0xffffffffu - (uint32_t)token);
}

__device__ int32_t token_of(uint64_t key) {
    return (int32_t)(0xffffffffu - (uint32_t)key);
}

__device__ float logit_of(uint64_t key) {
    const uint32_t ordered = (uint32_t)(key >> 32);
    return __int_as_float((int)(ordered ^ (ordered >> 31 != 0 ? 0x80000000u : 0xffffffffu)));
}

/* engine/base/rng.h, whose functions are the host's. */
__device__ uint64_t mix(uint64_t x) {
    x += 0x9e3779b97f4a7c15u;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

/* ---- a block's sums ---- */

__device__ unsigned long long block_sum(sample_shared &shared, unsigned long long value) {
#pragma unroll
    for (int bits = 16; bits > 0; bits >>= 1) {
        value += __shfl_xor_sync(0xffffffffu, value, bits);
    }
    if (threadIdx.x % 32 == 0) {
        shared.warp[threadIdx.x / 32] = value;
    }
    __syncthreads();
    unsigned long long sum = 0;
    for (int w = 0; w < WARPS; w++) {
        sum += shared.warp[w];
    }
    __syncthreads();
    return sum;
}

__device__ unsigned long long block_max(sample_shared &shared, unsigned long long value) {
#pragma unroll
    for (int bits = 16; bits > 0; bits >>= 1) {
        const unsigned long long other = __shfl_xor_sync(0xffffffffu, value, bits);
        value = other > value ? other : value;
    }
    if (threadIdx.x % 32 == 0) {
        shared.warp[threadIdx.x / 32] = value;
    }
    __syncthreads();
    unsigned long long largest = 0;
    for (int w = 0; w < WARPS; w++) {
        largest = shared.warp[w] > largest ? shared.warp[w] : largest;
    }
    __syncthreads();
    return largest;
}

/* ---- distributions ---- */

/* A row of sane logits as a distribution, and which of its tokens are still in. */
struct distribution {
    const float *logits; /* raw ones are made sane where they are read */
    int32_t vocab;
    float max;
    float temperature_inverse;
    float min_p;
    uint64_t cut; /* tokens with smaller keys are out */
};

__device__ float weight_at(const distribution &d, int32_t i) {
    return exp_minus((d.max - sane(d.logits[i])) * d.temperature_inverse);
}

/* The integer weight of a token that is in; else 0. */
__device__ uint64_t share_at(const distribution &d, int32_t i) {
    const float weight = weight_at(d, i);
    const bool in = weight >= d.min_p && key_of(sane(d.logits[i]), i) >= d.cut;
    return in ? (uint64_t)(int64_t)(weight * WEIGHT_ONE) : 0;
}

__device__ uint64_t best_key(sample_shared &shared, const float *logits, int32_t vocab) {
    unsigned long long key = 0;
    for (int32_t i = (int32_t)threadIdx.x; i < vocab; i += THREADS) {
        const unsigned long long own = key_of(sane(logits[i]), i);
        key = own > key ? own : key;
    }
    return block_max(shared, key);
}

__device__ uint64_t shares_sum(sample_shared &shared, const distribution &d) {
    unsigned long long sum = 0;
    for (int32_t i = (int32_t)threadIdx.x; i < d.vocab; i += THREADS) {
        sum += share_at(d, i);
    }
    return block_sum(shared, sum);
}

/* The first warp finds the digit at which the histogram, from the top, reaches `target`. */
__device__ void digit_find(sample_shared &shared, uint64_t target) {
    constexpr int OWN = DIGITS / 32;
    const int lane = (int)threadIdx.x, top = DIGITS - 1 - lane * OWN;
    unsigned long long own = 0;
    for (int i = 0; i < OWN; i++) {
        own += shared.histogram[top - i];
    }
    unsigned long long upto = own;
    for (int by = 1; by < 32; by *= 2) {
        const unsigned long long above = __shfl_up_sync(0xffffffffu, upto, by);
        upto += lane >= by ? above : 0;
    }
    const uint32_t reached = __ballot_sync(0xffffffffu, upto >= target);
    if (reached == 0) {
        if (lane == 0) {
            shared.found = DIGITS;
        }
    } else if (lane == __ffs((int)reached) - 1) {
        unsigned long long sum = upto - own;
        int digit = top;
        while (sum + shared.histogram[digit] < target) {
            sum += shared.histogram[digit--];
        }
        shared.chosen = sum;
        shared.found = (unsigned)digit;
    }
}

/* The smallest key of the shortest run of the most likely tokens, of those that are in, that counts
 * (or weighs) at least `target`; 0 when all of them do not. target > 0. */
__device__ uint64_t cut_of(sample_shared &shared, const distribution &d, uint64_t target,
                           bool by_weight) {
    uint64_t known = 0, prefix = 0;
    for (int shift = 56; shift >= 0; shift -= 8) {
        if (shift == 24) { /* tokens are below 2^24: all ones in each key */
            known |= (uint64_t)0xff << shift;
            prefix |= (uint64_t)0xff << shift;
            continue;
        }
        for (int i = (int)threadIdx.x; i < DIGITS; i += THREADS) {
            shared.histogram[i] = 0;
        }
        __syncthreads();
        for (int32_t i = (int32_t)threadIdx.x; i < d.vocab; i += THREADS) {
            const uint64_t key = key_of(sane(d.logits[i]), i);
            if ((key & known) != prefix || key < d.cut) {
                continue;
            }
            const float weight = by_weight || d.min_p > 0 ? weight_at(d, i) : 1.0f;
            if (weight >= d.min_p) {
                const unsigned long long amount =
                    by_weight ? (unsigned long long)(int64_t)(weight * WEIGHT_ONE) : 1;
                atomicAdd(&shared.histogram[key >> shift & (DIGITS - 1)], amount);
            }
        }
        __syncthreads();
        if (threadIdx.x < 32) {
            digit_find(shared, target);
        }
        __syncthreads();
        if (shared.found == DIGITS) {
            return 0;
        }
        target -= shared.chosen;
        known |= (uint64_t)0xff << shift;
        prefix |= (uint64_t)shared.found << shift;
        __syncthreads();
    }
    return prefix;
}

/* ---- logprobs ---- */

__device__ float logprob_of(float logit, double log_sum) {
    const double x = (double)logit - log_sum;
    return x > (double)LOGPROB_MIN ? (float)x : LOGPROB_MIN;
}

/* The best tokens of the logits as they came; returns the log of the sum of exponentials. */
__device__ double score(sample_shared &shared, const float *logits, int32_t vocab, int32_t limit,
                        cuda_sampled *out) {
    distribution d = {logits, vocab, 0, 1.0f, 0, 0};
    d.max = logit_of(best_key(shared, logits, vocab));
    double log_sum = -INFINITY;
    if (d.max >= -FLT_MAX) {
        log_sum = (double)d.max + log((double)shares_sum(shared, d) / (double)WEIGHT_ONE);
    }
    limit = limit < CUDA_TOP_MAX ? limit : CUDA_TOP_MAX;
    limit = limit < vocab ? limit : vocab;
    if (threadIdx.x == 0) {
        out->top_count = limit;
        shared.keys_count = 0;
    }
    if (limit == 0) {
        return log_sum;
    }
    const uint64_t cut = cut_of(shared, d, (uint64_t)limit, false);
    for (int32_t i = (int32_t)threadIdx.x; i < vocab; i += THREADS) {
        const uint64_t key = key_of(sane(logits[i]), i);
        if (key >= cut) {
            shared.keys[atomicAdd(&shared.keys_count, 1u)] = key;
        }
    }
    __syncthreads();
    if ((int32_t)threadIdx.x < limit) {
        const unsigned long long own = shared.keys[threadIdx.x];
        int32_t rank = 0;
        for (int32_t i = 0; i < limit; i++) {
            rank += shared.keys[i] > own;
        }
        out->top_token[rank] = token_of(own);
        out->top_logprob[rank] = logprob_of(logit_of(own), log_sum);
    }
    __syncthreads();
    return log_sum;
}

/* ---- adjustments ---- */

/* A token's biases are added by the thread of the first of them, in the order of the list. */
__device__ void biases_add(const cuda_sample &op, const cuda_sample_row &row, float *logits) {
    const cuda_sample_bias *list = op.biases + row.biases_first;
    for (int32_t i = (int32_t)threadIdx.x; i < row.biases_count; i += THREADS) {
        const int32_t token = list[i].token;
        bool first = token >= 0 && token < op.vocab;
        for (int32_t j = 0; j < i && first; j++) {
            first = list[j].token != token;
        }
        for (int32_t j = i; j < row.biases_count && first; j++) {
            if (list[j].token == token) {
                logits[token] = sane(logits[token] + list[j].bias);
            }
        }
    }
}

/* Counts say what each token was; the first thread to take a count away does the penalties. */
__device__ void penalise(const cuda_sample &op, const cuda_sample_row &row, float *logits,
                         uint32_t *counts) {
    const bool repeats = row.repetition_penalty != 1.0f;
    const bool counted = row.frequency_penalty != 0.0f || row.presence_penalty != 0.0f;
    if (!repeats && !counted) {
        return;
    }
    const int32_t *history = op.history + row.history_first;
    const int32_t count = row.prompt_count + row.generated_count;
    const int32_t from = repeats ? 0 : row.prompt_count;
    for (int32_t i = from + (int32_t)threadIdx.x; i < count; i += THREADS) {
        if (history[i] >= 0 && history[i] < op.vocab) {
            if (i < row.prompt_count) {
                atomicOr(&counts[history[i]], OF_PROMPT);
            } else {
                atomicAdd(&counts[history[i]], 1u);
            }
        }
    }
    __syncthreads();
    for (int32_t i = from + (int32_t)threadIdx.x; i < count; i += THREADS) {
        const int32_t token = history[i];
        const uint32_t was = token >= 0 && token < op.vocab ? atomicExch(&counts[token], 0u) : 0;
        if (was == 0) {
            continue;
        }
        float x = logits[token];
        if (repeats) {
            x = sane(x > 0 ? x / row.repetition_penalty : x * row.repetition_penalty);
        }
        const uint32_t generated = was & ~OF_PROMPT;
        if (counted && generated > 0) {
            x -= row.frequency_penalty * (float)generated;
            x -= row.presence_penalty;
        }
        logits[token] = x;
    }
    __syncthreads();
}

__device__ void adjust(const cuda_sample &op, const cuda_sample_row &row, const float *from,
                       float *logits, uint32_t *counts) {
    const uint32_t *allowed =
        row.allowed >= 0 ? op.allowed + (int64_t)row.allowed * ((op.vocab + 31) / 32) : nullptr;
    for (int32_t i = (int32_t)threadIdx.x; i < op.vocab; i += THREADS) {
        const bool in = allowed == nullptr || (allowed[i / 32] >> (i % 32) & 1) != 0;
        logits[i] = in ? sane(from[i]) : -INFINITY;
    }
    __syncthreads();
    biases_add(op, row, logits);
    __syncthreads();
    penalise(op, row, logits, counts);
}

/* ---- the choice ---- */

/* min_p, top_k, top_p: sets what is in. */
__device__ void truncate(sample_shared &shared, const cuda_sample_row &row, distribution &d) {
    d.min_p = row.min_p;
    if (row.top_k > 0 && row.top_k < d.vocab) {
        d.cut = cut_of(shared, d, (uint64_t)row.top_k, false);
    }
    if (row.top_p < 1.0f) {
        const uint64_t sum = shares_sum(shared, d);
        const uint64_t target = (uint64_t)ceil((double)row.top_p * (double)sum);
        const uint64_t cut = cut_of(shared, d, target > 0 ? target : 1, true);
        d.cut = cut > d.cut ? cut : d.cut;
    }
}

/* Inverse of the cumulative distribution, in order of token id: a warp has a run of tokens. */
__device__ int32_t draw(sample_shared &shared, const distribution &d, uint64_t bits) {
    const int32_t run = (d.vocab + WARPS * 32 - 1) / (WARPS * 32) * 32;
    const int32_t warp = (int32_t)threadIdx.x / 32, lane = (int32_t)threadIdx.x % 32;
    unsigned long long own = 0;
    for (int32_t i = warp * run + lane; i < (warp + 1) * run && i < d.vocab; i += 32) {
        own += share_at(d, i);
    }
    const uint64_t sum = block_sum(shared, own);
    /* block_sum left the warps' sums where they were. */
    uint64_t left = (uint64_t)(((unsigned __int128)bits * sum) >> 64);
    int32_t chosen = 0;
    while (left >= shared.warp[chosen]) {
        left -= shared.warp[chosen++];
    }
    if (warp == chosen) {
        for (int32_t first = warp * run;; first += 32) {
            const int32_t i = first + lane;
            unsigned long long upto = i < d.vocab ? share_at(d, i) : 0;
            for (int by = 1; by < 32; by *= 2) {
                const unsigned long long below = __shfl_up_sync(0xffffffffu, upto, by);
                upto += lane >= by ? below : 0;
            }
            const uint32_t past = __ballot_sync(0xffffffffu, upto > left);
            if (past != 0) {
                if (lane == 0) {
                    shared.found = (unsigned)(first + __ffs((int)past) - 1);
                }
                break;
            }
            left -= __shfl_sync(0xffffffffu, upto, 31);
        }
    }
    __syncthreads();
    return (int32_t)shared.found;
}

__global__ void __launch_bounds__(THREADS, 2) sample_kernel(cuda_sample op) {
    PTX_SHARED(raw);
    sample_shared &shared = *(sample_shared *)raw;
    const int64_t number = blockIdx.x;
    const cuda_sample_row &row = op.row[number];
    const float *logits = op.logits + (int64_t)row.logit_row * op.vocab;
    float *adjusted = op.scratch + number * op.vocab;
    cuda_sampled *out = op.out + number;
    double log_sum = 0;
    if (row.top_logprobs >= 0) {
        log_sum = score(shared, logits, op.vocab, row.top_logprobs, out);
    } else if (threadIdx.x == 0) {
        out->top_count = 0;
    }
    if (row.scored >= 0) {
        if (threadIdx.x == 0) {
            out->token = row.scored;
            out->logprob = logprob_of(sane(logits[row.scored]), log_sum);
        }
        return;
    }
    adjust(op, row, logits, adjusted, op.counts + number * op.vocab);
    const uint64_t best = best_key(shared, adjusted, op.vocab);
    const float max = logit_of(best);
    int32_t token = token_of(best);
    if (row.temperature >= TEMPERATURE_MIN && max >= -FLT_MAX) {
        distribution d = {adjusted, op.vocab, max, 1.0f / row.temperature, 0, 0};
        truncate(shared, row, d);
        token = draw(shared, d, mix(mix(mix(row.seed) ^ row.stream) ^ row.position));
    }
    if (threadIdx.x == 0) {
        out->token = token;
        out->logprob = row.top_logprobs >= 0 ? logprob_of(logits[token], log_sum) : 0.0f;
    }
}

}  // namespace

cudaError_t sample_rows(const cuda_sample *op, cudaStream_t stream) {
    return ptx_launch(sample_kernel, dim3((unsigned)op->rows), dim3(THREADS), sizeof(sample_shared),
                      stream, *op);
}
