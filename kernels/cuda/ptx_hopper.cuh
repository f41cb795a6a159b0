/* ptx_hopper.cuh -- inline PTX of sm_90a: mbarriers, tile copies (TMA), warpgroup products (wgmma).
 *
 * Purpose    As ptx.cuh, whose other half this is: one function an instruction, twins in
 *            tests/emu/emu_hopper.hpp.
 * Ownership  None.
 * Threads    Device code. wgmma, stmatrix, elect and setmaxnreg are reached by a whole warp or
 *            warpgroup together.
 * Limits     sm_90a. Operands of wgmma in shared memory are K-major with 128-byte swizzle.
 */
#ifndef KERNELS_CUDA_PTX_HOPPER_CUH
#define KERNELS_CUDA_PTX_HOPPER_CUH

#include <cuda.h>

#include "kernels/cuda/ptx.cuh"

/* What wgmma is told of a tile in shared memory: rows of 128 bytes, 128-byte swizzle, groups of
 * eight rows 1024 bytes apart. PTX ISA, "Matrix descriptor". Adding (bytes >> 4) moves along K. */
static __device__ __forceinline__ uint64_t ptx_tile(uint32_t shared_address) {
    return (uint64_t)((shared_address & 0x3ffff) >> 4) | (uint64_t)1 << 16 | (uint64_t)64 << 32 |
           (uint64_t)1 << 62;
}

#if !defined(WEIR_EMU)

/* mbarrier.init: `count` arrivals a phase. */
static __device__ __forceinline__ void ptx_mbarrier_init(uint64_t *b, int count) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(ptx_shared_address(b)), "r"(count)
                 : "memory");
}

/* fence.mbarrier_init: after inits and before the first copy or remote arrival. */
static __device__ __forceinline__ void ptx_mbarrier_init_fence() {
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}

static __device__ __forceinline__ void ptx_mbarrier_arrive(uint64_t *b) {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(ptx_shared_address(b))
                 : "memory");
}

/* mbarrier.arrive.expect_tx: one arrival, and `bytes` more of copies to come in this phase. */
static __device__ __forceinline__ void ptx_mbarrier_expect(uint64_t *b, int bytes) {
    asm volatile(
        "mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(ptx_shared_address(b)),
        "r"(bytes)
        : "memory");
}

/* Waits until the phase of `parity` has ended: mbarrier.try_wait.parity until it says so. */
static __device__ __forceinline__ void ptx_mbarrier_wait(uint64_t *b, int parity) {
    asm volatile(
        "{ .reg .pred p; WAIT: mbarrier.try_wait.parity.shared::cta.b64 p, [%0], %1; @p bra DONE; "
        "bra WAIT; DONE: }" ::"r"(ptx_shared_address(b)),
        "r"(parity)
        : "memory");
}

/* cp.async.bulk.tensor: a box of a tensor, from element (x, y[, z]), completing bytes on `b`. */
static __device__ __forceinline__ void ptx_tile_load(void *shared, const CUtensorMap *map, int x,
                                                     int y, uint64_t *b) {
    asm volatile(
        "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, "
        "{%2, %3}], [%4];" ::"r"(ptx_shared_address(shared)),
        "l"(map), "r"(x), "r"(y), "r"(ptx_shared_address(b))
        : "memory");
}

static __device__ __forceinline__ void ptx_tile_load(void *shared, const CUtensorMap *map, int x,
                                                     int y, int z, uint64_t *b) {
    asm volatile(
        "cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, "
        "{%2, %3, %4}], [%5];" ::"r"(ptx_shared_address(shared)),
        "l"(map), "r"(x), "r"(y), "r"(z), "r"(ptx_shared_address(b))
        : "memory");
}

static __device__ __forceinline__ void ptx_tile_store(const CUtensorMap *map, int x, int y,
                                                      const void *shared) {
    asm volatile(
        "cp.async.bulk.tensor.2d.global.shared::cta.bulk_group [%0, {%1, %2}], [%3];" ::"l"(map),
        "r"(x), "r"(y), "r"(ptx_shared_address(shared))
        : "memory");
}

static __device__ __forceinline__ void ptx_tile_store_commit() {
    asm volatile("cp.async.bulk.commit_group;" ::: "memory");
}

template <int GROUPS>
static __device__ __forceinline__ void ptx_tile_store_wait() {
    asm volatile("cp.async.bulk.wait_group %0;" ::"n"(GROUPS) : "memory");
}

/* fence.proxy.async: what was stored to shared memory before is seen by wgmma and tile copies. */
static __device__ __forceinline__ void ptx_fence_async() {
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

/* elect.sync: true in one lane of the warp. */
static __device__ __forceinline__ bool ptx_elect() {
    uint32_t chosen;
    asm volatile("{ .reg .pred p; elect.sync _|p, 0xffffffff; selp.b32 %0, 1, 0, p; }"
                 : "=r"(chosen));
    return chosen != 0;
}

/* setmaxnreg: a warpgroup takes more registers a thread, or gives some back. */
template <int REGISTERS>
static __device__ __forceinline__ void ptx_registers_more() {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(REGISTERS));
}
template <int REGISTERS>
static __device__ __forceinline__ void ptx_registers_fewer() {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(REGISTERS));
}

/* stmatrix .x4: ptx_ldmatrix backwards. */
static __device__ __forceinline__ void ptx_stmatrix(void *shared, const uint32_t (&r)[4]) {
    asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1,%2,%3,%4};" ::"r"(
                     ptx_shared_address(shared)),
                 "r"(r[0]), "r"(r[1]), "r"(r[2]), "r"(r[3])
                 : "memory");
}

/* wgmma.fence: before the first product, and after registers of one were written. */
static __device__ __forceinline__ void ptx_wgmma_fence() {
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}
static __device__ __forceinline__ void ptx_wgmma_commit() {
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}
/* Until then nobody may touch accumulators, or write the tiles. */
template <int GROUPS>
static __device__ __forceinline__ void ptx_wgmma_wait() {
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(GROUPS) : "memory");
}

/* The registers of an accumulator as asm names them and as it is given them. */
#define PTX_R4 "%0,%1,%2,%3"
#define PTX_R8 \
    PTX_R4     \
    ","        \
    "%4,%5,%6,%7"
#define PTX_R16 \
    PTX_R8      \
    ","         \
    "%8,%9,%10,%11,%12,%13,%14,%15"
#define PTX_R32 \
    PTX_R16     \
    ","         \
    "%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31"
#define PTX_R64                                                                        \
    PTX_R32                                                                            \
    ","                                                                                \
    "%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47,%48,%49,%50,%51," \
    "%52,%53,%54,%55,%56,%57,%58,%59,%60,%61,%62,%63"
#define PTX_R128                                                                       \
    PTX_R64                                                                            \
    ","                                                                                \
    "%64,%65,%66,%67,%68,%69,%70,%71,%72,%73,%74,%75,%76,%77,%78,%79,%80,%81,%82,%83," \
    "%84,%85,%86,%87,%88,%89,%90,%91,%92,%93,%94,%95,%96,%97,%98,%99,%100,%101,%102,"  \
    "%103,%104,%105,%106,%107,%108,%109,%110,%111,%112,%113,%114,%115,%116,%117,%118," \
    "%119,%120,%121,%122,%123,%124,%125,%126,%127"
#define PTX_D4(d, i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3])
#define PTX_D8(d, i) PTX_D4(d, i), PTX_D4(d, i + 4)
#define PTX_D16(d, i) PTX_D8(d, i), PTX_D8(d, i + 8)
#define PTX_D32(d, i) PTX_D16(d, i), PTX_D16(d, i + 16)
#define PTX_D64(d, i) PTX_D32(d, i), PTX_D32(d, i + 32)
#define PTX_D128(d, i) PTX_D64(d, i), PTX_D64(d, i + 64)

/* wgmma.mma_async: d[64, n] (+)= a[64, k] b[n, k]^T, a from a tile or from registers; bf16 (k = 16)
 * and e4m3 (k = 32), f32 sums; n is twice the registers of d: 8, 16, 32, 64, 128 or 256. */
#define PTX_WGMMA(name, n, r, k, type, tail_ss, tail_rs, o0, o1, o2, o3, o4, o5)                  \
    static __device__ __forceinline__ void name(float(&d)[r], uint64_t a, uint64_t b, bool add) { \
        asm volatile("{ .reg .pred p; setp.ne.b32 p, " o2                                         \
                     ", 0; wgmma.mma_async.sync.aligned.m64n" #n "k" #k ".f32." type "." type     \
                     " {" PTX_R##r "}, " o0 ", " o1 ", p, 1, 1" tail_ss "; }"                     \
                     : PTX_D##r(d, 0)                                                             \
                     : "l"(a), "l"(b), "r"((int)add));                                            \
    }                                                                                             \
    static __device__ __forceinline__ void name(float(&d)[r], const uint32_t(&a)[4], uint64_t b,  \
                                                bool add) {                                       \
        asm volatile("{ .reg .pred p; setp.ne.b32 p, " o5                                         \
                     ", 0; wgmma.mma_async.sync.aligned.m64n" #n "k" #k ".f32." type "." type     \
                     " {" PTX_R##r "}, {" o0 "," o1 "," o2 "," o3 "}, " o4 ", p, 1, 1" tail_rs    \
                                   "; }"                                                          \
                     : PTX_D##r(d, 0)                                                             \
                     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"((int)add));        \
    }
#define PTX_WGMMA_SIZE(n, r, ...)                                             \
    PTX_WGMMA(ptx_wgmma_bf16, n, r, 16, "bf16", ", 0, 0", ", 0", __VA_ARGS__) \
    PTX_WGMMA(ptx_wgmma_e4m3, n, r, 32, "e4m3", "", "", __VA_ARGS__)
PTX_WGMMA_SIZE(8, 4, "%4", "%5", "%6", "%7", "%8", "%9")
PTX_WGMMA_SIZE(16, 8, "%8", "%9", "%10", "%11", "%12", "%13")
PTX_WGMMA_SIZE(32, 16, "%16", "%17", "%18", "%19", "%20", "%21")
PTX_WGMMA_SIZE(64, 32, "%32", "%33", "%34", "%35", "%36", "%37")
PTX_WGMMA_SIZE(128, 64, "%64", "%65", "%66", "%67", "%68", "%69")
PTX_WGMMA_SIZE(256, 128, "%128", "%129", "%130", "%131", "%132", "%133")

#endif
#endif
