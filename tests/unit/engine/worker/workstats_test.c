/* workstats_test.c -- the page says what the core counted. */
#include "engine/worker/workstats.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/support/corenet.h"

enum { CELL_BYTES = 100 };

static double value_of(const workstats *w, const char *series) {
    strbuf snapshot = strbuf_make(1 << 20), page = strbuf_make(1 << 20);
    workstats_snapshot(w, &snapshot);
    metrics_remote remote = {strbuf_str(&snapshot), "role=\"decode\""};
    cr_assert_eq(metrics_render(NULL, &remote, 1, &page), 0);
    char line[128];
    double value = -1;
    snprintf(line, sizeof line, "\n%s{role=\"decode\"} ", series);
    const char *at = strstr(page.data, line);
    cr_assert_not_null(at, "%s is not on the page", series);
    cr_assert_eq(sscanf(at + strlen(line), "%lf", &value), 1);
    strbuf_close(&snapshot);
    strbuf_close(&page);
    return value;
}

/* One request from prefill to decode, so that most counters are not zero. */
static corenet *run_one(void) {
    int32_t prompt[100];
    for (int32_t i = 0; i < 100; i++) {
        prompt[i] = 7 * i + 1;
    }
    corenet_options o = corenet_defaults();
    o.workers = 2;
    o.roles[0] = MESSAGE_ROLE_PREFILL;
    o.roles[1] = MESSAGE_ROLE_DECODE;
    corenet *n = corenet_open(&o);
    request_params params = corenet_params(9);
    corenet_submit(n, 0, 5, 1, 1, prompt, 100, 100, &params);
    corenet_reserve(n, 1, 5, 1, 0, prompt, 100, 100, &params);
    corenet_run(n);
    return n;
}

Test(workstats, every_number_of_the_core_is_on_the_page) {
    corenet *n = run_one();
    for (uint32_t worker = 0; worker < 2; worker++) {
        core_stats s = corenet_stats(n, worker);
        const struct {
            const char *series;
            double value;
        } want[] = {
            {"weir_steps_total", (double)s.steps},
            {"weir_prompt_tokens_computed_total", (double)s.prompt_tokens_computed},
            {"weir_prompt_tokens_received_total", (double)s.prompt_tokens_received},
            {"weir_generated_tokens_total", (double)s.tokens_generated},
            {"weir_handoffs_total", (double)s.handoffs},
            {"weir_adoptions_total", (double)s.adoptions},
            {"weir_kv_groups_sent_total", (double)s.groups_sent},
            {"weir_kv_groups_received_total", (double)s.groups_received},
            {"weir_kv_bytes_sent_total", (double)(s.cells_sent * CELL_BYTES)},
            {"weir_kv_bytes_received_total", (double)(s.cells_received * CELL_BYTES)},
            {"weir_kv_pages", s.pages_total},
            {"weir_kv_pages_free", s.pages_free},
            {"weir_kv_pages_owned", s.pages_owned},
            {"weir_requests_running", s.running},
            {"weir_up_seconds_total", 2},
        };
        arena a;
        workstats *w;
        cr_assert_eq(arena_open(&a, 32 << 20), STATUS_OK);
        cr_assert_eq(workstats_open(&a, CELL_BYTES, 1000000, &w), STATUS_OK);
        for (int again = 0; again < 2; again++) { /* counters follow, they do not add up */
            workstats_refresh(w, corenet_core(n, worker), 3000000);
        }
        for (size_t i = 0; i < sizeof want / sizeof want[0]; i++) {
            cr_assert_float_eq(value_of(w, want[i].series), want[i].value, 1e-9, "%s",
                               want[i].series);
        }
        cr_assert(s.groups_sent + s.groups_received > 0);
        arena_close(&a);
    }
    corenet_close(n);
}

Test(workstats, exposed_time_is_from_handoff_to_adoption) {
    arena a;
    workstats *w;
    cr_assert_eq(arena_open(&a, 32 << 20), STATUS_OK);
    cr_assert_eq(workstats_open(&a, CELL_BYTES, 0, &w), STATUS_OK);
    workstats_handed(w, 1, 1, 1000000);
    workstats_handed(w, 2, 1, 1000000);
    workstats_handed(w, 2, 2, 2000000); /* another attempt is another transfer */
    workstats_adopted(w, 1, 1, 1500000);
    workstats_adopted(w, 1, 1, 1900000); /* told twice: counted once */
    workstats_adopted(w, 2, 2, 2250000);
    workstats_adopted(w, 3, 1, 9000000); /* of nobody */
    cr_assert_float_eq(value_of(w, "weir_kv_exposed_seconds_count"), 2, 0);
    cr_assert_float_eq(value_of(w, "weir_kv_exposed_seconds_sum"), 0.75, 1e-9);
    workstats_copied(w, 0, 10); /* empty answers are no copies */
    workstats_copied(w, 64, 10);
    cr_assert_float_eq(value_of(w, "weir_kv_copy_seconds_count"), 1, 0);
    workstats_step(w, 3, 250000);
    cr_assert_float_eq(value_of(w, "weir_busy_seconds_total"), 0.25, 1e-9);
    arena_close(&a);
}

Test(workstats, transfers_that_are_never_adopted_do_not_fill_the_table_for_good) {
    arena a;
    workstats *w;
    cr_assert_eq(arena_open(&a, 32 << 20), STATUS_OK);
    cr_assert_eq(workstats_open(&a, CELL_BYTES, 0, &w), STATUS_OK);
    for (request_id r = 1; r < 10 * WORKSTATS_TRANSFERS_MAX; r++) {
        workstats_handed(w, r, 1, 0);
    }
    workstats_handed(w, 1000000, 1, 0);
    workstats_adopted(w, 1000000, 1, 10);
    cr_assert_float_eq(value_of(w, "weir_kv_exposed_seconds_count"), 1, 0);
    arena_close(&a);
}

/* ---- the accounts ---------------------------------------------------------------------------- */

/* The sum of a family's series that have `label`. */
static double family(const workstats *w, const char *name, const char *label) {
    strbuf snapshot = strbuf_make(1 << 20), page = strbuf_make(1 << 20);
    double sum = 0;
    workstats_snapshot(w, &snapshot);
    metrics_remote remote = {strbuf_str(&snapshot), "role=\"decode\""};
    cr_assert_eq(metrics_render(NULL, &remote, 1, &page), 0);
    for (const char *at = page.data; (at = strstr(at, name)) != NULL; at++) {
        const char *end = strchr(at, '\n'), *value = strstr(at, "} ");
        const char *has = strstr(at, label);
        if (at[-1] == '\n' && at[strlen(name)] == '{' && has && has < end && value < end) {
            sum += strtod(value + 2, NULL);
        }
    }
    strbuf_close(&snapshot);
    strbuf_close(&page);
    return sum;
}

static workstats *open_accounts(arena *a, const waste *times, const stepcost_shape *shape,
                                const pricetable_entry *price) {
    workstats *w;
    cr_assert_eq(arena_open(a, 1 << 24), STATUS_OK);
    cr_assert_eq(workstats_open(a, CELL_BYTES, 0, &w), STATUS_OK);
    workstats_device(w, times, MESSAGE_ROLE_DECODE | MESSAGE_ROLE_FLIPS, shape, price);
    return w;
}

Test(workstats, seconds_are_those_of_the_share_and_add_up) {
    arena a;
    waste times;
    waste_begin(&times, WASTE_POOL_DECODE, 0);
    times.unit = WASTE_GPU;
    times.share_milli = 500;
    pricetable_entry price = {true, 7.2, 100, 1000};
    workstats *w = open_accounts(&a, &times, &(stepcost_shape){0}, &price);
    waste_enter(&times, WASTE_POOL_DECODE, WASTE_BUSY, 2000000);
    waste_stepped(&times, 3000000, 6000000);
    waste_enter(&times, WASTE_POOL_PREFILL, WASTE_NO_WORK, 6000000);
    workstats_waste(w, &times, 10000000);
    const char *seconds = "weir_device_seconds_total";
    const char *all = "weir_device_allocated_seconds_total";
    cr_expect_float_eq(family(w, seconds, "state=\"start\""), 1, 1e-6);
    cr_expect_float_eq(family(w, seconds, "state=\"busy\""), 1.5, 1e-6);
    cr_expect_float_eq(family(w, seconds, "state=\"cpu_stage\""), 0.5, 1e-6);
    cr_expect_float_eq(family(w, seconds, "pool=\"prefill\""), 2, 1e-6);
    cr_expect_float_eq(family(w, seconds, "unit=\"gpu\""), 5, 1e-6);
    cr_expect_float_eq(family(w, all, "unit=\"gpu\""), 5, 1e-6);
    cr_expect_float_eq(family(w, "weir_device_cost_total", "pool"), 5 * 7.2 / 3600, 1e-6);
    cr_expect_float_eq(family(w, "weir_device_peak_flops", "role"), 50e12, 1);
    cr_expect_float_eq(family(w, "weir_device_peak_bytes_per_second", "role"), 500e9, 1);
    arena_close(&a);
}

Test(workstats, operations_of_prompts_repeated_or_lost_are_wasted) {
    arena a;
    waste times;
    waste_begin(&times, WASTE_POOL_BOTH, 0);
    stepcost_shape shape = {.row_flops = 1e6, .weight_bytes = 5000};
    workstats *w = open_accounts(&a, &times, &shape, &(pricetable_entry){0});
    core_seq seq = {.rows = 32};
    core_batch batch = {.rows = 32, .seqs = &seq, .seqs_count = 1};
    workstats_cost(w, &batch);
    corenet_options o = corenet_defaults();
    corenet *n = corenet_open(&o);
    int32_t prompt[100] = {0};
    request_params params = corenet_params(9);
    corenet_submit(n, 0, 5, 1, 1, prompt, 100, 100, &params);
    cr_assert(corenet_step(n, 0));
    corenet_cancel(n, 0, 5, 1);
    workstats_refresh(w, corenet_core(n, 0), 10);
    cr_expect_float_eq(family(w, "weir_model_flops_total", "role"), 32e6, 1);
    cr_expect_float_eq(family(w, "weir_model_bytes_total", "role"), 5000, 1);
    cr_expect_float_eq(family(w, "weir_prompt_tokens_lost_total", "role"), 32, 0);
    cr_expect_float_eq(family(w, "weir_model_flops_wasted_total", "role"), 32e6, 1);
    cr_expect_float_eq(family(w, "weir_device_cost_total", "role"), 0, 0, "there is no price");
    corenet_close(n);
    arena_close(&a);
}
