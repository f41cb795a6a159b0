/* driver_remote.c -- a table of wishes under one lock, and the thread that sees to them. */
#define _GNU_SOURCE
#include "server/drivers/driver_remote.h"

#include <pthread.h>
#include <stdio.h>
#include <string.h>

#include "engine/base/clock.h"
#include "engine/base/log.h"
#include "engine/base/mem.h"

typedef struct {
    driver base;
    driver_table functions; /* with the table's name */
    const driver_remote_table *table;
    void *context;
    uint32_t first;
    pthread_t thread;
    pthread_mutex_t lock; /* of all below */
    pthread_cond_t changed;
    uint64_t token;                          /* of the newest wish */
    driver_remote_slot slots[LIMIT_WORKERS]; /* [id] */
    uint32_t capacity;
    bool known; /* a round has told what is there */
    bool ending;
} remote;

/* ---- the thread ----------------------------------------------------------------------------- */

/* What a round found goes into the table; wishes may have changed in the meantime, and stand. */
static void merge(remote *r, const driver_remote_slot found[LIMIT_WORKERS]) {
    for (uint32_t i = 0; i < LIMIT_WORKERS; i++) {
        driver_remote_slot *s = &r->slots[i];
        const driver_remote_slot *f = &found[i];
        if (!f->used) {
            continue; /* wished for since, or never */
        }
        if (f->adopted) {
            if (!s->used) { /* else wished for since: the next round finds it a place */
                *s = *f;
                s->adopted = false;
            }
            continue;
        }
        if (f->gone) {
            *s = (driver_remote_slot){.used = false};
            continue;
        }
        driver_remote_slot wish = *s;
        *s = *f;
        s->pool = wish.pool;
        s->stop = wish.stop;
        s->drain_us = wish.drain_us;
        s->phase = wish.stop ? SCALER_STOPPING : f->phase;
    }
}

static void wait_for_round(remote *r) {
    struct timespec until;
    (void)clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_nsec += DRIVER_REMOTE_ROUND_US * 1000L;
    until.tv_sec += until.tv_nsec / 1000000000;
    until.tv_nsec %= 1000000000;
    (void)pthread_cond_timedwait(&r->changed, &r->lock, &until);
}

static void *run(void *context) {
    remote *r = context;
    driver_remote_slot slots[LIMIT_WORKERS];
    bool heard = true; /* in the round before */
    (void)pthread_mutex_lock(&r->lock);
    while (!r->ending) {
        memcpy(slots, r->slots, sizeof slots);
        uint64_t token = r->token;
        uint32_t capacity = 0;
        diag why = {.text = ""};
        (void)pthread_mutex_unlock(&r->lock);
        bool told = r->table->sync(r->context, slots, token, &capacity, clock_now_us(), &why);
        if (told != heard) {
            heard = told;
            LOG(WARN, r->table->name, told ? "answers again" : "does not answer", "%s", why.text);
        }
        (void)pthread_mutex_lock(&r->lock);
        if (told) {
            merge(r, slots);
            r->known = true;
        }
        r->capacity = told ? capacity : 0;
        if (!r->ending) {
            wait_for_round(r);
        }
    }
    (void)pthread_mutex_unlock(&r->lock);
    return NULL;
}

/* ---- the driver ----------------------------------------------------------------------------- */

static driver_result remote_start(driver *d, uint64_t token, scaler_pool pool, uint32_t *id,
                                  diag *why) {
    remote *r = (remote *)d;
    if (r->table->admits && !r->table->admits(r->context, pool, why)) {
        return DRIVER_REFUSED;
    }
    (void)pthread_mutex_lock(&r->lock);
    r->token = token;
    uint32_t i = r->first;
    while (i < LIMIT_WORKERS && r->slots[i].used) {
        i++;
    }
    bool known = r->known;
    if (known && i < LIMIT_WORKERS) {
        r->slots[i] = (driver_remote_slot){.used = true, .id = i, .pool = pool};
        *id = i;
        (void)pthread_cond_signal(&r->changed);
    }
    (void)pthread_mutex_unlock(&r->lock);
    if (!known) {
        (void)status_fail(why, STATUS_IO, "%s has not said yet what is there", r->table->name);
    } else if (i == LIMIT_WORKERS) {
        (void)status_fail(why, STATUS_LIMIT, "there are %d workers already", LIMIT_WORKERS);
    }
    return known && i < LIMIT_WORKERS ? DRIVER_ASKED : DRIVER_REFUSED;
}

static driver_result remote_stop(driver *d, uint64_t token, uint32_t id, int64_t drain_us,
                                 diag *why) {
    remote *r = (remote *)d;
    (void)pthread_mutex_lock(&r->lock);
    r->token = token;
    bool there = id < LIMIT_WORKERS && r->slots[id].used;
    const driver_remote_slot *s = there ? &r->slots[id] : NULL;
    if (s && r->table->admits &&
        !r->table->admits(r->context, s->placed ? s->home : s->pool, why)) {
        (void)pthread_mutex_unlock(&r->lock);
        return DRIVER_REFUSED;
    }
    if (there) {
        r->slots[id].stop = true;
        r->slots[id].drain_us = drain_us;
        r->slots[id].phase = SCALER_STOPPING;
        (void)pthread_cond_signal(&r->changed);
    }
    (void)pthread_mutex_unlock(&r->lock);
    if (!there) {
        (void)status_fail(why, STATUS_NOTFOUND, "there is no worker %u", id);
    }
    return there ? DRIVER_ASKED : DRIVER_REFUSED;
}

static uint32_t remote_list(driver *d, driver_worker out[LIMIT_WORKERS]) {
    remote *r = (remote *)d;
    uint32_t count = 0;
    bool flips = r->table->flips;
    (void)pthread_mutex_lock(&r->lock);
    for (uint32_t i = 0; i < LIMIT_WORKERS; i++) {
        const driver_remote_slot *s = &r->slots[i];
        if (s->used) {
            out[count++] =
                (driver_worker){.id = i,
                                .worker = r->table->number ? r->table->number(r->context, s) : i,
                                .pool = s->pool,
                                .phase = s->phase,
                                .flips = flips};
        }
    }
    (void)pthread_mutex_unlock(&r->lock);
    return count;
}

/* The worker is told by way of the hub (driver_cluster.h); here it is noted for its next life. */
static driver_result remote_flip(driver *d, uint64_t token, uint32_t id, scaler_pool pool,
                                 diag *why) {
    remote *r = (remote *)d;
    if (!r->table->flips) {
        (void)status_fail(why, STATUS_UNSUPPORTED, "worker %u: %s workers keep their roles", id,
                          r->table->name);
        return DRIVER_REFUSED;
    }
    (void)pthread_mutex_lock(&r->lock);
    r->token = token;
    bool there = id < LIMIT_WORKERS && r->slots[id].used && !r->slots[id].stop;
    if (there) {
        r->slots[id].pool = pool;
    }
    (void)pthread_mutex_unlock(&r->lock);
    if (!there) {
        (void)status_fail(why, STATUS_NOTFOUND, "there is no worker %u", id);
    }
    return there ? DRIVER_ASKED : DRIVER_REFUSED;
}

static uint32_t remote_capacity(driver *d) {
    remote *r = (remote *)d;
    (void)pthread_mutex_lock(&r->lock);
    uint32_t capacity = r->capacity;
    (void)pthread_mutex_unlock(&r->lock);
    return capacity;
}

static void release(remote *r) {
    r->table->close(r->context);
    (void)pthread_cond_destroy(&r->changed);
    (void)pthread_mutex_destroy(&r->lock);
    mem_free(r);
}

static void remote_close(driver *d) {
    remote *r = (remote *)d;
    (void)pthread_mutex_lock(&r->lock);
    r->ending = true;
    (void)pthread_cond_signal(&r->changed);
    (void)pthread_mutex_unlock(&r->lock);
    (void)pthread_join(r->thread, NULL);
    release(r);
}

static const driver_table functions = {.name = "remote",
                                       .start = remote_start,
                                       .stop = remote_stop,
                                       .flip = remote_flip,
                                       .list = remote_list,
                                       .capacity = remote_capacity,
                                       .close = remote_close};

status driver_remote_open(const driver_remote_table *table, void *context, uint32_t first,
                          driver **out, diag *d) {
    remote *r = mem_calloc(1, sizeof *r);
    if (!r) {
        table->close(context);
        return status_fail(d, STATUS_NOMEM, "no memory for the %s driver", table->name);
    }
    r->functions = functions;
    r->functions.name = table->name;
    r->base.table = &r->functions;
    r->table = table;
    r->context = context;
    r->first = first;
    pthread_condattr_t clock;
    (void)pthread_condattr_init(&clock);
    (void)pthread_condattr_setclock(&clock, CLOCK_MONOTONIC);
    (void)pthread_cond_init(&r->changed, &clock);
    (void)pthread_condattr_destroy(&clock);
    (void)pthread_mutex_init(&r->lock, NULL);
    if (pthread_create(&r->thread, NULL, run, r) != 0) {
        release(r);
        return status_fail(d, STATUS_NOMEM, "no thread for the %s driver", table->name);
    }
    *out = &r->base;
    return STATUS_OK;
}
