/* emu.hpp -- what a CUDA source file sees when it is compiled for the emulated device.
 *
 * Purpose    `g++ -x c++ -include tests/emu/emu.hpp kernel.cu` compiles a shipped kernel for the
 *            host: nvcc's keywords, the built-in variables, warp and block collectives, and a
 *            launch. Everything else a kernel uses is plain C++ or comes from CUDA's own headers.
 * Ownership  None: a launch copies its arguments.
 * Model      Every CUDA thread of a block is a fiber; a block runs on one OS thread, blocks of a
 *            grid on all cores. A fiber runs until it waits in a collective, so a kernel without
 *            collectives runs at the speed of ordinary code. The order of fibers is a function of
 *            the seed (emu_options): a wrong result under one seed is wrong under it every time.
 * Errors     A collective that lanes reach at different places, a barrier nobody can complete, a
 *            lane outside its own mask: the process prints both places and aborts. Shared memory
 *            starts as NaN bytes.
 * Threads    A kernel's; see emu_block.hpp for the host's side.
 * Limits     1024 threads a block, 227 KiB of shared memory, x86-64.
 */
#ifndef TESTS_EMU_EMU_HPP
#define TESTS_EMU_EMU_HPP

#define WEIR_EMU 1

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <tuple>
#include <type_traits>

/* CUDA's headers keep definitions of these that are there before them. */
#define __global__
#define __device__
#define __host__
#define __constant__ static
#define __grid_constant__
#define __launch_bounds__(...)
#define __noinline__ __attribute__((noinline))
/* One dynamic block of shared memory a kernel: EMU_SHARED below. A static __shared__ array would be
 * one array for all blocks of an OS thread, and hide what one block leaves for the next. */
#define __shared__ \
    static_assert(false, "declare shared memory with PTX_SHARED (kernels/cuda/ptx.cuh)")

#include <cuda_runtime.h>
#include <vector_types.h>

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "tests/emu/emu_block.hpp"

#define threadIdx (emu_fiber_now->thread)
#define blockIdx (emu_block_now->index)
#define blockDim (emu_block_now->threads)
#define gridDim (emu_block_now->grid)
#define warpSize 32

#define EMU_HERE (emu_place{__FILE__, __LINE__})
#define __syncthreads() emu_barrier(0, 0, EMU_HERE)
#define __syncwarp(...) emu_syncwarp(emu_mask(__VA_ARGS__), EMU_HERE)
#define __shfl_sync(mask, value, lane) emu_shuffle(mask, value, (lane)&31, EMU_HERE)
#define __shfl_xor_sync(mask, value, bits) \
    emu_shuffle(mask, value, (int)emu_fiber_now->lane ^ (int)(bits), EMU_HERE)
#define __shfl_down_sync(mask, value, by) \
    emu_shuffle(mask, value, (int)emu_fiber_now->lane + (int)(by), EMU_HERE)
#define __shfl_up_sync(mask, value, by) \
    emu_shuffle(mask, value, (int)emu_fiber_now->lane - (int)(by), EMU_HERE)
#define __ballot_sync(mask, predicate) emu_ballot(mask, (predicate) != 0, EMU_HERE)
#define __any_sync(mask, predicate) (__ballot_sync(mask, predicate) != 0)
#define __all_sync(mask, predicate) (__ballot_sync(mask, !(predicate)) == 0)

static inline uint32_t emu_mask(uint32_t mask = 0xffffffffu) {
    return mask;
}

/* Values of up to 32 bytes; a source lane outside the mask gives the lane's own value. */
template <class T>
static inline T emu_shuffle(uint32_t mask, T value, int from, emu_place place) {
    static_assert(std::is_trivially_copyable_v<T> && sizeof(T) <= EMU_SLOT_BYTES / 2);
    emu_shuffle_bytes(mask, &value, sizeof(value), from, place);
    return value;
}

/* The scalar functions that CUDA has and C++ has not. */
template <class T>
static inline T __ldg(const T *p) {
    return *p;
}
static inline float rsqrtf(float x) {
    return 1.0f / sqrtf(x);
}
static inline float __fdividef(float a, float b) {
    return a / b;
}
static inline float __int_as_float(int bits) {
    return __builtin_bit_cast(float, bits);
}
static inline int __float_as_int(float x) {
    return __builtin_bit_cast(int, x);
}
static inline float __fmaf_rn(float a, float b, float c) {
    return __builtin_fmaf(a, b, c);
}
static inline float __fadd_rn(float a, float b) {
    return a + b;
}
static inline float __fmul_rn(float a, float b) {
    return a * b;
}
/* Byte i of the result is byte (selector >> 4 i) & 7 of the eight in {low, high}. */
static inline uint32_t __byte_perm(uint32_t low, uint32_t high, uint32_t selector) {
    const uint64_t bytes = (uint64_t)high << 32 | low;
    uint32_t out = 0;
    for (int i = 0; i < 4; i++) {
        out |= (uint32_t)(bytes >> (selector >> (4 * i) & 7) * 8 & 0xff) << (8 * i);
    }
    return out;
}
/* Atomics give the value from before; blocks of other OS threads may do them too. */
template <class T>
static inline T atomicAdd(T *p, T value) {
    return __atomic_fetch_add(p, value, __ATOMIC_RELAXED);
}
template <class T>
static inline T atomicOr(T *p, T value) {
    return __atomic_fetch_or(p, value, __ATOMIC_RELAXED);
}
template <class T>
static inline T atomicExch(T *p, T value) {
    return __atomic_exchange_n(p, value, __ATOMIC_RELAXED);
}
static inline int __popc(unsigned x) {
    return __builtin_popcount(x);
}
static inline int __clz(int x) {
    return x != 0 ? __builtin_clz((unsigned)x) : 32;
}
static inline int __ffs(int x) {
    return __builtin_ffs(x);
}
template <class T>
static inline T min(T a, T b) {
    return b < a ? b : a;
}
template <class T>
static inline T max(T a, T b) {
    return a < b ? b : a;
}

/* Queues kernel(arguments...) on `stream` of the emulated runtime (emu_runtime.cpp). Arguments are
 * copied now, as a launch on hardware copies them. */
template <class... P, class... A>
static inline cudaError_t emu_launch(void (*kernel)(P...), dim3 grid, dim3 block,
                                     size_t shared_bytes, cudaStream_t stream, A... arguments) {
    using call = std::tuple<void (*)(P...), std::tuple<P...>>;
    static_assert(std::is_trivially_destructible_v<call>);
    if (shared_bytes > 48 * 1024) { /* as ptx_launch asks for it */
        const cudaError_t e = cudaFuncSetAttribute(
            (const void *)kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)shared_bytes);
        if (e != cudaSuccess) {
            return e;
        }
    }
    call copy{kernel, std::tuple<P...>(arguments...)};
    emu_entry run = [](const void *bytes) {
        const call *c = static_cast<const call *>(bytes);
        std::apply(std::get<0>(*c), std::get<1>(*c));
    };
    return emu_runtime_launch((const void *)kernel, grid, block, shared_bytes, stream, run, &copy,
                              sizeof(copy));
}

#include "tests/emu/emu_hopper.hpp"
#include "tests/emu/emu_ptx.hpp"

#endif
