/* jinja_string.h -- immutable strings of code points, and the builder that makes them.
 *
 * Purpose    Python's str: indexed and cut by character, stored as UTF-8. A cut shares its bytes
 *            with the whole, and a string that grows by `+` or `~` grows in place while nobody else
 *            has grown it, so a loop that gathers text stays linear.
 * Ownership  The heap's, or for borrowed bytes whoever lent them, for as long as the heap lives.
 * Threads    See jinja_value.h.
 * Limits     The heap's.
 */
#ifndef MODELS_TEXT_JINJA_STRING_H
#define MODELS_TEXT_JINJA_STRING_H

#include "engine/base/str.h"
#include "models/text/jinja_value.h"

/* Room behind a string's bytes that the next one to grow may take. */
typedef struct {
    char *end; /* of what is taken */
    size_t left_bytes;
} jinja_room;

struct jinja_string {
    const char *data; /* [bytes] UTF-8, not terminated */
    size_t bytes;
    size_t chars;     /* == bytes when all are ASCII */
    jinja_room *room; /* NULL: none */
    bool markup;      /* marked by `safe` or `escape`: + escapes its other side */
};

typedef struct {
    jinja_heap *h;
    char *data;
    size_t bytes, capacity;
} jinja_builder;

size_t jinja_string_count(const char *data, size_t bytes);

/* Charges for work on each character of `s`: little for ASCII, more for what needs tables. */
void jinja_string_charge(jinja_heap *h, const jinja_string *s);

/* Charges for a search of `needle` in `text`. */
void jinja_string_charge_search(jinja_heap *h, size_t text_bytes, size_t needle_bytes);

/* The bytes stay where they are. */
jinja_value jinja_string_borrow(jinja_heap *h, const char *data, size_t bytes);
jinja_value jinja_string_copy(jinja_heap *h, const char *data, size_t bytes);
jinja_value jinja_string_from(jinja_heap *h, const char *zero_terminated);

/* The same text as plain or marked string. */
jinja_value jinja_string_marked(jinja_heap *h, jinja_value s, bool markup);

static inline str jinja_string_str(jinja_value v) {
    return (str){v.as.string->data, v.as.string->bytes};
}

bool jinja_string_is(jinja_value v, const char *zero_terminated);

/* The part of `s` in bytes; shares the bytes, keeps the mark. */
jinja_value jinja_string_part(jinja_heap *h, const jinja_string *s, size_t from, size_t to);

/* The byte offset of a character offset, which is at most s->chars. */
size_t jinja_string_offset(jinja_heap *h, const jinja_string *s, size_t chars);

/* s[start:stop] by characters, 0 <= start <= stop <= chars. */
jinja_value jinja_string_cut(jinja_heap *h, const jinja_string *s, size_t start, size_t stop);

/* a + b without escaping; the result is plain unless `markup`. */
jinja_value jinja_string_concat(jinja_heap *h, const jinja_string *a, const jinja_string *b,
                                bool markup);
jinja_value jinja_string_repeat(jinja_heap *h, const jinja_string *s, int64_t times);

/* &<>"' as entities, marked. */
jinja_value jinja_string_escape(jinja_heap *h, const jinja_string *s);

jinja_builder jinja_string_builder(jinja_heap *h);
void jinja_string_put(jinja_builder *b, const char *data, size_t bytes);
void jinja_string_put_z(jinja_builder *b, const char *zero_terminated);
void jinja_string_put_string(jinja_builder *b, const jinja_string *s);
void jinja_string_put_char(jinja_builder *b, uint32_t code_point);
void jinja_string_put_times(jinja_builder *b, uint32_t code_point, int64_t times);

/* What was built; the builder is spent. */
jinja_value jinja_string_built(jinja_builder *b);

#endif
