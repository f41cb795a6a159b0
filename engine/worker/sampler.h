/* sampler.h -- from a row of logits to the next token.
 *
 * Purpose    Applies a request's sampling parameters to logits[vocab] and picks a token; scores
 *            tokens (logprobs) under the model's own distribution.
 * Ownership  A sampler is scratch memory in the caller's arena; it keeps nothing between calls, so
 *            a request resumes anywhere from its tokens alone. Inputs are borrowed for the call.
 * Threads    One thread at a time per sampler; several samplers may run at once.
 * Limits     vocab <= SAMPLER_VOCAB_MAX.
 * Order      vLLM's: logit_bias; end-of-generation masks (min_tokens, ignore_eos); penalties
 *            (repetition over prompt and output, then frequency and presence over output);
 *            temperature; min_p; top_k; top_p over what is left; draw. Logprobs are of the raw
 *            logits, before all of these.
 * Exactness  Weights are 64-bit integers and ties go to the lowest token id, so the result is a
 *            function of the arguments alone: same bits in any batch, on any instruction set.
 */
#ifndef ENGINE_WORKER_SAMPLER_H
#define ENGINE_WORKER_SAMPLER_H

#include <stdbool.h>
#include <stdint.h>

#include "engine/base/arena.h"
#include "engine/base/status.h"
#include "engine/core/request.h"

enum {
    SAMPLER_VOCAB_MAX = 1 << 19,
    SAMPLER_EOG_MAX = 32,
    SAMPLER_FORBIDDEN_MAX = SAMPLER_EOG_MAX + LIMIT_STOP_IDS
};

typedef struct sampler sampler;

/* What one pick depends on besides the logits. Token ids outside [0, vocab) are ignored. */
typedef struct {
    const request_params *params;
    const int32_t *prompt;    /* [prompt_count] */
    const int32_t *generated; /* [generated_count] this choice's output so far */
    const int32_t *eog;       /* [eog_count] the model's end-of-generation ids */
    int32_t prompt_count;
    int32_t generated_count; /* also the index of the token picked now */
    int32_t eog_count;
    int32_t choice; /* each choice draws from its own random stream */
} sampler_input;

/* Bytes a sampler takes from its arena. */
uint64_t sampler_bytes(int32_t vocab);

MUST_USE status sampler_create(arena *a, int32_t vocab, sampler **out);

/* Picks the next token and fills all of `out`. `end` is REQUEST_STOP when the token is a stop id,
 * or an end-of-generation id that is not ignored; else REQUEST_LENGTH when it is the max_tokens-th;
 * else REQUEST_RUNNING. (A full context is the caller's to notice.)
 * NaN and -inf are never picked while anything else is left. logits: [vocab] float32. */
void sampler_pick(sampler *s, const sampler_input *in, const float *logits, request_token *out);

/* For whoever picks elsewhere (a device): the ids that may not come yet, to be masked after the
 * biases: [SAMPLER_FORBIDDEN_MAX]; returns how many. */
int32_t sampler_forbidden(const sampler_input *in, int32_t *ids);

/* What picking `token` ends. */
request_end sampler_end(const sampler_input *in, int32_t token);

/* The logprob of `token` under logits[vocab], and the `top_logprobs` (0..LIMIT_TOP_LOGPROBS) most
 * likely tokens: for a prompt's tokens. Fills token, logprob, top_count and top; the rest is
 * zero. */
void sampler_prompt_logprob(sampler *s, const float *logits, int32_t token, int32_t top_logprobs,
                            request_token *out);

#endif
