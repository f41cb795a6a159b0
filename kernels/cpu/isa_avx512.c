/* isa_avx512.c -- the kernels for AVX-512 with VNNI. Compiled with that set's flags
 * (CMakeLists.txt). */
#if defined(__x86_64__)
#include <assert.h>

#include "kernels/cpu/vec_avx512.h"

#include "kernels/cpu/body_rows.h"

#include "kernels/cpu/body_append.h"

#include "kernels/cpu/body_linear.h"

#include "kernels/cpu/body_tile.h"

#include "kernels/cpu/body_floats.h"

#include "kernels/cpu/body_bytes.h"

#include "kernels/cpu/body_attention.h"

/* From this many rows on, padding them to a tile of 16 costs less than products row by row. */
enum { AMX_ROWS_MIN = 9 };

static void linear_int8_amx(const isa_linear *l, uint8_t *scratch) {
    if (l->rows < AMX_ROWS_MIN) {
        linear_narrow(l);
    } else {
        isa_amx_linear(l, scratch);
    }
}

const isa_kernels isa_avx512_kernels = {
    .name = "avx512",
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

const isa_kernels isa_avx512_amx_kernels = {
    .name = "amx",
    .narrow_rows = AMX_ROWS_MIN - 1,
    .wide_tiles = ISA_WIDE_TILES,
    .input_int8 = rows_input_int8,
    .input_f32 = rows_input_f32,
    .linear_int8 = linear_int8_amx,
    .linear_f32 = linear_f32,
    .rmsnorm = rows_rmsnorm,
    .silu_mul = rows_silu_mul,
    .rope_append = rows_rope_append,
    .attention = attention_run,
    .merge = attention_merge,
};
#endif
