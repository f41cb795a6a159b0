/* jinja_method_dict.c -- methods of dicts. */
#include "models/text/jinja_method_dict.h"

static void fill_from(jinja_vm *vm, jinja_dict *dict, jinja_value from) {
    if (from.type == JINJA_DICT) {
        const jinja_dict *other = from.as.dict;
        for (size_t i = 0; i < other->count; i++) {
            jinja_dict_set(vm->h, dict, other->entries[i].key, other->entries[i].value);
        }
        return;
    }
    if (from.type == JINJA_UNDEFINED) {
        jinja_value_fail_undefined(vm->h, from);
    }
    jinja_walk walk = jinja_value_need_walk(vm->h, from);
    jinja_value item;
    while (jinja_value_next(vm->h, &walk, &item)) {
        jinja_list *pair = jinja_value_to_list(vm->h, item);
        if (pair->count != 2) {
            jinja_heap_fail(vm->h, STATUS_INVALID,
                            "a dictionary is made of pairs; an item has %zu parts", pair->count);
        }
        jinja_dict_set(vm->h, dict, pair->items[0], pair->items[1]);
    }
}

void jinja_method_dict_fill(jinja_vm *vm, jinja_dict *dict, const jinja_args *args) {
    if (args->count > 1) {
        jinja_heap_fail(vm->h, STATUS_INVALID, "at most 1 positional argument, not %zu",
                        args->count);
    }
    if (args->count) {
        fill_from(vm, dict, args->items[0]);
    }
    for (size_t i = 0; i < args->named_count; i++) {
        jinja_dict_set(vm->h, dict, args->names[i], args->named[i]);
    }
}

static jinja_value view(jinja_value self, uint8_t which) {
    return (jinja_value){.type = JINJA_VIEW, .flag = which, .as = self.as};
}

JINJA_BUILTIN(dict_items) {
    return view(self, JINJA_FLAG_ITEMS);
}

JINJA_BUILTIN(dict_keys) {
    return view(self, JINJA_FLAG_KEYS);
}

JINJA_BUILTIN(dict_values) {
    return view(self, JINJA_FLAG_VALUES);
}

static jinja_value or_none(jinja_value v) {
    return v.type == JINJA_ABSENT ? jinja_value_none() : v;
}

JINJA_BUILTIN(dict_get) {
    const jinja_value *found = jinja_dict_find(vm->h, self.as.dict, argv[0]);
    return found ? *found : or_none(argv[1]);
}

JINJA_BUILTIN(dict_setdefault) {
    const jinja_value *found = jinja_dict_find(vm->h, self.as.dict, argv[0]);
    if (found) {
        return *found;
    }
    jinja_dict_set(vm->h, self.as.dict, argv[0], or_none(argv[1]));
    return or_none(argv[1]);
}

JINJA_BUILTIN(dict_pop) {
    const jinja_value *found = jinja_dict_find(vm->h, self.as.dict, argv[0]);
    if (!found) {
        if (argv[1].type == JINJA_ABSENT) {
            jinja_heap_fail(vm->h, STATUS_INVALID, "pop(): no such key");
        }
        return argv[1];
    }
    jinja_value value = *found;
    jinja_dict_remove(vm->h, self.as.dict, argv[0]);
    return value;
}

JINJA_BUILTIN(dict_popitem) {
    jinja_dict *dict = self.as.dict;
    if (dict->count == 0) {
        jinja_heap_fail(vm->h, STATUS_INVALID, "popitem(): dictionary is empty");
    }
    jinja_entry last = dict->entries[dict->count - 1];
    jinja_dict_remove(vm->h, dict, last.key);
    return jinja_value_pair(vm->h, last.key, last.value);
}

JINJA_BUILTIN(dict_update) {
    jinja_method_dict_fill(vm, self.as.dict, args);
    return jinja_value_none();
}

JINJA_BUILTIN(dict_copy) {
    return jinja_value_dict(jinja_dict_copy(vm->h, self.as.dict));
}

JINJA_BUILTIN(dict_clear) {
    *self.as.dict = *jinja_dict_make(vm->h);
    return jinja_value_none();
}

static const jinja_builtin rows[] = {
    {"clear", "/", dict_clear},         {"copy", "/", dict_copy},
    {"get", "/!key,default", dict_get}, {"items", "/", dict_items},
    {"keys", "/", dict_keys},           {"pop", "/!key,default", dict_pop},
    {"popitem", "/", dict_popitem},     {"setdefault", "/!key,default", dict_setdefault},
    {"update", "*", dict_update},       {"values", "/", dict_values},
};

const jinja_builtin_table jinja_method_dict_table = JINJA_BUILTIN_TABLE(rows);
