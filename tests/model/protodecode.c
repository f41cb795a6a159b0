/* protodecode.c -- the decode worker's column of the table. */
#include <string.h>

#include "tests/model/protomodel.h"

static d_record *record(state *s, int w, int r) {
    return &s->d[w - FIRST_D][r];
}

static msg about(int r, const d_record *d, msg_type type) {
    return (msg){.type = (uint8_t)type, .request = (uint8_t)r, .attempt = d->attempt};
}

static void say_token(state *s, int w, int r, int index, bool wrong) {
    msg m = about(r, record(s, w, r), MSG_TOKEN);
    m.x = (uint8_t)index;
    m.y = wrong;
    say(s, w, gateway_of(r), m);
}

void d_leave(state *s, int w, int r) {
    d_record *d = record(s, w, r);
    for (int i = 0; i <= PROMPT_PAGES_MAX; i++) {
        if (d->pages[i]) {
            page_drop(s, w, d->pages[i]);
        }
    }
    *d = (d_record){0};
}

void d_hand_back(state *s, int w) {
    for (int r = 0; r < now.requests; r++) {
        d_record *d = record(s, w, r);
        if (d->state != D_NONE) {
            msg m = about(r, d, d->state == D_DECODING ? MSG_PREEMPTED : MSG_REFUSED);
            m.x = 1;
            say(s, w, gateway_of(r), m);
            d_leave(s, w, r);
        }
    }
}

void d_reset(state *s, int w) {
    memset(s->d[w - FIRST_D], 0, sizeof s->d[0]);
    memset(s->pages[w - FIRST_P], 0, sizeof s->pages[0]);
}

/* ---- room ----------------------------------------------------------------------------------- */

/* The page past the prompt that the delivered tokens need already. */
static bool grown(const d_record *d) {
    return now.grow_at && d->first >= now.grow_at && on(RULE_PROGRESS);
}

bool d_may_grant(const state *s, int w, int r) {
    const d_record *d = &s->d[w - FIRST_D][r];
    int room = pages_free(s, w);
    int needed = on(RULE_ALLORNONE) ? pages_missing(s, w, r) + (grown(d) ? 1 : 0) : 1;
    return d->state == D_QUEUED && room >= needed;
}

/* A found prefix page may have been free: it is held before the others are taken. */
static bool take_pages(state *s, int w, int r) {
    d_record *d = record(s, w, r);
    int found = d->pages[0] ? -1 : page_find_prefix(s, w, r);
    if (found >= 0) {
        d->pages[0] = (uint8_t)(found + 1);
        if (page_at(s, w, found)->content != content_of(r, 0)) {
            violate("S1: a page was found that does not hold what it was found as");
        }
    }
    for (int i = 0; i < now.prompt_pages; i++) {
        if (d->pages[i]) {
            continue;
        }
        int taken = page_take(s, w);
        if (taken < 0) {
            return false; /* only without N5: it keeps what it has */
        }
        d->pages[i] = (uint8_t)(taken + 1);
        if (content_of(r, i) == 1 && !on(RULE_COMPLETE)) {
            page_at(s, w, taken)->found = 1; /* before anything has been written to it */
        }
    }
    if (grown(d)) {
        int taken = page_take(s, w);
        if (taken < 0) {
            return false;
        }
        d->pages[PROMPT_PAGES_MAX] = (uint8_t)(taken + 1);
    }
    d->prefix = found >= 0 ? 1 : 0;
    return true;
}

void d_grant(state *s, int w, int r) {
    d_record *d = record(s, w, r);
    if (!take_pages(s, w, r)) {
        return;
    }
    if (d->p == NOBODY) {
        d->state = D_DECODING;
        d->computed = d->prefix;
        say(s, w, gateway_of(r), about(r, d, MSG_ADOPTED));
        return;
    }
    d->state = D_RESERVED;
    d->arrived = d->announced = d->prefix; /* bit 0 */
    msg m = about(r, d, MSG_GRANT);
    m.x = d->prefix;
    say(s, w, d->p, m);
}

/* ---- messages ------------------------------------------------------------------------------- */

static void readopt(state *s, int w, int r, msg m) {
    d_record *d = record(s, w, r);
    d->attempt = m.attempt;
    say(s, w, gateway_of(r), about(r, d, MSG_ALREADY_ADOPTED));
    for (int i = m.x; on(RULE_REPLAY) && i < d->next; i++) {
        say_token(s, w, r, i, false);
    }
}

/* Without R8: the new attempt gets the pages of the old, as they are. */
static void reuse(state *s, int w, int r, msg m) {
    d_record *d = record(s, w, r);
    d->attempt = m.attempt;
    d->p = m.y;
    d->first = m.x;
    d->arrived = d->announced = d->prefix;
    d->handoff = 0;
    for (int i = d->prefix; i < now.prompt_pages; i++) {
        page *at = page_at(s, w, d->pages[i] - 1);
        at->pins[0] = at->pins[1] = 0;
        at->posted = 0;
    }
    msg grant = about(r, d, MSG_GRANT);
    grant.x = d->prefix;
    say(s, w, d->p, grant);
}

static void on_reserve(state *s, int w, msg m, bool refuse) {
    int r = m.request;
    d_record *d = record(s, w, r);
    if (d->state != D_NONE && m.attempt <= d->attempt) {
        violate("an impossible RESERVE");
        return;
    }
    if (d->state == D_DECODING && (d->p != NOBODY || d->computed == now.prompt_pages)) {
        readopt(s, w, r, m);
        return;
    }
    if (d->state == D_RESERVED && !on(RULE_SUPERSEDE) && m.y != NOBODY) {
        reuse(s, w, r, m);
        return;
    }
    d_leave(s, w, r);
    *d = (d_record){.state = D_QUEUED, .attempt = m.attempt, .p = m.y, .first = m.x};
    if (refuse) {
        say(s, w, on(RULE_REFUSEG) ? gateway_of(r) : m.y, about(r, d, MSG_REFUSED));
        d_leave(s, w, r);
    } else if (has(s->draining, w)) {
        d_hand_back(s, w);
    }
}

static void try_adopt(state *s, int w, int r) {
    d_record *d = record(s, w, r);
    uint8_t all = (uint8_t)((1 << now.prompt_pages) - 1);
    if (d->state != D_RESERVED || !d->handoff || (d->arrived != all && on(RULE_ADOPTALL))) {
        return;
    }
    if (d->arrived != all) {
        violate("S5: adopted before every group has arrived");
    }
    for (int i = 0; i < now.prompt_pages; i++) {
        page *at = page_at(s, w, d->pages[i] - 1);
        if (at->content == 1) {
            bool other = false;
            for (int k = 0; k < now.pool_d; k++) {
                other = other || (k != d->pages[0] - 1 && page_at(s, w, k)->found);
            }
            at->found = other ? at->found : 1;
        }
    }
    d->state = D_DECODING;
    d->next = (uint8_t)(d->first + 1);
    d->computed = (uint8_t)now.prompt_pages;
    say(s, w, d->p, about(r, d, MSG_ADOPTED));
    say(s, w, gateway_of(r), about(r, d, MSG_ADOPTED));
    if (on(RULE_FIRST)) {
        say_token(s, w, r, d->first, false);
    }
    d->p = 0;
    d->announced = d->arrived = d->handoff = 0;
}

static void on_announce(state *s, int w, int from, msg m) {
    d_record *d = record(s, w, m.request);
    if (d->state != D_RESERVED || d->attempt != m.attempt || d->p != from) {
        return; /* REJECT(announce): nothing depends on it */
    }
    page *at = page_at(s, w, d->pages[m.x] - 1);
    at->pins[from - FIRST_P]++;
    at->posted = (uint8_t)((m.request + 1) << 4 | m.attempt);
    d->announced |= (uint8_t)(1 << m.x);
    msg out = about(m.request, d, MSG_POSTED);
    out.x = m.x;
    out.y = (uint8_t)(d->pages[m.x] - 1);
    say(s, w, from, out);
}

void d_link_end(state *s, int w, int p) {
    queue *q = &s->data[p - FIRST_P][w - FIRST_D];
    memset(q, 0, sizeof *q);
    for (int i = 0; i < now.pool_d; i++) {
        page *at = page_at(s, w, i);
        at->pins[p - FIRST_P] = 0;
        if (page_free(at)) {
            at->posted = 0;
            at->content = at->found ? at->content : 0;
        }
    }
    for (int r = 0; r < now.requests; r++) {
        d_record *d = record(s, w, r);
        if ((d->state == D_QUEUED || d->state == D_RESERVED) && d->p == p) {
            say(s, w, gateway_of(r), about(r, d, MSG_LINK_LOST));
            d_leave(s, w, r);
        }
    }
}

void d_hear(state *s, int w, int from, msg m, bool refuse) {
    d_record *d = record(s, w, m.request);
    switch (m.type) {
        case MSG_END:
            if (is_g(from)) {
                worker_gateway_end(s, w, from);
            } else {
                d_link_end(s, w, from);
            }
            break;
        case MSG_RESERVE:
            on_reserve(s, w, m, refuse);
            break;
        case MSG_ANNOUNCE:
            on_announce(s, w, from, m);
            break;
        case MSG_HANDOFF:
            if (d->state == D_RESERVED && d->attempt == m.attempt && d->p == from) {
                d->handoff = 1;
                d->first = m.x;
                try_adopt(s, w, m.request);
            }
            break;
        case MSG_CANCEL:
            if (d->state != D_NONE && d->attempt <= m.attempt) {
                d_leave(s, w, m.request);
            }
            break;
        default:
            violate("an impossible message at a decode worker");
    }
}

/* ---- data ----------------------------------------------------------------------------------- */

/* P reads its page now, unless the bytes have left it already. */
static uint8_t read_source(state *s, int p, msg m, int w) {
    if (m.x & DATA_LEFT) {
        return m.z;
    }
    page *from = page_at(s, p, m.z - 1);
    uint8_t content = from->content;
    if (content != content_of(m.request, m.x & 15) ||
        (from->pins[w - FIRST_D] == 0 && on(RULE_SOURCEPIN))) {
        violate("S2: P's page was used again while it was being sent");
    }
    if (from->pins[w - FIRST_D] > 0) {
        page_unpin(from, w - FIRST_D);
    }
    return content;
}

void d_data(state *s, int p, int w, msg m) {
    bool junk = (m.x & DATA_JUNK) != 0;
    int group = m.x & 15;
    uint8_t content = junk ? 0 : read_source(s, p, m, w);
    page *at = page_at(s, w, m.y);
    uint8_t poster = (uint8_t)((m.request + 1) << 4 | m.attempt);
    if (at->pins[p - FIRST_P] == 0 || at->posted != poster) {
        violate("S2: a late write landed in a page that is not waiting for it");
        return;
    }
    bool quarantined = at->holders == 0;
    if (!junk && !quarantined) {
        at->content = content;
    }
    page_unpin(at, p - FIRST_P);
    d_record *d = record(s, w, m.request);
    if (!junk && !quarantined && d->state == D_RESERVED && d->attempt == m.attempt && d->p == p) {
        d->arrived |= (uint8_t)(1 << group);
        try_adopt(s, w, m.request);
    }
}

/* ---- computing ------------------------------------------------------------------------------ */

void d_compute(state *s, int w, int r) {
    d_record *d = record(s, w, r);
    page *at = page_at(s, w, d->pages[d->computed] - 1);
    at->content = content_of(r, d->computed);
    if (at->content == 1) {
        bool other = false;
        for (int k = 0; k < now.pool_d; k++) {
            other = other || page_at(s, w, k)->found;
        }
        at->found = !other;
    }
    d->computed++;
    if (d->computed == now.prompt_pages) {
        d->next = (uint8_t)(d->first + 1);
        say_token(s, w, r, d->first, false);
        if (d->next == now.tokens) {
            d_leave(s, w, r);
        }
    }
}

void d_preempt(state *s, int w, int r) {
    say(s, w, gateway_of(r), about(r, record(s, w, r), MSG_PREEMPTED));
    d_leave(s, w, r);
}

/* The page that the next token needs, if it needs one more; false: somebody was preempted. */
static bool grow(state *s, int w, int r) {
    d_record *d = record(s, w, r);
    if (now.grow_at == 0 || d->next < now.grow_at || d->pages[PROMPT_PAGES_MAX]) {
        return true;
    }
    int taken = page_take(s, w);
    if (taken >= 0) {
        d->pages[PROMPT_PAGES_MAX] = (uint8_t)(taken + 1);
        return true;
    }
    int victim = r;
    for (int i = 0; i < now.requests; i++) {
        victim = i > victim && record(s, w, i)->state == D_DECODING ? i : victim;
    }
    d_preempt(s, w, victim);
    return false;
}

void d_decode(state *s, int w, int r) {
    d_record *d = record(s, w, r);
    if (!grow(s, w, r)) {
        return;
    }
    bool wrong = false;
    for (int i = 0; i < now.prompt_pages; i++) {
        wrong = wrong || page_at(s, w, d->pages[i] - 1)->content != content_of(r, i);
    }
    say_token(s, w, r, d->next, wrong);
    if (++d->next == now.tokens) {
        d_leave(s, w, r);
    }
}
