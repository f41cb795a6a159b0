/* jinja_print.h -- str() and repr() of values.
 *
 * Purpose    What `{{ value }}` prints, as Python prints it.
 * Ownership  None.
 * Threads    See jinja_value.h.
 * Limits     The heap's steps, bytes and depth.
 */
#ifndef MODELS_TEXT_JINJA_PRINT_H
#define MODELS_TEXT_JINJA_PRINT_H

#include "models/text/jinja_string.h"

enum {
    JINJA_PRINT_FLOAT_BYTES = 40,
    JINJA_PRINT_FLOAT_STEPS = 128 /* what printing or reading one costs */
};

void jinja_print_str(jinja_builder *b, jinja_value v);
void jinja_print_repr(jinja_builder *b, jinja_value v);

/* str(v) as a plain string value; a string that is plain already is returned as it is. */
jinja_value jinja_print_to_string(jinja_heap *h, jinja_value v);

/* As jinja_print_to_string, but a marked string stays one. */
jinja_value jinja_print_soft(jinja_heap *h, jinja_value v);

/* repr of a float: the shortest digits that read back the same. Returns the bytes. */
size_t jinja_print_float(double f, char out[JINJA_PRINT_FLOAT_BYTES]);

#endif
