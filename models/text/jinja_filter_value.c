/* jinja_filter_value.c -- filters of any value: numbers, JSON, defaults. */
#include <math.h>

#include "models/text/jinja_dict.h"
#include "models/text/jinja_eval.h"
#include "models/text/jinja_json.h"
#include "models/text/jinja_number.h"
#include "models/text/jinja_print.h"

JINJA_BUILTIN(filter_default) {
    bool use =
        self.type == JINJA_UNDEFINED || (jinja_value_truth(argv[1]) && !jinja_value_truth(self));
    if (!use) {
        return self;
    }
    return argv[0].type == JINJA_ABSENT ? jinja_string_from(vm->h, "") : argv[0];
}

JINJA_BUILTIN(filter_int) {
    jinja_value fallback = argv[0].type == JINJA_ABSENT ? jinja_value_int(0) : argv[0], out;
    int64_t base =
        argv[1].type == JINJA_ABSENT ? 10 : jinja_value_need_int(vm->h, argv[1], "int()'s base");
    int64_t integer;
    if (self.type == JINJA_UNDEFINED) {
        jinja_value_fail_undefined(vm->h, self);
    }
    if (jinja_value_integer(self, &integer)) {
        return jinja_value_int(integer);
    }
    if (self.type == JINJA_STRING) {
        bool base_known = base == 0 || (base >= 2 && base <= 36);
        if (base_known && jinja_number_read_int(vm->h, jinja_string_str(self), (int)base, &out)) {
            return out;
        }
        jinja_heap_charge(vm->h, JINJA_PRINT_FLOAT_STEPS);
        if (!jinja_number_read_float(jinja_string_str(self), &out)) {
            return fallback;
        }
        self = out; /* "42.23" is 42 */
    }
    if (self.type != JINJA_FLOAT || isnan(self.as.real) || isinf(self.as.real)) {
        return fallback;
    }
    return jinja_number_truncate(vm->h, self.as.real);
}

JINJA_BUILTIN(filter_float) {
    jinja_value fallback = argv[0].type == JINJA_ABSENT ? jinja_value_float(0) : argv[0], out;
    double number;
    if (self.type == JINJA_UNDEFINED) {
        jinja_value_fail_undefined(vm->h, self);
    }
    if (jinja_value_number(self, &number)) {
        return jinja_value_float(number);
    }
    jinja_heap_charge(vm->h, JINJA_PRINT_FLOAT_STEPS);
    if (self.type == JINJA_STRING && jinja_number_read_float(jinja_string_str(self), &out)) {
        return out;
    }
    return fallback;
}

static double need_number(jinja_vm *vm, jinja_value v, const char *who) {
    double number;
    if (!jinja_value_number(v, &number)) {
        jinja_heap_fail(vm->h, STATUS_INVALID, "%s() needs a number, not %s", who,
                        jinja_value_type_name(v));
    }
    return number;
}

JINJA_BUILTIN(filter_abs) {
    int64_t integer;
    double number = need_number(vm, self, "abs");
    if (!jinja_value_integer(self, &integer)) {
        return jinja_value_float(fabs(number));
    }
    return integer < 0 ? jinja_number_calculate(vm->h, JINJA_OP_SUB, jinja_value_int(0), self)
                       : jinja_value_int(integer);
}

/* Halves of an integer go to the even side. */
static jinja_value round_integer(jinja_vm *vm, int64_t value, int64_t digits) {
    if (digits >= 0) {
        return jinja_value_int(value);
    }
    int64_t unit = 1;
    for (int64_t i = 0; i < -digits; i++) {
        if (__builtin_mul_overflow(unit, (int64_t)10, &unit)) {
            return jinja_value_int(0);
        }
    }
    int64_t rest = value % unit, low = value - rest;
    int64_t twice = rest < 0 ? -rest : rest;
    bool odd = (low / unit) % 2 != 0;
    if (twice > unit - twice || (twice == unit - twice && odd)) {
        return jinja_number_calculate(vm->h, JINJA_OP_ADD, jinja_value_int(low),
                                      jinja_value_int(rest < 0 ? -unit : unit));
    }
    return jinja_value_int(low);
}

JINJA_BUILTIN(filter_round) {
    int64_t integer, digits = argv[0].type == JINJA_ABSENT
                                  ? 0
                                  : jinja_value_need_int(vm->h, argv[0], "round()'s precision");
    double number = need_number(vm, self, "round");
    bool common = argv[1].type == JINJA_ABSENT || jinja_string_is(argv[1], "common");
    bool up = jinja_string_is(argv[1], "ceil");
    if (!common && !up && !jinja_string_is(argv[1], "floor")) {
        jinja_heap_fail(vm->h, STATUS_INVALID, "method must be common, ceil or floor");
    }
    if (common) {
        if (jinja_value_integer(self, &integer)) {
            return round_integer(vm, integer, digits);
        }
        jinja_heap_charge(vm->h, JINJA_PRINT_FLOAT_STEPS + (digits > 0 ? 8 * (size_t)digits : 0));
        return jinja_value_float(jinja_number_round(number, digits));
    }
    jinja_value scale =
        jinja_number_calculate(vm->h, JINJA_OP_POW, jinja_value_int(10), jinja_value_int(digits));
    jinja_value scaled = jinja_number_calculate(vm->h, JINJA_OP_MUL, self, scale);
    number = need_number(vm, scaled, "round");
    jinja_value whole = jinja_number_truncate(vm->h, up ? ceil(number) : floor(number));
    return jinja_number_calculate(vm->h, JINJA_OP_DIV, whole, scale);
}

JINJA_BUILTIN(filter_length) {
    int64_t length = jinja_value_length(self);
    if (self.type == JINJA_LOOP) {
        return jinja_eval_attribute(vm, self, jinja_string_from(vm->h, "length"));
    }
    if (length < 0) {
        jinja_heap_fail(vm->h, STATUS_INVALID, "object of type '%s' has no len()",
                        jinja_value_type_name(self));
    }
    return jinja_value_int(length);
}

JINJA_BUILTIN(filter_list) {
    return jinja_value_list(jinja_value_to_list(vm->h, self));
}

JINJA_BUILTIN(filter_attr) {
    if (argv[0].type != JINJA_STRING) {
        jinja_heap_fail(vm->h, STATUS_INVALID, "attr() needs a name");
    }
    if (self.type == JINJA_DICT) { /* attributes alone, never keys */
        jinja_value empty = jinja_value_dict(jinja_dict_make(vm->h));
        jinja_value found = jinja_eval_attribute(vm, empty, argv[0]);
        return found.type == JINJA_METHOD ? jinja_eval_attribute(vm, self, argv[0]) : found;
    }
    return jinja_eval_attribute(vm, self, argv[0]);
}

static str separator(jinja_vm *vm, jinja_value v) {
    if (v.type != JINJA_STRING) {
        jinja_heap_fail(vm->h, STATUS_INVALID, "tojson(): separators must be two strings");
    }
    return jinja_string_str(v);
}

static void read_separators(jinja_vm *vm, jinja_value v, jinja_json_style *style) {
    style->item_separator = str_from(style->indented ? "," : ", ");
    style->key_separator = str_from(": ");
    if (v.type == JINJA_ABSENT || v.type == JINJA_NONE) {
        return;
    }
    jinja_list *two = jinja_value_to_list(vm->h, v);
    if (two->count != 2) {
        jinja_heap_fail(vm->h, STATUS_INVALID, "tojson(): separators must be two strings");
    }
    style->item_separator = separator(vm, two->items[0]);
    style->key_separator = separator(vm, two->items[1]);
}

JINJA_BUILTIN(filter_tojson) {
    jinja_json_style style = {.ensure_ascii = jinja_value_truth(argv[0]),
                              .sort_keys = jinja_value_truth(argv[3])};
    if (argv[1].type == JINJA_STRING) {
        style.indented = true;
        style.indent = jinja_string_str(argv[1]);
    } else if (argv[1].type != JINJA_ABSENT && argv[1].type != JINJA_NONE) {
        style.indented = true;
        jinja_value space = jinja_string_from(vm->h, " ");
        int64_t width = jinja_value_need_int(vm->h, argv[1], "tojson()'s indent");
        style.indent = jinja_string_str(jinja_string_repeat(vm->h, space.as.string, width));
    }
    read_separators(vm, argv[2], &style);
    jinja_builder b = jinja_string_builder(vm->h);
    jinja_json_dump(&b, self, &style);
    return jinja_string_built(&b);
}

JINJA_BUILTIN(filter_from_json) {
    if (self.type != JINJA_STRING) {
        jinja_heap_fail(vm->h, STATUS_INVALID, "from_json needs a string, not %s",
                        jinja_value_type_name(self));
    }
    return jinja_json_load(vm->h, jinja_string_str(self));
}

static const jinja_builtin rows[] = {
    {"abs", "", filter_abs},
    {"attr", "!name", filter_attr},
    {"count", "", filter_length},
    {"d", "default_value,boolean", filter_default},
    {"default", "default_value,boolean", filter_default},
    {"float", "default", filter_float},
    {"from_json", "", filter_from_json},
    {"int", "default,base", filter_int},
    {"length", "", filter_length},
    {"list", "", filter_list},
    {"round", "precision,method", filter_round},
    {"tojson", "ensure_ascii,indent,separators,sort_keys", filter_tojson},
};

const jinja_builtin_table jinja_filter_value_table = JINJA_BUILTIN_TABLE(rows);
