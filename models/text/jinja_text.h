/* jinja_text.h -- what str methods and text filters do.
 *
 * Purpose    Case, stripping, replacing, splitting, padding: by code points, as Python.
 * Ownership  The heap's; parts share the bytes of their whole.
 * Threads    See jinja_value.h.
 * Limits     The heap's.
 */
#ifndef MODELS_TEXT_JINJA_TEXT_H
#define MODELS_TEXT_JINJA_TEXT_H

#include "models/text/jinja_string.h"

typedef enum {
    JINJA_TEXT_LOWER,
    JINJA_TEXT_UPPER,
    JINJA_TEXT_CAPITALIZE,
    JINJA_TEXT_TITLE,
    JINJA_TEXT_SWAP
} jinja_text_casing;

jinja_value jinja_text_case(jinja_heap *h, const jinja_string *s, jinja_text_casing how);

/* Takes off the characters of `chars`, or white space when it is NULL. */
jinja_value jinja_text_strip(jinja_heap *h, const jinja_string *s, const jinja_string *chars,
                             bool left, bool right);

/* At most `times` times, all when negative. */
jinja_value jinja_text_replace(jinja_heap *h, const jinja_string *s, const jinja_string *from,
                               const jinja_string *to, int64_t times);

/* `separator` NULL: runs of white space. At most `times` cuts, all when negative. */
jinja_list *jinja_text_split(jinja_heap *h, const jinja_string *s, const jinja_string *separator,
                             int64_t times);
jinja_list *jinja_text_split_right(jinja_heap *h, const jinja_string *s,
                                   const jinja_string *separator, int64_t times);
jinja_list *jinja_text_lines(jinja_heap *h, const jinja_string *s, bool keep_ends);

/* Fills up to `width` characters: '<' on the right, '>' on the left, '^' on both sides. */
jinja_value jinja_text_pad(jinja_heap *h, const jinja_string *s, int64_t width, uint32_t fill,
                           char align);

/* The byte offset of the last occurrence that ends at or before `to`, or SIZE_MAX. */
size_t jinja_text_find_last(jinja_heap *h, str s, str needle, size_t to);

/* The strings of `items` (each str()-ed) with `glue` between. */
jinja_value jinja_text_join(jinja_heap *h, const jinja_string *glue, jinja_value items,
                            bool strings_only);

#endif
