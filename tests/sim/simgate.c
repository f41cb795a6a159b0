/* simgate.c -- a gateway process: the production gate and router, and the calls between them in
 * the order of server/gateway/gateway.c. */
#include "engine/base/check.h"
#include "engine/core/planted.h"
#include "tests/sim/sim.h"

enum {
    TICK_US = 500000,
    WALK_US = 10000,
    SILENCE_US = 3000000,
    PAIR_AGAIN_US = 1000000 /* between two introductions of a pair whose link was lost */
};

/* ---- life ----------------------------------------------------------------------------------- */

static void start(sim *s, uint32_t g) {
    sim_gateway *k = &s->gateways[g];
    uint32_t life = k->process.life + 1;
    CHECK(!k->process.running);
    *k = (sim_gateway){.process = {.running = true, .life = life}};
    gate_options go = s->gate_options;
    go.id_first = 1 + sim_below(s, (1ull << 59) - 1); /* as the real one: no clock can repeat it */
    CHECK_EQ(gate_create(&go, &k->gate), STATUS_OK);
    router_options o = {.workers_max = SIM_WORKERS_MAX,
                        .pages_max = 1024,
                        .expected_max = 256,
                        .page_tokens = LIMIT_PAGE_TOKENS,
                        .local_prefill_max = s->local_prefill_max,
                        .transfer_page_us = 100};
    CHECK_EQ(arena_open(&k->memory, router_bytes(&o)), STATUS_OK);
    CHECK_EQ(router_create(&k->memory, &o, &k->router), STATUS_OK);
    CHECK_EQ(message_scratch_open(&k->scratch), STATUS_OK);
    sim_trace(s, "gateway %u starts, life %u", g, life);
    simnet_at(s, s->now_us, SIM_TICK, sim_gateway_node(g));
}

void simgate_kill(sim *s, uint32_t g, bool lossy, int64_t restart_after_us) {
    sim_gateway *k = &s->gateways[g];
    if (!k->process.running) {
        return;
    }
    sim_trace(s, "gateway %u ends, life %u", g, k->process.life);
    simcheck_gate(s, g);
    const gate_counts *c = gate_counters(k->gate);
    s->counts.splits += c->splits;
    s->counts.retries += c->retries_free + c->retries_spent;
    for (uint32_t w = 0; w < s->workers_count; w++) {
        if (k->peers[w].used) {
            simnet_close_end(s, k->peers[w].link, k->peers[w].end, lossy);
        }
    }
    gate_destroy(k->gate);
    message_scratch_close(k->scratch);
    arena_close(&k->memory);
    k->gate = NULL;
    k->process.running = k->process.frozen = false;
    k->process.life++;
    simclient_orphan(s, g);
    if (restart_after_us >= 0) {
        simnet_at(s, s->now_us + restart_after_us, SIM_START, sim_gateway_node(g));
    }
}

void simgate_close(sim *s) {
    for (uint32_t g = 0; g < s->gateways_count; g++) {
        simgate_kill(s, g, false, -1);
    }
}

/* ---- workers -------------------------------------------------------------------------------- */

static bool joined(const sim *s, uint32_t g, uint32_t w) {
    return s->gateways[g].peers[w].used && s->gateways[g].peers[w].joined;
}

static void send(sim *s, uint32_t g, uint32_t w, const message *m, uint32_t carried) {
    const sim_gateway *k = &s->gateways[g];
    simnet_send(s, k->peers[w].link, k->peers[w].end, m, carried);
}

/* `mend`: the link they had is broken for one of them. */
static void introduce(sim *s, uint32_t g, uint32_t p, uint32_t d, bool mend) {
    sim_gateway *k = &s->gateways[g];
    const uint32_t pair[2] = {p, d};
    uint32_t link = simnet_link(s, p, d);
    for (int i = 0; i < 2; i++) {
        uint32_t other = pair[1 - i];
        message m = {.type = MESSAGE_PEER};
        m.peer = (message_peer){.worker = other,
                                .epoch = k->peers[other].epoch,
                                .roles = s->workers[other].roles,
                                .mend = mend};
        s->links[link].ends[i].life = (uint32_t)k->peers[pair[i]].epoch;
        send(s, g, pair[i], &m, link);
    }
    k->paired_us[p][d] = s->now_us;
    sim_trace(s, "gateway %u introduces %u and %u", g, p, d);
}

static bool fits(const sim *s, uint32_t p, uint32_t d) {
    return p != d && (s->workers[p].roles & MESSAGE_ROLE_PREFILL) &&
           (s->workers[d].roles & MESSAGE_ROLE_DECODE);
}

static void on_hello(sim *s, uint32_t g, uint32_t w, const message_hello *h) {
    sim_gateway *k = &s->gateways[g];
    CHECK(!k->peers[w].joined);
    k->peers[w].joined = true;
    k->peers[w].epoch = h->epoch;
    k->views[w] = (router_view){.up = true,
                                .roles = h->roles,
                                .pages_total = h->pages,
                                .pages_free = h->pages,
                                .context_tokens = h->context_tokens};
    for (uint32_t i = 0; i < s->workers_count; i++) {
        bool pair = i != w && joined(s, g, i) && (fits(s, w, i) || fits(s, i, w));
        if (pair) {
            introduce(s, g, fits(s, w, i) ? w : i, fits(s, w, i) ? i : w, false);
        }
    }
    gate_link_up(k->gate, w, h->epoch, sim_clock(s, sim_gateway_node(g)));
}

static void ask_again(sim *s, uint32_t g, uint32_t w) {
    message again = {.type = MESSAGE_RESYNC};
    s->counts.resyncs++;
    send(s, g, w, &again, UINT32_MAX);
}

/* One in twenty gets lost: no link loses any, but the answer to it must be right. */
static void on_cached(sim *s, uint32_t g, uint32_t w, const message_cached *told) {
    bool lost = sim_chance(s, 5) && s->ended_count < s->requests_count;
    if (!lost && !router_cached(s->gateways[g].router, w, told)) {
        ask_again(s, g, w);
    }
}

static void on_heartbeat(sim *s, uint32_t g, uint32_t w, const message_heartbeat *h) {
    routecost_told(&s->gateways[g].views[w], h, sim_clock(s, sim_gateway_node(g)));
    if (!router_cached_all(s->gateways[g].router, w, h->cached_sequence)) {
        ask_again(s, g, w);
    }
}

/* ---- actions -------------------------------------------------------------------------------- */

static void act_one(sim *s, uint32_t g, const gate_action *a) {
    switch (a->type) {
        case GATE_SEND:
            sim_trace(s, "gateway %u says %s of %llu.%u to %u", g,
                      message_type_name(a->message.type), (unsigned long long)a->message.request,
                      a->message.attempt, a->worker);
            if (a->message.type == MESSAGE_SUBMIT || a->message.type == MESSAGE_RESERVE) {
                s->counts.attempts++;
            }
            send(s, g, a->worker, &a->message, UINT32_MAX);
            break;
        case GATE_TOKEN:
            simclient_token(s, a);
            break;
        case GATE_SCORES:
            simclient_score(s, a);
            break;
        case GATE_DONE:
            simclient_done(s, a);
            break;
        case GATE_FAILED:
            simclient_failed(s, a);
            break;
        case GATE_CLOSE:
            sim_fail(s, "worker %u broke the protocol: it %s", a->worker, a->text);
            s->gateways[g].peers[a->worker].broken = true;
            break;
    }
}

static void take_actions(sim *s, uint32_t g) {
    gate_action a;
    while (gate_next(s->gateways[g].gate, &a)) {
        act_one(s, g, &a);
    }
}

/* Lets go of the worker's life that it knows, and has the supervisor end it. On another host the
 * process may stay, and reads the end of its link when it can. */
static void drop_worker(sim *s, uint32_t g, uint32_t w) {
    sim_gateway *k = &s->gateways[g];
    bool was_joined = k->peers[w].joined;
    sim_trace(s, "gateway %u drops worker %u", g, w);
    simnet_close_end(s, k->peers[w].link, k->peers[w].end, false);
    k->peers[w].used = k->peers[w].joined = k->peers[w].broken = false;
    if (!PLANTED(AFFINITY_TO_THE_DEAD)) {
        k->views[w] = (router_view){0};
    }
    router_forget_worker(k->router, w);
    if (was_joined) {
        router_failed(k->router, w, sim_clock(s, sim_gateway_node(g)));
        gate_link_down(k->gate, w, sim_clock(s, sim_gateway_node(g)));
        take_actions(s, g);
    }
}

static void act(sim *s, uint32_t g) {
    sim_gateway *k = &s->gateways[g];
    take_actions(s, g);
    while (s->stops_count > 0) {
        s->stops_count--;
        request_id id = s->stops[s->stops_count].id;
        int32_t choice = s->stops[s->stops_count].choice;
        if (!simclient_stopped(s, id, choice)) {
            continue; /* it ended while this was noted */
        }
        gate_end_choice(k->gate, id, choice, sim_clock(s, sim_gateway_node(g)));
        take_actions(s, g);
    }
    for (uint32_t w = 0; w < s->workers_count; w++) {
        if (k->peers[w].used && k->peers[w].broken) {
            drop_worker(s, g, w);
            w = UINT32_MAX;
        }
    }
}

static void dispatch(sim *s, uint32_t g) {
    sim_gateway *k = &s->gateways[g];
    int64_t now = sim_clock(s, sim_gateway_node(g));
    uint64_t cursor = 0;
    gate_pending p;
    while (gate_pending_next(k->gate, &cursor, now, &p)) {
        router_request q = {.prompt = p.prompt,
                            .prompt_count = p.prompt_count,
                            .delivered = p.delivered,
                            .max_tokens = p.params->max_tokens,
                            .choices = p.params->choices,
                            .salt = p.salt,
                            .prefill_only = p.prefill_only,
                            .prefill_last = p.prefill_last,
                            .decode_avoid = p.decode_avoid,
                            .now_us = now};
        router_choice c;
        router_result r = router_choose(k->router, k->views, s->workers_count, &q, &c);
        if (r == ROUTER_NEVER) {
            sim_fail(s, "request %llu fits no worker", (unsigned long long)p.request);
            return;
        }
        if (r == ROUTER_CHOSEN) {
            if (p.params->prompt_logprobs && c.decode != MESSAGE_NO_WORKER) {
                c.prefill = MESSAGE_NO_WORKER; /* a hand-over carries no scores */
            }
            router_remember(k->router, &q, &c);
            router_charge(k->views, &c, &q, LIMIT_PAGE_TOKENS);
            gate_dispatch(k->gate, p.run, (gate_choice){c.prefill, c.decode}, now);
            take_actions(s, g);
        }
    }
    if (gate_pending_count(k->gate) > 0 && !k->walking) {
        k->walking = true;
        simnet_at(s, s->now_us + WALK_US, SIM_WALK, sim_gateway_node(g));
    }
}

/* ---- events --------------------------------------------------------------------------------- */

void simgate_joined(sim *s, uint32_t g, uint32_t w, uint32_t link, uint32_t end) {
    sim_gateway *k = &s->gateways[g];
    if (k->peers[w].used) { /* the last life's link was not yet read to the end */
        k->peers[w].broken = true;
        act(s, g);
    }
    k->peers[w].used = true;
    k->peers[w].joined = k->peers[w].broken = false;
    k->peers[w].link = link;
    k->peers[w].end = end;
    k->peers[w].heard_us = sim_clock(s, sim_gateway_node(g));
    simnet_attach(s, link, end, w);
    dispatch(s, g);
}

void simgate_died(sim *s, uint32_t g, uint32_t w) {
    sim_gateway *k = &s->gateways[g];
    if (k->process.running && !k->process.frozen && k->peers[w].used) {
        k->peers[w].broken = true;
        act(s, g);
        dispatch(s, g);
    }
}

void simgate_drain(sim *s, uint32_t w) {
    for (uint32_t g = 0; g < s->gateways_count; g++) {
        sim_gateway *k = &s->gateways[g];
        if (k->process.running && !k->process.frozen && joined(s, g, w)) {
            message m = {.type = MESSAGE_DRAIN};
            k->views[w].draining = true;
            send(s, g, w, &m, UINT32_MAX);
        }
    }
}

/* Both ends are alive and cannot talk: they get a new link. */
static void on_link_lost(sim *s, uint32_t g, uint32_t w, uint32_t peer) {
    if (peer >= s->workers_count || !joined(s, g, peer) || PLANTED(STICKY_FAILED_PEER)) {
        return;
    }
    uint32_t p = fits(s, w, peer) ? w : peer;
    uint32_t d = p == w ? peer : w;
    int64_t last_us = s->gateways[g].paired_us[p][d];
    if (last_us == 0 || s->now_us - last_us >= PAIR_AGAIN_US) {
        introduce(s, g, p, d, true);
    }
}

static void note_refusal(sim_gateway *k, uint32_t w, const message *m) {
    bool refusal = m->type == MESSAGE_REFUSED || m->type == MESSAGE_REJECT;
    k->views[w].draining |= m->reason == MESSAGE_REASON_DRAINING;
    k->chargeable += (refusal || m->type == MESSAGE_PREEMPTED) &&
                     m->reason != MESSAGE_REASON_DRAINING && m->reason != MESSAGE_REASON_ROLE;
}

static void on_message(sim *s, uint32_t g, sim_event *e) {
    sim_gateway *k = &s->gateways[g];
    uint32_t w = s->links[e->link].ends[e->end].slot;
    if (!simnet_arrives(s, e)) {
        return;
    }
    if (e->bytes == NULL) {
        k->peers[w].broken = true;
        return;
    }
    message m;
    diag d = {0};
    if (message_decode(str_of(e->bytes, e->bytes_count), k->scratch, &m, &d) != STATUS_OK) {
        sim_fail(s, "gateway %u cannot read a message: %s", g, d.text);
        return;
    }
    note_refusal(k, w, &m);
    k->peers[w].heard_us = sim_clock(s, sim_gateway_node(g));
    sim_trace(s, "gateway %u hears %s of %llu.%u from %u", g, message_type_name(m.type),
              (unsigned long long)m.request, m.attempt, w);
    if (m.type == MESSAGE_HELLO) {
        on_hello(s, g, w, &m.hello);
    } else if (m.type == MESSAGE_HEARTBEAT) {
        on_heartbeat(s, g, w, &m.heartbeat);
    } else if (m.type == MESSAGE_ROLE) {
        k->views[w].roles = m.role.roles;
    } else if (m.type == MESSAGE_CACHED) {
        on_cached(s, g, w, &m.cached);
    } else {
        int64_t now = sim_clock(s, sim_gateway_node(g));
        if (m.type == MESSAGE_LINK_LOST) {
            on_link_lost(s, g, w, m.worker);
        }
        router_heard(k->router, w, &m, now);
        gate_message(k->gate, w, &m, sim_clock(s, sim_gateway_node(g)));
    }
}

static void on_tick(sim *s, uint32_t g) {
    sim_gateway *k = &s->gateways[g];
    int64_t now = sim_clock(s, sim_gateway_node(g));
    gate_tick(k->gate, now);
    take_actions(s, g);
    for (uint32_t w = 0; w < s->workers_count; w++) {
        if (k->peers[w].used && now - k->peers[w].heard_us > SILENCE_US) {
            sim_trace(s, "gateway %u fences worker %u", g, w);
            k->peers[w].broken = true;
            act(s, g);
            if (!s->dial && sim_chance(s, 50)) {
                simworker_kill(s, w, true, 50000 + (int64_t)sim_below(s, 2000000));
            }
        }
    }
    uint32_t node = sim_gateway_node(g);
    simnet_at(s, sim_when(s, node, now + TICK_US), SIM_TICK, node);
}

void simgate_event(sim *s, uint32_t g, sim_event *e) {
    switch (e->type) {
        case SIM_START:
            start(s, g);
            break;
        case SIM_MESSAGE:
            on_message(s, g, e);
            break;
        case SIM_TICK:
            on_tick(s, g);
            break;
        case SIM_WALK:
            s->gateways[g].walking = false;
            break;
        case SIM_OPEN:
            simclient_open(s, g, e->index);
            break;
        case SIM_LEAVE:
            if (simclient_left(s, e->index)) {
                gate_cancel(s->gateways[g].gate, s->requests[e->index].id,
                            sim_clock(s, sim_gateway_node(g)));
            }
            break;
        default:
            UNREACHABLE();
    }
    act(s, g);
    dispatch(s, g);
}
