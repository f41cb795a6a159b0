/* gatescale.c -- heartbeats and counters to the controller, its orders to links and children. */
#include "server/gateway/gatescale.h"

#include <math.h>

#include "server/control/controlpage.h"
#include "server/drivers/driver_local.h"

enum { LEASE_US = 5000000 };

static bool tell(void *self, uint32_t worker, const message *m) {
    gateway_state *g = self;
    return g->pool.workers[worker].joined && pool_send(&g->pool, worker, m);
}

static uint32_t roles(void *self, uint32_t worker) {
    const gateway_state *g = self;
    const pool_worker *w = &g->pool.workers[worker];
    return w->joined ? w->hello.roles & (MESSAGE_ROLE_PREFILL | MESSAGE_ROLE_DECODE) : 0;
}

static uint64_t whole(double x) {
    return x < 0x1p63 ? (uint64_t)llround(x) : UINT64_C(1) << 63;
}

static uint32_t requests_held(const gateway_state *g) {
    return fair_count(g->line) + gate_pending_count(g->gate);
}

/* Of more requests than a LOAD holds, the latest. */
static void tell_load(void *self, message_load *out) {
    gateway_state *g = self;
    uint64_t fresh = g->latencies_count - g->latencies_told;
    uint32_t count = fresh < MESSAGE_LATENCIES_MAX ? (uint32_t)fresh : MESSAGE_LATENCIES_MAX;
    for (uint32_t i = 0; i < count; i++) {
        g->telling[i] = g->latencies[(g->latencies_count - count + i) % MESSAGE_LATENCIES_MAX];
    }
    g->latencies_told = g->latencies_count;
    *out = (message_load){.requests = whole(g->demand.requests),
                          .prompt_tokens = whole(g->demand.prompt_tokens),
                          .prompt_squares = whole(g->demand.prompt_squares),
                          .finished = whole(g->demand.finished),
                          .finished_tokens = whole(g->demand.finished_tokens),
                          .held = requests_held(g),
                          .latencies_count = count,
                          .latencies = g->telling};
}

static uint32_t bounded_us(int64_t us) {
    return us < 0 ? 0 : us < INT32_MAX ? (uint32_t)us : INT32_MAX;
}

void gatescale_latency(gateway_state *g, int64_t ttft_us, int64_t tpot_us) {
    message_latency *l = &g->latencies[g->latencies_count++ % MESSAGE_LATENCIES_MAX];
    *l = (message_latency){bounded_us(ttft_us), bounded_us(tpot_us)};
    if (g->scale) {
        autoscale_latency(g->scale, ttft_us, tpot_us);
    }
}

status gatescale_open(gateway_state *g) {
    const gateway_scale *set = g->options->scale;
    if (g->options->cluster) {
        cluster_tell(g->options->cluster, tell_load, g);
    }
    if (!set) {
        return STATUS_OK;
    }
    driver_local_options lo = {.supervisor = g->options->supervisor,
                               .children = g->options->local,
                               .first = {set->first[0], set->first[1]},
                               .self = g,
                               .tell = tell,
                               .roles = roles};
    autoscale_options ao = {.scaler = set->scaler};
    TRY(driver_local_open(&lo, &ao.driver, g->d));
    hash_key who;
    status s = hash_key_random(&who, g->d);
    if (s == STATUS_OK && set->lease_path) {
        s = lease_open(set->lease_path, who.k0 | 1, LEASE_US, &ao.lease, g->d);
    }
    if (s == STATUS_OK) {
        s = autoscale_open(&ao, &g->scale, g->d);
    }
    if (s != STATUS_OK) {
        driver_close(ao.driver);
        lease_close(ao.lease);
        return s;
    }
    uint32_t least = set->scaler.bounds[SCALER_DECODE].min;
    g->pool.holds = least == 0;
    return STATUS_OK;
}

void gatescale_turn(gateway_state *g, int64_t now_us) {
    if (!g->scale && g->options->cluster) {
        g->pool.holds = cluster_holds(g->options->cluster);
    }
    if (!g->scale || g->stop_by_us || now_us < g->scale_due_us) {
        return;
    }
    g->scale_due_us = now_us + AUTOSCALE_TURN_US;
    autoscale_seen seen = {.counters = g->demand};
    for (uint32_t i = 0; i < g->pool.count; i++) {
        seen.workers[i].joined = g->pool.workers[i].joined;
        seen.workers[i].beat = g->pool.workers[i].heartbeat;
    }
    seen.held = requests_held(g);
    autoscale_turn(g->scale, &seen, now_us);
}

void gatescale_answer(gateway_state *g, routes_route route, exchange *x) {
    controlpage_answer(g->scale, "this server was not started with --autoscale", route, x);
}
