/* status.h -- result codes, and the text a failure leaves for its reader.
 *
 * Purpose    One list of error values for the whole program, and `diag`: the code and a sentence
 *            that a user will read, filled by the function that knows what went wrong.
 * Ownership  A diag is the caller's memory; nothing in it is allocated.
 * Threads    Pure values.
 * Limits     A diag's text is cut at DIAG_TEXT_BYTES - 1 bytes, always terminated, always UTF-8: a
 *            byte that is none becomes '?'.
 */
#ifndef ENGINE_BASE_STATUS_H
#define ENGINE_BASE_STATUS_H

#include <stdarg.h>

#ifdef __cplusplus
extern "C" {
#endif

#define STATUS_MAP(X)                          \
    X(OK, 0, "ok")                             \
    X(NOMEM, 1, "out of memory")               \
    X(IO, 2, "system call failed")             \
    X(CORRUPT, 3, "malformed input")           \
    X(UNSUPPORTED, 4, "feature not supported") \
    X(LIMIT, 5, "configured limit reached")    \
    X(CLOSED, 6, "peer closed")                \
    X(DEVICE, 7, "device runtime error")       \
    X(INVALID, 8, "invalid argument")          \
    X(NOTFOUND, 9, "not found")                \
    X(TIMEOUT, 10, "deadline passed")          \
    X(MISMATCH, 11, "peers do not fit together")

typedef enum {
#define STATUS_ENUM(name, code, text) STATUS_##name = code,
    STATUS_MAP(STATUS_ENUM)
#undef STATUS_ENUM
} status;

#define MUST_USE __attribute__((warn_unused_result))
#define PRINTF_LIKE(fmt, args) __attribute__((format(printf, fmt, args)))

/* Forwards a failure to the caller. */
#define TRY(call)                       \
    do {                                \
        status try_status_ = (call);    \
        if (try_status_ != STATUS_OK) { \
            return try_status_;         \
        }                               \
    } while (0)

enum { DIAG_TEXT_BYTES = 384 };

/* What a user reads when something of theirs was refused. `param` names the field, flag or file
 * at fault, empty when there is none. */
typedef struct {
    status code;
    char param[64];
    char text[DIAG_TEXT_BYTES];
} diag;

/* The lower-case name and the sentence of a code; static strings. */
const char *status_name(status s);
const char *status_text(status s);

/* Fill `d` (which may be NULL) and return `code`, so that a failure is one statement:
 *     return status_fail(d, STATUS_CORRUPT, "tensor %u: offset %llu is past the end", ...);   */
status status_fail(diag *d, status code, const char *format, ...) PRINTF_LIKE(3, 4);

/* As status_fail, and names the field at fault. */
status status_fail_param(diag *d, status code, const char *param, const char *format, ...)
    PRINTF_LIKE(4, 5);

/* As status_fail, and appends the text of errno. */
status status_fail_errno(diag *d, status code, const char *format, ...) PRINTF_LIKE(3, 4);

#ifdef __cplusplus
}
#endif
#endif
