/* jinja_method_list.c -- methods of lists, tuples and cyclers. */
#include <string.h>

#include "models/text/jinja_compare.h"
#include "models/text/jinja_vm.h"

JINJA_BUILTIN(list_append) {
    jinja_value_list_push(vm->h, self.as.list, argv[0]);
    return jinja_value_none();
}

JINJA_BUILTIN(list_clear) {
    self.as.list->count = 0;
    return jinja_value_none();
}

JINJA_BUILTIN(list_copy) {
    return jinja_value_list(jinja_value_to_list(vm->h, self));
}

JINJA_BUILTIN(list_extend) {
    jinja_list *more = jinja_value_to_list(vm->h, argv[0]);
    for (size_t i = 0; i < more->count; i++) {
        jinja_value_list_push(vm->h, self.as.list, more->items[i]);
    }
    return jinja_value_none();
}

JINJA_BUILTIN(list_insert) {
    jinja_list *list = self.as.list;
    int64_t count = (int64_t)list->count;
    int64_t at = jinja_value_need_int(vm->h, argv[0], "insert()'s index");
    at += at < 0 ? count : 0;
    at = at < 0 ? 0 : at > count ? count : at;
    jinja_value_list_push(vm->h, list, argv[1]);
    jinja_heap_charge_bytes(vm->h, list->count * sizeof(jinja_value));
    memmove(&list->items[at + 1], &list->items[at], (size_t)(count - at) * sizeof(jinja_value));
    list->items[at] = argv[1];
    return jinja_value_none();
}

static jinja_value take_out(jinja_vm *vm, jinja_list *list, size_t at) {
    jinja_value taken = list->items[at];
    jinja_heap_charge_bytes(vm->h, list->count * sizeof(jinja_value));
    memmove(&list->items[at], &list->items[at + 1], (list->count - at - 1) * sizeof(jinja_value));
    list->count--;
    return taken;
}

JINJA_BUILTIN(list_pop) {
    int64_t count = (int64_t)self.as.list->count;
    int64_t at =
        argv[0].type == JINJA_ABSENT ? -1 : jinja_value_need_int(vm->h, argv[0], "pop()'s index");
    at += at < 0 ? count : 0;
    if (at < 0 || at >= count) {
        jinja_heap_fail(vm->h, STATUS_INVALID, "pop index out of range");
    }
    return take_out(vm, self.as.list, (size_t)at);
}

static size_t find_item(jinja_vm *vm, jinja_value self, jinja_value item, size_t from, size_t to) {
    for (size_t i = from; i < to && i < (size_t)jinja_value_length(self); i++) {
        jinja_value each =
            self.type == JINJA_RANGE
                ? jinja_value_int(self.as.range->start + (int64_t)i * self.as.range->step)
                : self.as.list->items[i];
        if (jinja_compare_equal(vm->h, each, item)) {
            return i;
        }
        jinja_heap_charge(vm->h, 1);
    }
    return SIZE_MAX;
}

static size_t bound(jinja_vm *vm, jinja_value v, int64_t count, int64_t missing) {
    int64_t at = v.type == JINJA_ABSENT ? missing : jinja_value_need_int(vm->h, v, "a bound");
    at += at < 0 ? count : 0;
    return at < 0 ? 0 : (size_t)at;
}

JINJA_BUILTIN(list_index) {
    int64_t count = jinja_value_length(self);
    size_t at = find_item(vm, self, argv[0], bound(vm, argv[1], count, 0),
                          bound(vm, argv[2], count, count));
    if (at == SIZE_MAX) {
        jinja_heap_fail(vm->h, STATUS_INVALID, "the value is not in the %s",
                        jinja_value_type_name(self));
    }
    return jinja_value_int((int64_t)at);
}

JINJA_BUILTIN(list_count) {
    int64_t count = 0;
    jinja_walk walk = jinja_value_need_walk(vm->h, self);
    jinja_value item;
    while (jinja_value_next(vm->h, &walk, &item)) {
        count += jinja_compare_equal(vm->h, item, argv[0]);
    }
    return jinja_value_int(count);
}

JINJA_BUILTIN(list_remove) {
    size_t at = find_item(vm, self, argv[0], 0, self.as.list->count);
    if (at == SIZE_MAX) {
        jinja_heap_fail(vm->h, STATUS_INVALID, "the value to remove is not in the list");
    }
    take_out(vm, self.as.list, at);
    return jinja_value_none();
}

JINJA_BUILTIN(list_reverse) {
    jinja_list *list = self.as.list;
    jinja_heap_charge(vm->h, list->count / 4);
    for (size_t i = 0; i < list->count / 2; i++) {
        jinja_value swap = list->items[i];
        list->items[i] = list->items[list->count - 1 - i];
        list->items[list->count - 1 - i] = swap;
    }
    return jinja_value_none();
}

JINJA_BUILTIN(list_sort) {
    jinja_list *list = self.as.list;
    jinja_compare_sort(vm->h, list->items, list->items, list->count, jinja_value_truth(argv[0]));
    return jinja_value_none();
}

JINJA_BUILTIN(cycler_next) {
    jinja_cycler *cycler = self.as.cycler;
    jinja_value now = cycler->items->items[cycler->at];
    cycler->at = (cycler->at + 1) % cycler->items->count;
    return now;
}

JINJA_BUILTIN(cycler_reset) {
    self.as.cycler->at = 0;
    return jinja_value_none();
}

static const jinja_builtin list_rows[] = {
    {"append", "/!object", list_append},
    {"clear", "/", list_clear},
    {"copy", "/", list_copy},
    {"count", "/!value", list_count},
    {"extend", "/!iterable", list_extend},
    {"index", "/!value,start,stop", list_index},
    {"insert", "/!index,!object", list_insert},
    {"pop", "/index", list_pop},
    {"remove", "/!value", list_remove},
    {"reverse", "/", list_reverse},
    {"sort", "reverse", list_sort},
};

static const jinja_builtin tuple_rows[] = {
    {"count", "/!value", list_count},
    {"index", "/!value,start,stop", list_index},
};

static const jinja_builtin cycler_rows[] = {
    {"next", "/", cycler_next},
    {"reset", "/", cycler_reset},
};

const jinja_builtin_table jinja_method_list_table = JINJA_BUILTIN_TABLE(list_rows);
const jinja_builtin_table jinja_method_list_tuple_table = JINJA_BUILTIN_TABLE(tuple_rows);
const jinja_builtin_table jinja_method_list_cycler_table = JINJA_BUILTIN_TABLE(cycler_rows);
