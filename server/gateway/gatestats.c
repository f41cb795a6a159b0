/* gatestats.c -- series of the gateway. Seconds are counted in microseconds. */
#include "server/gateway/gatestats.h"

#include <stdio.h>

#include "server/gateway/vllmstats.h"

struct gatestats {
    metrics *metrics;
    vllmstats *vllm;
    metrics_counter *ends[GATESTATS_ENDS];
    metrics_counter *refusals[GATESTATS_REFUSALS];
    metrics_counter *paths[ROUTER_PATHS], *reasons[ROUTER_REASONS], *index_dropped;
    metrics_gauge *index_pages, *index_entries;
    metrics_counter *prompt_tokens, *completion_tokens, *cached_tokens;
    metrics_histogram *ttft_us, *tpot_us, *e2e_us;
    metrics_gauge *running, *pending, *connections;
    metrics_counter *retries_free, *retries_spent, *stale, *duplicates, *mismatches, *class_changes,
        *splits, *rejected, *restarts, *http_requests, *http_refused_full, *http_refused_head,
        *http_expired, *http_gone;
    metrics_counter *traces_sent, *traces_full, *traces_refused, *traces_unreachable;
};

static metrics_counter *count(gatestats *g, const char *name, const char *labels,
                              const char *help) {
    return metrics_new_counter(g->metrics, name, labels, help, 1);
}

static void register_requests(gatestats *g) {
    static const char help[] = "Requests that have ended.";
    g->ends[GATESTATS_OK] = count(g, "weir_requests_total", "end=\"ok\"", help);
    g->ends[GATESTATS_CANCELLED] = count(g, "weir_requests_total", "end=\"cancelled\"", help);
    g->ends[GATESTATS_FAILED] = count(g, "weir_requests_total", "end=\"failed\"", help);
    static const char refused[] = "Requests turned away when they came.";
    g->refusals[GATESTATS_REFUSED_KEY] =
        count(g, "weir_requests_refused_total", "why=\"key\"", refused);
    g->refusals[GATESTATS_REFUSED_SYSTEM] =
        count(g, "weir_requests_refused_total", "why=\"places\"", refused);
    g->refusals[GATESTATS_REFUSED_LATE] =
        count(g, "weir_requests_refused_total", "why=\"late\"", refused);
    g->prompt_tokens = count(g, "weir_api_prompt_tokens_total", "", "Tokens of prompts.");
    g->completion_tokens =
        count(g, "weir_api_completion_tokens_total", "", "Tokens delivered to clients.");
    g->cached_tokens =
        count(g, "weir_api_cached_tokens_total", "", "Tokens of prompts that a prefix cache held.");
    g->ttft_us =
        metrics_new_histogram(g->metrics, "weir_time_to_first_token_seconds", "",
                              "From the request's last byte to the first token.", 1e-6, NULL, 0);
    g->tpot_us = metrics_new_histogram(g->metrics, "weir_time_per_output_token_seconds", "",
                                       "Mean time between a request's tokens after the first.",
                                       1e-6, NULL, 0);
    g->e2e_us =
        metrics_new_histogram(g->metrics, "weir_request_seconds", "",
                              "From the request's last byte to its last token.", 1e-6, NULL, 0);
    g->running =
        metrics_new_gauge(g->metrics, "weir_requests_open", "", "Requests that have not ended.");
    g->pending = metrics_new_gauge(g->metrics, "weir_requests_pending", "",
                                   "Requests that wait for workers.");
    g->connections =
        metrics_new_gauge(g->metrics, "weir_http_connections", "", "Open connections.");
}

static void register_faults(gatestats *g) {
    static const char retries[] = "Attempts after the first, by what they cost.";
    g->retries_free = count(g, "weir_retries_total", "budget=\"free\"", retries);
    g->retries_spent = count(g, "weir_retries_total", "budget=\"spent\"", retries);
    g->stale = count(g, "weir_stale_messages_total", "", "Messages of attempts that are over.");
    g->duplicates =
        count(g, "weir_duplicate_tokens_total", "", "Tokens that the client already had.");
    g->mismatches = count(g, "weir_inexact_tokens_total", "",
                          "Repeated tokens that differed from what the client has.");
    g->class_changes = count(g, "weir_inexact_resumes_total", "",
                             "Requests that went on in another numerics class.");
    g->splits = count(g, "weir_splits_total", "", "Requests that went on as one a choice.");
    g->rejected = count(g, "weir_gateway_rejects_total", "", "Messages that fit no state.");
    g->restarts = count(g, "weir_worker_restarts_total", "",
                        "Workers that ended and were started"
                        " again.");
    g->http_requests = count(g, "weir_http_requests_total", "", "Requests with a proper head.");
    g->http_refused_full =
        count(g, "weir_http_refused_total", "why=\"connections\"", "Refused by the HTTP server.");
    g->http_refused_head =
        count(g, "weir_http_refused_total", "why=\"malformed\"", "Refused by the HTTP server.");
    g->http_expired = count(g, "weir_http_expired_total", "", "Connections closed at a deadline.");
    g->http_gone = count(g, "weir_http_gone_total", "", "Clients that left before their answer.");
}

static void register_routing(gatestats *g) {
    char labels[64];
    for (int i = 0; i < ROUTER_PATHS; i++) {
        (void)snprintf(labels, sizeof labels, "path=\"%s\"", router_path_name((router_path)i));
        g->paths[i] = count(g, "weir_routes_total", labels, "Attempts sent to workers, by which.");
    }
    for (int i = 0; i < ROUTER_REASONS; i++) {
        (void)snprintf(labels, sizeof labels, "reason=\"%s\"",
                       router_reason_name((router_reason)i));
        g->reasons[i] = count(g, "weir_route_choices_total", labels,
                              "Why the worker that computes the prompt was chosen.");
    }
    g->index_pages = metrics_new_gauge(g->metrics, "weir_route_index_pages", "",
                                       "Different KV pages that some worker has.");
    g->index_entries = metrics_new_gauge(g->metrics, "weir_route_index_entries", "",
                                         "KV pages of all workers that the router knows of.");
    g->index_dropped = count(g, "weir_route_index_dropped_total", "",
                             "KV pages that the router's index had no room for.");
}

static void register_traces(gatestats *g) {
    static const char sent[] = "Requests whose spans the collector took.";
    static const char dropped[] = "Requests whose spans were dropped.";
    g->traces_sent = count(g, "weir_traces_sent_total", "", sent);
    g->traces_full = count(g, "weir_traces_dropped_total", "why=\"full\"", dropped);
    g->traces_refused = count(g, "weir_traces_dropped_total", "why=\"refused\"", dropped);
    g->traces_unreachable = count(g, "weir_traces_dropped_total", "why=\"unreachable\"", dropped);
}

void gatestats_traces(gatestats *g, const otlp_counts *c) {
    metrics_follow(g->traces_sent, c->sent);
    metrics_follow(g->traces_full, c->dropped_full);
    metrics_follow(g->traces_refused, c->dropped_refused);
    metrics_follow(g->traces_unreachable, c->dropped_unreachable);
}

void gatestats_routed(gatestats *g, router_path path, router_reason reason) {
    metrics_add(g->paths[path], 1);
    metrics_add(g->reasons[reason], 1);
}

void gatestats_index(gatestats *g, pageindex_counts c) {
    metrics_set(g->index_pages, c.pages);
    metrics_set(g->index_entries, (double)c.entries);
    metrics_follow(g->index_dropped, c.dropped);
}

status gatestats_open(arena *a, const char *model_name, gatestats **out) {
    gatestats *g = ARENA_TAKE(a, 1, gatestats);
    if (!g) {
        return STATUS_NOMEM;
    }
    TRY(metrics_open(&g->metrics, a));
    register_requests(g);
    register_faults(g);
    register_routing(g);
    register_traces(g);
    TRY(vllmstats_open(a, g->metrics, model_name, &g->vllm));
    *out = g;
    return STATUS_OK;
}

void gatestats_session(gatestats *g, gatestats_end end, const session_times *t) {
    vllmstats_session(g->vllm, t, end == GATESTATS_OK);
    metrics_add(g->ends[end], 1);
    metrics_add(g->prompt_tokens, (uint64_t)t->prompt_tokens);
    metrics_add(g->completion_tokens, (uint64_t)t->completion_tokens);
    metrics_add(g->cached_tokens, (uint64_t)t->cached_tokens);
    if (end != GATESTATS_OK || !t->first_token_us) {
        return;
    }
    metrics_observe(g->ttft_us, (uint64_t)(t->first_token_us - t->received_us));
    metrics_observe(g->e2e_us, (uint64_t)(t->last_token_us - t->received_us));
    if (t->completion_tokens > 1) {
        metrics_observe(g->tpot_us, (uint64_t)((t->last_token_us - t->first_token_us) /
                                               (t->completion_tokens - 1)));
    }
}

void gatestats_refused(gatestats *g, gatestats_refusal why) {
    metrics_add(g->refusals[why], 1);
}

void gatestats_pages(gatestats *g, const gate *protocol, uint32_t waiting, uint64_t pages_total,
                     uint64_t pages_free) {
    uint64_t open = gate_count(protocol), pending = gate_pending_count(protocol);
    vllmstats_set(g->vllm, &(vllmstats_now){.running = open - pending,
                                            .waiting = pending + waiting,
                                            .pages_total = pages_total,
                                            .pages_free = pages_free});
}

void gatestats_render(gatestats *g, const gate *protocol, uint32_t waiting,
                      const http_counts *connections, uint64_t restarts,
                      const metrics_remote *remotes, size_t remotes_count, strbuf *out) {
    const gate_counts *c = gate_counters(protocol);
    metrics_set(g->running, gate_count(protocol) + waiting);
    metrics_set(g->pending, gate_pending_count(protocol) + waiting);
    metrics_set(g->connections, connections->connections);
    metrics_follow(g->retries_free, c->retries_free);
    metrics_follow(g->retries_spent, c->retries_spent);
    metrics_follow(g->stale, c->stale_dropped);
    metrics_follow(g->duplicates, c->duplicates_dropped);
    metrics_follow(g->mismatches, c->mismatches);
    metrics_follow(g->class_changes, c->class_changes);
    metrics_follow(g->splits, c->splits);
    metrics_follow(g->rejected, c->rejected);
    metrics_follow(g->restarts, restarts);
    metrics_follow(g->http_requests, connections->requests);
    metrics_follow(g->http_refused_full, connections->refused_full);
    metrics_follow(g->http_refused_head, connections->refused_head);
    metrics_follow(g->http_expired, connections->expired);
    metrics_follow(g->http_gone, connections->gone);
    (void)metrics_render(g->metrics, remotes, remotes_count, out);
}
