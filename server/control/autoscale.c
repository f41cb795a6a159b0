/* autoscale.c -- driver and heartbeats in, driver calls out. */
#include "server/control/autoscale.h"

#include <cjson/cJSON.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/log.h"
#include "engine/base/mem.h"
#include "server/control/wastejson.h"
#include "server/http/jsonin.h"
#include "server/http/jsonout.h"

struct autoscale {
    autoscale_options options;
    scaler scaler;
    scaler_observation seen;
    message_waste waste[LIMIT_WORKERS];
    uint32_t numbers[LIMIT_WORKERS]; /* of seen.workers in the cluster */
    bool leads;
    int64_t acts_us; /* not before then */
    uint64_t decided[SCALER_KINDS];
    struct {
        int64_t us[AUTOSCALE_LATENCIES];
        uint64_t count;
    } ttft, tpot;
};

status autoscale_open(const autoscale_options *options, autoscale **out, diag *d) {
    autoscale *a = mem_calloc(1, sizeof *a);
    if (!a) {
        return status_fail(d, STATUS_NOMEM, "no memory for the controller");
    }
    a->options = *options;
    scaler_open(&a->scaler, &options->scaler);
    *out = a;
    return STATUS_OK;
}

void autoscale_close(autoscale *a) {
    if (a) {
        driver_close(a->options.driver);
        lease_close(a->options.lease);
        mem_free(a);
    }
}

/* ---- a turn --------------------------------------------------------------------------------- */

static void observe(autoscale *a, const autoscale_seen *seen) {
    driver_worker list[LIMIT_WORKERS];
    uint32_t count = driver_list(a->options.driver, list);
    scaler_observation *o = &a->seen;
    o->workers_count = count;
    o->counters = seen->counters;
    o->held = seen->held;
    o->held_tokens = seen->held * a->scaler.fast.prompt_mean; /* likely like those of late */
    for (uint32_t i = 0; i < count; i++) {
        const driver_worker *w = &list[i];
        scaler_worker *to = &o->workers[i];
        *to = (scaler_worker){.id = w->id, .pool = w->pool, .phase = w->phase, .flips = w->flips};
        a->numbers[i] = w->worker;
        a->waste[i] = (message_waste){0};
        bool joined = w->worker < LIMIT_WORKERS && seen->workers[w->worker].joined;
        if (!joined) {
            if (to->phase == SCALER_SERVING) {
                to->phase = SCALER_STARTING;
            }
            continue;
        }
        const message_heartbeat *b = &seen->workers[w->worker].beat;
        a->waste[i] = b->waste;
        to->running = b->running;
        to->waiting = b->waiting;
        to->queued_tokens = b->queued_tokens;
        to->queued_us = b->queued_us;
        to->pages_total = b->pages_total;
        to->pages_free = b->pages_free;
        to->chunk_tokens = (int32_t)b->chunk_tokens;
        to->prefill_fit = b->prefill_fit;
        to->decode_fit = b->decode_fit;
    }
}

uint64_t autoscale_token(const autoscale *a) {
    return a->options.lease ? lease_token(a->options.lease) : 1;
}

static driver_result act(autoscale *a, const scaler_action *action, diag *why) {
    driver *d = a->options.driver;
    uint64_t token = autoscale_token(a);
    uint32_t id = (uint32_t)action->worker;
    switch (action->kind) {
        case SCALER_START:
            return driver_start(d, token, action->pool, &id, why);
        case SCALER_FLIP:
            return driver_flip(d, token, id, action->pool, why);
        case SCALER_STOP:
            return driver_stop(d, token, id, a->scaler.options.drain_us, why);
        default:
            return driver_stop(d, token, id, 0, why);
    }
}

/* Between lease_begin and lease_end nobody else can become the one that acts. */
static status carry_out(autoscale *a, const scaler_action *action, int64_t now_us, diag *why) {
    lease *l = a->options.lease;
    if (l && !lease_begin(l, now_us)) {
        scaler_refused(&a->scaler, action);
        return status_fail(why, STATUS_MISMATCH, "another controller holds the lease");
    }
    driver_result r = act(a, action, why);
    if (l) {
        lease_end(l);
    }
    if (r == DRIVER_ASKED) {
        a->decided[action->kind]++;
        LOG(INFO, "scaler", "decided", "action=%s role=%s worker=%d reason=\"%s\"",
            scaler_kind_name(action->kind), scaler_pool_name(action->pool), action->worker,
            action->reason);
    } else {
        scaler_refused(&a->scaler, action);
        LOG(WARN, "scaler", "refused by the driver", "action=%s role=%s worker=%d why=\"%s\"",
            scaler_kind_name(action->kind), scaler_pool_name(action->pool), action->worker,
            why->text);
    }
    return r == DRIVER_ASKED ? STATUS_OK : why->code;
}

void autoscale_turn(autoscale *a, const autoscale_seen *seen, int64_t now_us) {
    driver_turn(a->options.driver, now_us);
    bool leads = !a->options.lease || lease_turn(a->options.lease, now_us);
    if (leads != a->leads) {
        LOG(INFO, "scaler", "lease", "held=%d token=%llu", leads,
            (unsigned long long)autoscale_token(a));
        if (leads) {
            scaler_open(&a->scaler, &a->scaler.options); /* what was known is as old as the lease */
            a->acts_us = now_us + a->options.settle_us;
        }
    }
    a->leads = leads;
    observe(a, seen);
    if (!leads || now_us < a->acts_us) {
        return;
    }
    scaler_step(&a->scaler, &a->seen, now_us);
    for (uint32_t i = 0; i < a->scaler.actions_count; i++) {
        const scaler_action *action = &a->scaler.actions[i];
        diag why = {.text = ""};
        if (!a->scaler.options.dry_run) {
            (void)carry_out(a, action, now_us, &why);
            continue;
        }
        LOG(INFO, "scaler", "would", "action=%s role=%s worker=%d reason=\"%s\"",
            scaler_kind_name(action->kind), scaler_pool_name(action->pool), action->worker,
            action->reason);
    }
}

bool autoscale_leads(const autoscale *a) {
    return a->leads;
}

bool autoscale_others(const autoscale *a) {
    return !a->leads && a->options.lease && lease_others(a->options.lease);
}

uint64_t autoscale_decided(const autoscale *a, scaler_kind kind) {
    return a->decided[kind];
}

const scaler_state *autoscale_pool(const autoscale *a, scaler_pool pool) {
    return &a->scaler.pools[pool];
}

void autoscale_latency(autoscale *a, int64_t ttft_us, int64_t tpot_us) {
    a->ttft.us[a->ttft.count++ % AUTOSCALE_LATENCIES] = ttft_us;
    if (tpot_us > 0) {
        a->tpot.us[a->tpot.count++ % AUTOSCALE_LATENCIES] = tpot_us;
    }
}

/* ---- state ---------------------------------------------------------------------------------- */

static void put_float(strbuf *out, const char *key, double v) {
    jsonout_key(out, key);
    jsonout_float(out, (float)v);
}

static void put_int(strbuf *out, const char *key, int64_t v) {
    jsonout_key(out, key);
    jsonout_int(out, v);
}

static void put_text(strbuf *out, const char *key, const char *v) {
    jsonout_key(out, key);
    jsonout_string_z(out, v);
}

static void put_bool(strbuf *out, const char *key, bool v) {
    jsonout_key(out, key);
    (void)strbuf_append_z(out, v ? "true" : "false");
}

static int by_value(const void *a, const void *b) {
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x > y) - (x < y);
}

static void put_percentiles(strbuf *out, const char *name, const int64_t *us, uint64_t count) {
    int64_t sorted[AUTOSCALE_LATENCIES];
    size_t n = count < AUTOSCALE_LATENCIES ? (size_t)count : AUTOSCALE_LATENCIES;
    char key[32];
    memcpy(sorted, us, n * sizeof *sorted);
    qsort(sorted, n, sizeof *sorted, by_value);
    for (int p = 50; p <= 95; p += 45) {
        (void)snprintf(key, sizeof key, "%s_p%d", name, p);
        jsonout_key(out, key);
        if (n > 0) {
            jsonout_float(out, (float)sorted[(n - 1) * (size_t)p / 100] / 1000);
        } else {
            (void)strbuf_append_z(out, "null");
        }
    }
}

static void put_pools(const autoscale *a, strbuf *out) {
    jsonout_key(out, "pools");
    (void)strbuf_append_char(out, '[');
    for (int i = 0; i < SCALER_POOLS; i++) {
        const scaler_state *p = &a->scaler.pools[i];
        jsonout_comma(out);
        (void)strbuf_append_char(out, '{');
        put_text(out, "role", scaler_pool_name((scaler_pool)i));
        put_int(out, "serving", p->serving);
        put_int(out, "starting", p->starting);
        put_int(out, "stopping", p->stopping);
        put_int(out, "min", a->scaler.options.bounds[i].min);
        put_int(out, "max", a->scaler.options.bounds[i].max);
        put_int(out, "floor", p->floor);
        put_int(out, "wanted", p->wanted);
        put_float(out, "busy", p->busy);
        put_bool(out, "pending", p->pending);
        put_text(out, "why", p->why);
        wastejson_sum sum = {0};
        for (uint32_t w = 0; w < a->seen.workers_count; w++) {
            wastejson_add(&sum, &a->waste[w],
                          i == SCALER_PREFILL ? WASTE_POOL_PREFILL : WASTE_POOL_DECODE);
        }
        wastejson_put(out, &sum);
        (void)strbuf_append_char(out, '}');
    }
    (void)strbuf_append_char(out, ']');
}

static void put_workers(const autoscale *a, strbuf *out) {
    jsonout_key(out, "workers");
    (void)strbuf_append_char(out, '[');
    for (uint32_t i = 0; i < a->seen.workers_count; i++) {
        const scaler_worker *w = &a->seen.workers[i];
        jsonout_comma(out);
        (void)strbuf_append_char(out, '{');
        put_int(out, "id", w->id);
        put_int(out, "worker", a->numbers[i] == DRIVER_NO_WORKER ? -1 : (int64_t)a->numbers[i]);
        put_text(out, "role", scaler_pool_name(w->pool));
        put_text(out, "phase", scaler_phase_name(w->phase));
        put_bool(out, "flips", w->flips);
        put_int(out, "running", w->running);
        put_int(out, "waiting", w->waiting);
        put_int(out, "queued_tokens", (int64_t)w->queued_tokens);
        put_int(out, "pages_total", w->pages_total);
        put_int(out, "pages_free", w->pages_free);
        wastejson_sum sum = {0};
        wastejson_add(&sum, &a->waste[i], WASTE_POOLS);
        wastejson_put(out, &sum);
        (void)strbuf_append_char(out, '}');
    }
    (void)strbuf_append_char(out, ']');
}

static void put_decisions(const autoscale *a, int64_t now_us, strbuf *out) {
    const scaler *s = &a->scaler;
    jsonout_key(out, "decisions");
    (void)strbuf_append_char(out, '[');
    for (uint64_t i = 0; i < s->decisions_count && i < SCALER_DECISIONS_MAX; i++) {
        const scaler_decision *d =
            &s->decisions[(s->decisions_count - 1 - i) % SCALER_DECISIONS_MAX];
        jsonout_comma(out);
        (void)strbuf_append_char(out, '{');
        put_int(out, "ago_ms", (now_us - d->at_us) / 1000);
        put_text(out, "action", scaler_kind_name(d->action.kind));
        put_text(out, "role", scaler_pool_name(d->action.pool));
        put_int(out, "worker", d->action.worker);
        put_text(out, "reason", d->action.reason);
        put_text(out, "outcome", scaler_outcome_name(d->outcome));
        (void)strbuf_append_char(out, '}');
    }
    (void)strbuf_append_char(out, ']');
}

void autoscale_state(const autoscale *a, int64_t now_us, strbuf *out) {
    const scaler *s = &a->scaler;
    double gpus = 0;
    for (int i = 0; i < SCALER_POOLS; i++) {
        gpus += s->options.gpus[i] *
                (s->pools[i].serving + s->pools[i].starting + s->pools[i].stopping);
    }
    (void)strbuf_append_char(out, '{');
    put_text(out, "driver", a->options.driver->table->name);
    put_bool(out, "leads", a->leads);
    put_int(out, "token", (int64_t)autoscale_token(a));
    put_bool(out, "dry_run", s->options.dry_run);
    put_float(out, "gpus", gpus);
    put_float(out, "gpus_max", s->options.gpus_max);
    put_float(out, "slo_ttft_ms", s->options.slo.ttft_us / 1000);
    put_float(out, "slo_tpot_ms", s->options.slo.tpot_us / 1000);
    put_percentiles(out, "ttft_ms", a->ttft.us, a->ttft.count);
    put_percentiles(out, "tpot_ms", a->tpot.us, a->tpot.count);
    put_float(out, "requests_per_s", s->fast.requests_per_s);
    put_float(out, "forecast_requests_per_s", s->forecast.requests_per_s);
    put_float(out, "prompt_tokens", s->forecast.prompt_mean);
    put_float(out, "output_tokens", s->forecast.output_mean);
    put_int(out, "held", a->seen.held);
    put_pools(a, out);
    put_workers(a, out);
    put_decisions(a, now_us, out);
    (void)strbuf_append_char(out, '}');
}

/* ---- orders --------------------------------------------------------------------------------- */

static status read_role(const cJSON *root, scaler_pool *out, diag *d) {
    str role = {0};
    TRY(jsonin_string(root, "role", 16, &role, d));
    if (!str_equal_z(role, "prefill") && !str_equal_z(role, "decode")) {
        return status_fail_param(d, STATUS_INVALID, "role",
                                 "role must be \"prefill\" or \"decode\"");
    }
    *out = str_equal_z(role, "prefill") ? SCALER_PREFILL : SCALER_DECODE;
    return STATUS_OK;
}

static status order_scale(autoscale *a, const cJSON *root, diag *d) {
    scaler_pool pool = SCALER_PREFILL;
    int32_t workers = -1;
    TRY(read_role(root, &pool, d));
    scaler_bounds b = a->scaler.options.bounds[pool];
    int32_t min = (int32_t)b.min, max = (int32_t)b.max;
    TRY(jsonin_int(root, "workers", 0, LIMIT_WORKERS, &workers, d));
    TRY(jsonin_int(root, "min", 0, LIMIT_WORKERS, &min, d));
    TRY(jsonin_int(root, "max", 0, LIMIT_WORKERS, &max, d));
    min = workers >= 0 ? workers : min;
    max = workers >= 0 ? workers : max;
    if (min > max) {
        return status_fail_param(d, STATUS_INVALID, "min", "min must not be greater than max");
    }
    scaler_set_bounds(&a->scaler, pool, (scaler_bounds){(uint32_t)min, (uint32_t)max});
    return STATUS_OK;
}

static status order_worker(autoscale *a, autoscale_order_kind kind, const cJSON *root,
                           int64_t now_us, diag *d) {
    scaler_action action = {.kind = kind == AUTOSCALE_FLIP ? SCALER_FLIP : SCALER_STOP,
                            .reason = "an operator's order"};
    int32_t id = -1;
    const scaler_worker *w = NULL;
    TRY(jsonin_int(root, "worker", 0, INT32_MAX, &id, d));
    for (uint32_t i = 0; i < a->seen.workers_count; i++) {
        w = (int32_t)a->seen.workers[i].id == id ? &a->seen.workers[i] : w;
    }
    if (!w || w->phase == SCALER_STOPPING) {
        return status_fail_param(d, STATUS_NOTFOUND, "worker", "there is no worker %d", id);
    }
    action.worker = id;
    action.pool = w->pool;
    if (kind == AUTOSCALE_FLIP) {
        TRY(read_role(root, &action.pool, d));
        if (action.pool == w->pool || !w->flips || w->phase != SCALER_SERVING) {
            return status_fail_param(d, STATUS_INVALID, "role",
                                     "worker %d has that role, or cannot change it now", id);
        }
    }
    if (!scaler_order(&a->scaler, &action, now_us)) {
        return status_fail(d, STATUS_LIMIT, "the %s pool has a change pending; try again later",
                           scaler_pool_name(action.pool));
    }
    return carry_out(a, &action, now_us, d);
}

status autoscale_order(autoscale *a, autoscale_order_kind kind, str body, int64_t now_us, diag *d) {
    jsonin j;
    TRY(jsonin_open(body, NULL, 0, &j, d));
    status s = !a->leads ? status_fail(d, STATUS_LIMIT, "this controller does not hold the lease")
               : now_us < a->acts_us
                   ? status_fail(d, STATUS_LIMIT, "still finding out which workers run")
               : kind == AUTOSCALE_SCALE ? order_scale(a, j.root, d)
                                         : order_worker(a, kind, j.root, now_us, d);
    jsonin_close(&j);
    return s;
}
