/* jsonin_scan.c -- one strict pass over JSON text. */
#define _GNU_SOURCE
#include "server/http/jsonin_scan.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/limits.h"

typedef struct {
    jsonin_scan *out;
    const char *text;
    size_t bytes;
    size_t at;
    int32_t depth;
    int64_t nodes;
    const jsonin_member *member; /* top-level member being scanned */
    bool bulk;                   /* inside a bulk array: values are not counted */
    diag *d;
} jsonin_scan_state;

static status jsonin_scan_value(jsonin_scan_state *s);

static status jsonin_scan_fail(jsonin_scan_state *s, status code, size_t at, const char *text) {
    char param[JSONIN_NAME_BYTES] = "";
    if (s->member != NULL && str_utf8_valid(s->member->name)) {
        snprintf(param, sizeof param, "%.*s",
                 (int)(s->member->name.bytes < sizeof param ? s->member->name.bytes : 0),
                 s->member->name.data);
    }
    return status_fail_param(s->d, code, param, "%s (byte %zu of the body)", text, at);
}

static void jsonin_scan_blanks(jsonin_scan_state *s) {
    while (s->at < s->bytes && (s->text[s->at] == ' ' || s->text[s->at] == '\n' ||
                                s->text[s->at] == '\r' || s->text[s->at] == '\t')) {
        s->at++;
    }
}

static char jsonin_scan_peek(const jsonin_scan_state *s) {
    return s->at < s->bytes ? s->text[s->at] : '\0';
}

/* Four hex digits at `at`, or -1. */
static int32_t jsonin_scan_hex4(const jsonin_scan_state *s, size_t at) {
    if (s->bytes - at < 4) {
        return -1;
    }
    int32_t v = 0;
    for (size_t i = 0; i < 4; i++) {
        char c = s->text[at + i];
        int32_t digit = c >= '0' && c <= '9'   ? c - '0'
                        : c >= 'a' && c <= 'f' ? c - 'a' + 10
                        : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                               : -1;
        if (digit < 0) {
            return -1;
        }
        v = v * 16 + digit;
    }
    return v;
}

/* At a backslash. */
static status jsonin_scan_escape(jsonin_scan_state *s) {
    size_t from = s->at;
    char c = s->bytes - s->at >= 2 ? s->text[s->at + 1] : '\0';
    if (c != '\0' && strchr("\"\\/bfnrt", c) != NULL) {
        s->at += 2;
        return STATUS_OK;
    }
    int32_t v = c == 'u' ? jsonin_scan_hex4(s, s->at + 2) : -1;
    if (v < 0) {
        return jsonin_scan_fail(s, STATUS_CORRUPT, from, "malformed escape in a string");
    }
    if (v == 0) {
        return jsonin_scan_fail(s, STATUS_INVALID, from, "strings may not hold U+0000");
    }
    s->at += 6;
    if (v < 0xD800 || v > 0xDFFF) {
        return STATUS_OK;
    }
    int32_t low = -1;
    if (v <= 0xDBFF && s->bytes - s->at >= 6 && s->text[s->at] == '\\' &&
        s->text[s->at + 1] == 'u') {
        low = jsonin_scan_hex4(s, s->at + 2);
    }
    if (low < 0xDC00 || low > 0xDFFF) {
        return jsonin_scan_fail(s, STATUS_INVALID, from, "half of a surrogate pair in a string");
    }
    s->at += 6;
    return STATUS_OK;
}

/* At the opening quote; `content` is what stands between the quotes. */
static status jsonin_scan_string(jsonin_scan_state *s, str *content) {
    size_t from = ++s->at;
    while (s->at < s->bytes && s->text[s->at] != '"') {
        unsigned char c = (unsigned char)s->text[s->at];
        if (c < ' ') {
            return jsonin_scan_fail(s, STATUS_CORRUPT, s->at, "control character in a string");
        }
        if (c == '\\') {
            TRY(jsonin_scan_escape(s));
        } else if (c < 0x80) {
            s->at++;
        } else {
            uint32_t code_point;
            int n = str_utf8_next(s->text + s->at, s->bytes - s->at, &code_point);
            if (n < 1) {
                return jsonin_scan_fail(s, STATUS_CORRUPT, s->at, "the body is not valid UTF-8");
            }
            s->at += (size_t)n;
        }
    }
    if (s->at == s->bytes) {
        return jsonin_scan_fail(s, STATUS_CORRUPT, from - 1, "a string without its end");
    }
    *content = str_of(s->text + from, s->at - from);
    s->at++;
    return STATUS_OK;
}

static size_t jsonin_scan_digits(jsonin_scan_state *s) {
    size_t from = s->at;
    while (jsonin_scan_peek(s) >= '0' && jsonin_scan_peek(s) <= '9') {
        s->at++;
    }
    return s->at - from;
}

static status jsonin_scan_number(jsonin_scan_state *s) {
    size_t from = s->at;
    s->at += jsonin_scan_peek(s) == '-';
    bool zero = jsonin_scan_peek(s) == '0';
    size_t whole = jsonin_scan_digits(s);
    bool good = whole > 0 && !(zero && whole > 1);
    bool integer = true;
    if (good && jsonin_scan_peek(s) == '.') {
        s->at++;
        integer = false;
        good = jsonin_scan_digits(s) > 0;
    }
    if (good && (jsonin_scan_peek(s) == 'e' || jsonin_scan_peek(s) == 'E')) {
        s->at++;
        integer = false;
        s->at += jsonin_scan_peek(s) == '+' || jsonin_scan_peek(s) == '-';
        good = jsonin_scan_digits(s) > 0;
    }
    if (!good) {
        return jsonin_scan_fail(s, STATUS_CORRUPT, from, "malformed number");
    }
    size_t bytes = s->at - from;
    if (bytes > JSONIN_NUMBER_BYTES) {
        return jsonin_scan_fail(s, STATUS_INVALID, from, "a number with too many digits");
    }
    if (!integer) {
        char copy[JSONIN_NUMBER_BYTES + 1];
        memcpy(copy, s->text + from, bytes);
        copy[bytes] = 0;
        if (!isfinite(strtod(copy, NULL))) {
            return jsonin_scan_fail(s, STATUS_INVALID, from, "a number out of range");
        }
    }
    return STATUS_OK;
}

static status jsonin_scan_word(jsonin_scan_state *s, const char *word) {
    size_t n = strlen(word);
    if (s->bytes - s->at < n || memcmp(s->text + s->at, word, n) != 0) {
        return jsonin_scan_fail(s, STATUS_CORRUPT, s->at, "this is not JSON");
    }
    s->at += n;
    return STATUS_OK;
}

/* An array of integers, or of arrays that may be: everything up to the first digit is brackets. */
static bool jsonin_scan_is_bulk(const jsonin_scan_state *s, str name) {
    bool named = false;
    for (size_t i = 0; i < s->out->bulk_count; i++) {
        named = named || str_equal_z(name, s->out->bulk[i]);
    }
    size_t at = s->at;
    while (named && at < s->bytes && strchr(" \t\r\n[", s->text[at]) != NULL &&
           s->text[at] != '\0') {
        at++;
    }
    bool digit =
        at < s->bytes && (s->text[at] == '-' || (s->text[at] >= '0' && s->text[at] <= '9'));
    return named && digit && jsonin_scan_peek(s) == '[';
}

static status jsonin_scan_member_value(jsonin_scan_state *s, str name) {
    jsonin_member here = {.name = name};
    jsonin_scan *o = s->out;
    bool top = s->depth == 1 && o->members != NULL;
    if (!top) {
        return jsonin_scan_value(s);
    }
    if (o->members_count == JSONIN_MEMBERS) {
        return jsonin_scan_fail(s, STATUS_INVALID, s->at, "too many members in the body");
    }
    s->member = &here;
    size_t from = s->at;
    here.bulk = jsonin_scan_is_bulk(s, name);
    s->bulk = here.bulk;
    TRY(jsonin_scan_value(s));
    s->bulk = false;
    s->member = NULL;
    here.value = str_of(s->text + from, s->at - from);
    o->members[o->members_count++] = here;
    return STATUS_OK;
}

/* After the opening bracket of an object or an array: its content and the closing bracket. */
static status jsonin_scan_inside(jsonin_scan_state *s, bool object) {
    char close = object ? '}' : ']';
    jsonin_scan_blanks(s);
    if (jsonin_scan_peek(s) == close) {
        s->at++;
        return STATUS_OK;
    }
    for (;;) {
        str name = {NULL, 0};
        jsonin_scan_blanks(s);
        if (object) {
            if (jsonin_scan_peek(s) != '"') {
                return jsonin_scan_fail(s, STATUS_CORRUPT, s->at, "a member's name was expected");
            }
            TRY(jsonin_scan_string(s, &name));
            jsonin_scan_blanks(s);
            if (jsonin_scan_peek(s) != ':') {
                return jsonin_scan_fail(s, STATUS_CORRUPT, s->at, "a colon was expected");
            }
            s->at++;
            jsonin_scan_blanks(s);
        }
        TRY(object ? jsonin_scan_member_value(s, name) : jsonin_scan_value(s));
        jsonin_scan_blanks(s);
        char c = jsonin_scan_peek(s);
        if (c != ',' && c != close) {
            return jsonin_scan_fail(s, STATUS_CORRUPT, s->at,
                                    "a comma or a closing bracket was expected");
        }
        s->at++;
        if (c == close) {
            return STATUS_OK;
        }
    }
}

static status jsonin_scan_value(jsonin_scan_state *s) {
    s->nodes += !s->bulk;
    if (s->nodes > LIMIT_JSON_NODES) {
        return jsonin_scan_fail(s, STATUS_INVALID, s->at, "too many values in the body");
    }
    str ignored;
    char c = jsonin_scan_peek(s);
    switch (c) {
        case '{':
        case '[':
            if (s->depth == LIMIT_JSON_DEPTH) {
                return jsonin_scan_fail(s, STATUS_INVALID, s->at, "nested too deep");
            }
            s->depth++;
            s->at++;
            TRY(jsonin_scan_inside(s, c == '{'));
            s->depth--;
            return STATUS_OK;
        case '"':
            return jsonin_scan_string(s, &ignored);
        case 't':
            return jsonin_scan_word(s, "true");
        case 'f':
            return jsonin_scan_word(s, "false");
        case 'n':
            return jsonin_scan_word(s, "null");
        default:
            break;
    }
    if (c == '-' || (c >= '0' && c <= '9')) {
        return jsonin_scan_number(s);
    }
    return jsonin_scan_fail(s, STATUS_CORRUPT, s->at,
                            s->at == s->bytes ? "the body ends too early" : "this is not JSON");
}

status jsonin_scan_text(jsonin_scan *out, str text, diag *d) {
    jsonin_scan_state s = {.out = out, .text = text.data, .bytes = text.bytes, .d = d};
    if (text.bytes > LIMIT_BODY_BYTES) {
        return status_fail(d, STATUS_INVALID, "the body is too large");
    }
    jsonin_scan_blanks(&s);
    if (s.at == s.bytes) {
        return status_fail(d, STATUS_CORRUPT, "the body is empty; a JSON object was expected");
    }
    out->object = jsonin_scan_peek(&s) == '{';
    TRY(jsonin_scan_value(&s));
    jsonin_scan_blanks(&s);
    if (s.at != s.bytes) {
        return jsonin_scan_fail(&s, STATUS_CORRUPT, s.at, "something follows the JSON value");
    }
    out->values = s.nodes;
    return STATUS_OK;
}
