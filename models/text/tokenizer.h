/* tokenizer.h -- text to token ids and back, from a model file's own vocabulary.
 *
 * Purpose    Byte-level BPE (tokenizer.ggml.model "gpt2") with the pre-tokenizers "smollm", "gpt2",
 *            "llama-bpe", "qwen2" and "default", and BPE over characters with byte fallback
 *            ("llama"); anything else is refused by name. Ids equal those of the `tokenizers`
 *            package with the same vocabulary, merges and pre-tokenizer.
 * Ownership  tokenizer_open copies what it needs: the gguf may be closed afterwards. Strs returned
 *            live as long as the tokenizer.
 * Threads    After open a tokenizer never changes: every call is safe from any number of threads.
 * Limits     TOKENIZER_LIMIT_ below. Time is O(n log n) in the text, whatever the text.
 */
#ifndef MODELS_TEXT_TOKENIZER_H
#define MODELS_TEXT_TOKENIZER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/base/status.h"
#include "engine/base/str.h"
#include "models/file/gguf.h"

enum {
    TOKENIZER_LIMIT_VOCAB = 1 << 20,
    TOKENIZER_LIMIT_MERGES = 1 << 21,
    TOKENIZER_LIMIT_TOKEN_BYTES = 1 << 12, /* of one token's text in the file */
    TOKENIZER_LIMIT_TEXT_BYTES = 1 << 28   /* of one text to encode */
};

typedef struct tokenizer tokenizer;

MUST_USE status tokenizer_open(const gguf *g, tokenizer **out, diag *d);
void tokenizer_close(tokenizer *t);

/* Writes the ids of `text` to ids[ids_max] and their number to *count. Bytes that are not UTF-8
 * count as U+FFFD, one for each maximal broken part (as Python's errors="replace").
 * add_special: put the begin (and end) token where the model file asks for it.
 * parse_special: a control token's text in `text` becomes that token; otherwise it is plain text.
 *   User-defined tokens are always recognised.
 * There are at most 6 * text.bytes + 2 ids: a broken byte or a blank becomes three, each of which
 * may be a token, and before a stretch of text a blank may be put. STATUS_LIMIT when ids_max is too
 * small: *count is then how many there are, and ids holds the first ids_max of them (ids may be
 * NULL when ids_max is 0). */
MUST_USE status tokenizer_encode(const tokenizer *t, str text, bool add_special, bool parse_special,
                                 int32_t *ids, size_t ids_max, size_t *count, diag *d);

/* The bytes a token stands for; not always whole UTF-8 characters (see detok.h). Empty for an id
 * outside the vocabulary. */
str tokenizer_piece(const tokenizer *t, int32_t id);

/* The token whose text in the model file is `text` ("<|im_end|>"), or -1. */
int32_t tokenizer_find(const tokenizer *t, str text);

int32_t tokenizer_vocab_count(const tokenizer *t);

/* The longest piece: a text of n bytes has at least n / this many tokens. */
size_t tokenizer_piece_bytes_max(const tokenizer *t);

/* Ids the model file names, -1 where it names none. */
int32_t tokenizer_bos(const tokenizer *t);
int32_t tokenizer_eos(const tokenizer *t);
int32_t tokenizer_pad(const tokenizer *t);

/* What add_special does for this model. */
bool tokenizer_adds_bos(const tokenizer *t);
bool tokenizer_adds_eos(const tokenizer *t);

/* Control tokens: never part of what a user reads. */
bool tokenizer_is_special(const tokenizer *t, int32_t id);

/* Tokens that end a generation: eos, eot and eom of the model file and well-known texts. */
bool tokenizer_is_eog(const tokenizer *t, int32_t id);

#endif
