/* fair_test.c -- the line against a naive model of deficit round robin, and the shares it gives. */
#include "server/gateway/fair.h"

#include <criterion/criterion.h>

#include "engine/base/rng.h"

enum { ITEMS = 40, KEYS = 5, QUANTUM = 100, MODEL_MAX = 64 };

/* ---- the model: lists copied about, nothing linked ------------------------------------------- */

typedef struct {
    uint32_t item;
    fair_item what;
    uint64_t order; /* of arrival */
} waiting;

typedef struct {
    waiting list[MODEL_MAX];
    int count;
    uint32_t ring[KEYS]; /* keys with something waiting, the one whose turn it is first */
    int ring_count;
    uint64_t deficit[KEYS];
    uint64_t arrivals;
    uint32_t chosen;
} model;

static int model_find(const model *m, uint32_t item) {
    int i = 0;
    while (i < m->count && m->list[i].item != item) {
        i++;
    }
    return i;
}

static int model_best(const model *m, uint32_t key) {
    int best = -1;
    for (int i = 0; i < m->count; i++) {
        const waiting *w = &m->list[i];
        if (w->what.key == key &&
            (best < 0 || w->what.rank < m->list[best].what.rank ||
             (w->what.rank == m->list[best].what.rank && w->order < m->list[best].order))) {
            best = i;
        }
    }
    return best;
}

static void model_rotate(model *m) {
    uint32_t first = m->ring[0];
    for (int i = 1; i < m->ring_count; i++) {
        m->ring[i - 1] = m->ring[i];
    }
    m->ring[m->ring_count - 1] = first;
    m->deficit[m->ring[0]] += QUANTUM;
}

static void model_push(model *m, uint32_t item, const fair_item *what) {
    if (model_best(m, what->key) < 0) {
        m->deficit[what->key] = m->ring_count == 0 ? QUANTUM : 0;
        m->ring[m->ring_count++] = what->key;
    }
    m->list[m->count++] = (waiting){item, *what, m->arrivals++};
}

static uint32_t model_next(model *m) {
    while (m->chosen == FAIR_NONE && m->ring_count > 0) {
        int best = model_best(m, m->ring[0]);
        if (m->list[best].what.cost <= m->deficit[m->ring[0]]) {
            m->chosen = m->list[best].item;
        } else {
            model_rotate(m);
        }
    }
    return m->chosen;
}

static void model_remove(model *m, uint32_t item) {
    int at = model_find(m, item);
    if (at == m->count) {
        return;
    }
    uint32_t key = m->list[at].what.key;
    m->list[at] = m->list[--m->count];
    m->chosen = m->chosen == item ? FAIR_NONE : m->chosen;
    if (model_best(m, key) >= 0) {
        return;
    }
    if (m->ring[0] == key && m->ring_count > 1) {
        model_rotate(m);
    }
    int kept = 0;
    for (int i = 0; i < m->ring_count; i++) {
        if (m->ring[i] != key) {
            m->ring[kept++] = m->ring[i];
        }
    }
    m->ring_count = kept;
}

static void model_take(model *m, uint32_t item) {
    const fair_item *what = &m->list[model_find(m, item)].what;
    m->deficit[what->key] -= what->cost;
    model_remove(m, item);
}

/* ---- tests ---------------------------------------------------------------------------------- */

static fair *start(arena *memory) {
    fair *f = NULL;
    cr_assert_eq(arena_open(memory, 1 << 16), STATUS_OK);
    cr_assert_eq(fair_create(memory, ITEMS, KEYS, QUANTUM, &f), STATUS_OK);
    return f;
}

static uint64_t work_of(const model *m, uint32_t key) {
    uint64_t sum = 0;
    for (int i = 0; i < m->count; i++) {
        sum += key == FAIR_NONE || m->list[i].what.key == key ? m->list[i].what.work : 0;
    }
    return sum;
}

Test(fair, does_what_a_naive_model_does) {
    arena memory;
    fair *f = start(&memory);
    static model m;
    m = (model){.chosen = FAIR_NONE};
    uint64_t state = 7;
    uint32_t taken = 0;
    for (int step = 0; step < 200000; step++) {
        uint32_t item = (uint32_t)(rng_next(&state) % ITEMS);
        uint64_t what = rng_next(&state) % 4;
        if (what < 2 && !fair_waits(f, item)) {
            fair_item in = {.key = (uint32_t)(rng_next(&state) % KEYS),
                            .cost = 1 + (uint32_t)(rng_next(&state) % 450),
                            .work = (uint32_t)(rng_next(&state) % 1000),
                            .rank = (int64_t)(rng_next(&state) % 50)};
            fair_push(f, item, &in);
            model_push(&m, item, &in);
        } else if (what == 2) {
            uint32_t next = fair_next(f);
            cr_assert_eq(next, model_next(&m), "step %d", step);
            if (next != FAIR_NONE && rng_next(&state) % 4 != 0) {
                fair_take(f, next);
                model_take(&m, next);
                taken++;
            }
        } else if (rng_next(&state) % 8 == 0) {
            fair_remove(f, item);
            model_remove(&m, item);
        }
        cr_assert_eq(fair_count(f), (uint32_t)m.count);
        cr_assert_eq(fair_keys(f), (uint32_t)m.ring_count);
        cr_assert_eq(fair_work(f), work_of(&m, FAIR_NONE));
        cr_assert_eq(fair_key_work(f, item % KEYS), work_of(&m, item % KEYS));
        cr_assert_eq(fair_waits(f, item), model_find(&m, item) < m.count);
    }
    cr_assert_gt(taken, 20000);
    arena_close(&memory);
}

Test(fair, keys_that_always_wait_get_equal_cost) {
    arena memory;
    fair *f = start(&memory);
    const uint32_t cost[3] = {400, 37, 5}; /* of a request of key 0, 1, 2 */
    uint64_t spent[3] = {0};
    for (uint32_t i = 0; i < 30; i++) {
        fair_item in = {.key = i % 3, .cost = cost[i % 3], .rank = i};
        fair_push(f, i, &in);
    }
    for (int turn = 0; turn < 20000; turn++) {
        uint32_t item = fair_next(f);
        uint32_t key = item % 3;
        fair_take(f, item);
        spent[key] += cost[key];
        fair_item in = {.key = key, .cost = cost[key], .rank = turn};
        fair_push(f, item, &in);
        for (int k = 0; k < 3; k++) {
            uint64_t high = spent[key], low = spent[k];
            cr_assert_leq(high, low + 2 * (400 + QUANTUM), "key %u beside %d", key, k);
        }
    }
    arena_close(&memory);
}

Test(fair, a_short_request_passes_long_ones_and_a_long_one_is_not_passed_for_ever) {
    arena memory;
    fair *f = start(&memory);
    const int64_t long_rank = 2 * 1000;
    for (uint32_t i = 0; i < 18; i++) {
        fair_item in = {.key = 0, .cost = 1000, .rank = long_rank};
        fair_push(f, i, &in);
    }
    for (uint32_t i = 18; i < 29; i++) {
        fair_item in = {.key = 0, .cost = 10, .rank = 2 * 10};
        fair_push(f, i, &in);
    }
    for (uint32_t n = 0; n < 11; n++) {
        uint32_t item = fair_next(f);
        cr_assert_geq(item, 18u);
        fair_take(f, item);
    }
    /* Short ones keep coming; those that come after the long one's rank are behind it. */
    uint32_t passed = 0;
    for (int64_t now = 100;; now += 100, passed++) {
        fair_item in = {.key = 0, .cost = 10, .rank = now + 2 * 10};
        fair_push(f, 30, &in);
        uint32_t item = fair_next(f);
        fair_take(f, item);
        if (item == 0) {
            break;
        }
        cr_assert_eq(item, 30u);
    }
    cr_assert_eq(passed, 19u);
    arena_close(&memory);
}

Test(fair, what_is_next_stays_next) {
    arena memory;
    fair *f = start(&memory);
    fair_item late = {.key = 1, .cost = 50, .rank = 9};
    fair_push(f, 3, &late);
    cr_assert_eq(fair_next(f), 3u);
    fair_item early = {.key = 1, .cost = 1, .rank = 1};
    fair_push(f, 4, &early);
    cr_assert_eq(fair_next(f), 3u);
    fair_remove(f, 3);
    cr_assert_eq(fair_next(f), 4u);
    fair_remove(f, 4);
    cr_assert_eq(fair_next(f), (uint32_t)FAIR_NONE);
    arena_close(&memory);
}
