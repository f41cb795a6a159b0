/* simgate.c -- the gateway process: the production gate and router, and the calls between them in
 * the order of server/gateway.c. */
#include "engine/base/check.h"
#include "tests/sim/sim.h"

enum {
    TICK_US = 500000,
    WALK_US = 10000,
    SILENCE_US = 3000000,
    PAIR_AGAIN_US = 1000000 /* between two introductions of a pair whose link was lost */
};

void simgate_open(sim *s) {
    sim_gateway *g = &s->gateway;
    CHECK_EQ(gate_create(&s->gate_options, &g->gate), STATUS_OK);
    CHECK_EQ(arena_open(&g->memory, 1 << 20), STATUS_OK);
    router_options o = {.prefixes_max = 256,
                        .page_tokens = LIMIT_PAGE_TOKENS,
                        .local_prefill_max = sim_chance(s, 30) ? 32 : 0,
                        .transfer_page_us = 100,
                        .key = {s->options.seed, 1}};
    CHECK_EQ(router_create(&g->memory, &o, &g->router), STATUS_OK);
    CHECK_EQ(message_scratch_open(&g->scratch), STATUS_OK);
    simnet_at(s, s->now_us, SIM_TICK, SIM_GATEWAY);
}

void simgate_close(sim *s) {
    gate_destroy(s->gateway.gate);
    message_scratch_close(s->gateway.scratch);
    arena_close(&s->gateway.memory);
}

/* ---- workers -------------------------------------------------------------------------------- */

static bool joined(const sim *s, uint32_t w) {
    return s->gateway.peers[w].used && s->gateway.peers[w].joined;
}

static void send(sim *s, uint32_t w, const message *m, uint32_t carried) {
    simnet_send(s, s->gateway.peers[w].link, s->gateway.peers[w].end, m, carried);
}

static void introduce(sim *s, uint32_t p, uint32_t d) {
    const uint32_t pair[2] = {p, d};
    uint32_t link = simnet_link(s, p, d);
    for (int i = 0; i < 2; i++) {
        uint32_t other = pair[1 - i];
        message m = {.type = MESSAGE_PEER};
        m.peer = (message_peer){.worker = other,
                                .epoch = s->gateway.peers[other].epoch,
                                .roles = s->workers[other].roles};
        s->links[link].ends[i].life = (uint32_t)s->gateway.peers[pair[i]].epoch;
        send(s, pair[i], &m, link);
    }
    s->gateway.paired_us[p][d] = s->now_us;
    sim_trace(s, "gateway introduces %u and %u", p, d);
}

static bool fits(const sim *s, uint32_t p, uint32_t d) {
    return p != d && (s->workers[p].roles & MESSAGE_ROLE_PREFILL) &&
           (s->workers[d].roles & MESSAGE_ROLE_DECODE);
}

static void on_hello(sim *s, uint32_t w, const message_hello *h) {
    sim_gateway *g = &s->gateway;
    CHECK(!g->peers[w].joined);
    g->peers[w].joined = true;
    g->peers[w].epoch = h->epoch;
    g->views[w] = (router_view){.up = true,
                                .roles = h->roles,
                                .pages_total = h->pages,
                                .pages_free = h->pages,
                                .context_tokens = h->context_tokens};
    for (uint32_t i = 0; i < s->workers_count; i++) {
        if (i == w || !joined(s, i)) {
            continue;
        }
        if (fits(s, w, i)) {
            introduce(s, w, i);
        } else if (fits(s, i, w)) {
            introduce(s, i, w);
        }
    }
    gate_link_up(g->gate, w, h->epoch, s->now_us);
}

static void on_heartbeat(sim *s, uint32_t w, const message_heartbeat *h) {
    router_view *v = &s->gateway.views[w];
    v->pages_free = h->pages_free;
    v->pages_total = h->pages_total;
    v->running = h->running;
    v->waiting = h->waiting;
    v->queued_tokens = h->queued_tokens;
    v->tokens_per_second = h->tokens_per_second;
    v->step_us = h->step_us;
}

/* ---- actions -------------------------------------------------------------------------------- */

static void act_one(sim *s, const gate_action *a) {
    sim_gateway *g = &s->gateway;
    switch (a->type) {
        case GATE_SEND:
            sim_trace(s, "gateway says %s of %llu.%u to %u", message_type_name(a->message.type),
                      (unsigned long long)a->message.request, a->message.attempt, a->worker);
            if (a->message.type == MESSAGE_CANCEL && sim_planted(s, "no-cancel")) {
                break;
            }
            if (a->message.type == MESSAGE_SUBMIT || a->message.type == MESSAGE_RESERVE) {
                s->counts.attempts++;
            }
            send(s, a->worker, &a->message, UINT32_MAX);
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
            g->peers[a->worker].broken = true;
            break;
    }
}

static void take_actions(sim *s) {
    gate_action a;
    while (gate_next(s->gateway.gate, &a)) {
        act_one(s, &a);
    }
}

/* Lets go of the worker's life that it knows, and has the supervisor end it. On another host the
 * process may stay, and reads the end of its link when it can. */
static void drop_worker(sim *s, uint32_t w) {
    sim_gateway *g = &s->gateway;
    bool was_joined = g->peers[w].joined;
    sim_trace(s, "gateway drops worker %u", w);
    simnet_close_end(s, g->peers[w].link, g->peers[w].end, false);
    g->peers[w].used = g->peers[w].joined = g->peers[w].broken = false;
    g->views[w] = (router_view){0};
    router_forget_worker(g->router, w);
    if (was_joined) {
        gate_link_down(g->gate, w, s->now_us);
        take_actions(s);
    }
}

static void act(sim *s) {
    sim_gateway *g = &s->gateway;
    take_actions(s);
    while (s->stops_count > 0) {
        s->stops_count--;
        request_id id = s->stops[s->stops_count].id;
        int32_t choice = s->stops[s->stops_count].choice;
        if (!simclient_stopped(s, id, choice)) {
            continue; /* it ended while this was noted */
        }
        gate_end_choice(g->gate, id, choice, s->now_us);
        take_actions(s);
    }
    for (uint32_t w = 0; w < s->workers_count; w++) {
        if (g->peers[w].used && g->peers[w].broken) {
            drop_worker(s, w);
            w = UINT32_MAX;
        }
    }
}

static void charge(sim *s, const router_choice *c, const router_request *q) {
    router_view *views = s->gateway.views;
    uint64_t tokens = (uint64_t)(q->prompt_count + q->delivered);
    if (c->prefill != MESSAGE_NO_WORKER) {
        views[c->prefill].queued_tokens += tokens;
        views[c->prefill].waiting++;
    }
    if (c->decode != MESSAGE_NO_WORKER) {
        uint64_t pages = tokens / LIMIT_PAGE_TOKENS + 1;
        router_view *v = &views[c->decode];
        v->pages_free -= pages < v->pages_free ? (uint32_t)pages : v->pages_free;
        v->running++;
    }
}

static void dispatch(sim *s) {
    sim_gateway *g = &s->gateway;
    uint64_t cursor = 0;
    gate_pending p;
    while (gate_pending_next(g->gate, &cursor, s->now_us, &p)) {
        router_request q = {.prompt = p.prompt,
                            .prompt_count = p.prompt_count,
                            .delivered = p.delivered,
                            .max_tokens = p.params->max_tokens,
                            .choices = p.params->choices,
                            .salt = p.salt,
                            .prefill_only = p.prefill_only,
                            .prefill_last = p.prefill_last,
                            .decode_avoid = p.decode_avoid};
        router_choice c;
        router_result r = router_choose(g->router, g->views, s->workers_count, &q, &c);
        if (r == ROUTER_NEVER) {
            sim_fail(s, "request %llu fits no worker", (unsigned long long)p.request);
            return;
        }
        if (r == ROUTER_CHOSEN) {
            router_remember(g->router, &q, &c);
            charge(s, &c, &q);
            gate_dispatch(g->gate, p.run, (gate_choice){c.prefill, c.decode}, s->now_us);
            take_actions(s);
        }
    }
    if (gate_pending_count(g->gate) > 0 && !g->walking) {
        g->walking = true;
        simnet_at(s, s->now_us + WALK_US, SIM_WALK, SIM_GATEWAY);
    }
}

/* ---- events --------------------------------------------------------------------------------- */

void simgate_joined(sim *s, uint32_t w, uint32_t link, uint32_t end) {
    sim_gateway *g = &s->gateway;
    if (g->peers[w].used) { /* the last life's link was not yet read to the end */
        g->peers[w].broken = true;
        act(s);
    }
    g->peers[w].used = true;
    g->peers[w].joined = g->peers[w].broken = false;
    g->peers[w].link = link;
    g->peers[w].end = end;
    g->peers[w].heard_us = s->now_us;
    simnet_attach(s, link, end, w);
    dispatch(s);
}

void simgate_died(sim *s, uint32_t w) {
    if (s->gateway.peers[w].used) {
        s->gateway.peers[w].broken = true;
        act(s);
        dispatch(s);
    }
}

void simgate_drain(sim *s, uint32_t w) {
    if (joined(s, w)) {
        message m = {.type = MESSAGE_DRAIN};
        s->gateway.views[w].draining = true;
        send(s, w, &m, UINT32_MAX);
    }
}

/* Both ends are alive and cannot talk: they get a new link. */
static void on_link_lost(sim *s, uint32_t w, uint32_t peer) {
    if (peer >= s->workers_count || !joined(s, peer)) {
        return;
    }
    uint32_t p = fits(s, w, peer) ? w : peer;
    uint32_t d = p == w ? peer : w;
    if (s->now_us - s->gateway.paired_us[p][d] >= PAIR_AGAIN_US) {
        introduce(s, p, d);
    }
}

static void on_message(sim *s, sim_event *e) {
    sim_gateway *g = &s->gateway;
    uint32_t w = s->links[e->link].ends[e->end].slot;
    if (!simnet_arrives(s, e)) {
        return;
    }
    if (e->bytes == NULL) {
        g->peers[w].broken = true;
        return;
    }
    message m;
    diag d = {0};
    if (message_decode(str_of(e->bytes, e->bytes_count), g->scratch, &m, &d) != STATUS_OK) {
        sim_fail(s, "the gateway cannot read a message: %s", d.text);
        return;
    }
    g->peers[w].heard_us = s->now_us;
    sim_trace(s, "gateway hears %s of %llu.%u from %u", message_type_name(m.type),
              (unsigned long long)m.request, m.attempt, w);
    if (m.type == MESSAGE_HELLO) {
        on_hello(s, w, &m.hello);
    } else if (m.type == MESSAGE_HEARTBEAT) {
        on_heartbeat(s, w, &m.heartbeat);
    } else {
        if (m.type == MESSAGE_LINK_LOST) {
            on_link_lost(s, w, m.worker);
        }
        gate_message(g->gate, w, &m, s->now_us);
    }
}

static void on_tick(sim *s) {
    sim_gateway *g = &s->gateway;
    gate_tick(g->gate, s->now_us);
    take_actions(s);
    for (uint32_t w = 0; w < s->workers_count; w++) {
        if (g->peers[w].used && s->now_us - g->peers[w].heard_us > SILENCE_US) {
            sim_trace(s, "gateway fences worker %u", w);
            g->peers[w].broken = true;
            act(s);
            if (sim_chance(s, 50)) {
                simworker_kill(s, w, true, 50000 + (int64_t)sim_below(s, 2000000));
            }
        }
    }
    simnet_at(s, s->now_us + TICK_US, SIM_TICK, SIM_GATEWAY);
}

void simgate_event(sim *s, sim_event *e) {
    switch (e->type) {
        case SIM_MESSAGE:
            on_message(s, e);
            break;
        case SIM_TICK:
            on_tick(s);
            break;
        case SIM_WALK:
            s->gateway.walking = false;
            break;
        case SIM_OPEN:
            simclient_open(s, e->index);
            break;
        case SIM_LEAVE:
            simclient_leave(s, e->index);
            break;
        default:
            UNREACHABLE();
    }
    act(s);
    dispatch(s);
}
