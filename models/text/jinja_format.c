/* jinja_format.c -- percent and brace formatting. */
#include "models/text/jinja_format.h"

#include "models/text/jinja_dict.h"
#include "models/text/jinja_eval.h"
#include "models/text/jinja_number.h"
#include "models/text/jinja_print.h"
#include "models/text/jinja_spec.h"
#include "models/text/jinja_unicode.h"

typedef struct {
    jinja_vm *vm;
    jinja_builder out;
    str text;
    size_t at;
    bool markup;
    /* percent */
    jinja_value values;
    size_t next;
    /* braces */
    const jinja_args *args;
    enum { NUMBERING_NONE, NUMBERING_AUTO, NUMBERING_MANUAL } numbering;
} formatter;

_Noreturn static void format_fail(formatter *f, const char *what) {
    jinja_heap_fail(f->vm->h, STATUS_INVALID, "%s", what);
}

static char peek(const formatter *f) {
    return f->at < f->text.bytes ? f->text.data[f->at] : 0;
}

static bool take(formatter *f, char c) {
    bool here = f->at < f->text.bytes && f->text.data[f->at] == c;
    f->at += here;
    return here;
}

static jinja_value next_value(formatter *f) {
    if (f->values.type == JINJA_TUPLE) {
        if (f->next >= f->values.as.list->count) {
            format_fail(f, "not enough arguments for format string");
        }
        return f->values.as.list->items[f->next++];
    }
    if (f->next++ > 0) {
        format_fail(f, "not enough arguments for format string");
    }
    return f->values;
}

static int64_t percent_count(formatter *f) {
    if (take(f, '*')) {
        return jinja_value_need_int(f->vm->h, next_value(f), "* in a format");
    }
    int64_t value = 0;
    while (peek(f) >= '0' && peek(f) <= '9') {
        value = value * 10 + (f->text.data[f->at++] - '0');
        if (value > (int64_t)f->vm->h->bytes_max) {
            jinja_heap_fail(f->vm->h, STATUS_LIMIT, "a format's width is too large");
        }
    }
    return value;
}

static jinja_value named_value(formatter *f) {
    size_t close = str_find(f->text, str_of(")", 1), f->at);
    if (close == SIZE_MAX || f->values.type != JINJA_DICT) {
        format_fail(f, close == SIZE_MAX ? "incomplete format key" : "format requires a mapping");
    }
    const jinja_value *found =
        jinja_dict_find_bytes(f->values.as.dict, f->text.data + f->at, close - f->at);
    if (!found) {
        format_fail(f, "a format's key is not in the mapping");
    }
    f->at = close + 1;
    return *found;
}

static void percent_text(formatter *f, jinja_value v, const jinja_spec *spec, bool repr) {
    jinja_value text = v;
    if (repr) {
        jinja_builder b = jinja_string_builder(f->vm->h);
        jinja_print_repr(&b, v);
        text = jinja_string_built(&b);
    } else {
        text = jinja_print_soft(f->vm->h, v);
    }
    if (f->markup && !text.as.string->markup) {
        text = jinja_string_escape(f->vm->h, text.as.string);
    }
    const jinja_string *s = text.as.string;
    size_t chars = s->chars;
    if (spec->precision >= 0 && (uint64_t)spec->precision < chars) {
        chars = (size_t)spec->precision;
    }
    jinja_spec_pad(&f->out, spec, str_of(s->data, jinja_string_offset(f->vm->h, s, chars)),
                   spec->align == '<');
}

/* %d of an integer with a precision is a least number of digits. */
static void percent_integer(formatter *f, int64_t value, jinja_spec *spec) {
    int64_t digits = spec->precision;
    spec->precision = -1;
    if (digits < 0) {
        jinja_spec_put(&f->out, jinja_value_int(value), spec);
        return;
    }
    jinja_builder b = jinja_string_builder(f->vm->h);
    jinja_spec inner = {.fill = '0',
                        .align = '=',
                        .sign = spec->sign,
                        .type = spec->type,
                        .precision = -1,
                        .width = digits + (value < 0 || spec->sign == '+' || spec->sign == ' ')};
    jinja_spec_put(&b, jinja_value_int(value), &inner);
    spec->fill = ' ';
    jinja_spec_pad(&f->out, spec, str_of(b.data, b.bytes), spec->align == '<');
}

static void percent_number(formatter *f, jinja_value v, jinja_spec *spec) {
    int64_t integer;
    double number;
    bool whole = strchr("diuoxXc", spec->type) != NULL;
    spec->type = spec->type == 'i' || spec->type == 'u' ? 'd' : spec->type;
    if (spec->type == 'c' && v.type == JINJA_STRING && v.as.string->chars == 1) {
        percent_text(f, v, spec, false);
    } else if (whole && v.type == JINJA_FLOAT && spec->type == 'd') {
        percent_integer(f, jinja_number_truncate(f->vm->h, v.as.real).as.integer, spec);
    } else if (whole && jinja_value_integer(v, &integer)) {
        percent_integer(f, integer, spec);
    } else if (!whole && jinja_value_number(v, &number)) {
        jinja_spec_put(&f->out, jinja_value_float(number), spec);
    } else {
        jinja_heap_fail(f->vm->h, STATUS_INVALID, "%%%c format: a number is required, not %s",
                        spec->type, jinja_value_type_name(v));
    }
}

/* One conversion, after its '%'. */
static void percent_one(formatter *f) {
    jinja_spec spec = {.precision = -1, .align = '>'};
    jinja_value v = jinja_value_absent();
    if (take(f, '(')) {
        v = named_value(f);
    }
    for (char c = peek(f); c && strchr("#0- +", c); c = peek(f)) {
        f->at++;
        spec.alternate |= c == '#';
        spec.sign = c == '+' || (c == ' ' && spec.sign != '+') ? c : spec.sign;
        if (c == '-') {
            spec.align = '<';
            spec.fill = ' ';
        } else if (c == '0' && spec.align != '<') {
            spec.align = '=';
            spec.fill = '0';
        }
    }
    spec.width = percent_count(f);
    if (spec.width < 0) {
        spec.width = -spec.width;
        spec.align = '<';
    }
    if (take(f, '.')) {
        spec.precision = percent_count(f);
        spec.precision = spec.precision < 0 ? 0 : spec.precision;
    }
    while (peek(f) && strchr("hlL", peek(f))) {
        f->at++;
    }
    char type = peek(f);
    f->at++;
    if (type == '%') {
        jinja_string_put(&f->out, "%", 1);
        return;
    }
    if (!type || !strchr("diuoxXeEfFgGcrsa", type)) {
        format_fail(f, "unsupported or incomplete format character");
    }
    spec.type = type;
    v = v.type == JINJA_ABSENT ? next_value(f) : v;
    if (strchr("rsa", type)) {
        spec.align = spec.align == '=' ? '>' : spec.align;
        spec.fill = ' ';
        percent_text(f, v, &spec, type != 's');
    } else {
        percent_number(f, v, &spec);
    }
}

jinja_value jinja_format_percent(jinja_vm *vm, jinja_value format, jinja_value values) {
    formatter f = {.vm = vm,
                   .out = jinja_string_builder(vm->h),
                   .text = jinja_string_str(format),
                   .markup = format.as.string->markup,
                   .values = values};
    while (f.at < f.text.bytes) {
        size_t end = str_find(f.text, str_of("%", 1), f.at);
        end = end == SIZE_MAX ? f.text.bytes : end;
        jinja_string_put(&f.out, f.text.data + f.at, end - f.at);
        f.at = end + 1;
        if (end < f.text.bytes) {
            jinja_heap_charge(vm->h, 1);
            percent_one(&f);
        }
    }
    bool mapping = values.type == JINJA_DICT || values.type == JINJA_LIST ||
                   values.type == JINJA_UNDEFINED || values.type == JINJA_RANGE;
    size_t count = values.type == JINJA_TUPLE ? values.as.list->count : mapping ? f.next : 1;
    if (f.next < count) {
        format_fail(&f, "not all arguments converted during string formatting");
    }
    return jinja_string_marked(vm->h, jinja_string_built(&f.out), f.markup);
}

static void braces(formatter *f, jinja_builder *out, int depth);

static jinja_value argument_at(formatter *f, size_t index) {
    if (index >= f->args->count) {
        format_fail(f, "a format names an argument that is not there");
    }
    return f->args->items[index];
}

static jinja_value argument_named(formatter *f, str name) {
    for (size_t i = 0; i < f->args->named_count; i++) {
        if (str_equal(jinja_string_str(f->args->names[i]), name)) {
            return f->args->named[i];
        }
    }
    format_fail(f, "a format names an argument that is not there");
}

static void number_by(formatter *f, bool manual) {
    int numbering = manual ? NUMBERING_MANUAL : NUMBERING_AUTO;
    if (f->numbering != NUMBERING_NONE && (int)f->numbering != numbering) {
        format_fail(f, "automatic and manual field numbers don't mix");
    }
    f->numbering = manual ? NUMBERING_MANUAL : NUMBERING_AUTO;
}

static jinja_value first_of_field(formatter *f, str name) {
    int64_t index;
    if (name.bytes == 0) {
        number_by(f, false);
        return argument_at(f, f->next++);
    }
    if (str_to_i64(name, 0, INT32_MAX, &index)) {
        number_by(f, true);
        return argument_at(f, (size_t)index);
    }
    return argument_named(f, name);
}

/* name(.attribute | [key])* */
static jinja_value field_value(formatter *f, str field) {
    jinja_heap *h = f->vm->h;
    size_t at = 0;
    while (at < field.bytes && field.data[at] != '.' && field.data[at] != '[') {
        at++;
    }
    jinja_value v = first_of_field(f, str_of(field.data, at));
    while (at < field.bytes) {
        bool item = field.data[at++] == '[';
        size_t end = at;
        while (end < field.bytes &&
               (item ? field.data[end] != ']' : field.data[end] != '.' && field.data[end] != '[')) {
            end++;
        }
        str key = str_of(field.data + at, end - at);
        int64_t index;
        if (key.bytes == 0 || (item && end == field.bytes)) {
            format_fail(f, "empty attribute or missing ']' in a format");
        }
        if (item) {
            v = jinja_eval_item(f->vm, v,
                                str_to_i64(key, 0, INT32_MAX, &index)
                                    ? jinja_value_int(index)
                                    : jinja_string_borrow(h, key.data, key.bytes));
        } else {
            v = jinja_eval_attribute(f->vm, v, jinja_string_borrow(h, key.data, key.bytes));
        }
        at = end + item;
        if (item && at < field.bytes && field.data[at] != '.' && field.data[at] != '[') {
            format_fail(f, "only '.' or '[' may follow ']' in a format");
        }
    }
    return v;
}

static jinja_value converted(formatter *f, jinja_value v) {
    if (!take(f, '!')) {
        return v;
    }
    char how = peek(f);
    f->at++;
    if (how == 's') {
        return jinja_print_to_string(f->vm->h, v);
    }
    if (how != 'r' && how != 'a') {
        format_fail(f, "unknown conversion in a format");
    }
    jinja_builder b = jinja_string_builder(f->vm->h);
    jinja_print_repr(&b, v);
    return jinja_string_built(&b);
}

/* One replacement field, after its '{'. */
static void brace_field(formatter *f, jinja_builder *out, int depth) {
    size_t from = f->at;
    bool brackets = false;
    while (f->at < f->text.bytes && (brackets || !strchr("!:}{", peek(f)) || !peek(f))) {
        brackets = peek(f) == '[' || (brackets && peek(f) != ']');
        f->at++;
    }
    jinja_value v = field_value(f, str_of(f->text.data + from, f->at - from));
    v = converted(f, v);
    jinja_builder spec_text = jinja_string_builder(f->vm->h);
    if (take(f, ':')) {
        if (depth >= 2) {
            format_fail(f, "a format is nested too deep");
        }
        braces(f, &spec_text, depth + 1);
    }
    if (!take(f, '}')) {
        format_fail(f, "expected '}' in a format");
    }
    jinja_spec spec = jinja_spec_read(f->vm->h, str_of(spec_text.data, spec_text.bytes));
    jinja_spec_put(out, v, &spec);
}

/* Text with fields: the whole (depth 0), or a specification up to its '}'. */
static void braces(formatter *f, jinja_builder *out, int depth) {
    while (f->at < f->text.bytes) {
        char c = peek(f);
        jinja_heap_charge(f->vm->h, 1);
        if (depth && c == '}') {
            return;
        }
        f->at++;
        if (c != '{' && c != '}') {
            jinja_string_put(out, &c, 1);
        } else if (depth == 0 && take(f, c)) {
            jinja_string_put(out, &c, 1);
        } else if (c == '}') {
            format_fail(f, "single '}' in a format");
        } else {
            brace_field(f, out, depth);
        }
    }
}

jinja_value jinja_format_braces(jinja_vm *vm, jinja_value format, const jinja_args *args) {
    formatter f = {.vm = vm,
                   .out = jinja_string_builder(vm->h),
                   .text = jinja_string_str(format),
                   .args = args};
    braces(&f, &f.out, 0);
    return jinja_string_marked(vm->h, jinja_string_built(&f.out), format.as.string->markup);
}
