/* controlpage.h -- /controller/... over HTTP: the state, and an operator's orders.
 *
 * Purpose    One answer for `weir serve --autoscale` and for `weir controller`.
 * Ownership  The exchange stays the caller's.
 * Threads    Those of autoscale.h.
 * Limits     Those of autoscale.h.
 */
#ifndef SERVER_CONTROL_CONTROLPAGE_H
#define SERVER_CONTROL_CONTROLPAGE_H

#include "server/api/routes.h"
#include "server/control/autoscale.h"

/* `route` is ROUTES_CONTROLLER or one of its orders. `a` NULL: there is no autoscaling, as
 * `without` says. */
void controlpage_answer(autoscale *a, const char *without, routes_route route, exchange *x);

#endif
