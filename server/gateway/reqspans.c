/* reqspans.c -- a note as spans. */
#include "server/gateway/reqspans.h"

#include <stdio.h>

#include "engine/base/rng.h"

enum { ATTRIBUTES_MAX = 16, ROOT_NAME_BYTES = 64, CODE_BYTES = 16 };

/* What all spans of a request share, and how many there are already. */
typedef struct {
    const reqtrace_note *note;
    strbuf *out;
    int64_t start_us, end_us; /* of the request */
    uint32_t count;
} writer;

typedef struct {
    otlpspan_attribute list[ATTRIBUTES_MAX];
    size_t count;
} attributes;

static void add_text(attributes *a, const char *key, const char *text) {
    if (a->count < ATTRIBUTES_MAX) {
        a->list[a->count++] = (otlpspan_attribute){key, str_from(text), 0};
    }
}

static void add_number(attributes *a, const char *key, int64_t number) {
    if (a->count < ATTRIBUTES_MAX) {
        a->list[a->count++] = (otlpspan_attribute){key, {NULL, 0}, number};
    }
}

static int64_t between(int64_t v, int64_t low, int64_t high) {
    return v < low ? low : v > high ? high : v;
}

static int64_t wall_ns(const writer *w, int64_t us) {
    return (us + w->note->wall_offset_us) * 1000;
}

static otlpspan frame(const writer *w, const char *name, int64_t start_us, int64_t end_us) {
    const reqtrace_note *n = w->note;
    otlpspan s = {.self = n->self,
                  .state = str_from(n->state),
                  .name = name,
                  .kind = OTLPSPAN_INTERNAL,
                  .start_ns = wall_ns(w, start_us),
                  .end_ns = wall_ns(w, end_us)};
    return s;
}

/* A part of the request's time. Ids follow from the request's own, which is random. */
static void write_part(writer *w, const char *name, int64_t start_us, int64_t end_us,
                       const attributes *a, bool failed) {
    start_us = between(start_us, w->start_us, w->end_us);
    otlpspan s = frame(w, name, start_us, between(end_us, start_us, w->end_us));
    s.parent = w->note->self.span;
    s.self.span = rng_at(w->note->self.span, 1, w->count);
    s.attributes = a->list;
    s.attributes_count = a->count;
    s.failed = failed;
    otlpspan_write(w->out, &s);
    w->count++;
}

/* ---- attempts ------------------------------------------------------------------------------- */

static attributes attempt_attributes(const reqtrace_attempt *a, int32_t worker) {
    attributes at = {.count = 0};
    add_number(&at, "weir.worker", worker);
    add_number(&at, "weir.attempt", (int64_t)a->number);
    if (a->run > 0) {
        add_number(&at, "weir.prompt", a->run);
    }
    return at;
}

/* The prompt, by whoever computed it: what it says of its own time ends where its first token
 * came. Without a first token the whole attempt went into it. */
static void write_prefill(writer *w, const reqtrace_attempt *a, int64_t ended_us) {
    int32_t worker = a->prefill != REQTRACE_NOBODY ? a->prefill : a->decode;
    attributes at = attempt_attributes(a, worker);
    if (!a->first_us) {
        write_part(w, "prefill", a->sent_us, ended_us, &at, a->failed);
        return;
    }
    if (!a->computed_us) { /* it goes on from an earlier attempt: nothing was computed */
        return;
    }
    int64_t began = between(a->first_us - a->computed_us, a->sent_us, a->first_us);
    int64_t came = between(began - a->waited_us, a->sent_us, began);
    write_part(w, "prefill queue", came, began, &at, false);
    write_part(w, "prefill", began, a->first_us, &at, false);
}

static void write_attempt(writer *w, const reqtrace_attempt *a) {
    int64_t ended_us = a->ended_us ? a->ended_us : w->end_us;
    write_prefill(w, a, ended_us);
    bool moved = a->prefill != REQTRACE_NOBODY && a->decode != REQTRACE_NOBODY && a->adopted_us;
    if (moved) {
        attributes at = attempt_attributes(a, a->decode);
        add_number(&at, "weir.worker.from", a->prefill);
        int64_t began = between(a->adopted_us - a->transfer_us, a->sent_us, a->adopted_us);
        int64_t asked = between(began - a->room_waited_us, a->sent_us, began);
        add_number(&at, "weir.room_wait_us", began - asked);
        write_part(w, "kv transfer", began, a->adopted_us, &at, false);
    }
    if (a->first_us && a->decode != REQTRACE_NOBODY) {
        attributes at = attempt_attributes(a, a->decode);
        add_number(&at, "weir.tokens", a->tokens);
        int64_t last = a->failed && ended_us > a->last_us ? ended_us : a->last_us;
        write_part(w, "decode", a->first_us, last, &at, a->failed);
    }
}

/* ---- the request ---------------------------------------------------------------------------- */

static attributes request_attributes(const reqtrace_note *n, char code[CODE_BYTES]) {
    attributes at = {.count = 0};
    add_text(&at, "http.request.method", "POST");
    add_text(&at, "url.scheme", "http");
    add_text(&at, "url.path", reqtrace_path(n->route));
    add_text(&at, "http.route", reqtrace_path(n->route));
    if (n->how.http_code) {
        add_number(&at, "http.response.status_code", n->how.http_code);
    }
    if (n->how.http_code >= 500) {
        (void)snprintf(code, CODE_BYTES, "%d", n->how.http_code);
        add_text(&at, "error.type", code);
    } else if (!n->how.complete) {
        add_text(&at, "error.type", "cut");
    }
    if (n->route != ROUTES_CHAT && n->route != ROUTES_COMPLETIONS) {
        return at;
    }
    add_text(&at, "gen_ai.operation.name", n->route == ROUTES_CHAT ? "chat" : "text_completion");
    add_text(&at, "gen_ai.provider.name", "weir");
    if (n->model[0]) {
        add_text(&at, "gen_ai.request.model", n->model);
        add_text(&at, "gen_ai.response.model", n->model);
    }
    if (n->max_tokens > 0) {
        add_number(&at, "gen_ai.request.max_tokens", n->max_tokens);
    }
    if (n->prompt_tokens > 0) {
        add_number(&at, "gen_ai.usage.input_tokens", n->prompt_tokens);
        add_number(&at, "gen_ai.usage.output_tokens", n->completion_tokens);
        add_number(&at, "gen_ai.usage.cache_read.input_tokens", n->cached_tokens);
    }
    if (n->attempts_count > REQTRACE_ATTEMPTS) {
        add_number(&at, "weir.attempts", n->attempts_count);
    }
    return at;
}

static void write_request(writer *w) {
    const reqtrace_note *n = w->note;
    char name[ROOT_NAME_BYTES], code[CODE_BYTES];
    attributes at = request_attributes(n, code);
    attributes of_event[REQTRACE_EVENTS];
    otlpspan_event events[REQTRACE_EVENTS];
    uint32_t count = n->events_count < REQTRACE_EVENTS ? n->events_count : REQTRACE_EVENTS;
    for (uint32_t i = 0; i < count; i++) {
        const reqtrace_event *e = &n->events[i];
        of_event[i] = (attributes){.count = 0};
        if (e->why) {
            add_text(&of_event[i], "weir.reason", e->why);
        }
        if (e->worker != REQTRACE_NOBODY) {
            add_number(&of_event[i], "weir.worker", e->worker);
        }
        events[i] = (otlpspan_event){e->what, wall_ns(w, between(e->at_us, w->start_us, w->end_us)),
                                     of_event[i].list, of_event[i].count};
    }
    (void)snprintf(name, sizeof name, "POST %s", reqtrace_path(n->route));
    otlpspan s = frame(w, name, w->start_us, w->end_us);
    s.kind = OTLPSPAN_SERVER;
    s.parent = n->parent;
    s.parent_remote = n->parent != 0;
    s.attributes = at.list;
    s.attributes_count = at.count;
    s.events = events;
    s.events_count = count;
    /* That a client leaves is no failure of the server. */
    s.failed = n->how.http_code >= 500;
    otlpspan_write(w->out, &s);
    w->count++;
}

uint32_t reqspans_write(const reqtrace_note *n, strbuf *out) {
    int64_t end_us = n->how.ended_us > n->worked_until_us ? n->how.ended_us : n->worked_until_us;
    writer w = {n, out, n->how.received_us, end_us, 0};
    attributes none = {.count = 0};
    write_request(&w);
    if (n->text_end_us) {
        write_part(&w, "tokenize", n->text_start_us, n->text_end_us, &none, false);
    }
    if (n->queued_us) {
        bool left = n->dispatched_us != 0;
        write_part(&w, "queue", n->queued_us, left ? n->dispatched_us : end_us, &none, !left);
    }
    for (uint32_t i = 0; i < n->attempts_count && i < REQTRACE_ATTEMPTS; i++) {
        write_attempt(&w, &n->attempts[i]);
    }
    return w.count;
}
