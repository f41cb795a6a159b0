/* jinja_lex.h -- a template's text as tokens.
 *
 * Purpose    Cuts text from tags, applies trim_blocks, lstrip_blocks and the - and + marks, and
 *            cuts the insides of tags into names, numbers, strings and operators.
 * Ownership  The heap's.
 * Threads    One thread at a time.
 * Limits     The heap's.
 */
#ifndef MODELS_TEXT_JINJA_LEX_H
#define MODELS_TEXT_JINJA_LEX_H

#include "engine/base/str.h"
#include "models/text/jinja_value.h"

typedef enum {
    JINJA_TOKEN_END, /* of the template */
    JINJA_TOKEN_DATA,
    JINJA_TOKEN_BLOCK_BEGIN,
    JINJA_TOKEN_BLOCK_END,
    JINJA_TOKEN_VARIABLE_BEGIN,
    JINJA_TOKEN_VARIABLE_END,
    JINJA_TOKEN_NAME,
    JINJA_TOKEN_INTEGER,
    JINJA_TOKEN_FLOAT,
    JINJA_TOKEN_STRING,
    JINJA_TOKEN_OPERATOR /* text: the operator */
} jinja_token_type;

typedef struct {
    jinja_token_type type;
    int32_t line;
    str text;          /* as written; DATA: what is to be printed */
    jinja_value value; /* of INTEGER, FLOAT, STRING */
} jinja_token;

/* The tokens of `source` (valid UTF-8), the last one END. Fails for text that is no template. */
jinja_token *jinja_lex(jinja_heap *h, str source, size_t *count);

#endif
