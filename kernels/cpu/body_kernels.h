/* body_kernels.h -- all kernels, once, and the table of them that an instruction set exports.
 *
 * Purpose    What isa_*.c include after their vec_*.h.
 * Ownership  Included by isa_*.c only.
 * Threads    As isa.h.
 * Limits     As isa.h.
 */
#include <assert.h>

/* In this order, for each needs those before it. */
#include "kernels/cpu/body_rows.h"

#include "kernels/cpu/body_append.h"

#include "kernels/cpu/body_linear.h"

#include "kernels/cpu/body_tile.h"

#include "kernels/cpu/body_floats.h"

#include "kernels/cpu/body_weights.h"

#include "kernels/cpu/body_bytes.h"

#include "kernels/cpu/body_attention.h"

/* The entries that every instruction set takes from here; those that the tile unit replaces are
 * named in the table itself. */
#define BODY_KERNELS                                                                             \
    .narrow_rows = VEC_STREAM_ROWS, .wide_tiles = ISA_WIDE_TILES, .input_int8 = rows_input_int8, \
    .input_f32 = rows_input_f32, .linear_f32 = linear_f32, .rmsnorm = rows_rmsnorm,              \
    .silu_mul = rows_silu_mul, .softcap = rows_softcap, .rope_append = rows_rope_append,         \
    .merge = attention_merge
