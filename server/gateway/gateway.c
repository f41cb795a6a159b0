/* gateway.c -- one loop, one owner:
 *
 *     epoll -> workers' messages, requests, dead children, signals -> gate -> act -> write
 */
#define _GNU_SOURCE
#include "server/gateway/gateway.h"

#include <errno.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include "engine/base/check.h"
#include "engine/base/clock.h"
#include "engine/base/failpoint.h"
#include "engine/base/log.h"
#include "engine/base/mem.h"
#include "server/gateway/desk.h"
#include "server/gateway/gatescale.h"

enum {
    EVENTS_MAX = 64,
    FRAMES_PER_TURN = 256,
    TAG_INTAKE = POOL_TAG,
    TAG_SUPERVISOR,
    TAG_SIGNAL,
    TAG_CLUSTER,
    TICK_US = 500000,
    PENDING_US = 10000, /* what waits for workers is looked at this often */
    LEASE_US = 30000000,
    LEAVE_US = 250000, /* a handshake that had begun, and the request after it, come within this */
    STOP_US = 5000000, /* workers get this long to go after the drain */
    METRICS_PAGE_BYTES = LIMIT_WORKERS * (64 << 10), /* a worker's are some 40 KB */
    DEBUG_PAGE_BYTES = 8 << 20,
    EXPLAIN_TOKENS = 128, /* of the answer that an explained request would want */
    QUANTUM = 512,        /* tokens of a key before the next key's turn */
    FAILED_STARTS_MAX = 3,
    ROUTE_PAGES = 1 << 20, /* of KV that the router knows of: address space until used */
    ROUTE_EXPECTED = 1 << 16
};

/* ---- plain requests ------------------------------------------------------------------------- */

static void answer_metrics(gateway_state *g, exchange *x) {
    metrics_remote remotes[LIMIT_WORKERS];
    size_t count = 0;
    uint64_t pages_total = 0, pages_free = 0;
    for (uint32_t i = 0; i < g->pool.count; i++) {
        const pool_worker *w = &g->pool.workers[i];
        if (w->joined && w->metrics.bytes) {
            remotes[count++] = (metrics_remote){strbuf_str(&w->metrics), w->label};
        }
        pages_total += w->joined ? w->heartbeat.pages_total : 0;
        pages_free += w->joined ? w->heartbeat.pages_free : 0;
    }
    gatestats_pages(g->stats, g->gate, fair_count(g->line), pages_total, pages_free);
    http_counts counts;
    http_count(g->options->http, &counts);
    strbuf page = strbuf_make(METRICS_PAGE_BYTES);
    gatestats_index(g->stats, router_index_count(g->router));
    otlp_counts traces;
    reqtrace_count(g->options->traces, &traces);
    gatestats_traces(g->stats, &traces);
    gatestats_render(g->stats, g->gate, fair_count(g->line), &counts,
                     supervisor_restarts(g->options->supervisor), remotes, count, &page);
    (void)exchange_respond(x, 200, "text/plain; version=0.0.4; charset=utf-8", strbuf_str(&page),
                           NULL, 0);
    strbuf_close(&page);
}

static const char *const policies[] = {
    [ROUTER_COST] = "cost", [ROUTER_RANDOM] = "random", [ROUTER_ROUND_ROBIN] = "round-robin"};

static void answer_decisions(const gateway_state *g, exchange *x) {
    strbuf json = strbuf_make(DEBUG_PAGE_BYTES);
    routelog_write(g->routelog, &json, policies[g->options->route], router_index_count(g->router),
                   clock_now_us());
    (void)routes_answer(x, &json);
    strbuf_close(&json);
}

/* Where a request with this prompt would go now, and why. */
static void answer_explain(gateway_state *g, const intake_item *item) {
    const prepare_prompt *p = &item->prompts.prompts[0];
    if (p->count < 1) {
        desk_refuse(item->exchange, 400, "The prompt has no tokens.");
        return;
    }
    router_request request = {.prompt = p->tokens,
                              .prompt_count = p->count,
                              .max_tokens = EXPLAIN_TOKENS,
                              .choices = 1,
                              .salt = desk_salt(g, item->exchange, item->request),
                              .prefill_last = MESSAGE_NO_WORKER,
                              .decode_avoid = MESSAGE_NO_WORKER,
                              .now_us = clock_now_us()};
    router_choice choice;
    (void)router_choose(g->router, g->pool.views, g->pool.count, &request, &choice);
    routelog_about about = {.prompt_tokens = p->count, .max_tokens = EXPLAIN_TOKENS};
    strbuf json = strbuf_make(DEBUG_PAGE_BYTES);
    routelog_write_one(&json, &about, router_last(g->router), request.now_us);
    (void)routes_answer(item->exchange, &json);
    strbuf_close(&json);
}

static void answer_plain(gateway_state *g, routes_route route, exchange *x) {
    if (route == ROUTES_METRICS) {
        answer_metrics(g, x);
    } else if (route == ROUTES_DECISIONS) {
        answer_decisions(g, x);
    } else if (route >= ROUTES_CONTROLLER && route <= ROUTES_CONTROLLER_SCALE) {
        gatescale_answer(g, route, x);
    } else if (pool_ready(&g->pool) && !g->stop_by_us) {
        static const char ok[] = "{\"status\":\"ok\"}";
        (void)exchange_respond(x, 200, "application/json", str_from(ok), NULL, 0);
    } else {
        desk_refuse(x, 503,
                    g->stop_by_us ? "The server is shutting down." : "Workers are still starting.");
    }
    exchange_release(x);
}

static void take_intake(gateway_state *g) {
    intake_item item;
    while (intake_next(g->options->intake, &item)) {
        switch (item.kind) {
            case INTAKE_START:
                if (item.route == ROUTES_EXPLAIN) {
                    answer_explain(g, &item);
                    intake_discard(&item);
                } else {
                    desk_start(g, &item);
                }
                break;
            case INTAKE_PLAIN:
                answer_plain(g, item.route, item.exchange);
                break;
            case INTAKE_GONE:
                desk_gone(g, item.exchange);
                exchange_release(item.exchange);
                break;
        }
        desk_act(g);
    }
}

/* ---- workers -------------------------------------------------------------------------------- */

static void on_hello(gateway_state *g, uint32_t worker, const message *m) {
    diag d;
    if (pool_join(&g->pool, worker, &m->hello, &d) != STATUS_OK) {
        LOG(ERROR, "gateway", "worker refused", "worker=%u why=\"%s\"", worker, d.text);
        pool_goodbye(&g->pool, worker, d.text);
        g->broken[worker] = true;
        return;
    }
    LOG(INFO, "gateway", "worker joined", "worker=%u role=%s pid=%u pages=%u address=%s", worker,
        pool_role_name(m->hello.roles), m->hello.pid, m->hello.pages,
        g->pool.workers[worker].kept.address[0] ? g->pool.workers[worker].kept.address : "local");
    supervisor_useful(g->options->supervisor, worker, clock_now_us());
    gate_numerics(
        g->gate, hash_bytes(g->options->salt_key, m->hello.numerics.data, m->hello.numerics.bytes));
    gate_link_up(g->gate, worker, m->hello.epoch, clock_now_us());
}

/* Part of what a worker told of its cache was lost. */
static void ask_again(gateway_state *g, uint32_t worker) {
    message again = {.type = MESSAGE_RESYNC};
    if (!pool_send(&g->pool, worker, &again)) {
        g->broken[worker] = true;
    }
}

static void on_heartbeat(gateway_state *g, uint32_t worker, const message_heartbeat *h) {
    pool_heartbeat(&g->pool, worker, h, clock_now_us());
    if (!router_cached_all(g->router, worker, h->cached_sequence)) {
        ask_again(g, worker);
    }
}

static void on_message(gateway_state *g, uint32_t worker, const message *m) {
    pool_worker *w = &g->pool.workers[worker];
    w->heard_us = clock_now_us();
    if (FAILPOINT_AT("gateway.on_", message_event_name(m))) {
        g->broken[worker] = true;
    } else if (m->type == MESSAGE_HELLO) {
        on_hello(g, worker, m);
    } else if (!w->joined) {
        g->broken[worker] = true;
    } else if (m->type == MESSAGE_HEARTBEAT) {
        on_heartbeat(g, worker, &m->heartbeat);
    } else if (m->type == MESSAGE_ROLE) {
        LOG(INFO, "gateway", "worker has another role", "worker=%u role=%s", worker,
            pool_role_name(m->role.roles));
        pool_role(&g->pool, worker, m->role.roles);
    } else if (m->type == MESSAGE_METRICS) {
        pool_metrics(&g->pool, worker, m->metrics);
    } else if (m->type == MESSAGE_CACHED) {
        if (!router_cached(g->router, worker, &m->cached)) {
            ask_again(g, worker);
        }
    } else {
        if (m->reason == MESSAGE_REASON_DRAINING) {
            g->pool.views[worker].draining = true;
        }
        if (m->type == MESSAGE_LINK_LOST) {
            pool_rejoin(&g->pool, worker, m->worker, w->heard_us);
        }
        router_heard(g->router, worker, m, w->heard_us);
        desk_told(g, worker, m);
        gate_message(g->gate, worker, m, clock_now_us());
    }
}

static void read_worker(gateway_state *g, uint32_t worker) {
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
        if (r == WIRE_MESSAGE && fd >= 0) {
            (void)close(fd); /* workers have none to give */
        }
        if (r == WIRE_CLOSED || FAILPOINT("gateway.link")) {
            g->broken[worker] = true;
        } else if (message_decode(bytes, g->scratch, &m, &d) != STATUS_OK) {
            LOG(ERROR, "gateway", "malformed message", "worker=%u why=\"%s\"", worker, d.text);
            g->broken[worker] = true;
        } else {
            on_message(g, worker, &m);
        }
        desk_act(g);
    }
}

static void on_started(gateway_state *g, const supervisor_event *e) {
    if (g->pool.workers[e->child].used) { /* its last life's link was not yet read to the end */
        desk_drop_worker(g, e->child);
        desk_act(g);
    }
    if (pool_add(&g->pool, e->child, e->fd, clock_now_us()) != STATUS_OK) {
        LOG(ERROR, "gateway", "no link to a worker", "worker=%u", e->child);
        supervisor_kill(g->options->supervisor, e->child, 0);
    }
}

/* Workers of other hosts, as the roster names them. */
static void follow_cluster(gateway_state *g) {
    if (!g->options->cluster) {
        return;
    }
    uint64_t linked[LIMIT_WORKERS];
    cluster_event e;
    for (;;) {
        for (uint32_t i = 0; i < LIMIT_WORKERS; i++) {
            linked[i] = g->pool.workers[i].used ? g->pool.workers[i].epoch : 0;
        }
        if (!cluster_next(g->options->cluster, linked, clock_now_us(), &e)) {
            return;
        }
        if (e.type == CLUSTER_REFUSED) {
            g->failed =
                status_fail(g->d, e.why.code, "the hub refuses this gateway: %s", e.why.text);
            g->quit = true;
            return;
        }
        if (g->pool.workers[e.worker].used) {
            desk_drop_worker(g, e.worker);
            desk_act(g);
        }
        if (e.type == CLUSTER_LINK && pool_add_remote(&g->pool, e.worker, e.epoch, e.fd, &e.keys,
                                                      clock_now_us()) != STATUS_OK) {
            LOG(ERROR, "gateway", "no link to a worker", "worker=%u", e.worker);
        }
    }
}

/* Asks the kernel about the children only after a signal, or when one is to be started or ended. */
static void supervise(gateway_state *g) {
    supervisor_event e;
    if (!g->child_signal && clock_now_us() < supervisor_next_us(g->options->supervisor)) {
        return;
    }
    g->child_signal = false;
    while (supervisor_poll(g->options->supervisor, clock_now_us(), &e)) {
        if (e.type == SUPERVISOR_STARTED) {
            LOG(INFO, "supervisor", "started", "worker=%u pid=%d", e.child, (int)e.pid);
            on_started(g, &e);
            continue;
        }
        bool killed = WIFSIGNALED(e.status);
        cores_clear(g->options->cores, e.child);
        bool asked = !supervisor_wanted(g->options->supervisor, e.child) && e.status == 0;
        if (asked) {
            LOG(INFO, "supervisor", "worker stopped", "worker=%u pid=%d", e.child, (int)e.pid);
        } else if (!g->stop_by_us) {
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
            desk_act(g);
        }
    }
}

/* ---- dispatch ------------------------------------------------------------------------------- */

/* Sends what waits to the workers that the router picks; what finds none goes on waiting. */
static void dispatch(gateway_state *g) {
    desk_let_through(g);
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
                                  .session = desk_affinity(g, p.request),
                                  .prefill_only = p.prefill_only,
                                  .prefill_last = p.prefill_last,
                                  .decode_avoid = p.decode_avoid,
                                  .now_us = now};
        router_choice choice;
        router_result r = router_choose(g->router, g->pool.views, g->pool.count, &request, &choice);
        if (r == ROUTER_CHOSEN) {
            routelog_about about = {.request = p.request,
                                    .attempt = p.attempt,
                                    .prompt_tokens = p.prompt_count,
                                    .max_tokens = p.params->max_tokens,
                                    .session = request.session != 0,
                                    .now_us = now};
            routelog_add(g->routelog, &about, router_last(g->router));
            gatestats_routed(g->stats, choice.path, choice.reason);
            if (p.params->prompt_logprobs && choice.decode != MESSAGE_NO_WORKER) {
                /* A hand-over carries no scores: the worker that decodes makes them. */
                choice.prefill = MESSAGE_NO_WORKER;
            }
            router_remember(g->router, &request, &choice);
            router_charge(g->pool.views, &choice, &request, LIMIT_PAGE_TOKENS);
            gate_choice to = {choice.prefill, choice.decode};
            desk_sent(g, p.request, p.attempt, to);
            gate_dispatch(g->gate, p.run, to, now);
            desk_act(g);
        } else if (r == ROUTER_NEVER) {
            desk_fail_never(g, p.request);
            desk_act(g);
        }
    }
}

/* ---- loop ----------------------------------------------------------------------------------- */

static void drain(gateway_state *g) {
    LOG(INFO, "gateway", "draining", "requests=%u waiting=%u", gate_count(g->gate),
        fair_count(g->line));
    g->stop_by_us = clock_now_us() + g->options->drain_us;
    http_stop_accepting(g->options->http);
}

/* What came in before the port was left, but has not reached the gate yet. */
static bool late_requests(gateway_state *g) {
    http_counts counts;
    http_count(g->options->http, &counts);
    return g->options->shared_port && counts.exchanges > 0;
}

static void begin_drain(gateway_state *g) {
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
    diag d;
    if (g->options->shared_port && !g->leave_by_us &&
        http_leave(g->options->http, &d) == STATUS_OK) {
        LOG(INFO, "gateway", "leaving the port", "%s", "");
        g->leave_by_us = clock_now_us() + LEAVE_US;
        return;
    }
    drain(g);
}

/* After the requests, the workers. */
static void go_on_draining(gateway_state *g) {
    int64_t now = clock_now_us();
    bool none = gate_count(g->gate) == 0 && fair_count(g->line) == 0 && !late_requests(g);
    bool requests_over = none || now >= g->stop_by_us;
    if (!requests_over) {
        return;
    }
    if (!g->workers_told) {
        g->workers_told = true;
        g->stop_by_us = now + STOP_US;
        supervisor_stop(g->options->supervisor);
        for (uint32_t i = 0; i < g->pool.count; i++) {
            message m = {.type = MESSAGE_DRAIN};
            if (g->pool.workers[i].remote) {
                continue; /* it serves others too: the end of the link is all it needs to know */
            }
            if (g->pool.workers[i].joined) {
                (void)pool_send(&g->pool, i, &m);
            } else if (g->pool.workers[i].used) {
                desk_kill_worker(g, i, 0);
            }
        }
    }
    g->quit = supervisor_running(g->options->supervisor) == 0 || now >= g->stop_by_us;
}

static void timers(gateway_state *g) {
    int64_t now = clock_now_us();
    if (now >= g->tick_due_us) {
        g->tick_due_us = now + TICK_US;
        gate_tick(g->gate, now);
        desk_act(g);
        desk_expire(g);
        uint32_t silent;
        while ((silent = pool_silent(&g->pool, now, g->options->silence_us, g->options->join_us)) <
               LIMIT_WORKERS) {
            LOG(WARN, "gateway", "worker is silent: fenced", "worker=%u", silent);
            desk_kill_worker(g, silent, 0); /* it may wake up: not as it is */
            g->broken[silent] = true;
            desk_act(g);
        }
    }
    gatescale_turn(g, now);
    if (!g->ready_said && pool_ready(&g->pool) && !g->leave_by_us) {
        g->ready_said = true;
        g->options->on_ready(g->options->self);
    }
    if (g->leave_by_us && !g->stop_by_us && now >= g->leave_by_us) {
        drain(g);
    }
    if (g->stop_by_us) {
        go_on_draining(g);
    }
}

static int wait_ms(const gateway_state *g) {
    int64_t now = clock_now_us();
    int64_t due = g->tick_due_us;
    int64_t start = supervisor_next_us(g->options->supervisor);
    if (start < due) {
        due = start;
    }
    int64_t most = g->stop_by_us || g->leave_by_us ? 50000 : TICK_US;
    if (gate_pending_count(g->gate) > 0) {
        most = PENDING_US;
    }
    int64_t us = due - now < most ? due - now : most;
    return us <= 0 ? 0 : (int)(us / 1000) + 1;
}

static void handle_event(gateway_state *g, uint64_t tag) {
    switch (tag) {
        case TAG_INTAKE:
            take_intake(g);
            break;
        case TAG_SUPERVISOR:
            g->child_signal = true; /* supervise and follow_cluster follow every wait */
            break;
        case TAG_CLUSTER:
            break;
        case TAG_SIGNAL:
            begin_drain(g);
            break;
        default:
            read_worker(g, (uint32_t)tag);
            break;
    }
}

static status loop(gateway_state *g) {
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
        follow_cluster(g);
        timers(g);
        dispatch(g);
        pool_flush(&g->pool);
    }
    return g->failed;
}

/* ---- set-up --------------------------------------------------------------------------------- */

static status open_tables(gateway_state *g) {
    const gateway_options *o = g->options;
    uint32_t runs_max = o->requests_max * LIMIT_BATCH_PROMPTS;
    if (runs_max > MESSAGE_LEASES_MAX / LIMIT_CHOICES) {
        runs_max = MESSAGE_LEASES_MAX / LIMIT_CHOICES;
    }
    g->ended_max = o->requests_max * LIMIT_CHOICES;
    hash_key key;
    TRY(hash_key_random(&key, g->d));
    hash_key ids; /* not from a clock: one that is set back would give the ids of others again */
    TRY(hash_key_random(&ids, g->d));
    g->seed_state = key.k0;
    status s = arena_open(&g->arena, (uint64_t)1 << 30);
    router_options ro = {.workers_max = LIMIT_WORKERS,
                         .pages_max = ROUTE_PAGES,
                         .expected_max = ROUTE_EXPECTED,
                         .page_tokens = LIMIT_PAGE_TOKENS,
                         .local_prefill_max = o->local_prefill_max,
                         .transfer_page_us = 20,
                         .policy = o->route,
                         .seed = key.k1};
    gate_options go = {.requests_max = runs_max,
                       .id_first = 1 + (ids.k0 >> 5),
                       .lease_us = LEASE_US,
                       .pending_deadline_us = o->pending_us,
                       .retry_percent = 10,
                       .retry_burst = 100,
                       .attempts_max = 16};
    if (s == STATUS_OK) {
        s = gatestats_open(&g->arena, g->options->model_name, &g->stats);
    }
    if (s == STATUS_OK) {
        s = router_create(&g->arena, &ro, &g->router);
    }
    if (s == STATUS_OK) {
        s = routelog_create(&g->arena, &g->routelog);
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
    if (s == STATUS_OK) {
        s = fair_create(&g->arena, o->requests_max, LIMIT_API_KEYS + 1, QUANTUM, &g->line);
    }
    g->admit.slo_us = o->ttft_slo_us;
    g->slots = ARENA_TAKE(&g->arena, o->requests_max, desk_slot);
    g->gone = ARENA_TAKE(&g->arena, o->requests_max, uint32_t);
    g->ended = ARENA_TAKE(&g->arena, g->ended_max, desk_ended);
    if (s != STATUS_OK || !g->slots || !g->gone || !g->ended) {
        return status_fail(g->d, STATUS_NOMEM, "no memory for the gateway's tables");
    }
    return STATUS_OK;
}

static status watch(gateway_state *g, uint64_t tag, int fd) {
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

static status open_loop(gateway_state *g) {
    sigset_t set = stop_signals();
    g->signal_fd = signalfd(-1, &set, SFD_NONBLOCK | SFD_CLOEXEC);
    TRY(pool_open(&g->pool, g->d));
    g->pool.roles_wanted = g->options->roles_wanted;
    g->pool.model_hash = g->options->model_hash;
    g->pool.by_address = g->options->kv_by_address;
    TRY(watch(g, TAG_SIGNAL, g->signal_fd));
    TRY(watch(g, TAG_INTAKE, intake_fd(g->options->intake)));
    if (g->options->cluster) {
        TRY(watch(g, TAG_CLUSTER, cluster_fd(g->options->cluster)));
    }
    return watch(g, TAG_SUPERVISOR, supervisor_fd(g->options->supervisor));
}

static void close_all(gateway_state *g) {
    autoscale_close(g->scale);
    desk_close(g);
    gate_destroy(g->gate);
    message_scratch_close(g->scratch);
    pool_close(&g->pool);
    if (g->signal_fd >= 0) {
        (void)close(g->signal_fd);
    }
    arena_close(&g->arena);
}

status gateway_run(const gateway_options *options, diag *d) {
    gateway_state *g = mem_calloc(1, sizeof *g);
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
        s = gatescale_open(g);
    }
    if (s == STATUS_OK) {
        s = loop(g);
    }
    close_all(g);
    mem_free(g);
    return s;
}
