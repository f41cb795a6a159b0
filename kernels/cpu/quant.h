/* quant.h -- the block formats of weight files.
 *
 * Purpose    Takes apart one group of 32 weights of a row into quants, scales and a minimum; the
 *            formats are GGML's (github.com/ggml-org/ggml, docs of the GGUF format).
 * Ownership  Everything is the caller's.
 * Threads    Pure functions.
 * Limits     Little-endian files; `data` needs no alignment.
 */
#ifndef KERNELS_CPU_QUANT_H
#define KERNELS_CPU_QUANT_H

#include <stdint.h>

#include "kernels/backend.h"

/* weight[i] = scale[i / 16] * (quant[i] - zero) + minimum, zero as in tile.h. Scales and minimum
 * are exact in f32 (at most 19 significant bits). */
typedef struct {
    uint8_t quant[32];
    float scale[2]; /* equal except for Q6_K */
    float minimum;
} quant_group;

/* Group `group` (inputs 32 group .. 32 group + 31) of a row that starts at `row`. */
void quant_get(backend_type type, const uint8_t *row, int32_t group, quant_group *out);

#endif
