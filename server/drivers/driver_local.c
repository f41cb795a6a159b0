/* driver_local.c -- children parked and unparked. */
#define _GNU_SOURCE
#include "server/drivers/driver_local.h"

#include "engine/base/check.h"
#include "engine/base/clock.h"
#include "engine/base/mem.h"

typedef struct {
    driver base;
    driver_local_options options;
    scaler_pool pools[LIMIT_WORKERS]; /* the role that was asked for last */
    bool stopping[LIMIT_WORKERS];
} local;

static uint32_t bits_of(scaler_pool pool) {
    return pool == SCALER_PREFILL ? MESSAGE_ROLE_PREFILL : MESSAGE_ROLE_DECODE;
}

static bool parked(const local *l, uint32_t id) {
    return !supervisor_wanted(l->options.supervisor, id) &&
           supervisor_pid(l->options.supervisor, id) == 0;
}

static void set_pool(local *l, uint32_t id, scaler_pool pool) {
    l->pools[id] = pool;
    supervisor_set_role(l->options.supervisor, id, scaler_pool_name(pool));
}

static driver_result local_start(driver *d, uint64_t token, scaler_pool pool, uint32_t *id,
                                 diag *why) {
    local *l = (local *)d;
    (void)token;
    for (uint32_t i = 0; i < l->options.children; i++) {
        if (parked(l, i)) {
            set_pool(l, i, pool);
            l->stopping[i] = false;
            supervisor_want(l->options.supervisor, i, true);
            *id = i;
            return DRIVER_ASKED;
        }
    }
    (void)status_fail(why, STATUS_LIMIT, "all %u workers are in use", l->options.children);
    return DRIVER_REFUSED;
}

static bool known(const local *l, uint32_t id, diag *why) {
    if (id < l->options.children && !parked(l, id)) {
        return true;
    }
    (void)status_fail(why, STATUS_NOTFOUND, "there is no worker %u", id);
    return false;
}

static driver_result local_stop(driver *d, uint64_t token, uint32_t id, int64_t drain_us,
                                diag *why) {
    local *l = (local *)d;
    message m = {.type = MESSAGE_DRAIN};
    (void)token;
    if (!known(l, id, why)) {
        return DRIVER_REFUSED;
    }
    bool told = drain_us > 0 && l->options.roles(l->options.self, id) &&
                l->options.tell(l->options.self, id, &m);
    supervisor_want(l->options.supervisor, id, false);
    supervisor_kill(l->options.supervisor, id, told ? clock_now_us() + drain_us : 0);
    l->stopping[id] = true;
    return DRIVER_ASKED;
}

static driver_result local_flip(driver *d, uint64_t token, uint32_t id, scaler_pool pool,
                                diag *why) {
    local *l = (local *)d;
    message m = {.type = MESSAGE_ROLE, .role = {bits_of(pool), token}};
    if (!known(l, id, why)) {
        return DRIVER_REFUSED;
    }
    if (l->stopping[id] || !l->options.roles(l->options.self, id) ||
        !l->options.tell(l->options.self, id, &m)) {
        (void)status_fail(why, STATUS_INVALID, "worker %u has not joined, or is leaving", id);
        return DRIVER_REFUSED;
    }
    set_pool(l, id, pool);
    return DRIVER_ASKED;
}

static uint32_t local_list(driver *d, driver_worker out[LIMIT_WORKERS]) {
    local *l = (local *)d;
    uint32_t count = 0;
    for (uint32_t i = 0; i < l->options.children; i++) {
        if (parked(l, i)) {
            continue;
        }
        uint32_t roles = l->options.roles(l->options.self, i);
        scaler_phase phase = l->stopping[i]                  ? SCALER_STOPPING
                             : roles == 0                    ? SCALER_STARTING
                             : roles != bits_of(l->pools[i]) ? SCALER_FLIPPING
                                                             : SCALER_SERVING;
        out[count++] = (driver_worker){i, i, l->pools[i], phase, true};
    }
    return count;
}

static uint32_t local_capacity(driver *d) {
    const local *l = (const local *)d;
    uint32_t count = 0;
    for (uint32_t i = 0; i < l->options.children; i++) {
        count += parked(l, i);
    }
    return count;
}

static void local_close(driver *d) {
    mem_free(d);
}

static const driver_table table = {
    .name = "local",
    .start = local_start,
    .stop = local_stop,
    .flip = local_flip,
    .list = local_list,
    .capacity = local_capacity,
    .close = local_close,
};

status driver_local_open(const driver_local_options *options, driver **out, diag *d) {
    local *l = mem_calloc(1, sizeof *l);
    if (!l) {
        return status_fail(d, STATUS_NOMEM, "no memory for the local driver");
    }
    CHECK_LE(options->children, LIMIT_WORKERS);
    l->base.table = &table;
    l->options = *options;
    for (uint32_t i = 0; i < options->children; i++) {
        uint32_t prefill = options->first[SCALER_PREFILL];
        set_pool(l, i, i < prefill ? SCALER_PREFILL : SCALER_DECODE);
        supervisor_want(options->supervisor, i, i < prefill + options->first[SCALER_DECODE]);
    }
    *out = &l->base;
    return STATUS_OK;
}
