/* nccl.c -- groups of pages over a communicator of two ranks.
 *
 * Some groups are under way at once, in the order of their sequence: while one is packed, another
 * waits for D's receive, a third is on the wire. A group goes through the steps below; both sides
 * launch in the order of the announcements, and a communicator launches one operation at a time:
 * after ncclGroupEnd said ncclInProgress nothing is on the stream yet, so the event behind it is
 * recorded only when ncclCommGetAsyncError says that the launch is over.
 *
 * D judges an announcement before anything is posted, so what is junk or damaged moves no bytes
 * and the two ranks' operations stay in pairs. The calls of one step are made as soon as the step
 * before is over, whoever calls: `advance` below is the only place that moves a side on. */
#define _GNU_SOURCE
#include "kvtransfer/nccl.h"

#ifdef WEIR_HAVE_NCCL
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "engine/base/check.h"
#include "engine/base/clock.h"
#include "engine/base/failpoint.h"
#include "engine/base/mem.h"
#include "kvtransfer/kvtplanted.h"
#include "kvtransfer/ncclhold.h"
#include "kvtransfer/ncclmsg.h"
#include "kvtransfer/sideline.h"

enum { WARM_BYTES = 256, LIST_BYTES = 4 * KVT_JOB_PAGES };
_Static_assert(NCCL_UNIQUE_ID_BYTES == NCCLMSG_ID_BYTES, "a unique id fits its message");
_Static_assert(NCCL_WINDOW_MAX *(FRAME_BYTES + 64) < SIDELINE_BYTES_MAX,
               "a window of messages waits");

/* How far the pair is. */
typedef enum {
    ALONE,       /* no offer yet */
    JOINING,     /* the communicator is being made */
    WARM_LAUNCH, /* the first transfer goes to the stream */
    WARM_FLY,    /* ... and ends */
    UP
} stage;

/* How far a group is, in this order; each side leaves out what is the other's. */
typedef enum {
    NEW,    /* P: handed over; D: announced */
    PACK,   /* P: pages are copied to staging */
    ASKED,  /* P: announced */
    READY,  /* P: D's receive is posted */
    LAUNCH, /* the transfer goes to the stream */
    FLY,    /* ... and ends */
    UNPACK, /* D: staging is copied to pages */
    ENDING  /* P: D has still to say done; D: kvt_receive reports it */
} step;

typedef struct {
    step step;
    bool done; /* P: D has said so */
    kvt_job job;
    frame frame;
    kvt_outcome outcome;
    int64_t since_us; /* announced (P), judged (D) */
} group;

typedef struct {
    kvt base;
    const ncclapi *api;
    nccl_options options;
    bool sender;
    sideline line;
    stage stage;
    bool launching;      /* some group is in LAUNCH */
    int64_t deadline_us; /* of setting up */
    int64_t oldest_us;   /* since when the oldest group is the oldest */
    ncclhold device;
    group groups[NCCL_WINDOW_MAX]; /* ring [options.window], oldest first */
    uint32_t first, count;
    uint32_t sent[KVT_JOBS_MAX]; /* sender: ring of finished sequences */
    uint32_t sent_first, sent_count;
    nccl_times times;
    char reason[160];
} pair;

/* Events of a group: around its copy, around its transfer. */
enum { COPY_BEGIN, COPY_END, WIRE_BEGIN, WIRE_END, GROUP_EVENTS };
_Static_assert((int)NCCLHOLD_EVENTS == (int)GROUP_EVENTS * (int)NCCL_WINDOW_MAX, "events");

static uint32_t slot_of(const pair *n, uint32_t index) {
    return (n->first + index) % (uint32_t)n->options.window;
}

static group *group_at(pair *n, uint32_t index) {
    return &n->groups[slot_of(n, index)];
}

static uint8_t *staging_at(const pair *n, uint32_t index) {
    return (uint8_t *)n->device.stage + slot_of(n, index) * (n->options.stage_bytes + LIST_BYTES);
}

static cudaEvent_t event_at(const pair *n, uint32_t index, int which) {
    return n->device.events[slot_of(n, index) * GROUP_EVENTS + (uint32_t)which];
}

/* ---- failing -------------------------------------------------------------------------------- */

unsigned nccl_aborting(bool *hung) {
    return ncclhold_aborting(hung);
}

uint64_t nccl_staged(void) {
    return ncclhold_staged();
}

/* Pages or staging are being read or written. Nothing but the device ends that. */
static bool copying(const pair *n) {
    for (uint32_t i = 0; i < n->count; i++) {
        step s = n->groups[slot_of(n, i)].step;
        if ((s == PACK || s == UNPACK) &&
            n->api->cudaEventQuery(event_at(n, i, COPY_END)) == cudaErrorNotReady) {
            return true;
        }
    }
    return false;
}

/* While copies are under way the channel keeps what they use; nccl_close waits for them. */
__attribute__((format(printf, 2, 3))) static void broken(pair *n, const char *format, ...) {
    if (!n->base.failed) {
        va_list args;
        va_start(args, format);
        (void)vsnprintf(n->reason, sizeof n->reason, format, args);
        va_end(args);
        n->base.failed = true;
    }
    if (!copying(n)) {
        ncclhold_let_go(&n->device);
        n->count = 0;
    }
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

static bool passed(pair *n, uint32_t index, int which, const char *what) {
    cudaError_t r = n->api->cudaEventQuery(event_at(n, index, which));
    return r != cudaErrorNotReady && cuda_ok(n, what, r);
}

/* The communicator is asked first: a dead peer is known there, and its operations never end. */
static bool flown(pair *n, uint32_t index) {
    (void)comm_ready(n);
    return !n->base.failed && passed(n, index, WIRE_END, "transfer");
}

static bool mark(pair *n, uint32_t index, int which) {
    cudaStream_t s = which == COPY_BEGIN || which == COPY_END ? n->device.copy : n->device.wire;
    return cuda_ok(n, "event", n->api->cudaEventRecord(event_at(n, index, which), s));
}

/* Microseconds between the marks `which` and the next. */
static int64_t between_us(pair *n, uint32_t index, int which) {
    float ms = 0;
    (void)n->api->cudaEventElapsedTime(&ms, event_at(n, index, which),
                                       event_at(n, index, which + 1));
    return (int64_t)((double)ms * 1000);
}

/* One send or receive of a group's staging. */
static bool transfer(pair *n, uint32_t index, uint64_t bytes) {
    const ncclhold *h = &n->device;
    void *at = staging_at(n, index);
    if (!mark(n, index, WIRE_BEGIN) || !nccl_ok(n, "group", n->api->ncclGroupStart())) {
        return false;
    }
    ncclResult_t r = n->sender ? n->api->ncclSend(at, bytes, ncclUint8, 1, h->comm, h->wire)
                               : n->api->ncclRecv(at, bytes, ncclUint8, 0, h->comm, h->wire);
    ncclResult_t ended = n->api->ncclGroupEnd();
    return nccl_ok(n, n->sender ? "send" : "receive", r) && nccl_ok(n, "group", ended);
}

/* A communicator that begins to form, and what it will need. */
static void join(pair *n, const ncclUniqueId *id) {
    ncclhold *h = &n->device;
    unsigned window = (unsigned)n->options.window;
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    config.blocking = 0;
    config.minCTAs = 1;
    config.maxCTAs = n->options.ctas_max;
    n->deadline_us = clock_now_us() + n->options.setup_us;
    if (cuda_ok(n, "staging",
                ncclhold_take(h, window * GROUP_EVENTS,
                              window * (n->options.stage_bytes + LIST_BYTES))) &&
        nccl_ok(n, "joining",
                n->api->ncclCommInitRankConfig(&h->comm, 2, *id, n->sender ? 0 : 1, &config))) {
        n->stage = JOINING;
    }
}

/* By the owner of the pages, a kernel a group. */
static bool pack(pair *n, uint32_t index, const kvt_job *job) {
    const kvt_packer *p = n->base.packer;
    void *at = staging_at(n, index), *context = n->base.pool.context;
    uint32_t *list = (uint32_t *)(void *)(staging_at(n, index) + n->options.stage_bytes);
    bool good = n->sender ? p->gather(context, job, at, list, n->device.copy)
                          : p->scatter(context, job, at, list, n->device.copy);
    if (!good) {
        broken(n, "nccl: copying pages: the device has failed");
    }
    return good;
}

/* Begins to copy between a group's pages and its staging, in wire order. */
static bool copy_pages(pair *n, uint32_t index, const kvt_job *job) {
    uint64_t run = n->base.pool.layer_page_bytes;
    uint8_t *at = staging_at(n, index);
    bool good = mark(n, index, COPY_BEGIN);
    if (good && n->base.packer) {
        return pack(n, index, job) && mark(n, index, COPY_END);
    }
    for (uint32_t l = 0; good && l < job->layers; l++) {
        for (uint32_t p = 0; good && p < job->pages_count; p++, at += run) {
            uint8_t *page = kvt_run(&n->base, job, l, p);
            good = cuda_ok(n, n->sender ? "packing" : "unpacking",
                           n->api->cudaMemcpyAsync(n->sender ? at : page, n->sender ? page : at,
                                                   run, cudaMemcpyDefault, n->device.copy));
        }
    }
    return good && mark(n, index, COPY_END);
}

/* ---- messages ------------------------------------------------------------------------------- */

static void say(pair *n, const ncclmsg *m) {
    uint8_t text[NCCLMSG_BYTES_MAX];
    uint32_t bytes = ncclmsg_put(m, text);
    if (!n->base.failed && !sideline_say(&n->line, str_of((const char *)text, bytes))) {
        broken(n, "nccl: the peer has gone");
    }
}

static void answer(pair *n, ncclmsg_kind kind, uint32_t sequence) {
    say(n, &(ncclmsg){.kind = kind, .sequence = sequence});
}

static void offer(pair *n) {
    ncclUniqueId id;
    ncclmsg m = {.kind = NCCLMSG_OFFER, .generation = n->base.generation};
    if (nccl_ok(n, "unique id", n->api->ncclGetUniqueId(&id))) {
        join(n, &id);
        memcpy(m.id, &id, sizeof id);
        say(n, &m);
    }
}

static void announce(pair *n, group *g) {
    say(n, &(ncclmsg){.kind = NCCLMSG_ANNOUNCE, .frame = g->frame});
    g->since_us = clock_now_us();
    g->step = ASKED;
    (void)FAILPOINT("nccl.announced");
}

static bool heard_by_sender(pair *n, const ncclmsg *m) {
    for (uint32_t i = 0; i < n->count; i++) {
        group *g = group_at(n, i);
        if (g->frame.sequence != m->sequence || g->step < ASKED) {
            continue;
        }
        if (m->kind == NCCLMSG_READY && g->step == ASKED && g->frame.payload_bytes) {
            n->times.ready_us += clock_now_us() - g->since_us;
            g->step = READY;
            return true;
        }
        /* Before it was ready: not wanted. */
        bool ended = m->kind == NCCLMSG_DONE && g->step != READY && !g->done;
        g->done = ended;
        g->step = ended && g->step == ASKED ? ENDING : g->step;
        return ended;
    }
    return false;
}

static bool heard_by_receiver(pair *n, const ncclmsg *m) {
    if (m->kind == NCCLMSG_OFFER && n->stage == ALONE) {
        ncclUniqueId id;
        memcpy(&id, m->id, sizeof id);
        join(n, &id);
        return true;
    }
    if (m->kind == NCCLMSG_ANNOUNCE && n->stage != ALONE &&
        n->count < (uint32_t)n->options.window) {
        group *g = group_at(n, n->count++);
        g->step = NEW;
        g->frame = m->frame;
        return true;
    }
    return false;
}

static void hear(pair *n) {
    str text;
    int fd;
    wire_result r = WIRE_AGAIN;
    while (!n->base.failed && (r = wire_receive(n->line.wire, &text, &fd)) == WIRE_MESSAGE) {
        ncclmsg m;
        if (fd >= 0) {
            (void)close(fd);
        }
        if (!ncclmsg_get(text, &m) ||
            !(n->sender ? heard_by_sender(n, &m) : heard_by_receiver(n, &m))) {
            broken(n, "nccl: the peer said something out of turn");
        }
    }
    if (r == WIRE_CLOSED || !wire_flush(n->line.wire)) {
        broken(n, "nccl: the peer has gone");
    }
}

/* ---- steps ---------------------------------------------------------------------------------- */

static void set_up(pair *n) {
    switch (n->stage) {
        case ALONE:
            if (n->sender && n->count > 0) {
                offer(n);
            }
            break;
        case JOINING:
            if (comm_ready(n) && transfer(n, 0, WARM_BYTES)) {
                n->stage = WARM_LAUNCH;
            }
            break;
        case WARM_LAUNCH:
            if (comm_ready(n) && mark(n, 0, WIRE_END)) {
                n->stage = WARM_FLY;
            }
            break;
        case WARM_FLY:
            if (flown(n, 0)) {
                n->oldest_us = clock_now_us();
                n->times.setup_us = n->oldest_us - n->deadline_us + n->options.setup_us;
                n->stage = UP;
            }
            break;
        case UP:
        default:
            break;
    }
}

/* The oldest group is over. */
static void drop_oldest(pair *n) {
    const group *g = group_at(n, 0);
    bool moved = g->outcome == KVT_ARRIVED && g->frame.payload_bytes > 0;
    n->times.groups++;
    n->times.empty += !moved;
    n->times.bytes += moved ? g->frame.payload_bytes : 0;
    n->first = slot_of(n, 1);
    n->count--;
    n->oldest_us = clock_now_us();
}

static void launched(pair *n, uint32_t index) {
    group *g = group_at(n, index);
    if (comm_ready(n) && mark(n, index, WIRE_END)) {
        n->launching = false;
        g->step = FLY;
        if (!n->sender) {
            answer(n, NCCLMSG_READY, g->frame.sequence);
        }
        (void)FAILPOINT_AT("nccl.", n->sender ? "sending" : "posted");
    }
}

/* Whether group `index` may do what must happen in order: all before it are at `s` or further. */
static bool its_turn(pair *n, uint32_t index, step s) {
    return index == 0 || group_at(n, index - 1)->step >= s;
}

static bool may_announce(pair *n, uint32_t index) {
    if (KVTPLANTED(ANNOUNCEMENTS_SWAPPED) && n->count > 1 && index < 2) {
        return index == 1 || group_at(n, 1)->step >= ASKED;
    }
    return its_turn(n, index, ASKED);
}

static void send_step(pair *n, uint32_t index) {
    group *g = group_at(n, index);
    switch (g->step) {
        case NEW:
            if (!g->job.junk) {
                g->step = copy_pages(n, index, &g->job) ? PACK : NEW;
            } else if (may_announce(n, index)) {
                announce(n, g);
            }
            break;
        case PACK:
            if (may_announce(n, index) && passed(n, index, COPY_END, "packing")) {
                n->times.copy_us += between_us(n, index, COPY_BEGIN);
                announce(n, g);
            }
            break;
        case READY:
            if (!n->launching && its_turn(n, index, FLY) &&
                transfer(n, index, g->frame.payload_bytes)) {
                n->launching = true;
                g->step = LAUNCH;
            }
            break;
        case LAUNCH:
            launched(n, index);
            break;
        case FLY:
            if (flown(n, index)) {
                n->times.wire_us += between_us(n, index, WIRE_BEGIN);
                g->outcome = KVT_ARRIVED;
                g->step = ENDING;
            }
            break;
        case ENDING:
            if (index == 0 && g->done) {
                n->sent[(n->sent_first + n->sent_count++) % KVT_JOBS_MAX] = g->frame.sequence;
                drop_oldest(n);
            }
            break;
        case ASKED:
        case UNPACK:
        default:
            break;
    }
}

/* D: judges what was announced, and posts or declines. */
static void judge(pair *n, uint32_t index) {
    group *g = group_at(n, index);
    if (index >= n->base.posted_count) {
        broken(n, "nccl: an announcement without a post");
        return;
    }
    g->job = n->base.posted[(n->base.posted_first + index) % KVT_JOBS_MAX];
    g->since_us = clock_now_us();
    g->outcome = kvt_judge(&n->base, &g->job, &g->frame);
    if (g->outcome != KVT_ARRIVED || g->frame.payload_bytes == 0) {
        g->step = ENDING;
    } else if (g->frame.payload_bytes > n->options.stage_bytes) {
        broken(n, "nccl: a group of %llu bytes and staging of %llu",
               (unsigned long long)g->frame.payload_bytes,
               (unsigned long long)n->options.stage_bytes);
    } else if (transfer(n, index, g->frame.payload_bytes)) {
        n->launching = true;
        g->step = LAUNCH;
    }
}

static void receive_step(pair *n, uint32_t index) {
    group *g = group_at(n, index);
    switch (g->step) {
        case NEW:
            if (!n->launching && its_turn(n, index, FLY)) {
                judge(n, index);
            }
            break;
        case LAUNCH:
            launched(n, index);
            break;
        case FLY:
            if (flown(n, index)) {
                n->times.wire_us += between_us(n, index, WIRE_BEGIN);
                g->step = copy_pages(n, index, &g->job) ? UNPACK : FLY;
            }
            break;
        case UNPACK:
            if (passed(n, index, COPY_END, "unpacking")) {
                n->times.copy_us += between_us(n, index, COPY_BEGIN);
                g->step = ENDING;
            }
            break;
        case PACK:
        case ASKED:
        case READY:
        case ENDING:
        default:
            break;
    }
}

/* One look at everything; true when something moved. */
static bool move(pair *n) {
    stage before = n->stage;
    set_up(n);
    bool moved = n->stage != before;
    for (uint32_t i = 0; i < n->count && n->stage == UP && !n->base.failed; i++) {
        uint32_t count = n->count;
        const group *g = group_at(n, i);
        step was = g->step;
        if (n->sender) {
            send_step(n, i);
        } else {
            receive_step(n, i);
        }
        moved = moved || n->count != count || g->step != was;
        if (n->count != count) {
            break; /* the ring has turned */
        }
    }
    return moved && !n->base.failed;
}

/* What the oldest group waits for is the peer's to give, or NCCL's. */
static bool waits_for_peer(pair *n) {
    step s = n->count > 0 ? group_at(n, 0)->step : NEW;
    return s == ASKED || s == READY || s == LAUNCH || s == FLY || (s == ENDING && n->sender);
}

static void watch_time(pair *n) {
    int64_t now = clock_now_us();
    const group *g = group_at(n, 0);
    if (n->stage != UP && n->stage != ALONE && now > n->deadline_us) {
        broken(n, "nccl: setting up the pair took longer than %lld ms",
               (long long)n->options.setup_us / 1000);
    } else if (n->stage == UP && waits_for_peer(n)) {
        int64_t since = g->since_us > n->oldest_us ? g->since_us : n->oldest_us;
        if (now > since + n->options.transfer_us) {
            broken(n, "nccl: a transfer took longer than %lld ms",
                   (long long)n->options.transfer_us / 1000);
        }
    }
}

/* Goes on as far as things are. */
static void advance(pair *n) {
    if (!n->line.wire || n->base.failed) {
        return;
    }
    if (n->api->cudaSetDevice(n->options.device) != cudaSuccess) {
        broken(n, "nccl: no device %d", n->options.device);
        return;
    }
    hear(n);
    while (!n->base.failed && move(n)) {
    }
    if (!n->base.failed && !KVTPLANTED(DEADLINE_MISSING)) {
        watch_time(n);
    }
    bool busy = n->count > 0 || (n->stage != UP && n->stage != ALONE);
    sideline_tick(&n->line, busy && !n->base.failed);
}

/* ---- verbs ---------------------------------------------------------------------------------- */

static kvt_result nccl_send(kvt *k, const kvt_job *job) {
    pair *n = (pair *)k;
    advance(n);
    if (k->failed) {
        return KVT_FAILED;
    }
    if (!n->line.wire || n->count == (uint32_t)n->options.window ||
        n->sent_count + n->count >= KVT_JOBS_MAX) {
        return KVT_AGAIN;
    }
    group *g = group_at(n, n->count);
    uint64_t bytes = kvt_job_bytes(k, job);
    if (bytes > n->options.stage_bytes) {
        broken(n, "nccl: a group of %llu bytes: more than staging has", (unsigned long long)bytes);
        return KVT_FAILED;
    }
    *g = (group){.step = NEW, .job = *job, .frame = kvt_job_frame(k, job), .outcome = KVT_JUNK};
    n->count++;
    advance(n);
    return k->failed ? KVT_FAILED : KVT_DONE;
}

static bool nccl_sent(kvt *k, uint32_t *sequence) {
    pair *n = (pair *)k;
    advance(n);
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
    (void)job; /* the oldest post, which the oldest group answers */
    advance(n);
    if (k->failed) {
        return KVT_FAILED;
    }
    const group *g = group_at(n, 0);
    if (n->count == 0 || g->step != ENDING) {
        return KVT_AGAIN;
    }
    *out = (kvt_arrival){.outcome = g->outcome,
                         .bytes = g->frame.payload_bytes,
                         .copy_us = clock_now_us() - g->since_us};
    answer(n, NCCLMSG_DONE, g->frame.sequence);
    if (k->failed) {
        return KVT_FAILED;
    }
    drop_oldest(n);
    return KVT_DONE;
}

static void nccl_idle(kvt *k) {
    advance((pair *)k);
}

static int nccl_event_fd(const kvt *k) {
    return sideline_event_fd(&((const pair *)k)->line);
}

static void nccl_event_clear(kvt *k) {
    sideline_event_clear(&((const pair *)k)->line);
}

void nccl_get_times(const kvt *k, nccl_times *out) {
    *out = ((const pair *)k)->times;
}

/* Whoever closes a channel may use its pages afterwards. A device that does not end a copy in this
 * time is lost, and what is being copied with it. */
static void nccl_close(kvt *k) {
    pair *n = (pair *)k;
    int64_t until = clock_now_us() + n->options.transfer_us;
    while (!KVTPLANTED(PAGES_TOO_EARLY) && copying(n)) {
        if (clock_now_us() > until) {
            ncclhold_lost();
            break;
        }
        (void)usleep(50);
    }
    ncclhold_let_go(&n->device);
    sideline_close(&n->line);
    mem_free(n);
}

static const kvt_transport nccl_transport = {"nccl",       nccl_send,     nccl_sent,
                                             nccl_receive, nccl_event_fd, nccl_event_clear,
                                             nccl_close,   nccl_idle};

static void set_options(pair *n, const nccl_options *options) {
    nccl_options *o = &n->options;
    *o = *options;
    o->window = options->window ? options->window : NCCL_WINDOW;
    o->ctas_max = options->ctas_max ? options->ctas_max : NCCL_CTAS;
    o->setup_us = options->setup_us ? options->setup_us : NCCL_SETUP_US;
    o->transfer_us = options->transfer_us ? options->transfer_us : NCCL_TRANSFER_US;
    /* Rows of the staging begin on a boundary that any copy likes. */
    o->stage_bytes =
        ((options->stage_bytes > WARM_BYTES ? options->stage_bytes : WARM_BYTES) + WARM_BYTES - 1) /
        WARM_BYTES * WARM_BYTES;
    n->device.device = o->device;
}

status nccl_open(const kvt_pool *pool, const nccl_options *options, uint64_t generation,
                 bool receiver, kvt **out, diag *d) {
    const ncclapi *api;
    *out = NULL;
    TRY(ncclapi_load(&api, d));
    if (options->window < 0 || options->window > NCCL_WINDOW_MAX) {
        return status_fail(d, STATUS_INVALID, "nccl: a window of %d, at most %d", options->window,
                           NCCL_WINDOW_MAX);
    }
    pair *n = mem_calloc(1, sizeof *n);
    if (!n) {
        return status_fail(d, STATUS_NOMEM, "nccl: no memory for a channel");
    }
    n->api = api;
    set_options(n, options);
    n->sender = !receiver;
    status made = sideline_open(&n->line);
    if (made == STATUS_OK) {
        made = kvt_begin(&n->base, &nccl_transport, pool, generation, receiver);
    }
    if (made != STATUS_OK) {
        nccl_close(&n->base);
        return status_fail(d, made, "nccl: opening a channel: %s", status_text(made));
    }
    *out = &n->base;
    return STATUS_OK;
}

status nccl_attach(kvt *k, int fd, const seal_keys *keys, diag *d) {
    return sideline_attach(&((pair *)k)->line, fd, keys, "nccl", d);
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

void nccl_get_times(const kvt *k, nccl_times *out) {
    (void)k;
    *out = (nccl_times){0};
}
#endif
