/* nccl.c -- groups of pages over a communicator of two ranks.
 *
 * What goes through the ring is devpair.c's; here is how the pair is joined and how a group
 * crosses: D judges an announcement, posts its receive and says ready; only then P posts its send.
 * So the two ranks' operations stay in pairs. Both sides launch in the order of the announcements,
 * and a communicator launches one operation at a time: after ncclGroupEnd said ncclInProgress
 * nothing is on the stream yet, so the event behind it is recorded only when ncclCommGetAsyncError
 * says that the launch is over. */
#define _GNU_SOURCE
#include "kvtransfer/nccl.h"

#ifdef WEIR_HAVE_NCCL
#include <string.h>

#include "engine/base/clock.h"
#include "engine/base/failpoint.h"
#include "kvtransfer/devpairstate.h"

enum { WARM_BYTES = DEVPAIR_ROW_BYTES };
_Static_assert(NCCL_UNIQUE_ID_BYTES == NCCLMSG_ID_BYTES, "a unique id fits its message");

/* How far the pair is. */
typedef enum {
    ALONE,       /* no offer yet */
    JOINING,     /* the communicator is being made */
    WARM_LAUNCH, /* the first transfer goes to the stream */
    WARM_FLY,    /* ... and ends */
    UP
} stage;

typedef struct {
    devpair base;
    stage stage;
    bool launching; /* some group is in DEVPAIR_LAUNCH */
} pair;

unsigned nccl_aborting(bool *hung) {
    return ncclhold_aborting(hung);
}

uint64_t nccl_staged(void) {
    return ncclhold_staged();
}

static bool nccl_ok(devpair *n, const char *what, ncclResult_t r) {
    if (r != ncclSuccess && r != ncclInProgress) {
        devpair_broken(n, "%s: NCCL error %d", what, (int)r);
        return false;
    }
    return true;
}

/* Whether the communicator has done what it was asked. False too when it has failed. */
static bool comm_ready(devpair *n) {
    ncclResult_t state = ncclInProgress;
    return nccl_ok(n, "state", n->api->ncclCommGetAsyncError(n->device.comm, &state)) &&
           nccl_ok(n, "communicator", state) && state == ncclSuccess;
}

/* The communicator is asked first: a dead peer is known there, and its operations never end. */
static bool flown(devpair *n, uint32_t index) {
    (void)comm_ready(n);
    return !n->base.failed && devpair_passed(n, index, DEVPAIR_WIRE_END, "transfer");
}

/* One send or receive of a group's staging. */
static bool transfer(devpair *n, uint32_t index, uint64_t bytes) {
    const ncclhold *h = &n->device;
    void *at = devpair_staging(n, index);
    if (!devpair_mark(n, index, DEVPAIR_WIRE_BEGIN) ||
        !nccl_ok(n, "group", n->api->ncclGroupStart())) {
        return false;
    }
    ncclResult_t r = n->sender ? n->api->ncclSend(at, bytes, ncclUint8, 1, h->comm, h->wire)
                               : n->api->ncclRecv(at, bytes, ncclUint8, 0, h->comm, h->wire);
    ncclResult_t ended = n->api->ncclGroupEnd();
    return nccl_ok(n, n->sender ? "send" : "receive", r) && nccl_ok(n, "group", ended);
}

/* ---- setting up ----------------------------------------------------------------------------- */

/* A communicator that begins to form, and what it will need. */
static void join(devpair *n, const ncclUniqueId *id) {
    ncclhold *h = &n->device;
    unsigned window = (unsigned)n->options.window;
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    config.blocking = 0;
    config.minCTAs = 1;
    config.maxCTAs = n->options.ctas_max ? n->options.ctas_max : NCCL_CTAS;
    n->deadline_us = clock_now_us() + n->options.setup_us;
    if (devpair_cuda_ok(
            n, "staging",
            ncclhold_take(h, window * DEVPAIR_EVENTS, window * devpair_place_bytes(n))) &&
        nccl_ok(n, "joining",
                n->api->ncclCommInitRankConfig(&h->comm, 2, *id, n->sender ? 0 : 1, &config))) {
        n->staging = h->stage;
        n->setting_up = true;
        ((pair *)n)->stage = JOINING;
    }
}

static void offer(devpair *n) {
    ncclUniqueId id;
    ncclmsg m = {.kind = NCCLMSG_OFFER, .generation = n->base.generation};
    if (nccl_ok(n, "unique id", n->api->ncclGetUniqueId(&id))) {
        join(n, &id);
        memcpy(m.id, &id, sizeof id);
        devpair_say(n, &m);
    }
}

static bool set_up(devpair *n) {
    pair *p = (pair *)n;
    stage before = p->stage;
    switch (p->stage) {
        case ALONE:
            if (n->sender && n->count > 0) {
                offer(n);
            }
            break;
        case JOINING:
            if (comm_ready(n) && transfer(n, 0, WARM_BYTES)) {
                p->stage = WARM_LAUNCH;
            }
            break;
        case WARM_LAUNCH:
            if (comm_ready(n) && devpair_mark(n, 0, DEVPAIR_WIRE_END)) {
                p->stage = WARM_FLY;
            }
            break;
        case WARM_FLY:
            if (flown(n, 0)) {
                n->oldest_us = clock_now_us();
                n->times.setup_us = n->oldest_us - n->deadline_us + n->options.setup_us;
                n->setting_up = false;
                n->up = true;
                p->stage = UP;
            }
            break;
        case UP:
        default:
            break;
    }
    return p->stage != before;
}

/* ---- a group -------------------------------------------------------------------------------- */

static bool heard_by_sender(devpair *n, const ncclmsg *m) {
    for (uint32_t i = 0; i < n->count; i++) {
        devpair_group *g = devpair_at(n, i);
        if (g->frame.sequence != m->sequence || g->step < DEVPAIR_ASKED) {
            continue;
        }
        if (m->kind == NCCLMSG_READY && g->step == DEVPAIR_ASKED && g->frame.payload_bytes) {
            n->times.ready_us += clock_now_us() - g->since_us;
            g->step = DEVPAIR_READY;
            return true;
        }
        /* Before it was ready: not wanted. */
        bool ended = m->kind == NCCLMSG_DONE && g->step != DEVPAIR_READY && !g->done;
        g->done = ended;
        g->step = ended && g->step == DEVPAIR_ASKED ? DEVPAIR_ENDING : g->step;
        return ended;
    }
    return false;
}

static bool hear(devpair *n, const ncclmsg *m) {
    if (n->sender) {
        return heard_by_sender(n, m);
    }
    if (m->kind == NCCLMSG_OFFER && ((pair *)n)->stage == ALONE) {
        ncclUniqueId id;
        memcpy(&id, m->id, sizeof id);
        join(n, &id);
        return true;
    }
    return m->kind == NCCLMSG_ANNOUNCE && devpair_announced(n, m);
}

/* Launches are one at a time, and in the order of the groups. */
static bool may_launch(devpair *n, uint32_t index) {
    return !((pair *)n)->launching && devpair_its_turn(n, index, DEVPAIR_FLY);
}

static void launch(devpair *n, uint32_t index) {
    devpair_group *g = devpair_at(n, index);
    if (transfer(n, index, g->frame.payload_bytes)) {
        ((pair *)n)->launching = true;
        g->step = DEVPAIR_LAUNCH;
    }
}

static void launched(devpair *n, uint32_t index) {
    devpair_group *g = devpair_at(n, index);
    if (comm_ready(n) && devpair_mark(n, index, DEVPAIR_WIRE_END)) {
        ((pair *)n)->launching = false;
        g->step = DEVPAIR_FLY;
        if (!n->sender) {
            devpair_answer(n, NCCLMSG_READY, g->frame.sequence);
        }
        (void)FAILPOINT_AT("nccl.", n->sender ? "sending" : "posted");
    }
}

static void landed(devpair *n, uint32_t index) {
    devpair_group *g = devpair_at(n, index);
    n->times.wire_us += devpair_between_us(n, index, DEVPAIR_WIRE_BEGIN);
    if (n->sender) {
        g->outcome = KVT_ARRIVED;
        g->step = DEVPAIR_ENDING;
    } else {
        devpair_copy(n, index);
    }
}

static void step(devpair *n, uint32_t index) {
    devpair_group *g = devpair_at(n, index);
    switch (g->step) {
        case DEVPAIR_NEW: /* D */
            if (may_launch(n, index) && devpair_judge(n, index)) {
                launch(n, index);
            }
            break;
        case DEVPAIR_READY: /* P */
            if (may_launch(n, index)) {
                launch(n, index);
            }
            break;
        case DEVPAIR_LAUNCH:
            launched(n, index);
            break;
        case DEVPAIR_FLY:
            if (flown(n, index)) {
                landed(n, index);
            }
            break;
        case DEVPAIR_UNPACK:
            if (devpair_unpacked(n, index)) {
                g->step = DEVPAIR_ENDING;
            }
            break;
        case DEVPAIR_PACK:
        case DEVPAIR_ASKED:
        case DEVPAIR_ENDING:
        default:
            break;
    }
}

static const devpair_kind nccl_kind = {.verbs = DEVPAIR_VERBS("nccl"),
                                       .announced = "nccl.announced",
                                       .set_up = set_up,
                                       .hear = hear,
                                       .step = step};

status nccl_open(const kvt_pool *pool, const devpair_options *options, uint64_t generation,
                 bool receiver, kvt **out, diag *d) {
    const ncclapi *api;
    *out = NULL;
    TRY(ncclapi_load(&api, d));
    return devpair_open(&nccl_kind, sizeof(pair), api, pool, options, generation, receiver, out, d);
}

#else /* built without nccl.h */

status nccl_open(const kvt_pool *pool, const devpair_options *options, uint64_t generation,
                 bool receiver, kvt **out, diag *d) {
    (void)pool;
    (void)options;
    (void)generation;
    (void)receiver;
    *out = NULL;
    return status_fail(d, STATUS_UNSUPPORTED, "nccl: built without nccl.h");
}

unsigned nccl_aborting(bool *hung) {
    *hung = false;
    return 0;
}

uint64_t nccl_staged(void) {
    return 0;
}
#endif
