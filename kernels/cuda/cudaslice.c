/* cudaslice.c -- a rank's heads of packed pages that lie on another rank's device.
 *
 * The kernels of pages.cu work within one device, on packed pages of this rank's heads alone, in a
 * buffer; from there they go to the staging, or come from it, by a copy that skips the other ranks'
 * heads. All of it is on the stream of the moves, in order, so one buffer does for all transfers,
 * and what does not fit into it goes in parts. */
#include <string.h>

#include "kernels/cuda/cudastate.h"

enum { SLICE_BYTES = CUDASTATE_SLICE_BYTES, SLICE_LIST = 1024 /* pages of a part */ };

status cudaslice_open(cudastate *c) {
    TRY(cudastate_check(c, cudaEventCreateWithFlags(&c->slice_ended, cudaEventDisableTiming)));
    return cudastate_take(c, SLICE_BYTES + SLICE_LIST * sizeof(uint32_t), &c->slice);
}

void cudaslice_close(cudastate *c) {
    (void)cudaFree(c->slice);
    if (c->slice_ended != NULL) {
        (void)cudaEventDestroy(c->slice_ended);
    }
}

/* Copies go straight to a device that this one reaches; to others through the host. */
static void reach(cudastate *c, const void *staging) {
    struct cudaPointerAttributes at = {.device = c->device};
    int can = 0;
    if (cudaPointerGetAttributes(&at, staging) == cudaSuccess && at.device != c->device &&
        at.device >= 0 && at.device < 64 && (c->slice_reaches >> at.device & 1) == 0) {
        c->slice_reaches |= 1ull << at.device;
        if (cudaDeviceCanAccessPeer(&can, c->device, at.device) == cudaSuccess && can) {
            (void)cudaDeviceEnablePeerAccess(at.device, 0);
        }
    }
    (void)cudaGetLastError(); /* it only is slower without */
}

typedef struct {
    cudastate *c;
    const backend_kv *kv;
    const backend_kv_slice *slice;
    uint64_t bytes; /* of this rank's heads in a (layer, page) */
    bool gather;
    backend_kv_type type;
} moving;

/* One part, which fits into the buffer; `at`: its first (layer, page) in the staging. */
static status move_part(const moving *m, const backend_kv_run *part, uint64_t at) {
    cudastate *c = m->c;
    uint8_t *staging = (uint8_t *)m->slice->staging + at * m->slice->page_bytes + m->slice->first;
    const uint64_t rows = (uint64_t)part->layers * part->pages_count, whole = m->slice->page_bytes;
    uint32_t *list = (uint32_t *)((uint8_t *)c->slice + SLICE_BYTES);
    if (!m->gather) {
        TRY(cudastate_check(c, cudaMemcpy2DAsync(c->slice, m->bytes, staging, whole, m->bytes, rows,
                                                 cudaMemcpyDefault, c->move_stream)));
    }
    TRY(cudamemory_kv_pack(&c->base, m->kv, part, m->gather, m->type, c->slice, list,
                           c->move_stream));
    return !m->gather
               ? STATUS_OK
               : cudastate_check(c, cudaMemcpy2DAsync(staging, whole, c->slice, m->bytes, m->bytes,
                                                      rows, cudaMemcpyDefault, c->move_stream));
}

static uint64_t least(uint64_t a, uint64_t b) {
    return a < b ? a : b;
}

/* As many whole layers at a time as fit, or else pages of one. */
static status move_all(const moving *m, const backend_kv_run *run) {
    const uint64_t room = SLICE_BYTES / m->bytes;
    const uint64_t pages = least(least(room, SLICE_LIST), run->pages_count);
    const uint64_t layers = pages < run->pages_count ? 1 : room / pages;
    for (uint64_t l = 0; l < (uint64_t)run->layers; l += layers) {
        for (uint64_t p = 0; p < run->pages_count; p += pages) {
            const backend_kv_run part = {
                .layer_first = run->layer_first + (int32_t)l,
                .layers = (int32_t)least(layers, (uint64_t)run->layers - l),
                .pages = run->pages + p,
                .pages_count = (uint32_t)least(pages, run->pages_count - p)};
            TRY(move_part(m, &part, l * run->pages_count + p));
        }
    }
    return STATUS_OK;
}

status cudaslice_pack(backend *b, const backend_kv *kv, const backend_kv_run *run, bool gather,
                      backend_kv_type type, const backend_kv_slice *slice, void *stream) {
    cudastate *c = (cudastate *)b;
    const uint64_t bytes =
        backend_kv_head_bytes(type, kv->shape.head_dim) * (uint64_t)kv->shape.kv_heads;
    const moving m = {c, kv, slice, bytes, gather, type};
    if (c->slice == NULL) {
        return STATUS_UNSUPPORTED;
    }
    if (bytes > SLICE_BYTES) {
        return STATUS_LIMIT;
    }
    TRY(cudastate_enter(c));
    reach(c, slice->staging);
    const status moved = move_all(&m, run);
    const status ended = cudastate_check(c, cudaEventRecord(c->slice_ended, c->move_stream));
    const status joined = cudastate_check(c, cudaStreamWaitEvent(stream, c->slice_ended, 0));
    return moved != STATUS_OK ? moved : ended != STATUS_OK ? ended : joined;
}
