/* driver_ray.h -- workers on an existing Ray cluster.
 *
 * Purpose    Speaks to the agent that runs as a Ray job (server/deploy/ray/weir_ray_agent.py), and
 *            submits that job where it is missing. A worker that Ray lost is asked for again, and
 *            for a while not on the node where that happened.
 * Ownership  driver_close ends it; the agent and the workers stay.
 * Threads    As driver_remote.h.
 * Limits     LIMIT_WORKERS workers.
 */
#ifndef SERVER_DRIVERS_DRIVER_RAY_H
#define SERVER_DRIVERS_DRIVER_RAY_H

#include "server/drivers/driver_remote.h"

enum { DRIVER_RAY_ARGS_MAX = 48 };

/* How a worker of a pool is run. `args` follow `weir worker --role ROLE --worker N`. */
typedef struct {
    const char *const *args; /* [args_count] */
    uint32_t args_count;
    double cpus, gpus;  /* fractions of a GPU too */
    const char *labels; /* of nodes, "pool=decode,zone=a"; NULL: any node */
} driver_ray_pool;

/* Texts are borrowed for the driver's life. */
typedef struct {
    const char *agent_url;     /* "http://head:8790" */
    const char *agent_token;   /* at least 16 characters */
    const char *jobs_url;      /* "http://head:8265" of Ray's dashboard; NULL: the agent is there */
    const char *jobs_token;    /* NULL: none is asked for */
    const char *agent_program; /* path of the agent on the head node, for the job */
    const char *program;       /* path of weir on the nodes */
    const char *cluster_key;   /* given to workers in their environment; NULL: none */
    driver_ray_pool pools[SCALER_POOLS];
    uint32_t first; /* the lowest worker number to use */
} driver_ray_options;

MUST_USE status driver_ray_open(const driver_ray_options *options, driver **out, diag *d);

#endif
