/* protomoves.c -- all that can happen next. */
#include <stdio.h>
#include <string.h>

#include "tests/model/protomodel.h"

static moves_visit *visit_now;
static const state *before;

static void emit(const state *next, move_type type, int a, int b, int c, move_kind kind) {
    pages_recount(next);
    for (int r = 0; r < now.requests; r++) {
        int decoding = 0;
        for (int w = FIRST_D; w < FIRST_D + now.decodes; w++) {
            const d_record *d = &next->d[w - FIRST_D][r];
            decoding += next->g[r].state == G_RUNNING && g_counts_on(next, gateway_of(r), w) &&
                        has(next->alive, w) && d->state == D_DECODING &&
                        d->attempt == next->g[r].attempt;
        }
        if (decoding > 1) {
            violate("S4: two workers decode the same attempt");
        }
    }
    visit_now(next, (move){(uint8_t)type, (uint8_t)a, (uint8_t)b, (uint8_t)c}, kind);
}

static bool spend(state *s, fault f) {
    if (s->budget[f] == 0 || s->faults == 0) {
        return false;
    }
    s->budget[f]--;
    s->faults--;
    return true;
}

/* Nodes of this run. */
static bool exists(int n) {
    return is_g(n)   ? n < now.gateways
           : is_p(n) ? n < FIRST_P + now.prefills
                     : n < FIRST_D + now.decodes;
}

static bool is_worker(int n) {
    return !is_g(n) && exists(n);
}

/* ---- the gateway's urgent steps ------------------------------------------------------------- */

static bool dispatch_moves(const state *s, int r) {
    int g = gateway_of(r);
    bool any = false;
    for (int p = FIRST_P; p <= FIRST_D; p++) {
        bool alone = p == FIRST_D; /* D computes the prompt itself */
        int left = s->g[r].p;
        if (alone ? !now.local : !exists(p) || !g_may_ask(s, g, p)) {
            continue;
        }
        if (now.keep_p && s->g[r].state == G_PENDING && left != NOBODY && left != p && !alone &&
            g_may_ask(s, g, left)) {
            continue;
        }
        for (int d = FIRST_D; d < FIRST_D + now.decodes; d++) {
            if (g_may_ask(s, g, d)) {
                state n = *s;
                g_dispatch(&n, r, alone ? NOBODY : p, d);
                emit(&n, MOVE_DISPATCH, r, alone ? NOBODY : p, d, KIND_STEP);
                any = true;
            }
        }
    }
    return any;
}

/* The first request starts at the first pair: the others are alike. */
static bool start_moves(const state *s) {
    for (int r = 0; r < now.requests; r++) {
        if (s->g[r].state == G_NEW) {
            if (r > 0) {
                return dispatch_moves(s, r);
            }
            state n = *s;
            g_dispatch(&n, r, FIRST_P, FIRST_D);
            emit(&n, MOVE_START, r, FIRST_P, FIRST_D, KIND_STEP);
            n = *s;
            if (now.local) {
                g_dispatch(&n, r, NOBODY, FIRST_D);
                emit(&n, MOVE_START, r, NOBODY, FIRST_D, KIND_STEP);
            }
            return true;
        }
    }
    return false;
}

/* ---- messages ------------------------------------------------------------------------------- */

/* Does nothing, and would do nothing later: it is taken at once, as its place among the other moves
 * does not matter. */
static bool idle_message(const state *s, int to, msg m) {
    if (m.type == MSG_END) {
        return false;
    }
    if (is_g(to) && g_told_to_drain(m)) {
        return false;
    }
    if (is_g(to)) {
        return s->g[m.request].state >= G_DONE || s->g[m.request].attempt > m.attempt;
    }
    if (is_p(to)) {
        const p_record *p = &s->p[to - FIRST_P][m.request];
        bool past = !p->used || p->attempt > m.attempt;
        return m.type == MSG_REFUSED || (past && ((m.type == MSG_ADOPTED && on(RULE_BUMP)) ||
                                                  (m.type == MSG_CANCEL && p->park_attempt == 0)));
    }
    const d_record *d = &s->d[to - FIRST_D][m.request];
    bool past = d->state == D_NONE || d->attempt > m.attempt;
    return past && (m.type == MSG_ANNOUNCE || m.type == MSG_HANDOFF || m.type == MSG_CANCEL);
}

static void deliver(state *n, int from, int to, bool refuse) {
    msg m = take(&n->wires[from][to]);
    if (is_g(to)) {
        g_hear(n, to, from, m);
    } else if (is_p(to)) {
        p_hear(n, to, from, m);
    } else {
        d_hear(n, to, from, m, refuse);
    }
}

static bool idle_moves(const state *s) {
    for (int a = 0; a < NODES; a++) {
        for (int b = 0; b < NODES; b++) {
            const queue *q = &s->wires[a][b];
            if (q->count > 0 && runs(s, b) && idle_message(s, b, q->list[0])) {
                state n = *s;
                (void)take(&n.wires[a][b]);
                emit(&n, MOVE_DELIVER, a, b, 0, KIND_STEP);
                return true;
            }
        }
    }
    return false;
}

static void message_moves(const state *s) {
    for (int a = 0; a < NODES; a++) {
        for (int b = 0; b < NODES; b++) {
            if (s->wires[a][b].count == 0 || !runs(s, b)) {
                continue;
            }
            state n = *s;
            deliver(&n, a, b, false);
            emit(&n, MOVE_DELIVER, a, b, 0, KIND_STEP);
            msg m = s->wires[a][b].list[0];
            n = *s;
            if (m.type == MSG_RESERVE && s->d[b - FIRST_D][m.request].state != D_DECODING &&
                spend(&n, FAULT_REFUSE)) {
                deliver(&n, a, b, true);
                emit(&n, MOVE_REFUSE, a, b, 0, KIND_FAULT);
            }
        }
    }
    for (int p = FIRST_P; p < FIRST_P + now.prefills; p++) {
        for (int d = FIRST_D; d < FIRST_D + now.decodes; d++) {
            if (s->data[p - FIRST_P][d - FIRST_D].count > 0 && runs(s, d)) {
                state n = *s;
                d_data(&n, p, d, take(&n.data[p - FIRST_P][d - FIRST_D]));
                emit(&n, MOVE_DATA, p, d, 0, KIND_STEP);
            }
        }
    }
}

/* ---- workers -------------------------------------------------------------------------------- */

/* The gateway still renews it. */
static bool listed(const state *s, int w, int r, int attempt) {
    const g_record *g = &s->g[r];
    return g->state == G_RUNNING && g->attempt == attempt && !(is_p(w) && g->adopted) &&
           (is_p(w) ? g->p : g->d) == w && has(s->alive, gateway_of(r));
}

static void lease_p(const state *s, int w, int r) {
    const p_record *p = &s->p[w - FIRST_P][r];
    state n = *s;
    bool wanted = listed(s, w, r, p->attempt);
    if (p->used && (!wanted || spend(&n, FAULT_LEASE))) {
        msg m = {.type = MSG_REJECT, .request = (uint8_t)r, .attempt = p->attempt};
        p_leave(&n, w, r);
        if (on(RULE_TELLLEASE)) {
            say(&n, w, gateway_of(r), m);
        }
        emit(&n, MOVE_LEASE_P, w, r, 0, wanted ? KIND_FAULT : KIND_STEP);
    }
    n = *s;
    p_record *parked = &n.p[w - FIRST_P][r];
    if (parked->park_attempt && !listed(s, w, r, parked->park_attempt)) {
        parked->park_attempt = parked->park_d = parked->park_prefix = 0;
        emit(&n, MOVE_LEASE_PARKED, w, r, 0, KIND_STEP);
    }
}

static void lease_d(const state *s, int w, int r) {
    const d_record *d = &s->d[w - FIRST_D][r];
    state n = *s;
    bool wanted = listed(s, w, r, d->attempt);
    if ((d->state == D_QUEUED || d->state == D_RESERVED) && (!wanted || spend(&n, FAULT_LEASE))) {
        msg m = {.type = MSG_REFUSED, .request = (uint8_t)r, .attempt = d->attempt};
        d_leave(&n, w, r);
        if (on(RULE_TELLLEASE)) {
            say(&n, w, gateway_of(r), m);
        }
        emit(&n, MOVE_LEASE_D, w, r, 0, wanted ? KIND_FAULT : KIND_STEP);
    }
}

/* A page waits for a peer that does not answer: the channel is aborted [R11]. */
static void tear(const state *s, int w) {
    for (int x = FIRST_P; x < NODES; x++) {
        if (!exists(x) || !joined(w, x) || !has(s->alive, x) || !has(s->frozen, x)) {
            continue;
        }
        int peer = is_p(x) ? x - FIRST_P : x - FIRST_D;
        bool waits = false;
        for (int i = 0; i < PAGES_MAX; i++) {
            const page *p = &s->pages[w - FIRST_P][i];
            waits = waits || (p->holders == 0 && p->pins[peer] > 0);
        }
        if (waits && on(RULE_TEAR)) {
            state n = *s;
            memset(&n.wires[x][w], 0, sizeof n.wires[x][w]);
            end_wire(&n.wires[w][x]);
            if (is_p(w)) {
                p_link_end(&n, w, x);
            } else {
                d_link_end(&n, w, x);
            }
            emit(&n, MOVE_TEAR, w, x, 0, KIND_STEP);
        }
    }
}

static void prefill_moves(const state *s, int w) {
    for (int r = 0; r < now.requests; r++) {
        const p_record *p = &s->p[w - FIRST_P][r];
        state n = *s;
        if (p_may_start(s, w, r)) {
            p_start(&n, w, r);
            emit(&n, MOVE_TAKE_PAGES, w, r, 0, KIND_STEP);
        }
        if (p->used && p->computed < now.prompt_pages && p->pages[p->computed]) {
            n = *s;
            p_compute(&n, w, r);
            emit(&n, MOVE_COMPUTE, w, r, 0, KIND_STEP);
        }
        if (s->wires[gateway_of(r)][w].count == 0) {
            lease_p(s, w, r);
        }
    }
    tear(s, w);
}

static void decode_moves(const state *s, int w) {
    for (int r = 0; r < now.requests; r++) {
        const d_record *d = &s->d[w - FIRST_D][r];
        state n = *s;
        bool computing = d->state == D_DECODING && d->computed < now.prompt_pages;
        if (computing) {
            d_compute(&n, w, r);
            emit(&n, MOVE_COMPUTE, w, r, 0, KIND_STEP);
        } else if (d->state == D_DECODING) {
            d_decode(&n, w, r);
            emit(&n, MOVE_DECODE, w, r, 0, KIND_STEP);
        }
        n = *s;
        if (d->state == D_DECODING && spend(&n, FAULT_PREEMPT)) {
            d_preempt(&n, w, r);
            emit(&n, MOVE_PREEMPT, w, r, 0, KIND_FAULT);
        }
        if (s->wires[gateway_of(r)][w].count == 0) {
            lease_d(s, w, r);
        }
    }
    tear(s, w);
}

static bool grant_moves(const state *s) {
    for (int w = FIRST_D; w < FIRST_D + now.decodes; w++) {
        bool any = false;
        for (int r = 0; runs(s, w) && r < now.requests; r++) {
            if (d_may_grant(s, w, r)) {
                state n = *s;
                d_grant(&n, w, r);
                emit(&n, MOVE_GRANT, w, r, 0, KIND_STEP);
                any = true;
            }
        }
        if (any) {
            return true;
        }
    }
    return false;
}

void worker_gateway_end(state *s, int w, int g) {
    for (int r = 0; r < now.requests; r++) {
        if (gateway_of(r) != g) {
            continue;
        }
        if (is_p(w)) {
            p_leave(s, w, r);
            p_record *p = &s->p[w - FIRST_P][r];
            *p = (p_record){0};
        } else {
            d_leave(s, w, r);
        }
    }
    if (has(s->alive, g)) { /* it was fenced: it joins again */
        s->up[g] |= (uint8_t)(1 << w);
    }
}

/* ---- faults --------------------------------------------------------------------------------- */

/* What a dead P has sent by then is on the wire. */
static void detach_data(state *s, int w, int d, bool kept) {
    queue *q = &s->data[w - FIRST_P][d - FIRST_D];
    for (int i = 0; kept && i < q->count; i++) {
        msg *m = &q->list[i];
        if (!(m->x & (DATA_JUNK | DATA_LEFT))) {
            m->z = page_at(s, w, m->z - 1)->content;
            m->x |= DATA_LEFT;
        }
    }
    if (!kept) {
        memset(q, 0, sizeof *q);
    }
}

static void crash_worker(state *s, int w, bool kept) {
    s->alive &= (uint8_t) ~(1 << w);
    s->frozen &= (uint8_t) ~(1 << w);
    s->draining &= (uint8_t) ~(1 << w);
    for (int x = 0; x < NODES; x++) {
        if (!exists(x) || !joined(w, x)) {
            continue;
        }
        queue *out = &s->wires[w][x];
        memset(&s->wires[x][w], 0, sizeof s->wires[x][w]);
        bool heard = has(s->alive, x) && !(is_g(x) && !g_counts_on(s, x, w));
        if (!heard) {
            memset(out, 0, sizeof *out);
        } else if (!kept || has_end(out)) {
            end_wire(out);
        } else {
            out->list[out->count++] = (msg){.type = MSG_END};
        }
        if (is_p(w) && is_d(x)) {
            detach_data(s, w, x, kept && has(s->alive, x));
        } else if (is_d(w) && is_p(x)) {
            memset(&s->data[x - FIRST_P][w - FIRST_D], 0, sizeof s->data[0][0]);
        }
    }
    if (is_p(w)) {
        p_reset(s, w);
    } else {
        d_reset(s, w);
    }
}

static void crash_gateway(state *s, int g) {
    s->alive &= (uint8_t) ~(1 << g);
    s->up[g] = 0;
    for (int w = FIRST_P; w < NODES; w++) {
        memset(&s->wires[w][g], 0, sizeof s->wires[w][g]);
        memset(&s->wires[g][w], 0, sizeof s->wires[g][w]);
        if (exists(w) && has(s->alive, w)) {
            end_wire(&s->wires[g][w]);
        }
    }
    for (int r = 0; r < now.requests; r++) {
        if (gateway_of(r) == g && s->g[r].state < G_DONE) {
            s->g[r] = (g_record){.state = G_ORPHANED, .attempt = s->g[r].attempt};
        }
    }
}

static bool end_unread(const state *s, int w) {
    for (int g = 0; g < now.gateways; g++) {
        if (has_end(&s->wires[w][g])) {
            return true;
        }
    }
    return false;
}

/* At the end of a drain everything goes back; then the worker ends, sooner or later. */
static void drain_moves(const state *s, int w) {
    state n = *s;
    if (!runs(s, w)) {
        return;
    }
    if (has(s->draining, w)) {
        crash_worker(&n, w, true);
        emit(&n, MOVE_LEAVE, w, 0, 0, KIND_STEP);
    } else if (spend(&n, FAULT_DRAIN)) {
        n.draining |= (uint8_t)(1 << w);
        if (is_p(w)) {
            p_hand_back(&n, w);
        } else {
            d_hand_back(&n, w);
        }
        emit(&n, MOVE_HAND_BACK, w, 0, 0, KIND_FAULT);
    }
}

static void life_moves(const state *s, int w) {
    state n = *s;
    bool alive = has(s->alive, w);
    bool frozen = has(s->frozen, w);
    if (!alive && !end_unread(s, w)) {
        n.alive |= (uint8_t)(1 << w);
        for (int g = 0; g < now.gateways; g++) {
            n.up[g] |= (uint8_t)(has(s->alive, g) ? 1 << w : 0);
        }
        emit(&n, MOVE_RESTART, w, 0, 0, KIND_STEP);
    }
    n = *s;
    if (frozen) {
        n.frozen &= (uint8_t) ~(1 << w);
        emit(&n, MOVE_THAW, w, 0, 0, KIND_THAW);
    }
    for (int g = 0; frozen && g < now.gateways; g++) {
        n = *s;
        if (g_counts_on(s, g, w)) {
            memset(&n.wires[w][g], 0, sizeof n.wires[w][g]);
            end_wire(&n.wires[g][w]);
            g_worker_down(&n, g, w);
            emit(&n, MOVE_FENCE, w, g, 0, KIND_STEP);
        }
    }
    n = *s;
    if (alive && !frozen && spend(&n, FAULT_FREEZE)) {
        n.frozen |= (uint8_t)(1 << w);
        emit(&n, MOVE_FREEZE, w, 0, 0, KIND_FAULT);
    }
    for (int kept = 0; alive && kept < 2; kept++) {
        n = *s;
        if (spend(&n, FAULT_CRASH)) {
            crash_worker(&n, w, kept);
            emit(&n, MOVE_CRASH, w, kept, 0, KIND_FAULT);
        }
    }
}

static void other_faults(const state *s) {
    for (int p = FIRST_P; p < FIRST_P + now.prefills; p++) {
        for (int d = FIRST_D; d < FIRST_D + now.decodes; d++) {
            state n = *s;
            if (has(s->alive, p) && has(s->alive, d) && spend(&n, FAULT_LINK)) {
                end_wire(&n.wires[p][d]);
                end_wire(&n.wires[d][p]);
                memset(&n.data[p - FIRST_P][d - FIRST_D], 0, sizeof n.data[0][0]);
                emit(&n, MOVE_CUT, p, d, 0, KIND_FAULT);
            }
        }
    }
    for (int r = 0; r < now.requests; r++) {
        state n = *s;
        if (s->g[r].state == G_RUNNING && spend(&n, FAULT_CANCEL)) {
            g_record *g = &n.g[r];
            msg m = {.type = MSG_CANCEL, .request = (uint8_t)r, .attempt = g->attempt};
            g->state = G_CANCELLED;
            g->early = 0;
            if (g->p != NOBODY) {
                say(&n, gateway_of(r), g->p, m);
            }
            say(&n, gateway_of(r), g->d, m);
            emit(&n, MOVE_CANCEL, r, 0, 0, KIND_FAULT);
        }
    }
    for (int g = 0; g < now.gateways; g++) {
        state n = *s;
        if (has(s->alive, g) && spend(&n, FAULT_GATEWAY)) {
            crash_gateway(&n, g);
            emit(&n, MOVE_GATEWAY_DIES, g, 0, 0, KIND_FAULT);
        }
    }
}

/* ---- all of them ---------------------------------------------------------------------------- */

void moves_all(const state *s, moves_visit *visit) {
    visit_now = visit;
    before = s;
    for (int r = 0; r < now.requests; r++) {
        if (s->g[r].state == G_PENDING && dispatch_moves(s, r)) {
            return;
        }
    }
    if (start_moves(s) || grant_moves(s) || idle_moves(s)) {
        return;
    }
    message_moves(s);
    for (int w = FIRST_P; w < NODES; w++) {
        if (!is_worker(w)) {
            continue;
        }
        if (runs(s, w) && is_p(w)) {
            prefill_moves(s, w);
        } else if (runs(s, w)) {
            decode_moves(s, w);
        }
        life_moves(s, w);
        drain_moves(s, w);
    }
    other_faults(s);
}

state moves_first(void) {
    state s;
    memset(&s, 0, sizeof s);
    for (int n = 0; n < NODES; n++) {
        s.alive |= (uint8_t)(exists(n) ? 1 << n : 0);
    }
    for (int g = 0; g < now.gateways; g++) {
        s.up[g] = (uint8_t)(s.alive & ~((1 << FIRST_P) - 1));
    }
    memcpy(s.budget, now.budget, sizeof s.budget);
    s.faults = now.faults;
    return s;
}

bool all_ended(const state *s) {
    for (int r = 0; r < now.requests; r++) {
        if (s->g[r].state < G_DONE) {
            return false;
        }
    }
    return true;
}

bool all_clean(const state *s) {
    for (int w = 0; w < WORKERS_MAX; w++) {
        for (int i = 0; i < PAGES_MAX; i++) {
            if (!page_free(&s->pages[w][i])) {
                return false;
            }
        }
    }
    for (int r = 0; r < now.requests; r++) {
        for (int w = 0; w < PREFILLS_MAX; w++) {
            if (s->p[w][r].used || s->p[w][r].park_attempt) {
                return false;
            }
        }
        for (int w = 0; w < DECODES_MAX; w++) {
            if (s->d[w][r].state != D_NONE) {
                return false;
            }
        }
    }
    return all_ended(s);
}

/* ---- words ---------------------------------------------------------------------------------- */

static const char *name(int n) {
    static const char *const names[] = {"G1", "G2", "P1", "P2", "D1", "D2"};
    return n < NODES ? names[n] : "nobody";
}

static void print_msg(msg m) {
    static const char *const names[] = {"?",
                                        "SUBMIT",
                                        "RESERVE",
                                        "GRANT",
                                        "REFUSED",
                                        "ANNOUNCE",
                                        "POSTED",
                                        "DATA",
                                        "HANDOFF",
                                        "ADOPTED",
                                        "ALREADY_ADOPTED",
                                        "TOKEN",
                                        "CANCEL",
                                        "PREEMPTED",
                                        "LINK_LOST",
                                        "REJECT",
                                        "the end of the connection"};
    if (m.type == MSG_END) {
        (void)printf("%s", names[m.type]);
        return;
    }
    (void)printf("%s(r%d a%d", names[m.type], m.request, m.attempt);
    if (m.type == MSG_SUBMIT || m.type == MSG_RESERVE) {
        (void)printf(", for %s, delivered %d", m.y == NOBODY ? "itself" : name(m.y), m.x);
    } else if (m.type == MSG_ANNOUNCE || m.type == MSG_POSTED || m.type == MSG_DATA) {
        (void)printf(", group %d%s", m.x & 15, m.x & DATA_JUNK ? ", junk" : "");
    } else if (m.type == MSG_TOKEN || m.type == MSG_HANDOFF) {
        (void)printf(", index %d", m.x);
    } else if (m.type == MSG_GRANT) {
        (void)printf(", prefix %d", m.x);
    }
    (void)printf(")");
}

void moves_print(const state *s, move m) {
    static const char *const plain[MOVES_COUNT] = {[MOVE_CANCEL] = "the client cancels",
                                                   [MOVE_CRASH] = "CRASH of",
                                                   [MOVE_RESTART] = "restart of",
                                                   [MOVE_FREEZE] = "FREEZE of",
                                                   [MOVE_THAW] = "thaw of",
                                                   [MOVE_TAKE_PAGES] = "pages for the prompt at",
                                                   [MOVE_COMPUTE] = "a page computed at",
                                                   [MOVE_GRANT] = "granted at",
                                                   [MOVE_DECODE] = "a token made at",
                                                   [MOVE_PREEMPT] = "PREEMPTED at",
                                                   [MOVE_LEASE_P] = "the lease ends at",
                                                   [MOVE_LEASE_D] = "the lease ends at",
                                                   [MOVE_LEASE_PARKED] = "a parked grant ends at",
                                                   [MOVE_GATEWAY_DIES] = "DEATH of",
                                                   [MOVE_HAND_BACK] = "all handed back by",
                                                   [MOVE_LEAVE] = "drained: end of"};
    (void)printf("    ");
    switch ((move_type)m.type) {
        case MOVE_START:
        case MOVE_DISPATCH:
            (void)printf("%s sends r%d to %s and %s", name(gateway_of(m.a)), m.a,
                         m.b == NOBODY ? "nobody" : name(m.b), name(m.c));
            break;
        case MOVE_DELIVER:
        case MOVE_REFUSE:
            (void)printf("%s > %s  ", name(m.a), name(m.b));
            print_msg(s->wires[m.a][m.b].list[0]);
            (void)printf("%s", m.type == MOVE_REFUSE ? ", which is REFUSED" : "");
            break;
        case MOVE_DATA:
            (void)printf("%s > %s  ", name(m.a), name(m.b));
            print_msg(s->data[m.a - FIRST_P][m.b - FIRST_D].list[0]);
            break;
        case MOVE_FENCE:
            (void)printf("%s fences %s", name(m.b), name(m.a));
            break;
        case MOVE_CUT:
            (void)printf("the link %s - %s is CUT", name(m.a), name(m.b));
            break;
        case MOVE_TEAR:
            (void)printf("%s aborts its channel to %s", name(m.a), name(m.b));
            break;
        case MOVE_CANCEL:
            (void)printf("%s r%d", plain[m.type], m.a);
            break;
        case MOVE_CRASH:
            (void)printf("%s %s, what it sent %s", plain[m.type], name(m.a),
                         m.b ? "still arrives" : "is lost");
            break;
        case MOVE_RESTART:
        case MOVE_FREEZE:
        case MOVE_THAW:
        case MOVE_GATEWAY_DIES:
        case MOVE_HAND_BACK:
        case MOVE_LEAVE:
            (void)printf("%s %s", plain[m.type], name(m.a));
            break;
        default:
            (void)printf("%s %s, r%d", plain[m.type], name(m.a), m.b);
            break;
    }
    (void)printf("\n");
}

void print_state(const state *s) {
    for (int r = 0; r < now.requests; r++) {
        const g_record *g = &s->g[r];
        (void)printf("    r%d: gateway state %d, attempt %d at %s, %s, delivered %d;", r, g->state,
                     g->attempt, name(g->p), name(g->d), g->delivered);
        for (int i = 0; i < now.prefills; i++) {
            const p_record *p = &s->p[i][r];
            if (p->used) {
                (void)printf(" P%d(a%d, %d pages computed%s%s)", i + 1, p->attempt, p->computed,
                             p->granted ? ", granted" : "", p->handed ? ", handed over" : "");
            }
        }
        for (int i = 0; i < now.decodes; i++) {
            const d_record *d = &s->d[i][r];
            if (d->state != D_NONE) {
                static const char *const names[] = {"", "queued", "reserved", "decoding"};
                (void)printf(" D%d(a%d, %s)", i + 1, d->attempt, names[d->state]);
            }
        }
        (void)printf("\n");
    }
    for (int w = 0; w < WORKERS_MAX; w++) {
        for (int i = 0; i < PAGES_MAX; i++) {
            const page *p = &s->pages[w][i];
            if (!page_free(p)) {
                (void)printf("    page %d of %s: held by %d, in %d transfers\n", i,
                             name(FIRST_P + w), p->holders, p->pins[0] + p->pins[1]);
            }
        }
    }
}
