/* pages.cuh -- one token's keys or values of a kv head of a page, element by element.
 *
 * Purpose    What rope_append, the plain attention and the scatter of pages.cu share: how each type
 *            of cuda_kv_layer is read and rounded.
 * Ownership  None.
 * Threads    pages_put is a warp's, all lanes together; threadIdx.x % 32 is the lane.
 * Limits     head_dim up to 32 * PAGES_LANE_DIMS.
 */
#ifndef KERNELS_CUDA_PAGES_CUH
#define KERNELS_CUDA_PAGES_CUH

#include <cuda_fp8.h>

#include "kernels/cuda/cuda_ops.h"
#include "kernels/cuda/ptx.cuh"

enum { PAGES_TOKENS = 16, PAGES_LANE_DIMS = 8 };

/* Where the scale of K (which 0) or V (1) of a token lies: INT8. */
static __device__ __forceinline__ uint8_t *pages_scale_at(int32_t dim, uint8_t *head, int which,
                                                          int32_t token) {
    return head + 2 * PAGES_TOKENS * dim + (which * PAGES_TOKENS + token) * 2;
}

/* Element d of K (which 0) or V (1) of a token. */
static __device__ __forceinline__ float pages_get(cuda_kv_type type, int32_t dim, uint8_t *head,
                                                  int which, int32_t token, int32_t d) {
    const int32_t element = (which * PAGES_TOKENS + token) * dim + d;
    switch (type) {
        case CUDA_KV_F32:
            return ((const float *)head)[element];
        case CUDA_KV_F16:
            return __half2float(((const __half *)head)[element]);
        case CUDA_KV_BF16:
            return __bfloat162float(((const __nv_bfloat16 *)head)[element]);
        case CUDA_KV_FP8:
            return __half2float(__half(
                __nv_cvt_fp8_to_halfraw(((const __nv_fp8_storage_t *)head)[element], __NV_E4M3)));
        case CUDA_KV_INT8:
            break;
    }
    return (float)((const int8_t *)head)[element] *
           __bfloat162float(*(const __nv_bfloat16 *)pages_scale_at(dim, head, which, token));
}

/* What rounds a token's values to INT8, and is kept beside them. */
static __device__ __forceinline__ float pages_put_scale(int32_t dim, uint8_t *head, int which,
                                                        int32_t token, float largest) {
    const __nv_bfloat16 rounded = __float2bfloat16_ru(largest / 127.0f);
    if (threadIdx.x % 32 == 0) {
        *(__nv_bfloat16 *)pages_scale_at(dim, head, which, token) = rounded;
    }
    return __bfloat162float(rounded);
}

static __device__ __forceinline__ void pages_put_one(cuda_kv_type type, uint8_t *head,
                                                     int32_t element, float value, float scale) {
    switch (type) {
        case CUDA_KV_F32:
            ((float *)head)[element] = value;
            break;
        case CUDA_KV_F16:
            ((__half *)head)[element] = __float2half_rn(value);
            break;
        case CUDA_KV_BF16:
            ((__nv_bfloat16 *)head)[element] = __float2bfloat16_rn(value);
            break;
        case CUDA_KV_FP8: /* kmath_to_e4m3: what is too large becomes the largest */
            ((__nv_fp8_storage_t *)head)[element] =
                __nv_cvt_float_to_fp8(value, __NV_SATFINITE, __NV_E4M3);
            break;
        case CUDA_KV_INT8:
            ((int8_t *)head)[element] = (int8_t)(scale > 0 ? rintf(value / scale) : 0.0f);
            break;
    }
}

/* A token's values: lane l has elements l, l + 32, ... */
static __device__ __forceinline__ void pages_put(cuda_kv_type type, int32_t dim, uint8_t *head,
                                                 int which, int32_t token, const float *value) {
    const int32_t lane = (int32_t)threadIdx.x % 32, first = (which * PAGES_TOKENS + token) * dim;
    float scale = 0;
    if (type == CUDA_KV_INT8) {
        float largest = 0;
#pragma unroll
        for (int32_t i = 0; i < PAGES_LANE_DIMS; i++) {
            largest = lane + i * 32 < dim ? fmaxf(largest, fabsf(value[i])) : largest;
        }
        scale = pages_put_scale(dim, head, which, token, ptx_warp_max(largest));
    }
#pragma unroll
    for (int32_t i = 0; i < PAGES_LANE_DIMS; i++) {
        if (lane + i * 32 < dim) {
            pages_put_one(type, head, first + lane + i * 32, value[i], scale);
        }
    }
}

#endif
