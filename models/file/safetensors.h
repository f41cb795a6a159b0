/* safetensors.h -- reads a safetensors file in place.
 *
 * Purpose    The tensors of one file: name, dtype, shape and bytes, each checked before it is
 *            handed out. Tensors follow each other without gap or overlap and fill the file, as the
 *            format wants, so a file that was cut short is refused whole.
 * Ownership  safetensors_read holds its tables until safetensors_free; the bytes stay the caller's.
 * Threads    Read and free from one thread; otherwise pure reads.
 * Limits     SAFETENSORS_HEADER_MAX bytes of header, SAFETENSORS_TENSORS_MAX tensors, four
 *            dimensions.
 * Source     The format description of the safetensors project (its README).
 */
#ifndef MODELS_FILE_SAFETENSORS_H
#define MODELS_FILE_SAFETENSORS_H

#include <cjson/cJSON.h>

#include "engine/base/status.h"
#include "engine/base/str.h"
#include "models/file/gguf.h"

enum { SAFETENSORS_HEADER_MAX = 100 << 20, SAFETENSORS_TENSORS_MAX = 1 << 16 };

typedef struct {
    const char *name;
    const char *dtype; /* as in the file: "BF16" */
    bool supported;    /* `type` holds: F32, F16 and BF16 */
    gguf_type type;
    uint32_t dims_count;            /* 1..GGUF_LIMIT_DIMS; a scalar has one dimension of 1 */
    uint64_t dims[GGUF_LIMIT_DIMS]; /* dims[0] is innermost; those past dims_count are 1 */
    const uint8_t *data;            /* [bytes], not aligned */
    uint64_t bytes;
} safetensors_tensor;

typedef struct {
    cJSON *header;               /* names point into it */
    safetensors_tensor *tensors; /* [count] in the order of their bytes */
    uint32_t *by_name;           /* [count] indexes, sorted by name */
    uint64_t count;
} safetensors;

/* Parses data[bytes]; `file` is what errors call it. On failure nothing is held. */
MUST_USE status safetensors_read(const uint8_t *data, uint64_t bytes, const char *file,
                                 safetensors *out, diag *d);
void safetensors_free(safetensors *s);

/* NULL when there is none of that name. */
const safetensors_tensor *safetensors_find(const safetensors *s, const char *name);

#endif
