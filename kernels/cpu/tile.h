/* tile.h -- how weights lie in memory: tiles of 16 outputs.
 *
 * Purpose    One layout for all instruction sets. A tile holds 16 outputs; inside, groups of 32
 *            inputs follow each other along the inputs, so a matrix-vector product reads memory in
 *            order and one vector holds one input (or four bytes of inputs) of 16 outputs.
 * Ownership  Functions write into memory of the caller.
 * Threads    Pure functions.
 * Limits     Quantised formats: inputs a multiple of 32. Outputs are padded to 16 with zeros.
 *
 * One group of a quantised tile:
 *     quants   nibble formats 4 x 64 B: byte 4 c + j of block t is, for output c, input 4 t + j in
 *              the low half and input 16 + 4 t + j in the high half;
 *              byte formats 8 x 64 B: byte 4 c + j of block t is output c, input 4 t + j
 *     scales   16 x f16 or f32 (two runs, inputs 0-15 and 16-31, where `halves`)
 *     minimums 16 x f16 or f32, where `minimum`
 * A weight is scale * (quant - zero) + minimum, zero being 0 with a minimum, 8 for nibbles without,
 * 128 for bytes without. A plain tile (F32, F16, BF16) is [inputs][16] elements.
 *
 * By outputs (TILE_BY_OUTPUT), for a tile unit that takes bf16, the same bytes are kept in another
 * order, each output's 32 inputs side by side; scales and minimums lie as above:
 *     quants   nibble formats 16 x 16 B: word j has inputs j, 8 + j, 16 + j, 24 + j, the first in
 *              its lowest bits; byte formats 16 x 32 B, input by input
 *     plain    16-bit formats only: groups of [16][32] elements; inputs a multiple of 32
 */
#ifndef KERNELS_CPU_TILE_H
#define KERNELS_CPU_TILE_H

#include <stdbool.h>
#include <stdint.h>

#include "kernels/backend.h"

enum {
    TILE_OUTPUTS = 16,
    TILE_GROUP = 32,      /* inputs that share an activation scale */
    TILE_BLOCK_BYTES = 64 /* four inputs of 16 outputs as bytes */
};

/* Arithmetic of a quantised group. */
typedef enum {
    TILE_MINIMUM = 0,     /* quants from 0 and a minimum: Q4_1, Q5_1, Q4_K, Q5_K */
    TILE_ZERO8 = 1,       /* nibbles around 8: Q4_0 */
    TILE_ZERO128 = 2,     /* bytes around 128: Q8_0, Q5_0 */
    TILE_ZERO128_HALF = 3 /* the same, with a scale for each 16 inputs: Q6_K */
} tile_mode;

/* What lies side by side in a group. */
typedef enum { TILE_BY_INPUT = 0, TILE_BY_OUTPUT = 1, TILE_ORDERS = 2 } tile_order;

/* What a kernel must know; one constant per storage variant. */
typedef enum {
    TILE_Q4_0,
    TILE_Q4_1,
    TILE_Q4_K,
    TILE_Q5_1,
    TILE_Q5_K,
    TILE_Q8_0, /* and Q5_0, moved to the middle of a byte */
    TILE_Q6_K,
    TILE_F32,
    TILE_F16,
    TILE_BF16,
    TILE_FORMATS
} tile_format;

typedef struct {
    tile_mode mode;
    bool nibbles;
    bool scale_f32;      /* scales and minimums are f32, otherwise f16 */
    bool plain;          /* not quantised: the other fields mean nothing */
    int32_t group_bytes; /* of 32 inputs x 16 outputs */
} tile_shape;

/* Inline, so that kernels compiled for one format see constants. */
static inline tile_shape tile_shape_of(tile_format format) {
    static const tile_shape shapes[TILE_FORMATS] = {
        {TILE_ZERO8, true, false, false, 4 * 64 + 32},         /* TILE_Q4_0 */
        {TILE_MINIMUM, true, false, false, 4 * 64 + 64},       /* TILE_Q4_1 */
        {TILE_MINIMUM, true, true, false, 4 * 64 + 128},       /* TILE_Q4_K */
        {TILE_MINIMUM, false, false, false, 8 * 64 + 64},      /* TILE_Q5_1 */
        {TILE_MINIMUM, false, true, false, 8 * 64 + 128},      /* TILE_Q5_K */
        {TILE_ZERO128, false, false, false, 8 * 64 + 32},      /* TILE_Q8_0 */
        {TILE_ZERO128_HALF, false, true, false, 8 * 64 + 128}, /* TILE_Q6_K */
        {TILE_MINIMUM, false, false, true, 32 * 16 * 4},       /* TILE_F32 */
        {TILE_MINIMUM, false, false, true, 32 * 16 * 2},       /* TILE_F16 */
        {TILE_MINIMUM, false, false, true, 32 * 16 * 2},       /* TILE_BF16 */
    };
    return shapes[format];
}

/* The tile format for a storage type. */
tile_format tile_format_of(backend_type type);

/* Bytes of one tile of `inputs` inputs, and of the whole weight. */
uint64_t tile_bytes(tile_format format, int32_t inputs);
uint64_t tile_weight_bytes(tile_format format, int32_t outputs, int32_t inputs);

/* Fills tile `index` at `to` [tile_bytes] from the file's matrix `data` [outputs, inputs], whose
 * rows are `row_bytes` apart. */
void tile_pack(backend_type type, tile_order order, const uint8_t *data, uint64_t row_bytes,
               int32_t outputs, int32_t inputs, int32_t index, uint8_t *to);

/* Row `output` as f32 [inputs], exactly as the format defines it. `tiles` is the whole weight. */
void tile_unpack_row(tile_format format, tile_order order, const uint8_t *tiles, int32_t inputs,
                     int32_t output, float *row);

#endif
