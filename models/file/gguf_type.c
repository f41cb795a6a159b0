/* gguf_type.c -- element types of GGUF tensors. */
#include "models/file/gguf_type.h"

#include <stddef.h>

typedef struct {
    const char *name;
    uint32_t block_elements; /* 0: known, not supported */
    uint32_t block_bytes;
} type_row;

/* Block bytes: quantised types are the scales of the block and its packed codes, in the order of
 * the format: Q4_1 = 2 (d) + 2 (m) + 16; Q6_K = 128 (low bits) + 64 (high bits) + 16 + 2. */
static const type_row type_rows[] = {
    [GGUF_F32] = {"F32", 1, 4},
    [GGUF_F16] = {"F16", 1, 2},
    [GGUF_Q4_0] = {"Q4_0", 32, 2 + 16},
    [GGUF_Q4_1] = {"Q4_1", 32, 2 + 2 + 16},
    [GGUF_Q5_0] = {"Q5_0", 32, 2 + 4 + 16},
    [GGUF_Q5_1] = {"Q5_1", 32, 2 + 2 + 4 + 16},
    [GGUF_Q8_0] = {"Q8_0", 32, 2 + 32},
    [9] = {"Q8_1", 0, 0},
    [10] = {"Q2_K", 0, 0},
    [11] = {"Q3_K", 0, 0},
    [GGUF_Q4_K] = {"Q4_K", 256, 2 + 2 + 12 + 128},
    [GGUF_Q5_K] = {"Q5_K", 256, 2 + 2 + 12 + 32 + 128},
    [GGUF_Q6_K] = {"Q6_K", 256, 128 + 64 + 16 + 2},
    [15] = {"Q8_K", 0, 0},
    [16] = {"IQ2_XXS", 0, 0},
    [17] = {"IQ2_XS", 0, 0},
    [18] = {"IQ3_XXS", 0, 0},
    [19] = {"IQ1_S", 0, 0},
    [20] = {"IQ4_NL", 0, 0},
    [21] = {"IQ3_S", 0, 0},
    [22] = {"IQ2_S", 0, 0},
    [23] = {"IQ4_XS", 0, 0},
    [24] = {"I8", 0, 0},
    [25] = {"I16", 0, 0},
    [26] = {"I32", 0, 0},
    [27] = {"I64", 0, 0},
    [28] = {"F64", 0, 0},
    [29] = {"IQ1_M", 0, 0},
    [GGUF_BF16] = {"BF16", 1, 2},
    [34] = {"TQ1_0", 0, 0},
    [35] = {"TQ2_0", 0, 0},
    [39] = {"MXFP4", 0, 0},
};

static const type_row *row_of(gguf_type type) {
    static const type_row unknown = {"unknown", 0, 0};
    size_t index = (size_t)type;
    if (index >= sizeof type_rows / sizeof type_rows[0] || type_rows[index].name == NULL) {
        return &unknown;
    }
    return &type_rows[index];
}

bool gguf_type_supported(gguf_type type) {
    return row_of(type)->block_elements != 0;
}

uint32_t gguf_type_block_elements(gguf_type type) {
    return row_of(type)->block_elements;
}

uint32_t gguf_type_block_bytes(gguf_type type) {
    return row_of(type)->block_bytes;
}

const char *gguf_type_name(gguf_type type) {
    return row_of(type)->name;
}
