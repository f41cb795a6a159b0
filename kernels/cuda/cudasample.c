/* cudasample.c -- tokens chosen on the device: what a launch reads is sent, what it chose comes
 * back when the step is over.
 *
 * Nothing here waits for the device: choices are copied to pinned memory in the stream's order, and
 * the wait that ends the forward pass hands them on. A launch takes CUDASTATE_SAMPLE_ROWS rows, so
 * that its scratch memory, two words for each logit, has a bound.
 */
#include <assert.h>
#include <math.h>
#include <stddef.h>
#include <string.h>

#include "engine/base/limits.h"
#include "kernels/cuda/cudastate.h"

static_assert((int)OPS_TOP_MAX == (int)CUDA_TOP_MAX, "logprobs of a choice");
static_assert(sizeof(ops_sampled) == sizeof(cuda_sampled) &&
                  offsetof(ops_sampled, top_token) == offsetof(cuda_sampled, top_token) &&
                  offsetof(ops_sampled, top_logprob) == offsetof(cuda_sampled, top_logprob),
              "choices are handed on as they come");
static_assert(sizeof(ops_bias) == sizeof(cuda_sample_bias) &&
                  offsetof(ops_bias, bias) == offsetof(cuda_sample_bias, bias),
              "biases are sent as they are");

/* Scratch of a launch; the counts behind the logits are zero whenever no launch is under way. */
static status scratch_take(cudastate *c, int32_t rows, int32_t vocab) {
    const uint64_t bytes = (uint64_t)rows * (uint64_t)vocab * (sizeof(float) + sizeof(uint32_t));
    if (bytes > c->logits.bytes) {
        TRY(cudastate_reserve(c, &c->logits, bytes));
        TRY(cudastate_check(c, cudaMemsetAsync(c->logits.memory, 0, bytes, c->stream)));
    }
    return cudastate_reserve(c, &c->chosen, (uint64_t)rows * sizeof(cuda_sampled));
}

static status pinned_take(cudastate *c) {
    void *memory = NULL;
    if (c->sampled != NULL) {
        return STATUS_OK;
    }
    TRY(cudastate_check(c, cudaMallocHost(&memory, CUDASTATE_SAMPLED_MAX * sizeof(cuda_sampled))));
    c->sampled = memory;
    return STATUS_OK;
}

status cudasample_reserve(cudastate *c, const ops_sizes *s) {
    if (s->logit_rows_max == 0 || s->vocab == 0) {
        return STATUS_OK;
    }
    /* One row of logits may be asked for several tokens: of a prompt, its choices. */
    const uint64_t row = sizeof(cuda_sample_row) + (uint64_t)s->context_tokens * sizeof(int32_t) +
                         (LIMIT_LOGIT_BIAS + OPS_FORBIDDEN_MAX) * sizeof(cuda_sample_bias);
    TRY(cudastate_reserve(c, &c->choice, CUDASTATE_SAMPLE_ROWS * row));
    TRY(pinned_take(c));
    return scratch_take(c, CUDASTATE_SAMPLE_ROWS, s->vocab);
}

void cudasample_close(cudastate *c) {
    (void)cudaFree(c->choice.memory);
    (void)cudaFree(c->logits.memory);
    (void)cudaFree(c->chosen.memory);
    (void)cudaFreeHost(c->sampled);
}

static cuda_sample_row row_of(const ops_sample_row *r, int32_t history_first,
                              int32_t biases_first) {
    const bool repeats = r->repetition_penalty != 1.0f;
    const bool counted = r->frequency_penalty != 0.0f || r->presence_penalty != 0.0f;
    return (cuda_sample_row){.temperature = r->temperature,
                             .top_p = r->top_p,
                             .min_p = r->min_p,
                             .top_k = r->top_k,
                             .repetition_penalty = r->repetition_penalty,
                             .presence_penalty = r->presence_penalty,
                             .frequency_penalty = r->frequency_penalty,
                             .history_first = history_first,
                             .prompt_count = repeats ? r->prompt_count : 0,
                             .generated_count = repeats || counted ? r->generated_count : 0,
                             .biases_first = biases_first,
                             .biases_count = r->biases_count + r->forbidden_count,
                             .allowed = -1,
                             .top_logprobs = r->top_logprobs,
                             .seed = r->seed,
                             .stream = r->stream,
                             .position = r->position,
                             .logit_row = r->logit_row,
                             .scored = r->scored};
}

/* Sends `count` rows with their biases and the histories that penalties read, one after the other.
 */
static status rows_send(cudastate *c, const ops_sample_row *rows, int32_t count, cuda_sample *k) {
    cuda_sample_row host[CUDASTATE_SAMPLE_ROWS];
    int32_t history = 0, biases = 0;
    for (int32_t i = 0; i < count; i++) {
        host[i] = row_of(&rows[i], history, biases);
        history += host[i].prompt_count + host[i].generated_count;
        biases += host[i].biases_count;
    }
    const uint64_t rows_bytes = (uint64_t)count * sizeof(host[0]);
    const uint64_t biases_bytes = (uint64_t)biases * sizeof(ops_bias);
    TRY(cudastate_reserve(c, &c->choice,
                          rows_bytes + biases_bytes + (uint64_t)history * sizeof(int32_t)));
    uint8_t *at = c->choice.memory;
    k->row = (const cuda_sample_row *)(const void *)at;
    TRY(cudastream_send(c, at, host, rows_bytes));
    at += rows_bytes;
    k->biases = (const cuda_sample_bias *)(const void *)at;
    for (int32_t i = 0; i < count; i++) {
        cuda_sample_bias never[OPS_FORBIDDEN_MAX];
        for (int32_t j = 0; j < rows[i].forbidden_count; j++) {
            never[j] = (cuda_sample_bias){rows[i].forbidden[j], -INFINITY};
        }
        const uint64_t bytes = (uint64_t)rows[i].biases_count * sizeof(ops_bias);
        const uint64_t more = (uint64_t)rows[i].forbidden_count * sizeof(ops_bias);
        TRY(cudastream_send(c, at, rows[i].biases, bytes));
        TRY(cudastream_send(c, at + bytes, never, more));
        at += bytes + more;
    }
    k->history = (const int32_t *)(const void *)at;
    for (int32_t i = 0; i < count; i++) {
        const uint64_t prompt = (uint64_t)host[i].prompt_count * sizeof(int32_t);
        const uint64_t generated = (uint64_t)host[i].generated_count * sizeof(int32_t);
        TRY(cudastream_send(c, at, rows[i].prompt, prompt));
        TRY(cudastream_send(c, at + prompt, rows[i].generated, generated));
        at += prompt + generated;
    }
    return STATUS_OK;
}

static status part_run(cudastate *c, const ops_sample *op, int32_t first, int32_t count) {
    cuda_sample k = {.logits = op->logits, .rows = count, .vocab = op->vocab};
    if (c->sampled_count + count > CUDASTATE_SAMPLED_MAX) {
        TRY(cudastream_sync(&c->base)); /* hands on what is there */
    }
    if (c->sampled_count == 0) {
        c->sampled_to = op->out + first;
    }
    TRY(rows_send(c, op->rows_of + first, count, &k));
    k.scratch = c->logits.memory;
    k.counts = (uint32_t *)(void *)(k.scratch + c->logits.bytes / sizeof(float) / 2);
    k.out = c->chosen.memory;
    TRY(cudastate_check(c, sample_rows(&k, c->stream)));
    TRY(cudastate_check(c, cudaMemcpyAsync(c->sampled + c->sampled_count, k.out,
                                           (size_t)count * sizeof(cuda_sampled),
                                           cudaMemcpyDeviceToHost, c->stream)));
    c->sampled_count += count;
    return STATUS_OK;
}

status cudasample_run(backend *b, const ops_sample *op) {
    cudastate *c = (cudastate *)b;
    const int32_t rows = op->rows < CUDASTATE_SAMPLE_ROWS ? op->rows : CUDASTATE_SAMPLE_ROWS;
    TRY(cudastate_enter(c));
    if (c->sampled_count > 0) {
        TRY(cudastream_sync(b)); /* an earlier call's, which go elsewhere */
    }
    TRY(pinned_take(c));
    TRY(scratch_take(c, rows, op->vocab));
    for (int32_t first = 0; first < op->rows; first += rows) {
        const int32_t left = op->rows - first;
        TRY(part_run(c, op, first, left < rows ? left : rows));
    }
    return STATUS_OK;
}
