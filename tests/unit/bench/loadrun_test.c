/* loadrun_test.c -- load runs against a server that answers as told. */
#define _GNU_SOURCE
#include "bench/loadrun.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bench/httpclient.h"
#include "bench/loadprompt.h"
#include "engine/base/mem.h"
#include "server/api/openai.h"
#include "server/api/reply.h"
#include "server/http/http.h"
#include "server/http/jsonin.h"
#include "server/http/refusal.h"

enum { VOCAB = 1000, CONTEXT = 4096, TEMPLATE_TOKENS = 9, SEEN_MAX = 256 };

/* What the server does wrong. */
typedef enum {
    FAULT_NONE,
    FAULT_BUSY,
    FAULT_500,
    FAULT_400,
    FAULT_CUT,
    FAULT_FEW,
    FAULT_EVENT,
    FAULT_NO_DONE,
    FAULT_SILENT
} fault;

typedef struct {
    http *server;
    httpclient_url url;
    struct addrinfo *to;
    _Atomic int fault;
    _Atomic bool tokenless; /* no /tokenize */
    _Atomic bool llama;     /* /tokenize as llama-server has it */
    _Atomic int seen_count;
    char *seen[SEEN_MAX]; /* prompts as they came */
    exchange *silent[SEEN_MAX];
    _Atomic int silent_count;
} fixture;

static const char *const models[] = {"fake"};
static const openai_limits limits = {models, 1, CONTEXT, VOCAB};

static void on_admit(void *self, const http_head *head, http_verdict *v) {
    fixture *f = self;
    if (atomic_load(&f->tokenless) && str_equal_z(head->path, "/tokenize")) {
        v->http_code = 404;
        (void)status_fail(&v->error, STATUS_NOTFOUND, "no such path");
    }
}

static void answer(exchange *x, int code, strbuf *json) {
    exchange_respond(x, code, "application/json", strbuf_str(json), NULL, 0);
    strbuf_close(json);
}

/* One token a word, and a template of TEMPLATE_TOKENS; a token's text is "wN". */
static int32_t words_of(const char *text, int32_t *ids) {
    int32_t n = 0;
    for (const char *p = text; *p != 0;) {
        size_t blanks = strspn(p, " .");
        size_t letters = strcspn(p + blanks, " .");
        if (letters > 0) {
            long id = p[blanks] == 'w' && letters > 1 ? strtol(p + blanks + 1, NULL, 10) : 0;
            ids[n++] = (int32_t)(id > 0 ? id : 7 + p[blanks]) % VOCAB;
        }
        p += blanks + letters;
    }
    return n;
}

static void tokenize(exchange *x) {
    openai_request *r = NULL;
    diag d;
    cr_assert_eq(openai_parse(OPENAI_TOKENIZE, exchange_body(x), &limits, &r, &d), STATUS_OK, "%s",
                 d.text);
    int32_t *ids = mem_alloc(1 << 20, sizeof *ids);
    int32_t n = 0;
    if (r->template_input != NULL) {
        const cJSON *m = cJSON_GetObjectItem(r->template_input, "messages");
        n = words_of(cJSON_GetObjectItem(m->child, "content")->valuestring, ids) + TEMPLATE_TOKENS;
        for (int32_t i = n - TEMPLATE_TOKENS; i < n; i++) {
            ids[i] = 1;
        }
    } else {
        cr_assert_not(r->add_special_tokens);
        n = words_of(r->prompts[0].text.data, ids);
    }
    strbuf json = strbuf_make(16 << 20);
    reply_write_tokens(&json, ids, n, CONTEXT, NULL);
    answer(x, 200, &json);
    mem_free(ids);
    openai_free(r);
}

/* Reads `content`, knows neither `prompt` nor `messages`, and finds nothing wrong with neither. */
static void tokenize_llama(exchange *x) {
    str bytes = exchange_body(x);
    cJSON *root = cJSON_ParseWithLength(bytes.data, bytes.bytes);
    const cJSON *content = cJSON_GetObjectItem(root, "content");
    int32_t *ids = mem_alloc(1 << 20, sizeof *ids);
    int32_t n = cJSON_IsString(content) ? words_of(content->valuestring, ids) : 0;
    strbuf json = strbuf_make(16 << 20);
    strbuf_append_z(&json, "{\"tokens\":[");
    for (int32_t i = 0; i < n; i++) {
        strbuf_printf(&json, i == 0 ? "%d" : ",%d", ids[i]);
    }
    strbuf_append_z(&json, "]}");
    answer(x, 200, &json);
    mem_free(ids);
    cJSON_Delete(root);
}

static void detokenize(exchange *x) {
    openai_request *r = NULL;
    diag d;
    cr_assert_eq(openai_parse(OPENAI_DETOKENIZE, exchange_body(x), &limits, &r, &d), STATUS_OK);
    strbuf text = strbuf_make(16 << 20);
    for (int32_t i = 0; i < r->prompts[0].tokens_count; i++) {
        strbuf_printf(&text, " w%d", r->prompts[0].tokens[i]);
    }
    strbuf json = strbuf_make(16 << 20);
    reply_write_text(&json, strbuf_str(&text));
    answer(x, 200, &json);
    strbuf_close(&text);
    openai_free(r);
}

static str no_piece(const void *self, int32_t token) {
    (void)self;
    (void)token;
    return str_from("t");
}

static void stream(fixture *f, exchange *x, const reply *r, const reply_usage *usage) {
    fault what = (fault)atomic_load(&f->fault);
    exchange_begin(x, 200, "text/event-stream", NULL, 0);
    strbuf out = strbuf_make(1 << 20);
    reply_part part = {.first = true, .stop_token = -1};
    if (r->request->kind == OPENAI_CHAT) {
        reply_write_event(&out, r, &part, NULL);
    }
    for (int32_t i = 0; i < usage->completion_tokens; i++) {
        part = (reply_part){.text = str_from("t"), .stop_token = -1};
        reply_write_event(&out, r, &part, NULL);
    }
    reply_write_event_usage(&out, r, usage);
    if (what == FAULT_EVENT) {
        strbuf_append_z(&out, "data: {not json\n\n");
    }
    if (what != FAULT_CUT && what != FAULT_NO_DONE) {
        reply_write_event_done(&out);
    }
    exchange_write(x, strbuf_str(&out));
    strbuf_close(&out);
    what == FAULT_CUT ? exchange_cut(x) : exchange_end(x);
}

static void generate(fixture *f, exchange *x, openai_kind kind) {
    openai_request *q = NULL;
    diag d;
    fault what = (fault)atomic_load(&f->fault);
    cr_assert_eq(openai_parse(kind, exchange_body(x), &limits, &q, &d), STATUS_OK, "%s", d.text);
    int slot = atomic_fetch_add(&f->seen_count, 1);
    strbuf prompt = strbuf_make(1 << 20);
    int32_t count = 0;
    if (kind == OPENAI_CHAT) {
        int32_t *ids = mem_alloc(1 << 20, sizeof *ids);
        const cJSON *m = cJSON_GetObjectItem(q->template_input, "messages");
        const char *text = cJSON_GetObjectItem(m->child, "content")->valuestring;
        count = words_of(text, ids) + TEMPLATE_TOKENS;
        strbuf_append_z(&prompt, text);
        mem_free(ids);
    } else {
        count = q->prompts[0].tokens_count;
        for (int32_t i = 0; i < count; i++) {
            strbuf_printf(&prompt, " w%d", q->prompts[0].tokens[i]);
        }
        strbuf_append_str(&prompt, q->prompts[0].text);
    }
    if (slot < SEEN_MAX) {
        f->seen[slot] = mem_dup(prompt.data, prompt.bytes);
    }
    strbuf_close(&prompt);
    reply r = {q, "x", 1, {NULL, no_piece}};
    reply_usage usage = {count, q->params.max_tokens - (what == FAULT_FEW), count / 2};
    strbuf json = strbuf_make(1 << 20);
    if (what == FAULT_SILENT) {
        exchange_acquire(x);
        f->silent[atomic_fetch_add(&f->silent_count, 1)] = x;
    } else if (what == FAULT_BUSY || what == FAULT_500 || what == FAULT_400) {
        (void)status_fail(&d, STATUS_LIMIT, "no");
        int code = what == FAULT_BUSY ? 503 : what == FAULT_500 ? 500 : 400;
        refusal_write(&json, code, &d);
        answer(x, code, &json);
    } else if (q->stream) {
        stream(f, x, &r, &usage);
    } else {
        reply_part part = {.text = str_from("t"), .finish = REPLY_LENGTH, .stop_token = -1};
        reply_write_whole(&json, &r, &part, 1, &usage);
        answer(x, 200, &json);
    }
    openai_free(q);
}

static void on_request(void *self, exchange *x, int32_t route) {
    (void)route;
    fixture *f = self;
    str path = exchange_path(x);
    if (str_equal_z(path, "/v1/models")) {
        strbuf json = strbuf_make(10000);
        reply_write_models(&json, &limits, 1);
        answer(x, 200, &json);
    } else if (str_equal_z(path, "/tokenize")) {
        atomic_load(&f->llama) ? tokenize_llama(x) : tokenize(x);
    } else if (str_equal_z(path, "/detokenize")) {
        detokenize(x);
    } else {
        generate(f, x, str_equal_z(path, "/v1/completions") ? OPENAI_COMPLETIONS : OPENAI_CHAT);
    }
    exchange_release(x);
}

static void on_gone(void *self, exchange *x) {
    (void)self;
    (void)x;
}

static void start(fixture *f) {
    memset(f, 0, sizeof *f);
    http_handlers handlers = {f, on_admit, on_request, on_gone};
    http_options o = {0};
    diag d;
    cr_assert_eq(http_open(&o, &handlers, &f->server, &d), STATUS_OK, "%s", d.text);
    char url[64];
    snprintf(url, sizeof url, "http://127.0.0.1:%u", http_port(f->server));
    cr_assert_eq(httpclient_url_read(url, &f->url, &d), STATUS_OK);
    struct addrinfo hints = {.ai_family = AF_INET, .ai_socktype = SOCK_STREAM};
    cr_assert_eq(getaddrinfo(f->url.host, f->url.port, &hints, &f->to), 0);
}

static void stop(fixture *f) {
    http_close(f->server);
    freeaddrinfo(f->to);
    for (int i = 0; i < SEEN_MAX; i++) {
        mem_free(f->seen[i]);
    }
    for (int i = 0; i < atomic_load(&f->silent_count); i++) {
        exchange_release(f->silent[i]);
    }
}

typedef struct {
    bool chat, stream;
    int32_t prompt, prefix, tokens;
    int64_t requests, connections;
    double rate; /* 0: closed loop */
    int64_t timeout_us;
} plan;

static loadstats_report run(fixture *f, plan p, bool *exact) {
    loadprompt_options po = {.url = &f->url,
                             .to = f->to,
                             .chat = p.chat,
                             .stream = p.stream,
                             .ignore_eos = true,
                             .prompt_tokens = p.prompt,
                             .prefix_tokens = p.prefix,
                             .max_tokens = p.tokens,
                             .seed = 3,
                             .timeout_us = 60000000};
    loadprompt *prompts = NULL;
    diag d = {.code = STATUS_OK};
    cr_assert_eq(loadprompt_open(&po, &prompts, &d), STATUS_OK, "%s", d.text);
    cr_assert_str_eq(loadprompt_model(prompts), "fake");
    strbuf *requests = mem_calloc((size_t)p.requests, sizeof *requests);
    int64_t *arrivals = mem_calloc((size_t)p.requests, sizeof *arrivals);
    for (int64_t i = 0; i < p.requests; i++) {
        requests[i] = strbuf_make(1 << 20);
        cr_assert_eq(loadprompt_write(prompts, i, &requests[i], &d), STATUS_OK, "%s", d.text);
    }
    *exact = loadprompt_exact(prompts);
    if (p.rate > 0) {
        loadrun_arrivals(p.rate, true, 1, arrivals, p.requests);
    }
    loadrun_options lo = {.to = f->to,
                          .requests = requests,
                          .requests_count = p.requests,
                          .connections_max = p.connections,
                          .arrivals_us = p.rate > 0 ? arrivals : NULL,
                          .stream = p.stream,
                          .min_tokens = p.tokens,
                          .timeout_us = p.timeout_us != 0 ? p.timeout_us : 60000000};
    loadstats *stats = NULL;
    cr_assert_eq(loadstats_open((size_t)p.requests, &stats, &d), STATUS_OK);
    cr_assert_eq(loadrun(&lo, stats, &d), STATUS_OK, "%s", d.text);
    loadstats_report report;
    loadstats_reduce(stats, 0, 0, &report);
    loadstats_close(stats);
    for (int64_t i = 0; i < p.requests; i++) {
        strbuf_close(&requests[i]);
    }
    mem_free(requests);
    mem_free(arrivals);
    loadprompt_close(prompts);
    return report;
}

Test(loadrun, sends_prompts_of_exactly_the_asked_length_and_counts_everything) {
    for (int kind = 0; kind < 8; kind++) {
        fixture f;
        start(&f);
        plan p = {.chat = (kind & 1) != 0,
                  .stream = (kind & 2) != 0,
                  .prompt = 50,
                  .prefix = 20,
                  .tokens = 5,
                  .requests = 40,
                  .connections = 4,
                  .rate = (kind & 4) ? 2000 : 0};
        bool exact = false;
        loadstats_report r = run(&f, p, &exact);
        cr_assert(exact);
        cr_assert_eq(r.completed, 40, "kind %d: %zu malformed", kind,
                     r.failures[LOADSTATS_MALFORMED]);
        cr_assert_eq(r.prompt_tokens, 40 * 50);
        cr_assert_eq(r.cached_tokens, 40 * 25);
        cr_assert_eq(r.output_tokens, 40 * 5);
        cr_assert_eq(r.ttft.count, p.stream ? 40u : 0u);
        cr_assert_eq(r.gap.count, p.stream ? 40u * 4 : 0u);
        cr_assert_eq(atomic_load(&f.seen_count), 40);
        /* Different prompts with a common beginning. */
        for (int i = 0; i < 40; i++) {
            for (int k = 0; k < i; k++) {
                cr_assert_str_neq(f.seen[i], f.seen[k]);
                cr_assert_eq(strncmp(f.seen[i], f.seen[k], 20), 0);
            }
        }
        stop(&f);
    }
}

Test(loadrun, tells_failures_by_kind) {
    static const struct {
        fault what;
        bool stream;
        loadstats_result kind;
    } rows[] = {
        {FAULT_BUSY, true, LOADSTATS_REFUSED},   {FAULT_500, true, LOADSTATS_SERVER},
        {FAULT_400, false, LOADSTATS_CLIENT},    {FAULT_CUT, true, LOADSTATS_CUT},
        {FAULT_NO_DONE, true, LOADSTATS_CUT},    {FAULT_FEW, true, LOADSTATS_SHORT},
        {FAULT_FEW, false, LOADSTATS_SHORT},     {FAULT_EVENT, true, LOADSTATS_MALFORMED},
        {FAULT_SILENT, true, LOADSTATS_TIMEOUT},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        fixture f;
        start(&f);
        atomic_store(&f.fault, (int)rows[i].what);
        plan p = {.stream = rows[i].stream,
                  .prompt = 5,
                  .tokens = 3,
                  .requests = 6,
                  .connections = 2,
                  .timeout_us = rows[i].what == FAULT_SILENT ? 200000 : 0};
        bool exact = false;
        loadstats_report r = run(&f, p, &exact);
        cr_expect_eq(r.failures[rows[i].kind], 6, "row %zu", i);
        cr_expect_eq(r.completed, 0);
        stop(&f);
    }
}

Test(loadrun, does_without_a_tokenizer) {
    fixture f;
    start(&f);
    atomic_store(&f.tokenless, true);
    plan p = {
        .chat = true, .stream = true, .prompt = 12, .tokens = 3, .requests = 5, .connections = 1};
    bool exact = true;
    loadstats_report r = run(&f, p, &exact);
    cr_assert_not(exact);
    cr_assert_eq(r.completed, 5);
    stop(&f);
}

Test(loadrun, makes_exact_completions_with_the_tokenizer_of_llama_server) {
    for (int chat = 0; chat < 2; chat++) {
        fixture f;
        start(&f);
        atomic_store(&f.llama, true);
        plan p = {.chat = chat != 0,
                  .stream = true,
                  .prompt = 50,
                  .tokens = 3,
                  .requests = 5,
                  .connections = 1};
        bool exact = false;
        loadstats_report r = run(&f, p, &exact);
        cr_assert_eq(exact, chat == 0);
        cr_assert_eq(r.completed, 5);
        cr_assert(chat != 0 || r.prompt_tokens == 5 * 50);
        stop(&f);
    }
}

Test(loadrun, no_server_is_a_failure_to_connect) {
    fixture f;
    start(&f);
    plan p = {.stream = true, .prompt = 5, .tokens = 3, .requests = 3, .connections = 1};
    bool exact = false;
    (void)run(&f, p, &exact);
    http_close(f.server);
    strbuf request = strbuf_make(1000);
    httpclient_write(&request, &f.url, "POST", "/v1/completions", NULL, str_from("{}"));
    loadrun_options lo = {.to = f.to,
                          .requests = &request,
                          .requests_count = 1,
                          .connections_max = 1,
                          .stream = true,
                          .timeout_us = 60000000};
    loadstats *stats = NULL;
    diag d;
    cr_assert_eq(loadstats_open(1, &stats, &d), STATUS_OK);
    cr_assert_eq(loadrun(&lo, stats, &d), STATUS_OK);
    loadstats_report r;
    loadstats_reduce(stats, 0, 0, &r);
    cr_assert_eq(r.failures[LOADSTATS_CONNECT], 1);
    loadstats_close(stats);
    strbuf_close(&request);
    freeaddrinfo(f.to);
    for (int i = 0; i < SEEN_MAX; i++) {
        mem_free(f.seen[i]);
    }
}

/* Gaps of a Poisson process are exponential: mean and standard deviation are 1/rate, and about
 * 63.2 % are shorter than that. */
Test(loadrun, arrivals_are_poisson_and_repeat_with_the_seed) {
    enum { COUNT = 200000 };
    static int64_t at[COUNT], again[COUNT];
    loadrun_arrivals(50, true, 7, at, COUNT);
    loadrun_arrivals(50, true, 7, again, COUNT);
    cr_assert_eq(memcmp(at, again, sizeof at), 0);
    double sum = 0, squares = 0, shorter = 0;
    for (int i = 1; i < COUNT; i++) {
        double gap = (double)(at[i] - at[i - 1]) / 1e6;
        cr_assert(gap >= 0);
        sum += gap;
        squares += gap * gap;
        shorter += gap < 0.02;
    }
    double n = COUNT - 1, mean = sum / n;
    cr_assert_float_eq(mean, 0.02, 0.0002);
    cr_assert_float_eq(sqrt(squares / n - mean * mean), 0.02, 0.0004);
    cr_assert_float_eq(shorter / n, 1 - exp(-1), 0.005);
    loadrun_arrivals(50, false, 7, at, 4);
    cr_assert_eq(at[0], 0);
    cr_assert_eq(at[3], 60000);
}
