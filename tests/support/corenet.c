/* corenet.c -- a few workers' pure engines, joined by queues, with the test as their gateway. */
#include "tests/support/corenet.h"

#include <string.h>

#include "engine/base/check.h"
#include "engine/base/mem.h"
#include "engine/base/rng.h"
#include "engine/core/core_state.h"

enum { QUEUE_MAX = 4096, NOTES_MAX = 1 << 16, DATA_PAGES_MAX = 256 };

typedef struct {
    char *data;
    size_t bytes;
} packet;

typedef struct {
    packet items[QUEUE_MAX];
    uint32_t first, count;
} queue;

typedef struct {
    uint32_t sequence, layer_first, layers, pages_count;
    bool junk;
    uint32_t pages[DATA_PAGES_MAX];
} data;

typedef struct {
    data items[QUEUE_MAX];
    uint32_t first, count;
} data_queue;

typedef struct {
    arena memory;
    core *core;
    hashmodel model;
    core_batch batches[CORE_LANES];
    bool in_step[CORE_LANES];
    uint32_t layers_done[CORE_LANES];
    bool asked_close[CORENET_PEERS];
    bool joined[CORENET_PEERS];
} worker;

struct corenet {
    corenet_options options;
    worker workers[CORENET_WORKERS_MAX];
    queue queues[CORENET_WORKERS_MAX][CORENET_WORKERS_MAX];
    data_queue sends[CORENET_WORKERS_MAX][CORENET_WORKERS_MAX];    /* on their way */
    data_queue receives[CORENET_WORKERS_MAX][CORENET_WORKERS_MAX]; /* [from][to] posted */
    corenet_note *notes;                                           /* [NOTES_MAX] */
    uint32_t notes_count;
    message_scratch *scratch;
    message peeked;
    request_token *results; /* [results_max] */
    int64_t now_us;
};

static int64_t tick_time(corenet *n) {
    return ++n->now_us;
}

corenet_options corenet_defaults(void) {
    return (corenet_options){
        .workers = 2,
        .roles = {MESSAGE_ROLE_PREFILL, MESSAGE_ROLE_DECODE},
        .eog = -1,
        .core = {.pages = 64,
                 .layers = CORENET_LAYERS,
                 .context_tokens = 512,
                 .seqs_max = 8,
                 .queue_max = 8,
                 .step_tokens_max = 64,
                 .logit_rows_max = 24,
                 .prefill_chunk_tokens = 32,
                 .headroom_tokens = 8,
                 .group_layers = 2,
                 .group_cells_max = 8,
                 .tombstones_max = 64,
                 .lease_us = 30000000,
                 .queue_deadline_us = 20000000,
                 .quarantine_us = 5000000,
                 .heartbeat_us = 1000000,
                 .silence_us = 3000000000,
                 .hash_key = {1, 2}},
    };
}

corenet *corenet_open(const corenet_options *o) {
    corenet *n = mem_calloc(1, sizeof *n);
    CHECK(n && o->workers <= CORENET_WORKERS_MAX);
    n->options = *o;
    n->now_us = 1;
    n->notes = mem_calloc(NOTES_MAX, sizeof *n->notes);
    n->results =
        mem_calloc((size_t)o->core.logit_rows_max + 2 * LIMIT_CHOICES * (size_t)o->core.seqs_max,
                   sizeof *n->results);
    CHECK(n->notes && n->results);
    CHECK_EQ(message_scratch_open(&n->scratch), STATUS_OK);
    for (uint32_t w = 0; w < o->workers; w++) {
        worker *k = &n->workers[w];
        core_options c = o->core;
        diag d;
        c.roles = o->roles[w];
        c.block_pages = o->block_pages[w] ? o->block_pages[w] : c.block_pages;
        c.pages -= c.block_pages ? c.pages % c.block_pages : 0;
        c.peers_max = CORENET_PEERS;
        CHECK_EQ(arena_open(&k->memory, core_bytes(&c)), STATUS_OK);
        CHECK_EQ(core_create(&k->memory, &c, &k->core, &d), STATUS_OK);
        arena_seal(&k->memory);
        hashmodel_options m = {c.pages, c.layers, 50000, o->eog, c.prompts_apart};
        CHECK_EQ(hashmodel_open(&k->model, &m), STATUS_OK);
    }
    for (uint32_t w = 0; w < o->workers; w++) {
        corenet_gateway_join(n, w, CORENET_GATEWAY);
        corenet_gateway_join(n, w, CORENET_OTHER_GATEWAY);
        for (uint32_t v = 0; v <= w; v++) {
            corenet_join(n, v, w);
        }
    }
    return n;
}

static void clear_queue(queue *q) {
    for (; q->count > 0; q->count--) {
        mem_free(q->items[q->first].data);
        q->first = (q->first + 1) % QUEUE_MAX;
    }
}

void corenet_close(corenet *n) {
    corenet_forget(n);
    for (uint32_t w = 0; w < n->options.workers; w++) {
        for (uint32_t v = 0; v < n->options.workers; v++) {
            clear_queue(&n->queues[w][v]);
        }
        hashmodel_close(&n->workers[w].model);
        arena_close(&n->workers[w].memory);
    }
    message_scratch_close(n->scratch);
    mem_free(n->notes);
    mem_free(n->results);
    mem_free(n);
}

core *corenet_core(corenet *n, uint32_t w) {
    return n->workers[w].core;
}

core_stats corenet_stats(const corenet *n, uint32_t w) {
    core_stats s;
    core_get_stats(n->workers[w].core, &s);
    return s;
}

const hashmodel_options *corenet_model(const corenet *n) {
    return &n->workers[0].model.options;
}

/* ---- actions -------------------------------------------------------------------------------- */

static void note(corenet *n, uint32_t w, uint32_t slot, const message *m) {
    CHECK_LT(n->notes_count, NOTES_MAX);
    corenet_note *t = &n->notes[n->notes_count++];
    *t = (corenet_note){w, slot, *m};
    const request_token *from = m->type == MESSAGE_TOKENS ? m->tokens.tokens : m->scores.scores;
    int32_t count = m->type == MESSAGE_TOKENS   ? m->tokens.tokens_count
                    : m->type == MESSAGE_SCORES ? m->scores.scores_count
                                                : 0;
    request_token *copy = NULL;
    if (count > 0) {
        copy = mem_alloc((size_t)count, sizeof *copy);
        CHECK(copy != NULL);
        memcpy(copy, from, (size_t)count * sizeof *copy);
    }
    if (m->type == MESSAGE_TOKENS) {
        t->m.tokens.tokens = copy;
    } else if (m->type == MESSAGE_SCORES) {
        t->m.scores.scores = copy;
    }
}

static void act_send(corenet *n, uint32_t w, const core_action *a) {
    strbuf bytes = strbuf_make(LIMIT_MESSAGE_BYTES);
    CHECK_EQ(message_encode(&a->message, &bytes), STATUS_OK);
    if (a->peer < CORENET_FIRST) {
        note(n, w, a->peer, &a->message);
        strbuf_close(&bytes);
        return;
    }
    queue *q = &n->queues[w][a->peer - CORENET_FIRST];
    CHECK_LT(q->count, QUEUE_MAX);
    packet *p = &q->items[(q->first + q->count++) % QUEUE_MAX];
    p->data = mem_dup(bytes.data, bytes.bytes);
    p->bytes = bytes.bytes;
    strbuf_close(&bytes);
}

static void act_transfer(data_queue *q, const core_transfer *t) {
    CHECK_LT(q->count, QUEUE_MAX);
    CHECK_LE(t->pages_count, DATA_PAGES_MAX);
    data *d = &q->items[(q->first + q->count++) % QUEUE_MAX];
    d->sequence = t->sequence;
    d->layer_first = t->layer_first;
    d->layers = t->layers;
    d->pages_count = t->pages_count;
    d->junk = t->junk;
    if (!t->junk) {
        memcpy(d->pages, t->pages, t->pages_count * sizeof *d->pages);
    }
}

static void drain(corenet *n, uint32_t w) {
    core_action a;
    worker *k = &n->workers[w];
    while (core_next(k->core, &a)) {
        uint32_t other = a.peer - CORENET_FIRST;
        switch (a.kind) {
            case CORE_SEND:
                act_send(n, w, &a);
                break;
            case CORE_TRANSFER_SEND:
                act_transfer(&n->sends[w][other], &a.transfer);
                break;
            case CORE_TRANSFER_RECEIVE:
                act_transfer(&n->receives[other][w], &a.transfer);
                break;
            case CORE_CLOSE:
                k->asked_close[a.peer] = true;
                break;
        }
    }
    core_validate(k->core);
}

/* ---- time and messages ---------------------------------------------------------------------- */

void corenet_pass(corenet *n, int64_t us) {
    n->now_us += us;
}

void corenet_tick(corenet *n, uint32_t w) {
    core_tick(n->workers[w].core, tick_time(n));
    drain(n, w);
}

void corenet_hand_back(corenet *n, uint32_t w) {
    core_hand_back(n->workers[w].core, tick_time(n));
    drain(n, w);
}

void corenet_say(corenet *n, uint32_t w, uint32_t slot, const message *m) {
    core_message(n->workers[w].core, slot, m, tick_time(n));
    drain(n, w);
}

static void say_work(corenet *n, uint32_t w, message *m, uint32_t peer, const int32_t *tokens,
                     int32_t prompt_count, int32_t count, const request_params *params) {
    m->submit = (message_submit){.peer_worker = peer,
                                 .peer_epoch = peer == MESSAGE_NO_WORKER ? 0 : 1,
                                 .local = m->type == MESSAGE_RESERVE && peer == MESSAGE_NO_WORKER,
                                 .prompt_count = prompt_count,
                                 .tokens_count = count,
                                 .tokens = tokens,
                                 .params = params};
    corenet_say(n, w, CORENET_GATEWAY, m);
}

void corenet_submit(corenet *n, uint32_t w, request_id request, uint32_t attempt, uint32_t peer,
                    const int32_t *tokens, int32_t prompt_count, int32_t count,
                    const request_params *params) {
    message m = {.type = MESSAGE_SUBMIT, .request = request, .attempt = attempt};
    say_work(n, w, &m, peer, tokens, prompt_count, count, params);
}

void corenet_reserve(corenet *n, uint32_t w, request_id request, uint32_t attempt, uint32_t peer,
                     const int32_t *tokens, int32_t prompt_count, int32_t count,
                     const request_params *params) {
    message m = {.type = MESSAGE_RESERVE, .request = request, .attempt = attempt};
    say_work(n, w, &m, peer, tokens, prompt_count, count, params);
}

void corenet_cancel(corenet *n, uint32_t w, request_id request, uint32_t attempt) {
    message m = {.type = MESSAGE_CANCEL, .request = request, .attempt = attempt};
    corenet_say(n, w, CORENET_GATEWAY, &m);
}

uint32_t corenet_waiting(const corenet *n, uint32_t from, uint32_t to) {
    return n->queues[from][to].count;
}

static const message *peek_at(corenet *n, uint32_t from, uint32_t to, uint32_t index) {
    queue *q = &n->queues[from][to];
    diag d;
    CHECK_LT(index, q->count);
    const packet *p = &q->items[(q->first + index) % QUEUE_MAX];
    CHECK_EQ(message_decode(str_of(p->data, p->bytes), n->scratch, &n->peeked, &d), STATUS_OK);
    return &n->peeked;
}

const message *corenet_peek(corenet *n, uint32_t from, uint32_t to) {
    return n->queues[from][to].count > 0 ? peek_at(n, from, to, 0) : NULL;
}

uint32_t corenet_queued(corenet *n, uint32_t from, uint32_t to, message_type type) {
    uint32_t count = 0;
    for (uint32_t i = 0; i < n->queues[from][to].count; i++) {
        count += peek_at(n, from, to, i)->type == type;
    }
    return count;
}

void corenet_skip(corenet *n, uint32_t from, uint32_t to) {
    queue *q = &n->queues[from][to];
    CHECK(q->count > 0);
    mem_free(q->items[q->first].data);
    q->first = (q->first + 1) % QUEUE_MAX;
    q->count--;
}

bool corenet_deliver(corenet *n, uint32_t from, uint32_t to) {
    queue *q = &n->queues[from][to];
    const message *m = corenet_peek(n, from, to);
    if (!m) {
        return false;
    }
    packet p = q->items[q->first];
    q->first = (q->first + 1) % QUEUE_MAX;
    q->count--;
    corenet_say(n, to, CORENET_FIRST + from, m);
    mem_free(p.data);
    return true;
}

uint32_t corenet_flying(const corenet *n, uint32_t from, uint32_t to) {
    return n->sends[from][to].count;
}

bool corenet_land(corenet *n, uint32_t from, uint32_t to, bool damage) {
    data_queue *q = &n->sends[from][to];
    data_queue *r = &n->receives[from][to];
    if (q->count == 0) {
        return false;
    }
    const data *sent = &q->items[q->first];
    const data *posted = &r->items[r->first];
    CHECK(r->count > 0);
    CHECK_EQ(sent->sequence, posted->sequence); /* both ends post in the order of announcement */
    CHECK_EQ(sent->layer_first, posted->layer_first);
    CHECK_EQ(sent->layers, posted->layers);
    CHECK_EQ(sent->pages_count, posted->pages_count);
    core_received_result result = sent->junk ? CORE_RECEIVED_JUNK : CORE_RECEIVED_OK;
    if (!sent->junk) {
        hashmodel_move(&n->workers[from].model, sent->pages, &n->workers[to].model, posted->pages,
                       sent->pages_count, sent->layer_first, sent->layers);
    }
    if (damage && !sent->junk) {
        hashmodel_spoil(&n->workers[to].model, posted->pages[0], sent->layer_first, 1);
        result = CORE_RECEIVED_DAMAGED;
    }
    uint32_t sequence = sent->sequence;
    q->first = (q->first + 1) % QUEUE_MAX;
    q->count--;
    r->first = (r->first + 1) % QUEUE_MAX;
    r->count--;
    core_sent(n->workers[from].core, CORENET_FIRST + to, sequence, tick_time(n));
    drain(n, from);
    core_received(n->workers[to].core, CORENET_FIRST + from, sequence, result, tick_time(n));
    drain(n, to);
    return true;
}

void corenet_end_send(corenet *n, uint32_t w, uint32_t slot, uint32_t sequence) {
    core_sent(n->workers[w].core, slot, sequence, tick_time(n));
    drain(n, w);
}

void corenet_end_receive(corenet *n, uint32_t w, uint32_t slot, uint32_t sequence,
                         core_received_result result) {
    core_received(n->workers[w].core, slot, sequence, result, tick_time(n));
    drain(n, w);
}

/* ---- steps ---------------------------------------------------------------------------------- */

static bool holds(const record *r, uint32_t page) {
    for (int32_t i = 0; i < r->params.choices; i++) {
        for (uint32_t k = 0; k < r->seqs[i].pages_count; k++) {
            if (r->seqs[i].pages[k] == page) {
                return true;
            }
        }
    }
    return false;
}

/* Only its request holds a page that a step writes, and nobody can find it. */
static void check_written(const core *c, uint32_t page) {
    uint32_t holders = 0;
    for (int role = 0; role < RECORD_ROLES; role++) {
        for (const record *r = c->records.first[role]; r; r = r->next) {
            holders += holds(r, page);
        }
    }
    CHECK_EQ(holders, 1);
    CHECK(!blocks_is_cached(c->blocks, page));
}

/* What must hold of every batch, whatever it computes. */
static void check_batch(const worker *k, const core_batch *b, const core_options *o) {
    int32_t rows = 0;
    CHECK(b->rows > 0 && b->rows <= o->step_tokens_max);
    CHECK(b->seqs_count > 0 && b->seqs_count <= 2 * o->seqs_max);
    CHECK(b->logit_rows_count <= o->logit_rows_max);
    for (int32_t i = 0; i < b->seqs_count; i++) {
        const core_seq *s = &b->seqs[i];
        CHECK_EQ(s->row_first, rows);
        CHECK(s->rows > 0 && s->position_first >= 0);
        rows += s->rows;
        int32_t first = s->position_first / LIMIT_PAGE_TOKENS;
        int32_t last = (s->position_first + s->rows - 1) / LIMIT_PAGE_TOKENS;
        CHECK_EQ(s->pages_count, last + 1);
        for (int32_t p = first; p <= last; p++) {
            check_written(k->core, s->pages[p]);
        }
    }
    CHECK_EQ(rows, b->rows);
    for (int32_t i = 0; i < b->logit_rows_count; i++) {
        CHECK(b->logit_rows[i] < rows && (i == 0 || b->logit_rows[i - 1] < b->logit_rows[i]));
    }
    for (int32_t i = 0; i < b->copies_count; i++) {
        CHECK(b->copies[i].from != b->copies[i].to);
        CHECK_EQ(blocks_references(k->core->blocks, b->copies[i].to),
                 blocks_block_pages(k->core->blocks));
    }
}

static uint32_t lanes_of(const corenet *n) {
    return n->options.core.multiplex ? CORE_LANES : 1;
}

bool corenet_begin_lane(corenet *n, uint32_t w, core_lane lane) {
    worker *k = &n->workers[w];
    CHECK(!k->in_step[lane]);
    k->in_step[lane] = core_plan(k->core, lane, tick_time(n), &k->batches[lane]);
    k->layers_done[lane] = 0;
    drain(n, w);
    if (k->in_step[lane]) {
        check_batch(k, &k->batches[lane], &n->options.core);
        hashmodel_copy_pages(&k->model, &k->batches[lane]);
    }
    return k->in_step[lane];
}

const core_batch *corenet_batch_lane(const corenet *n, uint32_t w, core_lane lane) {
    return n->workers[w].in_step[lane] ? &n->workers[w].batches[lane] : NULL;
}

void corenet_layers_lane(corenet *n, uint32_t w, core_lane lane, uint32_t layers_done) {
    worker *k = &n->workers[w];
    CHECK(k->in_step[lane]);
    while (k->layers_done[lane] < layers_done) {
        hashmodel_layer(&k->model, &k->batches[lane], k->layers_done[lane]++);
        if (lane == CORE_LANE_PROMPTS) {
            core_progress(k->core, (int32_t)k->layers_done[lane], tick_time(n));
            drain(n, w);
        }
    }
}

void corenet_finish_lane(corenet *n, uint32_t w, core_lane lane) {
    worker *k = &n->workers[w];
    const core_batch *b = &k->batches[lane];
    corenet_layers_lane(n, w, lane, k->model.options.layers);
    hashmodel_results(&k->model, b, n->results);
    k->in_step[lane] = false;
    core_commit(k->core, lane, n->results, b->wants_count, tick_time(n));
    drain(n, w);
}

bool corenet_begin(corenet *n, uint32_t w) {
    return corenet_begin_lane(n, w, CORE_LANE_PROMPTS);
}

const core_batch *corenet_batch(const corenet *n, uint32_t w) {
    return corenet_batch_lane(n, w, CORE_LANE_PROMPTS);
}

void corenet_layers(corenet *n, uint32_t w, uint32_t layers_done) {
    corenet_layers_lane(n, w, CORE_LANE_PROMPTS, layers_done);
}

void corenet_finish(corenet *n, uint32_t w) {
    corenet_finish_lane(n, w, CORE_LANE_PROMPTS);
}

bool corenet_step(corenet *n, uint32_t w) {
    if (!corenet_begin(n, w)) {
        return false;
    }
    corenet_finish(n, w);
    return true;
}

void corenet_run(corenet *n) {
    for (bool moved = true; moved;) {
        moved = false;
        for (uint32_t w = 0; w < n->options.workers; w++) {
            for (uint32_t v = 0; v < n->options.workers; v++) {
                while (corenet_deliver(n, w, v) || corenet_land(n, w, v, false)) {
                    moved = true;
                }
            }
            for (uint32_t lane = lanes_of(n); lane-- > 0;) {
                if (n->workers[w].in_step[lane]) {
                    corenet_finish_lane(n, w, lane);
                    moved = true;
                }
                if (corenet_begin_lane(n, w, lane)) {
                    corenet_finish_lane(n, w, lane);
                    moved = true;
                }
            }
        }
    }
}

static bool step_part(corenet *n, uint32_t w, uint64_t *random) {
    worker *k = &n->workers[w];
    uint32_t lanes = lanes_of(n);
    core_lane lane = lanes > 1 ? (core_lane)rng_below(random, lanes) : CORE_LANE_PROMPTS;
    if (!k->in_step[lane]) {
        if (corenet_begin_lane(n, w, lane) || lanes == 1) {
            return k->in_step[lane];
        }
        lane = lane == CORE_LANE_DECODE ? CORE_LANE_PROMPTS : CORE_LANE_DECODE;
        if (!k->in_step[lane]) {
            return corenet_begin_lane(n, w, lane);
        }
    }
    if (k->layers_done[lane] < k->model.options.layers && rng_below(random, 4) != 0) {
        corenet_layers_lane(n, w, lane, k->layers_done[lane] + 1);
    } else {
        corenet_finish_lane(n, w, lane);
    }
    return true;
}

bool corenet_move_one(corenet *n, uint64_t *random) {
    uint32_t count = n->options.workers;
    uint32_t kinds = count + 2 * count * count;
    uint32_t start = (uint32_t)rng_below(random, kinds);
    for (uint32_t i = 0; i < kinds; i++) {
        uint32_t kind = (start + i) % kinds;
        bool moved;
        if (kind < count) {
            moved = step_part(n, kind, random);
        } else if (kind < count + count * count) {
            kind -= count;
            moved = corenet_deliver(n, kind / count, kind % count);
        } else {
            kind -= count + count * count;
            moved = corenet_land(n, kind / count, kind % count, false);
        }
        if (moved) {
            return true;
        }
    }
    return false;
}

/* ---- links ---------------------------------------------------------------------------------- */

static void link_up(corenet *n, uint32_t w, uint32_t slot, core_peer_kind kind, uint32_t other) {
    worker *k = &n->workers[w];
    CHECK(!k->joined[slot]);
    k->joined[slot] = true;
    k->asked_close[slot] = false;
    core_link_up(k->core, slot, kind, other, kind == CORE_WORKER ? 1 : 0, tick_time(n));
    drain(n, w);
}

static void link_down(corenet *n, uint32_t w, uint32_t slot) {
    worker *k = &n->workers[w];
    CHECK(k->joined[slot]);
    k->joined[slot] = false;
    core_link_down(k->core, slot, tick_time(n));
    drain(n, w);
}

static void lose(corenet *n, uint32_t from, uint32_t to) {
    clear_queue(&n->queues[from][to]);
    n->sends[from][to].count = 0;
    n->receives[from][to].count = 0;
}

void corenet_cut(corenet *n, uint32_t a, uint32_t b) {
    lose(n, a, b);
    lose(n, b, a);
    link_down(n, a, CORENET_FIRST + b);
    if (a != b) {
        link_down(n, b, CORENET_FIRST + a);
    }
}

void corenet_join(corenet *n, uint32_t a, uint32_t b) {
    link_up(n, a, CORENET_FIRST + b, CORE_WORKER, b);
    if (a != b) {
        link_up(n, b, CORENET_FIRST + a, CORE_WORKER, a);
    }
}

void corenet_gateway_cut(corenet *n, uint32_t w, uint32_t slot) {
    link_down(n, w, slot);
}

void corenet_gateway_join(corenet *n, uint32_t w, uint32_t slot) {
    link_up(n, w, slot, CORE_GATEWAY, MESSAGE_NO_WORKER);
}

bool corenet_asked_close(const corenet *n, uint32_t w, uint32_t slot) {
    return n->workers[w].asked_close[slot];
}

/* ---- what the gateway heard ----------------------------------------------------------------- */

uint32_t corenet_notes(const corenet *n) {
    return n->notes_count;
}

const corenet_note *corenet_at(const corenet *n, uint32_t index) {
    CHECK_LT(index, n->notes_count);
    return &n->notes[index];
}

uint32_t corenet_count(const corenet *n, uint32_t w, message_type type) {
    uint32_t count = 0;
    for (uint32_t i = 0; i < n->notes_count; i++) {
        count += n->notes[i].worker == w && n->notes[i].m.type == type;
    }
    return count;
}

const corenet_note *corenet_last(const corenet *n, uint32_t w, message_type type) {
    for (uint32_t i = n->notes_count; i-- > 0;) {
        if (n->notes[i].worker == w && n->notes[i].m.type == type) {
            return &n->notes[i];
        }
    }
    return NULL;
}

void corenet_forget(corenet *n) {
    for (uint32_t i = 0; i < n->notes_count; i++) {
        const message *m = &n->notes[i].m;
        if (m->type == MESSAGE_TOKENS) {
            mem_free((void *)m->tokens.tokens);
        } else if (m->type == MESSAGE_SCORES) {
            mem_free((void *)m->scores.scores);
        }
    }
    n->notes_count = 0;
}

int32_t corenet_heard(const corenet *n, request_id request, uint32_t attempt, int32_t choice,
                      request_token *out, int32_t max, bool *done) {
    int32_t count = 0;
    *done = false;
    for (int32_t i = 0; i < max; i++) {
        out[i] = (request_token){.token = -1};
    }
    for (uint32_t i = 0; i < n->notes_count; i++) {
        const message *m = &n->notes[i].m;
        if (m->type != MESSAGE_TOKENS || m->request != request ||
            (attempt != 0 && m->attempt != attempt)) {
            continue;
        }
        *done = *done || m->tokens.done;
        for (int32_t k = 0; k < m->tokens.tokens_count; k++) {
            const request_token *t = &m->tokens.tokens[k];
            if (t->choice != choice) {
                continue;
            }
            CHECK_LT(t->index, max);
            request_token *at = &out[t->index];
            CHECK(at->token == -1 || (at->token == t->token && at->end == t->end &&
                                      at->logprob == t->logprob && at->top_count == t->top_count));
            *at = *t;
            count = t->index + 1 > count ? t->index + 1 : count;
        }
    }
    return count;
}

int32_t corenet_expect(const corenet *n, const int32_t *prompt, int32_t prompt_count,
                       const request_params *params, int32_t choice, request_token *out,
                       int32_t max) {
    int32_t context = n->options.core.context_tokens;
    int32_t *tokens = mem_alloc((size_t)context + 1, sizeof *tokens);
    CHECK(tokens != NULL);
    memcpy(tokens, prompt, (size_t)prompt_count * sizeof *tokens);
    int32_t count = 0;
    while (count < max && count < params->max_tokens) {
        request_token t = hashmodel_next(corenet_model(n), tokens, prompt_count + count,
                                         prompt_count, params, choice);
        if (t.end == REQUEST_RUNNING && prompt_count + count + 1 >= context) {
            t.end = REQUEST_LENGTH;
        }
        tokens[prompt_count + count] = t.token;
        out[count++] = t;
        if (t.end != REQUEST_RUNNING) {
            break;
        }
    }
    mem_free(tokens);
    return count;
}

request_params corenet_params(int32_t max_tokens) {
    return (request_params){.top_p = 1,
                            .repetition_penalty = 1,
                            .max_tokens = max_tokens,
                            .top_logprobs = -1,
                            .choices = 1};
}
