/* jsonout.c -- JSON text, written piece by piece. */
#define _GNU_SOURCE
#include "server/http/jsonout.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

static void jsonout_escape(strbuf *out, char c) {
    switch (c) {
        case '"':
            strbuf_append_z(out, "\\\"");
            break;
        case '\\':
            strbuf_append_z(out, "\\\\");
            break;
        case '\n':
            strbuf_append_z(out, "\\n");
            break;
        case '\r':
            strbuf_append_z(out, "\\r");
            break;
        case '\t':
            strbuf_append_z(out, "\\t");
            break;
        default:
            strbuf_printf(out, "\\u%04x", (unsigned)(unsigned char)c);
            break;
    }
}

void jsonout_string(strbuf *out, str s) {
    strbuf_append_char(out, '"');
    size_t plain = 0; /* start of the run that can be copied as it is */
    size_t i = 0;
    while (i < s.bytes) {
        unsigned char c = (unsigned char)s.data[i];
        int n = 1;
        if (c >= 0x80) {
            uint32_t code_point;
            n = str_utf8_next(s.data + i, s.bytes - i, &code_point);
        }
        if (n >= 1 && c >= ' ' && c != '"' && c != '\\' && c != 127) {
            i += (size_t)n;
            continue;
        }
        strbuf_append(out, s.data + plain, i - plain);
        if (n < 1) {
            strbuf_append_z(out, "\xEF\xBF\xBD");
        } else {
            jsonout_escape(out, (char)c);
        }
        i++;
        plain = i;
    }
    strbuf_append(out, s.data + plain, s.bytes - plain);
    strbuf_append_char(out, '"');
}

void jsonout_string_z(strbuf *out, const char *zero_terminated) {
    jsonout_string(out, str_from(zero_terminated));
}

void jsonout_float(strbuf *out, float v) {
    if (!isfinite(v)) {
        strbuf_append_z(out, "null");
        return;
    }
    char text[32];
    for (int digits = 6; digits <= 9; digits++) {
        snprintf(text, sizeof text, "%.*g", digits, (double)v);
        if (strtof(text, NULL) == v) {
            break;
        }
    }
    strbuf_append_z(out, text);
}

void jsonout_int(strbuf *out, int64_t v) {
    char text[24];
    char *at = text + sizeof text;
    uint64_t left = v < 0 ? 0 - (uint64_t)v : (uint64_t)v;
    do {
        *--at = (char)('0' + left % 10);
        left /= 10;
    } while (left);
    if (v < 0) {
        *--at = '-';
    }
    strbuf_append(out, at, (size_t)(text + sizeof text - at));
}

void jsonout_comma(strbuf *out) {
    if (out->bytes > 0) {
        char last = out->data[out->bytes - 1];
        if (last != '{' && last != '[' && last != ':') {
            strbuf_append_char(out, ',');
        }
    }
}

void jsonout_key(strbuf *out, const char *key) {
    jsonout_comma(out);
    strbuf_append_char(out, '"');
    strbuf_append_z(out, key);
    strbuf_append_z(out, "\":");
}
