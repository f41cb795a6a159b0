/* str.c -- slices, bounded buffers, UTF-8. */
#define _GNU_SOURCE
#include "engine/base/str.h"

#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "engine/base/mem.h"

bool str_equal(str a, str b) {
    return a.bytes == b.bytes && (a.bytes == 0 || memcmp(a.data, b.data, a.bytes) == 0);
}

bool str_equal_z(str a, const char *zero_terminated) {
    return str_equal(a, str_from(zero_terminated));
}

bool str_starts_with(str s, str prefix) {
    return s.bytes >= prefix.bytes && str_equal(str_of(s.data, prefix.bytes), prefix);
}

bool str_ends_with(str s, str suffix) {
    return s.bytes >= suffix.bytes &&
           str_equal(str_of(s.data + (s.bytes - suffix.bytes), suffix.bytes), suffix);
}

size_t str_find(str s, str needle, size_t from) {
    if (from > s.bytes || needle.bytes > s.bytes - from) {
        return SIZE_MAX;
    }
    if (needle.bytes == 0) {
        return from;
    }
    const char *hit = memmem(s.data + from, s.bytes - from, needle.data, needle.bytes);
    return hit ? (size_t)(hit - s.data) : SIZE_MAX;
}

bool str_to_i64(str s, int64_t min, int64_t max, int64_t *out) {
    char text[24];
    if (s.bytes == 0 || s.bytes >= sizeof text ||
        !((s.data[0] >= '0' && s.data[0] <= '9') || s.data[0] == '-')) {
        return false;
    }
    memcpy(text, s.data, s.bytes);
    text[s.bytes] = '\0';
    char *end;
    errno = 0;
    long long value = strtoll(text, &end, 10);
    if (errno || end != text + s.bytes || value < min || value > max) {
        return false;
    }
    *out = value;
    return true;
}

bool str_to_f64(str s, double *out) {
    char text[64];
    if (s.bytes == 0 || s.bytes >= sizeof text) {
        return false;
    }
    memcpy(text, s.data, s.bytes);
    text[s.bytes] = '\0';
    /* strtod also reads blanks, hexadecimal, "inf" and "nan". */
    if (strspn(text, "0123456789.+-eE") != s.bytes) {
        return false;
    }
    char *end;
    double value = strtod(text, &end);
    if (end != text + s.bytes || !isfinite(value)) {
        return false;
    }
    *out = value;
    return true;
}

void strbuf_close(strbuf *b) {
    mem_free(b->data);
    *b = strbuf_make(b->bytes_max);
}

void strbuf_clear(strbuf *b) {
    b->bytes = 0;
    b->failed = false;
    if (b->data) {
        b->data[0] = '\0';
    }
}

bool strbuf_reserve(strbuf *b, size_t bytes) {
    if (b->failed || bytes > b->bytes_max || b->bytes > b->bytes_max - bytes) {
        b->failed = true;
        return false;
    }
    size_t need = b->bytes + bytes + 1;
    if (need <= b->capacity) {
        return true;
    }
    size_t capacity = b->capacity < 64 ? 64 : b->capacity * 2;
    if (capacity > b->bytes_max + 1) {
        capacity = b->bytes_max + 1;
    }
    if (capacity < need) {
        capacity = need;
    }
    char *data = mem_realloc(b->data, capacity, 1);
    if (!data) {
        b->failed = true;
        return false;
    }
    b->data = data;
    b->capacity = capacity;
    return true;
}

bool strbuf_append(strbuf *b, const void *data, size_t bytes) {
    if (!strbuf_reserve(b, bytes)) {
        return false;
    }
    if (bytes) {
        memcpy(b->data + b->bytes, data, bytes);
    }
    b->bytes += bytes;
    b->data[b->bytes] = '\0';
    return true;
}

bool strbuf_append_str(strbuf *b, str s) {
    return strbuf_append(b, s.data, s.bytes);
}

bool strbuf_append_z(strbuf *b, const char *zero_terminated) {
    return strbuf_append(b, zero_terminated, strlen(zero_terminated));
}

bool strbuf_append_char(strbuf *b, char c) {
    return strbuf_append(b, &c, 1);
}

bool strbuf_printf(strbuf *b, const char *format, ...) {
    va_list args;
    va_start(args, format);
    va_list again;
    va_copy(again, args);
    /* Where there is room already, once is enough. */
    size_t room = b->failed || !b->data ? 0 : b->capacity - b->bytes;
    int bytes = vsnprintf(room ? b->data + b->bytes : NULL, room, format, args);
    va_end(args);
    bool fits = bytes >= 0 && (size_t)bytes < room;
    if (!fits && room) {
        b->data[b->bytes] = '\0';
    }
    bool ok = bytes >= 0 && strbuf_reserve(b, (size_t)bytes);
    if (ok && !fits) {
        (void)vsnprintf(b->data + b->bytes, (size_t)bytes + 1, format, again);
    }
    b->bytes += ok ? (size_t)bytes : 0;
    va_end(again);
    return ok;
}

void strbuf_consume(strbuf *b, size_t bytes) {
    if (bytes >= b->bytes) {
        strbuf_clear(b);
        return;
    }
    memmove(b->data, b->data + bytes, b->bytes - bytes);
    b->bytes -= bytes;
    b->data[b->bytes] = '\0';
}

int str_utf8_next(const char *data, size_t bytes, uint32_t *code_point) {
    const unsigned char *p = (const unsigned char *)data;
    if (bytes == 0) {
        return 0;
    }
    if (p[0] < 0x80) {
        *code_point = p[0];
        return 1;
    }
    /* The second byte's range rules out overlong forms, surrogates and values past U+10FFFF
     * (RFC 3629, section 4). */
    int need;
    unsigned char low = 0x80;
    unsigned char high = 0xBF;
    uint32_t value;
    if (p[0] >= 0xC2 && p[0] <= 0xDF) {
        need = 2;
        value = p[0] & 0x1Fu;
    } else if (p[0] >= 0xE0 && p[0] <= 0xEF) {
        need = 3;
        value = p[0] & 0x0Fu;
        low = p[0] == 0xE0 ? 0xA0 : 0x80;
        high = p[0] == 0xED ? 0x9F : 0xBF;
    } else if (p[0] >= 0xF0 && p[0] <= 0xF4) {
        need = 4;
        value = p[0] & 0x07u;
        low = p[0] == 0xF0 ? 0x90 : 0x80;
        high = p[0] == 0xF4 ? 0x8F : 0xBF;
    } else {
        return -1;
    }
    for (int i = 1; i < need; i++) {
        if ((size_t)i >= bytes) {
            return 0;
        }
        if (p[i] < low || p[i] > high) {
            return -1;
        }
        value = value << 6 | (p[i] & 0x3Fu);
        low = 0x80;
        high = 0xBF;
    }
    *code_point = value;
    return need;
}

size_t str_utf8_put(uint32_t c, char out[4]) {
    if (c < 0x80) {
        out[0] = (char)c;
        return 1;
    }
    if (c < 0x800) {
        out[0] = (char)(0xC0 | c >> 6);
        out[1] = (char)(0x80 | (c & 0x3F));
        return 2;
    }
    if (c < 0x10000) {
        out[0] = (char)(0xE0 | c >> 12);
        out[1] = (char)(0x80 | (c >> 6 & 0x3F));
        out[2] = (char)(0x80 | (c & 0x3F));
        return 3;
    }
    out[0] = (char)(0xF0 | c >> 18);
    out[1] = (char)(0x80 | (c >> 12 & 0x3F));
    out[2] = (char)(0x80 | (c >> 6 & 0x3F));
    out[3] = (char)(0x80 | (c & 0x3F));
    return 4;
}

/* Most text is ASCII: eight bytes of that at a time. */
static size_t ascii_end(str s, size_t at) {
    uint64_t word;
    for (; s.bytes - at >= sizeof word; at += sizeof word) {
        memcpy(&word, s.data + at, sizeof word);
        if (word & 0x8080808080808080u) {
            break;
        }
    }
    return at;
}

bool str_utf8_valid(str s) {
    size_t at = 0;
    while ((at = ascii_end(s, at)) < s.bytes) {
        uint32_t c;
        int n = str_utf8_next(s.data + at, s.bytes - at, &c);
        if (n <= 0) {
            return false;
        }
        at += (size_t)n;
    }
    return true;
}
