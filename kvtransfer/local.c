/* local.c -- sends wait in a queue that both sides see; a receive copies page to page.
 *
 * A send completes when the receiver has copied it, so a sender's pages are read later than
 * kvt_send returned, as on a device transport. */
#define _GNU_SOURCE
#include "kvtransfer/local.h"

#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "engine/base/clock.h"
#include "engine/base/mem.h"

typedef struct {
    kvt_job jobs[KVT_JOBS_MAX]; /* [first, first + copied) copied, then `waiting` more */
    uint32_t first, copied, waiting;
    kvt_pool from;
    int fd;
    int holders;
    bool closed; /* a side has left: nothing moves any more */
} channel;

typedef struct {
    kvt base;
    channel *shared;
} local;

static kvt_result local_send(kvt *k, const kvt_job *job) {
    channel *c = ((local *)k)->shared;
    if (c->closed) {
        return KVT_FAILED;
    }
    uint32_t used = c->copied + c->waiting;
    if (used == KVT_JOBS_MAX) {
        return KVT_AGAIN;
    }
    c->jobs[(c->first + used) % KVT_JOBS_MAX] = *job;
    c->waiting++;
    uint64_t one = 1;
    ssize_t n = write(c->fd, &one, sizeof one);
    (void)n; /* a full counter is readable all the same */
    return KVT_DONE;
}

static bool local_sent(kvt *k, uint32_t *sequence) {
    channel *c = ((local *)k)->shared;
    if (c->copied == 0) {
        return false;
    }
    *sequence = c->jobs[c->first].sequence;
    c->first = (c->first + 1) % KVT_JOBS_MAX;
    c->copied--;
    return true;
}

static void copy_pages(const channel *c, const kvt_job *source, const kvt *to,
                       const kvt_job *target) {
    for (uint32_t l = 0; l < target->layers; l++) {
        for (uint32_t p = 0; p < target->pages_count; p++) {
            memcpy(to->pool.page(to->pool.context, target->layer_first + l, target->pages[p]),
                   c->from.page(c->from.context, source->layer_first + l, source->pages[p]),
                   to->pool.layer_page_bytes);
        }
    }
}

static kvt_result local_receive(kvt *k, const kvt_job *job, kvt_arrival *out) {
    channel *c = ((local *)k)->shared;
    if (c->closed) {
        return KVT_FAILED; /* also what waits: its pages went with the sender */
    }
    if (c->waiting == 0) {
        return KVT_AGAIN;
    }
    const kvt_job *source = &c->jobs[(c->first + c->copied) % KVT_JOBS_MAX];
    frame f = kvt_job_frame(k, source);
    int64_t started = clock_now_us();
    *out = (kvt_arrival){.outcome = kvt_judge(k, job, &f), .bytes = f.payload_bytes};
    if (out->outcome == KVT_ARRIVED &&
        (source->layers != job->layers || source->pages_count != job->pages_count)) {
        out->outcome = KVT_DAMAGED;
    }
    if (out->outcome == KVT_ARRIVED) {
        copy_pages(c, source, k, job);
    }
    out->copy_us = clock_now_us() - started;
    c->waiting--;
    c->copied++;
    return KVT_DONE;
}

static int local_event_fd(const kvt *k) {
    return ((const local *)k)->shared->fd;
}

static void local_event_clear(kvt *k) {
    uint64_t count;
    ssize_t n = read(local_event_fd(k), &count, sizeof count);
    (void)n; /* nothing to clear is fine */
}

static void local_close(kvt *k) {
    local *side = (local *)k;
    channel *c = side->shared;
    c->closed = true;
    if (--c->holders == 0) {
        (void)close(c->fd);
        mem_free(c);
    }
    mem_free(side);
}

static const kvt_transport local_transport = {
    "local",        local_send,        local_sent,  local_receive,
    local_event_fd, local_event_clear, local_close, NULL};

status local_pair(const kvt_pool *from, const kvt_pool *to, uint64_t generation, kvt **sender,
                  kvt **receiver, diag *d) {
    channel *c = mem_calloc(1, sizeof *c);
    local *s = mem_calloc(1, sizeof *s);
    local *r = mem_calloc(1, sizeof *r);
    int fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    if (!c || !s || !r || fd < 0 ||
        kvt_begin(&s->base, &local_transport, from, generation, false) != STATUS_OK ||
        kvt_begin(&r->base, &local_transport, to, generation, true) != STATUS_OK) {
        mem_free(c);
        mem_free(s);
        mem_free(r);
        if (fd >= 0) {
            (void)close(fd);
        }
        return status_fail(d, STATUS_NOMEM, "local: no memory for a channel");
    }
    c->from = *from;
    c->fd = fd;
    c->holders = 2;
    s->shared = c;
    r->shared = c;
    *sender = &s->base;
    *receiver = &r->base;
    return STATUS_OK;
}
