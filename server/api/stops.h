/* stops.h -- stop strings in a stream of text.
 *
 * Purpose    Finds the first stop string in text that arrives in pieces. Text that could still be
 *            the start of a stop string is held back, so nothing of a stop string is ever sent.
 * Ownership  Plain data; the stop strings are borrowed and must outlive it.
 * Threads    One thread at a time.
 * Limits     LIMIT_STOP_STRINGS of LIMIT_STOP_BYTES each; as much text is held back as the longest
 *            stop string less one byte.
 */
#ifndef SERVER_API_STOPS_H
#define SERVER_API_STOPS_H

#include "engine/base/limits.h"
#include "engine/base/str.h"

typedef struct {
    const str *strings; /* [count], none empty */
    int32_t count;
    char held[LIMIT_STOP_BYTES]; /* [held_bytes] the text so far, not yet passed on */
    size_t held_bytes;
} stops;

stops stops_make(const str *strings, int32_t count);

/* Takes `text`, appends what is safe to send to `out`. The number of the stop string found, or -1.
 * When found, `out` ends before it (or after it, with `include`); what follows is dropped. Of
 * several that are found, the one that ends first counts; of those, the first listed. */
int32_t stops_feed(stops *s, str text, bool include, strbuf *out);

/* No more text comes: what was held back was no stop string. */
void stops_flush(stops *s, strbuf *out);

#endif
