/* workstats_test.c -- the page says what the core counted. */
#include "engine/worker/workstats.h"

#include <criterion/criterion.h>
#include <stdio.h>
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
