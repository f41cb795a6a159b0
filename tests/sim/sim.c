/* sim.c -- one run: set up from the seed, let it happen, let the faults end, expect silence. */
#include "tests/sim/sim.h"

#include <stdarg.h>
#include <string.h>

#include "engine/base/check.h"
#include "engine/base/mem.h"
#include "engine/base/rng.h"

enum {
    LEASE_US = 30000000,
    QUEUE_US = 30000000,
    QUARANTINE_US = 30000000,
    SETTLE_US = 60000000, /* all requests have ended that long after the last fault is over */
    LAYER_US_MAX = 4000,
    EVENTS_MAX = 4000000, /* more is a livelock */
    TOLD_SEEDS = 5,       /* in one of so many, what gateways know of caches is compared */
    TOLD_US = 8000000     /* after this long: a heartbeat shows a loss, everything is told again */
};

/* ---- small things --------------------------------------------------------------------------- */

uint64_t sim_below(sim *s, uint64_t bound) {
    return rng_below(&s->rng, bound);
}

bool sim_chance(sim *s, uint64_t percent) {
    return sim_below(s, 100) < percent;
}

int64_t sim_delay(sim *s, int64_t typical_us) {
    uint64_t most = sim_chance(s, 3) ? 20 : 2;
    return 1 + (int64_t)sim_below(s, (uint64_t)typical_us * most);
}

int64_t sim_clock(const sim *s, uint32_t node) {
    return s->clocks[node].offset_us + s->now_us * s->clocks[node].rate_ppm / 1000000;
}

int64_t sim_when(const sim *s, uint32_t node, int64_t node_us) {
    int64_t rate = s->clocks[node].rate_ppm;
    int64_t us = node_us - s->clocks[node].offset_us;
    return us > INT64_MAX / 2000000 ? us : (us * 1000000 + rate - 1) / rate;
}

sim_process *sim_process_of(sim *s, uint32_t node) {
    CHECK_LT(node, SIM_WORLD);
    return node < SIM_WORKERS_MAX ? &s->workers[node].process
                                  : &s->gateways[node - SIM_WORKERS_MAX].process;
}

void sim_fail(sim *s, const char *format, ...) {
    if (s->failure[0] != '\0') {
        return; /* the first one is the one to look at */
    }
    va_list args;
    va_start(args, format);
    (void)vsnprintf(s->failure, sizeof(s->failure), format, args);
    va_end(args);
    sim_trace(s, "FAILURE %s", s->failure);
}

void sim_trace(sim *s, const char *format, ...) {
    if (!s->options.trace) {
        return;
    }
    va_list args;
    va_start(args, format);
    (void)printf("%10.6f  ", (double)s->now_us / 1e6);
    (void)vprintf(format, args);
    (void)printf("\n");
    va_end(args);
}

/* ---- set-up --------------------------------------------------------------------------------- */

static core_options worker_options(sim *s, uint32_t roles, uint32_t pages) {
    int32_t seqs = 4 + (int32_t)sim_below(s, 12);
    int32_t chunk = LIMIT_PAGE_TOKENS * (1 + (int32_t)sim_below(s, 4));
    return (core_options){.roles = roles,
                          .pages = pages,
                          .layers = s->layers,
                          .context_tokens = SIM_TOKENS_MAX,
                          .seqs_max = seqs,
                          .queue_max = sim_chance(s, 20) ? 1 + (int32_t)sim_below(s, 3) : 64,
                          .step_tokens_max = chunk + seqs + LIMIT_PAGE_TOKENS,
                          .logit_rows_max = seqs + 1 + (int32_t)sim_below(s, 32),
                          .prefill_chunk_tokens = chunk,
                          .headroom_tokens = (int32_t)sim_below(s, 3) * 16,
                          .group_layers = 1 + (uint32_t)sim_below(s, s->layers),
                          .group_cells_max = s->layers * s->group_pages,
                          .peers_max = SIM_SLOTS,
                          .tombstones_max = sim_chance(s, 30) ? 2 : 256,
                          .lease_us = s->worker_lease_us,
                          .queue_deadline_us = s->queue_us,
                          .quarantine_us = QUARANTINE_US,
                          .heartbeat_us = 1000000,
                          .silence_us = 3000000,
                          .prompts_apart = s->model.apart,
                          .hash_key = {1, 2}};
}

/* What the largest request needs of a pool: all of it on D, one choice of it on P. */
static uint32_t pages_of_the_largest(const sim *s, bool prefill) {
    uint64_t most = 0;
    for (uint32_t i = 0; i < s->requests_count; i++) {
        const sim_request *r = &s->requests[i];
        router_request q = {.prompt_count = r->prompt_count,
                            .max_tokens = r->params.max_tokens,
                            .choices = prefill ? 1 : r->params.choices};
        uint64_t pages = router_pages_needed(&q, LIMIT_PAGE_TOKENS) + 1;
        most = pages > most ? pages : most;
    }
    return (uint32_t)most;
}

/* Half of the pools are so small that requests compete for them. */
static uint32_t pool_pages(sim *s, bool prefill) {
    uint32_t least = pages_of_the_largest(s, prefill);
    if (s->options.crowd) {
        return least + (uint32_t)sim_below(s, 3);
    }
    return sim_chance(s, 60) ? least + (uint32_t)sim_below(s, least)
                             : least * (3 + (uint32_t)sim_below(s, 8));
}

/* A third of the workers has two lanes; more of those that do both phases. Not drawn in turn,
 * so that seeds before there were lanes mean what they meant. */
static void make_lanes(sim *s, uint32_t w) {
    core_options *o = &s->workers[w].options;
    const uint32_t both = MESSAGE_ROLE_PREFILL | MESSAGE_ROLE_DECODE;
    o->multiplex = rng_at(s->options.seed, 0x6c616e6573, w) % 6 < (o->roles == both ? 4 : 2);
}

/* In a third of the seeds workers hand pages out in blocks, each in its own. Not drawn in turn, so
 * that the seeds before there were blocks mean what they meant. */
static void make_blocks(sim *s, uint32_t w) {
    core_options *o = &s->workers[w].options;
    const uint64_t stream = 0x626c6f636b;
    if (rng_at(s->options.seed, stream, SIM_NODES) % 3 == 0 && !s->options.crowd) {
        o->block_pages = 1u << rng_at(s->options.seed, stream, w) % 4;
        o->pages += (LIMIT_CHOICES + 2) * (o->block_pages - 1); /* blocks held in part */
        o->pages -= o->pages % o->block_pages;
    }
}

static void make_workers(sim *s) {
    const uint32_t pages[2] = {pool_pages(s, true), pool_pages(s, false)};
    uint32_t pools[2] = {1 + (uint32_t)sim_below(s, 3), 1 + (uint32_t)sim_below(s, 3)};
    bool aggregated = sim_chance(s, 8) && !s->options.crowd;
    bool late = sim_chance(s, 20); /* they join one after the other */
    /* Not drawn in turn, so that the seeds before there were flips mean what they meant. */
    bool flips = rng_mix(s->options.seed ^ 0x666c6970ull) % 4 == 0 && !s->options.crowd;
    pools[0] = s->options.crowd ? 1 : pools[0];
    pools[1] = s->options.crowd ? 1 : pools[1];
    s->workers_count = pools[0] + pools[1];
    for (uint32_t w = 0; w < s->workers_count; w++) {
        uint32_t roles = aggregated     ? MESSAGE_ROLE_PREFILL | MESSAGE_ROLE_DECODE
                         : w < pools[0] ? MESSAGE_ROLE_PREFILL
                                        : MESSAGE_ROLE_DECODE;
        s->workers[w].role = roles;
        uint32_t most = pages[roles != MESSAGE_ROLE_PREFILL];
        if (flips && !aggregated) {
            roles = MESSAGE_ROLE_PREFILL | MESSAGE_ROLE_DECODE;
            most = pages[0] > pages[1] ? pages[0] : pages[1];
        }
        s->workers[w].roles = roles;
        s->workers[w].options = worker_options(s, roles, most);
        make_blocks(s, w);
        make_lanes(s, w);
        simnet_at(s, (int64_t)sim_below(s, late ? 4000000 : 100000), SIM_START, w);
    }
}

/* Monotonic clocks start anywhere; in some seeds they run up to a tenth too fast or too slow. Wall
 * clocks may jump as they like: nothing in here reads one. */
static void make_clocks(sim *s) {
    uint64_t drift_ppm = sim_chance(s, 25) ? 100000 : 200;
    bool same = sim_chance(s, 30);
    for (uint32_t i = 0; i < SIM_NODES; i++) {
        s->clocks[i].offset_us = same ? 0 : (int64_t)sim_below(s, 1ull << 40);
        s->clocks[i].rate_ppm = 1000000;
        if (!same) {
            s->clocks[i].rate_ppm += (int64_t)sim_below(s, 2 * drift_ppm) - (int64_t)drift_ppm;
        }
    }
}

static void make_gateways(sim *s) {
    /* Several, or one on its own, whose workers end when it does. */
    s->gateways_count = sim_chance(s, 40) ? 2 + (uint32_t)sim_below(s, SIM_GATEWAYS_MAX - 1) : 1;
    s->dial = s->gateways_count > 1 || sim_chance(s, 30);
    s->local_prefill_max = sim_chance(s, 30) ? 32 : 0;
    s->gate_options = (gate_options){.requests_max = SIM_REQUESTS_MAX,
                                     .lease_us = s->lease_us,
                                     .pending_deadline_us = s->strict ? 600000000 : 5000000,
                                     .retry_percent = 10,
                                     .retry_burst = s->strict ? 100000 : 5,
                                     .attempts_max = s->strict ? 100000 : 5};
    for (uint32_t g = 0; g < s->gateways_count; g++) {
        simnet_at(s, 0, SIM_START, sim_gateway_node(g));
    }
}

static void set_up(sim *s) {
    s->rng = rng_mix(s->options.seed);
    s->encoded = strbuf_make(LIMIT_MESSAGE_BYTES);
    s->links = mem_calloc(SIM_LINKS_MAX, sizeof(*s->links));
    CHECK(s->links != NULL);
    s->layers = 1 + (uint32_t)sim_below(s, 4);
    s->model = (hashmodel_options){.layers = s->layers, .vocab = 61, .eog = 1};
    /* Not drawn in turn, so that the seeds before it mean what they meant. */
    s->model.apart = rng_mix(s->options.seed ^ 0xA9A) % 3 == 0;
    s->delay_us = 20 + (int64_t)sim_below(s, sim_chance(s, 20) ? 60000 : 1000);
    s->group_pages = 4 + (uint32_t)sim_below(s, 8);
    /* Shorter than the gateway's rounds: leases end while it still counts on them [R9]. */
    s->worker_lease_us = sim_chance(s, 10) ? 500000 + (int64_t)sim_below(s, 9000000) : LEASE_US;
    s->lease_us = LEASE_US;
    if (sim_chance(s, 15)) { /* short everywhere: many are renewed */
        s->lease_us = s->worker_lease_us = 3000000;
    }
    /* Not drawn in turn, so that the seeds before there were deadlines mean what they meant. */
    uint64_t drain = rng_mix(s->options.seed ^ 0x647261696eull);
    static const uint64_t most_us[] = {1, 300000, 600000000};
    s->drain_us = (int64_t)(drain / 3 % most_us[drain % 3]);
    s->queue_us = sim_chance(s, 20) ? 200000 + (int64_t)sim_below(s, 9000000) : QUEUE_US;
    s->layer_us = 50 + (int64_t)sim_below(s, sim_chance(s, 10) ? 30000 : LAYER_US_MAX);
    s->requests_count = 2 + (uint32_t)sim_below(s, sim_chance(s, 30) ? 40 : 14);
    s->strict = sim_chance(s, 70);
    s->thorough = sim_chance(s, 5);
    s->shuffled = sim_chance(s, 20);
    s->repeating = sim_chance(s, 20);
    make_clocks(s);
    make_gateways(s);
    if (s->options.crowd) {
        simcrowd_shape(s);
    }
    simclient_make(s);
    make_workers(s);
    if (!s->options.crowd) {
        simfault_plan(s);
    }
}

/* ---- running -------------------------------------------------------------------------------- */

static void note(sim *s, const sim_event *e) {
    uint64_t what =
        (uint64_t)e->type << 56 ^ (uint64_t)e->node << 48 ^ (uint64_t)e->link << 24 ^ e->number;
    s->hash = rng_mix(s->hash ^ rng_mix(what ^ (uint64_t)e->at_us << 20));
    for (size_t i = 0; i < e->bytes_count && e->bytes; i++) {
        s->hash = s->hash * 31 + (uint8_t)e->bytes[i];
    }
}

static void world_event(sim *s, sim_event *e) {
    if (e->type == SIM_FAULT) {
        simfault_do(s, e);
    } else if (e->type == SIM_GONE) {
        simcheck_gone(s, e->index, e->life, (int64_t)e->number);
    } else {
        simclient_event(s, e);
    }
}

/* Of a process: whatever is of an earlier life is dropped, what comes for a frozen one waits. Its
 * timers wait longer than its sockets, as they are looked at last. */
static void process_event(sim *s, sim_event *e) {
    sim_process *p = sim_process_of(s, e->node);
    bool start = e->type == SIM_START;
    if (start ? p->running : !p->running || e->life != p->life) {
        return;
    }
    if (e->type == SIM_THAW) {
        p->frozen = false;
        return;
    }
    if (p->frozen) {
        int64_t at_us = p->thaw_us + (e->type == SIM_TICK ? 1 : 0);
        sim_event *later = simnet_at(s, at_us, e->type, e->node);
        uint64_t order = later->order;
        *later = *e;
        later->at_us = at_us;
        later->order = order;
        e->bytes = NULL;
        e->data = NULL;
    } else if (e->node < SIM_WORKERS_MAX) {
        simworker_event(s, e->node, e);
    } else {
        simgate_event(s, e->node - SIM_WORKERS_MAX, e);
    }
}

static void happen(sim *s, sim_event *e) {
    if (s->options.crowd) {
        simcrowd_measure(s, e->at_us);
    }
    s->now_us = e->at_us;
    s->counts.events++;
    note(s, e);
    if (e->node == SIM_WORLD) {
        world_event(s, e);
    } else {
        process_event(s, e);
    }
    simnet_event_free(e);
}

static bool quiet(const sim *s) {
    for (uint32_t w = 0; w < s->workers_count; w++) {
        if (!s->workers[w].stone && !simworker_idle(s, w)) {
            return false;
        }
    }
    return true;
}

/* Runs until `done` says so or the time is up. */
static bool run_until(sim *s, bool (*done)(const sim *), int64_t until_us) {
    sim_event e;
    while (s->failure[0] == '\0' && !done(s)) {
        if (!simnet_next(s, &e)) {
            sim_fail(s, "nothing is left to happen");
            return false;
        }
        bool late = e.at_us > until_us;
        happen(s, &e);
        if (late || s->counts.events > EVENTS_MAX) {
            return false;
        }
    }
    return s->failure[0] == '\0';
}

static bool all_ended(const sim *s) {
    return s->ended_count == s->requests_count;
}

static bool never(const sim *s) {
    (void)s;
    return false;
}

/* Who still holds what, for the reader of a failure. */
static void describe(sim *s) {
    for (uint32_t w = 0; s->options.trace && w < s->workers_count; w++) {
        if (s->workers[w].process.running) {
            core_stats c;
            core_get_stats(s->workers[w].core, &c);
            sim_trace(s, "worker %u: running %u waiting %u free %u owned %u quarantined %u", w,
                      c.running, c.waiting, c.pages_free, c.pages_owned, c.pages_quarantined);
        }
    }
    for (uint32_t i = 0; s->options.trace && i < s->requests_count; i++) {
        if (s->requests[i].state == SIM_OPENED) {
            sim_trace(s, "request %llu is open, %d tokens of %d",
                      (unsigned long long)s->requests[i].id, s->requests[i].got[0],
                      s->requests[i].expected_count[0]);
        }
    }
}

/* Slow models take their time: all requests after one another, were it so. */
static int64_t work_us(const sim *s) {
    return s->layer_us > LAYER_US_MAX ? s->requests_count * 80 * s->layers * s->layer_us : 0;
}

bool sim_run(sim *s) {
    set_up(s);
    (void)run_until(s, never, s->faults_end_us);
    /* Nothing goes wrong any more, once all that is down is up. */
    int64_t well_us = s->healed_us > s->now_us ? s->healed_us : s->now_us;
    int64_t settle_us = well_us + SETTLE_US + work_us(s);
    if (s->failure[0] == '\0' && !run_until(s, all_ended, settle_us)) {
        sim_fail(s, "%u of %u requests never ended [I6]", s->requests_count - s->ended_count,
                 s->requests_count);
    }
    /* Pages come back at once; after a fault, when the silence of a peer was noticed. */
    bool calm = s->counts.faults == 0;
    int64_t back_us =
        s->now_us + (calm ? 1000000 + 40 * s->delay_us : LEASE_US + 2 * QUARANTINE_US);
    if (s->failure[0] == '\0' && !run_until(s, quiet, back_us)) {
        sim_fail(s, "pages are still held after every request has ended [I3]");
    }
    bool told = s->failure[0] == '\0' && s->options.seed % TOLD_SEEDS == 0;
    if (told) {
        (void)run_until(s, never, (s->now_us > well_us ? s->now_us : well_us) + TOLD_US);
    }
    for (uint32_t g = 0; g < s->gateways_count && s->failure[0] == '\0'; g++) {
        if (s->gateways[g].process.running) {
            simcheck_gate(s, g);
        }
        if (told && s->gateways[g].process.running && !s->gateways[g].process.frozen) {
            simcheck_index(s, g);
        }
    }
    describe(s);
    return s->failure[0] == '\0';
}

void sim_close(sim *s) {
    for (uint32_t w = 0; w < s->workers_count; w++) {
        simworker_kill(s, w, false, -1);
    }
    simclient_close(s);
    simgate_close(s);
    simnet_close(s);
    strbuf_close(&s->encoded);
}
