/* driver.h -- whoever starts and ends workers: one table, a driver a file.
 *
 * Purpose    What the controller asks of local processes, a Ray cluster or Kubernetes. Nothing here
 *            blocks: start, stop and flip say that they have been asked for, and list shows, at
 *            every later turn, how far they are.
 * Ownership  A driver is its owner's until driver_close. Ids are the driver's own and name a worker
 *            from its start until list no longer has it.
 * Threads    One: the controller's.
 * Limits     LIMIT_WORKERS workers.
 * Fencing    Every action carries the token of the controller's lease (lease.h). A token older than
 *            one seen before is refused: a controller that was frozen and woke up changes nothing.
 *            A driver of something that outlives the controller passes the token on to it, and has
 *            it checked there.
 */
#ifndef SERVER_DRIVERS_DRIVER_H
#define SERVER_DRIVERS_DRIVER_H

#include "engine/base/status.h"
#include "server/control/scaler.h"

#define DRIVER_NO_WORKER UINT32_MAX

typedef struct {
    uint32_t id;
    uint32_t worker; /* its number in the cluster; DRIVER_NO_WORKER: not joined yet */
    scaler_pool pool;
    scaler_phase phase; /* FLIPPING only where the driver itself flips; else the roster tells */
    bool flips;
} driver_worker;

typedef enum {
    DRIVER_ASKED,  /* list will show it */
    DRIVER_REFUSED /* for the reason in the diag: no room, no such worker, a stale token, ... */
} driver_result;

typedef struct driver driver;

typedef struct {
    const char *name;
    driver_result (*start)(driver *d, uint64_t token, scaler_pool pool, uint32_t *id, diag *why);
    /* Takes no new requests, ends when it has none, or after drain_us (0: now). */
    driver_result (*stop)(driver *d, uint64_t token, uint32_t id, int64_t drain_us, diag *why);
    driver_result (*flip)(driver *d, uint64_t token, uint32_t id, scaler_pool pool, diag *why);
    uint32_t (*list)(driver *d, driver_worker out[LIMIT_WORKERS]); /* how many */
    uint32_t (*capacity)(driver *d); /* workers that could be started now, besides those listed */
    void (*turn)(driver *d, int64_t now_us); /* about once a second; NULL: nothing to do */
    void (*close)(driver *d);
} driver_table;

/* First in every driver's own struct. */
struct driver {
    const driver_table *table;
    uint64_t token; /* the newest seen */
};

/* Whether an action with this token may go on. */
static inline bool driver_admits(driver *d, uint64_t token, diag *why) {
    if (token < d->token) {
        (void)status_fail(why, STATUS_MISMATCH, "token %llu is stale: %llu is known",
                          (unsigned long long)token, (unsigned long long)d->token);
        return false;
    }
    d->token = token;
    return true;
}

static inline driver_result driver_start(driver *d, uint64_t token, scaler_pool pool, uint32_t *id,
                                         diag *why) {
    return driver_admits(d, token, why) ? d->table->start(d, token, pool, id, why) : DRIVER_REFUSED;
}

static inline driver_result driver_stop(driver *d, uint64_t token, uint32_t id, int64_t drain_us,
                                        diag *why) {
    return driver_admits(d, token, why) ? d->table->stop(d, token, id, drain_us, why)
                                        : DRIVER_REFUSED;
}

static inline driver_result driver_flip(driver *d, uint64_t token, uint32_t id, scaler_pool pool,
                                        diag *why) {
    return driver_admits(d, token, why) ? d->table->flip(d, token, id, pool, why) : DRIVER_REFUSED;
}

static inline uint32_t driver_list(driver *d, driver_worker out[LIMIT_WORKERS]) {
    return d->table->list(d, out);
}

static inline uint32_t driver_capacity(driver *d) {
    return d->table->capacity(d);
}

static inline void driver_turn(driver *d, int64_t now_us) {
    if (d->table->turn) {
        d->table->turn(d, now_us);
    }
}

static inline void driver_close(driver *d) {
    if (d) {
        d->table->close(d);
    }
}

#endif
