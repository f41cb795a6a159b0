/* httpclient_test.c -- responses cut at every byte, URLs good and bad. */
#include "bench/httpclient.h"

#include <criterion/criterion.h>
#include <string.h>

typedef struct {
    const char *name;
    const char *text;
    int code;
    bool keep;
    bool by_end; /* the response ends with the connection */
    const char *body;
} row;

static const row good[] = {
    {"length", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", 200, true, false, "hello"},
    {"no body", "HTTP/1.1 204 No Content\r\n\r\n", 204, true, false, ""},
    {"length zero", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", 200, true, false, ""},
    {"close", "HTTP/1.1 503 X\r\nConnection: close\r\nContent-Length: 2\r\n\r\nno", 503, false,
     false, "no"},
    {"chunks",
     "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n",
     200, true, false, "hello world"},
    {"chunks with extension and trailer",
     "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1;a=b\r\nx\r\n0\r\nT: u\r\n\r\n", 200,
     true, false, "x"},
    {"to the end", "HTTP/1.1 200 OK\r\n\r\nuntil the end", 200, false, true, "until the end"},
    {"1.0", "HTTP/1.0 200 OK\r\nContent-Length: 1\r\n\r\nx", 200, false, false, "x"},
    {"continue first", "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\ny",
     200, true, false, "y"},
};

static void collect(void *self, str bytes) {
    strbuf_append_str(self, bytes);
}

Test(httpclient, reads_responses_cut_at_every_byte) {
    for (size_t i = 0; i < sizeof good / sizeof good[0]; i++) {
        const row *r = &good[i];
        size_t n = strlen(r->text);
        for (size_t cut = 0; cut <= n; cut++) {
            strbuf body = strbuf_make(1000);
            httpclient c;
            httpclient_start(&c, &body, collect);
            httpclient_progress p = httpclient_feed(&c, r->text, cut);
            if (cut < n) {
                cr_assert_eq(p, HTTPCLIENT_MORE, "%s cut at %zu", r->name, cut);
                p = httpclient_feed(&c, r->text + cut, n - cut);
            }
            if (r->by_end) {
                cr_assert_eq(p, HTTPCLIENT_MORE, "%s", r->name);
                p = httpclient_feed_end(&c);
            }
            cr_assert_eq(p, HTTPCLIENT_DONE, "%s cut at %zu", r->name, cut);
            cr_assert_eq(c.code, r->code, "%s", r->name);
            cr_assert_eq(c.keep, r->keep, "%s", r->name);
            cr_assert(str_equal_z(strbuf_str(&body), r->body), "%s: %s", r->name, body.data);
            strbuf_close(&body);
        }
    }
}

Test(httpclient, reads_responses_byte_by_byte) {
    for (size_t i = 0; i < sizeof good / sizeof good[0]; i++) {
        const row *r = &good[i];
        strbuf body = strbuf_make(1000);
        httpclient c;
        httpclient_start(&c, &body, collect);
        httpclient_progress p = HTTPCLIENT_MORE;
        for (size_t k = 0; k < strlen(r->text); k++) {
            p = httpclient_feed(&c, r->text + k, 1);
        }
        p = r->by_end ? httpclient_feed_end(&c) : p;
        cr_assert_eq(p, HTTPCLIENT_DONE, "%s", r->name);
        cr_assert(str_equal_z(strbuf_str(&body), r->body), "%s", r->name);
        strbuf_close(&body);
    }
}

Test(httpclient, refuses_what_is_no_response) {
    static const char *const bad[] = {
        "nonsense\r\n\r\n",
        "GET / HTTP/1.1\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nxHTTP/1.1 200 OK\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nxy",
    };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        httpclient c;
        httpclient_start(&c, NULL, NULL);
        cr_expect_eq(httpclient_feed(&c, bad[i], strlen(bad[i])), HTTPCLIENT_FAILED, "%zu", i);
    }
}

Test(httpclient, an_early_end_is_a_failure) {
    static const char text[] = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello";
    for (size_t cut = 0; cut < sizeof text - 1; cut++) {
        httpclient c;
        httpclient_start(&c, NULL, NULL);
        cr_assert_eq(httpclient_feed(&c, text, cut), HTTPCLIENT_MORE);
        cr_assert_eq(httpclient_feed_end(&c), HTTPCLIENT_FAILED, "cut at %zu", cut);
    }
}

Test(httpclient, reads_urls) {
    static const struct {
        const char *text;
        const char *host, *port, *prefix; /* NULL host: refused */
    } rows[] = {
        {"http://127.0.0.1:8000", "127.0.0.1", "8000", ""},
        {"http://localhost", "localhost", "80", ""},
        {"localhost:9", "localhost", "9", ""},
        {"http://h:1/", "h", "1", ""},
        {"http://h:1/a/b/", "h", "1", "/a/b"},
        {"http://[::1]:8000/x", "[::1]", "8000", "/x"},
        {"http://[::1]", "[::1]", "80", ""},
        {"https://h", NULL, NULL, NULL},
        {"ftp://h", NULL, NULL, NULL},
        {"http://", NULL, NULL, NULL},
        {"http://:80", NULL, NULL, NULL},
        {"http://h:", NULL, NULL, NULL},
        {"http://h:0", NULL, NULL, NULL},
        {"http://h:65536", NULL, NULL, NULL},
        {"http://h:8x", NULL, NULL, NULL},
        {"http://[::1", NULL, NULL, NULL},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        httpclient_url u;
        diag d;
        status s = httpclient_url_read(rows[i].text, &u, &d);
        cr_assert_eq(s == STATUS_OK, rows[i].host != NULL, "%s", rows[i].text);
        if (s == STATUS_OK) {
            cr_expect_str_eq(u.host, rows[i].host);
            cr_expect_str_eq(u.port, rows[i].port);
            cr_expect_str_eq(u.prefix, rows[i].prefix);
        }
    }
}

Test(httpclient, writes_requests) {
    httpclient_url u;
    diag d;
    cr_assert_eq(httpclient_url_read("http://h:1/p", &u, &d), STATUS_OK);
    strbuf out = strbuf_make(1000);
    httpclient_write(&out, &u, "POST", "/x", "k", str_from("{}"));
    cr_assert_str_eq(out.data,
                     "POST /p/x HTTP/1.1\r\nHost: h:1\r\nUser-Agent: weir-bench\r\n"
                     "Authorization: Bearer k\r\nContent-Type: application/json\r\n"
                     "Content-Length: 2\r\n\r\n{}");
    strbuf_close(&out);
}
