/* fallback.h -- the vocabularies of Llama 1 and 2, Mistral and their kin.
 *
 * Purpose    Such vocabularies hold text, not bytes: a blank is written U+2581, a character that
 *            has no token becomes its bytes (<0x00> to <0xFF>), and whole stretches of text are
 *            merged without being cut into words. Private to models/text: use tokenizer.h.
 * Ownership  fallback_symbols writes to the caller's array.
 * Threads    Pure functions of an opened vocabulary.
 * Limits     Those of the vocabulary.
 * Source     Kudo, Richardson, "SentencePiece" (EMNLP 2018), its BPE model with byte fallback.
 */
#ifndef MODELS_TEXT_FALLBACK_H
#define MODELS_TEXT_FALLBACK_H

#include <stdbool.h>

#include "engine/base/str.h"
#include "models/text/bpe.h"
#include "models/text/vocab.h"

/* U+2581, which stands for a blank. */
#define FALLBACK_BLANK "\xE2\x96\x81"
enum { FALLBACK_BLANK_BYTES = 3 };

/* Where a blank is put before text that has none. */
typedef enum {
    FALLBACK_NEVER,
    FALLBACK_FIRST,   /* before a text's first stretch, unless it begins with one */
    FALLBACK_ALWAYS,  /* before each stretch, unless it begins with one */
    FALLBACK_SEGMENT, /* before each stretch */
    FALLBACK_PREFIXES
} fallback_prefix;

/* "never", "first", "always", "segment": false for anything else. */
bool fallback_prefix_from(str name, fallback_prefix *out);

/* Appends `text` with its blanks as U+2581; `first`: the text begins at the whole text's start. */
MUST_USE bool fallback_write(str text, fallback_prefix prefix, bool first, strbuf *out);

/* The bytes of the first word of `text`, as fallback_write made it: up to the next U+2581 after the
 * first character. */
size_t fallback_word(str text);

/* One symbol a character that has a token, else one a byte, else the unknown token, once in a row.
 * `text` is valid UTF-8; symbols: [text.bytes]. Returns how many there are. */
size_t fallback_symbols(const vocab *v, int32_t unknown, str text, int32_t *symbols);

/* Merges for a file that has scores instead of merges: each way of making a token of two others,
 * better scores first. `scores`: [v->count]. */
MUST_USE status fallback_merges(const vocab *v, const float *scores, bpe **out, diag *d);

#endif
