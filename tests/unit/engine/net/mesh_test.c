/* mesh_test.c -- connections over loopback: through, refused, too many, too slow. */
#define _GNU_SOURCE
#include "engine/net/mesh.h"

#include <criterion/criterion.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "engine/base/clock.h"
#include "engine/base/log.h"

static mesh *node(uint64_t epoch, char key) {
    mesh_options o = {.self = {HANDSHAKE_WORKER, 1, (uint32_t)epoch % 64, epoch},
                      .version_min = 2,
                      .version_max = 2};
    mesh *m;
    diag d;
    memset(o.key, key, sizeof o.key);
    log_setup(LOG_OFF, false, "test");
    cr_assert_eq(mesh_open(&o, &m, &d), STATUS_OK);
    return m;
}

static mesh *listening(uint64_t epoch, char key) {
    mesh *m = node(epoch, key);
    hostport a;
    diag d;
    cr_assert_eq(hostport_parse(str_from("127.0.0.1:0"), true, &a, &d), STATUS_OK);
    cr_assert_eq(mesh_listen(m, &a, &d), STATUS_OK, "%s", d.text);
    return m;
}

static mesh_call call_to(const mesh *m, uint64_t tag) {
    return (mesh_call){.address = mesh_address(m), .purpose = HANDSHAKE_CONTROL, .tag = tag};
}

/* The next event of `m`, while `other` is moved on too; their events go to *others. */
static mesh_event wait_event(mesh *m, mesh *other, mesh_event *others) {
    mesh_event e;
    for (int i = 0; i < 2000; i++) {
        if (mesh_next(m, clock_now_us(), &e)) {
            return e;
        }
        if (other) {
            mesh_event o;
            if (mesh_next(other, clock_now_us(), &o)) {
                *others = o;
            }
        }
        struct pollfd p[2] = {{mesh_fd(m), POLLIN, 0}, {other ? mesh_fd(other) : -1, POLLIN, 0}};
        (void)poll(p, 2, 20);
    }
    cr_assert_fail("nothing came");
    return e;
}

Test(mesh, a_call_comes_out_as_two_ends_with_the_same_keys) {
    mesh *a = node(10, 'k'), *b = listening(20, 'k');
    mesh_call call = call_to(b, 77);
    memset(call.token, 5, sizeof call.token);
    call.purpose = HANDSHAKE_PUSH;
    cr_assert_eq(mesh_dial(a, &call, clock_now_us()), STATUS_OK);
    mesh_event there = {.fd = -1};
    mesh_event here = wait_event(a, b, &there);
    cr_assert_eq(here.type, MESH_CONNECTED, "%s", here.why.text);
    cr_assert_eq(here.tag, 77);
    cr_assert(here.peer.epoch == 20);
    /* What is sent right behind the handshake is not eaten by it. */
    cr_assert_eq(send(here.fd, "hello", 5, 0), 5);
    if (there.fd < 0) {
        there = wait_event(b, NULL, NULL);
    }
    cr_assert_eq(there.type, MESH_ACCEPTED);
    cr_assert(there.peer.epoch == 10 && there.purpose == HANDSHAKE_PUSH && there.token[3] == 5);
    cr_assert_arr_eq(here.keys.send, there.keys.receive, SEAL_KEY_BYTES);
    cr_assert_arr_eq(here.secret, there.secret, HANDSHAKE_KEY_BYTES);
    char text[8];
    struct pollfd p = {there.fd, POLLIN, 0};
    cr_assert_eq(poll(&p, 1, 5000), 1);
    cr_assert_eq(recv(there.fd, text, sizeof text, 0), 5);
    close(here.fd);
    close(there.fd);
    mesh_close(a);
    mesh_close(b);
}

Test(mesh, another_key_fails_with_the_reason_on_the_spot) {
    mesh *a = node(10, 'k'), *b = listening(20, 'x');
    mesh_call call = call_to(b, 1);
    int64_t begun = clock_now_us();
    cr_assert_eq(mesh_dial(a, &call, begun), STATUS_OK);
    mesh_event other;
    mesh_event e = wait_event(a, b, &other);
    cr_assert_eq(e.type, MESH_FAILED);
    cr_assert(e.refused);
    cr_assert(str_find(str_from(e.why.text), str_from("keys differ"), 0) != SIZE_MAX);
    for (int i = 0; i < 500 && mesh_get_counts(b).refused == 0; i++) {
        cr_assert_not(mesh_next(b, clock_now_us(), &other));
        usleep(2000);
    }
    cr_assert_eq(mesh_get_counts(b).refused, 1);
    mesh_close(a);
    mesh_close(b);
}

Test(mesh, nobody_at_the_address_fails) {
    mesh *a = node(10, 'k'), *b = listening(20, 'k');
    mesh_call call = call_to(b, 9);
    mesh_close(b);
    cr_assert_eq(mesh_dial(a, &call, clock_now_us()), STATUS_OK);
    mesh_event e = wait_event(a, NULL, NULL);
    cr_assert(e.type == MESH_FAILED && e.tag == 9 && !e.refused);
    mesh_close(a);
}

static int plain_client(const mesh *b) {
    hostport a = mesh_address(b);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    cr_assert_eq(connect(fd, &a.any, a.bytes), 0);
    return fd;
}

static bool is_closed(int fd) {
    char c;
    struct pollfd p = {fd, POLLIN, 0};
    return poll(&p, 1, 0) == 1 && recv(fd, &c, 1, MSG_PEEK | MSG_DONTWAIT) <= 0;
}

Test(mesh, silent_strangers_are_ended_by_the_deadline_of_virtual_time) {
    mesh *b = listening(20, 'k');
    mesh_event e;
    int fds[8];
    for (int i = 0; i < 8; i++) {
        fds[i] = plain_client(b);
        cr_assert_eq(send(fds[i], "WEIR", (size_t)i % 5, 0), i % 5);
    }
    int64_t now = 1000000;
    usleep(20000);
    cr_assert_not(mesh_next(b, now, &e));
    cr_assert_not(mesh_next(b, now + MESH_HANDSHAKE_US - 1, &e));
    for (int i = 0; i < 8; i++) {
        cr_assert_not(is_closed(fds[i]));
    }
    cr_assert_not(mesh_next(b, now + MESH_HANDSHAKE_US, &e));
    for (int i = 0; i < 8; i++) {
        cr_assert(is_closed(fds[i]), "%d", i);
        close(fds[i]);
    }
    cr_assert_eq(mesh_get_counts(b).timed_out, 8);
    mesh_close(b);
}

Test(mesh, more_half_open_than_the_limit_end_the_oldest_and_the_honest_get_through) {
    mesh *a = node(10, 'k'), *b = listening(20, 'k');
    mesh_event e, there;
    int fds[3 * MESH_HALF_OPEN];
    for (int i = 0; i < 3 * MESH_HALF_OPEN; i++) {
        fds[i] = plain_client(b);
        cr_assert_not(mesh_next(b, 1000 + i, &e));
    }
    for (int i = 0; i < 3 * MESH_HALF_OPEN; i++) {
        cr_assert_eq(is_closed(fds[i]), i < 2 * MESH_HALF_OPEN, "%d", i);
    }
    cr_assert_eq(mesh_get_counts(b).crowded_out, 2 * MESH_HALF_OPEN);
    mesh_call call = call_to(b, 4);
    cr_assert_eq(mesh_dial(a, &call, clock_now_us()), STATUS_OK);
    e = wait_event(a, b, &there);
    cr_assert_eq(e.type, MESH_CONNECTED, "%s", e.why.text);
    close(e.fd);
    for (int i = 0; i < 3 * MESH_HALF_OPEN; i++) {
        close(fds[i]);
    }
    mesh_close(a);
    mesh_close(b);
}

Test(mesh, garbage_is_answered_with_a_refusal_and_an_end) {
    mesh *b = listening(20, 'k');
    mesh_event e;
    int fd = plain_client(b);
    cr_assert_eq(send(fd, "GET / HT", 8, 0), 8);
    char text[128] = "";
    for (int i = 0; i < 500 && !is_closed(fd); i++) {
        cr_assert_not(mesh_next(b, clock_now_us(), &e));
        ssize_t n = recv(fd, text, sizeof text - 1, MSG_DONTWAIT);
        if (n > 0) {
            break;
        }
        usleep(1000);
    }
    cr_assert_eq(memcmp(text, "WEIR", 4), 0);
    cr_assert_eq(text[4], 5);
    close(fd);
    mesh_close(b);
}

Test(mesh, calls_beyond_the_limit_are_not_taken) {
    mesh *a = node(10, 'k'), *b = listening(20, 'k');
    mesh_call call = call_to(b, 1);
    for (int i = 0; i < MESH_CALLS; i++) {
        cr_assert_eq(mesh_dial(a, &call, clock_now_us()), STATUS_OK);
    }
    cr_assert_eq(mesh_dial(a, &call, clock_now_us()), STATUS_LIMIT);
    mesh_close(a);
    mesh_close(b);
}
