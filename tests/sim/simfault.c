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
    GATEWAY_CRASH,
    GATEWAY_FREEZE,
    LEAVE_AND_JOIN,
    STONE,
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
    GATEWAY_DIES,
    FATES
} fate_kind;

static const char *const names[] = {
    "crash",  "freeze",        "cut pair",       "cut gateway", "damage", "drain", "slow",
    "ambush", "gateway crash", "gateway freeze", "leave",       "stone",  "sprung"};

void simfault_plan(sim *s) {
    s->fault_kinds = sim_chance(s, 15) ? 0 : (uint32_t)sim_below(s, 1u << KINDS);
    s->faults_end_us = 1000000 + (int64_t)sim_below(s, 9000000);
    uint64_t count = s->fault_kinds == 0 ? 0 : 1 + sim_below(s, sim_chance(s, 20) ? 100 : 14);
    for (uint64_t i = 0; i < count; i++) {
        uint32_t kind = (uint32_t)sim_below(s, KINDS);
        if ((s->fault_kinds >> kind & 1) != 0) {
            /* Half of them soon after a request came, when there is something to break. */
            const sim_request *r = &s->requests[sim_below(s, s->requests_count)];
            int64_t at = sim_chance(s, 50) ? (int64_t)sim_below(s, (uint64_t)s->faults_end_us)
                                           : r->open_us + (int64_t)sim_below(s, 300000);
            at = at < s->faults_end_us ? at : s->faults_end_us;
            simnet_at(s, at, SIM_FAULT, SIM_WORLD)->index = kind;
        }
    }
}

void sim_freeze(sim *s, uint32_t node) {
    sim_process *p = sim_process_of(s, node);
    if (!p->running || p->frozen) {
        return;
    }
    p->frozen = true;
    p->thaw_us = s->now_us + 10000 + (int64_t)sim_below(s, sim_chance(s, 50) ? 500000 : 9000000);
    s->healed_us = s->healed_us > p->thaw_us ? s->healed_us : p->thaw_us;
    simnet_at(s, p->thaw_us, SIM_THAW, node);
}

/* Frozen for good, on a host where nobody ends it, if others can do its work. */
static void turn_to_stone(sim *s, uint32_t w) {
    sim_worker *k = &s->workers[w];
    bool replaced = false;
    for (uint32_t i = 0; i < s->workers_count; i++) {
        const sim_worker *o = &s->workers[i];
        if (o->stone) {
            return;
        }
        replaced = replaced || (i != w && (o->role & k->role) == k->role);
    }
    if (s->dial && replaced && k->process.running && !k->process.frozen && !k->draining) {
        k->stone = k->process.frozen = true;
        k->process.thaw_us = INT64_MAX / 4;
    }
}

/* Any open link, between two workers or with the gateway. */
static void cut(sim *s, bool gateway) {
    uint32_t candidates[64];
    uint32_t count = 0;
    for (uint32_t i = 0; i < s->links_count && count < 64; i++) {
        const sim_link *l = &s->links[i];
        bool of_gateway = l->ends[0].node >= SIM_WORKERS_MAX;
        if (of_gateway == gateway && !l->ends[0].closed && !l->ends[1].closed) {
            candidates[count++] = i;
        }
    }
    if (count > 0) {
        simnet_cut(s, candidates[sim_below(s, count)]);
    }
}

static int64_t down_us(sim *s, int64_t most_us) {
    int64_t us = 50000 + (int64_t)sim_below(s, (uint64_t)most_us);
    s->healed_us = s->healed_us > s->now_us + us ? s->healed_us : s->now_us + us;
    return us;
}

static void crash(sim *s, uint32_t w) {
    simworker_kill(s, w, sim_chance(s, 70), down_us(s, 3000000));
}

/* Only where workers and clients outlive it. */
static void crash_gateway(sim *s, uint32_t g) {
    sim_process *p = &s->gateways[g].process;
    if (!s->dial || !p->running) {
        return;
    }
    sim_event *e = simnet_at(s, s->now_us + 1000000, SIM_GONE, SIM_WORLD);
    e->index = g;
    e->life = p->life;
    e->number = (uint64_t)s->now_us;
    simgate_kill(s, g, sim_chance(s, 70), down_us(s, 3000000));
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

static void delay_gateways(sim *s, const sim_worker *k, int64_t until_us) {
    for (uint32_t i = 0; i < SIM_SLOTS; i++) {
        if (k->slots[i].used && k->slots[i].kind == CORE_GATEWAY) {
            sim_end *gateway = &s->links[k->slots[i].link].ends[0];
            gateway->last_us = gateway->last_us > until_us ? gateway->last_us : until_us;
        }
    }
}

static uint32_t gateway_of(const sim *s, request_id id) {
    for (uint32_t i = 0; i < s->requests_count; i++) {
        if (s->requests[i].id == id && s->requests[i].gateway < s->gateways_count) {
            return s->requests[i].gateway;
        }
    }
    return 0;
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
    uint32_t g = m->request != 0 ? gateway_of(s, m->request) : 0;
    if (s->ambush.fate == DELAY_AND_KILL_PEER) {
        delay_gateways(s, k, s->now_us + 50000);
    }
    sim_event *e = simnet_at(s, s->now_us, SIM_FAULT, SIM_WORLD);
    e->index = SPRUNG;
    e->link = k->slots[slot].link;
    e->end = w;
    e->number = m->request;
    e->life = peer < s->workers_count ? peer : w;
    e->carried = g;
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
            sim_freeze(s, e->end);
            break;
        case CUT:
            simnet_cut(s, e->link);
            break;
        case LEAVE:
            for (uint32_t i = 0; i < s->requests_count; i++) {
                if (s->requests[i].id == e->number && s->requests[i].state == SIM_OPENED) {
                    simnet_at(s, s->now_us, SIM_LEAVE, SIM_WORLD)->index = i;
                }
            }
            break;
        case GATEWAY_DIES:
            crash_gateway(s, e->carried);
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
    uint32_t g = (uint32_t)sim_below(s, s->gateways_count);
    sim_trace(s, "fault: %s, worker %u, gateway %u", names[e->index], w, g);
    s->counts.faults++;
    switch ((fault_kind)e->index) {
        case CRASH:
            crash(s, w);
            break;
        case FREEZE:
            sim_freeze(s, w);
            break;
        case GATEWAY_CRASH:
            crash_gateway(s, g);
            break;
        case GATEWAY_FREEZE:
            sim_freeze(s, sim_gateway_node(g));
            break;
        case STONE:
            turn_to_stone(s, w);
            break;
        case LEAVE_AND_JOIN: /* away for long: others do its work meanwhile */
            simworker_kill(s, w, true, down_us(s, 15000000));
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
