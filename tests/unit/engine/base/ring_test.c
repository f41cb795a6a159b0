/* ring_test.c -- order and bounds of the ring, alone and between two threads. */
#include "engine/base/ring.h"

#include <criterion/criterion.h>
#include <pthread.h>
#include <sched.h>

#include "engine/base/rng.h"

typedef struct {
    uint64_t number;
    uint64_t check[3]; /* each number + i: a torn item shows */
} item;

static item item_of(uint64_t number) {
    return (item){number, {number + 1, number + 2, number + 3}};
}

static void expect_item(const item *i, uint64_t number) {
    cr_assert(i->number == number && i->check[0] == number + 1 && i->check[1] == number + 2 &&
              i->check[2] == number + 3);
}

static ring open_ring(arena *a, uint32_t items_min) {
    cr_assert_eq(arena_open(a, 1 << 20), STATUS_OK);
    ring r;
    cr_assert_eq(ring_open(&r, a, items_min, sizeof(item)), STATUS_OK);
    return r;
}

Test(ring, keeps_order_and_refuses_when_full) {
    arena a;
    ring r = open_ring(&a, 5);
    cr_assert_eq(r.slots, 8);
    uint64_t pushed = 0;
    uint64_t popped = 0;
    uint64_t random = 1;
    for (int op = 0; op < 10000; op++) {
        item i = item_of(pushed);
        if (rng_below(&random, 2)) {
            cr_assert_eq(ring_push(&r, &i), pushed - popped < 8);
            pushed += pushed - popped < 8;
        } else {
            const item *front = ring_front(&r);
            cr_assert_eq(front != NULL, pushed > popped);
            cr_assert_eq(ring_pop(&r, &i), pushed > popped);
            if (pushed > popped) {
                expect_item(&i, popped++);
            }
        }
        cr_assert_eq(ring_count(&r), pushed - popped);
    }
    arena_close(&a);
}

enum { THREADED_ITEMS = 200000 };

static void *produce(void *arg) {
    ring *r = arg;
    for (uint64_t n = 0; n < THREADED_ITEMS;) {
        item i = item_of(n);
        if (ring_push(r, &i)) {
            n++;
        } else {
            (void)sched_yield();
        }
    }
    return NULL;
}

Test(ring, carries_whole_items_in_order_between_two_threads) {
    static const uint32_t sizes[] = {1, 2, 64};
    for (size_t s = 0; s < 3; s++) {
        arena a;
        ring r = open_ring(&a, sizes[s]);
        pthread_t thread;
        cr_assert_eq(pthread_create(&thread, NULL, produce, &r), 0);
        for (uint64_t n = 0; n < THREADED_ITEMS;) {
            item i;
            if (ring_pop(&r, &i)) {
                expect_item(&i, n++);
            } else {
                (void)sched_yield();
            }
        }
        cr_assert_eq(pthread_join(thread, NULL), 0);
        cr_assert_eq(ring_count(&r), 0);
        arena_close(&a);
    }
}
