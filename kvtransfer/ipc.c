/* ipc.c -- groups of pages through the sender's staging, which the receiver has mapped.
 *
 * Both sides keep a ring of groups and take its places in the order of the announcements, so the
 * place says where in the staging a group lies. A place is P's again when D has said done, which it
 * does when its copy has ended: nothing that is being read is written.
 *
 * A channel may break while D copies. Then P lets its staging rest before the next pair gets it,
 * for as long as a copy may take; and D, which learns of it later than its copy may end, looks
 * whether P is still there after the copy and before it believes what it has. */
#define _GNU_SOURCE
#include "kvtransfer/ipc.h"

#ifdef WEIR_HAVE_NCCL
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

#include "engine/base/bytes.h"
#include "engine/base/clock.h"
#include "engine/base/failpoint.h"
#include "engine/base/mem.h"
#include "kvtransfer/ncclhold.h"
#include "kvtransfer/ncclmsg.h"
#include "kvtransfer/sideline.h"

enum { ROW_BYTES = 256, LIST_BYTES = 4 * KVT_JOB_PAGES, EXPORTS_MAX = 1024 };
_Static_assert(NCCL_WINDOW_MAX *(FRAME_BYTES + 64) < SIDELINE_BYTES_MAX, "a window waits");

/* How far a group is, in this order; each side leaves out what is the other's. */
typedef enum {
    NEW,   /* P: handed over; D: announced */
    PACK,  /* P: pages are copied to staging */
    ASKED, /* P: announced */
    PULL,  /* D: staging is copied to pages */
    ENDING /* P: D has said done; D: kvt_receive reports it */
} step;

typedef struct {
    step step;
    kvt_job job;
    frame frame;
    kvt_outcome outcome;
    int64_t since_us; /* announced (P), judged (D) */
} group;

typedef struct {
    kvt base;
    const ncclapi *api;
    nccl_options options;
    bool sender, up;
    sideline line;
    int64_t oldest_us; /* since when the oldest group is the oldest */
    ncclhold device;
    uint64_t token;                /* P: of its staging */
    uint8_t *staging;              /* P's, as this process has it */
    bool mapped;                   /* D: by cudaIpcOpenMemHandle */
    uint64_t place_bytes;          /* of each group in the staging */
    group groups[NCCL_WINDOW_MAX]; /* ring [options.window], oldest first */
    uint32_t first, count;
    uint32_t sent[KVT_JOBS_MAX]; /* sender: ring of finished sequences */
    uint32_t sent_first, sent_count;
    nccl_times times;
    char reason[160];
} pair;

enum { COPY_BEGIN, COPY_END, GROUP_EVENTS };

static uint32_t slot_of(const pair *n, uint32_t index) {
    return (n->first + index) % (uint32_t)n->options.window;
}

static group *group_at(pair *n, uint32_t index) {
    return &n->groups[slot_of(n, index)];
}

static cudaEvent_t event_at(const pair *n, uint32_t index, int which) {
    return n->device.events[slot_of(n, index) * GROUP_EVENTS + (uint32_t)which];
}

/* ---- staging that has been offered ---------------------------------------------------------- */

/* CUDA opens no handle in the process that made it, so both sides of a channel within one process
 * find the staging here, by a number that nobody can guess. */
static pthread_mutex_t exports_lock = PTHREAD_MUTEX_INITIALIZER;
static struct {
    uint64_t token; /* 0: free */
    uint8_t *staging;
} exports[EXPORTS_MAX];

static bool export_put(uint64_t token, uint8_t *staging) {
    bool put = false;
    (void)pthread_mutex_lock(&exports_lock);
    for (int i = 0; i < EXPORTS_MAX && !put; i++) {
        if (exports[i].token == 0) {
            exports[i].token = token;
            exports[i].staging = staging;
            put = true;
        }
    }
    (void)pthread_mutex_unlock(&exports_lock);
    return put;
}

/* NULL: not offered by this process. */
static uint8_t *export_find(uint64_t token, bool remove) {
    uint8_t *found = NULL;
    (void)pthread_mutex_lock(&exports_lock);
    for (int i = 0; i < EXPORTS_MAX && token != 0; i++) {
        if (exports[i].token == token) {
            found = exports[i].staging;
            exports[i].token = remove ? 0 : token;
        }
    }
    (void)pthread_mutex_unlock(&exports_lock);
    return found;
}

/* ---- failing -------------------------------------------------------------------------------- */

static bool copying(const pair *n) {
    for (uint32_t i = 0; i < n->count; i++) {
        step s = n->groups[slot_of(n, i)].step;
        if ((s == PACK || s == PULL) &&
            n->api->cudaEventQuery(event_at(n, i, COPY_END)) == cudaErrorNotReady) {
            return true;
        }
    }
    return false;
}

/* No copy of this side is under way. The peer may have one. */
static void let_go(pair *n) {
    bool asked = false;
    for (uint32_t i = 0; i < n->count; i++) {
        asked = asked || group_at(n, i)->step == ASKED;
    }
    if (n->sender && n->up) {
        (void)export_find(n->token, true);
        n->device.rest_us = clock_now_us() + (asked ? n->options.transfer_us : 0);
    } else if (n->mapped) {
        (void)n->api->cudaIpcCloseMemHandle(n->staging);
    }
    n->up = n->mapped = false;
    n->count = 0;
    ncclhold_let_go(&n->device);
}

/* While copies are under way the channel keeps what they use; ipc_close waits for them. */
__attribute__((format(printf, 2, 3))) static void broken(pair *n, const char *format, ...) {
    if (!n->base.failed) {
        va_list args;
        va_start(args, format);
        (void)vsnprintf(n->reason, sizeof n->reason, format, args);
        va_end(args);
        n->base.failed = true;
    }
    if (!copying(n)) {
        let_go(n);
    }
}

const char *ipc_reason(const kvt *k) {
    return ((const pair *)k)->reason;
}

/* ---- the device ----------------------------------------------------------------------------- */

static bool cuda_ok(pair *n, const char *what, cudaError_t r) {
    if (r != cudaSuccess) {
        broken(n, "ipc: %s: CUDA error %d", what, (int)r);
    }
    return r == cudaSuccess;
}

static bool mark(pair *n, uint32_t index, int which) {
    return cuda_ok(n, "event", n->api->cudaEventRecord(event_at(n, index, which), n->device.copy));
}

static bool passed(pair *n, uint32_t index, const char *what) {
    cudaError_t r = n->api->cudaEventQuery(event_at(n, index, COPY_END));
    return r != cudaErrorNotReady && cuda_ok(n, what, r);
}

static void count_copy(pair *n, uint32_t index) {
    float ms = 0;
    (void)n->api->cudaEventElapsedTime(&ms, event_at(n, index, COPY_BEGIN),
                                       event_at(n, index, COPY_END));
    n->times.copy_us += (int64_t)((double)ms * 1000);
}

/* By the owner of the pages, a kernel a group. D's list of pages is in memory of its own. */
static bool pack(pair *n, uint32_t index, const kvt_job *job, uint8_t *at) {
    const kvt_packer *p = n->base.packer;
    void *context = n->base.pool.context;
    uint8_t *lists = n->device.stage;
    lists += n->sender ? slot_of(n, index) * n->place_bytes + n->options.stage_bytes
                       : (uint64_t)slot_of(n, index) * LIST_BYTES;
    uint32_t *list = (uint32_t *)(void *)lists;
    bool good = n->sender ? p->gather(context, job, at, list, n->device.copy)
                          : p->scatter(context, job, at, list, n->device.copy);
    if (!good) {
        broken(n, "ipc: copying pages: the device has failed");
    }
    return good;
}

/* Begins to copy between a group's pages and P's staging, in wire order. */
static bool copy_pages(pair *n, uint32_t index, const kvt_job *job) {
    uint64_t run = n->base.pool.layer_page_bytes;
    uint8_t *at = n->staging + slot_of(n, index) * n->place_bytes;
    bool good = mark(n, index, COPY_BEGIN);
    if (good && n->base.packer) {
        return pack(n, index, job, at) && mark(n, index, COPY_END);
    }
    for (uint32_t l = 0; good && l < job->layers; l++) {
        for (uint32_t p = 0; good && p < job->pages_count; p++, at += run) {
            uint8_t *page = kvt_run(&n->base, job, l, p);
            good = cuda_ok(n, n->sender ? "packing" : "pulling",
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
        broken(n, "ipc: the peer has gone");
    }
}

/* What an offer says where NCCL has a unique id. */
enum { AT_HANDLE = 0, AT_TOKEN = 64, AT_PID = 72, AT_STAGE = 80, AT_WINDOW = 88 };
#define STAGE_BYTES_MAX (1ull << 40)
_Static_assert(sizeof(cudaIpcMemHandle_t) == AT_TOKEN - AT_HANDLE, "a handle fits its place");
_Static_assert(AT_WINDOW + 4 <= NCCLMSG_ID_BYTES, "an offer fits");

static void offer(pair *n) {
    cudaIpcMemHandle_t handle;
    ncclmsg m = {.kind = NCCLMSG_OFFER, .generation = n->base.generation};
    unsigned window = (unsigned)n->options.window;
    int64_t began = clock_now_us();
    n->place_bytes = n->options.stage_bytes + LIST_BYTES;
    if (getrandom(&n->token, sizeof n->token, 0) != (ssize_t)sizeof n->token || n->token == 0) {
        broken(n, "ipc: no random number");
        return;
    }
    if (!cuda_ok(n, "staging",
                 ncclhold_take(&n->device, window * GROUP_EVENTS, window * n->place_bytes)) ||
        !cuda_ok(n, "handle", n->api->cudaIpcGetMemHandle(&handle, n->device.stage))) {
        return;
    }
    n->staging = n->device.stage;
    n->up = true;
    if (!export_put(n->token, n->staging)) {
        broken(n, "ipc: more than %d channels", EXPORTS_MAX);
        return;
    }
    memcpy(m.id + AT_HANDLE, &handle, sizeof handle);
    bytes_put(m.id + AT_TOKEN, n->token, 8);
    bytes_put(m.id + AT_PID, (uint64_t)getpid(), 8);
    bytes_put(m.id + AT_STAGE, n->options.stage_bytes, 8);
    bytes_put(m.id + AT_WINDOW, window, 4);
    say(n, &m);
    n->oldest_us = clock_now_us();
    n->times.setup_us = n->oldest_us - began + 1;
}

/* Opens what P has offered. */
static void accept_offer(pair *n, const uint8_t id[NCCLMSG_ID_BYTES]) {
    cudaIpcMemHandle_t handle;
    uint64_t window = bytes_get(id + AT_WINDOW, 4), stage = bytes_get(id + AT_STAGE, 8);
    int64_t began = clock_now_us();
    if (window == 0 || window > NCCL_WINDOW_MAX || stage > STAGE_BYTES_MAX) {
        broken(n, "ipc: an offer of %llu groups of %llu bytes", (unsigned long long)window,
               (unsigned long long)stage);
        return;
    }
    n->options.window = (int)window;
    n->options.stage_bytes = stage;
    n->place_bytes = stage + LIST_BYTES;
    if (!cuda_ok(n, "memory",
                 ncclhold_take(&n->device, (unsigned)window * GROUP_EVENTS, window * LIST_BYTES))) {
        return;
    }
    if (bytes_get(id + AT_PID, 8) == (uint64_t)getpid()) {
        n->staging = export_find(bytes_get(id + AT_TOKEN, 8), false);
        if (!n->staging) {
            broken(n, "ipc: opening the peer's memory: it was never offered");
            return;
        }
    } else {
        void *at = NULL;
        memcpy(&handle, id + AT_HANDLE, sizeof handle);
        if (!cuda_ok(n, "opening the peer's memory",
                     n->api->cudaIpcOpenMemHandle(&at, handle, cudaIpcMemLazyEnablePeerAccess))) {
            return;
        }
        n->staging = at;
        n->mapped = true;
    }
    n->up = true;
    n->times.setup_us = clock_now_us() - began + 1;
}

static void announce(pair *n, group *g) {
    say(n, &(ncclmsg){.kind = NCCLMSG_ANNOUNCE, .frame = g->frame});
    g->since_us = clock_now_us();
    g->step = ASKED;
    (void)FAILPOINT("ipc.announced");
}

/* D answers in order. */
static bool heard_by_sender(pair *n, const ncclmsg *m) {
    for (uint32_t i = 0; i < n->count; i++) {
        group *g = group_at(n, i);
        if (g->step == ENDING) {
            continue;
        }
        if (m->kind != NCCLMSG_DONE || g->step != ASKED || g->frame.sequence != m->sequence) {
            return false;
        }
        n->times.wire_us += clock_now_us() - g->since_us;
        g->step = ENDING;
        return true;
    }
    return false;
}

static bool heard_by_receiver(pair *n, const ncclmsg *m) {
    if (m->kind == NCCLMSG_OFFER && !n->up) {
        accept_offer(n, m->id);
        return true;
    }
    if (m->kind == NCCLMSG_ANNOUNCE && n->up && n->count < (uint32_t)n->options.window) {
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
            broken(n, "ipc: the peer said something out of turn");
        }
    }
    if (!n->base.failed && (r == WIRE_CLOSED || !wire_flush(n->line.wire))) {
        broken(n, "ipc: the peer has gone");
    }
}

/* ---- steps ---------------------------------------------------------------------------------- */

/* The oldest group is over. */
static void drop_oldest(pair *n) {
    const group *g = group_at(n, 0);
    bool moved = g->frame.payload_bytes > 0 && (n->sender || g->outcome == KVT_ARRIVED);
    n->times.groups++;
    n->times.empty += !moved;
    n->times.bytes += moved ? g->frame.payload_bytes : 0;
    n->first = slot_of(n, 1);
    n->count--;
    n->oldest_us = clock_now_us();
}

static bool may_announce(pair *n, uint32_t index) {
    return index == 0 || group_at(n, index - 1)->step >= ASKED;
}

static void send_step(pair *n, uint32_t index) {
    group *g = group_at(n, index);
    if (g->step == NEW && !g->job.junk) {
        g->step = copy_pages(n, index, &g->job) ? PACK : NEW;
    } else if (g->step == NEW && may_announce(n, index)) {
        announce(n, g);
    } else if (g->step == PACK && may_announce(n, index) && passed(n, index, "packing")) {
        count_copy(n, index);
        announce(n, g);
    } else if (g->step == ENDING && index == 0) {
        n->sent[(n->sent_first + n->sent_count++) % KVT_JOBS_MAX] = g->frame.sequence;
        drop_oldest(n);
    }
}

/* D: judges what was announced, and copies or declines. */
static void judge(pair *n, uint32_t index) {
    group *g = group_at(n, index);
    if (index >= n->base.posted_count) {
        broken(n, "ipc: an announcement without a post");
        return;
    }
    g->job = n->base.posted[(n->base.posted_first + index) % KVT_JOBS_MAX];
    g->since_us = clock_now_us();
    g->outcome = kvt_judge(&n->base, &g->job, &g->frame);
    if (g->outcome != KVT_ARRIVED || g->frame.payload_bytes == 0) {
        g->step = ENDING;
    } else if (g->frame.payload_bytes > n->options.stage_bytes) {
        broken(n, "ipc: a group of %llu bytes and staging of %llu",
               (unsigned long long)g->frame.payload_bytes,
               (unsigned long long)n->options.stage_bytes);
    } else {
        g->step = copy_pages(n, index, &g->job) ? PULL : NEW;
        (void)FAILPOINT("ipc.pulling");
    }
}

static void receive_step(pair *n, uint32_t index) {
    group *g = group_at(n, index);
    if (g->step == NEW) {
        judge(n, index);
    } else if (g->step == PULL && passed(n, index, "pulling")) {
        count_copy(n, index);
        hear(n); /* was P there all the time? */
        g->step = ENDING;
    }
}

/* One look at everything; true when something moved. */
static bool move(pair *n) {
    bool moved = false;
    for (uint32_t i = 0; i < n->count && !n->base.failed; i++) {
        uint32_t count = n->count;
        const group *g = group_at(n, i);
        step was = g->step;
        if (n->sender) {
            send_step(n, i);
        } else {
            receive_step(n, i);
        }
        moved = moved || n->count != count || g->step != was;
        if (n->count < count) {
            break; /* the ring has turned */
        }
    }
    return moved && !n->base.failed;
}

/* D's answer is what P waits for; D waits for its own device alone, and its posts for P. */
static void watch_time(pair *n) {
    const group *g = group_at(n, 0);
    if (n->sender && n->count > 0 && g->step == ASKED) {
        int64_t since = g->since_us > n->oldest_us ? g->since_us : n->oldest_us;
        if (clock_now_us() > since + n->options.transfer_us) {
            broken(n, "ipc: a transfer took longer than %lld ms",
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
        broken(n, "ipc: no device %d", n->options.device);
        return;
    }
    hear(n);
    if (!n->base.failed && n->sender && !n->up && n->count > 0) {
        offer(n);
    }
    while (!n->base.failed && move(n)) {
    }
    if (!n->base.failed) {
        watch_time(n);
    }
    sideline_tick(&n->line, n->count > 0 && !n->base.failed);
}

/* ---- verbs ---------------------------------------------------------------------------------- */

static kvt_result ipc_send(kvt *k, const kvt_job *job) {
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
        broken(n, "ipc: a group of %llu bytes: more than staging has", (unsigned long long)bytes);
        return KVT_FAILED;
    }
    *g = (group){.step = NEW, .job = *job, .frame = kvt_job_frame(k, job)};
    n->count++;
    advance(n);
    return k->failed ? KVT_FAILED : KVT_DONE;
}

static bool ipc_sent(kvt *k, uint32_t *sequence) {
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

static kvt_result ipc_receive(kvt *k, const kvt_job *job, kvt_arrival *out) {
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
    say(n, &(ncclmsg){.kind = NCCLMSG_DONE, .sequence = g->frame.sequence});
    if (k->failed) {
        return KVT_FAILED;
    }
    drop_oldest(n);
    return KVT_DONE;
}

static void ipc_idle(kvt *k) {
    advance((pair *)k);
}

static int ipc_event_fd(const kvt *k) {
    return sideline_event_fd(&((const pair *)k)->line);
}

static void ipc_event_clear(kvt *k) {
    sideline_event_clear(&((pair *)k)->line);
}

void ipc_get_times(const kvt *k, nccl_times *out) {
    *out = ((const pair *)k)->times;
}

/* Whoever closes a channel may use its pages afterwards. A device that does not end a copy in this
 * time is lost, and what is being copied with it. */
static void ipc_close(kvt *k) {
    pair *n = (pair *)k;
    int64_t until = clock_now_us() + n->options.transfer_us;
    while (copying(n)) {
        if (clock_now_us() > until) {
            ncclhold_lost();
            break;
        }
        (void)usleep(50);
    }
    let_go(n);
    sideline_close(&n->line);
    mem_free(n);
}

static const kvt_transport ipc_transport = {"ipc",        ipc_send,        ipc_sent,  ipc_receive,
                                            ipc_event_fd, ipc_event_clear, ipc_close, ipc_idle};

static void set_options(pair *n, const nccl_options *options) {
    nccl_options *o = &n->options;
    *o = *options;
    o->window = options->window ? options->window : NCCL_WINDOW;
    o->transfer_us = options->transfer_us ? options->transfer_us : NCCL_TRANSFER_US;
    /* Places of the staging begin on a boundary that any copy likes. */
    o->stage_bytes = (options->stage_bytes + ROW_BYTES - 1) / ROW_BYTES * ROW_BYTES;
    n->device.device = o->device;
}

status ipc_open(const kvt_pool *pool, const nccl_options *options, uint64_t generation,
                bool receiver, kvt **out, diag *d) {
    const ncclapi *api;
    *out = NULL;
    TRY(ncclapi_runtime(&api, d));
    if (options->window < 0 || options->window > NCCL_WINDOW_MAX) {
        return status_fail(d, STATUS_INVALID, "ipc: a window of %d, at most %d", options->window,
                           NCCL_WINDOW_MAX);
    }
    pair *n = mem_calloc(1, sizeof *n);
    if (!n) {
        return status_fail(d, STATUS_NOMEM, "ipc: no memory for a channel");
    }
    n->api = api;
    set_options(n, options);
    n->sender = !receiver;
    status made = sideline_open(&n->line);
    if (made == STATUS_OK) {
        made = kvt_begin(&n->base, &ipc_transport, pool, generation, receiver);
    }
    if (made != STATUS_OK) {
        ipc_close(&n->base);
        return status_fail(d, made, "ipc: opening a channel: %s", status_text(made));
    }
    *out = &n->base;
    return STATUS_OK;
}

status ipc_attach(kvt *k, int fd, const seal_keys *keys, diag *d) {
    return sideline_attach(&((pair *)k)->line, fd, keys, "ipc", d);
}

status ipc_available(diag *d) {
    const ncclapi *api;
    return ncclapi_runtime(&api, d);
}

#else /* built without nccl.h, and so without CUDA's */

status ipc_open(const kvt_pool *pool, const nccl_options *options, uint64_t generation,
                bool receiver, kvt **out, diag *d) {
    (void)pool;
    (void)options;
    (void)generation;
    (void)receiver;
    *out = NULL;
    return ipc_available(d);
}

status ipc_attach(kvt *k, int fd, const seal_keys *keys, diag *d) {
    (void)k;
    (void)fd;
    (void)keys;
    return ipc_available(d);
}

void ipc_get_times(const kvt *k, nccl_times *out) {
    (void)k;
    *out = (nccl_times){0};
}

const char *ipc_reason(const kvt *k) {
    (void)k;
    return "";
}

status ipc_available(diag *d) {
    return status_fail(d, STATUS_UNSUPPORTED, "ipc: built without nccl.h");
}
#endif
