/* serve.c -- model, workers, banner. */
#define _GNU_SOURCE
#include "server/serve.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "engine/base/clock.h"
#include "engine/base/cpulimit.h"
#include "engine/base/failpoint.h"
#include "engine/base/hash.h"
#include "engine/base/limits.h"
#include "engine/base/log.h"
#include "engine/base/tracefile.h"
#include "engine/core/message.h"
#include "models/file/gguf.h"
#include "server/control/hub.h"
#include "server/gateway/gateway.h"
#include "server/serveflags.h"
#include "server/version.h"
#include "server/workerflags.h"

typedef struct {
    serveflags set;
    const config_table *table;
    clusterkey key;
    member_hubs hubs;
    hub *hub;
    cluster *cluster;
    uint64_t model_hash;
    char hub_text[HOSTPORT_TEXT_BYTES], worker_listen[HOSTPORT_TEXT_BYTES];
    hash_key salt_key;
    gguf *file;
    tokenizer *tokenizer;
    chat *chat;
    openai_limits limits;
    char model_name[256];
    const char *names[1];
    apikeys *keys;
    intake *intake;
    routes *routes;
    reqtrace *traces;
    http *http;
    supervisor *supervisor;
    tracefile trace;
    cores cores;
    int64_t started_us;
    diag d;
} server;

/* ---- the model, as the gateway needs it ----------------------------------------------------- */

static status read_context(server *s, int32_t *out) {
    char key[96];
    str arch;
    uint64_t context = 0;
    TRY(gguf_get_str(s->file, "general.architecture", &arch, &s->d));
    (void)snprintf(key, sizeof key, "%.*s.context_length", (int)(arch.bytes < 64 ? arch.bytes : 64),
                   arch.data);
    TRY(gguf_get_u64(s->file, key, &context, &s->d));
    if (context < 1 || context > LIMIT_CONTEXT_TOKENS) {
        return status_fail(&s->d, STATUS_UNSUPPORTED, "%s: a context of %llu tokens", key,
                           (unsigned long long)context);
    }
    *out = (int32_t)context;
    if (s->set.context > 0 && s->set.context < *out) {
        *out = (int32_t)s->set.context;
    }
    return STATUS_OK;
}

/* Clients name the model by its file, without the ending: what they see is what was served. */
static void name_model(server *s) {
    str name = str_from(s->set.model);
    while (name.bytes > 1 && name.data[name.bytes - 1] == '/') {
        name.bytes--;
    }
    const char *slash = memrchr(name.data, '/', name.bytes);
    if (slash) {
        size_t before = (size_t)(slash + 1 - name.data);
        name = str_of(name.data + before, name.bytes - before);
    }
    str ending = str_from(".gguf");
    if (s->set.served_name) {
        name = str_from(s->set.served_name);
    } else if (str_ends_with(name, ending) && name.bytes > ending.bytes) {
        name.bytes -= ending.bytes;
    }
    (void)snprintf(s->model_name, sizeof s->model_name, "%.*s", (int)name.bytes, name.data);
    s->names[0] = s->model_name;
}

static status open_model(server *s) {
    TRY(gguf_open(s->set.model, &s->file, &s->d));
    TRY(tokenizer_open(s->file, &s->tokenizer, &s->d));
    str source;
    if (gguf_get_str(s->file, "tokenizer.chat_template", &source, NULL) == STATUS_OK) {
        status parsed = chat_open(source, &s->chat, &s->d);
        if (parsed != STATUS_OK) {
            diag why = s->d;
            return status_fail(&s->d, parsed, "tokenizer.chat_template: %.300s", why.text);
        }
    }
    int32_t context = 0;
    TRY(read_context(s, &context));
    name_model(s);
    s->limits = (openai_limits){.models = s->names,
                                .models_count = 1,
                                .context_tokens = context,
                                .vocab_count = tokenizer_vocab_count(s->tokenizer)};
    s->model_hash = gguf_hash(s->file);
    gguf_close(s->file);
    s->file = NULL;
    return STATUS_OK;
}

/* ---- HTTP ----------------------------------------------------------------------------------- */

static status open_keys(server *s) {
    const char *from_environment = getenv("WEIR_API_KEY");
    const char *key = s->set.api_key ? s->set.api_key : from_environment;
    if (!key && !s->set.api_key_file) {
        return STATUS_OK;
    }
    status made = apikeys_open(&s->keys);
    if (made != STATUS_OK) {
        return status_fail(&s->d, made, "no memory for the API keys");
    }
    if (key) {
        TRY(apikeys_add(s->keys, str_from(key), &s->d));
    }
    return s->set.api_key_file ? apikeys_add_file(s->keys, s->set.api_key_file, &s->d) : STATUS_OK;
}

static status open_http(server *s) {
    intake_options io = {.model = {s->tokenizer, s->chat, s->limits.context_tokens},
                         .threads = (uint32_t)s->set.text_threads,
                         .waiting_max = (uint32_t)s->set.requests,
                         .connections_max = (uint32_t)s->set.connections};
    TRY(open_keys(s));
    TRY(intake_open(&io, &s->intake, &s->d));
    routes_options ro = {.limits = &s->limits,
                         .keys = s->keys,
                         .metrics_open = s->set.metrics_open,
                         .version = VERSION_TEXT,
                         .started_s = clock_wall_us() / 1000000,
                         .self = s->intake,
                         .request = intake_request,
                         .gone = intake_gone};
    TRY(routes_open(&ro, &s->routes, &s->d));
    reqtrace_options to = {
        .endpoint =
            s->set.otlp_endpoint ? s->set.otlp_endpoint : getenv("OTEL_EXPORTER_OTLP_ENDPOINT"),
        .headers = s->set.otlp_headers ? s->set.otlp_headers : getenv("OTEL_EXPORTER_OTLP_HEADERS"),
        .sample = s->set.otlp_sample,
        .version = VERSION_TEXT,
        .inner = routes_handlers(s->routes)};
    TRY(reqtrace_open(&to, &s->traces, &s->d));
    http_handlers handlers = reqtrace_handlers(s->traces);
    http_options ho = {.host = s->set.host,
                       .shared_port = s->set.reuse_port,
                       .port = (uint16_t)s->set.port,
                       .connections_max = (uint32_t)s->set.connections,
                       .threads = (uint32_t)s->set.http_threads};
    bool loopback = strncmp(s->set.host, "127.", 4) == 0 || strcmp(s->set.host, "::1") == 0 ||
                    strcmp(s->set.host, "localhost") == 0;
    if (!loopback && !s->keys) {
        LOG(WARN, "serve", "open to the network without a key", "host=%s hint=\"--api-key-file\"",
            s->set.host);
    }
    return http_open(&ho, &handlers, &s->http, &s->d);
}

/* ---- workers -------------------------------------------------------------------------------- */

static int64_t workers_count(const server *s) {
    return s->set.aggregated ? s->set.decode : s->set.prefill + s->set.decode;
}

/* Children that may run; with --autoscale more than those that do at first. */
static int64_t children_count(const server *s) {
    if (!s->set.autoscale) {
        return workers_count(s);
    }
    int64_t most = s->set.prefill_max + s->set.decode_max;
    if (s->set.gpu_cap > 0 && (int64_t)s->set.gpu_cap < most) {
        most = (int64_t)s->set.gpu_cap;
    }
    return most > workers_count(s) ? most : workers_count(s);
}

static status add_worker(server *s, const char *role, int64_t threads, int64_t own) {
    char number[16], thread_text[16], own_text[16], kv[32], context[16], seqs[16], chunk[16],
        queue[16], drain[16], device[16], fraction[16], pace[16];
    char ranks[16], block[16], share[16];
    const serveflags *o = &s->set;
    bool decodes = o->kv_block_decode > 0 && strcmp(role, "decode") == 0;
    uint32_t child = 0;
    static uint32_t next;
    (void)snprintf(number, sizeof number, "%u", next++);
    (void)snprintf(thread_text, sizeof thread_text, "%d", (int)threads);
    (void)snprintf(own_text, sizeof own_text, "%d", (int)own);
    (void)snprintf(kv, sizeof kv, "%lld", (long long)o->kv_bytes);
    (void)snprintf(device, sizeof device, "%d", (int)o->device);
    (void)snprintf(ranks, sizeof ranks, "%d", (int)o->ranks);
    (void)snprintf(fraction, sizeof fraction, "%.6f",
                   o->memory_fraction / (double)children_count(s));
    (void)snprintf(context, sizeof context, "%d", (int)s->limits.context_tokens);
    (void)snprintf(seqs, sizeof seqs, "%d", (int)o->seqs);
    (void)snprintf(chunk, sizeof chunk, "%d", (int)o->chunk);
    (void)snprintf(block, sizeof block, "%d", (int)(decodes ? o->kv_block_decode : o->kv_block));
    (void)snprintf(share, sizeof share, "%d", (int)o->decode_share);
    (void)snprintf(pace, sizeof pace, "%d", (int)o->pace_ms);
    (void)snprintf(queue, sizeof queue, "%d", (int)o->pending_ms);
    (void)snprintf(drain, sizeof drain, "%d", (int)o->drain_ms);
    const char *args[] = {
        "worker", s->set.autoscale ? "--flips" : "--no-flips", "--role", role, "--worker", number,
        "--epoch", "{epoch}", "--link-fd", "3", "--model", o->model, "--backend",
        serveflags_backends[o->backend], "--device", device, "--tensor-parallel-size", ranks,
        "--memory-fraction", fraction, o->deterministic ? "--deterministic" : "--no-deterministic",
        o->multiplex ? "--pd-multiplex" : "--no-pd-multiplex", "--pd-decode-share", share,
        "--threads", thread_text, "--threads-own", own_text, "--cores-fd", "4", "--kv-memory", kv,
        "--kv-block-tokens", block, "--kv-dtype", workerflags_kv_dtypes[o->kv_dtype],
        "--activations", workerflags_activations[o->activations], "--weights",
        workerflags_weights[o->weights], "--context", context, "--max-seqs", seqs,
        "--prefill-chunk", chunk, "--decode-pace-ms", pace, "--log-level",
        log_level_names[o->log_level], o->log_json ? "--log-json" : "--no-log-json", "--trace",
        o->trace ? o->trace : "", "--kv-transport", workerflags_kv_transports[o->kv_transport],
        "--queue-timeout-ms", queue, "--drain-timeout-ms", drain, "--profile",
        o->profile ? o->profile : "", "--price-table", o->price_table ? o->price_table : "",
        /* From here on for links between hosts; cut off below without them. */
        "--listen", s->worker_listen, "--join", s->hub_text, "--cluster-key-file", o->key_file};
    uint32_t count = sizeof args / sizeof args[0];
    count -= !s->worker_listen[0] ? 6 : !s->hub_text[0] ? 4 : !o->key_file ? 2 : 0;
    return supervisor_add(s->supervisor, args, count, &child, &s->d);
}

static status open_workers(server *s) {
    int64_t threads = s->set.threads ? s->set.threads : cpulimit_cpus();
    threads = threads < LIMIT_THREADS ? threads : LIMIT_THREADS;
    int64_t workers = children_count(s);
    int64_t own = workers > 0 && threads / workers > 0 ? threads / workers : 1;
    TRY(cores_create(&s->cores, &s->d));
    supervisor_share(s->supervisor, s->cores.fd);
    if (s->set.aggregated) {
        for (int64_t i = 0; i < s->set.decode; i++) {
            TRY(add_worker(s, "both", threads, own));
        }
        return STATUS_OK;
    }
    for (int64_t i = 0; i < workers && s->set.autoscale; i++) {
        TRY(add_worker(s, "{role}", threads, own));
    }
    if (s->set.autoscale) {
        return STATUS_OK;
    }
    for (int64_t i = 0; i < s->set.prefill; i++) {
        TRY(add_worker(s, "prefill", threads, own));
    }
    for (int64_t i = 0; i < s->set.decode; i++) {
        TRY(add_worker(s, "decode", threads, own));
    }
    return STATUS_OK;
}

/* ---- other hosts ---------------------------------------------------------------------------- */

/* A key for this life, when only its own workers are to talk to each other. */
static status make_key(server *s) {
    hash_key halves[2];
    char text[65];
    TRY(hash_key_random(&halves[0], &s->d));
    TRY(hash_key_random(&halves[1], &s->d));
    (void)snprintf(text, sizeof text, "%016llx%016llx%016llx%016llx",
                   (unsigned long long)halves[0].k0, (unsigned long long)halves[0].k1,
                   (unsigned long long)halves[1].k0, (unsigned long long)halves[1].k1);
    return setenv("WEIR_CLUSTER_KEY", text, 1) == 0
               ? STATUS_OK
               : status_fail(&s->d, STATUS_NOMEM, "no memory for a key");
}

/* Local pairs too get a connection of their own, which a socket of this machine does not have. */
static bool kv_by_address(const server *s) {
    return s->set.kv_transport == WORKERFLAGS_KV_TCP ||
           s->set.kv_transport == WORKERFLAGS_KV_NCCL || s->set.kv_transport == WORKERFLAGS_KV_IPC;
}

/* Each worker finds out for itself whether it takes a GPU, and of a pair that does, the gateway
 * hears so; that there may be one is seen here without waking it. */
static bool kv_on_gpus(const server *s) {
    const char *backend = serveflags_backends[s->set.backend];
    bool may = strcmp(backend, "cuda") == 0 ||
               (strcmp(backend, "auto") == 0 && access("/dev/nvidiactl", F_OK) == 0);
    return may && s->set.kv_transport == WORKERFLAGS_KV_AUTO && !s->set.aggregated;
}

static status open_hub(server *s) {
    hostport at;
    if (!s->set.cluster_listen) {
        if (kv_by_address(s) || kv_on_gpus(s)) {
            (void)snprintf(s->worker_listen, sizeof s->worker_listen, "127.0.0.1:0");
            return make_key(s);
        }
        return STATUS_OK;
    }
    TRY(clusterkey_read(s->set.key_file, &s->key, &s->d));
    TRY(clusterkey_address(&s->key, s->set.cluster_listen, "cluster-listen", &at, &s->d));
    if (hostport_is_any(&at)) {
        return status_fail(&s->d, STATUS_INVALID,
                           "--cluster-listen %s: name the address at which other hosts reach this "
                           "one: its workers are told to be there too",
                           s->set.cluster_listen);
    }
    hub_options ho = {.address = at, .key = s->key, .reserved = (uint32_t)children_count(s)};
    TRY(hub_start(&ho, &s->hub, &s->d));
    s->hubs = (member_hubs){{hub_address(s->hub)}, 1};
    hostport_print(&s->hubs.list[0], s->hub_text);
    hostport_set_port(&at, 0);
    hostport_print(&at, s->worker_listen);
    LOG(INFO, "hub", "listening", "address=%s", s->hub_text);
    return STATUS_OK;
}

static status find_hub(server *s) {
    TRY(clusterkey_read(s->set.key_file, &s->key, &s->d));
    TRY(member_hubs_read(&s->key, s->set.join, "join", &s->hubs, &s->d));
    hostport_print(&s->hubs.list[0], s->hub_text);
    return STATUS_OK;
}

static uint32_t local_workers(const server *s) {
    if (s->set.join) {
        return 0;
    }
    return (uint32_t)children_count(s);
}

/* One tenant cannot take every place, where there are others. */
static uint32_t key_requests(const server *s) {
    int64_t all = s->set.requests;
    int64_t most = s->set.key_requests;
    if (most == 0) {
        most = s->keys && apikeys_count(s->keys) > 1 ? (all + 1) / 2 : all;
    }
    return (uint32_t)most;
}

/* The gateways of a cluster find each other's prefixes in the workers' caches; those of a key that
 * is nobody else's, nobody else can. */
static status make_salt(server *s) {
    uint8_t secret[HANDSHAKE_KEY_BYTES];
    if (!s->hub_text[0]) {
        return hash_key_random(&s->salt_key, &s->d);
    }
    clusterkey_derive(&s->key, "weir prefix cache salt 1", secret);
    memcpy(&s->salt_key, secret, sizeof s->salt_key);
    return STATUS_OK;
}

static status open_cluster(server *s) {
    cluster_options co = {
        .hubs = s->hubs, .key = s->key, .model_hash = s->model_hash, .local = local_workers(s)};
    return s->hub_text[0] ? cluster_open(&co, &s->cluster, &s->d) : STATUS_OK;
}

/* ---- the command ---------------------------------------------------------------------------- */

static void say_ready(void *self) {
    const server *s = self;
    unsigned port = http_port(s->http);
    const char *host = strcmp(s->set.host, "0.0.0.0") == 0 ? "127.0.0.1" : s->set.host;
    diag d;
    if (http_accept(s->http, &d) != STATUS_OK) {
        LOG(ERROR, "gateway", "takes no connections", "why=\"%s\"", d.text);
    }
    LOG(INFO, "gateway", "ready", "url=http://%s:%u after_ms=%lld", host, port,
        (long long)(clock_now_us() - s->started_us) / 1000);
    (void)printf("weir %s serves %s on http://%s:%u (ready in %.2f s)\n", VERSION_TEXT,
                 s->model_name, s->set.host, port, (double)(clock_now_us() - s->started_us) / 1e6);
    if (s->set.join) {
        (void)printf("  workers: those of the cluster at %s\n", s->hub_text);
    } else if (s->set.aggregated) {
        (void)printf("  workers: %d for both phases (aggregated%s)\n", (int)s->set.decode,
                     s->set.multiplex ? ", side by side" : "");
    } else {
        (void)printf("  workers: %d prefill, %d decode; KV moves over %s\n", (int)s->set.prefill,
                     (int)s->set.decode,
                     kv_by_address(s) ? workerflags_kv_transports[s->set.kv_transport]
                     : kv_on_gpus(s)  ? "what the GPUs open (weir_kv_links)"
                                      : "shm");
    }
    if (s->hub) {
        (void)printf("  hub:     %s (weir worker --join %s ...)\n", s->hub_text, s->hub_text);
    }
    (void)printf(
        "  try:     curl http://%s:%u/v1/chat/completions -H 'Content-Type: "
        "application/json' \\\n"
        "             -d '{\"model\": \"%s\", \"messages\": [{\"role\": \"user\", "
        "\"content\": \"Hello!\"}]}'\n"
        "  stop:    Ctrl-C\n",
        host, port, s->model_name);
    (void)fflush(stdout);
}

static gateway_scale scale_settings(const server *s) {
    const serveflags *o = &s->set;
    return (gateway_scale){
        .scaler = {.bounds = {{(uint32_t)o->prefill_min, (uint32_t)o->prefill_max},
                              {(uint32_t)o->decode_min, (uint32_t)o->decode_max}},
                   .gpus_max = o->gpu_cap,
                   .slo = {(double)o->slo_ttft_ms * 1000, (double)o->slo_tpot_ms * 1000},
                   .seqs_max = (double)o->seqs,
                   .drain_us =
                       o->drain_ms * 1000 + 5000000, /* the worker's own limit comes first */
                   .hold_us = o->hold_s * 1000000,
                   .idle_us = o->idle_s * 1000000,
                   .dry_run = o->dry_run},
        .first = {(uint32_t)o->prefill, (uint32_t)o->decode},
        .lease_path = o->lease_file};
}

static status run(server *s) {
    TRY(tracefile_open(&s->trace, s->set.trace, "gateway", &s->d));
    TRY(open_model(s));
    TRY(supervisor_open(&s->supervisor, &s->d)); /* first: it blocks SIGCHLD for all threads */
    if (s->set.join) {
        TRY(find_hub(s));
    } else {
        TRY(open_hub(s));
        TRY(open_workers(s));
    }
    TRY(make_salt(s));
    TRY(open_cluster(s));
    TRY(open_http(s));
    bool prefills = !s->set.join && (s->set.aggregated || s->set.prefill > 0);
    uint32_t roles = prefills ? MESSAGE_ROLE_PREFILL | MESSAGE_ROLE_DECODE : MESSAGE_ROLE_DECODE;
    gateway_scale scale = scale_settings(s);
    if (s->set.autoscale && s->set.prefill_min == 0 && s->set.decode_min == 0) {
        roles = 0; /* without workers, requests are held */
    }
    gateway_options go = {.intake = s->intake,
                          .scale = s->set.autoscale ? &scale : NULL,
                          .http = s->http,
                          .supervisor = s->supervisor,
                          .local = local_workers(s),
                          .cluster = s->cluster,
                          .model_name = s->names[0],
                          .model_hash = s->cluster ? s->model_hash : 0,
                          .kv_by_address = kv_by_address(s),
                          .cores = &s->cores,
                          .tokenizer = s->tokenizer,
                          .roles_wanted = roles,
                          .keys = s->keys,
                          .salt_key = s->salt_key,
                          .requests_max = (uint32_t)s->set.requests,
                          .key_requests_max = key_requests(s),
                          .ttft_slo_us = s->set.ttft_slo_ms * 1000,
                          .local_prefill_max = (int32_t)s->set.local_prefill_max,
                          .route = (router_policy)s->set.route,
                          .silence_us = s->set.silence_ms * 1000,
                          .join_us = 120000000,
                          .pending_us = s->set.pending_ms * 1000,
                          .drain_us = s->set.drain_ms * 1000,
                          .trace = s->trace.trace,
                          .traces = s->traces,
                          .shared_port = s->set.reuse_port,
                          .on_ready = say_ready,
                          .self = s};
    return gateway_run(&go, &s->d);
}

static void close_all(server *s) {
    if (s->http) {
        http_close(s->http);
    }
    intake_close(s->intake);
    reqtrace_close(s->traces); /* after all that may still have an exchange */
    routes_close(s->routes);
    apikeys_close(s->keys);
    cluster_close(s->cluster);
    supervisor_close(s->supervisor);
    hub_stop(s->hub);
    cores_close(&s->cores);
    chat_close(s->chat);
    tokenizer_close(s->tokenizer);
    gguf_close(s->file);
    tracefile_close(&s->trace);
}

/* Reads the flags; -1 when the command goes on, else its exit status. */
static int read_settings(config *c, server *s, int argc, char *const *argv) {
    int code;
    if (!config_start(c, s->table, argc, argv, &s->set, &code)) {
        return code;
    }
    if (!s->set.model) {
        s->set.model = getenv("WEIR_DEFAULT_MODEL");
    }
    if (!s->set.model) {
        (void)fprintf(stderr,
                      "%s: --model FILE is needed (the ./weir launcher brings a default model)\n",
                      s->table->command);
        return 2;
    }
    if (s->table == &serveflags_gateway && !s->set.join) {
        (void)fprintf(stderr, "weir gateway: --join HOST:PORT is needed\n");
        return 2;
    }
    if (s->table == &serveflags_serve && !s->set.cluster_listen && s->set.decode == 0 &&
        !s->set.autoscale) {
        (void)fprintf(stderr, "weir serve: --decode 0 needs --cluster-listen or --autoscale\n");
        return 2;
    }
    if (s->set.kv_transport == WORKERFLAGS_KV_LOCAL && !s->set.aggregated) {
        (void)fprintf(stderr,
                      "weir serve: --kv-transport local needs --aggregated: workers of one "
                      "phase move their KV\n");
        return 2;
    }
    if (s->set.multiplex && !s->set.aggregated) {
        (void)fprintf(stderr,
                      "weir serve: --pd-multiplex needs --aggregated: it is for workers of both "
                      "phases\n");
        return 2;
    }
    if (s->set.autoscale && (s->set.aggregated || s->set.prefill_min > s->set.prefill_max ||
                             s->set.decode_min > s->set.decode_max)) {
        (void)fprintf(stderr,
                      "weir serve: --autoscale needs two pools, and minima that are not above "
                      "their maxima\n");
        return 2;
    }
    if (s->set.chunk % LIMIT_PAGE_TOKENS) {
        (void)fprintf(stderr, "weir serve: --prefill-chunk %d is not a multiple of %d\n",
                      (int)s->set.chunk, LIMIT_PAGE_TOKENS);
        return 2;
    }
    return -1;
}

static int front_main(const config_table *which, int argc, char *const *argv,
                      serve_check *check_profile) {
    server s = {.table = which, .started_us = clock_now_us()};
    config c;
    int code = read_settings(&c, &s, argc, argv);
    if (code < 0 && s.set.profile && check_profile(s.set.profile, &s.d) != STATUS_OK) {
        (void)fprintf(stderr, "%s: --profile: %s\n", s.table->command, s.d.text);
        code = 2;
    }
    if (code < 0) {
        log_setup((log_level)s.set.log_level, s.set.log_json, "gateway");
        status done = failpoint_setup_env(&s.d);
        if (done == STATUS_OK) {
            gateway_block_signals(); /* in every thread, and this may start the first */
            done = failpoint_listen("gateway", &s.d);
        }
        if (done == STATUS_OK) {
            done = run(&s);
        }
        close_all(&s);
        if (done != STATUS_OK) {
            (void)fprintf(stderr, "%s: %s\n", s.table->command, s.d.text);
        }
        code = done == STATUS_OK ? 0 : 1;
    }
    config_close(&c);
    return code;
}

int serve_main(int argc, char *const *argv, serve_check *check_profile) {
    return front_main(&serveflags_serve, argc, argv, check_profile);
}

int serve_gateway_main(int argc, char *const *argv) {
    return front_main(&serveflags_gateway, argc, argv, NULL);
}
