/* jinja_lex.c -- text, tags and what is inside them. */
#include "models/text/jinja_lex.h"

#include <string.h>

#include "models/text/jinja_number.h"
#include "models/text/jinja_string.h"
#include "models/text/jinja_unicode.h"

enum { BRACKETS_MAX = 256 };

typedef struct {
    jinja_heap *h;
    str source; /* newlines are \n */
    size_t at;
    int32_t line;
    bool line_starting; /* the last tag or text ended a line */
    jinja_token *tokens;
    size_t count, capacity;
} lexer;

_Noreturn static void lex_fail(lexer *x, const char *what) {
    x->h->line = x->line;
    jinja_heap_fail(x->h, STATUS_INVALID, "%s", what);
}

static jinja_token *push(lexer *x, jinja_token_type type, str text) {
    if (x->count == x->capacity) {
        size_t capacity = x->capacity ? x->capacity * 2 : 256;
        x->tokens = jinja_heap_grow(x->h, x->tokens, x->count, capacity, sizeof(jinja_token));
        x->capacity = capacity;
    }
    x->tokens[x->count] = (jinja_token){.type = type, .line = x->line, .text = text};
    return &x->tokens[x->count++];
}

static bool sees(const lexer *x, size_t at, const char *word) {
    size_t bytes = strlen(word);
    return at <= x->source.bytes && x->source.bytes - at >= bytes &&
           memcmp(x->source.data + at, word, bytes) == 0;
}

static char at_or_zero(const lexer *x, size_t at) {
    return at < x->source.bytes ? x->source.data[at] : 0;
}

/* Past the white space at `at`. */
static size_t skip_space(str s, size_t at) {
    while (at < s.bytes) {
        size_t end = at;
        if (!jinja_unicode_space(jinja_unicode_next(s.data, s.bytes, &end))) {
            break;
        }
        at = end;
    }
    return at;
}

/* The start of the white space that ends s[from:to]. */
static size_t strip_end(str s, size_t from, size_t to) {
    while (to > from) {
        size_t start = to - 1;
        while (start > from && ((unsigned char)s.data[start] & 0xC0) == 0x80) {
            start--;
        }
        size_t end = start;
        if (!jinja_unicode_space(jinja_unicode_next(s.data, to, &end)) || end != to) {
            break;
        }
        to = start;
    }
    return to;
}

/* Moves to `at`, counting lines. */
static void advance(lexer *x, size_t at) {
    for (size_t i = x->at; i < at; i++) {
        x->line += x->source.data[i] == '\n';
    }
    if (at > x->at) {
        x->line_starting = x->source.data[at - 1] == '\n';
    }
    x->at = at;
}

/* The end of a tag at `at` whose closing mark is `close`: past the white space a '-' eats, or the
 * newline trim_blocks eats. SIZE_MAX when the tag does not end here. */
static size_t tag_end(const lexer *x, size_t at, const char *close, bool trims) {
    char sign = at_or_zero(x, at);
    size_t marks = strlen(close);
    if ((sign == '-' || (sign == '+' && trims)) && sees(x, at + 1, close)) {
        size_t end = at + 1 + marks;
        return sign == '-' ? skip_space(x->source, end) : end;
    }
    if (!sees(x, at, close)) {
        return SIZE_MAX;
    }
    size_t end = at + marks;
    return trims && at_or_zero(x, end) == '\n' ? end + 1 : end;
}

/* Emits the text from x->at to the tag at `to`, whose sign is '-', '+' or neither. */
static void put_data(lexer *x, size_t to, char sign, bool lstrips) {
    size_t end = to;
    if (sign == '-') {
        end = strip_end(x->source, x->at, to);
    } else if (sign != '+' && lstrips) {
        size_t line_start = to;
        while (line_start > x->at && x->source.data[line_start - 1] != '\n') {
            line_start--;
        }
        if ((line_start > x->at || x->line_starting) &&
            skip_space(str_of(x->source.data, to), line_start) == to) {
            end = line_start;
        }
    }
    if (end > x->at) {
        push(x, JINJA_TOKEN_DATA, str_of(x->source.data + x->at, end - x->at));
    }
    advance(x, to);
}

/* `{% raw %}` at `at`: the end of that tag, or SIZE_MAX. */
static size_t raw_tag(const lexer *x, size_t at, const char *word, bool trims) {
    at += 2;
    at += at_or_zero(x, at) == '-' || at_or_zero(x, at) == '+';
    at = skip_space(x->source, at);
    if (!sees(x, at, word)) {
        return SIZE_MAX;
    }
    at = skip_space(x->source, at + strlen(word));
    if (trims) {
        return tag_end(x, at, "%}", true);
    }
    if (at_or_zero(x, at) == '-' && sees(x, at + 1, "%}")) {
        return skip_space(x->source, at + 3);
    }
    return sees(x, at, "%}") ? at + 2 : SIZE_MAX;
}

static void lex_raw(lexer *x, size_t begin_end) {
    advance(x, begin_end);
    for (size_t at = x->at; at < x->source.bytes; at++) { /* nothing after it needs no end */
        at = str_find(x->source, str_from("{%"), at);
        if (at == SIZE_MAX) {
            lex_fail(x, "missing end of raw block");
        }
        size_t end = raw_tag(x, at, "endraw", true);
        if (end != SIZE_MAX) {
            put_data(x, at, at_or_zero(x, at + 2), true);
            advance(x, end);
            return;
        }
    }
}

static void lex_comment(lexer *x, size_t inside) {
    size_t at = str_find(x->source, str_from("#}"), inside);
    if (inside == x->source.bytes) { /* nothing after it needs no end */
        advance(x, inside);
        return;
    }
    if (at == SIZE_MAX) {
        lex_fail(x, "missing end of comment");
    }
    char sign = at > inside ? at_or_zero(x, at - 1) : 0;
    advance(x, tag_end(x, sign == '-' || sign == '+' ? at - 1 : at, "#}", true));
}

static bool is_digit(char c) {
    return c >= '0' && c <= '9';
}

/* The end of digits with single underscores between them. */
static size_t digits_end(const lexer *x, size_t at) {
    while (is_digit(at_or_zero(x, at)) ||
           (at_or_zero(x, at) == '_' && is_digit(at_or_zero(x, at + 1)))) {
        at++;
    }
    return at;
}

/* The end of a float's fraction and exponent after its whole digits; `at` when it has none. */
static size_t float_end(const lexer *x, size_t at) {
    size_t end = at;
    if (at_or_zero(x, end) == '.' && is_digit(at_or_zero(x, end + 1))) {
        end = digits_end(x, end + 1);
    }
    if (at_or_zero(x, end) == 'e' || at_or_zero(x, end) == 'E') {
        size_t digits = end + 1;
        digits += at_or_zero(x, digits) == '+' || at_or_zero(x, digits) == '-';
        if (is_digit(at_or_zero(x, digits))) {
            end = digits_end(x, digits);
        }
    }
    return end;
}

static size_t radix_end(const lexer *x, size_t at) {
    while (strchr("0123456789abcdefABCDEF_", at_or_zero(x, at)) && at_or_zero(x, at)) {
        at++;
    }
    return at;
}

static void lex_number(lexer *x) {
    bool after_dot = x->at > 0 && x->source.data[x->at - 1] == '.';
    char radix = at_or_zero(x, x->at) == '0' ? (char)(at_or_zero(x, x->at + 1) | 32) : 0;
    size_t end = digits_end(x, x->at), real_end = after_dot ? end : float_end(x, end);
    bool integer = real_end == end;
    if (integer && (radix == 'x' || radix == 'o' || radix == 'b')) {
        end = radix_end(x, x->at + 2);
    } else {
        end = real_end;
    }
    str text = str_of(x->source.data + x->at, end - x->at);
    jinja_token *token = push(x, integer ? JINJA_TOKEN_INTEGER : JINJA_TOKEN_FLOAT, text);
    bool read = integer ? jinja_number_read_int(x->h, text, 0, &token->value)
                        : jinja_number_read_float(text, &token->value);
    if (!read) {
        lex_fail(x, "a number can't be read");
    }
    advance(x, end);
}

static uint32_t hex_escape(lexer *x, str s, size_t *at, int digits) {
    uint32_t value = 0;
    for (int i = 0; i < digits; i++, (*at)++) {
        char c = *at < s.bytes ? s.data[*at] : 0;
        char lower = (char)(c | 32);
        if (!is_digit(c) && (lower < 'a' || lower > 'f')) {
            lex_fail(x, "a truncated \\x or \\u escape in a string");
        }
        value = value * 16 + (uint32_t)(is_digit(c) ? c - '0' : lower - 'a' + 10);
    }
    if (value > 0x10FFFF || (value >= 0xD800 && value <= 0xDFFF)) {
        lex_fail(x, "an escape in a string is not a character");
    }
    return value;
}

/* One escape of a string, after its backslash. */
static void put_escape(lexer *x, jinja_builder *b, str s, size_t *at) {
    static const char from[] = "abfnrtv\\'\"", to[] = "\a\b\f\n\r\t\v\\'\"";
    char c = s.data[(*at)++];
    const char *found = c ? strchr(from, c) : NULL;
    if (found) {
        jinja_string_put(b, &to[found - from], 1);
    } else if (c >= '0' && c <= '7') {
        uint32_t value = (uint32_t)(c - '0');
        for (int i = 0; i < 2 && *at < s.bytes && s.data[*at] >= '0' && s.data[*at] <= '7'; i++) {
            value = value * 8 + (uint32_t)(s.data[(*at)++] - '0');
        }
        jinja_string_put_char(b, value);
    } else if (c == 'x' || c == 'u' || c == 'U') {
        jinja_string_put_char(b, hex_escape(x, s, at, c == 'x' ? 2 : c == 'u' ? 4 : 8));
    } else if (c == 'N') {
        lex_fail(x, "\\N escapes are not known here");
    } else if (c != '\n') {
        jinja_string_put(b, "\\", 1);
        jinja_string_put(b, &c, 1);
    }
}

static jinja_value unescape(lexer *x, str s) {
    jinja_builder b = jinja_string_builder(x->h);
    for (size_t at = 0; at < s.bytes;) {
        const char *slash = memchr(s.data + at, '\\', s.bytes - at);
        size_t end = slash ? (size_t)(slash - s.data) : s.bytes;
        jinja_string_put(&b, s.data + at, end - at);
        at = end;
        if (at < s.bytes) {
            at++;
            put_escape(x, &b, s, &at);
        }
    }
    return jinja_string_built(&b);
}

static void lex_string(lexer *x) {
    char quote = x->source.data[x->at];
    size_t end = x->at + 1;
    while (end < x->source.bytes && x->source.data[end] != quote) {
        end += x->source.data[end] == '\\' ? 2 : 1;
    }
    if (end >= x->source.bytes) {
        lex_fail(x, "a string does not end");
    }
    str inside = str_of(x->source.data + x->at + 1, end - x->at - 1);
    jinja_value value = unescape(x, inside);
    push(x, JINJA_TOKEN_STRING, inside)->value = value;
    advance(x, end + 1);
}

static bool name_character(uint32_t c, bool first) {
    return c == '_' || (c < 128 ? (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
                                      (!first && c >= '0' && c <= '9')
                                : jinja_unicode_is(JINJA_UNICODE_ALPHA, c) ||
                                      (!first && jinja_unicode_is(JINJA_UNICODE_DECIMAL, c)));
}

static bool lex_name(lexer *x) {
    size_t end = x->at;
    while (end < x->source.bytes) {
        size_t next = end;
        if (!name_character(jinja_unicode_next(x->source.data, x->source.bytes, &next),
                            end == x->at)) {
            break;
        }
        end = next;
    }
    if (end == x->at) {
        return false;
    }
    push(x, JINJA_TOKEN_NAME, str_of(x->source.data + x->at, end - x->at));
    advance(x, end);
    return true;
}

static void bracket(lexer *x, char c, char open[BRACKETS_MAX], size_t *depth) {
    if (strchr("([{", c)) {
        if (*depth == BRACKETS_MAX) {
            x->h->line = x->line;
            jinja_heap_fail(x->h, STATUS_LIMIT, "more than %d open brackets", BRACKETS_MAX);
        }
        open[(*depth)++] = c == '(' ? ')' : c == '[' ? ']' : '}';
    } else if (strchr(")]}", c)) {
        if (*depth == 0 || open[--*depth] != c) {
            lex_fail(x, "a closing bracket does not fit");
        }
    }
}

static void lex_operator(lexer *x, char open[BRACKETS_MAX], size_t *depth) {
    static const char *const two[] = {"//", "**", "==", "!=", ">=", "<="};
    size_t bytes = 1;
    for (size_t i = 0; i < sizeof two / sizeof two[0]; i++) {
        if (sees(x, x->at, two[i])) {
            bytes = 2;
        }
    }
    char c = x->source.data[x->at];
    if (bytes == 1 && (!c || !strchr("+-/*%~[](){}><=.:|,;", c))) {
        lex_fail(x, "a character that means nothing here");
    }
    bracket(x, c, open, depth);
    push(x, JINJA_TOKEN_OPERATOR, str_of(x->source.data + x->at, bytes));
    advance(x, x->at + bytes);
}

/* The inside of a tag, up to and with its end. */
static void lex_inside(lexer *x, bool variable) {
    char open[BRACKETS_MAX];
    size_t depth = 0;
    for (;;) {
        size_t end = depth ? SIZE_MAX : tag_end(x, x->at, variable ? "}}" : "%}", !variable);
        if (end != SIZE_MAX) {
            push(x, variable ? JINJA_TOKEN_VARIABLE_END : JINJA_TOKEN_BLOCK_END,
                 str_of(x->source.data + x->at, 2));
            advance(x, end);
            return;
        }
        size_t past = skip_space(x->source, x->at);
        if (past != x->at) {
            advance(x, past);
            continue;
        }
        char c = at_or_zero(x, x->at);
        if (x->at >= x->source.bytes) {
            return; /* the parser says what is missing */
        }
        if (is_digit(c)) {
            lex_number(x);
        } else if (c == '\'' || c == '"') {
            lex_string(x);
        } else if (!lex_name(x)) {
            lex_operator(x, open, &depth);
        }
    }
}

static void lex_tag(lexer *x, size_t at, char kind) {
    char sign = at_or_zero(x, at + 2);
    size_t raw_end = kind == '%' ? raw_tag(x, at, "raw", false) : SIZE_MAX;
    put_data(x, at, sign, kind != '{');
    if (raw_end != SIZE_MAX) {
        lex_raw(x, raw_end);
    } else if (kind == '#') {
        lex_comment(x, at + 2 + (sign == '-' || sign == '+'));
    } else {
        push(x, kind == '{' ? JINJA_TOKEN_VARIABLE_BEGIN : JINJA_TOKEN_BLOCK_BEGIN,
             str_of(x->source.data + at, 2));
        advance(x, at + 2 + (sign == '-' || sign == '+'));
        lex_inside(x, kind == '{');
    }
}

/* The next "{{", "{%" or "{#", or SIZE_MAX. */
static size_t find_tag(const lexer *x, size_t at) {
    while (at < x->source.bytes) {
        const char *brace = memchr(x->source.data + at, '{', x->source.bytes - at);
        if (!brace) {
            break;
        }
        at = (size_t)(brace - x->source.data);
        char next = at_or_zero(x, at + 1);
        if (next == '{' || next == '%' || next == '#') {
            return at;
        }
        at++;
    }
    return SIZE_MAX;
}

/* Newlines as \n, and without one at the very end. */
static str normalise(jinja_heap *h, str source) {
    char *out = jinja_heap_take(h, 1, source.bytes + 1);
    size_t n = 0;
    for (size_t i = 0; i < source.bytes; i++) {
        char c = source.data[i];
        if (c == '\r') {
            i += i + 1 < source.bytes && source.data[i + 1] == '\n';
            c = '\n';
        }
        out[n++] = c;
    }
    n -= n && out[n - 1] == '\n';
    return str_of(out, n);
}

jinja_token *jinja_lex(jinja_heap *h, str source, size_t *count) {
    lexer x = {.h = h, .source = normalise(h, source), .line = 1, .line_starting = true};
    while (x.at < x.source.bytes) {
        size_t at = find_tag(&x, x.at);
        if (at == SIZE_MAX) {
            push(&x, JINJA_TOKEN_DATA, str_of(x.source.data + x.at, x.source.bytes - x.at));
            advance(&x, x.source.bytes);
        } else {
            lex_tag(&x, at, x.source.data[at + 1]);
        }
    }
    push(&x, JINJA_TOKEN_END, str_of("", 0));
    *count = x.count;
    return x.tokens;
}
