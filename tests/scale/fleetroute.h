/* fleetroute.h -- the production router and admission over the workers of a simulated fleet.
 *
 * Purpose    Chooses the workers of a prompt as a gateway would: by what workers told in their last
 *            heartbeat and what was sent to them since, and no more at once than keeps them busy.
 *            Prompts share nothing here (bench/routesim.c is about those that do).
 * Ownership  fleetroute_open takes what fleetroute_close gives back.
 * Threads    One.
 * Limits     LIMIT_WORKERS workers; prompts of FLEETROUTE_PROMPT_MAX tokens.
 */
#ifndef TESTS_SCALE_FLEETROUTE_H
#define TESTS_SCALE_FLEETROUTE_H

#include "server/gateway/admit.h"
#include "server/gateway/router.h"

enum { FLEETROUTE_PROMPT_MAX = 16384 };

typedef struct {
    arena memory;
    router *router;
    router_view views[LIMIT_WORKERS];
    admit admit;
    int32_t tokens[FLEETROUTE_PROMPT_MAX];
} fleetroute;

void fleetroute_open(fleetroute *f, uint64_t seed);
void fleetroute_close(fleetroute *f);

/* A heartbeat of worker `w`, which takes requests of `roles` (MESSAGE_ROLE_*, 0: it takes none). */
void fleetroute_told(fleetroute *f, uint32_t w, uint32_t roles, const message_heartbeat *h,
                     int64_t now_us);
void fleetroute_gone(fleetroute *f, uint32_t w);

/* The workers of a prompt, when there are some that should get more now; `number` names it. */
bool fleetroute_choose(fleetroute *f, uint64_t number, int32_t prompt, int32_t output,
                       int64_t now_us, uint32_t *prefill, uint32_t *decode);

/* It got its first token (`done`), or goes elsewhere. */
void fleetroute_over(fleetroute *f, int32_t prompt, bool done);

/* Call when something changed; `waiting`: prompts wait to be sent. */
void fleetroute_count(fleetroute *f, bool waiting, int64_t now_us);

#endif
