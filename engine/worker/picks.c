/* picks.c -- wants as rows for the device, choices as tokens. */
#include "engine/worker/picks.h"

#include <assert.h>
#include <stddef.h>
#include <string.h>

#include "engine/base/check.h"

static_assert(sizeof(request_bias) == sizeof(ops_bias) &&
                  offsetof(request_bias, bias) == offsetof(ops_bias, bias),
              "a request's biases are read as they are");
static_assert((int)SAMPLER_FORBIDDEN_MAX <= (int)OPS_FORBIDDEN_MAX &&
                  (int)LIMIT_TOP_LOGPROBS == (int)OPS_TOP_MAX,
              "limits of the sampler and of operators");

struct picks {
    int32_t wants_max, eog_count;
    const int32_t *eog;
    ops_sample_row *rows; /* [wants_max] */
    ops_sampled *sampled; /* [wants_max] */
    int32_t *forbidden;   /* [wants_max, SAMPLER_FORBIDDEN_MAX] */
};

uint64_t picks_bytes(int32_t wants_max) {
    return sizeof(picks) +
           (uint64_t)wants_max * (sizeof(ops_sample_row) + sizeof(ops_sampled) +
                                  SAMPLER_FORBIDDEN_MAX * sizeof(int32_t)) +
           4 * 64;
}

status picks_create(arena *a, int32_t wants_max, const int32_t *eog, int32_t eog_count,
                    picks **out) {
    CHECK_LE(eog_count, SAMPLER_EOG_MAX);
    const size_t wants = (size_t)wants_max;
    picks *p = ARENA_TAKE(a, 1, picks);
    if (!p) {
        return STATUS_NOMEM;
    }
    *p = (picks){.wants_max = wants_max, .eog_count = eog_count, .eog = eog};
    p->rows = ARENA_TAKE(a, wants, ops_sample_row);
    p->sampled = ARENA_TAKE(a, wants, ops_sampled);
    p->forbidden = ARENA_TAKE(a, wants * SAMPLER_FORBIDDEN_MAX, int32_t);
    *out = p;
    return p->rows && p->sampled && p->forbidden ? STATUS_OK : STATUS_NOMEM;
}

sampler_input picks_input(const core_want *want, const int32_t *eog, int32_t eog_count) {
    return (sampler_input){.params = want->params,
                           .prompt = want->prompt,
                           .generated = want->generated,
                           .eog = eog,
                           .prompt_count = want->prompt_count,
                           .generated_count = want->generated_count,
                           .eog_count = eog_count,
                           .choice = want->choice};
}

static ops_sample_row picks_row(const picks *p, const core_want *want, int32_t *forbidden) {
    const request_params *q = want->params;
    if (want->kind == CORE_WANT_SCORE) {
        return (ops_sample_row){.logit_row = want->logit_row,
                                .scored = want->token,
                                .top_logprobs = q->top_logprobs > 0 ? q->top_logprobs : 0,
                                .top_p = 1,
                                .repetition_penalty = 1};
    }
    const sampler_input in = picks_input(want, p->eog, p->eog_count);
    return (ops_sample_row){.logit_row = want->logit_row,
                            .scored = -1,
                            .temperature = q->temperature,
                            .top_p = q->top_p,
                            .min_p = q->min_p,
                            .top_k = q->top_k,
                            .repetition_penalty = q->repetition_penalty,
                            .presence_penalty = q->presence_penalty,
                            .frequency_penalty = q->frequency_penalty,
                            .top_logprobs = q->top_logprobs,
                            .prompt = want->prompt,
                            .generated = want->generated,
                            .biases = (const ops_bias *)(const void *)q->biases,
                            .forbidden = forbidden,
                            .prompt_count = want->prompt_count,
                            .generated_count = want->generated_count,
                            .biases_count = q->biases_count,
                            .forbidden_count = sampler_forbidden(&in, forbidden),
                            .seed = q->seed,
                            .stream = (uint64_t)want->choice,
                            .position = (uint64_t)want->generated_count};
}

void picks_ask(picks *p, const core_want *wants, int32_t count, model_batch *batch) {
    CHECK_LE(count, p->wants_max);
    for (int32_t i = 0; i < count; i++) {
        p->rows[i] = picks_row(p, &wants[i], p->forbidden + (ptrdiff_t)i * SAMPLER_FORBIDDEN_MAX);
    }
    batch->logits = NULL;
    batch->samples = p->rows;
    batch->sampled = p->sampled;
    batch->samples_count = count;
}

void picks_take(const picks *p, const core_want *wants, int32_t count, request_token *results) {
    for (int32_t i = 0; i < count; i++) {
        const ops_sampled *from = &p->sampled[i];
        request_token *to = &results[i];
        *to = (request_token){
            .token = from->token, .logprob = from->logprob, .top_count = from->top_count};
        for (int32_t j = 0; j < from->top_count; j++) {
            to->top[j] = (request_logprob){from->top_token[j], from->top_logprob[j]};
        }
        if (wants[i].kind == CORE_WANT_SCORE) {
            to->index = wants[i].position;
            continue;
        }
        const sampler_input in = picks_input(&wants[i], p->eog, p->eog_count);
        to->choice = in.choice;
        to->index = in.generated_count;
        to->end = sampler_end(&in, from->token);
    }
}
