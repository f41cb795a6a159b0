/* vllmstats.c -- aliases. Names, types and bounds are those of vLLM's metrics page. */
#include "server/gateway/vllmstats.h"

#include "engine/base/limits.h"

struct vllmstats {
    metrics_gauge *running, *waiting, *usage, *usage_old;
    metrics_counter *prompt, *generation, *queries, *hits;
    metrics_histogram *ttft_us, *itl_us, *tpot_us, *e2e_us;
};

/* Microseconds. */
static const uint64_t first_bounds[] = {
    1000,   5000,    10000,   20000,   40000,   60000,    80000,    100000,   250000,   500000,
    750000, 1000000, 2500000, 5000000, 7500000, 10000000, 20000000, 40000000, 80000000, 160000000};
static const uint64_t token_bounds[] = {10000,   25000,   50000,   75000,   100000, 150000,
                                        200000,  300000,  400000,  500000,  750000, 1000000,
                                        2500000, 5000000, 7500000, 10000000};
static const uint64_t whole_bounds[] = {
    300000,   500000,   800000,   1000000,  1500000,  2000000,  2500000,   5000000,   10000000,
    15000000, 20000000, 30000000, 40000000, 50000000, 60000000, 120000000, 240000000, 480000000};

#define BOUNDS(list) (list), sizeof(list) / sizeof *(list)

status vllmstats_open(arena *a, metrics *m, const char *model_name, vllmstats **out) {
    vllmstats *v = ARENA_TAKE(a, 1, vllmstats);
    strbuf label = strbuf_make(LIMIT_METRIC_LABEL_BYTES - 1);
    metrics_label(&label, "model_name", model_name);
    metrics_label(&label, "engine", "0");
    if (!v || label.failed) {
        bool long_name = v != NULL;
        strbuf_close(&label);
        return long_name ? STATUS_LIMIT : STATUS_NOMEM;
    }
    const char *l = label.data;
    v->running = metrics_new_gauge(m, "vllm:num_requests_running", l, "Requests at workers.");
    v->waiting =
        metrics_new_gauge(m, "vllm:num_requests_waiting", l, "Requests that wait for workers.");
    v->usage = metrics_new_gauge(m, "vllm:kv_cache_usage_perc", l,
                                 "Share of the KV pages that requests hold; 1 is all.");
    v->usage_old =
        metrics_new_gauge(m, "vllm:gpu_cache_usage_perc", l, "The same under its older name.");
    v->prompt = metrics_new_counter(m, "vllm:prompt_tokens_total", l, "Tokens of prompts.", 1);
    v->generation =
        metrics_new_counter(m, "vllm:generation_tokens_total", l, "Tokens delivered.", 1);
    v->queries = metrics_new_counter(m, "vllm:prefix_cache_queries_total", l,
                                     "Prompt tokens looked up in prefix caches.", 1);
    v->hits =
        metrics_new_counter(m, "vllm:prefix_cache_hits_total", l, "Prompt tokens found there.", 1);
    v->ttft_us = metrics_new_histogram(m, "vllm:time_to_first_token_seconds", l,
                                       "Time to the first token.", 1e-6, BOUNDS(first_bounds));
    v->itl_us =
        metrics_new_histogram(m, "vllm:inter_token_latency_seconds", l,
                              "A request's mean time between tokens.", 1e-6, BOUNDS(token_bounds));
    v->tpot_us =
        metrics_new_histogram(m, "vllm:time_per_output_token_seconds", l,
                              "The same under its older name.", 1e-6, BOUNDS(token_bounds));
    v->e2e_us =
        metrics_new_histogram(m, "vllm:e2e_request_latency_seconds", l,
                              "From the request to its last token.", 1e-6, BOUNDS(whole_bounds));
    strbuf_close(&label);
    *out = v;
    return STATUS_OK;
}

void vllmstats_session(vllmstats *v, const session_times *t, bool whole) {
    metrics_add(v->prompt, (uint64_t)t->prompt_tokens);
    metrics_add(v->generation, (uint64_t)t->completion_tokens);
    metrics_add(v->queries, (uint64_t)t->prompt_tokens);
    metrics_add(v->hits, (uint64_t)t->cached_tokens);
    if (!whole || !t->first_token_us) {
        return;
    }
    metrics_observe(v->ttft_us, (uint64_t)(t->first_token_us - t->received_us));
    metrics_observe(v->e2e_us, (uint64_t)(t->last_token_us - t->received_us));
    if (t->completion_tokens > 1) {
        uint64_t mean_us =
            (uint64_t)((t->last_token_us - t->first_token_us) / (t->completion_tokens - 1));
        metrics_observe(v->itl_us, mean_us);
        metrics_observe(v->tpot_us, mean_us);
    }
}

void vllmstats_set(vllmstats *v, const vllmstats_now *now) {
    double held = (double)(now->pages_total - now->pages_free);
    double usage = now->pages_total ? held / (double)now->pages_total : 0;
    metrics_set(v->running, (double)now->running);
    metrics_set(v->waiting, (double)now->waiting);
    metrics_set(v->usage, usage);
    metrics_set(v->usage_old, usage);
}
