/* jinja_spec.c -- format specifications (Python's format mini-language). */
#include "models/text/jinja_spec.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "models/text/jinja_format.h"
#include "models/text/jinja_print.h"
#include "models/text/jinja_unicode.h"

enum { DIGITS_BYTES = 700 }; /* 309 whole digits, the point, 300 digits; groups are put later */

static int64_t read_count(jinja_heap *h, str text, size_t *at) {
    int64_t value = 0;
    while (*at < text.bytes && text.data[*at] >= '0' && text.data[*at] <= '9') {
        value = value * 10 + (text.data[(*at)++] - '0');
        if (value > (int64_t)h->bytes_max) {
            jinja_heap_fail(h, STATUS_LIMIT, "a format's width or precision is too large");
        }
    }
    return value;
}

static bool one_of(const char *set, str text, size_t at) {
    return at < text.bytes && text.data[at] && strchr(set, text.data[at]);
}

jinja_spec jinja_spec_read(jinja_heap *h, str text) {
    jinja_spec spec = {.precision = -1};
    size_t at = 0, after = 0;
    uint32_t first = text.bytes ? jinja_unicode_next(text.data, text.bytes, &after) : 0;
    if (text.bytes && one_of("<>=^", text, after)) {
        spec.fill = first;
        spec.align = text.data[after];
        at = after + 1;
    } else if (one_of("<>=^", text, 0)) {
        spec.align = text.data[at++];
    }
    if (one_of("+- ", text, at)) {
        spec.sign = text.data[at++];
    }
    if (one_of("#", text, at)) {
        spec.alternate = true;
        at++;
    }
    if (one_of("0", text, at)) {
        spec.fill = spec.fill ? spec.fill : '0';
        spec.align = spec.align ? spec.align : '=';
        at++;
    }
    spec.width = read_count(h, text, &at);
    if (one_of(",_", text, at)) {
        spec.group = text.data[at++];
    }
    if (one_of(".", text, at)) {
        at++;
        if (!one_of("0123456789", text, at)) {
            jinja_heap_fail(h, STATUS_INVALID, "format specifier missing precision");
        }
        spec.precision = read_count(h, text, &at);
    }
    if (at < text.bytes) {
        spec.type = text.data[at++];
    }
    if (at < text.bytes) {
        jinja_heap_fail(h, STATUS_INVALID, "invalid format specifier");
    }
    return spec;
}

static void pad_with_sign(jinja_builder *b, const jinja_spec *spec, str sign, str text, bool left) {
    int64_t chars = (int64_t)(jinja_string_count(text.data, text.bytes) + sign.bytes);
    int64_t room = spec->width > chars ? spec->width - chars : 0;
    char align = spec->align ? spec->align : left ? '<' : '>';
    int64_t before = align == '>' ? room : align == '^' ? room / 2 : 0;
    uint32_t fill = spec->fill ? spec->fill : ' ';
    jinja_string_put_times(b, fill, before);
    jinja_string_put(b, sign.data, sign.bytes);
    if (align == '=') {
        jinja_string_put_times(b, fill, room);
        room = 0;
    }
    jinja_string_put(b, text.data, text.bytes);
    jinja_string_put_times(b, fill, room - before);
}

void jinja_spec_pad(jinja_builder *b, const jinja_spec *spec, str text, bool left) {
    pad_with_sign(b, spec, str_of("", 0), text, left);
}

/* Puts a group mark between every `size` of the leading digits. */
static str group_digits(jinja_heap *h, str text, char mark, size_t size) {
    size_t whole = 0;
    while (whole < text.bytes && text.data[whole] != '.' && text.data[whole] != 'e' &&
           text.data[whole] != '%') {
        whole++;
    }
    char *out = jinja_heap_take(h, 2, text.bytes);
    size_t n = 0;
    for (size_t i = 0; i < text.bytes; i++) {
        if (i > 0 && i < whole && (whole - i) % size == 0) {
            out[n++] = mark;
        }
        out[n++] = text.data[i];
    }
    return str_of(out, n);
}

static size_t integer_digits(uint64_t value, char type, char out[72]) {
    unsigned base = type == 'b' ? 2 : type == 'o' ? 8 : type == 'x' || type == 'X' ? 16 : 10;
    const char *digits = type == 'X' ? "0123456789ABCDEF" : "0123456789abcdef";
    char reversed[72];
    size_t n = 0;
    do {
        reversed[n++] = digits[value % base];
        value /= base;
    } while (value);
    for (size_t i = 0; i < n; i++) {
        out[i] = reversed[n - 1 - i];
    }
    return n;
}

static void put_integer(jinja_builder *b, int64_t value, const jinja_spec *spec) {
    char digits[72], prefix[4];
    uint64_t magnitude = value < 0 ? 0 - (uint64_t)value : (uint64_t)value;
    char type = spec->type ? spec->type : 'd';
    if (spec->precision >= 0) {
        jinja_heap_fail(b->h, STATUS_INVALID, "precision not allowed in integer format");
    }
    if (type == 'c') {
        if (value < 0 || value > 0x10FFFF || (value >= 0xD800 && value <= 0xDFFF)) {
            jinja_heap_fail(b->h, STATUS_INVALID, "%%c needs a character's number");
        }
        jinja_spec_pad(b, spec, str_of(digits, str_utf8_put((uint32_t)value, digits)), true);
        return;
    }
    str text = str_of(digits, integer_digits(magnitude, type, digits));
    if (spec->group) {
        text = group_digits(b->h, text, spec->group, type == 'd' || type == 'n' ? 3 : 4);
    }
    size_t n = 0;
    if (value < 0 || spec->sign == '+' || spec->sign == ' ') {
        prefix[n++] = value < 0 ? '-' : spec->sign;
    }
    if (spec->alternate && type != 'd' && type != 'n') {
        prefix[n++] = '0';
        prefix[n++] = type;
    }
    pad_with_sign(b, spec, str_of(prefix, n), text, false);
}

/* The digits of |f|. */
static size_t float_digits(jinja_builder *b, double f, const jinja_spec *spec, char *out) {
    char type = spec->type, form[8];
    int precision = spec->precision < 0 ? 6 : (int)spec->precision;
    if (spec->precision > JINJA_FORMAT_PRECISION_MAX) {
        jinja_heap_fail(b->h, STATUS_LIMIT, "a precision above %d", JINJA_FORMAT_PRECISION_MAX);
    }
    if (!type && spec->precision < 0) {
        jinja_heap_charge(b->h, JINJA_PRINT_FLOAT_STEPS);
        return jinja_print_float(f, out);
    }
    jinja_heap_charge(b->h, JINJA_PRINT_FLOAT_STEPS + 4 * (size_t)precision);
    f = type == '%' ? f * 100 : f;
    char conversion = !type || type == 'n' ? 'g' : type == '%' ? 'f' : type;
    precision = precision == 0 && (conversion | 32) == 'g' ? 1 : precision;
    snprintf(form, sizeof form, spec->alternate ? "%%#.*%c" : "%%.*%c", conversion);
    size_t n = (size_t)snprintf(out, DIGITS_BYTES - 4, form, precision, f);
    if (!type && isfinite(f) && !memchr(out, '.', n) && !memchr(out, 'e', n)) {
        memcpy(out + n, ".0", 2);
        n += 2;
    }
    if (type == '%') {
        out[n++] = '%';
    }
    return n;
}

static void put_float(jinja_builder *b, double f, const jinja_spec *spec) {
    char digits[DIGITS_BYTES];
    bool negative = signbit(f) && !isnan(f);
    str text = str_of(digits, float_digits(b, negative ? -f : f, spec, digits));
    if (spec->group) {
        text = group_digits(b->h, text, spec->group, 3);
    }
    char sign = negative ? '-' : spec->sign == '+' || spec->sign == ' ' ? spec->sign : 0;
    pad_with_sign(b, spec, str_of(&sign, sign != 0), text, false);
}

static bool is_default(const jinja_spec *spec) {
    return !spec->fill && !spec->align && !spec->sign && !spec->group && !spec->type &&
           !spec->alternate && spec->width == 0 && spec->precision < 0;
}

static void put_string(jinja_builder *b, const jinja_string *s, const jinja_spec *spec) {
    size_t chars = s->chars;
    if (spec->precision >= 0 && (uint64_t)spec->precision < chars) {
        chars = (size_t)spec->precision;
    }
    if (spec->sign || spec->group || spec->alternate || spec->align == '=' ||
        (spec->type && spec->type != 's')) {
        jinja_heap_fail(b->h, STATUS_INVALID, "invalid format specifier for a string");
    }
    jinja_spec_pad(b, spec, str_of(s->data, jinja_string_offset(b->h, s, chars)), true);
}

void jinja_spec_put(jinja_builder *b, jinja_value v, const jinja_spec *spec) {
    int64_t integer;
    double number;
    if (is_default(spec)) {
        jinja_print_str(b, v);
    } else if (v.type == JINJA_STRING) {
        jinja_spec fixed = *spec;
        if (spec->fill == '0' && spec->align == '=') { /* "05" pads strings on the right */
            fixed.align = '<';
        }
        put_string(b, v.as.string, &fixed);
    } else if (jinja_value_integer(v, &integer) && (!spec->type || strchr("bcdoxXn", spec->type))) {
        put_integer(b, integer, spec);
    } else if (jinja_value_number(v, &number) && (!spec->type || strchr("eEfFgGn%", spec->type))) {
        put_float(b, number, spec);
    } else {
        jinja_heap_fail(b->h, STATUS_INVALID, "unsupported format string for %s",
                        jinja_value_type_name(v));
    }
}
