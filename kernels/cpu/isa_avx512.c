/* isa_avx512.c -- the kernels for AVX-512 with VNNI, alone and beside the tile unit. Compiled with
 * that set's flags (CMakeLists.txt). */
#if defined(__x86_64__)
#include "kernels/cpu/vec_avx512.h"

#include "kernels/cpu/body_kernels.h"

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
    .name = "avx512", .linear_int8 = linear_int8, .attention = attention_run, BODY_KERNELS};

const isa_kernels isa_avx512_amx_kernels = {.name = "amx",
                                            .tiles = &isa_amxattention_tiles,
                                            .linear_int8 = linear_int8_amx,
                                            .attention = attention_run,
                                            BODY_KERNELS};
#endif
