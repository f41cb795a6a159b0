/* jinja_value.c -- truth, length, lists and iteration. */
#include "models/text/jinja_value.h"

#include "models/text/jinja_dict.h"
#include "models/text/jinja_string.h"
#include "models/text/jinja_unicode.h"

jinja_value jinja_value_iterator(jinja_heap *h, jinja_list *items) {
    jinja_iterator *it = JINJA_TAKE(h, 1, jinja_iterator);
    *it = (jinja_iterator){.items = items, .at = 0};
    return (jinja_value){.type = JINJA_ITERATOR, .as.iterator = it};
}

jinja_value jinja_value_pair(jinja_heap *h, jinja_value first, jinja_value second) {
    jinja_list *pair = jinja_value_list_make(h, 2);
    pair->items[0] = first;
    pair->items[1] = second;
    pair->count = 2;
    return jinja_value_tuple(pair);
}

const char *jinja_value_type_name(jinja_value v) {
    static const char *const names[] = {
        [JINJA_ABSENT] = "nothing",
        [JINJA_UNDEFINED] = "Undefined",
        [JINJA_NONE] = "NoneType",
        [JINJA_BOOL] = "bool",
        [JINJA_INT] = "int",
        [JINJA_FLOAT] = "float",
        [JINJA_STRING] = "str",
        [JINJA_LIST] = "list",
        [JINJA_TUPLE] = "tuple",
        [JINJA_DICT] = "dict",
        [JINJA_RANGE] = "range",
        [JINJA_VIEW] = "dict view",
        [JINJA_ITERATOR] = "generator",
        [JINJA_NAMESPACE] = "Namespace",
        [JINJA_MACRO] = "Macro",
        [JINJA_LOOP] = "LoopContext",
        [JINJA_FUNCTION] = "function",
        [JINJA_METHOD] = "method",
        [JINJA_CYCLER] = "Cycler",
        [JINJA_JOINER] = "Joiner",
    };
    return names[v.type];
}

void jinja_value_fail_undefined(jinja_heap *h, jinja_value undefined) {
    const jinja_string *name = undefined.as.string;
    if (!name) {
        jinja_heap_fail(h, STATUS_INVALID, "the value is undefined");
    }
    int shown = name->bytes > 100 ? 100 : (int)name->bytes;
    if (undefined.flag == JINJA_FLAG_ATTRIBUTE) {
        jinja_value owner = {.type = undefined.owner};
        jinja_heap_fail(h, STATUS_INVALID, "'%s object' has no attribute '%.*s'",
                        jinja_value_type_name(owner), shown, name->data);
    }
    jinja_heap_fail(h, STATUS_INVALID, "'%.*s' is undefined", shown, name->data);
}

bool jinja_value_truth(jinja_value v) {
    switch ((jinja_type)v.type) {
        case JINJA_ABSENT:
        case JINJA_UNDEFINED:
        case JINJA_NONE:
            return false;
        case JINJA_BOOL:
            return v.as.boolean;
        case JINJA_INT:
            return v.as.integer != 0;
        case JINJA_FLOAT:
            return v.as.real != 0;
        default:
            return jinja_value_length(v) != 0; /* what has no length is true */
    }
}

int64_t jinja_value_length(jinja_value v) {
    switch ((jinja_type)v.type) {
        case JINJA_UNDEFINED:
            return 0;
        case JINJA_STRING:
            return (int64_t)v.as.string->chars;
        case JINJA_LIST:
        case JINJA_TUPLE:
            return (int64_t)v.as.list->count;
        case JINJA_DICT:
        case JINJA_VIEW:
            return (int64_t)v.as.dict->count;
        case JINJA_RANGE:
            return (int64_t)v.as.range->count;
        default:
            return -1;
    }
}

bool jinja_value_integer(jinja_value v, int64_t *out) {
    if (v.type == JINJA_INT) {
        *out = v.as.integer;
        return true;
    }
    if (v.type == JINJA_BOOL) {
        *out = v.as.boolean;
        return true;
    }
    return false;
}

bool jinja_value_number(jinja_value v, double *out) {
    int64_t integer;
    if (v.type == JINJA_FLOAT) {
        *out = v.as.real;
        return true;
    }
    if (jinja_value_integer(v, &integer)) {
        *out = (double)integer;
        return true;
    }
    return false;
}

int64_t jinja_value_need_int(jinja_heap *h, jinja_value v, const char *what) {
    int64_t out;
    if (!jinja_value_integer(v, &out)) {
        if (v.type == JINJA_UNDEFINED) {
            jinja_value_fail_undefined(h, v);
        }
        jinja_heap_fail(h, STATUS_INVALID, "%s must be an integer, not %s", what,
                        jinja_value_type_name(v));
    }
    return out;
}

jinja_list *jinja_value_list_make(jinja_heap *h, size_t capacity) {
    jinja_list *list = JINJA_TAKE(h, 1, jinja_list);
    list->items = capacity ? JINJA_TAKE(h, capacity, jinja_value) : NULL;
    list->count = 0;
    list->capacity = capacity;
    return list;
}

void jinja_value_list_push(jinja_heap *h, jinja_list *list, jinja_value v) {
    if (list->count == list->capacity) {
        size_t capacity = list->capacity < 4 ? 4 : list->capacity * 2;
        list->items = jinja_heap_grow(h, list->items, list->count, capacity, sizeof(jinja_value));
        list->capacity = capacity;
    }
    list->items[list->count++] = v;
}

bool jinja_value_walk(jinja_value v, jinja_walk *walk) {
    *walk = (jinja_walk){.of = v};
    switch ((jinja_type)v.type) {
        case JINJA_DICT:
        case JINJA_VIEW:
            walk->expect = v.as.dict->count;
            return true;
        case JINJA_UNDEFINED:
        case JINJA_STRING:
        case JINJA_LIST:
        case JINJA_TUPLE:
        case JINJA_RANGE:
        case JINJA_ITERATOR:
            return true;
        default:
            return false;
    }
}

jinja_walk jinja_value_need_walk(jinja_heap *h, jinja_value v) {
    jinja_walk walk;
    if (!jinja_value_walk(v, &walk)) {
        jinja_heap_fail(h, STATUS_INVALID, "'%s' object is not iterable", jinja_value_type_name(v));
    }
    return walk;
}

static bool next_of_dict(jinja_heap *h, jinja_walk *walk, jinja_value *out) {
    const jinja_dict *d = walk->of.as.dict;
    if (d->count != walk->expect) {
        jinja_heap_fail(h, STATUS_INVALID, "dictionary changed size during iteration");
    }
    if (walk->at >= d->count) {
        return false;
    }
    const jinja_entry *entry = &d->entries[walk->at++];
    if (walk->of.type == JINJA_DICT || walk->of.flag == JINJA_FLAG_KEYS) {
        *out = entry->key;
    } else if (walk->of.flag == JINJA_FLAG_VALUES) {
        *out = entry->value;
    } else {
        *out = jinja_value_pair(h, entry->key, entry->value);
    }
    return true;
}

static bool next_of_string(jinja_heap *h, jinja_walk *walk, jinja_value *out) {
    const jinja_string *s = walk->of.as.string;
    if (walk->at >= s->bytes) {
        return false;
    }
    size_t end = walk->at;
    jinja_unicode_next(s->data, s->bytes, &end);
    *out = jinja_string_borrow(h, s->data + walk->at, end - walk->at);
    walk->at = end;
    return true;
}

bool jinja_value_next(jinja_heap *h, jinja_walk *walk, jinja_value *out) {
    jinja_heap_charge(h, 1);
    switch ((jinja_type)walk->of.type) {
        case JINJA_LIST:
        case JINJA_TUPLE:
            if (walk->at >= walk->of.as.list->count) {
                return false;
            }
            *out = walk->of.as.list->items[walk->at++];
            return true;
        case JINJA_DICT:
        case JINJA_VIEW:
            return next_of_dict(h, walk, out);
        case JINJA_STRING:
            return next_of_string(h, walk, out);
        case JINJA_RANGE: {
            const jinja_range_value *range = walk->of.as.range;
            if (walk->at >= range->count) {
                return false;
            }
            *out = jinja_value_int(range->start + (int64_t)walk->at++ * range->step);
            return true;
        }
        case JINJA_ITERATOR: {
            jinja_iterator *it = walk->of.as.iterator;
            if (it->at >= it->items->count) {
                return false;
            }
            *out = it->items->items[it->at++];
            return true;
        }
        default:
            return false;
    }
}

jinja_list *jinja_value_to_list(jinja_heap *h, jinja_value v) {
    jinja_walk walk = jinja_value_need_walk(h, v);
    int64_t length = jinja_value_length(v);
    jinja_list *list = jinja_value_list_make(h, length > 0 ? (size_t)length : 0);
    jinja_value item;
    while (jinja_value_next(h, &walk, &item)) {
        jinja_value_list_push(h, list, item);
    }
    return list;
}
