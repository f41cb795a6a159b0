/* jinja_unicode.c -- binary searches in the generated tables. */
#include "models/text/jinja_unicode.h"

#include "engine/base/str.h"
#include "models/text/jinja_unicode_table.h"

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

static bool range_has(const jinja_range *rows, size_t count, uint32_t c) {
    size_t low = 0, high = count;
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (c > rows[middle].last) {
            low = middle + 1;
        } else if (c < rows[middle].first) {
            high = middle;
        } else {
            return (c - rows[middle].first) % rows[middle].stride == 0;
        }
    }
    return false;
}

static bool ascii_is(jinja_unicode_class what, uint32_t c) {
    bool lower = c >= 'a' && c <= 'z', upper = c >= 'A' && c <= 'Z';
    switch (what) {
        case JINJA_UNICODE_ALPHA:
            return lower || upper;
        case JINJA_UNICODE_DECIMAL:
        case JINJA_UNICODE_DIGIT:
        case JINJA_UNICODE_NUMERIC:
            return c >= '0' && c <= '9';
        case JINJA_UNICODE_SPACE:
            return c == ' ' || (c >= '\t' && c <= '\r') || (c >= 0x1C && c <= 0x1F);
        case JINJA_UNICODE_PRINTABLE:
            return c >= ' ' && c < 127;
        case JINJA_UNICODE_LOWER:
            return lower;
        case JINJA_UNICODE_UPPER:
            return upper;
        case JINJA_UNICODE_TITLE:
            return false;
    }
    return false;
}

bool jinja_unicode_is(jinja_unicode_class what, uint32_t c) {
    if (c < 128) {
        return ascii_is(what, c);
    }
    switch (what) {
        case JINJA_UNICODE_ALPHA:
            return range_has(unicode_alpha, COUNT(unicode_alpha), c);
        case JINJA_UNICODE_DECIMAL:
            return range_has(unicode_decimal, COUNT(unicode_decimal), c);
        case JINJA_UNICODE_DIGIT:
            return range_has(unicode_digit, COUNT(unicode_digit), c);
        case JINJA_UNICODE_NUMERIC:
            return range_has(unicode_numeric, COUNT(unicode_numeric), c);
        case JINJA_UNICODE_SPACE:
            return range_has(unicode_space, COUNT(unicode_space), c);
        case JINJA_UNICODE_PRINTABLE:
            return range_has(unicode_printable, COUNT(unicode_printable), c);
        case JINJA_UNICODE_LOWER:
            return range_has(unicode_lower, COUNT(unicode_lower), c);
        case JINJA_UNICODE_UPPER:
            return range_has(unicode_upper, COUNT(unicode_upper), c);
        case JINJA_UNICODE_TITLE:
            return range_has(unicode_title, COUNT(unicode_title), c);
    }
    return false;
}

bool jinja_unicode_alnum(uint32_t c) {
    return jinja_unicode_is(JINJA_UNICODE_ALPHA, c) || jinja_unicode_is(JINJA_UNICODE_NUMERIC, c);
}

bool jinja_unicode_cased(uint32_t c) {
    return jinja_unicode_is(JINJA_UNICODE_LOWER, c) || jinja_unicode_is(JINJA_UNICODE_UPPER, c) ||
           jinja_unicode_is(JINJA_UNICODE_TITLE, c);
}

static size_t map_with(const jinja_case *rows, size_t count, const jinja_special *special,
                       size_t special_count, uint32_t c, uint32_t out[3]) {
    for (size_t i = 0; i < special_count && special[i].from <= c; i++) {
        if (special[i].from == c) {
            size_t n = 0;
            while (n < 3 && special[i].to[n]) {
                out[n] = special[i].to[n];
                n++;
            }
            return n;
        }
    }
    out[0] = c;
    size_t low = 0, high = count;
    while (low < high) {
        size_t middle = (low + high) / 2;
        const jinja_case *row = &rows[middle];
        if (c > row->last) {
            low = middle + 1;
        } else if (c < row->first) {
            high = middle;
        } else {
            if ((c - row->first) % row->stride == 0) {
                out[0] = (uint32_t)((int32_t)c + row->delta);
            }
            break;
        }
    }
    return 1;
}

size_t jinja_unicode_map(jinja_unicode_case to, uint32_t c, uint32_t out[3]) {
    if (c < 128) {
        bool lower = c >= 'a' && c <= 'z', upper = c >= 'A' && c <= 'Z';
        out[0] = to == JINJA_UNICODE_TO_LOWER ? (upper ? c + 32 : c) : (lower ? c - 32 : c);
        return 1;
    }
    switch (to) {
        case JINJA_UNICODE_TO_LOWER:
            return map_with(unicode_to_lower, COUNT(unicode_to_lower), unicode_to_lower_special,
                            COUNT(unicode_to_lower_special), c, out);
        case JINJA_UNICODE_TO_UPPER:
            return map_with(unicode_to_upper, COUNT(unicode_to_upper), unicode_to_upper_special,
                            COUNT(unicode_to_upper_special), c, out);
        case JINJA_UNICODE_TO_TITLE:
            return map_with(unicode_to_title, COUNT(unicode_to_title), unicode_to_title_special,
                            COUNT(unicode_to_title_special), c, out);
    }
    return 0;
}

uint32_t jinja_unicode_next(const char *data, size_t bytes, size_t *at) {
    unsigned char first = (unsigned char)data[*at];
    if (first < 128) {
        (*at)++;
        return first;
    }
    uint32_t c;
    int taken = str_utf8_next(data + *at, bytes - *at, &c);
    if (taken <= 0) {
        (*at)++;
        return 0xFFFD;
    }
    *at += (size_t)taken;
    return c;
}
