/* gguf_read.h -- the parser behind gguf.h.
 *
 * Purpose    Turns the bytes of a GGUF file into tables of checked metadata pairs and tensors.
 *            Private to models/file: use gguf.h.
 * Ownership  gguf_read_file fills a gguf_file; gguf_read_free gives its tables back. The bytes stay
 *            the caller's and must outlive the tables.
 * Threads    One thread at a time.
 * Limits     GGUF_LIMIT_ in gguf.h. No table is larger than a small multiple of the file.
 */
#ifndef MODELS_FILE_GGUF_READ_H
#define MODELS_FILE_GGUF_READ_H

#include "models/file/gguf.h"

typedef struct {
    str key;
    gguf_kind kind;
    const uint8_t *value;  /* a scalar's bytes; a string's length field; unused for arrays */
    gguf_array array;      /* kind ARRAY only */
    uint64_t *str_offsets; /* [array.count] owned, or NULL */
} gguf_pair;

typedef struct {
    const uint8_t *data; /* [bytes] the whole file */
    uint64_t bytes;
    gguf_pair *pairs; /* [pairs_count] in file order */
    uint64_t pairs_count;
    gguf_tensor *tensors; /* [tensors_count] in file order */
    uint64_t tensors_count;
    uint32_t *pairs_sorted;   /* [pairs_count] indexes by key */
    uint32_t *tensors_sorted; /* [tensors_count] indexes by name */
    uint64_t header_bytes;    /* up to the end of the tensor descriptions */
} gguf_file;

/* Parses data[bytes]. On failure nothing is held. */
MUST_USE status gguf_read_file(const uint8_t *data, uint64_t bytes, gguf_file *out, diag *d);

/* As gguf_read_file for descriptions without data: tensor i lies at places[i], and must have just
 * as many bytes. `places`: [places_count], the number of tensors. */
typedef struct {
    const uint8_t *data;
    uint64_t bytes;
} gguf_place;
MUST_USE status gguf_read_placed(const uint8_t *data, uint64_t bytes, const gguf_place *places,
                                 uint64_t places_count, gguf_file *out, diag *d);

void gguf_read_free(gguf_file *f);

/* The pair or tensor of that name, NULL when there is none. */
const gguf_pair *gguf_read_find_pair(const gguf_file *f, str key);
const gguf_tensor *gguf_read_find_tensor(const gguf_file *f, str name);

/* Bytes of one scalar of `kind`; 0 for STRING and ARRAY and for numbers that are no kind. */
uint32_t gguf_read_kind_bytes(gguf_kind kind);

#endif
