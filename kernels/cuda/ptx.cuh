/* ptx.cuh -- the only place with inline PTX: what the kernels need that CUDA C++ has no word for.
 *
 * Purpose    One small inline function an instruction, so that kernel files hold no asm and no
 *            <<<>>>, and the emulated device (tests/emu/emu_ptx.hpp, same names) can stand in for
 *            each. A wrapper does one thing; what it means is in the PTX ISA manual, named beside
 *            it.
 * Ownership  None.
 * Threads    Device code; the collectives are reached by all lanes of a warp together.
 * Limits     sm_80 and later. Hopper's own instructions are in ptx_hopper.cuh.
 */
#ifndef KERNELS_CUDA_PTX_CUH
#define KERNELS_CUDA_PTX_CUH

#if !defined(WEIR_EMU)

#include <stdint.h>

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

/* All shared memory of a kernel is one dynamic block, seen through a struct of the kernel's. */
#define PTX_SHARED(name) extern __shared__ __align__(1024) unsigned char name[]

static __device__ __forceinline__ uint32_t ptx_shared_address(const void *p) {
    return (uint32_t)__cvta_generic_to_shared(p);
}

/* bar.sync on one of a block's sixteen barriers for `threads` (a multiple of 32) of its threads. */
static __device__ __forceinline__ void ptx_barrier(int number, int threads) {
    asm volatile("bar.sync %0, %1;" ::"r"(number), "r"(threads) : "memory");
}

/* ld.global.nc with no place in L1: 16 bytes that are read once and never change. */
static __device__ __forceinline__ uint4 ptx_load_once(const void *global) {
    uint4 v;
    asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0,%1,%2,%3}, [%4];"
                 : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
                 : "l"(global));
    return v;
}

/* cp.async.cg, 16 bytes past L1; `there` false writes zeros and reads nothing. */
static __device__ __forceinline__ void ptx_copy16(void *shared, const void *global, bool there) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(ptx_shared_address(shared)),
                 "l"(global), "r"(there ? 16 : 0)
                 : "memory");
}

static __device__ __forceinline__ void ptx_copy_commit() {
    asm volatile("cp.async.commit_group;" ::: "memory");
}

/* Waits until at most GROUPS of this thread's committed groups are under way. */
template <int GROUPS>
static __device__ __forceinline__ void ptx_copy_wait() {
    asm volatile("cp.async.wait_group %0;" ::"n"(GROUPS) : "memory");
}

/* ldmatrix .x4: four 8x8 matrices of 16-bit elements; lane l gives the address of row l % 8 of
 * matrix l / 8. Lane l gets elements (l / 4, 2 (l % 4)) and the one after it of each. */
static __device__ __forceinline__ void ptx_ldmatrix(uint32_t (&r)[4], const void *shared) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(ptx_shared_address(shared))
                 : "memory");
}

/* As ptx_ldmatrix, each matrix transposed. */
static __device__ __forceinline__ void ptx_ldmatrix_t(uint32_t (&r)[4], const void *shared) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(ptx_shared_address(shared))
                 : "memory");
}

/* mma.sync m16n8k16, bf16 in, f32 out: d[16, 8] += a[16, 16] b[16, 8]. */
static __device__ __forceinline__ void ptx_mma_bf16(float (&d)[4], const uint32_t (&a)[4],
                                                    uint32_t b0, uint32_t b1) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, "
        "{%8,%9}, {%0,%1,%2,%3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

/* As ptx_mma_bf16, f16 in. */
static __device__ __forceinline__ void ptx_mma_f16(float (&d)[4], const uint32_t (&a)[4],
                                                   uint32_t b0, uint32_t b1) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, "
        "{%8,%9}, {%0,%1,%2,%3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

/* The sum (largest) of a warp's values, the same in every lane: a butterfly of five steps, far
 * lanes first, so that the order of additions is fixed. */
static __device__ __forceinline__ float ptx_warp_sum(float value) {
#pragma unroll
    for (int bits = 16; bits > 0; bits >>= 1) {
        value += __shfl_xor_sync(0xffffffffu, value, bits);
    }
    return value;
}

static __device__ __forceinline__ float ptx_warp_max(float value) {
#pragma unroll
    for (int bits = 16; bits > 0; bits >>= 1) {
        value = fmaxf(value, __shfl_xor_sync(0xffffffffu, value, bits));
    }
    return value;
}

/* Host: launches kernel(arguments...); more than 48 KiB of shared memory is asked for first. */
template <class... P, class... A>
static inline cudaError_t ptx_launch(void (*kernel)(P...), dim3 grid, dim3 block,
                                     size_t shared_bytes, cudaStream_t stream, A... arguments) {
    if (shared_bytes > 48 * 1024) {
        cudaError_t e = cudaFuncSetAttribute(
            (const void *)kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)shared_bytes);
        if (e != cudaSuccess) {
            return e;
        }
    }
    cudaLaunchConfig_t config = {};
    config.gridDim = grid;
    config.blockDim = block;
    config.dynamicSmemBytes = shared_bytes;
    config.stream = stream;
    return cudaLaunchKernelEx(&config, kernel, static_cast<P>(arguments)...);
}

#endif
#endif
