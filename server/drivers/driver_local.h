/* driver_local.h -- the driver of this machine: worker processes under the supervisor.
 *
 * Purpose    A fixed number of children, each running or parked. Start unparks one in the role that
 *            is asked for; stop drains it (a message on its link), and kills it when that takes too
 *            long; flip is a message. What dies without being told to is the supervisor's to
 *            restart, in the role it had last. Cores are shared by engine/base/cores.h; flags of
 *            fractional GPUs are in the children's arguments.
 * Ownership  driver_local_open takes what driver_close gives back; the supervisor is the caller's.
 * Threads    The supervisor's.
 * Limits     LIMIT_WORKERS children; a child's number is its worker's, and its id here.
 */
#ifndef SERVER_DRIVERS_DRIVER_LOCAL_H
#define SERVER_DRIVERS_DRIVER_LOCAL_H

#include "engine/core/message.h"
#include "server/drivers/driver.h"
#include "server/drivers/supervisor.h"

typedef struct {
    supervisor *supervisor; /* its children 0 .. children - 1 were added with "{role}" */
    uint32_t children;
    uint32_t first[SCALER_POOLS]; /* that run from the beginning; the others are parked */
    void *self;
    bool (*tell)(void *self, uint32_t worker, const message *m);
    uint32_t (*roles)(void *self, uint32_t worker); /* that it says it has; 0: has not joined */
} driver_local_options;

MUST_USE status driver_local_open(const driver_local_options *options, driver **out, diag *d);

#endif
