/* control.h -- the controller as a process: hub, driver, scaler and an HTTP port in one place.
 *
 * Purpose    Each second what the hub has heard goes to the scaler, and its actions to the driver.
 *            Operators ask and order over HTTP at any time.
 * Ownership  control_open takes over the driver and the lease, in every case; the rest of the
 *            options is borrowed until control_close.
 * Threads    control_turn: one thread. HTTP requests are answered on HTTP threads, under a lock.
 * Limits     Those of hub.h and autoscale.h.
 */
#ifndef SERVER_CONTROL_CONTROL_H
#define SERVER_CONTROL_CONTROL_H

#include "server/control/autoscale.h"
#include "server/control/hub.h"
#include "server/drivers/driver_cluster.h"
#include "server/http/apikeys.h"

typedef struct control control;

typedef struct {
    bool autoscale; /* false: only the hub, and /metrics */
    scaler_options scaler;
    lease *lease;          /* NULL: nobody else can act */
    const char *http_host; /* NULL: no HTTP */
    uint16_t http_port;
    const apikeys *keys; /* NULL: none */
    bool metrics_open;
    const char *version;
} control_options;

/* What drivers ask of the hub, by way of what control_turn saw last. The control may be opened
 * after the driver; it must not be used before. */
driver_cluster_hub control_hub(control *c);

/* Two steps, as the driver wants the first and the second wants the driver. `h` is borrowed. */
MUST_USE status control_create(hub *h, control **out, diag *d);
MUST_USE status control_open(control *c, const control_options *options, driver *workers, diag *d);
void control_close(control *c);

void control_turn(control *c, int64_t now_us);

/* 0 without HTTP. */
uint16_t control_http_port(const control *c);

#endif
