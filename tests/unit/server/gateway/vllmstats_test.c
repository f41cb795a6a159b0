/* vllmstats_test.c -- the names and values that vLLM's readers expect. */
#include "server/gateway/vllmstats.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static arena a;
static metrics *m;

static vllmstats *open_stats(const char *name) {
    vllmstats *v;
    cr_assert_eq(arena_open(&a, 8 << 20), STATUS_OK);
    cr_assert_eq(metrics_open(&m, &a), STATUS_OK);
    cr_assert_eq(vllmstats_open(&a, m, name, &v), STATUS_OK);
    return v;
}

static double value_of(const char *name, const char *more) {
    strbuf page = strbuf_make(1 << 20);
    char line[160];
    (void)metrics_render(m, NULL, 0, &page);
    snprintf(line, sizeof line, "\n%s{model_name=\"m\",engine=\"0\"%s} ", name, more);
    const char *at = strstr(page.data, line);
    cr_assert_not_null(at, "%s is not on the page", line + 1);
    double value = strtod(at + strlen(line), NULL);
    strbuf_close(&page);
    return value;
}

Test(vllmstats, gauges_are_of_all_workers_together) {
    vllmstats *v = open_stats("m");
    vllmstats_set(v, &(vllmstats_now){3, 4, 200, 150});
    cr_expect_float_eq(value_of("vllm:num_requests_running", ""), 3, 0);
    cr_expect_float_eq(value_of("vllm:num_requests_waiting", ""), 4, 0);
    cr_expect_float_eq(value_of("vllm:kv_cache_usage_perc", ""), 0.25, 1e-12);
    cr_expect_float_eq(value_of("vllm:gpu_cache_usage_perc", ""), 0.25, 1e-12);
    vllmstats_set(v, &(vllmstats_now){0});
    cr_expect_float_eq(value_of("vllm:kv_cache_usage_perc", ""), 0, 0, "without any pages");
    arena_close(&a);
}

Test(vllmstats, a_session_counts_its_tokens_and_times) {
    vllmstats *v = open_stats("m");
    session_times t = {.received_us = 1000000,
                       .first_token_us = 1030000,
                       .last_token_us = 1430000,
                       .prompt_tokens = 100,
                       .completion_tokens = 5,
                       .cached_tokens = 64};
    vllmstats_session(v, &t, true);
    vllmstats_session(v, &t, false); /* cancelled: tokens count, times do not */
    cr_expect_float_eq(value_of("vllm:prompt_tokens_total", ""), 200, 0);
    cr_expect_float_eq(value_of("vllm:generation_tokens_total", ""), 10, 0);
    cr_expect_float_eq(value_of("vllm:prefix_cache_queries_total", ""), 200, 0);
    cr_expect_float_eq(value_of("vllm:prefix_cache_hits_total", ""), 128, 0);
    cr_expect_float_eq(value_of("vllm:time_to_first_token_seconds_sum", ""), 0.03, 1e-9);
    cr_expect_float_eq(value_of("vllm:time_to_first_token_seconds_bucket", ",le=\"0.02\""), 0, 0);
    cr_expect_float_eq(value_of("vllm:time_to_first_token_seconds_bucket", ",le=\"0.04\""), 1, 0);
    cr_expect_float_eq(value_of("vllm:inter_token_latency_seconds_sum", ""), 0.1, 1e-9);
    cr_expect_float_eq(value_of("vllm:time_per_output_token_seconds_count", ""), 1, 0);
    cr_expect_float_eq(value_of("vllm:e2e_request_latency_seconds_sum", ""), 0.43, 1e-9);
    arena_close(&a);
}

Test(vllmstats, a_name_too_long_for_a_label_is_an_error) {
    char name[400];
    memset(name, 'x', sizeof name);
    name[sizeof name - 1] = 0;
    vllmstats *v;
    cr_assert_eq(arena_open(&a, 8 << 20), STATUS_OK);
    cr_assert_eq(metrics_open(&m, &a), STATUS_OK);
    cr_assert_eq(vllmstats_open(&a, m, name, &v), STATUS_LIMIT);
    arena_close(&a);
}
