/* emu_hopper.hpp -- the host twins of kernels/cuda/ptx_hopper.cuh: the same names, done on the
 * host.
 *
 * Purpose    mbarriers, tile copies and warpgroup products as late as the hardware may do them, so
 *            that a missing wait shows; a missing fence, registers or tiles touched too early end
 *            the process with the place.
 * Ownership  State of a block, of the OS thread that runs it.
 * Threads    A kernel's.
 * Limits     As ptx_hopper.cuh. A missing fence.proxy.async is noticed where bytes have changed
 *            since anybody's last one.
 */
#ifndef TESTS_EMU_EMU_HOPPER_HPP
#define TESTS_EMU_EMU_HOPPER_HPP

#include <cstdint>

#include <cuda.h>

#include "tests/emu/emu_block.hpp"

enum emu_element { EMU_BF16, EMU_E4M3 };

void emu_mbarrier_init(uint64_t *b, int count);
void emu_mbarrier_arrive(uint64_t *b, int bytes, emu_place place);
void emu_mbarrier_wait(uint64_t *b, int parity, emu_place place);
void emu_fence_async(bool of_inits);
void emu_tile_load(void *shared, const CUtensorMap *map, int x, int y, int z, uint64_t *b,
                   int dimensions, emu_place place);
void emu_tile_store(const CUtensorMap *map, int x, int y, const void *shared, emu_place place);
void emu_tile_store_commit(void);
void emu_tile_store_wait(int groups_left);
bool emu_elect(emu_place place);
void emu_stmatrix(void *shared, const uint32_t *r, emu_place place);
void emu_set_registers(int count, emu_place place);
void emu_wgmma(emu_element type, float *d, int registers, const uint32_t *a, uint64_t a_tile,
               uint64_t b_tile, bool add, emu_place place);
void emu_wgmma_fence(emu_place place);
void emu_wgmma_commit(emu_place place);
void emu_wgmma_wait(int groups_left, emu_place place);

template <int R>
static inline void emu_wgmma_of(emu_element type, float (&d)[R], uint64_t a, uint64_t b, bool add,
                                emu_place place) {
    emu_wgmma(type, d, R, nullptr, a, b, add, place);
}
template <int R>
static inline void emu_wgmma_of(emu_element type, float (&d)[R], const uint32_t (&a)[4], uint64_t b,
                                bool add, emu_place place) {
    emu_wgmma(type, d, R, a, 0, b, add, place);
}
static inline void emu_tile_load_at(void *shared, const CUtensorMap *map, int x, int y, uint64_t *b,
                                    emu_place place) {
    emu_tile_load(shared, map, x, y, 0, b, 2, place);
}
static inline void emu_tile_load_at(void *shared, const CUtensorMap *map, int x, int y, int z,
                                    uint64_t *b, emu_place place) {
    emu_tile_load(shared, map, x, y, z, b, 3, place);
}

#define ptx_mbarrier_init(b, count) emu_mbarrier_init(b, count)
#define ptx_mbarrier_init_fence() emu_fence_async(true)
#define ptx_mbarrier_arrive(b) emu_mbarrier_arrive(b, 0, EMU_HERE)
#define ptx_mbarrier_expect(b, bytes) emu_mbarrier_arrive(b, bytes, EMU_HERE)
#define ptx_mbarrier_wait(b, parity) emu_mbarrier_wait(b, parity, EMU_HERE)
#define ptx_fence_async() emu_fence_async(false)
#define ptx_tile_load(...) emu_tile_load_at(__VA_ARGS__, EMU_HERE)
#define ptx_tile_store(map, x, y, shared) emu_tile_store(map, x, y, shared, EMU_HERE)
#define ptx_tile_store_commit() emu_tile_store_commit()
#define ptx_elect() emu_elect(EMU_HERE)
#define ptx_stmatrix(shared, r) emu_stmatrix(shared, r, EMU_HERE)
#define ptx_wgmma_fence() emu_wgmma_fence(EMU_HERE)
#define ptx_wgmma_commit() emu_wgmma_commit(EMU_HERE)
#define ptx_wgmma_bf16(d, a, b, add) emu_wgmma_of(EMU_BF16, d, a, b, add, EMU_HERE)
#define ptx_wgmma_e4m3(d, a, b, add) emu_wgmma_of(EMU_E4M3, d, a, b, add, EMU_HERE)

template <int GROUPS>
static inline void ptx_tile_store_wait() {
    emu_tile_store_wait(GROUPS);
}
template <int GROUPS>
static inline void ptx_wgmma_wait() {
    emu_wgmma_wait(GROUPS, {"ptx_wgmma_wait", 0});
}
template <int REGISTERS>
static inline void ptx_registers_more() {
    emu_set_registers(REGISTERS, {"ptx_registers_more", 0});
}
template <int REGISTERS>
static inline void ptx_registers_fewer() {
    emu_set_registers(REGISTERS, {"ptx_registers_fewer", 0});
}

#endif
