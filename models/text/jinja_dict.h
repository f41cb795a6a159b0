/* jinja_dict.h -- dicts that keep the order of their keys.
 *
 * Purpose    Python's dict: keys are strings, numbers, None, or tuples of those; 1, 1.0 and True
 *            are one key. Entries lie in order; beyond a few, an open-addressed index finds them.
 * Ownership  The heap's.
 * Threads    See jinja_value.h.
 * Limits     The heap's.
 */
#ifndef MODELS_TEXT_JINJA_DICT_H
#define MODELS_TEXT_JINJA_DICT_H

#include "models/text/jinja_value.h"

typedef struct {
    jinja_value key, value;
    uint64_t hash;
} jinja_entry;

struct jinja_dict {
    jinja_entry *entries; /* [capacity], in order */
    size_t count, capacity;
    uint32_t *index; /* [index_slots] entry + 1, 0 for none; NULL while small */
    size_t index_slots;
};

jinja_dict *jinja_dict_make(jinja_heap *h);

/* NULL when it has no such key. Fails for a key that can't be one (a list). */
const jinja_value *jinja_dict_find(jinja_heap *h, const jinja_dict *d, jinja_value key);

/* By a string key; never fails, needs no heap. */
const jinja_value *jinja_dict_find_bytes(const jinja_dict *d, const char *key, size_t bytes);

void jinja_dict_set(jinja_heap *h, jinja_dict *d, jinja_value key, jinja_value value);

/* False when it has no such key. */
bool jinja_dict_remove(jinja_heap *h, jinja_dict *d, jinja_value key);
jinja_dict *jinja_dict_copy(jinja_heap *h, const jinja_dict *d);

#endif
