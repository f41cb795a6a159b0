/* peers_test.c -- slots, links that break, sends that wait for room. */
#define _GNU_SOURCE
#include "engine/worker/peers.h"

#include <criterion/criterion.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "engine/base/rng.h"

enum { UNIT = 1024, PAGES = 64 };

static uint8_t memory[2][PAGES][UNIT];

static uint8_t *page_of(void *context, uint32_t layer, uint32_t page) {
    cr_assert(layer == 0 && page < PAGES);
    return ((uint8_t(*)[UNIT])context)[page];
}

static int open_fds(void) {
    int count = 0;
    for (int fd = 0; fd < 1024; fd++) {
        count += fcntl(fd, F_GETFD) >= 0;
    }
    return count;
}

static peers *open_peers(void) {
    peers *p = malloc(sizeof *p);
    diag d;
    cr_assert_eq(peers_open(p, &d), STATUS_OK);
    return p;
}

static void close_peers(peers *p) {
    peers_close(p);
    free(p);
}

/* A peer, and its far end as a wire. */
static uint32_t add(peers *p, uint32_t worker, wire **far) {
    int fds[2];
    uint32_t slot;
    diag d;
    message_peer who = {.worker = worker, .epoch = 5, .roles = MESSAGE_ROLE_DECODE};
    cr_assert_eq(wire_pair(fds), STATUS_OK);
    cr_assert_eq(peers_add(p, fds[0], worker == MESSAGE_NO_WORKER ? CORE_GATEWAY : CORE_WORKER,
                           &who, &slot, &d),
                 STATUS_OK);
    cr_assert_eq(wire_open(fds[1], 1 << 20, far), STATUS_OK);
    return slot;
}

Test(peers, slots_are_found_dropped_and_used_again) {
    int before = open_fds();
    peers *p = open_peers();
    wire *far[3];
    cr_assert_eq(add(p, MESSAGE_NO_WORKER, &far[0]), 0);
    cr_assert_eq(add(p, 7, &far[1]), 1);
    cr_assert_eq(add(p, 8, &far[2]), 2);
    cr_assert_eq(peers_find(p, 7), 1);
    cr_assert_eq(peers_find(p, 8), 2);
    cr_assert_eq(peers_find(p, 9), PEERS_MAX);
    cr_assert_eq(peers_find(p, MESSAGE_NO_WORKER), PEERS_MAX, "a gateway is no worker");
    peers_drop(p, 1);
    cr_assert_eq(peers_find(p, 7), PEERS_MAX);
    str m;
    int fd;
    cr_assert_eq(wire_receive(far[1], &m, &fd), WIRE_CLOSED);
    wire_close(far[1]);
    cr_assert_eq(add(p, 9, &far[1]), 1);
    close_peers(p);
    for (int i = 0; i < 3; i++) {
        wire_close(far[i]);
    }
    cr_assert_eq(open_fds(), before);
}

Test(peers, one_link_too_many_is_refused_and_its_socket_closed) {
    peers *p = open_peers();
    static wire *far[PEERS_MAX];
    for (uint32_t i = 0; i < PEERS_MAX; i++) {
        cr_assert_eq(add(p, i, &far[i]), i);
    }
    int fds[2];
    uint32_t slot;
    diag d;
    message_peer who = {.worker = 99};
    int before = open_fds();
    cr_assert_eq(wire_pair(fds), STATUS_OK);
    cr_assert_eq(peers_add(p, fds[0], CORE_WORKER, &who, &slot, &d), STATUS_LIMIT);
    close(fds[1]);
    cr_assert_eq(open_fds(), before);
    close_peers(p);
    for (uint32_t i = 0; i < PEERS_MAX; i++) {
        wire_close(far[i]);
    }
}

Test(peers, what_was_sent_arrives_after_the_peer_reads_again) {
    enum { EACH = 4096, MESSAGES = 2000 };
    peers *p = open_peers();
    wire *far;
    uint32_t slot = add(p, 3, &far);
    static char text[EACH];
    for (uint32_t i = 0; i < MESSAGES; i++) {
        memcpy(text, &i, sizeof i);
        peers_send(p, slot, str_of(text, EACH));
    }
    peers_flush(p);
    cr_assert(p->slots[slot].writing, "what waits is polled for");
    uint32_t heard = 0;
    while (heard < MESSAGES) {
        str m;
        int fd;
        wire_result r = wire_receive(far, &m, &fd);
        cr_assert_neq(r, WIRE_CLOSED);
        if (r == WIRE_AGAIN) {
            struct epoll_event e;
            cr_assert_eq(epoll_wait(p->epoll_fd, &e, 1, 60000), 1);
            cr_assert_eq(e.data.u64, peers_tag(slot, PEERS_WIRE));
            peers_flush(p);
            continue;
        }
        cr_assert_eq(memcmp(m.data, &heard, sizeof heard), 0);
        heard++;
    }
    peers_flush(p);
    cr_assert_not(p->slots[slot].writing);
    close_peers(p);
    wire_close(far);
}

Test(peers, a_peer_that_never_reads_is_doomed_not_a_growing_one) {
    peers *p = open_peers();
    wire *far;
    uint32_t slot = add(p, 3, &far);
    char *text = calloc(1, 1 << 20);
    for (int i = 0; i < 200 && !p->slots[slot].doomed; i++) {
        peers_send(p, slot, str_of(text, 1 << 20));
    }
    cr_assert(p->slots[slot].doomed);
    peers_send(p, slot, str_from("more")); /* is dropped */
    free(text);
    close_peers(p);
    wire_close(far);
}

Test(peers, a_job_without_a_channel_dooms_the_link) {
    peers *p = open_peers();
    wire *far;
    uint32_t slot = add(p, 3, &far);
    kvt_job job = {.layers = 1, .pages_count = 1};
    peers_push(p, slot, &job);
    cr_assert(p->slots[slot].doomed);
    close_peers(p);
    wire_close(far);
}

/* The far end of an offered ring. */
static kvt *accept_offer(wire *far) {
    kvt_pool pool = {page_of, memory[1], UNIT};
    shm_pending offer = {0};
    kvt *channel = NULL;
    shm_pending_clear(&offer);
    for (int i = 0; i < 3; i++) {
        str m;
        int fd;
        diag d;
        cr_assert_eq(wire_receive(far, &m, &fd), WIRE_MESSAGE);
        cr_assert_eq(shm_accept(&offer, &pool, m, fd, &channel, &d), STATUS_OK);
    }
    return channel;
}

Test(peers, jobs_wait_in_order_for_room_in_the_ring) {
    enum { JOBS = 600, EACH = 20 };
    peers *p = open_peers();
    wire *far;
    uint32_t slot = add(p, 3, &far), done = 0, sequence;
    kvt_pool pool = {page_of, memory[0], UNIT};
    peer *s = &p->slots[slot];
    diag d;
    cr_assert_eq(shm_offer(&pool, SHM_RING_BYTES_MIN, 1, s->wire, &s->sender, &d), STATUS_OK);
    peers_flush(p);
    kvt *receiver = accept_offer(far);
    kvt_job job = {.layers = 1, .pages_count = EACH};
    for (uint32_t i = 0; i < EACH; i++) {
        job.pages[i] = i;
        memset(memory[0][i], (int)i + 1, UNIT);
    }
    for (job.sequence = 0; job.sequence < JOBS; job.sequence++) {
        peers_push(p, slot, &job);
    }
    cr_assert_gt(s->waiting_count, JOBS / 2);
    for (uint32_t i = 0; i < JOBS; i++) {
        kvt_arrival a;
        job.sequence = i;
        cr_assert_eq(kvt_post(receiver, &job), KVT_DONE);
        cr_assert_eq(kvt_receive(receiver, &a), KVT_DONE);
        cr_assert_eq(a.outcome, KVT_ARRIVED);
        peers_retry(p, slot);
        while (kvt_sent(s->sender, &sequence)) {
            cr_assert_eq(sequence, done++);
        }
    }
    cr_assert(s->waiting_count == 0 && done == JOBS && !s->doomed);
    cr_assert_arr_eq(memory[1], memory[0], EACH * UNIT);
    for (uint32_t i = 0; i <= 2 * KVT_JOBS_MAX && !s->doomed; i++) {
        job.sequence = JOBS + i;
        peers_push(p, slot, &job);
    }
    cr_assert(s->doomed, "more than can wait");
    close_peers(p);
    kvt_close(receiver);
    wire_close(far);
}
