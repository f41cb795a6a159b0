/* openai_prompt.h -- the `prompt` and `tokens` fields.
 *
 * Purpose    Reads a prompt in each of its forms: a text, texts, token ids, lists of token ids.
 * Ownership  Texts point into the JSON tree; ids are allocated and belong to the request
 *            (openai_prompt_free).
 * Threads    Pure functions.
 * Limits     LIMIT_BATCH_PROMPTS prompts; openai_limits.context_tokens ids each.
 */
#ifndef SERVER_API_OPENAI_PROMPT_H
#define SERVER_API_OPENAI_PROMPT_H

#include "server/api/openai.h"
#include "server/http/jsonin.h"

/* The member `name`, which may be a list of prompts if `many`. */
MUST_USE status openai_prompt_read(const jsonin *j, const char *name, bool many,
                                   const openai_limits *limits, openai_request *r, diag *d);

void openai_prompt_free(openai_request *r);

#endif
