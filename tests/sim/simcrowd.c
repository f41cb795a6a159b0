/* simcrowd.c -- one P and one D without room, for minutes: nobody may wait for the other for ever.
 *
 * Both pools hold hardly more than the largest request needs, and forty-eight requests come at
 * once. So D has always somebody waiting for pages, and P prompts that are finished and wait for
 * D's grant, with others behind them that wait for their pages. */
#include "engine/core/core_state.h"
#include "tests/sim/sim.h"

enum { CROWD_LAYER_US = 100000 };

void simcrowd_shape(sim *s) {
    s->requests_count = SIM_REQUESTS_MAX;
    s->layer_us = CROWD_LAYER_US;
    s->local_prefill_max = 0;
    s->strict = true;
    s->gate_options.pending_deadline_us = 600000000;
    s->gate_options.retry_burst = 100000;
    s->gate_options.attempts_max = 100000;
}

/* Somebody waits for pages of D. */
static bool no_room_to_decode(const core *c) {
    for (const record *r = c->records.first[RECORD_DECODE]; r; r = r->next) {
        if (r->state == RECORD_QUEUED) {
            return true;
        }
    }
    return false;
}

/* What has pages on P is finished, and somebody waits for pages. */
static bool full_of_finished(const core *c) {
    uint32_t finished = 0, waiting = 0;
    for (const record *r = c->records.first[RECORD_PREFILL]; r; r = r->next) {
        bool has_pages = r->seqs[0].pages_count > 0;
        if (has_pages && r->computed < r->tokens_count) {
            return false;
        }
        finished += has_pages;
        waiting += !has_pages;
    }
    return finished > 0 && waiting > 0;
}

void simcrowd_measure(sim *s, int64_t until_us) {
    bool full[2] = {false, false}; /* P, D */
    for (uint32_t w = 0; w < s->workers_count; w++) {
        const core *c = s->workers[w].process.running ? s->workers[w].core : NULL;
        if (c && s->workers[w].role == MESSAGE_ROLE_PREFILL) {
            full[0] = full_of_finished(c);
        } else if (c) {
            full[1] = no_room_to_decode(c);
        }
    }
    if (full[0] && full[1]) {
        s->counts.crowd_us += (uint64_t)(until_us - s->now_us);
    }
}
