/* emu_hopper.cu -- small kernels of mbarriers, tile copies and wgmma, and the same with one thing
 * left out, which emu_hopper_test.cpp wants noticed.
 */
#include "tests/emu/selftest/emu_hopper.h"

#include "kernels/cuda/ptx_hopper.cuh"

namespace {

constexpr int STAGES = 2, STEPS = EMU_HOPPER_DEPTH / 64;

template <int N>
struct ring_shared {
    unsigned char a[STAGES][64 * 128];
    unsigned char b[STAGES][(N < 8 ? 8 : N) * 128];
    uint64_t full[STAGES], empty[STAGES];
};

template <int N>
__device__ void ring_produce(ring_shared<N> &s, const CUtensorMap &a, const CUtensorMap &b,
                             int bug) {
    for (int step = 0; step < STEPS; step++) {
        const int stage = step % STAGES, parity = step / STAGES % 2;
        if (bug != EMU_HOPPER_NO_EMPTY_WAIT) {
            ptx_mbarrier_wait(&s.empty[stage], parity ^ 1);
        }
        if (bug == EMU_HOPPER_NO_EXPECT) {
            ptx_mbarrier_arrive(&s.full[stage]);
        } else {
            ptx_mbarrier_expect(&s.full[stage], (64 + N) * 128);
        }
        ptx_tile_load(s.a[stage], &a, step * 64, 0, &s.full[stage]);
        ptx_tile_load(s.b[stage], &b, step * 64, 0, &s.full[stage]);
    }
}

template <int N>
__device__ void put(const float (&d)[N / 2], float *c) {
    const int lane = (int)threadIdx.x % 32, warp = (int)threadIdx.x / 32;
    for (int i = 0; i < N / 2; i++) {
        const int row = warp * 16 + lane / 4 + i / 2 % 2 * 8;
        c[row * N + i / 4 * 8 + lane % 4 * 2 + i % 2] = d[i];
    }
}

/* Four warps multiply, the fifth fetches. */
template <int N>
__global__ void __launch_bounds__(160)
    ring_kernel(const __grid_constant__ CUtensorMap a, const __grid_constant__ CUtensorMap b,
                float *c, int bug) {
    PTX_SHARED(raw);
    ring_shared<N> &s = *(ring_shared<N> *)raw;
    if (threadIdx.x == 0) {
        for (int i = 0; i < STAGES; i++) {
            ptx_mbarrier_init(&s.full[i], 1);
            ptx_mbarrier_init(&s.empty[i], 4);
        }
        if (bug != EMU_HOPPER_NO_INIT_FENCE) {
            ptx_mbarrier_init_fence();
        }
    }
    __syncthreads();
    if (threadIdx.x >= 128) {
        if (ptx_elect()) {
            ring_produce<N>(s, a, b, bug);
        }
        return;
    }
    float d[N / 2];
    for (int step = 0; step < STEPS; step++) {
        const int stage = step % STAGES;
        if (bug != EMU_HOPPER_NO_FULL_WAIT) {
            ptx_mbarrier_wait(&s.full[stage], step / STAGES % 2);
        }
        if (bug != EMU_HOPPER_NO_WGMMA_FENCE) {
            ptx_wgmma_fence();
        }
        const uint64_t ta = ptx_tile(ptx_shared_address(s.a[stage]));
        const uint64_t tb = ptx_tile(ptx_shared_address(s.b[stage]));
        for (int k = 0; k < 4; k++) { /* 32 bytes further along K */
            ptx_wgmma_bf16(d, ta + (uint64_t)(2 * k), tb + (uint64_t)(2 * k), step + k > 0);
        }
        ptx_wgmma_commit();
        if (bug != EMU_HOPPER_NO_WGMMA_WAIT) {
            ptx_wgmma_wait<0>();
        }
        if (threadIdx.x % 32 == 0) {
            ptx_mbarrier_arrive(&s.empty[stage]);
        }
    }
    put<N>(d, c);
}

/* B's rows by ordinary stores, swizzled as a tile copy would. */
template <int N, bool FP8>
__global__ void registers_kernel(const unsigned char *a, const unsigned char *b, float *c,
                                 int bug) {
    PTX_SHARED(raw);
    const int t = (int)threadIdx.x, lane = t % 32, warp = t / 32;
    for (int i = t; i < N * 32; i += 128) {
        const int at = i / 32 / 8 * 1024 + i / 32 % 8 * 128 + i % 32;
        raw[at ^ ((at >> 7 & 7) << 4)] = b[i];
    }
    if (bug != EMU_HOPPER_NO_PROXY_FENCE) {
        ptx_fence_async();
    }
    __syncthreads();
    uint32_t words[4];
    for (int i = 0; i < 4; i++) {
        const int row = warp * 16 + lane / 4 + i % 2 * 8;
        words[i] = *(const uint32_t *)(a + row * 32 + lane % 4 * 4 + i / 2 * 16);
    }
    float d[N / 2];
    const uint64_t tile = ptx_tile(ptx_shared_address(raw));
    if (bug == EMU_HOPPER_DIVERGED && warp == 3) {
        ptx_wgmma_commit();
    }
    ptx_wgmma_fence();
    if (FP8) {
        ptx_wgmma_e4m3(d, words, tile, false);
    } else {
        ptx_wgmma_bf16(d, words, tile, false);
    }
    ptx_wgmma_commit();
    if (bug == EMU_HOPPER_EARLY_READ) {
        put<N>(d, c);
    }
    if (bug == EMU_HOPPER_EARLY_WRITE) {
        d[1] = 0;
    }
    if (bug == EMU_HOPPER_TILE_OVERWRITTEN) {
        raw[t % 8 * 128] = 77;
        ptx_fence_async();
    }
    ptx_wgmma_wait<0>();
    if (bug != EMU_HOPPER_EARLY_READ) {
        put<N>(d, c);
    }
}

__global__ void store_kernel(const uint16_t *in, const __grid_constant__ CUtensorMap out, int x,
                             int y, int bug) {
    PTX_SHARED(raw);
    uint16_t *tile = (uint16_t *)raw;
    const int lane = (int)threadIdx.x;
    uint32_t r[4];
    ptx_registers_fewer<40>();
    if (lane < 32) {
        for (int i = 0; i < 4; i++) { /* matrix i: rows 8 (i % 2), columns 8 (i / 2) */
            const int at = (lane / 4 + i % 2 * 8) * 16 + i / 2 * 8 + lane % 4 * 2;
            r[i] = *(const uint32_t *)(in + at);
        }
        ptx_stmatrix(tile + lane % 16 * 16 + lane / 16 * 8, r);
        if (bug != EMU_HOPPER_NO_PROXY_FENCE) {
            ptx_fence_async();
        }
        __syncwarp();
        if (ptx_elect()) {
            ptx_tile_store(&out, x, y, tile);
            ptx_tile_store_commit();
            if (bug != EMU_HOPPER_NO_STORE_WAIT) {
                ptx_tile_store_wait<0>();
            }
        }
    }
}

template <int N>
cudaError_t ring(int bug, const CUtensorMap *a, const CUtensorMap *b, float *c,
                 cudaStream_t stream) {
    return ptx_launch(ring_kernel<N>, dim3(1), dim3(160), sizeof(ring_shared<N>), stream, *a, *b, c,
                      bug);
}

template <int N>
cudaError_t registers(bool fp8, int bug, const void *a, const void *b, float *c,
                      cudaStream_t stream) {
    const unsigned char *pa = (const unsigned char *)a, *pb = (const unsigned char *)b;
    return ptx_launch(fp8 ? registers_kernel<N, true> : registers_kernel<N, false>, dim3(1),
                      dim3(128), (size_t)N * 128, stream, pa, pb, c, bug);
}

}  // namespace

cudaError_t emu_hopper_ring(int n, emu_hopper_bug bug, const CUtensorMap *a, const CUtensorMap *b,
                            float *c, cudaStream_t stream) {
    return n == 8     ? ring<8>(bug, a, b, c, stream)
           : n == 64  ? ring<64>(bug, a, b, c, stream)
           : n == 128 ? ring<128>(bug, a, b, c, stream)
                      : ring<256>(bug, a, b, c, stream);
}

cudaError_t emu_hopper_registers(int n, bool fp8, emu_hopper_bug bug, const void *a, const void *b,
                                 float *c, cudaStream_t stream) {
    return n == 16   ? registers<16>(fp8, bug, a, b, c, stream)
           : n == 32 ? registers<32>(fp8, bug, a, b, c, stream)
                     : registers<256>(fp8, bug, a, b, c, stream);
}

cudaError_t emu_hopper_store(emu_hopper_bug bug, const void *in, const CUtensorMap *out, int x,
                             int y, cudaStream_t stream) {
    return ptx_launch(store_kernel, dim3(1), dim3(128), (size_t)EMU_HOPPER_STORED * 2, stream,
                      (const uint16_t *)in, *out, x, y, (int)bug);
}
