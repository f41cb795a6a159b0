/* kvend.c -- an end of a channel over each transport. */
#define _GNU_SOURCE
#include "bench/kvend.h"

#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "engine/base/mem.h"
#include "engine/base/rng.h"
#include "kvtransfer/ipc.h"
#include "kvtransfer/layout.h"
#include "kvtransfer/local.h"
#include "kvtransfer/nccl.h"
#include "kvtransfer/shm.h"
#include "kvtransfer/tcp.h"

enum { PAGE_TOKENS = 16, WAIT_MS = 20, GENERATION = 1, WIRE_BYTES = 1 << 20 };

const char *const kvend_names[KVEND_TRANSPORTS + 1] = {"local", "shm", "tcp", "ipc", "nccl", NULL};

bool kvend_on_device(kvend_transport t) {
    return t == KVEND_IPC || t == KVEND_NCCL;
}

/* Not secret: both ends are ours. */
static const seal_keys p_keys = {.send = {1}, .receive = {2}};
static const seal_keys d_keys = {.send = {2}, .receive = {1}};

/* ---- groups ---------------------------------------------------------------------------------- */

static layout_group cut_of(const kvend *e) {
    return layout_cut(e->shape.layers, e->unit, e->shape.group_bytes, KVT_JOB_PAGES);
}

static uint32_t pages_of(uint32_t tokens) {
    return (tokens + PAGE_TOKENS - 1) / PAGE_TOKENS;
}

static uint32_t parts(uint32_t whole, uint32_t part) {
    return (whole + part - 1) / part;
}

uint32_t kvend_groups(const kvend *e, uint32_t tokens) {
    layout_group g = cut_of(e);
    return parts(pages_of(tokens), g.pages) * parts(e->shape.layers, g.layers);
}

uint64_t kvend_bytes(const kvend *e, uint32_t tokens) {
    return (uint64_t)pages_of(tokens) * e->shape.layers * e->unit;
}

/* Group `index` of a transfer: all pages of the first layers, then of the next. */
static void group_of(const kvend *e, uint32_t tokens, uint32_t index, kvt_job *out) {
    layout_group g = cut_of(e);
    uint32_t pages = pages_of(tokens), across = parts(pages, g.pages);
    uint32_t first = index % across * g.pages;
    *out = (kvt_job){.request = 1,
                     .attempt = 1,
                     .group = index,
                     .sequence = e->sequence + index,
                     .layer_first = index / across * g.layers};
    uint32_t layers_left = e->shape.layers - out->layer_first, pages_left = pages - first;
    out->layers = g.layers < layers_left ? g.layers : layers_left;
    out->pages_count = g.pages < pages_left ? g.pages : pages_left;
    for (uint32_t i = 0; i < out->pages_count; i++) {
        /* As a pool that has run for a while gives them out: not one behind the other. */
        out->pages[i] = (first + i) * 37 % KVEND_POOL_PAGES;
    }
}

/* ---- pools ----------------------------------------------------------------------------------- */

static uint8_t *host_page(void *context, uint32_t layer, uint32_t page) {
    const kvend *e = context;
    return e->host + ((uint64_t)layer * KVEND_POOL_PAGES + page) * e->unit;
}

static uint8_t *device_page(void *context, uint32_t layer, uint32_t page) {
    return backend_kv_page(((const kvend *)context)->kv, (int32_t)layer, page);
}

static backend_kv_run run_of(const kvt_job *job) {
    return (backend_kv_run){(int32_t)job->layer_first, (int32_t)job->layers, job->pages,
                            job->pages_count};
}

static bool gather(void *context, const kvt_job *job, void *staging, uint32_t *list, void *stream) {
    kvend *e = context;
    backend_kv_run run = run_of(job);
    return backend_kv_gather(e->device, e->kv, &run, staging, list, stream) == STATUS_OK;
}

static bool scatter(void *context, const kvt_job *job, const void *staging, uint32_t *list,
                    void *stream) {
    kvend *e = context;
    backend_kv_run run = run_of(job);
    return backend_kv_scatter(e->device, e->kv, &run, staging, list, stream) == STATUS_OK;
}

static const kvt_packer packer = {gather, scatter};

static status host_pool(kvend *e, kvt_pool *out, diag *d) {
    uint64_t words = e->shape.layers * KVEND_POOL_PAGES * e->unit / sizeof(uint64_t);
    e->host = mem_alloc(words, sizeof(uint64_t));
    if (!e->host) {
        return status_fail(d, STATUS_NOMEM, "no memory for a pool");
    }
    for (uint64_t i = 0; i < words; i++) {
        ((uint64_t *)(void *)e->host)[i] = rng_mix(i);
    }
    *out = (kvt_pool){host_page, e, e->unit};
    return STATUS_OK;
}

static status device_pool(kvend *e, int gpu, kvt_pool *out, diag *d) {
    backend_options o = {.threads = 1, .device = gpu};
    backend_kv_options kv = {(int32_t)e->shape.layers, (int32_t)e->shape.kv_heads,
                             (int32_t)e->shape.head_dim, KVEND_POOL_PAGES, BACKEND_KV_F16};
    TRY(backend_open("cuda", &o, &e->device, d));
    TRY(backend_kv_open(e->device, &kv, &e->kv, d));
    *out = (kvt_pool){device_page, e, e->unit};
    return STATUS_OK;
}

/* ---- channels -------------------------------------------------------------------------------- */

static status accept_ring(kvend *e, const kvt_pool *pool, diag *d) {
    shm_pending offer = {0};
    shm_pending_clear(&offer);
    for (int tries = 0; !e->channel && tries < 1000; tries++) {
        str text;
        int fd = -1;
        wire_result r = wire_receive(e->wire, &text, &fd);
        if (r == WIRE_CLOSED) {
            break;
        }
        if (r == WIRE_MESSAGE) {
            TRY(shm_accept(&offer, pool, text, fd, &e->channel, d));
        } else {
            (void)poll(&(struct pollfd){.fd = wire_fd(e->wire), .events = POLLIN}, 1, WAIT_MS);
        }
    }
    return e->channel ? STATUS_OK : status_fail(d, STATUS_CLOSED, "shm: no offer came");
}

static status open_shm(kvend *e, const kvt_pool *pool, bool receiver, int data, diag *d) {
    status opened = wire_open(data, WIRE_BYTES, &e->wire);
    if (opened != STATUS_OK) {
        (void)close(data);
        return status_fail(d, opened, "shm: no wire");
    }
    if (receiver) {
        return accept_ring(e, pool, d);
    }
    TRY(shm_offer(pool, KVEND_RING_BYTES, GENERATION, e->wire, &e->channel, d));
    return wire_flush(e->wire) ? STATUS_OK : status_fail(d, STATUS_CLOSED, "shm: D has gone");
}

static status open_device(kvend *e, const kvt_pool *pool, bool receiver, int data, int gpu,
                          diag *d) {
    bool ipc = e->transport == KVEND_IPC;
    devpair_options o = {.device = gpu, .stage_bytes = e->shape.group_bytes};
    o.stage_bytes = o.stage_bytes > e->unit ? o.stage_bytes : e->unit;
    status opened = (ipc ? ipc_open : nccl_open)(pool, &o, GENERATION, receiver, &e->channel, d);
    if (opened != STATUS_OK) {
        (void)close(data);
        return opened;
    }
    kvt_use_packer(e->channel, &packer);
    return devpair_attach(e->channel, data, receiver ? &d_keys : &p_keys, d);
}

static status open_tcp(kvend *e, const kvt_pool *pool, bool receiver, int data, diag *d) {
    status opened = tcp_open(pool, GENERATION, receiver, &e->channel, d);
    if (opened != STATUS_OK) {
        (void)close(data);
        return opened;
    }
    return tcp_attach(e->channel, data, receiver ? &d_keys : &p_keys, d);
}

status kvend_open(kvend *e, kvend_transport t, const kvend_shape *shape, bool receiver, int data,
                  int gpu, diag *d) {
    kvt_pool pool;
    *e = (kvend){.shape = *shape, .transport = t};
    e->unit = shape->kv_heads * backend_kv_head_bytes(BACKEND_KV_F16, (int32_t)shape->head_dim);
    status made = kvend_on_device(t) ? device_pool(e, gpu, &pool, d) : host_pool(e, &pool, d);
    if (made != STATUS_OK) {
        if (data >= 0) {
            (void)close(data);
        }
        return made;
    }
    switch (t) {
        case KVEND_SHM:
            return open_shm(e, &pool, receiver, data, d);
        case KVEND_TCP:
            return open_tcp(e, &pool, receiver, data, d);
        case KVEND_IPC:
        case KVEND_NCCL:
            return open_device(e, &pool, receiver, data, gpu, d);
        case KVEND_LOCAL:
        case KVEND_TRANSPORTS:
        default:
            return STATUS_OK; /* kvend_join */
    }
}

status kvend_join(kvend *p, kvend *d, diag *why) {
    kvt_pool from = {host_page, p, p->unit}, to = {host_page, d, d->unit};
    return local_pair(&from, &to, GENERATION, &p->channel, &p->other, why);
}

void kvend_close(kvend *e) {
    kvt_close(e->channel);
    kvt_close(e->other);
    wire_close(e->wire);
    if (e->kv) {
        backend_kv_close(e->device, e->kv);
    }
    if (e->device) {
        backend_close(e->device);
    }
    mem_free(e->host);
    *e = (kvend){0};
}

/* ---- transfers ------------------------------------------------------------------------------- */

static void wait_for(const kvt *k) {
    (void)poll(&(struct pollfd){.fd = kvt_event_fd(k), .events = POLLIN}, 1, WAIT_MS);
}

status kvend_post(kvend *e, uint32_t tokens) {
    kvt *receiver = e->other ? e->other : e->channel;
    for (uint32_t i = 0; i < kvend_groups(e, tokens); i++) {
        kvt_job job;
        group_of(e, tokens, i, &job);
        if (kvt_post(receiver, &job) != KVT_DONE) {
            return STATUS_LIMIT;
        }
    }
    return STATUS_OK;
}

status kvend_receive(kvend *e, uint32_t tokens) {
    uint32_t groups = kvend_groups(e, tokens);
    kvt *receiver = e->other ? e->other : e->channel;
    for (uint32_t arrived = 0; arrived < groups;) {
        kvt_arrival a;
        kvt_event_clear(receiver);
        kvt_result r = kvt_receive(receiver, &a);
        if (r == KVT_FAILED || (r == KVT_DONE && a.outcome != KVT_ARRIVED)) {
            return STATUS_CLOSED;
        }
        if (r == KVT_DONE) {
            arrived++;
        } else {
            wait_for(receiver);
        }
    }
    e->sequence += groups;
    return STATUS_OK;
}

/* Local: what was sent is received at once, in the same thread. */
static status send_here(kvend *e, uint32_t tokens) {
    uint32_t groups = kvend_groups(e, tokens), sequence;
    for (uint32_t i = 0; i < groups; i++) {
        kvt_job job;
        kvt_arrival a;
        group_of(e, tokens, i, &job);
        if (kvt_send(e->channel, &job) != KVT_DONE || kvt_receive(e->other, &a) != KVT_DONE ||
            !kvt_sent(e->channel, &sequence)) {
            return STATUS_CLOSED;
        }
    }
    e->sequence += groups;
    return STATUS_OK;
}

status kvend_send(kvend *e, uint32_t tokens) {
    uint32_t groups = kvend_groups(e, tokens), sent = 0, ended = 0, sequence;
    if (e->other) {
        return send_here(e, tokens);
    }
    while (ended < groups) {
        kvt_result r = KVT_AGAIN;
        kvt_event_clear(e->channel);
        while (sent < groups) {
            kvt_job job;
            group_of(e, tokens, sent, &job);
            r = kvt_send(e->channel, &job);
            if (r != KVT_DONE) {
                break;
            }
            sent++;
        }
        while (kvt_sent(e->channel, &sequence)) {
            ended++;
        }
        if (r == KVT_FAILED || kvt_failed(e->channel)) {
            return STATUS_CLOSED;
        }
        if (ended < groups) {
            wait_for(e->channel);
        }
    }
    e->sequence += groups;
    return STATUS_OK;
}

void kvend_copy(kvend *e, uint32_t tokens, uint8_t *to) {
    for (uint32_t i = 0; i < kvend_groups(e, tokens); i++) {
        kvt_job job;
        group_of(e, tokens, i, &job);
        for (uint32_t l = 0; l < job.layers; l++) {
            for (uint32_t p = 0; p < job.pages_count; p++) {
                uint64_t at = ((uint64_t)(job.layer_first + l) * KVEND_POOL_PAGES + job.pages[p]);
                memcpy(to + at * e->unit, e->host + at * e->unit, e->unit);
            }
        }
    }
}
