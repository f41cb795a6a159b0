/* jinja_print.c -- str() and repr(). */
#include "models/text/jinja_print.h"

#include <float.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "models/text/jinja_ast.h"
#include "models/text/jinja_dict.h"
#include "models/text/jinja_unicode.h"

/* The shortest decimal digits that read back as `f` (finite, > 0): digits[0] . digits[1..] times
 * ten to the returned power. */
static int shortest_digits(double f, char digits[20], size_t *count) {
    char text[JINJA_PRINT_FLOAT_BYTES];
    /* 15 digits survive the way through a double, so fewer are 15 with zeros behind them; but a
     * subnormal has less than 15. */
    for (int precision = f < DBL_MIN ? 0 : 14; precision <= 16; precision++) {
        snprintf(text, sizeof text, "%.*e", precision, f);
        if (strtod(text, NULL) == f) {
            break;
        }
    }
    const char *p = text;
    size_t n = 0;
    for (; *p != 'e'; p++) {
        if (*p >= '0' && *p <= '9') {
            digits[n++] = *p;
        }
    }
    while (n > 1 && digits[n - 1] == '0') {
        n--;
    }
    *count = n;
    return (int)strtol(p + 1, NULL, 10);
}

size_t jinja_print_float(double f, char out[JINJA_PRINT_FLOAT_BYTES]) {
    if (isnan(f) || isinf(f)) {
        return (size_t)snprintf(out, JINJA_PRINT_FLOAT_BYTES, "%s",
                                isnan(f) ? "nan"
                                : f < 0  ? "-inf"
                                         : "inf");
    }
    size_t n = 0;
    if (signbit(f)) {
        out[n++] = '-';
        f = -f;
    }
    char digits[20] = "0";
    size_t count = 1;
    int power = f == 0 ? 0 : shortest_digits(f, digits, &count);
    if (power < -4 || power >= 16) {
        out[n++] = digits[0];
        if (count > 1) {
            out[n++] = '.';
            memcpy(out + n, digits + 1, count - 1);
            n += count - 1;
        }
        n += (size_t)snprintf(out + n, JINJA_PRINT_FLOAT_BYTES - n, "e%c%02d",
                              power < 0 ? '-' : '+', abs(power));
        return n;
    }
    if (power < 0) {
        out[n++] = '0';
        out[n++] = '.';
        for (int i = -1; i > power; i--) {
            out[n++] = '0';
        }
    }
    for (size_t i = 0; i < count || (power >= 0 && i <= (size_t)power); i++) {
        out[n++] = i < count ? digits[i] : '0';
        if (power >= 0 && i == (size_t)power) {
            out[n++] = '.';
        }
    }
    if (out[n - 1] == '.') {
        out[n++] = '0';
    }
    return n;
}

static void repr_character(jinja_builder *b, uint32_t c, char quote) {
    char text[12];
    if (c == (uint32_t)quote || c == '\\') {
        jinja_string_put(b, "\\", 1);
        jinja_string_put_char(b, c);
    } else if (c == '\n' || c == '\r' || c == '\t') {
        jinja_string_put_z(b, c == '\n' ? "\\n" : c == '\r' ? "\\r" : "\\t");
    } else if ((c >= ' ' && c < 127) ||
               (c >= 128 && jinja_unicode_is(JINJA_UNICODE_PRINTABLE, c))) {
        jinja_string_put_char(b, c);
    } else {
        snprintf(text, sizeof text,
                 c < 0x100     ? "\\x%02" PRIx32
                 : c < 0x10000 ? "\\u%04" PRIx32
                               : "\\U%08" PRIx32,
                 c);
        jinja_string_put_z(b, text);
    }
}

static void repr_string(jinja_builder *b, const jinja_string *s) {
    bool has_single = memchr(s->bytes ? s->data : "", '\'', s->bytes) != NULL;
    bool has_double = memchr(s->bytes ? s->data : "", '"', s->bytes) != NULL;
    char quote = has_single && !has_double ? '"' : '\'';
    if (s->markup) {
        jinja_string_put_z(b, "Markup(");
    }
    jinja_string_put(b, &quote, 1);
    jinja_string_charge(b->h, s);
    for (size_t at = 0; at < s->bytes;) {
        repr_character(b, jinja_unicode_next(s->data, s->bytes, &at), quote);
    }
    jinja_string_put(b, &quote, 1);
    if (s->markup) {
        jinja_string_put(b, ")", 1);
    }
}

static void repr_items(jinja_builder *b, jinja_value v, const char *open, const char *close) {
    jinja_walk walk = jinja_value_need_walk(b->h, v);
    jinja_value item;
    jinja_string_put_z(b, open);
    for (size_t i = 0; jinja_value_next(b->h, &walk, &item); i++) {
        if (i) {
            jinja_string_put(b, ", ", 2);
        }
        jinja_print_repr(b, item);
    }
    jinja_string_put_z(b, close);
}

static void repr_dict(jinja_builder *b, const jinja_dict *d) {
    jinja_string_put(b, "{", 1);
    for (size_t i = 0; i < d->count; i++) {
        if (i) {
            jinja_string_put(b, ", ", 2);
        }
        jinja_print_repr(b, d->entries[i].key);
        jinja_string_put(b, ": ", 2);
        jinja_print_repr(b, d->entries[i].value);
    }
    jinja_string_put(b, "}", 1);
}

static void put_int(jinja_builder *b, int64_t i) {
    char text[24];
    jinja_string_put(b, text, (size_t)snprintf(text, sizeof text, "%" PRId64, i));
}

static void repr_range(jinja_builder *b, const jinja_range_value *range) {
    jinja_string_put_z(b, "range(");
    put_int(b, range->start);
    jinja_string_put(b, ", ", 2);
    put_int(b, range->stop);
    if (range->step != 1) {
        jinja_string_put(b, ", ", 2);
        put_int(b, range->step);
    }
    jinja_string_put(b, ")", 1);
}

static void repr_view(jinja_builder *b, jinja_value v) {
    static const char *const open[] = {"dict_keys([", "dict_values([", "dict_items(["};
    repr_items(b, v, open[v.flag], "])");
}

static void repr_container(jinja_builder *b, jinja_value v) {
    switch ((jinja_type)v.type) {
        case JINJA_LIST:
            repr_items(b, v, "[", "]");
            break;
        case JINJA_TUPLE:
            repr_items(b, v, "(", v.as.list->count == 1 ? ",)" : ")");
            break;
        case JINJA_DICT:
            repr_dict(b, v.as.dict);
            break;
        case JINJA_VIEW:
            repr_view(b, v);
            break;
        case JINJA_NAMESPACE:
            jinja_string_put_z(b, "<Namespace ");
            repr_dict(b, v.as.dict);
            jinja_string_put(b, ">", 1);
            break;
        case JINJA_MACRO:
            jinja_string_put_z(b, "<Macro ");
            repr_string(b, v.as.macro->def->name.as.string);
            jinja_string_put(b, ">", 1);
            break;
        default:
            jinja_string_put(b, "<", 1);
            jinja_string_put_z(b, jinja_value_type_name(v));
            jinja_string_put_z(b, " object>");
            break;
    }
}

void jinja_print_repr(jinja_builder *b, jinja_value v) {
    char number[JINJA_PRINT_FLOAT_BYTES];
    switch ((jinja_type)v.type) {
        case JINJA_ABSENT:
        case JINJA_UNDEFINED:
            jinja_string_put_z(b, "Undefined");
            break;
        case JINJA_NONE:
            jinja_string_put_z(b, "None");
            break;
        case JINJA_BOOL:
            jinja_string_put_z(b, v.as.boolean ? "True" : "False");
            break;
        case JINJA_INT:
            put_int(b, v.as.integer);
            break;
        case JINJA_FLOAT:
            jinja_heap_charge(b->h, JINJA_PRINT_FLOAT_STEPS);
            jinja_string_put(b, number, jinja_print_float(v.as.real, number));
            break;
        case JINJA_STRING:
            repr_string(b, v.as.string);
            break;
        case JINJA_RANGE:
            repr_range(b, v.as.range);
            break;
        default:
            jinja_heap_enter(b->h);
            repr_container(b, v);
            jinja_heap_leave(b->h);
            break;
    }
}

void jinja_print_str(jinja_builder *b, jinja_value v) {
    if (v.type == JINJA_STRING) {
        jinja_string_put_string(b, v.as.string);
    } else if (v.type != JINJA_UNDEFINED) {
        jinja_print_repr(b, v);
    }
}

jinja_value jinja_print_soft(jinja_heap *h, jinja_value v) {
    if (v.type == JINJA_STRING) {
        return v;
    }
    jinja_builder b = jinja_string_builder(h);
    jinja_print_str(&b, v);
    return jinja_string_built(&b);
}

jinja_value jinja_print_to_string(jinja_heap *h, jinja_value v) {
    return jinja_string_marked(h, jinja_print_soft(h, v), false);
}
