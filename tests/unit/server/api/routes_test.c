/* routes_test.c -- every route with every method and key, over real sockets. */
#define _GNU_SOURCE
#include "server/api/routes.h"

#include <criterion/criterion.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

#include "server/api/reply.h"
#include "tests/support/rawclient.h"

static const char *const models[] = {"tiny", "org/alias"};
static const openai_limits limits = {models, 2, 1000, 320};

typedef struct {
    http *server;
    routes *table;
    apikeys *keys;
    _Atomic int route; /* the last that came through, -1 */
    _Atomic int key;
} fixture;

/* The gateway: says which route it got. */
static void on_request(void *self, routes_route route, exchange *x, openai_request *r) {
    fixture *f = self;
    atomic_store(&f->route, (int)route);
    atomic_store(&f->key, exchange_key(x));
    cr_assert_eq(r != NULL, route <= ROUTES_DETOKENIZE);
    strbuf json = strbuf_make(100);
    strbuf_printf(&json, "{\"route\":%d}", (int)route);
    cr_assert(routes_answer(x, &json));
    strbuf_close(&json);
    openai_free(r);
    exchange_release(x);
}

static void on_gone(void *self, exchange *x) {
    (void)self;
    (void)x;
}

static void start(fixture *f, const char *key, bool metrics_open) {
    memset(f, 0, sizeof *f);
    diag d = {.code = STATUS_OK};
    if (key != NULL) {
        cr_assert_eq(apikeys_open(&f->keys), STATUS_OK);
        cr_assert_eq(apikeys_add(f->keys, str_from("some-other-key"), &d), STATUS_OK);
        cr_assert_eq(apikeys_add(f->keys, str_from(key), &d), STATUS_OK);
    }
    routes_options o = {.limits = &limits,
                        .keys = f->keys,
                        .metrics_open = metrics_open,
                        .version = "1.2",
                        .started_s = 77,
                        .self = f,
                        .request = on_request,
                        .gone = on_gone};
    cr_assert_eq(routes_open(&o, &f->table, &d), STATUS_OK);
    http_handlers handlers = routes_handlers(f->table);
    http_options ho = {0};
    cr_assert_eq(http_open(&ho, &handlers, &f->server, &d), STATUS_OK, "%s", d.text);
}

static void stop(fixture *f) {
    http_close(f->server);
    routes_close(f->table);
    apikeys_close(f->keys);
}

/* The answer's status; the text stays in `c` until it is closed. */
static int call(fixture *f, rawclient *c, const char *method, const char *path, const char *headers,
                const char *body) {
    char text[4096];
    snprintf(text, sizeof text,
             "%s %s HTTP/1.1\r\nHost: h\r\nConnection: close\r\n%s"
             "Content-Length: %zu\r\n\r\n%s",
             method, path, headers, strlen(body), body);
    atomic_store(&f->route, -1);
    rawclient_open(c, http_port(f->server));
    rawclient_send_z(c, text);
    cr_assert(rawclient_wait_end(c));
    return rawclient_status(c, 0);
}

typedef struct {
    const char *path;
    const char *method;
    const char *body;
    int route;
    bool open;
} entry;

static const entry entries[] = {
    {"/v1/chat/completions", "POST", "{\"messages\":[{\"role\":\"user\",\"content\":\"x\"}]}",
     ROUTES_CHAT, false},
    {"/v1/completions", "POST", "{\"prompt\":\"x\"}", ROUTES_COMPLETIONS, false},
    {"/tokenize", "POST", "{\"prompt\":\"x\"}", ROUTES_TOKENIZE, false},
    {"/detokenize", "POST", "{\"tokens\":[1]}", ROUTES_DETOKENIZE, false},
    {"/debug/route/explain", "POST", "{\"prompt\":\"x\"}", ROUTES_EXPLAIN, false},
    {"/health", "GET", "", ROUTES_HEALTH, true},
    {"/ready", "GET", "", ROUTES_READY, true},
    {"/metrics", "GET", "", ROUTES_METRICS, false},
    {"/controller/state", "GET", "", ROUTES_CONTROLLER, false},
    {"/controller/drain", "POST", "{\"worker\":0}", ROUTES_CONTROLLER_DRAIN, false},
    {"/debug/route", "GET", "", ROUTES_DECISIONS, false},
    {"/v1/models", "GET", "", -1, false},
    {"/v1/models/tiny", "GET", "", -1, false},
    {"/version", "GET", "", -1, false},
    {"/dashboard", "GET", "", -1, true},
};

static const char *const methods[] = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"};

Test(routes, every_path_takes_its_method_and_no_other) {
    fixture f;
    start(&f, NULL, false);
    for (size_t e = 0; e < sizeof entries / sizeof entries[0]; e++) {
        for (size_t m = 0; m < sizeof methods / sizeof methods[0]; m++) {
            bool get = strcmp(entries[e].method, "GET") == 0;
            bool fits = strcmp(methods[m], entries[e].method) == 0 ||
                        (get && strcmp(methods[m], "HEAD") == 0);
            rawclient c;
            int code = call(&f, &c, methods[m], entries[e].path,
                            "Content-Type: application/json\r\n", entries[e].body);
            cr_expect_eq(code, fits ? 200 : 405, "%s %s: %s", methods[m], entries[e].path, c.got);
            cr_expect_eq(atomic_load(&f.route), fits ? entries[e].route : -1, "%s %s", methods[m],
                         entries[e].path);
            cr_expect(fits || strstr(c.got, get ? "Allow: GET, HEAD\r\n" : "Allow: POST\r\n"), "%s",
                      c.got);
            rawclient_close(&c);
        }
    }
    stop(&f);
}

Test(routes, every_route_with_no_bad_and_good_key) {
    static const struct {
        const char *header;
        bool good;
    } keys[] = {
        {"", false},
        {"Authorization: Bearer wrong-key-1\r\n", false},
        {"Authorization: Basic right-key-1\r\n", false},
        {"Authorization: right-key-1\r\n", false},
        {"X-Api-Key: right-key-1\r\n", false},
        {"Authorization: Bearer right-key-1\r\n", true},
        {"authorization: bearer right-key-1\r\n", true},
    };
    for (int metrics_open = 0; metrics_open <= 1; metrics_open++) {
        fixture f;
        start(&f, "right-key-1", metrics_open == 1);
        for (size_t e = 0; e < sizeof entries / sizeof entries[0]; e++) {
            for (size_t k = 0; k < sizeof keys / sizeof keys[0]; k++) {
                bool open =
                    entries[e].open || (metrics_open == 1 && entries[e].route == ROUTES_METRICS);
                bool in = open || keys[k].good;
                rawclient c;
                int code = call(&f, &c, entries[e].method, entries[e].path, keys[k].header,
                                entries[e].body);
                cr_expect_eq(code, in ? 200 : 401, "%s %s", entries[e].path, keys[k].header);
                cr_expect_eq(atomic_load(&f.route), in ? entries[e].route : -1);
                cr_expect(in || strstr(c.got, "WWW-Authenticate: Bearer\r\n") != NULL);
                cr_expect(!keys[k].good || open || entries[e].route < 0 ||
                          atomic_load(&f.key) == 1);
                rawclient_close(&c);
            }
        }
        stop(&f);
    }
}

Test(routes, denies_what_is_not_in_the_table) {
    static const char *const paths[] = {
        "/",
        "/v1",
        "/v1/",
        "/v1/models/",
        "/v1/chat/completions/",
        "/V1/models",
        "/healthz",
        "/v1/embeddings",
        "/v1/responses",
        "//health",
        "/./health",
        "/v1/../health",
        "/metrics/x",
        "/admin",
        "/v1/chat%2Fcompletions/x",
        "/health%0d%0a",
    };
    fixture open, keyed;
    start(&open, NULL, false);
    start(&keyed, "right-key-1", false);
    for (size_t i = 0; i < sizeof paths / sizeof paths[0]; i++) {
        rawclient c;
        cr_expect_eq(call(&open, &c, "GET", paths[i], "", ""), 404, "%s: %s", paths[i], c.got);
        rawclient_close(&c);
        /* Without a key nobody learns which paths exist. */
        cr_expect_eq(call(&keyed, &c, "GET", paths[i], "", ""), 401, "%s", paths[i]);
        rawclient_close(&c);
    }
    stop(&open);
    stop(&keyed);
}

Test(routes, answers_models_and_version_itself) {
    static const struct {
        const char *path;
        int code;
        const char *part;
    } rows[] = {
        {"/v1/models", 200, "\"id\":\"org/alias\""},
        {"/v1/models/tiny", 200, "{\"id\":\"tiny\",\"object\":\"model\",\"created\":77"},
        {"/v1/models/org/alias", 200, "{\"id\":\"org/alias\""},
        {"/v1/models/org%2Falias", 200, "{\"id\":\"org/alias\""},
        {"/v1/models/nope", 404, "\"param\":\"model\""},
        {"/v1/models?limit=3", 200, "\"object\":\"list\""},
        {"/version", 200, "{\"version\":\"1.2\"}"},
    };
    fixture f;
    start(&f, NULL, false);
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        rawclient c;
        cr_expect_eq(call(&f, &c, "GET", rows[i].path, "", ""), rows[i].code, "%s", rows[i].path);
        cr_expect(strstr(c.got, rows[i].part) != NULL, "%s: %s", rows[i].path, c.got);
        rawclient_close(&c);
    }
    stop(&f);
}

Test(routes, refuses_bodies_with_their_status) {
    static const struct {
        const char *path;
        const char *headers;
        const char *body;
        int code;
        const char *part;
    } rows[] = {
        {"/v1/completions", "", "{\"prompt\":", 400, "\"type\":\"BadRequestError\""},
        {"/v1/completions", "", "", 400, "empty"},
        {"/v1/completions", "", "{\"prompt\":\"x\",\"n\":-1}", 400, "\"param\":\"n\""},
        {"/v1/completions", "", "{\"prompt\":\"x\",\"model\":\"y\"}", 404,
         "\"type\":\"NotFoundError\",\"param\":\"model\""},
        {"/v1/chat/completions", "", "{\"messages\":[]}", 400, "\"param\":\"messages\""},
        {"/v1/chat/completions", "Content-Type: text/plain\r\n", "{}", 415, "Content-Type"},
        {"/v1/chat/completions", "Content-Type: application/jsonx\r\n", "{}", 415, "Content-Type"},
        {"/v1/completions", "Content-Type: Application/JSON; charset=utf-8\r\n",
         "{\"prompt\":\"x\"}", 200, "route"},
    };
    fixture f;
    start(&f, NULL, false);
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        rawclient c;
        cr_expect_eq(call(&f, &c, "POST", rows[i].path, rows[i].headers, rows[i].body),
                     rows[i].code, "row %zu: %s", i, c.got);
        cr_expect(strstr(c.got, rows[i].part) != NULL, "row %zu: %s", i, c.got);
        rawclient_close(&c);
    }
    stop(&f);
}
