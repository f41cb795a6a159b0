/* pool_test.c -- who joins, who meets whom, who has gone silent. */
#define _GNU_SOURCE
#include "server/gateway/pool.h"

#include <criterion/criterion.h>
#include <sys/socket.h>
#include <unistd.h>

enum { P = MESSAGE_ROLE_PREFILL, D = MESSAGE_ROLE_DECODE, BOTH = P | D, MANY = 40 };

typedef struct {
    pool p;
    wire *workers[MANY]; /* the far ends */
    message_scratch *scratch;
} bench;

static void start(bench *b) {
    diag d;
    *b = (bench){0};
    cr_assert_eq(pool_open(&b->p, &d), STATUS_OK);
    cr_assert_eq(message_scratch_open(&b->scratch), STATUS_OK);
}

static void stop(bench *b) {
    for (int i = 0; i < MANY; i++) {
        wire_close(b->workers[i]);
    }
    message_scratch_close(b->scratch);
    pool_close(&b->p);
}

static void add(bench *b, uint32_t worker, int64_t now_us) {
    int fds[2];
    cr_assert_eq(wire_pair(fds), STATUS_OK);
    cr_assert_eq(pool_add(&b->p, worker, fds[0], now_us), STATUS_OK);
    cr_assert_eq(wire_open(fds[1], 1 << 20, &b->workers[worker]), STATUS_OK);
}

static message_hello hello_of(uint32_t worker, uint32_t roles) {
    return (message_hello){.version = MESSAGE_VERSION,
                           .worker = worker,
                           .epoch = 100 + worker,
                           .roles = roles,
                           .model_hash = 0xABC,
                           .pages = 50,
                           .context_tokens = 512};
}

static void join(bench *b, uint32_t worker, uint32_t roles) {
    diag d;
    message_hello h = hello_of(worker, roles);
    add(b, worker, 0);
    cr_assert_eq(pool_join(&b->p, worker, &h, &d), STATUS_OK, "%s", d.text);
}

/* The next introduction a worker hears; -1 when there is none. */
static int next_peer(bench *b, uint32_t worker, message_peer *out) {
    str bytes;
    int fd;
    message m;
    diag d;
    pool_flush(&b->p);
    if (wire_receive(b->workers[worker], &bytes, &fd) != WIRE_MESSAGE) {
        return -1;
    }
    cr_assert_eq(message_decode(bytes, b->scratch, &m, &d), STATUS_OK);
    cr_assert_eq(m.type, MESSAGE_PEER);
    *out = m.peer;
    cr_assert_geq(fd, 0);
    return fd;
}

static void expect_joined(int a, int b) {
    char byte = 'x';
    cr_assert_eq(send(a, &byte, 1, 0), 1);
    byte = 0;
    cr_assert_eq(recv(b, &byte, 1, 0), 1);
    cr_assert_eq(byte, 'x');
    close(a);
    close(b);
}

Test(pool, prefill_meets_decode_over_a_socket_of_their_own) {
    bench b;
    message_peer mine, theirs;
    start(&b);
    join(&b, 0, P);
    cr_assert_eq(next_peer(&b, 0, &mine), -1);
    join(&b, 1, D);
    int near = next_peer(&b, 0, &mine), far = next_peer(&b, 1, &theirs);
    cr_assert(mine.worker == 1 && mine.epoch == 101 && mine.roles == D);
    cr_assert(theirs.worker == 0 && theirs.epoch == 100 && theirs.roles == P);
    expect_joined(near, far);
    join(&b, 2, P); /* meets the decode worker, not its own kind */
    near = next_peer(&b, 2, &mine);
    far = next_peer(&b, 1, &theirs);
    cr_assert(mine.worker == 1 && theirs.worker == 2);
    expect_joined(near, far);
    cr_assert_eq(next_peer(&b, 0, &mine), -1);
    cr_assert_eq(next_peer(&b, 2, &mine), -1);
    stop(&b);
}

Test(pool, a_new_life_of_a_worker_is_introduced_again) {
    bench b;
    message_peer mine, theirs;
    start(&b);
    join(&b, 0, P);
    join(&b, 1, D);
    close(next_peer(&b, 0, &mine));
    close(next_peer(&b, 1, &theirs));
    pool_drop(&b.p, 1);
    cr_assert_not(b.p.views[1].up);
    wire_close(b.workers[1]);
    b.workers[1] = NULL;
    add(&b, 1, 0);
    message_hello h = hello_of(1, D);
    h.epoch = 999;
    diag d;
    cr_assert_eq(pool_join(&b.p, 1, &h, &d), STATUS_OK);
    int near = next_peer(&b, 0, &mine), far = next_peer(&b, 1, &theirs);
    cr_assert_eq(mine.epoch, 999);
    expect_joined(near, far);
    stop(&b);
}

Test(pool, a_whole_pool_that_comes_at_once_is_introduced) {
    bench b;
    message_peer who;
    int heard[MANY] = {0};
    start(&b);
    for (uint32_t i = 0; i < MANY; i++) { /* nothing is flushed meanwhile */
        join(&b, i, i % 4 ? P : D);
    }
    for (uint32_t i = 0; i < MANY; i++) {
        for (int fd; (fd = next_peer(&b, i, &who)) >= 0; heard[i]++) {
            cr_assert_eq(who.roles, i % 4 ? D : P);
            close(fd);
        }
    }
    for (uint32_t i = 0; i < MANY; i++) {
        cr_expect_eq(heard[i], i % 4 ? MANY / 4 : MANY - MANY / 4, "worker %u: %d", i, heard[i]);
    }
    stop(&b);
}

Test(pool, a_hello_that_does_not_fit_is_refused) {
    bench b;
    diag d;
    start(&b);
    join(&b, 0, P);
    for (int i = 0; i < 5; i++) {
        message_hello h = hello_of(1, D);
        const char *word = "";
        add(&b, 1, 0);
        switch (i) {
            case 0:
                h.version++;
                word = "protocol";
                break;
            case 1:
                h.worker = 3;
                word = "worker 3";
                break;
            case 2:
                h.roles = 0;
                word = "roles 0";
                break;
            case 3:
                h.model_hash++;
                word = "model";
                break;
            default:
                break;
        }
        status s = pool_join(&b.p, 1, &h, &d);
        cr_assert_eq(s, i < 4 ? STATUS_MISMATCH : STATUS_OK);
        cr_assert(i == 4 || str_find(str_from(d.text), str_from(word), 0) != SIZE_MAX, "%s",
                  d.text);
        cr_assert_eq(b.p.views[1].up, i == 4);
        if (i == 4) { /* and a second one is */
            cr_assert_eq(pool_join(&b.p, 1, &h, &d), STATUS_MISMATCH);
        }
        pool_drop(&b.p, 1);
        wire_close(b.workers[1]);
        b.workers[1] = NULL;
    }
    stop(&b);
}

Test(pool, is_ready_when_each_role_that_is_wanted_is_there) {
    static const struct {
        uint32_t wanted, roles[2];
        bool ready;
    } cases[] = {
        {BOTH, {P, P}, false},   {BOTH, {D, D}, false}, {BOTH, {P, D}, true},
        {BOTH, {BOTH, D}, true}, {D, {D, D}, true},     {D, {P, P}, false},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        bench b;
        start(&b);
        b.p.roles_wanted = cases[i].wanted;
        cr_assert_not(pool_ready(&b.p));
        join(&b, 0, cases[i].roles[0]);
        join(&b, 1, cases[i].roles[1]);
        cr_assert_eq(pool_ready(&b.p), cases[i].ready, "case %zu", i);
        b.p.views[0].draining = b.p.views[1].draining = true;
        cr_assert_not(pool_ready(&b.p));
        pool_drop(&b.p, 0);
        pool_drop(&b.p, 1);
        cr_assert_not(pool_ready(&b.p));
        stop(&b);
    }
}

Test(pool, silence_counts_from_the_last_word_or_from_the_start) {
    bench b;
    start(&b);
    cr_assert_eq(pool_silent(&b.p, 1000000, 10, 10), LIMIT_WORKERS);
    join(&b, 0, P);
    add(&b, 1, 500);
    b.p.workers[0].heard_us = 1000;
    cr_assert_eq(pool_silent(&b.p, 1100, 100, 10000), LIMIT_WORKERS);
    cr_assert_eq(pool_silent(&b.p, 1101, 100, 10000), 0);
    b.p.workers[0].heard_us = 20000;
    cr_assert_eq(pool_silent(&b.p, 10500, 100, 10000), LIMIT_WORKERS);
    cr_assert_eq(pool_silent(&b.p, 10501, 100, 10000), 1);
    stop(&b);
}

Test(pool, what_is_sent_counts_until_the_next_heartbeat) {
    bench b;
    start(&b);
    join(&b, 0, P);
    join(&b, 1, D);
    router_request r = {.prompt_count = 40, .delivered = 3};
    router_choice c = {.prefill = 0, .decode = 1};
    router_charge(b.p.views, &c, &r, LIMIT_PAGE_TOKENS);
    cr_assert(b.p.views[0].queued_tokens == 43 && b.p.views[0].waiting == 1);
    cr_assert(b.p.views[1].running == 1 && b.p.views[1].queued_tokens == 0);
    cr_assert_lt(b.p.views[1].pages_free, 50);
    c.prefill = MESSAGE_NO_WORKER; /* D computes the prompt itself */
    router_charge(b.p.views, &c, &r, LIMIT_PAGE_TOKENS);
    cr_assert_eq(b.p.views[1].queued_tokens, 43);
    for (int i = 0; i < 100; i++) {
        router_charge(b.p.views, &c, &r, LIMIT_PAGE_TOKENS);
    }
    cr_assert_eq(b.p.views[1].pages_free, 0);
    message_heartbeat h = {.pages_free = 40, .pages_total = 50, .running = 2, .step_us = 9};
    pool_heartbeat(&b.p, 1, &h, 5);
    cr_assert(b.p.views[1].pages_free == 40 && b.p.views[1].running == 2 &&
              b.p.views[1].queued_tokens == 0 && b.p.views[1].step_us == 9);
    stop(&b);
}

Test(pool, sending_to_a_worker_that_is_not_there_fails) {
    bench b;
    start(&b);
    message m = {.type = MESSAGE_DRAIN};
    cr_assert_not(pool_send(&b.p, 0, &m));
    join(&b, 0, P);
    cr_assert(pool_send(&b.p, 0, &m));
    pool_metrics(&b.p, 0, str_from("old"));
    pool_metrics(&b.p, 0, str_from("newer"));
    cr_assert(str_equal_z(strbuf_str(&b.p.workers[0].metrics), "newer"));
    cr_assert_str_eq(b.p.workers[0].label, "role=\"prefill\",worker=\"0\"");
    cr_assert_str_eq(pool_role_name(BOTH), "both");
    cr_assert_str_eq(pool_role_name(D), "decode");
    stop(&b);
}

/* ---- other hosts ---------------------------------------------------------------------------- */

static const seal_keys here_keys = {{1}, {2}}, there_keys = {{2}, {1}};

static void join_remote(bench *b, uint32_t worker, uint32_t roles, const char *address) {
    diag d;
    int fds[2];
    message_hello h = hello_of(worker, roles);
    h.address = str_from(address);
    cr_assert_eq(wire_pair(fds), STATUS_OK);
    cr_assert_eq(pool_add_remote(&b->p, worker, h.epoch, fds[0], &here_keys, 0), STATUS_OK);
    cr_assert_eq(wire_open_waiting(1 << 20, &b->workers[worker]), STATUS_OK);
    cr_assert_eq(wire_attach(b->workers[worker], fds[1], &there_keys), STATUS_OK);
    cr_assert_eq(pool_join(&b->p, worker, &h, &d), STATUS_OK, "%s", d.text);
}

/* The next message of a worker; its texts live until the next one. */
static bool hear(bench *b, uint32_t worker, message *m) {
    str bytes;
    int fd;
    diag d;
    pool_flush(&b->p);
    if (wire_receive(b->workers[worker], &bytes, &fd) != WIRE_MESSAGE) {
        return false;
    }
    cr_assert_eq(message_decode(bytes, b->scratch, m, &d), STATUS_OK, "%s", d.text);
    cr_assert_eq(fd, -1);
    return true;
}

static void expect_introduced(bench *b, uint32_t dials, uint32_t awaits, const char *address,
                              bool mend) {
    message m;
    cr_assert(hear(b, dials, &m));
    cr_assert(m.type == MESSAGE_PEER && m.peer.how == MESSAGE_PEER_DIAL && m.peer.mend == mend);
    cr_assert(m.peer.worker == awaits && m.peer.epoch == 100 + awaits);
    cr_assert(str_equal_z(m.peer.address, address));
    cr_assert(hear(b, awaits, &m));
    cr_assert(m.type == MESSAGE_PEER && m.peer.how == MESSAGE_PEER_AWAIT && m.peer.mend == mend);
    cr_assert(m.peer.worker == dials && m.peer.epoch == 100 + dials);
    cr_assert_not(hear(b, dials, &m));
    cr_assert_not(hear(b, awaits, &m));
}

Test(pool, a_pair_of_which_one_is_remote_is_introduced_by_address) {
    bench b;
    start(&b);
    join(&b, 0, P);
    join_remote(&b, 1, D, "10.0.0.2:71");
    expect_introduced(&b, 0, 1, "10.0.0.2:71", false);
    join_remote(&b, 2, P, "10.0.0.3:72");
    expect_introduced(&b, 2, 1, "10.0.0.2:71", false);
    pool_rejoin(&b.p, 1, 2, 5000000);
    expect_introduced(&b, 2, 1, "10.0.0.2:71", true);
    stop(&b);
}

Test(pool, of_two_that_can_both_dial_the_lower_number_does) {
    for (int order = 0; order < 2; order++) {
        bench b;
        start(&b);
        join_remote(&b, order ? 3 : 1, BOTH, order ? "10.0.0.3:73" : "10.0.0.1:71");
        join_remote(&b, order ? 1 : 3, BOTH, order ? "10.0.0.1:71" : "10.0.0.3:73");
        expect_introduced(&b, 1, 3, "10.0.0.3:73", false);
        stop(&b);
    }
}

Test(pool, another_life_than_was_dialled_or_another_kind_of_worker_is_not_joined) {
    bench b;
    int fds[2];
    diag d;
    message m;
    start(&b);
    join_remote(&b, 0, P, "10.0.0.1:71");
    cr_assert_eq(wire_pair(fds), STATUS_OK);
    cr_assert_eq(pool_add_remote(&b.p, 1, 555, fds[0], &here_keys, 0), STATUS_OK);
    close(fds[1]);
    message_hello h = hello_of(1, D);
    cr_assert_eq(pool_join(&b.p, 1, &h, &d), STATUS_MISMATCH);
    h.epoch = 555;
    h.numerics = str_from("cuda-9.0");
    cr_assert_eq(pool_join(&b.p, 1, &h, &d), STATUS_MISMATCH);
    cr_assert_str_eq(d.param, "numerics class");
    cr_assert_not(b.p.views[1].up);
    pool_goodbye(&b.p, 0, "of no more use");
    cr_assert(hear(&b, 0, &m));
    cr_assert(m.type == MESSAGE_GOODBYE && str_equal_z(m.goodbye, "of no more use"));
    stop(&b);
}

Test(pool, by_address_on_one_machine_too_when_asked) {
    bench b;
    diag d;
    start(&b);
    b.p.by_address = true;
    join(&b, 0, P);
    message_hello h = hello_of(1, D);
    h.address = str_from("127.0.0.1:71");
    add(&b, 1, 0);
    cr_assert_eq(pool_join(&b.p, 1, &h, &d), STATUS_OK);
    expect_introduced(&b, 0, 1, "127.0.0.1:71", false);
    stop(&b);
}

/* Their channel has a connection of its own. */
Test(pool, workers_on_gpus_of_one_machine_meet_by_address_and_others_by_socket) {
    bench b;
    diag d;
    start(&b);
    for (uint32_t i = 0; i < 3; i++) {
        message_hello h = hello_of(i, i == 0 ? P : D);
        h.address = str_from("127.0.0.1:71");
        h.transports = HELLO_BIT(HELLO_SHM) | HELLO_BIT(HELLO_TCP);
        h.transports |= i < 2 ? HELLO_BIT(HELLO_IPC) : 0;
        h.device = i < 2 ? 0x500000001 : 0;
        add(&b, i, 0);
        cr_assert_eq(pool_join(&b.p, i, &h, &d), STATUS_OK);
        if (i == 1) {
            expect_introduced(&b, 0, 1, "127.0.0.1:71", false);
        }
    }
    message_peer who;
    int fd = next_peer(&b, 0, &who);
    cr_assert(fd >= 0 && who.worker == 2);
    close(fd);
    stop(&b);
}
