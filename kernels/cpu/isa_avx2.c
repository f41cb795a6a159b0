/* isa_avx2.c -- the kernels for AVX2, FMA and F16C. Compiled with that set's flags
 * (CMakeLists.txt). */
#if defined(__x86_64__)
#include "kernels/cpu/vec_avx2.h"

#include "kernels/cpu/body_kernels.h"

const isa_kernels isa_avx2_kernels = {
    .name = "avx2", .linear_int8 = linear_int8, .attention = attention_run, BODY_KERNELS};
#endif
