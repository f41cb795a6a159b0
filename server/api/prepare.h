/* prepare.h -- from a parsed request to prompts of token ids.
 *
 * Purpose    Renders the chat template, tokenises, and holds each prompt and its max_tokens against
 *            the model's context: the CPU work that comes before a request is routed.
 * Ownership  prepare_prompts allocates; prepare_free frees. The model is borrowed.
 * Threads    Any number at once: the model is read-only.
 * Limits     A prompt has at most context_tokens ids.
 */
#ifndef SERVER_API_PREPARE_H
#define SERVER_API_PREPARE_H

#include "models/text/chat.h"
#include "models/text/tokenizer.h"
#include "server/api/openai.h"

/* What the gateway knows of the model it serves. */
typedef struct {
    const tokenizer *tokenizer;
    const chat *chat; /* NULL: the model file has no chat template */
    int32_t context_tokens;
} prepare_model;

typedef struct {
    int32_t *tokens; /* [count] */
    int32_t count;
    int32_t max_tokens; /* what the request allows this prompt */
} prepare_prompt;

typedef struct {
    prepare_prompt *prompts; /* [count] */
    int32_t count;
} prepare_result;

/* For CHAT, COMPLETIONS and TOKENIZE (where the context is no limit and max_tokens means nothing).
 * STATUS_INVALID with the field's name when the prompt does not fit or the template refuses. Adds
 * bos_token and eos_token to the request's template input. */
MUST_USE status prepare_prompts(const prepare_model *m, openai_request *r, prepare_result *out,
                                diag *d);
void prepare_free(prepare_result *p);

/* DETOKENIZE: appends the text of the request's tokens. */
MUST_USE status prepare_text(const prepare_model *m, const openai_request *r, strbuf *out);

/* reply_pieces.piece of a tokenizer. */
str prepare_piece(const void *tokenizer, int32_t token);

#endif
