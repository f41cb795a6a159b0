/* gatescale.h -- the controller inside `weir serve`: the gateway's side of autoscale.h.
 *
 * Purpose    Gives the controller the local driver over the gateway's supervisor and links, tells
 * it each second what the gateway knows of workers and of demand, and answers /controller/...
 * requests. Ownership  What gatescale_open makes is in gateway_state.scale, closed with it. Threads
 * The gateway's thread. Limits     Those of autoscale.h.
 */
#ifndef SERVER_GATEWAY_GATESCALE_H
#define SERVER_GATEWAY_GATESCALE_H

#include "server/gateway/desk.h"

/* Does nothing without gateway_options.scale. */
MUST_USE status gatescale_open(gateway_state *g);
void gatescale_turn(gateway_state *g, int64_t now_us);
void gatescale_answer(gateway_state *g, routes_route route, exchange *x);

#endif
