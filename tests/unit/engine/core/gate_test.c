/* gate_test.c -- the gateway's column of the protocol: every cell, and the named counterexamples.
 *
 * The table below is written from the protocol's text; what the gate does is seen from outside
 * only: actions, what is pending, whose leases are renewed.
 */
#include "tests/unit/engine/core/gate_bench.h"

/* ---- the table ------------------------------------------------------------------------------ */

typedef enum { IN_PENDING, IN_RUNNING, IN_ADOPTED, IN_ENDED, STATES } cell_state;

typedef enum {
    DROP,
    TOKEN,    /* one token to the client */
    ADOPT,    /* RUNNING > adopted */
    ADOPT_P,  /* > adopted; CANCEL to P */
    RETRY,    /* a new attempt waits */
    CANCEL_P, /* CANCEL to P, nothing else */
    ANSWER,   /* REJECT to the sender, nothing else */
    CLOSE     /* REJECT and close */
} outcome;

typedef struct {
    message_type type;
    /* RUNNING from P, RUNNING from D, ADOPTED from P, ADOPTED from D; a = A. Everything else is
     * DROP: PENDING and ended records, a != A, and other senders. */
    outcome running_p, running_d, adopted_p, adopted_d;
} row;

static const row table[] = {
    {MESSAGE_TOKENS, TOKEN, TOKEN, TOKEN, TOKEN},
    {MESSAGE_ADOPTED, CLOSE, ADOPT, CLOSE, ANSWER},
    {MESSAGE_ALREADY_ADOPTED, CLOSE, ADOPT_P, CLOSE, ANSWER},
    {MESSAGE_REFUSED, CLOSE, RETRY, CLOSE, ANSWER},
    {MESSAGE_REJECT, RETRY, RETRY, DROP, RETRY},
    {MESSAGE_LINK_LOST, RETRY, RETRY, CANCEL_P, DROP},
    {MESSAGE_PREEMPTED, CLOSE, RETRY, CLOSE, RETRY},
    {MESSAGE_SUBMIT, CLOSE, CLOSE, CLOSE, CLOSE},
    {MESSAGE_RESERVE, CLOSE, CLOSE, CLOSE, CLOSE},
    {MESSAGE_GRANT, CLOSE, CLOSE, CLOSE, CLOSE},
    {MESSAGE_QUEUED, CLOSE, CLOSE, CLOSE, CLOSE},
    {MESSAGE_ANNOUNCE, CLOSE, CLOSE, CLOSE, CLOSE},
    {MESSAGE_POSTED, CLOSE, CLOSE, CLOSE, CLOSE},
    {MESSAGE_HANDOFF, CLOSE, CLOSE, CLOSE, CLOSE},
    {MESSAGE_CANCEL, CLOSE, CLOSE, CLOSE, CLOSE},
};

/* A record at attempt 2 on (P1, D1), so that older attempts exist. Returns the id. */
static request_id bring_to(bench *b, cell_state s) {
    request_id id = open_one(b, 8, 1);
    dispatch(b, id, P1, D1);
    say_plain(b, D1, MESSAGE_REJECT, id, 1);
    cr_assert_eq(pending_attempt(b), 2);
    if (s != IN_PENDING) {
        dispatch(b, id, P1, D1);
    }
    if (s == IN_ADOPTED) {
        say_plain(b, D1, MESSAGE_ADOPTED, id, 2);
    }
    if (s == IN_ENDED) {
        for (int i = 0; i < 8; i++) {
            say_token(b, D1, id, 2, 0, i, i == 7 ? REQUEST_LENGTH : REQUEST_RUNNING);
        }
        cr_assert_eq(gate_count(b->g), 0);
    }
    clear(b);
    return id;
}

static message message_for(message_type type, request_id id, uint32_t attempt) {
    static request_token t;
    t = token_of(0, 0, REQUEST_RUNNING);
    message m = plain(type, id, attempt);
    if (type == MESSAGE_TOKENS) {
        m.tokens = (message_tokens){.tokens_count = 1, .tokens = &t};
    } else if (type == MESSAGE_LINK_LOST) {
        m.worker = P1;
    }
    return m;
}

/* Whether a tick renews the record's lease: only RUNNING and not adopted. */
static bool renewed(bench *b, request_id id) {
    b->now += LEASE_US / 3;
    b->leases_count = 0;
    gate_tick(b->g, b->now);
    drain(b);
    for (uint32_t i = 0; i < b->leases_count; i++) {
        if (b->leases[i].request == id) {
            return true;
        }
    }
    return false;
}

/* What can be seen from outside. */
typedef struct {
    int tokens, closes, rejects, cancels_p, all;
    uint32_t waits; /* attempt */
    bool lease;
} sight;

static sight observe(bench *b, request_id id, int sender) {
    b->now += 2000000; /* past any back-off */
    sight s = {.tokens = count_of(b, GATE_TOKEN),
               .closes = count_of(b, GATE_CLOSE),
               .rejects = sent_count(b, sender, MESSAGE_REJECT),
               .cancels_p = sent_count(b, P1, MESSAGE_CANCEL),
               .all = b->count,
               .waits = pending_attempt(b)};
    s.lease = renewed(b, id);
    return s;
}

static sight sight_of(outcome o, cell_state s) {
    sight e = {.waits = s == IN_PENDING ? 2 : 0, .lease = s == IN_RUNNING};
    e.tokens = o == TOKEN;
    e.closes = o == CLOSE;
    e.rejects = o == CLOSE || o == ANSWER;
    e.cancels_p = o == ADOPT_P || o == CANCEL_P;
    e.all = e.tokens + e.closes + e.rejects + e.cancels_p;
    if (o == RETRY) {
        e.waits = 3;
    }
    e.lease = e.lease && o != RETRY && o != ADOPT && o != ADOPT_P;
    return e;
}

static outcome expected(const row *r, cell_state s, int attempt, int sender) {
    if (attempt != 2 || sender == OTHER || s == IN_PENDING || s == IN_ENDED) {
        return DROP;
    }
    if (s == IN_RUNNING) {
        return sender == P1 ? r->running_p : r->running_d;
    }
    return sender == P1 ? r->adopted_p : r->adopted_d;
}

static void check_cell(const row *r, cell_state s, int attempt, int sender) {
    bench *b = start();
    request_id id = bring_to(b, s);
    uint64_t dropped = gate_counters(b->g)->stale_dropped;
    say(b, sender, message_for(r->type, id, (uint32_t)attempt));
    outcome want = expected(r, s, attempt, sender);
    dropped = gate_counters(b->g)->stale_dropped - dropped;
    const char *name = message_type_name(r->type);
    cr_assert_eq(dropped, want == DROP ? 1u : 0u, "%s state %d attempt %d sender %d", name, s,
                 attempt, sender);
    sight e = sight_of(want, s), got = observe(b, id, sender);
    cr_assert(got.tokens == e.tokens && got.closes == e.closes && got.rejects == e.rejects &&
                  got.cancels_p == e.cancels_p && got.all == e.all && got.waits == e.waits &&
                  got.lease == e.lease,
              "%s state %d attempt %d sender %d: tokens %d closes %d rejects %d cancels %d of %d "
              "actions, waits %u, lease %d",
              name, s, attempt, sender, got.tokens, got.closes, got.rejects, got.cancels_p, got.all,
              got.waits, got.lease);
    finish(b);
}

Test(gate, does_in_every_cell_what_the_table_says) {
    static const int senders[] = {P1, D1, OTHER};
    int cells = 0;
    for (size_t r = 0; r < sizeof(table) / sizeof(table[0]); r++) {
        for (cell_state s = IN_PENDING; s < STATES; s++) {
            for (int attempt = 1; attempt <= 3; attempt++) {
                for (size_t w = 0; w < sizeof(senders) / sizeof(senders[0]); w++) {
                    check_cell(&table[r], s, attempt, senders[w]);
                    cells++;
                }
            }
        }
    }
    cr_assert_eq(cells, 15 * STATES * 3 * 3);
}

Test(gate, closes_a_worker_that_speaks_like_a_gateway) {
    static const message_type types[] = {MESSAGE_HELLO, MESSAGE_PEER, MESSAGE_LEASES,
                                         MESSAGE_DRAIN};
    for (size_t i = 0; i < sizeof(types) / sizeof(types[0]); i++) {
        bench *b = start();
        say_plain(b, P1, types[i], 0, 0);
        cr_assert_eq(count_of(b, GATE_CLOSE), 1);
        cr_assert_eq(b->log[1].worker, P1);
        finish(b);
    }
}

/* ---- events that are no messages ------------------------------------------------------------ */

typedef struct {
    cell_state state;
    int worker;               /* whose link ends */
    uint32_t waits;           /* attempt afterwards */
    int cancels_p, cancels_d; /* at the next dispatch to (P2, D2) */
} link_case;

Test(gate, link_down_asks_for_a_new_attempt_only_while_the_worker_matters) {
    static const link_case cases[] = {
        {IN_PENDING, P1, 2, 0, 1}, {IN_PENDING, D1, 2, 1, 0},    {IN_RUNNING, P1, 3, 0, 1},
        {IN_RUNNING, D1, 3, 1, 0}, {IN_RUNNING, OTHER, 0, 0, 0}, {IN_ADOPTED, P1, 0, 0, 0},
        {IN_ADOPTED, D1, 3, 1, 0}, {IN_ENDED, P1, 0, 0, 0},      {IN_ENDED, D1, 0, 0, 0},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        const link_case *c = &cases[i];
        bench *b = start();
        request_id id = bring_to(b, c->state);
        gate_link_down(b->g, (uint32_t)c->worker, b->now);
        drain(b);
        cr_assert_eq(b->count, 0);
        b->now += 2000000; /* past any back-off */
        cr_assert_eq(pending_attempt(b), c->waits, "case %zu", i);
        if (c->waits > 0) {
            dispatch(b, id, P2, D2);
            drain(b);
            cr_assert_eq(sent_count(b, P1, MESSAGE_CANCEL), c->cancels_p, "case %zu", i);
            cr_assert_eq(sent_count(b, D1, MESSAGE_CANCEL), c->cancels_d, "case %zu", i);
            cr_assert_eq(sent_count(b, P2, MESSAGE_SUBMIT), 1);
            cr_assert_eq(sent_count(b, D2, MESSAGE_RESERVE), 1);
        }
        finish(b);
    }
}

Test(gate, client_cancel_tells_whoever_still_holds_something) {
    static const struct {
        cell_state state;
        int cancels;
    } cases[] = {{IN_PENDING, 1}, {IN_RUNNING, 1}, {IN_ADOPTED, 1}, {IN_ENDED, 0}};
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        bench *b = start();
        request_id id = bring_to(b, cases[i].state);
        gate_cancel(b->g, id, b->now);
        drain(b);
        cr_assert_eq(sent_count(b, P1, MESSAGE_CANCEL), cases[i].cancels);
        cr_assert_eq(sent_count(b, D1, MESSAGE_CANCEL), cases[i].cancels);
        cr_assert_eq(b->count, 2 * cases[i].cancels);
        cr_assert_eq(gate_count(b->g), 0);
        cr_assert_eq(pending_attempt(b), 0);
        finish(b);
    }
}

/* ---- the named counterexamples of the protocol ---------------------------------------------- */

Test(gate, R2_first_token_from_d_serves_when_p_died_with_it) {
    bench *b = start();
    request_id id = open_one(b, 3, 1);
    dispatch(b, id, P1, D1);
    say_plain(b, D1, MESSAGE_ADOPTED, id, 1);
    clear(b);
    gate_link_down(b->g, P1, b->now);
    say_token(b, D1, id, 1, 0, 0, REQUEST_RUNNING);
    say_token(b, D1, id, 1, 0, 1, REQUEST_RUNNING);
    say_token(b, D1, id, 1, 0, 2, REQUEST_LENGTH);
    tokens_are(b, id, 0, 0, 2);
    cr_assert_eq(count_of(b, GATE_DONE), 1);
    finish(b);
}

Test(gate, R2_the_double_of_the_first_token_is_dropped_by_index) {
    bench *b = start();
    request_id id = open_one(b, 2, 1);
    dispatch(b, id, P1, D1);
    clear(b);
    say_token(b, P1, id, 1, 0, 0, REQUEST_RUNNING);
    say_plain(b, D1, MESSAGE_ADOPTED, id, 1);
    say_token(b, D1, id, 1, 0, 0, REQUEST_RUNNING);
    say_token(b, D1, id, 1, 0, 1, REQUEST_LENGTH);
    tokens_are(b, id, 0, 0, 1);
    cr_assert_eq(gate_counters(b->g)->duplicates_dropped, 1);
    cr_assert_eq(gate_counters(b->g)->mismatches, 0);
    finish(b);
}

Test(gate, R3_adopted_tokens_of_an_old_attempt_are_replayed_under_the_new) {
    bench *b = start();
    request_id id = open_one(b, 4, 1);
    dispatch(b, id, P1, D1);
    gate_link_down(b->g, P1, b->now); /* before anything of D1 is read */
    drain(b);
    dispatch(b, id, P2, D1);
    clear(b);
    say_plain(b, D1, MESSAGE_ADOPTED, id, 1);
    say_token(b, D1, id, 1, 0, 0, REQUEST_RUNNING);
    say_token(b, D1, id, 1, 0, 1, REQUEST_RUNNING);
    cr_assert_eq(b->count, 0);
    say_plain(b, D1, MESSAGE_ALREADY_ADOPTED, id, 2);
    cr_assert_eq(sent_count(b, P2, MESSAGE_CANCEL), 1);
    cr_assert_not(renewed(b, id));
    for (int i = 0; i < 4; i++) {
        say_token(b, D1, id, 2, 0, i, i == 3 ? REQUEST_LENGTH : REQUEST_RUNNING);
    }
    tokens_are(b, id, 0, 0, 3);
    cr_assert_eq(count_of(b, GATE_DONE), 1);
    finish(b);
}

Test(gate, R4_every_retarget_is_a_higher_attempt) {
    bench *b = start();
    request_id id = open_one(b, 4, 1);
    dispatch(b, id, P1, D1);
    gate_link_down(b->g, D1, b->now); /* fenced; P1 keeps its pages */
    clear(b);
    gate_pending p;
    cr_assert(pending(b, &p));
    cr_assert_eq(p.prefill_last, P1);
    cr_assert_eq(p.attempt, 2);
    dispatch(b, id, P1, D2);
    drain(b);
    cr_assert_eq(sent_count(b, P1, MESSAGE_CANCEL), 0);
    cr_assert_eq(sent_count(b, P1, MESSAGE_SUBMIT), 1);
    for (int i = 0; i < b->count; i++) {
        cr_assert_eq(b->log[i].message.attempt, 2);
    }
    finish(b);
}

Test(gate, R6_a_refusal_goes_elsewhere) {
    bench *b = start();
    request_id id = open_one(b, 4, 1);
    dispatch(b, id, P1, D1);
    message m = plain(MESSAGE_REFUSED, id, 1);
    m.reason = MESSAGE_REASON_FULL;
    say(b, D1, m);
    gate_pending p;
    cr_assert(pending(b, &p));
    cr_assert_eq(p.decode_avoid, D1);
    cr_assert_eq(p.attempt, 2);
    finish(b);
}

Test(gate, R9_a_lease_that_ended_at_a_worker_starts_a_new_attempt) {
    static const struct {
        int worker;
        message_type type;
    } cases[] = {{P1, MESSAGE_REJECT}, {D1, MESSAGE_REFUSED}};
    for (size_t i = 0; i < 2; i++) {
        bench *b = start();
        request_id id = open_one(b, 4, 1);
        dispatch(b, id, P1, D1);
        message m = plain(cases[i].type, id, 1);
        m.reason = MESSAGE_REASON_LEASE;
        say(b, cases[i].worker, m);
        cr_assert_eq(pending_attempt(b), 2);
        finish(b);
    }
}

/* A REJECT about an ANNOUNCE carries it; without, no encoder would send the REJECT. */
Test(gate, a_refused_announce_goes_back_as_it_came) {
    bench *b = start();
    request_id id = open_one(b, 4, 1);
    dispatch(b, id, P1, D1);
    clear(b);
    message m = plain(MESSAGE_ANNOUNCE, id, 1);
    m.announce = (message_announce){.sequence = 3, .layers = 2, .page_first = 1, .pages = 4};
    say(b, P1, m);
    cr_assert_eq(sent_count(b, P1, MESSAGE_REJECT), 1);
    const message *back = &b->log[0].message;
    cr_assert_eq(back->type, MESSAGE_REJECT);
    cr_expect_eq(back->about, MESSAGE_ANNOUNCE);
    cr_expect_eq(back->announce.sequence, 3);
    cr_expect_eq(back->announce.pages, 4);
    strbuf bytes = strbuf_make(LIMIT_MESSAGE_BYTES);
    cr_expect_eq(message_encode(back, &bytes), STATUS_OK);
    strbuf_close(&bytes);
    finish(b);
}

/* ---- tokens and the journal ----------------------------------------------------------------- */

Test(gate, prompt_logprobs_come_once_and_the_end_waits_for_them) {
    bench *b = start();
    request_params p = params_of(1, 1);
    p.prompt_logprobs = true;
    request_id id = open_params(b, &p);
    dispatch(b, id, P1, D1);
    clear(b);
    request_token s[PROMPT_COUNT] = {{.token = 5}, {.token = 6}, {.token = 7},
                                     {.token = 8}, {.token = 9}, {.token = 10}};
    message m = plain(MESSAGE_SCORES, id, 1);
    m.scores = (message_scores){1, 4, s};
    say(b, P1, m);
    say_token(b, D1, id, 1, 0, 0, REQUEST_LENGTH);
    cr_assert_eq(count_of(b, GATE_DONE), 0);
    m.scores = (message_scores){3, 4, s + 2}; /* two of them again */
    say(b, P1, m);
    cr_assert_eq(count_of(b, GATE_SCORES), PROMPT_COUNT - 1);
    cr_assert_eq(count_of(b, GATE_DONE), 1);
    int32_t position = 1;
    for (int i = 0; i < b->count; i++) {
        if (b->log[i].type == GATE_SCORES) {
            cr_assert_eq(b->log[i].token.index, position);
            cr_assert_eq(b->log[i].token.token, 4 + position);
            position++;
        }
    }
    finish(b);
}

Test(gate, prompt_logprobs_lost_with_p_are_made_again) {
    bench *b = start();
    request_params p = params_of(2, 1);
    p.prompt_logprobs = true;
    request_id id = open_params(b, &p);
    dispatch(b, id, P1, D1);
    say_plain(b, D1, MESSAGE_ADOPTED, id, 1);
    gate_link_down(b->g, P1, b->now);
    say_token(b, D1, id, 1, 0, 0, REQUEST_RUNNING);
    say_token(b, D1, id, 1, 0, 1, REQUEST_LENGTH);
    gate_pending w;
    cr_assert(pending(b, &w));
    cr_assert(w.prefill_only);
    cr_assert_eq(w.params->max_tokens, 0);
    cr_assert(w.params->prompt_logprobs);
    cr_assert_eq(w.delivered, 0);
    dispatch(b, id, P2, NONE);
    clear(b);
    request_token s[PROMPT_COUNT] = {{0}};
    message m = plain(MESSAGE_SCORES, id, 2);
    m.scores = (message_scores){1, PROMPT_COUNT - 1, s};
    say(b, P2, m);
    cr_assert_eq(count_of(b, GATE_SCORES), PROMPT_COUNT - 1);
    cr_assert_eq(count_of(b, GATE_DONE), 1);
    finish(b);
}

/* ---- several choices ------------------------------------------------------------------------ */

Test(gate, several_choices_are_one_record_until_an_attempt_fails) {
    bench *b = start();
    request_id id = open_one(b, 3, 3);
    dispatch(b, id, P1, D1);
    drain(b);
    cr_assert_eq(b->params.choices, 3);
    gate_link_down(b->g, P1, b->now); /* nothing delivered: no reason to split */
    cr_assert_eq(gate_pending_count(b->g), 1);
    cr_assert_eq(pending_attempt(b), 2);
    cr_assert_eq(gate_counters(b->g)->splits, 0);
    finish(b);
}

Test(gate, a_failure_after_tokens_splits_the_choices) {
    bench *b = start();
    request_id id = open_one(b, 4, 3);
    dispatch(b, id, P1, D1);
    say_plain(b, D1, MESSAGE_ADOPTED, id, 1);
    clear(b);
    request_token t[] = {token_of(0, 0, REQUEST_RUNNING), token_of(0, 1, REQUEST_RUNNING),
                         token_of(1, 0, REQUEST_STOP), token_of(2, 0, REQUEST_RUNNING)};
    message m = plain(MESSAGE_TOKENS, id, 1);
    m.tokens = (message_tokens){.tokens_count = 4, .tokens = t};
    say(b, D1, m);
    say_plain(b, D1, MESSAGE_PREEMPTED, id, 1);
    cr_assert_eq(sent_count(b, D1, MESSAGE_CANCEL), 1);
    cr_assert_eq(gate_pending_count(b->g), 2); /* choice 1 has ended */
    uint64_t cursor = 0;
    gate_pending w;
    request_id runs[2];
    for (int i = 0; i < 2; i++) {
        cr_assert(gate_pending_next(b->g, &cursor, b->now, &w));
        cr_assert_eq(w.request, id);
        cr_assert_neq(w.run, id);
        cr_assert_eq(w.params->choices, 1);
        cr_assert_eq(w.params->choice_first, 2 * i);
        cr_assert_eq(w.delivered, 2 - i);
        runs[i] = w.run;
        dispatch(b, w.run, P1, i ? D2 : D1);
        drain(b);
        cr_assert_eq(b->submitted[PROMPT_COUNT], 1000 * (2 * i + 1));
    }
    cr_assert_neq(runs[0], runs[1]);
    say_token(b, D1, id, 1, 0, 2, REQUEST_RUNNING); /* late, of the old record */
    say_token(b, D1, runs[0], 1, 0, 2, REQUEST_RUNNING);
    say_token(b, D1, runs[0], 1, 0, 3, REQUEST_LENGTH);
    cr_assert_eq(count_of(b, GATE_DONE), 0);
    for (int i = 1; i < 4; i++) {
        say_token(b, D2, runs[1], 1, 2, i, i == 3 ? REQUEST_LENGTH : REQUEST_RUNNING);
    }
    tokens_are(b, id, 0, 0, 3);
    tokens_are(b, id, 1, 0, 0);
    tokens_are(b, id, 2, 0, 3);
    cr_assert_eq(count_of(b, GATE_DONE), 1);
    cr_assert_eq(b->log[b->count - 1].request, id);
    cr_assert_eq(gate_count(b->g), 0);
    finish(b);
}

/* ---- budgets and deadlines ------------------------------------------------------------------ */

static void refuse(bench *b, request_id id, uint32_t attempt, message_reason reason) {
    message m = plain(MESSAGE_REFUSED, id, attempt);
    m.reason = reason;
    say(b, D1, m);
}

static const gate_action *last_failure(const bench *b) {
    for (int i = b->count - 1; i >= 0; i--) {
        if (b->log[i].type == GATE_FAILED) {
            return &b->log[i];
        }
    }
    return NULL;
}

Test(gate, refusals_spend_the_retry_budget_and_then_fail) {
    gate_options o = options_default();
    o.retry_burst = 2;
    o.attempts_max = 100;
    bench *b = start_with(o);
    request_id id = open_one(b, 4, 1);
    for (uint32_t attempt = 1; attempt <= 2; attempt++) {
        dispatch(b, id, P1, D1);
        refuse(b, id, attempt, MESSAGE_REASON_FULL);
        b->now += 2000000; /* past any back-off */
        cr_assert_eq(pending_attempt(b), attempt + 1);
    }
    dispatch(b, id, P1, D1);
    clear(b);
    refuse(b, id, 3, MESSAGE_REASON_FULL);
    const gate_action *f = last_failure(b);
    cr_assert(f != NULL);
    cr_assert_eq(f->failure, GATE_FAILED_OVERLOADED);
    cr_assert_eq(f->request, id);
    cr_assert_eq(sent_count(b, P1, MESSAGE_CANCEL), 1);
    cr_assert_eq(gate_count(b->g), 0);
    finish(b);
}

Test(gate, ten_requests_earn_one_retry) {
    gate_options o = options_default();
    o.retry_burst = 1;
    bench *b = start_with(o);
    int retried = 0;
    for (int i = 0; i < 100; i++) {
        request_id id = open_one(b, 4, 1);
        dispatch(b, id, P1, D1);
        refuse(b, id, 1, MESSAGE_REASON_FULL);
        retried += pending_attempt(b) != 0;
        gate_cancel(b->g, id, b->now);
        clear(b);
    }
    cr_assert_eq(retried, 10); /* the burst of one, and what 100 openings earn less its cap */
    finish(b);
}

Test(gate, deaths_drains_and_lost_links_spend_nothing) {
    gate_options o = options_default();
    o.retry_burst = 0;
    o.retry_percent = 0;
    bench *b = start_with(o);
    request_id id = open_one(b, 4, 1);
    dispatch(b, id, P1, D1);
    gate_link_down(b->g, P1, b->now);
    cr_assert_eq(pending_attempt(b), 2);
    dispatch(b, id, P2, D1);
    refuse(b, id, 2, MESSAGE_REASON_DRAINING);
    b->now += 2000000;
    cr_assert_eq(pending_attempt(b), 3);
    dispatch(b, id, P2, D2);
    message m = plain(MESSAGE_LINK_LOST, id, 3);
    m.worker = D2;
    say(b, P2, m);
    b->now += 2000000;
    cr_assert_eq(pending_attempt(b), 4);
    cr_assert_eq(gate_counters(b->g)->retries_spent, 0);
    cr_assert_eq(gate_counters(b->g)->retries_free, 3);
    finish(b);
}

Test(gate, what_a_drained_worker_hands_back_spends_nothing) {
    gate_options o = options_default();
    o.retry_burst = 0;
    o.retry_percent = 0;
    bench *b = start_with(o);
    request_id id = open_one(b, 4, 1);
    dispatch(b, id, P1, D1);
    message m = plain(MESSAGE_REJECT, id, 1); /* P, before its first token */
    m.about = MESSAGE_SUBMIT;
    m.reason = MESSAGE_REASON_DRAINING;
    say(b, P1, m);
    b->now += 2000000;
    cr_assert_eq(pending_attempt(b), 2);
    dispatch(b, id, P2, D1);
    say_plain(b, D1, MESSAGE_ADOPTED, id, 2);
    m = plain(MESSAGE_PREEMPTED, id, 2); /* D, without a token */
    m.reason = MESSAGE_REASON_DRAINING;
    say(b, D1, m);
    b->now += 2000000;
    cr_assert_eq(pending_attempt(b), 3);
    cr_assert_eq(gate_counters(b->g)->retries_spent, 0);
    cr_assert_eq(gate_counters(b->g)->retries_free, 2);
    cr_assert_null(last_failure(b));
    finish(b);
}

Test(gate, preemption_after_progress_is_no_failure) {
    gate_options o = options_default();
    o.retry_burst = 0;
    o.retry_percent = 0;
    o.attempts_max = 2;
    bench *b = start_with(o);
    request_id id = open_one(b, 20, 1);
    for (int i = 0; i < 19; i++) {
        dispatch(b, id, P1, D1);
        say_plain(b, D1, MESSAGE_ADOPTED, id, (uint32_t)i + 1);
        say_token(b, D1, id, (uint32_t)i + 1, 0, i, REQUEST_RUNNING);
        say_plain(b, D1, MESSAGE_PREEMPTED, id, (uint32_t)i + 1);
        cr_assert_eq(pending_attempt(b), (uint32_t)i + 2);
    }
    dispatch(b, id, P1, D1);
    clear(b);
    say_plain(b, D1, MESSAGE_PREEMPTED, id, 20); /* nothing came: this one spends, and fails */
    cr_assert(last_failure(b) != NULL);
    finish(b);
}

Test(gate, a_request_that_kills_every_worker_is_given_up) {
    gate_options o = options_default();
    o.attempts_max = 3;
    bench *b = start_with(o);
    request_id id = open_one(b, 4, 1);
    for (int i = 0; i < 3; i++) {
        dispatch(b, id, P1, D1);
        clear(b);
        gate_link_down(b->g, P1, b->now);
        gate_link_up(b->g, P1, 20 + (uint64_t)i, b->now);
        drain(b);
        b->now += 2000000;
        cr_assert_eq(pending_attempt(b), i < 2 ? (uint32_t)i + 2 : 0);
    }
    cr_assert_eq(last_failure(b)->failure, GATE_FAILED_ATTEMPTS);
    cr_assert_eq(sent_count(b, D1, MESSAGE_CANCEL), 1);
    finish(b);
}

Test(gate, repeated_failures_wait_longer_each_time) {
    bench *b = start();
    request_id id = open_one(b, 4, 1);
    for (uint32_t attempt = 1; attempt <= 4; attempt++) {
        dispatch(b, id, P1, D1);
        refuse(b, id, attempt, MESSAGE_REASON_DRAINING);
        cr_assert_eq(gate_pending_count(b->g), 1);
        bool at_once = pending_attempt(b) != 0;
        cr_assert_eq(at_once, attempt == 1);
        b->now += 10000 << attempt;
        cr_assert_eq(pending_attempt(b), attempt + 1);
    }
    finish(b);
}

Test(gate, what_finds_no_pair_fails_at_the_deadline) {
    bench *b = start();
    request_id id = open_one(b, 4, 1);
    b->now += DEADLINE_US - 1;
    gate_tick(b->g, b->now);
    drain(b);
    cr_assert_null(last_failure(b));
    b->now += 1;
    gate_tick(b->g, b->now);
    drain(b);
    cr_assert_eq(last_failure(b)->failure, GATE_FAILED_UNAVAILABLE);
    cr_assert_eq(last_failure(b)->request, id);
    cr_assert_eq(gate_count(b->g), 0);
    finish(b);
}

Test(gate, going_on_in_another_numerics_class_is_counted) {
    bench *b = start();
    gate_numerics(b->g, 7);
    request_id early = open_one(b, 8, 1);
    request_id late = open_one(b, 8, 1);
    dispatch(b, early, P1, D1);
    dispatch(b, late, P1, D1);
    say_token(b, P1, early, 1, 0, 0, REQUEST_RUNNING);
    say_plain(b, D1, MESSAGE_LINK_LOST, early, 1);
    dispatch(b, early, P1, D2);
    cr_assert_eq(gate_counters(b->g)->class_changes, 0, "the same class");
    say_plain(b, D2, MESSAGE_LINK_LOST, early, 2);
    say_plain(b, D1, MESSAGE_LINK_LOST, late, 1);
    gate_numerics(b->g, 8);
    dispatch(b, late, P1, D1);
    cr_assert_eq(gate_counters(b->g)->class_changes, 0, "nothing was delivered: it starts afresh");
    dispatch(b, early, P1, D1);
    cr_assert_eq(gate_counters(b->g)->class_changes, 1);
    finish(b);
}
