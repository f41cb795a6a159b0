/* config_value.c -- turns one option's text into its field, checked. */
#include <ctype.h>
#include <math.h>

#include "engine/base/check.h"
#include "engine/base/config.h"

/* A double bound as int64_t; bounds beyond it are the type's own. */
static int64_t bound_of(double bound) {
    if (bound >= 0x1p63) {
        return INT64_MAX;
    }
    return bound <= -0x1p63 ? INT64_MIN : (int64_t)bound;
}

static bool has_bounds(const config_option *o) {
    return o->min != 0 || o->max != 0;
}

static bool read_bool(str text, bool *out) {
    static const char *const words[] = {"false", "true", "no", "yes", "off", "on", "0", "1"};
    for (size_t i = 0; i < sizeof words / sizeof words[0]; i++) {
        if (str_equal_z(text, words[i])) {
            *out = i % 2;
            return true;
        }
    }
    return false;
}

/* 4096, 64k, 64KiB, 1.5g: powers of 1024; a fraction of a byte is cut off. */
static bool read_bytes(str text, int64_t *out) {
    static const char suffixes[] = "kmgt";
    size_t digits = 0;
    while (digits < text.bytes &&
           (isdigit((unsigned char)text.data[digits]) || text.data[digits] == '.')) {
        digits++;
    }
    double value;
    if (!str_to_f64(str_of(text.data, digits), &value)) {
        return false;
    }
    str tail = str_of(text.data + digits, text.bytes - digits);
    if (tail.bytes) {
        const char *at = strchr(suffixes, tolower((unsigned char)tail.data[0]));
        bool whole = tail.bytes == 1 ||
                     (tail.bytes == 2 && tolower((unsigned char)tail.data[1]) == 'b') ||
                     (tail.bytes == 3 && tail.data[1] == 'i' && tail.data[2] == 'B');
        if (!at || !*at || !whole) {
            return false;
        }
        value = ldexp(value, 10 * (int)(at - suffixes + 1));
    }
    if (value >= 0x1p63) {
        return false;
    }
    *out = (int64_t)value;
    return true;
}

static bool store_int(const config_option *o, str text, void *field) {
    int64_t min = has_bounds(o) ? bound_of(o->min) : INT64_MIN;
    int64_t max = has_bounds(o) ? bound_of(o->max) : INT64_MAX;
    int64_t value;
    if (o->kind == CONFIG_INT) {
        if (!str_to_i64(text, min, max, &value)) {
            return false;
        }
    } else if (!read_bytes(text, &value) || value < min || value > max) {
        return false;
    }
    memcpy(field, &value, sizeof value);
    return true;
}

static bool store_double(const config_option *o, str text, void *field) {
    double value;
    if (!str_to_f64(text, &value) || (has_bounds(o) && (value < o->min || value > o->max))) {
        return false;
    }
    memcpy(field, &value, sizeof value);
    return true;
}

static bool store_enum(const config_option *o, str text, void *field) {
    for (int32_t i = 0; o->choices[i]; i++) {
        if (str_equal_z(text, o->choices[i])) {
            memcpy(field, &i, sizeof i);
            return true;
        }
    }
    return false;
}

bool config_value_store(const config_option *o, const char *text, void *field) {
    str s = str_from(text);
    bool flag;
    switch (o->kind) {
        case CONFIG_BOOL:
            if (!read_bool(s, &flag)) {
                return false;
            }
            memcpy(field, &flag, sizeof flag);
            return true;
        case CONFIG_INT:
        case CONFIG_BYTES:
            return store_int(o, s, field);
        case CONFIG_DOUBLE:
            return store_double(o, s, field);
        case CONFIG_ENUM:
            return store_enum(o, s, field);
        case CONFIG_STRING:
            if (o->max > 0 && (double)s.bytes > o->max) {
                return false;
            }
            memcpy(field, &text, sizeof text);
            return true;
    }
    UNREACHABLE();
}
