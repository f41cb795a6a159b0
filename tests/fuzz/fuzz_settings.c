/* fuzz_settings.c -- what operators write: flags and configuration files, API keys, addresses,
 * URLs, fault points. */
#define _GNU_SOURCE
#include <stdio.h>
#include <unistd.h>

#include "bench/httpclient.h"
#include "engine/base/config.h"
#include "engine/base/failpoint.h"
#include "engine/base/limits.h"
#include "engine/base/mem.h"
#include "server/http/apikeys.h"
#include "tests/fuzz/fuzz.h"

enum { ARGUMENTS_MAX = 16 };

typedef struct {
    bool on;
    int64_t port;
    double share;
    const char *host;
    int32_t kind;
    int64_t memory;
} settings;

static const char *const kinds[] = {"shm", "tcp", NULL};
static const config_option options[] = {
    {"on", CONFIG_BOOL, offsetof(settings, on), 0, 0, "false", NULL, NULL, "a switch"},
    {"port", CONFIG_INT, offsetof(settings, port), 1, 65535, "8000", NULL, NULL, "a port"},
    {"share", CONFIG_DOUBLE, offsetof(settings, share), 0, 1, "0.5", NULL, NULL, "a share"},
    {"host", CONFIG_STRING, offsetof(settings, host), 0, 64, NULL, NULL, "HOST", "a host"},
    {"kind", CONFIG_ENUM, offsetof(settings, kind), 0, 0, "shm", kinds, NULL, "a kind"},
    {"memory", CONFIG_BYTES, offsetof(settings, memory), 1, 1e15, "1g", NULL, NULL, "memory"}};
static const config_table table = {"fuzz", "a test", options, 6, "FILE..."};

static void check_values(const settings *s) {
    CHECK(s->port >= 1 && s->port <= 65535 && s->share >= 0 && s->share <= 1);
    CHECK(s->kind >= 0 && s->kind < 2 && s->memory >= 1);
    CHECK(s->host == NULL || strlen(s->host) <= 64);
}

static void parse(int argc, char **argv) {
    config *c = mem_calloc(1, sizeof *c);
    CHECK(c != NULL);
    settings s = {0};
    diag d = {.code = STATUS_OK};
    status result = config_parse(c, &table, argc, argv, &s, &d);
    if (result == STATUS_OK) {
        check_values(&s);
    } else {
        CHECK(d.code == result && d.text[0] != 0);
    }
    config_close(c);
    mem_free(c);
}

static void run_file(str text) {
    char path[64];
    int fd = fuzz_file(text, path);
    char flag[80];
    (void)snprintf(flag, sizeof flag, "--config=%s", path);
    char *argv[] = {flag, NULL};
    parse(1, argv);
    (void)close(fd);
}

/* Arguments parted by new lines; no file of this machine is read. */
static void run_flags(char *text) {
    char *argv[ARGUMENTS_MAX + 1] = {NULL};
    int argc = 0;
    for (char *at = text; at != NULL && argc < ARGUMENTS_MAX; argc++) {
        argv[argc] = at;
        at = strchr(at, '\n');
        if (at != NULL) {
            *at++ = 0;
        }
        if (strstr(argv[argc], "config") != NULL) {
            return;
        }
    }
    parse(argc, argv);
}

static void run_points(const char *text) {
    diag d = {.code = STATUS_OK};
    status s = failpoint_setup(text, &d);
    CHECK(s == STATUS_OK || (d.text[0] != 0 && !failpoint_armed));
    CHECK_EQ(failpoint_setup(NULL, &d), STATUS_OK);
    CHECK(!failpoint_armed);
}

static void run_keys(str text) {
    char path[64];
    int fd = fuzz_file(text, path);
    apikeys *k;
    diag d = {.code = STATUS_OK};
    CHECK_EQ(apikeys_open(&k), STATUS_OK);
    status s = apikeys_add_file(k, path, &d);
    CHECK(s == STATUS_OK || (d.code == s && d.text[0] != 0));
    CHECK(apikeys_count(k) >= 0 && apikeys_count(k) <= LIMIT_API_KEYS);
    int32_t found = apikeys_find(k, text);
    CHECK(found >= -1 && found < apikeys_count(k));
    apikeys_close(k);
    (void)close(fd);
}

static void run_url(const char *text) {
    httpclient_url u;
    diag d = {.code = STATUS_OK};
    status s = httpclient_url_read(text, &u, &d);
    if (s != STATUS_OK) {
        CHECK(d.code == s && d.text[0] != 0);
        return;
    }
    CHECK(u.host[0] != 0 && u.port[0] != 0);
    char again[600];
    (void)snprintf(again, sizeof again, "http://%s:%s%s", u.host, u.port, u.prefix);
    httpclient_url v;
    CHECK_EQ(httpclient_url_read(again, &v, &d), STATUS_OK);
    CHECK(strcmp(u.host, v.host) == 0 && strcmp(u.port, v.port) == 0);
    CHECK_EQ(strcmp(u.prefix, v.prefix), 0);
}

FUZZ_TARGET(settings, FUZZ_ALLOWANCE_BYTES) {
    fuzz_input in = {data, bytes, 0};
    uint32_t what = fuzz_below(&in, 5);
    str rest = fuzz_take(&in, bytes);
    char *text = mem_dup(rest.data, rest.bytes);
    CHECK(text != NULL);
    switch (what) {
        case 0:
            run_file(rest);
            break;
        case 1:
            run_flags(text);
            break;
        case 2:
            run_points(text);
            break;
        case 3:
            run_keys(rest);
            break;
        default:
            run_url(text);
            break;
    }
    mem_free(text);
}
