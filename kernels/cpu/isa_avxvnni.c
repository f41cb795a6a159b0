/* isa_avxvnni.c -- the kernels for AVX2 with AVX-VNNI, FMA and F16C. Compiled with that set's flags
 * (CMakeLists.txt). */
#if defined(__x86_64__)
#define VEC_AVX_VNNI
#include "kernels/cpu/vec_avx2.h"

#include "kernels/cpu/body_kernels.h"

const isa_kernels isa_avxvnni_kernels = {
    .name = "avxvnni", .linear_int8 = linear_int8, .attention = attention_run, BODY_KERNELS};
#endif
