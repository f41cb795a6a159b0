/* lease_etcd.c -- a thread that asks etcd, and a moment until which its answer holds. */
#define _GNU_SOURCE
#include "server/control/lease_etcd.h"

#include <cjson/cJSON.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/clock.h"
#include "engine/base/log.h"
#include "engine/base/mem.h"
#include "server/http/jsonin.h"
#include "server/http/webcall.h"

enum {
    ADDRESS_BYTES = 256,
    KEY_BYTES = 512,
    ENCODED_BYTES = 4 * ((KEY_BYTES + 2) / 3) + 1,
    BODY_BYTES = 8 << 10,
    ROUNDS = 4 /* in a lease's time */
};

/* Of a lease's time, what its holder does not use: clocks that run unevenly, a late thread. */
static const double spare = 0.25;

typedef struct {
    lease base;
    char hosts[LEASE_ETCD_HOSTS][ADDRESS_BYTES]; /* [hosts_count] "http://HOST:PORT" */
    uint32_t hosts_count, host;
    char key[ENCODED_BYTES], value[32];
    int64_t ttl_us;
    webcall *call;
    strbuf body;
    uint64_t id; /* of etcd's lease; 0: none */
    pthread_t thread;
    pthread_mutex_t lock; /* of all below */
    pthread_cond_t ended;
    bool ending, others;
    uint64_t token;
    int64_t until_us; /* held until then; 0: not */
} etcd;

/* ---- etcd's words --------------------------------------------------------------------------- */

/* RFC 4648. */
static void encode(const char *text, size_t bytes, char *out) {
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    for (size_t i = 0; i < bytes; i += 3) {
        uint32_t v = 0;
        for (size_t k = 0; k < 3; k++) {
            v = v << 8 | (i + k < bytes ? (uint8_t)text[i + k] : 0u);
        }
        for (size_t k = 0; k < 4; k++) {
            *out++ = i + k > bytes ? '=' : digits[v >> (18 - 6 * k) & 63];
        }
    }
    *out = 0;
}

/* Numbers of 64 bits are strings there. */
static uint64_t number_of(const cJSON *object, const char *name) {
    const cJSON *v = jsonin_get(object, name);
    return cJSON_IsString(v)                            ? strtoull(v->valuestring, NULL, 10)
           : cJSON_IsNumber(v) && v->valuedouble >= 1.0 ? (uint64_t)v->valuedouble
                                                        : 0;
}

/* POSTs the body; `out` is to be closed when STATUS_OK. */
static status ask(etcd *e, const char *path, jsonin *out, diag *d) {
    char url[ADDRESS_BYTES + 64];
    webcall_answer a;
    (void)snprintf(url, sizeof url, "%s%s", e->hosts[e->host], path);
    webcall_request q = {.method = "POST",
                         .url = url,
                         .body = strbuf_str(&e->body),
                         .timeout_ms = e->ttl_us / 1000 / ROUNDS,
                         .answer_bytes_max = 64 << 10};
    status s = webcall_send(e->call, &q, &a, d);
    strbuf_clear(&e->body);
    if (s == STATUS_OK && a.status != 200) {
        s = status_fail(d, STATUS_IO, "%s: %d %.*s", url, a.status,
                        (int)(a.body.bytes < 200 ? a.body.bytes : 200), a.body.data);
    }
    if (s != STATUS_OK) {
        e->host = (e->host + 1) % e->hosts_count;
        return s;
    }
    return jsonin_open(a.body, NULL, 0, out, d);
}

static status grant(etcd *e, diag *d) {
    jsonin j;
    strbuf_printf(&e->body, "{\"TTL\":\"%lld\"}", (long long)(e->ttl_us / 1000000));
    TRY(ask(e, "/v3/lease/grant", &j, d));
    e->id = number_of(j.root, "ID");
    jsonin_close(&j);
    return e->id ? STATUS_OK : status_fail(d, STATUS_CORRUPT, "etcd granted a lease without an ID");
}

/* Forgets the lease when etcd has. */
static status keep_alive(etcd *e, diag *d) {
    jsonin j;
    strbuf_printf(&e->body, "{\"ID\":\"%llu\"}", (unsigned long long)e->id);
    TRY(ask(e, "/v3/lease/keepalive", &j, d));
    const cJSON *result = jsonin_get(j.root, "result");
    if (number_of(result, "TTL") == 0) {
        e->id = 0;
    }
    jsonin_close(&j);
    return e->id ? STATUS_OK : status_fail(d, STATUS_TIMEOUT, "etcd has ended the lease");
}

/* Makes the key if it is not there; `token` is its revision if it is this process's, else 0. */
static status make_key(etcd *e, uint64_t *token, diag *d) {
    jsonin j;
    strbuf_printf(&e->body,
                  "{\"compare\":[{\"key\":\"%s\",\"target\":\"CREATE\",\"result\":\"EQUAL\","
                  "\"create_revision\":\"0\"}],"
                  "\"success\":[{\"request_put\":{\"key\":\"%s\",\"value\":\"%s\","
                  "\"lease\":\"%llu\"}}],\"failure\":[{\"request_range\":{\"key\":\"%s\"}}]}",
                  e->key, e->key, e->value, (unsigned long long)e->id, e->key);
    TRY(ask(e, "/v3/kv/txn", &j, d));
    *token = 0;
    if (cJSON_IsTrue(jsonin_get(j.root, "succeeded"))) {
        *token = number_of(jsonin_get(j.root, "header"), "revision");
    } else {
        const cJSON *first = cJSON_GetArrayItem(jsonin_get(j.root, "responses"), 0);
        const cJSON *kvs = jsonin_get(jsonin_get(first, "response_range"), "kvs");
        const cJSON *kv = cJSON_GetArrayItem(kvs, 0);
        const cJSON *value = jsonin_get(kv, "value");
        if (cJSON_IsString(value) && strcmp(value->valuestring, e->value) == 0) {
            *token = number_of(kv, "create_revision");
        }
    }
    jsonin_close(&j);
    return STATUS_OK;
}

/* ---- the thread ----------------------------------------------------------------------------- */

/* Whose it is; and until when that is sure, if it is this process's. */
static status go_round(etcd *e, diag *d) {
    int64_t before = clock_now_us();
    uint64_t token = 0;
    if (e->id) {
        TRY(keep_alive(e, d));
    } else {
        TRY(grant(e, d));
    }
    TRY(make_key(e, &token, d));
    (void)pthread_mutex_lock(&e->lock);
    e->others = token == 0;
    e->until_us = token ? before + (int64_t)((1 - spare) * (double)e->ttl_us) : 0;
    e->token = token ? token : e->token;
    (void)pthread_mutex_unlock(&e->lock);
    return STATUS_OK;
}

static void give_back(etcd *e) {
    jsonin j;
    diag d;
    if (!e->id) {
        return;
    }
    strbuf_printf(&e->body, "{\"ID\":\"%llu\"}", (unsigned long long)e->id);
    if (ask(e, "/v3/lease/revoke", &j, &d) == STATUS_OK) {
        jsonin_close(&j);
    }
}

static void *run(void *context) {
    etcd *e = context;
    bool answers = true;
    (void)pthread_setname_np(pthread_self(), "weir-lease");
    (void)pthread_mutex_lock(&e->lock);
    while (!e->ending) {
        (void)pthread_mutex_unlock(&e->lock);
        diag why = {.text = "answers again"};
        bool told = go_round(e, &why) == STATUS_OK;
        if (told != answers) {
            answers = told;
            LOG(WARN, "lease", "etcd", "why=\"%s\"", why.text);
        }
        (void)pthread_mutex_lock(&e->lock);
        e->others = e->others && told; /* not known now */
        struct timespec until;
        (void)clock_gettime(CLOCK_MONOTONIC, &until);
        int64_t ns = until.tv_nsec + e->ttl_us / ROUNDS * 1000;
        until.tv_sec += ns / 1000000000;
        until.tv_nsec = ns % 1000000000;
        if (!e->ending) {
            (void)pthread_cond_timedwait(&e->ended, &e->lock, &until);
        }
    }
    (void)pthread_mutex_unlock(&e->lock);
    give_back(e);
    return NULL;
}

/* ---- the lease ------------------------------------------------------------------------------ */

static bool etcd_turn(lease *l, int64_t now_us) {
    etcd *e = (etcd *)l;
    (void)pthread_mutex_lock(&e->lock);
    bool held = now_us < e->until_us;
    (void)pthread_mutex_unlock(&e->lock);
    return held;
}

static bool etcd_others(const lease *l) {
    etcd *e = (etcd *)(uintptr_t)l; /* a lock is no change */
    (void)pthread_mutex_lock(&e->lock);
    bool others = e->others;
    (void)pthread_mutex_unlock(&e->lock);
    return others;
}

static uint64_t etcd_token(const lease *l) {
    etcd *e = (etcd *)(uintptr_t)l;
    (void)pthread_mutex_lock(&e->lock);
    uint64_t token = e->token;
    (void)pthread_mutex_unlock(&e->lock);
    return token;
}

static bool etcd_begin(lease *l, int64_t now_us) {
    (void)now_us; /* it may have waited since */
    return etcd_turn(l, clock_now_us());
}

static void etcd_end(lease *l) {
    (void)l;
}

static void release(etcd *e) {
    webcall_close(e->call);
    strbuf_close(&e->body);
    (void)pthread_cond_destroy(&e->ended);
    (void)pthread_mutex_destroy(&e->lock);
    mem_free(e);
}

static void etcd_close(lease *l) {
    etcd *e = (etcd *)l;
    (void)pthread_mutex_lock(&e->lock);
    e->ending = true;
    (void)pthread_cond_signal(&e->ended);
    (void)pthread_mutex_unlock(&e->lock);
    (void)pthread_join(e->thread, NULL);
    release(e);
}

static const lease_table table = {etcd_turn,  etcd_others, etcd_token,
                                  etcd_begin, etcd_end,    etcd_close};

bool lease_etcd_named(const char *where) {
    return strncmp(where, "etcd://", 7) == 0 || strncmp(where, "etcds://", 8) == 0;
}

static status read_where(const char *where, etcd *e, diag *d) {
    bool tls = where[4] == 's';
    const char *at = where + (tls ? 8 : 7), *slash = strchr(at, '/');
    size_t key_bytes = slash ? strlen(slash + 1) : 0;
    if (key_bytes == 0 || key_bytes > KEY_BYTES) {
        return status_fail(d, STATUS_INVALID, "%.200s: etcd://HOST:PORT/KEY is wanted", where);
    }
    encode(slash + 1, key_bytes, e->key);
    while (at < slash) {
        const char *end = memchr(at, ',', (size_t)(slash - at));
        end = end ? end : slash;
        int n = snprintf(e->hosts[e->hosts_count], ADDRESS_BYTES, "%s://%.*s",
                         tls ? "https" : "http", (int)(end - at), at);
        if (end == at || n >= ADDRESS_BYTES || ++e->hosts_count == LEASE_ETCD_HOSTS) {
            return status_fail(d, STATUS_INVALID, "%.200s: fewer than %d addresses are wanted",
                               where, LEASE_ETCD_HOSTS);
        }
        at = end < slash ? end + 1 : slash;
    }
    return e->hosts_count
               ? STATUS_OK
               : status_fail(d, STATUS_INVALID, "%.200s: there is no address in it", where);
}

status lease_etcd_open(const char *where, uint64_t holder, int64_t ttl_us, lease **out, diag *d) {
    etcd *e = mem_calloc(1, sizeof *e);
    if (!e) {
        return status_fail(d, STATUS_NOMEM, "no memory for the lease");
    }
    e->base.table = &table;
    e->ttl_us = ttl_us;
    e->body = strbuf_make(BODY_BYTES);
    pthread_condattr_t clock;
    (void)pthread_condattr_init(&clock);
    (void)pthread_condattr_setclock(&clock, CLOCK_MONOTONIC);
    (void)pthread_cond_init(&e->ended, &clock);
    (void)pthread_condattr_destroy(&clock);
    (void)pthread_mutex_init(&e->lock, NULL);
    char name[20];
    int bytes = snprintf(name, sizeof name, "%016llx", (unsigned long long)holder);
    encode(name, (size_t)bytes, e->value);
    status s = read_where(where, e, d);
    if (s == STATUS_OK &&
        (webcall_open(&e->call) != STATUS_OK || pthread_create(&e->thread, NULL, run, e) != 0)) {
        s = status_fail(d, STATUS_NOMEM, "no memory or thread for the lease");
    }
    if (s != STATUS_OK) {
        release(e);
        return s;
    }
    *out = &e->base;
    return STATUS_OK;
}
