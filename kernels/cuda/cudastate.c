/* cudastate.c -- what every file of the CUDA backend asks of its device: errors, memory that is
 * counted, the numerics class.
 */
#include <stdio.h>

#include "kernels/cuda/cudastate.h"

status cudastate_enter(cudastate *c) {
    return cudastate_check(c, cudaSetDevice(c->device));
}

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

status cudastate_take(cudastate *c, uint64_t bytes, void **out) {
    *out = NULL;
    TRY(cudastate_check(c, cudaMalloc(out, bytes != 0 ? bytes : 1)));
    c->taken += bytes;
    return STATUS_OK;
}

status cudastate_reserve(cudastate *c, cudastate_buffer *b, uint64_t bytes) {
    if (bytes <= b->bytes) {
        return STATUS_OK;
    }
    if (c->sealed) {
        return STATUS_LIMIT;
    }
    void *memory = NULL;
    TRY(cudastate_take(c, bytes, &memory));
    const status s = cudastate_check(c, cudaFree(b->memory)); /* waits for what still uses it */
    c->taken -= b->bytes;
    *b = (cudastate_buffer){memory, bytes};
    return s;
}

/* Sums of two are the same in either order. Of more, NCCL's order depends on how many numbers there
 * are, that is on the other rows; cudagroup.c has another for --deterministic. */
void cudastate_name(cudastate *c, int32_t ranks) {
    (void)snprintf(c->base.numerics, sizeof(c->base.numerics), "cuda-%s-2/sm_%d/%s",
                   c->plain ? "plain" : "tensor", c->capability,
                   c->library == NULL && (ranks <= 2 || c->deterministic) ? "exact" : "fast-2");
}
