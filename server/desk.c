/* desk.c -- the table of live sessions. */
#include "server/desk.h"

#include <inttypes.h>

#include "engine/base/check.h"
#include "engine/base/clock.h"
#include "engine/base/failpoint.h"
#include "engine/base/log.h"
#include "engine/base/rng.h"

enum { DESK_EXIT_US = 2000000 }; /* a worker without a link has this long to end */

static void take_actions(gateway_state *g);

/* ---- sessions ------------------------------------------------------------------------------- */

/* A request's life as two spans: up to its first token, and from there on. */
static void trace_request(const gateway_state *g, uint32_t index, const session_times *t) {
    request_id id = g->slots[index].first_id;
    int64_t first = t->first_token_us ? t->first_token_us : clock_now_us();
    trace_span(g->options->trace, id, "first token", t->received_us, first, index);
    if (t->last_token_us > first) {
        trace_span(g->options->trace, id, "decode", first, t->last_token_us, index);
    }
}

static void end_session(gateway_state *g, uint32_t index, gatestats_end end) {
    desk_slot *s = &g->slots[index];
    session_times times = session_get_times(s->session);
    gatestats_session(g->stats, end, &times);
    trace_request(g, index, &times);
    if (end == GATESTATS_CANCELLED) {
        LOG(DEBUG, "gateway", "client left", "request=%" PRIu64 " prompt_tokens=%d now_us=%" PRId64,
            s->first_id, times.prompt_tokens, clock_now_us());
    }
    session *closing = s->session;
    for (int32_t r = 0; r < session_runs(closing); r++) {
        if (s->ids[r]) {
            (void)hash_delete(&g->runs, s->ids[r], NULL);
        }
    }
    request_id ids[LIMIT_BATCH_PROMPTS];
    memcpy(ids, s->ids, sizeof ids);
    int32_t runs = session_runs(closing);
    *s = (desk_slot){0};
    session_close(closing);
    for (int32_t r = 0; r < runs; r++) {
        if (ids[r]) {
            gate_cancel(g->gate, ids[r], clock_now_us());
            take_actions(g);
        }
    }
}

static void end_later(gateway_state *g, uint32_t index, gatestats_end end) {
    desk_slot *s = &g->slots[index];
    if (!s->closing) {
        s->closing = true;
        s->end = end;
        g->gone[g->gone_count++] = index;
    }
}

static void fail_session(gateway_state *g, uint32_t index, int http_code, const diag *d,
                         int32_t retry_after_s) {
    session_fail(g->slots[index].session, http_code, d, retry_after_s);
    end_session(g, index, GATESTATS_FAILED);
}

static uint32_t free_slot(const gateway_state *g) {
    uint32_t i = 0;
    while (i < g->options->requests_max && g->slots[i].session) {
        i++;
    }
    return i;
}

/* Prefix pages are shared inside one key and one cache_salt, and nowhere else. */
static uint64_t salt_of(const gateway_state *g, const exchange *x, const openai_request *r) {
    uint64_t key = hash_bytes(g->salt_key, r->cache_salt.data, r->cache_salt.bytes);
    return rng_mix(key ^ (uint64_t)(exchange_key(x) + 1));
}

void desk_refuse(exchange *x, int http_code, const char *text) {
    diag d;
    (void)status_fail(&d, STATUS_LIMIT, "%s", text);
    (void)routes_refuse(x, http_code, &d, 1);
}

static bool open_runs(gateway_state *g, uint32_t index, uint64_t salt, int64_t now) {
    desk_slot *s = &g->slots[index];
    for (int32_t r = 0; r < session_runs(s->session); r++) {
        gate_request request = session_run(s->session, r, salt);
        if (gate_open(g->gate, &request, now, &s->ids[r]) != GATE_OPENED ||
            !hash_put(&g->runs, s->ids[r], (uint64_t)index << 8 | (uint64_t)r)) {
            return false;
        }
    }
    s->first_id = s->ids[0];
    return true;
}

void desk_start(gateway_state *g, intake_item *item) {
    int64_t now = clock_now_us();
    uint32_t index = free_slot(g);
    if (g->stop_by_us || index == g->options->requests_max) {
        desk_refuse(item->exchange, 503,
                    g->stop_by_us ? "The server is shutting down."
                                  : "The server has as many requests as it takes. Try again.");
        intake_discard(item);
        return;
    }
    if (exchange_gone(item->exchange)) {
        intake_discard(item);
        return;
    }
    uint64_t salt = salt_of(g, item->exchange, item->request);
    desk_slot *s = &g->slots[index];
    exchange *x = item->exchange;
    exchange_acquire(x);
    if (session_open(x, item->request, &item->prompts, g->options->tokenizer,
                     rng_next(&g->seed_state) >> 1, &s->session) != STATUS_OK) {
        desk_refuse(x, 503, "The server is out of memory. Try again.");
        exchange_release(x);
        return;
    }
    exchange_release(x);
    if (!open_runs(g, index, salt, now)) {
        diag d;
        (void)status_fail(&d, STATUS_LIMIT, "The server has as many requests as it takes.");
        fail_session(g, index, 503, &d, 1);
    }
}

void desk_gone(gateway_state *g, const exchange *x) {
    for (uint32_t i = 0; i < g->options->requests_max; i++) {
        if (g->slots[i].session && session_exchange(g->slots[i].session) == x) {
            end_later(g, i, GATESTATS_CANCELLED);
        }
    }
}

/* ---- the gate's actions --------------------------------------------------------------------- */

/* The session's slot and run of a request, or false: it has ended here already. */
static bool find_run(const gateway_state *g, request_id request, uint32_t *index, int32_t *run) {
    uint64_t packed;
    *index = 0;
    *run = 0;
    if (!hash_get(&g->runs, request, &packed)) {
        return false;
    }
    *index = (uint32_t)(packed >> 8);
    *run = (int32_t)(packed & 0xFF);
    return !g->slots[*index].closing;
}

static void on_token(gateway_state *g, const gate_action *a) {
    uint32_t index;
    int32_t run;
    if (!find_run(g, a->request, &index, &run)) {
        return;
    }
    session_result r = session_token(g->slots[index].session, run, &a->token, clock_now_us());
    if (r == SESSION_CLIENT_GONE) {
        end_later(g, index, GATESTATS_CANCELLED);
    } else if (r == SESSION_CHOICE_ENDED) {
        CHECK_LT(g->ended_count, g->ended_max);
        g->ended[g->ended_count++] = (desk_ended){a->request, a->token.choice};
    }
}

static void on_done(gateway_state *g, const gate_action *a) {
    uint32_t index;
    int32_t run;
    bool listening = find_run(g, a->request, &index, &run);
    if (!hash_delete(&g->runs, a->request, NULL)) {
        return;
    }
    desk_slot *s = &g->slots[index];
    s->ids[run] = 0;
    if (listening && session_run_done(s->session, run, a->cached_tokens, clock_now_us()) ==
                         SESSION_CLIENT_GONE) {
        end_later(g, index, GATESTATS_CANCELLED);
    } else if (session_finished(s->session)) {
        end_session(g, index, GATESTATS_OK);
    }
}

static void on_failed(gateway_state *g, const gate_action *a) {
    uint32_t index;
    int32_t run;
    bool listening = find_run(g, a->request, &index, &run);
    if (!hash_delete(&g->runs, a->request, NULL)) {
        return;
    }
    g->slots[index].ids[run] = 0;
    if (listening) {
        bool busy = a->failure != GATE_FAILED_ATTEMPTS;
        diag d;
        (void)status_fail(&d, busy ? STATUS_LIMIT : STATUS_IO, "%s", a->text);
        LOG(WARN, "gateway", "request failed", "why=%s", gate_failure_name(a->failure));
        session_fail(g->slots[index].session, busy ? 503 : 500, &d, busy ? 1 : 0);
        end_later(g, index, GATESTATS_FAILED); /* its other runs go with it */
    }
}

static void send_action(gateway_state *g, const gate_action *a) {
    const char *event = message_event_name(&a->message);
    bool sent =
        !FAILPOINT_AT("gateway.before_", event) && pool_send(&g->pool, a->worker, &a->message);
    if (FAILPOINT_ARMED) {
        pool_flush(&g->pool); /* after: when it can be read, not when it waits to be written */
        sent = !FAILPOINT_AT("gateway.after_", event) && sent;
    }
    g->broken[a->worker] = g->broken[a->worker] || !sent;
}

static void take_actions(gateway_state *g) {
    gate_action a;
    uint32_t index;
    int32_t run;
    while (gate_next(g->gate, &a)) {
        switch (a.type) {
            case GATE_SEND:
                send_action(g, &a);
                break;
            case GATE_TOKEN:
                on_token(g, &a);
                break;
            case GATE_SCORES:
                if (find_run(g, a.request, &index, &run)) {
                    session_scores(g->slots[index].session, run, &a.token);
                }
                break;
            case GATE_DONE:
                on_done(g, &a);
                break;
            case GATE_FAILED:
                on_failed(g, &a);
                break;
            case GATE_CLOSE:
                LOG(ERROR, "gateway", "a worker broke the protocol", "worker=%u why=\"%s\"",
                    a.worker, a.text);
                g->broken[a.worker] = true;
                break;
        }
    }
}

void desk_drop_worker(gateway_state *g, uint32_t worker) {
    bool joined = g->pool.workers[worker].joined;
    pool_drop(&g->pool, worker);
    router_forget_worker(g->router, worker);
    if (joined) {
        gate_link_down(g->gate, worker, clock_now_us());
        take_actions(g);
    }
    g->broken[worker] = false; /* last: the worker's next life must not inherit it */
}

void desk_kill_worker(gateway_state *g, uint32_t worker, int64_t at_us) {
    if (worker < g->options->local) {
        supervisor_kill(g->options->supervisor, worker, at_us);
    }
}

void desk_act(gateway_state *g) {
    take_actions(g);
    for (;;) {
        if (g->ended_count > 0) {
            desk_ended e = g->ended[--g->ended_count];
            gate_end_choice(g->gate, e.request, e.choice, clock_now_us());
            take_actions(g);
            continue;
        }
        if (g->gone_count > 0) {
            uint32_t index = g->gone[--g->gone_count];
            end_session(g, index, g->slots[index].end);
            continue;
        }
        uint32_t w = 0;
        while (w < g->pool.count && !(g->broken[w] && g->pool.workers[w].used)) {
            w++;
        }
        if (w == g->pool.count) {
            return;
        }
        /* Whoever broke its link is no use any more: it ends by itself, or is made to. */
        desk_drop_worker(g, w);
        desk_kill_worker(g, w, clock_now_us() + DESK_EXIT_US);
    }
}

void desk_fail_never(gateway_state *g, request_id request) {
    uint32_t index;
    int32_t run;
    if (find_run(g, request, &index, &run)) {
        diag d;
        (void)status_fail(&d, STATUS_INVALID,
                          "The request needs more KV cache than any worker has. Reduce the prompt, "
                          "max_tokens or n.");
        session_fail(g->slots[index].session, 400, &d, 0);
        end_later(g, index, GATESTATS_FAILED);
    }
}

void desk_close(gateway_state *g) {
    for (uint32_t i = 0; g->slots && i < g->options->requests_max; i++) {
        if (g->slots[i].session) {
            diag d;
            (void)status_fail(&d, STATUS_CLOSED, "The server is shutting down.");
            session_fail(g->slots[i].session, 503, &d, 1);
            session_close(g->slots[i].session);
        }
    }
}
