/* prefill.c -- the prefill worker's column of the protocol table.
 *
 * A record is in WORK from SUBMIT until it leaves. `granted` says that its D has room: until then
 * its pages may be taken by others. Losing the grant in whatever way also forgets the peer, so that
 * nothing more from that D about this attempt is listened to; a new attempt starts afresh. */
#include "engine/core/prefill.h"

#include <string.h>

#include "engine/base/check.h"
#include "engine/core/decode.h"
#include "engine/core/planted.h"

/* ---- the grant ------------------------------------------------------------------------------ */

void prefill_lose_grant(record *r) {
    CHECK_EQ(r->role, RECORD_PREFILL);
    CHECK_EQ(r->state, RECORD_WORK);
    r->granted = r->handed = false;
    r->peer = RECORD_NONE;
}

/* D holds the first pages itself; the rest is announced from there on. */
static void prefill_take_grant(core *c, record *r, uint32_t prefix_pages) {
    CHECK(!r->granted);
    CHECK((int64_t)prefix_pages * LIMIT_PAGE_TOKENS < r->tokens_count);
    r->granted = true;
    r->groups = 0;
    r->page_next = prefix_pages;
    r->range_pages = r->layer_next = 0;
    c->pump = true;
}

static bool prefill_prefix_fits(const record *r, uint32_t prefix_pages) {
    CHECK(r->tokens_count > 0);
    return prefix_pages < record_pages_of(r->tokens_count);
}

void prefill_grant(core *c, uint32_t peer, const message *m) {
    CHECK_EQ(m->type, MESSAGE_GRANT);
    record *r = record_find(&c->records, RECORD_PREFILL, m->request);
    if (r && m->attempt <= r->attempt) {
        bool stale = m->attempt < r->attempt || r->peer != peer;
        if (stale && !(PLANTED(STALE_GRANT) && r->peer != RECORD_NONE)) {
            return; /* late, or of a D that it no longer serves [R4] */
        }
        if (r->granted) {
            core_reject(c, peer, m, MESSAGE_REASON_STATE);
        } else if (!prefill_prefix_fits(r, m->prefix_pages)) {
            core_close(c, peer, m);
        } else {
            prefill_take_grant(c, r, m->prefix_pages);
        }
        return;
    }
    const marks_entry *tombstone = marks_get(&c->tombstones[RECORD_PREFILL], m->request);
    if (!r && tombstone && m->attempt <= tombstone->attempt) {
        return;
    }
    if (marks_full(&c->parked) && !marks_get(&c->parked, m->request)) {
        /* A grant forgotten in silence would be renewed for ever: neither side would ever ask. The
         * end of the link lets the gateway try again. */
        core_close(c, peer, m);
        return;
    }
    if (PLANTED(R1_PARK)) {
        return;
    }
    /* The SUBMIT is still on its way [R1]. */
    marks_put(&c->parked, &(marks_entry){.request = m->request,
                                         .attempt = m->attempt,
                                         .peer = peer,
                                         .prefix_pages = m->prefix_pages,
                                         .expires_us = c->now_us + c->options.lease_us});
}

void prefill_queued(core *c, uint32_t peer, const message *m) {
    CHECK_EQ(m->type, MESSAGE_QUEUED);
    const record *r = record_find(&c->records, RECORD_PREFILL, m->request);
    /* Only a hint: nothing is kept. After the grant it makes no sense any more. */
    if (r && r->peer == peer && m->attempt == r->attempt && r->granted) {
        core_reject(c, peer, m, MESSAGE_REASON_STATE);
    }
}

void prefill_refused(core *c, uint32_t peer, const message *m) {
    CHECK_EQ(m->type, MESSAGE_REFUSED);
    record *r = record_find(&c->records, RECORD_PREFILL, m->request);
    if (r && r->peer == peer && m->attempt == r->attempt && r->granted) {
        prefill_lose_grant(r); /* the gateway has been told as well and will retarget [R6, R7] */
    }
}

/* ---- submit --------------------------------------------------------------------------------- */

/* The first tokens go to the gateway, once an attempt. True when the request ends with them. */
static bool prefill_tell_first(core *c, record *r) {
    CHECK(!r->first_told);
    CHECK(r->sampled);
    int32_t count = r->params.max_tokens == 0 ? 0 : r->params.choices;
    bool done = true;
    for (int32_t i = 0; i < count; i++) {
        done = done && r->first[i].end != REQUEST_RUNNING;
    }
    core_send_tokens(c, r, r->first, count, done);
    r->first_told = true;
    if (done) {
        c->stats.requests_finished++;
        core_leave(c, r);
    }
    return done;
}

/* A new attempt of work under way: what the old record has computed is still right where the tokens
 * are the same. If more was delivered since, the whole pages of the old tokens still are; the last,
 * partial page is not taken over, as a transfer may be reading it. Scores that were on their way
 * under the old attempt are lost, so a prompt with scores is computed again. */
static void prefill_inherit(core *c, record *r, record *old) {
    CHECK(r->attempt > old->attempt);
    CHECK_EQ(r->seqs[0].pages_count, 0);
    if (r->params.prompt_logprobs || r->salt != old->salt ||
        r->params.choices != old->params.choices ||
        r->params.choice_first != old->params.choice_first || old->seqs[0].pages_count == 0 ||
        r->tokens_count < old->tokens_count ||
        memcmp(r->tokens, old->tokens, (size_t)old->tokens_count * sizeof *r->tokens) != 0) {
        return;
    }
    record_seq *to = &r->seqs[0];
    const record_seq *from = &old->seqs[0];
    if (r->tokens_count == old->tokens_count) {
        r->computed = old->computed;
        to->pages_count = from->pages_count;
        r->sampled = old->sampled;
        memcpy(r->first, old->first, sizeof r->first);
    } else {
        uint32_t whole = core_whole_pages(c, old->computed);
        uint32_t needed = core_pages_of(c, r->tokens_count);
        if (!prefix_take(c->prefix, needed - whole, to->pages + whole)) {
            return;
        }
        r->computed = (int32_t)whole * LIMIT_PAGE_TOKENS;
        to->pages_count = whole;
    }
    for (uint32_t i = 0; i < to->pages_count; i++) {
        to->pages[i] = from->pages[i];
        blocks_hold(c->blocks, to->pages[i]);
    }
    to->pages_count = core_pages_of(c, r->tokens_count);
    r->cached = old->cached;
    r->chain = old->chain;
    old->cached = old->computed; /* nothing of it is lost */
}

/* Its grant, here already or still to come, will find nobody. */
static void prefill_turn_away(core *c, uint32_t peer, const message *m, message_reason reason) {
    const marks_entry *parked = marks_get(&c->parked, m->request);
    core_reject(c, peer, m, reason);
    if (parked && parked->attempt <= m->attempt) {
        marks_drop(&c->parked, m->request);
    }
    marks_put(&c->tombstones[RECORD_PREFILL],
              &(marks_entry){.request = m->request,
                             .attempt = m->attempt,
                             .peer = RECORD_NONE,
                             .expires_us = c->now_us + c->options.lease_us});
}

static bool prefill_acceptable(core *c, uint32_t peer, const message *m, record *old) {
    const marks_entry *tombstone = marks_get(&c->tombstones[RECORD_PREFILL], m->request);
    if (old && (old->gateway != peer || m->attempt <= old->attempt)) {
        core_close(c, peer, m); /* ids are unique and links in order: no correct gateway does it */
        return false;
    }
    if (!old && tombstone && m->attempt <= tombstone->attempt) {
        core_reject(c, peer, m, MESSAGE_REASON_GONE);
        return false;
    }
    message_reason reason = core_check_submit(c, &m->submit);
    if (reason == MESSAGE_REASON_NONE &&
        core_pages_of(c, m->submit.tokens_count) > c->options.pages) {
        reason = MESSAGE_REASON_LIMIT;
    }
    if (reason == MESSAGE_REASON_NONE && m->submit.peer_worker == MESSAGE_NO_WORKER &&
        m->submit.params->max_tokens - (m->submit.tokens_count - m->submit.prompt_count) > 1) {
        reason = MESSAGE_REASON_STATE; /* somebody must decode */
    }
    if (reason == MESSAGE_REASON_NONE && c->draining && !old) {
        reason = MESSAGE_REASON_DRAINING;
    }
    if (reason == MESSAGE_REASON_NONE && !(c->accepts & MESSAGE_ROLE_PREFILL) && !old) {
        reason = MESSAGE_REASON_ROLE;
    }
    if (reason != MESSAGE_REASON_NONE) {
        if (old) {
            core_leave(c, old);
        }
        prefill_turn_away(c, peer, m, reason);
        return false;
    }
    return true;
}

/* Finds the D, and its grant if that was faster. */
static void prefill_bind(core *c, record *r, const message *m) {
    r->local = m->submit.peer_worker == MESSAGE_NO_WORKER;
    if (!r->local) {
        r->peer = links_find(&c->links, m->submit.peer_worker, m->submit.peer_epoch);
        if (r->peer == LINKS_NONE) {
            /* The link went before the SUBMIT came: as if it went now. */
            r->peer = RECORD_NONE;
            core_send(c, r->gateway, MESSAGE_LINK_LOST, r->request, r->attempt)->worker =
                m->submit.peer_worker;
        }
    }
    const marks_entry *parked = marks_get(&c->parked, m->request);
    if (!parked || parked->attempt > m->attempt) {
        return;
    }
    marks_entry grant = *parked;
    marks_drop(&c->parked, m->request);
    if (r->peer != RECORD_NONE && grant.attempt == r->attempt && grant.peer == r->peer) {
        if (prefill_prefix_fits(r, grant.prefix_pages)) {
            prefill_take_grant(c, r, grant.prefix_pages);
        } else {
            message about = {.type = MESSAGE_GRANT, .request = m->request, .attempt = m->attempt};
            core_close(c, grant.peer, &about);
        }
    }
}

/* What was accepted is not finished here after all. */
static void prefill_give_up(core *c, record *r, uint32_t gateway, message_reason reason) {
    CHECK_EQ(r->state, RECORD_WORK);
    message *m = core_send(c, gateway, MESSAGE_REJECT, r->request, r->attempt);
    m->about = MESSAGE_SUBMIT;
    m->reason = reason;
    c->stats.rejects++;
    core_leave(c, r);
}

/* A request that goes on is granted before those that wait here: turned away for want of a record,
 * it would hold D's room from one attempt to the next while they hold all records, for ever. The
 * youngest new one goes back to its gateway instead. */
static bool prefill_make_way(core *c, const message *m) {
    record *r = c->records.last[RECORD_PREFILL];
    if (m->submit.tokens_count == m->submit.prompt_count) {
        return false;
    }
    while (r && (r->granted || r->tokens_count > r->prompt_count)) {
        r = r->previous;
    }
    if (r) {
        prefill_give_up(c, r, r->gateway, MESSAGE_REASON_FULL);
    }
    return r != NULL;
}

void prefill_submit(core *c, uint32_t peer, const message *m) {
    CHECK_EQ(m->type, MESSAGE_SUBMIT);
    record *old = record_find(&c->records, RECORD_PREFILL, m->request);
    if (!prefill_acceptable(c, peer, m, old) ||
        (PLANTED(R10_RETARGET_IS_FULL) && !old &&
         marks_get(&c->tombstones[RECORD_PREFILL], m->request))) {
        return;
    }
    record *r = record_add(&c->records, RECORD_PREFILL, m, old);
    if (!r && prefill_make_way(c, m)) {
        r = record_add(&c->records, RECORD_PREFILL, m, old);
    }
    if (!r) {
        CHECK(!old); /* a new attempt takes the old one's place */
        prefill_turn_away(c, peer, m, MESSAGE_REASON_FULL);
        return;
    }
    r->state = RECORD_WORK;
    r->gateway = peer;
    r->lease_us = c->now_us + c->options.lease_us;
    r->since_us = c->now_us;
    if (old) {
        prefill_inherit(c, r, old);
        core_leave(c, old);
    } else {
        c->stats.requests_accepted++;
    }
    prefill_bind(c, r, m);
    if (r->sampled) {
        (void)prefill_tell_first(c, r);
    }
}

/* ---- ends ----------------------------------------------------------------------------------- */

void prefill_adopted(core *c, uint32_t peer, const message *m) {
    CHECK_EQ(m->type, MESSAGE_ADOPTED);
    record *r = record_find(&c->records, RECORD_PREFILL, m->request);
    bool its = r && r->attempt == m->attempt && r->peer == peer && r->granted;
    if (its || (PLANTED(R4_BUMP) && r)) {
        core_leave(c, r);
    }
}

void prefill_cancel(core *c, uint32_t peer, const message *m) {
    CHECK_EQ(m->type, MESSAGE_CANCEL);
    record *r = record_find(&c->records, RECORD_PREFILL, m->request);
    const marks_entry *parked = marks_get(&c->parked, m->request);
    if (r && r->gateway != peer) {
        return;
    }
    if (parked && parked->attempt <= m->attempt) {
        marks_drop(&c->parked, m->request);
    }
    if (r && r->attempt > m->attempt) {
        return;
    }
    if (r) {
        core_leave(c, r);
    }
    marks_put(&c->tombstones[RECORD_PREFILL],
              &(marks_entry){.request = m->request,
                             .attempt = m->attempt,
                             .peer = RECORD_NONE,
                             .expires_us = c->now_us + c->options.lease_us});
}

void prefill_worker_down(core *c, uint32_t peer) {
    marks_drop_peer(&c->parked, peer);
    CHECK(!links_get(&c->links, peer));
    for (record *r = c->records.first[RECORD_PREFILL]; r; r = r->next) {
        if (r->peer == peer) {
            prefill_lose_grant(r); /* the pages stay, for the next D, but can be evicted */
            core_send(c, r->gateway, MESSAGE_LINK_LOST, r->request, r->attempt)->worker =
                c->links.list[peer].worker;
        }
    }
}

void prefill_gateway_down(core *c, uint32_t peer) {
    CHECK(!links_get(&c->links, peer));
    for (record *r = c->records.first[RECORD_PREFILL], *next; r; r = next) {
        next = r->next;
        if (r->gateway == peer && !PLANTED(GATEWAY_DEATH_KEEPS)) {
            core_leave(c, r);
        }
    }
}

/* A request whose first token is out may be decoding already: then the gateway does not listen. */
void prefill_hand_back(core *c) {
    CHECK(c->draining);
    for (record *r = c->records.first[RECORD_PREFILL], *next; r; r = next) {
        next = r->next;
        prefill_give_up(c, r, r->gateway, MESSAGE_REASON_DRAINING);
        c->stats.handed_back++;
    }
}

void prefill_tick(core *c) {
    marks_expire(&c->parked, c->now_us);
    marks_expire(&c->tombstones[RECORD_PREFILL], c->now_us);
    for (record *r = c->records.first[RECORD_PREFILL], *next; r; r = next) {
        next = r->next;
        CHECK_EQ(r->state, RECORD_WORK);
        if (r->lease_us <= c->now_us) {
            /* Silently it would be a deadlock: the gateway may still count on it [R9]. */
            uint32_t to = PLANTED(R9_LEASE_ENDS_SILENTLY) ? RECORD_NONE : r->gateway;
            prefill_give_up(c, r, to, MESSAGE_REASON_LEASE);
            c->stats.leases_expired++;
        }
    }
}

/* ---- computing ------------------------------------------------------------------------------ */

bool prefill_evict(core *c, const record *for_record) {
    for (record *r = c->records.last[RECORD_PREFILL]; r; r = r->previous) {
        CHECK_EQ(r->role, RECORD_PREFILL);
        bool held =
            (r->granted && !PLANTED(EVICTED_BEFORE_SENT)) || (PLANTED(R7_EVICT) && r->sampled);
        if (r == for_record || held || r->in_step || r->seqs[0].pages_count == 0) {
            continue;
        }
        if (for_record && !for_record->granted && r->order < for_record->order) {
            return false; /* never an older one for a younger */
        }
        core_drop_pages(c, r);
        c->stats.prompt_tokens_lost += (uint64_t)(r->computed - r->cached);
        r->computed = r->cached = 0;
        r->chain = (prefix_chain){0};
        c->stats.evictions++;
        return true;
    }
    return false;
}

/* The first, by number, of the granted prompts that have no pages here, of which `r` is one. */
static request_id prefill_least_waiting(const core *c, const record *r) {
    request_id least = r->request;
    CHECK(r->granted);
    for (const record *o = c->records.first[RECORD_PREFILL]; o; o = o->next) {
        bool waits = o->granted && o->seqs[0].pages_count == 0;
        least = waits && o->request < least ? o->request : least;
    }
    return least;
}

/* Room for a prompt: of those that are not granted, or, where this worker was a D before or is one
 * now, of reservations that may wait for this very prompt. */
static bool prefill_make_room(core *c, const record *r, uint32_t pages) {
    while (blocks_free_count(c->blocks) < pages) {
        if (!prefill_evict(c, r) &&
            !(r->granted && decode_yield(c, prefill_least_waiting(c, r), pages))) {
            return false;
        }
    }
    return true;
}

bool prefill_start(core *c, record *r) {
    record_seq *s = &r->seqs[0];
    CHECK_EQ(s->pages_count, 0);
    CHECK_EQ(r->computed, 0);
    if (c->growth_waits) {
        return false;
    }
    uint32_t needed = core_pages_of(c, r->tokens_count);
    uint32_t found = 0;
    if (!r->params.prompt_logprobs) {
        /* The last token is always computed: its logits are wanted. */
        uint32_t most = (uint32_t)core_cacheable(c, r, r->tokens_count - 1) / LIMIT_PAGE_TOKENS;
        found = prefix_find(c->prefix, r->salt, r->tokens, most, s->pages, &r->chain);
    }
    s->pages_count = found;
    if (!prefill_make_room(c, r, needed - found)) {
        core_drop_pages(c, r);
        r->chain = (prefix_chain){0};
        return false;
    }
    CHECK(prefix_take(c->prefix, needed - found, s->pages + found));
    s->pages_count = needed;
    r->computed = r->cached = (int32_t)found * LIMIT_PAGE_TOKENS;
    c->stats.prompt_tokens_cached += (uint64_t)r->cached;
    return true;
}

void prefill_computed(core *c, record *r, int32_t rows, const request_token *samples) {
    CHECK_EQ(r->state, RECORD_WORK);
    r->computed += rows;
    CHECK_LE(r->computed, r->tokens_count);
    core_register(c, r, 0, r->computed);
    c->pump = true;
    if (r->computed < r->tokens_count || r->sampled) {
        return;
    }
    CHECK(samples || r->params.max_tokens == 0);
    if (samples) {
        memcpy(r->first, samples, (size_t)r->params.choices * sizeof *samples);
        c->stats.tokens_generated += (uint64_t)r->params.choices;
    }
    r->sampled = true;
    (void)prefill_tell_first(c, r);
}
