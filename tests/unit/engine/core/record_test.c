/* record_test.c -- the table of requests. */
#include "engine/core/record.h"

#include <criterion/criterion.h>

static const request_params params = {.max_tokens = 5, .choices = 2};
static const int32_t tokens[] = {5, 6, 7, 8};

static message submit(request_id request, uint32_t attempt) {
    message m = {.type = MESSAGE_SUBMIT, .request = request, .attempt = attempt};
    m.submit =
        (message_submit){.prompt_count = 3, .tokens_count = 4, .tokens = tokens, .params = &params};
    return m;
}

static void make(arena *a, record_table *t) {
    record_options o = {.count_max = 6, .spares_max = 2, .context_tokens = 20, .lives_max = {2, 2}};
    cr_assert_eq(arena_open(a, record_bytes(&o)), STATUS_OK);
    cr_assert_eq(record_open(t, a, &o), STATUS_OK);
}

Test(record, keeps_each_roles_requests_apart_and_bounded) {
    arena a;
    record_table t;
    make(&a, &t);
    message m = submit(1, 1);
    record *p = record_add(&t, RECORD_PREFILL, &m, NULL);
    record *d = record_add(&t, RECORD_DECODE, &m, NULL);
    p->state = d->state = RECORD_WORK;
    cr_assert_eq(record_find(&t, RECORD_PREFILL, 1), p);
    cr_assert_eq(record_find(&t, RECORD_DECODE, 1), d);
    cr_assert_eq(p->seqs[0].generated_count, 1);
    cr_assert_eq(p->seqs[0].generated[0], 8);
    m = submit(2, 1);
    cr_assert_not_null(record_add(&t, RECORD_PREFILL, &m, NULL));
    m = submit(3, 1);
    cr_assert_null(record_add(&t, RECORD_PREFILL, &m, NULL), "all that the role may");
    arena_close(&a);
}

Test(record, new_attempt_takes_the_old_ones_place_in_the_queue) {
    arena a;
    record_table t;
    make(&a, &t);
    message m = submit(1, 1);
    record *old = record_add(&t, RECORD_PREFILL, &m, NULL);
    old->state = RECORD_WORK;
    m = submit(2, 1);
    record *younger = record_add(&t, RECORD_PREFILL, &m, NULL);
    younger->state = RECORD_WORK;
    m = submit(1, 2);
    record *new = record_add(&t, RECORD_PREFILL, &m, old);
    new->state = RECORD_WORK;
    slab_handle before = old->self;
    record_unlink(&t, old);
    cr_assert_null(record_get(&t, before), "gone, though its slot is not free yet");
    record_free(&t, old);
    cr_assert_null(record_get(&t, before));
    cr_assert_eq(record_find(&t, RECORD_PREFILL, 1), new);
    cr_assert_eq(t.first[RECORD_PREFILL], new);
    cr_assert_eq(new->next, younger);
    cr_assert_lt(new->order, younger->order);
    arena_close(&a);
}

Test(record, choices_take_spare_tables_and_give_them_back) {
    arena a;
    record_table t;
    make(&a, &t);
    for (int round = 0; round < 3; round++) {
        message m = submit(1, 1);
        record *r = record_add(&t, RECORD_DECODE, &m, NULL);
        r->state = RECORD_QUEUED;
        cr_assert(record_seq_open(&t, r, 1));
        cr_assert(record_seq_open(&t, r, 2));
        cr_assert_not(record_seq_open(&t, r, 3));
        cr_assert_neq(r->seqs[1].pages, r->seqs[2].pages);
        cr_assert_neq(r->seqs[0].pages, r->seqs[2].pages);
        record_unlink(&t, r);
        record_free(&t, r);
    }
    arena_close(&a);
}

Test(record, last_token_needs_no_room_of_its_own) {
    cr_assert_eq(record_kv_tokens_max(10, 10, 5, 100), 14);
    cr_assert_eq(record_kv_tokens_max(10, 10, 1, 100), 10);
    cr_assert_eq(record_kv_tokens_max(10, 10, 0, 100), 10);
    cr_assert_eq(record_kv_tokens_max(10, 13, 5, 100), 14);
    cr_assert_eq(record_kv_tokens_max(90, 90, 1 << 20, 100), 99);
}
