/* driver_ray.c -- one round: what the agent has, against what is wished for. */
#define _GNU_SOURCE
#include "server/drivers/driver_ray.h"

#include <cjson/cJSON.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/log.h"
#include "engine/base/mem.h"
#include "server/http/jsonin.h"
#include "server/http/jsonout.h"
#include "server/http/webcall.h"

enum {
    CALL_MS = 5000,
    BODY_BYTES = 64 << 10,
    BACKOFF_FIRST_US = 500000,
    BACKOFF_MAX_US = 30000000,
    AVOID_US = 30000000, /* Ray places on a dead node for some 14 s */
    SUBMIT_AGAIN_US = 20000000
};

typedef struct {
    driver_ray_options options;
    webcall *call;
    strbuf body;
    int64_t submit_us; /* not before then */
    bool adopted;      /* what an earlier controller left */
} ray;

static const char *const pool_names[SCALER_POOLS] = {"prefill", "decode"};

static status call_agent(ray *r, const char *method, const char *path, webcall_answer *out,
                         diag *why) {
    char url[512];
    (void)snprintf(url, sizeof url, "%s%s", r->options.agent_url, path);
    webcall_request q = {.method = method,
                         .url = url,
                         .body = strbuf_str(&r->body),
                         .bearer = r->options.agent_token,
                         .timeout_ms = CALL_MS};
    status s = webcall_send(r->call, &q, out, why);
    strbuf_clear(&r->body);
    return s;
}

/* ---- the job that the agent is -------------------------------------------------------------- */

/* Ray answers 500 for a name that is taken: names are made new with the time. */
static void submit_agent(ray *r, int64_t now_us) {
    const driver_ray_options *o = &r->options;
    char url[512], text[1024];
    if (!o->jobs_url || now_us < r->submit_us) {
        return;
    }
    r->submit_us = now_us + SUBMIT_AGAIN_US;
    const char *colon = strrchr(o->agent_url, ':');
    (void)snprintf(url, sizeof url, "%s/api/jobs/", o->jobs_url);
    (void)snprintf(text, sizeof text, "exec python3 %s --host 0.0.0.0 --port %s", o->agent_program,
                   colon ? colon + 1 : "8790");
    strbuf_clear(&r->body);
    strbuf_append_char(&r->body, '{');
    jsonout_key(&r->body, "entrypoint");
    jsonout_string_z(&r->body, text);
    jsonout_key(&r->body, "submission_id");
    strbuf_printf(&r->body, "\"weir-agent-%lld\"", (long long)now_us);
    jsonout_key(&r->body, "runtime_env");
    strbuf_append_z(&r->body, "{\"env_vars\":{\"WEIR_AGENT_TOKEN\":");
    jsonout_string_z(&r->body, o->agent_token);
    strbuf_append_z(&r->body, "}}}");
    webcall_request q = {.method = "POST",
                         .url = url,
                         .body = strbuf_str(&r->body),
                         .bearer = o->jobs_token,
                         .timeout_ms = CALL_MS};
    webcall_answer a;
    diag why = {.text = ""};
    status s = webcall_send(r->call, &q, &a, &why);
    if (s == STATUS_OK && a.status != 200) {
        (void)status_fail(&why, STATUS_IO, "POST %s: %d %.*s", url, a.status,
                          (int)(a.body.bytes < 200 ? a.body.bytes : 200), a.body.data);
    }
    LOG(INFO, "ray", "agent submitted", "url=%s why=\"%s\"", url, why.text);
    strbuf_clear(&r->body);
}

/* ---- a worker ------------------------------------------------------------------------------- */

/* {"pool":"decode"} of "pool=decode". */
static void write_labels(strbuf *b, const char *labels) {
    strbuf_append_char(b, '{');
    for (const char *at = labels; at && *at;) {
        const char *end = strchrnul(at, ',');
        const char *equals = memchr(at, '=', (size_t)(end - at));
        if (equals) {
            jsonout_comma(b);
            jsonout_string(b, str_of(at, (size_t)(equals - at)));
            strbuf_append_char(b, ':');
            jsonout_string(b, str_of(equals + 1, (size_t)(end - equals - 1)));
        }
        at = *end ? end + 1 : end;
    }
    strbuf_append_char(b, '}');
}

static void write_wish(ray *r, const driver_remote_slot *s, uint64_t token, int64_t now_us) {
    const driver_ray_pool *pool = &r->options.pools[s->pool];
    strbuf *b = &r->body;
    strbuf_clear(b);
    strbuf_append_z(b, "{\"argv\":[");
    jsonout_string_z(b, r->options.program);
    strbuf_printf(b, ",\"worker\",\"--role\",\"%s\",\"--worker\",\"%u\"", pool_names[s->pool],
                  s->id);
    for (uint32_t i = 0; i < pool->args_count; i++) {
        strbuf_append_char(b, ',');
        jsonout_string_z(b, pool->args[i]);
    }
    strbuf_printf(b, "],\"num_cpus\":%g,\"num_gpus\":%g,\"labels\":", pool->cpus, pool->gpus);
    write_labels(b, pool->labels);
    if (s->avoid[0] && now_us < s->avoid_us) {
        jsonout_key(b, "avoid_nodes");
        strbuf_append_char(b, '[');
        jsonout_string_z(b, s->avoid);
        strbuf_append_char(b, ']');
    }
    if (r->options.cluster_key) {
        strbuf_append_z(b, ",\"env\":{\"WEIR_CLUSTER_KEY\":");
        jsonout_string_z(b, r->options.cluster_key);
        strbuf_append_char(b, '}');
    }
    strbuf_printf(b, ",\"fence\":%llu}", (unsigned long long)token);
}

static void refuse(driver_remote_slot *s, const char *what, const webcall_answer *a,
                   const diag *why, int64_t now_us) {
    s->backoff_us = s->backoff_us ? 2 * s->backoff_us : BACKOFF_FIRST_US;
    s->backoff_us = s->backoff_us < BACKOFF_MAX_US ? s->backoff_us : BACKOFF_MAX_US;
    s->retry_us = now_us + s->backoff_us;
    LOG(WARN, "ray", what, "worker=%u status=%d answer=\"%.*s\" why=\"%s\"", s->id, a->status,
        (int)(a->body.bytes < 200 ? a->body.bytes : 200), a->body.data ? a->body.data : "",
        why->text);
}

/* Names are made new for each try, so that nothing that comes late is taken for it. */
static void ask_for(ray *r, driver_remote_slot *s, uint64_t token, int64_t now_us) {
    char path[128];
    webcall_answer a = {0};
    diag why = {.text = ""};
    if (now_us < s->retry_us) {
        return;
    }
    (void)snprintf(s->name, sizeof s->name, "%s-%u-%lld", pool_names[s->pool], s->id,
                   (long long)now_us);
    (void)snprintf(path, sizeof path, "/v1/workers/%s", s->name);
    write_wish(r, s, token, now_us);
    s->phase = SCALER_STARTING;
    status heard = call_agent(r, "PUT", path, &a, &why);
    if (heard != STATUS_OK || a.status != 201) {
        refuse(s, "a worker was refused", &a, &why, now_us);
        if (heard == STATUS_OK) {
            s->name[0] = 0; /* else it may be there: the next round tells */
        }
    }
}

static void let_go(ray *r, driver_remote_slot *s, uint64_t token, int64_t now_us) {
    char path[192];
    webcall_answer a = {0};
    diag why = {.text = ""};
    if (now_us < s->retry_us) {
        return;
    }
    (void)snprintf(path, sizeof path, "/v1/workers/%s?grace_s=%.1f&fence=%llu", s->name,
                   (double)s->drain_us / 1e6, (unsigned long long)token);
    if (call_agent(r, "DELETE", path, &a, &why) != STATUS_OK ||
        (a.status != 200 && a.status != 404)) {
        refuse(s, "a stop was refused", &a, &why, now_us);
    }
}

/* What the agent says of a worker; NULL: it does not know it. */
static const cJSON *find(const cJSON *workers, const char *name) {
    const cJSON *w;
    cJSON_ArrayForEach(w, workers) {
        const cJSON *id = jsonin_get(w, "id");
        if (name[0] && cJSON_IsString(id) && strcmp(id->valuestring, name) == 0) {
            return w;
        }
    }
    return NULL;
}

static const char *text_of(const cJSON *object, const char *name) {
    const cJSON *v = jsonin_get(object, name);
    return cJSON_IsString(v) ? v->valuestring : "";
}

static bool is_there(const char *state) {
    return strcmp(state, "running") == 0 || strcmp(state, "draining") == 0 ||
           strcmp(state, "pending") == 0;
}

/* The pool and number in a name that ask_for made. */
static bool read_name(const char *name, scaler_pool *pool, uint32_t *id) {
    for (int p = 0; p < SCALER_POOLS; p++) {
        size_t bytes = strlen(pool_names[p]);
        if (strncmp(name, pool_names[p], bytes) == 0 && name[bytes] == '-') {
            char *end;
            unsigned long number = strtoul(name + bytes + 1, &end, 10);
            *pool = (scaler_pool)p;
            *id = (uint32_t)number;
            return *end == '-' && number < LIMIT_WORKERS;
        }
    }
    return false;
}

/* Workers that nobody here wished for. */
static void adopt(driver_remote_slot slots[LIMIT_WORKERS], const cJSON *workers) {
    const cJSON *w;
    cJSON_ArrayForEach(w, workers) {
        const char *name = text_of(w, "id");
        scaler_pool pool;
        uint32_t id;
        if (read_name(name, &pool, &id) && !slots[id].used && is_there(text_of(w, "state"))) {
            slots[id] = (driver_remote_slot){.used = true, .id = id, .pool = pool, .adopted = true};
            (void)snprintf(slots[id].name, sizeof slots[id].name, "%s", name);
        }
    }
}

static void see_to(ray *r, driver_remote_slot *s, const cJSON *seen, uint64_t token,
                   int64_t now_us) {
    const char *state = seen ? text_of(seen, "state") : "";
    bool runs = strcmp(state, "running") == 0, draining = strcmp(state, "draining") == 0;
    bool there = is_there(state);
    if (s->stop) {
        s->phase = SCALER_STOPPING;
        s->gone = !there;
        if (there && !draining) {
            let_go(r, s, token, now_us);
        }
        return;
    }
    if (runs) {
        s->phase = SCALER_SERVING;
        s->backoff_us = 0;
    } else if (there) {
        s->phase = SCALER_STARTING;
    } else {
        if (strcmp(state, "lost") == 0) {
            (void)snprintf(s->avoid, sizeof s->avoid, "%s", text_of(seen, "node"));
            s->avoid_us = now_us + AVOID_US;
        }
        ask_for(r, s, token, now_us);
    }
}

/* ---- rounds --------------------------------------------------------------------------------- */

/* GET of `path` as a JSON object. */
static bool look(ray *r, const char *path, jsonin *out, diag *why) {
    webcall_answer a;
    strbuf_clear(&r->body);
    if (call_agent(r, "GET", path, &a, why) != STATUS_OK) {
        return false;
    }
    if (a.status != 200) {
        (void)status_fail(why, STATUS_IO, "GET %s%s: %d", r->options.agent_url, path, a.status);
        return false;
    }
    return jsonin_open(a.body, NULL, 0, out, why) == STATUS_OK;
}

static uint32_t fits(const ray *r, const cJSON *free_resources) {
    double least = LIMIT_WORKERS;
    const driver_ray_pool *p = r->options.pools;
    double gpus = p[0].gpus > p[1].gpus ? p[0].gpus : p[1].gpus;
    double cpus = p[0].cpus > p[1].cpus ? p[0].cpus : p[1].cpus;
    const cJSON *gpu = jsonin_get(free_resources, "GPU");
    const cJSON *cpu = jsonin_get(free_resources, "CPU");
    if (gpus > 0) {
        double n = cJSON_IsNumber(gpu) ? gpu->valuedouble / gpus : 0;
        least = n < least ? n : least;
    }
    if (cpus > 0) {
        double n = cJSON_IsNumber(cpu) ? cpu->valuedouble / cpus : 0;
        least = n < least ? n : least;
    }
    return (uint32_t)(least + 1e-6);
}

static bool ray_sync(void *context, driver_remote_slot slots[LIMIT_WORKERS], uint64_t token,
                     uint32_t *capacity, int64_t now_us, diag *why) {
    ray *r = context;
    jsonin workers, cluster;
    if (!look(r, "/v1/workers", &workers, why)) {
        submit_agent(r, now_us);
        return false;
    }
    if (!r->adopted) {
        adopt(slots, jsonin_get(workers.root, "workers"));
        r->adopted = true;
    }
    for (uint32_t i = 0; i < LIMIT_WORKERS; i++) {
        if (slots[i].used) {
            const cJSON *seen = find(jsonin_get(workers.root, "workers"), slots[i].name);
            see_to(r, &slots[i], seen, token, now_us);
        }
    }
    jsonin_close(&workers);
    if (look(r, "/v1/cluster", &cluster, why)) {
        *capacity = fits(r, jsonin_get(cluster.root, "free"));
        jsonin_close(&cluster);
    }
    return true;
}

static void ray_close(void *context) {
    ray *r = context;
    webcall_close(r->call);
    strbuf_close(&r->body);
    mem_free(r);
}

status driver_ray_open(const driver_ray_options *options, driver **out, diag *d) {
    static const driver_remote_table table = {
        .name = "ray", .sync = ray_sync, .close = ray_close, .flips = true};
    ray *r = mem_calloc(1, sizeof *r);
    if (!r || webcall_open(&r->call) != STATUS_OK) {
        mem_free(r);
        return status_fail(d, STATUS_NOMEM, "no memory for the ray driver");
    }
    r->options = *options;
    r->body = strbuf_make(BODY_BYTES);
    return driver_remote_open(&table, r, options->first, out, d);
}
