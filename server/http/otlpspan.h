/* otlpspan.h -- spans as OpenTelemetry collectors read them.
 *
 * Purpose    Writes one span, and what goes around the spans of one export, as OTLP's JSON.
 * Ownership  A span borrows everything it names.
 * Threads    Pure functions.
 * Limits     Those of the strbuf.
 * Source     OTLP specification 1.x, "JSON Protobuf Encoding": ids are hexadecimal, 64-bit numbers
 *            are strings, enumerations are numbers. trace.proto for the fields.
 */
#ifndef SERVER_HTTP_OTLPSPAN_H
#define SERVER_HTTP_OTLPSPAN_H

#include "server/http/traceparent.h"

typedef enum { OTLPSPAN_INTERNAL = 1, OTLPSPAN_SERVER = 2 } otlpspan_kind;

/* `text` when it has data, else `number`. */
typedef struct {
    const char *key;
    str text;
    int64_t number;
} otlpspan_attribute;

/* Times are nanoseconds since 1970. */
typedef struct {
    const char *name;
    int64_t at_ns;
    const otlpspan_attribute *attributes; /* [attributes_count] */
    size_t attributes_count;
} otlpspan_event;

typedef struct {
    traceparent self;   /* its trace, its own id, the trace's flags */
    uint64_t parent;    /* 0: the trace begins here */
    bool parent_remote; /* it came with a request */
    str state;          /* tracestate; may be empty */
    const char *name;
    otlpspan_kind kind;
    int64_t start_ns, end_ns;
    const otlpspan_attribute *attributes; /* [attributes_count] */
    size_t attributes_count;
    const otlpspan_event *events; /* [events_count] */
    size_t events_count;
    bool failed;
    str failure; /* a sentence; may be empty */
} otlpspan;

/* Adds a span, with a comma before it unless it is the first. */
void otlpspan_write(strbuf *out, const otlpspan *span);

/* What comes before the spans of an export: who made them. `scope` is the part of the program. */
void otlpspan_begin(strbuf *out, const otlpspan_attribute *resource, size_t resource_count,
                    const char *scope, const char *version);
void otlpspan_end(strbuf *out);

#endif
