/* family.h -- what an architecture implements: one constant table a family, listed in model.c.
 *
 * Purpose    Keeps model.c free of any architecture. A family reads its keys and tensors from the
 *            file, loads its weights on the backend, and runs one batch.
 * Ownership  `open` returns an object that `close` frees; the gguf is gone when open has returned.
 * Threads    As model.h.
 * Limits     Those of family_shape_check and of the backend.
 */
#ifndef MODELS_ARCH_FAMILY_H
#define MODELS_ARCH_FAMILY_H

#include "models/arch/model.h"
#include "models/file/gguf.h"

typedef struct {
    const char *arch; /* general.architecture */
    /* Fills layers .. context_tokens, parameters and weight_bytes of `info`. */
    status (*open)(const gguf *file, const model_options *options, model_info *info, void **out,
                   diag *d);
    /* `kv` fits the info; the batch is already checked. */
    status (*forward)(void *self, backend_kv *kv, const model_batch *batch);
    void (*close)(void *self);
    /* Another object over the weights of `self`, with workspace of its own on `device`; NULL: the
     * family has none. */
    status (*share)(const void *self, backend *device, int32_t rows_max, int32_t logit_rows_max,
                    void **out);
} family;

#endif
