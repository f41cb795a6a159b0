/* gatescale.h -- what a gateway tells whoever sizes the pools.
 *
 * Purpose    Inside `weir serve --autoscale` that is a controller of its own, with the local driver
 *            over the gateway's supervisor and links; /controller/... asks it. In a cluster the hub
 *            is told, for its controller.
 * Ownership  What gatescale_open makes is in gateway_state.scale, closed with it.
 * Threads    The gateway's thread.
 * Limits     Those of autoscale.h.
 */
#ifndef SERVER_GATEWAY_GATESCALE_H
#define SERVER_GATEWAY_GATESCALE_H

#include "server/gateway/desk.h"

MUST_USE status gatescale_open(gateway_state *g);

/* A request has ended; tpot_us 0: it had one token. */
void gatescale_latency(gateway_state *g, int64_t ttft_us, int64_t tpot_us);

void gatescale_turn(gateway_state *g, int64_t now_us);
void gatescale_answer(gateway_state *g, routes_route route, exchange *x);

#endif
