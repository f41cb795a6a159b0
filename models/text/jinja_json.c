/* jinja_json.c -- json.dumps and json.loads. */
#include "models/text/jinja_json.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>

#include "models/text/jinja_compare.h"
#include "models/text/jinja_dict.h"
#include "models/text/jinja_print.h"
#include "models/text/jinja_unicode.h"

static void dump_at(jinja_builder *b, jinja_value v, const jinja_json_style *style, int depth);

/* The escape of a character inside a JSON string; 0 when it stands for itself. */
static size_t string_escape(uint32_t c, bool ensure_ascii, char out[16]) {
    static const char short_from[] = "\"\\\n\r\t\b\f", short_to[] = "\"\\nrtbf";
    const char *found = c && c < 128 ? strchr(short_from, (int)c) : NULL;
    if (found) {
        return (size_t)snprintf(out, 16, "\\%c", short_to[found - short_from]);
    }
    if (c >= 0x10000 && ensure_ascii) {
        c -= 0x10000;
        return (size_t)snprintf(out, 16, "\\u%04" PRIx32 "\\u%04" PRIx32, 0xD800 + (c >> 10),
                                0xDC00 + (c & 0x3FF));
    }
    if (c < ' ' || (ensure_ascii && c > 126)) {
        return (size_t)snprintf(out, 16, "\\u%04" PRIx32, c);
    }
    return 0;
}

static void dump_string(jinja_builder *b, const jinja_string *s, bool ensure_ascii) {
    char escape[16];
    size_t from = 0;
    jinja_string_put(b, "\"", 1);
    jinja_string_charge(b->h, s);
    for (size_t at = 0; at < s->bytes;) {
        size_t before = at;
        uint32_t c = (unsigned char)s->data[at];
        if (c < 128) {
            at++;
        } else {
            c = jinja_unicode_next(s->data, s->bytes, &at);
        }
        size_t bytes = string_escape(c, ensure_ascii && c != 127, escape);
        if (bytes) {
            jinja_string_put(b, s->data + from, before - from);
            jinja_string_put(b, escape, bytes);
            from = at;
        }
    }
    jinja_string_put(b, s->data + from, s->bytes - from);
    jinja_string_put(b, "\"", 1);
}

static void dump_float(jinja_builder *b, double f) {
    char text[JINJA_PRINT_FLOAT_BYTES];
    if (isnan(f) || isinf(f)) {
        jinja_string_put_z(b, isnan(f) ? "NaN" : f < 0 ? "-Infinity" : "Infinity");
    } else {
        jinja_heap_charge(b->h, JINJA_PRINT_FLOAT_STEPS);
        jinja_string_put(b, text, jinja_print_float(f, text));
    }
}

static void new_line(jinja_builder *b, const jinja_json_style *style, int depth) {
    if (style->indented) {
        jinja_string_put(b, "\n", 1);
        for (int i = 0; i < depth; i++) {
            jinja_string_put(b, style->indent.data, style->indent.bytes);
        }
    }
}

static void separator(jinja_builder *b, const jinja_json_style *style, size_t item, int depth) {
    if (item) {
        jinja_string_put(b, style->item_separator.data, style->item_separator.bytes);
    }
    new_line(b, style, depth);
}

static void dump_list(jinja_builder *b, const jinja_list *list, const jinja_json_style *style,
                      int depth) {
    jinja_string_put(b, "[", 1);
    for (size_t i = 0; i < list->count; i++) {
        separator(b, style, i, depth + 1);
        dump_at(b, list->items[i], style, depth + 1);
    }
    if (list->count) {
        new_line(b, style, depth);
    }
    jinja_string_put(b, "]", 1);
}

static void dump_key(jinja_builder *b, jinja_value key, const jinja_json_style *style) {
    if (key.type == JINJA_STRING) {
        dump_string(b, key.as.string, style->ensure_ascii);
        return;
    }
    if (key.type == JINJA_TUPLE || key.type > JINJA_STRING || key.type == JINJA_UNDEFINED) {
        jinja_heap_fail(b->h, STATUS_INVALID, "keys must be str, int, float, bool or None, not %s",
                        jinja_value_type_name(key));
    }
    jinja_string_put(b, "\"", 1);
    dump_at(b, key, style, 0);
    jinja_string_put(b, "\"", 1);
}

static void dump_dict(jinja_builder *b, const jinja_dict *d, const jinja_json_style *style,
                      int depth) {
    jinja_value *keys = JINJA_TAKE(b->h, d->count, jinja_value);
    jinja_value *places = JINJA_TAKE(b->h, d->count, jinja_value);
    for (size_t i = 0; i < d->count; i++) {
        keys[i] = d->entries[i].key;
        places[i] = jinja_value_int((int64_t)i);
    }
    if (style->sort_keys) {
        jinja_compare_sort(b->h, places, keys, d->count, false);
    }
    jinja_string_put(b, "{", 1);
    for (size_t i = 0; i < d->count; i++) {
        const jinja_entry *entry = &d->entries[places[i].as.integer];
        separator(b, style, i, depth + 1);
        dump_key(b, entry->key, style);
        jinja_string_put(b, style->key_separator.data, style->key_separator.bytes);
        dump_at(b, entry->value, style, depth + 1);
    }
    if (d->count) {
        new_line(b, style, depth);
    }
    jinja_string_put(b, "}", 1);
}

static void dump_at(jinja_builder *b, jinja_value v, const jinja_json_style *style, int depth) {
    jinja_heap_enter(b->h);
    jinja_heap_charge(b->h, 1);
    switch ((jinja_type)v.type) {
        case JINJA_NONE:
            jinja_string_put_z(b, "null");
            break;
        case JINJA_BOOL:
            jinja_string_put_z(b, v.as.boolean ? "true" : "false");
            break;
        case JINJA_INT:
            jinja_print_repr(b, v);
            break;
        case JINJA_FLOAT:
            dump_float(b, v.as.real);
            break;
        case JINJA_STRING:
            dump_string(b, v.as.string, style->ensure_ascii);
            break;
        case JINJA_LIST:
        case JINJA_TUPLE:
            dump_list(b, v.as.list, style, depth);
            break;
        case JINJA_DICT:
            dump_dict(b, v.as.dict, style, depth);
            break;
        default:
            jinja_heap_fail(b->h, STATUS_INVALID, "Object of type %s is not JSON serializable",
                            jinja_value_type_name(v));
    }
    jinja_heap_leave(b->h);
}

void jinja_json_dump(jinja_builder *b, jinja_value v, const jinja_json_style *style) {
    dump_at(b, v, style, 0);
}

typedef struct {
    jinja_heap *h;
    str text;
    size_t at;
} json_reader;

static jinja_value load_value(json_reader *r);

_Noreturn static void load_fail(json_reader *r, const char *what) {
    jinja_heap_fail(r->h, STATUS_INVALID, "from_json: %s at byte %zu", what, r->at);
}

static void skip_blank(json_reader *r) {
    while (r->at < r->text.bytes && strchr(" \t\n\r", r->text.data[r->at]) && r->text.data[r->at]) {
        r->at++;
    }
}

static bool take(json_reader *r, const char *word) {
    size_t bytes = strlen(word);
    if (r->text.bytes - r->at < bytes || memcmp(r->text.data + r->at, word, bytes) != 0) {
        return false;
    }
    r->at += bytes;
    return true;
}

static uint32_t load_hex(json_reader *r) {
    uint32_t value = 0;
    for (int i = 0; i < 4; i++) {
        char c = r->at < r->text.bytes ? r->text.data[r->at] : 0;
        int digit = c >= '0' && c <= '9'   ? c - '0'
                    : c >= 'a' && c <= 'f' ? c - 'a' + 10
                    : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                           : -1;
        if (digit < 0) {
            load_fail(r, "invalid \\u escape");
        }
        value = value * 16 + (uint32_t)digit;
        r->at++;
    }
    return value;
}

static uint32_t load_escape(json_reader *r) {
    static const char from[] = "\"\\/bfnrt", to[] = "\"\\/\b\f\n\r\t";
    char c = r->at < r->text.bytes ? r->text.data[r->at++] : 0;
    const char *found = c ? strchr(from, c) : NULL;
    if (found) {
        return (uint32_t)to[found - from];
    }
    if (c != 'u') {
        load_fail(r, "invalid escape");
    }
    uint32_t high = load_hex(r);
    if (high < 0xD800 || high > 0xDFFF) {
        return high;
    }
    uint32_t low = high < 0xDC00 && take(r, "\\u") ? load_hex(r) : 0;
    if (low < 0xDC00 || low > 0xDFFF) {
        load_fail(r, "half of a surrogate pair");
    }
    return 0x10000 + ((high - 0xD800) << 10) + (low - 0xDC00);
}

/* After the opening quote. */
static jinja_value load_string(json_reader *r) {
    jinja_builder b = jinja_string_builder(r->h);
    for (;;) {
        size_t from = r->at;
        while (r->at < r->text.bytes && r->text.data[r->at] != '"' && r->text.data[r->at] != '\\' &&
               (unsigned char)r->text.data[r->at] >= ' ') {
            r->at++;
        }
        jinja_string_put(&b, r->text.data + from, r->at - from);
        if (take(r, "\"")) {
            return jinja_string_built(&b);
        }
        if (!take(r, "\\")) {
            load_fail(r, "unterminated string");
        }
        jinja_string_put_char(&b, load_escape(r));
    }
}

static size_t load_digits(json_reader *r) {
    size_t from = r->at;
    while (r->at < r->text.bytes && r->text.data[r->at] >= '0' && r->text.data[r->at] <= '9') {
        r->at++;
    }
    return r->at - from;
}

static jinja_value load_number(json_reader *r) {
    size_t from = r->at;
    bool whole = true;
    (void)take(r, "-");
    size_t first = r->at;
    if (load_digits(r) == 0) {
        r->at = from;
        load_fail(r, "a value was expected");
    }
    if (r->text.data[first] == '0') {
        r->at = first + 1;
    }
    size_t mark = r->at;
    if (take(r, ".")) {
        if (load_digits(r)) {
            whole = false;
            mark = r->at;
        }
    }
    r->at = mark;
    if (take(r, "e") || take(r, "E")) {
        (void)(take(r, "+") || take(r, "-"));
        if (load_digits(r)) {
            whole = false;
            mark = r->at;
        }
    }
    r->at = mark;
    str digits = str_of(r->text.data + from, r->at - from);
    int64_t i;
    double f;
    if (whole) {
        if (!str_to_i64(digits, INT64_MIN, INT64_MAX, &i)) {
            load_fail(r, "an integer beyond 64 bits ends");
        }
        return jinja_value_int(i);
    }
    jinja_heap_charge(r->h, JINJA_PRINT_FLOAT_STEPS);
    if (!str_to_f64(digits, &f)) {
        load_fail(r, "a number out of range ends");
    }
    return jinja_value_float(f);
}

static jinja_value load_list(json_reader *r) {
    jinja_list *list = jinja_value_list_make(r->h, 0);
    skip_blank(r);
    if (take(r, "]")) {
        return jinja_value_list(list);
    }
    do {
        jinja_value_list_push(r->h, list, load_value(r));
    } while (take(r, ","));
    if (!take(r, "]")) {
        load_fail(r, "',' or ']' was expected");
    }
    return jinja_value_list(list);
}

static jinja_value load_dict(json_reader *r) {
    jinja_dict *d = jinja_dict_make(r->h);
    skip_blank(r);
    if (take(r, "}")) {
        return jinja_value_dict(d);
    }
    do {
        skip_blank(r);
        if (!take(r, "\"")) {
            load_fail(r, "a key was expected");
        }
        jinja_value key = load_string(r);
        skip_blank(r);
        if (!take(r, ":")) {
            load_fail(r, "':' was expected");
        }
        jinja_dict_set(r->h, d, key, load_value(r));
    } while (take(r, ","));
    if (!take(r, "}")) {
        load_fail(r, "',' or '}' was expected");
    }
    return jinja_value_dict(d);
}

static jinja_value load_value(json_reader *r) {
    jinja_value v;
    jinja_heap_enter(r->h);
    jinja_heap_charge(r->h, 1);
    skip_blank(r);
    if (take(r, "{")) {
        v = load_dict(r);
    } else if (take(r, "[")) {
        v = load_list(r);
    } else if (take(r, "\"")) {
        v = load_string(r);
    } else if (take(r, "true")) {
        v = jinja_value_bool(true);
    } else if (take(r, "false")) {
        v = jinja_value_bool(false);
    } else if (take(r, "null")) {
        v = jinja_value_none();
    } else if (take(r, "NaN")) {
        v = jinja_value_float(NAN);
    } else if (take(r, "Infinity")) {
        v = jinja_value_float(INFINITY);
    } else if (take(r, "-Infinity")) {
        v = jinja_value_float(-INFINITY);
    } else {
        v = load_number(r);
    }
    skip_blank(r);
    jinja_heap_leave(r->h);
    return v;
}

jinja_value jinja_json_load(jinja_heap *h, str text) {
    json_reader r = {.h = h, .text = text, .at = 0};
    jinja_heap_charge_bytes(h, text.bytes);
    jinja_value v = load_value(&r);
    if (r.at != text.bytes) {
        load_fail(&r, "extra data");
    }
    return v;
}
