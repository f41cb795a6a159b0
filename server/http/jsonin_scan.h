/* jsonin_scan.h -- one strict pass over JSON text.
 *
 * Purpose    Decides whether a text is JSON within limits, and notes where the members of the
 *            top-level object are. Builds nothing.
 * Ownership  Members point into the text.
 * Threads    Pure functions.
 * Limits     Recursion is bounded by LIMIT_JSON_DEPTH.
 */
#ifndef SERVER_HTTP_JSONIN_SCAN_H
#define SERVER_HTTP_JSONIN_SCAN_H

#include "server/http/jsonin.h"

typedef struct {
    jsonin_member *members; /* [JSONIN_MEMBERS] may be NULL: not wanted */
    int32_t members_count;
    const char *const *bulk; /* [bulk_count] */
    size_t bulk_count;
    bool object;    /* the top-level value is an object */
    int64_t values; /* in all, but for those of bulk arrays */
} jsonin_scan;

/* STATUS_CORRUPT: not JSON; STATUS_INVALID: JSON that is refused all the same (too deep, too many
 * values, what I-JSON leaves out). The diag has the byte, and the top-level member where there is
 * one. */
MUST_USE status jsonin_scan_text(jsonin_scan *s, str text, diag *d);

#endif
