/* jinja_exec.h -- statements.
 *
 * Purpose    Runs a body: text and values to the output, assignments, loops, macros.
 * Ownership  The heap's.
 * Threads    One thread.
 * Limits     Depth and steps of the heap.
 */
#ifndef MODELS_TEXT_JINJA_EXEC_H
#define MODELS_TEXT_JINJA_EXEC_H

#include "models/text/jinja_vm.h"

/* How a statement ended. */
typedef enum { JINJA_EXEC_ON, JINJA_EXEC_BREAK, JINJA_EXEC_CONTINUE } jinja_exec_end;

jinja_exec_end jinja_exec(jinja_vm *vm, const jinja_node *node);

/* A macro's text. */
jinja_value jinja_exec_macro(jinja_vm *vm, const jinja_macro *macro, const jinja_args *args);

/* loop(items): the body of a recursive loop once more, as text. */
jinja_value jinja_exec_again(jinja_vm *vm, const jinja_loop *loop, jinja_value over);

#endif
