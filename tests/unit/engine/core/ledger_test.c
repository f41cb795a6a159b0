/* ledger_test.c -- what is sent for a record, who waits, whose leases are renewed. */
#include "tests/unit/engine/core/gate_bench.h"

Test(ledger, resubmits_the_prompt_and_what_the_client_has) {
    bench *b = start();
    request_params p = params_of(9, 1);
    p.seed = 77;
    p.temperature = 0.5f;
    request_id id = open_params(b, &p);
    dispatch(b, id, P1, D1);
    say_plain(b, D1, MESSAGE_ADOPTED, id, 1);
    for (int i = 0; i < 3; i++) {
        say_token(b, D1, id, 1, 0, i, REQUEST_RUNNING);
    }
    gate_link_down(b->g, D1, b->now);
    gate_pending w;
    cr_assert(pending(b, &w));
    cr_assert_eq(w.delivered, 3);
    clear(b);
    dispatch(b, id, P1, D2);
    drain(b);
    cr_assert_arr_eq(b->submitted, prompt, sizeof(prompt));
    for (int i = 0; i < 3; i++) {
        cr_assert_eq(b->submitted[PROMPT_COUNT + i], 1000 + i);
    }
    for (int i = 0; i < b->count; i++) {
        const message_submit *s = &b->log[i].message.submit;
        cr_assert_eq(s->tokens_count, PROMPT_COUNT + 3);
        cr_assert_eq(s->prompt_count, PROMPT_COUNT);
        cr_assert_eq(s->salt, 42);
    }
    cr_assert_eq(b->params.seed, 77);
    cr_assert_eq(b->params.max_tokens, 9);
    finish(b);
}

Test(ledger, submit_and_reserve_name_each_other_and_their_epochs) {
    bench *b = start();
    request_id id = open_one(b, 9, 1);
    gate_link_down(b->g, D2, b->now);
    gate_link_up(b->g, D2, 8, b->now);
    dispatch(b, id, P1, D2);
    drain(b);
    cr_assert_eq(b->count, 2);
    cr_assert_eq(b->log[0].worker, P1);
    cr_assert_eq(b->log[0].message.submit.peer_worker, D2);
    cr_assert_eq(b->log[0].message.submit.peer_epoch, 8);
    cr_assert_eq(b->log[1].worker, D2);
    cr_assert_eq(b->log[1].message.submit.peer_worker, P1);
    cr_assert_eq(b->log[1].message.submit.peer_epoch, 7);
    cr_assert_not(b->log[1].message.submit.local);
    finish(b);
}

Test(ledger, local_asks_d_alone) {
    bench *b = start();
    request_id id = open_one(b, 9, 1);
    dispatch(b, id, NONE, D1);
    drain(b);
    cr_assert_eq(b->count, 1);
    cr_assert_eq(b->log[0].message.type, MESSAGE_RESERVE);
    cr_assert(b->log[0].message.submit.local);
    cr_assert_eq(b->log[0].message.submit.peer_worker, MESSAGE_NO_WORKER);
    finish(b);
}

Test(ledger, one_token_or_none_needs_p_alone) {
    for (int32_t max = 0; max <= 2; max++) {
        bench *b = start();
        request_id id = open_one(b, max, 1);
        gate_pending w;
        cr_assert(pending(b, &w));
        cr_assert_eq(w.prefill_only, max <= 1);
        if (max <= 1) {
            dispatch(b, id, P1, NONE);
            drain(b);
            cr_assert_eq(b->count, 1);
            cr_assert_eq(b->log[0].message.submit.peer_worker, MESSAGE_NO_WORKER);
            message m = plain(MESSAGE_TOKENS, id, 1);
            request_token t = token_of(0, 0, REQUEST_LENGTH);
            m.tokens = (message_tokens){
                .tokens_count = max, .tokens = &t, .done = true, .cached_tokens = 3};
            say(b, P1, m);
            cr_assert_eq(count_of(b, GATE_TOKEN), max);
            cr_assert_eq(count_of(b, GATE_DONE), 1);
            cr_assert_eq(b->log[b->count - 1].cached_tokens, 3);
        }
        finish(b);
    }
}

Test(ledger, leases_list_running_pairs_and_nothing_else) {
    bench *b = start();
    request_id running = open_one(b, 4, 1);
    dispatch(b, running, P1, D1);
    request_id adopted = open_one(b, 4, 1);
    dispatch(b, adopted, P1, D1);
    say_plain(b, D1, MESSAGE_ADOPTED, adopted, 1);
    request_id waiting = open_one(b, 4, 1);
    request_id elsewhere = open_one(b, 4, 1);
    dispatch(b, elsewhere, P2, D2);
    clear(b);
    gate_tick(b->g, b->now);
    drain(b);
    cr_assert_eq(b->count, 4);
    for (int i = 0; i < 4; i++) {
        cr_assert_eq(b->log[i].worker, (uint32_t)(P1 + i));
        cr_assert_eq(b->log[i].message.leases.count, 1);
    }
    cr_assert_eq(b->leases[0].request, elsewhere);
    gate_cancel(b->g, waiting, b->now);
    clear(b);
    gate_tick(b->g, b->now + LEASE_US / 3 - 1);
    drain(b);
    cr_assert_eq(b->count, 0);
    gate_tick(b->g, b->now + LEASE_US / 3);
    drain(b);
    cr_assert_eq(b->count, 4);
    finish(b);
}

Test(ledger, a_full_gate_refuses_and_the_place_of_an_ended_request_is_free_again) {
    gate_options o = options_default();
    o.requests_max = 2;
    bench *b = start_with(o);
    request_id first = open_one(b, 1, 1);
    open_one(b, 1, 1);
    request_params p = params_of(1, 1);
    gate_request r = {.tokens = prompt, .tokens_count = PROMPT_COUNT, .salt = 42, .params = &p};
    request_id id;
    cr_assert_eq(gate_open(b->g, &r, b->now, &id), GATE_FULL);
    dispatch(b, first, P1, NONE);
    say_token(b, P1, first, 1, 0, 0, REQUEST_LENGTH);
    cr_assert_eq(gate_open(b->g, &r, b->now, &id), GATE_OPENED);
    cr_assert_gt(id, first);
    finish(b);
}

Test(ledger, offers_the_oldest_request_first_also_after_a_retry) {
    bench *b = start();
    request_id ids[4];
    for (int i = 0; i < 4; i++) {
        ids[i] = open_one(b, 4, 1);
    }
    dispatch(b, ids[1], P1, D1);
    gate_link_down(b->g, P1, b->now);
    uint64_t cursor = 0;
    gate_pending w;
    for (int i = 0; i < 4; i++) {
        cr_assert(gate_pending_next(b->g, &cursor, b->now, &w));
        cr_assert_eq(w.run, ids[i]);
        if (i == 2) {
            dispatch(b, w.run, P2, D1);
        }
    }
    cr_assert_not(gate_pending_next(b->g, &cursor, b->now, &w));
    cr_assert_eq(gate_pending_count(b->g), 3);
    finish(b);
}
Test(ledger, a_cancelled_request_says_nothing_more) {
    bench *b = start();
    request_id id = open_one(b, 1, 1);
    dispatch(b, id, P1, NONE);
    clear(b);
    request_token t = token_of(0, 0, REQUEST_LENGTH);
    message m = plain(MESSAGE_TOKENS, id, 1);
    m.tokens = (message_tokens){.tokens_count = 1, .tokens = &t, .done = true};
    gate_message(b->g, P1, &m, b->now); /* TOKEN and DONE are queued */
    gate_cancel(b->g, id, b->now);
    drain(b);
    cr_assert_eq(count_of(b, GATE_TOKEN), 0);
    cr_assert_eq(count_of(b, GATE_DONE), 0);
    cr_assert_eq(gate_count(b->g), 0);
    finish(b);
}

Test(ledger, cancel_of_a_split_request_cancels_every_part) {
    bench *b = start();
    request_id id = open_one(b, 4, 2);
    dispatch(b, id, P1, D1);
    say_token(b, P1, id, 1, 0, 0, REQUEST_RUNNING);
    gate_link_down(b->g, D1, b->now);
    uint64_t cursor = 0;
    gate_pending w;
    cr_assert(gate_pending_next(b->g, &cursor, b->now, &w));
    dispatch(b, w.run, P1, D2);
    clear(b);
    gate_cancel(b->g, id, b->now);
    drain(b);
    cr_assert_eq(sent_count(b, P1, MESSAGE_CANCEL), 1);
    cr_assert_eq(sent_count(b, D2, MESSAGE_CANCEL), 1);
    cr_assert_eq(b->count, 2);
    cr_assert_eq(gate_pending_count(b->g), 0);
    cr_assert_eq(gate_count(b->g), 0);
    finish(b);
}
