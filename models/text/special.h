/* special.h -- finds control and user-defined tokens written out in text.
 *
 * Purpose    Such tokens are cut out of the text before it is split and merged: the first that
 *            begins, and of those the longest. Private to models/text: use tokenizer.h.
 * Ownership  special_open builds a tree of its own; special_close frees it.
 * Threads    Open and close from one thread; otherwise pure reads.
 * Limits     Those of the vocabulary.
 */
#ifndef MODELS_TEXT_SPECIAL_H
#define MODELS_TEXT_SPECIAL_H

#include <stdbool.h>
#include <stdint.h>

#include "models/text/vocab.h"

/* A node of a byte tree; children are a list. */
typedef struct {
    uint32_t child; /* 0: none */
    uint32_t sibling;
    int32_t id; /* the token that ends here, -1: none */
    uint8_t byte;
    bool control;
} special_node;

typedef struct {
    special_node *nodes; /* [nodes_count]; 0 is not a node */
    uint32_t nodes_count;
    uint32_t roots[256]; /* by first byte, 0: no token begins so */
} special;

MUST_USE status special_open(const vocab *v, special *out, diag *d);
void special_close(special *s);

/* The first token written in `text` at or after byte `from`: its id, with *at and *bytes set, or
 * -1. Control tokens count only when `control` is true. */
int32_t special_find(const special *s, str text, size_t from, bool control, size_t *at,
                     size_t *bytes);

#endif
