/* crew_test.c -- every rank works once a round, on a thread of its own; the first failure counts.
 */
#define _GNU_SOURCE
#include "models/arch/crew.h"

#include <criterion/criterion.h>
#include <pthread.h>
#include <stdatomic.h>

enum { RANKS = 4, ROUNDS = 200 };

typedef struct {
    pthread_barrier_t met;
    _Atomic int32_t calls[RANKS];
    pthread_t thread[RANKS];
} round_of;

/* Meets the others, which only threads at the same time can. */
static status meet(void *context, int32_t rank) {
    round_of *r = context;
    r->thread[rank] = pthread_self();
    (void)pthread_barrier_wait(&r->met);
    atomic_fetch_add(&r->calls[rank], 1);
    return STATUS_OK;
}

Test(crew, every_rank_works_once_a_round, .timeout = 60) {
    static round_of r;
    crew *c;
    cr_assert_eq(crew_open(RANKS, &c), STATUS_OK);
    (void)pthread_barrier_init(&r.met, NULL, RANKS);
    pthread_t before[RANKS];
    for (int32_t round = 1; round <= ROUNDS; round++) {
        cr_assert_eq(crew_run(c, meet, &r, NULL), STATUS_OK);
        for (int32_t i = 0; i < RANKS; i++) {
            cr_assert_eq(atomic_load(&r.calls[i]), round);
            cr_assert(round == 1 || pthread_equal(before[i], r.thread[i]), "a rank has one thread");
            before[i] = r.thread[i];
        }
    }
    cr_assert(pthread_equal(r.thread[0], pthread_self()));
    crew_close(c);
    (void)pthread_barrier_destroy(&r.met);
}

static status fail_second(void *context, int32_t rank) {
    (void)context;
    return rank == 2 ? STATUS_NOMEM : STATUS_OK;
}

static status fail_first(void *context, int32_t rank) {
    (void)context;
    return rank == 0 ? STATUS_LIMIT : STATUS_OK;
}

static status work(void *context, int32_t rank) {
    (void)context;
    (void)rank;
    return STATUS_OK;
}

Test(crew, a_failure_is_told_with_its_rank, .timeout = 60) {
    crew *c;
    int32_t rank = -1;
    cr_assert_eq(crew_open(RANKS, &c), STATUS_OK);
    cr_assert_eq(crew_run(c, fail_first, NULL, &rank), STATUS_LIMIT);
    cr_assert_eq(rank, 0);
    cr_assert_eq(crew_run(c, fail_second, NULL, &rank), STATUS_NOMEM);
    cr_assert_eq(rank, 2);
    cr_assert_eq(crew_run(c, work, NULL, &rank), STATUS_OK, "a round forgets the last one");
    crew_close(c);
    crew_close(NULL);
}
