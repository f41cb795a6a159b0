/* requant.h -- float weights as groups of int8, at load.
 *
 * Purpose    Turns a matrix of F32, F16 or BF16 into Q8_0: half the bytes of 16-bit floats, and the
 *            CPU backend's integer kernels. For folders, whose weights nobody has quantised.
 * Ownership  The caller frees what requant_q8_0 gives (mem_free).
 * Threads    Pure functions.
 * Limits     Rows of whole groups of 32; numbers below 8.3e6.
 * Source     The format: 32 numbers share a scale of max|x| / 127 in F16 (ggml's Q8_0).
 */
#ifndef MODELS_ARCH_REQUANT_H
#define MODELS_ARCH_REQUANT_H

#include <stdbool.h>
#include <stdint.h>

#include "engine/base/status.h"
#include "models/file/gguf_type.h"

/* True for types and widths that requant_q8_0 takes. */
bool requant_fits(gguf_type type, uint64_t inputs);

/* data: [rows, inputs] of `type`, any alignment. *out: [rows, inputs / 32 * 34] bytes.
 * STATUS_CORRUPT for numbers that are too large or none, STATUS_NOMEM. */
MUST_USE status requant_q8_0(gguf_type type, const void *data, uint64_t rows, uint64_t inputs,
                             uint8_t **out, diag *d);

#endif
