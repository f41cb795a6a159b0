/* gate.c -- the G column of the protocol's table: what each event does to a record. */
#include "engine/core/gate.h"

#include <string.h>

#include "engine/base/check.h"
#include "engine/base/mem.h"
#include "engine/core/ledger.h"
#include "engine/core/planted.h"

typedef enum { CAUSE_FREE, CAUSE_SPEND, CAUSE_PREEMPTED } retry_cause;

/* The first retry starts at once. After more failures in a row each waits twice as long, so that a
 * lost link or a drain has time to be noticed by those who repair it. */
enum { BACKOFF_US = 10000, BACKOFF_DOUBLINGS_MAX = 6 };

static void attempt_new(gate *g, ledger_run *r, retry_cause cause, int64_t now_us);

status gate_create(const gate_options *options, gate **out) {
    CHECK(options->requests_max >= 1);
    CHECK_LE(options->requests_max, MESSAGE_LEASES_MAX / LIMIT_CHOICES);
    CHECK(options->id_first >= 1 && options->id_first < 1ull << 60);
    CHECK(options->attempts_max >= 1);
    CHECK(options->lease_us >= 3 && options->pending_deadline_us > 0);
    gate *g = mem_calloc(1, sizeof(*g));
    if (g == NULL) {
        return STATUS_NOMEM;
    }
    g->options = *options;
    status s = ledger_memory(g);
    if (s != STATUS_OK) {
        gate_destroy(g);
        return s;
    }
    g->id_next = options->id_first;
    g->retry_credit = 100 * (uint64_t)options->retry_burst;
    g->unused_count = options->requests_max;
    for (uint32_t i = 0; i < options->requests_max; i++) {
        g->unused[i] = options->requests_max - 1 - i;
    }
    *out = g;
    return STATUS_OK;
}

void gate_destroy(gate *g) {
    if (g == NULL) {
        return;
    }
    for (uint32_t i = 0; g->records && i < g->options.requests_max; i++) {
        journal_close(&g->records[i].tokens);
        mem_free(g->records[i].prompt);
        mem_free(g->records[i].params);
    }
    mem_free(g->tokens);
    arena_close(&g->memory);
    mem_free(g);
}

gate_open_result gate_open(gate *g, const gate_request *request, int64_t now_us, request_id *out) {
    CHECK(request->tokens_count >= 1 && request->tokens_count <= LIMIT_CONTEXT_TOKENS);
    CHECK_EQ(request->params->choice_first, 0);
    if (g->unused_count == 0) {
        return GATE_FULL;
    }
    int32_t *prompt = mem_alloc((size_t)request->tokens_count, sizeof(*prompt));
    request_params *params = mem_alloc(1, sizeof(*params));
    if (prompt == NULL || params == NULL) {
        mem_free(prompt);
        mem_free(params);
        return GATE_NOMEM;
    }
    memcpy(prompt, request->tokens, (size_t)request->tokens_count * sizeof(*prompt));
    request_params_copy(params, request->params);
    g->unused_count--;
    ledger_record *rec = &g->records[g->unused[g->unused_count]];
    CHECK(!rec->live);
    rec->live = true;
    rec->id = g->id_next;
    rec->salt = request->salt;
    memcpy(rec->trace, request->trace, sizeof rec->trace);
    rec->prompt = prompt;
    rec->prompt_count = request->tokens_count;
    rec->params = params;
    rec->scores_next = 1;
    journal_open(&rec->tokens, params->choices, params->max_tokens);
    CHECK(hash_put(&g->by_request, rec->id, (uint64_t)(uintptr_t)rec));
    g->id_next++;
    ledger_run *r = ledger_run_start(g, rec, 0, rec->id);
    r->choices = params->choices;
    r->scores = params->prompt_logprobs;
    ledger_wait(g, r, now_us);
    g->counts.opened++;
    uint64_t most = 100 * (uint64_t)g->options.retry_burst;
    g->retry_credit += g->options.retry_percent;
    g->retry_credit = g->retry_credit < most ? g->retry_credit : most;
    *out = rec->id;
    return GATE_OPENED;
}

/* Ends the run, and with the last run the record, when nothing more is due. */
static void settle(gate *g, ledger_run *r, int64_t now_us) {
    ledger_record *rec = r->owner;
    if (!journal_ended(&rec->tokens, r->choice_first, r->choices)) {
        return;
    }
    if (ledger_run_scores_due(r)) {
        /* P sent them before its first token, but over its own link: they may still come. */
        if (r->state == LEDGER_RUN_ADOPTED && r->prefill == MESSAGE_NO_WORKER) {
            attempt_new(g, r, CAUSE_FREE, now_us);
        } else if (r->state != LEDGER_RUN_PENDING && !r->scores_awaited) {
            r->scores_awaited = true;
            r->since_us = now_us;
        }
        return;
    }
    ledger_run_stop(g, r);
    for (uint32_t i = 0; i < LIMIT_CHOICES; i++) {
        if (rec->runs[i].state != LEDGER_RUN_NONE) {
            return;
        }
    }
    rec->ended = true;
    g->counts.done++;
    ledger_push(g, GATE_DONE)->request = rec->id;
}

/* ---- attempts ------------------------------------------------------------------------------- */

/* A request of several choices cannot say how far each has come, so the unfinished ones go on as
 * requests of one choice. They keep their numbers, and so their random streams. */
static void split(gate *g, ledger_run *r, int64_t now_us) {
    ledger_record *rec = r->owner;
    ledger_run old = *r;
    CHECK(!rec->split);
    rec->split = true;
    g->counts.splits++;
    ledger_run_stop(g, r);
    bool scores = ledger_run_scores_due(&old);
    for (int32_t c = 0; c < old.choices; c++) {
        bool ended = journal_ended(&rec->tokens, c, 1);
        if (ended && !(scores && journal_ended(&rec->tokens, c, old.choices - c))) {
            continue;
        }
        ledger_run *one = ledger_run_start(g, rec, (uint32_t)c, g->id_next);
        g->id_next++;
        one->choice_first = c;
        one->choices = 1;
        one->scores = scores;
        one->failures = old.failures;
        one->decode_avoid = old.decode_avoid;
        scores = false; /* the first brings them */
        ledger_wait(g, one, now_us);
    }
}

/* False when the retry is not to be had; the record has failed then. */
static bool pay(gate *g, ledger_run *r, retry_cause cause, bool progress) {
    r->failures = progress ? 0 : r->failures + 1;
    if (r->failures >= g->options.attempts_max) {
        ledger_fail(g, r->owner, GATE_FAILED_ATTEMPTS, "every attempt at this request failed");
        return false;
    }
    /* Preemption after progress is scheduling, not failure: it ends by itself, each round being
     * some tokens shorter. */
    if (cause == CAUSE_FREE || (cause == CAUSE_PREEMPTED && progress)) {
        g->counts.retries_free++;
        return true;
    }
    if (g->retry_credit < 100 && !PLANTED(RETRIES_WITHOUT_BUDGET)) {
        ledger_fail(g, r->owner, GATE_FAILED_OVERLOADED,
                    "the workers refused this request and too many others were retried lately");
        return false;
    }
    g->retry_credit -= 100;
    g->counts.retries_spent++;
    return true;
}

static bool run_progress(const ledger_run *r) {
    const ledger_record *rec = r->owner;
    if (r->choices == 1) {
        return !journal_ended(&rec->tokens, r->choice_first, 1) &&
               rec->tokens.choices[r->choice_first].count > r->delivered;
    }
    return !journal_empty(&rec->tokens, r->choice_first, r->choices);
}

static int64_t backoff_us(uint32_t failures) {
    if (failures < 2) {
        return 0;
    }
    uint32_t doublings = failures - 2;
    doublings = doublings < BACKOFF_DOUBLINGS_MAX ? doublings : BACKOFF_DOUBLINGS_MAX;
    return (int64_t)BACKOFF_US << doublings;
}

static void attempt_new(gate *g, ledger_run *r, retry_cause cause, int64_t now_us) {
    CHECK(r->state == LEDGER_RUN_RUNNING || r->state == LEDGER_RUN_ADOPTED);
    ledger_record *rec = r->owner;
    if (!pay(g, r, cause, run_progress(r))) {
        return;
    }
    journal_forget_early(&rec->tokens, r->choice_first, r->choices);
    if (r->choices > 1 && !journal_empty(&rec->tokens, r->choice_first, r->choices)) {
        split(g, r, now_us);
        return;
    }
    CHECK_LT(r->attempt, UINT32_MAX);
    r->attempt++;
    r->prefill_left = r->prefill;
    r->decode_left = r->decode;
    r->prefill = r->decode = MESSAGE_NO_WORKER;
    ledger_wait(g, r, now_us);
    r->not_before_us = now_us + backoff_us(r->failures);
}

bool gate_pending_next(gate *g, uint64_t *cursor, int64_t now_us, gate_pending *out) {
    ledger_run *r = g->walk;
    if (*cursor == 0) {
        r = g->pending_first;
    } else if (*cursor != g->walk_order) {
        for (r = g->pending_first; r != NULL && r->order <= *cursor; r = r->after) {
        }
    }
    while (r != NULL && r->not_before_us > now_us) {
        r = r->after;
    }
    if (r == NULL) {
        return false;
    }
    const ledger_record *rec = r->owner;
    ledger_run_params(r, &g->params);
    *out = (gate_pending){
        .run = r->id,
        .request = rec->id,
        .attempt = r->attempt,
        .prompt = rec->prompt,
        .prompt_count = rec->prompt_count,
        .delivered = ledger_run_delivered(r),
        .salt = rec->salt,
        .params = &g->params,
        .prefill_only = ledger_run_prefill_only(r),
        .prefill_last = r->prefill_left,
        .decode_avoid = r->decode_avoid,
        .waiting_us = now_us - r->since_us,
    };
    *cursor = g->walk_order = r->order;
    g->walk = r->after;
    return true;
}

uint32_t gate_pending_count(const gate *g) {
    return g->pending_count;
}

/* Tokens of one class do not continue those of another exactly. */
static void note_class(gate *g, const ledger_run *r) {
    ledger_record *rec = r->owner;
    if (r->delivered > 0 && rec->numerics != g->numerics) {
        g->counts.class_changes++;
    }
    rec->numerics = g->numerics;
}

void gate_dispatch(gate *g, request_id id, gate_choice choice, int64_t now_us) {
    (void)now_us;
    ledger_run *r = ledger_find_run(g, id);
    CHECK(r != NULL);
    CHECK_EQ(r->state, LEDGER_RUN_PENDING);
    CHECK(choice.prefill != choice.decode);
    bool dead = PLANTED(AFFINITY_TO_THE_DEAD);
    CHECK(choice.prefill == MESSAGE_NO_WORKER || ledger_usable(g, choice.prefill) || dead);
    CHECK(choice.decode == MESSAGE_NO_WORKER || ledger_usable(g, choice.decode) || dead);
    CHECK(choice.decode != MESSAGE_NO_WORKER || ledger_run_prefill_only(r));
    ledger_wait_over(g, r);
    if (r->prefill_left != choice.prefill) {
        ledger_cancel_at(g, r->prefill_left, r->id, r->attempt - 1);
    }
    if (r->decode_left != choice.decode) {
        ledger_cancel_at(g, r->decode_left, r->id, r->attempt - 1);
    }
    r->prefill_left = r->decode_left = MESSAGE_NO_WORKER;
    r->prefill = choice.prefill;
    r->decode = choice.decode;
    r->delivered = ledger_run_delivered(r);
    note_class(g, r);
    r->scores_awaited = false;
    r->state = LEDGER_RUN_RUNNING;
    if (choice.prefill != MESSAGE_NO_WORKER) {
        ledger_send(g, choice.prefill, MESSAGE_SUBMIT, r->id, r->attempt);
    }
    if (choice.decode != MESSAGE_NO_WORKER) {
        ledger_send(g, choice.decode, MESSAGE_RESERVE, r->id, r->attempt);
        if (PLANTED(LOCAL_TWICE) && choice.prefill == MESSAGE_NO_WORKER) {
            ledger_send(g, choice.decode, MESSAGE_RESERVE, r->id, r->attempt);
        }
    }
}

/* ---- messages ------------------------------------------------------------------------------- */

static void send_reject(gate *g, uint32_t worker, const message *m) {
    g->counts.rejected++;
    ledger_action *a = ledger_push(g, GATE_SEND);
    a->worker = worker;
    a->send = MESSAGE_REJECT;
    a->about = m->type;
    if (m->type == MESSAGE_ANNOUNCE) {
        a->announce = m->announce;
    }
    a->request = m->request;
    a->attempt = m->attempt;
}

/* What no correct worker sends. */
static void broken(gate *g, uint32_t worker, const message *m, const char *text) {
    send_reject(g, worker, m);
    ledger_action *a = ledger_push(g, GATE_CLOSE);
    a->worker = worker;
    a->text = text;
}

static void emit_token(gate *g, const ledger_record *rec, gate_action_type type,
                       const request_token *t) {
    ledger_action *q = ledger_push(g, type);
    q->request = rec->id;
    q->token = *t;
}

/* False when the run is not what it was: the rest of the message no longer concerns it. */
static bool take_token(gate *g, ledger_run *r, uint32_t worker, const message *m,
                       const request_token *t, int64_t now_us) {
    ledger_record *rec = r->owner;
    bool of_run = t->choice >= r->choice_first && t->choice < r->choice_first + r->choices;
    journal_result result = of_run ? journal_add(&rec->tokens, t) : JOURNAL_BAD;
    if (result == JOURNAL_NEXT) {
        emit_token(g, rec, GATE_TOKEN, t);
        request_token early;
        while (journal_next_early(&rec->tokens, t->choice, &early, &result)) {
            emit_token(g, rec, GATE_TOKEN, &early);
        }
    }
    switch (result) {
        case JOURNAL_MISMATCH:
            g->counts.mismatches++;
            g->counts.duplicates_dropped++;
            return true;
        case JOURNAL_DUPLICATE:
            g->counts.duplicates_dropped++;
            return true;
        case JOURNAL_BAD:
            broken(g, worker, m, "sent a token that the request cannot have");
            attempt_new(g, r, CAUSE_SPEND, now_us);
            return false;
        case JOURNAL_NOMEM:
            ledger_fail(g, rec, GATE_FAILED_NOMEM, "the gateway is out of memory");
            return false;
        case JOURNAL_NEXT:
        case JOURNAL_EARLY:
        case JOURNAL_UNWANTED:
            break;
    }
    return true;
}

static void on_tokens(gate *g, ledger_run *r, uint32_t worker, const message *m, int64_t now_us) {
    ledger_record *rec = r->owner;
    const message_tokens *t = &m->tokens;
    if (r->delivered == 0 && !rec->split && t->cached_tokens > rec->cached_tokens) {
        rec->cached_tokens =
            t->cached_tokens < rec->prompt_count ? t->cached_tokens : rec->prompt_count;
    }
    for (int32_t i = 0; i < t->tokens_count; i++) {
        if (t->tokens[i].end > REQUEST_LENGTH) {
            attempt_new(g, r, CAUSE_SPEND, now_us); /* the worker gave up on it */
            return;
        }
        if (!take_token(g, r, worker, m, &t->tokens[i], now_us)) {
            return;
        }
    }
    if (t->done && rec->params->max_tokens == 0) {
        for (int32_t i = 0; i < r->choices; i++) {
            journal_end(&rec->tokens, r->choice_first + i, JOURNAL_ENDED);
        }
    }
    if (t->done && !journal_ended(&rec->tokens, r->choice_first, r->choices)) {
        broken(g, worker, m, "ended a request before its last token");
        attempt_new(g, r, CAUSE_SPEND, now_us);
        return;
    }
    settle(g, r, now_us);
}

static void on_scores(gate *g, ledger_run *r, uint32_t worker, const message *m, int64_t now_us) {
    ledger_record *rec = r->owner;
    for (int32_t i = 0; i < m->scores.scores_count; i++) {
        int32_t position = m->scores.position_first + i;
        if (!r->scores || position < rec->scores_next) {
            g->counts.duplicates_dropped++;
            continue;
        }
        if (position > rec->scores_next || position >= rec->prompt_count) {
            broken(g, worker, m, "sent logprobs of prompt tokens out of order");
            attempt_new(g, r, CAUSE_SPEND, now_us);
            return;
        }
        request_token t = m->scores.scores[i];
        t.choice = 0;
        t.index = position;
        emit_token(g, rec, GATE_SCORES, &t);
        rec->scores_next++;
    }
    settle(g, r, now_us);
}

static void on_adopted(gate *g, ledger_run *r, uint32_t worker, const message *m, int64_t now_us) {
    if (worker != r->decode) {
        broken(g, worker, m, "adopted a request that it was not to decode");
    } else if (r->state == LEDGER_RUN_ADOPTED) {
        send_reject(g, worker, m);
    } else {
        r->state = LEDGER_RUN_ADOPTED;
        if (m->type == MESSAGE_ALREADY_ADOPTED) {
            ledger_cancel_at(g, r->prefill, r->id, r->attempt);
            r->prefill = MESSAGE_NO_WORKER;
            settle(g, r, now_us);
        }
    }
}

/* It is no fault of anybody's that a worker takes no new requests. */
static bool free_reason(message_reason r) {
    return r == MESSAGE_REASON_DRAINING || r == MESSAGE_REASON_ROLE;
}

static void on_refused(gate *g, ledger_run *r, uint32_t worker, const message *m, int64_t now_us) {
    if (worker != r->decode) {
        broken(g, worker, m, "refused a reservation that it was not asked for");
    } else if (r->state == LEDGER_RUN_ADOPTED) {
        send_reject(g, worker, m);
    } else {
        r->decode_avoid = worker;
        bool free = free_reason(m->reason);
        attempt_new(g, r, free ? CAUSE_FREE : CAUSE_SPEND, now_us);
    }
}

static void on_reject(gate *g, ledger_run *r, uint32_t worker, const message *m, int64_t now_us) {
    if (r->state == LEDGER_RUN_RUNNING || worker == r->decode) {
        bool free = free_reason(m->reason);
        attempt_new(g, r, free ? CAUSE_FREE : CAUSE_SPEND, now_us);
    } else {
        g->counts.stale_dropped++;
    }
}

static void on_link_lost(gate *g, ledger_run *r, uint32_t worker, int64_t now_us) {
    if (r->state == LEDGER_RUN_RUNNING) {
        /* P keeps its pages: another D costs less than another P. */
        r->decode_avoid = r->decode;
        attempt_new(g, r, CAUSE_FREE, now_us);
    } else if (worker == r->prefill) {
        ledger_cancel_at(g, worker, r->id, r->attempt);
    } else {
        g->counts.stale_dropped++;
    }
}

static void on_preempted(gate *g, ledger_run *r, uint32_t worker, const message *m,
                         int64_t now_us) {
    if (worker != r->decode) {
        broken(g, worker, m, "preempted a request that it was not to decode");
    } else {
        bool free = free_reason(m->reason) && !PLANTED(HAND_BACK_COSTS);
        attempt_new(g, r, free ? CAUSE_FREE : CAUSE_PREEMPTED, now_us);
    }
}

void gate_message(gate *g, uint32_t worker, const message *m, int64_t now_us) {
    CHECK(ledger_usable(g, worker));
    if (message_of_link(m->type)) {
        broken(g, worker, m, "sent a message that only a gateway sends");
        return;
    }
    ledger_run *r = ledger_find_run(g, m->request);
    if (r == NULL || r->state == LEDGER_RUN_PENDING ||
        (m->attempt != r->attempt && !PLANTED(STALE_ATTEMPT_HEARD)) ||
        (worker != r->prefill && worker != r->decode)) {
        g->counts.stale_dropped++;
        return;
    }
    switch (m->type) {
        case MESSAGE_TOKENS:
            on_tokens(g, r, worker, m, now_us);
            break;
        case MESSAGE_SCORES:
            on_scores(g, r, worker, m, now_us);
            break;
        case MESSAGE_ADOPTED:
        case MESSAGE_ALREADY_ADOPTED:
            on_adopted(g, r, worker, m, now_us);
            break;
        case MESSAGE_REFUSED:
            on_refused(g, r, worker, m, now_us);
            break;
        case MESSAGE_REJECT:
            on_reject(g, r, worker, m, now_us);
            break;
        case MESSAGE_LINK_LOST:
            on_link_lost(g, r, worker, now_us);
            break;
        case MESSAGE_PREEMPTED:
            on_preempted(g, r, worker, m, now_us);
            break;
        default:
            broken(g, worker, m, "sent a message that no gateway takes");
            break;
    }
}

/* ---- links, callers, time ------------------------------------------------------------------- */

void gate_link_up(gate *g, uint32_t worker, uint64_t epoch, int64_t now_us) {
    (void)now_us;
    CHECK_LT(worker, LIMIT_WORKERS);
    CHECK(!g->peers[worker].up);
    g->peers[worker] = (ledger_peer){true, epoch};
}

static void run_link_down(gate *g, ledger_run *r, uint32_t worker, int64_t now_us) {
    bool was_prefill = r->prefill == worker;
    bool was_decode = r->decode == worker;
    if (r->state == LEDGER_RUN_PENDING) {
        r->prefill_left = r->prefill_left == worker ? MESSAGE_NO_WORKER : r->prefill_left;
        r->decode_left = r->decode_left == worker ? MESSAGE_NO_WORKER : r->decode_left;
        return;
    }
    r->prefill = was_prefill ? MESSAGE_NO_WORKER : r->prefill;
    r->decode = was_decode ? MESSAGE_NO_WORKER : r->decode;
    if (was_decode || (was_prefill && r->state == LEDGER_RUN_RUNNING)) {
        attempt_new(g, r, CAUSE_FREE, now_us);
    } else if (was_prefill) {
        settle(g, r, now_us);
    }
}

void gate_link_down(gate *g, uint32_t worker, int64_t now_us) {
    CHECK(ledger_usable(g, worker));
    g->peers[worker].up = false;
    for (uint32_t i = 0; i < g->options.requests_max; i++) {
        ledger_record *rec = &g->records[i];
        for (uint32_t k = 0; rec->live && k < LIMIT_CHOICES; k++) {
            if (rec->runs[k].state != LEDGER_RUN_NONE) {
                run_link_down(g, &rec->runs[k], worker, now_us);
            }
        }
    }
}

void gate_numerics(gate *g, uint64_t numerics) {
    g->numerics = numerics;
}

void gate_cancel(gate *g, request_id request, int64_t now_us) {
    (void)now_us;
    ledger_record *rec = ledger_find(g, request);
    if (rec == NULL) {
        return;
    }
    ledger_stop(g, rec);
    g->counts.cancelled += !rec->ended;
    ledger_free(g, rec);
}

void gate_end_choice(gate *g, request_id request, int32_t choice, int64_t now_us) {
    ledger_record *rec = ledger_find(g, request);
    if (rec == NULL || rec->ended || choice < 0 || choice >= rec->params->choices) {
        return;
    }
    journal_end(&rec->tokens, choice, JOURNAL_ENDED_BY_CALLER);
    for (uint32_t i = 0; i < LIMIT_CHOICES; i++) {
        ledger_run *r = &rec->runs[i];
        if (r->state != LEDGER_RUN_NONE && choice >= r->choice_first &&
            choice < r->choice_first + r->choices) {
            settle(g, r, now_us);
            return;
        }
    }
}

static void tick_run(gate *g, ledger_run *r, int64_t now_us) {
    ledger_record *rec = r->owner;
    if (r->state == LEDGER_RUN_PENDING) {
        if (now_us - r->since_us >= g->options.pending_deadline_us) {
            ledger_fail(g, rec, GATE_FAILED_UNAVAILABLE, "no worker could take this request");
        }
        return;
    }
    if (r->scores_awaited && now_us - r->since_us >= g->options.lease_us) {
        CHECK(ledger_run_scores_due(r));
        attempt_new(g, r, CAUSE_SPEND, now_us); /* the logprobs it lacks did not come */
    }
}

static void hold(bool held[LIMIT_WORKERS], uint32_t worker) {
    if (worker != MESSAGE_NO_WORKER) {
        held[worker] = true;
    }
}

void gate_tick(gate *g, int64_t now_us) {
    bool held[LIMIT_WORKERS] = {false};
    for (uint32_t i = 0; i < g->options.requests_max; i++) {
        ledger_record *rec = &g->records[i];
        for (uint32_t k = 0; rec->live && k < LIMIT_CHOICES; k++) {
            ledger_run *r = &rec->runs[k];
            if (r->state != LEDGER_RUN_NONE) {
                tick_run(g, r, now_us);
            }
            if (r->state == LEDGER_RUN_RUNNING) {
                hold(held, r->prefill);
                hold(held, r->decode);
            }
        }
    }
    if (now_us < g->lease_next_us) {
        return;
    }
    g->lease_next_us = now_us + g->options.lease_us / 3;
    for (uint32_t w = 0; w < LIMIT_WORKERS; w++) {
        if (held[w]) {
            ledger_send(g, w, MESSAGE_LEASES, 0, 0);
        }
    }
}

/* Fills the action; false when what it was about is gone meanwhile. */
static bool build(gate *g, const ledger_action *q, gate_action *out) {
    *out = (gate_action){.type = q->type, .worker = q->worker, .text = q->text};
    if (q->type == GATE_SEND) {
        return ledger_message(g, q, &out->message);
    }
    if (q->type == GATE_CLOSE) {
        return ledger_usable(g, q->worker);
    }
    ledger_record *rec = ledger_find(g, q->request);
    if (rec == NULL) {
        return false;
    }
    out->request = q->request;
    out->token = q->token;
    out->failure = q->failure;
    out->cached_tokens = rec->cached_tokens;
    if (q->type == GATE_DONE || q->type == GATE_FAILED) {
        CHECK(rec->ended);
        ledger_free(g, rec);
    }
    return true;
}

bool gate_next(gate *g, gate_action *out) {
    while (g->queue_head != g->queue_tail) {
        ledger_action q = g->queue[g->queue_head & (g->queue_slots - 1)];
        g->queue_head++;
        if (build(g, &q, out)) {
            return true;
        }
    }
    g->queue_head = g->queue_tail = 0; /* the far end of the ring stays untouched memory */
    return false;
}

uint32_t gate_count(const gate *g) {
    return g->options.requests_max - g->unused_count;
}

const gate_counts *gate_counters(const gate *g) {
    return &g->counts;
}

const char *gate_failure_name(gate_failure f) {
    static const char *const names[] = {
        [GATE_FAILED_UNAVAILABLE] = "unavailable",
        [GATE_FAILED_OVERLOADED] = "overloaded",
        [GATE_FAILED_ATTEMPTS] = "attempts",
        [GATE_FAILED_NOMEM] = "no memory",
    };
    return f <= GATE_FAILED_NOMEM ? names[f] : "?";
}
