/* jinja_attribute.h -- "a.b.0" as filters take it.
 *
 * Purpose    map(attribute=...), selectattr, sort(attribute=...) and others follow a path of names
 *            and numbers into each item.
 * Ownership  The heap's.
 * Threads    One thread.
 * Limits     The heap's.
 */
#ifndef MODELS_TEXT_JINJA_ATTRIBUTE_H
#define MODELS_TEXT_JINJA_ATTRIBUTE_H

#include "models/text/jinja_vm.h"

typedef struct {
    jinja_list *parts;   /* strings and integers */
    jinja_value missing; /* instead of an undefined part; ABSENT: none */
} jinja_attribute;

/* A path from a string, an integer or None (the item itself). */
jinja_attribute jinja_attribute_read(jinja_vm *vm, jinja_value path);
jinja_value jinja_attribute_of(jinja_vm *vm, const jinja_attribute *attribute, jinja_value item);

#endif
