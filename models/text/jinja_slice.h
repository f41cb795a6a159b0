/* jinja_slice.h -- sequence[start:stop:step].
 *
 * Purpose    Python's slices of strings, lists, tuples and ranges.
 * Ownership  The heap's.
 * Threads    See jinja_value.h.
 * Limits     The heap's.
 */
#ifndef MODELS_TEXT_JINJA_SLICE_H
#define MODELS_TEXT_JINJA_SLICE_H

#include "models/text/jinja_value.h"

/* Bounds and step are integers or None. */
jinja_value jinja_slice(jinja_heap *h, jinja_value of, jinja_value start, jinja_value stop,
                        jinja_value step);

#endif
