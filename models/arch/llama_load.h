/* llama_load.h -- from a model file's tensors to a llama model's weights.
 *
 * Purpose    Takes every tensor in file order: known name, expected shape, loaded on the backend. A
 *            tensor the family doesn't know is refused, since a forward pass without it would be
 *            wrong.
 * Ownership  llama_load_tensors takes device memory that llama_load_free gives back; matrices
 *            belong to the backend.
 * Threads    As model.h.
 * Limits     LLAMA_* of llama_keys.h.
 */
#ifndef MODELS_ARCH_LLAMA_LOAD_H
#define MODELS_ARCH_LLAMA_LOAD_H

#include "kernels/backend.h"
#include "models/arch/llama_keys.h"
#include "models/arch/model.h"

/* Matrices and vectors of one layer; the order is that of the tables in llama_load.c. */
enum { LLAMA_Q, LLAMA_K, LLAMA_V, LLAMA_OUT, LLAMA_GATE, LLAMA_UP, LLAMA_DOWN, LLAMA_MATRICES };
enum {
    LLAMA_ATTN_NORM = LLAMA_MATRICES,
    LLAMA_FFN_NORM,
    LLAMA_Q_NORM,
    LLAMA_K_NORM,
    LLAMA_ATTN_NORM_AFTER,
    LLAMA_FFN_NORM_AFTER,
    LLAMA_VECTORS
};

typedef struct {
    const backend_weight *matrix[LLAMA_MATRICES];
    /* Device floats: the bias of each matrix or NULL, then the norms: [width] twice,
     * then [head_dim] of queries and of keys, and [width] twice, in families that have them. */
    float *vector[LLAMA_VECTORS];
} llama_load_layer;

/* With several ranks: this one's slices, as llama_slice.h has them. */
typedef struct {
    llama_load_layer *layers;        /* [layers] */
    const backend_weight *embedding; /* [vocab, width] */
    const backend_weight *output;    /* [vocab, width]; the embedding when the file has none */
    float *output_norm;              /* device [width] */
    float *freq_factors;             /* host [rope_dim / 2], or NULL */
    uint64_t parameters;             /* of the whole model */
    uint64_t bytes;                  /* here */
} llama_load_weights;

MUST_USE status llama_load_tensors(const gguf *file, const llama_shape *shape, backend *device,
                                   const model_options *options, llama_load_weights *out, diag *d);

/* Also after a failed llama_load_tensors. */
void llama_load_free(const llama_shape *shape, backend *device, llama_load_weights *w);

#endif
