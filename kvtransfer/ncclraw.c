/* ncclraw.c -- the raw loop. */
#define _GNU_SOURCE
#include "kvtransfer/ncclraw.h"

#ifdef WEIR_HAVE_NCCL
#include <string.h>
#include <unistd.h>

#include "engine/base/clock.h"
#include "engine/base/mem.h"
#include "kvtransfer/ncclapi.h"

enum { SETTLE_US = 20000000 };

struct ncclraw {
    const ncclapi *api;
    bool receiver;
    ncclComm_t comm;
    cudaStream_t stream;
    cudaEvent_t event;
    void *buffer;
};

status ncclraw_id(uint8_t id[NCCLRAW_ID_BYTES], diag *d) {
    const ncclapi *api;
    ncclUniqueId unique;
    TRY(ncclapi_load(&api, d));
    if (api->ncclGetUniqueId(&unique) != ncclSuccess) {
        return status_fail(d, STATUS_DEVICE, "nccl: no unique id");
    }
    memcpy(id, &unique, NCCLRAW_ID_BYTES);
    return STATUS_OK;
}

status ncclraw_devices(int *count, diag *d) {
    const ncclapi *api;
    *count = 0;
    TRY(ncclapi_load(&api, d));
    while (*count < 2 && api->cudaSetDevice(*count) == cudaSuccess) {
        (*count)++;
    }
    return *count > 0 ? STATUS_OK : status_fail(d, STATUS_NOTFOUND, "nccl: no device");
}

/* Until the communicator has done what it was asked. */
static bool settle(const ncclraw *r) {
    ncclResult_t state = ncclInProgress;
    int64_t until_us = clock_now_us() + SETTLE_US;
    while (clock_now_us() < until_us &&
           r->api->ncclCommGetAsyncError(r->comm, &state) == ncclSuccess &&
           state == ncclInProgress) {
        (void)usleep(20);
    }
    return state == ncclSuccess;
}

status ncclraw_open(int device, bool receiver, const uint8_t id[NCCLRAW_ID_BYTES], int ctas_max,
                    uint64_t bytes, ncclraw **out, diag *d) {
    const ncclapi *api;
    ncclUniqueId unique;
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    *out = NULL;
    TRY(ncclapi_load(&api, d));
    ncclraw *r = mem_calloc(1, sizeof *r);
    if (!r) {
        return status_fail(d, STATUS_NOMEM, "nccl: no memory");
    }
    r->api = api;
    r->receiver = receiver;
    config.blocking = 0;
    config.minCTAs = 1;
    config.maxCTAs = ctas_max;
    memcpy(&unique, id, sizeof unique);
    bool good =
        api->cudaSetDevice(device) == cudaSuccess &&
        api->cudaStreamCreateWithPriority(&r->stream, cudaStreamNonBlocking, 0) == cudaSuccess &&
        api->cudaEventCreateWithFlags(&r->event, cudaEventDisableTiming) == cudaSuccess &&
        api->cudaMalloc(&r->buffer, bytes) == cudaSuccess;
    if (good) {
        ncclResult_t joined =
            api->ncclCommInitRankConfig(&r->comm, 2, unique, receiver ? 1 : 0, &config);
        good = (joined == ncclSuccess || joined == ncclInProgress) && settle(r);
    }
    if (!good) {
        ncclraw_close(r);
        return status_fail(d, STATUS_DEVICE, "nccl: no communicator for the raw loop");
    }
    *out = r;
    return STATUS_OK;
}

void ncclraw_close(ncclraw *r) {
    if (r) {
        if (r->comm) {
            (void)r->api->ncclCommAbort(r->comm);
        }
        if (r->event) {
            (void)r->api->cudaEventDestroy(r->event);
        }
        if (r->stream) {
            (void)r->api->cudaStreamDestroy(r->stream);
        }
        if (r->buffer) {
            (void)r->api->cudaFree(r->buffer);
        }
        mem_free(r);
    }
}

status ncclraw_run(ncclraw *r, uint64_t bytes, uint32_t count) {
    for (uint32_t i = 0; i < count; i++) {
        ncclResult_t asked =
            r->receiver ? r->api->ncclRecv(r->buffer, bytes, ncclUint8, 0, r->comm, r->stream)
                        : r->api->ncclSend(r->buffer, bytes, ncclUint8, 1, r->comm, r->stream);
        if ((asked != ncclSuccess && asked != ncclInProgress) || !settle(r)) {
            return STATUS_DEVICE;
        }
    }
    cudaError_t ended = r->api->cudaEventRecord(r->event, r->stream);
    while (ended == cudaSuccess &&
           (ended = r->api->cudaEventQuery(r->event)) == cudaErrorNotReady) {
        ended = cudaSuccess;
        (void)settle(r);
    }
    return ended == cudaSuccess ? STATUS_OK : STATUS_DEVICE;
}

#else /* built without nccl.h */

status ncclraw_id(uint8_t id[NCCLRAW_ID_BYTES], diag *d) {
    (void)id;
    return status_fail(d, STATUS_UNSUPPORTED, "nccl: built without nccl.h");
}

status ncclraw_devices(int *count, diag *d) {
    *count = 0;
    return status_fail(d, STATUS_UNSUPPORTED, "nccl: built without nccl.h");
}

status ncclraw_open(int device, bool receiver, const uint8_t id[NCCLRAW_ID_BYTES], int ctas_max,
                    uint64_t bytes, ncclraw **out, diag *d) {
    (void)device;
    (void)receiver;
    (void)id;
    (void)ctas_max;
    (void)bytes;
    *out = NULL;
    return status_fail(d, STATUS_UNSUPPORTED, "nccl: built without nccl.h");
}

void ncclraw_close(ncclraw *r) {
    (void)r;
}

status ncclraw_run(ncclraw *r, uint64_t bytes, uint32_t count) {
    (void)r;
    (void)bytes;
    (void)count;
    return STATUS_UNSUPPORTED;
}
#endif
