/* controller.c -- flags, a hub, a signal. */
#define _GNU_SOURCE
#include "server/control/controller.h"

#include <pthread.h>
#include <signal.h>
#include <stdio.h>

#include "engine/base/config.h"
#include "engine/base/log.h"
#include "server/control/hub.h"

typedef struct {
    const char *listen, *key_file;
    int32_t log_level;
    bool log_json;
} settings;

#define FIELD(name) offsetof(settings, name)

static const config_option options[] = {
    {"listen", CONFIG_STRING, FIELD(listen), 0, 255, "127.0.0.1:7000", NULL, "HOST:PORT",
     "where workers and gateways join"},
    {"cluster-key-file", CONFIG_STRING, FIELD(key_file), 0, 4095, NULL, NULL, "FILE",
     "the cluster's key (or WEIR_CLUSTER_KEY); needed unless the address is loopback"},
    {"log-level", CONFIG_ENUM, FIELD(log_level), 0, 0, "info", log_level_names, NULL,
     "least level logged"},
    {"log-json", CONFIG_BOOL, FIELD(log_json), 0, 0, "false", NULL, NULL, "log lines as JSON"},
};

static const config_table table = {
    "weir controller", "The hub of a cluster: who is in it. No request passes through it.", options,
    sizeof options / sizeof options[0], NULL};

static status run(const settings *set, diag *d) {
    hub_options o = {.reserved = 0};
    hub *h;
    sigset_t stop;
    int which;
    char text[HOSTPORT_TEXT_BYTES];
    (void)signal(SIGPIPE, SIG_IGN);
    (void)sigemptyset(&stop);
    (void)sigaddset(&stop, SIGTERM);
    (void)sigaddset(&stop, SIGINT);
    (void)pthread_sigmask(SIG_BLOCK, &stop, NULL); /* before the hub's thread */
    TRY(clusterkey_read(set->key_file, &o.key, d));
    TRY(clusterkey_address(&o.key, set->listen, "listen", &o.address, d));
    TRY(hub_start(&o, &h, d));
    hostport at = hub_address(h);
    hostport_print(&at, text);
    LOG(INFO, "hub", "listening", "address=%s", text);
    (void)printf("weir controller: the cluster's hub is at %s\n", text);
    (void)fflush(stdout);
    (void)sigwait(&stop, &which);
    hub_stop(h);
    return STATUS_OK;
}

int controller_main(int argc, char *const *argv) {
    settings set = {.listen = NULL};
    config c;
    diag d;
    int code = 0;
    if (config_parse(&c, &table, argc, argv, &set, &d) != STATUS_OK) {
        (void)fprintf(stderr, "weir controller: %s\n", d.text);
        code = 2;
    } else if (c.help_asked) {
        strbuf help = strbuf_make(1 << 16);
        config_help(&table, &help);
        (void)fputs(help.data ? help.data : "", stdout);
        strbuf_close(&help);
    } else {
        log_setup((log_level)set.log_level, set.log_json, "controller");
        if (run(&set, &d) != STATUS_OK) {
            (void)fprintf(stderr, "weir controller: %s\n", d.text);
            code = 1;
        }
    }
    config_close(&c);
    return code;
}
