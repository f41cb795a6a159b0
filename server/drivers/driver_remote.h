/* driver_remote.h -- the half of a driver that all clusters share: wishes here, a service's API
 * there, and a thread between them.
 *
 * Purpose    The controller's calls only write down wishes; a thread compares them with what the
 *            cluster has, in rounds, and does what is missing. A service that does not answer is
 *            not news about its workers: they stay listed as they were, and nothing is given up.
 *            Workers of an earlier controller are taken on in the first round, before which nothing
 *            can be started.
 * Ownership  driver_remote_open takes over the context; driver_close ends the thread and closes it.
 *            Workers are left as they are: they live on without a controller.
 * Threads    The driver's functions: the controller's thread. `sync`: the thread of this driver.
 * Limits     LIMIT_WORKERS workers.
 */
#ifndef SERVER_DRIVERS_DRIVER_REMOTE_H
#define SERVER_DRIVERS_DRIVER_REMOTE_H

#include "server/drivers/driver.h"

enum {
    DRIVER_REMOTE_NAME_BYTES = 64,
    DRIVER_REMOTE_HOST_BYTES = 46,
    DRIVER_REMOTE_ROUND_US = 500000
};

/* One wish, and how far it is. `sync` writes what is below the line. */
typedef struct {
    bool used;
    uint32_t id; /* also the number that the worker asks the hub for */
    scaler_pool pool;
    bool stop; /* it should end, after `drain_us` at the latest */
    int64_t drain_us;
    /* --- */
    char name[DRIVER_REMOTE_NAME_BYTES]; /* what the cluster calls it; "": not asked for yet */
    scaler_phase phase;
    bool gone;                    /* it has ended for good: the slot is free */
    bool adopted;                 /* found there without a wish: of a controller before this one */
    int64_t retry_us, backoff_us; /* not to be asked for before then */
    char avoid[DRIVER_REMOTE_NAME_BYTES]; /* a node where it was lost, until avoid_us; "": none */
    int64_t avoid_us;
    /* Where the cluster has pools of its own: the one that it belongs to, whatever its role. */
    scaler_pool home;
    bool placed;
    char host[DRIVER_REMOTE_HOST_BYTES]; /* its address; "": none yet */
} driver_remote_slot;

typedef struct {
    const char *name;
    /* One round, which may block for as long as the service takes. `capacity`: workers that would
     * find room now. False: the service told nothing, `why` says why. */
    bool (*sync)(void *context, driver_remote_slot slots[LIMIT_WORKERS], uint64_t token,
                 uint32_t *capacity, int64_t now_us, diag *why);
    void (*close)(void *context);
    /* Workers are started with --flips, and one that is lost is asked for again in the pool it had
     * last. False: a worker stays in its pool. */
    bool flips;
    /* The rest may be NULL, and is called by the controller's thread. */
    /* A worker's number at the hub, where it is not the one it was given here. */
    uint32_t (*number)(void *context, const driver_remote_slot *slot);
    /* Whether workers of this pool may be started and stopped now; else why not. */
    bool (*admits)(void *context, scaler_pool pool, diag *why);
} driver_remote_table;

/* Numbers of workers are taken from [first, LIMIT_WORKERS). The context is the driver's either way.
 */
MUST_USE status driver_remote_open(const driver_remote_table *table, void *context, uint32_t first,
                                   driver **out, diag *d);

#endif
