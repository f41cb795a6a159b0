/* jinja_method_dict.h -- filling a dict from a call's arguments.
 *
 * Purpose    dict(...), namespace(...) and dict.update(...) take the same ones: a mapping or pairs,
 *            then keywords.
 * Ownership  The heap's.
 * Threads    One thread.
 * Limits     The heap's.
 */
#ifndef MODELS_TEXT_JINJA_METHOD_DICT_H
#define MODELS_TEXT_JINJA_METHOD_DICT_H

#include "models/text/jinja_dict.h"
#include "models/text/jinja_vm.h"

void jinja_method_dict_fill(jinja_vm *vm, jinja_dict *dict, const jinja_args *args);

#endif
