/* cuda.c -- the CUDA backend: its table, how one is opened, shared and closed. */
#include "kernels/cuda/cuda.h"

#include <stdio.h>
#include <string.h>

#include "engine/base/mem.h"
#include "kernels/cuda/cudadevice.h"
#include "kernels/cuda/cudastate.h"

static void cuda_close(backend *b) {
    cudastate *c = (cudastate *)b;
    (void)cudaSetDevice(c->device); /* whoever closes need not have worked with it */
    cudagroup_close(c);             /* first: what waits for other ranks ends with it */
    if (c->stream != NULL) {
        (void)cudaStreamSynchronize(c->stream);
    }
    cudaweights_close(c);
    cudagraph_close(c);
    (void)cudaFree(c->input.memory);
    (void)cudaFree(c->index.memory);
    (void)cudaFree(c->tables.memory);
    (void)cudaFree(c->work.memory);
    (void)cudaFree(c->slots.memory);
    (void)cudaFree(c->sums.memory);
    cudasample_close(c);
    cudalibrary_close(c);
    cudaslice_close(c);
    (void)cudaFreeHost(c->stage);
    (void)cudaFreeHost(c->move_stage);
    if (c->move_stream != NULL) {
        (void)cudaStreamDestroy(c->move_stream);
    }
    if (c->stream != NULL) {
        (void)cudaStreamDestroy(c->stream);
    }
    cudagreen_close(&c->green);
    mem_free(c->batch_host);
    mem_free(c);
}

static const char *cuda_fault(const backend *b) {
    const cudastate *c = (const cudastate *)b;
    return c->failed == cudaSuccess ? cudagroup_fault(c) : cudaGetErrorString(c->failed);
}

static status cuda_share(backend *of, int32_t threads, backend **out, diag *d);

static const backend_table cuda_table = {
    .close = cuda_close,
    .share = cuda_share,
    .room = cudamemory_room,
    .memory = cudamemory_memory,
    .fault = cuda_fault,
    .alloc = cudamemory_alloc,
    .free = cudamemory_free,
    .upload = cudamemory_upload,
    .download = cudamemory_download,
    .weight_load = cudaweights_load,
    .kv_open = cudamemory_kv_open,
    .kv_close = cudamemory_kv_close,
    .kv_copy = cudamemory_kv_copy,
    .kv_read = cudamemory_kv_read,
    .kv_write = cudamemory_kv_write,
    .kv_pack = cudamemory_kv_pack,
    .kv_pack_slice = cudaslice_pack,
    .reserve = cudabatch_reserve,
    .batch = cudabatch_begin,
    .graph_rows = cudagraph_rows,
    .batch_end = cudagraph_end,
    .notify = cudastream_notify,
    .embed = cudaops_embed,
    .rmsnorm = cudaops_rmsnorm,
    .silu_mul = cudaops_silu_mul,
    .softcap = cudaops_softcap,
    .gather = cudaops_gather,
    .linear = cudaops_linear,
    .rope_table = cudaops_rope_table,
    .rope_append = cudaops_rope_append,
    .attention = cudaops_attention,
    .sample = cudasample_run,
    .sync = cudastream_sync,
    .group_make = cudagroup_make,
    .group_join = cudagroup_join,
    .group_leave = cudagroup_leave,
    .all_reduce = cudagroup_all_reduce,
};

status cuda_probe(const backend_options *options, diag *d) {
    int capability = 0;
    return cudadevice_choose(options->device, &capability, d);
}

/* Everything of the device that is not memory for the model. */
static status cuda_begin(cudastate *c, int device, bool urgent) {
    void *stage = NULL;
    int least = 0, greatest = 0;
    TRY(cudastate_check(c, cudaSetDevice(device)));
    TRY(cudastate_check(c, cudaDeviceGetStreamPriorityRange(&least, &greatest)));
    TRY(cudastate_check(
        c, cudaDeviceGetAttribute(&c->multiprocessors, cudaDevAttrMultiProcessorCount, device)));
    TRY(cudastate_check(c, cudaDeviceGetAttribute(
                               &c->shared_max, cudaDevAttrMaxSharedMemoryPerBlockOptin, device)));
    TRY(cudastate_check(c, cudaStreamCreateWithPriority(&c->stream, cudaStreamNonBlocking,
                                                        urgent ? greatest : least)));
    TRY(cudastate_check(c, cudaStreamCreateWithFlags(&c->move_stream, cudaStreamNonBlocking)));
    TRY(cudastate_check(c, cudaMallocHost(&stage, CUDASTATE_STAGE_BYTES)));
    c->stage = stage;
    return STATUS_OK;
}

/* The rest of an open; closes it on failure. */
static status cuda_start(cudastate *c, bool urgent, backend **out, diag *d) {
    cudagraph_open(c);
    const status s = cuda_begin(c, c->device, urgent);
    if (s != STATUS_OK) {
        const int device = c->device;
        const char *why = cudaGetErrorString(c->failed);
        cuda_close(&c->base);
        return status_fail(d, s, "CUDA device %d: %s", device, why);
    }
    cudalibrary_open(c);
    cudastate_name(c, 1);
    *out = &c->base;
    return STATUS_OK;
}

/* `s` in the place of the backend's stream, on which nothing runs. */
static void take_side(cudastate *c, const cudagreen_side *s) {
    (void)cudaStreamSynchronize(c->stream);
    (void)cudaStreamDestroy(c->stream);
    c->stream = s->stream;
    c->green = *s;
}

/* Multiprocessors of its own for each of the two; else both have all of them. */
static void divide(cudastate *first, cudastate *c) {
    char *said = c->base.shared, why[CUDAGREEN_WHY_BYTES];
    const size_t bytes = sizeof(c->base.shared);
    int least = 0, greatest = 0;
    cudagreen_side large, small;
    (void)cudaDeviceGetStreamPriorityRange(&least, &greatest);
    if (first->share_percent <= 0) {
        (void)snprintf(said, bytes, "streams=2 why=\"not asked to divide the device\"");
    } else if (cudagreen_open(c->device, (unsigned)first->share_percent, least, greatest, &large,
                              &small, why)) {
        take_side(first, &large);
        take_side(c, &small);
        (void)snprintf(said, bytes, "multiprocessors=%u+%u", large.multiprocessors,
                       small.multiprocessors);
    } else {
        (void)snprintf(said, bytes, "streams=2 why=\"%s\"", why);
    }
}

/* Streams in the same memory, so weights and pools are the same addresses. Where the two share
 * multiprocessors, blocks of the new one go before those of the first: what shares a device with
 * long steps is short. */
static status cuda_share(backend *of, int32_t threads, backend **out, diag *d) {
    cudastate *first = (cudastate *)of;
    (void)threads;
    cudastate *c = mem_calloc(1, sizeof(*c));
    if (c == NULL) {
        return status_fail(d, STATUS_NOMEM, "no memory for the CUDA backend");
    }
    c->base = first->base;
    c->base.begun = (ops_batch){0};
    c->device = first->device;
    c->capability = first->capability;
    c->deterministic = first->deterministic;
    c->memory_fraction = first->memory_fraction;
    c->plain = first->plain;
    TRY(cuda_start(c, true, out, d));
    divide(first, c);
    return STATUS_OK;
}

status cuda_open(const backend_options *options, backend **out, diag *d) {
    int capability = 0;
    *out = NULL;
    const int device = options->device;
    const bool plain = options->isa != NULL && strcmp(options->isa, "plain") == 0;
    if (!plain && options->isa != NULL && strcmp(options->isa, "auto") != 0) {
        return status_fail_param(d, STATUS_NOTFOUND, "isa", "isa \"%s\" is unknown (auto, plain)",
                                 options->isa);
    }
    TRY(cudadevice_choose(device, &capability, d));
    cudastate *c = mem_calloc(1, sizeof(*c));
    if (c == NULL) {
        return status_fail(d, STATUS_NOMEM, "no memory for the CUDA backend");
    }
    c->base.table = &cuda_table;
    c->base.threads = 1;
    c->device = device;
    c->capability = capability;
    c->deterministic = options->deterministic;
    c->share_percent = options->share_percent;
    c->memory_fraction =
        options->memory_fraction > 0 ? options->memory_fraction : BACKEND_MEMORY_FRACTION;
    (void)snprintf(c->base.name, sizeof(c->base.name), "cuda");
    c->plain = plain;
    (void)snprintf(c->base.isa, sizeof(c->base.isa), plain ? "plain" : "sm_%d", capability);
    return cuda_start(c, false, out, d);
}
