/* decode_test.c -- the decode worker's column of the protocol table, cell by cell, and the rules
 * (R2 to R13) that concern it. */
#include "engine/core/decode.h"

#include <criterion/criterion.h>
#include <string.h>

#include "engine/base/rng.h"
#include "tests/support/corenet.h"

/* P and P2 are prefill workers whose part the test plays itself; only D's engine matters. */
enum { D = 0, P = 1, P2 = 2, TOKENS = 40, REQUEST = 9, A = 5, BLOCKER = 77 };
enum { G = CORENET_GATEWAY, G2 = CORENET_OTHER_GATEWAY, FP = CORENET_FIRST + P, FP2 = FP + 1 };

static int32_t prompt[512];

static corenet *open_net(corenet_options o) {
    o.workers = 3;
    o.core.group_cells_max = 16;
    o.roles[D] = MESSAGE_ROLE_DECODE;
    o.roles[P] = o.roles[P2] = MESSAGE_ROLE_PREFILL;
    for (int i = 0; i < 512; i++) {
        prompt[i] = (int32_t)(rng_at(1, 2, (uint64_t)i) % 50000);
    }
    return corenet_open(&o);
}

static record *find(corenet *n) {
    return record_find(&corenet_core(n, D)->records, RECORD_DECODE, REQUEST);
}

static void reserve(corenet *n, uint32_t attempt, uint32_t p) {
    request_params params = corenet_params(8);
    corenet_reserve(n, D, REQUEST, attempt, p, prompt, TOKENS, TOKENS, &params);
}

/* Announcement number `sequence` of the link: of three pages and all layers, group 0. */
static message announce(uint32_t attempt, uint32_t sequence) {
    message m = {.type = MESSAGE_ANNOUNCE, .request = REQUEST, .attempt = attempt};
    m.announce = (message_announce){.sequence = sequence, .layers = CORENET_LAYERS, .pages = 3};
    return m;
}

static message handoff(uint32_t attempt) {
    static request_token first;
    request_params params = corenet_params(8);
    hashmodel_options o = {.layers = CORENET_LAYERS, .vocab = 50000, .eog = -1};
    first = hashmodel_next(&o, prompt, TOKENS, TOKENS, &params, 0);
    message m = {.type = MESSAGE_HANDOFF, .request = REQUEST, .attempt = attempt};
    m.handoff = (message_handoff){1, 1, &first};
    return m;
}

/* The bytes of the posted receive have come (their content is what the test needs it to be). */
static void land(corenet *n, uint32_t sequence, core_received_result result) {
    corenet_end_receive(n, D, FP, sequence, result);
}

static void say(corenet *n, uint32_t from, message m) {
    corenet_say(n, D, from, &m);
}

/* ---- the table ------------------------------------------------------------------------------ */

typedef enum { NONE, TOMB, QUEUED, RESERVED, POSTED, LANDED, NOTED, DECODING, STATES } state;

static const char *const names[] = {"none",   "tomb",   "queued", "reserved",
                                    "posted", "landed", "noted",  "decoding"};

static corenet *build(state s) {
    corenet_options o = corenet_defaults();
    o.core.seqs_max = 1;
    corenet *n = open_net(o);
    if (s == TOMB) {
        corenet_cancel(n, D, REQUEST, A);
    }
    if (s == QUEUED) {
        request_params params = corenet_params(8);
        corenet_reserve(n, D, BLOCKER, 1, P, prompt, 20, 20, &params);
    }
    if (s >= QUEUED) {
        reserve(n, A, P);
    }
    if (s >= POSTED) {
        say(n, FP, announce(A, 0));
    }
    if (s == LANDED || s == DECODING) {
        land(n, 0, CORE_RECEIVED_OK);
    }
    if (s == NOTED || s == DECODING) {
        say(n, FP, handoff(A));
    }
    const record *r = find(n);
    cr_assert_eq(r != NULL, s >= QUEUED);
    record_state want = s == QUEUED     ? RECORD_QUEUED
                        : s == DECODING ? RECORD_DECODING
                                        : RECORD_RESERVED;
    cr_assert(!r || r->state == want);
    corenet_forget(n);
    return n;
}

typedef struct {
    bool live, closed;
    record_state state;
    uint32_t attempt, receive_next, groups, handoff;
    core_stats stats;
    uint32_t tombstone;
} view;

static view look(corenet *n, uint32_t from) {
    const record *r = find(n);
    const core *c = corenet_core(n, D);
    const marks_entry *tombstone = marks_get(&c->tombstones[RECORD_DECODE], REQUEST);
    return (view){.live = r != NULL,
                  .closed = c->links.list[from].closing,
                  .state = r ? r->state : RECORD_GONE,
                  .attempt = r ? r->attempt : 0,
                  .receive_next = c->links.list[from].receive_next,
                  .groups = r ? r->groups : 0,
                  .handoff = r ? r->handoff_groups : 0,
                  .tombstone = tombstone ? tombstone->attempt : 0,
                  .stats = corenet_stats(n, D)};
}

/* What happened, in the words of the table. */
static const char *outcome(const view *b, const view *a) {
    if (a->closed) {
        return "close";
    }
    if (a->live && a->attempt != b->attempt) {
        return a->stats.replays != b->stats.replays ? "already"
               : a->state == RECORD_QUEUED          ? "queued"
                                                    : "granted";
    }
    if (b->live && !a->live) {
        return a->stats.rejects != b->stats.rejects ? "fail" : "leave";
    }
    if (a->state == RECORD_DECODING && b->state != RECORD_DECODING) {
        return "adopt";
    }
    if (a->stats.rejects != b->stats.rejects) {
        return "reject";
    }
    if (a->groups != b->groups) {
        return "post";
    }
    if (a->handoff != b->handoff) {
        return "note";
    }
    return a->tombstone != b->tombstone ? "tomb" : "-";
}

typedef struct {
    message_type type;
    uint32_t from;
    int attempt; /* less than, equal to, greater than A: -1, 0, 1 */
    const char *cells[STATES];
} row;

#define ALL(x) \
    { x, x, x, x, x, x, x, x }

static const row rows[] = {
    /* none, tomb, queued, reserved, posted, landed, noted, decoding */
    {MESSAGE_RESERVE,
     G,
     -1,
     {"granted", "reject", "close", "close", "close", "close", "close", "close"}},
    {MESSAGE_RESERVE,
     G,
     0,
     {"granted", "reject", "close", "close", "close", "close", "close", "close"}},
    {MESSAGE_RESERVE,
     G,
     1,
     {"granted", "granted", "queued", "granted", "granted", "granted", "granted", "already"}},
    {MESSAGE_RESERVE,
     G2,
     1,
     {"granted", "granted", "close", "close", "close", "close", "close", "close"}},
    {MESSAGE_RESERVE, FP, 1, ALL("close")},
    /* The next announcement of the link, about group 0: a second group 0 where one is posted. */
    {MESSAGE_ANNOUNCE, FP, -1, ALL("reject")},
    {MESSAGE_ANNOUNCE,
     FP,
     0,
     {"reject", "reject", "reject", "post", "fail", "fail", "fail", "reject"}},
    {MESSAGE_ANNOUNCE, FP, 1, ALL("reject")},
    {MESSAGE_ANNOUNCE, FP2, 0, ALL("reject")},
    {MESSAGE_ANNOUNCE, G, 0, ALL("close")},
    {MESSAGE_HANDOFF, FP, -1, ALL("-")},
    {MESSAGE_HANDOFF, FP, 0, {"-", "-", "close", "fail", "note", "adopt", "reject", "reject"}},
    {MESSAGE_HANDOFF, FP, 1, ALL("-")},
    {MESSAGE_HANDOFF, FP2, 0, {"-", "-", "-", "-", "-", "-", "-", "reject"}},
    {MESSAGE_HANDOFF, G, 0, ALL("close")},
    {MESSAGE_CANCEL, G, -1, {"tomb", "-", "-", "-", "-", "-", "-", "-"}},
    {MESSAGE_CANCEL, G, 0, {"tomb", "-", "leave", "leave", "leave", "leave", "leave", "leave"}},
    {MESSAGE_CANCEL, G, 1, {"tomb", "tomb", "leave", "leave", "leave", "leave", "leave", "leave"}},
    {MESSAGE_CANCEL, G2, 0, {"tomb", "-", "-", "-", "-", "-", "-", "-"}},
    {MESSAGE_CANCEL, FP, 0, ALL("close")},
    {MESSAGE_REJECT, FP, 0, ALL("-")},
    {MESSAGE_REJECT, G, 0, ALL("-")},
};

static message make_message(corenet *n, const row *r) {
    static request_params params;
    params = corenet_params(8);
    uint32_t attempt = (uint32_t)(A + r->attempt);
    message m = {.type = r->type, .request = REQUEST, .attempt = attempt};
    if (r->type == MESSAGE_RESERVE) {
        m.submit = (message_submit){.peer_worker = P,
                                    .peer_epoch = 1,
                                    .prompt_count = TOKENS,
                                    .tokens_count = TOKENS,
                                    .tokens = prompt,
                                    .params = &params};
    } else if (r->type == MESSAGE_ANNOUNCE) {
        m = announce(attempt, corenet_core(n, D)->links.list[r->from].receive_next);
    } else if (r->type == MESSAGE_HANDOFF) {
        m = handoff(attempt);
    } else if (r->type == MESSAGE_REJECT) {
        m.about = MESSAGE_POSTED;
    }
    return m;
}

Test(decode, does_in_every_state_what_the_table_says) {
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        for (state s = NONE; s < STATES; s++) {
            corenet *n = build(s);
            message m = make_message(n, &rows[i]);
            view before = look(n, rows[i].from);
            say(n, rows[i].from, m);
            view after = look(n, rows[i].from);
            cr_assert_str_eq(outcome(&before, &after), rows[i].cells[s],
                             "%s from slot %u, attempt %+d, in %s: %s, not %s",
                             message_type_name(m.type), rows[i].from, rows[i].attempt, names[s],
                             outcome(&before, &after), rows[i].cells[s]);
            cr_assert(m.type != MESSAGE_ANNOUNCE || after.closed ||
                          after.receive_next == before.receive_next + 1,
                      "refused or not, the number is used up");
            corenet_close(n);
        }
    }
}

Test(decode, closes_the_link_on_every_message_that_is_not_for_it) {
    static const message_type types[] = {MESSAGE_SUBMIT,  MESSAGE_GRANT,    MESSAGE_QUEUED,
                                         MESSAGE_POSTED,  MESSAGE_ADOPTED,  MESSAGE_TOKENS,
                                         MESSAGE_REFUSED, MESSAGE_LINK_LOST};
    for (size_t i = 0; i < sizeof types / sizeof *types; i++) {
        for (state s = NONE; s < STATES; s++) {
            for (uint32_t from = G; from <= FP; from += FP) {
                corenet *n = build(s);
                message m = {.type = types[i], .request = REQUEST, .attempt = A};
                say(n, from, m);
                cr_assert(look(n, from).closed, "%s in %s", message_type_name(m.type), names[s]);
                corenet_close(n);
            }
        }
    }
}

Test(decode, data_is_checked_and_answered_in_every_state) {
    static const core_received_result results[] = {CORE_RECEIVED_OK, CORE_RECEIVED_JUNK,
                                                   CORE_RECEIVED_DAMAGED};
    static const message_reason reasons[] = {MESSAGE_REASON_NONE, MESSAGE_REASON_GONE,
                                             MESSAGE_REASON_CHECKSUM};
    for (int i = 0; i < 3; i++) {
        for (int gone = 0; gone < 3; gone++) { /* still there, cancelled, superseded */
            corenet *n = build(NOTED);
            if (gone == 1) {
                corenet_cancel(n, D, REQUEST, A);
            } else if (gone == 2) {
                reserve(n, A + 1, P2);
            }
            cr_assert_eq(corenet_stats(n, D).pages_quarantined, gone ? 3 : 0);
            land(n, 0, results[i]);
            const corenet_note *told = corenet_last(n, D, MESSAGE_REJECT);
            cr_assert(!told || told->m.reason == reasons[i]);
            const record *r = find(n);
            cr_assert_eq(told != NULL, !gone && i > 0);
            cr_assert_eq(corenet_stats(n, D).pages_quarantined, 0);
            cr_assert(gone == 0 ? (r != NULL) == (i == 0) : true);
            cr_assert(gone == 2 ? r->state == RECORD_RESERVED && r->arrived == 0 : true);
            corenet_close(n);
        }
    }
}

Test(decode, end_of_the_prefill_workers_link_is_told_until_adoption) {
    for (state s = NONE; s < STATES; s++) {
        corenet *n = build(s);
        corenet_cut(n, D, P2);
        cr_assert_eq(find(n) != NULL, s >= QUEUED);
        corenet_cut(n, D, P);
        uint32_t told = 0;
        for (uint32_t k = 0; k < corenet_notes(n); k++) {
            const message *m = &corenet_at(n, k)->m;
            told += m->type == MESSAGE_LINK_LOST && m->request == REQUEST && m->worker == P;
        }
        cr_assert_eq(told, s >= QUEUED && s < DECODING ? 1 : 0, "%s", names[s]);
        cr_assert_eq(find(n) != NULL, s == DECODING);
        cr_assert_eq(corenet_stats(n, D).pages_quarantined, 0);
        corenet_close(n);
    }
}

Test(decode, end_of_its_gateways_link_frees_all) {
    for (state s = NONE; s < STATES; s++) {
        corenet *n = build(s);
        corenet_gateway_cut(n, D, G2);
        cr_assert_eq(find(n) != NULL, s >= QUEUED);
        corenet_gateway_cut(n, D, G);
        cr_assert_null(find(n));
        core_stats st = corenet_stats(n, D);
        cr_assert_eq(st.pages_owned, 0);
        cr_assert_eq(st.pages_quarantined, s == POSTED || s == NOTED ? 3 : 0);
        corenet_close(n);
    }
}

Test(decode, r9_exptell_end_of_a_lease_or_a_queue_deadline_is_told) {
    for (state s = NONE; s < STATES; s++) {
        for (int lease = 0; lease < 2; lease++) {
            corenet *n = build(s);
            message_lease list[] = {{REQUEST, A}, {BLOCKER, 1}};
            message m = {.type = MESSAGE_LEASES, .leases = {list, 2}};
            corenet_pass(n, 19000000); /* a lease is 30 s, the queue's deadline 20 s */
            if (!lease) {
                say(n, G, m);
            }
            corenet_pass(n, lease ? 13000000 : 3000000);
            corenet_tick(n, D);
            const corenet_note *note = corenet_last(n, D, MESSAGE_REFUSED);
            message_reason told = note ? note->m.reason : MESSAGE_REASON_NONE;
            cr_assert(!note || note->m.request == REQUEST || s == QUEUED);
            bool ends = s == QUEUED || (lease && s >= QUEUED && s < DECODING);
            cr_assert_eq(told,
                         !ends   ? MESSAGE_REASON_NONE
                         : lease ? MESSAGE_REASON_LEASE
                                 : MESSAGE_REASON_DEADLINE,
                         "%s", names[s]);
            cr_assert_eq(find(n) != NULL, s >= QUEUED && !ends);
            corenet_close(n);
        }
    }
}

/* ---- rules ---------------------------------------------------------------------------------- */

Test(decode, r2_first_tokens_are_told_on_adoption_too) {
    corenet *n = build(LANDED);
    say(n, FP, handoff(A));
    cr_assert_eq(corenet_queued(n, D, P, MESSAGE_ADOPTED), 1);
    cr_assert_eq(corenet_notes(n), 2);
    cr_assert_eq(corenet_at(n, 0)->m.type, MESSAGE_ADOPTED);
    const message *told = &corenet_at(n, 1)->m;
    cr_assert_eq(told->type, MESSAGE_TOKENS);
    cr_assert_eq(told->tokens.tokens_count, 1);
    cr_assert_eq(told->tokens.tokens[0].index, 0);
    corenet_close(n);
}

Test(decode, r3_replay_tells_again_what_the_client_lacks) {
    for (int32_t delivered = 0; delivered <= 30; delivered += 5) {
        corenet_options o = corenet_defaults();
        corenet *n = open_net(o);
        request_params params = corenet_params(100);
        params.top_logprobs = 3;
        corenet_reserve(n, D, REQUEST, A, MESSAGE_NO_WORKER, prompt, TOKENS, TOKENS, &params);
        for (int i = 0; i < 30; i++) {
            cr_assert(corenet_step(n, D));
        }
        int32_t made = find(n)->seqs[0].generated_count;
        corenet_forget(n);
        request_token right[128], heard[128];
        corenet_expect(n, prompt, TOKENS, &params, 0, right, 128);
        int32_t tokens[TOKENS + 30];
        memcpy(tokens, prompt, TOKENS * sizeof *tokens);
        int32_t had = delivered < made ? delivered : made;
        for (int32_t i = 0; i < had; i++) {
            tokens[TOKENS + i] = right[i].token;
        }
        corenet_reserve(n, D, REQUEST, A + 1, P, tokens, TOKENS, TOKENS + had, &params);
        cr_assert_eq(corenet_at(n, 0)->m.type, MESSAGE_ALREADY_ADOPTED);
        bool done;
        cr_assert_eq(corenet_heard(n, REQUEST, A + 1, 0, heard, 128, &done), had < made ? made : 0);
        for (int32_t i = 0; i < made; i++) {
            cr_assert_eq(heard[i].token, i < had ? -1 : right[i].token);
            cr_assert(i < had || heard[i].logprob == right[i].logprob);
            cr_assert(i < had || memcmp(heard[i].top, right[i].top, sizeof right[i].top) == 0);
        }
        corenet_run(n);
        cr_assert_eq(corenet_heard(n, REQUEST, A + 1, 0, heard, 128, &done), 100);
        cr_assert_eq(heard[99].token, right[99].token);
        corenet_close(n);
    }
}

Test(decode, r3_replay_covers_choices_that_have_ended) {
    corenet_options o = corenet_defaults();
    o.eog = -1;
    corenet *n = open_net(o);
    request_params params = corenet_params(40);
    params.choices = 3;
    params.temperature = 1;
    request_token right[3][64], heard[64];
    corenet_expect(n, prompt, TOKENS, &params, 1, right[1], 64);
    params.stop_ids_count = 1;
    params.stop_ids[0] = right[1][6].token; /* the second choice ends early */
    for (int32_t c = 0; c < 3; c++) {
        corenet_expect(n, prompt, TOKENS, &params, c, right[c], 64);
    }
    corenet_reserve(n, D, REQUEST, A, MESSAGE_NO_WORKER, prompt, TOKENS, TOKENS, &params);
    for (int i = 0; i < 20; i++) {
        corenet_step(n, D);
    }
    corenet_forget(n);
    corenet_reserve(n, D, REQUEST, A + 1, MESSAGE_NO_WORKER, prompt, TOKENS, TOKENS, &params);
    bool done;
    cr_assert_eq(corenet_heard(n, REQUEST, A + 1, 1, heard, 64, &done), 7);
    cr_assert_eq(heard[6].end, REQUEST_STOP);
    corenet_run(n);
    for (int32_t c = 0; c < 3; c++) {
        int32_t count = corenet_heard(n, REQUEST, A + 1, c, heard, 64, &done);
        cr_assert_eq(count, c == 1 ? 7 : 40);
        for (int32_t i = 0; i < count; i++) {
            cr_assert_eq(heard[i].token, right[c][i].token);
        }
    }
    cr_assert(done);
    corenet_close(n);
}

Test(decode, new_attempt_of_another_generation_is_not_taken_for_the_old) {
    corenet *n = build(DECODING);
    request_params params = corenet_params(8);
    int32_t other[TOKENS];
    memcpy(other, prompt, sizeof other);
    other[3]++;
    message m = {.type = MESSAGE_RESERVE, .request = REQUEST, .attempt = A + 1};
    m.submit = (message_submit){.peer_worker = P,
                                .peer_epoch = 1,
                                .prompt_count = TOKENS,
                                .tokens_count = TOKENS,
                                .tokens = other,
                                .params = &params};
    say(n, G, m);
    cr_assert_eq(find(n)->state, RECORD_RESERVED);
    corenet_close(n);
}

Test(decode, r6_refg_every_refusal_goes_to_the_gateway) {
    corenet_options o = corenet_defaults();
    o.core.seqs_max = 1;
    o.core.queue_max = 1;
    o.core.pages = 12;
    corenet *n = open_net(o);
    request_params params = corenet_params(8);
    for (request_id id = 1; id <= 3; id++) {
        corenet_reserve(n, D, id, 1, P, prompt, 20, 20, &params);
    }
    cr_assert_eq(corenet_last(n, D, MESSAGE_REFUSED)->m.request, 3);
    cr_assert_eq(corenet_last(n, D, MESSAGE_REFUSED)->m.reason, MESSAGE_REASON_FULL);
    corenet_reserve(n, D, 40, 1, P, prompt, 180, 180, &params);
    cr_assert_eq(corenet_count(n, D, MESSAGE_REFUSED), 2);
    params.max_tokens = 100;
    corenet_reserve(n, D, 4, 1, P, prompt, 100, 100, &params);
    cr_assert_eq(corenet_last(n, D, MESSAGE_REFUSED)->m.reason, MESSAGE_REASON_LIMIT,
                 "it would fit now, but never to its end");
    params.choices = 2;
    corenet_reserve(n, D, 5, 1, P, prompt, 10, 10, &params);
    cr_assert_eq(corenet_last(n, D, MESSAGE_REFUSED)->m.reason, MESSAGE_REASON_LIMIT);
    core_drain(corenet_core(n, D));
    params.choices = 1;
    corenet_reserve(n, D, 6, 1, P, prompt, 10, 10, &params);
    cr_assert_eq(corenet_last(n, D, MESSAGE_REFUSED)->m.reason, MESSAGE_REASON_DRAINING);
    cr_assert_eq(corenet_count(n, D, MESSAGE_REFUSED), 5);
    corenet_close(n);
}

/* The table's row of the end of a drain. */
Test(decode, hand_back_gives_every_request_to_the_gateway_and_takes_no_more) {
    for (state s = NONE; s < STATES; s++) {
        corenet *n = build(s);
        corenet_hand_back(n, D);
        const corenet_note *told =
            corenet_last(n, D, s == DECODING ? MESSAGE_PREEMPTED : MESSAGE_REFUSED);
        uint32_t others = s == QUEUED ? 1 : 0; /* the blocker */
        cr_assert_eq(corenet_count(n, D, MESSAGE_PREEMPTED), s == DECODING, "%s", names[s]);
        cr_assert_eq(corenet_stats(n, D).handed_back, (s >= QUEUED) + others, "%s", names[s]);
        cr_assert_eq(told != NULL, s >= QUEUED, "%s", names[s]);
        if (told) {
            cr_assert(told->m.request == REQUEST && told->m.attempt == A);
            cr_assert_eq(told->m.reason, MESSAGE_REASON_DRAINING);
        }
        cr_assert_null(find(n));
        if (s >= QUEUED && s < DECODING) {
            cr_assert_eq(corenet_queued(n, D, P, MESSAGE_REFUSED), 1 + others, "P need not wait");
        }
        cr_assert_eq(core_idle(corenet_core(n, D)), s != POSTED && s != NOTED,
                     "%s: only a receive under way is waited for", names[s]);
        corenet_forget(n);
        reserve(n, A + 1, P);
        cr_assert_eq(corenet_last(n, D, MESSAGE_REFUSED)->m.reason, MESSAGE_REASON_DRAINING);
        if (s == POSTED || s == NOTED) {
            land(n, 0, CORE_RECEIVED_OK);
        }
        cr_assert(core_idle(corenet_core(n, D)), "%s", names[s]);
        core_validate(corenet_core(n, D));
        corenet_close(n);
    }
}

Test(decode, r8_super_new_attempt_does_not_reuse_pages_a_receive_still_writes) {
    corenet_options o = corenet_defaults();
    o.core.pages = 4; /* exactly one request */
    corenet *n = open_net(o);
    reserve(n, A, P);
    message a = announce(A, 0);
    corenet_say(n, D, FP, &a);
    reserve(n, A + 1, P2);
    cr_assert_eq(find(n)->state, RECORD_QUEUED, "its room is in quarantine");
    land(n, 0, CORE_RECEIVED_OK);
    cr_assert_eq(find(n)->state, RECORD_RESERVED, "granted the moment it is free");
    cr_assert_eq(find(n)->arrived, 0);
    corenet_close(n);
}

Test(decode, r11_tear_channel_of_a_receive_that_never_ends_is_torn_down) {
    corenet *n = build(POSTED);
    corenet_cancel(n, D, REQUEST, A);
    corenet_tick(n, D);
    cr_assert_not(corenet_asked_close(n, D, FP));
    corenet_pass(n, 6000000);
    corenet_tick(n, D);
    cr_assert(corenet_asked_close(n, D, FP));
    cr_assert_eq(corenet_stats(n, D).pages_quarantined, 3);
    corenet_cut(n, D, P);
    cr_assert_eq(corenet_stats(n, D).pages_quarantined, 0);
    corenet_close(n);
}

Test(decode, r13_adoptchk_handoff_alone_adopts_nothing) {
    corenet *n = build(NOTED);
    cr_assert_eq(find(n)->state, RECORD_RESERVED);
    land(n, 0, CORE_RECEIVED_OK);
    cr_assert_eq(find(n)->state, RECORD_DECODING);
    corenet_close(n);
}

Test(decode, announcements_out_of_order_or_bounds_fail_the_request) {
    const message_announce bad[] = {
        {.sequence = 0, .group = 1, .layers = 4, .pages = 3},
        {.sequence = 0, .layers = 4, .pages = 4},                  /* past the prompt */
        {.sequence = 0, .layers = 4, .page_first = 1, .pages = 2}, /* a gap */
        {.sequence = 0, .layers = 4, .page_first = 1, .pages = 1u << 15},
        {.sequence = 0, .layers = 4, .page_first = LIMIT_SEQ_PAGES - 2, .pages = 2},
        {.sequence = 0, .layer_first = 1, .layers = 3, .pages = 3},
        {.sequence = 0, .layers = 5, .pages = 3},
        {.sequence = 0, .layers = LIMIT_LAYERS, .pages = 3},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        corenet *n = build(RESERVED);
        message m = announce(A, 0);
        m.announce = bad[i];
        say(n, FP, m);
        cr_assert_eq(corenet_queued(n, D, P, MESSAGE_REJECT), 1, "case %zu", i);
        cr_assert_eq(corenet_count(n, D, MESSAGE_REJECT), 1, "case %zu", i);
        cr_assert_null(find(n));
        corenet_close(n);
    }
    corenet *n = build(RESERVED);
    say(n, FP, announce(A, 1)); /* a number of the link is missing */
    cr_assert(look(n, FP).closed);
    corenet_close(n);
}

Test(decode, handoff_that_does_not_match_what_came_fails_the_request) {
    for (int i = 0; i < 6; i++) {
        corenet *n = build(LANDED);
        message m = handoff(A);
        request_token t[2] = {m.handoff.tokens[0], m.handoff.tokens[0]};
        m.handoff.tokens = t;
        switch (i) {
            case 0:
                m.handoff.groups = 2;
                break;
            case 1:
                m.handoff.groups = 0;
                break;
            case 2:
                m.handoff.tokens_count = 2;
                break;
            case 3:
                t[0].index = 1;
                break;
            case 4:
                t[0].choice = 1;
                break;
            default:
                t[0].end = REQUEST_STOP; /* P would have ended it */
        }
        say(n, FP, m);
        cr_assert_null(find(n), "case %d", i);
        corenet_close(n);
    }
}

Test(decode, reserve_for_a_worker_without_a_link_is_told) {
    corenet *n = open_net(corenet_defaults());
    corenet_cut(n, D, P);
    reserve(n, A, P);
    cr_assert_null(find(n));
    cr_assert_eq(corenet_last(n, D, MESSAGE_LINK_LOST)->m.worker, P);
    corenet_close(n);
}

Test(decode, waiting_requests_are_granted_oldest_first_when_pages_come_free) {
    corenet_options o = corenet_defaults();
    o.core.pages = 8;
    corenet *n = open_net(o);
    request_params params = corenet_params(8);
    corenet_reserve(n, D, 1, 1, P, prompt, 100, 100, &params);
    corenet_reserve(n, D, 2, 1, P, prompt + 100, 100, 100, &params);
    corenet_reserve(n, D, 3, 1, P, prompt + 200, 3, 3, &params);
    const record_table *t = &corenet_core(n, D)->records;
    cr_assert_eq(record_find(t, RECORD_DECODE, 2)->state, RECORD_QUEUED);
    cr_assert_eq(record_find(t, RECORD_DECODE, 3)->state, RECORD_QUEUED, "it would fit, but waits");
    corenet_cancel(n, D, 1, 1);
    cr_assert_eq(record_find(t, RECORD_DECODE, 2)->state, RECORD_RESERVED);
    cr_assert_eq(record_find(t, RECORD_DECODE, 3)->state, RECORD_RESERVED);
    corenet_close(n);
}

/* A model of the queue: one decodes, and whenever it ends the next is the oldest of those that go
 * on, or, when there are none, the oldest of the others. */
Test(decode, waiting_requests_that_go_on_are_granted_before_new_ones) {
    corenet_options o = corenet_defaults();
    o.core.seqs_max = 1;
    o.core.queue_max = 64;
    corenet *n = open_net(o);
    request_params params = corenet_params(8);
    request_id waiting[64];
    bool resumed[64];
    uint64_t rng = 3;
    int count = 0;
    corenet_reserve(n, D, 1, 1, P, prompt, 20, 20, &params);
    request_id running = 1;
    for (request_id id = 2; running != 0;) {
        if (id < 200 && count < 60 && (count == 0 || rng_below(&rng, 3) > 0)) {
            resumed[count] = rng_below(&rng, 3) == 0;
            waiting[count] = id;
            int32_t tokens = resumed[count] ? 23 : 20;
            corenet_reserve(n, D, id++, resumed[count] ? 2 : 1, P, prompt, 20, tokens, &params);
            count++;
            continue;
        }
        corenet_cancel(n, D, running, 9);
        int next = 0;
        while (next < count && !resumed[next]) {
            next++;
        }
        next = next == count ? 0 : next;
        running = count > 0 ? waiting[next] : 0;
        for (int i = 0; i < count; i++) {
            const record *r = record_find(&corenet_core(n, D)->records, RECORD_DECODE, waiting[i]);
            cr_assert_eq(r->state, i == next ? RECORD_RESERVED : RECORD_QUEUED, "request %d",
                         (int)waiting[i]);
        }
        for (int i = next; i + 1 < count; i++) {
            waiting[i] = waiting[i + 1];
            resumed[i] = resumed[i + 1];
        }
        count -= count > 0;
    }
    cr_assert(core_idle(corenet_core(n, D)));
    corenet_close(n);
}

Test(decode, out_of_pages_the_youngest_goes_back_and_the_oldest_goes_on) {
    corenet_options o = corenet_defaults();
    o.core.pages = 10;
    o.core.headroom_tokens = 0;
    corenet *n = open_net(o);
    request_params params = corenet_params(100);
    for (request_id id = 1; id <= 3; id++) {
        corenet_reserve(n, D, id, 1, MESSAGE_NO_WORKER, prompt + 100 * id, 40, 40, &params);
    }
    corenet_run(n);
    uint32_t told = corenet_count(n, D, MESSAGE_PREEMPTED);
    cr_assert_eq(told, 2);
    for (uint32_t i = 0; i < corenet_notes(n); i++) {
        const message *m = &corenet_at(n, i)->m;
        cr_assert(m->type != MESSAGE_PREEMPTED || m->request != 1);
    }
    request_token heard[128];
    bool done;
    cr_assert_eq(corenet_heard(n, 1, 1, 0, heard, 128, &done), 100);
    cr_assert(done);
    /* What a preempted request had generated is found again in the prefix cache. */
    request_token right[128];
    int32_t tokens[140];
    int32_t had = corenet_heard(n, 2, 1, 0, heard, 128, &done);
    memcpy(tokens, prompt + 200, 40 * sizeof *tokens);
    for (int32_t i = 0; i < had; i++) {
        tokens[40 + i] = heard[i].token;
    }
    corenet_reserve(n, D, 2, 2, MESSAGE_NO_WORKER, tokens, 40, 40 + had, &params);
    corenet_run(n);
    cr_assert_eq(corenet_heard(n, 2, 0, 0, heard, 128, &done), 100);
    corenet_expect(n, prompt + 200, 40, &params, 0, right, 128);
    for (int32_t i = 0; i < 100; i++) {
        cr_assert_eq(heard[i].token, right[i].token);
    }
    corenet_close(n);
}

Test(decode, finished_generations_can_be_found_by_the_next_turn) {
    corenet *n = open_net(corenet_defaults());
    request_params params = corenet_params(60);
    corenet_reserve(n, D, 1, 1, MESSAGE_NO_WORKER, prompt, 40, 40, &params);
    corenet_run(n);
    request_token heard[64];
    bool done;
    cr_assert_eq(corenet_heard(n, 1, 1, 0, heard, 64, &done), 60);
    int32_t tokens[110];
    memcpy(tokens, prompt, sizeof tokens);
    for (int32_t i = 0; i < 60; i++) {
        tokens[40 + i] = heard[i].token;
    }
    corenet_reserve(n, D, 2, 1, MESSAGE_NO_WORKER, tokens, 110, 110, &params);
    cr_assert_eq(corenet_stats(n, D).prompt_tokens_cached, 96, "99 tokens have KV: six pages");
    corenet_run(n);
    corenet_close(n);
}

Test(decode, reserve_that_comes_after_the_request_left_is_refused) {
    corenet *n = build(LANDED);
    corenet_cut(n, D, P);
    cr_assert_null(find(n));
    reserve(n, A, P2);
    cr_assert_null(find(n));
    cr_assert_eq(corenet_last(n, D, MESSAGE_REJECT)->m.reason, MESSAGE_REASON_GONE);
    reserve(n, A + 1, P2);
    cr_assert_not_null(find(n));
    corenet_close(n);
}
