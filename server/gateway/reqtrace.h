/* reqtrace.h -- what is noted of one request on its way, for its trace and the access log.
 *
 * Purpose    Gives each request that works on a text a place in a trace: the client's, from its
 *            `traceparent`, or a new one. Notes times and workers as it goes through the gateway,
 *            and, when nobody has the request any more, writes the access log's line and hands the
 *            note to the exporter (otlp.h), which makes spans of it (reqspans.h).
 * Ownership  A note belongs to its exchange and ends with it, or with the exporter's item.
 * Threads    reqtrace_handlers' functions: any HTTP thread. The noting calls: whoever has the
 *            request at the time, one after the other; they take a NULL note and do nothing.
 * Limits     REQTRACE_ATTEMPTS attempts and REQTRACE_EVENTS events of a request are noted; what
 *            comes after is only counted.
 */
#ifndef SERVER_GATEWAY_REQTRACE_H
#define SERVER_GATEWAY_REQTRACE_H

#include <stdatomic.h>

#include "server/api/openai.h"
#include "server/api/routes.h"
#include "server/http/http.h"
#include "server/http/otlp.h"

enum {
    REQTRACE_ATTEMPTS = 12,
    REQTRACE_EVENTS = 16,
    REQTRACE_NOBODY = -1 /* no worker */
};

/* One try at one prompt. Times are clock_now_us; 0: did not happen. */
typedef struct {
    int32_t run; /* which prompt */
    uint32_t number;
    int32_t prefill, decode; /* workers, or REQTRACE_NOBODY; no prefill: `decode` computes it */
    int64_t sent_us;
    int64_t first_us, last_us;            /* tokens came */
    uint32_t waited_us, computed_us;      /* of the prompt, as its worker says */
    int64_t adopted_us;                   /* the decode worker had all pages */
    uint32_t room_waited_us, transfer_us; /* as the decode worker says */
    int32_t tokens;
    int64_t ended_us; /* it failed, or all is done */
    bool failed;
} reqtrace_attempt;

/* Something that went wrong on the way, and was made good. */
typedef struct {
    const char *what; /* static */
    const char *why;  /* static; NULL: nothing to add */
    int64_t at_us;
    int32_t worker; /* or REQTRACE_NOBODY */
    int32_t run;
} reqtrace_event;

typedef struct reqtrace reqtrace;

typedef struct {
    reqtrace *tracer;
    traceparent self; /* of the request's own span */
    uint64_t parent;  /* of the client's; 0: none */
    char state[TRACEPARENT_STATE_BYTES + 1];
    routes_route route;
    char model[128];
    int32_t max_tokens; /* -1: what the context leaves */
    bool stream;
    int64_t text_start_us, text_end_us; /* rendering and tokenising */
    int64_t queued_us, dispatched_us;   /* it came to the line, and left it */
    int32_t prompt_tokens, completion_tokens, cached_tokens;
    int64_t worked_until_us; /* the gateway did something for it until then */
    uint32_t attempts_count; /* also of those not in the list */
    reqtrace_attempt attempts[REQTRACE_ATTEMPTS];
    uint32_t events_count;
    reqtrace_event events[REQTRACE_EVENTS];
    exchange_ending how;
    int64_t wall_offset_us; /* clock_wall_us - clock_now_us when it ended */
} reqtrace_note;

typedef struct {
    const char *endpoint; /* of the collector; NULL: traces go nowhere but to the log */
    const char *headers;  /* for it (otlpheaders.h); read in reqtrace_open; NULL: none */
    double sample;        /* of requests that say nothing of it, this share is recorded */
    const char *version;
    http_handlers inner; /* what it stands before */
} reqtrace_options;

MUST_USE status reqtrace_open(const reqtrace_options *options, reqtrace **out, diag *d);

/* Sends what is left. When all exchanges have been given back. */
void reqtrace_close(reqtrace *t);

/* For http_open, in place of the inner ones. */
http_handlers reqtrace_handlers(reqtrace *t);

/* Zero when there is no exporter. */
void reqtrace_count(reqtrace *t, otlp_counts *out);

/* The note of a request; NULL: it has none. */
reqtrace_note *reqtrace_of(const exchange *x);

/* "/v1/chat/completions"; NULL for what is not traced. */
const char *reqtrace_path(routes_route route);

/* ---- noting --------------------------------------------------------------------------------- */

/* The trace's id, high half first; 0, 0 without a note. */
void reqtrace_id(const reqtrace_note *n, uint64_t id[2]);

/* Rendered and tokenised from then until now. */
void reqtrace_text(reqtrace_note *n, int64_t start_us, int64_t now_us);

/* It waits for its turn from now on. */
void reqtrace_queued(reqtrace_note *n, const openai_request *r, int64_t now_us);

/* An attempt at prompt `run` goes to workers (MESSAGE_NO_WORKER: none). */
void reqtrace_sent(reqtrace_note *n, int32_t run, uint32_t number, uint32_t prefill,
                   uint32_t decode, int64_t now_us);

/* A token of the prompt's last attempt. */
void reqtrace_token(reqtrace_note *n, int32_t run, int64_t now_us);

/* What a worker says of its own part in an attempt: the prompt waited and was computed for so
 * long; room was waited for, and pages were moved for so long. Of another attempt: not noted. */
void reqtrace_computed(reqtrace_note *n, int32_t run, uint32_t number, uint32_t waited_us,
                       uint32_t computed_us);
void reqtrace_adopted(reqtrace_note *n, int32_t run, uint32_t number, uint32_t room_waited_us,
                      uint32_t transfer_us, int64_t now_us);

/* `what` happened to the prompt, and `why`; both static. `failed`: the attempt ends with it. */
void reqtrace_event_of(reqtrace_note *n, int32_t run, const char *what, const char *why,
                       int32_t worker, bool failed, int64_t now_us);

/* True when the prompt's last attempt goes on at this worker. */
bool reqtrace_is_at(const reqtrace_note *n, int32_t run, uint32_t worker);

/* All is over. */
void reqtrace_ended(reqtrace_note *n, int32_t prompt_tokens, int32_t completion_tokens,
                    int32_t cached_tokens, int64_t now_us);

#endif
