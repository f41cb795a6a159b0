/* emu_kernels.cu -- small kernels that are right, and the same ones with one thing left out.
 *
 * emu_test.cpp wants the first kind exact under every seed and the second kind noticed: an emulator
 * that lets a missing barrier pass would let it pass in the product's kernels too.
 */
#include "tests/emu/selftest/emu_kernels.h"

#include "kernels/cuda/ptx.cuh"

namespace {

constexpr int THREADS = EMU_KERNELS_THREADS;

struct line_shared {
    float line[THREADS];
};

/* out[i] = in[(i + 1) % THREADS], through shared memory. */
__global__ void neighbour(const float *in, float *out, int bug) {
    PTX_SHARED(raw);
    line_shared &s = *(line_shared *)raw;
    const int i = (int)threadIdx.x;
    const int base = (int)blockIdx.x * THREADS;
    s.line[i] = in[base + i];
    if (bug != EMU_BUG_NO_SYNCTHREADS) {
        __syncthreads();
    }
    out[base + i] = s.line[(i + 1) % THREADS];
}

/* The same with cp.async. */
__global__ void copied(const float *in, float *out, int bug) {
    PTX_SHARED(raw);
    line_shared &s = *(line_shared *)raw;
    const int i = (int)threadIdx.x;
    if (i < THREADS / 4) {
        ptx_copy16(&s.line[4 * i], &in[4 * i], true);
    }
    ptx_copy_commit();
    if (bug != EMU_BUG_NO_COPY_WAIT) {
        ptx_copy_wait<0>();
    }
    __syncthreads();
    out[i] = s.line[i];
    ptx_copy_wait<0>();
}

/* out[i] = sum over the warp; the bug lets half of the lanes sit it out. */
__global__ void summed(const float *in, float *out, int bug) {
    const int i = (int)threadIdx.x;
    float value = in[i];
    if (bug == EMU_BUG_DIVERGENT_SHUFFLE && threadIdx.x % 32 >= 16) {
        value = 2 * __shfl_xor_sync(0xffffffffu, value, 8);
    } else if (bug == EMU_BUG_LANE_OUTSIDE_MASK) {
        value += __shfl_xor_sync(0x0000ffffu, value, 1);
    } else if (bug == EMU_BUG_RETURNED_LANES) {
        if (threadIdx.x % 32 == 0) {
            return;
        }
        value = ptx_warp_sum(value);
    } else {
        value = ptx_warp_sum(value);
    }
    out[i] = value;
}

/* Reads what nobody has written. */
__global__ void unwritten(const float *in, float *out, int bug) {
    PTX_SHARED(raw);
    line_shared &s = *(line_shared *)raw;
    const int i = (int)threadIdx.x;
    if (bug != EMU_BUG_UNWRITTEN_SHARED || i % 2 == 0) {
        s.line[i] = in[i];
    }
    __syncthreads();
    out[i] = s.line[i];
}

/* Some threads do not come to the barrier, and wait at another. */
__global__ void barriers(const float *in, float *out, int bug) {
    const int i = (int)threadIdx.x;
    if (bug == EMU_BUG_BARRIER_DEADLOCK && i < 32) {
        __syncwarp();
        ptx_barrier(1, THREADS);
    }
    __syncthreads();
    out[i] = in[i];
}

/* c[16, 8] = a[16, 16] b[8, 16]^T with ldmatrix and mma.sync. */
struct product_shared {
    __nv_bfloat16 a[16 * 16], b[8 * 16];
};

__global__ void product(const float *in, float *out, int bug) {
    PTX_SHARED(raw);
    product_shared &s = *(product_shared *)raw;
    const int lane = (int)threadIdx.x;
    for (int i = lane; i < 16 * 16; i += 32) {
        s.a[i] = __float2bfloat16(in[i]);
    }
    for (int i = lane; i < 8 * 16; i += 32) {
        s.b[i] = __float2bfloat16(in[256 + i]);
    }
    __syncwarp();
    uint32_t a[4], b[4];
    ptx_ldmatrix(a, s.a + lane % 16 * 16 + lane / 16 * 8);
    ptx_ldmatrix(b, s.b + lane % 8 * 16 + lane / 8 % 2 * 8);
    float c[4] = {};
    if (bug == EMU_BUG_SWAPPED_FRAGMENT) {
        ptx_mma_bf16(c, a, b[1], b[0]);
    } else {
        ptx_mma_bf16(c, a, b[0], b[1]);
    }
    for (int i = 0; i < 4; i++) {
        out[(lane / 4 + i / 2 * 8) * 8 + lane % 4 * 2 + i % 2] = c[i];
    }
}

}  // namespace

cudaError_t emu_kernels_run(emu_kernels_which which, int bug, const float *in, float *out,
                            int blocks, cudaStream_t stream) {
    const dim3 grid((unsigned)blocks), block(THREADS), warp(32);
    switch (which) {
        case EMU_NEIGHBOUR:
            return ptx_launch(neighbour, grid, block, sizeof(line_shared), stream, in, out, bug);
        case EMU_COPIED:
            return ptx_launch(copied, grid, block, sizeof(line_shared), stream, in, out, bug);
        case EMU_SUMMED:
            return ptx_launch(summed, grid, block, 0, stream, in, out, bug);
        case EMU_UNWRITTEN:
            return ptx_launch(unwritten, grid, block, sizeof(line_shared), stream, in, out, bug);
        case EMU_BARRIERS:
            return ptx_launch(barriers, grid, block, 0, stream, in, out, bug);
        case EMU_PRODUCT:
            return ptx_launch(product, grid, warp, sizeof(product_shared), stream, in, out, bug);
    }
    return cudaErrorInvalidValue;
}
