/* admit.c -- Little's law at the gateway: wait = work ahead / rate. */
#include "server/gateway/admit.h"

enum {
    KNOWN_US = 200000,   /* busy time after which the measured rate is believed */
    TOLD_SHARE = 4,      /* an older measurement is not believed below this part of what is told */
    MEMORY_US = 2000000, /* busy time after which older counts weigh half */
    AHEAD_MS = 200,      /* work that workers have beside what they compute */
    AHEAD_MIN = 512,     /* tokens, likewise: two steps of the default size */
    AHEAD_REQUESTS = 2,  /* requests of a worker that are let through whatever their size */
    MARGIN_PERCENT = 75  /* of the objective: steps differ, and a shorter line loses nothing */
};

void admit_count(admit *a, const admit_fleet *f, bool waiting, int64_t now_us) {
    bool busy = waiting || a->sent_count > f->workers;
    if (busy && a->counted_us != 0) {
        a->busy_us += now_us - a->counted_us;
    }
    a->counted_us = busy ? now_us : 0;
    if (a->busy_us > MEMORY_US) {
        a->busy_us /= 2;
        a->done_work /= 2;
    }
}

void admit_sent(admit *a, uint64_t work) {
    a->sent_work += work;
    a->sent_count++;
}

void admit_over(admit *a, uint64_t work, bool done) {
    a->sent_work -= work;
    a->sent_count--;
    if (done && a->counted_us != 0) {
        a->done_work += work;
    }
}

bool admit_room(const admit *a, const admit_fleet *f, uint64_t work) {
    uint64_t workers = f->workers ? f->workers : 1;
    uint64_t most = f->told_rate * AHEAD_MS / 1000;
    if (most < AHEAD_MIN * workers) {
        most = AHEAD_MIN * workers;
    }
    return a->sent_count < AHEAD_REQUESTS * workers || a->sent_work + work <= most;
}

uint64_t admit_rate(const admit *a, const admit_fleet *f, bool waiting) {
    if (a->busy_us < KNOWN_US) {
        return f->told_rate;
    }
    uint64_t rate = a->done_work * 1000000 / (uint64_t)a->busy_us;
    uint64_t least = waiting ? 1 : f->told_rate / TOLD_SHARE;
    return rate > least ? rate : least;
}

admit_verdict admit_judge(const admit *a, const admit_fleet *f, const admit_request *r,
                          int64_t *wait_us) {
    uint64_t rate = admit_rate(a, f, r->waiting_work > 0);
    *wait_us = 0;
    if (a->slo_us == 0 || rate == 0 || f->workers == 0) {
        return ADMIT_TAKE;
    }
    /* Keys take turns: one with little waiting does not wait for all of another's. */
    uint64_t waiting = r->key_work * r->keys;
    if (waiting > r->waiting_work) {
        waiting = r->waiting_work;
    }
    uint64_t ahead = a->sent_work + waiting;
    /* A request too long for the objective by itself is not refused for that. */
    int64_t own_us = (int64_t)(r->own_work * 1000000 / rate);
    int64_t own_most_us = a->slo_us / 2;
    *wait_us = (int64_t)(ahead * 1000000 / rate) + (own_us < own_most_us ? own_us : own_most_us);
    if (ahead == 0 || *wait_us <= a->slo_us * MARGIN_PERCENT / 100) {
        return ADMIT_TAKE;
    }
    bool over_share = r->keys > 1 && r->key_work * r->keys > r->waiting_work;
    return over_share ? ADMIT_KEY_BUSY : ADMIT_SYSTEM_BUSY;
}
