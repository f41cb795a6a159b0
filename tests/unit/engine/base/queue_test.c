/* queue_test.c -- bounds, wake-ups and many producers. */
#define _GNU_SOURCE
#include "engine/base/queue.h"

#include <criterion/criterion.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>

static bool readable(int fd) {
    struct pollfd p = {fd, POLLIN, 0};
    return poll(&p, 1, 0) == 1;
}

static void open_queue(queue *q, arena *a, uint32_t items_max, bool with_fd) {
    cr_assert_eq(arena_open(a, 1 << 20), STATUS_OK);
    cr_assert_eq(queue_open(q, a, items_max, sizeof(uint32_t), with_fd, NULL), STATUS_OK);
}

Test(queue, descriptor_is_readable_exactly_while_items_wait) {
    arena a;
    queue q;
    open_queue(&q, &a, 3, true);
    uint32_t out;
    for (uint32_t round = 0; round < 10; round++) {
        cr_assert_not(readable(queue_fd(&q)));
        for (uint32_t i = 0; i < 3; i++) {
            uint32_t v = round * 10 + i;
            cr_assert(queue_push(&q, &v));
            cr_assert(readable(queue_fd(&q)));
        }
        cr_assert_not(queue_push(&q, &round));
        cr_assert_eq(queue_count(&q), 3);
        for (uint32_t i = 0; i < 3; i++) {
            cr_assert(readable(queue_fd(&q)));
            cr_assert(queue_pop(&q, &out));
            cr_assert_eq(out, round * 10 + i);
        }
        cr_assert_not(queue_pop(&q, &out));
    }
    queue_close(&q);
    arena_close(&a);
}

Test(queue, a_shut_queue_gives_out_what_it_has_and_takes_no_more) {
    arena a;
    queue q;
    open_queue(&q, &a, 4, true);
    uint32_t v = 7;
    cr_assert(queue_push(&q, &v));
    queue_shut(&q);
    queue_shut(&q);
    cr_assert_not(queue_push(&q, &v));
    cr_assert(queue_pop_wait(&q, &v, 1000000));
    cr_assert(readable(queue_fd(&q)), "a consumer that sleeps in poll must see the end");
    /* Shut and empty: returns at once, not after an hour. */
    cr_assert_not(queue_pop_wait(&q, &v, 3600000000));
    queue_close(&q);
    arena_close(&a);
}

Test(queue, waiting_gives_up_at_its_deadline) {
    arena a;
    queue q;
    open_queue(&q, &a, 1, false);
    uint32_t v;
    cr_assert_eq(queue_fd(&q), -1);
    cr_assert_not(queue_pop_wait(&q, &v, 1000));
    cr_assert_not(queue_pop_wait(&q, &v, 0));
    cr_assert_not(queue_pop_wait(&q, &v, -5));
    queue_close(&q);
    arena_close(&a);
}

enum { PRODUCERS = 4, EACH = 5000 };

typedef struct {
    queue *q;
    uint32_t number;
} producer;

static void *produce(void *arg) {
    producer *p = arg;
    for (uint32_t i = 0; i < EACH;) {
        uint32_t v = p->number << 24 | i;
        if (queue_push(p->q, &v)) {
            i++;
        } else {
            (void)sched_yield();
        }
    }
    return NULL;
}

Test(queue, every_item_of_many_producers_arrives_once_and_in_its_producers_order) {
    arena a;
    queue q;
    open_queue(&q, &a, 16, false);
    pthread_t threads[PRODUCERS];
    producer producers[PRODUCERS];
    for (uint32_t i = 0; i < PRODUCERS; i++) {
        producers[i] = (producer){&q, i};
        cr_assert_eq(pthread_create(&threads[i], NULL, produce, &producers[i]), 0);
    }
    uint32_t next[PRODUCERS] = {0};
    for (int n = 0; n < PRODUCERS * EACH; n++) {
        uint32_t v;
        cr_assert(queue_pop_wait(&q, &v, 60000000));
        cr_assert_eq(v & 0xFFFFFF, next[v >> 24]++);
    }
    for (int i = 0; i < PRODUCERS; i++) {
        cr_assert_eq(pthread_join(threads[i], NULL), 0);
    }
    cr_assert_eq(queue_count(&q), 0);
    queue_close(&q);
    arena_close(&a);
}
