/* hub.h -- membership: who is in the cluster, told to everybody in it.
 *
 * Purpose    Workers and gateways dial it, prove the cluster's key and register. It numbers the
 *            workers, refuses those that do not fit the others with a reason, and sends the roster
 *            to all at each change. No request passes through it, and nothing stops without it.
 * Ownership  hub_start takes what hub_stop gives back.
 * Threads    It runs on a thread of its own, which shares nothing.
 * Limits     LIMIT_WORKERS workers, LIMIT_GATEWAYS gateways. A member silent for HUB_SILENCE_US is
 *            dropped.
 */
#ifndef SERVER_CONTROL_HUB_H
#define SERVER_CONTROL_HUB_H

#include "engine/base/hostport.h"
#include "engine/net/clusterkey.h"

enum { HUB_SILENCE_US = 5000000, HUB_GRACE_US = 1000000 };

typedef struct hub hub;

typedef struct {
    hostport address;
    clusterkey key;
    uint32_t reserved; /* worker numbers below this are only for those that ask for them */
} hub_options;

MUST_USE status hub_start(const hub_options *options, hub **out, diag *d);
hostport hub_address(const hub *h);
void hub_stop(hub *h);

#endif
