/* http_test.c -- the HTTP server over real sockets: answers, streams, deadlines, leaving clients.
 */
#define _GNU_SOURCE
#include "server/http/http.h"

#include <criterion/criterion.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

#include "engine/base/clock.h"
#include "engine/base/limits.h"
#include "tests/support/rawclient.h"

enum { HELD_MAX = 64 };

/* A gateway that answers by the path. */
typedef struct {
    http *server;
    _Atomic int requests;
    _Atomic int gone;
    _Atomic int smuggled;
    pthread_mutex_t lock;
    exchange *held[HELD_MAX]; /* of /hold, a reference each */
    int held_count;
} fixture;

static void on_admit(void *self, const http_head *head, http_verdict *v) {
    (void)self;
    if (str_equal_z(head->path, "/deny")) {
        v->http_code = 401;
        v->challenge = true;
        snprintf(v->allow, sizeof v->allow, "POST");
        (void)status_fail(&v->error, STATUS_INVALID, "no");
    }
    v->route = 7;
}

static void on_request(void *self, exchange *x, int32_t route) {
    fixture *f = self;
    atomic_fetch_add(&f->requests, 1);
    str path = exchange_path(x);
    if (route != 7 || str_equal_z(path, "/smuggled")) {
        atomic_fetch_add(&f->smuggled, 1);
    }
    if (str_equal_z(path, "/hold")) {
        pthread_mutex_lock(&f->lock);
        cr_assert_lt(f->held_count, HELD_MAX);
        f->held[f->held_count++] = x;
        pthread_mutex_unlock(&f->lock);
        return;
    }
    if (str_equal_z(path, "/forget")) {
        exchange_release(x);
        return;
    }
    exchange_header h = {"X-Method", "none"};
    char method[16];
    snprintf(method, sizeof method, "%.*s", (int)exchange_method(x).bytes, exchange_method(x).data);
    h.value = method;
    exchange_respond(x, 200, "text/plain", exchange_body(x), &h, 1);
    exchange_release(x);
}

static void on_gone(void *self, exchange *x) {
    fixture *f = self;
    cr_assert(exchange_gone(x));
    atomic_fetch_add(&f->gone, 1);
}

static void start(fixture *f, http_options options) {
    memset(f, 0, sizeof *f);
    pthread_mutex_init(&f->lock, NULL);
    http_handlers handlers = {f, on_admit, on_request, on_gone};
    diag d = {.code = STATUS_OK};
    cr_assert_eq(http_open(&options, &handlers, &f->server, &d), STATUS_OK, "%s", d.text);
}

static void stop(fixture *f) {
    http_close(f->server);
    for (int i = 0; i < f->held_count; i++) {
        exchange_release(f->held[i]);
    }
    pthread_mutex_destroy(&f->lock);
}

/* Waits for a condition that must come true; the bound is a hang guard. */
#define WAIT_UNTIL(condition)                                        \
    do {                                                             \
        int64_t end_us_ = clock_now_us() + 60000000;                 \
        while (!(condition)) {                                       \
            cr_assert_lt(clock_now_us(), end_us_, "%s", #condition); \
            clock_sleep_us(1000);                                    \
        }                                                            \
    } while (0)

static exchange *held(fixture *f, int n) {
    exchange *x = NULL;
    WAIT_UNTIL((pthread_mutex_lock(&f->lock), x = f->held_count > n ? f->held[n] : NULL,
                pthread_mutex_unlock(&f->lock), x != NULL));
    return x;
}

static uint32_t connections(fixture *f) {
    http_counts c;
    http_count(f->server, &c);
    return c.connections;
}

#define POST_HOLD "POST /hold HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\nhi"
#define GET_ECHO "GET /echo HTTP/1.1\r\nHost: h\r\n\r\n"

Test(http, echoes_a_body_and_keeps_the_connection) {
    fixture f;
    start(&f, (http_options){0});
    rawclient c;
    rawclient_open(&c, http_port(f.server));
    for (int i = 0; i < 5; i++) {
        rawclient_send_z(&c, "POST /echo HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhello");
        cr_assert(rawclient_wait_for(&c, "hello"));
        cr_assert_eq(rawclient_status(&c, 0), 200);
        cr_assert(strstr(c.got, "X-Method: POST\r\n") != NULL);
        cr_assert(strstr(c.got, "Connection: close") == NULL);
        rawclient_clear(&c);
    }
    cr_assert_eq(atomic_load(&f.requests), 5);
    rawclient_close(&c);
    WAIT_UNTIL(connections(&f) == 0);
    stop(&f);
}

Test(http, accepts_a_request_cut_at_every_byte) {
    static const char request[] =
        "POST /echo HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhello";
    fixture f;
    start(&f, (http_options){0});
    for (size_t cut = 1; cut < sizeof request - 1; cut++) {
        rawclient c;
        rawclient_open(&c, http_port(f.server));
        rawclient_send(&c, request, cut);
        clock_sleep_us(200);
        rawclient_send(&c, request + cut, sizeof request - 1 - cut);
        cr_assert(rawclient_wait_for(&c, "\r\n\r\nhello"), "cut at %zu", cut);
        rawclient_close(&c);
    }
    stop(&f);
}

Test(http, reads_chunked_bodies_and_closes_after_them) {
    fixture f;
    start(&f, (http_options){0});
    rawclient c;
    rawclient_open(&c, http_port(f.server));
    rawclient_send_z(&c,
                     "POST /echo HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"
                     "3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"
                     "GET /smuggled HTTP/1.1\r\nHost: h\r\n\r\n");
    cr_assert(rawclient_wait_end(&c));
    cr_assert(strstr(c.got, "abcde") != NULL);
    cr_assert_eq(rawclient_status(&c, 0), 200);
    cr_assert_eq(rawclient_status(&c, 1), 0);
    cr_assert_eq(atomic_load(&f.smuggled), 0);
    rawclient_close(&c);
    stop(&f);
}

Test(http, closes_a_kept_connection_at_the_idle_deadline) {
    fixture f;
    start(&f, (http_options){.idle_deadline_us = 300000});
    rawclient c;
    rawclient_open(&c, http_port(f.server));
    rawclient_send_z(&c, GET_ECHO);
    cr_assert(rawclient_wait_end(&c));
    cr_assert_eq(rawclient_status(&c, 0), 200);
    cr_assert_null(strstr(c.got, "Connection: close"));
    rawclient_close(&c);
    stop(&f);
}

Test(http, never_runs_a_pipelined_request) {
    fixture f;
    start(&f, (http_options){0});
    rawclient c;
    rawclient_open(&c, http_port(f.server));
    rawclient_send_z(&c, GET_ECHO "GET /smuggled HTTP/1.1\r\nHost: h\r\n\r\n");
    cr_assert(rawclient_wait_end(&c));
    cr_assert_eq(rawclient_status(&c, 0), 200);
    cr_assert_not_null(strstr(c.got, "Connection: close"));
    cr_assert_eq(rawclient_status(&c, 1), 0);
    cr_assert_eq(atomic_load(&f.requests), 1);
    rawclient_close(&c);
    stop(&f);
}

/* The start of a request in the same segment as the one before, the rest later: what the guard
 * then sees alone is a good head, but not what the server would parse. */
Test(http, never_joins_bytes_sent_early_with_a_later_head) {
    fixture f;
    start(&f, (http_options){.idle_deadline_us = 1000000});
    rawclient c;
    rawclient_open(&c, http_port(f.server));
    rawclient_send_z(&c, GET_ECHO "GET /smuggled HTTP/1.1\r\nX: ");
    cr_assert(rawclient_wait_for(&c, "\r\n\r\n"));
    rawclient_send_z(&c, "GET /echo HTTP/1.1\r\nHost: h\r\n\r\n");
    cr_assert(rawclient_wait_end(&c));
    cr_assert_eq(atomic_load(&f.requests), 1);
    cr_assert_eq(atomic_load(&f.smuggled), 0);
    rawclient_close(&c);
    stop(&f);
}

Test(http, serves_a_head_whose_beginning_came_before_the_last_answer) {
    static const char next[] = GET_ECHO;
    for (size_t early = 1; early <= sizeof next - 1; early += 9) {
        fixture f;
        start(&f, (http_options){0});
        rawclient c;
        rawclient_open(&c, http_port(f.server));
        rawclient_send_z(&c, POST_HOLD);
        exchange *x = held(&f, 0);
        rawclient_send(&c, next, early);
        clock_sleep_us(2000);
        exchange_respond(x, 200, "text/plain", str_from("done"), NULL, 0);
        cr_assert(rawclient_wait_for(&c, "done"));
        rawclient_send(&c, next + early, sizeof next - 1 - early);
        cr_assert(rawclient_wait_for(&c, "X-Method: GET"), "%zu bytes early", early);
        rawclient_close(&c);
        stop(&f);
    }
}

Test(http, answers_from_another_thread_after_a_suspension) {
    fixture f;
    start(&f, (http_options){0});
    rawclient c;
    rawclient_open(&c, http_port(f.server));
    for (int i = 0; i < 20; i++) {
        rawclient_send_z(&c, POST_HOLD);
        exchange *x = held(&f, i);
        cr_assert(str_equal_z(exchange_body(x), "hi"));
        cr_assert(exchange_respond(x, 429, "application/json", str_from("{}"), NULL, 0));
        cr_assert(rawclient_wait_for(&c, "\r\n\r\n{}"));
        cr_assert_eq(rawclient_status(&c, 0), 429);
        rawclient_clear(&c);
    }
    rawclient_close(&c);
    stop(&f);
}

static void count_close(void *count) {
    atomic_fetch_add((_Atomic int *)count, 1);
}

Test(http, what_is_left_with_an_exchange_is_closed_once_when_nobody_has_it) {
    fixture f;
    _Atomic int closed = 0;
    start(&f, (http_options){0});
    rawclient c;
    rawclient_open(&c, http_port(f.server));
    rawclient_send_z(&c, POST_HOLD);
    exchange *x = held(&f, 0);
    for (int i = 0; i < EXCHANGE_LEFT_MAX; i++) {
        exchange_leave_with(x, &closed, count_close);
    }
    exchange_respond(x, 200, "text/plain", str_from("done"), NULL, 0);
    cr_assert(rawclient_wait_for(&c, "done"));
    cr_assert_eq(atomic_load(&closed), 0);
    f.held_count = 0;
    exchange_release(x);
    WAIT_UNTIL(atomic_load(&closed) == EXCHANGE_LEFT_MAX);
    rawclient_close(&c);
    stop(&f);
    cr_assert_eq(atomic_load(&closed), EXCHANGE_LEFT_MAX);
}

Test(http, streams_events_in_order_and_ends_them) {
    fixture f;
    start(&f, (http_options){0});
    rawclient c;
    rawclient_open(&c, http_port(f.server));
    rawclient_send_z(&c, POST_HOLD);
    exchange *x = held(&f, 0);
    cr_assert(exchange_begin(x, 200, "text/event-stream", NULL, 0));
    for (int i = 0; i < 100; i++) {
        char event[32];
        snprintf(event, sizeof event, "data: %d\n\n", i);
        cr_assert(exchange_write(x, str_from(event)));
        if (i % 10 == 0) {
            cr_assert(rawclient_wait_for(&c, event));
        }
    }
    exchange_end(x);
    cr_assert(rawclient_wait_for(&c, "\r\n0\r\n\r\n"));
    const char *at = c.got;
    for (int i = 0; i < 100; i++) {
        char event[32];
        snprintf(event, sizeof event, "data: %d\n\n", i);
        at = strstr(at, event);
        cr_assert(at != NULL, "event %d", i);
    }
    /* The connection goes on. */
    rawclient_clear(&c);
    rawclient_send_z(&c, GET_ECHO);
    cr_assert(rawclient_wait_for(&c, "200 OK"));
    rawclient_close(&c);
    stop(&f);
}

Test(http, a_cut_stream_lacks_its_end) {
    fixture f;
    start(&f, (http_options){0});
    rawclient c;
    rawclient_open(&c, http_port(f.server));
    rawclient_send_z(&c, POST_HOLD);
    exchange *x = held(&f, 0);
    cr_assert(exchange_begin(x, 200, "text/event-stream", NULL, 0));
    cr_assert(exchange_write(x, str_from("data: 1\n\n")));
    exchange_cut(x);
    cr_assert(rawclient_wait_end(&c));
    cr_assert(strstr(c.got, "data: 1") != NULL);
    cr_assert(strstr(c.got, "\r\n0\r\n\r\n") == NULL);
    rawclient_close(&c);
    stop(&f);
}

Test(http, notices_a_client_that_leaves_while_it_waits) {
    fixture f;
    start(&f, (http_options){0});
    for (int reset = 0; reset < 2; reset++) {
        rawclient c;
        rawclient_open(&c, http_port(f.server));
        rawclient_send_z(&c, POST_HOLD);
        exchange *x = held(&f, reset);
        if (reset == 1) {
            struct linger at_once = {1, 0};
            setsockopt(c.fd, SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once);
        }
        rawclient_close(&c);
        WAIT_UNTIL(exchange_gone(x));
        WAIT_UNTIL(atomic_load(&f.gone) == reset + 1);
        cr_assert_not(exchange_respond(x, 200, "text/plain", str_from("late"), NULL, 0));
    }
    WAIT_UNTIL(connections(&f) == 0);
    stop(&f);
    cr_assert_eq(atomic_load(&f.gone), 2);
}

Test(http, notices_a_client_that_leaves_in_the_middle_of_a_stream) {
    fixture f;
    start(&f, (http_options){0});
    rawclient c;
    rawclient_open(&c, http_port(f.server));
    rawclient_send_z(&c, POST_HOLD);
    exchange *x = held(&f, 0);
    cr_assert(exchange_begin(x, 200, "text/event-stream", NULL, 0));
    cr_assert(exchange_write(x, str_from("data: 1\n\n")));
    cr_assert(rawclient_wait_for(&c, "data: 1"));
    rawclient_close(&c);
    WAIT_UNTIL(atomic_load(&f.gone) == 1);
    cr_assert_not(exchange_write(x, str_from("data: 2\n\n")));
    WAIT_UNTIL(connections(&f) == 0);
    stop(&f);
    cr_assert_eq(atomic_load(&f.gone), 1);
}

Test(http, a_client_that_never_reads_is_cut_off_and_memory_stays_bounded) {
    fixture f;
    start(&f, (http_options){0});
    rawclient c;
    rawclient_open(&c, http_port(f.server));
    rawclient_send_z(&c, POST_HOLD);
    exchange *x = held(&f, 0);
    cr_assert(exchange_begin(x, 200, "text/event-stream", NULL, 0));
    static char event[65536];
    memset(event, 'x', sizeof event);
    /* Socket buffers take some; far more than they can hold is refused in the end. */
    int written = 0;
    while (written < 4096 && exchange_write(x, str_of(event, sizeof event))) {
        written++;
    }
    cr_assert_lt(written, 4096);
    cr_assert(exchange_gone(x));
    WAIT_UNTIL(connections(&f) == 0);
    rawclient_close(&c);
    stop(&f);
    cr_assert_eq(atomic_load(&f.gone), 0, "the writer was told by its own call");
}

Test(http, a_client_that_stops_reading_has_left_after_the_stall_limit) {
    fixture f;
    start(&f, (http_options){.stall_deadline_us = 300000});
    rawclient c;
    rawclient_open(&c, http_port(f.server));
    int small = 4096;
    setsockopt(c.fd, SOL_SOCKET, SO_RCVBUF, &small, sizeof small);
    rawclient_send_z(&c, POST_HOLD);
    exchange *x = held(&f, 0);
    cr_assert(exchange_begin(x, 200, "text/event-stream", NULL, 0));
    static char event[65536];
    memset(event, 'x', sizeof event);
    /* Fill what the sockets hold, then leave bytes waiting. */
    for (int i = 0; i < 200 && exchange_write(x, str_of(event, sizeof event)); i++) {
        clock_sleep_us(2000);
    }
    WAIT_UNTIL(exchange_gone(x));
    WAIT_UNTIL(connections(&f) == 0);
    rawclient_close(&c);
    stop(&f);
}

Test(http, sends_heartbeats_on_a_silent_event_stream_only) {
    fixture f;
    start(&f, (http_options){.heartbeat_us = 100000, .heartbeat_bytes = ": beat\n\n"});
    rawclient events, text;
    rawclient_open(&events, http_port(f.server));
    rawclient_send_z(&events, POST_HOLD);
    exchange *x = held(&f, 0);
    rawclient_open(&text, http_port(f.server));
    rawclient_send_z(&text, POST_HOLD);
    exchange *y = held(&f, 1);
    cr_assert(exchange_begin(x, 200, "text/event-stream; charset=utf-8", NULL, 0));
    cr_assert(exchange_begin(y, 200, "text/plain", NULL, 0));
    for (int i = 0; i < 3; i++) {
        cr_assert(rawclient_wait_for(&events, ": beat"));
        rawclient_clear(&events);
    }
    cr_assert(exchange_write(y, str_from("end")));
    exchange_end(y);
    cr_assert(rawclient_wait_for(&text, "end"));
    cr_assert(strstr(text.got, "beat") == NULL);
    exchange_end(x);
    cr_assert(rawclient_wait_for(&events, "0\r\n\r\n"));
    rawclient_close(&events);
    rawclient_close(&text);
    stop(&f);
}

/* One header byte at a time: the deadline counts from accept, not from the last byte. */
Test(http, closes_a_header_drip_at_the_deadline) {
    fixture f;
    start(&f, (http_options){.head_deadline_us = 300000});
    rawclient c;
    rawclient_open(&c, http_port(f.server));
    static const char drip[] = "GET /echo HTTP/1.1\r\nHost: h\r\nX-Slow: ";
    rawclient_send(&c, drip, sizeof drip - 1);
    int64_t end_us = clock_now_us() + 60000000;
    while (rawclient_send(&c, "a", 1) && clock_now_us() < end_us) {
        clock_sleep_us(20000);
    }
    cr_assert(rawclient_wait_end(&c));
    cr_assert_eq(rawclient_status(&c, 0), 408);
    cr_assert_eq(atomic_load(&f.requests), 0);
    WAIT_UNTIL(connections(&f) == 0);
    rawclient_close(&c);
    stop(&f);
}

Test(http, closes_a_body_drip_at_the_deadline) {
    fixture f;
    start(&f, (http_options){.body_deadline_us = 300000});
    rawclient c;
    rawclient_open(&c, http_port(f.server));
    rawclient_send_z(&c, "POST /echo HTTP/1.1\r\nHost: h\r\nContent-Length: 100000\r\n\r\n");
    int64_t end_us = clock_now_us() + 60000000;
    while (rawclient_send(&c, "a", 1) && clock_now_us() < end_us) {
        clock_sleep_us(20000);
    }
    cr_assert(rawclient_wait_end(&c));
    cr_assert_eq(atomic_load(&f.requests), 0);
    WAIT_UNTIL(connections(&f) == 0);
    rawclient_close(&c);
    stop(&f);
}

Test(http, answers_503_over_the_connection_limit_and_recovers) {
    fixture f;
    start(&f, (http_options){.connections_max = 4});
    rawclient in[4];
    for (int i = 0; i < 4; i++) {
        rawclient_open(&in[i], http_port(f.server));
        rawclient_send_z(&in[i], POST_HOLD);
        (void)held(&f, i);
    }
    for (int i = 0; i < 8; i++) {
        rawclient c;
        rawclient_open(&c, http_port(f.server));
        rawclient_send_z(&c, GET_ECHO);
        cr_assert(rawclient_wait_end(&c));
        cr_assert_eq(rawclient_status(&c, 0), 503);
        cr_assert(strstr(c.got, "Retry-After: ") != NULL);
        rawclient_close(&c);
    }
    rawclient_close(&in[0]);
    WAIT_UNTIL(connections(&f) == 3);
    rawclient c;
    rawclient_open(&c, http_port(f.server));
    rawclient_send_z(&c, GET_ECHO);
    cr_assert(rawclient_wait_for(&c, "200 OK"));
    rawclient_close(&c);
    for (int i = 1; i < 4; i++) {
        rawclient_close(&in[i]);
    }
    stop(&f);
}

Test(http, limits_connections_of_one_address) {
    fixture f;
    start(&f, (http_options){.per_address_max = 2});
    rawclient in[2], c;
    for (int i = 0; i < 2; i++) {
        rawclient_open(&in[i], http_port(f.server));
        rawclient_send_z(&in[i], POST_HOLD);
        (void)held(&f, i);
    }
    rawclient_open(&c, http_port(f.server));
    rawclient_send_z(&c, GET_ECHO);
    cr_assert(rawclient_wait_end(&c));
    cr_assert_eq(rawclient_status(&c, 0), 503);
    rawclient_close(&c);
    rawclient_close(&in[0]);
    rawclient_close(&in[1]);
    stop(&f);
}

Test(http, refuses_bodies_over_the_limit) {
    static const struct {
        const char *head;
        size_t body;
        int status;
    } rows[] = {
        {"POST /echo HTTP/1.1\r\nHost: h\r\nContent-Length: 1000\r\n\r\n", 1000, 200},
        {"POST /echo HTTP/1.1\r\nHost: h\r\nContent-Length: 1001\r\n\r\n", 1001, 413},
        {"POST /echo HTTP/1.1\r\nHost: h\r\nContent-Length: 4000\r\n\r\n", 4000, 413},
        {"POST /echo HTTP/1.1\r\nHost: h\r\nContent-Length: 999999999\r\n\r\n", 0, 413},
        {"POST /echo HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 2000\r\n\r\n",
         0, 413},
        {"POST /echo HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n3e9\r\n", 1001, 413},
    };
    static char body[4096];
    memset(body, 'b', sizeof body);
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        fixture f;
        start(&f, (http_options){.body_bytes_max = 1000});
        rawclient c;
        rawclient_open(&c, http_port(f.server));
        rawclient_send_z(&c, rows[i].head);
        rawclient_send(&c, body, rows[i].body);
        if (strstr(rows[i].head, "chunked") != NULL) {
            rawclient_send_z(&c, "\r\n0\r\n\r\n");
        }
        cr_assert(rawclient_wait_for(&c, "\r\n\r\n"), "row %zu", i);
        cr_assert_eq(rawclient_status(&c, 0), rows[i].status, "row %zu: %s", i, c.got);
        cr_assert_eq(atomic_load(&f.requests), rows[i].status == 200, "row %zu", i);
        rawclient_close(&c);
        stop(&f);
    }
}

Test(http, sends_100_continue_to_who_waits_for_it) {
    fixture f;
    start(&f, (http_options){0});
    rawclient c;
    rawclient_open(&c, http_port(f.server));
    rawclient_send_z(
        &c, "POST /echo HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n");
    cr_assert(rawclient_wait_for(&c, "HTTP/1.1 100 Continue\r\n\r\n"));
    rawclient_send_z(&c, "ok");
    cr_assert(rawclient_wait_for(&c, "\r\n\r\nok"));
    rawclient_close(&c);
    stop(&f);
}

Test(http, a_verdict_is_answered_without_the_handler) {
    fixture f;
    start(&f, (http_options){0});
    rawclient c;
    rawclient_open(&c, http_port(f.server));
    rawclient_send_z(&c, "POST /deny HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhello");
    cr_assert(rawclient_wait_for(&c, "\"code\":401}}"));
    cr_assert(strstr(c.got, "WWW-Authenticate: Bearer") != NULL);
    cr_assert(strstr(c.got, "Allow: POST") != NULL);
    rawclient_clear(&c);
    rawclient_send_z(&c, GET_ECHO);
    cr_assert(rawclient_wait_for(&c, "200 OK"), "the connection goes on");
    cr_assert_eq(atomic_load(&f.requests), 1);
    rawclient_close(&c);
    stop(&f);
}

Test(http, an_exchange_let_go_without_an_answer_is_a_500) {
    fixture f;
    start(&f, (http_options){0});
    rawclient c;
    rawclient_open(&c, http_port(f.server));
    rawclient_send_z(&c, "GET /forget HTTP/1.1\r\nHost: h\r\n\r\n");
    cr_assert(rawclient_wait_for(&c, "}}"));
    cr_assert_eq(rawclient_status(&c, 0), 500);
    rawclient_close(&c);
    stop(&f);
}

/* 64 headers in 32 KiB, and a body behind them, twice on one connection. */
Test(http, takes_the_largest_head_and_a_body_after_it) {
    enum { HEADERS = 64, HEAD = LIMIT_HEADER_BYTES, BODY = 100000, VALUE = 506 };
    strbuf text = strbuf_make(HEAD + BODY);
    strbuf_printf(&text, "POST /echo HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n", BODY);
    for (int i = 2; i < HEADERS; i++) {
        size_t rest = HEAD - 2 - text.bytes; /* with the end of the head */
        size_t value = i == HEADERS - 1 ? rest - 8 : VALUE;
        strbuf_printf(&text, "X-%02d: %0*d\r\n", i, (int)value, i);
    }
    strbuf_append_z(&text, "\r\n");
    cr_assert_eq(text.bytes, HEAD);
    strbuf_printf(&text, "%0*d", BODY, 1);
    cr_assert(!text.failed);
    fixture f;
    start(&f, (http_options){0});
    rawclient c;
    rawclient_open(&c, http_port(f.server));
    for (int i = 0; i < 2; i++) {
        cr_assert(rawclient_send(&c, text.data, text.bytes));
        WAIT_UNTIL(atomic_load(&f.requests) > i);
        cr_assert(rawclient_wait_for(&c, "00001"), "request %d", i);
        cr_assert_eq(rawclient_status(&c, 0), 200);
        rawclient_clear(&c);
    }
    rawclient_close(&c);
    stop(&f);
    strbuf_close(&text);
}

Test(http, head_has_no_body) {
    fixture f;
    start(&f, (http_options){0});
    rawclient c;
    rawclient_open(&c, http_port(f.server));
    rawclient_send_z(&c, "HEAD /echo HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n");
    cr_assert(rawclient_wait_end(&c));
    cr_assert_eq(rawclient_status(&c, 0), 200);
    cr_assert_str_eq(c.got + c.got_bytes - 4, "\r\n\r\n");
    rawclient_close(&c);
    stop(&f);
}

Test(http, drains_what_is_under_way_and_takes_no_more) {
    fixture f;
    start(&f, (http_options){0});
    rawclient busy, idle;
    rawclient_open(&busy, http_port(f.server));
    rawclient_send_z(&busy, POST_HOLD);
    exchange *x = held(&f, 0);
    rawclient_open(&idle, http_port(f.server));
    rawclient_send_z(&idle, GET_ECHO);
    cr_assert(rawclient_wait_for(&idle, "200 OK"));
    http_stop_accepting(f.server);
    cr_assert(rawclient_wait_end(&idle), "an idle connection is closed");
    cr_assert(exchange_respond(x, 200, "text/plain", str_from("done"), NULL, 0));
    cr_assert(rawclient_wait_end(&busy), "a busy one after its answer");
    cr_assert(strstr(busy.got, "\r\n\r\ndone") != NULL);
    WAIT_UNTIL(connections(&f) == 0);
    rawclient_close(&busy);
    rawclient_close(&idle);
    stop(&f);
}

Test(http, closes_with_requests_under_way) {
    fixture f;
    start(&f, (http_options){0});
    rawclient c[8];
    for (int i = 0; i < 8; i++) {
        rawclient_open(&c[i], http_port(f.server));
        rawclient_send_z(&c[i], POST_HOLD);
        exchange *x = held(&f, i);
        if (i % 2 == 0) {
            cr_assert(exchange_begin(x, 200, "text/event-stream", NULL, 0));
        }
    }
    stop(&f);
    cr_assert_eq(atomic_load(&f.gone), 8);
    for (int i = 0; i < 8; i++) {
        cr_assert(rawclient_wait_end(&c[i]));
        rawclient_close(&c[i]);
    }
}

typedef struct {
    fixture *f;
    int number;
} caller;

static void *call_many(void *arg) {
    const caller *me = arg;
    for (int i = 0; i < 50; i++) {
        rawclient c;
        rawclient_open(&c, http_port(me->f->server));
        char text[160], body[32], want[40];
        snprintf(body, sizeof body, "%d-%d", me->number, i);
        snprintf(want, sizeof want, "\r\n\r\n%s", body);
        snprintf(text, sizeof text,
                 "POST /echo HTTP/1.1\r\nHost: h\r\nContent-Length: %zu\r\n\r\n%s", strlen(body),
                 body);
        for (int k = 0; k < 3; k++) {
            rawclient_send_z(&c, text);
            cr_assert(rawclient_wait_for(&c, want));
            rawclient_clear(&c);
        }
        rawclient_close(&c);
    }
    return NULL;
}

Test(http, serves_many_clients_at_once_on_several_threads) {
    for (uint32_t threads = 1; threads <= 3; threads += 2) {
        fixture f;
        start(&f, (http_options){.threads = threads});
        pthread_t t[8];
        caller who[8];
        for (int i = 0; i < 8; i++) {
            who[i] = (caller){&f, i};
            pthread_create(&t[i], NULL, call_many, &who[i]);
        }
        for (int i = 0; i < 8; i++) {
            pthread_join(t[i], NULL);
        }
        cr_assert_eq(atomic_load(&f.requests), 8 * 50 * 3);
        WAIT_UNTIL(connections(&f) == 0);
        stop(&f);
    }
}

Test(http, a_shared_port_is_taken_when_asked_and_left_with_what_has_begun_served) {
    fixture f;
    start(&f, (http_options){.shared_port = true});
    uint16_t port = http_port(f.server);
    rawclient kept, early, late;
    diag d;
    cr_assert_eq(http_accept(f.server, &d), STATUS_OK, "%s", d.text);
    rawclient_open(&kept, port);
    rawclient_send_z(&kept, "GET /a HTTP/1.1\r\nHost: x\r\n\r\n");
    cr_assert(rawclient_wait_for(&kept, "200 OK"));
    cr_assert_null(strstr(kept.got, "Connection: close"));
    rawclient_clear(&kept);
    rawclient_open(&early, port);
    WAIT_UNTIL(connections(&f) == 2);
    cr_assert_eq(http_leave(f.server, &d), STATUS_OK, "%s", d.text);
    rawclient *both[] = {&kept, &early};
    for (int i = 0; i < 2; i++) {
        rawclient_send_z(both[i], "GET /b HTTP/1.1\r\nHost: x\r\n\r\n");
        cr_assert(rawclient_wait_end(both[i]));
        cr_assert_eq(rawclient_status(both[i], 0), 200);
        cr_assert_not_null(strstr(both[i]->got, "Connection: close"));
        rawclient_close(both[i]);
    }
    /* Another on the port gets what begins now. */
    fixture other;
    start(&other, (http_options){.shared_port = true, .port = port});
    cr_assert_eq(http_accept(other.server, &d), STATUS_OK, "%s", d.text);
    http_stop_accepting(f.server);
    rawclient_open(&late, port);
    rawclient_send_z(&late, "GET /c HTTP/1.1\r\nHost: x\r\n\r\n");
    cr_assert(rawclient_wait_for(&late, "200 OK"));
    rawclient_close(&late);
    cr_assert_eq(f.requests, 3);
    cr_assert_eq(other.requests, 1);
    stop(&other);
    stop(&f);
}
