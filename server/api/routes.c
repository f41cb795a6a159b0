/* routes.c -- which request goes where: default deny. */
#include "server/api/routes.h"
#include "server/http/refusal.h"

#include <stdio.h>
#include <string.h>

#include "engine/base/mem.h"
#include "server/api/dashboard.h"
#include "server/api/reply.h"

struct routes {
    routes_options options;
};

typedef struct {
    const char *path;
    const char *method; /* GET allows HEAD too */
    routes_route route;
    bool open; /* needs no key */
} routes_entry;

static const routes_entry routes_table[] = {
    {"/v1/chat/completions", "POST", ROUTES_CHAT, false},
    {"/v1/completions", "POST", ROUTES_COMPLETIONS, false},
    {"/debug/route/explain", "POST", ROUTES_EXPLAIN, false},
    {"/tokenize", "POST", ROUTES_TOKENIZE, false},
    {"/detokenize", "POST", ROUTES_DETOKENIZE, false},
    {"/health", "GET", ROUTES_HEALTH, true},
    {"/ready", "GET", ROUTES_READY, true},
    {"/metrics", "GET", ROUTES_METRICS, false},
    {"/debug/route", "GET", ROUTES_DECISIONS, false},
    {"/v1/models", "GET", ROUTES_MODELS, false},
    {"/version", "GET", ROUTES_VERSION, false},
    {"/dashboard", "GET", ROUTES_DASHBOARD, true},
    {"/controller/state", "GET", ROUTES_CONTROLLER, false},
    {"/controller/drain", "POST", ROUTES_CONTROLLER_DRAIN, false},
    {"/controller/flip", "POST", ROUTES_CONTROLLER_FLIP, false},
    {"/controller/scale", "POST", ROUTES_CONTROLLER_SCALE, false},
};

static const char routes_model_prefix[] = "/v1/models/";
static const routes_entry routes_model_entry = {"/v1/models/", "GET", ROUTES_MODEL, false};

static const routes_entry *routes_find(str path) {
    for (size_t i = 0; i < sizeof routes_table / sizeof routes_table[0]; i++) {
        if (str_equal_z(path, routes_table[i].path)) {
            return &routes_table[i];
        }
    }
    bool model = str_starts_with(path, str_from(routes_model_prefix)) &&
                 path.bytes > sizeof routes_model_prefix - 1;
    return model ? &routes_model_entry : NULL;
}

static void routes_deny(http_verdict *v, int code, const char *text) {
    v->http_code = code;
    (void)status_fail(&v->error, STATUS_INVALID, "%s", text);
}

static bool routes_method_fits(const routes_entry *e, str method) {
    return str_equal_z(method, e->method) ||
           (str_equal_z(method, "HEAD") && strcmp(e->method, "GET") == 0);
}

static bool routes_has_key(const routes_options *o, const routes_entry *e, const http_head *head,
                           http_verdict *v) {
    if (o->keys == NULL || apikeys_count(o->keys) == 0 || e->open ||
        (e->route == ROUTES_METRICS && o->metrics_open)) {
        return true;
    }
    v->key = apikeys_find(o->keys, head->authorization);
    if (v->key >= 0) {
        return true;
    }
    routes_deny(v, 401,
                head->authorization.bytes == 0
                    ? "an API key is needed: send it as \"Authorization: Bearer KEY\""
                    : "the API key is not valid");
    v->challenge = true;
    return false;
}

/* Browsers may send text/plain to other sites without asking; JSON they may not. Clients that
 * send no type at all are no browsers. */
static bool routes_type_fits(str content_type) {
    static const char json[] = "application/json";
    size_t n = sizeof json - 1;
    if (content_type.bytes == 0) {
        return true;
    }
    if (content_type.bytes < n) {
        return false;
    }
    for (size_t i = 0; i < n; i++) {
        char c = content_type.data[i];
        if ((c >= 'A' && c <= 'Z' ? (char)(c + 32) : c) != json[i]) {
            return false;
        }
    }
    return content_type.bytes == n || strchr("; \t", content_type.data[n]) != NULL;
}

static void routes_admit(void *self, const http_head *head, http_verdict *v) {
    const routes *r = self;
    const routes_entry *e = routes_find(head->path);
    if (e == NULL) {
        /* An unknown caller learns nothing about which paths exist. */
        static const routes_entry keyed = {"", "", ROUTES_MODELS, false};
        if (routes_has_key(&r->options, &keyed, head, v)) {
            routes_deny(v, 404, "there is nothing at this path");
        }
        return;
    }
    v->route = (int32_t)e->route;
    if (!routes_has_key(&r->options, e, head, v)) {
        return;
    }
    if (!routes_method_fits(e, head->method)) {
        routes_deny(v, 405, "this path does not take this method");
        snprintf(v->allow, sizeof v->allow, "%s%s", e->method,
                 strcmp(e->method, "GET") == 0 ? ", HEAD" : "");
    } else if (strcmp(e->method, "POST") == 0 && !routes_type_fits(head->content_type)) {
        routes_deny(v, 415, "Content-Type must be application/json");
    }
}

bool routes_refuse(exchange *x, int http_code, const diag *d, int32_t retry_after_s) {
    strbuf body = strbuf_make(4096);
    refusal_write(&body, http_code, d);
    char seconds[16];
    snprintf(seconds, sizeof seconds, "%d", retry_after_s);
    exchange_header retry = {"Retry-After", seconds};
    bool ok = exchange_respond(x, http_code, "application/json", strbuf_str(&body), &retry,
                               retry_after_s > 0 ? 1 : 0);
    strbuf_close(&body);
    return ok;
}

bool routes_answer(exchange *x, const strbuf *json) {
    if (json->failed) {
        diag d;
        (void)status_fail(&d, STATUS_NOMEM, "the answer does not fit in memory");
        return routes_refuse(x, 500, &d, 0);
    }
    return exchange_respond(x, 200, "application/json", strbuf_str(json), NULL, 0);
}

static void routes_answer_model(const routes *r, exchange *x, strbuf *json) {
    const openai_limits *limits = r->options.limits;
    str path = exchange_path(x);
    size_t n = sizeof routes_model_prefix - 1;
    str name = str_of(path.data + n, path.bytes - n);
    for (int32_t i = 0; i < limits->models_count; i++) {
        if (str_equal_z(name, limits->models[i])) {
            reply_write_model(json, limits->models[i], limits, r->options.started_s);
            (void)routes_answer(x, json);
            return;
        }
    }
    diag d;
    (void)status_fail_param(&d, STATUS_NOTFOUND, "model", "the model `%.*s` does not exist",
                            (int)(name.bytes < 100 ? name.bytes : 100), name.data);
    (void)routes_refuse(x, 404, &d, 0);
}

/* What needs no gateway. */
static void routes_answer_here(const routes *r, exchange *x, routes_route route) {
    strbuf json = strbuf_make(1 << 20);
    if (route == ROUTES_MODEL) {
        routes_answer_model(r, x, &json);
    } else {
        if (route == ROUTES_MODELS) {
            reply_write_models(&json, r->options.limits, r->options.started_s);
        } else {
            reply_write_version(&json, r->options.version);
        }
        (void)routes_answer(x, &json);
    }
    strbuf_close(&json);
    exchange_release(x);
}

static void routes_parse(const routes *r, exchange *x, routes_route route, openai_kind kind) {
    openai_request *request = NULL;
    diag d;
    status code = openai_parse(kind, exchange_body(x), r->options.limits, &request, &d);
    if (code != STATUS_OK) {
        (void)routes_refuse(x, refusal_code(code), &d, code == STATUS_NOMEM ? 1 : 0);
        exchange_release(x);
        return;
    }
    r->options.request(r->options.self, route, x, request);
}

static void routes_request(void *self, exchange *x, int32_t number) {
    const routes *r = self;
    routes_route route = (routes_route)number;
    switch (route) {
        case ROUTES_CHAT:
            routes_parse(r, x, route, OPENAI_CHAT);
            break;
        case ROUTES_COMPLETIONS:
            routes_parse(r, x, route, OPENAI_COMPLETIONS);
            break;
        case ROUTES_EXPLAIN: /* the same body: text that becomes tokens */
        case ROUTES_TOKENIZE:
            routes_parse(r, x, route, OPENAI_TOKENIZE);
            break;
        case ROUTES_DETOKENIZE:
            routes_parse(r, x, route, OPENAI_DETOKENIZE);
            break;
        case ROUTES_HEALTH:
        case ROUTES_READY:
        case ROUTES_METRICS:
        case ROUTES_CONTROLLER:
        case ROUTES_CONTROLLER_DRAIN:
        case ROUTES_CONTROLLER_FLIP:
        case ROUTES_CONTROLLER_SCALE:
        case ROUTES_DECISIONS:
            r->options.request(r->options.self, route, x, NULL);
            break;
        case ROUTES_MODELS:
        case ROUTES_MODEL:
        case ROUTES_VERSION:
            routes_answer_here(r, x, route);
            break;
        case ROUTES_DASHBOARD:
            (void)dashboard_answer(x);
            exchange_release(x);
            break;
    }
}

static void routes_gone(void *self, exchange *x) {
    const routes *r = self;
    r->options.gone(r->options.self, x);
}

status routes_open(const routes_options *options, routes **out, diag *d) {
    routes *r = mem_calloc(1, sizeof *r);
    if (r == NULL) {
        return status_fail(d, STATUS_NOMEM, "no memory for the routes");
    }
    r->options = *options;
    *out = r;
    return STATUS_OK;
}

void routes_close(routes *r) {
    mem_free(r);
}

http_handlers routes_handlers(routes *r) {
    return (http_handlers){r, routes_admit, routes_request, routes_gone};
}
