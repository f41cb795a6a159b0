/* simfault.c -- what goes wrong, and when. */
#include "engine/base/check.h"
#include "tests/sim/sim.h"

typedef enum { CRASH, FREEZE, CUT_PAIR, CUT_GATEWAY, DAMAGE, DRAIN, SLOW, KINDS } fault_kind;

static const char *const names[] = {"crash",  "freeze", "cut pair", "cut gateway",
                                    "damage", "drain",  "slow"};

void simfault_plan(sim *s) {
    s->fault_kinds = sim_chance(s, 15) ? 0 : (uint32_t)sim_below(s, 1u << KINDS);
    s->faults_end_us = 1000000 + (int64_t)sim_below(s, 9000000);
    uint64_t count = s->fault_kinds == 0 ? 0 : 1 + sim_below(s, sim_chance(s, 20) ? 60 : 12);
    for (uint64_t i = 0; i < count; i++) {
        uint32_t kind = (uint32_t)sim_below(s, KINDS);
        if ((s->fault_kinds >> kind & 1) != 0) {
            /* Half of them soon after a request came, when there is something to break. */
            const sim_request *r = &s->requests[sim_below(s, s->requests_count)];
            int64_t at = sim_chance(s, 50) ? (int64_t)sim_below(s, (uint64_t)s->faults_end_us)
                                           : r->open_us + (int64_t)sim_below(s, 300000);
            at = at < s->faults_end_us ? at : s->faults_end_us;
            simnet_at(s, at, SIM_FAULT, SIM_GATEWAY)->index = kind;
        }
    }
}

static void freeze(sim *s, uint32_t w) {
    sim_worker *k = &s->workers[w];
    if (!k->running || k->frozen) {
        return;
    }
    k->frozen = true;
    k->thaw_us = s->now_us + 10000 + (int64_t)sim_below(s, sim_chance(s, 50) ? 500000 : 9000000);
    simnet_at(s, k->thaw_us, SIM_THAW, w);
}

/* Any open link, between two workers or with the gateway. */
static void cut(sim *s, bool gateway) {
    uint32_t candidates[64];
    uint32_t count = 0;
    for (uint32_t i = 0; i < s->links_count && count < 64; i++) {
        const sim_link *l = &s->links[i];
        bool of_gateway = l->ends[0].node == SIM_GATEWAY;
        if (of_gateway == gateway && !l->ends[0].closed && !l->ends[1].closed) {
            candidates[count++] = i;
        }
    }
    if (count > 0) {
        simnet_cut(s, candidates[sim_below(s, count)]);
    }
}

void simfault_do(sim *s, uint32_t kind) {
    CHECK_LT(kind, KINDS);
    uint32_t w = (uint32_t)sim_below(s, s->workers_count);
    sim_trace(s, "fault: %s, worker %u", names[kind], w);
    s->counts.faults++;
    switch ((fault_kind)kind) {
        case CRASH:
            simworker_kill(s, w, sim_chance(s, 70), 50000 + (int64_t)sim_below(s, 3000000));
            break;
        case FREEZE:
            freeze(s, w);
            break;
        case CUT_PAIR:
            cut(s, false);
            break;
        case CUT_GATEWAY:
            cut(s, true);
            break;
        case DAMAGE:
            s->damage_next += 1 + (uint32_t)sim_below(s, 2);
            break;
        case DRAIN:
            simgate_drain(s, w);
            break;
        case SLOW:
            for (uint32_t i = 0; i < s->links_count; i++) {
                s->links[i].delay_us = 1 + (int64_t)sim_below(s, 100000);
            }
            break;
        case KINDS:
            UNREACHABLE();
    }
}
