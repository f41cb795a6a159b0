/* jinja_filter_pick.c -- map, select and their kin. */
#include "models/text/jinja_attribute.h"

static const jinja_builtin *named_builtin(jinja_vm *vm, jinja_value name, const char *what,
                                          const jinja_builtin *(*find)(str)) {
    const jinja_builtin *found = name.type == JINJA_STRING ? find(jinja_string_str(name)) : NULL;
    if (!found) {
        jinja_heap_fail(vm->h, STATUS_INVALID, "no %s of that name", what);
    }
    return found;
}

/* The arguments from `from` on. */
static jinja_args rest_of(const jinja_args *args, size_t from) {
    jinja_args rest = *args;
    size_t skip = from < args->count ? from : args->count;
    rest.items = skip ? args->items + skip : args->items;
    rest.count -= skip;
    return rest;
}

/* map(attribute=..., default=...): the path, checked. */
static jinja_attribute map_attribute(jinja_vm *vm, const jinja_args *args) {
    jinja_value path = jinja_value_absent(), missing = jinja_value_absent();
    for (size_t i = 0; i < args->named_count; i++) {
        if (jinja_string_is(args->names[i], "attribute")) {
            path = args->named[i];
        } else if (jinja_string_is(args->names[i], "default")) {
            missing = args->named[i];
        } else {
            jinja_heap_fail(vm->h, STATUS_INVALID, "map() got an unexpected keyword argument");
        }
    }
    if (path.type == JINJA_ABSENT) {
        jinja_heap_fail(vm->h, STATUS_INVALID, "map requires a filter argument");
    }
    jinja_attribute attribute = jinja_attribute_read(vm, path);
    attribute.missing = missing.type == JINJA_NONE ? jinja_value_absent() : missing;
    return attribute;
}

JINJA_BUILTIN(filter_map) {
    jinja_list *out = jinja_value_list_make(vm->h, 0);
    if (!jinja_value_truth(self)) {
        return jinja_value_iterator(vm->h, out);
    }
    jinja_walk walk = jinja_value_need_walk(vm->h, self);
    jinja_value item;
    jinja_heap_enter(vm->h);
    if (args->count == 0) {
        jinja_attribute attribute = map_attribute(vm, args);
        while (jinja_value_next(vm->h, &walk, &item)) {
            jinja_value_list_push(vm->h, out, jinja_attribute_of(vm, &attribute, item));
        }
    } else {
        const jinja_builtin *filter =
            named_builtin(vm, args->items[0], "filter", jinja_builtin_filter);
        jinja_args rest = rest_of(args, 1);
        while (jinja_value_next(vm->h, &walk, &item)) {
            jinja_heap_charge(vm->h, 4);
            jinja_value_list_push(vm->h, out, jinja_builtin_apply(vm, filter, item, &rest));
        }
    }
    jinja_heap_leave(vm->h);
    return jinja_value_iterator(vm->h, out);
}

static jinja_value pick(jinja_vm *vm, jinja_value self, const jinja_args *args, bool by_attribute,
                        bool keep) {
    jinja_list *out = jinja_value_list_make(vm->h, 0);
    if (!jinja_value_truth(self)) {
        return jinja_value_iterator(vm->h, out);
    }
    if (by_attribute && args->count == 0) {
        jinja_heap_fail(vm->h, STATUS_INVALID, "missing parameter for attribute name");
    }
    jinja_attribute attribute =
        jinja_attribute_read(vm, by_attribute ? args->items[0] : jinja_value_none());
    const jinja_builtin *test = NULL;
    if (args->count > by_attribute) {
        test = named_builtin(vm, args->items[by_attribute], "test", jinja_builtin_test);
    }
    jinja_args rest = rest_of(args, 1 + (size_t)by_attribute);
    jinja_walk walk = jinja_value_need_walk(vm->h, self);
    jinja_value item;
    while (jinja_value_next(vm->h, &walk, &item)) {
        jinja_heap_charge(vm->h, 4);
        jinja_value v = jinja_attribute_of(vm, &attribute, item);
        v = test ? jinja_builtin_apply(vm, test, v, &rest) : v;
        if (jinja_value_truth(v) == keep) {
            jinja_value_list_push(vm->h, out, item);
        }
    }
    return jinja_value_iterator(vm->h, out);
}

JINJA_BUILTIN(filter_select) {
    return pick(vm, self, args, false, true);
}

JINJA_BUILTIN(filter_reject) {
    return pick(vm, self, args, false, false);
}

JINJA_BUILTIN(filter_selectattr) {
    return pick(vm, self, args, true, true);
}

JINJA_BUILTIN(filter_rejectattr) {
    return pick(vm, self, args, true, false);
}

static const jinja_builtin rows[] = {
    {"map", "*", filter_map},
    {"reject", "*", filter_reject},
    {"rejectattr", "*", filter_rejectattr},
    {"select", "*", filter_select},
    {"selectattr", "*", filter_selectattr},
};

const jinja_builtin_table jinja_filter_pick_table = JINJA_BUILTIN_TABLE(rows);
