/* jinja_text.c -- case, stripping, replacing, splitting, padding. */
#define _GNU_SOURCE
#include "models/text/jinja_text.h"

#include "models/text/jinja_print.h"
#include "models/text/jinja_unicode.h"

enum { CAPITAL_SIGMA = 0x3A3, SMALL_SIGMA = 0x3C3, FINAL_SIGMA = 0x3C2 };

static jinja_value built_like(jinja_builder *b, const jinja_string *s) {
    return jinja_string_marked(b->h, jinja_string_built(b), s->markup);
}

static void put_mapped(jinja_builder *b, jinja_unicode_case to, uint32_t c) {
    uint32_t mapped[3];
    size_t count = jinja_unicode_map(to, c, mapped);
    for (size_t i = 0; i < count; i++) {
        jinja_string_put_char(b, mapped[i]);
    }
}

/* A capital sigma at the end of a word has its own small letter. */
static bool sigma_is_final(const jinja_string *s, size_t after, bool cased_before) {
    if (!cased_before || after >= s->bytes) {
        return cased_before;
    }
    return !jinja_unicode_cased(jinja_unicode_next(s->data, s->bytes, &after));
}

static void put_lower(jinja_builder *b, const jinja_string *s, uint32_t c, size_t after,
                      bool cased_before) {
    if (c == CAPITAL_SIGMA) {
        jinja_string_put_char(b,
                              sigma_is_final(s, after, cased_before) ? FINAL_SIGMA : SMALL_SIGMA);
    } else {
        put_mapped(b, JINJA_UNICODE_TO_LOWER, c);
    }
}

static jinja_value case_ascii(jinja_heap *h, const jinja_string *s, bool upper) {
    char *out = jinja_heap_take(h, 1, s->bytes), first = upper ? 'a' : 'A';
    for (size_t i = 0; i < s->bytes; i++) {
        char c = s->data[i];
        out[i] = (char)(c >= first && c < first + 26 ? c ^ 0x20 : c);
    }
    return jinja_string_marked(h, jinja_string_borrow(h, out, s->bytes), s->markup);
}

jinja_value jinja_text_case(jinja_heap *h, const jinja_string *s, jinja_text_casing how) {
    jinja_builder b = jinja_string_builder(h);
    bool cased_before = false;
    if (s->bytes == s->chars && (how == JINJA_TEXT_LOWER || how == JINJA_TEXT_UPPER)) {
        return case_ascii(h, s, how == JINJA_TEXT_UPPER);
    }
    jinja_heap_charge(h, s->bytes / 2);
    for (size_t at = 0; at < s->bytes;) {
        bool first = at == 0;
        uint32_t c = jinja_unicode_next(s->data, s->bytes, &at);
        bool cased = jinja_unicode_cased(c);
        bool raise = how == JINJA_TEXT_UPPER ||
                     (how == JINJA_TEXT_SWAP && jinja_unicode_is(JINJA_UNICODE_LOWER, c));
        bool title =
            (how == JINJA_TEXT_CAPITALIZE && first) || (how == JINJA_TEXT_TITLE && !cased_before);
        bool keep = how == JINJA_TEXT_SWAP && !jinja_unicode_is(JINJA_UNICODE_UPPER, c);
        if (raise || title) {
            put_mapped(&b, raise ? JINJA_UNICODE_TO_UPPER : JINJA_UNICODE_TO_TITLE, c);
        } else if (keep) {
            jinja_string_put_char(&b, c);
        } else {
            put_lower(&b, s, c, at, cased_before);
        }
        cased_before = cased;
    }
    return built_like(&b, s);
}

static bool in_set(const jinja_string *chars, uint32_t c) {
    if (!chars) {
        return jinja_unicode_space(c);
    }
    for (size_t at = 0; at < chars->bytes;) {
        if (jinja_unicode_next(chars->data, chars->bytes, &at) == c) {
            return true;
        }
    }
    return false;
}

/* The start of the character that ends at `end`. */
static size_t character_before(const jinja_string *s, size_t end) {
    size_t start = end - 1;
    while (start > 0 && ((unsigned char)s->data[start] & 0xC0) == 0x80) {
        start--;
    }
    return start;
}

jinja_value jinja_text_strip(jinja_heap *h, const jinja_string *s, const jinja_string *chars,
                             bool left, bool right) {
    size_t from = 0, to = s->bytes, set = chars ? chars->bytes : 0;
    while (left && from < to) {
        size_t next = from;
        if (!in_set(chars, jinja_unicode_next(s->data, to, &next))) {
            break;
        }
        jinja_heap_charge_bytes(h, set * 16);
        from = next;
    }
    while (right && to > from) {
        size_t start = character_before(s, to), at = start;
        if (!in_set(chars, jinja_unicode_next(s->data, to, &at))) {
            break;
        }
        jinja_heap_charge_bytes(h, set * 16);
        to = start;
    }
    return jinja_string_part(h, s, from, to);
}

/* An empty `from` stands before each character and at the end. */
static jinja_value replace_nothing(jinja_heap *h, const jinja_string *s, const jinja_string *to,
                                   int64_t times) {
    jinja_builder b = jinja_string_builder(h);
    size_t at = 0;
    while (times != 0) {
        times -= times > 0;
        jinja_string_put_string(&b, to);
        if (at >= s->bytes) {
            break;
        }
        size_t next = at;
        jinja_unicode_next(s->data, s->bytes, &next);
        jinja_string_put(&b, s->data + at, next - at);
        at = next;
    }
    jinja_string_put(&b, s->data + at, s->bytes - at);
    return built_like(&b, s);
}

jinja_value jinja_text_replace(jinja_heap *h, const jinja_string *s, const jinja_string *from,
                               const jinja_string *to, int64_t times) {
    if (from->bytes == 0) {
        return replace_nothing(h, s, to, times);
    }
    jinja_builder b = jinja_string_builder(h);
    str whole = str_of(s->data, s->bytes), needle = str_of(from->data, from->bytes);
    size_t at = 0;
    jinja_string_charge_search(h, s->bytes, from->bytes);
    while (times != 0) {
        size_t found = str_find(whole, needle, at);
        if (found == SIZE_MAX) {
            break;
        }
        times -= times > 0;
        jinja_string_put(&b, s->data + at, found - at);
        jinja_string_put_string(&b, to);
        at = found + from->bytes;
    }
    jinja_string_put(&b, s->data + at, s->bytes - at);
    return built_like(&b, s);
}

static size_t skip(const jinja_string *s, size_t at, bool space) {
    while (at < s->bytes) {
        size_t next = at;
        if (jinja_unicode_space(jinja_unicode_next(s->data, s->bytes, &next)) != space) {
            break;
        }
        at = next;
    }
    return at;
}

static size_t skip_back(const jinja_string *s, size_t end, bool space) {
    while (end > 0) {
        size_t start = character_before(s, end), at = start;
        if (jinja_unicode_space(jinja_unicode_next(s->data, end, &at)) != space) {
            break;
        }
        end = start;
    }
    return end;
}

static void push_part(jinja_heap *h, jinja_list *list, const jinja_string *s, size_t from,
                      size_t to) {
    jinja_heap_charge(h, 1);
    jinja_value_list_push(h, list, jinja_string_part(h, s, from, to));
}

static void reverse(jinja_list *list) {
    for (size_t i = 0; i < list->count / 2; i++) {
        jinja_value swap = list->items[i];
        list->items[i] = list->items[list->count - 1 - i];
        list->items[list->count - 1 - i] = swap;
    }
}

static void split_blanks(jinja_heap *h, jinja_list *list, const jinja_string *s, int64_t times) {
    size_t at = skip(s, 0, true);
    while (at < s->bytes) {
        if (times == 0) {
            push_part(h, list, s, at, s->bytes);
            return;
        }
        times -= times > 0;
        size_t end = skip(s, at, false);
        push_part(h, list, s, at, end);
        at = skip(s, end, true);
    }
}

static void split_blanks_right(jinja_heap *h, jinja_list *list, const jinja_string *s,
                               int64_t times) {
    size_t end = skip_back(s, s->bytes, true);
    while (end > 0) {
        if (times == 0) {
            push_part(h, list, s, 0, end);
            return;
        }
        times -= times > 0;
        size_t start = skip_back(s, end, false);
        push_part(h, list, s, start, end);
        end = skip_back(s, start, true);
    }
}

static void need_separator(jinja_heap *h, const jinja_string *separator) {
    if (separator->bytes == 0) {
        jinja_heap_fail(h, STATUS_INVALID, "empty separator");
    }
}

jinja_list *jinja_text_split(jinja_heap *h, const jinja_string *s, const jinja_string *separator,
                             int64_t times) {
    jinja_list *list = jinja_value_list_make(h, 0);
    if (!separator) {
        jinja_string_charge(h, s);
        split_blanks(h, list, s, times);
        return list;
    }
    need_separator(h, separator);
    jinja_string_charge_search(h, s->bytes, separator->bytes);
    str whole = str_of(s->data, s->bytes), needle = str_of(separator->data, separator->bytes);
    size_t at = 0;
    while (times != 0) {
        size_t found = str_find(whole, needle, at);
        if (found == SIZE_MAX) {
            break;
        }
        times -= times > 0;
        push_part(h, list, s, at, found);
        at = found + separator->bytes;
    }
    push_part(h, list, s, at, s->bytes);
    return list;
}

size_t jinja_text_find_last(jinja_heap *h, str s, str needle, size_t to) {
    if (needle.bytes > to) {
        return SIZE_MAX;
    }
    if (needle.bytes == 0) {
        return to;
    }
    size_t room = to - needle.bytes + 1; /* places it may begin at */
    while (room > 0) {
        const char *first = memrchr(s.data, needle.data[0], room);
        if (!first) {
            break;
        }
        jinja_heap_charge_bytes(h, needle.bytes); /* no clever search: each try is paid for */
        room = (size_t)(first - s.data);
        if (memcmp(first, needle.data, needle.bytes) == 0) {
            return room;
        }
    }
    return SIZE_MAX;
}

jinja_list *jinja_text_split_right(jinja_heap *h, const jinja_string *s,
                                   const jinja_string *separator, int64_t times) {
    jinja_list *list = jinja_value_list_make(h, 0);
    if (!separator) {
        jinja_string_charge(h, s);
        split_blanks_right(h, list, s, times);
        reverse(list);
        return list;
    }
    need_separator(h, separator);
    jinja_heap_charge(h, s->bytes / 32);
    str whole = str_of(s->data, s->bytes), needle = str_of(separator->data, separator->bytes);
    size_t end = s->bytes;
    while (times != 0) {
        size_t found = jinja_text_find_last(h, whole, needle, end);
        if (found == SIZE_MAX) {
            break;
        }
        times -= times > 0;
        push_part(h, list, s, found + separator->bytes, end);
        end = found;
    }
    push_part(h, list, s, 0, end);
    reverse(list);
    return list;
}

static bool ends_line(uint32_t c) {
    return (c >= '\n' && c <= '\r') || (c >= 0x1C && c <= 0x1E) || c == 0x85 || c == 0x2028 ||
           c == 0x2029;
}

jinja_list *jinja_text_lines(jinja_heap *h, const jinja_string *s, bool keep_ends) {
    jinja_list *list = jinja_value_list_make(h, 0);
    size_t from = 0;
    jinja_string_charge(h, s);
    for (size_t at = 0; at < s->bytes;) {
        size_t end = at;
        uint32_t c = jinja_unicode_next(s->data, s->bytes, &at);
        if (!ends_line(c)) {
            continue;
        }
        at += c == '\r' && at < s->bytes && s->data[at] == '\n';
        push_part(h, list, s, from, keep_ends ? at : end);
        from = at;
    }
    if (from < s->bytes) {
        push_part(h, list, s, from, s->bytes);
    }
    return list;
}

jinja_value jinja_text_pad(jinja_heap *h, const jinja_string *s, int64_t width, uint32_t fill,
                           char align) {
    int64_t room = width - (int64_t)s->chars;
    jinja_builder b = jinja_string_builder(h);
    if (room <= 0) {
        return jinja_string_part(h, s, 0, s->bytes);
    }
    int64_t before = align == '<' ? 0 : room;
    if (align == '^') { /* CPython's choice of the side that gets the odd one */
        before = room / 2 + (room & width & 1);
    }
    jinja_string_put_times(&b, fill, before);
    jinja_string_put_string(&b, s);
    jinja_string_put_times(&b, fill, room - before);
    return built_like(&b, s);
}

jinja_value jinja_text_join(jinja_heap *h, const jinja_string *glue, jinja_value items,
                            bool strings_only) {
    jinja_walk walk = jinja_value_need_walk(h, items);
    jinja_builder b = jinja_string_builder(h);
    jinja_value item;
    for (size_t i = 0; jinja_value_next(h, &walk, &item); i++) {
        if (strings_only && item.type != JINJA_STRING) {
            jinja_heap_fail(h, STATUS_INVALID, "sequence item %zu: expected str instance, %s found",
                            i, jinja_value_type_name(item));
        }
        if (i) {
            jinja_string_put_string(&b, glue);
        }
        jinja_print_str(&b, item);
    }
    return jinja_string_built(&b);
}
