/* guard.h -- decides whether the head of an HTTP request is beyond doubt.
 *
 * Purpose    Two programs that disagree about where a request ends can be made to smuggle one past
 *            the other. The guard reads the raw bytes of a head before any other parser does and
 *            lets only those pass about which no two parsers could disagree; the rest is refused.
 * Ownership  Nothing is kept: the strs of a guard_head point into the bytes given.
 * Threads    Pure functions.
 * Limits     LIMIT_HEADER_BYTES, LIMIT_HEADERS, GUARD_TARGET_BYTES.
 * Source     RFC 9112 (HTTP/1.1), read strictly: no bare CR or LF, no line folding, no empty line
 *            before the request, origin-form targets only.
 */
#ifndef SERVER_HTTP_GUARD_H
#define SERVER_HTTP_GUARD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/base/limits.h"
#include "engine/base/status.h"
#include "engine/base/str.h"

enum { GUARD_TARGET_BYTES = 4096, GUARD_BODY_DIGITS = 15 };

typedef enum {
    GUARD_MORE,  /* the head is not complete; nothing wrong so far */
    GUARD_PASS,  /* complete and beyond doubt */
    GUARD_REFUSE /* answer with `code` and close */
} guard_verdict;

typedef struct {
    size_t bytes; /* of the head, the empty line included */
    str method;
    str target;
    int64_t body_bytes; /* Content-Length, 0 without a body */
    bool chunked;
    bool expects;       /* Expect: 100-continue */
    bool keep;          /* HTTP/1.1 and the client did not ask to close */
    int code;           /* GUARD_REFUSE: HTTP status of the answer */
    const char *reason; /* GUARD_REFUSE: static text */
} guard_head;

/* Looks at the first bytes of a request. `bytes` may be cut anywhere; call again with more. */
guard_verdict guard_read(const char *data, size_t bytes, guard_head *out);

#endif
