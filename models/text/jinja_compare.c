/* jinja_compare.c -- equality, order, membership, hashes, sorting. */
#include "models/text/jinja_compare.h"

#include <math.h>
#include <string.h>

#include "engine/base/rng.h"
#include "models/text/jinja_dict.h"
#include "models/text/jinja_string.h"

/* Orders an integer and a float exactly; 2 for a NaN. */
static int order_int_float(int64_t i, double f) {
    if (isnan(f)) {
        return 2;
    }
    if (f >= 0x1p63) {
        return -1;
    }
    if (f < -0x1p63) {
        return 1;
    }
    int64_t whole = (int64_t)f;
    if (i != whole) {
        return i < whole ? -1 : 1;
    }
    double rest = f - (double)whole;
    return rest > 0 ? -1 : rest < 0 ? 1 : 0;
}

static bool is_numeric(jinja_value v) {
    return v.type == JINJA_INT || v.type == JINJA_BOOL || v.type == JINJA_FLOAT;
}

static int order_numbers(jinja_value a, jinja_value b) {
    int64_t i = 0, j = 0;
    bool a_int = jinja_value_integer(a, &i), b_int = jinja_value_integer(b, &j);
    if (a_int && b_int) {
        return i < j ? -1 : i > j;
    }
    if (a_int) {
        return order_int_float(i, b.as.real);
    }
    if (b_int) {
        int order = order_int_float(j, a.as.real);
        return order == 2 ? 2 : -order;
    }
    if (isnan(a.as.real) || isnan(b.as.real)) {
        return 2;
    }
    return a.as.real < b.as.real ? -1 : a.as.real > b.as.real;
}

static int order_strings(jinja_heap *h, const jinja_string *a, const jinja_string *b) {
    size_t shared = a->bytes < b->bytes ? a->bytes : b->bytes;
    jinja_heap_charge_bytes(h, shared);
    int order = shared ? memcmp(a->data, b->data, shared) : 0; /* UTF-8 sorts as code points */
    if (order == 0) {
        return a->bytes < b->bytes ? -1 : a->bytes > b->bytes;
    }
    return order < 0 ? -1 : 1;
}

static bool equal_lists(jinja_heap *h, const jinja_list *a, const jinja_list *b) {
    if (a->count != b->count) {
        return false;
    }
    for (size_t i = 0; i < a->count; i++) {
        if (!jinja_compare_equal(h, a->items[i], b->items[i])) {
            return false;
        }
    }
    return true;
}

static bool equal_dicts(jinja_heap *h, const jinja_dict *a, const jinja_dict *b) {
    if (a->count != b->count) {
        return false;
    }
    for (size_t i = 0; i < a->count; i++) {
        const jinja_value *other = jinja_dict_find(h, b, a->entries[i].key);
        if (!other || !jinja_compare_equal(h, a->entries[i].value, *other)) {
            return false;
        }
    }
    return true;
}

static bool equal_ranges(const jinja_range_value *a, const jinja_range_value *b) {
    return a->count == b->count && (a->count == 0 || a->start == b->start) &&
           (a->count < 2 || a->step == b->step);
}

static bool equal_same_type(jinja_heap *h, jinja_value a, jinja_value b) {
    switch ((jinja_type)a.type) {
        case JINJA_UNDEFINED:
        case JINJA_NONE:
            return true;
        case JINJA_STRING:
            return a.as.string->bytes == b.as.string->bytes &&
                   order_strings(h, a.as.string, b.as.string) == 0;
        case JINJA_LIST:
        case JINJA_TUPLE:
            return equal_lists(h, a.as.list, b.as.list);
        case JINJA_DICT:
            return equal_dicts(h, a.as.dict, b.as.dict);
        case JINJA_RANGE:
            return equal_ranges(a.as.range, b.as.range);
        case JINJA_VIEW:
            return a.as.dict == b.as.dict && a.flag == b.flag;
        case JINJA_METHOD:
            return a.as.method == b.as.method;
        default:
            return memcmp(&a.as, &b.as, sizeof a.as) == 0; /* the same object */
    }
}

bool jinja_compare_equal(jinja_heap *h, jinja_value a, jinja_value b) {
    if (is_numeric(a) && is_numeric(b)) {
        return order_numbers(a, b) == 0;
    }
    if (a.type != b.type) {
        return false;
    }
    jinja_heap_enter(h);
    jinja_heap_charge(h, 1);
    bool equal = equal_same_type(h, a, b);
    jinja_heap_leave(h);
    return equal;
}

static int order_lists(jinja_heap *h, const jinja_list *a, const jinja_list *b, const char *op) {
    for (size_t i = 0; i < a->count && i < b->count; i++) {
        if (!jinja_compare_equal(h, a->items[i], b->items[i])) {
            return jinja_compare_order(h, a->items[i], b->items[i], op);
        }
    }
    return a->count < b->count ? -1 : a->count > b->count;
}

int jinja_compare_order(jinja_heap *h, jinja_value a, jinja_value b, const char *op) {
    if (is_numeric(a) && is_numeric(b)) {
        return order_numbers(a, b);
    }
    if (a.type == JINJA_STRING && b.type == JINJA_STRING) {
        return order_strings(h, a.as.string, b.as.string);
    }
    if (a.type == b.type && (a.type == JINJA_LIST || a.type == JINJA_TUPLE)) {
        jinja_heap_enter(h);
        int order = order_lists(h, a.as.list, b.as.list, op);
        jinja_heap_leave(h);
        return order;
    }
    if (a.type == JINJA_UNDEFINED || b.type == JINJA_UNDEFINED) {
        jinja_value_fail_undefined(h, a.type == JINJA_UNDEFINED ? a : b);
    }
    jinja_heap_fail(h, STATUS_INVALID, "'%s' not supported between instances of '%s' and '%s'", op,
                    jinja_value_type_name(a), jinja_value_type_name(b));
}

static bool range_contains(const jinja_range_value *range, jinja_value item) {
    if (item.type == JINJA_FLOAT && item.as.real == floor(item.as.real) &&
        fabs(item.as.real) < 0x1p53) {
        item = jinja_value_int((int64_t)item.as.real);
    }
    int64_t i;
    if (!jinja_value_integer(item, &i) || range->count == 0) {
        return false;
    }
    int64_t last = range->start + (int64_t)(range->count - 1) * range->step;
    bool inside = range->step > 0 ? i >= range->start && i <= last : i <= range->start && i >= last;
    return inside && (i - range->start) % range->step == 0;
}

bool jinja_compare_contains(jinja_heap *h, jinja_value container, jinja_value item) {
    if (container.type == JINJA_STRING) {
        if (item.type != JINJA_STRING) {
            jinja_heap_fail(h, STATUS_INVALID,
                            "'in <string>' requires string as left operand, not %s",
                            jinja_value_type_name(item));
        }
        jinja_string_charge_search(h, container.as.string->bytes, item.as.string->bytes);
        return str_find(jinja_string_str(container), jinja_string_str(item), 0) != SIZE_MAX;
    }
    if (container.type == JINJA_DICT ||
        (container.type == JINJA_VIEW && container.flag == JINJA_FLAG_KEYS)) {
        return jinja_dict_find(h, container.as.dict, item) != NULL;
    }
    if (container.type == JINJA_RANGE) {
        return range_contains(container.as.range, item);
    }
    jinja_walk walk;
    if (!jinja_value_walk(container, &walk)) {
        jinja_heap_fail(h, STATUS_INVALID, "argument of type '%s' is not iterable",
                        jinja_value_type_name(container));
    }
    jinja_value each;
    while (jinja_value_next(h, &walk, &each)) {
        if (jinja_compare_equal(h, each, item)) {
            return true;
        }
    }
    return false;
}

uint64_t jinja_compare_hash_bytes(const char *data, size_t bytes) {
    uint64_t hash = rng_mix(bytes);
    while (bytes >= 8) {
        uint64_t word;
        memcpy(&word, data, 8);
        hash = rng_mix(hash ^ word);
        data += 8;
        bytes -= 8;
    }
    uint64_t tail = 0;
    if (bytes) {
        memcpy(&tail, data, bytes);
    }
    return rng_mix(hash ^ tail);
}

static bool hash_tuple(jinja_heap *h, const jinja_list *list, uint64_t *out) {
    uint64_t hash = rng_mix(list->count + 17), each = 0;
    for (size_t i = 0; i < list->count; i++) {
        if (!jinja_compare_hash(h, list->items[i], &each)) {
            return false;
        }
        hash = rng_mix(hash ^ each);
    }
    *out = hash;
    return true;
}

bool jinja_compare_hash(jinja_heap *h, jinja_value v, uint64_t *out) {
    int64_t i;
    jinja_heap_charge(h, 1);
    if (v.type == JINJA_FLOAT && v.as.real == floor(v.as.real) && fabs(v.as.real) < 0x1p63) {
        v = jinja_value_int((int64_t)v.as.real); /* 1.0 and 1 are one key */
    }
    if (jinja_value_integer(v, &i)) {
        *out = rng_mix((uint64_t)i);
        return true;
    }
    switch ((jinja_type)v.type) {
        case JINJA_STRING:
            jinja_heap_charge_bytes(h, v.as.string->bytes);
            *out = jinja_compare_hash_bytes(v.as.string->data, v.as.string->bytes);
            return true;
        case JINJA_TUPLE: {
            jinja_heap_enter(h);
            bool hashable = hash_tuple(h, v.as.list, out);
            jinja_heap_leave(h);
            return hashable;
        }
        case JINJA_LIST:
        case JINJA_DICT:
        case JINJA_VIEW:
            return false;
        case JINJA_FLOAT:
            memcpy(out, &v.as.real, sizeof *out);
            *out = rng_mix(*out);
            return true;
        default:
            *out = rng_mix(v.type);
            return true;
    }
}

/* Merge sort of entry numbers: order[] by keys, through spare[]. */
static void sort_span(jinja_heap *h, const jinja_value *keys, size_t *order, size_t *spare,
                      size_t count, int sign) {
    if (count < 2) {
        return;
    }
    size_t half = count / 2;
    sort_span(h, keys, order, spare, half, sign);
    sort_span(h, keys, order + half, spare + half, count - half, sign);
    memcpy(spare, order, count * sizeof *order);
    size_t left = 0, right = half;
    for (size_t i = 0; i < count; i++) {
        jinja_heap_charge(h, 1);
        bool take_right = left == half;
        if (!take_right && right < count) {
            int compared = jinja_compare_order(h, keys[spare[right]], keys[spare[left]], "<");
            take_right = compared != 2 && compared * sign < 0;
        }
        order[i] = take_right ? spare[right++] : spare[left++];
    }
}

void jinja_compare_sort(jinja_heap *h, jinja_value *items, const jinja_value *keys, size_t count,
                        bool reverse) {
    size_t *order = JINJA_TAKE(h, count, size_t), *spare = JINJA_TAKE(h, count, size_t);
    jinja_value *sorted = JINJA_TAKE(h, count, jinja_value);
    for (size_t i = 0; i < count; i++) {
        order[i] = i;
    }
    sort_span(h, keys, order, spare, count, reverse ? -1 : 1);
    for (size_t i = 0; i < count; i++) {
        sorted[i] = items[order[i]];
    }
    if (count) {
        memcpy(items, sorted, count * sizeof *items);
    }
}
