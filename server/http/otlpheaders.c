/* otlpheaders.c -- members of a list, percent-decoded, as lines. */
#include "server/http/otlpheaders.h"

#include <string.h>
#include <strings.h>

#include "engine/base/str.h"

/* RFC 9110, 5.6.2: what a name consists of. */
static const char token[] =
    "!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyz"
    "ABCDEFGHIJKLMNOPQRSTUVWXYZ";

static str trim(str s) {
    while (s.bytes && (s.data[0] == ' ' || s.data[0] == '\t')) {
        s = str_of(s.data + 1, s.bytes - 1);
    }
    while (s.bytes && (s.data[s.bytes - 1] == ' ' || s.data[s.bytes - 1] == '\t')) {
        s.bytes--;
    }
    return s;
}

static int digit(char c) {
    return c >= '0' && c <= '9'   ? c - '0'
           : c >= 'a' && c <= 'f' ? c - 'a' + 10
           : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                  : -1;
}

/* What the exporter or HTTP itself says; another value would break it. */
static bool is_own(str name) {
    static const char *const own[] = {"host",       "content-type",      "content-length",
                                      "connection", "transfer-encoding", "expect"};
    for (size_t i = 0; i < sizeof own / sizeof own[0]; i++) {
        if (name.bytes == strlen(own[i]) && strncasecmp(name.data, own[i], name.bytes) == 0) {
            return true;
        }
    }
    return false;
}

/* Decodes onto `out`, which ends at `end`; NULL: a broken escape, a control character, no room. */
static char *decode(str value, char *out, const char *end) {
    for (size_t i = 0; i < value.bytes; i++) {
        char c = value.data[i];
        if (c == '%') {
            bool whole = i + 2 < value.bytes;
            int high = whole ? digit(value.data[i + 1]) : -1;
            int low = whole ? digit(value.data[i + 2]) : -1;
            if (high < 0 || low < 0) {
                return NULL;
            }
            c = (char)(high * 16 + low);
            i += 2;
        }
        if ((unsigned char)c < ' ' || c == 0x7f || out >= end) {
            return NULL;
        }
        *out++ = c;
    }
    return out;
}

static const char *add(otlpheaders *h, str member, char **at) {
    const char *equals = memchr(member.data, '=', member.bytes), *end = h->text + sizeof h->text;
    if (!equals) {
        return "is not name=value";
    }
    str name = trim(str_of(member.data, (size_t)(equals - member.data)));
    str value = trim(str_of(equals + 1, member.bytes - (size_t)(equals - member.data) - 1));
    if (name.bytes == 0 || strspn(name.data, token) < name.bytes) {
        return "has no name that a header may have";
    }
    if (is_own(name)) {
        return "is a header that is not for others to set";
    }
    if (value.bytes == 0) {
        return "has no value";
    }
    if (h->count == OTLPHEADERS_MAX || name.bytes + 4 > (size_t)(end - *at)) {
        return "is one too many";
    }
    h->lines[h->count++] = *at;
    memcpy(*at, name.data, name.bytes);
    memcpy(*at + name.bytes, ": ", 2);
    char *next = decode(value, *at + name.bytes + 2, end - 1);
    if (!next) {
        return "has a value that is too long, or that no header may have";
    }
    *next = 0;
    *at = next + 1;
    return NULL;
}

status otlpheaders_read(const char *text, otlpheaders *out, diag *d) {
    char *at = out->text;
    out->count = 0;
    for (int number = 1; text && *text; number++) {
        size_t bytes = strcspn(text, ",");
        str member = trim(str_of(text, bytes));
        const char *wrong = member.bytes ? add(out, member, &at) : NULL;
        if (wrong) {
            out->count = 0;
            return status_fail_param(d, STATUS_INVALID, "otlp-headers",
                                     "headers for the trace collector: number %d %s", number,
                                     wrong);
        }
        text += bytes + (text[bytes] == ',');
    }
    return STATUS_OK;
}
