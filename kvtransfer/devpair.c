/* devpair.c -- the ring of groups between two devices, and everything that no transport has its own
 * way of doing.
 *
 * Some groups are under way at once, in the order of their sequence: while one is packed another is
 * announced, and a third is on its way. Both sides take places of their rings in the order of the
 * announcements. D judges an announcement before it asks for anything, so what is junk or damaged
 * moves no bytes. The calls of one step are made as soon as the step before is over, whoever calls:
 * `advance` below is the only place that moves a side on. */
#define _GNU_SOURCE
#include "kvtransfer/devpair.h"

#ifdef WEIR_HAVE_NCCL
#include <stdarg.h>
#include <stdio.h>
#include <unistd.h>

#include "engine/base/clock.h"
#include "engine/base/failpoint.h"
#include "engine/base/mem.h"
#include "kvtransfer/devpairstate.h"
#include "kvtransfer/kvtplanted.h"

_Static_assert(DEVPAIR_WINDOW_MAX *(FRAME_BYTES + 64) < SIDELINE_BYTES_MAX,
               "a window of messages waits");
_Static_assert((int)NCCLHOLD_EVENTS == (int)DEVPAIR_EVENTS * (int)DEVPAIR_WINDOW_MAX, "events");

static uint32_t slot_of(const devpair *n, uint32_t index) {
    return (n->first + index) % (uint32_t)n->options.window;
}

devpair_group *devpair_at(devpair *n, uint32_t index) {
    return &n->groups[slot_of(n, index)];
}

uint64_t devpair_place_bytes(const devpair *n) {
    return n->options.stage_bytes + DEVPAIR_LIST_BYTES;
}

uint8_t *devpair_staging(const devpair *n, uint32_t index) {
    return n->staging + slot_of(n, index) * devpair_place_bytes(n);
}

cudaEvent_t devpair_event(const devpair *n, uint32_t index, int which) {
    return n->device.events[slot_of(n, index) * DEVPAIR_EVENTS + (uint32_t)which];
}

/* ---- failing -------------------------------------------------------------------------------- */

/* Pages or staging are being read or written. Nothing but the device ends that. */
static bool copying(const devpair *n) {
    for (uint32_t i = 0; i < n->count; i++) {
        devpair_step s = n->groups[slot_of(n, i)].step;
        if ((s == DEVPAIR_PACK || s == DEVPAIR_UNPACK) &&
            n->api->cudaEventQuery(devpair_event(n, i, DEVPAIR_COPY_END)) == cudaErrorNotReady) {
            return true;
        }
    }
    return false;
}

static void let_go(devpair *n) {
    if (n->kind->let_go) {
        n->kind->let_go(n);
    }
    n->up = n->setting_up = false;
    n->count = 0;
    ncclhold_let_go(&n->device);
}

void devpair_broken(devpair *n, const char *format, ...) {
    if (!n->base.failed) {
        va_list args;
        va_start(args, format);
        int used = snprintf(n->reason, sizeof n->reason, "%s: ", n->kind->verbs.name);
        (void)vsnprintf(n->reason + used, sizeof n->reason - (size_t)used, format, args);
        va_end(args);
        n->base.failed = true;
    }
    if (!copying(n)) {
        let_go(n);
    }
}

const char *devpair_reason(const kvt *k) {
    return ((const devpair *)k)->reason;
}

/* ---- the device ----------------------------------------------------------------------------- */

bool devpair_cuda_ok(devpair *n, const char *what, cudaError_t r) {
    if (r != cudaSuccess) {
        devpair_broken(n, "%s: CUDA error %d", what, (int)r);
    }
    return r == cudaSuccess;
}

bool devpair_mark(devpair *n, uint32_t index, int which) {
    bool copy = which == DEVPAIR_COPY_BEGIN || which == DEVPAIR_COPY_END;
    cudaStream_t s = copy ? n->device.copy : n->device.wire;
    return devpair_cuda_ok(n, "event", n->api->cudaEventRecord(devpair_event(n, index, which), s));
}

bool devpair_passed(devpair *n, uint32_t index, int which, const char *what) {
    cudaError_t r = n->api->cudaEventQuery(devpair_event(n, index, which));
    return r != cudaErrorNotReady && devpair_cuda_ok(n, what, r);
}

int64_t devpair_between_us(const devpair *n, uint32_t index, int which) {
    float ms = 0;
    (void)n->api->cudaEventElapsedTime(&ms, devpair_event(n, index, which),
                                       devpair_event(n, index, which + 1));
    return (int64_t)((double)ms * 1000);
}

/* Memory of this side's own for the numbers of a group's pages. */
static uint32_t *list_of(const devpair *n, uint32_t index) {
    uint8_t *at = n->staging == n->device.stage
                      ? devpair_staging(n, index) + n->options.stage_bytes
                      : (uint8_t *)n->device.stage + slot_of(n, index) * DEVPAIR_LIST_BYTES;
    return (uint32_t *)(void *)at;
}

/* By the owner of the pages, a kernel a group. */
static bool pack(devpair *n, uint32_t index) {
    const kvt_packer *p = n->base.packer;
    const kvt_job *job = &devpair_at(n, index)->job;
    void *at = devpair_staging(n, index), *context = n->base.pool.context;
    uint32_t *list = list_of(n, index);
    return n->sender ? p->gather(context, job, at, list, n->device.copy)
                     : p->scatter(context, job, at, list, n->device.copy);
}

static bool copy_pages(devpair *n, uint32_t index) {
    const kvt_job *job = &devpair_at(n, index)->job;
    uint64_t run = n->base.pool.layer_page_bytes;
    uint8_t *at = devpair_staging(n, index);
    cudaError_t e = cudaSuccess;
    for (uint32_t l = 0; e == cudaSuccess && l < job->layers; l++) {
        for (uint32_t p = 0; e == cudaSuccess && p < job->pages_count; p++, at += run) {
            uint8_t *page = kvt_run(&n->base, job, l, p);
            e = n->api->cudaMemcpyAsync(n->sender ? at : page, n->sender ? page : at, run,
                                        cudaMemcpyDefault, n->device.copy);
        }
    }
    return e == cudaSuccess;
}

/* What fails on the way may have begun something: it counts as under way up to the second mark. */
void devpair_copy(devpair *n, uint32_t index) {
    if (devpair_mark(n, index, DEVPAIR_COPY_BEGIN)) {
        devpair_at(n, index)->step = n->sender ? DEVPAIR_PACK : DEVPAIR_UNPACK;
        bool begun = n->base.packer ? pack(n, index) : copy_pages(n, index);
        if (devpair_mark(n, index, DEVPAIR_COPY_END) && !begun) {
            devpair_broken(n, "copying pages: the device has failed");
        }
    }
}

static bool copied(devpair *n, uint32_t index, const char *what) {
    if (!devpair_passed(n, index, DEVPAIR_COPY_END, what)) {
        return false;
    }
    n->times.copy_us += devpair_between_us(n, index, DEVPAIR_COPY_BEGIN);
    return true;
}

bool devpair_unpacked(devpair *n, uint32_t index) {
    return copied(n, index, "unpacking");
}

/* ---- messages ------------------------------------------------------------------------------- */

void devpair_say(devpair *n, const ncclmsg *m) {
    uint8_t text[NCCLMSG_BYTES_MAX];
    uint32_t bytes = ncclmsg_put(m, text);
    if (!n->base.failed && !sideline_say(&n->line, str_of((const char *)text, bytes))) {
        devpair_broken(n, "the peer has gone");
    }
}

void devpair_answer(devpair *n, ncclmsg_kind kind, uint32_t sequence) {
    devpair_say(n, &(ncclmsg){.kind = kind, .sequence = sequence});
}

static void announce(devpair *n, devpair_group *g) {
    devpair_say(n, &(ncclmsg){.kind = NCCLMSG_ANNOUNCE, .frame = g->frame});
    g->since_us = clock_now_us();
    g->step = DEVPAIR_ASKED;
    (void)FAILPOINT(n->kind->announced);
}

bool devpair_announced(devpair *n, const ncclmsg *m) {
    if ((!n->up && !n->setting_up) || n->count >= (uint32_t)n->options.window) {
        return false;
    }
    devpair_group *g = devpair_at(n, n->count++);
    *g = (devpair_group){.step = DEVPAIR_NEW, .frame = m->frame};
    return true;
}

void devpair_hear(devpair *n) {
    str text;
    int fd;
    wire_result r = WIRE_AGAIN;
    while (!n->base.failed && (r = wire_receive(n->line.wire, &text, &fd)) == WIRE_MESSAGE) {
        ncclmsg m;
        if (fd >= 0) {
            (void)close(fd);
        }
        if (!ncclmsg_get(text, &m) || !n->kind->hear(n, &m)) {
            devpair_broken(n, "the peer said something out of turn");
        }
    }
    if (r == WIRE_CLOSED || !wire_flush(n->line.wire)) {
        devpair_broken(n, "the peer has gone");
    }
}

/* ---- steps ---------------------------------------------------------------------------------- */

/* The oldest group is over. */
static void drop_oldest(devpair *n) {
    const devpair_group *g = devpair_at(n, 0);
    bool moved = g->outcome == KVT_ARRIVED && g->frame.payload_bytes > 0;
    n->times.groups++;
    n->times.empty += !moved;
    n->times.bytes += moved ? g->frame.payload_bytes : 0;
    n->first = slot_of(n, 1);
    n->count--;
    n->oldest_us = clock_now_us();
}

bool devpair_its_turn(devpair *n, uint32_t index, devpair_step s) {
    return index == 0 || devpair_at(n, index - 1)->step >= s;
}

static bool may_announce(devpair *n, uint32_t index) {
    if (KVTPLANTED(ANNOUNCEMENTS_SWAPPED) && n->count > 1 && index < 2) {
        return index == 1 || devpair_at(n, 1)->step >= DEVPAIR_ASKED;
    }
    return devpair_its_turn(n, index, DEVPAIR_ASKED);
}

static void send_step(devpair *n, uint32_t index) {
    devpair_group *g = devpair_at(n, index);
    switch (g->step) {
        case DEVPAIR_NEW:
            if (!g->job.junk) {
                devpair_copy(n, index);
            } else if (may_announce(n, index)) {
                announce(n, g);
            }
            break;
        case DEVPAIR_PACK:
            if (may_announce(n, index) && copied(n, index, "packing")) {
                announce(n, g);
            }
            break;
        case DEVPAIR_ENDING:
            if (index == 0 && g->done) {
                n->sent[(n->sent_first + n->sent_count++) % KVT_JOBS_MAX] = g->frame.sequence;
                drop_oldest(n);
            }
            break;
        case DEVPAIR_ASKED:
            break;
        case DEVPAIR_READY:
        case DEVPAIR_LAUNCH:
        case DEVPAIR_FLY:
        case DEVPAIR_UNPACK:
        default:
            n->kind->step(n, index);
            break;
    }
}

bool devpair_judge(devpair *n, uint32_t index) {
    devpair_group *g = devpair_at(n, index);
    if (index >= n->base.posted_count) {
        devpair_broken(n, "an announcement without a post");
        return false;
    }
    g->job = n->base.posted[(n->base.posted_first + index) % KVT_JOBS_MAX];
    g->since_us = clock_now_us();
    g->outcome = kvt_judge(&n->base, &g->job, &g->frame);
    if (g->outcome != KVT_ARRIVED || g->frame.payload_bytes == 0) {
        g->step = DEVPAIR_ENDING;
        return false;
    }
    if (g->frame.payload_bytes > n->options.stage_bytes) {
        devpair_broken(n, "a group of %llu bytes and staging of %llu",
                       (unsigned long long)g->frame.payload_bytes,
                       (unsigned long long)n->options.stage_bytes);
        return false;
    }
    return true;
}

/* One look at everything; true when something moved. */
static bool move(devpair *n) {
    bool moved = !n->up && n->kind->set_up(n);
    for (uint32_t i = 0; i < n->count && n->up && !n->base.failed; i++) {
        uint32_t count = n->count;
        const devpair_group *g = devpair_at(n, i);
        devpair_step was = g->step;
        if (n->sender) {
            send_step(n, i);
        } else if (was != DEVPAIR_ENDING) {
            n->kind->step(n, i);
        }
        moved = moved || n->count != count || g->step != was;
        if (n->count < count) {
            break; /* the ring has turned */
        }
    }
    return moved && !n->base.failed;
}

/* What the oldest group waits for is the peer's to give, or NCCL's. */
static bool waits_for_peer(devpair *n) {
    devpair_step s = n->count > 0 ? devpair_at(n, 0)->step : DEVPAIR_NEW;
    return s == DEVPAIR_ASKED || s == DEVPAIR_READY || s == DEVPAIR_LAUNCH || s == DEVPAIR_FLY ||
           (s == DEVPAIR_ENDING && n->sender);
}

static void watch_time(devpair *n) {
    int64_t now = clock_now_us();
    const devpair_group *g = devpair_at(n, 0);
    if (n->setting_up && now > n->deadline_us) {
        devpair_broken(n, "setting up the pair took longer than %lld ms",
                       (long long)n->options.setup_us / 1000);
    } else if (n->up && waits_for_peer(n)) {
        int64_t since = g->since_us > n->oldest_us ? g->since_us : n->oldest_us;
        if (now > since + n->options.transfer_us) {
            devpair_broken(n, "a transfer took longer than %lld ms",
                           (long long)n->options.transfer_us / 1000);
        }
    }
}

/* Goes on as far as things are. */
static void advance(devpair *n) {
    if (!n->line.wire || n->base.failed) {
        return;
    }
    if (n->api->cudaSetDevice(n->options.device) != cudaSuccess) {
        devpair_broken(n, "no device %d", n->options.device);
        return;
    }
    devpair_hear(n);
    while (!n->base.failed && move(n)) {
    }
    if (!n->base.failed && !KVTPLANTED(DEADLINE_MISSING)) {
        watch_time(n);
    }
    sideline_tick(&n->line, (n->count > 0 || n->setting_up) && !n->base.failed);
}

/* ---- verbs ---------------------------------------------------------------------------------- */

kvt_result devpair_send(kvt *k, const kvt_job *job) {
    devpair *n = (devpair *)k;
    advance(n);
    if (k->failed) {
        return KVT_FAILED;
    }
    if (!n->line.wire || n->count == (uint32_t)n->options.window ||
        n->sent_count + n->count >= KVT_JOBS_MAX) {
        return KVT_AGAIN;
    }
    uint64_t bytes = kvt_job_bytes(k, job);
    if (bytes > n->options.stage_bytes) {
        devpair_broken(n, "a group of %llu bytes: more than staging has",
                       (unsigned long long)bytes);
        return KVT_FAILED;
    }
    *devpair_at(n, n->count) = (devpair_group){
        .step = DEVPAIR_NEW, .job = *job, .frame = kvt_job_frame(k, job), .outcome = KVT_JUNK};
    n->count++;
    advance(n);
    return k->failed ? KVT_FAILED : KVT_DONE;
}

bool devpair_sent(kvt *k, uint32_t *sequence) {
    devpair *n = (devpair *)k;
    advance(n);
    if (n->sent_count == 0 || k->failed) {
        return false;
    }
    *sequence = n->sent[n->sent_first];
    n->sent_first = (n->sent_first + 1) % KVT_JOBS_MAX;
    n->sent_count--;
    return true;
}

kvt_result devpair_receive(kvt *k, const kvt_job *job, kvt_arrival *out) {
    devpair *n = (devpair *)k;
    (void)job; /* the oldest post, which the oldest group answers */
    advance(n);
    if (k->failed) {
        return KVT_FAILED;
    }
    const devpair_group *g = devpair_at(n, 0);
    if (n->count == 0 || g->step != DEVPAIR_ENDING) {
        return KVT_AGAIN;
    }
    *out = (kvt_arrival){.outcome = g->outcome,
                         .bytes = g->frame.payload_bytes,
                         .copy_us = clock_now_us() - g->since_us};
    if (!KVTPLANTED(PLACE_TOO_EARLY) || !g->done) {
        devpair_answer(n, NCCLMSG_DONE, g->frame.sequence);
    }
    if (k->failed) {
        return KVT_FAILED;
    }
    drop_oldest(n);
    return KVT_DONE;
}

void devpair_idle(kvt *k) {
    advance((devpair *)k);
}

int devpair_event_fd(const kvt *k) {
    return sideline_event_fd(&((const devpair *)k)->line);
}

void devpair_event_clear(kvt *k) {
    sideline_event_clear(&((const devpair *)k)->line);
}

void devpair_get_times(const kvt *k, devpair_times *out) {
    *out = ((const devpair *)k)->times;
}

/* Whoever closes a channel may use its pages afterwards. A device that does not end a copy in this
 * time is lost, and what is being copied with it. */
void devpair_close(kvt *k) {
    devpair *n = (devpair *)k;
    int64_t until = clock_now_us() + n->options.transfer_us;
    while (!KVTPLANTED(PAGES_TOO_EARLY) && copying(n)) {
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

static void set_options(devpair *n, const devpair_options *options) {
    devpair_options *o = &n->options;
    *o = *options;
    o->window = options->window ? options->window : DEVPAIR_WINDOW;
    o->setup_us = options->setup_us ? options->setup_us : DEVPAIR_SETUP_US;
    o->transfer_us = options->transfer_us ? options->transfer_us : DEVPAIR_TRANSFER_US;
    /* Places of the staging begin on a boundary that any copy likes. */
    const uint64_t row = DEVPAIR_ROW_BYTES;
    o->stage_bytes =
        ((options->stage_bytes > row ? options->stage_bytes : row) + row - 1) / row * row;
    n->device.device = o->device;
}

status devpair_open(const devpair_kind *kind, size_t bytes, const ncclapi *api,
                    const kvt_pool *pool, const devpair_options *options, uint64_t generation,
                    bool receiver, kvt **out, diag *d) {
    const char *name = kind->verbs.name;
    *out = NULL;
    if (options->window < 0 || options->window > DEVPAIR_WINDOW_MAX) {
        return status_fail(d, STATUS_INVALID, "%s: a window of %d, at most %d", name,
                           options->window, DEVPAIR_WINDOW_MAX);
    }
    devpair *n = mem_calloc(1, bytes);
    if (!n) {
        return status_fail(d, STATUS_NOMEM, "%s: no memory for a channel", name);
    }
    n->kind = kind;
    n->api = api;
    set_options(n, options);
    n->sender = !receiver;
    status made = sideline_open(&n->line);
    if (made == STATUS_OK) {
        made = kvt_begin(&n->base, &kind->verbs, pool, generation, receiver);
    }
    if (made != STATUS_OK) {
        devpair_close(&n->base);
        return status_fail(d, made, "%s: opening a channel: %s", name, status_text(made));
    }
    *out = &n->base;
    return STATUS_OK;
}

status devpair_attach(kvt *k, int fd, const seal_keys *keys, diag *d) {
    devpair *n = (devpair *)k;
    return sideline_attach(&n->line, fd, keys, n->kind->verbs.name, d);
}

#else /* built without nccl.h: no such channel is ever opened */

status devpair_attach(kvt *k, int fd, const seal_keys *keys, diag *d) {
    (void)k;
    (void)fd;
    (void)keys;
    return status_fail(d, STATUS_UNSUPPORTED, "nccl: built without nccl.h");
}

const char *devpair_reason(const kvt *k) {
    (void)k;
    return "";
}

void devpair_get_times(const kvt *k, devpair_times *out) {
    (void)k;
    *out = (devpair_times){0};
}
#endif
