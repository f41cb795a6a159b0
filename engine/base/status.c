/* status.c -- names of the result codes; filling a diag. */
#include "engine/base/status.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "engine/base/str.h"

const char *status_name(status s) {
    switch (s) {
#define STATUS_NAME(name, code, text) \
    case STATUS_##name:               \
        return #name;
        STATUS_MAP(STATUS_NAME)
#undef STATUS_NAME
    }
    return "UNKNOWN";
}

const char *status_text(status s) {
    switch (s) {
#define STATUS_TEXT(name, code, text) \
    case STATUS_##name:               \
        return text;
        STATUS_MAP(STATUS_TEXT)
#undef STATUS_TEXT
    }
    return "unknown status";
}

/* What a diag quotes may be cut within a character, or be no text at all; its reader is a person, a
 * log or a JSON document. */
static void mend(char *text, size_t bytes) {
    for (size_t at = 0; at < bytes;) {
        uint32_t code_point;
        int n = str_utf8_next(text + at, bytes - at, &code_point);
        if (n <= 0) {
            text[at] = '?';
        }
        at += n <= 0 ? 1 : (size_t)n;
    }
}

static void fill(diag *d, status code, const char *param, const char *format, va_list args) {
    d->code = code;
    (void)snprintf(d->param, sizeof d->param, "%s", param);
    (void)vsnprintf(d->text, sizeof d->text, format, args);
    mend(d->param, strlen(d->param));
    mend(d->text, strlen(d->text));
}

status status_fail(diag *d, status code, const char *format, ...) {
    if (d) {
        va_list args;
        va_start(args, format);
        fill(d, code, "", format, args);
        va_end(args);
    }
    return code;
}

status status_fail_param(diag *d, status code, const char *param, const char *format, ...) {
    if (d) {
        va_list args;
        va_start(args, format);
        fill(d, code, param, format, args);
        va_end(args);
    }
    return code;
}

status status_fail_errno(diag *d, status code, const char *format, ...) {
    int saved = errno;
    if (d) {
        va_list args;
        va_start(args, format);
        fill(d, code, "", format, args);
        va_end(args);
        size_t used = strlen(d->text);
        (void)snprintf(d->text + used, sizeof d->text - used, ": %s", strerror(saved));
    }
    return code;
}
