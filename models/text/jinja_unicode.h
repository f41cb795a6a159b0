/* jinja_unicode.h -- what Python's str methods know of one character.
 *
 * Purpose    Classes and case mappings, full mappings included (one character to three).
 * Ownership  None; constant tables.
 * Threads    Pure functions.
 * Limits     The Unicode version is that of jinja_unicode_table.h.
 */
#ifndef MODELS_TEXT_JINJA_UNICODE_H
#define MODELS_TEXT_JINJA_UNICODE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef enum {
    JINJA_UNICODE_ALPHA,
    JINJA_UNICODE_DECIMAL,
    JINJA_UNICODE_DIGIT,
    JINJA_UNICODE_NUMERIC,
    JINJA_UNICODE_SPACE,
    JINJA_UNICODE_PRINTABLE,
    JINJA_UNICODE_LOWER,
    JINJA_UNICODE_UPPER,
    JINJA_UNICODE_TITLE
} jinja_unicode_class;

typedef enum {
    JINJA_UNICODE_TO_LOWER,
    JINJA_UNICODE_TO_UPPER,
    JINJA_UNICODE_TO_TITLE
} jinja_unicode_case;

bool jinja_unicode_is(jinja_unicode_class what, uint32_t c);

/* A letter or digit, as \w without the underscore. */
bool jinja_unicode_alnum(uint32_t c);

/* Has case: upper, lower or title. */
bool jinja_unicode_cased(uint32_t c);

/* Writes the mapping of `c`, returns its characters (1..3). */
size_t jinja_unicode_map(jinja_unicode_case to, uint32_t c, uint32_t out[3]);

/* The character at data[at] of well-formed UTF-8, and moves `at` past it; a byte that is not
 * UTF-8 counts as one character U+FFFD. */
uint32_t jinja_unicode_next(const char *data, size_t bytes, size_t *at);

static inline bool jinja_unicode_space(uint32_t c) {
    return jinja_unicode_is(JINJA_UNICODE_SPACE, c);
}

#endif
