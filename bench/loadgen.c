/* loadgen.c -- `weir bench serve`: load on a server over HTTP, and what its users would feel. */
#define _GNU_SOURCE
#include "bench/loadgen.h"

#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "bench/httpclient.h"
#include "bench/loadprompt.h"
#include "bench/loadrun.h"
#include "bench/loadstats.h"
#include "engine/base/config.h"
#include "engine/base/limits.h"
#include "engine/base/mem.h"

enum { LOADGEN_REQUEST_BYTES = 64 << 20, LOADGEN_REPORT_BYTES = 1 << 20 };

typedef struct {
    const char *url, *model, *key;
    double rate, temperature, ttft_slo_ms, tpot_slo_ms, timeout_s;
    int64_t concurrency, requests, prompt_tokens, prefix_tokens, prefixes, max_tokens, warmup, seed;
    int64_t connections;
    int32_t endpoint, arrivals;
    bool stream, ignore_eos, json;
} settings;

static const char *const endpoint_names[] = {"completions", "chat", NULL};
static const char *const arrival_names[] = {"poisson", "constant", NULL};

#define FIELD(name) offsetof(settings, name)

static const config_option options[] = {
    {"url", CONFIG_STRING, FIELD(url), 0, 1024, "http://127.0.0.1:8000", NULL, "URL", "the server"},
    {"rate", CONFIG_DOUBLE, FIELD(rate), 0, 1e6, "0", NULL, "R",
     "open loop: R requests arrive a second, whether or not the server keeps up"},
    {"concurrency", CONFIG_INT, FIELD(concurrency), 0, LOADGEN_CONNECTIONS_MAX, "0", NULL, "C",
     "closed loop: C requests at once (the default, with 1)"},
    {"requests", CONFIG_INT, FIELD(requests), 1, LOADGEN_REQUESTS_MAX, "100", NULL, NULL,
     "how many are measured"},
    {"warmup", CONFIG_INT, FIELD(warmup), 0, LOADGEN_REQUESTS_MAX, "0", NULL, NULL,
     "how many go before, one at a time, unmeasured"},
    {"prompt-tokens", CONFIG_INT, FIELD(prompt_tokens), 1, LIMIT_CONTEXT_TOKENS, "128", NULL, NULL,
     "length of each prompt"},
    {"shared-prefix", CONFIG_INT, FIELD(prefix_tokens), 0, LIMIT_CONTEXT_TOKENS, "0", NULL, NULL,
     "of these, how many are the same in all prompts"},
    {"shared-prefixes", CONFIG_INT, FIELD(prefixes), 1, 1 << 20, "1", NULL, NULL,
     "how many different prefixes there are; each prompt has one by chance"},
    {"max-tokens", CONFIG_INT, FIELD(max_tokens), 1, LIMIT_CONTEXT_TOKENS, "32", NULL, NULL,
     "length of each answer"},
    {"endpoint", CONFIG_ENUM, FIELD(endpoint), 0, 0, "completions", endpoint_names, NULL,
     "completions sends tokens, chat sends a message"},
    {"stream", CONFIG_BOOL, FIELD(stream), 0, 0, "true", NULL, NULL,
     "stream the answers (times to tokens need it)"},
    {"ignore-eos", CONFIG_BOOL, FIELD(ignore_eos), 0, 0, "true", NULL, NULL,
     "answers have their full length, or the request has failed"},
    {"temperature", CONFIG_DOUBLE, FIELD(temperature), 0, 2, "0", NULL, NULL, "of the sampling"},
    {"arrivals", CONFIG_ENUM, FIELD(arrivals), 0, 0, "poisson", arrival_names, NULL,
     "how requests of an open loop are spaced"},
    {"seed", CONFIG_INT, FIELD(seed), 0, 0x1p53, "1", NULL, NULL, "of prompts and arrivals"},
    {"ttft-slo-ms", CONFIG_DOUBLE, FIELD(ttft_slo_ms), 0, 1e9, "0", NULL, "MS",
     "goodput: limit of the time to the first token; 0: none"},
    {"tpot-slo-ms", CONFIG_DOUBLE, FIELD(tpot_slo_ms), 0, 1e9, "0", NULL, "MS",
     "goodput: limit of the time per output token; 0: none"},
    {"model", CONFIG_STRING, FIELD(model), 0, 1024, NULL, NULL, "NAME",
     "as the server calls it; default: its first"},
    {"api-key", CONFIG_STRING, FIELD(key), 0, 1024, NULL, NULL, "KEY",
     "sent as a bearer token; default: the environment's OPENAI_API_KEY"},
    {"timeout", CONFIG_DOUBLE, FIELD(timeout_s), 0.001, 86400, "600", NULL, "SECONDS",
     "a request that takes longer has failed"},
    {"connections", CONFIG_INT, FIELD(connections), 1, LOADGEN_CONNECTIONS_MAX, "1024", NULL, NULL,
     "open loop: most connections at once"},
    {"json", CONFIG_BOOL, FIELD(json), 0, 0, "false", NULL, NULL, "one JSON object"},
};

static const config_table table = {
    "weir bench serve", "Load on a server over HTTP: latencies, throughput, goodput, failures.",
    options, sizeof options / sizeof options[0], NULL};

/* What a run holds on to. */
typedef struct {
    settings o;
    httpclient_url url;
    struct addrinfo *to;
    loadprompt *prompts;
    strbuf *requests; /* [warmup + requests] */
    int64_t requests_count;
    int64_t *arrivals_us; /* [requests], NULL in a closed loop */
    loadstats *stats;
} run;

static status check(settings *o, diag *d) {
    if (o->rate > 0 && o->concurrency > 0) {
        return status_fail(d, STATUS_INVALID, "--rate and --concurrency exclude each other");
    }
    if (o->rate <= 0 && o->concurrency == 0) {
        o->concurrency = 1;
    }
    if (o->prefix_tokens > o->prompt_tokens) {
        return status_fail(d, STATUS_INVALID, "--shared-prefix is more than --prompt-tokens");
    }
    const char *key = getenv("OPENAI_API_KEY");
    if (o->key == NULL && key != NULL && key[0] != 0) {
        o->key = key;
    }
    for (const char *c = o->key; c != NULL && *c != 0; c++) {
        if (*c <= ' ' || *c >= 127) {
            return status_fail(d, STATUS_INVALID, "the API key has a character keys do not have");
        }
    }
    return STATUS_OK;
}

static status resolve(run *r, diag *d) {
    TRY(httpclient_url_read(r->o.url, &r->url, d));
    char host[sizeof r->url.host];
    size_t n = strlen(r->url.host);
    bool bracketed = r->url.host[0] == '[';
    memcpy(host, r->url.host + bracketed, n - bracketed);
    host[n - bracketed - bracketed] = 0;
    struct addrinfo hints = {.ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM};
    int code = getaddrinfo(host, r->url.port, &hints, &r->to);
    if (code != 0) {
        return status_fail_param(d, STATUS_INVALID, "url", "%s: %s", host, gai_strerror(code));
    }
    return STATUS_OK;
}

static status prepare(run *r, bool progress, diag *d) {
    const settings *o = &r->o;
    loadprompt_options po = {.url = &r->url,
                             .to = r->to,
                             .key = o->key,
                             .model = o->model,
                             .chat = o->endpoint == 1,
                             .stream = o->stream,
                             .ignore_eos = o->ignore_eos,
                             .prompt_tokens = (int32_t)o->prompt_tokens,
                             .prefix_tokens = (int32_t)o->prefix_tokens,
                             .prefixes = (int32_t)o->prefixes,
                             .max_tokens = (int32_t)o->max_tokens,
                             .temperature = o->temperature,
                             .seed = (uint64_t)o->seed,
                             .timeout_us = (int64_t)(o->timeout_s * 1e6)};
    TRY(loadprompt_open(&po, &r->prompts, d));
    int64_t count = o->warmup + o->requests;
    r->requests = mem_calloc((size_t)count, sizeof *r->requests);
    if (r->requests == NULL) {
        return status_fail(d, STATUS_NOMEM, "no memory for %lld requests", (long long)count);
    }
    for (; r->requests_count < count; r->requests_count++) {
        strbuf *one = &r->requests[r->requests_count];
        *one = strbuf_make(LOADGEN_REQUEST_BYTES);
        TRY(loadprompt_write(r->prompts, r->requests_count, one, d));
        if (progress && r->requests_count % 64 == 0) {
            fprintf(stderr, "\rpreparing %lld/%lld \x1b[K", (long long)r->requests_count,
                    (long long)count);
        }
    }
    if (o->rate > 0) {
        r->arrivals_us = mem_calloc((size_t)o->requests, sizeof *r->arrivals_us);
        if (r->arrivals_us == NULL) {
            return status_fail(d, STATUS_NOMEM, "no memory for the arrivals");
        }
        loadrun_arrivals(o->rate, o->arrivals == 0, (uint64_t)o->seed, r->arrivals_us, o->requests);
    }
    return loadstats_open((size_t)o->requests, &r->stats, d);
}

static status measure(run *r, bool progress, diag *d) {
    const settings *o = &r->o;
    loadrun_options lo = {.to = r->to,
                          .requests = r->requests,
                          .requests_count = o->warmup,
                          .connections_max = 1,
                          .stream = o->stream,
                          .timeout_us = (int64_t)(o->timeout_s * 1e6),
                          .progress = progress};
    TRY(loadrun(&lo, NULL, d));
    lo.requests = r->requests + o->warmup;
    lo.requests_count = o->requests;
    lo.arrivals_us = r->arrivals_us;
    lo.connections_max = o->rate > 0 ? o->connections : o->concurrency;
    if (lo.connections_max > o->requests) {
        lo.connections_max = o->requests;
    }
    lo.min_tokens = o->ignore_eos ? (int32_t)o->max_tokens : 0;
    return loadrun(&lo, r->stats, d);
}

static void write_settings(const run *r, strbuf *out) {
    const settings *o = &r->o;
    strbuf_printf(out,
                  "{\"bench\":\"serve\",\"mode\":\"%s\",\"rate\":%g,\"concurrency\":%lld,"
                  "\"endpoint\":\"%s\",\"stream\":%s,\"prompt_tokens_each\":%lld,"
                  "\"prompt_tokens_exact\":%s,\"shared_prefix\":%lld,\"shared_prefixes\":%lld,"
                  "\"max_tokens\":%lld,"
                  "\"warmup\":%lld,\"seed\":%lld,\"ttft_slo_ms\":%g,\"tpot_slo_ms\":%g,",
                  o->rate > 0 ? "open" : "closed", o->rate, (long long)o->concurrency,
                  endpoint_names[o->endpoint], o->stream ? "true" : "false",
                  (long long)o->prompt_tokens, loadprompt_exact(r->prompts) ? "true" : "false",
                  (long long)o->prefix_tokens, (long long)o->prefixes, (long long)o->max_tokens,
                  (long long)o->warmup, (long long)o->seed, o->ttft_slo_ms, o->tpot_slo_ms);
}

/* Prints; returns the exit status. */
static int report(const run *r) {
    loadstats_report figures;
    loadstats_reduce(r->stats, r->o.ttft_slo_ms, r->o.tpot_slo_ms, &figures);
    strbuf out = strbuf_make(LOADGEN_REPORT_BYTES);
    if (r->o.json) {
        write_settings(r, &out);
        loadstats_write_json(&figures, &out);
        strbuf_append_z(&out, "}\n");
    } else {
        strbuf_printf(&out, "model                  %s\n", loadprompt_model(r->prompts));
        if (!loadprompt_exact(r->prompts)) {
            strbuf_append_z(&out, "prompts                lengths are approximate\n");
        }
        loadstats_write_text(&figures, &out);
    }
    fwrite(out.data, 1, out.bytes, stdout);
    strbuf_close(&out);
    return figures.completed > 0 ? 0 : 1;
}

static void release(run *r) {
    for (int64_t i = 0; r->requests != NULL && i < r->o.warmup + r->o.requests; i++) {
        strbuf_close(&r->requests[i]);
    }
    mem_free(r->requests);
    mem_free(r->arrivals_us);
    if (r->prompts != NULL) {
        loadprompt_close(r->prompts);
    }
    loadstats_close(r->stats);
    if (r->to != NULL) {
        freeaddrinfo(r->to);
    }
}

int loadgen_main(int argc, char *const *argv) {
    run r = {0};
    config c;
    diag d = {.code = STATUS_OK};
    int code;
    if (!config_start(&c, &table, argc, argv, &r.o, &code)) {
        config_close(&c);
        return code;
    }
    status s = check(&r.o, &d);
    if (s != STATUS_OK) {
        fprintf(stderr, "weir bench serve: %s\n", d.text);
        config_close(&c);
        return 2;
    }
    bool progress = isatty(STDERR_FILENO) == 1;
    s = resolve(&r, &d);
    if (s == STATUS_OK) {
        s = prepare(&r, progress, &d);
    }
    if (s == STATUS_OK) {
        s = measure(&r, progress, &d);
    }
    code = s == STATUS_OK ? report(&r) : 1;
    if (s != STATUS_OK) {
        fprintf(stderr, "weir bench serve: %s\n", d.text);
    }
    release(&r);
    config_close(&c);
    return code;
}
