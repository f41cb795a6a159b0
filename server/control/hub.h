/* hub.h -- membership: who is in the cluster, told to everybody in it.
 *
 * Purpose    Workers and gateways dial it, prove the cluster's key and register. It numbers the
 *            workers, refuses those that do not fit the others with a reason, and sends the roster
 *            to all at each change. It hears how loaded everybody is and passes on the controller's
 *            orders. No request passes through it, and nothing stops without it.
 * Ownership  hub_start takes what hub_stop gives back.
 * Threads    It runs on a thread of its own; hub_look and what follows it: any thread.
 * Limits     LIMIT_WORKERS workers, LIMIT_GATEWAYS gateways. A member silent for HUB_SILENCE_US is
 *            dropped.
 */
#ifndef SERVER_CONTROL_HUB_H
#define SERVER_CONTROL_HUB_H

#include "engine/base/hostport.h"
#include "engine/core/message.h"
#include "engine/net/clusterkey.h"
#include "server/control/hubload.h"

enum { HUB_SILENCE_US = 5000000, HUB_GRACE_US = 1000000 };

typedef struct hub hub;

typedef struct {
    hostport address;
    clusterkey key;
    uint32_t reserved; /* worker numbers below this are only for those that ask for them */
    bool closed;       /* at first: hub_set_open */
} hub_options;

MUST_USE status hub_start(const hub_options *options, hub **out, diag *d);
hostport hub_address(const hub *h);
void hub_stop(hub *h);

/* What is known of the cluster now. */
typedef struct {
    struct {
        bool joined;
        uint32_t roles, pid; /* of its HELLO */
        hostport address;
        message_heartbeat beat;
    } workers[LIMIT_WORKERS]; /* by number */
    uint32_t gateways;
    scaler_counters counters; /* of all gateways */
    uint64_t held;            /* requests that no worker has yet */
    message_latency latencies[HUBLOAD_LATENCIES];
    uint32_t latencies_count; /* since the last look */
} hub_view;

void hub_look(hub *h, hub_view *out);

/* Sends a ROLE or a DRAIN to a worker; false: there is none of that number. */
bool hub_tell(hub *h, uint32_t worker, const message *m);

/* Where several controllers share a cluster, the hub of the one that acts is open; the others hang
 * up on members, which go on to the next. */
void hub_set_open(hub *h, bool open);

/* Tells gateways to take requests although there are no workers: some will be started for them. */
void hub_set_holds(hub *h, bool holds);

#endif
