/* jinja_number.c -- arithmetic and reading of numbers, as Python does them. */
#include "models/text/jinja_number.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "models/text/jinja_unicode.h"

enum { NUMBER_TEXT_BYTES = 400 };

_Noreturn static void fail_overflow(jinja_heap *h) {
    jinja_heap_fail(h, STATUS_INVALID, "an integer beyond 64 bits");
}

_Noreturn static void fail_zero(jinja_heap *h) {
    jinja_heap_fail(h, STATUS_INVALID, "division by zero");
}

static int64_t floor_div(jinja_heap *h, int64_t a, int64_t b) {
    if (b == 0) {
        fail_zero(h);
    }
    if (b == -1) {
        int64_t out;
        if (__builtin_sub_overflow((int64_t)0, a, &out)) {
            fail_overflow(h);
        }
        return out;
    }
    int64_t quotient = a / b;
    return a % b != 0 && (a < 0) != (b < 0) ? quotient - 1 : quotient;
}

static int64_t floor_mod(jinja_heap *h, int64_t a, int64_t b) {
    if (b == 0) {
        fail_zero(h);
    }
    if (b == -1) {
        return 0;
    }
    int64_t rest = a % b;
    return rest != 0 && (rest < 0) != (b < 0) ? rest + b : rest;
}

static jinja_value int_power(jinja_heap *h, int64_t base, int64_t exponent) {
    if (exponent < 0) {
        if (base == 0) {
            fail_zero(h);
        }
        return jinja_value_float(pow((double)base, (double)exponent));
    }
    int64_t result = 1;
    bool overflow = false; /* of base; matters only once it is used */
    while (exponent > 0) {
        if (exponent & 1) {
            if (overflow || __builtin_mul_overflow(result, base, &result)) {
                fail_overflow(h);
            }
        }
        exponent >>= 1;
        if (exponent) {
            overflow |= __builtin_mul_overflow(base, base, &base);
        }
    }
    return jinja_value_int(result);
}

static jinja_value calculate_ints(jinja_heap *h, jinja_op op, int64_t a, int64_t b) {
    int64_t out = 0;
    bool overflow = false;
    switch (op) {
        case JINJA_OP_ADD:
            overflow = __builtin_add_overflow(a, b, &out);
            break;
        case JINJA_OP_SUB:
            overflow = __builtin_sub_overflow(a, b, &out);
            break;
        case JINJA_OP_MUL:
            overflow = __builtin_mul_overflow(a, b, &out);
            break;
        case JINJA_OP_DIV:
            if (b == 0) {
                fail_zero(h);
            }
            return jinja_value_float((double)a / (double)b);
        case JINJA_OP_FLOORDIV:
            out = floor_div(h, a, b);
            break;
        case JINJA_OP_MOD:
            out = floor_mod(h, a, b);
            break;
        default:
            return int_power(h, a, b);
    }
    if (overflow) {
        fail_overflow(h);
    }
    return jinja_value_int(out);
}

/* Python's float modulo: the sign of the divisor; and its quotient. */
static double float_mod(double a, double b, double *quotient) {
    double rest = fmod(a, b);
    double whole = (a - rest) / b;
    if (rest != 0) {
        if ((b < 0) != (rest < 0)) {
            rest += b;
            whole -= 1;
        }
    } else {
        rest = copysign(0, b);
    }
    if (whole != 0) {
        double floored = floor(whole);
        *quotient = whole - floored > 0.5 ? floored + 1 : floored;
    } else {
        *quotient = copysign(0, a / b);
    }
    return rest;
}

static double calculate_floats(jinja_heap *h, jinja_op op, double a, double b) {
    double quotient;
    switch (op) {
        case JINJA_OP_ADD:
            return a + b;
        case JINJA_OP_SUB:
            return a - b;
        case JINJA_OP_MUL:
            return a * b;
        case JINJA_OP_DIV:
            if (b == 0) {
                fail_zero(h);
            }
            return a / b;
        case JINJA_OP_FLOORDIV:
        case JINJA_OP_MOD: {
            if (b == 0) {
                fail_zero(h);
            }
            double rest = float_mod(a, b, &quotient);
            return op == JINJA_OP_MOD ? rest : quotient;
        }
        default:
            break;
    }
    if (a == 0 && b < 0) {
        fail_zero(h);
    }
    double power = pow(a, b);
    if ((isinf(power) && !isinf(a) && !isinf(b)) || (isnan(power) && !isnan(a) && !isnan(b))) {
        jinja_heap_fail(h, STATUS_INVALID, "the result of ** is out of range");
    }
    return power;
}

jinja_value jinja_number_calculate(jinja_heap *h, jinja_op op, jinja_value a, jinja_value b) {
    int64_t i = 0, j = 0;
    double f = 0, g = 0;
    if (jinja_value_integer(a, &i) && jinja_value_integer(b, &j)) {
        return calculate_ints(h, op, i, j);
    }
    (void)jinja_value_number(a, &f);
    (void)jinja_value_number(b, &g);
    return jinja_value_float(calculate_floats(h, op, f, g));
}

static str strip_blanks(str text) {
    size_t from = 0, to = text.bytes;
    while (from < to) {
        size_t next = from;
        if (!jinja_unicode_space(jinja_unicode_next(text.data, to, &next))) {
            break;
        }
        from = next;
    }
    while (to > from && jinja_unicode_space((unsigned char)text.data[to - 1])) {
        to--;
    }
    return str_of(text.data + from, to - from);
}

static int digit_of(char c) {
    if (c >= '0' && c <= '9') {
        return c - '0';
    }
    char lower = (char)(c | 32);
    return lower >= 'a' && lower <= 'z' ? lower - 'a' + 10 : 99;
}

/* Takes a prefix 0x, 0o or 0b off when the base allows it; gives the base to read in. */
static int take_prefix(str *text, int base) {
    static const struct {
        char letter;
        int base;
    } prefixes[] = {{'x', 16}, {'o', 8}, {'b', 2}};
    for (size_t i = 0; i < 3; i++) {
        if (text->bytes > 2 && text->data[0] == '0' && (text->data[1] | 32) == prefixes[i].letter &&
            (base == 0 || base == prefixes[i].base)) {
            text->data += 2;
            text->bytes -= 2;
            if (text->data[0] == '_' && text->bytes > 1) {
                text->data++;
                text->bytes--;
            }
            return prefixes[i].base;
        }
    }
    return base;
}

bool jinja_number_read_int(jinja_heap *h, str text, int base, jinja_value *out) {
    text = strip_blanks(text);
    bool negative = text.bytes && text.data[0] == '-';
    if (text.bytes && (text.data[0] == '-' || text.data[0] == '+')) {
        text.data++;
        text.bytes--;
    }
    int in = take_prefix(&text, base);
    bool zeros_only = in == 0 && text.bytes > 1 && text.data[0] == '0'; /* 007 is no literal */
    in = in == 0 ? 10 : in;
    int64_t value = 0;
    bool overflow = false, after_digit = false;
    for (size_t i = 0; i < text.bytes; i++) {
        if (text.data[i] == '_' && after_digit && i + 1 < text.bytes) {
            after_digit = false;
            continue;
        }
        int digit = digit_of(text.data[i]);
        if (digit >= in || (zeros_only && digit != 0)) {
            return false;
        }
        after_digit = true;
        overflow = overflow || __builtin_mul_overflow(value, (int64_t)in, &value) ||
                   __builtin_sub_overflow(value, (int64_t)digit, &value);
    }
    if (text.bytes == 0 || !after_digit) {
        return false;
    }
    if (overflow || (!negative && __builtin_sub_overflow((int64_t)0, value, &value))) {
        fail_overflow(h);
    }
    *out = jinja_value_int(value);
    return true;
}

static bool read_special(str text, double *out) {
    static const char *const words[] = {"inf", "infinity", "nan"};
    bool negative = text.bytes && text.data[0] == '-';
    if (text.bytes && (text.data[0] == '-' || text.data[0] == '+')) {
        text.data++;
        text.bytes--;
    }
    for (size_t i = 0; i < 3; i++) {
        if (text.bytes == strlen(words[i]) && strncasecmp(text.data, words[i], text.bytes) == 0) {
            double value = i == 2 ? (double)NAN : (double)INFINITY;
            *out = negative ? -value : value;
            return true;
        }
    }
    return false;
}

bool jinja_number_read_float(str text, jinja_value *out) {
    char clean[NUMBER_TEXT_BYTES];
    text = strip_blanks(text);
    double value;
    if (read_special(text, &value)) {
        *out = jinja_value_float(value);
        return true;
    }
    size_t n = 0;
    for (size_t i = 0; i < text.bytes; i++) {
        char c = text.data[i];
        bool digit = c >= '0' && c <= '9';
        bool joins = c == '_' && i > 0 && i + 1 < text.bytes && digit_of(text.data[i - 1]) < 10 &&
                     digit_of(text.data[i + 1]) < 10;
        if (joins) {
            continue;
        }
        if ((!digit && !(c && strchr("+-.eE", c))) || n + 1 >= sizeof clean) {
            return false;
        }
        clean[n++] = c;
    }
    clean[n] = '\0';
    char *end;
    value = strtod(clean, &end);
    if (n == 0 || end != clean + n) {
        return false;
    }
    *out = jinja_value_float(value);
    return true;
}

jinja_value jinja_number_truncate(jinja_heap *h, double f) {
    if (isnan(f) || isinf(f)) {
        jinja_heap_fail(h, STATUS_INVALID, "cannot convert float %s to integer",
                        isnan(f) ? "NaN" : "infinity");
    }
    if (f >= 0x1p63 || f < -0x1p63) {
        fail_overflow(h);
    }
    return jinja_value_int((int64_t)f);
}

/* Correctly rounded through decimal text, as CPython does. */
double jinja_number_round(double f, int64_t digits) {
    char text[NUMBER_TEXT_BYTES];
    if (isnan(f) || isinf(f) || digits > 300) {
        return f;
    }
    if (digits < -308) {
        return copysign(0, f);
    }
    if (digits < 0) {
        double scale = pow(10, (double)-digits);
        return nearbyint(f / scale) * scale;
    }
    snprintf(text, sizeof text, "%.*f", (int)digits, f);
    return strtod(text, NULL);
}
