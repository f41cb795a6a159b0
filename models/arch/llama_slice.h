/* llama_slice.h -- which part of a llama model one of several devices keeps.
 *
 * Purpose    Tensor parallelism (Shoeybi et al., "Megatron-LM", 2019): a rank has a range of the
 *            heads and of the FFN's inner width, so the matrices that lead into them are cut by
 *            outputs and those that lead out of them by inputs. The rest every rank has whole.
 * Ownership  llama_slice_matrix may give a copy, the caller's to free (mem_free).
 * Threads    Pure functions.
 * Limits     Ranks divide heads and the inner width; kv heads as kvheads.h says; a rank's inputs
 *            are whole blocks of the weights' format.
 */
#ifndef MODELS_ARCH_LLAMA_SLICE_H
#define MODELS_ARCH_LLAMA_SLICE_H

#include "kernels/backend.h"
#include "models/arch/llama_keys.h"
#include "models/file/gguf.h"

/* Elements [first, first + count) of `whole`. */
typedef struct {
    int32_t whole, first, count;
} llama_slice;

llama_slice llama_slice_of(int32_t whole, bool split, int32_t rank, int32_t ranks);

/* The shape that a rank computes with. STATUS_UNSUPPORTED names what `ranks` does not divide. */
MUST_USE status llama_slice_shape(const llama_shape *whole, int32_t ranks, llama_shape *out,
                                  diag *d);

/* The slice's bytes of a tensor [outputs->whole, inputs->whole], in its own format. `copy`: where
 * they lie, or NULL when they lie in the tensor. */
MUST_USE status llama_slice_matrix(const gguf_tensor *t, const llama_slice *inputs,
                                   const llama_slice *outputs, const uint8_t **data,
                                   uint64_t *bytes, uint8_t **copy, diag *d);

#endif
