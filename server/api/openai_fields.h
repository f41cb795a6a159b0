/* openai_fields.h -- the fields chat and completions have in common.
 *
 * Purpose    Sampling, stops, logprobs, streaming, and the list of fields that are known, not
 *            supported, and would change the answer.
 * Ownership  Strs point into the JSON tree.
 * Threads    Pure functions.
 * Limits     As openai.h.
 */
#ifndef SERVER_API_OPENAI_FIELDS_H
#define SERVER_API_OPENAI_FIELDS_H

#include "server/api/openai.h"
#include "server/http/jsonin.h"

/* Sampling, penalties, stops, seed, n, max_tokens and the rest of generation, into `r`, whose
 * `kind` is set. */
MUST_USE status openai_fields_generation(const jsonin *j, const openai_limits *limits,
                                         openai_request *r, diag *d);

/* Refuses what is known and not supported unless it is absent, null or harmless. */
MUST_USE status openai_fields_supported(const cJSON *root, openai_kind kind, diag *d);

/* The model's name: one that is served, or the default. */
MUST_USE status openai_fields_model(const cJSON *root, const openai_limits *limits,
                                    openai_request *r, diag *d);

#endif
