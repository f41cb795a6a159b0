/* jinja_compare.h -- equality, order, membership and hashes, as Python has them.
 *
 * Purpose    ==, <, in; and the stable sort the sorting filters share.
 * Ownership  None.
 * Threads    See jinja_value.h.
 * Limits     The heap's steps and depth.
 */
#ifndef MODELS_TEXT_JINJA_COMPARE_H
#define MODELS_TEXT_JINJA_COMPARE_H

#include "models/text/jinja_value.h"

bool jinja_compare_equal(jinja_heap *h, jinja_value a, jinja_value b);

/* Below, at or above zero; 2 when the two are unordered (a NaN). Fails for types without order;
 * `op` is for the message. */
int jinja_compare_order(jinja_heap *h, jinja_value a, jinja_value b, const char *op);

/* `item in container` */
bool jinja_compare_contains(jinja_heap *h, jinja_value container, jinja_value item);

/* False for a value that can't be a key (list, dict). */
bool jinja_compare_hash(jinja_heap *h, jinja_value v, uint64_t *out);
uint64_t jinja_compare_hash_bytes(const char *data, size_t bytes);

/* Sorts items by keys (both [count]), stable; equal ones keep their order when reversed too. */
void jinja_compare_sort(jinja_heap *h, jinja_value *items, const jinja_value *keys, size_t count,
                        bool reverse);

#endif
