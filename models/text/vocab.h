/* vocab.h -- the tokens of a model file.
 *
 * Purpose    Token texts, the bytes they stand for, their types, and the way from text to id.
 *            Private to models/text: use tokenizer.h.
 * Ownership  vocab_open copies the texts: the gguf may be closed afterwards. vocab_close frees.
 * Threads    Open and close from one thread; otherwise pure reads.
 * Limits     TOKENIZER_LIMIT_VOCAB tokens of TOKENIZER_LIMIT_TOKEN_BYTES each. A text given to two
 *            tokens is refused: which id it means would be a guess.
 */
#ifndef MODELS_TEXT_VOCAB_H
#define MODELS_TEXT_VOCAB_H

#include <stdbool.h>
#include <stdint.h>

#include "engine/base/status.h"
#include "engine/base/str.h"
#include "models/file/gguf.h"

/* With the numbers of tokenizer.ggml.token_type. */
typedef enum {
    VOCAB_NORMAL = 1,
    VOCAB_UNKNOWN = 2,
    VOCAB_CONTROL = 3,
    VOCAB_USER = 4,
    VOCAB_UNUSED = 5,
    VOCAB_BYTE = 6
} vocab_type;

typedef struct {
    int32_t count;
    str *texts;     /* [count] as in the file */
    str *pieces;    /* [count] the bytes the token stands for */
    uint8_t *types; /* [count] vocab_type */
    char *bytes;    /* what texts and pieces point into */
    int32_t *slots; /* [slots_mask + 1] ids by text, -1 empty, open addressing */
    uint32_t slots_mask;
    bool fallback;         /* texts are text, with blanks as U+2581; else the byte alphabet */
    int32_t byte_ids[256]; /* the token of a single byte, -1 where the vocabulary has none */
    size_t piece_bytes_max;
} vocab;

/* `fallback`: as vocab.fallback. */
MUST_USE status vocab_open(const gguf *g, bool fallback, vocab *out, diag *d);
void vocab_close(vocab *v);

/* The id of the token with that text, or -1. */
int32_t vocab_find(const vocab *v, str text);

#endif
