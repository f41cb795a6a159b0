/* local_test.c -- one side leaving, and completions that wait for the copy. */
#define _GNU_SOURCE
#include "kvtransfer/local.h"

#include "tests/unit/kvtransfer/kvt_fixture.h"

Test(local, a_send_is_complete_when_it_was_copied_and_not_before) {
    fixture f;
    fixture_open_local(&f);
    uint64_t random = 3;
    uint32_t done;
    kvt_arrival a;
    kvt_job job = fixture_job(0, 0, 2);
    cr_assert_eq(kvt_send(f.sender, &job), KVT_DONE);
    cr_assert_not(kvt_sent(f.sender, &done));
    fixture_fill(fixture_page(f.from, 0, 0), &random); /* still the sender's to change */
    cr_assert_eq(kvt_post(f.receiver, &job), KVT_DONE);
    cr_assert_eq(kvt_receive(f.receiver, &a), KVT_DONE);
    cr_assert(fixture_same(&f, &job, &job));
    cr_assert(kvt_sent(f.sender, &done));
    fixture_close(&f);
}

Test(local, a_full_channel_takes_no_more_until_completions_are_read) {
    fixture f;
    fixture_open_local(&f);
    uint32_t done;
    kvt_arrival a;
    for (uint32_t i = 0; i < KVT_JOBS_MAX; i++) {
        kvt_job job = fixture_job(i, 0, 1);
        cr_assert_eq(kvt_send(f.sender, &job), KVT_DONE);
        cr_assert_eq(kvt_post(f.receiver, &job), KVT_DONE);
    }
    kvt_job next = fixture_job(KVT_JOBS_MAX, 0, 1);
    cr_assert_eq(kvt_send(f.sender, &next), KVT_AGAIN);
    cr_assert_eq(kvt_receive(f.receiver, &a), KVT_DONE);
    cr_assert_eq(kvt_send(f.sender, &next), KVT_AGAIN);
    cr_assert(kvt_sent(f.sender, &done));
    cr_assert_eq(kvt_send(f.sender, &next), KVT_DONE);
    fixture_close(&f);
}

Test(local, what_was_sent_is_not_read_after_the_sender_left) {
    fixture f;
    fixture_open_local(&f);
    kvt_arrival a;
    kvt_job job = fixture_job(0, 0, 1);
    cr_assert_eq(kvt_send(f.sender, &job), KVT_DONE);
    cr_assert_eq(kvt_post(f.receiver, &job), KVT_DONE);
    kvt_close(f.sender);
    f.sender = NULL;
    free(f.from); /* the pages go with their owner */
    f.from = NULL;
    cr_assert_eq(kvt_receive(f.receiver, &a), KVT_FAILED);
    cr_assert_eq(kvt_receive(f.receiver, &a), KVT_FAILED);
    fixture_close(&f);
}

Test(local, sending_to_a_side_that_left_fails) {
    fixture f;
    fixture_open_local(&f);
    kvt_job job = fixture_job(0, 0, 1);
    kvt_close(f.receiver);
    f.receiver = NULL;
    cr_assert_eq(kvt_send(f.sender, &job), KVT_FAILED);
    fixture_close(&f);
}
