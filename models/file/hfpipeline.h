/* hfpipeline.h -- what happens to text around the merges, as tokenizer.json says it.
 *
 * Purpose    Recognises the normalizers, pre-tokenizers and post-processors of the families weir
 *            serves; any other is refused by name, since ids would differ without a word.
 * Ownership  Plain values; texts point into the JSON.
 * Threads    Pure functions.
 * Limits     None of its own.
 */
#ifndef MODELS_FILE_HFPIPELINE_H
#define MODELS_FILE_HFPIPELINE_H

#include <cjson/cJSON.h>
#include <stdbool.h>

#include "engine/base/status.h"

typedef struct {
    const char *pre;    /* byte-level: the pre-tokenizer's family; NULL: blanks become U+2581 */
    const char *prefix; /* with blanks as U+2581, where one is put before text: "never", "first",
                         * "always" (unless there is one), "segment" (in any case) */
    bool split;         /* with blanks as U+2581, words are merged apart */
    bool nfc;           /* text is brought to Unicode's form C first */
    const char *begin;  /* token put before a text, or NULL */
    const char *end;    /* token put after a text, or NULL */
} hfpipeline;

MUST_USE status hfpipeline_read(const cJSON *tokenizer, hfpipeline *out, diag *d);

#endif
