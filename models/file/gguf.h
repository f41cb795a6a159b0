/* gguf.h -- reads GGUF model files in place, and Hugging Face folders as if they were such.
 *
 * Purpose    Metadata and tensors of a GGUF file (versions 2 and 3, little-endian), each offset,
 *            count and size checked against the file before it is used. What a getter returns is
 *            inside the file; errors name the byte offset, the key or the tensor at fault.
 * Ownership  gguf_open owns the mapping and its indexes until gguf_close; every str, pointer and
 *            gguf_array borrowed from it lives as long.
 * Threads    Open and close from one thread; all other calls are pure reads, any thread.
 * Limits     The GGUF_LIMIT_ constants below. Arrays of arrays and split files are refused.
 * Source     The GGUF format description of the ggml project (docs/gguf.md).
 */
#ifndef MODELS_FILE_GGUF_H
#define MODELS_FILE_GGUF_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/base/status.h"
#include "engine/base/str.h"
#include "models/file/gguf_type.h"

enum {
    GGUF_LIMIT_KEYS = 1 << 16,
    GGUF_LIMIT_TENSORS = 1 << 16,
    GGUF_LIMIT_NAME_BYTES = 1 << 10,    /* of a key or a tensor name */
    GGUF_LIMIT_STRING_BYTES = 64 << 20, /* of a metadata string or array element */
    GGUF_LIMIT_ARRAY_ELEMENTS = 1 << 24,
    GGUF_LIMIT_ALIGNMENT = 1 << 16,
    GGUF_LIMIT_DIMS = 4
};

typedef struct gguf gguf;

/* Kinds of metadata values, with the numbers of the file format. */
typedef enum {
    GGUF_KIND_U8 = 0,
    GGUF_KIND_I8 = 1,
    GGUF_KIND_U16 = 2,
    GGUF_KIND_I16 = 3,
    GGUF_KIND_U32 = 4,
    GGUF_KIND_I32 = 5,
    GGUF_KIND_F32 = 6,
    GGUF_KIND_BOOL = 7,
    GGUF_KIND_STRING = 8,
    GGUF_KIND_ARRAY = 9,
    GGUF_KIND_U64 = 10,
    GGUF_KIND_I64 = 11,
    GGUF_KIND_F64 = 12
} gguf_kind;

typedef struct {
    gguf_kind kind; /* of an element; never ARRAY */
    uint64_t count;
    const uint8_t *data;         /* [count] elements as they lie in the file, not aligned */
    const uint64_t *str_offsets; /* [count] from `data` to each string's length field, or NULL */
} gguf_array;

typedef struct {
    str name;
    uint32_t dims_count;            /* 1..GGUF_LIMIT_DIMS */
    uint64_t dims[GGUF_LIMIT_DIMS]; /* dims[0] is innermost; those past dims_count are 1 */
    gguf_type type;
    const void *data; /* [bytes], aligned to the file's alignment; dims[0] runs fastest */
    uint64_t bytes;
} gguf_tensor;

/* `path` is a GGUF file, or a folder as downloaded from Hugging Face (hf.h). A folder's tensors are
 * not aligned. */
MUST_USE status gguf_open(const char *path, gguf **out, diag *d);
void gguf_close(gguf *g);

/* -- metadata --------------------------------------------------------------------------------
 * STATUS_NOTFOUND when there is no such key, STATUS_CORRUPT when it holds another kind or a value
 * that does not fit. Numbers convert between kinds when the value is represented exactly by the
 * asked type (f64 takes any integer, rounded). `d` may be NULL where absence is fine. */
bool gguf_has(const gguf *g, const char *key);
MUST_USE status gguf_get_u64(const gguf *g, const char *key, uint64_t *out, diag *d);
MUST_USE status gguf_get_i64(const gguf *g, const char *key, int64_t *out, diag *d);
MUST_USE status gguf_get_f64(const gguf *g, const char *key, double *out, diag *d);
MUST_USE status gguf_get_bool(const gguf *g, const char *key, bool *out, diag *d);
MUST_USE status gguf_get_str(const gguf *g, const char *key, str *out, diag *d);
MUST_USE status gguf_get_array(const gguf *g, const char *key, gguf_array *out, diag *d);

/* Element `i` < count. The kind must fit (a CHECK): look at `kind` first. O(1). */
str gguf_array_str(const gguf_array *a, uint64_t i);     /* kind STRING */
int64_t gguf_array_i64(const gguf_array *a, uint64_t i); /* integer kinds up to I64, and BOOL */
double gguf_array_f64(const gguf_array *a, uint64_t i);  /* F32, F64 and integer kinds */

/* -- tensors ----------------------------------------------------------------------------------
 * By index, in file order; by name, STATUS_NOTFOUND when there is none. STATUS_UNSUPPORTED when
 * the tensor's type is not one weir computes with; name, dims and type are then still filled. */
uint64_t gguf_tensors_count(const gguf *g);
MUST_USE status gguf_tensor_at(const gguf *g, uint64_t index, gguf_tensor *out, diag *d);
MUST_USE status gguf_tensor_find(const gguf *g, const char *name, gguf_tensor *out, diag *d);

/* -- the file ---------------------------------------------------------------------------------*/
/* A hash of all metadata and tensor descriptions and of three samples of each tensor's bytes: equal
 * for equal files, and different for models that differ in configuration, vocabulary or weights,
 * short of somebody making two collide on purpose. Reads a few pages a tensor, not the whole file:
 * milliseconds. Peers compare it before they exchange KV. */
uint64_t gguf_hash(const gguf *g);

#endif
