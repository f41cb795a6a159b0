/* hfweights.h -- the weights of a Hugging Face folder, under the names of a GGUF file.
 *
 * Purpose    Opens model.safetensors, or the shards its index names, and gives each tensor the name
 *            and shape that the families of models/arch know. Matrices stay where they lie; vectors
 *            become F32.
 * Ownership  hfweights_open holds the mappings until hfweights_close; places point into them.
 * Threads    One thread at a time.
 * Limits     HFWEIGHTS_SHARDS_MAX files.
 */
#ifndef MODELS_FILE_HFWEIGHTS_H
#define MODELS_FILE_HFWEIGHTS_H

#include "models/file/gguf_read.h"
#include "models/file/hfconfig.h"
#include "models/file/mapfile.h"
#include "models/file/safetensors.h"

enum { HFWEIGHTS_SHARDS_MAX = 1024 };

typedef struct {
    char *name; /* of the file, without the folder */
    mapfile map;
    safetensors tensors;
} hfweights_shard;

typedef struct {
    hfweights_shard *shards; /* [shards_count] */
    uint32_t shards_count;
    float **vectors; /* [vectors_count] */
    uint64_t vectors_count;
    gguf_place *places; /* [places_count], in the order of hfweights_put's descriptions */
    uint64_t places_count;
} hfweights;

MUST_USE status hfweights_open(const char *folder, hfweights *out, diag *d);
void hfweights_close(hfweights *w);

/* Describes every tensor to `keys`, and fills `places`. */
MUST_USE status hfweights_put(hfweights *w, const hfconfig *c, ggufmake *keys, diag *d);

/* STATUS_NOTFOUND, with the folder's name of the tensor, when one that `c` asks for is missing. */
MUST_USE status hfweights_complete(const gguf_file *file, const hfconfig *c, diag *d);

#endif
