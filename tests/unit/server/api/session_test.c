/* session_test.c -- from tokens to the bytes a client reads, over a real connection.
 *
 * The oracle joins all pieces of a choice, makes them text at once, and cuts it where the first
 * stop string ends: no piece by piece work, no holding back. */
#define _GNU_SOURCE
#include "server/api/session.h"

#include <criterion/criterion.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "engine/base/clock.h"
#include "engine/base/mem.h"
#include "engine/base/rng.h"
#include "models/text/detok.h"
#include "server/http/http.h"
#include "tests/support/rawclient.h"
#include "tests/support/tinytext.h"

enum { CHOICES_MAX = 6, TOKENS_MAX = 40 };

typedef struct {
    http *server;
    pthread_mutex_t lock;
    pthread_cond_t came;
    exchange *exchange;
    tokenizer *tokenizer;
    openai_limits limits;
    prepare_model model;
} bench;

static void on_admit(void *self, const http_head *head, http_verdict *v) {
    (void)self;
    (void)head;
    v->route = 0;
}

static void on_request(void *self, exchange *x, int32_t route) {
    bench *b = self;
    (void)route;
    pthread_mutex_lock(&b->lock);
    b->exchange = x;
    pthread_cond_signal(&b->came);
    pthread_mutex_unlock(&b->lock);
}

static void on_gone(void *self, exchange *x) {
    (void)self;
    (void)x;
}

static void start(bench *b) {
    static const char *const names[] = {"tiny"};
    diag d;
    *b = (bench){.tokenizer = tinytext_open()};
    b->limits = (openai_limits){names, 1, 512, TINYMODEL_VOCAB};
    b->model = (prepare_model){b->tokenizer, NULL, 512};
    pthread_mutex_init(&b->lock, NULL);
    pthread_cond_init(&b->came, NULL);
    http_handlers handlers = {b, on_admit, on_request, on_gone};
    http_options ho = {0};
    cr_assert_eq(http_open(&ho, &handlers, &b->server, &d), STATUS_OK, "%s", d.text);
}

static void stop(bench *b) {
    http_close(b->server);
    tokenizer_close(b->tokenizer);
    pthread_cond_destroy(&b->came);
    pthread_mutex_destroy(&b->lock);
}

static exchange *ask(bench *b, rawclient *c, const char *body) {
    char head[256];
    rawclient_open(c, http_port(b->server));
    snprintf(head, sizeof head,
             "POST /v1/completions HTTP/1.1\r\nHost: h\r\nConnection: close\r\n"
             "Content-Type: application/json\r\nContent-Length: %zu\r\n\r\n",
             strlen(body));
    cr_assert(rawclient_send_z(c, head) && rawclient_send_z(c, body));
    pthread_mutex_lock(&b->lock);
    while (!b->exchange) {
        pthread_cond_wait(&b->came, &b->lock);
    }
    exchange *x = b->exchange;
    b->exchange = NULL;
    pthread_mutex_unlock(&b->lock);
    return x;
}

static session *open_session(bench *b, exchange *x, const char *body) {
    openai_request *r;
    prepare_result prompts;
    session *s;
    diag d;
    cr_assert_eq(openai_parse(OPENAI_COMPLETIONS, str_from(body), &b->limits, &r, &d), STATUS_OK,
                 "%s: %s", body, d.text);
    cr_assert_eq(prepare_prompts(&b->model, r, &prompts, &d), STATUS_OK, "%s", d.text);
    cr_assert_eq(session_open(x, r, &prompts, b->tokenizer, 77, &s), STATUS_OK);
    return s;
}

/* ---- what a client reads -------------------------------------------------------------------- */

/* The body of the answer in `c`, without its chunks' sizes. Caller frees. */
static char *body_of(const rawclient *c) {
    char *body = strstr(c->got, "\r\n\r\n");
    cr_assert_not_null(body, "%s", c->got);
    body += 4;
    if (!strcasestr(c->got, "Transfer-Encoding: chunked")) {
        return strdup(body);
    }
    char *out = calloc(1, strlen(body) + 1);
    size_t used = 0;
    for (;;) {
        unsigned long bytes = strtoul(body, &body, 16);
        body += 2;
        if (bytes == 0) {
            return out;
        }
        memcpy(out + used, body, bytes);
        used += bytes;
        body += bytes + 2;
    }
}

typedef struct {
    char text[CHOICES_MAX][8192];
    char finish[CHOICES_MAX][16];
    int32_t ids[CHOICES_MAX];
    bool done;
} heard;

static void hear_choices(heard *h, const char *json) {
    cJSON *root = cJSON_Parse(json);
    cr_assert_not_null(root, "%s", json);
    const cJSON *choice;
    cJSON_ArrayForEach(choice, cJSON_GetObjectItem(root, "choices")) {
        int i = cJSON_GetObjectItem(choice, "index")->valueint;
        cr_assert_lt(i, CHOICES_MAX);
        const char *text = cJSON_GetObjectItem(choice, "text")->valuestring;
        cr_assert_lt(strlen(h->text[i]) + strlen(text), sizeof h->text[i]);
        memcpy(h->text[i] + strlen(h->text[i]), text, strlen(text) + 1);
        const cJSON *finish = cJSON_GetObjectItem(choice, "finish_reason");
        if (cJSON_IsString(finish)) {
            cr_assert_str_empty(h->finish[i], "a choice ends once");
            snprintf(h->finish[i], sizeof h->finish[i], "%s", finish->valuestring);
        }
        h->ids[i] += cJSON_GetArraySize(cJSON_GetObjectItem(choice, "token_ids"));
    }
    cJSON_Delete(root);
}

static void hear(heard *h, const rawclient *c, bool stream) {
    char *body = body_of(c);
    memset(h, 0, sizeof *h);
    if (!stream) {
        hear_choices(h, body);
        h->done = true;
        free(body);
        return;
    }
    char *save = NULL;
    for (char *line = strtok_r(body, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
        cr_assert_not(h->done, "something after [DONE]");
        if (strcmp(line, "data: [DONE]") == 0) {
            h->done = true;
        } else if (strncmp(line, "data: ", 6) == 0) {
            hear_choices(h, line + 6);
        }
    }
    free(body);
}

/* ---- the oracle ----------------------------------------------------------------------------- */

typedef struct {
    int32_t tokens[TOKENS_MAX];
    int32_t count;
    request_end end; /* of the last one */
} script;

static void expect(const bench *b, const script *s, const char *prompt, const str *stops,
                   int32_t stops_count, bool include, strbuf *text, const char **finish) {
    strbuf bytes = strbuf_make(1 << 16);
    bool hidden = s->end == REQUEST_STOP && !include;
    for (int32_t i = 0; i < s->count - hidden; i++) {
        if (s->tokens[i] > TINYMODEL_EOS) { /* control tokens give no text */
            strbuf_append_str(&bytes, tokenizer_piece(b->tokenizer, s->tokens[i]));
        }
    }
    detok whole = detok_make(true);
    strbuf made = strbuf_make(1 << 16);
    cr_assert(detok_feed_bytes(&whole, strbuf_str(&bytes), &made) && detok_flush(&whole, &made));
    size_t keep = made.bytes, first_end = SIZE_MAX;
    for (int32_t i = 0; i < stops_count; i++) {
        size_t at = str_find(strbuf_str(&made), stops[i], 0);
        if (at != SIZE_MAX && at + stops[i].bytes < first_end) {
            first_end = at + stops[i].bytes;
            keep = include ? first_end : at;
        }
    }
    *finish = first_end != SIZE_MAX || s->end == REQUEST_STOP ? "stop" : "length";
    strbuf_append_z(text, prompt);
    strbuf_append(text, made.data, keep);
    strbuf_close(&made);
    strbuf_close(&bytes);
}

/* ---- random answers ------------------------------------------------------------------------- */

static int32_t random_token(const bench *b, uint64_t *random) {
    for (;;) {
        /* Many bytes that are parts of characters, few letters: stop strings are met. */
        int32_t token = rng_below(random, 3) ? 100 + (int32_t)rng_below(random, 4)
                                             : (int32_t)rng_below(random, TINYMODEL_VOCAB);
        str piece = tokenizer_piece(b->tokenizer, token);
        if (!memchr(piece.data, 0, piece.bytes)) { /* cJSON's strings end there */
            return token;
        }
    }
}

static script random_script(const bench *b, uint64_t *random) {
    script s = {.count = 1 + (int32_t)rng_below(random, TOKENS_MAX)};
    for (int32_t i = 0; i < s.count; i++) {
        s.tokens[i] = random_token(b, random);
    }
    s.end = rng_below(random, 2) ? REQUEST_STOP : REQUEST_LENGTH;
    if (s.end == REQUEST_STOP) {
        s.tokens[s.count - 1] = TINYMODEL_EOS;
    }
    return s;
}

/* The choices' tokens in a random order among each other, as a batch gives them. */
static void play(session *s, const script *scripts, int32_t n, uint64_t *random) {
    int32_t next[CHOICES_MAX] = {0};
    bool ended[CHOICES_MAX] = {false};
    for (int32_t left = n; left > 0;) {
        int32_t i = (int32_t)rng_below(random, (uint64_t)n);
        if (ended[i]) {
            continue;
        }
        const script *c = &scripts[i];
        request_token t = {.choice = i, .index = next[i], .token = c->tokens[next[i]]};
        t.end = next[i] == c->count - 1 ? c->end : REQUEST_RUNNING;
        next[i]++;
        session_result r = session_token(s, 0, &t, clock_now_us());
        cr_assert_neq(r, SESSION_CLIENT_GONE);
        if (r == SESSION_CHOICE_ENDED || t.end != REQUEST_RUNNING) {
            ended[i] = true;
            left--;
        }
    }
    cr_assert_eq(session_run_done(s, 0, 0, clock_now_us()), SESSION_GOES_ON);
    cr_assert(session_finished(s));
}

static void one_round(bench *b, uint64_t *random) {
    static const char *const stop_texts[] = {"ab", "bcb", "dd", "a", "cc", "\xef\xbf\xbd"};
    str stops[3];
    char body[1024], list[128] = "";
    int32_t n = 1 + (int32_t)rng_below(random, 3);
    int32_t stops_count = (int32_t)rng_below(random, 4);
    bool stream = rng_below(random, 2), include = rng_below(random, 2),
         echo = rng_below(random, 3) == 0;
    for (int32_t i = 0; i < stops_count; i++) {
        stops[i] = str_from(stop_texts[rng_below(random, 6)]);
        size_t used = strlen(list);
        snprintf(list + used, sizeof list - used, "%s\"%.*s\"", i ? "," : "", (int)stops[i].bytes,
                 stops[i].data);
    }
    snprintf(body, sizeof body,
             "{\"prompt\":\"the water\",\"max_tokens\":100,\"n\":%d,\"stop\":[%s],\"stream\":%s,"
             "\"include_stop_str_in_output\":%s,\"echo\":%s,\"return_token_ids\":%s}",
             n, list, stream ? "true" : "false", include ? "true" : "false",
             echo ? "true" : "false", rng_below(random, 2) ? "true" : "false");
    rawclient c;
    session *s = open_session(b, ask(b, &c, body), body);
    script scripts[CHOICES_MAX];
    for (int32_t i = 0; i < n; i++) {
        scripts[i] = random_script(b, random);
    }
    play(s, scripts, n, random);
    session_close(s);
    cr_assert(rawclient_wait_end(&c));
    cr_assert_eq(rawclient_status(&c, 0), 200);
    heard h;
    hear(&h, &c, stream);
    cr_assert(h.done);
    for (int32_t i = 0; i < n; i++) {
        strbuf want = strbuf_make(1 << 16);
        const char *finish;
        expect(b, &scripts[i], echo ? "the water" : "", stops, stops_count, include, &want,
               &finish);
        cr_assert(str_equal(str_from(h.text[i]), strbuf_str(&want)), "%s\n got %s\nwant %.*s", body,
                  h.text[i], (int)want.bytes, want.data ? want.data : "");
        cr_assert_str_eq(h.finish[i], finish, "%s", body);
        strbuf_close(&want);
    }
    rawclient_close(&c);
}

Test(session, text_is_what_all_tokens_together_say) {
    bench b;
    start(&b);
    uint64_t random = 5;
    for (int round = 0; round < 300; round++) {
        one_round(&b, &random);
    }
    stop(&b);
}

Test(session, prompts_are_runs_and_each_has_its_own_seed) {
    static const char body[] =
        "{\"prompt\":[\"the water\",\"a\",\"in\"],\"max_tokens\":2,\"n\":2,"
        "\"seed\":41}";
    bench b;
    rawclient c;
    start(&b);
    session *s = open_session(&b, ask(&b, &c, body), body);
    cr_assert_eq(session_runs(s), 3);
    for (int32_t run = 0; run < 3; run++) {
        gate_request r = session_run(s, run, 9);
        cr_assert(r.salt == 9 && r.params->choices == 2 && r.params->max_tokens == 2);
        cr_assert_eq(r.params->seed, (uint64_t)41 + (uint64_t)run);
    }
    for (int32_t run = 2; run >= 0; run--) { /* the runs end in any order */
        for (int32_t choice = 0; choice < 2; choice++) {
            request_token t = {.choice = choice, .token = 100 + run, .end = REQUEST_LENGTH};
            cr_assert_eq(session_token(s, run, &t, 1), SESSION_GOES_ON);
        }
        cr_assert_not(session_finished(s));
        cr_assert_eq(session_run_done(s, run, 1, 1), SESSION_GOES_ON);
    }
    cr_assert(session_finished(s));
    session_times t = session_get_times(s);
    cr_assert(t.completion_tokens == 6 && t.cached_tokens == 3);
    session_close(s);
    cr_assert(rawclient_wait_end(&c));
    heard h;
    hear(&h, &c, false);
    for (int i = 0; i < 6; i++) {
        str piece = tokenizer_piece(b.tokenizer, 100 + i / 2);
        cr_assert(str_equal(str_from(h.text[i]), piece), "%d: %s", i, h.text[i]);
    }
    rawclient_close(&c);
    stop(&b);
}

Test(session, a_failure_is_an_error_object_or_the_end_of_a_stream) {
    for (int begun = 0; begun < 2; begun++) {
        static const char body[] = "{\"prompt\":\"a\",\"max_tokens\":9,\"stream\":true}";
        bench b;
        rawclient c;
        diag d;
        start(&b);
        session *s = open_session(&b, ask(&b, &c, body), body);
        if (begun) {
            request_token t = {.token = 100};
            cr_assert_eq(session_token(s, 0, &t, 1), SESSION_GOES_ON);
        }
        (void)status_fail(&d, STATUS_LIMIT, "no workers");
        session_fail(s, 503, &d, 4);
        session_close(s);
        cr_assert(rawclient_wait_end(&c));
        cr_assert_eq(rawclient_status(&c, 0), begun ? 200 : 503);
        cr_assert_not_null(strstr(c.got, "no workers"));
        cr_assert_eq(strstr(c.got, "Retry-After: 4") != NULL, !begun);
        cr_assert_null(strstr(c.got, "[DONE]"));
        cr_assert_eq(strstr(c.got, "\r\n0\r\n") != NULL, false, "a cut stream has no proper end");
        rawclient_close(&c);
        stop(&b);
    }
}

Test(session, a_client_that_left_is_noticed_and_nothing_leaks) {
    static const char body[] = "{\"prompt\":\"a\",\"max_tokens\":9,\"stream\":true}";
    bench b;
    rawclient c;
    start(&b);
    session *s = open_session(&b, ask(&b, &c, body), body);
    rawclient_close(&c);
    session_result r;
    int32_t index = 0;
    do {
        request_token t = {.token = 100, .index = index++};
        r = session_token(s, 0, &t, 1);
        clock_sleep_us(1000);
    } while (r == SESSION_GOES_ON && index < 60000);
    cr_assert_eq(r, SESSION_CLIENT_GONE);
    session_close(s);
    session_close(NULL);
    stop(&b);
}
