/* cuda.c -- the CUDA backend: a device, its memory, its stream. */
#include "kernels/cuda/cuda.h"

#include <stdio.h>
#include <string.h>

#include "engine/base/mem.h"
#include "kernels/cuda/cudastate.h"

enum { CUDA_CAPABILITY_MIN = 80 }; /* bf16 tensor cores, cp.async */

status cudastate_check(cudastate *c, cudaError_t e) {
    if (e == cudaSuccess) {
        return c->failed == cudaSuccess ? STATUS_OK : STATUS_DEVICE;
    }
    (void)cudaGetLastError(); /* what can be forgotten is forgotten; the rest comes back */
    if (e == cudaErrorMemoryAllocation) {
        return STATUS_NOMEM;
    }
    if (c->failed == cudaSuccess) {
        c->failed = e;
    }
    return STATUS_DEVICE;
}

status cudastate_reserve(cudastate *c, cudastate_buffer *b, uint64_t bytes) {
    if (bytes <= b->bytes) {
        return STATUS_OK;
    }
    void *memory = NULL;
    TRY(cudastate_check(c, cudaMalloc(&memory, bytes)));
    const status s = cudastate_check(c, cudaFree(b->memory)); /* waits for what still uses it */
    *b = (cudastate_buffer){memory, bytes};
    return s;
}

status cudastate_send(cudastate *c, void *device, const void *host, uint64_t bytes) {
    const uint8_t *from = host;
    uint8_t *to = device;
    while (bytes > 0) {
        if (c->stage_used == CUDASTATE_STAGE_BYTES) {
            TRY(cudastate_check(c, cudaStreamSynchronize(c->stream)));
            c->stage_used = 0;
        }
        const uint64_t room = CUDASTATE_STAGE_BYTES - c->stage_used;
        const uint64_t part = bytes < room ? bytes : room;
        memcpy(c->stage + c->stage_used, from, part);
        TRY(cudastate_check(c, cudaMemcpyAsync(to, c->stage + c->stage_used, part,
                                               cudaMemcpyHostToDevice, c->stream)));
        c->stage_used += part;
        from += part;
        to += part;
        bytes -= part;
    }
    return STATUS_OK;
}

static status cuda_sync(backend *b) {
    cudastate *c = (cudastate *)b;
    TRY(cudastate_check(c, cudaStreamSynchronize(c->stream)));
    c->stage_used = 0;
    return STATUS_OK;
}

static status cuda_alloc(backend *b, uint64_t bytes, void **out) {
    cudastate *c = (cudastate *)b;
    *out = NULL;
    void *memory = NULL;
    TRY(cudastate_check(c, cudaMalloc(&memory, bytes != 0 ? bytes : 1)));
    const status s = cudastate_check(c, cudaMemsetAsync(memory, 0, bytes, c->stream));
    if (s != STATUS_OK) {
        (void)cudaFree(memory);
        return s;
    }
    *out = memory;
    return STATUS_OK;
}

static void cuda_free(backend *b, void *device) {
    cudastate *c = (cudastate *)b;
    const cudaError_t e = cudaFree(device);
    if (e != cudaSuccess && c->failed == cudaSuccess) {
        c->failed = e;
    }
}

static status cuda_upload(backend *b, void *device, const void *host, uint64_t bytes) {
    return cudastate_send((cudastate *)b, device, host, bytes);
}

static status cuda_download(backend *b, void *host, const void *device, uint64_t bytes) {
    cudastate *c = (cudastate *)b;
    TRY(cudastate_check(c,
                        cudaMemcpyAsync(host, device, bytes, cudaMemcpyDeviceToHost, c->stream)));
    return cuda_sync(b);
}

/* The pool is managed memory, because the host transports of kvtransfer read and write pages from
 * the host; a transfer from device to device would not need it. */
static status cuda_kv_open(backend *b, backend_kv *kv, diag *d) {
    cudastate *c = (cudastate *)b;
    const uint64_t bytes =
        kv->layer_page_bytes * (uint64_t)kv->shape.layers * (uint64_t)kv->shape.pages;
    void *memory = NULL;
    status s = cudastate_check(c, cudaMallocManaged(&memory, bytes, cudaMemAttachGlobal));
    if (s == STATUS_OK) {
        s = cudastate_check(c, cudaMemsetAsync(memory, 0, bytes, c->stream));
    }
    if (s == STATUS_OK) {
        s = cudastate_check(c, cudaStreamSynchronize(c->stream));
    }
    if (s != STATUS_OK) {
        (void)cudaFree(memory);
        size_t unused = 0, total = 0;
        (void)cudaMemGetInfo(&unused, &total);
        return status_fail_param(d, s, "kv_pages",
                                 "a KV pool of %llu MiB does not fit the device: %llu of %llu MiB "
                                 "are free",
                                 (unsigned long long)(bytes >> 20),
                                 (unsigned long long)(unused >> 20),
                                 (unsigned long long)(total >> 20));
    }
    kv->base = memory;
    (void)snprintf(kv->layout, sizeof(kv->layout), "k16-v16/%s/%d",
                   backend_kv_type_name(kv->shape.type), (int)kv->shape.head_dim);
    return STATUS_OK;
}

static void cuda_kv_close(backend *b, backend_kv *kv) {
    cuda_free(b, kv->base);
}

static status cuda_kv_copy(backend *b, backend_kv *kv, uint32_t from, uint32_t to) {
    cudastate *c = (cudastate *)b;
    const uint64_t bytes = kv->layer_page_bytes;
    for (int32_t layer = 0; layer < kv->shape.layers; layer++) {
        uint8_t *pages = kv->base + (uint64_t)layer * kv->shape.pages * bytes;
        TRY(cudastate_check(c, cudaMemcpyAsync(pages + to * bytes, pages + from * bytes, bytes,
                                               cudaMemcpyDeviceToDevice, c->stream)));
    }
    return STATUS_OK;
}

static void cuda_close(backend *b) {
    cudastate *c = (cudastate *)b;
    if (c->stream != NULL) {
        (void)cudaStreamSynchronize(c->stream);
    }
    cudaweights_close(c);
    (void)cudaFree(c->input.memory);
    (void)cudaFree(c->index.memory);
    (void)cudaFree(c->tables.memory);
    (void)cudaFree(c->work.memory);
    (void)cudaFree(c->slots.memory);
    (void)cudaFreeHost(c->stage);
    if (c->stream != NULL) {
        (void)cudaStreamDestroy(c->stream);
    }
    mem_free(c->tables_host);
    mem_free(c->work_host);
    mem_free(c);
}

static const backend_table cuda_table = {
    .close = cuda_close,
    .alloc = cuda_alloc,
    .free = cuda_free,
    .upload = cuda_upload,
    .download = cuda_download,
    .weight_load = cudaweights_load,
    .kv_open = cuda_kv_open,
    .kv_close = cuda_kv_close,
    .kv_copy = cuda_kv_copy,
    .embed = cudaops_embed,
    .rmsnorm = cudaops_rmsnorm,
    .silu_mul = cudaops_silu_mul,
    .gather = cudaops_gather,
    .linear = cudaops_linear,
    .rope_table = cudaops_rope_table,
    .rope_append = cudaops_rope_append,
    .attention = cudaops_attention,
    .sync = cuda_sync,
};

/* Says what is in the way, or nothing. */
static status cuda_choose(int device, int *capability, diag *d) {
    int count = 0, driver = 0, runtime = 0, major = 0, minor = 0;
    (void)cudaDriverGetVersion(&driver);
    (void)cudaRuntimeGetVersion(&runtime);
    if (driver == 0) {
        return status_fail(d, STATUS_NOTFOUND, "no CUDA driver is installed");
    }
    if (driver / 1000 < runtime / 1000) {
        return status_fail(d, STATUS_UNSUPPORTED, "the driver knows CUDA %d.%d, this needs %d.%d",
                           driver / 1000, driver % 1000 / 10, runtime / 1000, runtime % 1000 / 10);
    }
    if (cudaGetDeviceCount(&count) != cudaSuccess || count == 0) {
        return status_fail(d, STATUS_NOTFOUND, "no CUDA device was found");
    }
    if (device >= count) {
        return status_fail_param(d, STATUS_NOTFOUND, "device", "device %d: there are %d", device,
                                 count);
    }
    if (cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device) != cudaSuccess ||
        cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device) != cudaSuccess) {
        return status_fail(d, STATUS_DEVICE, "device %d does not answer", device);
    }
    *capability = major * 10 + minor;
    if (*capability < CUDA_CAPABILITY_MIN) {
        return status_fail_param(d, STATUS_UNSUPPORTED, "device",
                                 "device %d is of architecture %d.%d; 8.0 and later will do",
                                 device, major, minor);
    }
    return STATUS_OK;
}

status cuda_open(const backend_options *options, backend **out, diag *d) {
    int capability = 0;
    *out = NULL;
    const int device = 0;
    const bool plain = options->isa != NULL && strcmp(options->isa, "plain") == 0;
    if (!plain && options->isa != NULL && strcmp(options->isa, "auto") != 0) {
        return status_fail_param(d, STATUS_NOTFOUND, "isa", "isa \"%s\" is unknown (auto, plain)",
                                 options->isa);
    }
    TRY(cuda_choose(device, &capability, d));
    cudastate *c = mem_calloc(1, sizeof(*c));
    if (c == NULL) {
        return status_fail(d, STATUS_NOMEM, "no memory for the CUDA backend");
    }
    c->base.table = &cuda_table;
    c->base.threads = 1;
    c->device = device;
    (void)snprintf(c->base.name, sizeof(c->base.name), "cuda");
    c->plain = plain;
    (void)snprintf(c->base.isa, sizeof(c->base.isa), plain ? "plain" : "sm_%d", capability);
    (void)snprintf(c->base.numerics, sizeof(c->base.numerics), "cuda-%s-2/sm_%d",
                   plain ? "plain" : "tensor", capability);
    void *stage = NULL;
    status s = cudastate_check(c, cudaSetDevice(device));
    if (s == STATUS_OK) {
        s = cudastate_check(
            c, cudaDeviceGetAttribute(&c->multiprocessors, cudaDevAttrMultiProcessorCount, device));
    }
    if (s == STATUS_OK) {
        s = cudastate_check(
            c, cudaDeviceGetAttribute(&c->shared_max, cudaDevAttrMaxSharedMemoryPerBlockOptin,
                                      device));
    }
    if (s == STATUS_OK) {
        s = cudastate_check(c, cudaStreamCreateWithFlags(&c->stream, cudaStreamNonBlocking));
    }
    if (s == STATUS_OK) {
        s = cudastate_check(c, cudaMallocHost(&stage, CUDASTATE_STAGE_BYTES));
    }
    if (s != STATUS_OK) {
        const char *why = cudaGetErrorString(c->failed);
        cuda_close(&c->base);
        return status_fail(d, s, "CUDA device %d: %s", device, why);
    }
    c->stage = stage;
    *out = &c->base;
    return STATUS_OK;
}
