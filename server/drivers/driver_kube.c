/* driver_kube.c -- one round: replicas and pods, against what is wished for. */
#define _GNU_SOURCE
#include "server/drivers/driver_kube.h"

#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

#include "engine/base/log.h"
#include "engine/base/mem.h"
#include "server/drivers/kubepods.h"

enum {
    PAGE_PODS = 50,
    BACKOFF_FIRST_US = 500000,
    BACKOFF_MAX_US = 30000000,
    AUTOSCALERS_US = 10000000 /* between two looks */
};

/* What is left alone until when, and why. */
typedef struct {
    int64_t retry_us, backoff_us;
    diag why;
} pause_state;

typedef struct {
    kubepods_scale scale;
    kubepods_pod pods[DRIVER_KUBE_PODS_MAX];
    bool taken[DRIVER_KUBE_PODS_MAX]; /* by a slot */
    uint32_t pods_count;
    bool known;       /* replicas_seen is */
    int32_t replicas; /* as they were seen, or written here, last */
    int32_t surplus;  /* places that others took away, whose pods are not gone yet */
    bool doubtful;    /* a write of `attempted` was not answered: it may have been done */
    int32_t attempted;
    pause_state writes;
    atomic_bool advises; /* an autoscaler has it */
} pool_state;

typedef struct {
    driver_kube_options options;
    kubeapi *api;
    pause_state reads;
    int64_t autoscalers_us; /* look again then */
    bool autoscalers_told;  /* that they cannot be read */
    struct {
        char why[KUBEPODS_WHY_BYTES];
        int32_t restarts;
    } told[LIMIT_WORKERS];
    pool_state pools[SCALER_POOLS];
} kube;

static const char *const pool_names[SCALER_POOLS] = {"prefill", "decode"};

static bool is_paused(const pause_state *p, int64_t now_us) {
    return now_us < p->retry_us;
}

/* Twice as long as before, and as long as the server asked for; a new reason is logged. */
static void hold_off(kube *k, pause_state *p, const char *what, const diag *why, int64_t now_us) {
    int64_t asked = kubeapi_wait_us(k->api);
    int64_t next = p->backoff_us ? 2 * p->backoff_us : BACKOFF_FIRST_US;
    p->backoff_us = next < BACKOFF_MAX_US ? next : BACKOFF_MAX_US;
    p->retry_us = now_us + (asked > p->backoff_us ? asked : p->backoff_us);
    if (strcmp(p->why.text, why->text) != 0) {
        p->why = *why;
        LOG(WARN, "kubernetes", what, "again_in_ms=%lld why=\"%s\"",
            (long long)((p->retry_us - now_us) / 1000), why->text);
    }
}

static void go_on(pause_state *p) {
    *p = (pause_state){.retry_us = 0};
}

/* ---- what is there -------------------------------------------------------------------------- */

static void object_path(const kube *k, scaler_pool pool, const char *rest,
                        char out[KUBEAPI_PATH_BYTES]) {
    (void)snprintf(out, KUBEAPI_PATH_BYTES, "/apis/apps/v1/namespaces/%s/%s/%s%s", k->options.space,
                   k->options.stateful ? "statefulsets" : "deployments", k->options.names[pool],
                   rest);
}

static bool look_at_scale(kube *k, scaler_pool pool, diag *why) {
    char path[KUBEAPI_PATH_BYTES];
    jsonin j;
    object_path(k, pool, "/scale", path);
    if (kubeapi_get(k->api, path, &j, why) != KUBEAPI_FINE) {
        return false;
    }
    status s = kubepods_read_scale(j.root, &k->pools[pool].scale, why);
    jsonin_close(&j);
    return s == STATUS_OK;
}

static void take_pods(pool_state *p, const cJSON *items) {
    const cJSON *item;
    cJSON_ArrayForEach(item, items) {
        if (p->pods_count < DRIVER_KUBE_PODS_MAX && kubepods_read(item, &p->pods[p->pods_count])) {
            p->pods_count++;
        }
    }
}

/* Page by page. A list that expires on the way is read anew in the next round. */
static bool look_at_pods(kube *k, pool_state *p, diag *why) {
    char path[KUBEAPI_PATH_BYTES], selector[KUBEAPI_PATH_BYTES / 2], next[512] = "";
    if (!kubeapi_escape(p->scale.selector, selector, sizeof selector)) {
        (void)status_fail(why, STATUS_LIMIT, "too long a selector");
        return false;
    }
    p->pods_count = 0;
    memset(p->taken, 0, sizeof p->taken);
    do {
        jsonin j;
        int length =
            snprintf(path, sizeof path, "/api/v1/namespaces/%s/pods?labelSelector=%s&limit=%d%s%s",
                     k->options.space, selector, PAGE_PODS, next[0] ? "&continue=" : "", next);
        if ((size_t)length >= sizeof path) {
            (void)status_fail(why, STATUS_LIMIT, "pods: too long a path");
            return false;
        }
        if (kubeapi_get(k->api, path, &j, why) != KUBEAPI_FINE) {
            return false;
        }
        take_pods(p, jsonin_get(j.root, "items"));
        bool fits = kubeapi_escape(kubepods_metadata(j.root, "continue"), next, sizeof next);
        bool list = cJSON_IsArray(jsonin_get(j.root, "items"));
        jsonin_close(&j);
        if (!list || !fits) {
            (void)status_fail(why, STATUS_CORRUPT, "GET pods: not a list of pods");
            return false;
        }
    } while (next[0] && p->pods_count < DRIVER_KUBE_PODS_MAX);
    return true;
}

/* Without the right to read them (or their API), there are none as far as can be known. */
static void look_for_autoscalers(kube *k, int64_t now_us) {
    char path[KUBEAPI_PATH_BYTES];
    diag why = {.text = ""};
    jsonin j;
    if (now_us < k->autoscalers_us) {
        return;
    }
    k->autoscalers_us = now_us + AUTOSCALERS_US;
    (void)snprintf(path, sizeof path,
                   "/apis/autoscaling/v2/namespaces/%s/horizontalpodautoscalers?limit=%d",
                   k->options.space, 10 * PAGE_PODS);
    if (kubeapi_get(k->api, path, &j, &why) != KUBEAPI_FINE) {
        if (!k->autoscalers_told) {
            LOG(WARN, "kubernetes", "autoscalers cannot be read", "why=\"%s\"", why.text);
        }
        k->autoscalers_told = true;
        return;
    }
    k->autoscalers_told = false;
    for (int i = 0; i < SCALER_POOLS; i++) {
        const cJSON *each;
        bool found = false;
        cJSON_ArrayForEach(each, jsonin_get(j.root, "items")) {
            const char *kind = k->options.stateful ? "StatefulSet" : "Deployment";
            found = found || kubepods_is_target(each, kind, k->options.names[i]);
        }
        if (atomic_exchange(&k->pools[i].advises, found) != found) {
            LOG(WARN, "kubernetes", found ? "an autoscaler sizes it: only advice" : "sized here",
                "name=%s", k->options.names[i]);
        }
    }
    jsonin_close(&j);
}

/* ---- places and pods ------------------------------------------------------------------------ */

/* Places that others made (all, in the first round) are taken over. */
static void follow_others(kube *k, scaler_pool pool, driver_remote_slot slots[LIMIT_WORKERS]) {
    pool_state *p = &k->pools[pool];
    if (p->doubtful && p->scale.replicas == p->attempted) {
        p->replicas = p->attempted; /* it was */
    }
    p->doubtful = false;
    int32_t more = p->scale.replicas - p->replicas;
    if (p->known && more != 0) {
        LOG(INFO, "kubernetes", "replicas changed by others", "name=%s from=%d to=%d",
            k->options.names[pool], p->replicas, p->scale.replicas);
    }
    p->known = true;
    p->replicas = p->scale.replicas;
    if (more < 0) {
        p->surplus -= more;
        return;
    }
    int32_t back = more < p->surplus ? more : p->surplus;
    p->surplus -= back;
    more -= back;
    for (uint32_t i = k->options.first; i < LIMIT_WORKERS && more > 0; i++) {
        if (!slots[i].used) {
            slots[i] = (driver_remote_slot){
                .used = true, .id = i, .pool = pool, .home = pool, .placed = true, .adopted = true};
            more--;
        }
    }
}

static kubepods_pod *find_pod(pool_state *p, const char *name) {
    for (uint32_t i = 0; i < p->pods_count; i++) {
        if (strcmp(p->pods[i].name, name) == 0) {
            p->taken[i] = true;
            return &p->pods[i];
        }
    }
    return NULL;
}

static kubepods_pod *take_free_pod(pool_state *p) {
    for (uint32_t i = 0; i < p->pods_count; i++) {
        if (!p->taken[i] && p->pods[i].live) {
            p->taken[i] = true;
            return &p->pods[i];
        }
    }
    return NULL;
}

static void leave_pod(driver_remote_slot *s) {
    s->name[0] = s->host[0] = 0;
    s->phase = SCALER_STARTING;
}

static void show_pod(kube *k, driver_remote_slot *s, const kubepods_pod *pod) {
    (void)snprintf(s->name, sizeof s->name, "%s", pod->name);
    (void)snprintf(s->host, sizeof s->host, "%s", pod->host);
    s->phase = s->stop ? SCALER_STOPPING : pod->ready ? SCALER_SERVING : SCALER_STARTING;
    if (strcmp(k->told[s->id].why, pod->why) != 0) {
        (void)snprintf(k->told[s->id].why, sizeof k->told[s->id].why, "%s", pod->why);
        LOG(INFO, "kubernetes", pod->why[0] ? "a pod is not ready" : "a pod gets on",
            "pod=%s why=\"%s\"", pod->name, pod->why);
    }
    if (pod->restarts > k->told[s->id].restarts) {
        LOG(WARN, "kubernetes", "a pod's worker was restarted", "pod=%s times=%d", pod->name,
            pod->restarts);
    }
    k->told[s->id].restarts = pod->restarts;
}

static bool is_of(driver_remote_slot *s, scaler_pool pool) {
    if (s->used && !s->placed) {
        s->home = s->pool;
        s->placed = true;
    }
    return s->used && !s->gone && s->home == pool;
}

/* Each place keeps its pod for as long as that lives. */
static void keep_pods(kube *k, scaler_pool pool, driver_remote_slot slots[LIMIT_WORKERS]) {
    pool_state *p = &k->pools[pool];
    for (uint32_t i = 0; i < LIMIT_WORKERS; i++) {
        driver_remote_slot *s = &slots[i];
        if (!is_of(s, pool) || !s->name[0]) {
            continue;
        }
        const kubepods_pod *pod = find_pod(p, s->name);
        if (pod && (pod->live || s->stop)) {
            show_pod(k, s, pod);
        } else {
            s->gone = s->stop;
            leave_pod(s);
        }
    }
}

/* Places without a pod get one that nobody has. Where there is none and another went than the one
 * that should have, they are exchanged. */
static void give_pods(kube *k, scaler_pool pool, driver_remote_slot slots[LIMIT_WORKERS]) {
    pool_state *p = &k->pools[pool];
    for (uint32_t i = 0; i < LIMIT_WORKERS; i++) {
        driver_remote_slot *s = &slots[i];
        if (!is_of(s, pool) || s->name[0] || s->stop) {
            continue;
        }
        const kubepods_pod *pod = take_free_pod(p);
        if (pod) {
            show_pod(k, s, pod);
        } else if (p->surplus > 0) {
            p->surplus--;
            s->gone = true;
        }
    }
}

static int32_t live_pods(const pool_state *p) {
    int32_t n = 0;
    for (uint32_t i = 0; i < p->pods_count; i++) {
        n += p->pods[i].live;
    }
    return n;
}

/* Kubernetes took another pod than the one meant: as many live as should, and the one that was to
 * go is among them, in somebody's place. */
static void exchange(kube *k, scaler_pool pool, driver_remote_slot slots[LIMIT_WORKERS]) {
    pool_state *p = &k->pools[pool];
    if (live_pods(p) > p->scale.replicas) {
        return; /* some will go yet */
    }
    for (uint32_t i = 0; i < LIMIT_WORKERS; i++) {
        driver_remote_slot *leaving = &slots[i];
        if (!is_of(leaving, pool) || !leaving->stop || !leaving->name[0]) {
            continue;
        }
        const kubepods_pod *pod = find_pod(p, leaving->name);
        for (uint32_t n = 0; n < LIMIT_WORKERS && pod && pod->live; n++) {
            driver_remote_slot *s = &slots[n];
            if (is_of(s, pool) && !s->stop && !s->name[0]) {
                show_pod(k, s, pod);
                leave_pod(leaving);
                leaving->gone = true;
                break;
            }
        }
    }
}

/* ---- replicas ------------------------------------------------------------------------------- */

static int32_t wanted(pool_state *p, scaler_pool pool, driver_remote_slot slots[LIMIT_WORKERS]) {
    int32_t n = 0;
    for (uint32_t i = 0; i < LIMIT_WORKERS; i++) {
        n += is_of(&slots[i], pool) && !slots[i].stop;
    }
    return n > p->surplus ? n - p->surplus : 0;
}

static kubeapi_result patch(kube *k, const char *path, const char *body, diag *why) {
    jsonin j;
    kubeapi_result r = kubeapi_patch(k->api, path, body, &j, why);
    if (r == KUBEAPI_FINE) {
        jsonin_close(&j);
    }
    return r;
}

/* Those that should go are to go first. A pod that is gone already needs no mark. */
static kubeapi_result mark(kube *k, scaler_pool pool, driver_remote_slot slots[LIMIT_WORKERS],
                           diag *why) {
    char path[KUBEAPI_PATH_BYTES], body[256];
    for (uint32_t i = 0; i < LIMIT_WORKERS; i++) {
        driver_remote_slot *s = &slots[i];
        kubepods_pod *pod =
            is_of(s, pool) && s->stop && s->name[0] ? find_pod(&k->pools[pool], s->name) : NULL;
        if (!pod || !pod->live || pod->cost == KUBEPODS_LEAVES_FIRST) {
            continue;
        }
        (void)snprintf(path, sizeof path, "/api/v1/namespaces/%s/pods/%s", k->options.space,
                       s->name);
        (void)snprintf(body, sizeof body,
                       "{\"metadata\":{\"annotations\":{\"" KUBEPODS_COST "\":\"%d\"}}}",
                       KUBEPODS_LEAVES_FIRST);
        kubeapi_result r = patch(k, path, body, why);
        if (r != KUBEAPI_FINE && r != KUBEAPI_MISSING) {
            return r;
        }
    }
    return KUBEAPI_FINE;
}

/* The object carries the newest token after this; `version` is the one to write replicas against.
 */
static kubeapi_result fence(kube *k, scaler_pool pool, uint64_t token,
                            char version[KUBEPODS_VERSION_BYTES], diag *why) {
    char path[KUBEAPI_PATH_BYTES], body[256];
    jsonin j;
    object_path(k, pool, "", path);
    kubeapi_result r = kubeapi_get(k->api, path, &j, why);
    if (r != KUBEAPI_FINE) {
        return r;
    }
    uint64_t known = kubepods_fence(j.root);
    const cJSON *replicas = jsonin_get(jsonin_get(j.root, "spec"), "replicas");
    bool same =
        cJSON_IsNumber(replicas) && replicas->valuedouble == (double)k->pools[pool].scale.replicas;
    (void)snprintf(version, KUBEPODS_VERSION_BYTES, "%s",
                   kubepods_metadata(j.root, "resourceVersion"));
    jsonin_close(&j);
    if (known > token) {
        (void)status_fail(why, STATUS_MISMATCH, "token %llu is stale: %llu has written to %s",
                          (unsigned long long)token, (unsigned long long)known,
                          k->options.names[pool]);
        return KUBEAPI_FAILED;
    }
    if (!same) { /* versions also change with each pod that gets ready */
        (void)status_fail(why, STATUS_MISMATCH, "%s was written meanwhile", k->options.names[pool]);
        return KUBEAPI_CONFLICT;
    }
    if (known == token) {
        return KUBEAPI_FINE;
    }
    (void)snprintf(body, sizeof body,
                   "{\"metadata\":{\"resourceVersion\":\"%s\",\"annotations\":{\"" KUBEPODS_FENCE
                   "\":\"%llu\"}}}",
                   version, (unsigned long long)token);
    r = kubeapi_patch(k->api, path, body, &j, why);
    if (r == KUBEAPI_FINE) {
        (void)snprintf(version, KUBEPODS_VERSION_BYTES, "%s",
                       kubepods_metadata(j.root, "resourceVersion"));
        jsonin_close(&j);
    }
    return r;
}

/* What was answered counts: admission may have made another number of it. */
static kubeapi_result write_replicas(kube *k, scaler_pool pool, int32_t want, const char *version,
                                     diag *why) {
    pool_state *p = &k->pools[pool];
    char path[KUBEAPI_PATH_BYTES], body[256];
    kubepods_scale now;
    jsonin j;
    object_path(k, pool, "/scale?fieldManager=weir-controller", path);
    (void)snprintf(body, sizeof body,
                   "{\"metadata\":{\"resourceVersion\":\"%s\"},\"spec\":{\"replicas\":%d}}",
                   version, want);
    kubeapi_result r = kubeapi_patch(k->api, path, body, &j, why);
    p->doubtful = r == KUBEAPI_FAILED;
    p->attempted = want;
    if (r != KUBEAPI_FINE) {
        return r;
    }
    status s = kubepods_read_scale(j.root, &now, why);
    jsonin_close(&j);
    if (s != STATUS_OK) {
        return KUBEAPI_FAILED;
    }
    LOG(INFO, "kubernetes", "replicas", "name=%s from=%d to=%d", k->options.names[pool],
        p->replicas, now.replicas);
    p->scale = now;
    p->replicas = now.replicas;
    if (now.replicas != want) {
        (void)status_fail(why, STATUS_MISMATCH, "%s: admission made %d replicas of %d",
                          k->options.names[pool], now.replicas, want);
        return KUBEAPI_FAILED;
    }
    return KUBEAPI_FINE;
}

/* Brings replicas to what is wished for, and lets go of places that never had a pod. */
static void settle(kube *k, scaler_pool pool, driver_remote_slot slots[LIMIT_WORKERS],
                   uint64_t token, int64_t now_us) {
    pool_state *p = &k->pools[pool];
    int32_t want = wanted(p, pool, slots);
    char version[KUBEPODS_VERSION_BYTES];
    diag why = {.text = ""};
    if (want != p->scale.replicas) {
        if (atomic_load(&p->advises) || is_paused(&p->writes, now_us)) {
            return;
        }
        kubeapi_result r = want < p->scale.replicas ? mark(k, pool, slots, &why) : KUBEAPI_FINE;
        r = r == KUBEAPI_FINE ? fence(k, pool, token, version, &why) : r;
        r = r == KUBEAPI_FINE ? write_replicas(k, pool, want, version, &why) : r;
        if (r == KUBEAPI_CONFLICT) {
            LOG(INFO, "kubernetes", "read again", "why=\"%s\"", why.text);
            return;
        }
        if (r != KUBEAPI_FINE) {
            hold_off(k, &p->writes, "replicas were not written", &why, now_us);
            return;
        }
        go_on(&p->writes);
    }
    for (uint32_t i = 0; i < LIMIT_WORKERS; i++) {
        driver_remote_slot *s = &slots[i];
        s->gone = s->gone || (is_of(s, pool) && s->stop && !s->name[0]);
    }
}

/* ---- rounds --------------------------------------------------------------------------------- */

static bool look(kube *k, diag *why) {
    for (int i = 0; i < SCALER_POOLS; i++) {
        if (!look_at_scale(k, (scaler_pool)i, why) || !look_at_pods(k, &k->pools[i], why)) {
            return false;
        }
    }
    return true;
}

/* A pod that no node has room for says that there is none for another. */
static uint32_t room(const kube *k, const driver_remote_slot slots[LIMIT_WORKERS]) {
    uint32_t left = 0;
    for (uint32_t i = k->options.first; i < LIMIT_WORKERS; i++) {
        left += !slots[i].used;
    }
    for (int i = 0; i < SCALER_POOLS; i++) {
        for (uint32_t n = 0; n < k->pools[i].pods_count; n++) {
            const kubepods_pod *pod = &k->pools[i].pods[n];
            if (pod->live && strncmp(pod->why, "Unschedulable", 13) == 0) {
                return 0;
            }
        }
    }
    return left;
}

static bool kube_sync(void *context, driver_remote_slot slots[LIMIT_WORKERS], uint64_t token,
                      uint32_t *capacity, int64_t now_us, diag *why) {
    kube *k = context;
    if (is_paused(&k->reads, now_us)) {
        *why = k->reads.why;
        return false;
    }
    look_for_autoscalers(k, now_us);
    if (!look(k, why)) {
        hold_off(k, &k->reads, "cannot be read", why, now_us);
        return false;
    }
    go_on(&k->reads);
    for (int i = 0; i < SCALER_POOLS; i++) {
        scaler_pool pool = (scaler_pool)i;
        follow_others(k, pool, slots);
        keep_pods(k, pool, slots);
        give_pods(k, pool, slots);
        exchange(k, pool, slots);
        settle(k, pool, slots, token, now_us);
    }
    *capacity = room(k, slots);
    return true;
}

static uint32_t kube_number(void *context, const driver_remote_slot *slot) {
    const kube *k = context;
    return slot->host[0] && k->options.find ? k->options.find(k->options.self, slot->host)
                                            : DRIVER_NO_WORKER;
}

static bool kube_admits(void *context, scaler_pool pool, diag *why) {
    kube *k = context;
    if (!atomic_load(&k->pools[pool].advises)) {
        return true;
    }
    (void)status_fail(why, STATUS_UNSUPPORTED,
                      "%s is sized by a HorizontalPodAutoscaler: %s workers are only advised on",
                      k->options.names[pool], pool_names[pool]);
    LOG(INFO, "kubernetes", "advice", "%s", why->text);
    return false;
}

static void kube_close(void *context) {
    kube *k = context;
    kubeapi_close(k->api);
    mem_free(k);
}

status driver_kube_open(const driver_kube_options *options, driver **out, diag *d) {
    static const driver_remote_table table = {.name = "kubernetes",
                                              .sync = kube_sync,
                                              .close = kube_close,
                                              .flips = true,
                                              .number = kube_number,
                                              .admits = kube_admits};
    kube *k = mem_calloc(1, sizeof *k);
    if (!k || kubeapi_open(&options->api, &k->api, d) != STATUS_OK) {
        mem_free(k);
        return status_fail(d, STATUS_NOMEM, "no memory for the kubernetes driver");
    }
    k->options = *options;
    return driver_remote_open(&table, k, options->first, out, d);
}
