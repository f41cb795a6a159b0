/* tokenizer_parts.h -- what a tokenizer is made of.
 *
 * Purpose    Shared by the files that open, ask and encode. Private to models/text: use
 *            tokenizer.h.
 * Ownership  The tokenizer owns its parts.
 * Threads    Never written after tokenizer_open, but for `joined`.
 * Limits     Those of tokenizer.h.
 */
#ifndef MODELS_TEXT_TOKENIZER_PARTS_H
#define MODELS_TEXT_TOKENIZER_PARTS_H

#include <stdatomic.h>

#include "models/text/bpe.h"
#include "models/text/fallback.h"
#include "models/text/pretok.h"
#include "models/text/special.h"
#include "models/text/tokenizer.h"
#include "models/text/vocab.h"

typedef enum { TOKENIZER_UNTRIED, TOKENIZER_JOINS, TOKENIZER_PARTS } tokenizer_joined;

struct tokenizer {
    vocab words;
    special specials;
    bpe *merges;
    bool nfc;               /* plain text is brought to form C first */
    pretok *pre;            /* NULL where words.fallback */
    fallback_prefix prefix; /* words.fallback: before which stretches a blank is put */
    bool splits;            /* words.fallback: blanks begin words */
    bool whole_words;       /* a word that is a token is never merged from parts */
    int32_t unknown;        /* -1: none */
    bool *eog;              /* [vocab count] */
    /* [vocab count] tokenizer_joined: whether merging the token's own text gives the token, as was
     * found when a word first was that text. Any thread may write what any other would. */
    _Atomic uint8_t *joined;
    int32_t bos;
    int32_t eos;
    int32_t pad;
    bool adds_bos;
    bool adds_eos;
};

#endif
