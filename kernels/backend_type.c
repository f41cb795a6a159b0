/* backend_type.c -- storage types of weight files: names and sizes. */
#include "kernels/backend.h"

#include <stddef.h>

static const struct {
    backend_type type;
    const char *name;
    int32_t block_inputs, block_bytes;
} TYPES[] = {
    {BACKEND_F32, "F32", 1, 4},       {BACKEND_F16, "F16", 1, 2},
    {BACKEND_BF16, "BF16", 1, 2},     {BACKEND_Q4_0, "Q4_0", 32, 18},
    {BACKEND_Q4_1, "Q4_1", 32, 20},   {BACKEND_Q5_0, "Q5_0", 32, 22},
    {BACKEND_Q5_1, "Q5_1", 32, 24},   {BACKEND_Q8_0, "Q8_0", 32, 34},
    {BACKEND_Q4_K, "Q4_K", 256, 144}, {BACKEND_Q5_K, "Q5_K", 256, 176},
    {BACKEND_Q6_K, "Q6_K", 256, 210},
};

const char *backend_type_name(backend_type type) {
    for (size_t i = 0; i < sizeof(TYPES) / sizeof(TYPES[0]); i++) {
        if (TYPES[i].type == type) {
            return TYPES[i].name;
        }
    }
    return "unknown";
}

uint64_t backend_type_bytes(backend_type type, int32_t outputs, int32_t inputs) {
    for (size_t i = 0; i < sizeof(TYPES) / sizeof(TYPES[0]); i++) {
        if (TYPES[i].type == type) {
            if (outputs < 1 || inputs < 1 || inputs % TYPES[i].block_inputs != 0) {
                return 0;
            }
            return (uint64_t)outputs * (uint64_t)(inputs / TYPES[i].block_inputs) *
                   (uint64_t)TYPES[i].block_bytes;
        }
    }
    return 0;
}
