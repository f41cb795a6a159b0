/* gateway.c -- one loop, one owner:
 *
 *     epoll -> workers' messages, requests, dead children, signals -> gate -> act -> write
 *
 * The gate wants all its actions taken before it hears of anything new, so what an action leads to
 * (a stop string ends a choice, a client has gone, a link broke) is noted and done after. */
#define _GNU_SOURCE
#include "server/gateway.h"

#include <errno.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include "engine/base/check.h"
#include "engine/base/clock.h"
#include "engine/base/hash.h"
#include "engine/base/log.h"
#include "engine/base/mem.h"
#include "engine/base/rng.h"
#include "server/gatestats.h"
#include "server/pool.h"
#include "server/reply.h"
#include "server/session.h"

enum {
    EVENTS_MAX = 64,
    FRAMES_PER_TURN = 256,
    TAG_INTAKE = POOL_TAG,
    TAG_SUPERVISOR,
    TAG_SIGNAL,
    TICK_US = 500000,
    LEASE_US = 30000000,
    STOP_US = 5000000, /* workers get this long to go after the drain */
    METRICS_PAGE_BYTES = 8 << 20,
    FAILED_STARTS_MAX = 3
};

typedef struct {
    session *session;                    /* NULL: free */
    request_id ids[LIMIT_BATCH_PROMPTS]; /* 0: this run has ended */
    bool closing;                        /* in `gone`: to be ended when no action is under way */
    gatestats_end end;
} slot;

/* A choice that its stop string ended. */
typedef struct {
    request_id request;
    int32_t choice;
} ended_choice;

typedef struct {
    const gateway_options *options;
    pool pool;
    gate *gate;
    router *router;
    gatestats *stats;
    arena arena;
    hash_table runs; /* request id -> slot << 8 | run */
    slot *slots;     /* [requests_max] */
    uint32_t *gone;  /* [gone_count] slots to be ended before they are finished */
    uint32_t gone_count;
    ended_choice *ended; /* [ended_count] of ended_max */
    uint32_t ended_count, ended_max;
    bool broken[LIMIT_WORKERS]; /* links to drop */
    message_scratch *scratch;
    hash_key salt_key;
    uint64_t seed_state;
    int signal_fd;
    int64_t tick_due_us;
    int64_t stop_by_us; /* 0: serving */
    bool ready_said, workers_told;
    int32_t failed_starts;
    bool quit;
    status failed;
    diag *d;
} gateway;

static void take_actions(gateway *g);
static void act(gateway *g);

/* ---- sessions ------------------------------------------------------------------------------- */

static void end_session(gateway *g, uint32_t index, gatestats_end end) {
    slot *s = &g->slots[index];
    session_times times = session_get_times(s->session);
    gatestats_session(g->stats, end, &times);
    exchange_set_user(session_exchange(s->session), NULL);
    session *closing = s->session;
    for (int32_t r = 0; r < session_runs(closing); r++) {
        if (s->ids[r]) {
            (void)hash_delete(&g->runs, s->ids[r], NULL);
        }
    }
    request_id ids[LIMIT_BATCH_PROMPTS];
    memcpy(ids, s->ids, sizeof ids);
    int32_t runs = session_runs(closing);
    *s = (slot){0};
    session_close(closing);
    for (int32_t r = 0; r < runs; r++) {
        if (ids[r]) {
            gate_cancel(g->gate, ids[r], clock_now_us());
            take_actions(g);
        }
    }
}

static void end_later(gateway *g, uint32_t index, gatestats_end end) {
    slot *s = &g->slots[index];
    if (!s->closing) {
        s->closing = true;
        s->end = end;
        g->gone[g->gone_count++] = index;
    }
}

static void fail_session(gateway *g, uint32_t index, int http_code, const diag *d,
                         int32_t retry_after_s) {
    session_fail(g->slots[index].session, http_code, d, retry_after_s);
    end_session(g, index, GATESTATS_FAILED);
}

static uint32_t free_slot(const gateway *g) {
    uint32_t i = 0;
    while (i < g->options->requests_max && g->slots[i].session) {
        i++;
    }
    return i;
}

/* Prefix pages are shared inside one key and one cache_salt, and nowhere else. */
static uint64_t salt_of(const gateway *g, const exchange *x, const openai_request *r) {
    uint64_t key = hash_bytes(g->salt_key, r->cache_salt.data, r->cache_salt.bytes);
    return rng_mix(key ^ (uint64_t)(exchange_key(x) + 1));
}

static void refuse(exchange *x, int http_code, const char *text) {
    diag d;
    (void)status_fail(&d, STATUS_LIMIT, "%s", text);
    (void)routes_refuse(x, http_code, &d, 1);
}

static void discard(intake_item *item) {
    exchange_release(item->exchange);
    openai_free(item->request);
    prepare_free(&item->prompts);
}

static bool open_runs(gateway *g, uint32_t index, uint64_t salt, int64_t now) {
    slot *s = &g->slots[index];
    for (int32_t r = 0; r < session_runs(s->session); r++) {
        gate_request request = session_run(s->session, r, salt);
        if (gate_open(g->gate, &request, now, &s->ids[r]) != GATE_OPENED ||
            !hash_put(&g->runs, s->ids[r], (uint64_t)index << 8 | (uint64_t)r)) {
            return false;
        }
    }
    return true;
}

static void start_session(gateway *g, intake_item *item) {
    int64_t now = clock_now_us();
    uint32_t index = free_slot(g);
    if (g->stop_by_us || index == g->options->requests_max) {
        refuse(item->exchange, 503,
               g->stop_by_us ? "The server is shutting down."
                             : "The server has as many requests as it takes. Try again.");
        discard(item);
        return;
    }
    if (exchange_gone(item->exchange)) {
        discard(item);
        return;
    }
    uint64_t salt = salt_of(g, item->exchange, item->request);
    slot *s = &g->slots[index];
    exchange *x = item->exchange;
    exchange_acquire(x);
    if (session_open(x, item->request, &item->prompts, g->options->tokenizer,
                     rng_next(&g->seed_state) >> 1, &s->session) != STATUS_OK) {
        refuse(x, 503, "The server is out of memory. Try again.");
        exchange_release(x);
        return;
    }
    exchange_set_user(x, s->session);
    exchange_release(x);
    if (!open_runs(g, index, salt, now)) {
        diag d;
        (void)status_fail(&d, STATUS_LIMIT, "The server has as many requests as it takes.");
        fail_session(g, index, 503, &d, 1);
    }
}

/* ---- plain requests ------------------------------------------------------------------------- */

static void answer_metrics(gateway *g, exchange *x) {
    metrics_remote remotes[LIMIT_WORKERS];
    size_t count = 0;
    for (uint32_t i = 0; i < g->pool.count; i++) {
        const pool_worker *w = &g->pool.workers[i];
        if (w->joined && w->metrics.bytes) {
            remotes[count++] = (metrics_remote){strbuf_str(&w->metrics), w->label};
        }
    }
    http_counts counts;
    http_count(g->options->http, &counts);
    strbuf page = strbuf_make(METRICS_PAGE_BYTES);
    gatestats_render(g->stats, g->gate, &counts, supervisor_restarts(g->options->supervisor),
                     remotes, count, &page);
    (void)exchange_respond(x, 200, "text/plain; version=0.0.4; charset=utf-8", strbuf_str(&page),
                           NULL, 0);
    strbuf_close(&page);
}

static void answer_plain(gateway *g, routes_route route, exchange *x) {
    if (route == ROUTES_METRICS) {
        answer_metrics(g, x);
    } else if (pool_ready(&g->pool) && !g->stop_by_us) {
        static const char ok[] = "{\"status\":\"ok\"}";
        (void)exchange_respond(x, 200, "application/json", str_from(ok), NULL, 0);
    } else {
        refuse(x, 503,
               g->stop_by_us ? "The server is shutting down." : "Workers are still starting.");
    }
    exchange_release(x);
}

static void take_intake(gateway *g) {
    intake_item item;
    while (intake_next(g->options->intake, &item)) {
        switch (item.kind) {
            case INTAKE_START:
                start_session(g, &item);
                break;
            case INTAKE_PLAIN:
                answer_plain(g, item.route, item.exchange);
                break;
            case INTAKE_GONE:
                for (uint32_t i = 0; i < g->options->requests_max; i++) {
                    if (g->slots[i].session &&
                        g->slots[i].session == exchange_user(item.exchange)) {
                        end_later(g, i, GATESTATS_CANCELLED);
                    }
                }
                exchange_release(item.exchange);
                break;
        }
        act(g);
    }
}

/* ---- the gate's actions --------------------------------------------------------------------- */

/* The session's slot and run of a request, or false: it has ended here already. */
static bool find_run(const gateway *g, request_id request, uint32_t *index, int32_t *run) {
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

static void on_token(gateway *g, const gate_action *a) {
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
        g->ended[g->ended_count++] = (ended_choice){a->request, a->token.choice};
    }
}

static void on_done(gateway *g, const gate_action *a) {
    uint32_t index;
    int32_t run;
    bool listening = find_run(g, a->request, &index, &run);
    if (!hash_delete(&g->runs, a->request, NULL)) {
        return;
    }
    slot *s = &g->slots[index];
    s->ids[run] = 0;
    if (listening && session_run_done(s->session, run, a->cached_tokens, clock_now_us()) ==
                         SESSION_CLIENT_GONE) {
        end_later(g, index, GATESTATS_CANCELLED);
    } else if (session_finished(s->session)) {
        end_session(g, index, GATESTATS_OK);
    }
}

static void on_failed(gateway *g, const gate_action *a) {
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

static void take_actions(gateway *g) {
    gate_action a;
    uint32_t index;
    int32_t run;
    while (gate_next(g->gate, &a)) {
        switch (a.type) {
            case GATE_SEND:
                if (!pool_send(&g->pool, a.worker, &a.message)) {
                    g->broken[a.worker] = true;
                }
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

static void drop_worker(gateway *g, uint32_t worker) {
    bool joined = g->pool.workers[worker].joined;
    pool_drop(&g->pool, worker);
    g->broken[worker] = false;
    router_forget_worker(g->router, worker);
    if (joined) {
        gate_link_down(g->gate, worker, clock_now_us());
        take_actions(g);
    }
    supervisor_kill(g->options->supervisor, worker);
}

/* Carries out the gate's actions and what they lead to, until nothing is left. */
static void act(gateway *g) {
    take_actions(g);
    for (;;) {
        if (g->ended_count > 0) {
            ended_choice e = g->ended[--g->ended_count];
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
        drop_worker(g, w);
    }
}

/* ---- workers -------------------------------------------------------------------------------- */

static void on_hello(gateway *g, uint32_t worker, const message *m) {
    diag d;
    if (pool_join(&g->pool, worker, &m->hello, &d) != STATUS_OK) {
        LOG(ERROR, "gateway", "worker refused", "worker=%u why=\"%s\"", worker, d.text);
        g->broken[worker] = true;
        return;
    }
    LOG(INFO, "gateway", "worker joined", "worker=%u role=%s pid=%u pages=%u", worker,
        pool_role_name(m->hello.roles), m->hello.pid, m->hello.pages);
    gate_link_up(g->gate, worker, m->hello.epoch, clock_now_us());
}

static void on_message(gateway *g, uint32_t worker, const message *m) {
    pool_worker *w = &g->pool.workers[worker];
    w->heard_us = clock_now_us();
    if (m->type == MESSAGE_HELLO) {
        on_hello(g, worker, m);
    } else if (!w->joined) {
        g->broken[worker] = true;
    } else if (m->type == MESSAGE_HEARTBEAT) {
        pool_heartbeat(&g->pool, worker, &m->heartbeat);
    } else if (m->type == MESSAGE_METRICS) {
        pool_metrics(&g->pool, worker, m->metrics);
    } else {
        gate_message(g->gate, worker, m, clock_now_us());
    }
}

static void read_worker(gateway *g, uint32_t worker) {
    for (int i = 0; i < FRAMES_PER_TURN; i++) {
        pool_worker *w = &g->pool.workers[worker];
        str bytes;
        int fd;
        if (!w->used || g->broken[worker]) {
            return;
        }
        wire_result r = wire_receive(w->wire, &bytes, &fd);
        if (r == WIRE_AGAIN) {
            return;
        }
        message m;
        diag d;
        if (fd >= 0 && r == WIRE_MESSAGE) {
            (void)close(fd);
        }
        if (r == WIRE_CLOSED) {
            g->broken[worker] = true;
        } else if (message_decode(bytes, g->scratch, &m, &d) != STATUS_OK) {
            LOG(ERROR, "gateway", "malformed message", "worker=%u why=\"%s\"", worker, d.text);
            g->broken[worker] = true;
        } else {
            on_message(g, worker, &m);
        }
        act(g);
    }
}

static void on_started(gateway *g, const supervisor_event *e) {
    if (g->pool.workers[e->child].used) { /* its last life's link was not yet read to the end */
        g->broken[e->child] = true;
        act(g);
    }
    if (pool_add(&g->pool, e->child, e->fd, clock_now_us()) != STATUS_OK) {
        LOG(ERROR, "gateway", "no link to a worker", "worker=%u", e->child);
        supervisor_kill(g->options->supervisor, e->child);
    }
}

static void supervise(gateway *g) {
    supervisor_event e;
    while (supervisor_poll(g->options->supervisor, clock_now_us(), &e)) {
        if (e.type == SUPERVISOR_STARTED) {
            LOG(INFO, "supervisor", "started", "worker=%u pid=%d", e.child, (int)e.pid);
            on_started(g, &e);
            continue;
        }
        bool killed = WIFSIGNALED(e.status);
        if (!g->stop_by_us) {
            LOG(WARN, "supervisor", "worker ended", "worker=%u pid=%d %s=%d", e.child, (int)e.pid,
                killed ? "signal" : "status", killed ? WTERMSIG(e.status) : WEXITSTATUS(e.status));
        }
        /* Workers that cannot even start will not learn to: say so instead of trying for ever. */
        if (!g->ready_said && !killed && WEXITSTATUS(e.status) != 0 &&
            ++g->failed_starts == FAILED_STARTS_MAX) {
            g->failed = status_fail(g->d, STATUS_IO,
                                    "worker %u cannot start; its log lines above say why", e.child);
            g->quit = true;
        }
        /* What it said before it died is still in the socket: read it, then end the link. */
        read_worker(g, e.child);
        if (g->pool.workers[e.child].used) {
            g->broken[e.child] = true;
            act(g);
        }
    }
}

/* ---- dispatch ------------------------------------------------------------------------------- */

static void fail_never(gateway *g, request_id request) {
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

/* Sends what waits to the workers that the router picks; what finds none goes on waiting. */
static void dispatch(gateway *g) {
    int64_t now = clock_now_us();
    uint64_t cursor = 0;
    gate_pending p;
    while (gate_pending_next(g->gate, &cursor, now, &p)) {
        router_request request = {.prompt = p.prompt,
                                  .prompt_count = p.prompt_count,
                                  .delivered = p.delivered,
                                  .max_tokens = p.params->max_tokens,
                                  .choices = p.params->choices,
                                  .salt = p.salt,
                                  .prefill_only = p.prefill_only,
                                  .prefill_last = p.prefill_last,
                                  .decode_avoid = p.decode_avoid};
        router_choice choice;
        router_result r = router_choose(g->router, g->pool.views, g->pool.count, &request, &choice);
        if (r == ROUTER_CHOSEN) {
            router_remember(g->router, &request, &choice);
            pool_charge(&g->pool, &choice, &request);
            gate_dispatch(g->gate, p.run, (gate_choice){choice.prefill, choice.decode}, now);
            act(g);
        } else if (r == ROUTER_NEVER) {
            fail_never(g, p.request);
            act(g);
        }
    }
}

/* ---- loop ----------------------------------------------------------------------------------- */

static void begin_drain(gateway *g) {
    struct signalfd_siginfo info;
    ssize_t n = read(g->signal_fd, &info, sizeof info);
    if (n != sizeof info) {
        return;
    }
    if (g->stop_by_us) {
        LOG(WARN, "gateway", "second signal: stopping now", "%s", "");
        g->quit = true;
        return;
    }
    LOG(INFO, "gateway", "draining", "requests=%u", gate_count(g->gate));
    g->stop_by_us = clock_now_us() + g->options->drain_us;
    http_stop_accepting(g->options->http);
}

/* After the requests, the workers. */
static void go_on_draining(gateway *g) {
    int64_t now = clock_now_us();
    bool requests_over = gate_count(g->gate) == 0 || now >= g->stop_by_us;
    if (!requests_over) {
        return;
    }
    if (!g->workers_told) {
        g->workers_told = true;
        g->stop_by_us = now + STOP_US;
        supervisor_stop(g->options->supervisor);
        for (uint32_t i = 0; i < g->pool.count; i++) {
            message m = {.type = MESSAGE_DRAIN};
            if (g->pool.workers[i].joined) {
                (void)pool_send(&g->pool, i, &m);
            } else if (g->pool.workers[i].used) {
                supervisor_kill(g->options->supervisor, i);
            }
        }
    }
    g->quit = supervisor_running(g->options->supervisor) == 0 || now >= g->stop_by_us;
}

static void timers(gateway *g) {
    int64_t now = clock_now_us();
    if (now >= g->tick_due_us) {
        g->tick_due_us = now + TICK_US;
        gate_tick(g->gate, now);
        act(g);
        uint32_t silent;
        while ((silent = pool_silent(&g->pool, now, g->options->silence_us, g->options->join_us)) <
               LIMIT_WORKERS) {
            LOG(WARN, "gateway", "worker is silent: fenced", "worker=%u", silent);
            g->broken[silent] = true;
            act(g);
        }
    }
    if (!g->ready_said && pool_ready(&g->pool)) {
        g->ready_said = true;
        g->options->on_ready(g->options->self);
    }
    if (g->stop_by_us) {
        go_on_draining(g);
    }
}

static int wait_ms(const gateway *g) {
    int64_t now = clock_now_us();
    int64_t due = g->tick_due_us;
    int64_t start = supervisor_next_us(g->options->supervisor);
    if (start < due) {
        due = start;
    }
    int64_t most = g->stop_by_us ? 50000 : TICK_US;
    int64_t us = due - now < most ? due - now : most;
    return us <= 0 ? 0 : (int)(us / 1000) + 1;
}

static void handle_event(gateway *g, uint64_t tag) {
    switch (tag) {
        case TAG_INTAKE:
            take_intake(g);
            break;
        case TAG_SUPERVISOR:
            break; /* supervise follows every wait */
        case TAG_SIGNAL:
            begin_drain(g);
            break;
        default:
            read_worker(g, (uint32_t)tag);
            break;
    }
}

static status loop(gateway *g) {
    struct epoll_event events[EVENTS_MAX];
    while (!g->quit) {
        int n = epoll_wait(g->pool.epoll_fd, events, EVENTS_MAX, wait_ms(g));
        if (n < 0 && errno != EINTR) {
            return status_fail_errno(g->d, STATUS_IO, "epoll");
        }
        for (int i = 0; i < n; i++) {
            handle_event(g, events[i].data.u64);
        }
        supervise(g);
        timers(g);
        dispatch(g);
        pool_flush(&g->pool);
    }
    return g->failed;
}

/* ---- set-up --------------------------------------------------------------------------------- */

static status open_tables(gateway *g) {
    const gateway_options *o = g->options;
    uint32_t runs_max = o->requests_max * LIMIT_BATCH_PROMPTS;
    if (runs_max > MESSAGE_LEASES_MAX / LIMIT_CHOICES) {
        runs_max = MESSAGE_LEASES_MAX / LIMIT_CHOICES;
    }
    g->ended_max = o->requests_max * LIMIT_CHOICES;
    hash_key key;
    TRY(hash_key_random(&key, g->d));
    TRY(hash_key_random(&g->salt_key, g->d));
    g->seed_state = key.k0;
    status s = arena_open(&g->arena, (uint64_t)1 << 30);
    router_options ro = {.prefixes_max = 1 << 16,
                         .page_tokens = LIMIT_PAGE_TOKENS,
                         .local_prefill_max = o->local_prefill_max,
                         .transfer_page_us = 20,
                         .key = key};
    gate_options go = {.requests_max = runs_max,
                       .id_first = (request_id)clock_wall_us() << 8,
                       .lease_us = LEASE_US,
                       .pending_deadline_us = o->pending_us,
                       .retry_percent = 10,
                       .retry_burst = 100,
                       .attempts_max = 16};
    if (s == STATUS_OK) {
        s = gatestats_open(&g->arena, &g->stats);
    }
    if (s == STATUS_OK) {
        s = router_create(&g->arena, &ro, &g->router);
    }
    if (s == STATUS_OK) {
        s = hash_open(&g->runs, &g->arena, runs_max, key.k1);
    }
    if (s == STATUS_OK) {
        s = gate_create(&go, &g->gate);
    }
    if (s == STATUS_OK) {
        s = message_scratch_open(&g->scratch);
    }
    g->slots = ARENA_TAKE(&g->arena, o->requests_max, slot);
    g->gone = ARENA_TAKE(&g->arena, o->requests_max, uint32_t);
    g->ended = ARENA_TAKE(&g->arena, g->ended_max, ended_choice);
    if (s != STATUS_OK || !g->slots || !g->gone || !g->ended) {
        return status_fail(g->d, STATUS_NOMEM, "no memory for the gateway's tables");
    }
    return STATUS_OK;
}

static status watch(gateway *g, uint64_t tag, int fd) {
    struct epoll_event e = {.events = EPOLLIN, .data.u64 = tag};
    if (fd < 0 || epoll_ctl(g->pool.epoll_fd, EPOLL_CTL_ADD, fd, &e) != 0) {
        return status_fail_errno(g->d, STATUS_IO, "polling the gateway's descriptors");
    }
    return STATUS_OK;
}

static sigset_t stop_signals(void) {
    sigset_t set;
    (void)sigemptyset(&set);
    (void)sigaddset(&set, SIGTERM);
    (void)sigaddset(&set, SIGINT);
    return set;
}

void gateway_block_signals(void) {
    sigset_t set = stop_signals();
    (void)signal(SIGPIPE, SIG_IGN);
    (void)pthread_sigmask(SIG_BLOCK, &set, NULL);
}

static status open_loop(gateway *g) {
    sigset_t set = stop_signals();
    g->signal_fd = signalfd(-1, &set, SFD_NONBLOCK | SFD_CLOEXEC);
    TRY(pool_open(&g->pool, g->d));
    g->pool.roles_wanted = g->options->roles_wanted;
    TRY(watch(g, TAG_SIGNAL, g->signal_fd));
    TRY(watch(g, TAG_INTAKE, intake_fd(g->options->intake)));
    return watch(g, TAG_SUPERVISOR, supervisor_fd(g->options->supervisor));
}

static void close_all(gateway *g) {
    for (uint32_t i = 0; g->slots && i < g->options->requests_max; i++) {
        if (g->slots[i].session) {
            diag d;
            (void)status_fail(&d, STATUS_CLOSED, "The server is shutting down.");
            session_fail(g->slots[i].session, 503, &d, 1);
            session_close(g->slots[i].session);
        }
    }
    gate_destroy(g->gate);
    message_scratch_close(g->scratch);
    pool_close(&g->pool);
    if (g->signal_fd >= 0) {
        (void)close(g->signal_fd);
    }
    arena_close(&g->arena);
}

status gateway_run(const gateway_options *options, diag *d) {
    gateway *g = mem_calloc(1, sizeof *g);
    if (!g) {
        return status_fail(d, STATUS_NOMEM, "no memory for the gateway");
    }
    g->options = options;
    g->d = d;
    g->signal_fd = -1;
    g->pool.epoll_fd = -1;
    status s = open_tables(g);
    if (s == STATUS_OK) {
        s = open_loop(g);
    }
    if (s == STATUS_OK) {
        s = loop(g);
    }
    close_all(g);
    mem_free(g);
    return s;
}
