/* cluster.h -- the gateway's place in a cluster: it dials every worker of the roster.
 *
 * Purpose    Keeps the gateway's link to the hub, and asks for a link to each worker the roster
 *            names, dialling again with back-off as long as it is named.
 * Ownership  cluster_open takes what cluster_close gives back. A socket handed over is the
 *            caller's.
 * Threads    The gateway's thread.
 * Limits     LIMIT_WORKERS workers.
 */
#ifndef SERVER_GATEWAY_CLUSTER_H
#define SERVER_GATEWAY_CLUSTER_H

#include "engine/net/clusterkey.h"
#include "engine/net/member.h"

typedef struct cluster cluster;

typedef struct {
    member_hubs hubs;
    clusterkey key;
    uint64_t model_hash; /* of this gateway's model file */
    uint32_t local;      /* workers below this number are this process's children: not dialled */
} cluster_options;

typedef enum {
    CLUSTER_LINK,   /* an authenticated connection to `worker`: `fd` with `keys` */
    CLUSTER_STALE,  /* the link to `worker` is to another life than the roster names: drop it */
    CLUSTER_REFUSED /* the hub will not have this gateway, and never had: `why` */
} cluster_event_type;

typedef struct {
    cluster_event_type type;
    uint32_t worker;
    uint64_t epoch;
    int fd;
    seal_keys keys;
    diag why;
} cluster_event;

/* Fills in what this gateway tells the hub of its load, about once a second. */
typedef void cluster_load(void *self, message_load *out);

MUST_USE status cluster_open(const cluster_options *options, cluster **out, diag *d);
void cluster_close(cluster *c);

/* From now on `load` is told; before, only that this gateway is alive. */
void cluster_tell(cluster *c, cluster_load *load, void *self);

/* Requests are to be taken although there are no workers: the controller will start some. */
bool cluster_holds(const cluster *c);

/* Readable when cluster_next is worth a call; call it every MESH_TURN_US or so too. */
int cluster_fd(const cluster *c);

/* The next thing to do; false when there is none. `linked` [LIMIT_WORKERS] is the epoch of each
 * worker's link, 0: none. */
bool cluster_next(cluster *c, const uint64_t *linked, int64_t now_us, cluster_event *out);

#endif
