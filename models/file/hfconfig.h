/* hfconfig.h -- config.json of a Hugging Face folder, as the keys of a GGUF file.
 *
 * Purpose    Which architecture it is, its sizes, how positions turn, and which tokens end a text.
 *            What weir would compute wrongly is refused by the field's name.
 * Ownership  Plain values and static texts.
 * Threads    One thread at a time.
 * Limits     Ranges are checked again by the family that reads the keys.
 */
#ifndef MODELS_FILE_HFCONFIG_H
#define MODELS_FILE_HFCONFIG_H

#include <cjson/cJSON.h>

#include "models/file/ggufmake.h"

enum { HFCONFIG_ENDS_MAX = 16 };

/* Which layers see the last sliding_window positions alone: all, or those that are named; from
 * max_window_layers on, if any. */
typedef enum {
    HFCONFIG_WINDOWS_NONE,
    HFCONFIG_WINDOWS_ALL,
    HFCONFIG_WINDOWS_UPPER
} hfconfig_windows;

typedef struct {
    const char *arch; /* "llama", "qwen2", "qwen3", "gemma2", "gemma3" */
    bool biases;      /* queries, keys and values have one */
    bool head_norms;  /* queries and keys are normalised by head */
    hfconfig_windows windows;
    bool gemma;  /* norms after attention and FFN too, whose weights lack a one */
    bool nested; /* a text model beside an image tower, which is left alone */
    bool tied;   /* the embedding is the output matrix too */
    int32_t layers;
    int32_t begin;                   /* bos_token_id, -1: none */
    int32_t ends[HFCONFIG_ENDS_MAX]; /* [ends_count] tokens that end a generation */
    int32_t ends_count;
} hfconfig;

/* `generation`: generation_config.json, or NULL. */
MUST_USE status hfconfig_read(const cJSON *config, const cJSON *generation, hfconfig *out,
                              ggufmake *keys, diag *d);

#endif
