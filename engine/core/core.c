/* core.c -- one worker's engine: events in, actions out.
 *
 * Every public call is one event: it checks that the actions of the event before were taken, lets
 * the protocol's two sides and the scheduler act, and gives freed pages to whoever waits for them.
 */
#include "engine/core/core.h"

#include "engine/base/check.h"
#include "engine/core/core_state.h"
#include "engine/core/decode.h"
#include "engine/core/planted.h"
#include "engine/core/prefill.h"
#include "engine/core/push.h"
#include "engine/core/sched.h"

enum {
    CORE_ROLES = MESSAGE_ROLE_PREFILL | MESSAGE_ROLE_DECODE,
    CACHED_MESSAGES = 2 /* to a gateway at once: the ring's end cuts one in two */
};

/* ---- creation ------------------------------------------------------------------------------- */

static record_options core_record_options(const core_options *o) {
    uint32_t seqs = (uint32_t)o->seqs_max;
    uint32_t lives = seqs + (uint32_t)o->queue_max + 1;
    CHECK(lives > seqs);
    return (record_options){
        /* both roles, those gone in a step, a rebind */
        .count_max = 2 * lives + 2 * seqs * core_lanes(o) + 2,
        /* decoding, gone in a step, taken in between */
        .spares_max = (2 + core_lanes(o)) * seqs,
        .context_tokens = o->context_tokens,
        .block_pages = core_block_pages(o),
        .lives_max = {lives, lives},
    };
}

/* Grants that are ahead of their SUBMIT: every request that may be here, and as many again that are
 * on their way to it, since each D grants without asking how full this worker is. */
static uint32_t core_parked_max(const core_options *o) {
    uint32_t lives = core_record_options(o).lives_max[RECORD_PREFILL];
    CHECK(lives > 0);
    return 2 * lives + o->tombstones_max;
}

static uint32_t core_actions_max(const core_options *o) {
    /* An event sends at most a few messages a record, a sequence and a link. */
    return 6 * core_record_options(o).count_max + 4 * o->peers_max + (uint32_t)o->logit_rows_max +
           64;
}

static uint32_t core_tokens_max(const core_options *o) {
    /* A commit tells every want once; a pump stops after a message or two. */
    return (uint32_t)o->logit_rows_max + 4 * LIMIT_CHOICES * (uint32_t)o->seqs_max + 512;
}

uint64_t core_bytes(const core_options *o) {
    record_options records = core_record_options(o);
    CHECK(o->pages > 0 && o->peers_max > 0 && o->tombstones_max > 0);
    return sizeof(core) + blocks_bytes(o->pages) + prefix_bytes(o->pages) + record_bytes(&records) +
           links_bytes(o->peers_max) + outbox_bytes(core_actions_max(o), core_tokens_max(o)) +
           tokenlog_bytes(o->pages) + 2 * marks_bytes(o->tombstones_max) +
           marks_bytes(core_parked_max(o)) + sched_bytes(o) + (uint64_t)o->pages * 8 + 65536;
}

static status core_check_options(const core_options *o, diag *d) {
    const struct {
        bool good;
        const char *name;
    } rules[] = {
        {o->roles != 0 && (o->roles & ~(uint32_t)CORE_ROLES) == 0, "roles"},
        {o->pages > 0 && o->pages < (1u << 28), "pages"},
        {o->block_pages <= LIMIT_BLOCK_PAGES, "block_pages"},
        {o->block_pages == 0 || o->pages % o->block_pages == 0, "pages"},
        {o->layers > 0 && o->layers <= LIMIT_LAYERS, "layers"},
        {o->context_tokens > 0 && o->context_tokens <= LIMIT_CONTEXT_TOKENS, "context_tokens"},
        {o->seqs_max > 0 && o->seqs_max <= 4096, "seqs_max"},
        {o->queue_max >= 0 && o->queue_max <= 65536, "queue_max"},
        {o->step_tokens_max >= o->seqs_max + LIMIT_PAGE_TOKENS &&
             o->step_tokens_max <= LIMIT_CONTEXT_TOKENS,
         "step_tokens_max"},
        {o->logit_rows_max > o->seqs_max && o->logit_rows_max <= LIMIT_CONTEXT_TOKENS,
         "logit_rows_max"},
        {o->prefill_chunk_tokens > 0 && o->prefill_chunk_tokens % LIMIT_PAGE_TOKENS == 0,
         "prefill_chunk_tokens"},
        {o->headroom_tokens >= 0 && o->headroom_tokens <= LIMIT_CONTEXT_TOKENS, "headroom_tokens"},
        {o->group_layers > 0 && o->group_layers <= o->layers, "group_layers"},
        {o->group_cells_max >= o->layers, "group_cells_max"},
        {o->peers_max > 0 && o->peers_max <= 4096, "peers_max"},
        {o->tombstones_max > 0 && o->tombstones_max <= (1u << 24), "tombstones_max"},
        {o->lease_us > 0, "lease_us"},
        {o->queue_deadline_us > 0, "queue_deadline_us"},
        {o->quarantine_us > 0, "quarantine_us"},
        {o->heartbeat_us > 0, "heartbeat_us"},
        {o->silence_us > 0, "silence_us"},
    };
    for (size_t i = 0; i < sizeof rules / sizeof *rules; i++) {
        if (!rules[i].good) {
            return status_fail_param(d, STATUS_INVALID, rules[i].name,
                                     "core option %s is out of range", rules[i].name);
        }
    }
    return STATUS_OK;
}

static status core_open_parts(core *c, arena *a) {
    const core_options *o = &c->options;
    record_options records = core_record_options(o);
    hash_key key = {o->hash_key[0], o->hash_key[1]};
    TRY(blocks_create(a, o->pages, o->block_pages, &c->blocks));
    TRY(prefix_create(a, c->blocks, o->pages, key, &c->prefix));
    TRY(record_open(&c->records, a, &records));
    TRY(links_open(&c->links, a, o->peers_max));
    TRY(outbox_open(&c->outbox, a, core_actions_max(o), core_tokens_max(o)));
    TRY(tokenlog_open(&c->log, a, o->pages));
    for (int i = 0; i < RECORD_ROLES; i++) {
        TRY(marks_open(&c->tombstones[i], a, o->tombstones_max, key.k0));
    }
    TRY(marks_open(&c->parked, a, core_parked_max(o), key.k0));
    TRY(sched_open(c, a));
    c->holders = ARENA_TAKE(a, o->pages, uint32_t);
    c->touched = ARENA_TAKE(a, o->pages, uint32_t);
    return c->holders && c->touched ? STATUS_OK : STATUS_NOMEM;
}

status core_create(arena *a, const core_options *options, core **out, diag *d) {
    TRY(core_check_options(options, d));
    core *c = ARENA_TAKE(a, 1, core);
    if (!c) {
        return status_fail(d, STATUS_NOMEM, "no memory for the engine");
    }
    c->options = *options;
    c->options.block_pages = core_block_pages(options);
    c->accepts = c->options.roles;
    if (core_open_parts(c, a) != STATUS_OK) {
        return status_fail(d, STATUS_NOMEM, "no memory for the engine: %llu bytes are needed",
                           (unsigned long long)core_bytes(options));
    }
    c->drained = true;
    CHECK_EQ(blocks_free_count(c->blocks), options->pages);
    *out = c;
    return STATUS_OK;
}

/* ---- events --------------------------------------------------------------------------------- */

static void core_begin(core *c, int64_t now_us) {
    CHECK(c->drained); /* core_next returned false after the event before */
    CHECK(outbox_is_empty(&c->outbox));
    CHECK(now_us >= c->now_us);
    c->drained = false;
    c->now_us = now_us;
}

static void core_settle(core *c) {
    if ((c->options.roles & MESSAGE_ROLE_DECODE) && !PLANTED(ADMIT_NEEDS_WORK)) {
        decode_admit(c);
    }
    CHECK(!c->drained);
}

void core_link_up(core *c, uint32_t peer, core_peer_kind kind, uint32_t worker, uint64_t epoch,
                  int64_t now_us) {
    core_begin(c, now_us);
    CHECK_LT(peer, c->links.count_max);
    links_link *k = &c->links.list[peer];
    CHECK(!k->up);
    k->up = true;
    k->closing = false;
    k->kind = kind;
    k->worker = worker;
    k->epoch = epoch;
    k->heard_us = now_us;
    k->send_next = k->receive_next = 0;
    k->group_layers = c->options.group_layers;
    k->reader = (cachelog_reader){0};
    core_settle(c);
}

void core_link_down(core *c, uint32_t peer, int64_t now_us) {
    core_begin(c, now_us);
    CHECK_LT(peer, c->links.count_max);
    links_link *k = &c->links.list[peer];
    CHECK(k->up);
    links_finish_all(k, c->blocks);
    k->up = false;
    if (k->kind == CORE_WORKER) {
        prefill_worker_down(c, peer);
        decode_worker_down(c, peer);
    } else {
        prefill_gateway_down(c, peer);
        decode_gateway_down(c, peer);
    }
    core_settle(c);
}

static void core_renew(core *c, uint32_t peer, const message *m) {
    CHECK_EQ(m->type, MESSAGE_LEASES);
    CHECK(m->leases.count == 0 || m->leases.list);
    for (uint32_t i = 0; i < m->leases.count; i++) {
        const message_lease *l = &m->leases.list[i];
        for (int role = 0; role < RECORD_ROLES; role++) {
            record *r = record_find(&c->records, (record_role)role, l->request);
            if (r && r->gateway == peer && r->attempt == l->attempt &&
                !PLANTED(LEASE_FROM_ARRIVAL)) {
                r->lease_us = c->now_us + c->options.lease_us;
            }
        }
    }
}

static void core_on_cancel(core *c, uint32_t peer, const message *m) {
    CHECK_EQ(m->type, MESSAGE_CANCEL);
    prefill_cancel(c, peer, m);
    decode_cancel(c, peer, m);
}

static void core_on_drain(core *c, uint32_t peer, const message *m) {
    CHECK_EQ(m->type, MESSAGE_DRAIN);
    CHECK(links_get(&c->links, peer) != NULL);
    c->draining = true;
}

static void core_on_resync(core *c, uint32_t peer, const message *m) {
    CHECK_EQ(m->type, MESSAGE_RESYNC);
    cachelog_restart(&c->links.list[peer].reader);
}

static void core_ignore(core *c, uint32_t peer, const message *m) {
    CHECK(m->type == MESSAGE_HEARTBEAT);
    CHECK(links_get(&c->links, peer) != NULL); /* heard_us says all of it */
}

/* Who may send what to whom: anything else never comes from a correct peer. A worker's REJECT is
 * about an ANNOUNCE, or (like every REJECT of a gateway) only a complaint. */
static void core_dispatch(core *c, uint32_t peer, core_peer_kind kind, const message *m) {
    typedef void handler(core *, uint32_t, const message *);
    static const struct {
        handler *handle;
        core_peer_kind kind;
        uint32_t roles; /* any of these must be here */
    } table[] = {
        [MESSAGE_LEASES] = {core_renew, CORE_GATEWAY, CORE_ROLES},
        [MESSAGE_DRAIN] = {core_on_drain, CORE_GATEWAY, CORE_ROLES},
        [MESSAGE_RESYNC] = {core_on_resync, CORE_GATEWAY, CORE_ROLES},
        [MESSAGE_CANCEL] = {core_on_cancel, CORE_GATEWAY, CORE_ROLES},
        [MESSAGE_SUBMIT] = {prefill_submit, CORE_GATEWAY, MESSAGE_ROLE_PREFILL},
        [MESSAGE_RESERVE] = {decode_reserve, CORE_GATEWAY, MESSAGE_ROLE_DECODE},
        [MESSAGE_GRANT] = {prefill_grant, CORE_WORKER, MESSAGE_ROLE_PREFILL},
        [MESSAGE_QUEUED] = {prefill_queued, CORE_WORKER, MESSAGE_ROLE_PREFILL},
        [MESSAGE_REFUSED] = {prefill_refused, CORE_WORKER, MESSAGE_ROLE_PREFILL},
        [MESSAGE_POSTED] = {push_posted, CORE_WORKER, MESSAGE_ROLE_PREFILL},
        [MESSAGE_ADOPTED] = {prefill_adopted, CORE_WORKER, MESSAGE_ROLE_PREFILL},
        [MESSAGE_ANNOUNCE] = {decode_announce, CORE_WORKER, MESSAGE_ROLE_DECODE},
        [MESSAGE_HANDOFF] = {decode_handoff, CORE_WORKER, MESSAGE_ROLE_DECODE},
    };
    if (m->type == MESSAGE_HEARTBEAT) {
        core_ignore(c, peer, m);
    } else if (m->type == MESSAGE_REJECT) {
        if (kind == CORE_WORKER) {
            push_reject(c, peer, m);
        }
    } else if ((size_t)m->type < sizeof table / sizeof *table && table[m->type].handle &&
               table[m->type].kind == kind && (table[m->type].roles & c->options.roles)) {
        table[m->type].handle(c, peer, m);
    } else {
        core_close(c, peer, m);
    }
}

void core_message(core *c, uint32_t peer, const message *m, int64_t now_us) {
    core_begin(c, now_us);
    CHECK_LT(peer, c->links.count_max);
    links_link *k = links_get(&c->links, peer);
    if (k) { /* what a link that is being torn down still says is not heard */
        k->heard_us = now_us;
        core_dispatch(c, peer, k->kind, m);
    }
    core_settle(c);
}

void core_sent(core *c, uint32_t peer, uint32_t sequence, int64_t now_us) {
    core_begin(c, now_us);
    CHECK_LT(peer, c->links.count_max);
    links_link *k = &c->links.list[peer];
    CHECK(k->up);
    links_transfer *t = links_send_find(k, sequence);
    CHECK(t && t->state == LINKS_MOVING);
    links_finish(t, c->blocks);
    c->pump = true;
    core_settle(c);
}

void core_received(core *c, uint32_t peer, uint32_t sequence, core_received_result result,
                   int64_t now_us) {
    core_begin(c, now_us);
    CHECK_LT(peer, c->links.count_max);
    links_link *k = &c->links.list[peer];
    CHECK(k->up);
    links_transfer *t = links_receive_find(k, sequence);
    CHECK(t && t->state == LINKS_MOVING);
    links_finish(t, c->blocks);
    decode_received(c, t, result);
    core_settle(c);
}

/* ---- time ----------------------------------------------------------------------------------- */

/* Transfers that outlived their request get a deadline when first seen, then the channel goes: a
 * page in quarantine must not wait for a peer that never wakes up [R11]. */
static bool core_overdue(core *c, links_transfer *list, uint32_t count) {
    bool overdue = false;
    CHECK(count > 0);
    for (uint32_t i = 0; i < count; i++) {
        links_transfer *t = &list[i];
        if (t->state == LINKS_FREE || record_get(&c->records, t->record)) {
            continue;
        }
        if (t->deadline_us == 0) {
            t->deadline_us = c->now_us + c->options.quarantine_us;
        }
        overdue = overdue || t->deadline_us <= c->now_us;
    }
    return overdue;
}

static void core_heartbeat(core *c, uint32_t peer) {
    message *m = core_send(c, peer, MESSAGE_HEARTBEAT, 0, 0);
    CHECK(links_get(&c->links, peer) != NULL);
    m->heartbeat = core_get_heartbeat(c);
    m->heartbeat.cached_sequence = c->links.list[peer].reader.sequence;
}

/* What the gateway does not know of the prefix cache yet, as far as a message or two hold it. */
static void core_tell_cache(core *c, uint32_t peer, bool *snapshot_room) {
    cachelog_reader *r = &c->links.list[peer].reader;
    for (int i = 0; i < CACHED_MESSAGES; i++) {
        message_cached told;
        if (!cachelog_read(prefix_log(c->prefix), r, snapshot_room, &told)) {
            return;
        }
        core_send(c, peer, MESSAGE_CACHED, 0, 0)->cached = told;
    }
}

static int64_t core_min_us(int64_t a, int64_t b) {
    return a < b ? a : b;
}

void core_tick(core *c, int64_t now_us) {
    core_begin(c, now_us);
    const core_options *o = &c->options;
    if (!PLANTED(REAPER_NEEDS_WORK) || core_stepping(c)) {
        prefill_tick(c);
        decode_tick(c);
    }
    bool beat = c->beat_us <= now_us;
    bool snapshot_room = true;
    for (uint32_t i = 0; i < c->links.count_max; i++) {
        links_link *k = links_get(&c->links, i);
        if (!k) {
            continue;
        }
        bool overdue = false;
        bool silent = false;
        if (k->kind == CORE_WORKER) {
            overdue = core_overdue(c, k->sends, LINKS_SENDS_MAX);
            overdue = core_overdue(c, k->receives, LINKS_RECEIVES_MAX) || overdue;
            silent = now_us - k->heard_us >= o->silence_us;
        }
        if ((overdue || silent) && !PLANTED(R11_TEAR)) {
            core_close_link(c, i);
        } else if (beat) {
            core_heartbeat(c, i);
            if (k->kind == CORE_GATEWAY) {
                core_tell_cache(c, i, &snapshot_room);
            }
        }
    }
    if (beat) {
        c->beat_us = now_us + o->heartbeat_us;
    }
    int64_t shortest = core_min_us(core_min_us(o->lease_us, o->queue_deadline_us),
                                   core_min_us(o->quarantine_us, o->silence_us));
    c->tick_us = core_min_us(c->beat_us, now_us + (shortest / 4 > 0 ? shortest / 4 : 1));
    core_settle(c);
}

int64_t core_deadline_us(const core *c) {
    CHECK(c->tick_us >= 0);
    return c->tick_us;
}

void core_drain(core *c) {
    CHECK(c->drained);
    c->draining = true;
}

void core_hand_back(core *c, int64_t now_us) {
    core_begin(c, now_us);
    c->draining = true;
    prefill_hand_back(c);
    decode_hand_back(c);
    core_settle(c);
}

void core_set_roles(core *c, uint32_t roles) {
    CHECK(roles != 0 && (roles & ~c->options.roles) == 0);
    c->accepts = roles;
}

void core_set_group_layers(core *c, uint32_t peer, uint32_t layers) {
    CHECK(layers > 0);
    CHECK_LT(peer, c->links.count_max);
    c->links.list[peer].group_layers = layers < c->options.layers ? layers : c->options.layers;
}

uint32_t core_roles(const core *c) {
    CHECK(c->accepts != 0);
    return c->accepts;
}

bool core_idle(const core *c) {
    blocks_counts n = blocks_count(c->blocks);
    CHECK_LE(n.owned + n.quarantined, n.total);
    return c->records.lives[RECORD_PREFILL] + c->records.lives[RECORD_DECODE] == 0 &&
           n.owned + n.quarantined == 0 && !core_stepping(c);
}

/* ---- steps and actions ---------------------------------------------------------------------- */

bool core_plan(core *c, core_lane lane, int64_t now_us, core_batch *out) {
    core_begin(c, now_us);
    CHECK_LT((uint32_t)lane, core_lanes(&c->options));
    core_step *s = &c->steps[lane];
    CHECK(!s->in_flight);
    bool work = sched_plan(c, lane);
    if (work) {
        s->in_flight = true;
        s->started_us = now_us;
        *out = s->batch;
    }
    core_settle(c);
    return work;
}

void core_progress(core *c, int32_t layers_done, int64_t now_us) {
    core_begin(c, now_us);
    core_step *s = &c->steps[CORE_LANE_PROMPTS];
    CHECK(s->in_flight);
    CHECK_LE(layers_done, (int32_t)c->options.layers);
    if (layers_done > s->layers_done) {
        s->layers_done = layers_done;
        c->pump = true;
    }
    core_settle(c);
}

void core_commit(core *c, core_lane lane, const request_token *results, int32_t results_count,
                 int64_t now_us) {
    core_begin(c, now_us);
    CHECK_LT((uint32_t)lane, core_lanes(&c->options));
    CHECK(c->steps[lane].in_flight);
    sched_commit(c, lane, results, results_count);
    core_settle(c);
}

bool core_next(core *c, core_action *out) {
    for (;;) {
        const core_action *a = outbox_take(&c->outbox);
        if (a) {
            CHECK(!c->drained);
            *out = *a;
            return true;
        }
        if (!c->pump) {
            c->drained = true;
            return false;
        }
        c->pump = false;
        push_pump(c);
        decode_pump(c);
    }
}
