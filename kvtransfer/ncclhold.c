/* ncclhold.c -- aborts in helper threads; staging that goes round among pairs. */
#include "kvtransfer/ncclhold.h"

#ifdef WEIR_HAVE_NCCL
#include <pthread.h>
#include <stdatomic.h>

#include "engine/base/clock.h"
#include "engine/base/mem.h"
#include "kvtransfer/kvtplanted.h"
#include "kvtransfer/nccl.h"

/* ---- staging -------------------------------------------------------------------------------- */

typedef struct {
    void *stage;
    uint64_t bytes;
    int device;
    int64_t rest_us;
} kept;

static pthread_mutex_t stages_lock = PTHREAD_MUTEX_INITIALIZER;
static kept stages[NCCLHOLD_STAGES];
static _Atomic uint64_t staged;

uint64_t ncclhold_staged(void) {
    return atomic_load(&staged);
}

static void *take_kept(int device, uint64_t bytes) {
    void *stage = NULL;
    int64_t now = clock_now_us();
    (void)pthread_mutex_lock(&stages_lock);
    for (int i = 0; i < NCCLHOLD_STAGES && !stage; i++) {
        if (stages[i].stage && stages[i].device == device && stages[i].bytes == bytes &&
            stages[i].rest_us <= now) {
            stage = stages[i].stage;
            stages[i].stage = NULL;
        }
    }
    (void)pthread_mutex_unlock(&stages_lock);
    return stage;
}

static cudaError_t take_stage(const ncclapi *api, ncclhold *h, uint64_t bytes) {
    h->stage = take_kept(h->device, bytes);
    if (h->stage) {
        kvtplanted_taken(h->stage, bytes);
    } else {
        cudaError_t r = api->cudaMalloc(&h->stage, bytes);
        if (r != cudaSuccess) {
            h->stage = NULL;
            return r;
        }
    }
    h->stage_bytes = bytes;
    atomic_fetch_add(&staged, bytes);
    return cudaSuccess;
}

cudaError_t ncclhold_take(ncclhold *h, unsigned events, uint64_t stage_bytes) {
    const ncclapi *api;
    diag d;
    int least = 0, greatest = 0;
    if (ncclapi_runtime(&api, &d) != STATUS_OK) {
        return cudaErrorInitializationError;
    }
    cudaError_t r = api->cudaDeviceGetStreamPriorityRange(&least, &greatest);
    /* Low priority: what computes goes first. */
    r = r ? r : api->cudaStreamCreateWithPriority(&h->wire, cudaStreamNonBlocking, least);
    r = r ? r : api->cudaStreamCreateWithPriority(&h->copy, cudaStreamNonBlocking, least);
    for (unsigned i = 0; i < events && !r; i++) {
        r = api->cudaEventCreateWithFlags(&h->events[i], cudaEventDefault);
    }
    return r || stage_bytes == 0 ? r : take_stage(api, h, stage_bytes);
}

static void give_stage(const ncclapi *api, const ncclhold *h) {
    bool put = false;
    if (!h->stage) {
        return;
    }
    kvtplanted_given(h->stage, h->stage_bytes, h->rest_us);
    (void)pthread_mutex_lock(&stages_lock);
    for (int i = 0; i < NCCLHOLD_STAGES && !put; i++) {
        if (!stages[i].stage) {
            stages[i] = (kept){h->stage, h->stage_bytes, h->device, h->rest_us};
            put = true;
        }
    }
    (void)pthread_mutex_unlock(&stages_lock);
    if (!put && h->rest_us == 0) { /* what another process has mapped must not be freed */
        (void)api->cudaFree(h->stage);
    }
    atomic_fetch_sub(&staged, h->stage_bytes);
}

/* ---- aborting ------------------------------------------------------------------------------- */

/* When the aborts that run began; 0: free. */
static _Atomic int64_t aborts[NCCLHOLD_ABORTS];
static _Atomic unsigned aborts_lost; /* for which there was no thread or no room */

unsigned ncclhold_aborting(bool *hung) {
    unsigned count = atomic_load(&aborts_lost);
    int64_t now = clock_now_us();
    *hung = count > 0;
    for (int i = 0; i < NCCLHOLD_ABORTS; i++) {
        int64_t since = atomic_load(&aborts[i]);
        count += since != 0;
        *hung = *hung || (since != 0 && now - since > NCCL_ABORT_US);
    }
    return count;
}

void ncclhold_lost(void) {
    atomic_fetch_add(&aborts_lost, 1);
}

static void free_streams(const ncclapi *api, const ncclhold *h) {
    for (int i = 0; i < NCCLHOLD_EVENTS; i++) {
        if (h->events[i]) {
            (void)api->cudaEventDestroy(h->events[i]);
        }
    }
    if (h->wire && !KVTPLANTED(ABORT_DROPPED)) {
        (void)api->cudaStreamDestroy(h->wire);
    }
    if (h->copy) {
        (void)api->cudaStreamDestroy(h->copy);
    }
}

/* Only the abort makes the rest free to give back: nothing on the streams runs any more. */
static void *abort_run(void *argument) {
    ncclhold h = *(ncclhold *)argument;
    const ncclapi *api;
    diag d;
    mem_free(argument);
    if (ncclapi_runtime(&api, &d) == STATUS_OK) {
        (void)api->cudaSetDevice(h.device);
        if (h.comm && !KVTPLANTED(ABORT_DROPPED)) {
            (void)api->ncclCommAbort(h.comm);
        }
        free_streams(api, &h);
        give_stage(api, &h);
    }
    atomic_store(&aborts[h.slot], 0);
    return NULL;
}

static int abort_slot(void) {
    for (int i = 0; i < NCCLHOLD_ABORTS; i++) {
        int64_t free_slot = 0;
        if (atomic_compare_exchange_strong(&aborts[i], &free_slot, clock_now_us())) {
            return i;
        }
    }
    return -1;
}

void ncclhold_let_go(ncclhold *h) {
    ncclhold *copy = NULL;
    pthread_t helper;
    if (!h->comm && !h->wire && !h->stage) {
        return;
    }
    if (KVTPLANTED(STAGING_TOO_EARLY)) {
        const ncclapi *api;
        diag d;
        if (ncclapi_runtime(&api, &d) == STATUS_OK) {
            give_stage(api, h);
            h->stage = NULL;
        }
    }
    h->slot = abort_slot();
    bool started = false;
    if (h->slot >= 0) {
        copy = mem_alloc(1, sizeof *copy);
    }
    if (copy) {
        *copy = *h;
        started = pthread_create(&helper, NULL, abort_run, copy) == 0;
    }
    if (started) {
        (void)pthread_detach(helper);
    } else {
        mem_free(copy);
        ncclhold_lost();
    }
    *h = (ncclhold){.device = h->device};
}
#endif
