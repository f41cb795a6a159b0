/* protogate.c -- the gateway's column of the table. */
#include "tests/model/protomodel.h"

bool g_counts_on(const state *s, int g, int worker) {
    return has(s->alive, g) && has(s->up[g], worker);
}

bool g_may_ask(const state *s, int g, int worker) {
    return g_counts_on(s, g, worker) && !has(s->drains[g], worker);
}

bool g_told_to_drain(msg m) {
    return m.x && (m.type == MSG_REFUSED || m.type == MSG_REJECT || m.type == MSG_PREEMPTED);
}

static void tell(state *s, int r, int to, msg_type type, int attempt) {
    if (to != NOBODY) {
        say(s, gateway_of(r), to,
            (msg){.type = (uint8_t)type, .request = (uint8_t)r, .attempt = (uint8_t)attempt});
    }
}

void g_new_attempt(state *s, int r) {
    g_record *g = &s->g[r];
    g->state = G_PENDING;
    g->early = 0;
    g->was_adopted = g->adopted;
    g->adopted = 0;
    if (++g->attempt > ATTEMPTS_MAX) {
        violate("S6: attempts without end");
        g->attempt = ATTEMPTS_MAX;
    }
}

/* p NOBODY: D computes the prompt itself. */
void g_dispatch(state *s, int r, int p, int d) {
    g_record *g = &s->g[r];
    int gw = gateway_of(r);
    bool first = g->state == G_NEW;
    bool retarget = !first && g->p == p && !g->was_adopted;
    if (first) {
        g->attempt = 1;
    } else {
        if (g->p != p) {
            tell(s, r, g->p, MSG_CANCEL, g->attempt - 1);
        }
        if (g->d != d) {
            tell(s, r, g->d, MSG_CANCEL, g->attempt - 1);
        }
    }
    g->state = G_RUNNING;
    g->adopted = g->was_adopted = 0;
    g->p = (uint8_t)p;
    g->d = (uint8_t)d;
    msg m = {.request = (uint8_t)r, .attempt = g->attempt, .x = g->delivered};
    if (p != NOBODY) {
        m.type = MSG_SUBMIT;
        m.y = (uint8_t)d;
        m.z = retarget;
        say(s, gw, p, m);
    }
    m.type = MSG_RESERVE;
    m.y = (uint8_t)p;
    m.z = 0;
    say(s, gw, d, m);
}

static void end_record(state *s, int r, g_state how) {
    g_record *g = &s->g[r];
    g->state = how;
    g->early = 0;
    tell(s, r, g->p, MSG_CANCEL, g->attempt);
    tell(s, r, g->d, MSG_CANCEL, g->attempt);
}

static void on_token(state *s, int r, msg m) {
    g_record *g = &s->g[r];
    if (m.y) {
        violate("S1: a token made of the wrong KV reached the client");
    }
    if (m.x >= g->delivered) {
        g->early |= (uint8_t)(1 << m.x);
    }
    while (g->early >> g->delivered & 1) {
        g->early &= (uint8_t) ~(1 << g->delivered);
        g->delivered++;
    }
    if (g->delivered == now.tokens) {
        end_record(s, r, G_DONE);
    }
}

void g_worker_down(state *s, int gw, int worker) {
    s->up[gw] &= (uint8_t) ~(1 << worker);
    s->drains[gw] &= (uint8_t) ~(1 << worker);
    for (int r = 0; r < now.requests; r++) {
        g_record *g = &s->g[r];
        if (gateway_of(r) != gw || g->state != G_RUNNING) {
            continue;
        }
        if (g->d == worker || (g->p == worker && !g->adopted)) {
            g_new_attempt(s, r);
        }
    }
}

void g_hear(state *s, int gw, int from, msg m) {
    if (m.type == MSG_END) {
        if (has(s->up[gw], from)) {
            g_worker_down(s, gw, from);
        }
        return;
    }
    if (g_told_to_drain(m) && on(RULE_DRAINED)) {
        s->drains[gw] |= (uint8_t)(1 << from);
    }
    int r = m.request;
    g_record *g = &s->g[r];
    if (g->state != G_RUNNING || m.attempt != g->attempt || (from != g->p && from != g->d)) {
        return;
    }
    switch (m.type) {
        case MSG_TOKEN:
            on_token(s, r, m);
            break;
        case MSG_ADOPTED:
            g->adopted = 1;
            break;
        case MSG_ALREADY_ADOPTED:
            g->adopted = 1;
            tell(s, r, g->p, MSG_CANCEL, g->attempt);
            break;
        case MSG_LINK_LOST:
            if (!g->adopted) {
                g_new_attempt(s, r);
            } else if (is_p(from)) {
                tell(s, r, from, MSG_CANCEL, g->attempt);
            }
            break;
        case MSG_REFUSED:
            if (!g->adopted) {
                g_new_attempt(s, r);
            }
            break;
        case MSG_REJECT:
            if (!g->adopted || from == g->d) {
                g_new_attempt(s, r);
            }
            break;
        case MSG_PREEMPTED:
            g_new_attempt(s, r);
            break;
        default:
            violate("an impossible message at a gateway");
    }
}
