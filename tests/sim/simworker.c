/* simworker.c -- a worker process: the production core, a hash for a model, and the calls between
 * them in the order of engine/worker/worker.c. */
#include <string.h>

#include "engine/base/check.h"
#include "engine/base/mem.h"
#include "engine/base/rng.h"
#include "engine/core/planted.h"
#include "tests/sim/sim.h"

enum {
    YOUNG_US = 1000000, /* a link this new is not made anew because an old one was lost */
    LEAVE_US = 1000000  /* after everything was handed back */
};

static void after(sim *s, uint32_t w);
static void drain_actions(sim *s, uint32_t w);

/* ---- life ----------------------------------------------------------------------------------- */

static uint32_t add_slot(sim *s, uint32_t w, core_peer_kind kind, uint32_t worker, uint32_t link,
                         uint32_t end) {
    sim_worker *k = &s->workers[w];
    uint32_t slot = 0;
    while (k->slots[slot].used) {
        slot++;
        CHECK_LT(slot, SIM_SLOTS);
    }
    void *posts = mem_calloc(SIM_POSTS_MAX, sizeof(*k->slots[slot].posts));
    CHECK(posts != NULL);
    k->slots[slot] = (sim_slot){
        .used = true, .kind = kind, .worker = worker, .link = link, .end = end, .posts = posts};
    simnet_attach(s, link, end, slot);
    return slot;
}

static void send(sim *s, uint32_t w, uint32_t slot, const message *m) {
    const sim_slot *p = &s->workers[w].slots[slot];
    simnet_send(s, p->link, p->end, m, UINT32_MAX);
}

static void dial(sim *s, uint32_t w, uint32_t g) {
    sim_worker *k = &s->workers[w];
    if (!s->gateways[g].process.running || k->draining) {
        if (!k->draining) {
            simnet_at(s, s->now_us + 50000 + (int64_t)sim_below(s, 500000), SIM_DIAL, w)->index = g;
        }
        return;
    }
    uint32_t link = simnet_link(s, sim_gateway_node(g), w);
    simgate_joined(s, g, w, link, 0);
    uint32_t slot = add_slot(s, w, CORE_GATEWAY, MESSAGE_NO_WORKER, link, 1);
    k->slots[slot].gateway = g;
    message m = {.type = MESSAGE_HELLO};
    m.hello = (message_hello){
        .version = MESSAGE_VERSION,
        .worker = w,
        .epoch = k->process.life,
        .roles = k->role,
        .layers = s->layers,
        .block_tokens = LIMIT_PAGE_TOKENS * (k->options.block_pages ? k->options.block_pages : 1),
        .pages = k->options.pages,
        .context_tokens = (uint32_t)k->options.context_tokens,
        .vocab = (uint32_t)s->model.vocab};
    send(s, w, slot, &m);
    core_link_up(k->core, slot, CORE_GATEWAY, MESSAGE_NO_WORKER, 0, sim_clock(s, w));
    drain_actions(s, w);
}

/* Up to twelve in each life; every other comes a millisecond after the one before. */
static void plan_flips(sim *s, uint32_t w) {
    const sim_worker *k = &s->workers[w];
    int64_t at_us = s->now_us;
    for (uint64_t i = 0; i < 12 && k->roles != k->role; i++) {
        uint64_t bits = rng_at(s->options.seed, 0x666c6970 + w + 64 * k->process.life, i);
        at_us += bits & 1 ? 1000 : (int64_t)(bits >> 8 & 0x1fffff);
        simnet_at(s, at_us, SIM_FLIP, w);
    }
}

static void start(sim *s, uint32_t w) {
    sim_worker *k = &s->workers[w];
    CHECK(!k->process.running);
    k->process = (sim_process){.running = true, .life = k->process.life + 1};
    k->draining = k->handed_back = k->ended = false;
    memset(k->stepping, 0, sizeof k->stepping);
    k->layer_us = s->layer_us;
    CHECK_EQ(arena_open(&k->memory, core_bytes(&k->options) + (1 << 20)), STATUS_OK);
    diag d = {0};
    if (core_create(&k->memory, &k->options, &k->core, &d) != STATUS_OK) {
        sim_fail(s, "core_create: %s", d.text);
        return;
    }
    core_set_roles(k->core, k->role);
    plan_flips(s, w);
    hashmodel_options mo = s->model;
    mo.pages = k->options.pages;
    CHECK_EQ(hashmodel_open(&k->model, &mo), STATUS_OK);
    CHECK_EQ(message_scratch_open(&k->scratch), STATUS_OK);
    sim_trace(s, "worker %u starts, life %u", w, k->process.life);
    for (uint32_t g = 0; g < s->gateways_count; g++) {
        dial(s, w, g);
    }
    simnet_at(s, s->now_us, SIM_TICK, w);
}

static void end_life(sim *s, uint32_t w, bool lossy) {
    sim_worker *k = &s->workers[w];
    core_stats stats;
    core_get_stats(k->core, &stats);
    s->counts.preemptions += stats.preemptions;
    s->counts.handed_back += stats.handed_back;
    s->counts.evictions += stats.evictions;
    s->counts.replays += stats.replays;
    s->counts.adoptions += stats.adoptions;
    s->counts.junk += stats.groups_junk_received;
    s->counts.cached += stats.prompt_tokens_cached;
    for (uint32_t i = 0; i < SIM_SLOTS; i++) {
        if (k->slots[i].used) {
            simnet_close_end(s, k->slots[i].link, k->slots[i].end, lossy);
            mem_free(k->slots[i].posts);
        }
        k->slots[i] = (sim_slot){0};
    }
    k->process.running = k->process.frozen = false;
    memset(k->stepping, 0, sizeof k->stepping);
    k->process.life++; /* nothing of this life is heard of again */
    hashmodel_close(&k->model);
    message_scratch_close(k->scratch);
    arena_close(&k->memory);
    k->core = NULL;
    k->scratch = NULL;
}

void simworker_kill(sim *s, uint32_t w, bool lossy, int64_t restart_after_us) {
    sim_worker *k = &s->workers[w];
    if (!k->process.running) {
        return;
    }
    k->stone = false;
    sim_trace(s, "worker %u ends, life %u%s", w, k->process.life,
              lossy ? ", what it sent is lost" : "");
    end_life(s, w, lossy);
    if (restart_after_us >= 0) {
        simnet_at(s, s->now_us + restart_after_us, SIM_START, w);
        if (!s->dial && sim_chance(s, 50)) {
            simgate_died(s, 0, w); /* the supervisor was faster than the socket */
        }
    }
}

bool simworker_idle(const sim *s, uint32_t w) {
    const sim_worker *k = &s->workers[w];
    return !k->process.running || core_idle(k->core);
}

/* ---- pages ---------------------------------------------------------------------------------- */

static uint64_t *content_at(sim_data *d, uint32_t page, uint32_t layer) {
    return d->content + ((size_t)page * d->layers + layer) * LIMIT_PAGE_TOKENS;
}

static uint64_t *pool_at(const sim_worker *k, uint32_t page, uint32_t layer) {
    return k->model.kv + ((size_t)page * k->model.options.layers + layer) * LIMIT_PAGE_TOKENS;
}

static sim_event *data_event(sim *s, int64_t at_us, sim_event_type type, uint32_t link,
                             uint32_t end, sim_data *d) {
    const sim_end *e = &s->links[link].ends[end];
    sim_event *event = simnet_at(s, at_us, type, e->node);
    event->life = e->life;
    event->link = link;
    event->end = end;
    event->data = d;
    return event;
}

static void start_send(sim *s, uint32_t w, const core_action *a) {
    const sim_slot *p = &s->workers[w].slots[a->peer];
    const core_transfer *t = &a->transfer;
    sim_data *d = mem_calloc(1, sizeof(*d));
    CHECK(d != NULL);
    CHECK_LE(t->pages_count, SIM_PAGES_MAX);
    *d = (sim_data){.sequence = t->sequence,
                    .layer_first = t->layer_first,
                    .layers = t->layers,
                    .pages_count = t->pages_count,
                    .junk = t->junk};
    if (!t->junk) {
        memcpy(d->pages, t->pages, t->pages_count * sizeof(*d->pages));
        d->content = mem_calloc((size_t)t->pages_count * t->layers * LIMIT_PAGE_TOKENS, 8);
        CHECK(d->content != NULL);
    }
    s->counts.transfers++;
    int64_t at = s->now_us + sim_delay(s, s->links[p->link].delay_us);
    data_event(s, at, SIM_DATA_READ, p->link, p->end, d);
}

/* The same bytes once more: whoever reads the channel must see that nobody waits for them. */
static void repeat(sim *s, int64_t at_us, const sim_event *e, const sim_data *d) {
    size_t cells = (size_t)d->pages_count * d->layers * LIMIT_PAGE_TOKENS;
    sim_data *again = mem_calloc(1, sizeof(*again));
    CHECK(again != NULL);
    *again = *d;
    again->again = true;
    again->content = mem_calloc(cells, sizeof(*d->content));
    CHECK(again->content != NULL);
    memcpy(again->content, d->content, cells * sizeof(*d->content));
    data_event(s, at_us, SIM_DATA_ARRIVE, e->link, 1 - e->end, again);
}

static void on_read(sim *s, uint32_t w, sim_event *e) {
    sim_worker *k = &s->workers[w];
    sim_data *d = e->data;
    sim_link *l = &s->links[e->link];
    if (!d->junk) {
        simcheck_pinned(s, w, d->pages, d->pages_count, "reads");
        for (uint32_t p = 0; p < d->pages_count; p++) {
            for (uint32_t i = 0; i < d->layers; i++) {
                memcpy(content_at(d, p, i), pool_at(k, d->pages[p], d->layer_first + i),
                       LIMIT_PAGE_TOKENS * sizeof(uint64_t));
            }
        }
    }
    if (s->damage_next > 0 && !d->junk) {
        s->damage_next--;
        d->damaged = true;
    }
    int64_t at = s->now_us + sim_delay(s, l->delay_us);
    if (!s->shuffled) {
        at = at > l->data_last_us ? at : l->data_last_us;
        l->data_last_us = at;
    }
    sim_data *sent = mem_calloc(1, sizeof(*sent));
    CHECK(sent != NULL);
    sent->sequence = d->sequence;
    data_event(s, s->now_us + sim_delay(s, l->delay_us), SIM_DATA_SENT, e->link, e->end, sent);
    data_event(s, at, SIM_DATA_ARRIVE, e->link, 1 - e->end, d);
    if (s->repeating && !d->junk && sim_chance(s, 10)) {
        repeat(s, at + sim_delay(s, 10 * l->delay_us), e, d);
    }
    e->data = NULL; /* it travels on */
}

static void on_arrive(sim *s, uint32_t w, uint32_t slot, sim_event *e) {
    sim_worker *k = &s->workers[w];
    sim_data *d = e->data;
    bool open = k->slots[slot].posts[d->sequence % SIM_POSTS_MAX].open;
    const core_transfer *t = &k->slots[slot].posts[d->sequence % SIM_POSTS_MAX].transfer;
    if (d->again) {
        return;
    }
    if (!open || t->sequence != d->sequence) {
        sim_fail(s, "worker %u: data %u arrives that was not asked for", w, d->sequence);
        return;
    }
    if (!d->junk && !PLANTED(WRITE_SKIPPED)) {
        simcheck_pinned(s, w, t->pages, t->pages_count, "writes");
        CHECK(d->pages_count == t->pages_count && d->layers == t->layers);
        for (uint32_t p = 0; p < d->pages_count; p++) {
            for (uint32_t i = 0; i < d->layers; i++) {
                memcpy(pool_at(k, t->pages[p], t->layer_first + i), content_at(d, p, i),
                       LIMIT_PAGE_TOKENS * sizeof(uint64_t));
            }
            if (d->damaged) {
                hashmodel_spoil(&k->model, t->pages[p], d->layer_first, d->layers);
            }
        }
    }
    data_event(s, s->now_us + sim_delay(s, s->links[e->link].delay_us), SIM_DATA_DONE, e->link,
               e->end, d);
    e->data = NULL;
}

static void on_done(sim *s, uint32_t w, uint32_t slot, const sim_data *d) {
    sim_worker *k = &s->workers[w];
    k->slots[slot].posts[d->sequence % SIM_POSTS_MAX].open = false;
    core_received(k->core, slot, d->sequence,
                  d->junk                                    ? CORE_RECEIVED_JUNK
                  : d->damaged && !PLANTED(CHECKSUM_IGNORED) ? CORE_RECEIVED_DAMAGED
                                                             : CORE_RECEIVED_OK,
                  sim_clock(s, w));
}

static void on_data(sim *s, uint32_t w, sim_event *e) {
    sim_worker *k = &s->workers[w];
    const sim_end *end = &s->links[e->link].ends[e->end];
    bool lost = e->type == SIM_DATA_ARRIVE && end->data_lost;
    if (end->closed || lost || !end->attached) {
        return; /* the channel is torn down: what was under way on it is gone */
    }
    switch (e->type) {
        case SIM_DATA_READ:
            on_read(s, w, e);
            break;
        case SIM_DATA_SENT:
            core_sent(k->core, end->slot, e->data->sequence, sim_clock(s, w));
            break;
        case SIM_DATA_ARRIVE:
            on_arrive(s, w, end->slot, e);
            break;
        default:
            on_done(s, w, end->slot, e->data);
            break;
    }
}

/* ---- actions -------------------------------------------------------------------------------- */

static void act_one(sim *s, uint32_t w, const core_action *a) {
    sim_worker *k = &s->workers[w];
    sim_slot *p = &k->slots[a->peer];
    if (!p->used || p->doomed) {
        return; /* the core hears of its end next */
    }
    const core_transfer *t = &a->transfer;
    uint32_t at = t->sequence % SIM_POSTS_MAX;
    switch (a->kind) {
        case CORE_SEND:
            sim_trace(s, "worker %u says %s of %llu.%u to slot %u", w,
                      message_type_name(a->message.type), (unsigned long long)a->message.request,
                      a->message.attempt, a->peer);
            send(s, w, a->peer, &a->message);
            simfault_said(s, w, a->peer, &a->message);
            break;
        case CORE_TRANSFER_SEND:
            start_send(s, w, a);
            break;
        case CORE_TRANSFER_RECEIVE:
            CHECK(!p->posts[at].open);
            CHECK_LE(t->pages_count, SIM_PAGES_MAX);
            p->posts[at].open = true;
            p->posts[at].transfer = *t;
            memcpy(p->posts[at].pages, t->pages, t->pages_count * sizeof(uint32_t));
            p->posts[at].transfer.pages = p->posts[at].pages;
            break;
        case CORE_CLOSE:
            sim_trace(s, "worker %u closes slot %u", w, a->peer);
            p->doomed = true;
            break;
    }
}

static void drain_actions(sim *s, uint32_t w) {
    core_action a;
    while (core_next(s->workers[w].core, &a)) {
        act_one(s, w, &a);
    }
}

/* A gateway's link: a child of the gateway ends with it, a worker of another host dials again. */
static void drop_slot(sim *s, uint32_t w, uint32_t slot) {
    sim_worker *k = &s->workers[w];
    sim_slot *p = &k->slots[slot];
    if (p->kind == CORE_GATEWAY && s->dial) {
        int64_t at = s->now_us + 1000 + (int64_t)sim_below(s, 500000);
        simnet_at(s, at, SIM_DIAL, w)->index = p->gateway;
    } else if (p->kind == CORE_GATEWAY) {
        k->ended = true;
    }
    simnet_close_end(s, p->link, p->end, false);
    mem_free(p->posts);
    *p = (sim_slot){0};
    core_link_down(k->core, slot, sim_clock(s, w));
    drain_actions(s, w);
}

static void start_step(sim *s, uint32_t w, core_lane lane) {
    sim_worker *k = &s->workers[w];
    if (k->stepping[lane]) {
        return;
    }
    k->stepping[lane] = core_plan(k->core, lane, sim_clock(s, w), &k->batches[lane]);
    drain_actions(s, w);
    if (k->stepping[lane]) {
        k->layers_done[lane] = 0;
        hashmodel_copy_pages(&k->model, &k->batches[lane]);
        simnet_at(s, s->now_us + sim_delay(s, k->layer_us), SIM_LAYER, w)->index = lane;
    }
}

/* What follows every event: actions, links that broke, the next step. */
static void after(sim *s, uint32_t w) {
    sim_worker *k = &s->workers[w];
    drain_actions(s, w);
    for (uint32_t i = 0; i < SIM_SLOTS; i++) {
        if (k->slots[i].used && k->slots[i].doomed) {
            drop_slot(s, w, i);
            i = UINT32_MAX;
        }
    }
    if (k->ended || (k->draining && core_idle(k->core))) {
        simworker_kill(s, w, false, 20000 + (int64_t)sim_below(s, 1000000));
        return;
    }
    for (uint32_t lane = k->options.multiplex ? CORE_LANES : 1; lane-- > 0;) {
        start_step(s, w, lane); /* who decodes first */
    }
    for (uint32_t i = 0; i < SIM_SLOTS; i++) {
        if (k->slots[i].used && k->slots[i].doomed) {
            after(s, w);
            return;
        }
    }
}

/* ---- events --------------------------------------------------------------------------------- */

static void on_layer(sim *s, uint32_t w, core_lane lane) {
    sim_worker *k = &s->workers[w];
    const core_batch *b = &k->batches[lane];
    CHECK(k->stepping[lane]);
    simcheck_stepping(s, w, b);
    hashmodel_layer(&k->model, b, k->layers_done[lane]);
    k->layers_done[lane]++;
    if (k->layers_done[lane] < s->layers) {
        if (lane == CORE_LANE_PROMPTS) {
            core_progress(k->core, (int32_t)k->layers_done[lane], sim_clock(s, w));
        }
        simnet_at(s, s->now_us + sim_delay(s, k->layer_us), SIM_LAYER, w)->index = lane;
        return;
    }
    static request_token results[4096];
    CHECK_LE(b->wants_count, 4096);
    hashmodel_results(&k->model, b, results);
    k->stepping[lane] = false;
    core_commit(k->core, lane, results, b->wants_count, sim_clock(s, w));
}

/* Whether a worker that has a link to that life of the peer keeps it: another gateway introduced
 * them, or has just mended it (engine/worker/hosts.c). A child takes whatever its gateway passes.
 */
static bool keeps_link(const sim *s, const sim_slot *p, const message_peer *m) {
    bool young = s->now_us - p->since_us < YOUNG_US;
    return s->dial && m->epoch == p->epoch && !p->doomed && (!m->mend || young);
}

/* A gateway passed the end of a link to another worker. */
static void on_peer(sim *s, uint32_t w, const message *m, uint32_t link) {
    sim_worker *k = &s->workers[w];
    uint32_t end = s->links[link].ends[0].node == w ? 0 : 1;
    for (uint32_t i = 0; i < SIM_SLOTS; i++) {
        const sim_slot *p = &k->slots[i];
        if (!p->used || p->kind != CORE_WORKER || p->worker != m->peer.worker) {
            continue;
        }
        if (m->peer.epoch < p->epoch || keeps_link(s, p, &m->peer)) {
            simnet_close_end(s, link, end, false);
            return;
        }
        drop_slot(s, w, i); /* its next life has come before the end of this one was read */
    }
    uint32_t slot = add_slot(s, w, CORE_WORKER, m->peer.worker, link, end);
    k->slots[slot].epoch = m->peer.epoch;
    k->slots[slot].since_us = s->now_us;
    core_link_up(k->core, slot, CORE_WORKER, m->peer.worker, m->peer.epoch, sim_clock(s, w));
}

static void on_message(sim *s, uint32_t w, sim_event *e) {
    sim_worker *k = &s->workers[w];
    uint32_t slot = s->links[e->link].ends[e->end].slot;
    if (!simnet_arrives(s, e)) {
        return;
    }
    if (e->bytes == NULL) {
        sim_trace(s, "worker %u reads the end of slot %u", w, slot);
        k->slots[slot].doomed = true;
        return;
    }
    message m;
    diag d = {0};
    if (message_decode(str_of(e->bytes, e->bytes_count), k->scratch, &m, &d) != STATUS_OK) {
        sim_fail(s, "worker %u cannot read a message: %s", w, d.text);
        return;
    }
    sim_trace(s, "worker %u hears %s of %llu.%u on slot %u", w, message_type_name(m.type),
              (unsigned long long)m.request, m.attempt, slot);
    if (m.type == MESSAGE_PEER) {
        on_peer(s, w, &m, e->carried);
        return;
    }
    if (m.type == MESSAGE_DRAIN && !k->draining) {
        k->draining = true;
        simnet_at(s, s->now_us + s->drain_us, SIM_DEADLINE, w);
    }
    if (m.type == MESSAGE_REJECT) {
        sim_trace(s, "worker %u is told that its %s was refused: %s", w, message_type_name(m.about),
                  message_reason_name(m.reason));
    }
    core_message(k->core, slot, &m, sim_clock(s, w));
}

static void on_deadline(sim *s, uint32_t w) {
    sim_worker *k = &s->workers[w];
    if (k->handed_back) { /* a transfer whose other side does not answer */
        k->ended = true;
        return;
    }
    sim_trace(s, "worker %u hands back what it has", w);
    k->handed_back = true;
    core_hand_back(k->core, sim_clock(s, w));
    drain_actions(s, w);
    simcheck_worker(s, w);
    simnet_at(s, s->now_us + LEAVE_US, SIM_DEADLINE, w);
}

static void on_tick(sim *s, uint32_t w) {
    sim_worker *k = &s->workers[w];
    if (core_deadline_us(k->core) <= sim_clock(s, w)) {
        core_tick(k->core, sim_clock(s, w));
    }
    int64_t next = sim_when(s, w, core_deadline_us(k->core));
    simnet_at(s, next > s->now_us ? next : s->now_us + 1000, SIM_TICK, w);
}

/* The other role from now on, if somebody is left for this one (engine/worker/workio.c). */
static void flip(sim *s, uint32_t w) {
    sim_worker *k = &s->workers[w];
    bool left = false;
    for (uint32_t i = 0; i < s->workers_count; i++) {
        const sim_worker *o = &s->workers[i];
        left = left || (i != w && o->role == k->role && !o->stone);
    }
    if (!left || !k->process.running || k->draining) {
        return;
    }
    k->role ^= MESSAGE_ROLE_PREFILL | MESSAGE_ROLE_DECODE;
    core_set_roles(k->core, k->role);
    sim_trace(s, "worker %u has role %u", w, k->role);
    s->counts.flips++;
    s->healed_us = s->healed_us > s->now_us ? s->healed_us : s->now_us;
    message m = {.type = MESSAGE_ROLE, .role.roles = k->role};
    for (uint32_t i = 0; i < SIM_SLOTS; i++) {
        if (k->slots[i].used && k->slots[i].kind == CORE_GATEWAY) {
            send(s, w, i, &m);
        }
    }
}

void simworker_event(sim *s, uint32_t w, sim_event *e) {
    bool check = s->thorough || e->type == SIM_TICK;
    switch (e->type) {
        case SIM_START:
            start(s, w);
            break;
        case SIM_DIAL:
            dial(s, w, e->index);
            break;
        case SIM_MESSAGE:
            on_message(s, w, e);
            break;
        case SIM_FLIP:
            flip(s, w);
            break;
        case SIM_LAYER:
            on_layer(s, w, (core_lane)e->index);
            break;
        case SIM_TICK:
            on_tick(s, w);
            break;
        case SIM_DEADLINE:
            on_deadline(s, w);
            break;
        default:
            on_data(s, w, e);
            break;
    }
    after(s, w);
    if (check && s->workers[w].process.running) {
        simcheck_worker(s, w);
    }
}
