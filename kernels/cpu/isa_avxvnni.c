/* isa_avxvnni.c -- the kernels for AVX2 with AVX-VNNI, FMA and F16C. Compiled with that set's flags
 * (CMakeLists.txt). */
#if defined(__x86_64__)
#include <assert.h>

#define VEC_AVX_VNNI
#include "kernels/cpu/vec_avx2.h"

#include "kernels/cpu/body_rows.h"

#include "kernels/cpu/body_append.h"

#include "kernels/cpu/body_linear.h"

#include "kernels/cpu/body_tile.h"

#include "kernels/cpu/body_floats.h"

#include "kernels/cpu/body_bytes.h"

#include "kernels/cpu/body_attention.h"

const isa_kernels isa_avxvnni_kernels = {
    .name = "avxvnni",
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
#endif
