/* cudagreen.h -- a device's multiprocessors divided between two streams.
 *
 * Purpose    Green contexts (CUDA 12.4): two disjoint sets of multiprocessors of one device, each
 *            with a stream, over the memory of the primary context. What runs in one stream never
 *            waits for the blocks of the other.
 * Ownership  cudagreen_open makes both sides; each is closed by itself, its stream destroyed first.
 * Threads    The caller's, with the device current.
 * Limits     Memory bandwidth and L2 are shared as before. That both run at once is what the
 *            hardware does, not what CUDA promises.
 */
#ifndef KERNELS_CUDA_CUDAGREEN_H
#define KERNELS_CUDA_CUDAGREEN_H

#include <cuda_runtime_api.h>
#include <stdbool.h>

enum { CUDAGREEN_WHY_BYTES = 80 };

typedef struct {
    struct CUgreenCtx_st *context; /* NULL: none */
    cudaStream_t stream;
    unsigned multiprocessors;
} cudagreen_side;

/* How many of `count` multiprocessors a group gets so that about `percent` are left to the others:
 * a multiple of `alignment`, `least` at least, and as many left. 0: it cannot be. */
unsigned cudagreen_group(unsigned count, unsigned least, unsigned alignment, unsigned percent);

/* `large` and `small`, whose share is `percent`, with streams of these priorities, that have
 * carried a copy, an event and a graph. False: `why` says what the driver lacks, and nothing is
 * left. */
bool cudagreen_open(int device, unsigned percent, int large_priority, int small_priority,
                    cudagreen_side *large, cudagreen_side *small, char why[CUDAGREEN_WHY_BYTES]);

/* After its stream. */
void cudagreen_close(cudagreen_side *side);

#endif
