/* cpupool_test.c -- every item once, whoever is late. */
#include "kernels/cpu/cpupool.h"

#include <criterion/criterion.h>
#include <stdatomic.h>

#include "engine/base/clock.h"

enum { ITEMS_MAX = 300, THREADS_MAX = 8 };

typedef struct {
    int32_t times[ITEMS_MAX]; /* plain on purpose: the pool orders these writes and our reads */
    _Atomic int32_t threads_seen[THREADS_MAX];
    int32_t sleep_item;
} tally;

static void count_item(void *context, int32_t item, int32_t thread) {
    tally *t = context;
    t->times[item]++;
    atomic_fetch_add(&t->threads_seen[thread], 1);
    if (item == t->sleep_item) {
        clock_sleep_us(300);
    }
}

static void check_jobs(int32_t threads, int32_t jobs, int32_t pause_us) {
    cpupool *p = NULL;
    diag d;
    cr_assert_eq(cpupool_open(threads, &p, &d), STATUS_OK);
    for (int32_t j = 0; j < jobs; j++) {
        tally t = {.sleep_item = j % 16 == 0 ? j % 7 : -1};
        const int32_t items = (j * 37) % (ITEMS_MAX + 1);
        cpupool_run(p, count_item, &t, items);
        int32_t total = 0;
        for (int32_t i = 0; i < ITEMS_MAX; i++) {
            cr_assert_eq(t.times[i], i < items ? 1 : 0);
        }
        for (int32_t i = 0; i < THREADS_MAX; i++) {
            total += t.threads_seen[i];
            cr_assert(i < threads || t.threads_seen[i] == 0);
        }
        cr_assert_eq(total, items);
        if (pause_us > 0) {
            clock_sleep_us(pause_us);
        }
    }
    cpupool_close(p);
}

Test(cpupool, runs_every_item_once_back_to_back) {
    check_jobs(1, 50, 0);
    check_jobs(2, 2000, 0);
    check_jobs(5, 2000, 0);
}

Test(cpupool, wakes_sleeping_threads) {
    check_jobs(2, 60, 200);
    check_jobs(8, 60, 200);
}

Test(cpupool, opens_and_closes_without_work) {
    for (int i = 0; i < 20; i++) {
        cpupool *p = NULL;
        cr_assert_eq(cpupool_open(4, &p, NULL), STATUS_OK);
        cpupool_close(p);
    }
}

Test(cpupool, threads_that_are_not_used_take_nothing) {
    enum { THREADS = 6 };
    cpupool *p = NULL;
    diag d;
    cr_assert_eq(cpupool_open(THREADS, &p, &d), STATUS_OK);
    for (int32_t j = 0; j < 1500; j++) {
        /* Asked for too few or too many, it uses one or all. */
        const int32_t asked = (j * 5) % (THREADS + 3) - 1;
        const int32_t used = asked < 1 ? 1 : asked > THREADS ? THREADS : asked;
        tally t = {.sleep_item = -1};
        cpupool_use(p, asked);
        cpupool_run(p, count_item, &t, 40);
        int32_t total = 0;
        for (int32_t i = 0; i < THREADS_MAX; i++) {
            cr_assert(i < used || t.threads_seen[i] == 0, "job %d thread %d", j, i);
            total += t.threads_seen[i];
        }
        cr_assert_eq(total, 40);
    }
    cpupool_close(p);
}

enum { PHASES = 5 };

typedef struct {
    tally phases[PHASES];
    int32_t items[PHASES];
    _Atomic int32_t early; /* items that ran before the phase before theirs was over */
} relay;

typedef struct {
    relay *of;
    int32_t phase;
} relay_phase;

static void relay_item(void *context, int32_t item, int32_t thread) {
    const relay_phase *at = context;
    relay *r = at->of;
    for (int32_t i = 0; at->phase > 0 && i < r->items[at->phase - 1]; i++) {
        if (r->phases[at->phase - 1].times[i] != 1) {
            atomic_fetch_add(&r->early, 1);
        }
    }
    count_item(&r->phases[at->phase], item, thread);
}

static void check_relays(int32_t threads, int32_t jobs, int32_t pause_us) {
    cpupool *p = NULL;
    diag d;
    cr_assert_eq(cpupool_open(threads, &p, &d), STATUS_OK);
    for (int32_t j = 0; j < jobs; j++) {
        relay r = {.early = 0};
        relay_phase at[PHASES];
        cpupool_phase phases[PHASES];
        const int32_t count = 1 + j % PHASES;
        for (int32_t k = 0; k < count; k++) {
            r.items[k] = 1 + (j * 7 + k * 11) % (j % 4 == 0 ? 2 : 40);
            r.phases[k].sleep_item = j % 16 == k ? j % 7 : -1;
            at[k] = (relay_phase){&r, k};
            phases[k] = (cpupool_phase){relay_item, &at[k], r.items[k]};
        }
        cpupool_use(p, 1 + j % threads);
        cpupool_phases(p, phases, count);
        cr_assert_eq(r.early, 0);
        for (int32_t k = 0; k < count; k++) {
            for (int32_t i = 0; i < ITEMS_MAX; i++) {
                cr_assert_eq(r.phases[k].times[i], i < r.items[k] ? 1 : 0);
            }
        }
        if (pause_us > 0) {
            clock_sleep_us(pause_us);
        }
    }
    cpupool_close(p);
}

Test(cpupool, a_phase_begins_when_the_one_before_is_over) {
    check_relays(1, 20, 0);
    check_relays(2, 1500, 0);
    check_relays(6, 1000, 0);
    check_relays(3, 60, 200);
}
