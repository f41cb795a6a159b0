/* cudagroup.c -- devices that share a model: what NCCL adds up among them.
 *
 * A rank is a backend with a thread of its own, and NCCL's calls for it come from that thread only:
 * so nothing here blocks in NCCL. Calls are asked for and then asked after, and whoever waits looks
 * at `left` too: a collective that one rank will never join would not end on the others. Who leaves
 * aborts its own communicator.
 *
 * Of more than two ranks NCCL's sums have an order that depends on how many numbers there are. With
 * --deterministic each rank therefore adds up a share of the numbers, in the order of the ranks,
 * and the others send it what they have of it: what goes over the links is what NCCL's ring sends.
 *
 * The library is opened by name, not linked: a GPU alone needs none.
 */
#define _GNU_SOURCE
#include "kernels/cuda/cudastate.h"

#ifdef WEIR_HAVE_NCCL
#include <assert.h>
#include <dlfcn.h>
#include <nccl.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <unistd.h>

#include "engine/base/clock.h"
#include "engine/base/mem.h"

/* Whoever waits keeps its core for a short step, and gives it back in a long one. */
enum { SPIN_US = 2000, NAP_US = 50 };

static_assert(sizeof(ncclUniqueId) == BACKEND_GROUP_ID_BYTES, "an id is handed on as it is");

/* The functions used, by name. */
#define GROUP_CALLS(X)        \
    X(ncclGetUniqueId)        \
    X(ncclCommInitRankConfig) \
    X(ncclCommGetAsyncError)  \
    X(ncclAllReduce)          \
    X(ncclSend)               \
    X(ncclRecv)               \
    X(ncclGroupStart)         \
    X(ncclGroupEnd)           \
    X(ncclCommAbort)          \
    X(ncclGetErrorString)

#define DECLARE(name) __typeof__(&name) name;
typedef struct {
    GROUP_CALLS(DECLARE)
} group_calls;
#undef DECLARE

struct cudagroup {
    group_calls calls;
    ncclComm_t comm; /* NULL: not there yet, or gone */
    int32_t rank, ranks;
    char fault[128];
};

/* Of the file that WEIR_NCCL names, of what this module was linked with (the emulated device), or
 * of the library's own file, which stays open. */
static void *group_symbol(void **file, const char *name) {
    const char *told = getenv("WEIR_NCCL");
    void *symbol = told != NULL && *told != 0 ? NULL : dlsym(RTLD_DEFAULT, name);
    if (symbol == NULL && *file == NULL) {
        *file = dlopen(told != NULL && *told != 0 ? told : "libnccl.so.2", RTLD_NOW | RTLD_LOCAL);
    }
    return symbol == NULL && *file != NULL ? dlsym(*file, name) : symbol;
}

static status group_find(group_calls *calls, diag *d) {
    void *file = NULL;
    bool all = true;
#define FIND(name)                                     \
    do {                                               \
        void *symbol = group_symbol(&file, #name);     \
        memcpy(&calls->name, &symbol, sizeof(symbol)); \
        all = all && symbol != NULL;                   \
    } while (0);
    GROUP_CALLS(FIND)
#undef FIND
    if (!all) {
        const char *why = file == NULL ? dlerror() : "a call is missing in it";
        return status_fail(d, STATUS_UNSUPPORTED,
                           "several devices for one model need NCCL (libnccl.so.2, or the file "
                           "that WEIR_NCCL names): %s",
                           why != NULL ? why : "it is not there");
    }
    return STATUS_OK;
}

status cudagroup_make(backend *b, backend_group_id *out, diag *d) {
    group_calls calls;
    ncclUniqueId id;
    TRY(cudastate_enter((cudastate *)b));
    TRY(group_find(&calls, d));
    const ncclResult_t r = calls.ncclGetUniqueId(&id);
    if (r != ncclSuccess) {
        return status_fail(d, STATUS_DEVICE, "NCCL: %s", calls.ncclGetErrorString(r));
    }
    memcpy(out->bytes, id.internal, sizeof(out->bytes));
    return STATUS_OK;
}

/* The group is over for this rank. */
static status group_end(cudastate *c, const char *why) {
    struct cudagroup *g = c->group;
    atomic_store(&c->left, true);
    if (g->fault[0] == 0) {
        (void)snprintf(g->fault, sizeof(g->fault), "%s", why);
    }
    if (g->comm != NULL) {
        (void)g->calls.ncclCommAbort(g->comm);
        g->comm = NULL;
    }
    return STATUS_DEVICE;
}

/* NCCL's own word on the communicator; STATUS_OK also while it is busy. */
static status group_look(cudastate *c, ncclResult_t *now) {
    struct cudagroup *g = c->group;
    if (atomic_load(&c->left)) {
        return group_end(c, "");
    }
    if (g->comm == NULL) { /* it never came to be */
        *now = ncclSuccess;
        return STATUS_OK;
    }
    const ncclResult_t asked = g->calls.ncclCommGetAsyncError(g->comm, now);
    const ncclResult_t r = asked != ncclSuccess ? asked : *now;
    return r == ncclSuccess || r == ncclInProgress ? STATUS_OK
                                                   : group_end(c, g->calls.ncclGetErrorString(r));
}

static void group_pause(int64_t since_us) {
    if (clock_now_us() - since_us < SPIN_US) {
        (void)sched_yield();
    } else {
        (void)usleep(NAP_US);
    }
}

/* Until a call that answered `r` has done what it began. */
static status group_settle(cudastate *c, ncclResult_t r) {
    if (r != ncclSuccess && r != ncclInProgress) {
        return group_end(c, c->group->calls.ncclGetErrorString(r));
    }
    const int64_t began_us = clock_now_us();
    while (r == ncclInProgress) {
        group_pause(began_us);
        TRY(group_look(c, &r));
    }
    return STATUS_OK;
}

status cudagroup_wait(cudastate *c) {
    const int64_t began_us = clock_now_us();
    for (;;) {
        const cudaError_t e = cudaStreamQuery(c->stream);
        ncclResult_t unused;
        if (e != cudaErrorNotReady) {
            TRY(cudastate_check(c, e));
            return atomic_load(&c->left) ? group_end(c, "") : STATUS_OK;
        }
        TRY(group_look(c, &unused));
        group_pause(began_us);
    }
}

/* Of `count` numbers, the share that a rank adds up: [first, first + count). */
typedef struct {
    size_t first, count;
} share;

static size_t share_size(const struct cudagroup *g, size_t count) {
    return (count + (size_t)g->ranks - 1) / (size_t)g->ranks;
}

static share share_of(const struct cudagroup *g, size_t count, int32_t rank) {
    const size_t size = share_size(g, count), first = size * (size_t)rank;
    const size_t left = first < count ? count - first : 0;
    return (share){first, size < left ? size : left};
}

/* What one rank has for another; empty shares send nothing. */
static bool group_pass(const cudastate *c, const float *from, size_t sent, float *into,
                       size_t received, int32_t peer) {
    const struct cudagroup *g = c->group;
    const ncclResult_t s =
        sent == 0 ? ncclSuccess
                  : g->calls.ncclSend(from, sent, ncclFloat32, peer, g->comm, c->stream);
    const ncclResult_t r =
        received == 0 ? ncclSuccess
                      : g->calls.ncclRecv(into, received, ncclFloat32, peer, g->comm, c->stream);
    return (s == ncclSuccess || s == ncclInProgress) && (r == ncclSuccess || r == ncclInProgress);
}

/* `gather`: everybody's part of my share comes into `sums`; else the sums go to everybody. */
static status group_trade(cudastate *c, float *x, size_t count, bool gather) {
    struct cudagroup *g = c->group;
    const share mine = share_of(g, count, g->rank);
    float *sums = c->sums.memory;
    bool asked = g->calls.ncclGroupStart() == ncclSuccess;
    for (int32_t peer = 0; peer < g->ranks && asked; peer++) {
        const share its = share_of(g, count, peer);
        float *part = sums + share_size(g, count) * (size_t)peer;
        if (peer != g->rank) {
            asked = gather
                        ? group_pass(c, x + its.first, its.count, part, mine.count, peer)
                        : group_pass(c, x + mine.first, mine.count, x + its.first, its.count, peer);
        }
    }
    const ncclResult_t r = g->calls.ncclGroupEnd();
    return asked ? group_settle(c, r) : group_end(c, "a call to NCCL was refused");
}

static status group_sum_in_order(cudastate *c, float *x, size_t count) {
    const struct cudagroup *g = c->group;
    const share mine = share_of(g, count, g->rank);
    TRY(cudastate_reserve(c, &c->sums, share_size(g, count) * (size_t)g->ranks * sizeof(float)));
    const cuda_sum sum = {.x = x + mine.first,
                          .parts = c->sums.memory,
                          .count = (int64_t)mine.count,
                          .stride = (int64_t)share_size(g, count),
                          .rank = g->rank,
                          .ranks = g->ranks};
    TRY(group_trade(c, x, count, true));
    if (mine.count > 0) {
        TRY(cudastate_check(c, plain_sum(&sum, c->stream)));
    }
    return group_trade(c, x, count, false);
}

static bool group_orders(const cudastate *c) {
    return c->deterministic && c->group->ranks > 2;
}

status cudagroup_reserve(cudastate *c, const ops_sizes *s) {
    if (c->group == NULL || !group_orders(c)) {
        return STATUS_OK;
    }
    const size_t most = (size_t)s->rows_max * (size_t)s->width_max;
    return cudastate_reserve(c, &c->sums,
                             share_size(c->group, most) * (size_t)c->group->ranks * sizeof(float));
}

status cudagroup_all_reduce(backend *b, const ops_all_reduce *op) {
    cudastate *c = (cudastate *)b;
    struct cudagroup *g = c->group;
    const size_t count = (size_t)op->rows * (size_t)op->width;
    TRY(cudastate_enter(c));
    if (atomic_load(&c->left)) {
        return group_end(c, "");
    }
    if (group_orders(c)) {
        return group_sum_in_order(c, op->x, count);
    }
    return group_settle(
        c, g->calls.ncclAllReduce(op->x, op->x, count, ncclFloat32, ncclSum, g->comm, c->stream));
}

/* All ranks are there, and what NCCL takes of the device for its first collective is taken. */
static status group_begin(cudastate *c, const backend_group_id *id, int32_t rank, int32_t ranks) {
    struct cudagroup *g = c->group;
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    ncclUniqueId unique;
    memcpy(unique.internal, id->bytes, sizeof(unique.internal));
    config.blocking = 0;
    g->rank = rank;
    g->ranks = ranks;
    TRY(group_settle(c, g->calls.ncclCommInitRankConfig(&g->comm, ranks, unique, rank, &config)));
    const uint64_t bytes = (uint64_t)ranks * sizeof(float); /* one for each rank to add up */
    TRY(cudastate_reserve(c, &c->index, bytes));
    TRY(cudastate_check(c, cudaMemsetAsync(c->index.memory, 0, bytes, c->stream)));
    const ops_all_reduce first = {c->index.memory, 1, ranks};
    TRY(cudagroup_all_reduce(&c->base, &first));
    return cudagroup_wait(c);
}

status cudagroup_join(backend *b, const backend_group_id *id, int32_t rank, int32_t ranks,
                      diag *d) {
    cudastate *c = (cudastate *)b;
    size_t before = 0, after = 0, total;
    c->group = mem_calloc(1, sizeof(*c->group));
    if (c->group == NULL) {
        return status_fail(d, STATUS_NOMEM, "no memory for NCCL");
    }
    TRY(cudastate_enter(c));
    TRY(group_find(&c->group->calls, d));
    (void)cudaMemGetInfo(&before, &total);
    status s = group_begin(c, id, rank, ranks);
    if (s != STATUS_OK) {
        const char *why =
            c->failed == cudaSuccess ? c->group->fault : cudaGetErrorString(c->failed);
        return status_fail(d, s, "NCCL, rank %d of %d on device %d: %s", rank, ranks, c->device,
                           *why != 0 ? why : "another rank has failed");
    }
    /* NCCL's buffers; what others take at the same time counts as well, on the careful side. */
    (void)cudaMemGetInfo(&after, &total);
    c->taken += before > after ? before - after : 0;
    s = cudaslice_open(c);
    if (s != STATUS_OK) {
        return cudamemory_short(c, s, d, "moving pages of several devices", CUDASTATE_SLICE_BYTES);
    }
    cudastate_name(c, ranks);
    return STATUS_OK;
}

void cudagroup_leave(backend *b) {
    atomic_store(&((cudastate *)b)->left, true);
}

const char *cudagroup_fault(const cudastate *c) {
    return c->group != NULL ? c->group->fault : "";
}

/* Nothing of a group that is whole is under way now, and a destroy would wait for the others. */
void cudagroup_close(cudastate *c) {
    if (c->group != NULL) {
        (void)group_end(c, "");
        mem_free(c->group);
        c->group = NULL;
    }
}

#else /* without its header */

status cudagroup_make(backend *b, backend_group_id *out, diag *d) {
    (void)b;
    (void)out;
    return status_fail(d, STATUS_UNSUPPORTED,
                       "several devices for one model need NCCL: this was built without nccl.h");
}

status cudagroup_join(backend *b, const backend_group_id *id, int32_t rank, int32_t ranks,
                      diag *d) {
    (void)id;
    (void)rank;
    (void)ranks;
    backend_group_id unused;
    return cudagroup_make(b, &unused, d);
}

void cudagroup_leave(backend *b) {
    (void)b;
}

status cudagroup_all_reduce(backend *b, const ops_all_reduce *op) {
    (void)b;
    (void)op;
    return STATUS_UNSUPPORTED;
}

status cudagroup_wait(cudastate *c) {
    return cudastate_check(c, cudaStreamSynchronize(c->stream));
}

status cudagroup_reserve(cudastate *c, const ops_sizes *sizes) {
    (void)c;
    (void)sizes;
    return STATUS_OK;
}

const char *cudagroup_fault(const cudastate *c) {
    (void)c;
    return "";
}

void cudagroup_close(cudastate *c) {
    (void)c;
}
#endif
