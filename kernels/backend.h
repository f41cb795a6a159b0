/* backend.h -- the one way to a device: memory, weights, the KV pool, operators.
 *
 * Purpose    Opens a backend by name and runs the operators of ops.h on it. Shapes, ranges and
 *            overlaps are checked here, once for all backends; kernels trust what they get.
 * Ownership  backend_open holds threads and memory until backend_close. Weights live until their
 *            backend closes. A KV pool and backend_alloc memory have their own close, and must be
 *            closed before the backend.
 * Threads    One thread at a time per backend (operators use the backend's own threads inside).
 *            backend_kv_page and the read-only fields: any thread. backend_kv_read and _write: one
 *            other thread at a time, beside operators.
 * Limits     threads <= LIMIT_THREADS; head_dim a multiple of 16 up to OPS_HEAD_DIM_MAX; quantised
 *            weights need inputs that are a multiple of 32 (256 for the K formats).
 * Exactness  An output row depends on its own inputs alone: not on the other rows, the number of
 *            rows, threads, or where pages lie. Backends whose backend_numerics strings are equal
 *            give equal bits.
 */
#ifndef KERNELS_BACKEND_H
#define KERNELS_BACKEND_H

#include <stdbool.h>
#include <stdint.h>

#include "engine/base/status.h"
#include "kernels/ops.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct backend backend;
typedef struct backend_table backend_table;

/* Storage types of weights as files have them; the values are GGUF's type numbers. */
typedef enum {
    BACKEND_F32 = 0,
    BACKEND_F16 = 1,
    BACKEND_Q4_0 = 2,
    BACKEND_Q4_1 = 3,
    BACKEND_Q5_0 = 6,
    BACKEND_Q5_1 = 7,
    BACKEND_Q8_0 = 8,
    BACKEND_Q4_K = 12,
    BACKEND_Q5_K = 13,
    BACKEND_Q6_K = 14,
    BACKEND_BF16 = 30
} backend_type;

/* How keys and values are kept. INT8: bytes with one scale a token and kv head. FP8: e4m3
 * (OCP 8-bit floating point, 2023) without scales: to nearest even, at most 448. */
typedef enum {
    BACKEND_KV_F16 = 0,
    BACKEND_KV_F32 = 1,
    BACKEND_KV_BF16 = 2,
    BACKEND_KV_INT8 = 3,
    BACKEND_KV_FP8 = 4,
    BACKEND_KV_TYPES = 5
} backend_kv_type;

/* How inputs meet weights: as int8 with one scale a row and 32 elements, as they are, or rounded to
 * bf16, as weights are then too; MIXED: rows of prompts (ops_linear.prompt) as with BF16, others as
 * with INT8. Weights of F32 meet f32 whatever is said, as do those of F16 and BF16 with int8 and
 * MIXED, or with bf16 where their inputs are not a multiple of 32. */
typedef enum {
    BACKEND_ACTIVATIONS_INT8 = 0,
    BACKEND_ACTIVATIONS_F32 = 1,
    BACKEND_ACTIVATIONS_BF16 = 2,
    BACKEND_ACTIVATIONS_MIXED = 3,
    BACKEND_ACTIVATIONS_TYPES = 4
} backend_activations;

/* What a GPU worker may take of its device, all told, when nobody says otherwise. */
#define BACKEND_MEMORY_FRACTION 0.9

typedef struct {
    int32_t threads; /* compute threads, the caller's among them; 0: one a usable CPU */
    const char *isa; /* cpu: "auto" (or NULL), "avx512", "avx2", "portable"; cuda: "plain" */
    int32_t device;  /* which GPU */
    /* Of the GPU's memory, what this backend may take in all; 0: BACKEND_MEMORY_FRACTION. */
    double memory_fraction;
    bool deterministic; /* no library whose order of additions depends on the number of rows */
    /* Of a GPU's multiprocessors, what backend_share's has to itself and this one has not; 0: both
     * have all. */
    int32_t share_percent;
} backend_options;

enum {
    BACKEND_NAME_BYTES = 32,
    BACKEND_NUMERICS_BYTES = 48,
    BACKEND_LAYOUT_BYTES = 64,
    BACKEND_SHARED_BYTES = 128
};
enum { BACKEND_RANKS_MAX = 16, BACKEND_GROUP_ID_BYTES = 128 };

/* Implementations put this first in their own struct. Fields are read-only for callers. */
struct backend {
    const backend_table *table;
    char name[BACKEND_NAME_BYTES];         /* "cpu" */
    char isa[BACKEND_NAME_BYTES];          /* "avx512" */
    char numerics[BACKEND_NUMERICS_BYTES]; /* equal strings promise equal bits */
    int32_t threads;
    bool bf16;                         /* has activations of bf16 */
    char shared[BACKEND_SHARED_BYTES]; /* backend_share's: who has what of the device */
    int32_t ranks;                     /* of its group; 0: in none */
    ops_batch
        begun; /* backend.c's: checked, for the layers of this forward pass; seqs NULL: none */
};

/* A loaded weight; read-only. Implementations put it first in their own struct. */
typedef struct backend_weight {
    backend_type type;
    backend_activations activations;
    int32_t outputs, inputs; /* y[outputs] = W x[inputs] */
    uint64_t bytes;          /* as kept by the backend */
} backend_weight;

typedef struct {
    int32_t layers, kv_heads, head_dim;
    uint32_t pages;
    backend_kv_type type;
} backend_kv_options;

/* A KV pool; read-only. Bytes of (layer, page): base + (layer * pages + page) * layer_page_bytes.
 * Inside, kv head h starts at h * head_bytes, so that a range of heads is one run of bytes:
 *     K transposed [head_dim][16 tokens], then V [16 tokens][head_dim].
 * Sixteen tokens' keys are then one vector for each dimension, and their scores need no sum across
 * lanes. INT8 keeps fours together, so that a dot product instruction takes them at once:
 *     K [head_dim / 4][16 tokens][4] bytes around 128, V [4][head_dim][4 tokens] signed bytes,
 *     scales of K [16 tokens], scales of V [16 tokens] in BF16;
 * keys go through a Hadamard transform of their dimensions first.
 * `layout` names this arrangement with dtype and head_dim; pools whose strings are equal hold the
 * same bytes for the same heads. */
typedef struct backend_kv {
    backend_kv_options shape;
    uint64_t head_bytes;       /* backend_kv_head_bytes: a multiple of 64 */
    uint64_t layer_page_bytes; /* kv_heads * head_bytes */
    uint8_t *base;             /* device [layers, pages, layer_page_bytes] */
    char layout[BACKEND_LAYOUT_BYTES];
} backend_kv;

/* Opens "cpu" or "cuda". NULL options are the defaults. */
MUST_USE status backend_open(const char *name, const backend_options *options, backend **out,
                             diag *d);
void backend_close(backend *b);

/* Another set of threads (CUDA: a stream, on multiprocessors of its own or going first) and scratch
 * over the device of `of`, to be used beside it by one more thread: its operators take the weights
 * and KV pools of `of`, and give the bits that it gives. `threads`: as many for itself; 0: as `of`.
 * To be closed before `of`, which loads nothing meanwhile. STATUS_UNSUPPORTED where a device cannot
 * be shared like that. */
MUST_USE status backend_share(backend *of, int32_t threads, backend **out, diag *d);

/* The backend that "auto" stands for here: "cuda" where its module is and finds a device, else
 * "cpu", and then `why`, when there is a module, says what it found. */
const char *backend_choose(const backend_options *options, diag *why);

/* Bytes that a KV pool may still take of the device, after what was taken so far; 0 where memory is
 * the host's and has no such bound. */
uint64_t backend_room(const backend *b);

/* The device's memory, as it is now; both 0 where memory is the host's. */
void backend_memory(const backend *b, uint64_t *free_bytes, uint64_t *total_bytes);

/* What ended the device, in its own words, once a call has returned STATUS_DEVICE; else "". */
const char *backend_fault(const backend *b);

/* Compute with at most `threads` threads from the next operator on (1 .. those opened): cores can
 * be lent and taken back between two operators, for no result depends on it. Other devices than the
 * CPU take no notice. */
void backend_use_threads(backend *b, int32_t threads);

/* What must be equal between two processes for bit-equal results. Borrowed until the close; a group
 * that is joined may change it. */
const char *backend_numerics(const backend *b);

/* Device memory, 64-byte aligned, zeroed. Zero bytes gives a valid pointer. */
MUST_USE status backend_alloc(backend *b, uint64_t bytes, void **out);
void backend_free(backend *b, void *device);
MUST_USE status backend_upload(backend *b, void *device, const void *host, uint64_t bytes);
MUST_USE status backend_download(backend *b, void *host, const void *device, uint64_t bytes);

/* Bytes of an [outputs, inputs] matrix in a file; 0 when the type is unknown or inputs does not
 * divide into its blocks. */
uint64_t backend_type_bytes(backend_type type, int32_t outputs, int32_t inputs);
const char *backend_type_name(backend_type type);

/* Repacks a matrix for this backend. `data`: host [outputs, inputs] in the file's format, `bytes`
 * long, any alignment; not needed afterwards. */
MUST_USE status backend_weight_load(backend *b, backend_type type, const void *data, uint64_t bytes,
                                    int32_t outputs, int32_t inputs,
                                    backend_activations activations, const backend_weight **out,
                                    diag *d);

/* `wanted`; or for BACKEND_ACTIVATIONS_TYPES this backend's choice: mixed where it has bf16, int8
 * elsewhere. "int8", "f32", "bf16", "mixed"; "unknown" for anything else. */
backend_activations backend_activations_choose(const backend *b, backend_activations wanted);
const char *backend_activations_name(backend_activations activations);

/* "f16", "f32", "bf16", "int8", "fp8"; "unknown" for anything else. */
const char *backend_kv_type_name(backend_kv_type type);

/* `wanted`; or for BACKEND_KV_TYPES this backend's choice: int8 on the CPU, where reading the cache
 * is what long contexts and large batches wait for, f16 elsewhere. */
backend_kv_type backend_kv_choose(const backend *b, backend_kv_type wanted);

/* Bytes of one kv head in one (layer, page); 0 when the type is unknown or head_dim is not a
 * multiple of 16 up to OPS_HEAD_DIM_MAX. */
uint64_t backend_kv_head_bytes(backend_kv_type type, int32_t head_dim);

/* A pool of zeroed pages. */
MUST_USE status backend_kv_open(backend *b, const backend_kv_options *options, backend_kv **out,
                                diag *d);
void backend_kv_close(backend *b, backend_kv *kv);

/* Bytes of one (layer, page) [layer_page_bytes]; device memory (host memory on the CPU). */
uint8_t *backend_kv_page(const backend_kv *kv, int32_t layer, uint32_t page);

/* Layers [layer_first, layer_first + layers) of some pages, as a transfer takes them. */
typedef struct {
    int32_t layer_first, layers;
    const uint32_t *pages; /* host [pages_count] */
    uint32_t pages_count;
} backend_kv_run;

/* Whether pages are host memory, which backend_kv_page gives; else they are read and written here.
 */
bool backend_kv_on_host(const backend *b);

/* Copies pages out of the pool or into it, in this order: [layers, pages_count, layer_page_bytes].
 * One thread at a time, which need not be the operators'; the step that wrote the pages (or will
 * read them) is over (or comes after). */
MUST_USE status backend_kv_read(backend *b, const backend_kv *kv, const backend_kv_run *run,
                                uint8_t *out);
MUST_USE status backend_kv_write(backend *b, const backend_kv *kv, const backend_kv_run *run,
                                 const uint8_t *in);

/* The same between pages and device memory, packed in the same order, on a stream of the device
 * (CUDA: its cudaStream_t): begun, not waited for. `list`: device memory for pages_count numbers,
 * the call's until the stream is past it. UNSUPPORTED where pages are host memory. */
MUST_USE status backend_kv_gather(backend *b, const backend_kv *kv, const backend_kv_run *run,
                                  void *staging, uint32_t *list, void *stream);
MUST_USE status backend_kv_scatter(backend *b, const backend_kv *kv, const backend_kv_run *run,
                                   const void *staging, uint32_t *list, void *stream);

/* The same from what a pool of another type gathered: each token is read, and rounded anew as
 * rope_append would have done. */
MUST_USE status backend_kv_convert(backend *b, const backend_kv *kv, const backend_kv_run *run,
                                   backend_kv_type type, const void *staging, uint32_t *list,
                                   void *stream);

/* Packed pages of which a pool has some of the heads: a rank's part of them. */
typedef struct {
    void *staging;       /* memory of any device: [layers, pages_count, page_bytes] */
    uint64_t page_bytes; /* of a (layer, page) there: all heads, in the type that is packed */
    uint64_t first;      /* where in it this pool's heads begin */
} backend_kv_slice;

/* backend_kv_gather, or else _scatter (_convert, of another type), of those heads alone, by a rank
 * of a group. Begun when it is called, so the staging is free (has been filled) by then; `stream`,
 * of any device, goes on when this has ended. After a failure it still waits for what was begun.
 * `run->pages` stays until then. UNSUPPORTED outside a group; LIMIT: heads of more than 4 MiB. */
MUST_USE status backend_kv_pack_slice(backend *b, const backend_kv *kv, const backend_kv_run *run,
                                      bool gather, backend_kv_type type,
                                      const backend_kv_slice *slice, void *stream);

/* Copies one page, all layers. */
MUST_USE status backend_kv_copy(backend *b, backend_kv *kv, uint32_t from, uint32_t to);

/* Takes scratch memory for the largest batch, once, before the KV pool. After it no operator
 * within these sizes takes memory. */
MUST_USE status backend_reserve(backend *b, const ops_sizes *sizes);

/* Begins a forward pass: see ops_batch. Optional; else the same is worked out in each layer. */
MUST_USE status backend_batch(backend *b, const ops_batch *op);

/* How many rows a batch of `rows` that repeats (ops_batch) is to be padded to, with rows of no
 * sequence; 0: this device gains nothing by it. */
int32_t backend_graph_rows(const backend *b, int32_t rows);

/* Ends what a batch that repeats began: nothing of it may be waited for before. */
MUST_USE status backend_batch_end(backend *b);

/* Calls `call(context, number)` when all that was asked for so far is done: at once on the CPU,
 * elsewhere later and on any thread, where nothing of this header may be called. By the time
 * backend_sync returns it has been called. */
MUST_USE status backend_notify(backend *b, void (*call)(void *context, int32_t number),
                               void *context, int32_t number);

/* Ranks: backends of one process that share a model, each with a device and a thread of its own.
 * backend_group_make gives what all of them join with; a group is made and joined once. */
typedef struct {
    uint8_t bytes[BACKEND_GROUP_ID_BYTES];
} backend_group_id;

/* STATUS_UNSUPPORTED where devices have no groups, or what joins them is not there: `d` says so. */
MUST_USE status backend_group_make(backend *b, backend_group_id *out, diag *d);

/* Each rank on its own thread: returns when all `ranks` (2 .. BACKEND_RANKS_MAX) have joined, or
 * this one was told to leave. Before the weights, as it takes memory. */
MUST_USE status backend_group_join(backend *b, const backend_group_id *id, int32_t rank,
                                   int32_t ranks, diag *d);

/* Any thread: a rank has failed, so what this one waits for will not come. Whatever waits returns
 * STATUS_DEVICE, and so does all that follows; only the close is left. */
void backend_group_leave(backend *b);

/* Operators: STATUS_INVALID when a shape, index or pointer is wrong (nothing was run). Zero rows
 * is fine and does nothing. */
MUST_USE status backend_embed(backend *b, const ops_embed *op);
MUST_USE status backend_rmsnorm(backend *b, const ops_rmsnorm *op);
MUST_USE status backend_silu_mul(backend *b, const ops_silu_mul *op);
MUST_USE status backend_softcap(backend *b, const ops_softcap *op);
MUST_USE status backend_gather(backend *b, const ops_gather *op);
MUST_USE status backend_linear(backend *b, const ops_linear *op);

/* `count` operators (up to OPS_CHAIN_MAX) of the same rows in turn. Rows do not depend on each
 * other, so a backend may take some of them through the whole chain before others: where memory of
 * two operators overlaps, it must be the same array of the same width. What one writes without
 * `accumulate` and a later one takes as its x and x_up is undefined afterwards. */
MUST_USE status backend_chain(backend *b, const ops_linear *ops, int32_t count);
MUST_USE status backend_rope_table(backend *b, const ops_rope_table *op);
MUST_USE status backend_rope_append(backend *b, const ops_rope_append *op);
MUST_USE status backend_attention(backend *b, const ops_attention *op);

/* The group's ranks call it in the same order; STATUS_INVALID outside a group. */
MUST_USE status backend_all_reduce(backend *b, const ops_all_reduce *op);

/* Whether this device chooses tokens; else whoever wants them downloads the logits. */
bool backend_samples(const backend *b);
MUST_USE status backend_sample(backend *b, const ops_sample *op);

/* Waits until everything asked for so far is done (at once on the CPU). */
MUST_USE status backend_sync(backend *b);

/* What a backend implements; arguments are already checked. */
struct backend_table {
    void (*close)(backend *b);
    status (*share)(backend *of, int32_t threads, backend **out, diag *d);         /* may be NULL */
    void (*use_threads)(backend *b, int32_t threads);                              /* may be NULL */
    uint64_t (*room)(const backend *b);                                            /* may be NULL */
    void (*memory)(const backend *b, uint64_t *free_bytes, uint64_t *total_bytes); /* may be NULL */
    const char *(*fault)(const backend *b);                                        /* may be NULL */
    status (*alloc)(backend *b, uint64_t bytes, void **out);
    void (*free)(backend *b, void *device);
    status (*upload)(backend *b, void *device, const void *host, uint64_t bytes);
    status (*download)(backend *b, void *host, const void *device, uint64_t bytes);
    status (*weight_load)(backend *b, const backend_weight *shape, const void *data, uint64_t bytes,
                          const backend_weight **out, diag *d);
    status (*kv_open)(backend *b, backend_kv *kv, diag *d);
    void (*kv_close)(backend *b, backend_kv *kv);
    status (*kv_copy)(backend *b, backend_kv *kv, uint32_t from, uint32_t to);
    /* Both NULL where pages are host memory. */
    status (*kv_read)(backend *b, const backend_kv *kv, const backend_kv_run *run, uint8_t *out);
    status (*kv_write)(backend *b, const backend_kv *kv, const backend_kv_run *run,
                       const uint8_t *in);
    /* `gather`, or scatter; may be NULL. */
    status (*kv_pack)(backend *b, const backend_kv *kv, const backend_kv_run *run, bool gather,
                      backend_kv_type type, void *staging, uint32_t *list, void *stream);
    /* Likewise. */
    status (*kv_pack_slice)(backend *b, const backend_kv *kv, const backend_kv_run *run,
                            bool gather, backend_kv_type type, const backend_kv_slice *slice,
                            void *stream);
    status (*reserve)(backend *b, const ops_sizes *sizes); /* may be NULL */
    status (*batch)(backend *b, const ops_batch *op);      /* may be NULL */
    int32_t (*graph_rows)(const backend *b, int32_t rows); /* may be NULL */
    status (*batch_end)(backend *b);                       /* may be NULL */
    status (*notify)(backend *b, void (*call)(void *context, int32_t number), void *context,
                     int32_t number); /* NULL: operators are done when they return */
    status (*embed)(backend *b, const ops_embed *op);
    status (*rmsnorm)(backend *b, const ops_rmsnorm *op);
    status (*silu_mul)(backend *b, const ops_silu_mul *op);
    status (*softcap)(backend *b, const ops_softcap *op);
    status (*gather)(backend *b, const ops_gather *op);
    status (*linear)(backend *b, const ops_linear *op);
    status (*chain)(backend *b, const ops_linear *ops, int32_t count); /* NULL: one by one */
    status (*rope_table)(backend *b, const ops_rope_table *op);
    status (*rope_append)(backend *b, const ops_rope_append *op);
    status (*attention)(backend *b, const ops_attention *op);
    status (*sample)(backend *b, const ops_sample *op); /* NULL: chosen on the host */
    /* All NULL: one device alone. */
    status (*group_make)(backend *b, backend_group_id *out, diag *d);
    status (*group_join)(backend *b, const backend_group_id *id, int32_t rank, int32_t ranks,
                         diag *d);
    void (*group_leave)(backend *b);
    status (*all_reduce)(backend *b, const ops_all_reduce *op);
    status (*sync)(backend *b);
};

#ifdef __cplusplus
}
#endif
#endif
