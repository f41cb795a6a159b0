/* listener_test.c -- ports that several processes share, and leaving one. */
#define _GNU_SOURCE
#include "server/http/listener.h"

#include <arpa/inet.h>
#include <criterion/criterion.h>
#include <errno.h>
#include <poll.h>
#include <stdbool.h>
#include <sys/socket.h>
#include <unistd.h>

enum { CONNECTIONS = 64, HANG_MS = 60000 };

static int open_port(uint16_t port, bool shared, uint16_t *got) {
    int fd = -1;
    diag d;
    cr_assert_eq(listener_open("127.0.0.1", port, shared, &fd, got, &d), STATUS_OK, "%s", d.text);
    return fd;
}

static void start(int fd) {
    diag d;
    cr_assert_eq(listener_start(fd, &d), STATUS_OK, "%s", d.text);
}

/* Begins to connect; the handshake goes on by itself. */
static int begin(uint16_t port) {
    struct sockaddr_in at = {
        .sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    cr_assert_geq(fd, 0);
    int code = connect(fd, (struct sockaddr *)&at, sizeof at);
    cr_assert(code == 0 || errno == EINPROGRESS || errno == ECONNREFUSED);
    return fd;
}

/* Waits for the handshake; false when it was refused or reset. */
static bool connected(int fd) {
    struct pollfd p = {.fd = fd, .events = POLLOUT};
    int error = 0;
    socklen_t bytes = sizeof error;
    cr_assert_eq(poll(&p, 1, HANG_MS), 1, "a connection hangs");
    cr_assert_eq(getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &bytes), 0);
    return error == 0 && !(p.revents & (POLLERR | POLLHUP));
}

static int accept_all(int listener) {
    int count = 0, fd;
    while ((fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC)) >= 0) {
        (void)close(fd);
        count++;
    }
    cr_assert_eq(errno, EAGAIN);
    return count;
}

Test(listener, a_port_of_ones_own_is_not_shared) {
    uint16_t port, other;
    int mine = open_port(0, false, &port), fd = -1;
    diag d;
    cr_assert_eq(listener_open("127.0.0.1", port, true, &fd, &other, &d), STATUS_IO);
    cr_assert_eq(listener_open("127.0.0.1", port, false, &fd, &other, &d), STATUS_IO);
    (void)close(mine);
    int shared = open_port(0, true, &port);
    start(shared);
    cr_assert_eq(listener_open("127.0.0.1", port, false, &fd, &other, &d), STATUS_IO);
    (void)close(shared);
}

Test(listener, who_shares_a_port_gets_nothing_before_it_starts_and_a_part_after) {
    uint16_t port, same;
    int first = open_port(0, true, &port), second = open_port(port, true, &same);
    int clients[2 * CONNECTIONS];
    cr_assert_eq(port, same);
    start(first);
    for (int i = 0; i < CONNECTIONS; i++) {
        clients[i] = begin(port);
        cr_assert(connected(clients[i]));
    }
    cr_assert_eq(accept_all(first), CONNECTIONS);
    start(second);
    for (int i = CONNECTIONS; i < 2 * CONNECTIONS; i++) {
        clients[i] = begin(port);
        cr_assert(connected(clients[i]));
    }
    int of_first = accept_all(first), of_second = accept_all(second);
    cr_assert_eq(of_first + of_second, CONNECTIONS);
    cr_assert(of_first > 0 && of_second > 0, "%d and %d", of_first, of_second);
    for (int i = 0; i < 2 * CONNECTIONS; i++) {
        (void)close(clients[i]);
    }
    (void)close(first);
    (void)close(second);
}

Test(listener, leaving_a_port_loses_no_connection) {
    uint16_t port, same;
    int leaves = open_port(0, true, &port), stays = open_port(port, true, &same);
    int before[CONNECTIONS], after[CONNECTIONS];
    diag d;
    start(leaves);
    start(stays);
    for (int i = 0; i < CONNECTIONS; i++) {
        before[i] = begin(port);
        cr_assert(connected(before[i]));
    }
    int waiting = CONNECTIONS - accept_all(stays); /* that the one that leaves has not accepted */
    cr_assert(waiting > 0 && waiting < CONNECTIONS, "%d", waiting);
    cr_assert_eq(listener_leave(leaves, &d), STATUS_OK, "%s", d.text);
    for (int i = 0; i < CONNECTIONS; i++) {
        after[i] = begin(port); /* some of them meet the one that leaves, and try again */
    }
    cr_assert_eq(accept_all(leaves), waiting, "what had begun is there, and nothing else");
    (void)close(leaves);
    for (int i = 0; i < CONNECTIONS; i++) {
        cr_assert(connected(after[i]), "connection %d was dropped", i);
        (void)close(after[i]);
        (void)close(before[i]);
    }
    cr_assert_eq(accept_all(stays), CONNECTIONS);
    (void)close(stays);
}

Test(listener, what_is_no_address_is_named) {
    uint16_t port;
    int fd = -1;
    diag d;
    cr_assert_eq(listener_open("not an address", 0, false, &fd, &port, &d), STATUS_INVALID);
    cr_assert_str_eq(d.param, "host");
}
