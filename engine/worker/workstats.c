/* workstats.c -- the worker's series. Names end in their unit; the gateway adds role and worker
 * labels when it renders them. */
#include "engine/worker/workstats.h"

#include <stdio.h>

#include "engine/base/hash.h"
#include "engine/base/rng.h"

/* A series that mirrors one number of core_stats. */
typedef struct {
    const char *name, *help;
    size_t offset; /* in core_stats */
    bool is_count; /* uint64_t counter; else uint32_t gauge */
} mirror;

#define COUNT(field, name, help) \
    { name, help, offsetof(core_stats, field), true }
#define GAUGE(field, name, help) \
    { name, help, offsetof(core_stats, field), false }

static const mirror mirrors[] = {
    COUNT(steps, "weir_steps_total", "Steps run."),
    COUNT(prompt_tokens_computed, "weir_prompt_tokens_computed_total",
          "Prompt tokens this worker ran through the model."),
    COUNT(prompt_tokens_cached, "weir_prompt_tokens_cached_total",
          "Prompt tokens found in the prefix cache."),
    COUNT(prompt_tokens_received, "weir_prompt_tokens_received_total",
          "Prompt tokens whose KV came from another worker."),
    COUNT(prompt_tokens_repeated, "weir_prompt_tokens_repeated_total",
          "Prompt tokens computed again: their request was further, elsewhere."),
    COUNT(prompt_tokens_lost, "weir_prompt_tokens_lost_total",
          "Prompt tokens computed for nothing: evicted, or their request left."),
    COUNT(tokens_generated, "weir_generated_tokens_total", "Tokens sampled."),
    COUNT(requests_accepted, "weir_requests_accepted_total", "Requests taken on."),
    COUNT(requests_finished, "weir_requests_finished_total", "Requests that ended here."),
    COUNT(handoffs, "weir_handoffs_total", "Requests handed to a decode worker."),
    COUNT(adoptions, "weir_adoptions_total", "Requests adopted from a prefill worker."),
    COUNT(refusals, "weir_refusals_total", "Requests refused for want of room."),
    COUNT(rejects, "weir_rejects_total", "Messages that did not fit the state."),
    COUNT(preemptions, "weir_preemptions_total", "Requests given back for want of pages."),
    COUNT(handed_back, "weir_requests_handed_back_total",
          "Requests given back when a drain took too long."),
    COUNT(evictions, "weir_evictions_total", "Prefills that lost their pages and start again."),
    COUNT(replays, "weir_replays_total", "Requests resumed from tokens kept here."),
    COUNT(leases_expired, "weir_leases_expired_total", "Requests nobody renewed."),
    COUNT(groups_sent, "weir_kv_groups_sent_total", "KV transfer groups sent."),
    COUNT(groups_received, "weir_kv_groups_received_total", "KV transfer groups received."),
    COUNT(groups_junk_received, "weir_kv_groups_empty_total", "Groups of requests that had gone."),
    COUNT(groups_damaged, "weir_kv_groups_damaged_total", "Groups whose checksum was wrong."),
    COUNT(links_closed, "weir_links_closed_total", "Links torn down by this worker."),
    GAUGE(pages_total, "weir_kv_pages", "Pages of the KV pool."),
    GAUGE(pages_free, "weir_kv_pages_free", "Pages nobody holds."),
    GAUGE(pages_cached, "weir_kv_pages_cached", "Free pages whose content can be reused."),
    GAUGE(pages_owned, "weir_kv_pages_owned", "Pages held by requests."),
    GAUGE(pages_quarantined, "weir_kv_pages_quarantined", "Pages a transfer may still touch."),
    GAUGE(running, "weir_requests_running", "Requests with pages."),
    GAUGE(waiting, "weir_requests_waiting", "Requests without pages yet."),
    GAUGE(parked_grants, "weir_grants_parked", "Grants that came before their request."),
};

enum { MIRRORS = sizeof mirrors / sizeof mirrors[0] };

struct workstats {
    metrics *metrics;
    uint64_t cell_bytes;
    int64_t started_us;
    metrics_counter *counters[MIRRORS];
    metrics_gauge *gauges[MIRRORS];
    metrics_counter *bytes_sent, *bytes_received, *busy_us, *up_us;
    metrics_histogram *step_us, *step_rows, *copy_us, *exposed_us;
    metrics_counter *states[WASTE_POOLS][WASTE_STATES], *allocated[WASTE_POOLS];
    metrics_counter *cost[WASTE_POOLS]; /* NULL: no price */
    stepcost_shape shape;
    double flops, bytes;
    metrics_counter *mflops, *mflops_wasted, *kbytes; /* NULL: computes nothing */
    hash_table handed;                                /* request -> when, WORKSTATS_TRANSFERS_MAX */
};

static const uint64_t row_bounds[] = {1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024};

static void register_series(workstats *w) {
    metrics *m = w->metrics;
    for (size_t i = 0; i < MIRRORS; i++) {
        if (mirrors[i].is_count) {
            w->counters[i] = metrics_new_counter(m, mirrors[i].name, "", mirrors[i].help, 1);
        } else {
            w->gauges[i] = metrics_new_gauge(m, mirrors[i].name, "", mirrors[i].help);
        }
    }
    w->bytes_sent = metrics_new_counter(m, "weir_kv_bytes_sent_total", "", "KV bytes sent.", 1);
    w->bytes_received =
        metrics_new_counter(m, "weir_kv_bytes_received_total", "", "KV bytes received.", 1);
    w->busy_us = metrics_new_counter(m, "weir_busy_seconds_total", "",
                                     "Time the device was computing.", 1e-6);
    w->up_us =
        metrics_new_counter(m, "weir_up_seconds_total", "",
                            "Time since the worker joined: busy over up is utilisation.", 1e-6);
    w->step_us =
        metrics_new_histogram(m, "weir_step_seconds", "", "Time of a step.", 1e-6, NULL, 0);
    w->step_rows = metrics_new_histogram(m, "weir_step_tokens", "", "Tokens in a step.", 1,
                                         row_bounds, sizeof row_bounds / sizeof row_bounds[0]);
    w->copy_us =
        metrics_new_histogram(m, "weir_kv_copy_seconds", "",
                              "Time to copy in and check a transfer group.", 1e-6, NULL, 0);
    w->exposed_us = metrics_new_histogram(
        m, "weir_kv_exposed_seconds", "",
        "Time from the end of a prefill to its adoption: the transfer not hidden by computing.",
        1e-6, NULL, 0);
}

status workstats_open(arena *a, uint64_t cell_bytes, int64_t now_us, workstats **out) {
    workstats *w = ARENA_TAKE(a, 1, workstats);
    if (!w) {
        return STATUS_NOMEM;
    }
    w->cell_bytes = cell_bytes;
    w->started_us = now_us;
    TRY(metrics_open(&w->metrics, a));
    TRY(hash_open(&w->handed, a, WORKSTATS_TRANSFERS_MAX, (uint64_t)now_us));
    register_series(w);
    *out = w;
    return STATUS_OK;
}

/* Times are counted in microseconds of wall clock, the same for all, so that the states add up to
 * what was allocated; the worker's share of its device is in the scale. */
static void register_pool(workstats *w, const waste *times, waste_pool p,
                          const pricetable_entry *price) {
    double share = times->share_milli / 1000.0;
    char labels[96];
    (void)snprintf(labels, sizeof labels, "pool=\"%s\",unit=\"%s\"", waste_pool_name(p),
                   waste_unit_name(times->unit));
    w->allocated[p] = metrics_new_counter(
        w->metrics, "weir_device_allocated_seconds_total", labels,
        "GPU-seconds (unit=core: core-seconds) that the worker had its share of a device for.",
        share * 1e-6);
    if (price->priced) {
        w->cost[p] = metrics_new_counter(w->metrics, "weir_device_cost_total", labels,
                                         "Price of the device-seconds allocated.",
                                         share * price->price_per_hour / 3600e6);
    }
    for (int s = 0; s < WASTE_STATES; s++) {
        (void)snprintf(labels, sizeof labels, "pool=\"%s\",unit=\"%s\",state=\"%s\"",
                       waste_pool_name(p), waste_unit_name(times->unit),
                       waste_state_name((waste_state)s));
        w->states[p][s] = metrics_new_counter(
            w->metrics, "weir_device_seconds_total", labels,
            "The allocated seconds, by what the device did or waited for.", share * 1e-6);
    }
}

void workstats_device(workstats *w, const waste *times, uint32_t roles_able,
                      const stepcost_shape *shape, const pricetable_entry *price) {
    metrics *m = w->metrics;
    double share = times->share_milli / 1000.0;
    for (int p = 0; p < WASTE_POOLS; p++) {
        bool able = roles_able & MESSAGE_ROLE_FLIPS ? p != WASTE_POOL_BOTH
                                                    : (waste_pool)p == waste_pool_of(roles_able);
        if (able || (waste_pool)p == times->pool) {
            register_pool(w, times, (waste_pool)p, price);
        }
    }
    w->shape = *shape;
    if (shape->row_flops > 0) {
        w->mflops = metrics_new_counter(m, "weir_model_flops_total", "",
                                        "Operations that the model's steps need.", 1e6);
        w->mflops_wasted = metrics_new_counter(
            m, "weir_model_flops_wasted_total", "",
            "Of them those of prompt tokens repeated or lost, attention left out.", 1e6);
        w->kbytes = metrics_new_counter(m, "weir_model_bytes_total", "",
                                        "Bytes of weights and KV that the steps need.", 1e3);
    }
    if (price->peak_tflops > 0) {
        metrics_set(metrics_new_gauge(m, "weir_device_peak_flops", "",
                                      "Declared peak of the worker's share of its device."),
                    price->peak_tflops * 1e12 * share);
    }
    if (price->peak_gbps > 0) {
        metrics_set(metrics_new_gauge(m, "weir_device_peak_bytes_per_second", "",
                                      "Declared peak of the share's memory."),
                    price->peak_gbps * 1e9 * share);
    }
}

void workstats_waste(workstats *w, const waste *times, int64_t now_us) {
    uint64_t us[WASTE_POOLS][WASTE_STATES];
    waste_total(times, now_us, us);
    for (int p = 0; p < WASTE_POOLS; p++) {
        uint64_t all = 0;
        for (int s = 0; s < WASTE_STATES && w->allocated[p]; s++) {
            metrics_follow(w->states[p][s], us[p][s]);
            all += us[p][s];
        }
        if (w->allocated[p]) {
            metrics_follow(w->allocated[p], all);
        }
        if (w->cost[p]) {
            metrics_follow(w->cost[p], all);
        }
    }
}

void workstats_cost(workstats *w, const core_batch *batch) {
    if (w->mflops) {
        stepcost c = stepcost_of(&w->shape, batch);
        w->flops += c.flops;
        w->bytes += c.bytes;
    }
}

void workstats_refresh(workstats *w, const core *c, int64_t now_us) {
    core_stats s;
    core_get_stats(c, &s);
    for (size_t i = 0; i < MIRRORS; i++) {
        const char *field = (const char *)&s + mirrors[i].offset;
        if (mirrors[i].is_count) {
            uint64_t value;
            memcpy(&value, field, sizeof value);
            metrics_follow(w->counters[i], value);
        } else {
            uint32_t value;
            memcpy(&value, field, sizeof value);
            metrics_set(w->gauges[i], (double)value);
        }
    }
    if (w->mflops) {
        double lost = (double)(s.prompt_tokens_repeated + s.prompt_tokens_lost);
        metrics_follow(w->mflops, (uint64_t)(w->flops * 1e-6));
        metrics_follow(w->mflops_wasted, (uint64_t)(lost * w->shape.row_flops * 1e-6));
        metrics_follow(w->kbytes, (uint64_t)(w->bytes * 1e-3));
    }
    metrics_follow(w->bytes_sent, s.cells_sent * w->cell_bytes);
    metrics_follow(w->bytes_received, s.cells_received * w->cell_bytes);
    metrics_follow(w->up_us, (uint64_t)(now_us - w->started_us));
}

metrics *workstats_registry(workstats *w) {
    return w->metrics;
}

void workstats_step(workstats *w, int32_t rows, int64_t busy_us) {
    metrics_add(w->busy_us, (uint64_t)busy_us);
    metrics_observe(w->step_us, (uint64_t)busy_us);
    metrics_observe(w->step_rows, (uint64_t)rows);
}

static uint64_t transfer_key(request_id request, uint32_t attempt) {
    return rng_mix(request) ^ attempt;
}

void workstats_handed(workstats *w, request_id request, uint32_t attempt, int64_t now_us) {
    uint64_t key = transfer_key(request, attempt);
    if (!hash_put(&w->handed, key, (uint64_t)now_us)) {
        hash_clear(&w->handed); /* requests that were never adopted: cancelled, or their D died */
    }
}

int64_t workstats_adopted(workstats *w, request_id request, uint32_t attempt, int64_t now_us) {
    uint64_t then;
    if (!hash_delete(&w->handed, transfer_key(request, attempt), &then)) {
        return 0;
    }
    int64_t exposed_us = now_us - (int64_t)then;
    metrics_observe(w->exposed_us, (uint64_t)exposed_us);
    return exposed_us;
}

void workstats_copied(workstats *w, uint64_t bytes, int64_t copy_us) {
    if (bytes) {
        metrics_observe(w->copy_us, (uint64_t)copy_us);
    }
}

void workstats_snapshot(const workstats *w, strbuf *out) {
    metrics_snapshot(w->metrics, out);
}
