/* control.c -- a lock around a turn, and around each answer. */
#include "server/control/control.h"

#include <pthread.h>
#include <stdio.h>
#include <string.h>

#include "engine/base/arena.h"
#include "engine/base/clock.h"
#include "engine/base/mem.h"
#include "engine/base/metrics.h"
#include "server/api/routes.h"
#include "server/control/controlpage.h"
#include "server/http/http.h"

enum {
    PAGE_BYTES = 1 << 20,
    NEW_US = 3000000,  /* members find a hub that is back at its address within that */
    TAKEN_US = 8000000 /* and another one, once the first has been silent for too long */
};

static const char *const role_labels[SCALER_POOLS] = {"role=\"prefill\"", "role=\"decode\""};

struct control {
    control_options options;
    hub *hub;
    pthread_mutex_t lock; /* of all below */
    hub_view seen;
    autoscale *scale; /* NULL: none */
    metrics *metrics;
    struct {
        metrics_gauge *members, *serving, *wanted, *busy;
    } pools[SCALER_POOLS];
    metrics_gauge *gateways, *held, *leads, *token;
    metrics_counter *decisions[SCALER_KINDS];
    arena arena;
    openai_limits limits; /* no model is served here */
    routes *routes;
    http_handlers served; /* theirs */
    http *http;
};

/* ---- the hub, for drivers ------------------------------------------------------------------- */

static bool tell(void *self, uint32_t worker, const message *m) {
    control *c = self;
    return hub_tell(c->hub, worker, m);
}

static uint32_t roles(void *self, uint32_t worker) {
    const control *c = self;
    return c->seen.workers[worker].joined ? c->seen.workers[worker].roles : 0;
}

static uint32_t pid(void *self, uint32_t worker) {
    const control *c = self;
    return c->seen.workers[worker].pid;
}

static uint32_t find(void *self, const char *host) {
    const control *c = self;
    size_t bytes = strlen(host);
    for (uint32_t i = 0; i < LIMIT_WORKERS && bytes > 0; i++) {
        char text[HOSTPORT_TEXT_BYTES];
        if (!c->seen.workers[i].joined) {
            continue;
        }
        hostport_print(&c->seen.workers[i].address, text);
        const char *at = text[0] == '[' ? text + 1 : text;
        if (strncmp(at, host, bytes) == 0 && (at[bytes] == ':' || at[bytes] == ']')) {
            return i;
        }
    }
    return DRIVER_NO_WORKER;
}

driver_cluster_hub control_hub(control *c) {
    return (driver_cluster_hub){c, tell, roles, pid, find};
}

/* ---- a turn --------------------------------------------------------------------------------- */

static void show_to_scaler(control *c, int64_t now_us) {
    autoscale_seen seen = {.counters = c->seen.counters,
                           .held = c->seen.held < UINT32_MAX ? (uint32_t)c->seen.held : UINT32_MAX};
    for (uint32_t i = 0; i < LIMIT_WORKERS; i++) {
        seen.workers[i].joined = c->seen.workers[i].joined;
        seen.workers[i].beat = c->seen.workers[i].beat;
    }
    for (uint32_t i = 0; i < c->seen.latencies_count; i++) {
        autoscale_latency(c->scale, c->seen.latencies[i].ttft_us, c->seen.latencies[i].tpot_us);
    }
    autoscale_turn(c->scale, &seen, now_us);
}

void control_turn(control *c, int64_t now_us) {
    (void)pthread_mutex_lock(&c->lock);
    hub_look(c->hub, &c->seen);
    if (c->scale) {
        show_to_scaler(c, now_us);
        const scaler_options *o = &c->options.scaler;
        bool leads = autoscale_leads(c->scale);
        if (leads || autoscale_others(c->scale)) {
            hub_set_open(c->hub, leads);
        }
        hub_set_holds(c->hub,
                      leads && !o->dry_run && !o->fixed && o->bounds[SCALER_DECODE].min == 0);
    }
    (void)pthread_mutex_unlock(&c->lock);
}

/* ---- HTTP ----------------------------------------------------------------------------------- */

static status register_series(control *c) {
    static const char decided[] = "Actions decided, or ordered by an operator.";
    char label[64];
    TRY(arena_open(&c->arena, 4 << 20));
    TRY(metrics_open(&c->metrics, &c->arena));
    metrics *m = c->metrics;
    for (int i = 0; i < SCALER_POOLS; i++) {
        const char *l = role_labels[i];
        c->pools[i].members =
            metrics_new_gauge(m, "weir_hub_workers", l, "Workers in the cluster, by role.");
        c->pools[i].serving =
            metrics_new_gauge(m, "weir_pool_serving", l, "Workers that serve in the pool.");
        c->pools[i].wanted =
            metrics_new_gauge(m, "weir_pool_wanted", l, "Workers that the pool should have.");
        c->pools[i].busy = metrics_new_gauge(m, "weir_pool_busy_ratio", l,
                                             "Share of the pool's capacity that the load takes.");
    }
    for (int i = 0; i < SCALER_KINDS; i++) {
        (void)snprintf(label, sizeof label, "action=\"%s\"", scaler_kind_name((scaler_kind)i));
        c->decisions[i] = metrics_new_counter(m, "weir_scale_decisions_total", label, decided, 1);
    }
    c->gateways = metrics_new_gauge(m, "weir_hub_gateways", "", "Gateways in the cluster.");
    c->held = metrics_new_gauge(m, "weir_requests_held", "", "Requests that no worker has yet.");
    c->leads =
        metrics_new_gauge(m, "weir_controller_leads", "", "1 where this controller may act.");
    c->token = metrics_new_gauge(m, "weir_controller_token", "", "Fencing token of its lease.");
    return STATUS_OK;
}

static void answer_metrics(control *c, exchange *x) {
    double members[SCALER_POOLS] = {0};
    strbuf page = strbuf_make(PAGE_BYTES);
    for (uint32_t i = 0; i < LIMIT_WORKERS; i++) {
        uint32_t r = c->seen.workers[i].joined ? c->seen.workers[i].roles : 0;
        members[SCALER_PREFILL] += (r & MESSAGE_ROLE_PREFILL) != 0;
        members[SCALER_DECODE] += (r & MESSAGE_ROLE_DECODE) != 0;
    }
    for (int i = 0; i < SCALER_POOLS; i++) {
        metrics_set(c->pools[i].members, members[i]);
        if (c->scale) {
            const scaler_state *p = autoscale_pool(c->scale, (scaler_pool)i);
            metrics_set(c->pools[i].serving, p->serving);
            metrics_set(c->pools[i].wanted, p->wanted);
            metrics_set(c->pools[i].busy, p->busy);
        }
    }
    for (int i = 0; i < SCALER_KINDS && c->scale; i++) {
        metrics_follow(c->decisions[i], autoscale_decided(c->scale, (scaler_kind)i));
    }
    metrics_set(c->gateways, c->seen.gateways);
    metrics_set(c->held, (double)c->seen.held);
    metrics_set(c->leads, c->scale && autoscale_leads(c->scale));
    metrics_set(c->token, c->scale ? (double)autoscale_token(c->scale) : 0);
    (void)metrics_render(c->metrics, NULL, 0, &page);
    (void)exchange_respond(x, 200, "text/plain; version=0.0.4; charset=utf-8", strbuf_str(&page),
                           NULL, 0);
    strbuf_close(&page);
}

/* Alive is one that answers; ready, one whose hub takes members. */
static void answer_health(const control *c, routes_route route, exchange *x) {
    diag d;
    if (route == ROUTES_READY && c->options.lease && !autoscale_leads(c->scale)) {
        (void)status_fail(&d, STATUS_IO, "this controller does not hold the lease");
        (void)routes_refuse(x, 503, &d, 0);
        return;
    }
    (void)exchange_respond(x, 200, "application/json", str_from("{\"status\":\"ok\"}"), NULL, 0);
}

/* `r` is of routes that serve_path lets through: none. */
static void on_request(void *self, routes_route route, exchange *x, openai_request *r) {
    control *c = self;
    openai_free(r);
    (void)pthread_mutex_lock(&c->lock);
    if (route == ROUTES_HEALTH || route == ROUTES_READY) {
        answer_health(c, route, x);
    } else if (route == ROUTES_METRICS) {
        answer_metrics(c, x);
    } else {
        controlpage_answer(c->scale, "this controller was not started with --autoscale", route, x);
    }
    (void)pthread_mutex_unlock(&c->lock);
    exchange_release(x);
}

/* Of the paths that gateways have, those that make sense without a model. */
static void serve_path(void *self, exchange *x, int32_t route) {
    const control *c = self;
    bool plain = route == ROUTES_HEALTH || route == ROUTES_READY || route == ROUTES_METRICS ||
                 route == ROUTES_DASHBOARD || route == ROUTES_VERSION ||
                 (route >= ROUTES_CONTROLLER && route <= ROUTES_CONTROLLER_SCALE);
    if (plain) {
        c->served.request(c->served.self, x, route);
        return;
    }
    diag d;
    (void)status_fail(&d, STATUS_NOTFOUND, "the controller serves no model: ask a gateway");
    (void)routes_refuse(x, 404, &d, 0);
    exchange_release(x);
}

static void admit_head(void *self, const http_head *head, http_verdict *verdict) {
    const control *c = self;
    c->served.admit(c->served.self, head, verdict);
}

static void on_gone(void *self, exchange *x) {
    (void)self; /* every answer is given at once */
    (void)x;
}

static status open_http(control *c, diag *d) {
    routes_options ro = {.limits = &c->limits,
                         .keys = c->options.keys,
                         .metrics_open = c->options.metrics_open,
                         .version = c->options.version,
                         .started_s = clock_wall_us() / 1000000,
                         .self = c,
                         .request = on_request,
                         .gone = on_gone};
    TRY(routes_open(&ro, &c->routes, d));
    c->served = routes_handlers(c->routes);
    http_handlers handlers = {c, admit_head, serve_path, on_gone};
    http_options ho = {.host = c->options.http_host, .port = c->options.http_port};
    return http_open(&ho, &handlers, &c->http, d);
}

uint16_t control_http_port(const control *c) {
    return c->http ? http_port(c->http) : 0;
}

/* ---- set-up --------------------------------------------------------------------------------- */

status control_create(hub *h, control **out, diag *d) {
    control *c = mem_calloc(1, sizeof *c);
    if (!c) {
        return status_fail(d, STATUS_NOMEM, "no memory for the controller");
    }
    c->hub = h;
    (void)pthread_mutex_init(&c->lock, NULL);
    *out = c;
    return STATUS_OK;
}

status control_open(control *c, const control_options *options, driver *workers, diag *d) {
    c->options = *options;
    autoscale_options ao = {.scaler = options->scaler,
                            .driver = workers,
                            .lease = options->lease,
                            .settle_us = options->lease ? TAKEN_US : NEW_US};
    if (options->autoscale) {
        status s = autoscale_open(&ao, &c->scale, d);
        if (s != STATUS_OK) {
            driver_close(workers);
            lease_close(options->lease);
            return s;
        }
    }
    if (register_series(c) != STATUS_OK) {
        return status_fail(d, STATUS_NOMEM, "no memory for the controller's metrics");
    }
    return options->http_host ? open_http(c, d) : STATUS_OK;
}

void control_close(control *c) {
    if (c) {
        if (c->http) {
            http_close(c->http);
        }
        routes_close(c->routes);
        autoscale_close(c->scale);
        arena_close(&c->arena);
        (void)pthread_mutex_destroy(&c->lock);
        mem_free(c);
    }
}
