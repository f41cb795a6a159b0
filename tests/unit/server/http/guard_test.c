/* guard_test.c -- heads of requests that are beyond doubt, and all the others. */
#define _GNU_SOURCE
#include "server/http/guard.h"

#include <criterion/criterion.h>
#include <stdatomic.h>
#include <string.h>

#include "engine/base/rng.h"
#include "server/http/http.h"
#include "tests/support/rawclient.h"

#define H "Host: h\r\n"
#define SMUGGLED "GET /smuggled HTTP/1.1\r\nHost: h\r\n\r\n"
#define ROW(name, code, text) \
    { name, code, text, sizeof(text) - 1 }

/* What a server answers to these bytes as a whole connection. 200: the guard passes the head; -1:
 * the head is not complete. */
typedef struct {
    const char *name;
    int code;
    const char *text;
    size_t bytes;
} row;

static const row rows[] = {
    /* Good requests */
    ROW("plain get", 200, "GET /a HTTP/1.1\r\n" H "\r\n"),
    ROW("no host on 1.0", 200, "GET /a HTTP/1.0\r\n\r\n"),
    ROW("query", 200, "GET /a?b=c&d=%20 HTTP/1.1\r\n" H "\r\n"),
    ROW("escape", 200, "GET /v1/models/a%2Fb HTTP/1.1\r\n" H "\r\n"),
    ROW("no blank after the colon", 200, "GET /a HTTP/1.1\r\nHost:h\r\n\r\n"),
    ROW("tab before a value", 200, "GET /a HTTP/1.1\r\nHost:\th\r\n\r\n"),
    ROW("tab in a value", 200, "GET /a HTTP/1.1\r\n" H "X: a\tb\r\n\r\n"),
    ROW("empty value", 200, "GET /a HTTP/1.1\r\n" H "X:\r\n\r\n"),
    ROW("bytes above 127 in a value", 200, "GET /a HTTP/1.1\r\n" H "X: \xC3\xA9\r\n\r\n"),
    ROW("underscore in a name", 200, "GET /a HTTP/1.1\r\n" H "X_Y: 1\r\n\r\n"),
    ROW("port in host", 200, "GET /a HTTP/1.1\r\nHost: [::1]:8000\r\n\r\n"),
    ROW("body", 200, "POST /a HTTP/1.1\r\n" H "Content-Length: 2\r\n\r\nhi"),
    ROW("leading zeros in a length", 200, "POST /a HTTP/1.1\r\n" H "Content-Length: 002\r\n\r\nhi"),
    ROW("chunked", 200,
        "POST /a HTTP/1.1\r\n" H "Transfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n"),
    ROW("chunked in capitals", 200,
        "POST /a HTTP/1.1\r\n" H "transfer-encoding: CHUNKED\r\n\r\n2\r\nhi\r\n0\r\n\r\n"),
    ROW("expect", 200,
        "POST /a HTTP/1.1\r\n" H "Expect: 100-continue\r\nContent-Length: 2\r\n\r\nhi"),
    ROW("put is for the routes to refuse", 200, "PUT /a HTTP/1.1\r\n" H "\r\n"),
    ROW("upgrade is not taken up", 200,
        "GET /a HTTP/1.1\r\n" H "Connection: Upgrade\r\nUpgrade: h2c\r\n\r\n"),
    ROW("close", 200, "GET /a HTTP/1.1\r\n" H "Connection: close\r\n\r\n"),

    /* Where does the body end? */
    ROW("length and chunked", 400,
        "POST /a HTTP/1.1\r\n" H "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n"
        "0\r\n\r\n" SMUGGLED),
    ROW("chunked and length", 400,
        "POST /a HTTP/1.1\r\n" H
        "Transfer-Encoding: chunked\r\nContent-Length: 36\r\n\r\n" SMUGGLED),
    ROW("two lengths that differ", 400,
        "POST /a HTTP/1.1\r\n" H "Content-Length: 0\r\nContent-Length: 36\r\n\r\n" SMUGGLED),
    ROW("two equal lengths", 400,
        "POST /a HTTP/1.1\r\n" H "Content-Length: 2\r\nContent-Length: 2\r\n\r\nhi"),
    ROW("list of lengths", 400, "POST /a HTTP/1.1\r\n" H "Content-Length: 2, 2\r\n\r\nhi"),
    ROW("blank before the colon", 400,
        "POST /a HTTP/1.1\r\n" H "Content-Length : 36\r\n\r\n" SMUGGLED),
    ROW("tab before the colon", 400,
        "POST /a HTTP/1.1\r\n" H "Content-Length\t: 36\r\n\r\n" SMUGGLED),
    ROW("signed length", 400, "POST /a HTTP/1.1\r\n" H "Content-Length: +2\r\n\r\nhi"),
    ROW("negative length", 400, "POST /a HTTP/1.1\r\n" H "Content-Length: -1\r\n\r\nhi"),
    ROW("hex length", 400, "POST /a HTTP/1.1\r\n" H "Content-Length: 0x2\r\n\r\nhi"),
    ROW("length with a fraction", 400, "POST /a HTTP/1.1\r\n" H "Content-Length: 2.0\r\n\r\nhi"),
    ROW("length with a blank inside", 400,
        "POST /a HTTP/1.1\r\n" H "Content-Length: 2 0\r\n\r\nhi"),
    ROW("empty length", 400, "POST /a HTTP/1.1\r\n" H "Content-Length: \r\n\r\n"),
    ROW("length past 64 bits", 413,
        "POST /a HTTP/1.1\r\n" H "Content-Length: 18446744073709551618\r\n\r\nhi"),
    ROW("xchunked", 400,
        "POST /a HTTP/1.1\r\n" H "Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n" SMUGGLED),
    ROW("gzip, chunked", 400,
        "POST /a HTTP/1.1\r\n" H "Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n" SMUGGLED),
    ROW("chunked, identity", 400,
        "POST /a HTTP/1.1\r\n" H "Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n" SMUGGLED),
    ROW("identity", 400, "POST /a HTTP/1.1\r\n" H "Transfer-Encoding: identity\r\n\r\n" SMUGGLED),
    ROW("quoted chunked", 400,
        "POST /a HTTP/1.1\r\n" H "Transfer-Encoding: \"chunked\"\r\n\r\n0\r\n\r\n"),
    ROW("chunked with a parameter", 400,
        "POST /a HTTP/1.1\r\n" H "Transfer-Encoding: chunked;q=1\r\n\r\n0\r\n\r\n"),
    ROW("two encodings", 400,
        "POST /a HTTP/1.1\r\n" H "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n"
        "0\r\n\r\n" SMUGGLED),
    ROW("empty encoding", 400, "POST /a HTTP/1.1\r\n" H "Transfer-Encoding:\r\n\r\n"),
    ROW("vertical tab before chunked", 400,
        "POST /a HTTP/1.1\r\n" H "Transfer-Encoding: \x0B"
        "chunked\r\n\r\n0\r\n\r\n"),
    ROW("chunked on 1.0", 400,
        "POST /a HTTP/1.0\r\n" H "Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n" SMUGGLED),
    ROW("length on a folded line", 400,
        "POST /a HTTP/1.1\r\n" H "X: a\r\n Content-Length: 36\r\n\r\n" SMUGGLED),
    ROW("encoding on a folded line", 400,
        "POST /a HTTP/1.1\r\n" H "Transfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n" SMUGGLED),
    ROW("first line folded", 400, "POST /a HTTP/1.1\r\n Host: h\r\n\r\n"),
    ROW("CR splits a header", 400,
        "POST /a HTTP/1.1\r\n" H "X:\rTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" SMUGGLED),
    ROW("CR before the end", 400, "GET /a HTTP/1.1\r\n" H "X: a\r\r\n\r\n"),
    ROW("bare CR in a value", 400, "GET /a HTTP/1.1\r\n" H "X: a\rb\r\n\r\n"),

    /* Line ends and control characters */
    ROW("bare LF after the request line", 400, "GET /a HTTP/1.1\n" H "\r\n"),
    ROW("bare LF after a header", 400, "GET /a HTTP/1.1\r\nHost: h\n\r\n"),
    ROW("only bare LFs", 400, "GET /a HTTP/1.1\nHost: h\n\n"),
    ROW("bare LF hides a header", 400,
        "POST /a HTTP/1.1\r\n" H "X: a\nContent-Length: 36\r\n\r\n" SMUGGLED),
    ROW("NUL in a value", 400, "GET /a HTTP/1.1\r\n" H "X: a\0b\r\n\r\n"),
    ROW("NUL in a name", 400, "GET /a HTTP/1.1\r\n" H "X\0Y: a\r\n\r\n"),
    ROW("NUL in the target", 400, "GET /a\0b HTTP/1.1\r\n" H "\r\n"),
    ROW("escape character in a value", 400, "GET /a HTTP/1.1\r\n" H "X: \x1B[2J\r\n\r\n"),
    ROW("delete in a value", 400, "GET /a HTTP/1.1\r\n" H "X: \x7F\r\n\r\n"),
    ROW("empty line first", 400, "\r\nGET /a HTTP/1.1\r\n" H "\r\n"),
    ROW("LF first", 400, "\nGET /a HTTP/1.1\r\n" H "\r\n"),
    ROW("TLS hello", 400, "\x16\x03\x01\x02\x00\x01\x00\x01\xFC\x03\x03"),
    ROW("HTTP/2 preface", 505, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
    ROW("noise", 400, "\xFF\xFE\x00\x01\r\n\r\n"),

    /* Request line */
    ROW("no version", 400, "GET /a\r\n" H "\r\n"),
    ROW("HTTP/1.9", 505, "GET /a HTTP/1.9\r\n" H "\r\n"),
    ROW("HTTP/2.0", 505, "GET /a HTTP/2.0\r\n" H "\r\n"),
    ROW("HTTP/0.9", 505, "GET /a HTTP/0.9\r\n" H "\r\n"),
    ROW("http in small letters", 400, "GET /a http/1.1\r\n" H "\r\n"),
    ROW("HTTP/1.10", 400, "GET /a HTTP/1.10\r\n" H "\r\n"),
    ROW("HTTP/1,1", 400, "GET /a HTTP/1,1\r\n" H "\r\n"),
    ROW("two blanks before the target", 400, "GET  /a HTTP/1.1\r\n" H "\r\n"),
    ROW("blank in the target", 400, "GET /a b HTTP/1.1\r\n" H "\r\n"),
    ROW("blank after the version", 400, "GET /a HTTP/1.1 \r\n" H "\r\n"),
    ROW("tab for a blank", 400, "GET\t/a\tHTTP/1.1\r\n" H "\r\n"),
    ROW("control character as method", 400, "\x01\x02 /a HTTP/1.1\r\n" H "\r\n"),
    ROW("method with a colon", 400, "GE:T /a HTTP/1.1\r\n" H "\r\n"),
    ROW("unknown method", 501, "BREW /a HTTP/1.1\r\n" H "\r\n"),
    ROW("method in small letters", 501, "get /a HTTP/1.1\r\n" H "\r\n"),
    ROW("connect", 501, "CONNECT h:1 HTTP/1.1\r\n" H "\r\n"),
    ROW("trace", 501, "TRACE /a HTTP/1.1\r\n" H "\r\n"),
    ROW("absolute target", 400, "GET http://h/a HTTP/1.1\r\n" H "\r\n"),
    ROW("star", 400, "OPTIONS * HTTP/1.1\r\n" H "\r\n"),
    ROW("empty target", 400, "GET  HTTP/1.1\r\n" H "\r\n"),
    ROW("relative target", 400, "GET a HTTP/1.1\r\n" H "\r\n"),
    ROW("fragment", 400, "GET /a#b HTTP/1.1\r\n" H "\r\n"),
    ROW("backslash", 400, "GET /\\a HTTP/1.1\r\n" H "\r\n"),
    ROW("encoded NUL", 400, "GET /a%00b HTTP/1.1\r\n" H "\r\n"),
    ROW("encoded NUL in the query", 400, "GET /a?b=%00 HTTP/1.1\r\n" H "\r\n"),
    ROW("cut escape", 400, "GET /a%2 HTTP/1.1\r\n" H "\r\n"),
    ROW("escape that is none", 400, "GET /a%zz HTTP/1.1\r\n" H "\r\n"),
    ROW("bytes above 127 in the target", 400, "GET /\xC3\xA9 HTTP/1.1\r\n" H "\r\n"),

    /* Host, Expect, names */
    ROW("no host", 400, "GET /a HTTP/1.1\r\n\r\n"),
    ROW("two hosts", 400, "GET /a HTTP/1.1\r\n" H H "\r\n"),
    ROW("host with a path", 400, "GET /a HTTP/1.1\r\nHost: h/x\r\n\r\n"),
    ROW("host with a blank", 400, "GET /a HTTP/1.1\r\nHost: h x\r\n\r\n"),
    ROW("host list", 400, "GET /a HTTP/1.1\r\nHost: h,x\r\n\r\n"),
    ROW("host with a user", 400, "GET /a HTTP/1.1\r\nHost: u@h\r\n\r\n"),
    ROW("expect something else", 417, "POST /a HTTP/1.1\r\n" H "Expect: 200-ok\r\n\r\n"),
    ROW("no colon", 400, "GET /a HTTP/1.1\r\n" H "Nonsense\r\n\r\n"),
    ROW("no name", 400, "GET /a HTTP/1.1\r\n" H ": x\r\n\r\n"),
    ROW("blank in a name", 400, "GET /a HTTP/1.1\r\n" H "X Y: x\r\n\r\n"),
    ROW("brackets in a name", 400, "GET /a HTTP/1.1\r\n" H "X[]: x\r\n\r\n"),
    ROW("bytes above 127 in a name", 400, "GET /a HTTP/1.1\r\n" H "X\xC3\xA9: x\r\n\r\n"),

    /* Not complete */
    ROW("nothing", -1, ""),
    ROW("half a line", -1, "GET /a HT"),
    ROW("no empty line", -1, "GET /a HTTP/1.1\r\n" H),
    ROW("half of the last line end", -1, "GET /a HTTP/1.1\r\n" H "\r"),
};

enum { ROWS = sizeof rows / sizeof rows[0] };

Test(guard, pins_the_verdict_of_every_shape) {
    for (size_t i = 0; i < ROWS; i++) {
        guard_head head;
        guard_verdict v = guard_read(rows[i].text, rows[i].bytes, &head);
        int code = v == GUARD_PASS ? 200 : v == GUARD_MORE ? -1 : head.code;
        cr_expect_eq(code, rows[i].code, "%s: %d %s", rows[i].name, code,
                     v == GUARD_REFUSE ? head.reason : "");
    }
}

/* Cut anywhere, a head is either incomplete or already refused as the whole is. */
Test(guard, never_passes_a_part_of_a_head) {
    for (size_t i = 0; i < ROWS; i++) {
        guard_head whole, part;
        guard_verdict full = guard_read(rows[i].text, rows[i].bytes, &whole);
        size_t end = full == GUARD_PASS ? whole.bytes : rows[i].bytes;
        for (size_t cut = 0; cut < end; cut++) {
            guard_verdict v = guard_read(rows[i].text, cut, &part);
            cr_assert_neq(v, GUARD_PASS, "%s cut at %zu", rows[i].name, cut);
            if (v == GUARD_REFUSE) {
                cr_assert_eq(full, GUARD_REFUSE, "%s cut at %zu", rows[i].name, cut);
                cr_assert_eq(part.code, whole.code, "%s cut at %zu", rows[i].name, cut);
            }
        }
    }
}

Test(guard, reads_what_the_server_needs) {
    static const char text[] =
        "POST /a?b HTTP/1.1\r\nHost: h\r\nConnection: keep-alive, Close\r\nContent-Length: "
        "12345\r\n"
        "Expect: 100-Continue\r\n\r\nbody";
    guard_head head;
    cr_assert_eq(guard_read(text, sizeof text - 1, &head), GUARD_PASS);
    cr_assert_eq(head.bytes, sizeof text - 1 - 4);
    cr_assert(str_equal_z(head.method, "POST"));
    cr_assert(str_equal_z(head.target, "/a?b"));
    cr_assert_eq(head.body_bytes, 12345);
    cr_assert(head.expects);
    cr_assert_not(head.keep);
    cr_assert_not(head.chunked);
}

static int code_of(const strbuf *text) {
    guard_head head;
    guard_verdict v = guard_read(text->data, text->bytes, &head);
    return v == GUARD_PASS ? 200 : v == GUARD_MORE ? -1 : head.code;
}

static void repeat(strbuf *out, char c, size_t count) {
    for (size_t i = 0; i < count; i++) {
        strbuf_append_char(out, c);
    }
}

Test(guard, refuses_what_is_too_long_or_too_much) {
    strbuf t = strbuf_make(4 * LIMIT_HEADER_BYTES);
    for (size_t over = 0; over <= 1; over++) {
        strbuf_clear(&t);
        strbuf_append_z(&t, "GET /");
        repeat(&t, 'a', GUARD_TARGET_BYTES - 1 + over);
        strbuf_append_z(&t, " HTTP/1.1\r\nHost: h\r\n\r\n");
        cr_expect_eq(code_of(&t), over ? 414 : 200);

        strbuf_clear(&t);
        strbuf_append_z(&t, "GET /a HTTP/1.1\r\nHost: h\r\n");
        for (size_t i = 1; i < LIMIT_HEADERS + over; i++) {
            strbuf_printf(&t, "X-%zu: y\r\n", i);
        }
        strbuf_append_z(&t, "\r\n");
        cr_expect_eq(code_of(&t), over ? 431 : 200);

        strbuf_clear(&t);
        strbuf_append_z(&t, "GET /a HTTP/1.1\r\nHost: h\r\nX: ");
        repeat(&t, 'a', LIMIT_HEADER_BYTES - 4 + over - t.bytes);
        strbuf_append_z(&t, "\r\n\r\n");
        cr_expect_eq(code_of(&t), over ? 431 : 200);
    }
    /* Also before the end is there. */
    strbuf_clear(&t);
    repeat(&t, 'a', LIMIT_HEADER_BYTES);
    cr_expect_eq(code_of(&t), 414);
    strbuf_close(&t);
}

/* Whatever the bytes are, a passed head ends with an empty line, has no byte that two parsers
 * could read differently, and names at most one body length. */
Test(guard, passes_no_mutation_with_two_meanings) {
    uint64_t random = 1;
    int passed = 0;
    for (int round = 0; round < 300000; round++) {
        const row *r = &rows[rng_below(&random, ROWS)];
        char text[512];
        if (r->bytes == 0 || r->bytes > sizeof text) {
            continue;
        }
        memcpy(text, r->text, r->bytes);
        uint64_t changes = 1 + rng_below(&random, 3);
        for (uint64_t c = 0; c < changes; c++) {
            static const char odd[] =
                "\r\n\t :,;\0\x7F\xFF"
                "0a%/";
            text[rng_below(&random, r->bytes)] = odd[rng_below(&random, sizeof odd - 1)];
        }
        guard_head head;
        if (guard_read(text, r->bytes, &head) != GUARD_PASS) {
            continue;
        }
        passed++;
        cr_assert_leq(head.bytes, r->bytes);
        cr_assert_eq(memcmp(text + head.bytes - 4, "\r\n\r\n", 4), 0);
        cr_assert_eq(memmem(text, head.bytes - 4, "\r\n\r\n", 4), NULL);
        for (size_t i = 0; i < head.bytes; i++) {
            cr_assert(text[i] != 0);
            cr_assert(text[i] != '\n' || text[i - 1] == '\r');
            cr_assert(text[i] != '\r' || text[i + 1] == '\n');
        }
        text[head.bytes - 1] = 0;
        int lengths = 0;
        for (char *p = text; (p = strcasestr(p, "\ncontent-length:")) != NULL; p++) {
            lengths++;
        }
        int encodings = strcasestr(text, "\ntransfer-encoding:") != NULL;
        cr_assert_leq(lengths + encodings, 1);
        cr_assert_eq(encodings, head.chunked);
    }
    cr_assert_gt(passed, 100);
}

typedef struct {
    _Atomic int requests;
    _Atomic int smuggled;
} dispatches;

static void live_admit(void *self, const http_head *head, http_verdict *v) {
    dispatches *d = self;
    atomic_fetch_add(&d->smuggled, str_equal_z(head->path, "/smuggled"));
    v->route = 1;
}

static void live_request(void *self, exchange *x, int32_t route) {
    (void)route;
    dispatches *d = self;
    atomic_fetch_add(&d->requests, 1);
    exchange_respond(x, 200, "text/plain", str_from("ok"), NULL, 0);
    exchange_release(x);
}

static void live_gone(void *self, exchange *x) {
    (void)self;
    (void)x;
}

/* The same table through the whole server: each case its status, exactly once, and no second
 * request ever. */
Test(guard, holds_over_real_sockets) {
    dispatches d = {0};
    http_handlers handlers = {&d, live_admit, live_request, live_gone};
    http_options options = {.idle_deadline_us = 200000};
    http *h = NULL;
    diag why = {.code = STATUS_OK};
    cr_assert_eq(http_open(&options, &handlers, &h, &why), STATUS_OK, "%s", why.text);
    int expected = 0;
    for (size_t i = 0; i < ROWS; i++) {
        if (rows[i].code == -1) {
            continue;
        }
        rawclient c;
        rawclient_open(&c, http_port(h));
        rawclient_send(&c, rows[i].text, rows[i].bytes);
        cr_assert(rawclient_wait_end(&c), "%s", rows[i].name);
        int first = strstr(rows[i].text, "100-continue") != NULL && rows[i].code == 200;
        cr_expect_eq(rawclient_status(&c, first), rows[i].code, "%s: %s", rows[i].name, c.got);
        cr_expect_eq(rawclient_status(&c, first + 1), 0, "%s: two answers", rows[i].name);
        rawclient_close(&c);
        expected += rows[i].code == 200;
        cr_expect_eq(atomic_load(&d.requests), expected, "%s", rows[i].name);
    }
    cr_assert_eq(atomic_load(&d.smuggled), 0);
    http_close(h);
}
