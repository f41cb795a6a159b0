/* otlp_test.c -- the exporter: addresses, and what happens when nobody is there. That spans arrive,
 * are sent again when asked, and hold up nobody is in tests/e2e/test_otlp.py. */
#define _GNU_SOURCE
#include "server/http/otlp.h"

#include <arpa/inet.h>
#include <criterion/criterion.h>
#include <stdatomic.h>
#include <stdio.h>
#include <sys/socket.h>
#include <unistd.h>

Test(otlp, traces_have_their_path_below_the_endpoint) {
    static const struct {
        const char *endpoint, *url;
    } good[] = {{"http://h:4318", "http://h:4318/v1/traces"},
                {"http://h:4318/", "http://h:4318/v1/traces"},
                {"https://h/otlp", "https://h/otlp/v1/traces"},
                {"http://[::1]:4318", "http://[::1]:4318/v1/traces"}};
    char url[OTLP_URL_BYTES];
    diag d;
    for (size_t i = 0; i < sizeof good / sizeof good[0]; i++) {
        cr_assert_eq(otlp_url(good[i].endpoint, url, &d), STATUS_OK, "%s", d.text);
        cr_assert_str_eq(url, good[i].url);
    }
}

Test(otlp, what_is_no_address_is_refused) {
    static const char *const bad[] = {"",          "h:4318",     "http://",      "https://",
                                      "grpc://h",  "http://h h", "http://h?a=1", "http://h#a",
                                      "http://h\n"};
    char url[OTLP_URL_BYTES], endless[OTLP_URL_BYTES + 8];
    diag d;
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        cr_assert_eq(otlp_url(bad[i], url, &d), STATUS_INVALID, "%s", bad[i]);
    }
    (void)snprintf(endless, sizeof endless, "http://%0*d", OTLP_URL_BYTES - 12, 0);
    cr_assert_eq(otlp_url(endless, url, &d), STATUS_INVALID);
}

/* Items are numbers; each must come back exactly once. */
enum { ITEMS = 3 * OTLP_WAITING_MAX };
static _Atomic uint32_t given_back[ITEMS];

static uint32_t write_item(void *self, void *item, strbuf *out) {
    (void)self;
    (void)item;
    otlpspan s = {.self = {1, 2, 3, 1}, .name = "n", .kind = OTLPSPAN_INTERNAL};
    otlpspan_write(out, &s);
    return 1;
}

static void discard_item(void *self, void *item) {
    (void)self;
    atomic_fetch_add(&given_back[(uintptr_t)item], 1);
}

Test(otlp, without_a_collector_items_are_dropped_counted_and_given_back) {
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t bytes = sizeof at;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0); /* bound, but does not listen */
    cr_assert_eq(bind(fd, (struct sockaddr *)&at, sizeof at), 0);
    cr_assert_eq(getsockname(fd, (struct sockaddr *)&at, &bytes), 0);
    char url[64];
    (void)snprintf(url, sizeof url, "http://127.0.0.1:%d/v1/traces", ntohs(at.sin_port));
    otlp_options options = {
        .url = url, .scope = "s", .version = "1", .write = write_item, .discard = discard_item};
    otlp *o = NULL;
    diag d;
    cr_assert_eq(otlp_open(&options, &o, &d), STATUS_OK, "%s", d.text);
    for (uintptr_t i = 0; i < ITEMS; i++) {
        otlp_push(o, (void *)i);
    }
    otlp_counts c;
    otlp_count(o, &c);
    cr_assert_gt(c.dropped_full, 0);
    cr_assert_eq(c.sent, 0);
    otlp_close(o);
    for (uintptr_t i = 0; i < ITEMS; i++) {
        cr_assert_eq(given_back[i], 1, "item %zu", (size_t)i);
    }
    (void)close(fd);
}
