/* jinja_exec.c -- statements. */
#include "models/text/jinja_exec.h"

#include "engine/base/check.h"
#include "models/text/jinja_compare.h"
#include "models/text/jinja_dict.h"
#include "models/text/jinja_eval.h"
#include "models/text/jinja_loop.h"
#include "models/text/jinja_print.h"

static void output(jinja_vm *vm, jinja_value v) {
    if (v.type == JINJA_STRING) {
        jinja_vm_emit(vm, v.as.string->data, v.as.string->bytes);
    } else if (v.type != JINJA_UNDEFINED) {
        jinja_builder b = jinja_string_builder(vm->h);
        jinja_print_repr(&b, v);
        jinja_vm_emit(vm, b.data, b.bytes);
    }
}

static jinja_exec_end exec_body(jinja_vm *vm, const jinja_node *node) {
    for (int32_t i = 0; i < node->count; i++) {
        jinja_exec_end end = jinja_exec(vm, node->items[i]);
        if (end != JINJA_EXEC_ON) {
            return end;
        }
    }
    return JINJA_EXEC_ON;
}

/* A body in a scope of its own. */
static jinja_exec_end exec_inner(jinja_vm *vm, const jinja_node *body) {
    jinja_scope *outer = vm->scope;
    vm->scope = jinja_vm_scope(vm, outer);
    jinja_exec_end end = jinja_exec(vm, body);
    vm->scope = outer;
    return end;
}

/* A body's text, in a scope of its own. */
static jinja_exec_end exec_text(jinja_vm *vm, const jinja_node *body, jinja_value *out) {
    jinja_builder text = jinja_string_builder(vm->h), *outer = vm->capture;
    vm->capture = &text;
    jinja_exec_end end = exec_inner(vm, body);
    vm->capture = outer;
    *out = jinja_string_built(&text);
    return end;
}

/* The text of a block through its chain of filters, whose innermost has no left. */
static jinja_value filter_text(jinja_vm *vm, const jinja_node *filter, jinja_value text) {
    if (!filter) {
        return text;
    }
    jinja_heap_enter(vm->h);
    jinja_value inner = filter_text(vm, filter->left, text);
    jinja_heap_leave(vm->h);
    return jinja_eval_filter(vm, filter, inner);
}

/* A block whose text is assigned or printed; a loop left from inside it does neither. */
static jinja_exec_end exec_text_block(jinja_vm *vm, const jinja_node *node) {
    jinja_value text;
    jinja_exec_end end = exec_text(vm, node->third, &text);
    if (end == JINJA_EXEC_ON && node->kind == JINJA_SET_BLOCK) {
        jinja_eval_assign(vm, node->left, filter_text(vm, node->right, text));
    } else if (end == JINJA_EXEC_ON) {
        output(vm, filter_text(vm, node->left, text));
    }
    return end;
}

static jinja_exec_end exec_if(jinja_vm *vm, const jinja_node *node) {
    for (; node; node = node->third) {
        if (node->kind != JINJA_IF) {
            return jinja_exec(vm, node);
        }
        if (jinja_value_truth(jinja_eval(vm, node->left))) {
            return jinja_exec(vm, node->right);
        }
    }
    return JINJA_EXEC_ON;
}

static void run_loop(jinja_vm *vm, const jinja_node *node, jinja_value over, int32_t depth0) {
    jinja_loop *loop = jinja_loop_make(vm, node, over, depth0);
    jinja_value self = {.type = JINJA_LOOP, .as.loop = loop}, item;
    jinja_scope *outer = vm->scope, *turn = NULL;
    jinja_exec_end end = JINJA_EXEC_ON;
    bool completed = false; /* a turn: `break` and `continue` leave it before it counts */
    while (end != JINJA_EXEC_BREAK && jinja_loop_next(vm, loop, &item)) {
        if (!turn || turn->kept) {
            turn = jinja_vm_scope(vm, outer);
        }
        turn->count = 0;
        vm->scope = turn;
        jinja_vm_set(vm, vm->ast->loop, self);
        jinja_eval_assign(vm, node->left, item);
        end = jinja_exec(vm, node->third);
        completed = completed || end == JINJA_EXEC_ON;
        vm->scope = outer;
    }
    if (!completed && node->items[1]) {
        exec_inner(vm, node->items[1]);
    }
}

jinja_value jinja_exec_again(jinja_vm *vm, const jinja_loop *loop, jinja_value over) {
    if (!loop->node->flag) {
        jinja_heap_fail(vm->h, STATUS_INVALID, "the loop must be marked 'recursive' to be called");
    }
    jinja_scope *scope = vm->scope;
    jinja_builder text = jinja_string_builder(vm->h), *outer = vm->capture;
    jinja_heap_enter(vm->h);
    vm->scope = loop->outer;
    vm->capture = &text;
    run_loop(vm, loop->node, over, loop->depth0 + 1);
    vm->capture = outer;
    vm->scope = scope;
    jinja_heap_leave(vm->h);
    return jinja_string_built(&text);
}

/* Whoever is defined in a scope keeps it and those around it. */
static jinja_value make_macro(jinja_vm *vm, const jinja_macro_def *def) {
    jinja_macro *macro = JINJA_TAKE(vm->h, 1, jinja_macro);
    *macro = (jinja_macro){.def = def, .scope = vm->scope};
    for (jinja_scope *scope = vm->scope; scope && !scope->kept; scope = scope->parent) {
        scope->kept = true;
    }
    return (jinja_value){.type = JINJA_MACRO, .as.macro = macro};
}

/* The named argument for a parameter, taken out of `named`; ABSENT if there is none. */
static jinja_value take_named(jinja_vm *vm, jinja_args *rest, jinja_value name) {
    for (size_t i = 0; i < rest->named_count; i++) {
        if (rest->names[i].type != JINJA_ABSENT &&
            jinja_compare_equal(vm->h, rest->names[i], name)) {
            rest->names[i] = jinja_value_absent();
            return rest->named[i];
        }
    }
    return jinja_value_absent();
}

static void bind_rest(jinja_vm *vm, const jinja_macro_def *def, const jinja_args *rest,
                      jinja_scope *scope) {
    jinja_dict *named = jinja_dict_make(vm->h);
    for (size_t i = 0; i < rest->named_count; i++) {
        if (rest->names[i].type == JINJA_ABSENT) {
            continue;
        }
        if (!def->uses_kwargs || jinja_string_is(rest->names[i], "caller")) {
            jinja_heap_fail(vm->h, STATUS_INVALID, "macro '%.*s' takes no keyword argument '%.*s'",
                            (int)def->name.as.string->bytes, def->name.as.string->data,
                            (int)rest->names[i].as.string->bytes, rest->names[i].as.string->data);
        }
        jinja_dict_set(vm->h, named, rest->names[i], rest->named[i]);
    }
    if (def->uses_kwargs) {
        jinja_vm_set_in(vm, scope, vm->ast->kwargs, jinja_value_dict(named));
    }
    size_t taken = (size_t)def->count < rest->count ? (size_t)def->count : rest->count;
    if (def->uses_varargs) {
        jinja_list *more = jinja_value_list_make(vm->h, rest->count - taken);
        for (size_t i = taken; i < rest->count; i++) {
            jinja_value_list_push(vm->h, more, rest->items[i]);
        }
        jinja_vm_set_in(vm, scope, vm->ast->varargs, jinja_value_tuple(more));
    } else if (taken < rest->count) {
        jinja_heap_fail(vm->h, STATUS_INVALID, "macro '%.*s' takes not more than %d argument(s)",
                        (int)def->name.as.string->bytes, def->name.as.string->data,
                        (int)def->count);
    }
}

/* Sets parameters in `scope`; a default is evaluated there, where earlier ones are seen. */
static void bind_parameters(jinja_vm *vm, const jinja_macro_def *def, const jinja_args *args,
                            jinja_scope *scope) {
    jinja_args rest = *args;
    rest.names = jinja_heap_grow(vm->h, args->names, args->named_count, args->named_count,
                                 sizeof(jinja_value));
    jinja_value *given = JINJA_TAKE(vm->h, (size_t)def->count, jinja_value);
    for (int32_t i = 0; i < def->count; i++) {
        given[i] = (size_t)i < args->count ? args->items[i] : take_named(vm, &rest, def->names[i]);
    }
    if (def->uses_caller) {
        jinja_value name = jinja_string_from(vm->h, "caller");
        jinja_value caller = take_named(vm, &rest, name);
        bool none = caller.type == JINJA_ABSENT || caller.type == JINJA_NONE;
        jinja_vm_set_in(vm, scope, vm->ast->caller,
                        none ? jinja_value_undefined(name.as.string) : caller);
    }
    bind_rest(vm, def, &rest, scope);
    for (int32_t i = 0; i < def->count; i++) {
        if (given[i].type == JINJA_ABSENT) {
            given[i] = def->defaults[i] ? jinja_eval(vm, def->defaults[i])
                                        : jinja_value_undefined(def->names[i].as.string);
        }
        jinja_vm_set_in(vm, scope, def->symbols[i], given[i]);
    }
}

jinja_value jinja_exec_macro(jinja_vm *vm, const jinja_macro *macro, const jinja_args *args) {
    jinja_scope *back = vm->scope;
    jinja_builder text = jinja_string_builder(vm->h), *outer = vm->capture;
    jinja_heap_enter(vm->h);
    vm->scope = jinja_vm_scope(vm, macro->scope);
    vm->capture = &text;
    bind_parameters(vm, macro->def, args, vm->scope);
    jinja_exec(vm, macro->def->body);
    vm->capture = outer;
    vm->scope = back;
    jinja_heap_leave(vm->h);
    return jinja_string_built(&text);
}

static void exec_call_block(jinja_vm *vm, const jinja_node *node) {
    const jinja_node *call = node->left;
    jinja_value callee = jinja_eval(vm, call->left);
    jinja_value caller = make_macro(vm, node->macro);
    jinja_args args = jinja_eval_arguments(vm, call->args, node->macro->name, caller);
    output(vm, jinja_eval_call(vm, callee, &args));
}

static jinja_exec_end exec_with(jinja_vm *vm, const jinja_node *node) {
    jinja_scope *outer = vm->scope, *inner = jinja_vm_scope(vm, outer);
    for (int32_t i = 0; i + 1 < node->count; i += 2) {
        jinja_value value = jinja_eval(vm, node->items[i + 1]);
        vm->scope = inner;
        jinja_eval_assign(vm, node->items[i], value);
        vm->scope = outer;
    }
    vm->scope = inner;
    jinja_exec_end end = jinja_exec(vm, node->third);
    vm->scope = outer;
    return end;
}

static jinja_exec_end exec_any(jinja_vm *vm, const jinja_node *node) {
    switch ((jinja_kind)node->kind) {
        case JINJA_BODY:
            return exec_body(vm, node);
        case JINJA_TEXT:
            jinja_vm_emit(vm, node->value.as.string->data, node->value.as.string->bytes);
            break;
        case JINJA_OUTPUT:
            output(vm, jinja_eval(vm, node->left));
            break;
        case JINJA_IF:
            return exec_if(vm, node);
        case JINJA_FOR:
            run_loop(vm, node, jinja_eval(vm, node->right), 0);
            break;
        case JINJA_SET:
            jinja_eval_assign(vm, node->left, jinja_eval(vm, node->right));
            break;
        case JINJA_SET_BLOCK:
        case JINJA_FILTER_BLOCK:
            return exec_text_block(vm, node);
        case JINJA_MACRO_DEF:
            jinja_vm_set(vm, node->macro->symbol, make_macro(vm, node->macro));
            break;
        case JINJA_CALL_BLOCK:
            exec_call_block(vm, node);
            break;
        case JINJA_WITH:
            return exec_with(vm, node);
        case JINJA_SCOPE:
            return exec_inner(vm, node->third);
        case JINJA_DO:
            jinja_eval(vm, node->left);
            break;
        case JINJA_BREAK:
            return JINJA_EXEC_BREAK;
        case JINJA_CONTINUE:
            return JINJA_EXEC_CONTINUE;
        default:
            UNREACHABLE();
    }
    return JINJA_EXEC_ON;
}

jinja_exec_end jinja_exec(jinja_vm *vm, const jinja_node *node) {
    jinja_heap_enter(vm->h);
    jinja_heap_charge(vm->h, 1);
    vm->h->line = node->line;
    jinja_exec_end end = exec_any(vm, node);
    jinja_heap_leave(vm->h);
    return end;
}
