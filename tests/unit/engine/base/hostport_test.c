/* hostport_test.c -- what is an address, what is not, and a connection made from one. */
#define _GNU_SOURCE
#include "engine/base/hostport.h"

#include <criterion/criterion.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

Test(hostport, addresses_are_read_and_printed) {
    static const struct {
        const char *text, *printed;
        bool loopback, any;
    } cases[] = {
        {"127.0.0.1:80", "127.0.0.1:80", true, false},
        {"127.9.8.7:0", "127.9.8.7:0", true, false},
        {"0.0.0.0:65535", "0.0.0.0:65535", false, true},
        {"10.1.2.3:7000", "10.1.2.3:7000", false, false},
        {"[::1]:7000", "[::1]:7000", true, false},
        {"[::]:1", "[::]:1", false, true},
        {"[fd00::1]:1", "[fd00::1]:1", false, false},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        hostport a;
        diag d = {.text = ""};
        char text[HOSTPORT_TEXT_BYTES];
        cr_assert_eq(hostport_parse(str_from(cases[i].text), true, &a, &d), STATUS_OK, "%s: %s",
                     cases[i].text, d.text);
        hostport_print(&a, text);
        cr_assert_str_eq(text, cases[i].printed);
        cr_assert_eq(hostport_is_loopback(&a), cases[i].loopback, "%s", cases[i].text);
        cr_assert_eq(hostport_is_any(&a), cases[i].any, "%s", cases[i].text);
    }
}

Test(hostport, what_is_no_address_is_refused_by_its_text) {
    static const char *const cases[] = {"",         ":",           "7000",      ":7000",
                                        "1.2.3.4",  "1.2.3.4:",    "1.2.3.4:x", "1.2.3.4:65536",
                                        "::1:7000", "1.2.3.4:-1",  "[]:1",      "[1.2.3.4:1",
                                        "name:80",  "1.2.3:4:5:6", "[::1]7000", "[fe80::1%1]:1"};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        hostport a;
        diag d = {.text = ""};
        cr_assert_eq(hostport_parse(str_from(cases[i]), true, &a, &d), STATUS_INVALID, "%s",
                     cases[i]);
        cr_assert_gt(strlen(d.text), 8);
    }
}

Test(hostport, a_free_port_is_taken_and_can_be_dialled) {
    hostport a, got;
    diag d;
    int server, client;
    cr_assert_eq(hostport_parse(str_from("127.0.0.1:0"), true, &a, &d), STATUS_OK);
    cr_assert_eq(hostport_listen(&a, &server, &d), STATUS_OK, "%s", d.text);
    cr_assert_eq(hostport_local(server, &got), STATUS_OK);
    cr_assert_gt(hostport_port(&got), 0);
    cr_assert_eq(hostport_dial(&got, &client, &d), STATUS_OK);
    struct pollfd p = {client, POLLOUT, 0};
    cr_assert_eq(poll(&p, 1, 10000), 1);
    int error = -1;
    socklen_t bytes = sizeof error;
    cr_assert_eq(getsockopt(client, SOL_SOCKET, SO_ERROR, &error, &bytes), 0);
    cr_assert_eq(error, 0);
    close(client);
    hostport twice = got;
    int second;
    cr_assert_eq(hostport_listen(&twice, &second, &d), STATUS_IO, "the port is taken");
    close(server);
}
