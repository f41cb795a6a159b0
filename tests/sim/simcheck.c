/* simcheck.c -- what must hold: at every tick (or event) of a worker, after a gateway's death. */
#include "engine/base/check.h"
#include "engine/core/core_state.h"
#include "tests/sim/sim.h"

/* A record belongs to a gateway that is there: what a dead one asked for is nobody's [I3]. */
static void check_owners(sim *s, uint32_t w) {
    const core *c = s->workers[w].core;
    for (int role = 0; role < RECORD_ROLES; role++) {
        for (const record *r = c->records.first[role]; r; r = r->next) {
            if (!c->links.list[r->gateway].up) {
                sim_fail(s, "worker %u holds request %llu for a gateway that is gone [I3]", w,
                         (unsigned long long)r->request);
                return;
            }
        }
    }
}

/* Every wait ends by itself [I6]: nothing is overdue by more than the tick that looks. */
static void check_deadlines(sim *s, uint32_t w) {
    const core *c = s->workers[w].core;
    if (s->now_us <= s->workers[w].process.thaw_us + 1) {
        return; /* it has just woken up and has not looked at the time yet */
    }
    int64_t late_us = sim_clock(s, w) - 2 * c->options.heartbeat_us;
    for (const record *r = c->records.first[RECORD_PREFILL]; r; r = r->next) {
        if (r->lease_us < late_us) {
            sim_fail(s, "worker %u: the lease of %llu is over and it is still there [I6]", w,
                     (unsigned long long)r->request);
        }
    }
    for (const record *r = c->records.first[RECORD_DECODE]; r; r = r->next) {
        if (r->state != RECORD_DECODING && r->lease_us < late_us) {
            sim_fail(s, "worker %u: the lease of %llu is over and it is still there [I6]", w,
                     (unsigned long long)r->request);
        }
    }
}

/* The gateway renews in time: with nothing wrong, no lease ends while it is still wanted. */
static void check_leases(sim *s, uint32_t w) {
    core_stats stats;
    core_get_stats(s->workers[w].core, &stats);
    bool renewed_in_time = s->counts.faults == 0 && s->worker_lease_us == s->lease_us;
    if (renewed_in_time && stats.leases_expired > 0) {
        sim_fail(s, "worker %u: a lease ended that its gateway renews [I6]", w);
    }
}

/* At the end of a drain everything went back [I6]. */
static void check_drained(sim *s, uint32_t w) {
    const core *c = s->workers[w].core;
    if (s->workers[w].handed_back &&
        c->records.lives[RECORD_PREFILL] + c->records.lives[RECORD_DECODE] > 0) {
        sim_fail(s, "worker %u holds a request past the end of its drain [I6]", w);
    }
}

void simcheck_worker(sim *s, uint32_t w) {
    check_drained(s, w);
    check_leases(s, w);
    core_validate(s->workers[w].core); /* recounts every page [I3] */
    check_owners(s, w);
    check_deadlines(s, w);
}

void simcheck_stepping(sim *s, uint32_t w, const core_batch *b) {
    const core *c = s->workers[w].core;
    for (int32_t i = 0; i < b->seqs_count; i++) {
        for (int32_t k = 0; k < b->seqs[i].pages_count; k++) {
            uint32_t page = b->seqs[i].pages[k];
            if (blocks_references(c->blocks, page) + blocks_pins(c->blocks, page) == 0) {
                sim_fail(s, "worker %u: a step touches page %u, which is free [I4]", w, page);
            }
        }
    }
}

void simcheck_pinned(sim *s, uint32_t w, const uint32_t *pages, uint32_t count, const char *what) {
    for (uint32_t i = 0; i < count; i++) {
        if (blocks_pins(s->workers[w].core->blocks, pages[i]) == 0) {
            sim_fail(s, "worker %u: a transfer %s page %u, which is not pinned [I4]", w, what,
                     pages[i]);
        }
    }
}

/* Within a second of a gateway's death each worker that runs has read the end of its link, and with
 * it let go of what it held for that gateway (check_owners). */
void simcheck_gone(sim *s, uint32_t g, uint32_t life, int64_t died_us) {
    for (uint32_t w = 0; w < s->workers_count; w++) {
        const sim_worker *k = &s->workers[w];
        if (!k->process.running || k->process.frozen || k->process.thaw_us > died_us) {
            continue;
        }
        for (uint32_t i = 0; i < SIM_SLOTS; i++) {
            const sim_slot *p = &k->slots[i];
            if (!p->used || p->kind != CORE_GATEWAY || p->gateway != g) {
                continue;
            }
            const sim_link *l = &s->links[p->link];
            if (l->ends[0].life == life && l->ends[1].last_us <= s->now_us) {
                sim_fail(s, "worker %u has not noticed in a second that gateway %u died [I3]", w,
                         g);
            }
        }
        simcheck_worker(s, w);
    }
}

void simcheck_gate(sim *s, uint32_t g) {
    const gate_counts *c = gate_counters(s->gateways[g].gate);
    uint64_t most =
        s->gate_options.retry_burst + (c->opened * s->gate_options.retry_percent + 99) / 100;
    if (c->retries_spent > most) {
        sim_fail(s, "%llu retries of %llu requests [I8]", (unsigned long long)c->retries_spent,
                 (unsigned long long)c->opened);
    }
    for (uint32_t i = 0; i < s->requests_count; i++) {
        if (s->requests[i].params.prompt_logprobs) {
            most = UINT64_MAX; /* scores that do not come cost a retry, too */
        }
    }
    if (most != UINT64_MAX && c->retries_spent > s->gateways[g].chargeable) {
        sim_fail(s, "a retry was charged for a death, a lost link or a drain [I8]");
    }
    if (c->mismatches > 0) {
        sim_fail(s, "a token was told twice, and differently [I5]");
    }
}

/* When nothing changes any more, a gateway knows exactly which pages each of its workers has. */
void simcheck_index(sim *s, uint32_t g) {
    const sim_gateway *k = &s->gateways[g];
    uint64_t entries = 0;
    for (uint32_t w = 0; w < s->workers_count; w++) {
        if (!k->peers[w].used || !k->peers[w].joined || !s->workers[w].process.running) {
            continue;
        }
        const cachelog *log = prefix_log(s->workers[w].core->prefix);
        entries += log->counts.count;
        for (uint32_t i = 0; i < log->pages; i++) {
            pageindex_set holders = {{0}};
            pageindex_holders(router_index(k->router), log->names[i], &holders);
            if (log->names[i] && !pageindex_set_has(&holders, w)) {
                sim_fail(s, "gateway %u does not know of a page that worker %u has", g, w);
                return;
            }
        }
    }
    uint64_t known = router_index_count(k->router).entries;
    if (known != entries) {
        sim_fail(s, "gateway %u knows of %llu pages, and there are %llu", g,
                 (unsigned long long)known, (unsigned long long)entries);
    }
}
