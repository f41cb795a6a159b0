/* autoscale.h -- the controller's turn: what is seen goes to the scaler, what it says to a driver.
 *
 * Purpose    Joins the scaler (pure), a driver and the lease; answers an operator: the state as
 *            JSON, and orders (drain, flip, scale), which are pending like the scaler's own
 *            decisions.
 * Ownership  autoscale_open takes over the driver and the lease; autoscale_close closes them.
 * Threads    One.
 * Limits     LIMIT_WORKERS workers.
 * State      server/control/README.md documents the JSON of /controller/state.
 */
#ifndef SERVER_CONTROL_AUTOSCALE_H
#define SERVER_CONTROL_AUTOSCALE_H

#include "engine/base/str.h"
#include "engine/core/message.h"
#include "server/control/lease.h"
#include "server/drivers/driver.h"

typedef struct autoscale autoscale;

enum { AUTOSCALE_TURN_US = 1000000, AUTOSCALE_LATENCIES = 256 };

typedef struct {
    scaler_options scaler;
    driver *driver;
    lease *lease;      /* NULL: nobody else can act */
    int64_t settle_us; /* it acts this long after it leads: what runs is found first */
} autoscale_options;

/* What the caller knows besides. */
typedef struct {
    struct {
        bool joined;
        message_heartbeat beat;
    } workers[LIMIT_WORKERS]; /* by their number in the cluster */
    scaler_counters counters;
    uint32_t held; /* requests that no worker has yet */
} autoscale_seen;

MUST_USE status autoscale_open(const autoscale_options *options, autoscale **out, diag *d);
void autoscale_close(autoscale *a);

/* One turn, about every AUTOSCALE_TURN_US. */
void autoscale_turn(autoscale *a, const autoscale_seen *seen, int64_t now_us);

/* This controller acts; another is known to; at most one of the two. */
bool autoscale_leads(const autoscale *a);
bool autoscale_others(const autoscale *a);

uint64_t autoscale_token(const autoscale *a);

/* Actions of this kind that were carried out. */
uint64_t autoscale_decided(const autoscale *a, scaler_kind kind);

const scaler_state *autoscale_pool(const autoscale *a, scaler_pool pool);

/* A request has ended; for the percentiles of the state. tpot_us 0: it had one token. */
void autoscale_latency(autoscale *a, int64_t ttft_us, int64_t tpot_us);

/* Appends the state as one JSON object. */
void autoscale_state(const autoscale *a, int64_t now_us, strbuf *out);

typedef enum { AUTOSCALE_DRAIN, AUTOSCALE_FLIP, AUTOSCALE_SCALE } autoscale_order_kind;

/* An operator's order: a JSON body with "worker", with "worker" and "role", or with "role" and
 * "workers" (or "min" and "max"). `d` says why it was refused: STATUS_INVALID, STATUS_NOTFOUND, or
 * STATUS_LIMIT when that pool has something pending. */
MUST_USE status autoscale_order(autoscale *a, autoscale_order_kind kind, str body, int64_t now_us,
                                diag *d);

#endif
