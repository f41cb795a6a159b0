/* pretok.h -- splits text into the pieces that BPE merges never cross.
 *
 * Purpose    Each model family cuts text by its own regular expression before merging. This holds
 *            the known ones by the name a model file gives (tokenizer.ggml.pre).
 * Ownership  pretok_open / pretok_close hold the compiled expression; pretok_start / pretok_stop
 *            the match memory of one run. Pieces point into the text.
 * Threads    A pretok never changes after open: share it. A pretok_run belongs to one thread.
 * Limits     The text must be valid UTF-8. Time is linear in the text for every expression here.
 */
#ifndef MODELS_TEXT_PRETOK_H
#define MODELS_TEXT_PRETOK_H

#include <stdbool.h>
#include <stddef.h>

#include "engine/base/status.h"
#include "engine/base/str.h"

typedef struct pretok pretok;

typedef struct {
    const pretok *p;
    void *match;
    void *limits;
    str text;
    size_t at;    /* bytes already given out */
    size_t found; /* end of the match that lies ahead of `at`, when text before it did not match */
} pretok_run;

typedef enum { PRETOK_PIECE, PRETOK_END, PRETOK_FAILED } pretok_result;

/* STATUS_UNSUPPORTED, naming it, for a pre-tokenizer that is not known. */
MUST_USE status pretok_open(str name, pretok **out, diag *d);
void pretok_close(pretok *p);

/* Properties of the family that do not show in the expression. */
bool pretok_whole_words(const pretok *p); /* a word that is a token is never merged from parts */
bool pretok_adds_bos(const pretok *p);    /* where the model file does not say */

MUST_USE status pretok_start(const pretok *p, pretok_run *run, diag *d);
void pretok_stop(pretok_run *run);

/* Gives the run a new text, from its first byte. */
void pretok_text(pretok_run *run, str text);

/* The next piece; every byte of the text is in exactly one. PRETOK_FAILED: the expression engine
 * ran into its own limits. */
MUST_USE pretok_result pretok_next(pretok_run *run, str *piece);

#endif
