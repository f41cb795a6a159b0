/* jinja_vm.h -- one render: its variables, its output, its clock.
 *
 * Purpose    What evaluation (jinja_eval.c), statements (jinja_exec.c) and built-ins share.
 * Ownership  Lives on the stack of the render; points into its heap, the parsed template and the
 *            caller's buffer.
 * Threads    One thread.
 * Limits     See jinja.h.
 */
#ifndef MODELS_TEXT_JINJA_VM_H
#define MODELS_TEXT_JINJA_VM_H

#include "models/text/jinja_ast.h"
#include "models/text/jinja_builtin.h"
#include "models/text/jinja_string.h"

typedef struct {
    int32_t symbol;
    jinja_value value;
} jinja_slot;

/* Variables of a loop's turn, a macro's call, a block. The template's top has none: its variables
 * are jinja_vm.globals. */
struct jinja_scope {
    jinja_scope *parent; /* NULL: the top */
    jinja_slot *slots;   /* [capacity] */
    int32_t count, capacity;
    bool kept; /* a macro defined in it may read it later: it can't be used again */
};

struct jinja_vm {
    jinja_heap *h;
    const jinja_ast *ast;
    jinja_value *globals; /* [ast->symbols->count] */
    jinja_scope *scope;
    jinja_builder *capture; /* where text goes; NULL: to `out` */
    strbuf *out;
    size_t out_start_bytes; /* of `out` before the render */
    size_t out_bytes_max;
    int64_t wall_us;
};

jinja_scope *jinja_vm_scope(jinja_vm *vm, jinja_scope *parent);
void jinja_vm_set(jinja_vm *vm, int32_t symbol, jinja_value value);
void jinja_vm_set_in(jinja_vm *vm, jinja_scope *scope, int32_t symbol, jinja_value value);

/* ABSENT when there is no such variable. */
jinja_value jinja_vm_get(const jinja_vm *vm, int32_t symbol);

void jinja_vm_emit(jinja_vm *vm, const char *data, size_t bytes);

#endif
