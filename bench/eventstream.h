/* eventstream.h -- server-sent events, parsed from bytes as they come.
 *
 * Purpose    Gives the data of each event of a text/event-stream, cut anywhere.
 * Ownership  eventstream_close frees the line being collected. Data is borrowed for the callback.
 * Threads    One thread at a time.
 * Limits     EVENTSTREAM_BYTES of one event; longer ones set `failed`.
 * Source     WHATWG HTML, "Server-sent events", section 9.2.6; id and retry are not needed.
 */
#ifndef BENCH_EVENTSTREAM_H
#define BENCH_EVENTSTREAM_H

#include <stdbool.h>

#include "engine/base/str.h"

enum { EVENTSTREAM_BYTES = 16 << 20 };

typedef struct {
    void *self;
    void (*event)(void *self, str data);
    strbuf line;
    strbuf data; /* the data lines of the event so far */
    bool has_data;
    bool after_cr; /* a line feed now belongs to the line end before */
    bool failed;
} eventstream;

void eventstream_start(eventstream *e, void *self, void (*event)(void *self, str data));
void eventstream_feed(eventstream *e, str bytes);
void eventstream_close(eventstream *e);

#endif
