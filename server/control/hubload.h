/* hubload.h -- what the gateways of a cluster have to do, together (pure).
 *
 * Purpose    Each gateway tells sums since it began. What they grew by since it told last is added
 *            to the cluster's: so rates add, and a gateway that comes, goes or begins anew is no
 *            load. Growth over a silence is left out: as the load of one moment it would be a
 *            flood that never was.
 * Ownership  A plain value.
 * Threads    The owner's.
 * Limits     LIMIT_GATEWAYS gateways; the latest HUBLOAD_LATENCIES requests.
 */
#ifndef SERVER_CONTROL_HUBLOAD_H
#define SERVER_CONTROL_HUBLOAD_H

#include "engine/base/limits.h"
#include "engine/core/message.h"
#include "server/control/scaler_demand.h"

enum { HUBLOAD_LATENCIES = 256, HUBLOAD_SILENCE_US = 3000000 };

typedef struct {
    struct {
        uint64_t epoch; /* 0: free */
        bool here;
        int64_t told_us;
        message_load last; /* without latencies */
    } gateways[LIMIT_GATEWAYS];
    scaler_counters sums;
    message_latency latencies[HUBLOAD_LATENCIES]; /* a ring */
    uint64_t latencies_count;                     /* ever */
} hubload;

void hubload_told(hubload *l, uint64_t epoch, const message_load *m, int64_t now_us);
void hubload_left(hubload *l, uint64_t epoch);

/* Requests that no worker has yet, at the gateways that are here. */
uint64_t hubload_held(const hubload *l);

#endif
