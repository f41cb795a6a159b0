/* cudamemory.c -- device memory: what is taken and counted, what goes in and comes out.
 *
 * Copies from and to ordinary host memory go through pinned buffers, because the device reads
 * nothing else by itself. Transfers of KV pages have a stream and a buffer of their own: they run
 * on another thread, beside the model.
 */
#include <stdio.h>
#include <string.h>

#include "kernels/cuda/cudastate.h"

status cudamemory_alloc(backend *b, uint64_t bytes, void **out) {
    cudastate *c = (cudastate *)b;
    void *memory = NULL;
    *out = NULL;
    TRY(cudastate_enter(c));
    TRY(cudastate_take(c, bytes, &memory));
    const status s = cudastate_check(c, cudaMemsetAsync(memory, 0, bytes, c->stream));
    if (s != STATUS_OK) {
        (void)cudaFree(memory);
        return s;
    }
    *out = memory;
    return STATUS_OK;
}

void cudamemory_free(backend *b, void *device) {
    cudastate *c = (cudastate *)b;
    (void)cudaSetDevice(c->device);
    const cudaError_t e = cudaFree(device);
    if (e != cudaSuccess && c->failed == cudaSuccess) {
        c->failed = e;
    }
}

status cudamemory_upload(backend *b, void *device, const void *host, uint64_t bytes) {
    TRY(cudastate_enter((cudastate *)b));
    return cudastream_send((cudastate *)b, device, host, bytes);
}

status cudamemory_download(backend *b, void *host, const void *device, uint64_t bytes) {
    cudastate *c = (cudastate *)b;
    const uint8_t *from = device;
    uint8_t *to = host;
    TRY(cudastate_enter(c));
    while (bytes > 0) { /* the pinned buffer is free after each wait */
        const uint64_t part = bytes < CUDASTATE_STAGE_BYTES ? bytes : CUDASTATE_STAGE_BYTES;
        TRY(cudastream_sync(b));
        TRY(cudastate_check(
            c, cudaMemcpyAsync(c->stage, from, part, cudaMemcpyDeviceToHost, c->stream)));
        TRY(cudastream_sync(b));
        memcpy(to, c->stage, part);
        from += part;
        to += part;
        bytes -= part;
    }
    return STATUS_OK;
}

void cudamemory_memory(const backend *b, uint64_t *free_bytes, uint64_t *total_bytes) {
    size_t unused = 0, total = 0;
    (void)cudaSetDevice(((const cudastate *)b)->device);
    (void)cudaMemGetInfo(&unused, &total);
    *free_bytes = unused;
    *total_bytes = total;
}

uint64_t cudamemory_room(const backend *b) {
    const cudastate *c = (const cudastate *)b;
    size_t unused = 0, total = 0;
    (void)cudaSetDevice(c->device);
    (void)cudaMemGetInfo(&unused, &total);
    const uint64_t share = (uint64_t)((double)total * c->memory_fraction);
    return share > c->taken ? share - c->taken : 1;
}

status cudamemory_short(const cudastate *c, status s, diag *d, const char *what, uint64_t bytes) {
    size_t unused = 0, total = 0;
    if (s != STATUS_NOMEM) {
        return status_fail(d, s, "%s: %s", what, cudaGetErrorString(c->failed));
    }
    (void)cudaMemGetInfo(&unused, &total);
    return status_fail(d, s,
                       "%s takes %.1f MiB of device %d: %.1f of its %.1f MiB are free, %.1f are "
                       "taken by this worker",
                       what, (double)bytes / 0x1p20, c->device, (double)unused / 0x1p20,
                       (double)total / 0x1p20, (double)c->taken / 0x1p20);
}

/* ---- the pool ------------------------------------------------------------------------------- */

static uint64_t kv_bytes(const backend_kv *kv) {
    return kv->layer_page_bytes * (uint64_t)kv->shape.layers * (uint64_t)kv->shape.pages;
}

status cudamemory_kv_open(backend *b, backend_kv *kv, diag *d) {
    cudastate *c = (cudastate *)b;
    const uint64_t bytes = kv_bytes(kv);
    void *memory = NULL;
    TRY(cudastate_enter(c));
    status s = cudastate_take(c, bytes, &memory);
    if (s == STATUS_OK) {
        s = cudastate_check(c, cudaMemsetAsync(memory, 0, bytes, c->stream));
    }
    if (s == STATUS_OK) {
        s = cudastream_sync(b);
    }
    if (s != STATUS_OK) {
        (void)cudaFree(memory);
        char what[64];
        (void)snprintf(what, sizeof(what), "a KV pool of %u pages", (unsigned)kv->shape.pages);
        return cudamemory_short(c, s, d, what, bytes);
    }
    void *stage = NULL;
    const uint64_t move =
        kv->layer_page_bytes > CUDASTATE_MOVE_BYTES ? kv->layer_page_bytes : CUDASTATE_MOVE_BYTES;
    s = c->move_stage == NULL ? cudastate_check(c, cudaMallocHost(&stage, move)) : STATUS_OK;
    if (s != STATUS_OK) {
        (void)cudaFree(memory);
        return status_fail(d, s, "no pinned host memory for %llu bytes", (unsigned long long)move);
    }
    if (stage != NULL) {
        c->move_stage = stage;
        c->move_bytes = move;
    }
    kv->base = memory;
    (void)snprintf(kv->layout, sizeof(kv->layout), "k16-v16/%s/%d",
                   backend_kv_type_name(kv->shape.type), (int)kv->shape.head_dim);
    return STATUS_OK;
}

void cudamemory_kv_close(backend *b, backend_kv *kv) {
    cudamemory_free(b, kv->base);
}

status cudamemory_kv_copy(backend *b, backend_kv *kv, uint32_t from, uint32_t to) {
    cudastate *c = (cudastate *)b;
    const uint64_t bytes = kv->layer_page_bytes;
    TRY(cudastate_enter(c));
    for (int32_t layer = 0; layer < kv->shape.layers; layer++) {
        uint8_t *pages = kv->base + (uint64_t)layer * kv->shape.pages * bytes;
        TRY(cudastate_check(c, cudaMemcpyAsync(pages + to * bytes, pages + from * bytes, bytes,
                                               cudaMemcpyDeviceToDevice, c->stream)));
    }
    return STATUS_OK;
}

/* ---- pages on their way to and from other workers -------------------------------------------- */

typedef struct {
    cudastate *c;
    const backend_kv *kv;
    const backend_kv_run *run;
    bool to_device;
} moving;

/* Pages [first, first + count) of the run, between the pool and the pinned buffer. */
static status move_part(const moving *m, uint64_t first, uint64_t count) {
    const uint64_t bytes = m->kv->layer_page_bytes;
    for (uint64_t i = 0; i < count; i++) {
        const uint64_t at = first + i;
        const int32_t layer = m->run->layer_first + (int32_t)(at / m->run->pages_count);
        const uint32_t number = m->run->pages[at % m->run->pages_count];
        uint8_t *page = m->kv->base + ((uint64_t)layer * m->kv->shape.pages + number) * bytes;
        uint8_t *stage = m->c->move_stage + i * bytes;
        const cudaError_t e =
            m->to_device
                ? cudaMemcpyAsync(page, stage, bytes, cudaMemcpyHostToDevice, m->c->move_stream)
                : cudaMemcpyAsync(stage, page, bytes, cudaMemcpyDeviceToHost, m->c->move_stream);
        TRY(cudastate_check(m->c, e));
    }
    return cudastate_check(m->c, cudaStreamSynchronize(m->c->move_stream));
}

static status move_all(const moving *m, uint8_t *out, const uint8_t *in) {
    const uint64_t bytes = m->kv->layer_page_bytes;
    const uint64_t runs = (uint64_t)m->run->layers * m->run->pages_count;
    const uint64_t part_max = m->c->move_bytes / bytes;
    TRY(cudastate_enter(m->c));
    for (uint64_t done = 0; done < runs;) {
        const uint64_t part = runs - done < part_max ? runs - done : part_max;
        if (m->to_device) {
            memcpy(m->c->move_stage, in + done * bytes, part * bytes);
        }
        TRY(move_part(m, done, part));
        if (!m->to_device) {
            memcpy(out + done * bytes, m->c->move_stage, part * bytes);
        }
        done += part;
    }
    return STATUS_OK;
}

status cudamemory_kv_read(backend *b, const backend_kv *kv, const backend_kv_run *run,
                          uint8_t *out) {
    const moving m = {(cudastate *)b, kv, run, false};
    return move_all(&m, out, NULL);
}

status cudamemory_kv_write(backend *b, const backend_kv *kv, const backend_kv_run *run,
                           const uint8_t *in) {
    const moving m = {(cudastate *)b, kv, run, true};
    return move_all(&m, NULL, in);
}

/* The numbers of the pages go first: from memory that is not pinned they are read before the call
 * returns. */
status cudamemory_kv_pack(backend *b, const backend_kv *kv, const backend_kv_run *run, bool gather,
                          backend_kv_type type, void *staging, uint32_t *list, void *stream) {
    cudastate *c = (cudastate *)b;
    const cuda_pages op = {.pool = kv->base,
                           .layer_bytes = (uint64_t)kv->shape.pages * kv->layer_page_bytes,
                           .page_bytes = kv->layer_page_bytes,
                           .head_bytes = kv->head_bytes,
                           .pages = list,
                           .staging = staging,
                           .staging_head_bytes = backend_kv_head_bytes(type, kv->shape.head_dim),
                           .count = (int32_t)run->pages_count,
                           .layer_first = run->layer_first,
                           .layers = run->layers,
                           .head_first = 0,
                           .heads = kv->shape.kv_heads,
                           .head_dim = kv->shape.head_dim,
                           .type = (cuda_kv_type)kv->shape.type,
                           .staging_type = (cuda_kv_type)type};
    TRY(cudastate_enter(c));
    TRY(cudastate_check(c, cudaMemcpyAsync(list, run->pages, run->pages_count * sizeof *list,
                                           cudaMemcpyHostToDevice, stream)));
    return cudastate_check(c, gather ? pages_gather(&op, stream) : pages_scatter(&op, stream));
}
