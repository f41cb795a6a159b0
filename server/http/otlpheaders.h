/* otlpheaders.h -- the headers that a collector wants with each batch: keys, tenants.
 *
 * Purpose    Reads OTEL_EXPORTER_OTLP_HEADERS: "name=value,name=value", values percent-encoded.
 * Ownership  The lines point into the struct, which must not be moved.
 * Threads    One while it is read; any after that.
 * Limits     OTLPHEADERS_MAX headers, OTLPHEADERS_BYTES in all. Values are secrets: no message has
 *            any part of them.
 * Source     OpenTelemetry: "Specifying headers via environment variables"; W3C Baggage 3.3.
 */
#ifndef SERVER_HTTP_OTLPHEADERS_H
#define SERVER_HTTP_OTLPHEADERS_H

#include <stdint.h>

#include "engine/base/status.h"

enum { OTLPHEADERS_MAX = 16, OTLPHEADERS_BYTES = 4096 };

typedef struct {
    const char *lines[OTLPHEADERS_MAX]; /* [count] "name: value" */
    uint32_t count;
    char text[OTLPHEADERS_BYTES];
} otlpheaders;

/* NULL and "" are no headers. Refused by number: what is no name=value, characters that no header
 * may have, and headers that are the exporter's own (Host, Content-Type, ...). */
MUST_USE status otlpheaders_read(const char *text, otlpheaders *out, diag *d);

#endif
