/* jinja_spec.h -- one value under a format specification.
 *
 * Purpose    What both kinds of formatting share: sign, padding, digits, grouping.
 * Ownership  None.
 * Threads    One thread.
 * Limits     See jinja_format.h.
 */
#ifndef MODELS_TEXT_JINJA_SPEC_H
#define MODELS_TEXT_JINJA_SPEC_H

#include "models/text/jinja_string.h"

typedef struct {
    uint32_t fill;  /* 0: not given */
    char align;     /* '<' '>' '^' '=', 0: the type's */
    char sign;      /* '-' '+' ' ', 0: '-' */
    char group;     /* ',' '_', 0: none */
    char type;      /* 0: the value's */
    bool alternate; /* # */
    int64_t width;
    int64_t precision; /* -1: not given */
} jinja_spec;

/* Reads a specification of str.format; fails when it is none. */
jinja_spec jinja_spec_read(jinja_heap *h, str text);

/* format(v, spec) */
void jinja_spec_put(jinja_builder *b, jinja_value v, const jinja_spec *spec);

/* `text` padded to the width; `left`: where no alignment is given. */
void jinja_spec_pad(jinja_builder *b, const jinja_spec *spec, str text, bool left);

#endif
