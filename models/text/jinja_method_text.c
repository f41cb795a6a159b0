/* jinja_method_text.c -- methods of strings: case, questions, search, padding. */
#include "models/text/jinja_format.h"
#include "models/text/jinja_print.h"
#include "models/text/jinja_slice.h"
#include "models/text/jinja_text.h"
#include "models/text/jinja_unicode.h"
#include "models/text/jinja_vm.h"

static bool given(jinja_value v) {
    return v.type != JINJA_ABSENT && v.type != JINJA_NONE;
}

static const jinja_string *need_text(jinja_vm *vm, jinja_value v) {
    if (v.type != JINJA_STRING) {
        jinja_heap_fail(vm->h, STATUS_INVALID, "a method of a string needs a string, not %s",
                        jinja_value_type_name(v));
    }
    return v.as.string;
}

#define CASE_METHOD(function, how)                            \
    JINJA_BUILTIN(function) {                                 \
        return jinja_text_case(vm->h, self.as.string, (how)); \
    }

CASE_METHOD(text_lower, JINJA_TEXT_LOWER)
CASE_METHOD(text_upper, JINJA_TEXT_UPPER)
CASE_METHOD(text_capitalize, JINJA_TEXT_CAPITALIZE)
CASE_METHOD(text_title, JINJA_TEXT_TITLE)
CASE_METHOD(text_swapcase, JINJA_TEXT_SWAP)

/* True when there are characters and each passes. */
static jinja_value every(jinja_vm *vm, jinja_value self, bool (*passes)(uint32_t)) {
    const jinja_string *s = self.as.string;
    jinja_string_charge(vm->h, s);
    for (size_t at = 0; at < s->bytes;) {
        if (!passes(jinja_unicode_next(s->data, s->bytes, &at))) {
            return jinja_value_bool(false);
        }
    }
    return jinja_value_bool(s->bytes > 0);
}

static bool alpha(uint32_t c) {
    return jinja_unicode_is(JINJA_UNICODE_ALPHA, c);
}

static bool decimal(uint32_t c) {
    return jinja_unicode_is(JINJA_UNICODE_DECIMAL, c);
}

static bool digit(uint32_t c) {
    return jinja_unicode_is(JINJA_UNICODE_DIGIT, c);
}

static bool numeric(uint32_t c) {
    return jinja_unicode_is(JINJA_UNICODE_NUMERIC, c);
}

static bool space(uint32_t c) {
    return jinja_unicode_space(c);
}

static bool printable(uint32_t c) {
    return jinja_unicode_is(JINJA_UNICODE_PRINTABLE, c);
}

#define EVERY_METHOD(function, passes)  \
    JINJA_BUILTIN(function) {           \
        return every(vm, self, passes); \
    }

EVERY_METHOD(text_isalnum, jinja_unicode_alnum)
EVERY_METHOD(text_isalpha, alpha)
EVERY_METHOD(text_isdecimal, decimal)
EVERY_METHOD(text_isdigit, digit)
EVERY_METHOD(text_isnumeric, numeric)
EVERY_METHOD(text_isspace, space)

JINJA_BUILTIN(text_isprintable) {
    return self.as.string->bytes ? every(vm, self, printable) : jinja_value_bool(true);
}

JINJA_BUILTIN(text_isascii) {
    return jinja_value_bool(self.as.string->bytes == self.as.string->chars);
}

/* Only the wanted case among cased characters, and at least one of it. */
static jinja_value one_case(const jinja_string *s, jinja_unicode_class wanted,
                            jinja_unicode_class other) {
    bool any = false;
    for (size_t at = 0; at < s->bytes;) {
        uint32_t c = jinja_unicode_next(s->data, s->bytes, &at);
        if (jinja_unicode_is(other, c) || jinja_unicode_is(JINJA_UNICODE_TITLE, c)) {
            return jinja_value_bool(false);
        }
        any = any || jinja_unicode_is(wanted, c);
    }
    return jinja_value_bool(any);
}

JINJA_BUILTIN(text_islower) {
    jinja_string_charge(vm->h, self.as.string);
    return one_case(self.as.string, JINJA_UNICODE_LOWER, JINJA_UNICODE_UPPER);
}

JINJA_BUILTIN(text_isupper) {
    jinja_string_charge(vm->h, self.as.string);
    return one_case(self.as.string, JINJA_UNICODE_UPPER, JINJA_UNICODE_LOWER);
}

JINJA_BUILTIN(text_istitle) {
    const jinja_string *s = self.as.string;
    bool any = false, before = false;
    jinja_string_charge(vm->h, s);
    for (size_t at = 0; at < s->bytes;) {
        uint32_t c = jinja_unicode_next(s->data, s->bytes, &at);
        bool lower = jinja_unicode_is(JINJA_UNICODE_LOWER, c), cased = jinja_unicode_cased(c);
        if (cased && lower != before) {
            return jinja_value_bool(false);
        }
        any = any || cased;
        before = cased;
    }
    return jinja_value_bool(any);
}

JINJA_BUILTIN(text_isidentifier) {
    const jinja_string *s = self.as.string;
    for (size_t at = 0; at < s->bytes;) {
        bool first = at == 0;
        uint32_t c = jinja_unicode_next(s->data, s->bytes, &at);
        if (c != '_' && !alpha(c) && (first || !decimal(c))) {
            return jinja_value_bool(false);
        }
    }
    return jinja_value_bool(s->bytes > 0);
}

static jinja_value strip(jinja_vm *vm, jinja_value self, const jinja_value *argv, bool left,
                         bool right) {
    const jinja_string *chars = given(argv[0]) ? need_text(vm, argv[0]) : NULL;
    return jinja_text_strip(vm->h, self.as.string, chars, left, right);
}

JINJA_BUILTIN(text_strip) {
    return strip(vm, self, argv, true, true);
}

JINJA_BUILTIN(text_lstrip) {
    return strip(vm, self, argv, true, false);
}

JINJA_BUILTIN(text_rstrip) {
    return strip(vm, self, argv, false, true);
}

/* self[start:end] and the character it starts at; false when the start is past the end. */
static bool window(jinja_vm *vm, jinja_value self, jinja_value start, jinja_value end,
                   jinja_value *part, size_t *from) {
    jinja_value none = jinja_value_none();
    start = given(start) ? start : none;
    end = given(end) ? end : none;
    int64_t first = start.type == JINJA_NONE ? 0 : jinja_value_need_int(vm->h, start, "a start");
    int64_t chars = (int64_t)self.as.string->chars;
    first += first < 0 ? chars : 0;
    *from = first < 0 ? 0 : (size_t)first;
    *part = start.type == JINJA_NONE && end.type == JINJA_NONE
                ? self
                : jinja_slice(vm->h, self, start, end, none);
    return first <= chars;
}

/* The character offset of `needle`, or -1. */
static int64_t find_in(jinja_vm *vm, jinja_value self, const jinja_value *argv, bool last) {
    jinja_value part;
    size_t from;
    const jinja_string *needle = need_text(vm, argv[0]);
    if (!window(vm, self, argv[1], argv[2], &part, &from)) {
        return -1;
    }
    str text = jinja_string_str(part), wanted = str_of(needle->data, needle->bytes);
    jinja_string_charge_search(vm->h, text.bytes, wanted.bytes);
    size_t found =
        last ? jinja_text_find_last(vm->h, text, wanted, text.bytes) : str_find(text, wanted, 0);
    return found == SIZE_MAX ? -1 : (int64_t)(from + jinja_string_count(text.data, found));
}

JINJA_BUILTIN(text_find) {
    return jinja_value_int(find_in(vm, self, argv, false));
}

JINJA_BUILTIN(text_rfind) {
    return jinja_value_int(find_in(vm, self, argv, true));
}

static jinja_value index_in(jinja_vm *vm, jinja_value self, const jinja_value *argv, bool last) {
    int64_t found = find_in(vm, self, argv, last);
    if (found < 0) {
        jinja_heap_fail(vm->h, STATUS_INVALID, "substring not found");
    }
    return jinja_value_int(found);
}

JINJA_BUILTIN(text_index) {
    return index_in(vm, self, argv, false);
}

JINJA_BUILTIN(text_rindex) {
    return index_in(vm, self, argv, true);
}

JINJA_BUILTIN(text_count) {
    jinja_value part;
    size_t from;
    const jinja_string *needle = need_text(vm, argv[0]);
    if (!window(vm, self, argv[1], argv[2], &part, &from)) {
        return jinja_value_int(0);
    }
    if (needle->bytes == 0) {
        return jinja_value_int((int64_t)part.as.string->chars + 1);
    }
    int64_t count = 0;
    str text = jinja_string_str(part), wanted = str_of(needle->data, needle->bytes);
    jinja_string_charge_search(vm->h, text.bytes, wanted.bytes);
    for (size_t at = str_find(text, wanted, 0); at != SIZE_MAX;
         at = str_find(text, wanted, at + wanted.bytes)) {
        jinja_heap_charge(vm->h, 1);
        count++;
    }
    return jinja_value_int(count);
}

/* startswith and endswith: a string, or a tuple of which one fits. */
static jinja_value affix(jinja_vm *vm, jinja_value self, const jinja_value *argv,
                         bool (*fits)(str, str)) {
    jinja_value part;
    size_t from;
    bool inside = window(vm, self, argv[1], argv[2], &part, &from), found = false;
    if (argv[0].type != JINJA_TUPLE) {
        const jinja_string *one = need_text(vm, argv[0]);
        jinja_heap_charge_bytes(vm->h, one->bytes);
        return jinja_value_bool(inside &&
                                fits(jinja_string_str(part), str_of(one->data, one->bytes)));
    }
    for (size_t i = 0; i < argv[0].as.list->count; i++) {
        const jinja_string *one = need_text(vm, argv[0].as.list->items[i]);
        jinja_heap_charge_bytes(vm->h, one->bytes);
        found = found || fits(jinja_string_str(part), str_of(one->data, one->bytes));
    }
    return jinja_value_bool(inside && found);
}

JINJA_BUILTIN(text_startswith) {
    return affix(vm, self, argv, str_starts_with);
}

JINJA_BUILTIN(text_endswith) {
    return affix(vm, self, argv, str_ends_with);
}

JINJA_BUILTIN(text_removeprefix) {
    const jinja_string *s = self.as.string, *prefix = need_text(vm, argv[0]);
    bool has = str_starts_with(jinja_string_str(self), str_of(prefix->data, prefix->bytes));
    return jinja_string_part(vm->h, s, has ? prefix->bytes : 0, s->bytes);
}

JINJA_BUILTIN(text_removesuffix) {
    const jinja_string *s = self.as.string, *suffix = need_text(vm, argv[0]);
    bool has = str_ends_with(jinja_string_str(self), str_of(suffix->data, suffix->bytes));
    return jinja_string_part(vm->h, s, 0, s->bytes - (has ? suffix->bytes : 0));
}

JINJA_BUILTIN(text_replace) {
    int64_t times = -1;
    if (argv[2].type != JINJA_ABSENT) {
        times = jinja_value_need_int(vm->h, argv[2], "replace()'s count");
    }
    return jinja_text_replace(vm->h, self.as.string, need_text(vm, argv[0]), need_text(vm, argv[1]),
                              times);
}

static jinja_value pad(jinja_vm *vm, jinja_value self, const jinja_value *argv, char align) {
    uint32_t fill = ' ';
    if (argv[1].type != JINJA_ABSENT) {
        const jinja_string *s = need_text(vm, argv[1]);
        size_t at = 0;
        if (s->chars != 1) {
            jinja_heap_fail(vm->h, STATUS_INVALID, "the fill must be exactly one character long");
        }
        fill = jinja_unicode_next(s->data, s->bytes, &at);
    }
    int64_t width = jinja_value_need_int(vm->h, argv[0], "a width");
    return jinja_text_pad(vm->h, self.as.string, width, fill, align);
}

JINJA_BUILTIN(text_center) {
    return pad(vm, self, argv, '^');
}

JINJA_BUILTIN(text_ljust) {
    return pad(vm, self, argv, '<');
}

JINJA_BUILTIN(text_rjust) {
    return pad(vm, self, argv, '>');
}

JINJA_BUILTIN(text_zfill) {
    const jinja_string *s = self.as.string;
    int64_t width = jinja_value_need_int(vm->h, argv[0], "a width");
    bool sign = s->bytes && (s->data[0] == '-' || s->data[0] == '+');
    jinja_builder b = jinja_string_builder(vm->h);
    jinja_string_put(&b, s->data, sign);
    jinja_string_put_times(&b, '0', width - (int64_t)s->chars);
    jinja_string_put(&b, s->data + sign, s->bytes - sign);
    return jinja_string_built(&b);
}

JINJA_BUILTIN(text_expandtabs) {
    const jinja_string *s = self.as.string;
    int64_t size = argv[0].type == JINJA_ABSENT
                       ? 8
                       : jinja_value_need_int(vm->h, argv[0], "expandtabs()'s size");
    int64_t column = 0;
    jinja_builder b = jinja_string_builder(vm->h);
    jinja_string_charge(vm->h, s);
    for (size_t at = 0; at < s->bytes;) {
        uint32_t c = jinja_unicode_next(s->data, s->bytes, &at);
        if (c == '\t') {
            int64_t blanks = size > 0 ? size - column % size : 0;
            jinja_string_put_times(&b, ' ', blanks);
            column += blanks;
            continue;
        }
        column = c == '\n' || c == '\r' ? 0 : column + 1;
        jinja_string_put_char(&b, c);
    }
    return jinja_string_built(&b);
}

JINJA_BUILTIN(text_join) {
    return jinja_text_join(vm->h, self.as.string, argv[0], true);
}

JINJA_BUILTIN(text_format) {
    return jinja_format_braces(vm, self, args);
}

static const jinja_builtin rows[] = {
    {"capitalize", "/", text_capitalize},
    {"center", "/!width,fillchar", text_center},
    {"count", "/!sub,start,end", text_count},
    {"endswith", "/!suffix,start,end", text_endswith},
    {"expandtabs", "tabsize", text_expandtabs},
    {"find", "/!sub,start,end", text_find},
    {"format", "*", text_format},
    {"index", "/!sub,start,end", text_index},
    {"isalnum", "/", text_isalnum},
    {"isalpha", "/", text_isalpha},
    {"isascii", "/", text_isascii},
    {"isdecimal", "/", text_isdecimal},
    {"isdigit", "/", text_isdigit},
    {"isidentifier", "/", text_isidentifier},
    {"islower", "/", text_islower},
    {"isnumeric", "/", text_isnumeric},
    {"isprintable", "/", text_isprintable},
    {"isspace", "/", text_isspace},
    {"istitle", "/", text_istitle},
    {"isupper", "/", text_isupper},
    {"join", "/!iterable", text_join},
    {"ljust", "/!width,fillchar", text_ljust},
    {"lower", "/", text_lower},
    {"lstrip", "/chars", text_lstrip},
    {"removeprefix", "/!prefix", text_removeprefix},
    {"removesuffix", "/!suffix", text_removesuffix},
    {"replace", "/!old,!new,count", text_replace},
    {"rfind", "/!sub,start,end", text_rfind},
    {"rindex", "/!sub,start,end", text_rindex},
    {"rjust", "/!width,fillchar", text_rjust},
    {"rstrip", "/chars", text_rstrip},
    {"startswith", "/!prefix,start,end", text_startswith},
    {"strip", "/chars", text_strip},
    {"swapcase", "/", text_swapcase},
    {"title", "/", text_title},
    {"upper", "/", text_upper},
    {"zfill", "/!width", text_zfill},
};

const jinja_builtin_table jinja_method_text_table = JINJA_BUILTIN_TABLE(rows);
