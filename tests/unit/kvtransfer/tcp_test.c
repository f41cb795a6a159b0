/* tcp_test.c -- what only the tcp transport has: a socket that fills, bytes that are changed on the
 * way, an end that comes in the middle. The attacker is the test, between the two sockets. */
#define _GNU_SOURCE
#include "kvtransfer/tcp.h"

#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "tests/unit/kvtransfer/kvt_fixture.h"

typedef struct {
    fixture f;
    int near, far; /* the attacker's ends: of the sender, of the receiver */
} taps;

static void open_taps(taps *t) {
    diag d;
    int left[2], right[2];
    fixture_pools(&t->f);
    kvt_pool from = fixture_view(t->f.from), to = fixture_view(t->f.to);
    cr_assert(wire_pair(left) == STATUS_OK && wire_pair(right) == STATUS_OK);
    cr_assert_eq(tcp_open(&from, FIXTURE_GENERATION, false, &t->f.sender, &d), STATUS_OK);
    cr_assert_eq(tcp_open(&to, FIXTURE_GENERATION, true, &t->f.receiver, &d), STATUS_OK);
    cr_assert_eq(tcp_attach(t->f.sender, left[0], &fixture_sender_keys, &d), STATUS_OK);
    cr_assert_eq(tcp_attach(t->f.receiver, right[0], &fixture_receiver_keys, &d), STATUS_OK);
    t->near = left[1];
    t->far = right[1];
}

static void close_taps(taps *t) {
    close(t->near);
    close(t->far);
    fixture_close(&t->f);
}

static size_t hear(const taps *t, uint8_t *out, size_t bytes_max) {
    size_t bytes = 0;
    ssize_t n;
    while ((n = recv(t->near, out + bytes, bytes_max - bytes, MSG_DONTWAIT)) > 0) {
        bytes += (size_t)n;
    }
    return bytes;
}

static void say(const taps *t, const uint8_t *data, size_t bytes) {
    cr_assert_eq(send(t->far, data, bytes, MSG_NOSIGNAL), (ssize_t)bytes);
}

Test(tcp, waits_for_its_connection) {
    fixture f;
    diag d;
    int fds[2];
    uint32_t done;
    kvt_arrival a;
    fixture_pools(&f);
    kvt_pool from = fixture_view(f.from), to = fixture_view(f.to);
    cr_assert_eq(tcp_open(&from, FIXTURE_GENERATION, false, &f.sender, &d), STATUS_OK);
    cr_assert_eq(tcp_open(&to, FIXTURE_GENERATION, true, &f.receiver, &d), STATUS_OK);
    kvt_job job = fixture_job(0, 1, 2);
    cr_assert_eq(kvt_send(f.sender, &job), KVT_AGAIN);
    cr_assert_not(kvt_sent(f.sender, &done));
    cr_assert_eq(kvt_post(f.receiver, &job), KVT_DONE);
    cr_assert_eq(kvt_receive(f.receiver, &a), KVT_AGAIN);
    cr_assert_not(tcp_attached(f.sender));
    cr_assert_eq(wire_pair(fds), STATUS_OK);
    cr_assert_eq(tcp_attach(f.sender, fds[0], &fixture_sender_keys, &d), STATUS_OK);
    cr_assert_eq(tcp_attach(f.receiver, fds[1], &fixture_receiver_keys, &d), STATUS_OK);
    cr_assert_eq(tcp_attach(f.receiver, dup(fds[1]), &fixture_receiver_keys, &d), STATUS_INVALID);
    struct pollfd p = {kvt_event_fd(f.sender), POLLIN, 0};
    cr_assert_eq(poll(&p, 1, 0), 1, "there is room now");
    cr_assert_eq(kvt_send(f.sender, &job), KVT_DONE);
    cr_assert_eq(kvt_receive(f.receiver, &a), KVT_DONE);
    cr_assert_eq(a.outcome, KVT_ARRIVED);
    cr_assert(fixture_same(&f, &job, &job));
    fixture_close(&f);
}

Test(tcp, a_job_larger_than_the_socket_goes_on_as_the_other_side_reads) {
    taps t;
    uint32_t done;
    kvt_arrival a;
    open_taps(&t);
    int small = 4096;
    cr_assert_eq(setsockopt(t.near, SOL_SOCKET, SO_RCVBUF, &small, sizeof small), 0);
    kvt_job job = fixture_job(0, 0, 40), next = fixture_job(1, 0, 1);
    uint64_t total = 2 * (FRAME_BYTES + 3 * SEAL_TAG_BYTES) + 120 * FIXTURE_UNIT, passed = 0;
    cr_assert_eq(kvt_post(t.f.receiver, &job), KVT_DONE);
    cr_assert_eq(kvt_send(t.f.sender, &job), KVT_DONE);
    int turns = 0;
    kvt_result r = KVT_AGAIN;
    for (; r == KVT_AGAIN && turns < 100000; turns++) {
        uint8_t part[1000];
        ssize_t n = recv(t.near, part, sizeof part, MSG_DONTWAIT);
        if (n > 0) {
            say(&t, part, (size_t)n);
            passed += (uint64_t)n;
        }
        r = kvt_receive(t.f.receiver, &a);
        if (passed < total / 4) {
            cr_assert_not(kvt_failed(t.f.sender));
        } else {
            (void)kvt_sent(t.f.sender, &done);
        }
    }
    cr_assert_eq(r, KVT_DONE);
    cr_assert_eq(a.outcome, KVT_ARRIVED);
    cr_assert(fixture_same(&t.f, &job, &job));
    cr_assert_eq(kvt_send(t.f.sender, &next), KVT_DONE);
    close_taps(&t);
}

/* One small job on its way: its bytes. */
static size_t one_job(taps *t, uint8_t *bytes, size_t bytes_max) {
    kvt_job job = fixture_job(0, 3, 1);
    open_taps(t);
    cr_assert_eq(kvt_send(t->f.sender, &job), KVT_DONE);
    cr_assert_eq(kvt_post(t->f.receiver, &job), KVT_DONE);
    return hear(t, bytes, bytes_max);
}

Test(tcp, of_a_hundred_thousand_flips_of_bits_none_is_accepted) {
    static uint8_t whole[8192], bytes[8192];
    taps t;
    uint64_t random = 21;
    kvt_arrival a;
    size_t count = one_job(&t, whole, sizeof whole);
    cr_assert_eq(count, (size_t)FRAME_BYTES + 2 * SEAL_TAG_BYTES + 3 * FIXTURE_UNIT);
    say(&t, whole, count);
    cr_assert_eq(kvt_receive(t.f.receiver, &a), KVT_DONE);
    cr_assert_eq(a.outcome, KVT_ARRIVED, "undamaged it is accepted");
    kvt_pool to = fixture_view(t.f.to);
    kvt_job job = fixture_job(0, 3, 1);
    diag d;
    for (int i = 0; i < 100000; i++) {
        int fds[2];
        kvt *receiver;
        memcpy(bytes, whole, count);
        size_t bit = (size_t)rng_below(&random, count * 8);
        bytes[bit / 8] ^= (uint8_t)(1 << bit % 8);
        cr_assert_eq(wire_pair(fds), STATUS_OK);
        cr_assert_eq(tcp_open(&to, FIXTURE_GENERATION, true, &receiver, &d), STATUS_OK);
        cr_assert_eq(tcp_attach(receiver, fds[0], &fixture_receiver_keys, &d), STATUS_OK);
        cr_assert_eq(kvt_post(receiver, &job), KVT_DONE);
        cr_assert_eq(send(fds[1], bytes, count, MSG_NOSIGNAL), (ssize_t)count);
        cr_assert_eq(kvt_receive(receiver, &a), KVT_FAILED, "bit %zu", bit);
        cr_assert_eq(kvt_receive(receiver, &a), KVT_FAILED);
        kvt_close(receiver);
        close(fds[1]);
    }
    close_taps(&t);
}

Test(tcp, a_frame_repeated_or_left_out_breaks_the_channel) {
    static uint8_t bytes[8192];
    taps t;
    kvt_arrival a;
    size_t count = one_job(&t, bytes, sizeof bytes);
    kvt_job again = fixture_job(0, 9, 1);
    cr_assert_eq(kvt_post(t.f.receiver, &again), KVT_DONE);
    say(&t, bytes, count);
    say(&t, bytes, count);
    cr_assert_eq(kvt_receive(t.f.receiver, &a), KVT_DONE);
    cr_assert_eq(a.outcome, KVT_ARRIVED);
    cr_assert_eq(kvt_receive(t.f.receiver, &a), KVT_FAILED, "repeated");
    close_taps(&t);
    (void)one_job(&t, bytes, sizeof bytes); /* and is not passed on */
    uint32_t done;
    kvt_job next = fixture_job(1, 3, 1);
    cr_assert(kvt_sent(t.f.sender, &done));
    cr_assert_eq(kvt_send(t.f.sender, &next), KVT_DONE);
    count = hear(&t, bytes, sizeof bytes);
    say(&t, bytes, count);
    cr_assert_eq(kvt_receive(t.f.receiver, &a), KVT_FAILED, "left out");
    close_taps(&t);
}

Test(tcp, cut_anywhere_it_is_an_end_and_no_arrival) {
    static uint8_t bytes[8192];
    for (size_t cut = 0; cut < 2200; cut += cut < 100 || cut > 2150 ? 1 : 97) {
        taps t;
        kvt_arrival a;
        size_t count = one_job(&t, bytes, sizeof bytes);
        cut = cut < count ? cut : count - 1;
        say(&t, bytes, cut);
        cr_assert_eq(kvt_receive(t.f.receiver, &a), KVT_AGAIN);
        cr_assert_eq(shutdown(t.far, SHUT_RDWR), 0);
        cr_assert_eq(kvt_receive(t.f.receiver, &a), KVT_FAILED, "cut at %zu", cut);
        close_taps(&t);
        if (cut == count - 1) {
            return;
        }
    }
}

Test(tcp, a_sender_notices_that_the_other_side_has_gone) {
    taps t;
    uint32_t done;
    open_taps(&t);
    cr_assert_not(kvt_sent(t.f.sender, &done));
    cr_assert_not(kvt_failed(t.f.sender));
    cr_assert_eq(shutdown(t.near, SHUT_RDWR), 0);
    struct pollfd p = {kvt_event_fd(t.f.sender), POLLIN, 0};
    cr_assert_eq(poll(&p, 1, 1000), 1);
    cr_assert_not(kvt_sent(t.f.sender, &done));
    cr_assert(kvt_failed(t.f.sender));
    kvt_job job = fixture_job(0, 0, 1);
    cr_assert_eq(kvt_send(t.f.sender, &job), KVT_FAILED);
    close_taps(&t);
}
