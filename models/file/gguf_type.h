/* gguf_type.h -- element types of GGUF tensors.
 *
 * Purpose    Names, block shapes and sizes of the tensor types weir computes with, and the names of
 *            those it does not, so that they can be refused by name.
 * Ownership  Static data.
 * Threads    Pure functions.
 * Limits     The values are those of the file format; they are never renumbered.
 */
#ifndef MODELS_FILE_GGUF_TYPE_H
#define MODELS_FILE_GGUF_TYPE_H

#include <stdbool.h>
#include <stdint.h>

/* The supported types. A gguf_type read from a file may hold any other number. */
typedef enum {
    GGUF_F32 = 0,
    GGUF_F16 = 1,
    GGUF_Q4_0 = 2,
    GGUF_Q4_1 = 3,
    GGUF_Q5_0 = 6,
    GGUF_Q5_1 = 7,
    GGUF_Q8_0 = 8,
    GGUF_Q4_K = 12,
    GGUF_Q5_K = 13,
    GGUF_Q6_K = 14,
    GGUF_BF16 = 30
} gguf_type;

bool gguf_type_supported(gguf_type type);

/* Elements and bytes of one block: a row is whole blocks. 0 for a type that is not supported. */
uint32_t gguf_type_block_elements(gguf_type type);
uint32_t gguf_type_block_bytes(gguf_type type);

/* "Q4_1"; for types known but not supported their name too; "unknown" otherwise. Static. */
const char *gguf_type_name(gguf_type type);

#endif
