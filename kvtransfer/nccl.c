/* nccl.c -- groups of pages over a communicator of two ranks.
 *
 * On the channel's own connection, sealed:     P -> D  offer: generation, unique id
 *                                              P -> D  announcement: the group's frame
 *                                              D -> P  ready: the receive is posted
 *                                              D -> P  done: it ended, or was never wanted
 *
 * D judges the announcement before anything is posted, so what is junk or damaged moves no bytes
 * and the two ranks' operations stay in pairs. The calls of one step are made as soon as the step
 * before is over, whoever calls: `advance` below is the only place that moves a side on.
 *
 * After ncclGroupEnd said ncclInProgress nothing is on the stream yet, so the event is recorded
 * only when ncclCommGetAsyncError says that the launch is over. */
#define _GNU_SOURCE
#include "kvtransfer/nccl.h"

#ifdef WEIR_HAVE_NCCL
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "engine/base/clock.h"
#include "engine/base/mem.h"
#include "kvtransfer/kvtplanted.h"
#include "kvtransfer/ncclhold.h"

enum {
    OFFER_BYTES = 8 + 8 + NCCL_UNIQUE_ID_BYTES,
    ANSWER_BYTES = 16,
    WIRE_BYTES_MAX = 1 << 16,
    WARM_BYTES = 256
};

static const char offer_magic[8] = "KVTNCC\0\1";
static const char ready_magic[8] = "KVTRDY\0\1";
static const char done_magic[8] = "KVTDON\0\1";

/* What a side waits for. */
typedef enum {
    IDLE,        /* D: an announcement; P: a job */
    JOINING,     /* the communicator is being made */
    WARM_LAUNCH, /* the first transfer goes to the stream */
    WARM_FLY,    /* ... and ends: from here the pair is up */
    PACK,        /* P: pages are copied to staging */
    ASKED,       /* P: ready, or done */
    LAUNCH,      /* the transfer goes to the stream */
    FLY,         /* ... and ends */
    UNPACK,      /* D: staging is copied to pages */
    ENDING       /* P: done */
} step;

typedef struct {
    kvt base;
    const ncclapi *api;
    nccl_options options;
    bool sender, up, offered;
    wire *wire;
    int epoll_fd, timer_fd;
    bool ticking;
    step step;
    int64_t deadline_us; /* of the step, when it is not IDLE */
    int64_t started_us;
    ncclhold device;
    kvt_job job;  /* sender: under way */
    bool has_job; /* sender: from kvt_send until its done; receiver: an announcement is there */
    frame frame;  /* of the job, or announced */
    kvt_outcome outcome;
    uint32_t sent[KVT_JOBS_MAX]; /* sender: ring of finished sequences */
    uint32_t sent_first, sent_count;
    char reason[160];
} pair;

unsigned nccl_aborting(bool *hung) {
    return ncclhold_aborting(hung);
}

uint64_t nccl_staged(void) {
    return ncclhold_staged();
}

__attribute__((format(printf, 2, 3))) static void broken(pair *n, const char *format, ...) {
    if (!n->base.failed) {
        va_list args;
        va_start(args, format);
        (void)vsnprintf(n->reason, sizeof n->reason, format, args);
        va_end(args);
        n->base.failed = true;
    }
    ncclhold_let_go(&n->device);
}

const char *nccl_reason(const kvt *k) {
    return ((const pair *)k)->reason;
}

/* ---- the device ----------------------------------------------------------------------------- */

static bool cuda_ok(pair *n, const char *what, cudaError_t r) {
    if (r != cudaSuccess) {
        broken(n, "nccl: %s: CUDA error %d", what, (int)r);
    }
    return r == cudaSuccess;
}

static bool nccl_ok(pair *n, const char *what, ncclResult_t r) {
    if (r != ncclSuccess && r != ncclInProgress) {
        broken(n, "nccl: %s: NCCL error %d", what, (int)r);
        return false;
    }
    return true;
}

/* Whether the communicator has done what it was asked. False too when it has failed. */
static bool comm_ready(pair *n) {
    ncclResult_t state = ncclInProgress;
    return nccl_ok(n, "state", n->api->ncclCommGetAsyncError(n->device.comm, &state)) &&
           nccl_ok(n, "communicator", state) && state == ncclSuccess;
}

/* The communicator is asked first: a dead peer is known there, and its operations never end. */
static bool flown(pair *n) {
    if (!comm_ready(n)) {
        return false;
    }
    cudaError_t r = n->api->cudaEventQuery(n->device.event);
    return r != cudaErrorNotReady && cuda_ok(n, "transfer", r);
}

static bool mark(pair *n) {
    return cuda_ok(n, "event", n->api->cudaEventRecord(n->device.event, n->device.stream));
}

/* Pages are being read or written. Nothing but the device ends that, so no peer and no deadline
 * may: the owner of the pages takes a channel that failed to be through with them. */
static bool copying(const pair *n) {
    return n->step == PACK || n->step == UNPACK;
}

static bool copied(pair *n) {
    cudaError_t r = n->api->cudaEventQuery(n->device.event);
    return r != cudaErrorNotReady && cuda_ok(n, "copying", r);
}

static void enter_step(pair *n, step s) {
    n->step = s;
}

/* One send or receive of staging. */
static void transfer(pair *n, uint64_t bytes, step next) {
    ncclhold *h = &n->device;
    bool good = nccl_ok(n, "group", n->api->ncclGroupStart());
    if (good) {
        ncclResult_t r = n->sender
                             ? n->api->ncclSend(h->stage, bytes, ncclUint8, 1, h->comm, h->stream)
                             : n->api->ncclRecv(h->stage, bytes, ncclUint8, 0, h->comm, h->stream);
        ncclResult_t ended = n->api->ncclGroupEnd();
        good = nccl_ok(n, n->sender ? "send" : "receive", r) && nccl_ok(n, "group", ended);
    }
    if (good) {
        enter_step(n, next);
    }
}

/* Stream, event, staging and a communicator that begins to form. */
static void join(pair *n, const ncclUniqueId *id) {
    ncclhold *h = &n->device;
    int least = 0, greatest = 0;
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    config.blocking = 0;
    config.minCTAs = 1;
    config.maxCTAs = n->options.ctas_max;
    n->deadline_us = clock_now_us() + n->options.setup_us;
    /* Low priority: what computes goes first. */
    if (cuda_ok(n, "priorities", n->api->cudaDeviceGetStreamPriorityRange(&least, &greatest)) &&
        cuda_ok(n, "stream",
                n->api->cudaStreamCreateWithPriority(&h->stream, cudaStreamNonBlocking, least)) &&
        cuda_ok(n, "event", n->api->cudaEventCreateWithFlags(&h->event, cudaEventDisableTiming)) &&
        cuda_ok(n, "staging", ncclhold_stage(h, n->options.stage_bytes)) &&
        nccl_ok(n, "joining",
                n->api->ncclCommInitRankConfig(&h->comm, 2, *id, n->sender ? 0 : 1, &config))) {
        enter_step(n, JOINING);
    }
}

/* Copies between a job's pages and staging, in wire order. */
static bool copy_pages(pair *n, const kvt_job *job, bool pack) {
    uint64_t run = n->base.pool.layer_page_bytes;
    uint8_t *stage = n->device.stage;
    for (uint32_t l = 0; l < job->layers; l++) {
        for (uint32_t p = 0; p < job->pages_count; p++, stage += run) {
            uint8_t *page = kvt_run(&n->base, job, l, p);
            if (!cuda_ok(n, pack ? "packing" : "unpacking",
                         n->api->cudaMemcpyAsync(pack ? stage : page, pack ? page : stage, run,
                                                 cudaMemcpyDefault, n->device.stream))) {
                return false;
            }
        }
    }
    return true;
}

/* ---- messages ------------------------------------------------------------------------------- */

static void put_u64(char *p, uint64_t value) {
    for (int b = 0; b < 8; b++) {
        p[b] = (char)(value >> (8 * b));
    }
}

static uint64_t get_u64(const char *p) {
    uint64_t value = 0;
    for (int b = 0; b < 8; b++) {
        value |= (uint64_t)(uint8_t)p[b] << (8 * b);
    }
    return value;
}

static void say(pair *n, const char *data, size_t bytes) {
    if (!n->base.failed &&
        (wire_send(n->wire, str_of(data, bytes), -1) != STATUS_OK || !wire_flush(n->wire))) {
        broken(n, "nccl: the peer has gone");
    }
}

static void answer(pair *n, const char magic[8]) {
    char text[ANSWER_BYTES];
    memcpy(text, magic, 8);
    put_u64(text + 8, n->frame.sequence);
    say(n, text, sizeof text);
}

static void offer(pair *n) {
    ncclUniqueId id;
    char text[OFFER_BYTES];
    if (!nccl_ok(n, "unique id", n->api->ncclGetUniqueId(&id))) {
        return;
    }
    join(n, &id);
    memcpy(text, offer_magic, 8);
    put_u64(text + 8, n->base.generation);
    memcpy(text + 16, &id, NCCL_UNIQUE_ID_BYTES);
    say(n, text, sizeof text);
    n->offered = true;
}

/* Announces the packed group. */
static void announce(pair *n) {
    uint8_t text[FRAME_BYTES];
    frame_put(&n->frame, text);
    say(n, (const char *)text, sizeof text);
    n->deadline_us = clock_now_us() + n->options.transfer_us;
    enter_step(n, ASKED);
}

static void finish_send(pair *n) {
    n->sent[(n->sent_first + n->sent_count) % KVT_JOBS_MAX] = n->job.sequence;
    n->sent_count++;
    n->has_job = false;
    enter_step(n, IDLE);
}

static bool heard_by_sender(pair *n, str m) {
    if (m.bytes != ANSWER_BYTES || get_u64(m.data + 8) != n->frame.sequence) {
        return false;
    }
    if (memcmp(m.data, ready_magic, 8) == 0 && n->step == ASKED && n->frame.payload_bytes) {
        transfer(n, n->frame.payload_bytes, LAUNCH);
        return true;
    }
    if (memcmp(m.data, done_magic, 8) != 0) {
        return false;
    }
    if (n->step == ASKED) { /* not wanted */
        finish_send(n);
        return true;
    }
    /* D's receive ends before this side has looked at its own event. */
    n->outcome = KVT_ARRIVED;
    return n->step == LAUNCH || n->step == FLY || n->step == ENDING;
}

static bool heard_by_receiver(pair *n, str m) {
    if (m.bytes == OFFER_BYTES && memcmp(m.data, offer_magic, 8) == 0 && !n->offered) {
        ncclUniqueId id;
        memcpy(&id, m.data + 16, NCCL_UNIQUE_ID_BYTES);
        n->offered = true;
        join(n, &id);
        return true;
    }
    if (m.bytes == FRAME_BYTES && n->offered && !n->has_job &&
        frame_get((const uint8_t *)m.data, &n->frame) == STATUS_OK) {
        n->has_job = true;
        return true;
    }
    return false;
}

static void hear(pair *n) {
    str m;
    int fd;
    wire_result r = WIRE_AGAIN;
    while (!n->base.failed && (r = wire_receive(n->wire, &m, &fd)) == WIRE_MESSAGE) {
        if (fd >= 0) {
            (void)close(fd);
        }
        if (!(n->sender ? heard_by_sender(n, m) : heard_by_receiver(n, m))) {
            broken(n, "nccl: the peer said something out of turn");
        }
    }
    if (r == WIRE_CLOSED || !wire_flush(n->wire)) {
        broken(n, "nccl: the peer has gone");
    }
}

/* ---- steps ---------------------------------------------------------------------------------- */

/* P: the next job; D: judges what was announced, and posts or declines. */
static void begin(pair *n, const kvt_job *front) {
    if (!n->has_job) {
        return;
    }
    if (n->sender) {
        n->outcome = KVT_JUNK;
        if (n->job.junk) {
            announce(n);
        } else if (copy_pages(n, &n->job, true) && mark(n)) {
            enter_step(n, PACK);
        }
        return;
    }
    if (!front) {
        broken(n, "nccl: an announcement without a post");
        return;
    }
    n->started_us = clock_now_us();
    n->deadline_us = n->started_us + n->options.transfer_us;
    n->outcome = kvt_judge(&n->base, front, &n->frame);
    if (n->outcome == KVT_ARRIVED && n->frame.payload_bytes > n->options.stage_bytes) {
        broken(n, "nccl: a group of %llu bytes and staging of %llu",
               (unsigned long long)n->frame.payload_bytes,
               (unsigned long long)n->options.stage_bytes);
    } else if (n->outcome == KVT_ARRIVED && n->frame.payload_bytes) {
        transfer(n, n->frame.payload_bytes, LAUNCH);
    } else {
        answer(n, done_magic);
        enter_step(n, ENDING);
    }
}

static void launched(pair *n) {
    if (comm_ready(n) && mark(n)) {
        if (!n->sender) {
            answer(n, ready_magic);
        }
        enter_step(n, FLY);
    }
}

static void landed(pair *n, const kvt_job *front) {
    if (!flown(n)) {
        return;
    }
    if (n->sender) {
        enter_step(n, ENDING);
    } else if (copy_pages(n, front, false) && mark(n)) {
        answer(n, done_magic);
        enter_step(n, UNPACK);
    }
}

static void take_step(pair *n, const kvt_job *front) {
    switch (n->step) {
        case IDLE:
            if (n->up) {
                begin(n, front);
            } else if (n->sender && n->has_job && !n->offered) {
                offer(n);
            }
            break;
        case JOINING:
            if (comm_ready(n)) {
                transfer(n, WARM_BYTES, WARM_LAUNCH);
            }
            break;
        case WARM_LAUNCH:
            if (comm_ready(n) && mark(n)) {
                enter_step(n, WARM_FLY);
            }
            break;
        case WARM_FLY:
            if (flown(n)) {
                n->up = true;
                enter_step(n, IDLE);
            }
            break;
        case LAUNCH:
            launched(n);
            break;
        case FLY:
            landed(n, front);
            break;
        case PACK:
            if (copied(n)) {
                announce(n);
            }
            break;
        case UNPACK:
            if (copied(n)) {
                enter_step(n, ENDING);
            }
            break;
        case ENDING:
            if (n->sender && n->outcome == KVT_ARRIVED) {
                finish_send(n);
            }
            break;
        case ASKED:
        default:
            break;
    }
}

static void tick(pair *n, bool on) {
    if (on != n->ticking) {
        long ns = on ? NCCL_TICK_US * 1000L : 0;
        struct itimerspec t = {{0, ns}, {0, ns}};
        (void)timerfd_settime(n->timer_fd, 0, &t, NULL);
        n->ticking = on;
    }
}

/* Goes on as far as things are. `front`: a receiver's oldest post. */
static void advance(pair *n, const kvt_job *front) {
    step before;
    if (!n->wire || n->base.failed) {
        return;
    }
    if (n->api->cudaSetDevice(n->options.device) != cudaSuccess) {
        broken(n, "nccl: no device %d", n->options.device);
    }
    if (!copying(n)) {
        hear(n);
    }
    do {
        before = n->step;
        if (!n->base.failed) {
            take_step(n, front);
        }
    } while (!n->base.failed && n->step != before);
    bool waits = n->step != IDLE && (n->sender || n->step != ENDING);
    bool late = clock_now_us() > n->deadline_us && !KVTPLANTED(DEADLINE_MISSING);
    if (waits && !copying(n) && !n->base.failed && late) {
        broken(n, "nccl: %s took longer than %lld ms", n->up ? "a transfer" : "setting up the pair",
               (long long)(n->up ? n->options.transfer_us : n->options.setup_us) / 1000);
    }
    tick(n, waits && !n->base.failed);
}

/* ---- verbs ---------------------------------------------------------------------------------- */

static kvt_result nccl_send(kvt *k, const kvt_job *job) {
    pair *n = (pair *)k;
    advance(n, NULL);
    if (k->failed) {
        return KVT_FAILED;
    }
    if (!n->wire || n->has_job || n->sent_count == KVT_JOBS_MAX) {
        return KVT_AGAIN;
    }
    n->frame = kvt_job_frame(k, job);
    if (n->frame.payload_bytes > n->options.stage_bytes || !kvt_load(k, job)) {
        broken(n, "nccl: a group of %llu bytes: more than staging has, or the device failed",
               (unsigned long long)n->frame.payload_bytes);
        return KVT_FAILED;
    }
    n->job = *job;
    n->has_job = true;
    advance(n, NULL);
    return k->failed ? KVT_FAILED : KVT_DONE;
}

static bool nccl_sent(kvt *k, uint32_t *sequence) {
    pair *n = (pair *)k;
    advance(n, NULL);
    if (n->sent_count == 0 || k->failed) {
        return false;
    }
    *sequence = n->sent[n->sent_first];
    n->sent_first = (n->sent_first + 1) % KVT_JOBS_MAX;
    n->sent_count--;
    return true;
}

static kvt_result nccl_receive(kvt *k, const kvt_job *job, kvt_arrival *out) {
    pair *n = (pair *)k;
    advance(n, job);
    if (k->failed) {
        return KVT_FAILED;
    }
    if (n->step != ENDING) {
        return KVT_AGAIN;
    }
    *out = (kvt_arrival){.outcome = n->outcome,
                         .bytes = n->frame.payload_bytes,
                         .copy_us = clock_now_us() - n->started_us};
    n->has_job = false;
    enter_step(n, IDLE);
    return KVT_DONE;
}

static void nccl_idle(kvt *k) {
    advance((pair *)k, NULL);
}

static int nccl_event_fd(const kvt *k) {
    return ((const pair *)k)->epoll_fd;
}

static void nccl_event_clear(kvt *k) {
    struct epoll_event e[2];
    (void)epoll_wait(nccl_event_fd(k), e, 2, 0);
}

static void close_fd(int fd) {
    if (fd >= 0) {
        (void)close(fd);
    }
}

static void nccl_close(kvt *k) {
    pair *n = (pair *)k;
    int64_t until = clock_now_us() + n->options.transfer_us;
    while (copying(n) && !k->failed && !copied(n) && clock_now_us() < until &&
           !KVTPLANTED(PAGES_TOO_EARLY)) {
        (void)usleep(50);
    }
    ncclhold_let_go(&n->device);
    wire_close(n->wire);
    close_fd(n->timer_fd);
    close_fd(n->epoll_fd);
    mem_free(n);
}

static const kvt_transport nccl_transport = {"nccl",       nccl_send,     nccl_sent,
                                             nccl_receive, nccl_event_fd, nccl_event_clear,
                                             nccl_close,   nccl_idle};

status nccl_open(const kvt_pool *pool, const nccl_options *options, uint64_t generation,
                 bool receiver, kvt **out, diag *d) {
    const ncclapi *api;
    *out = NULL;
    TRY(ncclapi_load(&api, d));
    pair *n = mem_calloc(1, sizeof *n);
    if (!n) {
        return status_fail(d, STATUS_NOMEM, "nccl: no memory for a channel");
    }
    n->api = api;
    n->options = *options;
    n->options.ctas_max = options->ctas_max ? options->ctas_max : NCCL_CTAS;
    n->options.setup_us = options->setup_us ? options->setup_us : NCCL_SETUP_US;
    n->options.transfer_us = options->transfer_us ? options->transfer_us : NCCL_TRANSFER_US;
    if (n->options.stage_bytes < WARM_BYTES) {
        n->options.stage_bytes = WARM_BYTES;
    }
    n->device.device = options->device;
    n->sender = !receiver;
    n->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    n->timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
    struct epoll_event e = {.events = (uint32_t)EPOLLET | EPOLLIN};
    status made = n->epoll_fd < 0 || n->timer_fd < 0 ||
                          epoll_ctl(n->epoll_fd, EPOLL_CTL_ADD, n->timer_fd, &e) != 0
                      ? STATUS_IO
                      : kvt_begin(&n->base, &nccl_transport, pool, generation, receiver);
    if (made != STATUS_OK) {
        nccl_close(&n->base);
        return status_fail(d, made, "nccl: opening a channel: %s", status_text(made));
    }
    *out = &n->base;
    return STATUS_OK;
}

status nccl_attach(kvt *k, int fd, const seal_keys *keys, diag *d) {
    pair *n = (pair *)k;
    struct epoll_event e = {.events = (uint32_t)EPOLLET | EPOLLIN | EPOLLOUT | EPOLLRDHUP};
    wire *w = NULL;
    if (n->wire) {
        (void)close(fd);
        return status_fail(d, STATUS_INVALID, "nccl: the channel has its connection");
    }
    status made = wire_open_waiting(WIRE_BYTES_MAX, &w);
    if (made != STATUS_OK) {
        (void)close(fd);
        return status_fail(d, made, "nccl: no memory for a connection");
    }
    made = wire_attach(w, fd, keys);
    if (made != STATUS_OK || epoll_ctl(n->epoll_fd, EPOLL_CTL_ADD, fd, &e) != 0) {
        wire_close(w);
        return status_fail(d, STATUS_IO, "nccl: polling the connection");
    }
    n->wire = w;
    return STATUS_OK;
}

#else /* built without nccl.h */

status nccl_open(const kvt_pool *pool, const nccl_options *options, uint64_t generation,
                 bool receiver, kvt **out, diag *d) {
    (void)pool;
    (void)options;
    (void)generation;
    (void)receiver;
    *out = NULL;
    return status_fail(d, STATUS_UNSUPPORTED, "nccl: built without nccl.h");
}

status nccl_attach(kvt *k, int fd, const seal_keys *keys, diag *d) {
    (void)k;
    (void)fd;
    (void)keys;
    return status_fail(d, STATUS_UNSUPPORTED, "nccl: built without nccl.h");
}

const char *nccl_reason(const kvt *k) {
    (void)k;
    return "";
}

unsigned nccl_aborting(bool *hung) {
    *hung = false;
    return 0;
}

uint64_t nccl_staged(void) {
    return 0;
}
#endif
