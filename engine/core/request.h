/* request.h -- what one generation asks for: plain data every process shares.
 *
 * Purpose    Sampling parameters and limits of a request, validated by the gateway and once more by
 *            the worker; the reasons a generation ends; the logprobs that travel with a token.
 * Ownership  Plain values; pointers borrow from whoever holds the request.
 * Threads    Pure data.
 * Limits     The LIMIT_* values of engine/base/limits.h.
 */
#ifndef ENGINE_CORE_REQUEST_H
#define ENGINE_CORE_REQUEST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "engine/base/limits.h"

/* Unique over the life of all gateways of a deployment: gateway number and a counter. */
typedef uint64_t request_id;

typedef struct {
    int32_t token;
    float bias; /* added to the logit; -100 and below forbids in practice */
} request_bias;

typedef struct {
    float temperature;        /* 0: greedy; else > 0 */
    int32_t top_k;            /* 0: off */
    float top_p;              /* (0, 1]; 1: off */
    float min_p;              /* [0, 1]; 0: off */
    float repetition_penalty; /* > 0; 1: off. Prompt and output (CTRL, Keskar et al. 2019) */
    float presence_penalty;   /* [-2, 2]; output tokens only */
    float frequency_penalty;  /* [-2, 2]; output tokens only */
    uint64_t seed;            /* drawn by the gateway when the caller gives none */
    int32_t max_tokens;       /* tokens to generate; 0: only score the prompt */
    int32_t min_tokens;       /* no end-of-generation or stop id before this many */
    bool ignore_eos;
    int32_t top_logprobs; /* -1: no logprobs; 0: the chosen token's; else that many more */
    bool prompt_logprobs; /* logprobs of the prompt's tokens too (echo) */
    int32_t choices;      /* n: 1..LIMIT_CHOICES */
    int32_t choice_first; /* number of the first choice: a request resubmitted for one choice of
                           * several keeps its number, and so its random stream */
    int32_t stop_ids_count;
    int32_t stop_ids[LIMIT_STOP_IDS];
    int32_t biases_count;
    request_bias biases[LIMIT_LOGIT_BIAS];
} request_params;

/* Copies what is used: of 8 KiB for biases most requests have none. */
static inline void request_params_copy(request_params *to, const request_params *from) {
    memcpy(to, from,
           offsetof(request_params, biases) + (size_t)from->biases_count * sizeof from->biases[0]);
}

typedef enum {
    REQUEST_RUNNING,   /* not ended */
    REQUEST_STOP,      /* an end-of-generation token or a stop id */
    REQUEST_LENGTH,    /* max_tokens or the context is full */
    REQUEST_CANCELLED, /* nobody listens any more */
    REQUEST_FAILED
} request_end;

typedef struct {
    int32_t token;
    float logprob; /* natural log, of the distribution before temperature and truncation */
} request_logprob;

/* One generated token as it travels from a worker to the gateway. */
typedef struct {
    int32_t choice;
    int32_t index; /* 0 is the first generated token of the choice */
    int32_t token;
    request_end end; /* != REQUEST_RUNNING on the choice's last token */
    float logprob;   /* of the token; 0 when top_logprobs < 0 */
    int32_t top_count;
    request_logprob top[LIMIT_TOP_LOGPROBS]; /* [top_count] most likely first */
} request_token;

#endif
