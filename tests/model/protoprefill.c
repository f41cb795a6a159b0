/* protoprefill.c -- the prefill worker's column of the table. */
#include <string.h>

#include "tests/model/protomodel.h"

static p_record *record(state *s, int w, int r) {
    return &s->p[w - FIRST_P][r];
}

static const p_record *peek(const state *s, int w, int r) {
    return &s->p[w - FIRST_P][r];
}

static msg about(int r, const p_record *p, msg_type type) {
    return (msg){.type = (uint8_t)type, .request = (uint8_t)r, .attempt = p->attempt};
}

static bool any_pages(const p_record *p) {
    return p->pages[0] != 0 || p->pages[1] != 0;
}

static void drop_pages(state *s, int w, int r) {
    p_record *p = record(s, w, r);
    for (int i = 0; i < PROMPT_PAGES_MAX; i++) {
        if (p->pages[i]) {
            page *at = page_at(s, w, p->pages[i] - 1);
            if (!on(RULE_SOURCEPIN)) {
                at->pins[0] = at->pins[1] = 0;
            }
            page_drop(s, w, p->pages[i]);
            p->pages[i] = 0;
        }
    }
    p->computed = 0;
}

void p_leave(state *s, int w, int r) {
    p_record *p = record(s, w, r);
    drop_pages(s, w, r);
    *p = (p_record){
        .park_attempt = p->park_attempt, .park_d = p->park_d, .park_prefix = p->park_prefix};
}

static void say_draining(state *s, int w, int r) {
    msg m = about(r, record(s, w, r), MSG_REJECT);
    m.x = 1;
    say(s, w, gateway_of(r), m);
}

void p_hand_back(state *s, int w) {
    for (int r = 0; r < now.requests; r++) {
        if (record(s, w, r)->used) {
            say_draining(s, w, r);
            p_leave(s, w, r);
        }
        p_record *p = record(s, w, r);
        p->park_attempt = p->park_d = p->park_prefix = 0;
    }
}

void p_reset(state *s, int w) {
    memset(s->p[w - FIRST_P], 0, sizeof s->p[0]);
    memset(s->pages[w - FIRST_P], 0, sizeof s->pages[0]);
}

static void lose_grant(p_record *p) {
    p->granted = p->announced = p->handed = 0;
}

/* Announces what is finished, hands over when that is all. */
static void push_on(state *s, int w, int r) {
    p_record *p = record(s, w, r);
    while (p->used && p->granted && p->announced < p->computed) {
        msg m = about(r, p, MSG_ANNOUNCE);
        m.x = p->announced++;
        say(s, w, p->d, m);
    }
    if (p->used && p->granted && p->computed == now.prompt_pages && p->sampled && !p->handed) {
        msg m = about(r, p, MSG_HANDOFF);
        m.x = p->first;
        p->handed = 1;
        say(s, w, p->d, m);
    }
}

static void take_grant(p_record *p, int prefix) {
    p->granted = p->was_granted = 1;
    p->prefix = p->announced = (uint8_t)prefix;
}

/* ---- messages ------------------------------------------------------------------------------- */

static void send_first(state *s, int w, int r) {
    p_record *p = record(s, w, r);
    msg m = about(r, p, MSG_TOKEN);
    m.x = p->first;
    say(s, w, gateway_of(r), m);
}

static void rebind(state *s, int w, int r, msg m) {
    p_record *p = record(s, w, r);
    p->attempt = m.attempt;
    p->d = m.y;
    lose_grant(p);
    bool handed_on = m.x == p->first + 1 && p->sampled && !on(RULE_PROGRESS);
    if (m.x != p->first && !handed_on) {
        drop_pages(s, w, r);
        p->sampled = 0;
        p->first = m.x;
    } else if (p->sampled && m.x == p->first) {
        send_first(s, w, r);
    }
}

static void on_submit(state *s, int w, msg m) {
    int r = m.request;
    p_record *p = record(s, w, r);
    bool retarget = m.z != 0;
    if (p->used && m.attempt <= p->attempt) {
        violate("an impossible SUBMIT");
        return;
    }
    if (p->used) {
        rebind(s, w, r, m);
    } else if (retarget && !on(RULE_FULLSUBMIT)) {
        return; /* it holds nothing, and the message brings nothing */
    } else {
        p->used = 1;
        p->attempt = m.attempt;
        p->d = m.y;
        p->first = m.x;
    }
    if (p->park_attempt == m.attempt && p->park_d == m.y) {
        take_grant(p, p->park_prefix);
    }
    if (p->park_attempt <= m.attempt) {
        p->park_attempt = p->park_d = p->park_prefix = 0;
    }
    if (has(s->draining, w)) {
        p_hand_back(s, w);
        return;
    }
    push_on(s, w, r);
}

static void on_grant(state *s, int w, int from, msg m) {
    p_record *p = record(s, w, m.request);
    bool its = p->used && p->attempt == m.attempt && p->d == from;
    if (its || (!on(RULE_BUMP) && p->used && !p->granted)) {
        take_grant(p, m.x);
        push_on(s, w, m.request);
    } else if ((!p->used || m.attempt > p->attempt) && on(RULE_PARK) &&
               m.attempt >= p->park_attempt) {
        p->park_attempt = m.attempt;
        p->park_d = (uint8_t)from;
        p->park_prefix = m.x;
    }
}

static void on_posted(state *s, int w, int from, msg m) {
    const p_record *p = record(s, w, m.request);
    bool wanted = p->used && p->attempt == m.attempt && p->d == from && p->granted &&
                  p->computed > m.x && p->pages[m.x] != 0;
    if ((!wanted && !on(RULE_JUNK)) || has_end(&s->wires[from][w])) {
        return;
    }
    msg out = {.type = MSG_DATA, .request = m.request, .attempt = m.attempt, .x = m.x, .y = m.y};
    if (wanted) {
        out.z = p->pages[m.x];
        page_at(s, w, out.z - 1)->pins[from - FIRST_D]++;
    } else {
        out.x |= DATA_JUNK;
    }
    queue *q = &s->data[w - FIRST_P][from - FIRST_D];
    if (q->count == QUEUE_MAX) {
        violate("the model's bound: too many transfers");
        return;
    }
    q->list[q->count++] = out;
}

void p_link_end(state *s, int w, int d) {
    queue *q = &s->data[w - FIRST_P][d - FIRST_D];
    memset(q, 0, sizeof *q);
    for (int i = 0; i < now.pool_p; i++) {
        page *p = page_at(s, w, i);
        p->pins[d - FIRST_D] = 0;
        if (page_free(p)) {
            p->content = p->found ? p->content : 0;
        }
    }
    for (int r = 0; r < now.requests; r++) {
        p_record *p = record(s, w, r);
        if (p->park_d == d) {
            p->park_attempt = p->park_d = p->park_prefix = 0;
        }
        if (p->used && p->d == d) {
            lose_grant(p);
            say(s, w, gateway_of(r), about(r, p, MSG_LINK_LOST));
        }
    }
}

void p_hear(state *s, int w, int from, msg m) {
    p_record *p = record(s, w, m.request);
    switch (m.type) {
        case MSG_END:
            if (is_g(from)) {
                worker_gateway_end(s, w, from);
            } else {
                p_link_end(s, w, from);
            }
            break;
        case MSG_SUBMIT:
            on_submit(s, w, m);
            break;
        case MSG_GRANT:
            on_grant(s, w, from, m);
            break;
        case MSG_REFUSED:
            break; /* a hint */
        case MSG_POSTED:
            on_posted(s, w, from, m);
            break;
        case MSG_ADOPTED: {
            bool its = p->attempt == m.attempt && p->d == from && p->granted;
            if (p->used && (its || !on(RULE_BUMP))) {
                p_leave(s, w, m.request);
            }
            break;
        }
        case MSG_CANCEL:
            if (p->used && p->attempt <= m.attempt) {
                p_leave(s, w, m.request);
            }
            if (p->park_attempt <= m.attempt) {
                p->park_attempt = p->park_d = p->park_prefix = 0;
            }
            break;
        default:
            violate("an impossible message at a prefill worker");
    }
}

/* ---- computing ------------------------------------------------------------------------------ */

/* What `r` may take from: never an older request for a younger, ungranted one [N1]. */
static bool may_evict(const state *s, int w, int r, int victim) {
    const p_record *p = peek(s, w, r);
    const p_record *v = peek(s, w, victim);
    bool pinned = v->granted || (!on(RULE_EVICT) && v->was_granted);
    bool fair = p->granted || r < victim || !on(RULE_AGE);
    return victim != r && v->used && any_pages(v) && !pinned && fair;
}

/* Whoever is older and finds no pages is waited for. */
static bool starved_elder(const state *s, int w, int r) {
    for (int i = 0; i < r; i++) {
        const p_record *p = peek(s, w, i);
        if (p->used && !any_pages(p) && !peek(s, w, r)->granted) {
            return true;
        }
    }
    return false;
}

bool p_may_start(const state *s, int w, int r) {
    const p_record *p = peek(s, w, r);
    if (!p->used || any_pages(p) || (on(RULE_AGE) && starved_elder(s, w, r))) {
        return false;
    }
    if (pages_free(s, w) >= pages_missing(s, w, r)) {
        return true;
    }
    for (int i = 0; i < now.requests; i++) {
        if (may_evict(s, w, r, i)) {
            return true;
        }
    }
    return false;
}

/* Takes all pages of the prompt, evicting the youngest first, or none. */
void p_start(state *s, int w, int r) {
    p_record *p = record(s, w, r);
    int found = page_find_prefix(s, w, r);
    if (found >= 0) {
        p->pages[0] = (uint8_t)(found + 1);
        if (page_at(s, w, found)->content != content_of(r, 0)) {
            violate("S1: a page was found that does not hold what it was found as");
        }
    }
    for (int v = now.requests - 1;
         v >= 0 && pages_free(s, w) < now.prompt_pages - (found >= 0 ? 1 : 0); v--) {
        if (may_evict(s, w, r, v)) {
            drop_pages(s, w, v);
        }
    }
    if (pages_free(s, w) < now.prompt_pages - (found >= 0 ? 1 : 0)) {
        drop_pages(s, w, r);
        return;
    }
    for (int i = found >= 0 ? 1 : 0; i < now.prompt_pages; i++) {
        p->pages[i] = (uint8_t)(page_take(s, w) + 1);
    }
    p->computed = found >= 0 ? 1 : 0;
    push_on(s, w, r);
}

void p_compute(state *s, int w, int r) {
    p_record *p = record(s, w, r);
    page *at = page_at(s, w, p->pages[p->computed] - 1);
    at->content = content_of(r, p->computed);
    at->found = at->content == 1;
    for (int i = 0; at->found && i < now.pool_p; i++) {
        page *other = page_at(s, w, i);
        at->found = other != at && other->found ? 0 : at->found; /* the first stays findable */
    }
    p->computed++;
    if (p->computed == now.prompt_pages && !p->sampled) {
        p->sampled = 1;
        send_first(s, w, r);
        if (p->first == now.tokens - 1) {
            p_leave(s, w, r);
            return;
        }
    }
    push_on(s, w, r);
}
