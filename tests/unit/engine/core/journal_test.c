/* journal_test.c -- index order, exactly once. */
#include "engine/core/journal.h"

#include "tests/unit/engine/core/gate_bench.h"

/* A plain list of what arrived, in any order and more than once, against what the journal let
 * through: both must give 0, 1, 2, ... */
Test(journal, lets_each_token_through_once_and_in_order) {
    for (uint64_t seed = 0; seed < 500; seed++) {
        uint64_t state = seed;
        journal j;
        journal_open(&j, 2, 60);
        int32_t next[2] = {0, 0};
        while (next[0] < 60 || next[1] < 60) {
            int32_t choice = (int32_t)rng_below(&state, 2);
            int32_t ahead = (int32_t)rng_below(&state, 12) - 4;
            int32_t index = next[choice] + ahead;
            if (index < 0 || index >= 60) {
                continue;
            }
            request_token t = token_of(choice, index, index == 59 ? REQUEST_LENGTH : 0);
            journal_result r = journal_add(&j, &t);
            cr_assert_eq(r == JOURNAL_NEXT, ahead == 0);
            cr_assert(ahead >= 0 || r == JOURNAL_DUPLICATE);
            next[choice] += r == JOURNAL_NEXT;
            request_token early;
            while (r == JOURNAL_NEXT && journal_next_early(&j, choice, &early, &r)) {
                cr_assert_eq(early.index, next[choice]);
                cr_assert_eq(early.token, token_of(choice, next[choice], 0).token);
                next[choice]++;
            }
            cr_assert_eq(j.choices[choice].count, next[choice]);
        }
        cr_assert(journal_ended(&j, 0, 2));
        for (int32_t i = 0; i < 60; i++) {
            cr_assert_eq(j.choices[1].tokens[i], token_of(1, i, 0).token);
        }
        journal_close(&j);
    }
}

Test(journal, keeps_a_bounded_number_of_early_tokens) {
    journal j;
    journal_open(&j, 1, 1000);
    for (int32_t i = 1; i <= JOURNAL_EARLY_MAX; i++) {
        request_token t = token_of(0, i, REQUEST_RUNNING);
        cr_assert_eq(journal_add(&j, &t), JOURNAL_EARLY);
        cr_assert_eq(journal_add(&j, &t), JOURNAL_DUPLICATE);
    }
    request_token t = token_of(0, JOURNAL_EARLY_MAX + 1, REQUEST_RUNNING);
    cr_assert_eq(journal_add(&j, &t), JOURNAL_BAD);
    journal_close(&j);
}

Test(journal, delivers_in_index_order_whatever_the_order_of_arrival) {
    for (uint64_t seed = 0; seed < 200; seed++) {
        uint64_t state = seed;
        bench *b = start();
        request_id id = open_one(b, 24, 2);
        dispatch(b, id, P1, D1);
        clear(b);
        request_token t[48];
        for (int i = 0; i < 48; i++) {
            t[i] = token_of(i / 24, i % 24, i % 24 == 23 ? REQUEST_LENGTH : REQUEST_RUNNING);
        }
        /* Displaced by a few places at most, some sent twice. */
        for (int i = 47; i > 0; i--) {
            int k = i - (int)rng_below(&state, i < 6 ? (uint64_t)i + 1 : 6);
            request_token swap = t[i];
            t[i] = t[k];
            t[k] = swap;
        }
        for (int i = 0; i < 48; i++) {
            message m = plain(MESSAGE_TOKENS, id, 1);
            m.tokens = (message_tokens){.tokens_count = 1, .tokens = &t[i]};
            say(b, D1, m);
            if (i < 47 && rng_below(&state, 4) == 0) {
                say(b, P1, m);
            }
        }
        tokens_are(b, id, 0, 0, 23);
        tokens_are(b, id, 1, 0, 23);
        cr_assert_eq(count_of(b, GATE_DONE), 1);
        cr_assert_eq(b->log[b->count - 1].type, GATE_DONE);
        finish(b);
    }
}

Test(journal, a_new_attempt_forgets_what_came_early) {
    bench *b = start();
    request_id id = open_one(b, 4, 1);
    dispatch(b, id, P1, D1);
    clear(b);
    say_token(b, D1, id, 1, 0, 1, REQUEST_RUNNING); /* waits for index 0 */
    say_plain(b, D1, MESSAGE_REJECT, id, 1);
    dispatch(b, id, P1, D1);
    say_token(b, D1, id, 2, 0, 0, REQUEST_RUNNING);
    tokens_are(b, id, 0, 0, 0);
    finish(b);
}

Test(journal, a_token_the_request_cannot_have_closes_the_link) {
    static const request_token bad[] = {
        {.choice = 1, .index = 0},                 /* no such choice */
        {.choice = 0, .index = 4},                 /* past max_tokens */
        {.choice = 0, .index = 2},                 /* after the end, below */
        {.choice = 0, .index = 3, .token = 99999}, /* likewise */
    };
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        bench *b = start();
        request_id id = open_one(b, 4, 2);
        dispatch(b, id, P1, D1);
        clear(b);
        if (i == 0) {
            gate_end_choice(b->g, id, 0, b->now);
        }
        if (i >= 2) {
            say_token(b, D1, id, 1, 0, 0, REQUEST_RUNNING);
            request_token end = token_of(0, 1, REQUEST_STOP);
            message m = plain(MESSAGE_TOKENS, id, 1);
            m.tokens = (message_tokens){.tokens_count = 1, .tokens = &end};
            say(b, D1, m);
        }
        message m = plain(MESSAGE_TOKENS, id, 1);
        request_token t = bad[i];
        t.choice = i == 0 ? 2 : t.choice;
        m.tokens = (message_tokens){.tokens_count = 1, .tokens = &t};
        say(b, D1, m);
        cr_assert_eq(count_of(b, GATE_CLOSE), 1, "case %zu", i);
        finish(b);
    }
}

Test(journal, another_token_at_an_index_the_client_has_is_counted) {
    bench *b = start();
    request_id id = open_one(b, 4, 1);
    dispatch(b, id, P1, D1);
    say_token(b, P1, id, 1, 0, 0, REQUEST_RUNNING);
    request_token t = token_of(0, 0, REQUEST_RUNNING);
    t.token++;
    message m = plain(MESSAGE_TOKENS, id, 1);
    m.tokens = (message_tokens){.tokens_count = 1, .tokens = &t};
    say(b, D1, m);
    cr_assert_eq(count_of(b, GATE_TOKEN), 1);
    cr_assert_eq(gate_counters(b->g)->mismatches, 1);
    finish(b);
}

Test(journal, a_choice_the_caller_has_ended_needs_no_more_tokens) {
    bench *b = start();
    request_id id = open_one(b, 4, 2);
    dispatch(b, id, P1, D1);
    clear(b);
    say_token(b, P1, id, 1, 0, 0, REQUEST_RUNNING);
    gate_end_choice(b->g, id, 0, b->now);
    say_token(b, D1, id, 1, 0, 1, REQUEST_RUNNING);
    cr_assert_eq(count_of(b, GATE_TOKEN), 1);
    gate_end_choice(b->g, id, 1, b->now);
    drain(b);
    cr_assert_eq(count_of(b, GATE_DONE), 1);
    cr_assert_eq(sent_count(b, P1, MESSAGE_CANCEL), 1);
    cr_assert_eq(sent_count(b, D1, MESSAGE_CANCEL), 1);
    gate_end_choice(b->g, id, 1, b->now);
    finish(b);
}
