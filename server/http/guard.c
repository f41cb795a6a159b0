/* guard.c -- decides whether the head of an HTTP request is beyond doubt. */
#define _GNU_SOURCE
#include "server/http/guard.h"

#include <string.h>
#include <strings.h>

/* What the header lines said so far. */
typedef struct {
    int32_t headers;
    int32_t hosts;
    int32_t lengths;
    int32_t encodings;
    bool minor_1; /* HTTP/1.1 */
} guard_state;

static guard_verdict guard_refuse(guard_head *out, int code, const char *reason) {
    out->code = code;
    out->reason = reason;
    return GUARD_REFUSE;
}

/* RFC 9110 section 5.6.2. */
static bool guard_is_token(str s) {
    static const char others[] = "!#$%&'*+-.^_`|~";
    for (size_t i = 0; i < s.bytes; i++) {
        char c = s.data[i];
        bool alnum = (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
        if (!alnum && (c == 0 || strchr(others, c) == NULL)) {
            return false;
        }
    }
    return s.bytes > 0;
}

static bool guard_is_hex(char c) {
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F');
}

static bool guard_equal_nocase(str s, const char *text) {
    return s.bytes == strlen(text) && strncasecmp(s.data, text, s.bytes) == 0;
}

static str guard_trim(str s) {
    while (s.bytes > 0 && (s.data[0] == ' ' || s.data[0] == '\t')) {
        s.data++;
        s.bytes--;
    }
    while (s.bytes > 0 && (s.data[s.bytes - 1] == ' ' || s.data[s.bytes - 1] == '\t')) {
        s.bytes--;
    }
    return s;
}

/* A target in origin form. An encoded NUL cuts paths short in C programs further on. */
static const char *guard_target_fault(str t) {
    if (t.bytes == 0 || t.data[0] != '/') {
        return "the request target must be a path";
    }
    for (size_t i = 0; i < t.bytes; i++) {
        unsigned char c = (unsigned char)t.data[i];
        if (c <= ' ' || c >= 127 || strchr("\"<>\\^`{|}#", c) != NULL) {
            return "the request target has a character that is not allowed";
        }
        if (c == '%') {
            if (t.bytes - i < 3 || !guard_is_hex(t.data[i + 1]) || !guard_is_hex(t.data[i + 2])) {
                return "the request target has a malformed %-escape";
            }
            if (t.data[i + 1] == '0' && t.data[i + 2] == '0') {
                return "the request target has an encoded NUL";
            }
        }
    }
    return NULL;
}

static bool guard_method_known(str method) {
    static const char *const known[] = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"};
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++) {
        if (str_equal_z(method, known[i])) {
            return true;
        }
    }
    return false;
}

static guard_verdict guard_request_line(str line, guard_state *s, guard_head *out) {
    const char *first = memchr(line.data, ' ', line.bytes);
    const char *last = memrchr(line.data, ' ', line.bytes);
    if (first == NULL || first == last) {
        return guard_refuse(out, 400, "malformed request line");
    }
    out->method = str_of(line.data, (size_t)(first - line.data));
    out->target = str_of(first + 1, (size_t)(last - first - 1));
    str version = str_of(last + 1, (size_t)(line.data + line.bytes - last - 1));
    if (!guard_is_token(out->method)) {
        return guard_refuse(out, 400, "malformed method");
    }
    if (version.bytes != 8 || memcmp(version.data, "HTTP/", 5) != 0 || version.data[6] != '.' ||
        version.data[5] < '0' || version.data[5] > '9' || version.data[7] < '0' ||
        version.data[7] > '9') {
        return guard_refuse(out, 400, "malformed HTTP version");
    }
    if (version.data[5] != '1' || version.data[7] > '1') {
        return guard_refuse(out, 505, "HTTP version not supported");
    }
    if (!guard_method_known(out->method)) {
        return guard_refuse(out, 501, "method not known");
    }
    if (out->target.bytes > GUARD_TARGET_BYTES) {
        return guard_refuse(out, 414, "request target too long");
    }
    const char *fault = guard_target_fault(out->target);
    if (fault != NULL) {
        return guard_refuse(out, 400, fault);
    }
    s->minor_1 = version.data[7] == '1';
    out->keep = s->minor_1;
    return GUARD_PASS;
}

static guard_verdict guard_length(str value, guard_state *s, guard_head *out) {
    if (++s->lengths > 1) {
        return guard_refuse(out, 400, "more than one Content-Length");
    }
    if (value.bytes == 0) {
        return guard_refuse(out, 400, "malformed Content-Length");
    }
    for (size_t i = 0; i < value.bytes; i++) {
        if (value.data[i] < '0' || value.data[i] > '9') {
            return guard_refuse(out, 400, "malformed Content-Length");
        }
    }
    if (value.bytes > GUARD_BODY_DIGITS) {
        return guard_refuse(out, 413, "body too large");
    }
    for (size_t i = 0; i < value.bytes; i++) {
        out->body_bytes = out->body_bytes * 10 + (value.data[i] - '0');
    }
    return GUARD_PASS;
}

/* Anything but a lone `chunked` leaves the end of the body to interpretation. */
static guard_verdict guard_encoding(str value, guard_state *s, guard_head *out) {
    if (++s->encodings > 1 || !guard_equal_nocase(value, "chunked")) {
        return guard_refuse(out, 400, "Transfer-Encoding must be exactly chunked");
    }
    out->chunked = true;
    return GUARD_PASS;
}

static guard_verdict guard_host(str value, guard_state *s, guard_head *out) {
    if (++s->hosts > 1) {
        return guard_refuse(out, 400, "more than one Host");
    }
    for (size_t i = 0; i < value.bytes; i++) {
        unsigned char c = (unsigned char)value.data[i];
        if (c <= ' ' || c >= 127 || strchr("/?#@\\,\"<>", c) != NULL) {
            return guard_refuse(out, 400, "malformed Host");
        }
    }
    return GUARD_PASS;
}

/* The one option of Connection that matters here. */
static bool guard_list_has(str list, const char *word) {
    while (list.bytes > 0) {
        const char *comma = memchr(list.data, ',', list.bytes);
        size_t bytes = comma != NULL ? (size_t)(comma - list.data) : list.bytes;
        if (guard_equal_nocase(guard_trim(str_of(list.data, bytes)), word)) {
            return true;
        }
        size_t skip = comma != NULL ? bytes + 1 : bytes;
        list = str_of(list.data + skip, list.bytes - skip);
    }
    return false;
}

static guard_verdict guard_header_line(str line, guard_state *s, guard_head *out) {
    if (++s->headers > LIMIT_HEADERS) {
        return guard_refuse(out, 431, "too many header lines");
    }
    if (line.data[0] == ' ' || line.data[0] == '\t') {
        return guard_refuse(out, 400, "folded header line");
    }
    const char *colon = memchr(line.data, ':', line.bytes);
    if (colon == NULL) {
        return guard_refuse(out, 400, "header line without a colon");
    }
    str name = str_of(line.data, (size_t)(colon - line.data));
    str value = guard_trim(str_of(colon + 1, line.bytes - name.bytes - 1));
    if (!guard_is_token(name)) {
        return guard_refuse(out, 400, "malformed header name");
    }
    if (guard_equal_nocase(name, "Content-Length")) {
        return guard_length(value, s, out);
    }
    if (guard_equal_nocase(name, "Transfer-Encoding")) {
        return guard_encoding(value, s, out);
    }
    if (guard_equal_nocase(name, "Host")) {
        return guard_host(value, s, out);
    }
    if (guard_equal_nocase(name, "Expect")) {
        if (!guard_equal_nocase(value, "100-continue")) {
            return guard_refuse(out, 417, "Expect can only be 100-continue");
        }
        out->expects = true;
    }
    if (guard_equal_nocase(name, "Connection") && guard_list_has(value, "close")) {
        out->keep = false;
    }
    return GUARD_PASS;
}

/* What only the whole head tells. */
static guard_verdict guard_finish(const guard_state *s, guard_head *out) {
    if (s->lengths > 0 && s->encodings > 0) {
        return guard_refuse(out, 400, "both Content-Length and Transfer-Encoding");
    }
    if (s->encodings > 0 && !s->minor_1) {
        return guard_refuse(out, 400, "Transfer-Encoding needs HTTP/1.1");
    }
    if (s->hosts == 0 && s->minor_1) {
        return guard_refuse(out, 400, "Host is missing");
    }
    return GUARD_PASS;
}

/* The next line in data[from..bytes): GUARD_PASS and the line without its end, GUARD_MORE, or
 * GUARD_REFUSE for a byte that may not be there at all. */
static guard_verdict guard_line(const char *data, size_t bytes, size_t from, str *line,
                                guard_head *out) {
    for (size_t i = from; i < bytes; i++) {
        unsigned char c = (unsigned char)data[i];
        if (c == '\r') {
            if (i + 1 == bytes) {
                return GUARD_MORE;
            }
            if (data[i + 1] != '\n') {
                return guard_refuse(out, 400, "carriage return without line feed");
            }
            *line = str_of(data + from, i - from);
            return GUARD_PASS;
        }
        if (c == '\n') {
            return guard_refuse(out, 400, "line feed without carriage return");
        }
        if ((c < ' ' && c != '\t') || c == 127) {
            return guard_refuse(out, 400, "control character");
        }
    }
    return GUARD_MORE;
}

/* The head is not complete: is it too long already? */
static guard_verdict guard_too_long(size_t bytes, bool first_line, guard_head *out) {
    /* A method, a target of the longest allowed length, a version. */
    if (first_line && bytes > GUARD_TARGET_BYTES + 64) {
        return guard_refuse(out, 414, "request target too long");
    }
    if (bytes >= LIMIT_HEADER_BYTES) {
        return guard_refuse(out, 431, "request head too long");
    }
    return GUARD_MORE;
}

guard_verdict guard_read(const char *data, size_t bytes, guard_head *out) {
    memset(out, 0, sizeof *out);
    guard_state s = {0};
    size_t at = 0;
    for (bool first = true;; first = false) {
        str line = {NULL, 0};
        guard_verdict v = guard_line(data, bytes, at, &line, out);
        if (v == GUARD_MORE) {
            return guard_too_long(bytes, first, out);
        }
        if (v == GUARD_REFUSE) {
            return v;
        }
        at += line.bytes + 2;
        if (at > LIMIT_HEADER_BYTES) {
            return guard_refuse(out, 431, "request head too long");
        }
        if (line.bytes == 0 && !first) {
            out->bytes = at;
            return guard_finish(&s, out);
        }
        v = first ? guard_request_line(line, &s, out) : guard_header_line(line, &s, out);
        if (v != GUARD_PASS) {
            return v;
        }
    }
}
