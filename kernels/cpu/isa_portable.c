/* isa_portable.c -- the kernels for plain C, for any machine. Compiled with that set's flags
 * (CMakeLists.txt). */
#include "kernels/cpu/vec_portable.h"

#include "kernels/cpu/body_kernels.h"

const isa_kernels isa_portable_kernels = {
    .name = "portable", .linear_int8 = linear_int8, .attention = attention_run, BODY_KERNELS};
