/* otlpheaders_test.c -- what OTEL_EXPORTER_OTLP_HEADERS may hold, and what it may not. */
#include "server/http/otlpheaders.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>

Test(otlpheaders, members_are_lines) {
    static const struct {
        const char *text;
        uint32_t count;
        const char *first, *last;
    } good[] = {
        {NULL, 0, NULL, NULL},
        {"", 0, NULL, NULL},
        {" , ,", 0, NULL, NULL},
        {"a=b", 1, "a: b", "a: b"},
        {"api-key=k%2Cl%3D%20m,\tx = y z ", 2, "api-key: k,l= m", "x: y z"},
        {"Authorization=Basic dTpw==,b=%c3%A9", 2, "Authorization: Basic dTpw==", "b: \xc3\xa9"}};
    for (size_t i = 0; i < sizeof good / sizeof good[0]; i++) {
        otlpheaders h;
        diag d;
        cr_assert_eq(otlpheaders_read(good[i].text, &h, &d), STATUS_OK, "%s", good[i].text);
        cr_assert_eq(h.count, good[i].count, "%s", good[i].text);
        if (h.count) {
            cr_assert_str_eq(h.lines[0], good[i].first);
            cr_assert_str_eq(h.lines[h.count - 1], good[i].last);
        }
    }
}

Test(otlpheaders, what_would_break_the_request_is_refused_and_not_repeated) {
    static const char *const bad[] = {"hush",
                                      "=hush",
                                      "a=",
                                      "a b=hush",
                                      "a:b=hush",
                                      "a=hush%",
                                      "a=hush%4",
                                      "a=hush%g0",
                                      "a=hush%0d%0aX",
                                      "a=hush\n",
                                      "a=hush%00",
                                      "a=hush%7f",
                                      "Host=hush",
                                      "content-TYPE=hush",
                                      "a=1,hush",
                                      "Content-Length=hush",
                                      "a\r\nb=hush"};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        otlpheaders h;
        diag d;
        cr_assert_eq(otlpheaders_read(bad[i], &h, &d), STATUS_INVALID, "%s", bad[i]);
        cr_assert_eq(h.count, 0);
        cr_assert_null(strstr(d.text, "hush"), "%s", d.text);
        cr_assert(strstr(d.text, strncmp(bad[i], "a=1,", 4) == 0 ? "number 2" : "number 1"));
    }
}

Test(otlpheaders, there_is_an_end_to_them) {
    char text[2 * OTLPHEADERS_BYTES] = "a=1";
    otlpheaders h;
    diag d;
    for (int i = 1; i < OTLPHEADERS_MAX; i++) {
        memcpy(text + strlen(text), ",a=1", 5);
    }
    cr_assert_eq(otlpheaders_read(text, &h, &d), STATUS_OK, "%s", d.text);
    cr_assert_eq(h.count, OTLPHEADERS_MAX);
    memcpy(text + strlen(text), ",a=1", 5);
    cr_assert_eq(otlpheaders_read(text, &h, &d), STATUS_INVALID);
    /* At and around the last byte of the room for them. */
    for (int bytes = OTLPHEADERS_BYTES - 12; bytes < OTLPHEADERS_BYTES + 8; bytes++) {
        (void)snprintf(text, sizeof text, "abc=%0*d", bytes, 0);
        status s = otlpheaders_read(text, &h, &d);
        cr_assert_eq(s, bytes + 6 <= OTLPHEADERS_BYTES ? STATUS_OK : STATUS_INVALID, "%d", bytes);
        cr_assert(s != STATUS_OK || strlen(h.lines[0]) == (size_t)bytes + 5);
        (void)snprintf(text, sizeof text, "%0*d=1", bytes, 0);
        s = otlpheaders_read(text, &h, &d);
        cr_assert_eq(s, bytes + 4 <= OTLPHEADERS_BYTES ? STATUS_OK : STATUS_INVALID, "%d", bytes);
    }
}
