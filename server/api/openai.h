/* openai.h -- requests of the OpenAI API, checked field by field.
 *
 * Purpose    Turns a request body into plain data the gateway works with. Every field is checked
 *            for type and range and the refusal names it; fields that are known, not supported and
 *            would change the answer are refused; unknown fields are ignored (as vLLM does).
 * Ownership  An openai_request owns all it points to; openai_free. It does not keep the body.
 * Threads    Pure functions; one thread at a time for one request.
 * Limits     LIMIT_JSON_*, LIMIT_CHOICES, LIMIT_BATCH_PROMPTS, LIMIT_STOP_*, LIMIT_LOGIT_BIAS,
 *            LIMIT_TOP_LOGPROBS, LIMIT_CONTEXT_TOKENS.
 */
#ifndef SERVER_API_OPENAI_H
#define SERVER_API_OPENAI_H

#include <cjson/cJSON.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/base/limits.h"
#include "engine/base/status.h"
#include "engine/base/str.h"
#include "engine/core/request.h"

enum { OPENAI_PRIORITY_MAX = 1000000 };

typedef enum { OPENAI_CHAT, OPENAI_COMPLETIONS, OPENAI_TOKENIZE, OPENAI_DETOKENIZE } openai_kind;

/* What a request may ask of the model served. */
typedef struct {
    const char *const *models; /* [models_count] names it answers to; the first is the default */
    int32_t models_count;
    int32_t context_tokens;
    int32_t vocab_count;
} openai_limits;

/* Text, or tokens when `tokens` is not NULL. */
typedef struct {
    str text;
    int32_t *tokens; /* [tokens_count] ids within the vocabulary */
    int32_t tokens_count;
} openai_prompt;

typedef struct {
    openai_kind kind;
    str model; /* the name it asked for, or the default */

    /* CHAT, and TOKENIZE with messages: the input of chat_render but for bos_token and eos_token:
     * messages (contents are strings or null), tools, documents, add_generation_prompt,
     * chat_template_kwargs merged in. NULL otherwise. */
    cJSON *template_input;
    bool continue_final_message; /* cut the rendering after the last message's content */
    bool add_special_tokens;     /* CHAT: false by default; COMPLETIONS, TOKENIZE: true */

    /* COMPLETIONS: one or more. TOKENIZE without messages: one text. DETOKENIZE: one of tokens. */
    openai_prompt *prompts; /* [prompts_count] */
    int32_t prompts_count;

    bool seed_given;

    str stops[LIMIT_STOP_STRINGS]; /* [stops_count] none empty */
    int32_t stops_count;
    bool stop_included; /* include_stop_str_in_output */

    bool stream;
    bool usage_included;   /* stream_options.include_usage */
    bool usage_continuous; /* stream_options.continuous_usage_stats */

    bool echo;            /* COMPLETIONS: the prompt comes first in the text */
    bool logprobs;        /* any form of them was asked for; params.top_logprobs says how many */
    bool special_skipped; /* skip_special_tokens, true by default */
    bool token_ids;       /* return_token_ids: prompt_token_ids and token_ids in the answer */
    bool tokens_as_ids;   /* return_tokens_as_token_ids: logprobs name tokens "token_id:N" */
    bool token_strs;      /* TOKENIZE: return_token_strs */
    str cache_salt;       /* empty when not given */
    str user;             /* empty when not given */
    str cache_key;        /* prompt_cache_key: what a session is called; empty when not given */
    bool kv_kept;         /* kv_transfer_params.do_remote_decode: another request will go on */
    int32_t priority;     /* of its caller's requests the lower go first; 0 when not given */

    void *owned; /* what the strs and prompts point into */

    /* Complete but for: seed (see seed_given), and max_tokens, which is -1 when the rest of the
     * context is meant. choices is n; choice_first is 0. Last: of its biases only those that are
     * used have a value. */
    request_params params;
} openai_request;

/* Parses and checks `body`. On failure `d` has code, field and text: STATUS_CORRUPT (not JSON),
 * STATUS_INVALID and STATUS_UNSUPPORTED mean 400, STATUS_NOTFOUND (the model) 404, STATUS_NOMEM
 * 503. */
MUST_USE status openai_parse(openai_kind kind, str body, const openai_limits *limits,
                             openai_request **out, diag *d);
void openai_free(openai_request *r);

#endif
