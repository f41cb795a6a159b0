/* driver_spawn.h -- workers of this machine that outlive the controller.
 *
 * Purpose    Start spawns `weir worker --worker N --role R --flips ...` in a session of its own; it
 *            joins the cluster as any other does. Stop drains it by a message through the hub, and
 *            kills it when that takes too long. A controller that starts anew takes up the workers
 *            of the one before: those of this same program that were started for the same hubs, at
 *            once, and others by their numbers and process ids when they are at the hub. One that
 *            dies is not started again: the pool is one short, and the controller sees to that.
 * Shares     Each worker is given what nobody else holds (shares.h) until its process has ended:
 *            cores, by the affinity that it inherits, and a part of a GPU, by --device,
 *            --memory-fraction and, where MPS divides GPUs, CUDA_MPS_ACTIVE_THREAD_PERCENTAGE.
 * Ownership  driver_close leaves the workers as they are.
 * Threads    The controller's.
 * Limits     Numbers 0 to `workers` - 1.
 */
#ifndef SERVER_DRIVERS_DRIVER_SPAWN_H
#define SERVER_DRIVERS_DRIVER_SPAWN_H

#include "server/drivers/driver_cluster.h"
#include "server/drivers/shares.h"

enum { DRIVER_SPAWN_ARGS_MAX = 64 };

typedef struct {
    driver_cluster_hub hub;
    const char *join;        /* the hubs, for --join */
    const char *const *args; /* [args_count] of each worker, after those */
    uint32_t args_count;
    uint32_t workers;
    shares shares;
} driver_spawn_options;

/* What the options point at is the caller's for the driver's life. */
MUST_USE status driver_spawn_open(const driver_spawn_options *options, driver **out, diag *d);

#endif
