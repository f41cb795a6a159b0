/* webcall_test.c -- calls against a service on a socket that says what the test wants. */
#define _GNU_SOURCE
#include "server/http/webcall.h"

#include <arpa/inet.h>
#include <criterion/criterion.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

/* A service that takes one request and answers it with `answer`, whatever it is. */
typedef struct {
    int fd;
    const char *answer; /* NULL: nothing, until the client has gone */
    char heard[8192];   /* the request's head and body */
    char url[128];
    pthread_t thread;
    webcall *call;
} service;

static void *serve_one(void *context) {
    service *s = context;
    int fd = accept(s->fd, NULL, NULL);
    size_t got = 0, wanted = SIZE_MAX;
    ssize_t n;
    while (got < wanted && (n = read(fd, s->heard + got, sizeof s->heard - 1 - got)) > 0) {
        got += (size_t)n;
        s->heard[got] = 0;
        const char *end = strstr(s->heard, "\r\n\r\n");
        if (end) {
            const char *length = strcasestr(s->heard, "content-length:");
            wanted = (size_t)(end + 4 - s->heard) + (length ? strtoul(length + 15, NULL, 10) : 0);
        }
    }
    if (s->answer) {
        (void)!write(fd, s->answer, strlen(s->answer));
    } else {
        char c;
        (void)!read(fd, &c, 1);
    }
    (void)close(fd);
    return NULL;
}

static void start(service *s, const char *answer) {
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t bytes = sizeof at;
    *s = (service){.answer = answer, .fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)};
    cr_assert_eq(bind(s->fd, (struct sockaddr *)&at, sizeof at), 0);
    cr_assert_eq(listen(s->fd, 1), 0);
    cr_assert_eq(getsockname(s->fd, (struct sockaddr *)&at, &bytes), 0);
    (void)snprintf(s->url, sizeof s->url, "http://127.0.0.1:%d/v1/thing", ntohs(at.sin_port));
    cr_assert_eq(pthread_create(&s->thread, NULL, serve_one, s), 0);
    cr_assert_eq(webcall_open(&s->call), STATUS_OK);
}

static void stop(service *s) {
    webcall_close(s->call);
    (void)pthread_join(s->thread, NULL);
    (void)close(s->fd);
}

static status get(service *s, webcall_answer *a, diag *d) {
    webcall_request r = {.method = "GET", .url = s->url, .timeout_ms = 10000};
    *d = (diag){.text = ""};
    return webcall_send(s->call, &r, a, d);
}

Test(webcall, sends_what_it_is_told_and_returns_what_was_answered) {
    service s;
    webcall_answer a;
    diag d;
    start(&s, "HTTP/1.1 409 Conflict\r\nContent-Length: 8\r\nRetry-After: 7\r\n\r\n{\"a\":12}");
    webcall_request r = {.method = "PATCH",
                         .url = s.url,
                         .body = str_from("{\"replicas\":3}"),
                         .content_type = "application/merge-patch+json",
                         .bearer = "secret-token",
                         .timeout_ms = 10000};
    cr_assert_eq(webcall_send(s.call, &r, &a, &d), STATUS_OK, "%s", d.text);
    cr_assert_eq(a.status, 409);
    cr_assert_eq(a.retry_after_s, 7);
    cr_assert(str_equal(a.body, str_from("{\"a\":12}")));
    cr_assert(strstr(s.heard, "PATCH /v1/thing HTTP/1.1\r\n") == s.heard, "%s", s.heard);
    cr_assert_not_null(strstr(s.heard, "Authorization: Bearer secret-token\r\n"));
    cr_assert_not_null(strstr(s.heard, "Content-Type: application/merge-patch+json\r\n"));
    cr_assert_not_null(strstr(s.heard, "Accept: application/json\r\n"));
    cr_assert_null(strstr(s.heard, "Expect:"));
    cr_assert_str_eq(strstr(s.heard, "\r\n\r\n") + 4, "{\"replicas\":3}");
    stop(&s);
}

Test(webcall, follows_no_redirect) {
    service s;
    webcall_answer a;
    diag d;
    start(&s, "HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n");
    cr_assert_eq(get(&s, &a, &d), STATUS_OK, "%s", d.text);
    cr_assert_eq(a.status, 302);
    stop(&s);
}

Test(webcall, an_answer_past_the_bound_is_refused) {
    service s;
    webcall_answer a;
    diag d;
    start(&s, "HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\n01234567890123456789");
    webcall_request r = {
        .method = "GET", .url = s.url, .timeout_ms = 10000, .answer_bytes_max = 10};
    cr_assert_eq(webcall_send(s.call, &r, &a, &d), STATUS_LIMIT);
    cr_assert_not_null(strstr(d.text, "too long"), "%s", d.text);
    stop(&s);
}

Test(webcall, a_service_that_says_nothing_is_given_up) {
    service s;
    webcall_answer a;
    diag d;
    start(&s, NULL);
    webcall_request r = {.method = "GET", .url = s.url, .timeout_ms = 50};
    cr_assert_eq(webcall_send(s.call, &r, &a, &d), STATUS_TIMEOUT, "%s", d.text);
    stop(&s);
}

Test(webcall, an_answer_cut_short_is_an_error) {
    service s;
    webcall_answer a;
    diag d;
    start(&s, "HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\n0123");
    cr_assert_eq(get(&s, &a, &d), STATUS_IO);
    cr_assert_not_null(strstr(d.text, s.url), "%s", d.text);
    stop(&s);
}

typedef struct {
    strbuf all;
    size_t enough;
} watcher;

static bool watch(void *context, str piece) {
    watcher *w = context;
    strbuf_append_str(&w->all, piece);
    return w->all.bytes < w->enough;
}

static status watch_until(const char *answer, size_t enough, char *all) {
    service s;
    webcall_answer a;
    diag d;
    watcher w = {.all = strbuf_make(1000), .enough = enough};
    start(&s, answer);
    webcall_request r = {
        .method = "GET", .url = s.url, .timeout_ms = 10000, .part = watch, .part_context = &w};
    status result = webcall_send(s.call, &r, &a, &d);
    (void)snprintf(all, 100, "%.*s", (int)w.all.bytes, w.all.data);
    strbuf_close(&w.all);
    stop(&s);
    return result;
}

Test(webcall, a_watch_gets_the_answer_piece_by_piece_until_it_has_enough) {
    static const char chunks[] =
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
        "4\r\nabcd\r\n3\r\nefg\r\n0\r\n\r\n";
    char all[100];
    cr_assert_eq(watch_until(chunks, 1000, all), STATUS_OK);
    cr_assert_str_eq(all, "abcdefg");
    cr_assert_eq(watch_until(chunks, 1, all), STATUS_CLOSED);
    cr_assert_eq(strncmp(all, "abcd", 4), 0);
}

Test(webcall, speaks_nothing_but_http) {
    webcall *w;
    webcall_answer a;
    cr_assert_eq(webcall_open(&w), STATUS_OK);
    static const char *const urls[] = {"file:///etc/hostname", "gopher://127.0.0.1:1/", "nonsense:",
                                       "http://127.0.0.1:1/"}; /* nobody listens there */
    for (size_t i = 0; i < sizeof urls / sizeof urls[0]; i++) {
        diag d = {.text = ""};
        webcall_request r = {.method = "GET", .url = urls[i], .timeout_ms = 10000};
        cr_assert_eq(webcall_send(w, &r, &a, &d), STATUS_IO, "%s", urls[i]);
        cr_assert_not_null(strstr(d.text, urls[i]), "%s", d.text);
    }
    webcall_close(w);
}
