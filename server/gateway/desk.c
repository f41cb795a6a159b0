/* desk.c -- the table of live sessions. */
#include "server/gateway/desk.h"

#include <inttypes.h>

#include "engine/base/check.h"
#include "engine/base/clock.h"
#include "engine/base/failpoint.h"
#include "engine/base/log.h"
#include "engine/base/rng.h"
#include "server/gateway/gatescale.h"

/* What one step of priority is worth, in time that a request has waited: more than any waits. */
static const int64_t PRIORITY_US = 1000000000000;

enum {
    DESK_EXIT_US = 2000000, /* a worker without a link has this long to end */
    PASSED_BY = 2,          /* a request lets pass what comes within so many times its own work */
    RETRY_MOST_S = 60,
    COLD_RATE = 1000 /* prompt tokens a second, for the order in line until one is known */
};

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

/* The run got its first token, or will not. */
static void sent_over(gateway_state *g, uint32_t index, int32_t run, bool done) {
    uint32_t *sent = &g->slots[index].sent[run];
    if (*sent) {
        admit_over(&g->admit, *sent, done);
        *sent = 0;
    }
}

static reqtrace_note *note_of(const gateway_state *g, uint32_t index) {
    return reqtrace_of(session_exchange(g->slots[index].session));
}

/* What the controller wants to know of a session that has ended. */
static void note_end(gateway_state *g, gatestats_end end, const session_times *t) {
    if (end != GATESTATS_OK || t->prompt_tokens <= 0 || t->first_token_us == 0) {
        return;
    }
    g->demand.finished++;
    g->demand.finished_tokens += t->completion_tokens;
    double share = (double)t->cached_tokens / t->prompt_tokens;
    g->cached_share += 0.02 * ((share < 1 ? share : 1) - g->cached_share);
    int64_t first = t->first_token_us - t->received_us;
    int64_t later = t->completion_tokens > 1
                        ? (t->last_token_us - t->first_token_us) / (t->completion_tokens - 1)
                        : 0;
    gatescale_latency(g, first, later);
}

static void end_session(gateway_state *g, uint32_t index, gatestats_end end) {
    desk_slot *s = &g->slots[index];
    fair_remove(g->line, index);
    for (int32_t r = 0; r < session_runs(s->session); r++) {
        sent_over(g, index, r, false);
    }
    session_times times = session_get_times(s->session);
    gatestats_session(g->stats, end, &times);
    note_end(g, end, &times);
    trace_request(g, index, &times);
    reqtrace_ended(note_of(g, index), times.prompt_tokens, times.completion_tokens,
                   times.cached_tokens, clock_now_us());
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

/* Each API key has its own, the same at every gateway that shares the salt's key. */
static hash_key tenant_key(const gateway_state *g, const exchange *x) {
    hash_key key = g->options->salt_key;
    uint64_t tenant[2] = {0, 0};
    if (exchange_key(x) >= 0) {
        apikeys_identity(g->options->keys, exchange_key(x), tenant);
    }
    return (hash_key){key.k0 ^ tenant[0], key.k1 ^ tenant[1]};
}

static uint32_t free_slot(const gateway_state *g) {
    uint32_t i = 0;
    while (i < g->options->requests_max && g->slots[i].session) {
        i++;
    }
    return i;
}

/* Inside one key and one cache_salt, and nowhere else. */
uint64_t desk_salt(const gateway_state *g, const exchange *x, const openai_request *r) {
    return hash_bytes(tenant_key(g, x), r->cache_salt.data, r->cache_salt.bytes);
}

/* `prompt_cache_key`, or else X-Session-Id, or else the user, of one API key. */
static uint64_t affinity_of(const gateway_state *g, const exchange *x, const openai_request *r) {
    str name = r->cache_key.bytes ? r->cache_key : exchange_session(x);
    name = name.bytes ? name : r->user;
    if (name.bytes == 0) {
        return 0;
    }
    uint64_t hash = rng_mix(hash_bytes(tenant_key(g, x), name.data, name.bytes));
    return hash ? hash : 1;
}

void desk_refuse(exchange *x, int http_code, const char *text) {
    diag d;
    (void)status_fail(&d, STATUS_LIMIT, "%s", text);
    (void)routes_refuse(x, http_code, &d, 1);
}

static bool open_runs(gateway_state *g, uint32_t index, int64_t now) {
    desk_slot *s = &g->slots[index];
    for (int32_t r = 0; r < session_runs(s->session); r++) {
        gate_request request = session_run(s->session, r, s->salt);
        reqtrace_id(note_of(g, index), request.trace);
        if (gate_open(g->gate, &request, now, &s->ids[r]) != GATE_OPENED ||
            !hash_put(&g->runs, s->ids[r], (uint64_t)index << 8 | (uint64_t)r)) {
            return false;
        }
        s->sent[r] = (uint32_t)request.tokens_count;
        admit_sent(&g->admit, s->sent[r]);
    }
    s->first_id = s->ids[0];
    return true;
}

static admit_fleet fleet_of(const gateway_state *g) {
    admit_fleet f = {0}, any = {0};
    for (uint32_t i = 0; i < g->pool.count; i++) {
        const router_view *v = &g->pool.views[i];
        if (!v->up || v->draining) {
            continue;
        }
        admit_fleet *to = v->roles & MESSAGE_ROLE_PREFILL ? &f : &any;
        to->workers++;
        to->told_rate += v->tokens_per_second;
    }
    return f.workers ? f : any; /* without any for prompts, those that decode compute them */
}

static uint32_t capped(uint64_t n) {
    return n < 1 ? 1 : n > UINT32_MAX ? UINT32_MAX : (uint32_t)n;
}

/* What the session asks of the workers: its prompts now, and all it may be answered. */
static fair_item place_of(const gateway_state *g, uint32_t index, const admit_fleet *f) {
    const desk_slot *s = &g->slots[index];
    uint64_t prompts = 0, answers = 0;
    for (int32_t r = 0; r < session_runs(s->session); r++) {
        gate_request q = session_run(s->session, r, s->salt);
        prompts += (uint64_t)q.tokens_count;
        answers += (uint64_t)q.params->max_tokens * (uint64_t)q.params->choices;
    }
    uint64_t rate = admit_rate(&g->admit, f, fair_count(g->line) > 0);
    rate = rate ? rate : COLD_RATE;
    return (fair_item){.key = (uint32_t)(s->key + 1),
                       .cost = capped(prompts + answers),
                       .work = capped(prompts),
                       .rank = s->since_us + (int64_t)(PASSED_BY * prompts * 1000000 / rate) +
                               s->priority * PRIORITY_US};
}

static uint32_t open_of_key(const gateway_state *g, int32_t key) {
    uint32_t count = 0;
    for (uint32_t i = 0; i < g->options->requests_max; i++) {
        count += g->slots[i].session && g->slots[i].key == key;
    }
    return count;
}

static int32_t retry_after_s(int64_t over_us) {
    int64_t s = over_us / 1000000 + 1;
    return (int32_t)(s > RETRY_MOST_S ? RETRY_MOST_S : s);
}

/* Whether there is a place for one more of this key, in all; refuses it if not. */
static bool has_place(gateway_state *g, uint32_t index, exchange *x) {
    if (g->stop_by_us && !g->options->shared_port) { /* else it came before the port was left */
        desk_refuse(x, 503, "The server is shutting down.");
        return false;
    }
    uint32_t of_key_max = g->options->key_requests_max;
    if (of_key_max < g->options->requests_max && open_of_key(g, exchange_key(x)) >= of_key_max) {
        gatestats_refused(g->stats, GATESTATS_REFUSED_KEY);
        desk_refuse(x, 429, "This API key has as many requests under way as it may. Try again.");
        return false;
    }
    if (index == g->options->requests_max) {
        gatestats_refused(g->stats, GATESTATS_REFUSED_SYSTEM);
        desk_refuse(x, 503, "The server has as many requests as it takes. Try again.");
        return false;
    }
    return true;
}

/* False when it was refused: its first token would be late. */
static bool comes_in_time(gateway_state *g, uint32_t index, const fair_item *place,
                          const admit_fleet *f) {
    uint64_t key_work = fair_key_work(g->line, place->key);
    admit_request r = {.own_work = place->work,
                       .waiting_work = fair_work(g->line),
                       .key_work = key_work,
                       .keys = fair_keys(g->line) + (key_work == 0)};
    int64_t wait_us;
    admit_verdict v = admit_judge(&g->admit, f, &r, &wait_us);
    if (v == ADMIT_TAKE || !pool_ready(&g->pool)) {
        return true;
    }
    bool key = v == ADMIT_KEY_BUSY;
    diag d;
    (void)status_fail(&d, STATUS_LIMIT,
                      key ? "This API key has more requests waiting than its share. Try again."
                          : "The server is busy: an answer would begin too late. Try again.");
    gatestats_refused(g->stats, key ? GATESTATS_REFUSED_KEY : GATESTATS_REFUSED_LATE);
    fail_session(g, index, key ? 429 : 503, &d, retry_after_s(wait_us - g->admit.slo_us));
    return false;
}

void desk_start(gateway_state *g, intake_item *item) {
    uint32_t index = free_slot(g);
    if (!has_place(g, index, item->exchange)) {
        intake_discard(item);
        return;
    }
    if (exchange_gone(item->exchange)) {
        intake_discard(item);
        return;
    }
    uint64_t salt = desk_salt(g, item->exchange, item->request);
    uint64_t affinity = affinity_of(g, item->exchange, item->request);
    reqtrace_queued(reqtrace_of(item->exchange), item->request, clock_now_us());
    int32_t priority = item->request->priority;
    desk_slot *s = &g->slots[index];
    exchange *x = item->exchange;
    int32_t key = exchange_key(x);
    exchange_acquire(x);
    if (session_open(x, item->request, &item->prompts, g->options->tokenizer,
                     rng_next(&g->seed_state) >> 1, &s->session) != STATUS_OK) {
        desk_refuse(x, 503, "The server is out of memory. Try again.");
        exchange_release(x);
        return;
    }
    exchange_release(x);
    s->key = key;
    s->salt = salt;
    s->affinity = affinity;
    s->priority = priority;
    s->since_us = clock_now_us();
    admit_fleet f = fleet_of(g);
    fair_item place = place_of(g, index, &f);
    if (comes_in_time(g, index, &place, &f)) {
        double uncached = place.work * (1 - g->cached_share);
        g->demand.requests++;
        g->demand.prompt_tokens += uncached;
        g->demand.prompt_squares += uncached * uncached;
        fair_push(g->line, index, &place);
        desk_let_through(g);
    }
}

void desk_let_through(gateway_state *g) {
    admit_fleet f = fleet_of(g);
    int64_t now = clock_now_us();
    uint32_t index;
    while ((index = fair_next(g->line)) != FAIR_NONE) {
        fair_item place = place_of(g, index, &f);
        if (!admit_room(&g->admit, &f, place.work)) {
            break;
        }
        fair_take(g->line, index);
        if (!open_runs(g, index, now)) {
            diag d;
            (void)status_fail(&d, STATUS_LIMIT, "The server has as many requests as it takes.");
            fail_session(g, index, 503, &d, 1);
        }
    }
    admit_count(&g->admit, &f, fair_count(g->line) > 0, now);
}

void desk_expire(gateway_state *g) {
    int64_t now = clock_now_us();
    for (uint32_t i = 0; i < g->options->requests_max; i++) {
        if (fair_waits(g->line, i) && now - g->slots[i].since_us > g->options->pending_us) {
            diag d;
            (void)status_fail(&d, STATUS_LIMIT, "No worker was free in time. Try again.");
            fail_session(g, i, 503, &d, 1);
        }
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

uint64_t desk_affinity(const gateway_state *g, request_id request) {
    uint32_t index;
    int32_t run;
    return find_run(g, request, &index, &run) ? g->slots[index].affinity : 0;
}

void desk_sent(gateway_state *g, request_id request, uint32_t attempt, gate_choice to) {
    uint32_t index;
    int32_t run;
    if (find_run(g, request, &index, &run)) {
        reqtrace_sent(note_of(g, index), run, attempt, to.prefill, to.decode, clock_now_us());
    }
}

/* How long a worker had to do with it. */
static void note_times(gateway_state *g, const message *m) {
    uint32_t index;
    int32_t run;
    if (!find_run(g, m->request, &index, &run)) {
        return;
    }
    reqtrace_note *n = note_of(g, index);
    if (m->type == MESSAGE_TOKENS) {
        reqtrace_computed(n, run, m->attempt, m->tokens.waited_us, m->tokens.computed_us);
    } else {
        reqtrace_adopted(n, run, m->attempt, m->adopted.waited_us, m->adopted.moved_us,
                         clock_now_us());
    }
}

/* The wire's id is the caller's but for the choices of a split request, which have no span of
 * their own. */
void desk_told(gateway_state *g, uint32_t worker, const message *m) {
    static const struct {
        message_type type;
        const char *what;
    } troubles[] = {{MESSAGE_REFUSED, "refused"},
                    {MESSAGE_PREEMPTED, "preempted"},
                    {MESSAGE_REJECT, "rejected"},
                    {MESSAGE_LINK_LOST, "link lost"}};
    if (m->type == MESSAGE_ADOPTED || (m->type == MESSAGE_TOKENS && m->tokens.computed_us)) {
        note_times(g, m);
        return;
    }
    const size_t kinds = sizeof troubles / sizeof troubles[0];
    uint32_t index;
    int32_t run;
    size_t kind = 0;
    while (kind < kinds && troubles[kind].type != m->type) {
        kind++;
    }
    if (kind == kinds || !find_run(g, m->request, &index, &run)) {
        return;
    }
    reqtrace_note *n = note_of(g, index);
    if (reqtrace_is_at(n, run, worker)) {
        reqtrace_event_of(n, run, troubles[kind].what,
                          m->reason ? message_reason_name(m->reason) : NULL, (int32_t)worker, false,
                          clock_now_us());
    }
}

/* For the traces of those it was working for. */
static void note_lost(gateway_state *g, uint32_t worker) {
    for (uint32_t i = 0; i < g->options->requests_max; i++) {
        int32_t runs = g->slots[i].session ? session_runs(g->slots[i].session) : 0;
        for (int32_t r = 0; r < runs; r++) {
            reqtrace_note *n = note_of(g, i);
            if (g->slots[i].ids[r] && reqtrace_is_at(n, r, worker)) {
                reqtrace_event_of(n, r, "worker lost", NULL, (int32_t)worker, true, clock_now_us());
            }
        }
    }
}

static void on_token(gateway_state *g, const gate_action *a) {
    uint32_t index;
    int32_t run;
    if (!find_run(g, a->request, &index, &run)) {
        return;
    }
    sent_over(g, index, run, true);
    reqtrace_token(note_of(g, index), run, clock_now_us());
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
    sent_over(g, index, run, true);
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
    sent_over(g, index, run, false);
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
    if (joined && !g->stop_by_us) {
        router_failed(g->router, worker, clock_now_us());
    }
    if (joined) {
        note_lost(g, worker);
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
