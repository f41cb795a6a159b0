/* model.h -- a loaded model and its forward pass over paged KV.
 *
 * Purpose    Opens a model file on a backend, owns its weights and the KV pool, and runs ragged
 *            batches: rows of several sequences, prefill chunks and decode rows mixed.
 * Ownership  model_open holds memory and the file's mapping until model_close. The pages named in
 *            a batch belong to the caller (engine/core/blocks.h hands them out by index).
 * Threads    model_forward: one thread at a time (it uses the backend's compute threads inside).
 *            model_info, model_kv_*: any thread; the caller guarantees that nobody else writes the
 *            pages it touches.
 * Limits     rows <= model_options.rows_max, logit rows likewise; positions below
 *            model_info.context_tokens; vocabularies up to MODEL_VOCAB_MAX.
 * Exactness  A row's outputs depend on its sequence's tokens alone: not on the other rows, the
 *            chunking, page numbers or thread count.
 */
#ifndef MODELS_ARCH_MODEL_H
#define MODELS_ARCH_MODEL_H

#include <stdbool.h>
#include <stdint.h>

#include "engine/base/status.h"
#include "kernels/backend.h"

enum { MODEL_VOCAB_MAX = 1 << 19 };

typedef struct model model;

/* How matrices of F32, F16 and BF16 are kept: as the file has them, or as Q8_0. */
typedef enum { MODEL_WEIGHTS_FILE = 0, MODEL_WEIGHTS_Q8_0 = 1 } model_weights;

typedef struct {
    const char *path;                /* a GGUF file */
    backend *device;                 /* not owned; must outlive the model */
    backend *const *others;          /* [ranks - 1] likewise: more devices that share the model */
    int32_t ranks;                   /* 0, 1: one device; up to BACKEND_RANKS_MAX */
    int32_t rank;                    /* a family's: which of them `device` is; else 0 */
    uint32_t kv_pages;               /* pages of the KV pool; 0: as kv_bytes says */
    uint64_t kv_bytes;               /* of the pool when kv_pages is 0, but at least one whole
                                      * context; both 0: no pool */
    bool kv_rest;                    /* the pool takes what the device has left, kv_bytes where that
                                      * has no bound */
    int32_t context_tokens;          /* serve no longer sequences than this; 0: as trained */
    backend_kv_type kv_type;         /* dtype of the cache */
    model_weights weights;           /* of float matrices; quantised ones stay */
    backend_activations activations; /* not TYPES: see backend_activations_choose */
    int32_t rows_max;                /* most rows in one forward */
    int32_t logit_rows_max;          /* most rows whose logits are asked for in one forward */
} model_options;

typedef struct {
    char arch[32];         /* "llama" */
    char name[64];         /* general.name, "" when the file has none */
    uint64_t file_hash;    /* of the file's metadata and tensors: peers compare it */
    uint64_t parameters;   /* of all matrices and vectors; a matrix used twice counts once */
    bool tied;             /* the output matrix is the embedding */
    uint64_t weight_bytes; /* as kept in memory */
    int32_t layers, width, heads, kv_heads, head_dim, vocab;
    int32_t context_tokens;       /* longest sequence: trained, or less if the options say so */
    uint64_t kv_layer_page_bytes; /* bytes of one (layer, page) */
    uint32_t kv_pages;            /* pages of the pool */
    char kv_layout[64];           /* arrangement and dtype of a page: peers compare it */
    char numerics[96];            /* numerics class: what must be equal for bit-equal results */
} model_info;

/* One sequence's share of a batch. */
typedef struct {
    int32_t row_first; /* its rows are consecutive: [row_first, row_first + rows) */
    int32_t rows;
    int32_t position_first; /* position of its first row; earlier positions are in its pages */
    const uint32_t *pages; /* [pages_count] block table: page i holds positions 16 i .. 16 i + 15 */
    int32_t pages_count;   /* covers position_first + rows */
    int32_t prompt_rows;   /* its first rows that are a prompt: BACKEND_ACTIVATIONS_MIXED */
} model_seq;

typedef struct {
    const int32_t *tokens; /* [rows] */
    int32_t rows;
    const model_seq *seqs; /* [seqs_count] */
    int32_t seqs_count;
    const int32_t *logit_rows; /* [logit_rows_count] rows whose logits are wanted, ascending */
    int32_t logit_rows_count;
    float *logits; /* [logit_rows_count, vocab] written; NULL: not wanted on the host */
    /* Called when every row's KV of layers [0, layers_done) is in the pool, as backend_notify says;
     * may be NULL. Lets a transfer leave while later layers compute. */
    void (*on_layer)(void *context, int32_t layers_done);
    void *context;
    /* Tokens that the device chooses from those rows, where model_samples says that it does. */
    const ops_sample_row *samples; /* [samples_count] */
    ops_sampled *sampled;          /* [samples_count] written */
    int32_t samples_count;
} model_batch;

MUST_USE status model_open(const model_options *options, model **out, diag *d);
void model_close(model *m);

/* The same weights and pages for one more thread: `device` is a backend_share of the model's own.
 * To be closed before `of`. model_kv_* are those of `of`. */
MUST_USE status model_share(model *of, backend *device, int32_t rows_max, int32_t logit_rows_max,
                            model **out, diag *d);
const model_info *model_get_info(const model *m);

/* Runs one batch: the sequences cover the rows in order. STATUS_INVALID, and nothing is run, when
 * the batch is not one or the model has no pool; else fails only on a device error. */
MUST_USE status model_forward(model *m, const model_batch *batch);

/* What ended the device, in its own words, once model_forward has returned STATUS_DEVICE; with
 * several devices which of them it was. Borrowed until the next call. */
const char *model_fault(model *m);

/* Whether batches may have samples. */
bool model_samples(const model *m);

/* The bytes of one (layer, page) in the pool: [kv_layer_page_bytes], host memory on the CPU
 * backend. */
void *model_kv_page(model *m, int32_t layer, uint32_t page);

/* Where pages are device memory (false here), they are read and written as backend_kv_read and
 * backend_kv_write say. */
bool model_kv_on_host(const model *m);
MUST_USE status model_kv_read(model *m, const backend_kv_run *run, uint8_t *out);
MUST_USE status model_kv_write(model *m, const backend_kv_run *run, const uint8_t *in);

/* Between pages and packed device memory, on a stream of the device: backend_kv_gather and
 * backend_kv_scatter. With several devices staging and stream are the first's, pages are packed
 * whole, in the order of the model's heads, and what backend_kv_pack_slice says holds; `list` is
 * not used. */
MUST_USE status model_kv_gather(model *m, const backend_kv_run *run, void *staging, uint32_t *list,
                                void *stream);
MUST_USE status model_kv_scatter(model *m, const backend_kv_run *run, const void *staging,
                                 uint32_t *list, void *stream);
/* The same from pages of another type: backend_kv_convert. */
MUST_USE status model_kv_convert(model *m, const backend_kv_run *run, backend_kv_type type,
                                 const void *staging, uint32_t *list, void *stream);

/* Copies one whole page, all layers (copy-on-write). */
void model_kv_copy(model *m, uint32_t from, uint32_t to);

#endif
