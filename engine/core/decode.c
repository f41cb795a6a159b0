/* decode.c -- the decode worker's column of the protocol table. */
#include "engine/core/decode.h"

#include <string.h>

#include "engine/base/check.h"
#include "engine/core/planted.h"
#include "engine/core/prefill.h"

enum { DECODE_REPLAY_TOKENS = 64 }; /* in one message */

/* ---- ends ----------------------------------------------------------------------------------- */

static void decode_refuse(core *c, uint32_t gateway, uint32_t p, request_id request,
                          uint32_t attempt, message_reason reason) {
    CHECK(reason != MESSAGE_REASON_NONE);
    /* The gateway retargets [R6]; P only learns that it need not wait. */
    core_send(c, PLANTED(R6_REFUSED_TO_P_ONLY) ? RECORD_NONE : gateway, MESSAGE_REFUSED, request,
              attempt)
        ->reason = reason;
    core_send(c, p, MESSAGE_REFUSED, request, attempt)->reason = reason;
    c->stats.refusals++;
}

/* What P was granted is given up: its pages need not wait any longer for the gateway, which may
 * have no other D now [R7]. */
static void decode_ungrant(core *c, const record *r, message_reason reason) {
    if (r->state == RECORD_RESERVED) {
        core_send(c, r->peer, MESSAGE_REFUSED, r->request, r->attempt)->reason = reason;
    }
}

/* Something went wrong that the gateway has to repair. */
static void decode_fail(core *c, record *r, message_reason reason) {
    CHECK(r->state == RECORD_RESERVED);
    decode_ungrant(c, r, reason);
    message *m = core_send(c, r->gateway, MESSAGE_REJECT, r->request, r->attempt);
    m->about = MESSAGE_RESERVE; /* what the gateway asked for has failed */
    m->reason = reason;
    c->stats.rejects++;
    core_leave(c, r);
}

void decode_cancel(core *c, uint32_t peer, const message *m) {
    CHECK_EQ(m->type, MESSAGE_CANCEL);
    record *r = record_find(&c->records, RECORD_DECODE, m->request);
    if (r && (r->gateway != peer || r->attempt > m->attempt)) {
        return;
    }
    if (r) {
        core_leave(c, r);
    }
    marks_put(&c->tombstones[RECORD_DECODE],
              &(marks_entry){.request = m->request,
                             .attempt = m->attempt,
                             .peer = RECORD_NONE,
                             .expires_us = c->now_us + c->options.lease_us});
}

void decode_worker_down(core *c, uint32_t peer) {
    CHECK(!links_get(&c->links, peer));
    for (record *r = c->records.first[RECORD_DECODE], *next; r; r = next) {
        next = r->next;
        if (r->peer == peer && !(PLANTED(PEER_DEATH_IN_HANDSHAKE) && r->state == RECORD_RESERVED)) {
            CHECK(r->state != RECORD_DECODING);
            core_send(c, r->gateway, MESSAGE_LINK_LOST, r->request, r->attempt)->worker =
                c->links.list[peer].worker;
            core_leave(c, r);
        }
    }
}

void decode_gateway_down(core *c, uint32_t peer) {
    CHECK(!links_get(&c->links, peer));
    for (record *r = c->records.first[RECORD_DECODE], *next; r; r = next) {
        next = r->next;
        if (r->gateway == peer && !PLANTED(GATEWAY_DEATH_KEEPS)) {
            decode_ungrant(c, r, MESSAGE_REASON_GONE);
            core_leave(c, r);
        }
    }
}

void decode_tick(core *c) {
    marks_expire(&c->tombstones[RECORD_DECODE], c->now_us);
    for (record *r = c->records.first[RECORD_DECODE], *next; r; r = next) {
        next = r->next;
        if (r->state == RECORD_DECODING) {
            continue; /* the gateway's link is its lease */
        }
        bool lease = r->lease_us <= c->now_us;
        bool late = r->state == RECORD_QUEUED && r->deadline_us <= c->now_us;
        if (lease || late) {
            /* Silently it would be a deadlock: the gateway may still count on it [R9]. */
            decode_refuse(c, PLANTED(R9_LEASE_ENDS_SILENTLY) ? RECORD_NONE : r->gateway, r->peer,
                          r->request, r->attempt,
                          lease ? MESSAGE_REASON_LEASE : MESSAGE_REASON_DEADLINE);
            c->stats.leases_expired += lease;
            core_leave(c, r);
        }
    }
}

void decode_preempt(core *c, record *r, message_reason reason) {
    CHECK_EQ(r->state, RECORD_DECODING);
    core_send(c, r->gateway, MESSAGE_PREEMPTED, r->request, r->attempt)->reason = reason;
    c->stats.preemptions += reason == MESSAGE_REASON_PAGES;
    core_leave(c, r);
}

void decode_hand_back(core *c) {
    CHECK(c->draining);
    for (record *r = c->records.first[RECORD_DECODE], *next; r; r = next) {
        next = r->next;
        if (r->state == RECORD_QUEUED && PLANTED(HAND_BACK_KEEPS_WAITING)) {
            continue;
        }
        c->stats.handed_back++;
        if (r->state == RECORD_DECODING) {
            decode_preempt(c, r, MESSAGE_REASON_DRAINING);
        } else {
            decode_refuse(c, r->gateway, r->peer, r->request, r->attempt, MESSAGE_REASON_DRAINING);
            core_leave(c, r);
        }
    }
}

/* ---- room ----------------------------------------------------------------------------------- */

/* Pages a request can ever need here: the prompt's whole blocks are shared by its choices. */
static int64_t decode_pages_worst(const core *c, const message_submit *s) {
    int64_t kv = record_kv_tokens_max(s->prompt_count, s->tokens_count, s->params->max_tokens,
                                      c->options.context_tokens);
    int64_t whole = core_whole_pages(c, s->tokens_count);
    int64_t own = core_pages_of(c, kv) - whole;
    CHECK(own >= 0);
    return whole + own * s->params->choices;
}

static int32_t decode_seqs(const core *c) {
    int32_t seqs = 0;
    for (const record *r = c->records.first[RECORD_DECODE]; r; r = r->next) {
        seqs += r->state == RECORD_QUEUED ? 0 : r->params.choices;
    }
    CHECK_LE(seqs, c->options.seqs_max);
    return seqs;
}

/* Takes pages for the prompt and some headroom: whole blocks of the prompt are shared by the
 * choices, from the first partial block on each choice has its own. All or none. */
static bool decode_take_pages(core *c, record *r) {
    record_seq *s = &r->seqs[0];
    CHECK_EQ(s->pages_count, 0);
    int32_t choices = r->params.choices;
    int64_t kv_max = record_kv_tokens_max(r->prompt_count, r->tokens_count, r->params.max_tokens,
                                          c->options.context_tokens);
    int64_t kv = (int64_t)r->tokens_count + 1 + c->options.headroom_tokens;
    uint32_t pages = core_pages_of(c, kv < kv_max ? kv : kv_max);
    uint32_t whole = core_whole_pages(c, r->tokens_count);
    uint32_t found = 0;
    if (!r->local || !r->params.prompt_logprobs) {
        /* The last token's page comes from P, or is computed here for its logits. */
        uint32_t most = (uint32_t)core_cacheable(c, r, r->tokens_count - 1) / LIMIT_PAGE_TOKENS;
        found = prefix_find(c->prefix, r->salt, r->tokens, most, s->pages, &r->chain);
    }
    s->pages_count = found;
    uint32_t missing = pages - found + (uint32_t)(choices - 1) * (pages - whole);
    while (blocks_free_count(c->blocks) < missing) {
        if (!prefill_evict(c, NULL)) {
            core_drop_pages(c, r);
            r->chain = (prefix_chain){0};
            return false;
        }
    }
    CHECK(prefix_take(c->prefix, pages - found, s->pages + found));
    s->pages_count = pages;
    for (int32_t i = 1; i < choices; i++) {
        record_seq *t = &r->seqs[i];
        CHECK(record_seq_open(&c->records, r, i));
        memcpy(t->pages, s->pages, whole * sizeof *t->pages);
        for (uint32_t k = 0; k < whole; k++) {
            blocks_hold(c->blocks, t->pages[k]);
        }
        CHECK(prefix_take(c->prefix, pages - whole, t->pages + whole));
        t->pages_count = pages;
    }
    r->prefix_pages = found;
    r->computed = r->cached = (int32_t)found * LIMIT_PAGE_TOKENS;
    return true;
}

static bool decode_grant(core *c, record *r) {
    CHECK_EQ(r->state, RECORD_QUEUED);
    if (decode_seqs(c) + r->params.choices > c->options.seqs_max || !decode_take_pages(c, r)) {
        return false;
    }
    r->room_us = c->now_us;
    if (r->local) {
        r->state = RECORD_DECODING;
        c->stats.prompt_tokens_cached += (uint64_t)r->cached;
        core_send(c, r->gateway, MESSAGE_ADOPTED, r->request, r->attempt)->adopted.waited_us =
            core_span_us(r->since_us, r->room_us);
        c->stats.adoptions++;
        return true;
    }
    r->state = RECORD_RESERVED;
    r->page_next = r->prefix_pages;
    message *m = core_send(c, r->peer, MESSAGE_GRANT, r->request, r->attempt);
    m->prefix_pages = r->prefix_pages;
    m->pages = r->seqs[0].pages_count;
    return true;
}

void decode_admit(core *c) {
    for (record *r = c->records.first[RECORD_DECODE]; r && !c->growth_waits; r = r->next) {
        CHECK(r->state != RECORD_GONE);
        if (r->state == RECORD_QUEUED && !decode_grant(c, r)) {
            return; /* nobody overtakes: the oldest would starve */
        }
    }
}

/* A reservation for which nothing has come, of a request that is not before `least`. */
static bool decode_stands_still(const record *r, request_id least) {
    return r->state == RECORD_RESERVED && r->groups == 0 && r->request > least;
}

/* Pages that would be free if all of those went: exact, as a page may be shared among them. */
static uint32_t decode_pages_still(core *c, request_id least) {
    uint32_t block = c->options.block_pages;
    uint32_t pages = 0;
    memset(c->holders, 0, c->options.pages * sizeof *c->holders);
    for (const record *r = c->records.first[RECORD_DECODE]; r; r = r->next) {
        for (int32_t i = 0; decode_stands_still(r, least) && i < r->params.choices; i++) {
            for (uint32_t k = 0; k < r->seqs[i].pages_count; k++) {
                c->holders[r->seqs[i].pages[k] / block]++;
            }
        }
    }
    for (uint32_t i = 0; i < c->options.pages / block; i++) {
        bool last = c->holders[i] > 0 && c->holders[i] == blocks_references(c->blocks, i * block);
        pages += last && blocks_pins(c->blocks, i * block) == 0 ? block : 0;
    }
    return pages;
}

bool decode_yield(core *c, request_id least, uint32_t pages) {
    record *r = c->records.last[RECORD_DECODE];
    CHECK_LT(blocks_free_count(c->blocks), pages);
    while (r && !decode_stands_still(r, least)) {
        r = r->previous;
    }
    if (!r || blocks_free_count(c->blocks) + decode_pages_still(c, least) < pages) {
        return false;
    }
    decode_refuse(c, r->gateway, r->peer, r->request, r->attempt, MESSAGE_REASON_ROLE);
    core_leave(c, r);
    return true;
}

/* ---- reserve -------------------------------------------------------------------------------- */

/* A new attempt of a request that is decoding here: it goes on, under the new number, and tells
 * again what the client lacks [R3]. False when it is not the same generation, or when lost scores
 * force the prompt to be computed again. */
static bool decode_readopt(core *c, record *r, const message *m) {
    const message_submit *s = &m->submit;
    CHECK_EQ(r->state, RECORD_DECODING);
    CHECK(m->attempt > r->attempt);
    const record_seq *first = &r->seqs[0];
    int32_t delivered = s->tokens_count - s->prompt_count;
    if (s->prompt_count != r->prompt_count || s->salt != r->salt ||
        s->params->choices != r->params.choices ||
        s->params->choice_first != r->params.choice_first || delivered < 0 ||
        delivered > first->generated_count || (r->local && r->params.prompt_logprobs) ||
        memcmp(s->tokens, r->tokens, (size_t)s->prompt_count * sizeof *s->tokens) != 0 ||
        memcmp(s->tokens + s->prompt_count, first->generated,
               (size_t)delivered * sizeof *s->tokens) != 0) {
        return false;
    }
    r->attempt = m->attempt;
    (void)core_send(c, r->gateway, MESSAGE_ALREADY_ADOPTED, r->request, r->attempt);
    int32_t before =
        r->tokens_count - r->prompt_count; /* what came with the record is not logged */
    for (int32_t i = 0; i < r->params.choices; i++) {
        int32_t from = delivered > before ? delivered : before;
        if (PLANTED(R3_REPLAY)) {
            continue;
        }
        r->seqs[i].replay_next =
            from < r->seqs[i].generated_count ? from : r->seqs[i].generated_count;
    }
    c->stats.replays++;
    c->pump = true;
    return true;
}

static message_reason decode_refusal(const core *c, const message *m) {
    const message_submit *s = &m->submit;
    message_reason reason = core_check_submit(c, s);
    if (reason != MESSAGE_REASON_NONE) {
        return reason;
    }
    if (c->draining) {
        return MESSAGE_REASON_DRAINING;
    }
    if (!(c->accepts & MESSAGE_ROLE_DECODE)) {
        return MESSAGE_REASON_ROLE;
    }
    /* Preempting it alone would repeat for ever. */
    if (s->params->choices > c->options.seqs_max || decode_pages_worst(c, s) > c->options.pages) {
        return MESSAGE_REASON_LIMIT;
    }
    return MESSAGE_REASON_NONE;
}

static void decode_enqueue(core *c, uint32_t gateway, uint32_t p, const message *m) {
    int32_t queued = 0;
    record *r = record_add(&c->records, RECORD_DECODE, m, NULL);
    if (!r) {
        decode_refuse(c, gateway, p, m->request, m->attempt, MESSAGE_REASON_FULL);
        return;
    }
    r->state = RECORD_QUEUED;
    r->gateway = gateway;
    r->peer = p;
    r->local = m->submit.local;
    r->lease_us = c->now_us + c->options.lease_us;
    r->since_us = c->now_us;
    r->deadline_us = c->now_us + c->options.queue_deadline_us;
    decode_admit(c);
    for (const record *q = c->records.first[RECORD_DECODE]; q; q = q->next) {
        queued += q->state == RECORD_QUEUED;
    }
    if (r->state != RECORD_QUEUED) {
        c->stats.requests_accepted++;
    } else if (queued > c->options.queue_max) {
        decode_refuse(c, gateway, p, m->request, m->attempt, MESSAGE_REASON_FULL);
        core_leave(c, r);
    } else {
        c->stats.requests_accepted++;
        core_send(c, p, MESSAGE_QUEUED, m->request, m->attempt)->deadline_ms =
            (uint32_t)(c->options.queue_deadline_us / 1000);
    }
}

/* The planted R8: the pages of the old attempt serve the new one, while receives still write. */
static void decode_reuse(core *c, record *r, const message *m) {
    CHECK(PLANTED(R8_SUPERSEDE));
    uint32_t p = links_find(&c->links, m->submit.peer_worker, m->submit.peer_epoch);
    if (p == LINKS_NONE) {
        core_leave(c, r);
        return;
    }
    r->attempt = m->attempt;
    r->peer = p;
    r->groups = r->arrived = r->handoff_groups = 0;
    r->page_next = r->prefix_pages;
    r->layer_next = r->range_pages = 0;
    message *grant = core_send(c, p, MESSAGE_GRANT, r->request, r->attempt);
    grant->prefix_pages = r->prefix_pages;
    grant->pages = r->seqs[0].pages_count;
}

void decode_reserve(core *c, uint32_t peer, const message *m) {
    CHECK_EQ(m->type, MESSAGE_RESERVE);
    record *r = record_find(&c->records, RECORD_DECODE, m->request);
    if (r && (r->gateway != peer || m->attempt <= r->attempt)) {
        core_close(c, peer, m); /* ids are unique and links in order: no correct gateway does it */
        return;
    }
    if (r && r->state == RECORD_DECODING &&
        core_check_submit(c, &m->submit) == MESSAGE_REASON_NONE && decode_readopt(c, r, m)) {
        return;
    }
    if (r && PLANTED(R8_SUPERSEDE) && r->state == RECORD_RESERVED && r->groups > 0) {
        decode_reuse(c, r, m);
        return;
    }
    if (r) {
        core_leave(c, r); /* pages that a receive may still write are not used again [R8] */
    }
    const marks_entry *tombstone = marks_get(&c->tombstones[RECORD_DECODE], m->request);
    if (tombstone && m->attempt <= tombstone->attempt) {
        core_reject(c, peer, m, MESSAGE_REASON_GONE);
        return;
    }
    uint32_t p = m->submit.local
                     ? RECORD_NONE
                     : links_find(&c->links, m->submit.peer_worker, m->submit.peer_epoch);
    message_reason reason = decode_refusal(c, m);
    if (reason != MESSAGE_REASON_NONE) {
        decode_refuse(c, peer, p, m->request, m->attempt, reason);
    } else if (!m->submit.local && p == LINKS_NONE) {
        /* The link went before the RESERVE came: as if it went now. */
        core_send(c, peer, MESSAGE_LINK_LOST, m->request, m->attempt)->worker =
            m->submit.peer_worker;
    } else {
        decode_enqueue(c, peer, p, m);
    }
}

/* ---- receiving ------------------------------------------------------------------------------ */

/* Announcements follow one order: ranges of pages upwards, inside a range the layers upwards. */
static bool decode_follows(const core *c, const record *r, const message_announce *a) {
    uint32_t all = record_pages_of(r->tokens_count);
    CHECK(r->page_next <= all);
    return a->group == r->groups && a->layers > 0 && a->pages > 0 &&
           a->pages <= LINKS_GROUP_PAGES_MAX && a->page_first == r->page_next &&
           a->pages <= all - r->page_next && a->layer_first == r->layer_next &&
           a->layers <= c->options.layers - r->layer_next &&
           (r->layer_next == 0 || a->pages == r->range_pages) &&
           (uint64_t)a->pages * a->layers <= c->options.group_cells_max;
}

static void decode_advance(const core *c, record *r, const message_announce *a) {
    CHECK_EQ(a->group, r->groups);
    r->begun_us = r->groups ? r->begun_us : c->now_us;
    r->groups++;
    r->range_pages = a->pages;
    r->layer_next += a->layers;
    if (r->layer_next == c->options.layers) {
        r->page_next += a->pages;
        r->layer_next = r->range_pages = 0;
    }
}

void decode_announce(core *c, uint32_t peer, const message *m) {
    CHECK_EQ(m->type, MESSAGE_ANNOUNCE);
    links_link *k = links_get(&c->links, peer);
    const message_announce *a = &m->announce;
    if (a->sequence != k->receive_next) {
        core_close(c, peer, m);
        return;
    }
    record *r = record_find(&c->records, RECORD_DECODE, m->request);
    if (!r || r->attempt != m->attempt || r->peer != peer || r->state != RECORD_RESERVED) {
        k->receive_next++;
        core_reject(c, peer, m, MESSAGE_REASON_GONE);
        return;
    }
    bool follows = decode_follows(c, r, a);
    links_transfer *t = follows ? links_receive_add(k) : NULL;
    if (!t) {
        k->receive_next++;
        core_reject(c, peer, m, follows ? MESSAGE_REASON_FULL : MESSAGE_REASON_LAYOUT);
        decode_fail(c, r, MESSAGE_REASON_LAYOUT);
        return;
    }
    t->state = LINKS_MOVING;
    t->record = r->self;
    t->request = r->request;
    t->attempt = r->attempt;
    t->group = a->group;
    t->layer_first = a->layer_first;
    t->layers = a->layers;
    t->page_first = a->page_first;
    t->pages_count = a->pages;
    memcpy(t->pages, r->seqs[0].pages + a->page_first, a->pages * sizeof *t->pages);
    links_pin(t, c->blocks);
    decode_advance(c, r, a);
    core_action *post = outbox_add(&c->outbox, CORE_TRANSFER_RECEIVE, peer);
    post->transfer = (core_transfer){.sequence = t->sequence,
                                     .request = t->request,
                                     .attempt = t->attempt,
                                     .group = t->group,
                                     .layer_first = PLANTED(WRONG_LAYER) ? 0 : t->layer_first,
                                     .layers = t->layers,
                                     .pages = t->pages,
                                     .pages_count = t->pages_count};
    core_send(c, peer, MESSAGE_POSTED, m->request, m->attempt)->posted =
        (message_posted){a->sequence, a->group};
}

/* ---- adopting ------------------------------------------------------------------------------- */

static request_end decode_end(const core *c, const record *r, const record_seq *s,
                              request_end end) {
    CHECK(s->generated_count > 0);
    if (end == REQUEST_RUNNING && (s->generated_count >= r->params.max_tokens ||
                                   record_seq_tokens(r, s) >= c->options.context_tokens)) {
        return REQUEST_LENGTH;
    }
    return end;
}

/* One token more for a choice: kept for replays, numbered, and ended where it must be. */
static void decode_append(core *c, record *r, int32_t choice, request_token *t) {
    record_seq *s = &r->seqs[choice];
    CHECK_EQ(s->end, REQUEST_RUNNING);
    CHECK_EQ(s->replay_next, s->generated_count);
    int32_t position = record_seq_tokens(r, s);
    CHECK_LE(position, c->options.context_tokens);
    t->choice = r->params.choice_first + choice;
    t->index = s->generated_count;
    s->generated[s->generated_count++] = t->token;
    s->replay_next = s->generated_count;
    s->end = t->end = decode_end(c, r, s, t->end);
    uint32_t page = (uint32_t)(position / LIMIT_PAGE_TOKENS);
    if (page < s->pages_count) {
        tokenlog_put(&c->log, s->pages[page], position, t);
    } else {
        CHECK(s->end != REQUEST_RUNNING); /* its page would have been taken for the step */
    }
}

static bool decode_all_ended(const record *r) {
    for (int32_t i = 0; i < r->params.choices; i++) {
        if (r->seqs[i].end == REQUEST_RUNNING) {
            return false;
        }
    }
    return true;
}

/* Tells the tokens; true when the request ended with them. */
static bool decode_tell(core *c, record *r, const request_token *tokens, int32_t count) {
    bool done = r->params.max_tokens == 0 || decode_all_ended(r);
    CHECK(r->state == RECORD_DECODING);
    core_send_tokens(c, r, tokens, count, done);
    if (done) {
        c->stats.requests_finished++;
        core_leave(c, r);
    }
    return done;
}

/* The prompt's KV is all here: the choices part, each with its first token. */
static void decode_begin(core *c, record *r, const request_token *first) {
    CHECK_EQ(r->state, RECORD_DECODING);
    CHECK_EQ(r->computed, r->tokens_count);
    request_token tokens[LIMIT_CHOICES];
    int32_t count = r->params.max_tokens == 0 ? 0 : r->params.choices;
    bool partial = core_whole_pages(c, r->tokens_count) < record_pages_of(r->tokens_count);
    r->fork_pending = r->params.choices > 1 && partial;
    for (int32_t i = 0; i < count; i++) {
        tokens[i] = first[i];
        decode_append(c, r, i, &tokens[i]);
    }
    (void)decode_tell(c, r, tokens, PLANTED(R2_FIRST) && !r->local ? 0 : count);
}

static void decode_try_adopt(core *c, record *r) {
    CHECK_EQ(r->state, RECORD_RESERVED);
    if (r->handoff_groups == 0 || (r->arrived < r->handoff_groups && !PLANTED(R13_ADOPT_CHECK))) {
        return; /* every group, and the word that these were all [R13] */
    }
    CHECK(r->arrived == r->groups || PLANTED(R13_ADOPT_CHECK));
    CHECK_EQ(r->page_next, record_pages_of(r->tokens_count));
    message_adopted times = {core_span_us(r->since_us, r->room_us),
                             core_span_us(r->begun_us, c->now_us)};
    core_send(c, r->peer, MESSAGE_ADOPTED, r->request, r->attempt)->adopted = times;
    core_send(c, r->gateway, MESSAGE_ADOPTED, r->request, r->attempt)->adopted = times;
    r->begun_us = 0; /* the prompt was computed elsewhere */
    c->stats.adoptions++;
    c->stats.prompt_tokens_received += (uint64_t)(r->tokens_count - r->computed);
    r->state = RECORD_DECODING;
    r->peer = RECORD_NONE;
    r->computed = r->tokens_count;
    core_register(c, r, 0, r->computed);
    decode_begin(c, r, r->first); /* the first token too: P may have died with it [R2] */
}

static bool decode_handoff_fits(const record *r, const message_handoff *h) {
    CHECK_EQ(r->state, RECORD_RESERVED);
    int32_t delivered = r->tokens_count - r->prompt_count;
    if (h->groups == 0 || h->groups != r->groups || r->layer_next != 0 ||
        r->page_next != record_pages_of(r->tokens_count) || h->tokens_count != r->params.choices) {
        return false;
    }
    bool running = false;
    for (int32_t i = 0; i < h->tokens_count; i++) {
        const request_token *t = &h->tokens[i];
        if (t->choice != r->params.choice_first + i || t->index != delivered) {
            return false;
        }
        running = running || t->end == REQUEST_RUNNING;
    }
    return running;
}

void decode_handoff(core *c, uint32_t peer, const message *m) {
    CHECK_EQ(m->type, MESSAGE_HANDOFF);
    record *r = record_find(&c->records, RECORD_DECODE, m->request);
    if (!r || (r->attempt != m->attempt && !PLANTED(STALE_HANDOFF))) {
        return;
    }
    if (r->state == RECORD_DECODING || (r->peer == peer && r->handoff_groups > 0)) {
        core_reject(c, peer, m, MESSAGE_REASON_STATE);
        return;
    }
    if (r->peer != peer) {
        return;
    }
    if (r->state != RECORD_RESERVED) {
        core_close(c, peer, m); /* P cannot hand over what was not granted */
        return;
    }
    if (!decode_handoff_fits(r, &m->handoff) && !PLANTED(STALE_HANDOFF)) {
        core_reject(c, peer, m, MESSAGE_REASON_LAYOUT);
        decode_fail(c, r, MESSAGE_REASON_LAYOUT);
        return;
    }
    r->handoff_groups = m->handoff.groups;
    memcpy(r->first, m->handoff.tokens, (size_t)m->handoff.tokens_count * sizeof *r->first);
    decode_try_adopt(c, r);
}

void decode_received(core *c, const links_transfer *t, core_received_result result) {
    CHECK_EQ(t->state, LINKS_FREE);
    c->stats.groups_received += result == CORE_RECEIVED_OK;
    c->stats.cells_received +=
        result == CORE_RECEIVED_OK ? (uint64_t)t->pages_count * t->layers : 0;
    c->stats.groups_junk_received += result == CORE_RECEIVED_JUNK;
    c->stats.groups_damaged += result == CORE_RECEIVED_DAMAGED;
    record *r = record_get(&c->records, t->record);
    if (!r || r->attempt != t->attempt || r->state != RECORD_RESERVED) {
        return; /* its pages were quarantined; that is over now */
    }
    if (result != CORE_RECEIVED_OK) {
        decode_fail(c, r,
                    result == CORE_RECEIVED_JUNK ? MESSAGE_REASON_GONE : MESSAGE_REASON_CHECKSUM);
        return;
    }
    r->arrived++;
    CHECK_LE(r->arrived, r->groups);
    decode_try_adopt(c, r);
}

/* ---- computing ------------------------------------------------------------------------------ */

void decode_computed(core *c, record *r, int32_t rows, const request_token *samples) {
    CHECK_EQ(r->state, RECORD_DECODING);
    CHECK(r->local);
    r->computed += rows;
    CHECK_LE(r->computed, r->tokens_count);
    core_register(c, r, 0, r->computed);
    if (r->computed == r->tokens_count) {
        CHECK(samples || r->params.max_tokens == 0);
        c->stats.tokens_generated += samples ? (uint64_t)r->params.choices : 0;
        decode_begin(c, r, samples);
    }
}

void decode_picked(core *c, record *r, const int32_t *choices, const request_token *tokens,
                   int32_t count) {
    CHECK_EQ(r->state, RECORD_DECODING);
    CHECK(count > 0 && count <= LIMIT_CHOICES);
    request_token told[LIMIT_CHOICES];
    for (int32_t i = 0; i < count; i++) {
        told[i] = tokens[i];
        decode_append(c, r, choices[i], &told[i]);
    }
    c->stats.tokens_generated += (uint64_t)count;
    (void)decode_tell(c, r, told, count);
}

/* ---- replay --------------------------------------------------------------------------------- */

static bool decode_replay(core *c, const record *r, record_seq *s, int32_t choice) {
    int32_t left = s->generated_count - s->replay_next;
    CHECK(left >= 0);
    if (left == 0) {
        return false;
    }
    int32_t count = left < DECODE_REPLAY_TOKENS ? left : DECODE_REPLAY_TOKENS;
    request_token *tokens = outbox_tokens(&c->outbox, count);
    for (int32_t i = 0; i < count; i++) {
        int32_t index = s->replay_next++;
        int32_t position = r->prompt_count + index;
        tokens[i].choice = r->params.choice_first + choice;
        tokens[i].index = index;
        tokens[i].token = s->generated[index];
        tokens[i].end = index == s->generated_count - 1 ? s->end : REQUEST_RUNNING;
        CHECK_LT((uint32_t)(position / LIMIT_PAGE_TOKENS), s->pages_count);
        tokenlog_get(&c->log, s->pages[position / LIMIT_PAGE_TOKENS], position, &tokens[i]);
    }
    core_send(c, r->gateway, MESSAGE_TOKENS, r->request, r->attempt)->tokens = (message_tokens){
        .cached_tokens = core_cached_told(r), .tokens_count = count, .tokens = tokens};
    return true;
}

void decode_pump(core *c) {
    for (record *r = c->records.first[RECORD_DECODE]; r; r = r->next) {
        for (int32_t i = 0; r->state == RECORD_DECODING && i < r->params.choices; i++) {
            if (decode_replay(c, r, &r->seqs[i], i)) {
                c->pump = true;
                return;
            }
        }
    }
}
