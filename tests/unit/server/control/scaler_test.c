/* scaler_test.c -- decisions one by one; and that nothing observed can make it misbehave. */
#include "server/control/scaler.h"

#include <criterion/criterion.h>
#include <math.h>
#include <string.h>

#include "engine/base/rng.h"

enum { SECOND = 1000000 };

static scaler s;
static scaler_observation o;
static int64_t now_us;
static uint32_t id_next;

static void begin(scaler_bounds prefill, scaler_bounds decode, double gpus_max) {
    scaler_options options = {.bounds = {prefill, decode},
                              .gpus_max = gpus_max,
                              .slo = {1e6, 50e3},
                              .seqs_max = 64,
                              .start_us = 60 * SECOND,
                              .drain_us = 30 * SECOND,
                              .hold_us = 60 * SECOND,
                              .idle_us = 60 * SECOND};
    scaler_open(&s, &options);
    o = (scaler_observation){0};
    now_us = 1000 * SECOND;
    id_next = 0;
}

static scaler_worker *add(scaler_pool pool, scaler_phase phase) {
    scaler_worker *w = &o.workers[o.workers_count++];
    *w = (scaler_worker){.id = id_next++,
                         .pool = pool,
                         .phase = phase,
                         .flips = true,
                         .pages_total = 10000,
                         .pages_free = 10000,
                         .chunk_tokens = 256,
                         .prefill_fit = {1000, 200, 0, 100},
                         .decode_fit = {20000, 500, 0, 100}};
    return w;
}

/* So many seconds of a load. */
static void run(int seconds, double rate, double prompt, double output) {
    for (int i = 0; i < seconds; i++) {
        o.counters.requests += rate;
        o.counters.prompt_tokens += rate * prompt;
        o.counters.prompt_squares += rate * prompt * prompt;
        o.counters.finished += rate;
        o.counters.finished_tokens += rate * output;
        now_us += SECOND;
        scaler_step(&s, &o, now_us);
        if (s.actions_count > 0) {
            return;
        }
    }
}

static uint32_t count(scaler_kind kind, scaler_pool pool) {
    uint32_t n = 0;
    for (uint32_t i = 0; i < s.actions_count; i++) {
        n += s.actions[i].kind == kind && s.actions[i].pool == pool;
    }
    return n;
}

static void remove_worker(uint32_t id) {
    for (uint32_t i = 0; i < o.workers_count; i++) {
        if (o.workers[i].id == id) {
            o.workers[i] = o.workers[--o.workers_count];
            return;
        }
    }
}

Test(scaler, starts_what_the_bounds_ask_for) {
    begin((scaler_bounds){2, 4}, (scaler_bounds){1, 4}, 0);
    run(1, 0, 0, 0);
    cr_assert_eq(count(SCALER_START, SCALER_PREFILL), 2);
    cr_assert_eq(count(SCALER_START, SCALER_DECODE), 1);
    run(30, 0, 0, 0);
    cr_assert_eq(s.actions_count, 0, "they are pending");
}

Test(scaler, a_driver_that_does_not_list_a_start_yet_is_waited_for) {
    begin((scaler_bounds){1, 4}, (scaler_bounds){0, 4}, 0);
    run(1, 0, 0, 0);
    run(59, 0, 0, 0);
    cr_assert_eq(s.actions_count, 0);
}

Test(scaler, a_request_that_is_held_wakes_both_pools) {
    begin((scaler_bounds){0, 4}, (scaler_bounds){0, 4}, 0);
    run(300, 0, 0, 0);
    cr_assert_eq(s.actions_count, 0);
    o.held = 1;
    run(1, 1, 100, 10);
    cr_assert_eq(count(SCALER_START, SCALER_PREFILL), 1);
    cr_assert_eq(count(SCALER_START, SCALER_DECODE), 1);
}

Test(scaler, an_idle_pool_goes_to_zero_and_no_further) {
    begin((scaler_bounds){0, 4}, (scaler_bounds){1, 4}, 0);
    (void)add(SCALER_PREFILL, SCALER_SERVING);
    (void)add(SCALER_DECODE, SCALER_SERVING);
    run(55, 0, 0, 0);
    cr_assert_eq(s.actions_count, 0, "not before idle_us");
    run(10, 0, 0, 0);
    cr_assert_eq(s.actions_count, 1);
    cr_assert_eq(count(SCALER_STOP, SCALER_PREFILL), 1);
}

Test(scaler, prefill_grows_with_prompts_and_decode_stays) {
    begin((scaler_bounds){1, 16}, (scaler_bounds){1, 16}, 0);
    (void)add(SCALER_PREFILL, SCALER_SERVING);
    (void)add(SCALER_DECODE, SCALER_SERVING);
    run(60, 20, 1000, 20); /* 4 s of prompts a second */
    cr_assert_gt(count(SCALER_START, SCALER_PREFILL), 2);
    cr_assert_eq(count(SCALER_START, SCALER_DECODE), 0);
    cr_assert(s.actions[0].reason[0], "with a reason");
}

Test(scaler, decode_grows_with_answers_and_prefill_stays) {
    begin((scaler_bounds){1, 16}, (scaler_bounds){1, 16}, 0);
    (void)add(SCALER_PREFILL, SCALER_SERVING);
    (void)add(SCALER_DECODE, SCALER_SERVING);
    run(60, 10, 100, 1000); /* some 400 sequences at once, 50 a worker */
    cr_assert_gt(count(SCALER_START, SCALER_DECODE), 4);
    cr_assert_eq(count(SCALER_START, SCALER_PREFILL), 0);
}

Test(scaler, flips_what_the_other_pool_can_spare_before_it_starts_any) {
    begin((scaler_bounds){1, 16}, (scaler_bounds){1, 16}, 8);
    s.options.hold_us = 3600LL * SECOND; /* nobody leaves by itself */
    (void)add(SCALER_PREFILL, SCALER_SERVING);
    for (int i = 0; i < 5; i++) {
        (void)add(SCALER_DECODE, SCALER_SERVING);
    }
    run(90, 0.1, 100, 10);
    cr_assert_eq(s.actions_count, 0);
    run(60, 12, 1000, 20);
    cr_assert_gt(count(SCALER_FLIP, SCALER_PREFILL), 1);
    cr_assert_leq(count(SCALER_FLIP, SCALER_PREFILL), 4, "the last of decode stays");
    cr_assert_leq(count(SCALER_START, SCALER_PREFILL), 2, "two GPUs are free");
}

Test(scaler, a_start_that_hangs_is_ended_and_tried_again_later) {
    begin((scaler_bounds){1, 4}, (scaler_bounds){0, 4}, 0);
    run(1, 0, 0, 0);
    scaler_worker *w = add(SCALER_PREFILL, SCALER_STARTING);
    uint32_t id = w->id;
    run(100, 0, 0, 0);
    cr_assert_eq(count(SCALER_END, SCALER_PREFILL), 1);
    cr_assert_eq(s.actions[0].worker, (int32_t)id);
    cr_assert_eq(count(SCALER_START, SCALER_PREFILL), 0);
    remove_worker(id);
    run(2, 0, 0, 0);
    cr_assert_eq(s.actions_count, 0, "it waits before it tries again");
    run(30, 0, 0, 0);
    cr_assert_eq(count(SCALER_START, SCALER_PREFILL), 1);
}

Test(scaler, what_the_driver_refuses_is_not_pending_and_is_asked_again) {
    begin((scaler_bounds){2, 4}, (scaler_bounds){0, 4}, 0);
    run(1, 0, 0, 0);
    cr_assert_eq(s.actions_count, 2);
    scaler_refused(&s, &s.actions[0]);
    cr_assert(s.pools[SCALER_PREFILL].pending, "one of the two was not refused");
    cr_assert_eq(s.pools[SCALER_PREFILL].serving_wanted, 1);
    scaler_refused(&s, &s.actions[1]);
    cr_assert_not(s.pools[SCALER_PREFILL].pending);
    cr_assert_eq(s.decisions[0].outcome, SCALER_REFUSED);
    cr_assert_eq(s.decisions[1].outcome, SCALER_REFUSED);
    run(4, 0, 0, 0);
    cr_assert_eq(s.actions_count, 0, "not at once");
    run(2, 0, 0, 0);
    cr_assert_eq(count(SCALER_START, SCALER_PREFILL), 2);
    cr_assert_eq(s.decisions_count, 4);
}

Test(scaler, a_stop_that_the_driver_refuses_leaves_the_worker_where_it_is) {
    begin((scaler_bounds){1, 4}, (scaler_bounds){0, 4}, 0);
    (void)add(SCALER_DECODE, SCALER_SERVING);
    (void)add(SCALER_PREFILL, SCALER_SERVING);
    (void)add(SCALER_PREFILL, SCALER_SERVING);
    for (int i = 0; i < 100 && count(SCALER_STOP, SCALER_PREFILL) == 0; i++) {
        run(1, 0.01, 10, 10);
    }
    cr_assert_eq(count(SCALER_STOP, SCALER_PREFILL), 1);
    scaler_refused(&s, &s.actions[0]);
    run(1, 0.01, 10, 10);
    cr_assert_eq(s.pools[SCALER_PREFILL].serving, 2);
    cr_assert_eq(s.pools[SCALER_PREFILL].stopping, 0);
    cr_assert_eq(s.actions_count, 0, "not at once");
    run(5, 0.01, 10, 10);
    cr_assert_eq(count(SCALER_STOP, SCALER_PREFILL), 1, "again");
    for (uint32_t i = 0; i < o.workers_count; i++) {
        if ((int32_t)o.workers[i].id == s.actions[0].worker) {
            o.workers[i].phase = SCALER_STOPPING;
        }
    }
    run(33, 0.01, 10, 10);
    cr_assert_eq(count(SCALER_END, SCALER_PREFILL), 1, "its drain was too long");
    scaler_refused(&s, &s.actions[0]);
    run(6, 0.01, 10, 10);
    cr_assert_eq(count(SCALER_END, SCALER_PREFILL), 1, "told again, and no drain later");
}

Test(scaler, one_pool_stuck_does_not_stop_the_other) {
    begin((scaler_bounds){1, 4}, (scaler_bounds){1, 4}, 0);
    for (int i = 0; i < 3; i++) {
        (void)add(SCALER_PREFILL, SCALER_SERVING);
    }
    (void)add(SCALER_DECODE, SCALER_STARTING); /* for ever */
    s.options.start_us = 3600LL * SECOND;
    run(80, 0.01, 10, 10);
    cr_assert_eq(count(SCALER_STOP, SCALER_PREFILL), 2, "prefill is too large and shrinks");
}

Test(scaler, a_drain_that_hangs_is_ended) {
    begin((scaler_bounds){1, 4}, (scaler_bounds){0, 4}, 0);
    (void)add(SCALER_DECODE, SCALER_SERVING);
    (void)add(SCALER_PREFILL, SCALER_SERVING);
    (void)add(SCALER_PREFILL, SCALER_SERVING);
    run(80, 0.01, 10, 10);
    cr_assert_eq(count(SCALER_STOP, SCALER_PREFILL), 1);
    int32_t id = s.actions[0].worker;
    for (uint32_t i = 0; i < o.workers_count; i++) {
        if ((int32_t)o.workers[i].id == id) {
            o.workers[i].phase = SCALER_STOPPING;
        }
    }
    run(29, 0.01, 10, 10);
    cr_assert_eq(s.actions_count, 0);
    run(5, 0.01, 10, 10);
    cr_assert_eq(count(SCALER_END, SCALER_PREFILL), 1);
    cr_assert_eq(s.actions[0].worker, id);
}

Test(scaler, survivors_must_hold_the_load) {
    begin((scaler_bounds){1, 8}, (scaler_bounds){0, 8}, 0);
    (void)add(SCALER_DECODE, SCALER_SERVING);
    for (int i = 0; i < 3; i++) {
        (void)add(SCALER_PREFILL, SCALER_SERVING);
    }
    run(300, 3.4, 1000, 10); /* 0.68 of one: two are needed, with room for chance */
    for (uint32_t i = 0; i < s.actions_count; i++) {
        remove_worker((uint32_t)s.actions[i].worker);
    }
    run(600, 3.4, 1000, 10);
    cr_assert_eq(o.workers_count, 3, "two, and one that decodes");
    cr_assert_eq(s.actions_count, 0);
}

Test(scaler, a_new_controller_takes_nothing_away_before_it_has_watched) {
    begin((scaler_bounds){1, 8}, (scaler_bounds){0, 8}, 0);
    for (int i = 0; i < 6; i++) {
        (void)add(SCALER_PREFILL, SCALER_SERVING);
    }
    (void)add(SCALER_DECODE, SCALER_STARTING);
    run(55, 0.01, 10, 10);
    cr_assert_eq(s.actions_count, 0);
    cr_assert(s.pools[SCALER_DECODE].pending, "what it found starting is pending");
}

Test(scaler, advice_is_given_once_and_nothing_is_pending) {
    begin((scaler_bounds){1, 4}, (scaler_bounds){0, 4}, 0);
    s.options.dry_run = true;
    run(1, 0, 0, 0);
    cr_assert_eq(s.actions_count, 1);
    cr_assert_eq(s.decisions[0].outcome, SCALER_ADVICE);
    run(100, 0, 0, 0);
    cr_assert_eq(s.actions_count, 0);
    cr_assert_not(s.pools[SCALER_PREFILL].pending);
}

Test(scaler, an_order_waits_for_what_is_pending) {
    begin((scaler_bounds){1, 4}, (scaler_bounds){0, 4}, 0);
    (void)add(SCALER_PREFILL, SCALER_SERVING);
    run(1, 0, 0, 0);
    scaler_action order = {.kind = SCALER_START, .pool = SCALER_PREFILL, .worker = -1};
    cr_assert(scaler_order(&s, &order, now_us));
    cr_assert_not(scaler_order(&s, &order, now_us));
    scaler_set_bounds(&s, SCALER_PREFILL, (scaler_bounds){3, 3});
    run(1, 0, 0, 0);
    cr_assert_eq(s.actions_count, 0, "the order is pending");
    (void)add(SCALER_PREFILL, SCALER_SERVING);
    run(2, 0, 0, 0);
    cr_assert_eq(count(SCALER_START, SCALER_PREFILL), 1, "then the new bounds count");
}

Test(scaler, clock_jumps_are_no_time_and_no_load) {
    begin((scaler_bounds){1, 4}, (scaler_bounds){1, 4}, 0);
    (void)add(SCALER_PREFILL, SCALER_SERVING);
    (void)add(SCALER_DECODE, SCALER_SERVING);
    (void)add(SCALER_DECODE, SCALER_SERVING);
    run(20, 2, 100, 10);
    now_us += 86400LL * SECOND;
    run(1, 2, 100, 10);
    cr_assert_eq(s.actions_count, 0, "a day has not passed");
    now_us -= 2 * 86400LL * SECOND;
    run(10, 2, 100, 10);
    cr_assert_eq(s.actions_count, 0);
}

Test(scaler, what_is_not_a_number_is_not_known) {
    begin((scaler_bounds){1, 4}, (scaler_bounds){1, 4}, 0);
    (void)add(SCALER_PREFILL, SCALER_SERVING);
    (void)add(SCALER_DECODE, SCALER_SERVING);
    run(120, 1, 100, 10);
    scaler_counters good = o.counters;
    o.counters = (scaler_counters){NAN, INFINITY, -1, NAN, NAN};
    o.held_tokens = NAN;
    o.workers[0].prefill_fit.row_us = NAN;
    o.workers[1].decode_fit.fixed_us = INFINITY;
    for (int i = 0; i < 100; i++) {
        now_us += SECOND;
        scaler_step(&s, &o, now_us);
        cr_assert_eq(s.actions_count, 0);
    }
    o.counters = good;
    run(10, 1, 100, 10);
    cr_assert_eq(s.actions_count, 0);
    cr_assert(isfinite(s.forecast.requests_per_s));
}

static double any_number(uint64_t seed, uint64_t at) {
    static const double odd[] = {NAN, INFINITY, -INFINITY, -1, 0, 1e300, 1e18};
    uint64_t bits = rng_at(seed, 7, at);
    return bits % 10 < 7 ? rng_unit(bits) * 1e5 : odd[bits / 16 % 7];
}

Test(scaler, no_observation_makes_it_misbehave) {
    for (uint64_t seed = 1; seed <= 20; seed++) {
        begin((scaler_bounds){(uint32_t)(seed % 2), 6}, (scaler_bounds){(uint32_t)(seed % 3), 6},
              8);
        uint64_t n = 0;
        for (int turn = 0; turn < 2000; turn++) {
            double *c = (double *)&o.counters;
            for (int i = 0; i < 5; i++) {
                c[i] = any_number(seed, n++);
            }
            o.workers_count = (uint32_t)(rng_at(seed, 8, n++) % 12);
            double held = 0;
            for (uint32_t i = 0; i < o.workers_count; i++) {
                scaler_worker *w = &o.workers[i];
                uint64_t bits = rng_at(seed, 9, n++);
                *w = (scaler_worker){.id = (uint32_t)(i * 3 + bits % 3),
                                     .pool = (scaler_pool)(bits >> 8 & 1),
                                     .phase = (scaler_phase)(bits >> 9 & 3),
                                     .flips = bits >> 11 & 1,
                                     .queued_tokens = bits,
                                     .pages_total = (uint32_t)(bits >> 20 & 0xffff),
                                     .pages_free = (uint32_t)(bits >> 30 & 0xffff),
                                     .running = (uint32_t)(bits >> 40)};
                for (int k = 0; k < 3; k++) {
                    ((float *)&w->prefill_fit)[k] = (float)any_number(seed, n++);
                    ((float *)&w->decode_fit)[k] = (float)any_number(seed, n++);
                }
                w->prefill_fit.samples = w->decode_fit.samples = 10;
                held++;
            }
            now_us += (int64_t)(rng_at(seed, 10, n++) % 3) * SECOND;
            scaler_step(&s, &o, now_us);
            for (uint32_t i = 0; i < s.actions_count; i++) {
                const scaler_action *a = &s.actions[i];
                bool exists = false;
                for (uint32_t k = 0; k < o.workers_count; k++) {
                    exists = exists || (int32_t)o.workers[k].id == a->worker;
                }
                cr_assert(a->kind == SCALER_START ? a->worker == SCALER_NO_WORKER : exists);
                held += a->kind == SCALER_START;
            }
            uint32_t starts =
                count(SCALER_START, SCALER_PREFILL) + count(SCALER_START, SCALER_DECODE);
            cr_assert(starts == 0 || held <= 8, "never over the cap");
        }
    }
}

Test(scaler, the_load_of_the_last_seconds_counts_however_short_the_hold) {
    begin((scaler_bounds){1, 16}, (scaler_bounds){1, 16}, 0);
    s.options.hold_us = 5 * SECOND; /* shorter than what rates are smoothed over */
    for (int i = 0; i < 3; i++) {
        (void)add(SCALER_PREFILL, SCALER_SERVING);
    }
    (void)add(SCALER_DECODE, SCALER_SERVING);
    run(1, 0, 0, 0);
    run(40, 10, 1000, 20); /* 2 s of prompts a second */
    cr_assert_eq(count(SCALER_STOP, SCALER_PREFILL), 0, "%s", s.actions[0].reason);
    run(60, 0.1, 10, 20);
    cr_assert_gt(count(SCALER_STOP, SCALER_PREFILL), 0, "it can be seen");
}

Test(scaler, a_fixed_fleet_is_only_flipped) {
    begin((scaler_bounds){1, 64}, (scaler_bounds){1, 64}, 0);
    s.options.fixed = true;
    (void)add(SCALER_PREFILL, SCALER_SERVING);
    for (int i = 0; i < 5; i++) {
        (void)add(SCALER_DECODE, SCALER_SERVING);
    }
    run(100, 0.5, 100, 20);
    cr_assert_eq(s.actions_count, 0, "nobody can be spared for good");
    uint32_t flips = 0;
    for (int i = 0; i < 60; i++) {
        run(1, 20, 1000, 20);
        flips += count(SCALER_FLIP, SCALER_PREFILL);
        for (uint32_t k = 0; k < s.actions_count; k++) {
            cr_assert_eq(s.actions[k].kind, SCALER_FLIP, "%s", s.actions[k].reason);
            o.workers[s.actions[k].worker].pool = SCALER_PREFILL;
        }
    }
    cr_assert(flips >= 1 && flips <= 4, "%u", flips);
}

Test(scaler, a_line_for_prefill_is_none_for_decode) {
    begin((scaler_bounds){1, 16}, (scaler_bounds){1, 16}, 0);
    s.options.bounds[SCALER_PREFILL].max = 1; /* nothing helps */
    scaler_worker *p = add(SCALER_PREFILL, SCALER_SERVING);
    scaler_worker *d = add(SCALER_DECODE, SCALER_SERVING);
    for (int i = 0; i < 120; i++) {
        p->running = 64;
        p->waiting = 136;
        p->queued_tokens = 200000;
        p->queued_us = 40 * SECOND;
        d->running = 202; /* two decode, for the others it keeps room */
        d->pages_free = 8000;
        run(1, 4, 1000, 4);
        cr_assert_eq(count(SCALER_START, SCALER_DECODE), 0, "%s", s.actions[0].reason);
    }
    p->running = p->waiting = 2;
    uint32_t starts = 0;
    for (int i = 0; i < 20; i++) {
        run(1, 4, 1000, 4);
        starts += count(SCALER_START, SCALER_DECODE);
    }
    cr_assert_gt(starts, 0, "now they do decode");
}

Test(scaler, a_load_that_has_ended_starts_nobody_again) {
    begin((scaler_bounds){1, 16}, (scaler_bounds){1, 16}, 0);
    s.options.hold_us = 5 * SECOND;
    for (int i = 0; i < 8; i++) {
        (void)add(SCALER_PREFILL, SCALER_SERVING);
    }
    (void)add(SCALER_DECODE, SCALER_SERVING);
    for (int i = 0; i < 320; i++) {
        bool over = i >= 120;
        run(1, over ? 0.1 : 20, 1000, 20);
        cr_assert(!over || count(SCALER_START, SCALER_PREFILL) == 0, "%s", s.actions[0].reason);
        for (uint32_t k = 0; k < s.actions_count; k++) {
            if (s.actions[k].kind == SCALER_STOP) {
                remove_worker((uint32_t)s.actions[k].worker);
            }
        }
        cr_assert(over || o.workers_count > 5, "the load needs them");
    }
    cr_assert_eq(o.workers_count, 2);
}

/* Requests go on as before, and their prompts are short now: the smoothed mean still has the long
 * ones, and starts nobody for them. */
Test(scaler, long_prompts_that_have_ended_start_nobody_again) {
    begin((scaler_bounds){1, 16}, (scaler_bounds){1, 16}, 0);
    s.options.hold_us = 10 * SECOND;
    for (int i = 0; i < 5; i++) {
        (void)add(SCALER_PREFILL, SCALER_SERVING);
    }
    (void)add(SCALER_DECODE, SCALER_SERVING);
    run(600, 18, 1000, 10); /* 3.6 s of prompts a second */
    cr_assert_eq(s.actions_count, 0);
    uint32_t stopped = 0;
    for (int i = 0; i < 300; i++) {
        run(1, 19, 16, 10);
        cr_assert_eq(count(SCALER_START, SCALER_PREFILL), 0, "%s", s.pools[SCALER_PREFILL].why);
        for (uint32_t a = 0; a < s.actions_count; a++) {
            cr_assert_eq(s.actions[a].kind, SCALER_STOP);
            remove_worker((uint32_t)s.actions[a].worker);
            stopped++;
        }
    }
    cr_assert_eq(stopped, 4, "%s", s.pools[SCALER_PREFILL].why);
}
