/* marks.c -- tombstones and parked grants: a ring in the order of expiry, found by request. */
#include "engine/core/marks.h"

#include "engine/base/check.h"

/* Twice the slots that are needed: as many holes as marks have gathered when the ring is moved
 * together, so that a mark costs the same however many there are. */
static uint32_t marks_slots(uint32_t count_max) {
    CHECK(count_max > 0 && count_max <= UINT32_MAX / 2);
    return 2 * count_max;
}

uint64_t marks_bytes(uint32_t count_max) {
    return (uint64_t)marks_slots(count_max) * sizeof(marks_entry) + (uint64_t)count_max * 3 * 17 +
           4096;
}

status marks_open(marks *m, arena *a, uint32_t count_max, uint64_t seed) {
    *m = (marks){.count_max = count_max, .slots = marks_slots(count_max)};
    m->entries = ARENA_TAKE(a, m->slots, marks_entry);
    if (!m->entries) {
        return STATUS_NOMEM;
    }
    return hash_open(&m->by_request, a, count_max, seed);
}

/* Closes up the holes at the old end. */
static void marks_trim(marks *m) {
    while (m->span > 0 && !m->entries[m->first].used) {
        m->first = (m->first + 1) % m->slots;
        m->span--;
    }
    CHECK_LE(m->by_request.count, m->span);
}

static void marks_clear(marks *m, marks_entry *e) {
    CHECK(e->used);
    CHECK(hash_delete(&m->by_request, e->request, NULL));
    e->used = false;
}

const marks_entry *marks_get(const marks *m, request_id request) {
    uint64_t at;
    if (!hash_get(&m->by_request, request, &at)) {
        return NULL;
    }
    CHECK_LT(at, m->slots);
    CHECK(m->entries[at].used && m->entries[at].request == request);
    return &m->entries[at];
}

/* Moves the marks together, so that the holes between them can be used. */
static void marks_compact(marks *m) {
    uint32_t kept = 0;
    for (uint32_t i = 0; i < m->span; i++) {
        marks_entry *e = &m->entries[(m->first + i) % m->slots];
        uint32_t to = (m->first + kept) % m->slots;
        if (e->used) {
            CHECK(hash_put(&m->by_request, e->request, to));
            e->used = false;
            m->entries[to] = *e;
            m->entries[to].used = true;
            kept++;
        }
    }
    m->span = kept;
    CHECK_EQ(m->span, m->by_request.count);
}

bool marks_full(const marks *m) {
    CHECK_LE(m->by_request.count, m->count_max);
    return m->by_request.count == m->count_max;
}

void marks_put(marks *m, const marks_entry *e) {
    const marks_entry *old = marks_get(m, e->request);
    if (old) {
        if (old->attempt > e->attempt) {
            return;
        }
        marks_drop(m, e->request);
    }
    if (marks_full(m)) {
        marks_clear(m, &m->entries[m->first]);
        marks_trim(m);
    }
    if (m->span == m->slots) {
        marks_compact(m);
    }
    CHECK_LT(m->span, m->slots);
    uint32_t at = (m->first + m->span) % m->slots;
    m->entries[at] = *e;
    m->entries[at].used = true;
    m->span++;
    CHECK(hash_put(&m->by_request, e->request, at));
}

void marks_drop(marks *m, request_id request) {
    const marks_entry *e = marks_get(m, request);
    if (e) {
        marks_clear(m, &m->entries[e - m->entries]);
        marks_trim(m);
    }
}

void marks_drop_peer(marks *m, uint32_t peer) {
    for (uint32_t i = 0; i < m->span; i++) {
        marks_entry *e = &m->entries[(m->first + i) % m->slots];
        if (e->used && e->peer == peer) {
            marks_clear(m, e);
        }
    }
    marks_trim(m);
}

void marks_expire(marks *m, int64_t now_us) {
    while (m->span > 0 && m->entries[m->first].expires_us <= now_us) {
        marks_clear(m, &m->entries[m->first]);
        marks_trim(m);
    }
}

uint32_t marks_count(const marks *m) {
    return m->by_request.count;
}
