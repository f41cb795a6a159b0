/* jinja_eval.h -- the value of an expression.
 *
 * Purpose    Walks the tree; Python's meaning of operators, attributes, items, slices, calls.
 * Ownership  The heap's.
 * Threads    One thread.
 * Limits     Depth and steps of the heap.
 */
#ifndef MODELS_TEXT_JINJA_EVAL_H
#define MODELS_TEXT_JINJA_EVAL_H

#include "models/text/jinja_vm.h"

jinja_value jinja_eval(jinja_vm *vm, const jinja_node *node);

/* Gives a value to a name, a tuple of targets or space.name. */
void jinja_eval_assign(jinja_vm *vm, const jinja_node *target, jinja_value value);

/* object.name and object[key]; undefined where there is none. */
jinja_value jinja_eval_attribute(jinja_vm *vm, jinja_value object, jinja_value name);
jinja_value jinja_eval_item(jinja_vm *vm, jinja_value object, jinja_value key);

jinja_value jinja_eval_call(jinja_vm *vm, jinja_value callee, const jinja_args *args);

/* Evaluates arguments; `extra_name`, if not ABSENT, is one more named one. */
jinja_args jinja_eval_arguments(jinja_vm *vm, const jinja_arguments *written,
                                jinja_value extra_name, jinja_value extra);

/* `a op b`, arithmetic. */
jinja_value jinja_eval_binary(jinja_vm *vm, jinja_op op, jinja_value a, jinja_value b);

/* value|filter(args): `node` is a JINJA_FILTER, whose left is not looked at. */
jinja_value jinja_eval_filter(jinja_vm *vm, const jinja_node *node, jinja_value value);

#endif
