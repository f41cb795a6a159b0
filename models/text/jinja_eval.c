/* jinja_eval.c -- expressions. */
#include "models/text/jinja_eval.h"

#include "engine/base/check.h"
#include "models/text/jinja_compare.h"
#include "models/text/jinja_dict.h"
#include "models/text/jinja_exec.h"
#include "models/text/jinja_format.h"
#include "models/text/jinja_loop.h"
#include "models/text/jinja_number.h"
#include "models/text/jinja_print.h"
#include "models/text/jinja_slice.h"

static jinja_value undefined_attribute(jinja_value object, jinja_value name) {
    return (jinja_value){.type = JINJA_UNDEFINED,
                         .flag = JINJA_FLAG_ATTRIBUTE,
                         .owner = object.type,
                         .as.string = name.as.string};
}

static jinja_value bind_method(jinja_vm *vm, jinja_value self, const jinja_builtin *builtin) {
    jinja_method_value *method = JINJA_TAKE(vm->h, 1, jinja_method_value);
    *method = (jinja_method_value){.self = self, .builtin = builtin};
    return (jinja_value){.type = JINJA_METHOD, .as.method = method};
}

/* What an object has by a name, methods aside; ABSENT if nothing. */
static jinja_value own_attribute(jinja_vm *vm, jinja_value object, str name) {
    const jinja_value *found = NULL;
    switch ((jinja_type)object.type) {
        case JINJA_UNDEFINED:
            jinja_value_fail_undefined(vm->h, object);
        case JINJA_DICT:
        case JINJA_NAMESPACE:
            found = jinja_dict_find_bytes(object.as.dict, name.data, name.bytes);
            return found ? *found : jinja_value_absent();
        case JINJA_LOOP:
            return jinja_loop_attribute(vm, object.as.loop, name);
        case JINJA_MACRO:
            if (str_equal_z(name, "name")) {
                return object.as.macro->def->name;
            }
            return jinja_value_absent();
        case JINJA_CYCLER:
            if (str_equal_z(name, "current")) {
                return object.as.cycler->items->items[object.as.cycler->at];
            }
            return jinja_value_absent();
        case JINJA_TUPLE:
            if (object.flag == JINJA_FLAG_GROUP &&
                (str_equal_z(name, "grouper") || str_equal_z(name, "list"))) {
                return object.as.list->items[name.data[0] == 'l'];
            }
            return jinja_value_absent();
        default:
            return jinja_value_absent();
    }
}

static jinja_value attribute_with(jinja_vm *vm, jinja_value object, jinja_value name,
                                  const jinja_builtin *method) {
    if (method) {
        return bind_method(vm, object, method);
    }
    jinja_value own = own_attribute(vm, object, jinja_string_str(name));
    return own.type == JINJA_ABSENT ? undefined_attribute(object, name) : own;
}

jinja_value jinja_eval_attribute(jinja_vm *vm, jinja_value object, jinja_value name) {
    return attribute_with(vm, object, name,
                          jinja_builtin_method(object.type, jinja_string_str(name)));
}

static const jinja_builtin *node_method(const jinja_node *node, jinja_value object) {
    return node->methods ? node->methods->of[object.type] : NULL;
}

/* object[index] of what has places; ABSENT when it has none there. */
static jinja_value item_at(jinja_vm *vm, jinja_value object, int64_t index) {
    int64_t length = jinja_value_length(object);
    index += index < 0 ? length : 0;
    if (index < 0 || index >= length) {
        return jinja_value_absent();
    }
    switch ((jinja_type)object.type) {
        case JINJA_STRING:
            return jinja_string_cut(vm->h, object.as.string, (size_t)index, (size_t)index + 1);
        case JINJA_LIST:
        case JINJA_TUPLE:
            return object.as.list->items[index];
        case JINJA_RANGE:
            return jinja_value_int(object.as.range->start + index * object.as.range->step);
        default:
            return jinja_value_absent();
    }
}

jinja_value jinja_eval_item(jinja_vm *vm, jinja_value object, jinja_value key) {
    int64_t index;
    uint64_t hash;
    jinja_value found = jinja_value_absent();
    if (object.type == JINJA_UNDEFINED) {
        jinja_value_fail_undefined(vm->h, object);
    }
    if (object.type == JINJA_DICT) {
        const jinja_value *value = jinja_compare_hash(vm->h, key, &hash)
                                       ? jinja_dict_find(vm->h, object.as.dict, key)
                                       : NULL;
        if (value) {
            return *value;
        }
    } else if (jinja_value_integer(key, &index)) {
        found = item_at(vm, object, index);
    }
    if (found.type == JINJA_ABSENT && key.type == JINJA_STRING) {
        if (object.type != JINJA_DICT) {
            return jinja_eval_attribute(vm, object, key);
        }
        return attribute_with(vm, object, key,
                              jinja_builtin_method(JINJA_DICT, jinja_string_str(key)));
    }
    return found.type == JINJA_ABSENT ? jinja_value_undefined(NULL) : found;
}

static jinja_value escaped(jinja_vm *vm, jinja_value s) {
    return s.as.string->markup ? s : jinja_string_escape(vm->h, s.as.string);
}

static jinja_value add_strings(jinja_vm *vm, jinja_value a, jinja_value b) {
    bool markup = a.as.string->markup || b.as.string->markup;
    if (markup) {
        a = escaped(vm, a);
        b = escaped(vm, b);
    }
    return jinja_string_concat(vm->h, a.as.string, b.as.string, markup);
}

static jinja_value add_lists(jinja_vm *vm, jinja_value a, jinja_value b) {
    size_t count = a.as.list->count + b.as.list->count;
    jinja_list *sum = jinja_value_list_make(vm->h, count);
    jinja_heap_charge(vm->h, count / 4);
    for (size_t i = 0; i < count; i++) {
        bool first = i < a.as.list->count;
        sum->items[i] = first ? a.as.list->items[i] : b.as.list->items[i - a.as.list->count];
    }
    sum->count = count;
    return (jinja_value){.type = a.type, .as.list = sum};
}

static jinja_value repeat_list(jinja_vm *vm, jinja_value list, int64_t times) {
    size_t count = list.as.list->count;
    if (times > 0 && count > vm->h->bytes_max / sizeof(jinja_value) / (size_t)times) {
        jinja_heap_fail(vm->h, STATUS_LIMIT, "a repeated list is too long");
    }
    size_t all = times > 0 ? count * (size_t)times : 0;
    jinja_list *out = jinja_value_list_make(vm->h, all);
    jinja_heap_charge(vm->h, all / 4);
    for (size_t i = 0; i < all; i++) {
        out->items[i] = list.as.list->items[i % count];
    }
    out->count = all;
    return (jinja_value){.type = list.type, .as.list = out};
}

static jinja_value multiply(jinja_vm *vm, jinja_value a, jinja_value b) {
    int64_t times;
    if (jinja_value_integer(a, &times)) {
        jinja_value swap = a;
        a = b;
        b = swap;
    }
    if (jinja_value_integer(b, &times)) {
        if (a.type == JINJA_STRING) {
            return jinja_string_repeat(vm->h, a.as.string, times);
        }
        if (a.type == JINJA_LIST || a.type == JINJA_TUPLE) {
            return repeat_list(vm, a, times);
        }
    }
    return jinja_value_absent();
}

jinja_value jinja_eval_binary(jinja_vm *vm, jinja_op op, jinja_value a, jinja_value b) {
    static const char *const signs[] = {"+", "-", "*", "/", "//", "%", "** or pow()"};
    double number;
    if (jinja_value_number(a, &number) && jinja_value_number(b, &number)) {
        return jinja_number_calculate(vm->h, op, a, b);
    }
    if (op == JINJA_OP_MOD && a.type == JINJA_STRING) {
        return jinja_format_percent(vm, a, b);
    }
    if (a.type == JINJA_UNDEFINED || b.type == JINJA_UNDEFINED) {
        jinja_value_fail_undefined(vm->h, a.type == JINJA_UNDEFINED ? a : b);
    }
    if (op == JINJA_OP_ADD && a.type == b.type) {
        if (a.type == JINJA_STRING) {
            return add_strings(vm, a, b);
        }
        if (a.type == JINJA_LIST || a.type == JINJA_TUPLE) {
            return add_lists(vm, a, b);
        }
    }
    if (op == JINJA_OP_MUL) {
        jinja_value product = multiply(vm, a, b);
        if (product.type != JINJA_ABSENT) {
            return product;
        }
    }
    jinja_heap_fail(vm->h, STATUS_INVALID, "unsupported operand type(s) for %s: '%s' and '%s'",
                    signs[op], jinja_value_type_name(a), jinja_value_type_name(b));
}

static jinja_value eval_unary(jinja_vm *vm, const jinja_node *node) {
    jinja_value v = jinja_eval(vm, node->left);
    if (node->op == JINJA_OP_NOT) {
        return jinja_value_bool(!jinja_value_truth(v));
    }
    double number;
    if (!jinja_value_number(v, &number)) {
        if (v.type == JINJA_UNDEFINED) {
            jinja_value_fail_undefined(vm->h, v);
        }
        jinja_heap_fail(vm->h, STATUS_INVALID, "bad operand type for unary %s: '%s'",
                        node->op == JINJA_OP_NEG ? "-" : "+", jinja_value_type_name(v));
    }
    jinja_value zero = v.type == JINJA_FLOAT ? jinja_value_float(-0.0) : jinja_value_int(0);
    if (node->op == JINJA_OP_NEG) {
        return v.type == JINJA_FLOAT ? jinja_value_float(-v.as.real)
                                     : jinja_number_calculate(vm->h, JINJA_OP_SUB, zero, v);
    }
    return jinja_number_calculate(vm->h, JINJA_OP_ADD, zero, v);
}

static bool compare(jinja_vm *vm, jinja_op op, jinja_value a, jinja_value b) {
    int order;
    switch (op) {
        case JINJA_OP_EQ:
            return jinja_compare_equal(vm->h, a, b);
        case JINJA_OP_NE:
            return !jinja_compare_equal(vm->h, a, b);
        case JINJA_OP_IN:
            return jinja_compare_contains(vm->h, b, a);
        case JINJA_OP_NOT_IN:
            return !jinja_compare_contains(vm->h, b, a);
        case JINJA_OP_LT:
            return jinja_compare_order(vm->h, a, b, "<") < 0;
        case JINJA_OP_LE:
            return jinja_compare_order(vm->h, a, b, "<=") <= 0;
        case JINJA_OP_GT:
            order = jinja_compare_order(vm->h, a, b, ">");
            return order == 1;
        case JINJA_OP_GE:
            order = jinja_compare_order(vm->h, a, b, ">=");
            return order == 0 || order == 1;
        default:
            UNREACHABLE();
    }
}

static jinja_value eval_compare(jinja_vm *vm, const jinja_node *node) {
    jinja_value left = jinja_eval(vm, node->left);
    for (int32_t i = 0; i < node->count; i++) {
        jinja_value right = jinja_eval(vm, node->items[i]->left);
        if (!compare(vm, (jinja_op)node->items[i]->op, left, right)) {
            return jinja_value_bool(false);
        }
        left = right;
    }
    return jinja_value_bool(true);
}

static jinja_value eval_concat(jinja_vm *vm, const jinja_node *node) {
    jinja_value first = jinja_print_to_string(vm->h, jinja_eval(vm, node->items[0]));
    if (node->count == 2) {
        jinja_value second = jinja_print_to_string(vm->h, jinja_eval(vm, node->items[1]));
        return jinja_string_concat(vm->h, first.as.string, second.as.string, false);
    }
    jinja_builder rest = jinja_string_builder(vm->h);
    for (int32_t i = 1; i < node->count; i++) {
        jinja_print_str(&rest, jinja_eval(vm, node->items[i]));
    }
    jinja_value tail = jinja_string_built(&rest);
    return jinja_string_concat(vm->h, first.as.string, tail.as.string, false);
}

static jinja_value eval_listing(jinja_vm *vm, const jinja_node *node) {
    jinja_list *list = jinja_value_list_make(vm->h, (size_t)node->count);
    for (int32_t i = 0; i < node->count; i++) {
        list->items[i] = jinja_eval(vm, node->items[i]);
    }
    list->count = (size_t)node->count;
    return (jinja_value){.type = node->op, .as.list = list};
}

static jinja_value eval_dicting(jinja_vm *vm, const jinja_node *node) {
    jinja_dict *dict = jinja_dict_make(vm->h);
    for (int32_t i = 0; i + 1 < node->count; i += 2) {
        jinja_value key = jinja_eval(vm, node->items[i]);
        jinja_dict_set(vm->h, dict, key, jinja_eval(vm, node->items[i + 1]));
    }
    return jinja_value_dict(dict);
}

static jinja_value eval_slice(jinja_vm *vm, const jinja_node *node) {
    jinja_value of = jinja_eval(vm, node->left), part[3];
    for (int i = 0; i < 3; i++) {
        part[i] = node->items[i] ? jinja_eval(vm, node->items[i]) : jinja_value_none();
    }
    return jinja_slice(vm->h, of, part[0], part[1], part[2]);
}

static void push_named(jinja_vm *vm, jinja_args *args, jinja_value name, jinja_value value) {
    for (size_t i = 0; i < args->named_count; i++) {
        if (jinja_compare_equal(vm->h, args->names[i], name)) {
            jinja_heap_fail(vm->h, STATUS_INVALID, "a keyword argument is given twice");
        }
    }
    args->names[args->named_count] = name;
    args->named[args->named_count++] = value;
}

static void spread_named(jinja_vm *vm, jinja_args *args, jinja_value spread) {
    if (spread.type != JINJA_DICT) {
        jinja_heap_fail(vm->h, STATUS_INVALID, "argument after ** must be a mapping, not %s",
                        jinja_value_type_name(spread));
    }
    const jinja_dict *dict = spread.as.dict;
    args->names = jinja_heap_grow(vm->h, args->names, args->named_count,
                                  args->named_count + dict->count, sizeof(jinja_value));
    args->named = jinja_heap_grow(vm->h, args->named, args->named_count,
                                  args->named_count + dict->count, sizeof(jinja_value));
    for (size_t i = 0; i < dict->count; i++) {
        if (dict->entries[i].key.type != JINJA_STRING) {
            jinja_heap_fail(vm->h, STATUS_INVALID, "keywords must be strings");
        }
        push_named(vm, args, dict->entries[i].key, dict->entries[i].value);
    }
}

jinja_args jinja_eval_arguments(jinja_vm *vm, const jinja_arguments *written,
                                jinja_value extra_name, jinja_value extra) {
    static const jinja_arguments none = {.items = NULL};
    written = written ? written : &none;
    jinja_list *items = jinja_value_list_make(vm->h, (size_t)written->count);
    for (int32_t i = 0; i < written->count; i++) {
        jinja_value_list_push(vm->h, items, jinja_eval(vm, written->items[i]));
    }
    if (written->star) {
        jinja_walk walk = jinja_value_need_walk(vm->h, jinja_eval(vm, written->star));
        jinja_value item;
        while (jinja_value_next(vm->h, &walk, &item)) {
            jinja_value_list_push(vm->h, items, item);
        }
    }
    jinja_args args = {.items = items->items, .count = items->count};
    size_t named = (size_t)written->named_count + (extra_name.type != JINJA_ABSENT);
    if (named) {
        args.names = JINJA_TAKE(vm->h, named, jinja_value);
        args.named = JINJA_TAKE(vm->h, named, jinja_value);
    }
    for (int32_t i = 0; i < written->named_count; i++) {
        push_named(vm, &args, written->names[i], jinja_eval(vm, written->named[i]));
    }
    if (extra_name.type != JINJA_ABSENT) {
        push_named(vm, &args, extra_name, extra);
    }
    if (written->star_star) {
        spread_named(vm, &args, jinja_eval(vm, written->star_star));
    }
    return args;
}

static jinja_value call_joiner(jinja_vm *vm, jinja_cycler *joiner) {
    bool used = joiner->at > 0;
    joiner->at = 1;
    return used ? joiner->items->items[0] : jinja_string_from(vm->h, "");
}

jinja_value jinja_eval_call(jinja_vm *vm, jinja_value callee, const jinja_args *args) {
    switch ((jinja_type)callee.type) {
        case JINJA_FUNCTION:
            return jinja_builtin_apply(vm, callee.as.function, jinja_value_absent(), args);
        case JINJA_METHOD:
            return jinja_builtin_apply(vm, callee.as.method->builtin, callee.as.method->self, args);
        case JINJA_MACRO:
            return jinja_exec_macro(vm, callee.as.macro, args);
        case JINJA_LOOP:
            if (args->count == 1 && args->named_count == 0) {
                return jinja_exec_again(vm, callee.as.loop, args->items[0]);
            }
            jinja_heap_fail(vm->h, STATUS_INVALID, "loop() takes the items to loop over");
        case JINJA_JOINER:
            if (args->count || args->named_count) {
                jinja_heap_fail(vm->h, STATUS_INVALID, "a joiner takes no arguments");
            }
            return call_joiner(vm, callee.as.cycler);
        case JINJA_UNDEFINED:
            jinja_value_fail_undefined(vm->h, callee);
        default:
            jinja_heap_fail(vm->h, STATUS_INVALID, "'%s' object is not callable",
                            jinja_value_type_name(callee));
    }
}

static jinja_value eval_call(jinja_vm *vm, const jinja_node *node) {
    jinja_value absent = jinja_value_absent();
    if (node->left->kind == JINJA_ATTR) { /* a method needs no value of its own */
        jinja_value self = jinja_eval(vm, node->left->left);
        const jinja_builtin *method = node_method(node->left, self);
        if (method) {
            jinja_args args = jinja_eval_arguments(vm, node->args, absent, absent);
            vm->h->line = node->line;
            return jinja_builtin_apply(vm, method, self, &args);
        }
        jinja_value callee = attribute_with(vm, self, node->left->value, NULL);
        jinja_args args = jinja_eval_arguments(vm, node->args, absent, absent);
        return jinja_eval_call(vm, callee, &args);
    }
    jinja_value callee = jinja_eval(vm, node->left);
    jinja_args args = jinja_eval_arguments(vm, node->args, absent, absent);
    vm->h->line = node->line;
    return jinja_eval_call(vm, callee, &args);
}

static void need_builtin(jinja_vm *vm, const jinja_node *node, const char *what) {
    if (!node->builtin) {
        const jinja_string *name = node->value.as.string;
        jinja_heap_fail(vm->h, STATUS_INVALID, "no %s named '%.*s'", what,
                        name->bytes > 60 ? 60 : (int)name->bytes, name->data);
    }
}

jinja_value jinja_eval_filter(jinja_vm *vm, const jinja_node *node, jinja_value value) {
    jinja_value absent = jinja_value_absent();
    need_builtin(vm, node, "filter");
    jinja_args args = jinja_eval_arguments(vm, node->args, absent, absent);
    vm->h->line = node->line;
    return jinja_builtin_apply(vm, node->builtin, value, &args);
}

static jinja_value eval_test(jinja_vm *vm, const jinja_node *node) {
    jinja_value absent = jinja_value_absent(), value = jinja_eval(vm, node->left);
    need_builtin(vm, node, "test");
    jinja_args args = jinja_eval_arguments(vm, node->args, absent, absent);
    return jinja_builtin_apply(vm, node->builtin, value, &args);
}

static jinja_value eval_name(jinja_vm *vm, const jinja_node *node) {
    jinja_value v = jinja_vm_get(vm, node->symbol);
    return v.type == JINJA_ABSENT ? jinja_value_undefined(node->value.as.string) : v;
}

static jinja_value eval_condition(jinja_vm *vm, const jinja_node *node) {
    if (jinja_value_truth(jinja_eval(vm, node->right))) {
        return jinja_eval(vm, node->left);
    }
    return node->third ? jinja_eval(vm, node->third) : jinja_value_undefined(NULL);
}

static jinja_value eval_logic(jinja_vm *vm, const jinja_node *node) {
    jinja_value left = jinja_eval(vm, node->left);
    bool enough = jinja_value_truth(left) == (node->kind == JINJA_OR);
    return enough ? left : jinja_eval(vm, node->right);
}

static jinja_value eval_binary(jinja_vm *vm, const jinja_node *node) {
    jinja_value left = jinja_eval(vm, node->left), right = jinja_eval(vm, node->right);
    vm->h->line = node->line;
    return jinja_eval_binary(vm, (jinja_op)node->op, left, right);
}

static jinja_value eval_attribute(jinja_vm *vm, const jinja_node *node) {
    jinja_value object = jinja_eval(vm, node->left);
    vm->h->line = node->line;
    return attribute_with(vm, object, node->value, node_method(node, object));
}

static jinja_value eval_item(jinja_vm *vm, const jinja_node *node) {
    jinja_value object = jinja_eval(vm, node->left), key = jinja_eval(vm, node->right);
    vm->h->line = node->line;
    return jinja_eval_item(vm, object, key);
}

static jinja_value eval_any(jinja_vm *vm, const jinja_node *node) {
    switch ((jinja_kind)node->kind) {
        case JINJA_CONST:
            return node->value;
        case JINJA_NAME:
            return eval_name(vm, node);
        case JINJA_LISTING:
            return eval_listing(vm, node);
        case JINJA_DICTING:
            return eval_dicting(vm, node);
        case JINJA_ATTR:
            return eval_attribute(vm, node);
        case JINJA_ITEM:
            return eval_item(vm, node);
        case JINJA_SLICE:
            return eval_slice(vm, node);
        case JINJA_CALL:
            return eval_call(vm, node);
        case JINJA_FILTER:
            return jinja_eval_filter(vm, node, jinja_eval(vm, node->left));
        case JINJA_TEST:
            return eval_test(vm, node);
        case JINJA_UNARY:
            return eval_unary(vm, node);
        case JINJA_BINARY:
            return eval_binary(vm, node);
        case JINJA_CONCAT:
            return eval_concat(vm, node);
        case JINJA_COMPARE:
            return eval_compare(vm, node);
        case JINJA_AND:
        case JINJA_OR:
            return eval_logic(vm, node);
        case JINJA_CONDITION:
            return eval_condition(vm, node);
        default:
            UNREACHABLE();
    }
}

jinja_value jinja_eval(jinja_vm *vm, const jinja_node *node) {
    jinja_heap_enter(vm->h);
    jinja_heap_charge(vm->h, 1);
    vm->h->line = node->line;
    jinja_value v = eval_any(vm, node);
    jinja_heap_leave(vm->h);
    return v;
}

static void assign_items(jinja_vm *vm, const jinja_node *target, jinja_value value) {
    jinja_walk walk = jinja_value_need_walk(vm->h, value);
    /* All values first: `set a, b = b, a` and targets that fail half way behave as in Python. */
    jinja_value *items = JINJA_TAKE(vm->h, (size_t)target->count + 1, jinja_value);
    int32_t count = 0;
    while (count <= target->count && jinja_value_next(vm->h, &walk, &items[count])) {
        count++;
    }
    if (count != target->count) {
        jinja_heap_fail(vm->h, STATUS_INVALID, "%s values to unpack (expected %d)",
                        count > target->count ? "too many" : "not enough", (int)target->count);
    }
    for (int32_t i = 0; i < count; i++) {
        jinja_eval_assign(vm, target->items[i], items[i]);
    }
}

void jinja_eval_assign(jinja_vm *vm, const jinja_node *target, jinja_value value) {
    jinja_heap_enter(vm->h);
    jinja_heap_charge(vm->h, 1);
    if (target->kind == JINJA_NAME) {
        jinja_vm_set(vm, target->symbol, value);
    } else if (target->kind == JINJA_NSREF) {
        jinja_value space = jinja_vm_get(vm, target->symbol);
        if (space.type != JINJA_NAMESPACE) {
            jinja_heap_fail(vm->h, STATUS_INVALID,
                            "cannot assign attribute on non-namespace object");
        }
        jinja_dict_set(vm->h, space.as.dict, target->value, value);
    } else {
        assign_items(vm, target, value);
    }
    jinja_heap_leave(vm->h);
}
