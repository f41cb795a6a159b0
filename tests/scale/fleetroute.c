/* fleetroute.c -- views, admission and choice as in server/gateway/desk.c and gateway.c. */
#include "tests/scale/fleetroute.h"

#include "engine/base/check.h"
#include "engine/base/limits.h"

void fleetroute_open(fleetroute *f, uint64_t seed) {
    router_options o = {.workers_max = LIMIT_WORKERS,
                        .pages_max = 1 << 10,
                        .expected_max = 1 << 10,
                        .page_tokens = LIMIT_PAGE_TOKENS,
                        .transfer_page_us = 20,
                        .policy = ROUTER_COST,
                        .seed = seed};
    CHECK_EQ(arena_open(&f->memory, router_bytes(&o) + (1 << 16)), STATUS_OK);
    CHECK_EQ(router_create(&f->memory, &o, &f->router), STATUS_OK);
}

void fleetroute_close(fleetroute *f) {
    arena_close(&f->memory);
}

void fleetroute_told(fleetroute *f, uint32_t w, uint32_t roles, const message_heartbeat *h,
                     int64_t now_us) {
    router_view *v = &f->views[w];
    v->up = true;
    v->draining = roles == 0;
    v->roles = roles;
    v->context_tokens = UINT32_MAX / 2;
    v->pages_total = h->pages_total;
    routecost_told(v, h, now_us);
}

void fleetroute_gone(fleetroute *f, uint32_t w) {
    f->views[w] = (router_view){0};
}

static admit_fleet prefill_fleet(const fleetroute *f) {
    admit_fleet fleet = {0};
    for (uint32_t i = 0; i < LIMIT_WORKERS; i++) {
        const router_view *v = &f->views[i];
        if (v->up && !v->draining && (v->roles & MESSAGE_ROLE_PREFILL)) {
            fleet.workers++;
            fleet.told_rate += v->tokens_per_second;
        }
    }
    return fleet;
}

bool fleetroute_choose(fleetroute *f, uint64_t number, int32_t prompt, int32_t output,
                       int64_t now_us, uint32_t *prefill, uint32_t *decode) {
    admit_fleet fleet = prefill_fleet(f);
    CHECK(prompt <= FLEETROUTE_PROMPT_MAX);
    f->tokens[0] = (int32_t)(number & INT32_MAX);
    f->tokens[1] = (int32_t)(number >> 31 & INT32_MAX);
    router_request q = {.prompt = f->tokens,
                        .prompt_count = prompt,
                        .max_tokens = output,
                        .choices = 1,
                        .prefill_last = MESSAGE_NO_WORKER,
                        .decode_avoid = MESSAGE_NO_WORKER,
                        .now_us = now_us};
    router_choice c;
    if (fleet.workers == 0 || !admit_room(&f->admit, &fleet, (uint64_t)prompt) ||
        router_choose(f->router, f->views, LIMIT_WORKERS, &q, &c) != ROUTER_CHOSEN) {
        return false;
    }
    CHECK_EQ(c.path, ROUTER_PATH_PAIR);
    router_charge(f->views, &c, &q, LIMIT_PAGE_TOKENS);
    admit_sent(&f->admit, (uint64_t)prompt);
    *prefill = c.prefill;
    *decode = c.decode;
    return true;
}

void fleetroute_over(fleetroute *f, int32_t prompt, bool done) {
    admit_over(&f->admit, (uint64_t)prompt, done);
}

void fleetroute_count(fleetroute *f, bool waiting, int64_t now_us) {
    admit_fleet fleet = prefill_fleet(f);
    admit_count(&f->admit, &fleet, waiting, now_us);
}
