/* driver_cluster.c -- the inner driver's list and the hub's, as one. */
#include "server/drivers/driver_cluster.h"

#include "engine/base/clock.h"
#include "engine/base/mem.h"

typedef struct {
    driver base;
    driver_table table; /* with the inner driver's name */
    driver_cluster_hub hub;
    driver *inner; /* NULL: none */
    struct {
        bool asked; /* `pool`, until `by_us` */
        scaler_pool pool;
        int64_t by_us;
    } flips[LIMIT_WORKERS]; /* by number */
    bool drained[LIMIT_WORKERS];
    driver_worker list[LIMIT_WORKERS]; /* [count] as it was told last */
    uint32_t count;
} cluster;

enum { BOTH = MESSAGE_ROLE_PREFILL | MESSAGE_ROLE_DECODE };

static uint32_t bits_of(scaler_pool pool) {
    return pool == SCALER_PREFILL ? MESSAGE_ROLE_PREFILL : MESSAGE_ROLE_DECODE;
}

static uint32_t roles_of(const cluster *c, uint32_t worker) {
    return worker < LIMIT_WORKERS ? c->hub.roles(c->hub.self, worker) : 0;
}

/* One that has joined is what it says it is. */
static void follow_hub(cluster *c, driver_worker *w) {
    uint32_t roles = roles_of(c, w->worker), role = roles & BOTH;
    w->flips = w->flips && roles & MESSAGE_ROLE_FLIPS;
    if (!role || role == BOTH) {
        return;
    }
    scaler_pool now = role == MESSAGE_ROLE_PREFILL ? SCALER_PREFILL : SCALER_DECODE;
    bool *asked = &c->flips[w->worker].asked;
    *asked =
        *asked && now != c->flips[w->worker].pool && clock_now_us() < c->flips[w->worker].by_us;
    if (*asked && w->phase == SCALER_SERVING) {
        w->pool = c->flips[w->worker].pool;
        w->phase = SCALER_FLIPPING;
        return;
    }
    if (w->pool != now && c->inner && w->id < DRIVER_CLUSTER_OTHERS) {
        diag why; /* flipped under a controller before this one: its next life is to be the same */
        (void)c->inner->table->flip(c->inner, c->base.token, w->id, now, &why);
    }
    w->pool = now;
}

static uint32_t cluster_list(driver *d, driver_worker out[LIMIT_WORKERS]) {
    cluster *c = (cluster *)d;
    bool known[LIMIT_WORKERS] = {false};
    uint32_t count = c->inner ? driver_list(c->inner, out) : 0;
    for (uint32_t i = 0; i < count; i++) {
        if (out[i].worker < LIMIT_WORKERS) {
            known[out[i].worker] = true;
        }
        follow_hub(c, &out[i]);
    }
    for (uint32_t n = 0; n < LIMIT_WORKERS; n++) {
        uint32_t role = roles_of(c, n) & BOTH;
        if (role == 0) {
            c->drained[n] = c->flips[n].asked = false;
        }
        if (known[n] || role == 0 || role == BOTH || count == LIMIT_WORKERS) {
            continue;
        }
        out[count] = (driver_worker){.id = DRIVER_CLUSTER_OTHERS + n,
                                     .worker = n,
                                     .phase = c->drained[n] ? SCALER_STOPPING : SCALER_SERVING,
                                     .flips = true};
        follow_hub(c, &out[count++]);
    }
    c->count = count;
    for (uint32_t i = 0; i < count; i++) {
        c->list[i] = out[i];
    }
    return count;
}

static const driver_worker *find(const cluster *c, uint32_t id, diag *why) {
    for (uint32_t i = 0; i < c->count; i++) {
        if (c->list[i].id == id) {
            return &c->list[i];
        }
    }
    (void)status_fail(why, STATUS_NOTFOUND, "there is no worker %u", id);
    return NULL;
}

static driver_result cluster_start(driver *d, uint64_t token, scaler_pool pool, uint32_t *id,
                                   diag *why) {
    cluster *c = (cluster *)d;
    if (!c->inner) {
        (void)status_fail(why, STATUS_UNSUPPORTED, "workers are not started from here (--driver)");
        return DRIVER_REFUSED;
    }
    return driver_start(c->inner, token, pool, id, why);
}

static driver_result cluster_stop(driver *d, uint64_t token, uint32_t id, int64_t drain_us,
                                  diag *why) {
    cluster *c = (cluster *)d;
    if (c->inner && id < DRIVER_CLUSTER_OTHERS) {
        return driver_stop(c->inner, token, id, drain_us, why);
    }
    const driver_worker *w = find(c, id, why);
    if (!w) {
        return DRIVER_REFUSED;
    }
    message m = {.type = MESSAGE_DRAIN, .drain = {token, drain_us > 0 ? 0 : 1}};
    if (!c->hub.tell(c->hub.self, w->worker, &m)) {
        (void)status_fail(why, STATUS_INVALID, "worker %u is not at the hub", w->worker);
        return DRIVER_REFUSED;
    }
    c->drained[w->worker] = true;
    return DRIVER_ASKED;
}

static driver_result cluster_flip(driver *d, uint64_t token, uint32_t id, scaler_pool pool,
                                  diag *why) {
    cluster *c = (cluster *)d;
    const driver_worker *w = find(c, id, why);
    message m = {.type = MESSAGE_ROLE, .role = {bits_of(pool), token}};
    if (!w) {
        return DRIVER_REFUSED;
    }
    if (!w->flips || w->phase != SCALER_SERVING) {
        (void)status_fail(why, STATUS_INVALID, "worker %u cannot change its role now", id);
        return DRIVER_REFUSED;
    }
    if (c->inner && id < DRIVER_CLUSTER_OTHERS &&
        driver_flip(c->inner, token, id, pool, why) != DRIVER_ASKED) {
        return DRIVER_REFUSED;
    }
    if (!c->hub.tell(c->hub.self, w->worker, &m)) {
        (void)status_fail(why, STATUS_INVALID, "worker %u is not at the hub", w->worker);
        return DRIVER_REFUSED;
    }
    c->flips[w->worker].asked = true;
    c->flips[w->worker].pool = pool;
    c->flips[w->worker].by_us = clock_now_us() + DRIVER_CLUSTER_FLIP_US;
    return DRIVER_ASKED;
}

static uint32_t cluster_capacity(driver *d) {
    cluster *c = (cluster *)d;
    return c->inner ? driver_capacity(c->inner) : 0;
}

static void cluster_turn(driver *d, int64_t now_us) {
    cluster *c = (cluster *)d;
    if (c->inner) {
        driver_turn(c->inner, now_us);
    }
}

static void cluster_close(driver *d) {
    cluster *c = (cluster *)d;
    driver_close(c->inner);
    mem_free(c);
}

status driver_cluster_open(const driver_cluster_hub *hub, driver *inner, driver **out, diag *d) {
    cluster *c = mem_calloc(1, sizeof *c);
    if (!c) {
        driver_close(inner);
        return status_fail(d, STATUS_NOMEM, "no memory for the cluster's driver");
    }
    c->table = (driver_table){.name = inner ? inner->table->name : "none",
                              .start = cluster_start,
                              .stop = cluster_stop,
                              .flip = cluster_flip,
                              .list = cluster_list,
                              .capacity = cluster_capacity,
                              .turn = cluster_turn,
                              .close = cluster_close};
    c->base.table = &c->table;
    c->hub = *hub;
    c->inner = inner;
    *out = &c->base;
    return STATUS_OK;
}
