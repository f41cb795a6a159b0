/* prefill_test.c -- the prefill worker's column of the protocol table, cell by cell, and the rules
 * (R1 to R12) that concern it. */
#include "engine/core/prefill.h"

#include <criterion/criterion.h>
#include <string.h>

#include "engine/base/rng.h"
#include "tests/support/corenet.h"

enum { P = 0, D = 1, D2 = 2, TOKENS = 40, REQUEST = 9, A = 5 };

static int32_t prompt[512];

static corenet *open_net(corenet_options o) {
    o.workers = 3;
    o.roles[P] = MESSAGE_ROLE_PREFILL;
    o.roles[D] = o.roles[D2] = MESSAGE_ROLE_DECODE;
    for (int i = 0; i < 512; i++) {
        prompt[i] = (int32_t)(rng_at(1, 2, (uint64_t)i) % 50000);
    }
    return corenet_open(&o);
}

static record *find(corenet *n) {
    return record_find(&corenet_core(n, P)->records, RECORD_PREFILL, REQUEST);
}

static void submit(corenet *n, uint32_t attempt, uint32_t d) {
    request_params params = corenet_params(8);
    corenet_submit(n, P, REQUEST, attempt, d, prompt, TOKENS, TOKENS, &params);
}

static void tell(corenet *n, uint32_t from, message_type type, uint32_t attempt) {
    message m = {.type = type, .request = REQUEST, .attempt = attempt};
    if (type == MESSAGE_GRANT) {
        m.pages = 4;
    }
    corenet_say(n, P, from, &m);
}

/* ---- the table ------------------------------------------------------------------------------ */

typedef enum { NONE, TOMB, WORK, DONE, GRANTED, HANDED, STATES } state;

static const char *const state_names[] = {"none", "tomb", "work", "done", "granted", "handed"};

static corenet *build(state s) {
    corenet *n = open_net(corenet_defaults());
    if (s == TOMB) {
        corenet_cancel(n, P, REQUEST, A);
    }
    if (s >= WORK) {
        submit(n, A, D);
    }
    if (s == GRANTED) {
        /* One chunk of two is computed, so there are announcements, and more to come. */
        cr_assert(corenet_step(n, P));
        tell(n, CORENET_FIRST + D, MESSAGE_GRANT, A);
    }
    if (s == DONE || s == HANDED) {
        while (corenet_step(n, P)) {
        }
    }
    if (s == HANDED) {
        tell(n, CORENET_FIRST + D, MESSAGE_GRANT, A);
    }
    const record *r = find(n);
    cr_assert_eq(r != NULL, s >= WORK);
    cr_assert(!r || (r->granted == (s >= GRANTED) && r->handed == (s == HANDED)));
    cr_assert(!r || r->sampled == (s == DONE || s == HANDED));
    corenet_forget(n);
    return n;
}

typedef struct {
    bool live, granted, closed;
    uint32_t attempt, parked_attempt;
    uint64_t rejects;
    uint32_t flying;
} view;

static view look(corenet *n, uint32_t from) {
    const record *r = find(n);
    const core *c = corenet_core(n, P);
    const marks_entry *parked = marks_get(&c->parked, REQUEST);
    return (view){.live = r != NULL,
                  .granted = r && r->granted,
                  .closed = corenet_asked_close(n, P, from),
                  .attempt = r ? r->attempt : 0,
                  .parked_attempt = parked ? parked->attempt : 0,
                  .rejects = c->stats.rejects,
                  .flying = corenet_flying(n, P, D) + corenet_flying(n, P, D2)};
}

/* What happened, in the words of the table. */
static const char *outcome(const view *before, const view *after) {
    if (after->closed) {
        return "close";
    }
    if (after->attempt != before->attempt && after->live) {
        return before->live ? "rebind" : "work";
    }
    if (before->live && !after->live) {
        return "leave";
    }
    if (after->flying != before->flying) {
        return "send";
    }
    if (before->granted && !after->granted) {
        return "lose";
    }
    if (after->rejects != before->rejects) {
        return "reject";
    }
    if (after->granted && !before->granted) {
        return "grant";
    }
    return after->parked_attempt != before->parked_attempt ? "park" : "-";
}

enum { G = CORENET_GATEWAY, G2 = CORENET_OTHER_GATEWAY, FD = CORENET_FIRST + D, FD2 = FD + 1 };

typedef struct {
    message_type type;
    uint32_t from;
    int attempt; /* less than, equal to, greater than A: -1, 0, 1 */
    const char *cells[STATES];
} row;

static const row rows[] = {
    /*                              none     tomb      work      done      granted   handed */
    {MESSAGE_SUBMIT, G, -1, {"work", "reject", "close", "close", "close", "close"}},
    {MESSAGE_SUBMIT, G, 0, {"work", "reject", "close", "close", "close", "close"}},
    {MESSAGE_SUBMIT, G, 1, {"work", "work", "rebind", "rebind", "rebind", "rebind"}},
    {MESSAGE_SUBMIT, G2, 1, {"work", "work", "close", "close", "close", "close"}},
    {MESSAGE_SUBMIT, FD, 1, {"close", "close", "close", "close", "close", "close"}},
    {MESSAGE_GRANT, FD, -1, {"park", "-", "-", "-", "-", "-"}},
    {MESSAGE_GRANT, FD, 0, {"park", "-", "grant", "grant", "reject", "reject"}},
    {MESSAGE_GRANT, FD, 1, {"park", "park", "park", "park", "park", "park"}},
    {MESSAGE_GRANT, FD2, -1, {"park", "-", "-", "-", "-", "-"}},
    {MESSAGE_GRANT, FD2, 0, {"park", "-", "-", "-", "-", "-"}},
    {MESSAGE_GRANT, FD2, 1, {"park", "park", "park", "park", "park", "park"}},
    {MESSAGE_GRANT, G, 0, {"close", "close", "close", "close", "close", "close"}},
    {MESSAGE_QUEUED, FD, -1, {"-", "-", "-", "-", "-", "-"}},
    {MESSAGE_QUEUED, FD, 0, {"-", "-", "-", "-", "reject", "reject"}},
    {MESSAGE_QUEUED, FD, 1, {"-", "-", "-", "-", "-", "-"}},
    {MESSAGE_QUEUED, FD2, 0, {"-", "-", "-", "-", "-", "-"}},
    {MESSAGE_QUEUED, G, 0, {"close", "close", "close", "close", "close", "close"}},
    {MESSAGE_REFUSED, FD, -1, {"-", "-", "-", "-", "-", "-"}},
    {MESSAGE_REFUSED, FD, 0, {"-", "-", "-", "-", "lose", "lose"}},
    {MESSAGE_REFUSED, FD, 1, {"-", "-", "-", "-", "-", "-"}},
    {MESSAGE_REFUSED, FD2, 0, {"-", "-", "-", "-", "-", "-"}},
    {MESSAGE_REFUSED, G, 0, {"close", "close", "close", "close", "close", "close"}},
    /* Of the first announced group. Where nothing was announced, none can be posted. */
    {MESSAGE_POSTED, FD, -1, {"close", "close", "close", "close", "close", "close"}},
    {MESSAGE_POSTED, FD, 0, {"close", "close", "close", "close", "send", "send"}},
    {MESSAGE_POSTED, FD, 1, {"close", "close", "close", "close", "close", "close"}},
    {MESSAGE_POSTED, FD2, 0, {"close", "close", "close", "close", "close", "close"}},
    {MESSAGE_POSTED, G, 0, {"close", "close", "close", "close", "close", "close"}},
    /* About that announcement. */
    {MESSAGE_REJECT, FD, -1, {"-", "-", "-", "-", "-", "-"}},
    {MESSAGE_REJECT, FD, 0, {"-", "-", "-", "-", "lose", "lose"}},
    {MESSAGE_REJECT, FD, 1, {"-", "-", "-", "-", "-", "-"}},
    {MESSAGE_REJECT, FD2, 0, {"-", "-", "-", "-", "-", "-"}},
    {MESSAGE_REJECT, G, 0, {"-", "-", "-", "-", "-", "-"}},
    {MESSAGE_ADOPTED, FD, -1, {"-", "-", "-", "-", "-", "-"}},
    {MESSAGE_ADOPTED, FD, 0, {"-", "-", "-", "-", "leave", "leave"}},
    {MESSAGE_ADOPTED, FD, 1, {"-", "-", "-", "-", "-", "-"}},
    {MESSAGE_ADOPTED, FD2, 0, {"-", "-", "-", "-", "-", "-"}},
    {MESSAGE_ADOPTED, G, 0, {"close", "close", "close", "close", "close", "close"}},
    {MESSAGE_CANCEL, G, -1, {"-", "-", "-", "-", "-", "-"}},
    {MESSAGE_CANCEL, G, 0, {"-", "-", "leave", "leave", "leave", "leave"}},
    {MESSAGE_CANCEL, G, 1, {"-", "-", "leave", "leave", "leave", "leave"}},
    {MESSAGE_CANCEL, G2, 0, {"-", "-", "-", "-", "-", "-"}},
    {MESSAGE_CANCEL, FD, 0, {"close", "close", "close", "close", "close", "close"}},
};

static message make_message(const row *r) {
    static request_params params;
    params = corenet_params(8);
    message m = {.type = r->type, .request = REQUEST, .attempt = (uint32_t)(A + r->attempt)};
    switch (r->type) {
        case MESSAGE_SUBMIT:
            m.submit = (message_submit){.peer_worker = D,
                                        .peer_epoch = 1,
                                        .prompt_count = TOKENS,
                                        .tokens_count = TOKENS,
                                        .tokens = prompt,
                                        .params = &params};
            break;
        case MESSAGE_REJECT:
            m.about = MESSAGE_ANNOUNCE;
            m.announce = (message_announce){.layers = 1, .pages = 1};
            break;
        case MESSAGE_GRANT:
            m.pages = 4;
            break;
        default:
            break;
    }
    return m;
}

Test(prefill, does_in_every_state_what_the_table_says) {
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        for (state s = NONE; s < STATES; s++) {
            corenet *n = build(s);
            message m = make_message(&rows[i]);
            view before = look(n, rows[i].from);
            corenet_say(n, P, rows[i].from, &m);
            view after = look(n, rows[i].from);
            cr_assert_str_eq(outcome(&before, &after), rows[i].cells[s],
                             "%s from slot %u, attempt %+d, in %s: %s, not %s",
                             message_type_name(m.type), rows[i].from, rows[i].attempt,
                             state_names[s], outcome(&before, &after), rows[i].cells[s]);
            corenet_close(n);
        }
    }
}

Test(prefill, closes_the_link_on_every_message_that_is_not_for_it) {
    static const message_type types[] = {
        MESSAGE_RESERVE,   MESSAGE_HANDOFF,         MESSAGE_ANNOUNCE,  MESSAGE_TOKENS,
        MESSAGE_PREEMPTED, MESSAGE_ALREADY_ADOPTED, MESSAGE_LINK_LOST, MESSAGE_SCORES};
    for (size_t i = 0; i < sizeof types / sizeof *types; i++) {
        for (state s = NONE; s < STATES; s++) {
            for (uint32_t from = G; from <= FD; from += FD) {
                corenet *n = build(s);
                request_params params = corenet_params(8);
                message m = {.type = types[i], .request = REQUEST, .attempt = A};
                if (types[i] == MESSAGE_ANNOUNCE) {
                    m.announce = (message_announce){.layers = 1, .pages = 1};
                }
                if (types[i] == MESSAGE_RESERVE) {
                    m.submit = (message_submit){
                        .prompt_count = 1, .tokens_count = 1, .tokens = prompt, .params = &params};
                }
                corenet_say(n, P, from, &m);
                cr_assert(corenet_asked_close(n, P, from), "%s in %s", message_type_name(m.type),
                          state_names[s]);
                if (from == G) {
                    cr_assert_eq(corenet_last(n, P, MESSAGE_REJECT)->m.about, types[i]);
                }
                corenet_close(n);
            }
        }
    }
}

Test(prefill, end_of_its_gateways_link_frees_all_and_tells_nobody) {
    for (state s = NONE; s < STATES; s++) {
        corenet *n = build(s);
        corenet_gateway_cut(n, P, G2);
        cr_assert_eq(find(n) != NULL, s >= WORK, "another gateway's end is nothing to it");
        corenet_gateway_cut(n, P, G);
        cr_assert_null(find(n));
        cr_assert_eq(corenet_notes(n), 0);
        cr_assert_eq(corenet_stats(n, P).pages_owned, 0);
        corenet_close(n);
    }
}

Test(prefill, end_of_the_link_to_its_decode_worker_loses_the_grant_and_keeps_the_pages) {
    for (state s = NONE; s < STATES; s++) {
        corenet *n = build(s);
        uint32_t pages = corenet_stats(n, P).pages_owned;
        corenet_cut(n, P, D2);
        cr_assert_eq(corenet_notes(n), 0);
        corenet_cut(n, P, D);
        cr_assert_eq(corenet_count(n, P, MESSAGE_LINK_LOST), s >= WORK ? 1 : 0);
        cr_assert_eq(corenet_stats(n, P).pages_owned, pages);
        if (s >= WORK) {
            cr_assert_eq(corenet_at(n, 0)->m.worker, D);
            cr_assert_not(find(n)->granted);
        }
        corenet_close(n);
    }
}

Test(prefill, end_of_a_lease_frees_all_and_tells_the_gateway) { /* R9 */
    for (state s = NONE; s < STATES; s++) {
        corenet *n = build(s);
        corenet_pass(n, 29000000);
        message_lease list[] = {{REQUEST, A - 1}, {REQUEST, A + 1}, {REQUEST + 1, A}};
        message m = {.type = MESSAGE_LEASES, .leases = {list, 3}};
        corenet_say(n, P, G, &m); /* renews neither this attempt ... */
        list[0].attempt = A;
        corenet_say(n, P, G2, &m); /* ... nor for another gateway */
        corenet_pass(n, 2000000);
        corenet_tick(n, P);
        cr_assert_null(find(n));
        const corenet_note *told = corenet_last(n, P, MESSAGE_REJECT);
        cr_assert_eq(told != NULL, s >= WORK);
        cr_assert(!told || (told->m.reason == MESSAGE_REASON_LEASE && told->m.attempt == A));
        cr_assert_eq(corenet_stats(n, P).pages_owned, 0);
        corenet_close(n);
    }
}

Test(prefill, lease_is_renewed_by_request_and_attempt) {
    corenet *n = build(GRANTED);
    for (int i = 0; i < 5; i++) {
        message_lease list[] = {{REQUEST, A}};
        message m = {.type = MESSAGE_LEASES, .leases = {list, 1}};
        corenet_pass(n, 20000000);
        corenet_say(n, P, G, &m);
        corenet_tick(n, P);
        cr_assert_not_null(find(n));
    }
    corenet_close(n);
}

/* ---- rules ---------------------------------------------------------------------------------- */

Test(prefill, r1_park_grant_that_overtakes_its_submit_is_kept_for_it) {
    corenet *n = open_net(corenet_defaults());
    tell(n, FD, MESSAGE_GRANT, A);
    submit(n, A, D);
    cr_assert(find(n)->granted);
    corenet_close(n);
}

Test(prefill, r1_park_grant_of_another_worker_or_attempt_is_not_taken) {
    for (int i = 0; i < 3; i++) {
        corenet *n = open_net(corenet_defaults());
        tell(n, i == 0 ? FD2 : FD, MESSAGE_GRANT, i == 1 ? A - 1 : A);
        if (i == 2) {
            corenet_cut(n, P, D);
            corenet_join(n, P, D);
        }
        submit(n, A, D);
        cr_assert_not(find(n)->granted);
        cr_assert_eq(corenet_stats(n, P).parked_grants, 0);
        corenet_close(n);
    }
}

Test(prefill, r1_park_grant_is_kept_for_one_lease) {
    corenet *n = open_net(corenet_defaults());
    tell(n, FD, MESSAGE_GRANT, A);
    corenet_pass(n, 31000000);
    corenet_tick(n, P);
    cr_assert_eq(corenet_stats(n, P).parked_grants, 0);
    corenet_close(n);
}

Test(prefill, r4_bump_takes_adopted_only_from_the_decode_worker_of_its_attempt) {
    corenet *n = build(HANDED);
    submit(n, A + 1, D2); /* D froze, was fenced; it wakes up and adopts the old attempt */
    tell(n, FD, MESSAGE_ADOPTED, A);
    cr_assert_not_null(find(n));
    tell(n, FD2, MESSAGE_GRANT, A + 1);
    tell(n, FD, MESSAGE_ADOPTED, A + 1);
    cr_assert_not_null(find(n));
    tell(n, FD2, MESSAGE_ADOPTED, A + 1);
    cr_assert_null(find(n));
    corenet_close(n);
}

Test(prefill, r5_junk_answers_every_posted_with_exactly_one_send) {
    for (int how = 0; how < 3; how++) { /* cancelled, new attempt, grant lost */
        corenet *n = build(GRANTED);
        corenet_step(n, P);
        uint32_t announced = (uint32_t)find(n)->groups;
        cr_assert_gt(announced, 1);
        if (how == 0) {
            corenet_cancel(n, P, REQUEST, A);
        } else if (how == 1) {
            submit(n, A + 1, D2);
        } else {
            tell(n, FD, MESSAGE_REFUSED, A);
        }
        for (uint32_t i = 0; i < announced; i++) {
            message m = {.type = MESSAGE_POSTED, .request = REQUEST, .attempt = A};
            m.posted = (message_posted){i, i};
            corenet_say(n, P, FD, &m);
        }
        cr_assert_eq(corenet_flying(n, P, D), announced);
        cr_assert_eq(corenet_stats(n, P).groups_junk_sent, announced);
        for (uint32_t i = 0; i < announced; i++) {
            corenet_end_send(n, P, FD, i);
        }
        corenet_close(n);
    }
}

Test(prefill, r7_evict_ungranted_pages_go_to_granted_work_even_if_older_and_finished) {
    corenet_options o = corenet_defaults();
    o.core.pages = 4; /* one prompt */
    corenet *n = open_net(o);
    request_params params = corenet_params(8);
    corenet_submit(n, P, 1, 1, D, prompt, 60, 60, &params);
    while (corenet_step(n, P)) {
    }
    message m = {.type = MESSAGE_GRANT, .request = 1, .attempt = 1, .pages = 4};
    corenet_say(n, P, FD, &m);
    /* D takes its grant back; the record waits for the gateway, its pages no longer pinned. */
    m.type = MESSAGE_REFUSED;
    corenet_say(n, P, FD, &m);
    corenet_submit(n, P, 2, 1, D, prompt + 100, 60, 60, &params);
    cr_assert_not(corenet_step(n, P), "a younger one does not evict an older");
    m = (message){.type = MESSAGE_GRANT, .request = 2, .attempt = 1, .pages = 4};
    corenet_say(n, P, FD, &m);
    cr_assert(corenet_step(n, P), "a granted one does");
    cr_assert_eq(corenet_stats(n, P).evictions, 1);
    const record *loser = record_find(&corenet_core(n, P)->records, RECORD_PREFILL, 1);
    cr_assert_eq(loser->computed, 0);
    cr_assert(loser->sampled, "what was sampled is not forgotten");
    corenet_close(n);
}

Test(prefill, granted_work_is_never_evicted) {
    corenet_options o = corenet_defaults();
    o.core.pages = 4;
    corenet *n = open_net(o);
    request_params params = corenet_params(8);
    corenet_submit(n, P, 1, 1, D, prompt, 60, 60, &params);
    corenet_step(n, P);
    message m = {.type = MESSAGE_GRANT, .request = 1, .attempt = 1, .pages = 4};
    corenet_say(n, P, FD, &m);
    corenet_submit(n, P, 2, 1, D, prompt + 100, 60, 60, &params);
    m.request = 2;
    corenet_say(n, P, FD, &m);
    while (corenet_step(n, P)) {
    }
    cr_assert_eq(corenet_stats(n, P).evictions, 0);
    cr_assert(record_find(&corenet_core(n, P)->records, RECORD_PREFILL, 1)->handed);
    corenet_close(n);
}

Test(prefill, older_ungranted_work_evicts_younger) {
    corenet_options o = corenet_defaults();
    o.core.pages = 8;
    corenet *n = open_net(o);
    request_params params = corenet_params(8);
    corenet_submit(n, P, 1, 1, D, prompt, 60, 60, &params);
    corenet_submit(n, P, 2, 1, D, prompt + 100, 60, 60, &params);
    while (corenet_step(n, P)) {
    }
    /* The older one comes back with more tokens than before: it needs new pages. */
    corenet_submit(n, P, 1, 2, D, prompt, 120, 120, &params);
    while (corenet_step(n, P)) {
    }
    cr_assert_eq(corenet_stats(n, P).evictions, 1);
    cr_assert_eq(record_find(&corenet_core(n, P)->records, RECORD_PREFILL, 1)->computed, 120);
    corenet_close(n);
}

Test(prefill, retarget_keeps_the_pages_and_repeats_the_first_token) {
    corenet *n = build(DONE);
    uint64_t computed = corenet_stats(n, P).prompt_tokens_computed;
    submit(n, A + 1, D2);
    cr_assert_eq(corenet_count(n, P, MESSAGE_TOKENS), 1);
    cr_assert_eq(corenet_at(n, 0)->m.attempt, A + 1);
    cr_assert_not(corenet_step(n, P), "nothing is left to compute");
    tell(n, FD2, MESSAGE_GRANT, A + 1);
    cr_assert(find(n)->handed);
    cr_assert_eq(corenet_stats(n, P).prompt_tokens_computed, computed);
    corenet_close(n);
}

Test(prefill, retarget_with_the_first_token_delivered_computes_only_the_end) {
    corenet *n = build(DONE);
    request_params params = corenet_params(8);
    request_token first = find(n)->first[0];
    uint64_t computed = corenet_stats(n, P).prompt_tokens_computed;
    prompt[TOKENS] = first.token;
    corenet_submit(n, P, REQUEST, A + 1, D2, prompt, TOKENS, TOKENS + 1, &params);
    while (corenet_step(n, P)) {
    }
    cr_assert_eq(corenet_stats(n, P).prompt_tokens_computed - computed, TOKENS + 1 - 32);
    request_token heard[8], right[8];
    bool done;
    cr_assert_eq(corenet_heard(n, REQUEST, A + 1, 0, heard, 8, &done), 2);
    corenet_expect(n, prompt, TOKENS, &params, 0, right, 8);
    cr_assert_eq(heard[1].token, right[1].token);
    corenet_close(n);
}

Test(prefill, r10_rtfull_retarget_to_a_worker_that_let_go_is_a_whole_submit) {
    corenet *n = build(HANDED);
    tell(n, FD, MESSAGE_ADOPTED, A);
    cr_assert_null(find(n));
    submit(n, A + 1, D2);
    while (corenet_step(n, P)) {
    }
    cr_assert(find(n)->sampled);
    corenet_close(n);
}

Test(prefill, r12_pquar_source_pages_wait_for_the_end_of_the_send) {
    corenet *n = build(HANDED);
    uint32_t owned = corenet_stats(n, P).pages_owned;
    message m = {.type = MESSAGE_POSTED, .request = REQUEST, .attempt = A};
    corenet_say(n, P, FD, &m);
    corenet_pass(n, 31000000);
    corenet_tick(n, P);
    core_stats s = corenet_stats(n, P);
    cr_assert_null(find(n));
    cr_assert_eq(s.pages_owned, 0);
    cr_assert_eq(s.pages_quarantined, 2, "the group's pages of %u", owned);
    corenet_end_send(n, P, FD, 0);
    cr_assert_eq(corenet_stats(n, P).pages_quarantined, 0);
    corenet_close(n);
}

Test(prefill, r12_count_two_sends_of_one_page_are_counted_not_flagged) {
    corenet *n = build(HANDED);
    message m = {.type = MESSAGE_POSTED, .request = REQUEST, .attempt = A};
    corenet_say(n, P, FD, &m);
    uint32_t page = find(n)->seqs[0].pages[0];
    submit(n, A + 1, D);
    tell(n, FD, MESSAGE_GRANT, A + 1);
    const record *r = find(n);
    cr_assert_eq(r->seqs[0].pages[0], page, "the pages are kept");
    /* The first announcement of the new attempt covers the same page. */
    uint32_t sequence = 0;
    while (links_send_find(&corenet_core(n, P)->links.list[FD], sequence)->attempt != A + 1) {
        sequence++;
    }
    m.attempt = A + 1;
    m.posted = (message_posted){sequence, 0};
    corenet_say(n, P, FD, &m);
    cr_assert_eq(blocks_pins(corenet_core(n, P)->blocks, page), 2);
    corenet_close(n);
}

Test(prefill, r11_tear_channel_of_a_send_that_never_ends_is_torn_down) {
    corenet *n = build(HANDED);
    message m = {.type = MESSAGE_POSTED, .request = REQUEST, .attempt = A};
    corenet_say(n, P, FD, &m);
    corenet_cancel(n, P, REQUEST, A);
    corenet_tick(n, P);
    cr_assert_not(corenet_asked_close(n, P, FD));
    corenet_pass(n, 6000000);
    corenet_tick(n, P);
    cr_assert(corenet_asked_close(n, P, FD));
    cr_assert_eq(corenet_stats(n, P).pages_quarantined, 2);
    corenet_cut(n, P, D);
    cr_assert_eq(corenet_stats(n, P).pages_quarantined, 0);
    corenet_close(n);
}

Test(prefill, quiet_worker_link_is_torn_down) {
    corenet_options o = corenet_defaults();
    o.core.silence_us = 3000000;
    corenet *n = open_net(o);
    corenet_pass(n, 2000000);
    message m = {.type = MESSAGE_HEARTBEAT};
    corenet_say(n, P, FD, &m);
    corenet_pass(n, 2000000);
    corenet_tick(n, P);
    cr_assert_not(corenet_asked_close(n, P, FD));
    cr_assert(corenet_asked_close(n, P, FD2));
    cr_assert_not(corenet_asked_close(n, P, G), "gateways have leases instead");
    corenet_close(n);
}

Test(prefill, submit_for_a_worker_without_a_link_is_worked_on_and_told) {
    corenet *n = open_net(corenet_defaults());
    corenet_cut(n, P, D);
    submit(n, A, D);
    cr_assert_eq(corenet_last(n, P, MESSAGE_LINK_LOST)->m.worker, D);
    cr_assert(corenet_step(n, P));
    corenet_close(n);
}

Test(prefill, refuses_by_reason_what_it_cannot_do) {
    corenet_options o = corenet_defaults();
    o.core.pages = 10;
    o.core.seqs_max = 1;
    o.core.queue_max = 1;
    const struct {
        int32_t prompt_count, count, max_tokens, choices;
        uint32_t peer;
        message_reason reason;
    } cases[] = {
        {10, 10, 5, 1, MESSAGE_NO_WORKER, MESSAGE_REASON_STATE}, /* nobody would decode */
        {10, 12, 2, 1, D, MESSAGE_REASON_STATE},                 /* nothing is left to do */
        {10, 12, 9, 2, D, MESSAGE_REASON_STATE},                 /* which choice was delivered? */
        {10, 10, 0, 9, D, MESSAGE_REASON_STATE},
        {0, 0, 1, 1, D, MESSAGE_REASON_STATE},
        {512, 512, 1, 1, D, MESSAGE_REASON_LIMIT}, /* no room for a token */
        {161, 161, 1, 1, D, MESSAGE_REASON_LIMIT}, /* more pages than there are */
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        corenet *n = open_net(o);
        request_params params = corenet_params(cases[i].max_tokens);
        params.choices = cases[i].choices;
        corenet_submit(n, P, 1, 1, cases[i].peer, prompt, cases[i].prompt_count, cases[i].count,
                       &params);
        const corenet_note *told = corenet_last(n, P, MESSAGE_REJECT);
        cr_assert(told && told->m.reason == cases[i].reason, "case %zu", i);
        corenet_close(n);
    }
    corenet *n = open_net(o);
    request_params params = corenet_params(5);
    for (request_id id = 1; id <= 4; id++) {
        corenet_submit(n, P, id, 1, D, prompt, 20, 20, &params);
    }
    cr_assert_eq(corenet_count(n, P, MESSAGE_REJECT), 1);
    cr_assert_eq(corenet_at(n, 0)->m.reason, MESSAGE_REASON_FULL);
    core_drain(corenet_core(n, P));
    corenet_submit(n, P, 5, 1, D, prompt, 20, 20, &params);
    cr_assert_eq(corenet_last(n, P, MESSAGE_REJECT)->m.reason, MESSAGE_REASON_DRAINING);
    corenet_submit(n, P, 1, 2, D2, prompt, 20, 20, &params);
    cr_assert_eq(corenet_count(n, P, MESSAGE_REJECT), 2, "what it has, it goes on with");
    corenet_close(n);
}

/* They would else wait for each other for ever: it has D's room, which they wait for, and they have
 * the records here, which it waits for. */
Test(prefill, request_that_goes_on_takes_the_record_of_the_youngest_new_one) {
    corenet_options o = corenet_defaults();
    o.core.seqs_max = 2;
    o.core.queue_max = 1;
    corenet *n = open_net(o);
    request_params params = corenet_params(5);
    for (request_id id = 1; id <= 4; id++) {
        corenet_submit(n, P, id, 1, D, prompt, 20, 20, &params);
    }
    corenet_submit(n, P, 5, 2, D, prompt, 20, 21, &params);
    cr_assert_eq(corenet_count(n, P, MESSAGE_REJECT), 1);
    const message *told = &corenet_last(n, P, MESSAGE_REJECT)->m;
    cr_assert(told->request == 4 && told->attempt == 1 && told->about == MESSAGE_SUBMIT);
    cr_assert_eq(told->reason, MESSAGE_REASON_FULL);
    cr_assert(record_find(&corenet_core(n, P)->records, RECORD_PREFILL, 5));
    core_validate(corenet_core(n, P));
    corenet_close(n);
}

/* The table's row of the end of a drain. */
Test(prefill, hand_back_gives_every_request_to_the_gateway_and_takes_no_more) {
    for (state s = NONE; s < STATES; s++) {
        corenet *n = build(s);
        corenet_hand_back(n, P);
        cr_assert_eq(corenet_count(n, P, MESSAGE_REJECT), s >= WORK, "%s", state_names[s]);
        cr_assert_eq(corenet_stats(n, P).handed_back, s >= WORK);
        if (s >= WORK) {
            const message *told = &corenet_last(n, P, MESSAGE_REJECT)->m;
            cr_assert(told->request == REQUEST && told->attempt == A);
            cr_assert(told->about == MESSAGE_SUBMIT && told->reason == MESSAGE_REASON_DRAINING);
        }
        cr_assert_null(find(n));
        cr_assert(core_idle(corenet_core(n, P)), "%s", state_names[s]);
        submit(n, A + 1, D);
        cr_assert_eq(corenet_last(n, P, MESSAGE_REJECT)->m.reason, MESSAGE_REASON_DRAINING);
        cr_assert_null(find(n));
        core_validate(corenet_core(n, P));
        corenet_close(n);
    }
}

Test(prefill, hand_back_in_a_step_keeps_the_pages_until_it_ends) {
    corenet *n = build(WORK);
    cr_assert(corenet_begin(n, P));
    corenet_hand_back(n, P);
    cr_assert_eq(corenet_stats(n, P).pages_owned, 0);
    cr_assert_gt(corenet_stats(n, P).pages_quarantined, 0);
    cr_assert_not(core_idle(corenet_core(n, P)));
    corenet_layers(n, P, CORENET_LAYERS);
    corenet_finish(n, P);
    cr_assert(core_idle(corenet_core(n, P)));
    cr_assert_eq(corenet_count(n, P, MESSAGE_TOKENS), 0, "nobody waits for it here");
    corenet_close(n);
}

Test(prefill, grant_that_comes_after_the_request_left_is_not_kept) {
    for (int how = 0; how < 3; how++) { /* adopted, lease ended, ended with its first token */
        corenet *n = build(how == 0 ? HANDED : WORK);
        if (how == 0) {
            tell(n, FD, MESSAGE_ADOPTED, A);
        } else if (how == 1) {
            corenet_pass(n, 31000000);
            corenet_tick(n, P);
        } else {
            request_params params = corenet_params(1);
            corenet_submit(n, P, REQUEST, A + 1, D, prompt, TOKENS, TOKENS, &params);
            while (corenet_step(n, P)) {
            }
        }
        cr_assert_null(find(n));
        tell(n, FD, MESSAGE_GRANT, A);
        cr_assert_eq(corenet_stats(n, P).parked_grants, 0);
        tell(n, FD, MESSAGE_GRANT, A + 2);
        cr_assert_eq(corenet_stats(n, P).parked_grants, 1, "but that of a new attempt is");
        corenet_pass(n, 31000000);
        corenet_tick(n, P);
        tell(n, FD, MESSAGE_GRANT, A);
        cr_assert_eq(corenet_stats(n, P).parked_grants, 1, "a tombstone lives one lease");
        corenet_close(n);
    }
}
