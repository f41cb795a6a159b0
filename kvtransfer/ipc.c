/* ipc.c -- groups of pages through the sender's staging, which the receiver has mapped.
 *
 * What goes through the ring is devpair.c's. Both sides take places of the ring in the order of the
 * announcements, so the place says where in the staging a group lies. A place is P's again when D
 * has said done, which it does when its copy has ended: nothing that is being read is written.
 *
 * A channel may break while D copies. Then P ends the connection before anybody else gets the
 * staging, and lets it rest for as long as a copy may take; and D looks whether P is still there
 * after the copy and before it believes what it has. */
#define _GNU_SOURCE
#include "kvtransfer/ipc.h"

#ifdef WEIR_HAVE_NCCL
#include <pthread.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <unistd.h>

#include "engine/base/bytes.h"
#include "engine/base/clock.h"
#include "engine/base/failpoint.h"
#include "kvtransfer/devpairstate.h"
#include "kvtransfer/kvtplanted.h"

enum { EXPORTS_MAX = 1024 };

typedef struct {
    devpair base;
    uint64_t token; /* P: of its staging */
    bool mapped;    /* D: by cudaIpcOpenMemHandle */
} pair;

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

/* ---- setting up ----------------------------------------------------------------------------- */

/* What an offer says where NCCL has a unique id. */
enum { AT_HANDLE = 0, AT_TOKEN = 64, AT_PID = 72, AT_STAGE = 80, AT_WINDOW = 88 };
#define STAGE_BYTES_MAX (1ull << 40)
_Static_assert(sizeof(cudaIpcMemHandle_t) == AT_TOKEN - AT_HANDLE, "a handle fits its place");
_Static_assert(AT_WINDOW + 4 <= NCCLMSG_ID_BYTES, "an offer fits");

static void is_up(devpair *n, int64_t began_us) {
    n->up = true;
    n->oldest_us = clock_now_us();
    n->times.setup_us = n->oldest_us - began_us + 1;
}

static void offer(devpair *n) {
    cudaIpcMemHandle_t handle;
    ncclmsg m = {.kind = NCCLMSG_OFFER, .generation = n->base.generation};
    uint64_t token = 0;
    unsigned window = (unsigned)n->options.window;
    int64_t began_us = clock_now_us();
    if (getrandom(&token, sizeof token, 0) != (ssize_t)sizeof token || token == 0) {
        devpair_broken(n, "no random number");
        return;
    }
    if (!devpair_cuda_ok(
            n, "staging",
            ncclhold_take(&n->device, window * DEVPAIR_EVENTS, window * devpair_place_bytes(n))) ||
        !devpair_cuda_ok(n, "handle", n->api->cudaIpcGetMemHandle(&handle, n->device.stage))) {
        return;
    }
    n->staging = n->device.stage;
    if (!export_put(token, n->staging)) {
        devpair_broken(n, "more than %d channels", EXPORTS_MAX);
        return;
    }
    ((pair *)n)->token = token;
    memcpy(m.id + AT_HANDLE, &handle, sizeof handle);
    bytes_put(m.id + AT_TOKEN, token, 8);
    bytes_put(m.id + AT_PID, (uint64_t)getpid(), 8);
    bytes_put(m.id + AT_STAGE, n->options.stage_bytes, 8);
    bytes_put(m.id + AT_WINDOW, window, 4);
    is_up(n, began_us);
    devpair_say(n, &m);
}

static bool set_up(devpair *n) {
    if (n->sender && n->count > 0) {
        offer(n);
    }
    return n->up;
}

/* P's staging as this process can read it; NULL: the channel has failed. */
static uint8_t *open_staging(devpair *n, const uint8_t id[NCCLMSG_ID_BYTES]) {
    cudaIpcMemHandle_t handle;
    void *at = NULL;
    if (bytes_get(id + AT_PID, 8) == (uint64_t)getpid()) {
        at = export_find(bytes_get(id + AT_TOKEN, 8), false);
        if (!at) {
            devpair_broken(n, "opening the peer's memory: it was never offered");
        }
        return at;
    }
    memcpy(&handle, id + AT_HANDLE, sizeof handle);
    ((pair *)n)->mapped =
        devpair_cuda_ok(n, "opening the peer's memory",
                        n->api->cudaIpcOpenMemHandle(&at, handle, cudaIpcMemLazyEnablePeerAccess));
    return ((pair *)n)->mapped ? at : NULL;
}

static void accept_offer(devpair *n, const uint8_t id[NCCLMSG_ID_BYTES]) {
    uint64_t window = bytes_get(id + AT_WINDOW, 4), stage = bytes_get(id + AT_STAGE, 8);
    int64_t began_us = clock_now_us();
    if (window == 0 || window > DEVPAIR_WINDOW_MAX || stage > STAGE_BYTES_MAX) {
        devpair_broken(n, "an offer of %llu groups of %llu bytes", (unsigned long long)window,
                       (unsigned long long)stage);
        return;
    }
    n->options.window = (int)window;
    n->options.stage_bytes = stage;
    if (!devpair_cuda_ok(n, "memory",
                         ncclhold_take(&n->device, (unsigned)window * DEVPAIR_EVENTS,
                                       window * DEVPAIR_LIST_BYTES))) {
        return;
    }
    n->staging = open_staging(n, id);
    if (n->staging) {
        is_up(n, began_us);
    }
}

/* The peer may still have a copy under way. It hears first that the channel is over: a copy that
 * ends later, of whatever the next pair puts there, it does not believe. */
static void let_go(devpair *n) {
    pair *p = (pair *)n;
    bool asked = false;
    if (p->token && n->line.wire && !KVTPLANTED(STAGING_UNRESTED)) {
        (void)shutdown(wire_fd(n->line.wire), SHUT_RDWR);
    }
    for (uint32_t i = 0; i < n->count; i++) {
        asked = asked || devpair_at(n, i)->step == DEVPAIR_ASKED;
    }
    if (p->token) {
        (void)export_find(p->token, true);
        asked = asked && !KVTPLANTED(STAGING_UNRESTED);
        n->device.rest_us = clock_now_us() + (asked ? n->options.transfer_us : 0);
    }
    if (p->mapped) {
        (void)n->api->cudaIpcCloseMemHandle(n->staging);
    }
    p->token = 0;
    p->mapped = false;
}

/* ---- a group -------------------------------------------------------------------------------- */

/* D answers in order. */
static bool heard_by_sender(devpair *n, const ncclmsg *m) {
    for (uint32_t i = 0; i < n->count; i++) {
        devpair_group *g = devpair_at(n, i);
        if (g->step == DEVPAIR_ENDING) {
            continue;
        }
        if (m->kind != NCCLMSG_DONE || g->step != DEVPAIR_ASKED ||
            g->frame.sequence != m->sequence) {
            return false;
        }
        n->times.wire_us += clock_now_us() - g->since_us;
        g->outcome = KVT_ARRIVED;
        g->done = true;
        g->step = DEVPAIR_ENDING;
        return true;
    }
    return false;
}

static bool hear(devpair *n, const ncclmsg *m) {
    if (n->sender) {
        return heard_by_sender(n, m);
    }
    if (m->kind == NCCLMSG_OFFER && !n->up) {
        accept_offer(n, m->id);
        return true;
    }
    return m->kind == NCCLMSG_ANNOUNCE && devpair_announced(n, m);
}

/* Only D has steps of its own. */
static void step(devpair *n, uint32_t index) {
    devpair_group *g = devpair_at(n, index);
    if (g->step == DEVPAIR_NEW && devpair_judge(n, index)) {
        devpair_copy(n, index);
        if (KVTPLANTED(PLACE_TOO_EARLY) && index == 0) {
            devpair_answer(n, NCCLMSG_DONE, g->frame.sequence);
            g->done = true;
        }
        (void)FAILPOINT("ipc.pulling");
    } else if (g->step == DEVPAIR_UNPACK && devpair_unpacked(n, index)) {
        devpair_hear(n); /* was P there all the time? */
        g->step = DEVPAIR_ENDING;
    }
}

static const devpair_kind ipc_kind = {.verbs = DEVPAIR_VERBS("ipc"),
                                      .announced = "ipc.announced",
                                      .set_up = set_up,
                                      .hear = hear,
                                      .step = step,
                                      .let_go = let_go};

status ipc_open(const kvt_pool *pool, const devpair_options *options, uint64_t generation,
                bool receiver, kvt **out, diag *d) {
    const ncclapi *api;
    *out = NULL;
    TRY(ncclapi_runtime(&api, d));
    return devpair_open(&ipc_kind, sizeof(pair), api, pool, options, generation, receiver, out, d);
}

status ipc_available(diag *d) {
    const ncclapi *api;
    return ncclapi_runtime(&api, d);
}

#else /* built without nccl.h, and so without CUDA's */

status ipc_open(const kvt_pool *pool, const devpair_options *options, uint64_t generation,
                bool receiver, kvt **out, diag *d) {
    (void)pool;
    (void)options;
    (void)generation;
    (void)receiver;
    *out = NULL;
    return ipc_available(d);
}

status ipc_available(diag *d) {
    return status_fail(d, STATUS_UNSUPPORTED, "ipc: built without nccl.h");
}
#endif
