/* reqtrace.c -- notes of requests. */
#define _GNU_SOURCE
#include "server/gateway/reqtrace.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "engine/base/clock.h"
#include "engine/base/hash.h"
#include "engine/base/log.h"
#include "engine/base/mem.h"
#include "engine/base/rng.h"
#include "engine/core/message.h"
#include "server/gateway/reqspans.h"

enum { RESOURCE_MAX = 6, HOST_BYTES = 128, INSTANCE_BYTES = 192 };

struct reqtrace {
    reqtrace_options options;
    otlp *otlp; /* NULL: none */
    uint64_t seed[3];
    _Atomic uint64_t count;
    char host[HOST_BYTES], instance[INSTANCE_BYTES];
    otlpspan_attribute resource[RESOURCE_MAX];
    otlpheaders headers;
};

const char *reqtrace_path(routes_route route) {
    switch (route) {
        case ROUTES_CHAT:
            return "/v1/chat/completions";
        case ROUTES_COMPLETIONS:
            return "/v1/completions";
        case ROUTES_TOKENIZE:
            return "/tokenize";
        case ROUTES_DETOKENIZE:
            return "/detokenize";
        default: /* what probes and people look at would bury what matters */
            return NULL;
    }
}

reqtrace_note *reqtrace_of(const exchange *x) {
    return exchange_attached(x);
}

/* ---- the life of a note --------------------------------------------------------------------- */

static uint32_t write_item(void *self, void *item, strbuf *out) {
    (void)self;
    return reqspans_write(item, out);
}

static void discard_item(void *self, void *item) {
    (void)self;
    mem_free(item);
}

static void on_ended(void *attached, const exchange_ending *how) {
    reqtrace_note *n = attached;
    n->how = *how;
    LOG(DEBUG, "http", "answered",
        "path=%s code=%d complete=%d us=%" PRId64 " trace=%016" PRIx64 "%016" PRIx64,
        reqtrace_path(n->route), how->http_code, how->complete, how->ended_us - how->received_us,
        n->self.trace_high, n->self.trace_low);
    if (n->tracer->otlp && n->self.flags & TRACEPARENT_SAMPLED) {
        n->wall_offset_us = clock_wall_us() - clock_now_us();
        otlp_push(n->tracer->otlp, n);
    } else {
        mem_free(n);
    }
}

static uint64_t draw(const reqtrace *t, int which, uint64_t number) {
    uint64_t id = rng_at(t->seed[which], (uint64_t)which, number);
    return id ? id : 1;
}

/* As OpenTelemetry's TraceIdRatioBased samplers: the low 7 bytes decide, so that everybody who
 * samples by the id of a trace keeps the same ones. */
static bool is_sampled(const reqtrace *t, uint64_t trace_low) {
    double share = (double)(trace_low & 0xffffffffffffffu) * 0x1p-56;
    return t->otlp && share >= 1 - t->options.sample;
}

static void place_in_trace(reqtrace *t, const exchange *x, reqtrace_note *n) {
    uint64_t number = atomic_fetch_add(&t->count, 1);
    traceparent client;
    str state = exchange_tracestate(x);
    if (traceparent_read(exchange_traceparent(x), &client)) {
        n->parent = client.span;
        n->self = client;
        if (traceparent_state_fits(state)) {
            memcpy(n->state, state.data, state.bytes);
        }
    } else {
        n->self.trace_high = draw(t, 0, number);
        n->self.trace_low = draw(t, 1, number);
        n->self.flags = TRACEPARENT_RANDOM;
        n->self.flags |= is_sampled(t, n->self.trace_low) ? TRACEPARENT_SAMPLED : 0;
    }
    n->self.span = draw(t, 2, number);
}

static void on_request(void *self, exchange *x, int32_t route) {
    reqtrace *t = self;
    reqtrace_note *n =
        reqtrace_path((routes_route)route) ? mem_calloc(1, sizeof *n) : NULL; /* none: no trace */
    if (n) {
        char text[TRACEPARENT_TEXT_BYTES];
        n->tracer = t;
        n->route = (routes_route)route;
        place_in_trace(t, x, n);
        traceparent_write(&n->self, text);
        exchange_header header = {"traceresponse", text};
        exchange_attach(x, n, on_ended, t->otlp ? &header : NULL);
    }
    t->options.inner.request(t->options.inner.self, x, route);
}

static void on_admit(void *self, const http_head *head, http_verdict *verdict) {
    const reqtrace *t = self;
    t->options.inner.admit(t->options.inner.self, head, verdict);
}

static void on_gone(void *self, exchange *x) {
    const reqtrace *t = self;
    t->options.inner.gone(t->options.inner.self, x);
}

http_handlers reqtrace_handlers(reqtrace *t) {
    return (http_handlers){t, on_admit, on_request, on_gone};
}

/* ---- the tracer ----------------------------------------------------------------------------- */

static status open_exporter(reqtrace *t, diag *d) {
    char url[OTLP_URL_BYTES];
    const char *service = getenv("OTEL_SERVICE_NAME");
    TRY(otlp_url(t->options.endpoint, url, d));
    TRY(otlpheaders_read(t->options.headers, &t->headers, d));
    if (gethostname(t->host, sizeof t->host) != 0) {
        (void)snprintf(t->host, sizeof t->host, "unknown");
    }
    t->host[sizeof t->host - 1] = 0;
    (void)snprintf(t->instance, sizeof t->instance, "%s-%d", t->host, (int)getpid());
    otlpspan_attribute resource[] = {
        {"service.name", str_from(service && *service ? service : "weir"), 0},
        {"service.version", str_from(t->options.version), 0},
        {"service.instance.id", str_from(t->instance), 0},
        {"host.name", str_from(t->host), 0},
        {"process.pid", {NULL, 0}, getpid()},
    };
    size_t count = sizeof resource / sizeof resource[0];
    memcpy(t->resource, resource, sizeof resource);
    otlp_options oo = {.url = url,
                       .headers = &t->headers,
                       .resource = t->resource,
                       .resource_count = count,
                       .scope = "weir.gateway",
                       .version = t->options.version,
                       .self = t,
                       .write = write_item,
                       .discard = discard_item};
    return otlp_open(&oo, &t->otlp, d);
}

status reqtrace_open(const reqtrace_options *options, reqtrace **out, diag *d) {
    hash_key keys[2];
    TRY(hash_key_random(&keys[0], d));
    TRY(hash_key_random(&keys[1], d));
    reqtrace *t = mem_calloc(1, sizeof *t);
    if (!t) {
        return status_fail(d, STATUS_NOMEM, "no memory for traces");
    }
    t->options = *options;
    t->seed[0] = keys[0].k0;
    t->seed[1] = keys[0].k1;
    t->seed[2] = keys[1].k0;
    status s = options->endpoint && options->endpoint[0] ? open_exporter(t, d) : STATUS_OK;
    if (s != STATUS_OK) {
        mem_free(t);
        return s;
    }
    *out = t;
    return STATUS_OK;
}

void reqtrace_close(reqtrace *t) {
    if (t) {
        otlp_close(t->otlp);
        mem_free(t);
    }
}

void reqtrace_count(reqtrace *t, otlp_counts *out) {
    *out = (otlp_counts){0};
    if (t->otlp) {
        otlp_count(t->otlp, out);
    }
}

/* ---- noting --------------------------------------------------------------------------------- */

void reqtrace_id(const reqtrace_note *n, uint64_t id[2]) {
    id[0] = n ? n->self.trace_high : 0;
    id[1] = n ? n->self.trace_low : 0;
}

void reqtrace_text(reqtrace_note *n, int64_t start_us, int64_t now_us) {
    if (n) {
        n->text_start_us = start_us;
        n->text_end_us = n->worked_until_us = now_us;
    }
}

void reqtrace_queued(reqtrace_note *n, const openai_request *r, int64_t now_us) {
    if (n) {
        n->queued_us = n->worked_until_us = now_us;
        n->max_tokens = r->params.max_tokens;
        n->stream = r->stream;
        int bytes = (int)(r->model.bytes < sizeof n->model ? r->model.bytes : sizeof n->model - 1);
        (void)snprintf(n->model, sizeof n->model, "%.*s", bytes, r->model.data);
    }
}

/* The last attempt of a prompt that is in the list. */
static reqtrace_attempt *last_of(reqtrace_note *n, int32_t run) {
    uint32_t listed = n->attempts_count < REQTRACE_ATTEMPTS ? n->attempts_count : REQTRACE_ATTEMPTS;
    for (uint32_t i = listed; i-- > 0;) {
        if (n->attempts[i].run == run) {
            return &n->attempts[i];
        }
    }
    return NULL;
}

static void end_attempt(reqtrace_attempt *a, bool failed, int64_t now_us) {
    if (a && !a->ended_us) {
        a->ended_us = now_us;
        a->failed = failed;
    }
}

static int32_t number_of(uint32_t worker) {
    return worker == MESSAGE_NO_WORKER ? REQTRACE_NOBODY : (int32_t)worker;
}

void reqtrace_sent(reqtrace_note *n, int32_t run, uint32_t number, uint32_t prefill,
                   uint32_t decode, int64_t now_us) {
    if (!n) {
        return;
    }
    reqtrace_attempt *before = last_of(n, run);
    if (before) {
        end_attempt(before, true, now_us);
        reqtrace_event_of(n, run, "retry", NULL, REQTRACE_NOBODY, false, now_us);
    }
    n->dispatched_us = n->dispatched_us ? n->dispatched_us : now_us;
    n->worked_until_us = now_us;
    if (n->attempts_count++ < REQTRACE_ATTEMPTS) {
        n->attempts[n->attempts_count - 1] = (reqtrace_attempt){.run = run,
                                                                .number = number,
                                                                .prefill = number_of(prefill),
                                                                .decode = number_of(decode),
                                                                .sent_us = now_us};
    }
}

void reqtrace_token(reqtrace_note *n, int32_t run, int64_t now_us) {
    reqtrace_attempt *a = n ? last_of(n, run) : NULL;
    if (a && !a->ended_us) {
        a->first_us = a->first_us ? a->first_us : now_us;
        a->last_us = n->worked_until_us = now_us;
        a->tokens++;
    }
}

static reqtrace_attempt *attempt_of(reqtrace_note *n, int32_t run, uint32_t number) {
    reqtrace_attempt *a = n ? last_of(n, run) : NULL;
    return a && a->number == number && !a->ended_us ? a : NULL;
}

void reqtrace_computed(reqtrace_note *n, int32_t run, uint32_t number, uint32_t waited_us,
                       uint32_t computed_us) {
    reqtrace_attempt *a = attempt_of(n, run, number);
    if (a && !a->computed_us) {
        a->waited_us = waited_us;
        a->computed_us = computed_us;
    }
}

void reqtrace_adopted(reqtrace_note *n, int32_t run, uint32_t number, uint32_t room_waited_us,
                      uint32_t transfer_us, int64_t now_us) {
    reqtrace_attempt *a = attempt_of(n, run, number);
    if (a && !a->adopted_us) {
        a->adopted_us = n->worked_until_us = now_us;
        a->room_waited_us = room_waited_us;
        a->transfer_us = transfer_us;
    }
}

void reqtrace_event_of(reqtrace_note *n, int32_t run, const char *what, const char *why,
                       int32_t worker, bool failed, int64_t now_us) {
    if (!n) {
        return;
    }
    if (failed) {
        end_attempt(last_of(n, run), true, now_us);
    }
    n->worked_until_us = now_us;
    if (n->events_count++ < REQTRACE_EVENTS) {
        n->events[n->events_count - 1] = (reqtrace_event){what, why, now_us, worker, run};
    }
}

bool reqtrace_is_at(const reqtrace_note *n, int32_t run, uint32_t worker) {
    const reqtrace_attempt *a = n ? last_of((reqtrace_note *)n, run) : NULL;
    return a && !a->ended_us &&
           (a->decode == (int32_t)worker || (a->prefill == (int32_t)worker && !a->adopted_us));
}

void reqtrace_ended(reqtrace_note *n, int32_t prompt_tokens, int32_t completion_tokens,
                    int32_t cached_tokens, int64_t now_us) {
    if (n) {
        n->prompt_tokens = prompt_tokens;
        n->completion_tokens = completion_tokens;
        n->cached_tokens = cached_tokens;
        n->worked_until_us = now_us;
        for (uint32_t i = 0; i < n->attempts_count && i < REQTRACE_ATTEMPTS; i++) {
            end_attempt(&n->attempts[i], false, now_us);
        }
    }
}
