/* sampler.c -- the arithmetic of sampler.h.
 *
 * A probability is kept as an integer weight: floor(2^44 exp((logit - max) / temperature)). Integer
 * sums don't depend on their order, so sets, cuts and draws are exact however they are computed.
 * 2^19 weights of at most 2^44 fit in 63 bits.
 *
 * Truncation needs the tokens in order of likelihood, but only down to a cut. A cheap lower bound
 * on the cut leaves a short list of candidates, and a quickselect (Hoare 1961) on the list finds
 * the cut exactly: the shortest prefix whose measure (count for top_k, weight for top_p) reaches a
 * target. The vocabulary is never sorted.
 */
#include "engine/worker/sampler.h"

#include <float.h>
#include <math.h>
#include <string.h>

#include "engine/base/check.h"
#include "engine/base/rng.h"

enum { BLOCK = 64, WEIGHT_BITS = 44 };

/* Colder than this is greedy: 1 / temperature must stay finite. vLLM's bound. */
#define TEMPERATURE_MIN 1e-5f

#define WEIGHT_ONE ((uint64_t)1 << WEIGHT_BITS)

/* What a client is told instead of minus infinity, which JSON cannot say. */
#define LOGPROB_MIN (-9999.0f)

static_assert((uint64_t)SAMPLER_VOCAB_MAX <= (uint64_t)1 << (63 - WEIGHT_BITS), "sums fit");

struct sampler {
    int32_t vocab;
    int32_t blocks;
    float *logits;       /* [blocks * BLOCK] the row being worked on; padding is -inf */
    float *weights;      /* [blocks * BLOCK] exp((logit - max) / temperature) */
    float *block_max;    /* [blocks] */
    uint64_t *block_sum; /* [blocks] integer weights */
    uint64_t *keys;      /* [vocab] candidates being partitioned */
    uint64_t *sorted;    /* [vocab] candidates in order of token id */
    int32_t *counts;     /* [vocab] zero between calls */
};

static uint64_t sampler_padded(int32_t vocab) {
    return ((uint64_t)vocab + BLOCK - 1) / BLOCK * BLOCK;
}

uint64_t sampler_bytes(int32_t vocab) {
    uint64_t padded = sampler_padded(vocab);
    uint64_t rounding = 8 * 64;
    return sizeof(sampler) + rounding + padded * (4 + 4 + 8 + 8 + 4) + padded / BLOCK * (4 + 8);
}

status sampler_create(arena *a, int32_t vocab, sampler **out) {
    if (vocab < 1 || vocab > SAMPLER_VOCAB_MAX) {
        return STATUS_LIMIT;
    }
    size_t padded = (size_t)sampler_padded(vocab);
    sampler *s = ARENA_TAKE(a, 1, sampler);
    if (!s) {
        return STATUS_NOMEM;
    }
    s->vocab = vocab;
    s->blocks = (int32_t)(padded / BLOCK);
    s->logits = ARENA_TAKE(a, padded, float);
    s->weights = ARENA_TAKE(a, padded, float);
    s->block_max = ARENA_TAKE(a, padded / BLOCK, float);
    s->block_sum = ARENA_TAKE(a, padded / BLOCK, uint64_t);
    s->keys = ARENA_TAKE(a, padded, uint64_t);
    s->sorted = ARENA_TAKE(a, padded, uint64_t);
    s->counts = ARENA_TAKE(a, padded, int32_t);
    if (!s->logits || !s->weights || !s->block_max || !s->block_sum || !s->keys || !s->sorted ||
        !s->counts) {
        return STATUS_NOMEM;
    }
    *out = s;
    return STATUS_OK;
}

/* NaN becomes -inf and +inf the largest float, so that differences are defined. On bits, as in
 * sampler_exp, for the sake of vector code. */
static inline float sampler_sane(float x) {
    const int32_t infinity = 0x7F800000, largest = 0x7F7FFFFF;
    int32_t bits;
    memcpy(&bits, &x, sizeof(bits));
    int32_t instead = bits == infinity ? largest : (int32_t)0xFF800000u;
    bits = (bits & 0x7FFFFFFF) >= infinity ? instead : bits;
    memcpy(&x, &bits, sizeof(x));
    return x;
}

static void sampler_load(sampler *s, const float *logits) {
    for (int32_t at = 0; at < s->blocks * BLOCK; at += BLOCK) {
        float x[BLOCK];
        int32_t there = s->vocab - at < BLOCK ? s->vocab - at : BLOCK;
        memcpy(x, logits + at, (size_t)there * sizeof(x[0]));
        for (int32_t i = there; i < BLOCK; i++) {
            x[i] = -INFINITY;
        }
        for (int32_t i = 0; i < BLOCK; i++) {
            x[i] = sampler_sane(x[i]);
        }
        memcpy(s->logits + at, x, sizeof(x));
    }
}

/* Fills block_max and returns the largest logit. Eight lanes let the compiler use vectors. */
static float sampler_max(sampler *s) {
    float max = -INFINITY;
    for (int32_t b = 0; b < s->blocks; b++) {
        const float *x = s->logits + (ptrdiff_t)b * BLOCK;
        float lane[8];
        memcpy(lane, x, sizeof(lane));
        for (int32_t i = 8; i < BLOCK; i += 8) {
            for (int32_t j = 0; j < 8; j++) {
                lane[j] = x[i + j] > lane[j] ? x[i + j] : lane[j];
            }
        }
        for (int32_t j = 1; j < 8; j++) {
            lane[0] = lane[j] > lane[0] ? lane[j] : lane[0];
        }
        s->block_max[b] = lane[0];
        max = lane[0] > max ? lane[0] : max;
    }
    return max;
}

/* exp(-y) for y >= 0, relative error below 2e-7; past 80, where a weight is zero anyway, exp(-80).
 * Range reduction as in Cody and Waite, "Software Manual for the Elementary Functions" (1980), then
 * the Taylor polynomial of degree 7 on [-ln2/2, ln2/2]. Our own, because libm's bits differ between
 * versions. The bound is set on the bits as integers, which for numbers >= 0 order alike: a float
 * comparison would keep the compiler from making vector code. */
static inline float sampler_exp(float y) {
    const int32_t bound = 0x42A00000; /* 80.0f */
    int32_t bits;
    memcpy(&bits, &y, sizeof(bits));
    bits = bits < bound ? bits : bound;
    memcpy(&y, &bits, sizeof(bits));
    const float round = 12582912.0f; /* 1.5 * 2^23: adding it rounds to an integer */
    float x = -y;
    float n = (x * 1.44269504f + round) - round;
    float r = (x - n * 0.693359375f) - n * -2.12194440e-4f;
    float p = 1.0f / 5040;
    p = p * r + 1.0f / 720;
    p = p * r + 1.0f / 120;
    p = p * r + 1.0f / 24;
    p = p * r + 1.0f / 6;
    p = p * r + 0.5f;
    p = p * r + 1.0f;
    p = p * r + 1.0f;
    int32_t scale_bits = ((int32_t)n + 127) << 23;
    float scale;
    memcpy(&scale, &scale_bits, sizeof(scale));
    return p * scale;
}

static inline uint64_t sampler_integer(float weight) {
    return (uint64_t)(int64_t)(weight * (float)WEIGHT_ONE);
}

/* Fills weights and block_sum; returns the sum. `max` is finite. */
static uint64_t sampler_weigh(sampler *s, float max, float temperature_inverse) {
    uint64_t sum = 0;
    for (int32_t b = 0; b < s->blocks; b++) {
        float x[BLOCK], w[BLOCK]; /* local: nothing aliases, so the loop becomes vectors */
        memcpy(x, s->logits + (ptrdiff_t)b * BLOCK, sizeof(x));
        for (int32_t i = 0; i < BLOCK; i++) {
            w[i] = sampler_exp((max - x[i]) * temperature_inverse);
        }
        memcpy(s->weights + (ptrdiff_t)b * BLOCK, w, sizeof(w));
        uint64_t block = 0;
        for (int32_t i = 0; i < BLOCK; i++) {
            block += sampler_integer(w[i]);
        }
        s->block_sum[b] = block;
        sum += block;
    }
    return sum;
}

static int32_t sampler_argmax(const sampler *s, float max) {
    for (int32_t b = 0; b < s->blocks; b++) {
        if (s->block_max[b] == max) {
            for (int32_t i = b * BLOCK; i < s->vocab; i++) {
                if (s->logits[i] == max) {
                    return i;
                }
            }
        }
    }
    return 0;
}

static void sampler_add(sampler *s, int32_t token, float bias) {
    if (token >= 0 && token < s->vocab) {
        s->logits[token] = sampler_sane(s->logits[token] + bias);
    }
}

static void sampler_mask(sampler *s, const int32_t *tokens, int32_t count) {
    for (int32_t i = 0; i < count; i++) {
        sampler_add(s, tokens[i], -INFINITY);
    }
}

static bool sampler_listed(int32_t token, const int32_t *tokens, int32_t count) {
    for (int32_t i = 0; i < count; i++) {
        if (tokens[i] == token) {
            return true;
        }
    }
    return false;
}

/* Keskar et al., "CTRL" (2019), section 4.1: a seen token's logit moves towards less likely. */
static void sampler_repel(sampler *s, const int32_t *tokens, int32_t count, float penalty) {
    for (int32_t i = 0; i < count; i++) {
        int32_t t = tokens[i];
        if (t >= 0 && t < s->vocab && s->counts[t] == 0) {
            s->counts[t] = 1;
            float x = s->logits[t];
            s->logits[t] = sampler_sane(x > 0 ? x / penalty : x * penalty);
        }
    }
}

static void sampler_forget(sampler *s, const int32_t *tokens, int32_t count) {
    for (int32_t i = 0; i < count; i++) {
        if (tokens[i] >= 0 && tokens[i] < s->vocab) {
            s->counts[tokens[i]] = 0;
        }
    }
}

static void sampler_penalise(sampler *s, const sampler_input *in) {
    const request_params *p = in->params;
    if (p->repetition_penalty != 1.0f) {
        sampler_repel(s, in->prompt, in->prompt_count, p->repetition_penalty);
        sampler_repel(s, in->generated, in->generated_count, p->repetition_penalty);
        sampler_forget(s, in->prompt, in->prompt_count);
        sampler_forget(s, in->generated, in->generated_count);
    }
    if (p->frequency_penalty == 0.0f && p->presence_penalty == 0.0f) {
        return;
    }
    for (int32_t i = 0; i < in->generated_count; i++) {
        if (in->generated[i] >= 0 && in->generated[i] < s->vocab) {
            s->counts[in->generated[i]]++;
        }
    }
    for (int32_t i = 0; i < in->generated_count; i++) {
        int32_t t = in->generated[i];
        if (t >= 0 && t < s->vocab && s->counts[t] > 0) {
            s->logits[t] -= p->frequency_penalty * (float)s->counts[t];
            s->logits[t] -= p->presence_penalty;
            s->counts[t] = 0;
        }
    }
}

int32_t sampler_forbidden(const sampler_input *in, int32_t *ids) {
    const request_params *p = in->params;
    int32_t count = 0;
    CHECK_LE(in->eog_count, SAMPLER_EOG_MAX);
    bool early = in->generated_count < p->min_tokens;
    for (int32_t i = 0; (early || p->ignore_eos) && i < in->eog_count; i++) {
        if (!sampler_listed(in->eog[i], p->stop_ids, p->stop_ids_count)) {
            ids[count++] = in->eog[i];
        }
    }
    for (int32_t i = 0; early && i < p->stop_ids_count; i++) {
        ids[count++] = p->stop_ids[i];
    }
    return count;
}

/* Everything that can change which token is the most likely. */
static void sampler_adjust(sampler *s, const sampler_input *in) {
    const request_params *p = in->params;
    for (int32_t i = 0; i < p->biases_count; i++) {
        sampler_add(s, p->biases[i].token, p->biases[i].bias);
    }
    int32_t forbidden[SAMPLER_FORBIDDEN_MAX];
    sampler_mask(s, forbidden, sampler_forbidden(in, forbidden));
    sampler_penalise(s, in);
}

/* Order of likelihood as an integer order: the float's bits made monotonic, then the lower id. */
static inline uint64_t sampler_key(float logit, int32_t token) {
    uint32_t bits;
    logit += 0.0f; /* -0 and 0 are one value */
    memcpy(&bits, &logit, sizeof(bits));
    bits ^= bits >> 31 ? 0xFFFFFFFFu : 0x80000000u;
    return (uint64_t)bits << 32 | (0xFFFFFFFFu - (uint32_t)token);
}

static inline int32_t sampler_key_token(uint64_t key) {
    return (int32_t)(0xFFFFFFFFu - (uint32_t)key);
}

/* What a prefix of the candidates adds up to. */
typedef enum { MEASURE_COUNT, MEASURE_WEIGHT } sampler_measure;

static inline uint64_t sampler_measured(const sampler *s, uint64_t key, sampler_measure measure) {
    return measure == MEASURE_COUNT ? 1 : sampler_integer(s->weights[sampler_key_token(key)]);
}

/* The smallest key of the shortest prefix, in descending order, of the candidates sorted[0..count)
 * whose measure is at least `target`; 0 when all of them don't reach it. Expected linear time; the
 * pivots come from fixed random numbers, so the work repeats too. */
static uint64_t sampler_cut(sampler *s, int32_t count, uint64_t target, sampler_measure measure) {
    memcpy(s->keys, s->sorted, (size_t)count * sizeof(uint64_t));
    int32_t lo = 0, hi = count;
    uint64_t reached = 0, random = 1;
    while (lo < hi) {
        int32_t at = lo + (int32_t)rng_below(&random, (uint64_t)(hi - lo));
        uint64_t pivot = s->keys[at];
        int32_t store = lo;
        uint64_t above = 0;
        for (int32_t i = lo; i < hi; i++) {
            uint64_t key = s->keys[i];
            if (key > pivot) {
                above += sampler_measured(s, key, measure);
                s->keys[i] = s->keys[store];
                s->keys[store++] = key;
            }
        }
        uint64_t with_pivot = reached + above + sampler_measured(s, pivot, measure);
        if (reached + above >= target) {
            hi = store;
        } else if (with_pivot >= target) {
            return pivot;
        } else {
            /* The pivot and all above it are in: go on below it. */
            for (int32_t i = store; i < hi; i++) {
                if (s->keys[i] == pivot) {
                    s->keys[i] = s->keys[store];
                    s->keys[store++] = pivot;
                    break;
                }
            }
            reached = with_pivot;
            lo = store;
        }
    }
    return 0;
}

/* Drops the candidates below `cut`; returns how many stay. */
static int32_t sampler_keep(sampler *s, int32_t count, uint64_t cut) {
    int32_t kept = 0;
    for (int32_t i = 0; i < count; i++) {
        if (s->sorted[i] >= cut) {
            s->sorted[kept++] = s->sorted[i];
        }
    }
    return kept;
}

/* A logit that at least `k` tokens reach: the k-th largest of the blocks' maxima, when there are
 * that many blocks. */
static float sampler_floor_of_top(sampler *s, int32_t k) {
    if (k > s->blocks) {
        return -INFINITY;
    }
    for (int32_t b = 0; b < s->blocks; b++) {
        s->sorted[b] = sampler_key(s->block_max[b], b);
    }
    uint64_t cut = sampler_cut(s, s->blocks, (uint64_t)k, MEASURE_COUNT);
    return s->block_max[sampler_key_token(cut)];
}

/* Puts the tokens left by min_p, top_k and top_p into sorted[], by token id; returns how many:
 * at least one, the most likely. `sum` is of all weights. */
static int32_t sampler_truncate(sampler *s, const request_params *p, uint64_t sum) {
    bool limited = p->top_k > 0 && p->top_k < s->vocab;
    float logit_floor = limited ? sampler_floor_of_top(s, p->top_k) : -INFINITY;
    float weight_floor = p->min_p;
    if (p->top_p < 1.0f && !limited && p->min_p <= 0.0f) {
        /* All tokens below this weigh less than 1 - top_p together: top_p leaves them out. */
        double tail = (1.0 - (double)p->top_p) * (double)sum / (double)s->vocab;
        weight_floor = (float)(tail / (double)WEIGHT_ONE) * 0.999f;
    }
    int32_t count = 0;
    for (int32_t b = 0; b < s->blocks; b++) {
        if (s->block_max[b] < logit_floor) {
            continue;
        }
        int32_t end = (b + 1) * BLOCK < s->vocab ? (b + 1) * BLOCK : s->vocab;
        for (int32_t i = b * BLOCK; i < end; i++) {
            if (s->logits[i] >= logit_floor && s->weights[i] >= weight_floor) {
                s->sorted[count++] = sampler_key(s->logits[i], i);
            }
        }
    }
    if (limited && count > p->top_k) {
        count = sampler_keep(s, count, sampler_cut(s, count, (uint64_t)p->top_k, MEASURE_COUNT));
    }
    if (p->top_p < 1.0f) {
        uint64_t left = sum;
        if (limited || p->min_p > 0.0f) {
            left = 0;
            for (int32_t i = 0; i < count; i++) {
                left += sampler_measured(s, s->sorted[i], MEASURE_WEIGHT);
            }
        }
        uint64_t target = (uint64_t)ceil((double)p->top_p * (double)left);
        target = target > 0 ? target : 1;
        count = sampler_keep(s, count, sampler_cut(s, count, target, MEASURE_WEIGHT));
    }
    return count;
}

/* A number in [0, sum) from 64 random bits. */
static uint64_t sampler_share(uint64_t bits, uint64_t sum) {
    return (uint64_t)(((unsigned __int128)bits * sum) >> 64);
}

/* Inverse of the cumulative distribution, in order of token id, over all tokens. */
static int32_t sampler_draw_all(const sampler *s, uint64_t bits, uint64_t sum) {
    uint64_t left = sampler_share(bits, sum);
    int32_t b = 0;
    while (left >= s->block_sum[b]) {
        left -= s->block_sum[b++];
    }
    int32_t i = b * BLOCK;
    while (left >= sampler_integer(s->weights[i])) {
        left -= sampler_integer(s->weights[i++]);
    }
    return i;
}

/* The same over sorted[0..count). */
static int32_t sampler_draw_kept(const sampler *s, int32_t count, uint64_t bits) {
    uint64_t sum = 0;
    for (int32_t i = 0; i < count; i++) {
        sum += sampler_measured(s, s->sorted[i], MEASURE_WEIGHT);
    }
    uint64_t left = sampler_share(bits, sum);
    int32_t i = 0;
    while (left >= sampler_measured(s, s->sorted[i], MEASURE_WEIGHT)) {
        left -= sampler_measured(s, s->sorted[i], MEASURE_WEIGHT);
        i++;
    }
    return sampler_key_token(s->sorted[i]);
}

static int32_t sampler_choose(sampler *s, const sampler_input *in) {
    const request_params *p = in->params;
    float max = sampler_max(s);
    if (p->temperature < TEMPERATURE_MIN || !(max >= -FLT_MAX)) {
        return sampler_argmax(s, max);
    }
    uint64_t bits = rng_at(p->seed, (uint64_t)in->choice, (uint64_t)in->generated_count);
    uint64_t sum = sampler_weigh(s, max, 1.0f / p->temperature);
    bool truncated = (p->top_k > 0 && p->top_k < s->vocab) || p->top_p < 1.0f || p->min_p > 0.0f;
    if (!truncated) {
        return sampler_draw_all(s, bits, sum);
    }
    return sampler_draw_kept(s, sampler_truncate(s, p, sum), bits);
}

/* Inserts into top[0..count) of at most `limit`, most likely first, the lower id first of equals.
 * Callers go through the tokens in ascending order. */
static int32_t sampler_insert(request_logprob *top, int32_t count, int32_t limit, int32_t token,
                              float logit) {
    int32_t at = count < limit ? count : limit - 1;
    while (at > 0 && top[at - 1].logprob < logit) {
        top[at] = top[at - 1];
        at--;
    }
    top[at] = (request_logprob){token, logit};
    return count < limit ? count + 1 : limit;
}

/* Scores under the loaded row: fills top and returns the log of the sum of exponentials. */
static double sampler_score(sampler *s, int32_t limit, request_token *out) {
    float max = sampler_max(s);
    double log_sum = -INFINITY;
    if (max >= -FLT_MAX) {
        uint64_t sum = sampler_weigh(s, max, 1.0f);
        log_sum = (double)max + log((double)sum / (double)WEIGHT_ONE);
    }
    limit = limit < LIMIT_TOP_LOGPROBS ? limit : LIMIT_TOP_LOGPROBS;
    limit = limit < s->vocab ? limit : s->vocab;
    int32_t count = 0;
    for (int32_t b = 0; b < s->blocks && limit > 0; b++) {
        if (count == limit && s->block_max[b] <= out->top[count - 1].logprob) {
            continue;
        }
        int32_t end = (b + 1) * BLOCK < s->vocab ? (b + 1) * BLOCK : s->vocab;
        for (int32_t i = b * BLOCK; i < end; i++) {
            if (count < limit || s->logits[i] > out->top[count - 1].logprob) {
                count = sampler_insert(out->top, count, limit, i, s->logits[i]);
            }
        }
    }
    out->top_count = count;
    return log_sum;
}

static float sampler_logprob(float logit, double log_sum) {
    double x = (double)logit - log_sum;
    return x > (double)LOGPROB_MIN ? (float)x : LOGPROB_MIN;
}

/* Turns the logits that sampler_score left in `top` into logprobs. */
static void sampler_normalise(request_token *out, double log_sum) {
    for (int32_t i = 0; i < out->top_count; i++) {
        out->top[i].logprob = sampler_logprob(out->top[i].logprob, log_sum);
    }
}

request_end sampler_end(const sampler_input *in, int32_t token) {
    const request_params *p = in->params;
    bool eog = !p->ignore_eos && sampler_listed(token, in->eog, in->eog_count);
    if (eog || sampler_listed(token, p->stop_ids, p->stop_ids_count)) {
        return REQUEST_STOP;
    }
    return in->generated_count + 1 >= p->max_tokens ? REQUEST_LENGTH : REQUEST_RUNNING;
}

void sampler_pick(sampler *s, const sampler_input *in, const float *logits, request_token *out) {
    const request_params *p = in->params;
    CHECK_LE(0, in->generated_count);
    memset(out, 0, sizeof(*out));
    sampler_load(s, logits);
    double log_sum = 0;
    if (p->top_logprobs >= 0) {
        log_sum = sampler_score(s, p->top_logprobs, out);
        sampler_normalise(out, log_sum);
    }
    sampler_adjust(s, in);
    int32_t token = sampler_choose(s, in);
    out->choice = in->choice;
    out->index = in->generated_count;
    out->token = token;
    if (p->top_logprobs >= 0) {
        out->logprob = sampler_logprob(logits[token], log_sum);
    }
    out->end = sampler_end(in, token);
}

void sampler_prompt_logprob(sampler *s, const float *logits, int32_t token, int32_t top_logprobs,
                            request_token *out) {
    CHECK_LE(0, token);
    CHECK_LT(token, s->vocab);
    memset(out, 0, sizeof(*out));
    sampler_load(s, logits);
    double log_sum = sampler_score(s, top_logprobs, out);
    sampler_normalise(out, log_sum);
    out->token = token;
    out->logprob = sampler_logprob(s->logits[token], log_sum);
}
