/* fragment.cuh -- packed weights as operands of mma.sync.
 *
 * Purpose    What stream.cu and gemm.cu share: the 16 bytes a lane has of a chunk (cuda_ops.h)
 *            become bf16 pairs in registers, the same for both.
 * Ownership  None.
 * Threads    Device code; each lane for itself.
 * Limits     As cuda_ops.h.
 */
#ifndef KERNELS_CUDA_FRAGMENT_CUH
#define KERNELS_CUDA_FRAGMENT_CUH

#include "kernels/cuda/cuda_ops.h"
#include "kernels/cuda/ptx.cuh"

/* Two bf16 of small integers from bytes 0-127: 128 + q is 0x4300 | q, exactly; then the difference.
 */
static __device__ __forceinline__ uint32_t fragment_bytes(uint32_t bytes, int first,
                                                          __nv_bfloat162 zero) {
    const uint32_t biased = __byte_perm(bytes, 0x43434343u, first == 0 ? 0x4140 : 0x4342);
    __nv_bfloat162 value;
    *(uint32_t *)&value = biased;
    value = __hsub2(value, zero);
    return *(uint32_t *)&value;
}

static __device__ __forceinline__ uint32_t fragment_floats(float low, float high) {
    const __nv_bfloat162 value = __floats2bfloat162_rn(low, high);
    return *(const uint32_t *)&value;
}

/* The A operand of one step: this lane's four inputs of outputs g (first) and g + 8 (second), as
 * pairs {g: 0 1, g + 8: 0 1, g: 2 3, g + 8: 2 3}. Which inputs those are is the matter of B alone.
 */
template <cuda_store STORE>
static __device__ __forceinline__ void fragment_of(uint32_t (&a)[4], const uint4 &first,
                                                   const uint4 &second, int step,
                                                   __nv_bfloat162 zero) {
    const uint32_t *rows[2] = {(const uint32_t *)&first, (const uint32_t *)&second};
#pragma unroll
    for (int row = 0; row < 2; row++) {
        const uint32_t *words = rows[row];
        if (STORE == CUDA_STORE_NIBBLES) {
            const uint32_t bytes = words[step / 2] >> (step % 2 * 4) & 0x0f0f0f0fu;
            a[row] = fragment_bytes(bytes, 0, zero);
            a[row + 2] = fragment_bytes(bytes, 2, zero);
        } else if (STORE == CUDA_STORE_BYTES) {
            const int32_t word = (int32_t)words[step];
            a[row] = fragment_floats((float)(int8_t)word, (float)(int8_t)(word >> 8));
            a[row + 2] = fragment_floats((float)(int8_t)(word >> 16), (float)(word >> 24));
        } else if (STORE == CUDA_STORE_BF16) {
            a[row] = words[step * 2];
            a[row + 2] = words[step * 2 + 1];
        } else if (STORE == CUDA_STORE_F16) {
            const __half2 *pairs = (const __half2 *)words + step * 2;
            const float2 p0 = __half22float2(pairs[0]), p1 = __half22float2(pairs[1]);
            a[row] = fragment_floats(p0.x, p0.y);
            a[row + 2] = fragment_floats(p1.x, p1.y);
        } else {
            const float *values = (const float *)words;
            a[row] = fragment_floats(values[0], values[1]);
            a[row + 2] = fragment_floats(values[2], values[3]);
        }
    }
}

/* Scales or minimums of four groups of 32 (or eight of 16) of one output. */
static __device__ __forceinline__ float fragment_span(const cuda_matrix &m, const void *plane,
                                                      int64_t row, int per_span, int index) {
    const int64_t i = row * per_span + index;
    return m.scales_f32 ? ((const float *)plane)[i] : __half2float(((const __half *)plane)[i]);
}

#endif
