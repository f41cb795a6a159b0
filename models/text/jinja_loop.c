/* jinja_loop.c -- a running `for`. */
#include "models/text/jinja_loop.h"

#include "models/text/jinja_compare.h"
#include "models/text/jinja_eval.h"

jinja_loop *jinja_loop_make(jinja_vm *vm, const jinja_node *node, jinja_value over,
                            int32_t depth0) {
    jinja_loop *loop = JINJA_TAKE(vm->h, 1, jinja_loop);
    *loop = (jinja_loop){.node = node,
                         .outer = vm->scope,
                         .walk = jinja_value_need_walk(vm->h, over),
                         .index0 = -1,
                         .length = node->items[0] ? -1 : jinja_value_length(over),
                         .depth0 = depth0};
    return loop;
}

static bool passes(jinja_vm *vm, jinja_loop *loop, jinja_value item) {
    if (!loop->node->items[0]) {
        return true;
    }
    jinja_scope *back = vm->scope;
    vm->scope = jinja_vm_scope(vm, loop->outer);
    jinja_eval_assign(vm, loop->node->left, item);
    bool passed = jinja_value_truth(jinja_eval(vm, loop->node->items[0]));
    vm->scope = back;
    return passed;
}

static bool fetch(jinja_vm *vm, jinja_loop *loop, jinja_value *item) {
    while (jinja_value_next(vm->h, &loop->walk, item)) {
        if (passes(vm, loop, *item)) {
            return true;
        }
    }
    return false;
}

static bool take(jinja_vm *vm, jinja_loop *loop, jinja_value *item) {
    if (!loop->pending) {
        return fetch(vm, loop, item);
    }
    if (loop->pending_at == loop->pending->count) {
        return false;
    }
    *item = loop->pending->items[loop->pending_at++];
    return true;
}

static jinja_value peek(jinja_vm *vm, jinja_loop *loop) {
    if (loop->after.type == JINJA_ABSENT && !take(vm, loop, &loop->after)) {
        loop->after = jinja_value_absent();
    }
    return loop->after;
}

bool jinja_loop_next(jinja_vm *vm, jinja_loop *loop, jinja_value *item) {
    *item = loop->after;
    loop->after = jinja_value_absent();
    if (item->type == JINJA_ABSENT && !take(vm, loop, item)) {
        return false;
    }
    loop->index0++;
    loop->before = loop->current;
    loop->current = *item;
    return true;
}

static int64_t length_of(jinja_vm *vm, jinja_loop *loop) {
    if (loop->length < 0) {
        jinja_list *rest = jinja_value_list_make(vm->h, 0);
        jinja_value item;
        while (fetch(vm, loop, &item)) {
            jinja_value_list_push(vm->h, rest, item);
        }
        loop->pending = rest;
        loop->length = (int64_t)rest->count + loop->index0 + 1 + (loop->after.type != JINJA_ABSENT);
    }
    return loop->length;
}

static jinja_value or_undefined(jinja_value v) {
    return v.type == JINJA_ABSENT ? jinja_value_undefined(NULL) : v;
}

jinja_value jinja_loop_attribute(jinja_vm *vm, jinja_loop *loop, str name) {
    if (str_equal_z(name, "index0")) {
        return jinja_value_int(loop->index0);
    }
    if (str_equal_z(name, "index")) {
        return jinja_value_int(loop->index0 + 1);
    }
    if (str_equal_z(name, "first")) {
        return jinja_value_bool(loop->index0 == 0);
    }
    if (str_equal_z(name, "last")) {
        return jinja_value_bool(peek(vm, loop).type == JINJA_ABSENT);
    }
    if (str_equal_z(name, "length")) {
        return jinja_value_int(length_of(vm, loop));
    }
    if (str_equal_z(name, "previtem")) {
        return or_undefined(loop->index0 == 0 ? jinja_value_absent() : loop->before);
    }
    if (str_equal_z(name, "nextitem")) {
        return or_undefined(peek(vm, loop));
    }
    if (str_equal_z(name, "revindex")) {
        return jinja_value_int(length_of(vm, loop) - loop->index0);
    }
    if (str_equal_z(name, "revindex0")) {
        return jinja_value_int(length_of(vm, loop) - loop->index0 - 1);
    }
    if (str_equal_z(name, "depth")) {
        return jinja_value_int(loop->depth0 + 1);
    }
    if (str_equal_z(name, "depth0")) {
        return jinja_value_int(loop->depth0);
    }
    return jinja_value_absent();
}

JINJA_BUILTIN(loop_cycle) {
    const jinja_loop *loop = self.as.loop;
    if (args->count == 0 || args->named_count) {
        jinja_heap_fail(vm->h, STATUS_INVALID, "loop.cycle() needs items");
    }
    size_t turn = loop->index0 > 0 ? (size_t)loop->index0 : 0;
    return args->items[turn % args->count];
}

JINJA_BUILTIN(loop_changed) {
    jinja_loop *loop = self.as.loop;
    jinja_list *now = jinja_value_list_make(vm->h, args->count);
    for (size_t i = 0; i < args->count; i++) {
        jinja_value_list_push(vm->h, now, args->items[i]);
    }
    jinja_value value = jinja_value_tuple(now);
    bool changed = !jinja_compare_equal(vm->h, loop->changed, value);
    loop->changed = value;
    return jinja_value_bool(changed);
}

static const jinja_builtin rows[] = {{"cycle", "*", loop_cycle}, {"changed", "*", loop_changed}};

const jinja_builtin_table jinja_loop_table = JINJA_BUILTIN_TABLE(rows);
