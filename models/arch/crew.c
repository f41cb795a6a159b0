/* crew.c -- a mutex, two conditions: work is milliseconds, the hand-over microseconds. */
#define _GNU_SOURCE
#include "models/arch/crew.h"

#include <pthread.h>
#include <stdio.h>

#include "engine/base/check.h"
#include "engine/base/mem.h"

typedef struct {
    crew *crew;
    int32_t rank;
    pthread_t thread;
} member;

struct crew {
    pthread_mutex_t lock;
    pthread_cond_t begun, ended;
    /* Under lock. */
    uint64_t round; /* of work; each member does each once */
    int32_t busy;   /* members that have not ended this round */
    bool stopping;
    status failed;
    int32_t failed_rank;
    /* Of this round. */
    status (*work)(void *context, int32_t rank);
    void *context;
    int32_t ranks, started;
    member members[CREW_RANKS_MAX];
};

/* Whoever fails first is the reason why others do. */
static void note(crew *c, int32_t rank, status s) {
    if (s != STATUS_OK && c->failed == STATUS_OK) {
        c->failed = s;
        c->failed_rank = rank;
    }
}

static void *member_thread(void *argument) {
    member *m = argument;
    crew *c = m->crew;
    char name[16];
    (void)snprintf(name, sizeof name, "weir-rank-%d", m->rank);
    (void)pthread_setname_np(pthread_self(), name);
    (void)pthread_mutex_lock(&c->lock);
    for (uint64_t done = 0;;) {
        while (c->round == done && !c->stopping) {
            (void)pthread_cond_wait(&c->begun, &c->lock);
        }
        if (c->stopping) {
            break;
        }
        done = c->round;
        (void)pthread_mutex_unlock(&c->lock);
        status s = c->work(c->context, m->rank);
        (void)pthread_mutex_lock(&c->lock);
        note(c, m->rank, s);
        if (--c->busy == 0) {
            (void)pthread_cond_signal(&c->ended);
        }
    }
    (void)pthread_mutex_unlock(&c->lock);
    return NULL;
}

status crew_open(int32_t ranks, crew **out) {
    CHECK(ranks >= 1 && ranks <= CREW_RANKS_MAX);
    *out = NULL;
    crew *c = mem_calloc(1, sizeof *c);
    if (!c) {
        return STATUS_NOMEM;
    }
    c->ranks = ranks;
    (void)pthread_mutex_init(&c->lock, NULL);
    (void)pthread_cond_init(&c->begun, NULL);
    (void)pthread_cond_init(&c->ended, NULL);
    for (c->started = 1; c->started < ranks; c->started++) {
        member *m = &c->members[c->started];
        *m = (member){.crew = c, .rank = c->started};
        if (pthread_create(&m->thread, NULL, member_thread, m) != 0) {
            crew_close(c);
            return STATUS_NOMEM;
        }
    }
    *out = c;
    return STATUS_OK;
}

void crew_close(crew *c) {
    if (!c) {
        return;
    }
    (void)pthread_mutex_lock(&c->lock);
    c->stopping = true;
    (void)pthread_cond_broadcast(&c->begun);
    (void)pthread_mutex_unlock(&c->lock);
    for (int32_t i = 1; i < c->started; i++) {
        (void)pthread_join(c->members[i].thread, NULL);
    }
    (void)pthread_cond_destroy(&c->begun);
    (void)pthread_cond_destroy(&c->ended);
    (void)pthread_mutex_destroy(&c->lock);
    mem_free(c);
}

status crew_run(crew *c, status (*work)(void *context, int32_t rank), void *context,
                int32_t *rank) {
    (void)pthread_mutex_lock(&c->lock);
    c->work = work;
    c->context = context;
    c->failed = STATUS_OK;
    c->failed_rank = 0;
    c->busy = c->ranks - 1;
    c->round++;
    (void)pthread_cond_broadcast(&c->begun);
    (void)pthread_mutex_unlock(&c->lock);
    status mine = work(context, 0);
    (void)pthread_mutex_lock(&c->lock);
    note(c, 0, mine);
    while (c->busy > 0) {
        (void)pthread_cond_wait(&c->ended, &c->lock);
    }
    status s = c->failed;
    if (rank) {
        *rank = c->failed_rank;
    }
    (void)pthread_mutex_unlock(&c->lock);
    return s;
}
