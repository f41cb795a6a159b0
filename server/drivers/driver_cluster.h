/* driver_cluster.h -- the driver of a cluster: over one that starts workers, or over none.
 *
 * Purpose    What a hub can do is done here for every driver: a worker's role is changed by a
 *            message, and the hub's say-so is what role it has. Workers that somebody else started
 *            (by hand, by systemd) are listed beside the inner driver's, may be flipped, and are
 *            drained by a message. Without an inner driver nothing can be started.
 * Ownership  driver_cluster_open takes over the inner driver; driver_close closes it.
 * Threads    The controller's.
 * Limits     LIMIT_WORKERS workers in all. A worker with both roles at once belongs to no pool and
 *            is not listed.
 */
#ifndef SERVER_DRIVERS_DRIVER_CLUSTER_H
#define SERVER_DRIVERS_DRIVER_CLUSTER_H

#include "engine/core/message.h"
#include "server/drivers/driver.h"

/* What drivers ask of the hub. */
typedef struct {
    void *self;
    bool (*tell)(void *self, uint32_t worker, const message *m); /* false: it is not there */
    uint32_t (*roles)(void *self, uint32_t worker); /* MESSAGE_ROLE_* bits; 0: it is not there */
    uint32_t (*pid)(void *self, uint32_t worker);   /* on its host */
    /* The number of the worker at that address, whatever its port; DRIVER_NO_WORKER: there is
     * none. */
    uint32_t (*find)(void *self, const char *host);
} driver_cluster_hub;

enum {
    DRIVER_CLUSTER_OTHERS = 1000, /* ids of workers that are not the inner driver's */
    DRIVER_CLUSTER_FLIP_US = 30000000
};

/* `inner` NULL: none. */
MUST_USE status driver_cluster_open(const driver_cluster_hub *hub, driver *inner, driver **out,
                                    diag *d);

#endif
