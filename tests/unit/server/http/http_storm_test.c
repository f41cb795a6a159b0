/* http_storm_test.c -- clients that leave at random points while another thread answers.
 *
 * The oracle is the books: every request is answered in full, or its client was seen to leave;
 * nothing is open at the end, and every reference came back (the sanitizer builds see leaks).
 */
#define _GNU_SOURCE
#include <criterion/criterion.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

#include "engine/base/clock.h"
#include "engine/base/rng.h"
#include "server/http/http.h"
#include "tests/support/rawclient.h"

enum { CLIENTS = 12, ROUNDS = 60, QUEUE = 4096, ANSWERERS = 2 };

typedef struct {
    http *server;
    pthread_mutex_t lock;
    pthread_cond_t filled;
    exchange *queue[QUEUE];
    uint32_t head, tail;
    bool over;
    _Atomic int gone;
    _Atomic int wrong; /* answers with foreign or mixed up bytes */
} storm;

static void on_admit(void *self, const http_head *head, http_verdict *v) {
    (void)self;
    if (str_equal_z(head->path, "/deny")) {
        v->http_code = 404;
        (void)status_fail(&v->error, STATUS_NOTFOUND, "no");
    }
}

static void on_request(void *self, exchange *x, int32_t route) {
    (void)route;
    storm *s = self;
    pthread_mutex_lock(&s->lock);
    s->queue[s->tail++ % QUEUE] = x;
    pthread_cond_signal(&s->filled);
    pthread_mutex_unlock(&s->lock);
}

static void on_gone(void *self, exchange *x) {
    storm *s = self;
    (void)exchange_gone(x); /* alive during the call */
    atomic_fetch_add(&s->gone, 1);
}

/* The body names what is wanted: the answer repeats it, so mixed up answers show. */
static void answer(exchange *x, uint64_t *random) {
    str body = exchange_body(x);
    uint64_t how = rng_below(random, 8);
    if (how == 0) {
        return; /* released without an answer: a 500 */
    }
    if (how <= 3) {
        (void)exchange_respond(x, 200, "text/plain", body, NULL, 0);
        return;
    }
    if (!exchange_begin(x, 200, "text/event-stream", NULL, 0)) {
        return;
    }
    uint64_t events = rng_below(random, 20);
    for (uint64_t i = 0; i < events; i++) {
        if (rng_below(random, 4) == 0) {
            clock_sleep_us((int64_t)rng_below(random, 500));
        }
        if (!exchange_write(x, body)) {
            cr_assert(exchange_gone(x));
            return;
        }
    }
    how == 4 ? exchange_cut(x) : exchange_end(x);
}

static void *answer_all(void *arg) {
    storm *s = arg;
    uint64_t random = (uint64_t)clock_now_ns();
    for (;;) {
        pthread_mutex_lock(&s->lock);
        while (s->head == s->tail && !s->over) {
            pthread_cond_wait(&s->filled, &s->lock);
        }
        if (s->head == s->tail) {
            pthread_mutex_unlock(&s->lock);
            return NULL;
        }
        exchange *x = s->queue[s->head++ % QUEUE];
        pthread_mutex_unlock(&s->lock);
        answer(x, &random);
        exchange_release(x);
    }
}

typedef struct {
    storm *s;
    uint64_t random;
    int number;
} client;

/* Every `<` of an answer's body begins the client's own word. */
static bool holds_only(const char *got, const char *word) {
    const char *at = strstr(got, "\r\n\r\n");
    for (at = at != NULL ? strchr(at, '<') : NULL; at != NULL; at = strchr(at + 1, '<')) {
        if (strncmp(at, word, strlen(word)) != 0) {
            return false;
        }
    }
    return true;
}

static void one_round(client *me, int round) {
    char word[32], text[256];
    snprintf(word, sizeof word, "<%d.%d>", me->number, round);
    snprintf(text, sizeof text,
             "POST %s HTTP/1.1\r\nHost: h\r\nConnection: close\r\nContent-Length: %zu\r\n\r\n%s",
             rng_below(&me->random, 10) == 0 ? "/deny" : "/x", strlen(word), word);
    rawclient c;
    rawclient_open(&c, http_port(me->s->server));
    uint64_t how = rng_below(&me->random, 6);
    size_t n = strlen(text);
    if (how == 0) {
        n = rng_below(&me->random, n); /* leaves in the middle of its request */
    }
    rawclient_send(&c, text, n);
    if (how == 1) {
        clock_sleep_us((int64_t)rng_below(&me->random, 1500)); /* leaves at some point */
    } else if (how >= 2) {
        if (how == 2) {
            (void)shutdown(c.fd, SHUT_WR);
        }
        cr_assert(rawclient_wait_end(&c));
        cr_assert(how == 2 || rawclient_status(&c, 0) != 0, "no answer to one who waited");
        atomic_fetch_add(&me->s->wrong, !holds_only(c.got, word));
    }
    rawclient_close(&c);
}

static void *ask(void *arg) {
    client *me = arg;
    for (int i = 0; i < ROUNDS; i++) {
        one_round(me, i);
    }
    return NULL;
}

static void wait_until_quiet(storm *s) {
    http_counts c;
    /* Less than the deadlines of a body and of an answer: nothing may wait for them. */
    int64_t end_us = clock_now_us() + 20000000;
    do {
        http_count(s->server, &c);
        cr_assert_lt(clock_now_us(), end_us, "%u connections, %u exchanges", c.connections,
                     c.exchanges);
        clock_sleep_us(1000);
    } while (c.connections > 0 || c.exchanges > 0);
    cr_assert_eq(c.gone, (uint64_t)atomic_load(&s->gone));
    cr_assert_leq(c.gone, c.requests);
    cr_assert_eq(c.requests, s->tail);
    cr_assert_eq(c.refused_full, 0);
}

Test(http_storm, books_balance_when_clients_leave_at_random) {
    for (uint32_t threads = 1; threads <= 2; threads++) {
        static storm s;
        memset(&s, 0, sizeof s);
        pthread_mutex_init(&s.lock, NULL);
        pthread_cond_init(&s.filled, NULL);
        http_handlers handlers = {&s, on_admit, on_request, on_gone};
        http_options options = {.threads = threads, .heartbeat_us = 1000};
        diag d;
        cr_assert_eq(http_open(&options, &handlers, &s.server, &d), STATUS_OK);
        pthread_t asking[CLIENTS], answering[ANSWERERS];
        client clients[CLIENTS];
        for (int i = 0; i < ANSWERERS; i++) {
            pthread_create(&answering[i], NULL, answer_all, &s);
        }
        for (int i = 0; i < CLIENTS; i++) {
            clients[i] = (client){&s, rng_mix((uint64_t)i + 100 * threads), i};
            pthread_create(&asking[i], NULL, ask, &clients[i]);
        }
        for (int i = 0; i < CLIENTS; i++) {
            pthread_join(asking[i], NULL);
        }
        pthread_mutex_lock(&s.lock);
        s.over = true;
        pthread_cond_broadcast(&s.filled);
        pthread_mutex_unlock(&s.lock);
        for (int i = 0; i < ANSWERERS; i++) {
            pthread_join(answering[i], NULL);
        }
        wait_until_quiet(&s);
        cr_assert_eq(atomic_load(&s.wrong), 0);
        http_close(s.server);
        pthread_mutex_destroy(&s.lock);
        pthread_cond_destroy(&s.filled);
    }
}
