/* hubload.c -- sums of differences. */
#include "server/control/hubload.h"

/* Where this gateway is, or may be put: an empty place, else that of one which has left. */
static uint32_t place_of(const hubload *l, uint64_t epoch) {
    uint32_t empty = LIMIT_GATEWAYS, left = LIMIT_GATEWAYS;
    for (uint32_t i = 0; i < LIMIT_GATEWAYS; i++) {
        if (l->gateways[i].epoch == epoch) {
            return i;
        }
        if (l->gateways[i].epoch == 0) {
            empty = i;
        } else if (!l->gateways[i].here) {
            left = i;
        }
    }
    return empty < LIMIT_GATEWAYS ? empty : left;
}

static bool grew(const message_load *now, const message_load *last) {
    return now->requests >= last->requests && now->prompt_tokens >= last->prompt_tokens &&
           now->prompt_squares >= last->prompt_squares && now->finished >= last->finished &&
           now->finished_tokens >= last->finished_tokens;
}

void hubload_told(hubload *l, uint64_t epoch, const message_load *m, int64_t now_us) {
    uint32_t i = place_of(l, epoch);
    if (i == LIMIT_GATEWAYS || epoch == 0) {
        return;
    }
    bool known =
        l->gateways[i].epoch == epoch && now_us - l->gateways[i].told_us <= HUBLOAD_SILENCE_US;
    const message_load *last = &l->gateways[i].last;
    if (known && grew(m, last)) {
        l->sums.requests += (double)(m->requests - last->requests);
        l->sums.prompt_tokens += (double)(m->prompt_tokens - last->prompt_tokens);
        l->sums.prompt_squares += (double)(m->prompt_squares - last->prompt_squares);
        l->sums.finished += (double)(m->finished - last->finished);
        l->sums.finished_tokens += (double)(m->finished_tokens - last->finished_tokens);
    }
    for (uint32_t k = 0; k < m->latencies_count; k++) {
        l->latencies[l->latencies_count++ % HUBLOAD_LATENCIES] = m->latencies[k];
    }
    l->gateways[i].epoch = epoch;
    l->gateways[i].here = true;
    l->gateways[i].told_us = now_us;
    l->gateways[i].last = *m;
    l->gateways[i].last.latencies_count = 0;
    l->gateways[i].last.latencies = NULL; /* borrowed */
}

void hubload_left(hubload *l, uint64_t epoch) {
    for (uint32_t i = 0; i < LIMIT_GATEWAYS; i++) {
        if (epoch && l->gateways[i].epoch == epoch) {
            l->gateways[i].here = false;
        }
    }
}

uint64_t hubload_held(const hubload *l) {
    uint64_t held = 0;
    for (uint32_t i = 0; i < LIMIT_GATEWAYS; i++) {
        held += l->gateways[i].here ? l->gateways[i].last.held : 0;
    }
    return held;
}
