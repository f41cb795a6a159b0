/* emu_ptx.hpp -- the host twins of kernels/cuda/ptx.cuh: the same names, each done on the host.
 *
 * Purpose    emu.hpp includes this, which makes the bodies of ptx.cuh disappear. A twin follows the
 *            PTX ISA manual, not the device: the two are compared where there is a device.
 * Ownership  None.
 * Threads    A kernel's.
 * Limits     As ptx.cuh.
 */
#ifndef TESTS_EMU_EMU_PTX_HPP
#define TESTS_EMU_EMU_PTX_HPP

#include <cstdint>

#include "tests/emu/emu_block.hpp"

void emu_ldmatrix(uint32_t *r, const void *shared, bool transposed, emu_place place);
void emu_mma_bf16(float *d, const uint32_t *a, uint32_t b0, uint32_t b1, emu_place place);
void emu_mma_f16(float *d, const uint32_t *a, uint32_t b0, uint32_t b1, emu_place place);
float emu_warp_sum(float value, emu_place place);
float emu_warp_max(float value, emu_place place);

#define PTX_SHARED(name) unsigned char *const name = emu_block_now->shared

static inline uint32_t ptx_shared_address(const void *p) {
    return (uint32_t)((const unsigned char *)p - emu_block_now->shared);
}

static inline uint4 ptx_load_once(const void *global) {
    return *static_cast<const uint4 *>(global);
}

static inline void ptx_copy16(void *shared, const void *global, bool there) {
    emu_copy_start(shared, global, 16, there ? 16 : 0);
}
static inline void ptx_copy_commit() {
    emu_copy_commit();
}
template <int GROUPS>
static inline void ptx_copy_wait() {
    emu_copy_wait(GROUPS);
}

#define ptx_barrier(number, threads) emu_barrier(number, (uint32_t)(threads), EMU_HERE)
#define ptx_ldmatrix(r, shared) emu_ldmatrix(r, shared, false, EMU_HERE)
#define ptx_ldmatrix_t(r, shared) emu_ldmatrix(r, shared, true, EMU_HERE)
#define ptx_mma_bf16(d, a, b0, b1) emu_mma_bf16(d, a, b0, b1, EMU_HERE)
#define ptx_mma_f16(d, a, b0, b1) emu_mma_f16(d, a, b0, b1, EMU_HERE)
#define ptx_warp_sum(value) emu_warp_sum(value, EMU_HERE)
#define ptx_warp_max(value) emu_warp_max(value, EMU_HERE)
#define ptx_launch(kernel, grid, block, shared_bytes, stream, ...) \
    emu_launch(kernel, grid, block, shared_bytes, stream, __VA_ARGS__)

#endif
