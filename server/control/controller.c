/* controller.c -- flags, a hub, a driver, turns until a signal. */
#define _GNU_SOURCE
#include "server/control/controller.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "engine/base/clock.h"
#include "engine/base/config.h"
#include "engine/base/hash.h"
#include "engine/base/log.h"
#include "server/control/control.h"
#include "server/control/controldriver.h"

enum { DRAIN_SPARE_US = 5000000, /* the worker's own limit comes first */ SPARE_NUMBERS = 2 };

typedef struct {
    const char *listen, *key_file, *http, *api_key, *api_key_file, *lease;
    controldriver_flags driver;
    bool autoscale, dry_run, metrics_open, log_json;
    int64_t prefill_min, prefill_max, decode_min, decode_max, seqs, slo_ttft_ms, slo_tpot_ms,
        hold_s, idle_s, start_s, drain_ms, lease_s;
    double gpu_cap;
    int32_t log_level;
} settings;

#define FIELD(name) offsetof(settings, name)

static const config_option options[] = {
    {"listen", CONFIG_STRING, FIELD(listen), 0, 255, "127.0.0.1:7000", NULL, "HOST:PORT",
     "where workers and gateways join"},
    {"cluster-key-file", CONFIG_STRING, FIELD(key_file), 0, 4095, NULL, NULL, "FILE",
     "the cluster's key (or WEIR_CLUSTER_KEY); needed unless the address is loopback"},
    {"http", CONFIG_STRING, FIELD(http), 0, 255, NULL, NULL, "HOST:PORT",
     "/dashboard, /controller/..., /metrics, /health and /ready; default: none of them"},
    {"api-key", CONFIG_STRING, FIELD(api_key), 0, 255, NULL, NULL, "KEY",
     "require this key there (visible in the process list: prefer --api-key-file or WEIR_API_KEY)"},
    {"api-key-file", CONFIG_STRING, FIELD(api_key_file), 0, 4095, NULL, NULL, "FILE",
     "require one of these keys, one a line"},
    {"metrics-open", CONFIG_BOOL, FIELD(metrics_open), 0, 0, "false", NULL, NULL,
     "/metrics needs no key"},
    {"autoscale", CONFIG_BOOL, FIELD(autoscale), 0, 0, "false", NULL, NULL,
     "size the pools as the load asks for, through the driver"},
    CONTROLDRIVER_OPTIONS(FIELD(driver)),
    {"prefill-min", CONFIG_INT, FIELD(prefill_min), 0, LIMIT_WORKERS, "1", NULL, NULL,
     "never fewer prefill workers; 0: none while nothing comes"},
    {"prefill-max", CONFIG_INT, FIELD(prefill_max), 1, LIMIT_WORKERS, "4", NULL, NULL,
     "never more"},
    {"decode-min", CONFIG_INT, FIELD(decode_min), 0, LIMIT_WORKERS, "1", NULL, NULL,
     "the same for decode"},
    {"decode-max", CONFIG_INT, FIELD(decode_max), 1, LIMIT_WORKERS, "4", NULL, NULL, "never more"},
    {"gpu-cap", CONFIG_DOUBLE, FIELD(gpu_cap), 0, 1024, "0", NULL, NULL,
     "workers of both roles together, those that still drain too; 0: both maxima"},
    {"max-seqs", CONFIG_INT, FIELD(seqs), 1, 1024, "64", NULL, NULL,
     "sequences a worker decodes at once, as the workers were told"},
    {"slo-ttft-ms", CONFIG_INT, FIELD(slo_ttft_ms), 1, 3600000, "2000", NULL, NULL,
     "objective: time to the first token of 95 % of requests"},
    {"slo-tpot-ms", CONFIG_INT, FIELD(slo_tpot_ms), 1, 60000, "100", NULL, NULL,
     "and time per token after it"},
    {"scale-hold-s", CONFIG_INT, FIELD(hold_s), 5, 86400, "300", NULL, NULL,
     "no worker goes before the load of so long fits in fewer"},
    {"scale-idle-s", CONFIG_INT, FIELD(idle_s), 5, 86400, "300", NULL, NULL,
     "a pool whose minimum is 0 goes after so long without a request"},
    {"start-timeout-s", CONFIG_INT, FIELD(start_s), 1, 86400, "180", NULL, NULL,
     "a worker that has not joined after so long has failed"},
    {"drain-timeout-ms", CONFIG_INT, FIELD(drain_ms), 0, 3600000, "30000", NULL, NULL,
     "the workers' own; one that drains for longer than that and 5 s more is ended"},
    {"lease", CONFIG_STRING, FIELD(lease), 0, 4095, NULL, NULL, "WHERE",
     "of several controllers with the same lease one acts: a file, for those of one host, or "
     "etcd://HOST:PORT/KEY"},
    {"lease-s", CONFIG_INT, FIELD(lease_s), 2, 3600, "5", NULL, NULL,
     "another takes over when one has not been heard of for so long"},
    {"dry-run", CONFIG_BOOL, FIELD(dry_run), 0, 0, "false", NULL, NULL,
     "only tell what would be done, and why"},
    {"log-level", CONFIG_ENUM, FIELD(log_level), 0, 0, "info", log_level_names, NULL,
     "least level logged"},
    {"log-json", CONFIG_BOOL, FIELD(log_json), 0, 0, "false", NULL, NULL, "log lines as JSON"},
};

static const config_table table = {
    "weir controller",
    "The hub of a cluster: who is in it. With --autoscale, also how many of each role. No request "
    "passes through it.",
    options, sizeof options / sizeof options[0], "-- FLAGS OF WORKERS THAT IT STARTS"};

typedef struct {
    const settings *set;
    const char *version;
    const config *words;
    hub *hub;
    control *control;
    apikeys *keys;
    clusterkey key;
    char http_host[256];
    diag *d;
} process;

/* ---- set-up --------------------------------------------------------------------------------- */

static uint32_t workers_max(const settings *o) {
    int64_t most = SPARE_NUMBERS * (o->prefill_max + o->decode_max); /* some of them drain */
    return o->driver.kind == CONTROLDRIVER_NONE ? 0
           : most < LIMIT_WORKERS               ? (uint32_t)most
                                                : LIMIT_WORKERS;
}

static scaler_options scaling(const settings *o) {
    bool fixed = o->driver.kind == CONTROLDRIVER_NONE;
    uint32_t prefill_max = fixed ? LIMIT_WORKERS : (uint32_t)o->prefill_max;
    uint32_t decode_max = fixed ? LIMIT_WORKERS : (uint32_t)o->decode_max;
    return (scaler_options){
        .bounds = {{(uint32_t)o->prefill_min, prefill_max}, {(uint32_t)o->decode_min, decode_max}},
        .gpus_max = o->gpu_cap,
        .slo = {(double)o->slo_ttft_ms * 1000, (double)o->slo_tpot_ms * 1000},
        .seqs_max = (double)o->seqs,
        .start_us = o->start_s * 1000000,
        .drain_us = o->drain_ms * 1000 + DRAIN_SPARE_US,
        .hold_us = o->hold_s * 1000000,
        .idle_us = o->idle_s * 1000000,
        .fixed = fixed,
        .dry_run = o->dry_run};
}

static status check(const settings *o, diag *d) {
    if (o->prefill_min > o->prefill_max || o->decode_min > o->decode_max) {
        return status_fail(d, STATUS_INVALID, "a pool's minimum is above its maximum");
    }
    if (!o->autoscale && (o->driver.kind != CONTROLDRIVER_NONE || o->lease || o->dry_run)) {
        return status_fail(d, STATUS_INVALID,
                           "--driver, --lease and --dry-run are of use with --autoscale");
    }
    return STATUS_OK;
}

static status open_keys(process *p) {
    const char *from_environment = getenv("WEIR_API_KEY");
    const char *key = p->set->api_key ? p->set->api_key : from_environment;
    if (!key && !p->set->api_key_file) {
        return STATUS_OK;
    }
    if (apikeys_open(&p->keys) != STATUS_OK) {
        return status_fail(p->d, STATUS_NOMEM, "no memory for the API keys");
    }
    if (key) {
        TRY(apikeys_add(p->keys, str_from(key), p->d));
    }
    return p->set->api_key_file ? apikeys_add_file(p->keys, p->set->api_key_file, p->d) : STATUS_OK;
}

/* "HOST:PORT" of the HTTP port: a name or an address, "[...]" around one of IPv6. */
static status read_http(process *p, uint16_t *port) {
    const char *text = p->set->http, *colon = text ? strrchr(text, ':') : NULL;
    *port = 0;
    if (!text) {
        return STATUS_OK;
    }
    char *end = NULL;
    unsigned long number = colon ? strtoul(colon + 1, &end, 10) : 0;
    size_t bytes = colon ? (size_t)(colon - text) : 0;
    if (!colon || bytes == 0 || end == colon + 1 || *end || number > UINT16_MAX) {
        return status_fail(p->d, STATUS_INVALID, "--http %s: HOST:PORT is wanted", text);
    }
    bool bracketed = text[0] == '[' && text[bytes - 1] == ']';
    (void)snprintf(p->http_host, sizeof p->http_host, "%.*s", (int)(bytes - (bracketed ? 2 : 0)),
                   text + (bracketed ? 1 : 0));
    bool loopback = strncmp(p->http_host, "127.", 4) == 0 || strcmp(p->http_host, "::1") == 0 ||
                    strcmp(p->http_host, "localhost") == 0;
    if (!loopback && !p->keys) {
        LOG(WARN, "controller", "open to the network without a key",
            "host=%s hint=\"--api-key-file\"", p->http_host);
    }
    *port = (uint16_t)number;
    return STATUS_OK;
}

static status open_hub(process *p) {
    const settings *o = p->set;
    hub_options ho = {.reserved = workers_max(o), .closed = o->lease != NULL};
    TRY(clusterkey_read(o->key_file, &p->key, p->d));
    ho.key = p->key;
    TRY(clusterkey_address(&p->key, o->listen, "listen", &ho.address, p->d));
    return hub_start(&ho, &p->hub, p->d);
}

static status open_control(process *p) {
    const settings *o = p->set;
    control_options co = {.autoscale = o->autoscale,
                          .scaler = scaling(o),
                          .keys = p->keys,
                          .metrics_open = o->metrics_open,
                          .version = p->version};
    driver *d = NULL;
    TRY(read_http(p, &co.http_port));
    co.http_host = o->http ? p->http_host : NULL;
    TRY(control_create(p->hub, &p->control, p->d));
    if (o->autoscale) {
        controldriver_place place = {.hub = control_hub(p->control),
                                     .address = hub_address(p->hub),
                                     .key_file = o->key_file,
                                     .words = p->words->operands,
                                     .words_count = (uint32_t)p->words->operands_count,
                                     .workers = workers_max(o)};
        TRY(controldriver_open(&o->driver, &place, &d, p->d));
    }
    if (o->lease) {
        hash_key who;
        status s = hash_key_random(&who, p->d);
        if (s == STATUS_OK) {
            s = lease_open(o->lease, who.k0 | 1, o->lease_s * 1000000, &co.lease, p->d);
        }
        if (s != STATUS_OK) {
            driver_close(d);
            return s;
        }
    }
    return control_open(p->control, &co, d, p->d);
}

/* ---- the command ---------------------------------------------------------------------------- */

static void say_where(const process *p) {
    char text[HOSTPORT_TEXT_BYTES];
    hostport at = hub_address(p->hub);
    hostport_print(&at, text);
    LOG(INFO, "hub", "listening", "address=%s", text);
    (void)printf("weir controller: the cluster's hub is at %s\n", text);
    if (p->set->http) {
        (void)printf("  dashboard: http://%s:%u/dashboard\n", p->http_host,
                     control_http_port(p->control));
    }
    (void)fflush(stdout);
}

/* A turn a second, until SIGTERM or SIGINT. */
static void turns(const process *p, const sigset_t *stop) {
    for (int64_t due = clock_now_us();;) {
        int64_t now = clock_now_us();
        if (now >= due) {
            control_turn(p->control, now);
            due = now + AUTOSCALE_TURN_US;
        }
        int64_t left = due - clock_now_us();
        left = left > 0 ? left : 0;
        struct timespec wait = {left / 1000000, left % 1000000 * 1000};
        if (sigtimedwait(stop, NULL, &wait) > 0) {
            return;
        }
    }
}

static status run(process *p) {
    sigset_t stop;
    (void)signal(SIGPIPE, SIG_IGN);
    (void)sigemptyset(&stop);
    (void)sigaddset(&stop, SIGTERM);
    (void)sigaddset(&stop, SIGINT);
    (void)pthread_sigmask(SIG_BLOCK, &stop, NULL); /* before the first thread */
    TRY(check(p->set, p->d));
    TRY(open_keys(p));
    TRY(open_hub(p));
    TRY(open_control(p));
    say_where(p);
    turns(p, &stop);
    return STATUS_OK;
}

static int run_and_close(const settings *set, const config *c, const char *version) {
    diag d = {.text = ""};
    process p = {.set = set, .version = version, .words = c, .d = &d};
    status s = run(&p);
    control_close(p.control);
    hub_stop(p.hub);
    apikeys_close(p.keys);
    if (s != STATUS_OK) {
        (void)fprintf(stderr, "weir controller: %s\n", d.text);
    }
    return s == STATUS_OK ? 0 : s == STATUS_INVALID ? 2 : 1;
}

int controller_main(int argc, char *const *argv, const char *version) {
    settings set = {.listen = NULL};
    config c;
    int code;
    if (config_start(&c, &table, argc, argv, &set, &code)) {
        log_setup((log_level)set.log_level, set.log_json, "controller");
        code = run_and_close(&set, &c, version);
    }
    config_close(&c);
    return code;
}
