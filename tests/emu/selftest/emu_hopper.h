/* emu_hopper.h -- kernels of sm_90a's own instructions, right ones and wrong ones.
 *
 * Purpose    Shared by emu_hopper.cu and emu_hopper_test.cpp.
 * Ownership  As a launch: pointers are device memory of the caller.
 * Threads    The stream's owner.
 * Limits     One tile of 64 rows.
 */
#ifndef TESTS_EMU_SELFTEST_EMU_HOPPER_H
#define TESTS_EMU_SELFTEST_EMU_HOPPER_H

#include <stdbool.h>

#include <cuda.h>
#include <cuda_runtime_api.h>

enum { EMU_HOPPER_DEPTH = 320, EMU_HOPPER_STORED = 16 * 16 };

typedef enum {
    EMU_HOPPER_RIGHT,
    EMU_HOPPER_NO_FULL_WAIT,
    EMU_HOPPER_NO_EMPTY_WAIT,
    EMU_HOPPER_NO_INIT_FENCE,
    EMU_HOPPER_NO_WGMMA_FENCE,
    EMU_HOPPER_NO_WGMMA_WAIT,
    EMU_HOPPER_NO_EXPECT,
    EMU_HOPPER_NO_PROXY_FENCE,
    EMU_HOPPER_EARLY_READ,
    EMU_HOPPER_EARLY_WRITE,
    EMU_HOPPER_TILE_OVERWRITTEN,
    EMU_HOPPER_NO_STORE_WAIT,
    EMU_HOPPER_DIVERGED
} emu_hopper_bug;

/* c[64, n] = a[64, EMU_HOPPER_DEPTH] b[n, EMU_HOPPER_DEPTH]^T: tile copies, ring, wgmma on bf16. */
cudaError_t emu_hopper_ring(int n, emu_hopper_bug bug, const CUtensorMap *a, const CUtensorMap *b,
                            float *c, cudaStream_t stream);

/* c[64, n] = a[64, 32 bytes] b[n, 32 bytes]^T, a in registers: bf16, or e4m3 where fp8. */
cudaError_t emu_hopper_registers(int n, bool fp8, emu_hopper_bug bug, const void *a, const void *b,
                                 float *c, cudaStream_t stream);

/* A tile of 16 by 16 from `in` through stmatrix and a tile's store to element (x, y) of `out`. */
cudaError_t emu_hopper_store(emu_hopper_bug bug, const void *in, const CUtensorMap *out, int x,
                             int y, cudaStream_t stream);

#endif
