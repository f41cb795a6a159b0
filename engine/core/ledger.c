/* ledger.c -- records of requests at the gateway, and the messages made from them. */
#include "engine/core/ledger.h"

#include <string.h>

#include "engine/base/check.h"
#include "engine/base/mem.h"
#include "engine/core/planted.h"

/* ---- memory --------------------------------------------------------------------------------- */

/* Most actions of one call: one message's tokens with the early ones they free, or for each record
 * CANCEL to each worker of each run, and its end. */
static uint64_t queue_need(const gate_options *o) {
    uint64_t record_most = 2 * (uint64_t)LIMIT_CHOICES + 2;
    return MESSAGE_TOKENS_MAX + JOURNAL_EARLY_MAX + LIMIT_WORKERS + record_most * o->requests_max;
}

status ledger_memory(gate *g) {
    const gate_options *o = &g->options;
    uint64_t runs_max = (uint64_t)o->requests_max * LIMIT_CHOICES;
    g->queue_slots = 1;
    while (g->queue_slots < 2 * queue_need(o)) {
        g->queue_slots *= 2;
    }
    uint64_t bytes = g->queue_slots * sizeof(ledger_action) +
                     runs_max * (sizeof(message_lease) + 128) +
                     (uint64_t)o->requests_max * (sizeof(ledger_record) + 256) + (1u << 20);
    TRY(arena_open(&g->memory, bytes));
    g->records = ARENA_TAKE(&g->memory, o->requests_max, ledger_record);
    g->unused = ARENA_TAKE(&g->memory, o->requests_max, uint32_t);
    g->queue = ARENA_TAKE(&g->memory, g->queue_slots, ledger_action);
    g->leases = ARENA_TAKE(&g->memory, runs_max, message_lease);
    if (!g->records || !g->unused || !g->queue || !g->leases) {
        return STATUS_NOMEM;
    }
    TRY(hash_open(&g->by_request, &g->memory, o->requests_max, o->id_first));
    TRY(hash_open(&g->by_run, &g->memory, (uint32_t)runs_max, o->id_first));
    arena_seal(&g->memory);
    return STATUS_OK;
}

ledger_record *ledger_find(const gate *g, request_id id) {
    uint64_t address;
    return hash_get(&g->by_request, id, &address) ? (ledger_record *)(uintptr_t)address : NULL;
}

ledger_run *ledger_find_run(const gate *g, request_id id) {
    uint64_t address;
    return hash_get(&g->by_run, id, &address) ? (ledger_run *)(uintptr_t)address : NULL;
}

/* ---- actions -------------------------------------------------------------------------------- */

ledger_action *ledger_push(gate *g, gate_action_type type) {
    CHECK_LT(g->queue_tail - g->queue_head, g->queue_slots);
    ledger_action *q = &g->queue[g->queue_tail & (g->queue_slots - 1)];
    g->queue_tail++;
    *q = (ledger_action){.type = type};
    return q;
}

void ledger_send(gate *g, uint32_t worker, message_type type, request_id id, uint32_t attempt) {
    CHECK_LT(worker, LIMIT_WORKERS);
    ledger_action *q = ledger_push(g, GATE_SEND);
    q->worker = worker;
    q->send = type;
    q->request = id;
    q->attempt = attempt;
}

bool ledger_usable(const gate *g, uint32_t worker) {
    return worker != MESSAGE_NO_WORKER && g->peers[worker].up;
}

void ledger_cancel_at(gate *g, uint32_t worker, request_id id, uint32_t attempt) {
    if (ledger_usable(g, worker)) {
        ledger_send(g, worker, MESSAGE_CANCEL, id, attempt);
    }
}

/* ---- pending list --------------------------------------------------------------------------- */

void ledger_wait(gate *g, ledger_run *r, int64_t now_us) {
    CHECK(r->state != LEDGER_RUN_PENDING);
    r->state = LEDGER_RUN_PENDING;
    r->since_us = r->not_before_us = now_us;
    ledger_run *before = g->pending_last;
    while (before != NULL && before->order > r->order) {
        before = before->before;
    }
    r->before = before;
    r->after = before ? before->after : g->pending_first;
    *(r->after ? &r->after->before : &g->pending_last) = r;
    *(r->before ? &r->before->after : &g->pending_first) = r;
    g->pending_count++;
}

void ledger_wait_over(gate *g, ledger_run *r) {
    CHECK_EQ(r->state, LEDGER_RUN_PENDING);
    CHECK(g->pending_count > 0);
    if (g->walk == r) {
        g->walk = r->after;
    }
    *(r->after ? &r->after->before : &g->pending_last) = r->before;
    *(r->before ? &r->before->after : &g->pending_first) = r->after;
    r->before = r->after = NULL;
    g->pending_count--;
    r->state = LEDGER_RUN_NONE;
}

/* ---- records -------------------------------------------------------------------------------- */

ledger_run *ledger_run_start(gate *g, ledger_record *rec, uint32_t slot, request_id id) {
    ledger_run *r = &rec->runs[slot];
    CHECK_EQ(r->state, LEDGER_RUN_NONE);
    *r = (ledger_run){
        .owner = rec,
        .id = id,
        .attempt = 1,
        .prefill = MESSAGE_NO_WORKER,
        .decode = MESSAGE_NO_WORKER,
        .prefill_left = MESSAGE_NO_WORKER,
        .decode_left = MESSAGE_NO_WORKER,
        .decode_avoid = MESSAGE_NO_WORKER,
        .order = rec->id * LIMIT_CHOICES + slot,
    };
    CHECK(hash_put(&g->by_run, id, (uint64_t)(uintptr_t)r));
    return r;
}

void ledger_run_stop(gate *g, ledger_run *r) {
    CHECK(r->state != LEDGER_RUN_NONE);
    if (r->state == LEDGER_RUN_PENDING) {
        if (!PLANTED(CANCEL_LOST_WAITING)) {
            ledger_cancel_at(g, r->prefill_left, r->id, r->attempt - 1);
            ledger_cancel_at(g, r->decode_left, r->id, r->attempt - 1);
        }
        ledger_wait_over(g, r);
    } else {
        ledger_cancel_at(g, r->prefill, r->id, r->attempt);
        ledger_cancel_at(g, r->decode, r->id, r->attempt);
    }
    r->state = LEDGER_RUN_NONE;
    CHECK(hash_delete(&g->by_run, r->id, NULL));
}

void ledger_stop(gate *g, ledger_record *rec) {
    for (uint32_t i = 0; i < LIMIT_CHOICES; i++) {
        if (rec->runs[i].state != LEDGER_RUN_NONE) {
            ledger_run_stop(g, &rec->runs[i]);
        }
    }
}

void ledger_free(gate *g, ledger_record *rec) {
    CHECK(rec->live);
    CHECK(hash_delete(&g->by_request, rec->id, NULL));
    journal_close(&rec->tokens);
    mem_free(rec->prompt);
    mem_free(rec->params);
    *rec = (ledger_record){0};
    g->unused[g->unused_count] = (uint32_t)(rec - g->records);
    g->unused_count++;
}

void ledger_fail(gate *g, ledger_record *rec, gate_failure failure, const char *text) {
    CHECK(!rec->ended);
    ledger_stop(g, rec);
    rec->ended = true;
    g->counts.failed++;
    ledger_action *q = ledger_push(g, GATE_FAILED);
    q->request = rec->id;
    q->failure = failure;
    q->text = text;
}

void ledger_run_params(const ledger_run *r, request_params *out) {
    const ledger_record *rec = r->owner;
    request_params_copy(out, rec->params);
    out->choices = r->choices;
    out->choice_first = r->choice_first;
    out->prompt_logprobs = r->scores && rec->scores_next < rec->prompt_count;
    if (journal_ended(&rec->tokens, r->choice_first, r->choices)) {
        out->max_tokens = 0;
    }
}

int32_t ledger_run_delivered(const ledger_run *r) {
    const ledger_record *rec = r->owner;
    if (r->choices != 1 || journal_ended(&rec->tokens, r->choice_first, 1)) {
        return 0;
    }
    return rec->tokens.choices[r->choice_first].count;
}

bool ledger_run_prefill_only(const ledger_run *r) {
    const ledger_record *rec = r->owner;
    return journal_ended(&rec->tokens, r->choice_first, r->choices) ||
           rec->params->max_tokens - ledger_run_delivered(r) <= 1;
}

bool ledger_run_scores_due(const ledger_run *r) {
    return r->scores && r->owner->scores_next < r->owner->prompt_count;
}

static bool build_leases(gate *g, uint32_t worker, message *m) {
    uint32_t count = 0;
    for (uint32_t i = 0; i < g->options.requests_max; i++) {
        const ledger_record *rec = &g->records[i];
        for (uint32_t k = 0; rec->live && k < LIMIT_CHOICES; k++) {
            const ledger_run *r = &rec->runs[k];
            if (r->state == LEDGER_RUN_RUNNING && (r->prefill == worker || r->decode == worker)) {
                g->leases[count] = (message_lease){r->id, r->attempt};
                count++;
            }
        }
    }
    m->leases.list = g->leases;
    m->leases.count = count;
    return count > 0;
}

/* The prompt and what the client has of it, in one piece. */
static bool build_tokens(gate *g, const ledger_run *r, message_submit *s) {
    const ledger_record *rec = r->owner;
    s->prompt_count = rec->prompt_count;
    s->tokens_count = rec->prompt_count + r->delivered;
    s->tokens = rec->prompt;
    if (r->delivered == 0) {
        return true;
    }
    size_t count = (size_t)s->tokens_count;
    if (count > g->tokens_capacity) {
        int32_t *p = mem_realloc(g->tokens, count + count / 2, sizeof(*p));
        if (p == NULL) {
            return false;
        }
        g->tokens = p;
        g->tokens_capacity = count + count / 2;
    }
    memcpy(g->tokens, rec->prompt, (size_t)rec->prompt_count * sizeof(int32_t));
    memcpy(g->tokens + rec->prompt_count, rec->tokens.choices[r->choice_first].tokens,
           (size_t)r->delivered * sizeof(int32_t));
    s->tokens = g->tokens;
    return true;
}

static bool build_submit(gate *g, const ledger_action *q, message *m) {
    ledger_run *r = ledger_find_run(g, q->request);
    if (r == NULL || r->attempt != q->attempt || r->state == LEDGER_RUN_PENDING) {
        return false;
    }
    uint32_t other = q->send == MESSAGE_SUBMIT ? r->decode : r->prefill;
    ledger_run_params(r, &g->params);
    m->submit = (message_submit){
        .peer_worker = other,
        .peer_epoch = other == MESSAGE_NO_WORKER ? 0 : g->peers[other].epoch,
        .local = q->send == MESSAGE_RESERVE && other == MESSAGE_NO_WORKER,
        .salt = r->owner->salt,
        .trace = {r->owner->trace[0], r->owner->trace[1]},
        .params = &g->params,
    };
    bool built = build_tokens(g, r, &m->submit);
    if (PLANTED(PREEMPTED_FORGETS)) {
        m->submit.prompt_count = m->submit.tokens_count;
    }
    if (!built) {
        ledger_fail(g, r->owner, GATE_FAILED_NOMEM, "the gateway is out of memory");
        return false;
    }
    return true;
}

bool ledger_message(gate *g, const ledger_action *q, message *m) {
    if (!ledger_usable(g, q->worker)) {
        return false;
    }
    m->type = q->send;
    m->request = q->request;
    m->attempt = q->attempt;
    switch (q->send) {
        case MESSAGE_SUBMIT:
        case MESSAGE_RESERVE:
            return build_submit(g, q, m);
        case MESSAGE_LEASES:
            return build_leases(g, q->worker, m);
        case MESSAGE_REJECT:
            m->reason = MESSAGE_REASON_STATE;
            m->about = q->about;
            m->announce = q->announce;
            return true;
        default:
            CHECK_EQ(q->send, MESSAGE_CANCEL);
            return true;
    }
}
