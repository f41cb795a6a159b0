/* fuzz_core.c -- a worker's engine among hostile peers: any sequence of messages, links, finished
 * transfers, steps and times leaves its invariants whole, and in the end it holds nothing. */
#include "engine/base/mem.h"
#include "engine/core/core.h"
#include "tests/fuzz/fuzz_say.h"

enum { PEERS = 5, GATEWAYS = 2, TRANSFERS = 512, RESULTS = 512, EVENTS_MAX = 400, HEARD = 8 };

typedef struct {
    uint32_t peer, sequence;
    bool receives;
} transfer;

/* A message that a peer may answer. */
typedef struct {
    uint32_t peer;
    message m; /* without what its pointers point to */
} heard;

typedef struct {
    arena memory;
    core *core;
    fuzz_say say;
    bool up[PEERS];
    bool close_asked[PEERS];
    transfer transfers[TRANSFERS]; /* [transfers_count] under way, the oldest first */
    uint32_t transfers_count;
    bool in_step;
    int32_t layers_done;
    core_batch batch;
    request_token results[RESULTS];
    heard heard[HEARD]; /* a ring */
    uint32_t heard_count;
    uint32_t announced[PEERS]; /* sequences of the announcements made as each peer */
    uint32_t groups;           /* of the request being handed over */
    request_token first_token; /* of a hand-over */
    uint32_t events;
    int64_t now_us;
} rig;

static const core_options options = {.roles = MESSAGE_ROLE_PREFILL | MESSAGE_ROLE_DECODE,
                                     .pages = 24,
                                     .layers = FUZZ_SAY_LAYERS,
                                     .context_tokens = 128,
                                     .seqs_max = 4,
                                     .queue_max = 3,
                                     .step_tokens_max = 40,
                                     .logit_rows_max = 12,
                                     .prefill_chunk_tokens = 32,
                                     .headroom_tokens = 8,
                                     .group_layers = 2,
                                     .group_cells_max = 8,
                                     .peers_max = PEERS,
                                     .tombstones_max = 4,
                                     .lease_us = 30000000,
                                     .queue_deadline_us = 20000000,
                                     .quarantine_us = 5000000,
                                     .heartbeat_us = 1000000,
                                     .silence_us = 3000000,
                                     .hash_key = {1, 2}};

static void drop_transfers(rig *r, uint32_t peer) {
    uint32_t kept = 0;
    for (uint32_t i = 0; i < r->transfers_count; i++) {
        if (r->transfers[i].peer != peer) {
            r->transfers[kept++] = r->transfers[i];
        }
    }
    r->transfers_count = kept;
}

/* What an encoder refuses must not be sent, even to a peer that lies. */
static void check_sent(rig *r, const message *m) {
    strbuf_clear(&r->say.bytes);
    CHECK_EQ(message_encode(m, &r->say.bytes), STATUS_OK);
}

static void note(rig *r, uint32_t peer, const message *m) {
    r->heard[r->heard_count++ % HEARD] = (heard){peer, *m};
}

static void drain(rig *r) {
    core_action a;
    while (core_next(r->core, &a)) {
        CHECK(a.peer < PEERS && r->up[a.peer]);
        if (a.kind == CORE_SEND) {
            check_sent(r, &a.message);
            note(r, a.peer, &a.message);
        } else if (a.kind == CORE_CLOSE) {
            r->close_asked[a.peer] = true;
        } else {
            CHECK_LT(r->transfers_count, TRANSFERS);
            for (uint32_t i = 0; !a.transfer.junk && i < a.transfer.pages_count; i++) {
                CHECK_LT(a.transfer.pages[i], options.pages);
            }
            r->transfers[r->transfers_count++] =
                (transfer){a.peer, a.transfer.sequence, a.kind == CORE_TRANSFER_RECEIVE};
        }
    }
    /* Not always: it is most of the time spent. */
    if (r->events % 4 == 0) {
        core_validate(r->core);
    }
}

static void link_down(rig *r, uint32_t peer) {
    if (r->up[peer]) {
        drop_transfers(r, peer);
        core_link_down(r->core, peer, r->now_us);
        r->up[peer] = r->close_asked[peer] = false;
        r->announced[peer] = 0;
        drain(r);
    }
}

static void link_change(rig *r, fuzz_input *in) {
    uint32_t peer = fuzz_below(in, PEERS);
    if (r->up[peer]) {
        link_down(r, peer);
        return;
    }
    bool gateway = peer < GATEWAYS;
    core_link_up(r->core, peer, gateway ? CORE_GATEWAY : CORE_WORKER,
                 gateway ? MESSAGE_NO_WORKER : peer - GATEWAYS, 1 + fuzz_below(in, 2), r->now_us);
    r->up[peer] = true;
    drain(r);
}

static void hear(rig *r, fuzz_input *in) {
    uint32_t peer = fuzz_below(in, PEERS);
    const message *m = fuzz_say_next(&r->say, in);
    if (m != NULL && r->up[peer]) {
        message copy = *m; /* draining encodes, and that ends what the message points to */
        core_message(r->core, peer, m, r->now_us);
        if (copy.type == MESSAGE_SUBMIT && copy.submit.peer_worker != MESSAGE_NO_WORKER) {
            note(r, GATEWAYS + copy.submit.peer_worker, &copy);
        }
        drain(r);
    }
}

/* The answer that a correct peer would give to what it was sent, or nearly. */
static bool make_answer(rig *r, fuzz_input *in, const heard *h, message *m) {
    uint32_t odd = fuzz_below(in, 16);
    *m = (message){.request = h->m.request, .attempt = h->m.attempt};
    switch (h->m.type) {
        case MESSAGE_SUBMIT:
            m->type = MESSAGE_GRANT;
            m->pages =
                ((uint32_t)h->m.submit.tokens_count + LIMIT_PAGE_TOKENS - 1) / LIMIT_PAGE_TOKENS +
                (odd == 1);
            m->prefix_pages = odd == 2 ? m->pages : odd == 3;
            return true;
        case MESSAGE_ANNOUNCE:
            m->type = MESSAGE_POSTED;
            m->posted = (message_posted){h->m.announce.sequence + (odd == 1), h->m.announce.group};
            return true;
        case MESSAGE_GRANT:
            if (odd >= 12 && r->groups > 0) {
                m->type = MESSAGE_HANDOFF;
                m->handoff.groups = r->groups;
                m->handoff.tokens = &r->first_token;
                m->handoff.tokens_count = 1;
                return true;
            }
            r->groups = odd < 8 ? 0 : r->groups;
            m->type = MESSAGE_ANNOUNCE;
            m->announce = (message_announce){.sequence = r->announced[h->peer]++,
                                             .group = r->groups++,
                                             .layer_first = r->groups % 2 ? 0 : 2,
                                             .layers = 2,
                                             .page_first = h->m.prefix_pages,
                                             .pages = h->m.pages - h->m.prefix_pages};
            return m->announce.pages > 0;
        default:
            return false;
    }
}

static void answer(rig *r, fuzz_input *in) {
    message m;
    const heard *h = &r->heard[fuzz_below(in, HEARD)];
    if (h->m.type != 0 && r->up[h->peer] && make_answer(r, in, h, &m)) {
        core_message(r->core, h->peer, &m, r->now_us);
        drain(r);
    }
}

/* The oldest transfer of some link and direction ends: a link keeps its order. */
static void end_transfer(rig *r, fuzz_input *in) {
    if (r->transfers_count == 0) {
        return;
    }
    transfer t = r->transfers[fuzz_below(in, r->transfers_count)];
    for (uint32_t i = 0; i < r->transfers_count; i++) {
        if (r->transfers[i].peer == t.peer && r->transfers[i].receives == t.receives) {
            t = r->transfers[i];
            memmove(r->transfers + i, r->transfers + i + 1, (--r->transfers_count - i) * sizeof t);
            break;
        }
    }
    if (t.receives) {
        core_received_result result = (core_received_result)(fuzz_below(in, 8) % 5 % 3);
        core_received(r->core, t.peer, t.sequence, result, r->now_us);
    } else {
        core_sent(r->core, t.peer, t.sequence, r->now_us);
    }
    drain(r);
}

static void check_batch(const core_batch *b) {
    CHECK(b->rows > 0 && b->rows <= options.step_tokens_max && b->wants_count <= RESULTS);
    CHECK_LE(b->logit_rows_count, options.logit_rows_max);
    int32_t rows = 0;
    for (int32_t i = 0; i < b->seqs_count; i++) {
        const core_seq *s = &b->seqs[i];
        CHECK(s->row_first == rows && s->rows > 0);
        CHECK_LE(s->position_first + s->rows, options.context_tokens);
        for (int32_t p = 0; p < s->pages_count; p++) {
            CHECK_LT(s->pages[p], options.pages);
        }
        rows += s->rows;
    }
    CHECK_EQ(rows, b->rows);
}

static void commit(rig *r) {
    for (int32_t i = 0; i < r->batch.wants_count; i++) {
        const core_want *w = &r->batch.wants[i];
        bool sample = w->kind == CORE_WANT_SAMPLE;
        r->results[i] = (request_token){.choice = w->choice,
                                        .index = sample ? w->generated_count : 0,
                                        .token = sample ? 3 : w->token};
        if (sample && w->generated_count + 1 >= w->params->max_tokens) {
            r->results[i].end = REQUEST_LENGTH;
        }
    }
    core_commit(r->core, CORE_LANE_PROMPTS, r->results, r->batch.wants_count, r->now_us);
    r->in_step = false;
    drain(r);
}

static void step(rig *r, fuzz_input *in) {
    if (!r->in_step) {
        r->in_step = core_plan(r->core, CORE_LANE_PROMPTS, r->now_us, &r->batch);
        r->layers_done = 0;
        drain(r);
        if (r->in_step) {
            check_batch(&r->batch);
        }
    } else if (r->layers_done < FUZZ_SAY_LAYERS && fuzz_below(in, 2)) {
        core_progress(r->core, ++r->layers_done, r->now_us);
        drain(r);
    } else {
        commit(r);
    }
}

static void event(rig *r, fuzz_input *in) {
    static const int64_t waits_us[] = {0, 1000, 600000, 6000000, 21000000, 31000000};
    switch (fuzz_below(in, 16)) {
        case 12:
        case 13:
        case 14:
        case 15:
            answer(r, in);
            break;
        case 0:
            link_change(r, in);
            break;
        case 1:
            r->now_us += waits_us[fuzz_below(in, 6)];
            core_tick(r->core, r->now_us);
            drain(r);
            break;
        case 2:
        case 3:
            end_transfer(r, in);
            break;
        case 4:
        case 5:
        case 6:
            step(r, in);
            break;
        default:
            hear(r, in);
            break;
    }
    r->now_us++;
    r->events++;
    for (uint32_t p = 0; p < PEERS; p++) {
        if (r->close_asked[p]) {
            link_down(r, p);
        }
    }
}

/* Everybody has gone: nothing may be held. */
static void check_empty(rig *r) {
    core_validate(r->core);
    if (r->in_step) {
        commit(r);
    }
    for (uint32_t p = 0; p < PEERS; p++) {
        link_down(r, p);
    }
    r->now_us += 2 * options.lease_us;
    core_tick(r->core, r->now_us);
    drain(r);
    core_stats s;
    core_get_stats(r->core, &s);
    core_validate(r->core);
    CHECK(core_idle(r->core));
    CHECK_EQ(s.pages_owned + s.pages_quarantined + s.running + s.waiting + s.parked_grants, 0);
}

FUZZ_TARGET(core, FUZZ_ALLOWANCE_BYTES) {
    fuzz_input in = {data, bytes, 0};
    rig *r = mem_calloc(1, sizeof *r);
    diag d;
    CHECK(r != NULL);
    CHECK_EQ(arena_open(&r->memory, core_bytes(&options)), STATUS_OK);
    CHECK_EQ(core_create(&r->memory, &options, &r->core, &d), STATUS_OK);
    arena_seal(&r->memory);
    fuzz_say_open(&r->say);
    r->now_us = 1;
    for (uint32_t p = 0; p < PEERS; p++) {
        core_link_up(r->core, p, p < GATEWAYS ? CORE_GATEWAY : CORE_WORKER,
                     p < GATEWAYS ? MESSAGE_NO_WORKER : p - GATEWAYS, 1, r->now_us);
        r->up[p] = true;
        drain(r);
    }
    for (int i = 0; i < EVENTS_MAX && !fuzz_done(&in); i++) {
        event(r, &in);
    }
    check_empty(r);
    fuzz_say_close(&r->say);
    arena_close(&r->memory);
    mem_free(r);
}
