/* hf.h -- opens a downloaded Hugging Face folder as the GGUF a converter would have written.
 *
 * Purpose    config.json, tokenizer.json and the safetensors files of a folder become metadata,
 *            composed in memory, and tensors that stay where they lie. gguf_open takes a folder's
 *            path wherever it takes a file's; this is what it does then.
 * Ownership  hf_open holds the mappings and the metadata until hf_close; what it fills points into
 *            them.
 * Threads    Open and close from one thread.
 * Limits     HF_*_MAX below, and those of the parts.
 */
#ifndef MODELS_FILE_HF_H
#define MODELS_FILE_HF_H

#include <stdbool.h>

#include "models/file/gguf_read.h"

enum {
    HF_CONFIG_BYTES_MAX = 1 << 20,
    HF_TOKENIZER_BYTES_MAX = 64 << 20,
    HF_SETTINGS_BYTES_MAX = 16 << 20,
    HF_TEMPLATE_BYTES_MAX = 4 << 20
};

typedef struct hf hf;

/* A folder, whatever is in it. */
bool hf_is_folder(const char *path);

/* `file` is freed by gguf_read_free before hf_close. */
MUST_USE status hf_open(const char *folder, gguf_file *file, hf **out, diag *d);
void hf_close(hf *h);

#endif
