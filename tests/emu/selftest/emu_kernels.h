/* emu_kernels.h -- the kernels that test the emulator, right ones and wrong ones.
 *
 * Purpose    Shared by emu_kernels.cu and emu_test.cpp.
 * Ownership  As a launch: `in` and `out` are device memory of the caller.
 * Threads    The stream's owner.
 * Limits     `in` holds EMU_KERNELS_THREADS floats a block (384 for EMU_PRODUCT).
 */
#ifndef TESTS_EMU_SELFTEST_EMU_KERNELS_H
#define TESTS_EMU_SELFTEST_EMU_KERNELS_H

#include <cuda_runtime_api.h>

enum { EMU_KERNELS_THREADS = 128 };

typedef enum {
    EMU_NEIGHBOUR,
    EMU_COPIED,
    EMU_SUMMED,
    EMU_UNWRITTEN,
    EMU_BARRIERS,
    EMU_PRODUCT
} emu_kernels_which;

typedef enum {
    EMU_BUG_NONE,
    EMU_BUG_NO_SYNCTHREADS,
    EMU_BUG_NO_COPY_WAIT,
    EMU_BUG_DIVERGENT_SHUFFLE,
    EMU_BUG_LANE_OUTSIDE_MASK,
    EMU_BUG_RETURNED_LANES,
    EMU_BUG_UNWRITTEN_SHARED,
    EMU_BUG_BARRIER_DEADLOCK,
    EMU_BUG_SWAPPED_FRAGMENT
} emu_kernels_bug;

cudaError_t emu_kernels_run(emu_kernels_which which, int bug, const float *in, float *out,
                            int blocks, cudaStream_t stream);

#endif
