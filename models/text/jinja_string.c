/* jinja_string.c -- strings of code points over shared UTF-8 bytes. */
#include "models/text/jinja_string.h"

#include <string.h>

#include "models/text/jinja_unicode.h"

enum { ROOM_FROM_BYTES = 64 }; /* shorter strings get no room to grow */

size_t jinja_string_count(const char *data, size_t bytes) {
    size_t chars = 0;
    for (size_t i = 0; i < bytes; i++) {
        chars += ((unsigned char)data[i] & 0xC0) != 0x80;
    }
    return chars;
}

void jinja_string_charge(jinja_heap *h, const jinja_string *s) {
    jinja_heap_charge(h, s->bytes == s->chars ? s->bytes / 8 + 1 : s->bytes / 2 + 1);
}

void jinja_string_charge_search(jinja_heap *h, size_t text_bytes, size_t needle_bytes) {
    jinja_heap_charge(h,
                      text_bytes / 32 * (1 + (needle_bytes < 256 ? needle_bytes : 256) / 16) + 1);
}

static jinja_string *string_new(jinja_heap *h, const char *data, size_t bytes, size_t chars) {
    jinja_string *s = JINJA_TAKE(h, 1, jinja_string);
    *s = (jinja_string){.data = data, .bytes = bytes, .chars = chars};
    return s;
}

static jinja_value string_value(const jinja_string *s) {
    return (jinja_value){.type = JINJA_STRING, .as.string = s};
}

jinja_value jinja_string_borrow(jinja_heap *h, const char *data, size_t bytes) {
    jinja_heap_charge_bytes(h, bytes);
    if (bytes == 0) {
        data = "";
    }
    return string_value(string_new(h, data, bytes, jinja_string_count(data, bytes)));
}

jinja_value jinja_string_copy(jinja_heap *h, const char *data, size_t bytes) {
    char *copy = jinja_heap_take(h, 1, bytes);
    if (bytes) {
        memcpy(copy, data, bytes);
    }
    return jinja_string_borrow(h, copy, bytes);
}

jinja_value jinja_string_from(jinja_heap *h, const char *zero_terminated) {
    return jinja_string_copy(h, zero_terminated, strlen(zero_terminated));
}

jinja_value jinja_string_marked(jinja_heap *h, jinja_value s, bool markup) {
    if (s.as.string->markup == markup) {
        return s;
    }
    jinja_string *copy = JINJA_TAKE(h, 1, jinja_string);
    *copy = *s.as.string;
    copy->markup = markup;
    return string_value(copy);
}

bool jinja_string_is(jinja_value v, const char *zero_terminated) {
    return v.type == JINJA_STRING && str_equal_z(jinja_string_str(v), zero_terminated);
}

jinja_value jinja_string_part(jinja_heap *h, const jinja_string *s, size_t from, size_t to) {
    size_t chars = to - from;
    if (s->chars != s->bytes) {
        jinja_heap_charge_bytes(h, to - from);
        chars = jinja_string_count(s->data + from, to - from);
    }
    jinja_string *part = string_new(h, s->data + from, to - from, chars);
    part->markup = s->markup;
    return string_value(part);
}

size_t jinja_string_offset(jinja_heap *h, const jinja_string *s, size_t chars) {
    if (s->chars == s->bytes) {
        return chars;
    }
    size_t at = 0;
    jinja_heap_charge(h, chars / 16);
    while (chars > 0) {
        at++;
        while (at < s->bytes && ((unsigned char)s->data[at] & 0xC0) == 0x80) {
            at++;
        }
        chars--;
    }
    return at;
}

jinja_value jinja_string_cut(jinja_heap *h, const jinja_string *s, size_t start, size_t stop) {
    size_t from = jinja_string_offset(h, s, start);
    size_t to = jinja_string_offset(h, s, stop);
    jinja_string *part = string_new(h, s->data + from, to - from, stop - start);
    part->markup = s->markup;
    return string_value(part);
}

static void put_bytes(char *to, const char *from, size_t bytes) {
    if (bytes) {
        memcpy(to, from, bytes);
    }
}

jinja_value jinja_string_concat(jinja_heap *h, const jinja_string *a, const jinja_string *b,
                                bool markup) {
    size_t bytes = a->bytes + b->bytes;
    if (a->room && a->data + a->bytes == a->room->end && a->room->left_bytes >= b->bytes) {
        jinja_heap_charge_bytes(h, b->bytes);
        put_bytes(a->room->end, b->data, b->bytes);
        a->room->end += b->bytes;
        a->room->left_bytes -= b->bytes;
        jinja_string *grown = string_new(h, a->data, bytes, a->chars + b->chars);
        grown->room = a->room;
        grown->markup = markup;
        return string_value(grown);
    }
    jinja_heap_charge_bytes(h, bytes);
    size_t room = bytes >= ROOM_FROM_BYTES ? bytes : 0;
    char *data = jinja_heap_take(h, 1, bytes + room);
    put_bytes(data, a->data, a->bytes);
    put_bytes(data + a->bytes, b->data, b->bytes);
    jinja_string *sum = string_new(h, data, bytes, a->chars + b->chars);
    sum->markup = markup;
    if (room) {
        sum->room = JINJA_TAKE(h, 1, jinja_room);
        *sum->room = (jinja_room){.end = data + bytes, .left_bytes = room};
    }
    return string_value(sum);
}

jinja_value jinja_string_repeat(jinja_heap *h, const jinja_string *s, int64_t times) {
    if (times <= 0 || s->bytes == 0) {
        return jinja_string_part(h, s, 0, 0);
    }
    if ((uint64_t)times > h->bytes_max / s->bytes) {
        jinja_heap_fail(h, STATUS_LIMIT, "a repeated string needs more than %zu bytes",
                        h->bytes_max);
    }
    size_t count = (size_t)times, bytes = s->bytes * count;
    jinja_heap_charge_bytes(h, bytes);
    jinja_heap_charge(h, count);
    char *data = jinja_heap_take(h, 1, bytes);
    for (size_t i = 0; i < count; i++) {
        memcpy(data + i * s->bytes, s->data, s->bytes);
    }
    jinja_string *all = string_new(h, data, bytes, s->chars * count);
    all->markup = s->markup;
    return string_value(all);
}

jinja_value jinja_string_escape(jinja_heap *h, const jinja_string *s) {
    jinja_builder b = jinja_string_builder(h);
    size_t from = 0;
    for (size_t i = 0; i < s->bytes; i++) {
        const char *entity = NULL;
        switch (s->data[i]) {
            case '&':
                entity = "&amp;";
                break;
            case '<':
                entity = "&lt;";
                break;
            case '>':
                entity = "&gt;";
                break;
            case '"':
                entity = "&#34;";
                break;
            case '\'':
                entity = "&#39;";
                break;
            default:
                continue;
        }
        jinja_string_put(&b, s->data + from, i - from);
        jinja_string_put_z(&b, entity);
        from = i + 1;
    }
    jinja_string_put(&b, s->data + from, s->bytes - from);
    return jinja_string_marked(h, jinja_string_built(&b), true);
}

jinja_builder jinja_string_builder(jinja_heap *h) {
    return (jinja_builder){.h = h};
}

static void builder_reserve(jinja_builder *b, size_t bytes) {
    if (b->capacity - b->bytes >= bytes) {
        return;
    }
    size_t capacity = b->capacity < 32 ? 64 : b->capacity * 2;
    if (capacity < b->bytes + bytes) {
        capacity = b->bytes + bytes;
    }
    b->data = jinja_heap_grow(b->h, b->data, b->bytes, capacity, 1);
    b->capacity = capacity;
}

void jinja_string_put(jinja_builder *b, const char *data, size_t bytes) {
    jinja_heap_charge_bytes(b->h, bytes);
    if (bytes == 0) {
        return; /* there may be no buffer yet */
    }
    builder_reserve(b, bytes);
    put_bytes(b->data + b->bytes, data, bytes);
    b->bytes += bytes;
}

void jinja_string_put_z(jinja_builder *b, const char *zero_terminated) {
    jinja_string_put(b, zero_terminated, strlen(zero_terminated));
}

void jinja_string_put_string(jinja_builder *b, const jinja_string *s) {
    jinja_string_put(b, s->data, s->bytes);
}

void jinja_string_put_char(jinja_builder *b, uint32_t code_point) {
    char bytes[4];
    size_t count = str_utf8_put(code_point, bytes);
    builder_reserve(b, count);
    put_bytes(b->data + b->bytes, bytes, count);
    b->bytes += count;
}

void jinja_string_put_times(jinja_builder *b, uint32_t code_point, int64_t times) {
    for (int64_t i = 0; i < times; i++) {
        jinja_heap_charge(b->h, 1);
        jinja_string_put_char(b, code_point);
    }
}

jinja_value jinja_string_built(jinja_builder *b) {
    return jinja_string_borrow(b->h, b->data, b->bytes);
}
