/* backend_kv.c -- storage types of the KV pool: names and sizes. */
#include <string.h>

#include "engine/base/limits.h"
#include "kernels/backend.h"

const char *backend_kv_type_name(backend_kv_type type) {
    switch (type) {
        case BACKEND_KV_F16:
            return "f16";
        case BACKEND_KV_F32:
            return "f32";
        case BACKEND_KV_BF16:
            return "bf16";
        case BACKEND_KV_INT8:
            return "int8";
        case BACKEND_KV_FP8:
            return "fp8";
        case BACKEND_KV_TYPES:
            break;
    }
    return "unknown";
}

backend_kv_type backend_kv_choose(const backend *b, backend_kv_type wanted) {
    if (wanted != BACKEND_KV_TYPES) {
        return wanted;
    }
    return strcmp(b->name, "cpu") == 0 ? BACKEND_KV_INT8 : BACKEND_KV_F16;
}

uint64_t backend_kv_head_bytes(backend_kv_type type, int32_t head_dim) {
    if (head_dim < 16 || head_dim > OPS_HEAD_DIM_MAX || head_dim % 16 != 0) {
        return 0;
    }
    const uint64_t elements = 2u * LIMIT_PAGE_TOKENS * (uint64_t)head_dim;
    switch (type) {
        case BACKEND_KV_F16:
        case BACKEND_KV_BF16:
            return elements * 2;
        case BACKEND_KV_F32:
            return elements * 4;
        case BACKEND_KV_INT8:
            return elements + sizeof(uint16_t) * 2 * LIMIT_PAGE_TOKENS;
        case BACKEND_KV_FP8:
            return elements;
        case BACKEND_KV_TYPES:
            break;
    }
    return 0;
}
