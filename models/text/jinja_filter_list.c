/* jinja_filter_list.c -- filters of sequences: order, ends, groups. */
#include "models/text/jinja_attribute.h"
#include "models/text/jinja_compare.h"
#include "models/text/jinja_dict.h"
#include "models/text/jinja_eval.h"
#include "models/text/jinja_slice.h"
#include "models/text/jinja_text.h"

/* Strings without regard to case, when that is wanted. */
static jinja_value folded(jinja_vm *vm, jinja_value v, bool case_sensitive) {
    return v.type == JINJA_STRING && !case_sensitive
               ? jinja_text_case(vm->h, v.as.string, JINJA_TEXT_LOWER)
               : v;
}

/* The keys to compare items by. */
static jinja_value *keys_of(jinja_vm *vm, const jinja_list *items, jinja_value path,
                            bool case_sensitive) {
    jinja_value *keys = JINJA_TAKE(vm->h, items->count, jinja_value);
    jinja_attribute attribute = jinja_attribute_read(vm, path);
    for (size_t i = 0; i < items->count; i++) {
        keys[i] = folded(vm, jinja_attribute_of(vm, &attribute, items->items[i]), case_sensitive);
    }
    return keys;
}

/* sort(attribute="a,b"): keys are lists, one value a path, so that equal values need no order. */
static jinja_value *sort_keys_of(jinja_vm *vm, const jinja_list *items, jinja_value paths,
                                 bool case_sensitive) {
    jinja_list *each;
    if (paths.type == JINJA_STRING) {
        jinja_value comma = jinja_string_from(vm->h, ",");
        each = jinja_text_split(vm->h, paths.as.string, comma.as.string, -1);
    } else {
        each = jinja_value_list_make(vm->h, 1);
        jinja_value_list_push(vm->h, each, paths);
    }
    jinja_value *keys = JINJA_TAKE(vm->h, items->count, jinja_value);
    for (size_t i = 0; i < items->count; i++) {
        keys[i] = jinja_value_list(jinja_value_list_make(vm->h, each->count));
    }
    for (size_t k = 0; k < each->count; k++) {
        jinja_value *column = keys_of(vm, items, each->items[k], case_sensitive);
        for (size_t i = 0; i < items->count; i++) {
            jinja_value_list_push(vm->h, keys[i].as.list, column[i]);
        }
    }
    return keys;
}

JINJA_BUILTIN(filter_sort) {
    jinja_list *items = jinja_value_to_list(vm->h, self);
    jinja_value *keys = sort_keys_of(vm, items, argv[2], jinja_value_truth(argv[1]));
    jinja_compare_sort(vm->h, items->items, keys, items->count, jinja_value_truth(argv[0]));
    return jinja_value_list(items);
}

JINJA_BUILTIN(filter_dictsort) {
    bool by_value = jinja_string_is(argv[1], "value");
    if (argv[1].type != JINJA_ABSENT && !by_value && !jinja_string_is(argv[1], "key")) {
        jinja_heap_fail(vm->h, STATUS_INVALID, "you can only sort by either \"key\" or \"value\"");
    }
    if (self.type != JINJA_DICT) {
        jinja_heap_fail(vm->h, STATUS_INVALID, "dictsort() needs a dict, not %s",
                        jinja_value_type_name(self));
    }
    jinja_value items_view = {.type = JINJA_VIEW, .flag = JINJA_FLAG_ITEMS, .as = self.as};
    jinja_list *items = jinja_value_to_list(vm->h, items_view);
    jinja_value *keys = keys_of(vm, items, jinja_value_int(by_value), jinja_value_truth(argv[0]));
    jinja_compare_sort(vm->h, items->items, keys, items->count, jinja_value_truth(argv[2]));
    return jinja_value_list(items);
}

JINJA_BUILTIN(filter_unique) {
    jinja_list *items = jinja_value_to_list(vm->h, self);
    jinja_list *out = jinja_value_list_make(vm->h, 0);
    jinja_value *keys = keys_of(vm, items, argv[1], jinja_value_truth(argv[0]));
    jinja_dict *seen = jinja_dict_make(vm->h);
    for (size_t i = 0; i < items->count; i++) {
        if (!jinja_dict_find(vm->h, seen, keys[i])) {
            jinja_dict_set(vm->h, seen, keys[i], jinja_value_none());
            jinja_value_list_push(vm->h, out, items->items[i]);
        }
    }
    return jinja_value_iterator(vm->h, out);
}

static jinja_value extreme(jinja_vm *vm, jinja_value self, const jinja_value *argv, int sign) {
    jinja_list *items = jinja_value_to_list(vm->h, self);
    if (items->count == 0) {
        return jinja_value_undefined(NULL);
    }
    jinja_value *keys = keys_of(vm, items, argv[1], jinja_value_truth(argv[0]));
    size_t best = 0;
    for (size_t i = 1; i < items->count; i++) {
        int order = jinja_compare_order(vm->h, keys[i], keys[best], sign < 0 ? "<" : ">");
        best = order != 2 && order * sign > 0 ? i : best;
    }
    return items->items[best];
}

JINJA_BUILTIN(filter_min) {
    return extreme(vm, self, argv, -1);
}

JINJA_BUILTIN(filter_max) {
    return extreme(vm, self, argv, 1);
}

JINJA_BUILTIN(filter_sum) {
    jinja_list *items = jinja_value_to_list(vm->h, self);
    jinja_value sum = argv[1].type == JINJA_ABSENT ? jinja_value_int(0) : argv[1];
    jinja_attribute attribute = jinja_attribute_read(vm, argv[0]);
    if (sum.type == JINJA_STRING) {
        jinja_heap_fail(vm->h, STATUS_INVALID, "sum() can't sum strings");
    }
    for (size_t i = 0; i < items->count; i++) {
        sum = jinja_eval_binary(vm, JINJA_OP_ADD, sum,
                                jinja_attribute_of(vm, &attribute, items->items[i]));
    }
    return sum;
}

JINJA_BUILTIN(filter_first) {
    jinja_walk walk = jinja_value_need_walk(vm->h, self);
    jinja_value item;
    return jinja_value_next(vm->h, &walk, &item) ? item : jinja_value_undefined(NULL);
}

JINJA_BUILTIN(filter_last) {
    if (self.type == JINJA_ITERATOR) {
        jinja_heap_fail(vm->h, STATUS_INVALID, "'%s' object is not reversible",
                        jinja_value_type_name(self));
    }
    jinja_list *items = jinja_value_to_list(vm->h, self);
    return items->count ? items->items[items->count - 1] : jinja_value_undefined(NULL);
}

JINJA_BUILTIN(filter_reverse) {
    if (self.type == JINJA_STRING) {
        return jinja_slice(vm->h, self, jinja_value_none(), jinja_value_none(),
                           jinja_value_int(-1));
    }
    jinja_list *items = jinja_value_to_list(vm->h, self);
    for (size_t i = 0; i < items->count / 2; i++) {
        jinja_value swap = items->items[i];
        items->items[i] = items->items[items->count - 1 - i];
        items->items[items->count - 1 - i] = swap;
    }
    return self.type == JINJA_ITERATOR || self.type == JINJA_UNDEFINED
               ? jinja_value_list(items)
               : jinja_value_iterator(vm->h, items);
}

JINJA_BUILTIN(filter_items) {
    if (self.type == JINJA_UNDEFINED) {
        return jinja_value_iterator(vm->h, jinja_value_list_make(vm->h, 0));
    }
    if (self.type != JINJA_DICT) {
        jinja_heap_fail(vm->h, STATUS_INVALID, "can only get item pairs from a mapping, not %s",
                        jinja_value_type_name(self));
    }
    jinja_value view = {.type = JINJA_VIEW, .flag = JINJA_FLAG_ITEMS, .as = self.as};
    return jinja_value_iterator(vm->h, jinja_value_to_list(vm->h, view));
}

static jinja_list *part(jinja_vm *vm, const jinja_list *items, size_t from, size_t to) {
    jinja_list *out = jinja_value_list_make(vm->h, to - from);
    for (size_t i = from; i < to; i++) {
        jinja_value_list_push(vm->h, out, items->items[i]);
    }
    return out;
}

JINJA_BUILTIN(filter_batch) {
    int64_t size = jinja_value_need_int(vm->h, argv[0], "batch()'s size");
    jinja_list *items = jinja_value_to_list(vm->h, self);
    jinja_list *out = jinja_value_list_make(vm->h, 0);
    if (size <= 0) {
        jinja_heap_fail(vm->h, STATUS_INVALID, "batch() needs a size above 0");
    }
    for (size_t from = 0; from < items->count;) {
        size_t left = items->count - from;
        size_t count = left < (uint64_t)size ? left : (size_t)size;
        jinja_list *batch = part(vm, items, from, from + count);
        bool fills = argv[1].type != JINJA_ABSENT && argv[1].type != JINJA_NONE;
        while (fills && batch->count < (uint64_t)size) {
            jinja_heap_charge(vm->h, 1);
            jinja_value_list_push(vm->h, batch, argv[1]);
        }
        jinja_value_list_push(vm->h, out, jinja_value_list(batch));
        from += count;
    }
    return jinja_value_iterator(vm->h, out);
}

JINJA_BUILTIN(filter_slice) {
    int64_t slices = jinja_value_need_int(vm->h, argv[0], "slice()'s count");
    jinja_list *items = jinja_value_to_list(vm->h, self);
    jinja_list *out = jinja_value_list_make(vm->h, 0);
    if (slices == 0) {
        jinja_heap_fail(vm->h, STATUS_INVALID, "slice() needs a count other than 0");
    }
    size_t each = slices > 0 ? items->count / (size_t)slices : 0;
    size_t longer = slices > 0 ? items->count % (size_t)slices : 0, from = 0;
    for (int64_t i = 0; i < slices; i++) {
        bool extra = (uint64_t)i < longer;
        jinja_list *slice = part(vm, items, from, from + each + extra);
        from += each + extra;
        if (!extra && argv[1].type != JINJA_ABSENT && argv[1].type != JINJA_NONE) {
            jinja_value_list_push(vm->h, slice, argv[1]);
        }
        jinja_heap_charge(vm->h, 1);
        jinja_value_list_push(vm->h, out, jinja_value_list(slice));
    }
    return jinja_value_iterator(vm->h, out);
}

JINJA_BUILTIN(filter_groupby) {
    jinja_list *items = jinja_value_to_list(vm->h, self);
    jinja_list *out = jinja_value_list_make(vm->h, 0);
    jinja_attribute attribute = jinja_attribute_read(vm, argv[0]);
    bool case_sensitive = jinja_value_truth(argv[2]);
    jinja_value *keys = JINJA_TAKE(vm->h, items->count, jinja_value);
    attribute.missing = argv[1].type == JINJA_NONE ? jinja_value_absent() : argv[1];
    for (size_t i = 0; i < items->count; i++) {
        keys[i] = folded(vm, jinja_attribute_of(vm, &attribute, items->items[i]), case_sensitive);
    }
    jinja_compare_sort(vm->h, items->items, keys, items->count, false);
    jinja_value last = jinja_value_absent();
    jinja_list *group = NULL;
    for (size_t i = 0; i < items->count; i++) {
        jinja_value own = jinja_attribute_of(vm, &attribute, items->items[i]);
        jinja_value key = folded(vm, own, case_sensitive);
        if (!group || !jinja_compare_equal(vm->h, key, last)) {
            group = jinja_value_list_make(vm->h, 0);
            jinja_value pair = jinja_value_pair(vm->h, own, jinja_value_list(group));
            pair.flag = JINJA_FLAG_GROUP;
            jinja_value_list_push(vm->h, out, pair);
            last = key;
        }
        jinja_value_list_push(vm->h, group, items->items[i]);
    }
    return jinja_value_list(out);
}

static const jinja_builtin rows[] = {
    {"batch", "!linecount,fill_with", filter_batch},
    {"dictsort", "case_sensitive,by,reverse", filter_dictsort},
    {"first", "", filter_first},
    {"groupby", "!attribute,default,case_sensitive", filter_groupby},
    {"items", "", filter_items},
    {"last", "", filter_last},
    {"max", "case_sensitive,attribute", filter_max},
    {"min", "case_sensitive,attribute", filter_min},
    {"reverse", "", filter_reverse},
    {"slice", "!slices,fill_with", filter_slice},
    {"sort", "reverse,case_sensitive,attribute", filter_sort},
    {"sum", "attribute,start", filter_sum},
    {"unique", "case_sensitive,attribute", filter_unique},
};

const jinja_builtin_table jinja_filter_list_table = JINJA_BUILTIN_TABLE(rows);
