/* simfault.c -- what goes wrong, and when. */
#include "engine/base/check.h"
#include "tests/sim/sim.h"

typedef enum {
    CRASH,
    FREEZE,
    CUT_PAIR,
    CUT_GATEWAY,
    DAMAGE,
    DRAIN,
    SLOW,
    AMBUSH,
    KINDS,
    SPRUNG = KINDS /* an ambush; never planned */
} fault_kind;

/* What an ambush does to the worker that says the awaited message, or to what is around it. */
typedef enum {
    DIE,
    KILL_PEER,           /* the other worker that it last spoke with */
    DELAY_AND_KILL_PEER, /* and the gateway hears of that death before it hears the message */
    STOP,
    CUT,
    LEAVE, /* the client */
    FATES
} fate_kind;

static const char *const names[] = {"crash", "freeze", "cut pair", "cut gateway", "damage",
                                    "drain", "slow",   "ambush",   "sprung"};

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

static void crash(sim *s, uint32_t w) {
    simworker_kill(s, w, sim_chance(s, 70), 50000 + (int64_t)sim_below(s, 3000000));
}

static void arm(sim *s) {
    static const message_type types[] = {
        MESSAGE_GRANT,    MESSAGE_QUEUED,  MESSAGE_REFUSED,         MESSAGE_ANNOUNCE,
        MESSAGE_POSTED,   MESSAGE_HANDOFF, MESSAGE_ADOPTED,         MESSAGE_TOKENS,
        MESSAGE_ADOPTED,  MESSAGE_SCORES,  MESSAGE_ALREADY_ADOPTED, MESSAGE_PREEMPTED,
        MESSAGE_LINK_LOST};
    s->ambush.armed = true;
    s->ambush.type = types[sim_below(s, sizeof(types) / sizeof(types[0]))];
    s->ambush.fate = (uint32_t)sim_below(s, FATES);
}

void simfault_said(sim *s, uint32_t w, uint32_t slot, const message *m) {
    if (!s->ambush.armed || m->type != s->ambush.type) {
        return;
    }
    sim_worker *k = &s->workers[w];
    uint32_t peer = k->slots[slot].worker;
    for (uint32_t i = 0; peer >= s->workers_count && i < SIM_SLOTS; i++) {
        peer = k->slots[i].used ? k->slots[i].worker : peer;
    }
    s->ambush.armed = false;
    if (s->ambush.fate == DELAY_AND_KILL_PEER) {
        sim_end *gateway = &s->links[k->slots[0].link].ends[0];
        int64_t later = s->now_us + 50000;
        gateway->last_us = gateway->last_us > later ? gateway->last_us : later;
    }
    sim_event *e = simnet_at(s, s->now_us, SIM_FAULT, SIM_GATEWAY);
    e->index = SPRUNG;
    e->link = k->slots[slot].link;
    e->end = w;
    e->number = m->request;
    e->life = peer < s->workers_count ? peer : w;
}

static void spring(sim *s, const sim_event *e) {
    sim_trace(s, "the ambush at %s: fate %u, worker %u, peer %u", message_type_name(s->ambush.type),
              s->ambush.fate, e->end, e->life);
    switch ((fate_kind)s->ambush.fate) {
        case DIE:
            crash(s, e->end);
            break;
        case KILL_PEER:
        case DELAY_AND_KILL_PEER:
            crash(s, e->life);
            break;
        case STOP:
            freeze(s, e->end);
            break;
        case CUT:
            simnet_cut(s, e->link);
            break;
        case LEAVE:
            for (uint32_t i = 0; i < s->requests_count; i++) {
                if (s->requests[i].id == e->number && s->requests[i].state == SIM_OPENED) {
                    simnet_at(s, s->now_us, SIM_LEAVE, SIM_GATEWAY)->index = i;
                }
            }
            break;
        case FATES:
            UNREACHABLE();
    }
}

static void everything_slow(sim *s) {
    for (uint32_t i = 0; i < s->links_count; i++) {
        s->links[i].delay_us = 1 + (int64_t)sim_below(s, 100000);
    }
}

void simfault_do(sim *s, const sim_event *e) {
    CHECK_LE(e->index, SPRUNG);
    uint32_t w = (uint32_t)sim_below(s, s->workers_count);
    sim_trace(s, "fault: %s, worker %u", names[e->index], w);
    s->counts.faults++;
    switch ((fault_kind)e->index) {
        case CRASH:
            crash(s, w);
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
            everything_slow(s);
            break;
        case AMBUSH:
            arm(s);
            break;
        case SPRUNG:
            spring(s, e);
            break;
    }
}
