/* cudastate.h -- the CUDA backend's own structures, shared by its C files.
 *
 * Purpose    The device, its stream, staging for what the host sends, scratch for fused inputs.
 * Ownership  One a backend_open, freed by backend_close.
 * Threads    The backend's caller.
 * Limits     None.
 */
#ifndef KERNELS_CUDA_CUDASTATE_H
#define KERNELS_CUDA_CUDASTATE_H

#include "kernels/backend.h"
#include "kernels/cuda/cuda_ops.h"
#include "kernels/cuda/cudagreen.h"

enum {
    CUDASTATE_STAGE_BYTES = 4 << 20,
    CUDASTATE_MOVE_BYTES = 4 << 20,
    CUDASTATE_SLICE_BYTES = 4 << 20
};

/* Rows of one launch that chooses tokens, and choices on their way to the host at a time. */
enum { CUDASTATE_SAMPLE_ROWS = 64, CUDASTATE_SAMPLED_MAX = 1024 };

/* Device memory that grows when a call needs more than any before it. */
typedef struct {
    void *memory;
    uint64_t bytes;
} cudastate_buffer;

/* What attention's plan depends on besides the sequences. */
typedef struct {
    int32_t heads, kv_heads, head_dim;
    int32_t window; /* as cuda_attention */
} cudabatch_heads;

/* What must be equal for two forward passes to be the same launches. */
typedef struct {
    const void *owner; /* ops_batch.repeats */
    const backend_kv *kv;
    int32_t rows, plans;
    int32_t wide[OPS_WINDOWS_MAX], narrow[OPS_WINDOWS_MAX], merges[OPS_WINDOWS_MAX]; /* padded */
    uint64_t table_words;                                                            /* padded */
} cudagraph_key;

typedef enum {
    CUDAGRAPH_NONE,     /* operators are launched as they come */
    CUDAGRAPH_CAPTURED, /* into a graph */
    CUDAGRAPH_REPLAYED  /* they only send: the graph is there */
} cudagraph_mode;

/* Somebody who is told when the stream is as far as this. */
typedef struct {
    void (*call)(void *context, int32_t number);
    void *context;
    int32_t number;
} cudastate_note;

enum { CUDASTATE_NOTES_MAX = 512 };

typedef struct {
    backend base;
    int device;
    int capability; /* 90 is 9.0 */
    int multiprocessors;
    int shared_max; /* bytes of shared memory a block may ask for */
    bool plain;     /* the plain kernels alone */
    bool deterministic;
    double memory_fraction; /* of the device, what this backend may take */
    int32_t share_percent;  /* of the multiprocessors, what cuda_share's has to itself */
    cudagreen_side green;   /* whose stream is `stream`; context NULL: all multiprocessors */
    uint64_t taken;         /* bytes of device memory; what backend_free gives back stays counted */
    cudaStream_t stream;
    uint8_t *stage; /* pinned host [CUDASTATE_STAGE_BYTES], refilled after a wait for the stream */
    uint64_t stage_used;
    cudaStream_t move_stream; /* KV pages to and from other workers: a thread of its own */
    uint8_t *move_stage;      /* pinned host [move_bytes], at least one page of a layer */
    uint64_t move_bytes;
    void *slice; /* cudaslice.c: heads on their way between devices; NULL: no group */
    cudaEvent_t slice_ended;
    uint64_t slice_reaches;  /* a bit a device whose memory this one was given access to */
    cudastate_buffer input;  /* a linear operator's transformed rows, and their sums */
    cudastate_buffer index;  /* tokens, row numbers, positions, frequencies: one call's */
    cudastate_buffer tables; /* sequences and block tables */
    cudastate_buffer work;   /* attention's items and merges */
    cudastate_buffer slots;  /* attention's splits */
    cudastate_buffer sums;   /* cudagroup.c: what other ranks have of this one's share */
    cudastate_buffer choice; /* cudasample.c: rows, histories and biases of one launch */
    cudastate_buffer logits; /* its rows' adjusted logits, then counts, which are zero between */
    cudastate_buffer chosen; /* its result */
    cuda_sampled *sampled;   /* pinned host [CUDASTATE_SAMPLED_MAX] */
    ops_sampled *sampled_to; /* where the first `sampled_count` of those go after a wait */
    int32_t sampled_count;
    bool sealed;         /* the buffers are as large as any batch can want */
    uint8_t *batch_host; /* [batch_host_bytes] in which the next two are put together */
    uint64_t batch_host_bytes;
    struct cudalibrary *library;  /* cuBLASLt; NULL: not there, or not wanted */
    struct cudagraph_set *graphs; /* NULL: none */
    cudagraph_mode graph_mode;
    cudastate_note notes[CUDASTATE_NOTES_MAX]; /* the first `notes_count`: not waited for yet */
    int32_t notes_count;
    ops_batch begun; /* the batch of the forward pass under way; seqs NULL: none */
    cuda_batch begun_tables;
    /* Its plans of attention, one a window. */
    cudabatch_heads begun_heads[OPS_WINDOWS_MAX];
    cuda_attention_work begun_work[OPS_WINDOWS_MAX];
    int32_t begun_plans;
    struct cudastate_weight *weights; /* all that were loaded */
    struct cudagroup *group;          /* NULL: alone */
    _Atomic bool left;                /* its group has lost a rank, or it was told to leave */
    _Atomic cudaError_t failed;       /* the first error that is for good; nothing works after it */
} cudastate;

typedef struct cudastate_weight {
    backend_weight base;
    cuda_matrix matrix;
    void *memory;
    struct cudastate_weight *next;
} cudastate_weight;

/* cudastate.c: the numerics class, once it is known who takes part. */
void cudastate_name(cudastate *c, int32_t ranks);

/* STATUS_OK, STATUS_NOMEM, or STATUS_DEVICE, which stays: a device that failed once is done. */
MUST_USE status cudastate_check(cudastate *c, cudaError_t e);

/* The calling thread's device is this one: threads begin with device 0. */
MUST_USE status cudastate_enter(cudastate *c);

/* Device memory, counted. */
MUST_USE status cudastate_take(cudastate *c, uint64_t bytes, void **out);

/* At least `bytes`; what was there is lost. STATUS_LIMIT when that would take memory while serving:
 * cudabatch_reserve has counted wrongly. */
MUST_USE status cudastate_reserve(cudastate *c, cudastate_buffer *b, uint64_t bytes);

/* cudastream.c: of backend_table; and a copy to the device in the stream's order, after which
 * `host` may change at once. */
MUST_USE status cudastream_sync(backend *b);
MUST_USE status cudastream_notify(backend *b, void (*call)(void *context, int32_t number),
                                  void *context, int32_t number);
MUST_USE status cudastream_send(cudastate *c, void *device, const void *host, uint64_t bytes);

/* cudamemory.c: of backend_table, and `s` as an error: `what` ("a KV pool") takes `bytes`. */
MUST_USE status cudamemory_alloc(backend *b, uint64_t bytes, void **out);
void cudamemory_free(backend *b, void *device);
MUST_USE status cudamemory_upload(backend *b, void *device, const void *host, uint64_t bytes);
MUST_USE status cudamemory_download(backend *b, void *host, const void *device, uint64_t bytes);
uint64_t cudamemory_room(const backend *b);
void cudamemory_memory(const backend *b, uint64_t *free_bytes, uint64_t *total_bytes);
MUST_USE status cudamemory_kv_open(backend *b, backend_kv *kv, diag *d);
void cudamemory_kv_close(backend *b, backend_kv *kv);
MUST_USE status cudamemory_kv_copy(backend *b, backend_kv *kv, uint32_t from, uint32_t to);
MUST_USE status cudamemory_kv_read(backend *b, const backend_kv *kv, const backend_kv_run *run,
                                   uint8_t *out);
MUST_USE status cudamemory_kv_write(backend *b, const backend_kv *kv, const backend_kv_run *run,
                                    const uint8_t *in);
MUST_USE status cudamemory_kv_pack(backend *b, const backend_kv *kv, const backend_kv_run *run,
                                   bool gather, backend_kv_type type, void *staging, uint32_t *list,
                                   void *stream);
status cudamemory_short(const cudastate *c, status s, diag *d, const char *what, uint64_t bytes);

/* cudaslice.c: of backend_table; memory for it, taken when a group is joined. */
MUST_USE status cudaslice_pack(backend *b, const backend_kv *kv, const backend_kv_run *run,
                               bool gather, backend_kv_type type, const backend_kv_slice *slice,
                               void *stream);
MUST_USE status cudaslice_open(cudastate *c);
void cudaslice_close(cudastate *c);

/* cudaweights.c */
MUST_USE status cudaweights_load(backend *b, const backend_weight *shape, const void *data,
                                 uint64_t bytes, const backend_weight **out, diag *d);
void cudaweights_close(cudastate *c);

/* cudabatch.c: of backend_table; then what the operators ask for, sent now if it was not before. */
MUST_USE status cudabatch_begin(backend *b, const ops_batch *op);
MUST_USE status cudabatch_reserve(backend *b, const ops_sizes *sizes);
MUST_USE status cudabatch_tables(cudastate *c, const ops_seq *seqs, int32_t seqs_count,
                                 int32_t rows, cuda_batch *out);
MUST_USE status cudabatch_work(cudastate *c, const ops_seq *seqs, int32_t seqs_count, int32_t rows,
                               const cudabatch_heads *heads, cuda_attention_work *out);

/* cudasample.c: of backend_table; memory for it. What was chosen is the host's after a wait. */
MUST_USE status cudasample_run(backend *b, const ops_sample *op);
MUST_USE status cudasample_reserve(cudastate *c, const ops_sizes *sizes);
void cudasample_close(cudastate *c);

/* cudagraph.c: of backend_table; the rest is asked for by cuda.c and cudabatch.c. */
int32_t cudagraph_rows(const backend *b, int32_t rows);
MUST_USE status cudagraph_end(backend *b);
void cudagraph_open(cudastate *c);
void cudagraph_drop(cudastate *c);
void cudagraph_close(cudastate *c);
/* stage_bytes: all that is sent before the end, each piece in whole 16 bytes. */
MUST_USE status cudagraph_begin(cudastate *c, const cudagraph_key *key, uint64_t stage_bytes);
MUST_USE status cudagraph_send(cudastate *c, void *device, const void *host, uint64_t bytes);

/* cudalibrary.c: whether the library multiplies these rows, made by linear_rows, and this part.
 * UNSUPPORTED: it knows no way after all, and has done nothing. */
void cudalibrary_open(cudastate *c);
void cudalibrary_close(cudastate *c);
MUST_USE status cudalibrary_reserve(cudastate *c, const ops_sizes *sizes);
bool cudalibrary_can(const cudastate *c, const ops_linear *op, const ops_linear_part *p);
MUST_USE status cudalibrary_product(cudastate *c, const cuda_rows *rows, const ops_linear_part *p);

/* cudagroup.c: of backend_table; the wait for the stream when others may keep it from ending; what
 * ended the group, or "". */
MUST_USE status cudagroup_make(backend *b, backend_group_id *out, diag *d);
MUST_USE status cudagroup_join(backend *b, const backend_group_id *id, int32_t rank, int32_t ranks,
                               diag *d);
void cudagroup_leave(backend *b);
MUST_USE status cudagroup_all_reduce(backend *b, const ops_all_reduce *op);
MUST_USE status cudagroup_wait(cudastate *c);
MUST_USE status cudagroup_reserve(cudastate *c, const ops_sizes *sizes);
const char *cudagroup_fault(const cudastate *c);
void cudagroup_close(cudastate *c);

/* cudaops.c: the operators of backend_table. */
MUST_USE status cudaops_embed(backend *b, const ops_embed *op);
MUST_USE status cudaops_rmsnorm(backend *b, const ops_rmsnorm *op);
MUST_USE status cudaops_silu_mul(backend *b, const ops_silu_mul *op);
MUST_USE status cudaops_softcap(backend *b, const ops_softcap *op);
MUST_USE status cudaops_gather(backend *b, const ops_gather *op);
MUST_USE status cudaops_linear(backend *b, const ops_linear *op);
MUST_USE status cudaops_rope_table(backend *b, const ops_rope_table *op);
MUST_USE status cudaops_rope_append(backend *b, const ops_rope_append *op);
MUST_USE status cudaops_attention(backend *b, const ops_attention *op);

#endif
