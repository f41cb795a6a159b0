/* record_test.c -- the table of requests. */
#include "engine/core/record.h"

#include <criterion/criterion.h>
#include <string.h>

#include "engine/base/rng.h"

static const request_params params = {.max_tokens = 5, .choices = 2};
static const int32_t tokens[] = {5, 6, 7, 8};

static message submit(request_id request, uint32_t attempt) {
    message m = {.type = MESSAGE_SUBMIT, .request = request, .attempt = attempt};
    m.submit =
        (message_submit){.prompt_count = 3, .tokens_count = 4, .tokens = tokens, .params = &params};
    return m;
}

static void make(arena *a, record_table *t) {
    record_options o = {.count_max = 6,
                        .spares_max = 2,
                        .context_tokens = 20,
                        .block_pages = 1,
                        .lives_max = {2, 2}};
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

/* A list of names as anybody would keep it: those that go on, then the others. */
typedef struct {
    request_id ids[8];
    bool resumed[8];
    int count;
} line;

static void line_put(line *l, request_id id, bool resumed) {
    int at = 0;
    while (at < l->count && (resumed ? l->resumed[at] : true)) {
        at++;
    }
    memmove(l->ids + at + 1, l->ids + at, (size_t)(l->count - at) * sizeof l->ids[0]);
    memmove(l->resumed + at + 1, l->resumed + at, (size_t)(l->count - at) * sizeof(bool));
    l->ids[at] = id;
    l->resumed[at] = resumed;
    l->count++;
}

static bool line_take(line *l, request_id id) {
    int at = 0;
    while (l->ids[at] != id) {
        at++;
    }
    bool resumed = l->resumed[at];
    l->count--;
    memmove(l->ids + at, l->ids + at + 1, (size_t)(l->count - at) * sizeof l->ids[0]);
    memmove(l->resumed + at, l->resumed + at + 1, (size_t)(l->count - at) * sizeof(bool));
    return resumed;
}

static void expect_line(const record_table *t, const line *l) {
    const record *r = t->first[RECORD_DECODE];
    for (int i = 0; i < l->count; i++, r = r->next) {
        cr_assert(r && r->request == l->ids[i], "place %d", i);
        cr_assert(!r->next || r->order < r->next->order, "older means earlier");
        cr_assert(r->next ? r->next->previous == r : t->last[RECORD_DECODE] == r);
    }
    cr_assert_null(r);
}

Test(record, requests_that_go_on_are_older_than_new_ones) {
    record_options o = {.count_max = 20,
                        .spares_max = 2,
                        .context_tokens = 20,
                        .block_pages = 1,
                        .lives_max = {8, 8}};
    arena a;
    record_table t;
    line l = {.count = 0};
    uint64_t rng = 7;
    cr_assert_eq(arena_open(&a, record_bytes(&o)), STATUS_OK);
    cr_assert_eq(record_open(&t, &a, &o), STATUS_OK);
    for (int i = 0; i < 5000; i++) {
        bool resumed = rng_below(&rng, 3) == 0;
        bool replaces = l.count > 0 && rng_below(&rng, 4) == 0;
        request_id id =
            replaces ? l.ids[rng_below(&rng, (uint64_t)l.count)] : (request_id)(1000 + i);
        record *old = replaces ? record_find(&t, RECORD_DECODE, id) : NULL;
        if (!replaces && (l.count == 8 || (l.count > 0 && rng_below(&rng, 2) == 0))) {
            record *gone =
                record_find(&t, RECORD_DECODE, l.ids[rng_below(&rng, (uint64_t)l.count)]);
            (void)line_take(&l, gone->request);
            record_unlink(&t, gone);
            record_free(&t, gone);
            expect_line(&t, &l);
            continue;
        }
        message m = submit(id, (uint32_t)i);
        m.submit.tokens_count = resumed ? 4 : 3;
        record_add(&t, RECORD_DECODE, &m, old)->state = RECORD_QUEUED;
        if (old) {
            record_unlink(&t, old);
            record_free(&t, old);
            line before = l;
            if (!line_take(&l, id) && resumed) {
                line_put(&l, id, true);
            } else {
                l = before; /* its old place */
            }
        } else {
            line_put(&l, id, resumed);
        }
        expect_line(&t, &l);
    }
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
