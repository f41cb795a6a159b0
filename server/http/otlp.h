/* otlp.h -- sends traces to an OpenTelemetry collector, and is never in anybody's way.
 *
 * Purpose    Takes what is to be told of a request that has ended, makes spans of it on a thread of
 *            its own, and posts them in batches to the collector (OTLP over HTTP, JSON). What the
 *            collector cannot take in time is dropped and counted.
 * Ownership  An item is the exporter's from otlp_push on. otlp_close gives everything back.
 * Threads    otlp_push, otlp_count: any. The callbacks run on the exporter's thread, `discard` also
 *            on a thread whose item is not taken.
 * Limits     OTLP_WAITING_MAX items wait; a batch is what has come within OTLP_BATCH_US, or has
 *            OTLP_BATCH_SPANS spans; a batch is tried for OTLP_RETRY_US. otlp_close takes at most
 *            OTLP_CLOSE_US.
 * Source     OTLP specification: "OTLP/HTTP Request", "Failures", "Throttling".
 */
#ifndef SERVER_HTTP_OTLP_H
#define SERVER_HTTP_OTLP_H

#include "server/http/otlpheaders.h"
#include "server/http/otlpspan.h"

enum {
    OTLP_WAITING_MAX = 2048,
    OTLP_BATCH_SPANS = 512,
    OTLP_BATCH_US = 1000000,
    OTLP_RETRY_US = 60000000,
    OTLP_CLOSE_US = 5000000,
    OTLP_URL_BYTES = 1024
};

typedef struct otlp otlp;

typedef struct {
    const char *url;            /* where batches are posted: otlp_url makes it */
    const otlpheaders *headers; /* that go with each; borrowed until otlp_close; NULL: none */
    const otlpspan_attribute *resource;
    size_t resource_count; /* who says all this; borrowed until otlp_close */
    const char *scope, *version;
    void *self;
    /* Adds the spans of an item (otlpspan_write); returns how many. */
    uint32_t (*write)(void *self, void *item, strbuf *out);
    void (*discard)(void *self, void *item);
} otlp_options;

/* Items since otlp_open, each in one of these in the end. */
typedef struct {
    uint64_t sent;
    uint64_t dropped_full;        /* too many waited */
    uint64_t dropped_refused;     /* the collector did not want them */
    uint64_t dropped_unreachable; /* it did not answer, or said "later" for too long */
} otlp_counts;

/* The address of traces below `endpoint`, as the specification has it: "http://host:4318" means
 * "http://host:4318/v1/traces". */
MUST_USE status otlp_url(const char *endpoint, char url[OTLP_URL_BYTES], diag *d);

MUST_USE status otlp_open(const otlp_options *options, otlp **out, diag *d);

/* Sends what waits, if the collector takes it now. */
void otlp_close(otlp *o);

/* Never waits. */
void otlp_push(otlp *o, void *item);

void otlp_count(otlp *o, otlp_counts *out);

#endif
