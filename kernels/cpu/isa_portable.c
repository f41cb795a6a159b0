/* isa_portable.c -- the kernels for plain C, for any machine. Compiled with that set's flags
 * (CMakeLists.txt). */
#include <assert.h>

#include "kernels/cpu/vec_portable.h"

#include "kernels/cpu/body_rows.h"

#include "kernels/cpu/body_append.h"

#include "kernels/cpu/body_linear.h"

#include "kernels/cpu/body_tile.h"

#include "kernels/cpu/body_floats.h"

#include "kernels/cpu/body_bytes.h"

#include "kernels/cpu/body_attention.h"

const isa_kernels isa_portable_kernels = {
    .name = "portable",
    .narrow_rows = ISA_NARROW_ROWS,
    .wide_tiles = ISA_WIDE_TILES,
    .input_int8 = rows_input_int8,
    .input_f32 = rows_input_f32,
    .linear_int8 = linear_int8,
    .linear_f32 = linear_f32,
    .rmsnorm = rows_rmsnorm,
    .silu_mul = rows_silu_mul,
    .rope_append = rows_rope_append,
    .attention = attention_run,
    .merge = attention_merge,
};
