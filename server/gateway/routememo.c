/* routememo.c -- two direct-mapped tables. */
#include "server/gateway/routememo.h"

#include "engine/base/check.h"
#include "engine/base/rng.h"

static uint32_t count_of(uint32_t pages_max) {
    uint32_t count = 1;
    while (count < pages_max) {
        count *= 2;
    }
    return count;
}

uint64_t routememo_bytes(uint32_t pages_max) {
    return (uint64_t)count_of(pages_max) * sizeof(routememo_page) +
           ROUTEMEMO_SESSIONS * sizeof(routememo_session) + 256;
}

status routememo_open(routememo *m, arena *a, uint32_t pages_max) {
    CHECK(pages_max >= 1 && pages_max <= 1u << 24);
    m->pages_count = count_of(pages_max);
    m->pages = ARENA_TAKE(a, m->pages_count, routememo_page);
    m->sessions = ARENA_TAKE(a, ROUTEMEMO_SESSIONS, routememo_session);
    return m->pages && m->sessions ? STATUS_OK : STATUS_NOMEM;
}

static routememo_page *place_of(const routememo *m, uint64_t name) {
    return &m->pages[(uint32_t)rng_mix(name) & (m->pages_count - 1)];
}

/* Milliseconds wrap after seven weeks: only differences count. */
static uint32_t ms_of(int64_t us) {
    return (uint32_t)(us / 1000);
}

static bool passed(uint32_t until_ms, int64_t now_us) {
    return (int32_t)(until_ms - ms_of(now_us)) <= 0;
}

void routememo_expect(routememo *m, uint64_t name, uint32_t worker, int64_t now_us,
                      int64_t until_us) {
    CHECK(worker < ROUTEMEMO_NOBODY && until_us > now_us);
    routememo_page *p = place_of(m, name);
    if (p->name != name) {
        *p = (routememo_page){.name = name};
        for (int k = 0; k < ROUTEMEMO_WAYS; k++) {
            p->workers[k] = ROUTEMEMO_NOBODY;
        }
    }
    int k = 0;
    while (k < ROUTEMEMO_WAYS - 1 && p->workers[k] != worker) {
        k++;
    }
    for (; k > 0; k--) {
        p->workers[k] = p->workers[k - 1];
        p->until_ms[k] = p->until_ms[k - 1];
    }
    p->workers[0] = (uint16_t)worker;
    p->until_ms[0] = ms_of(until_us);
}

void routememo_holders(const routememo *m, uint64_t name, int64_t now_us, pageindex_set *out) {
    const routememo_page *p = place_of(m, name);
    for (int k = 0; p->name == name && k < ROUTEMEMO_WAYS; k++) {
        if (p->workers[k] != ROUTEMEMO_NOBODY && !passed(p->until_ms[k], now_us)) {
            pageindex_set_add(out, p->workers[k]);
        }
    }
}

void routememo_prefetch(const routememo *m, uint64_t name) {
    __builtin_prefetch(place_of(m, name));
}

static routememo_session *seat_of(const routememo *m, uint64_t session) {
    return &m->sessions[rng_mix(session) % ROUTEMEMO_SESSIONS];
}

routememo_session routememo_session_of(const routememo *m, uint64_t session) {
    const routememo_session *s = seat_of(m, session);
    if (session == 0 || s->session != session) {
        return (routememo_session){session, ROUTEMEMO_NOBODY, ROUTEMEMO_NOBODY};
    }
    return *s;
}

void routememo_session_set(routememo *m, routememo_session s) {
    if (s.session != 0) {
        *seat_of(m, s.session) = s;
    }
}

void routememo_forget(routememo *m, uint32_t worker) {
    for (uint32_t i = 0; i < m->pages_count; i++) {
        for (int k = 0; k < ROUTEMEMO_WAYS && m->pages[i].name != 0; k++) {
            if (m->pages[i].workers[k] == worker) {
                m->pages[i].workers[k] = ROUTEMEMO_NOBODY;
            }
        }
    }
    for (int i = 0; i < ROUTEMEMO_SESSIONS; i++) {
        routememo_session *s = &m->sessions[i];
        s->prefill = s->prefill == worker ? ROUTEMEMO_NOBODY : s->prefill;
        s->decode = s->decode == worker ? ROUTEMEMO_NOBODY : s->decode;
    }
}
