/* jinja_is.c -- the tests behind `is`. */
#include "models/text/jinja_compare.h"
#include "models/text/jinja_number.h"
#include "models/text/jinja_print.h"
#include "models/text/jinja_unicode.h"
#include "models/text/jinja_vm.h"

#define IS_TYPE(name, condition)                   \
    JINJA_BUILTIN(name) {                          \
        return jinja_value_bool((condition) != 0); \
    }

IS_TYPE(is_defined, self.type != JINJA_UNDEFINED)
IS_TYPE(is_undefined, self.type == JINJA_UNDEFINED)
IS_TYPE(is_none, self.type == JINJA_NONE)
IS_TYPE(is_boolean, self.type == JINJA_BOOL)
IS_TYPE(is_true, self.type == JINJA_BOOL && self.as.boolean)
IS_TYPE(is_false, self.type == JINJA_BOOL && !self.as.boolean)
IS_TYPE(is_integer, self.type == JINJA_INT)
IS_TYPE(is_float, self.type == JINJA_FLOAT)
IS_TYPE(is_number, self.type == JINJA_INT || self.type == JINJA_FLOAT || self.type == JINJA_BOOL)
IS_TYPE(is_string, self.type == JINJA_STRING)
IS_TYPE(is_mapping, self.type == JINJA_DICT)
IS_TYPE(is_escaped, self.type == JINJA_STRING && self.as.string->markup)
IS_TYPE(is_filter,
        self.type == JINJA_STRING && jinja_builtin_filter(jinja_string_str(self)) != NULL)
IS_TYPE(is_test, self.type == JINJA_STRING && jinja_builtin_test(jinja_string_str(self)) != NULL)

/* Undefined has a length, items and a call, all of which only fail once used. */
IS_TYPE(is_sequence, self.type == JINJA_UNDEFINED || self.type == JINJA_STRING ||
                         self.type == JINJA_LIST || self.type == JINJA_TUPLE ||
                         self.type == JINJA_DICT || self.type == JINJA_RANGE)
IS_TYPE(is_callable, self.type == JINJA_UNDEFINED || self.type == JINJA_FUNCTION ||
                         self.type == JINJA_METHOD || self.type == JINJA_MACRO ||
                         self.type == JINJA_JOINER || self.type == JINJA_LOOP)

JINJA_BUILTIN(is_iterable) {
    jinja_walk walk;
    return jinja_value_bool(self.type == JINJA_LOOP || jinja_value_walk(self, &walk));
}

static int64_t remainder_of(jinja_vm *vm, jinja_value a, jinja_value b, bool *zero) {
    double x, y;
    if (!jinja_value_number(a, &x) || !jinja_value_number(b, &y)) {
        jinja_heap_fail(vm->h, STATUS_INVALID, "a number is required, not %s",
                        jinja_value_type_name(jinja_value_number(a, &x) ? b : a));
    }
    jinja_value rest = jinja_number_calculate(vm->h, JINJA_OP_MOD, a, b);
    *zero = !jinja_value_truth(rest);
    return rest.type == JINJA_INT ? rest.as.integer : rest.as.real == 1 ? 1 : 0;
}

JINJA_BUILTIN(is_odd) {
    bool zero;
    return jinja_value_bool(remainder_of(vm, self, jinja_value_int(2), &zero) == 1);
}

JINJA_BUILTIN(is_even) {
    bool zero;
    remainder_of(vm, self, jinja_value_int(2), &zero);
    return jinja_value_bool(zero);
}

JINJA_BUILTIN(is_divisible) {
    bool zero;
    remainder_of(vm, self, argv[0], &zero);
    return jinja_value_bool(zero);
}

/* str(v).islower() and .isupper() */
static jinja_value has_case(jinja_vm *vm, jinja_value v, jinja_unicode_class wanted,
                            jinja_unicode_class other) {
    const jinja_string *s = jinja_print_soft(vm->h, v).as.string;
    bool any = false;
    jinja_string_charge(vm->h, s);
    for (size_t at = 0; at < s->bytes;) {
        uint32_t c = jinja_unicode_next(s->data, s->bytes, &at);
        if (jinja_unicode_is(other, c) || jinja_unicode_is(JINJA_UNICODE_TITLE, c)) {
            return jinja_value_bool(false);
        }
        any = any || jinja_unicode_is(wanted, c);
    }
    return jinja_value_bool(any);
}

JINJA_BUILTIN(is_lower) {
    return has_case(vm, self, JINJA_UNICODE_LOWER, JINJA_UNICODE_UPPER);
}

JINJA_BUILTIN(is_upper) {
    return has_case(vm, self, JINJA_UNICODE_UPPER, JINJA_UNICODE_LOWER);
}

/* The same object: singletons, small values by value, the rest by identity. */
JINJA_BUILTIN(is_same) {
    bool same = self.type == argv[0].type;
    switch ((jinja_type)self.type) {
        case JINJA_BOOL:
        case JINJA_INT:
        case JINJA_NONE:
            same = same && jinja_compare_equal(vm->h, self, argv[0]);
            break;
        default:
            same = same && self.as.list == argv[0].as.list;
            break;
    }
    return jinja_value_bool(same);
}

JINJA_BUILTIN(is_in) {
    return jinja_value_bool(jinja_compare_contains(vm->h, argv[0], self));
}

IS_TYPE(is_eq, jinja_compare_equal(vm->h, self, argv[0]))
IS_TYPE(is_ne, !jinja_compare_equal(vm->h, self, argv[0]))
IS_TYPE(is_lt, jinja_compare_order(vm->h, self, argv[0], "<") == -1)
IS_TYPE(is_gt, jinja_compare_order(vm->h, self, argv[0], ">") == 1)
IS_TYPE(is_le, jinja_compare_order(vm->h, self, argv[0], "<=") <= 0)
IS_TYPE(is_ge, (1 << (jinja_compare_order(vm->h, self, argv[0], ">=") + 1)) & (2 | 4))

static const jinja_builtin rows[] = {
    {"!=", "!other", is_ne},
    {"<", "!other", is_lt},
    {"<=", "!other", is_le},
    {"==", "!other", is_eq},
    {">", "!other", is_gt},
    {">=", "!other", is_ge},
    {"boolean", "", is_boolean},
    {"callable", "", is_callable},
    {"defined", "", is_defined},
    {"divisibleby", "!num", is_divisible},
    {"eq", "!other", is_eq},
    {"equalto", "!other", is_eq},
    {"escaped", "", is_escaped},
    {"even", "", is_even},
    {"false", "", is_false},
    {"filter", "", is_filter},
    {"float", "", is_float},
    {"ge", "!other", is_ge},
    {"greaterthan", "!other", is_gt},
    {"gt", "!other", is_gt},
    {"in", "!seq", is_in},
    {"integer", "", is_integer},
    {"iterable", "", is_iterable},
    {"le", "!other", is_le},
    {"lessthan", "!other", is_lt},
    {"lower", "", is_lower},
    {"lt", "!other", is_lt},
    {"mapping", "", is_mapping},
    {"ne", "!other", is_ne},
    {"none", "", is_none},
    {"number", "", is_number},
    {"odd", "", is_odd},
    {"sameas", "!other", is_same},
    {"sequence", "", is_sequence},
    {"string", "", is_string},
    {"test", "", is_test},
    {"true", "", is_true},
    {"undefined", "", is_undefined},
    {"upper", "", is_upper},
};

const jinja_builtin_table jinja_is_table = JINJA_BUILTIN_TABLE(rows);
