/* hftokens.h -- tokenizer.json of a Hugging Face folder, as the keys of a GGUF file.
 *
 * Purpose    Vocabulary, merges, added tokens, the pre-tokenizer's family, begin and end tokens and
 *            the chat template. Every step of the file's pipeline is one weir does the same way, or
 *            the file is refused by the step's name.
 * Ownership  Writes to the composer; keeps nothing.
 * Threads    One thread at a time.
 * Limits     HFTOKENS_IDS_MAX tokens, HFTOKENS_MERGES_MAX merges.
 */
#ifndef MODELS_FILE_HFTOKENS_H
#define MODELS_FILE_HFTOKENS_H

#include "models/file/hfconfig.h"

enum { HFTOKENS_IDS_MAX = 1 << 20, HFTOKENS_MERGES_MAX = 1 << 21 };

typedef struct {
    const cJSON *tokenizer; /* tokenizer.json */
    const cJSON *settings;  /* tokenizer_config.json, or NULL */
    str chat_template;      /* chat_template.jinja; NULL data when there is none */
} hftokens_input;

MUST_USE status hftokens_put(const hftokens_input *in, const hfconfig *c, ggufmake *keys, diag *d);

#endif
