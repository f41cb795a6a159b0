/* cuda_ops.h -- the operators as kernels take them: plain structs of device pointers.
 *
 * Purpose    cudaops.c (host) fills one of these from an ops.h struct and calls the entry of the
 *            same name in a .cu file. A fast kernel takes the struct of its plain one, so that the
 *            plain one stays its reference for ever.
 * Ownership  Everything is borrowed until the stream has passed the launch; arrays marked "device"
 *            must not change before that.
 * Threads    The thread that owns the stream.
 * Limits     Checked by kernels/backend.c before; entries return a cudaError_t and launch nothing
 *            else wrong.
 */
#ifndef KERNELS_CUDA_CUDA_OPS_H
#define KERNELS_CUDA_CUDA_OPS_H

#include <stdbool.h>
#include <stdint.h>

#include <cuda_runtime_api.h>

#ifdef __cplusplus
extern "C" {
#endif

/* How a weight lies on the device: in the order in which the tensor-core kernel (stream.cu) reads
 * it.
 *
 * A tile is 16 outputs. Inputs come in steps of 16, and in chunks of as many steps as 16 bytes hold
 * for four inputs of each: 8 for nibbles, 4 for bytes, 2 for 16-bit elements, 1 for f32. A chunk of
 * a tile is [2 halves of 8 outputs][32 lanes][16 bytes]: lane 4 g + t of half h has, for output
 * 8 h + g, inputs 4 t .. 4 t + 3 of every step: what mma.sync wants of that lane (m16n8k16, A). A
 * nibble byte holds an input of an even step low and the same of the next step high.
 *
 * Inputs are padded to whole chunks with zero weights, outputs to whole tiles. */
typedef enum {
    CUDA_STORE_F32,
    CUDA_STORE_F16,
    CUDA_STORE_BF16,
    CUDA_STORE_NIBBLES, /* unsigned */
    CUDA_STORE_BYTES    /* int8 */
} cuda_store;

enum {
    CUDA_TILE = 16,        /* outputs */
    CUDA_STEP = 16,        /* inputs */
    CUDA_CHUNK_BYTES = 16, /* of one lane */
    CUDA_SPAN = 128        /* inputs whose scales lie together */
};

/* A weight matrix. Quantised: w = scale * (quant - zero) + minimum, with one scale for
 * `scale_group` inputs and one minimum for 32. */
typedef struct {
    cuda_store store;
    const uint8_t *values; /* device [tiles, chunks, 2, 32, 16 bytes] */
    const void *scales;    /* device [tiles, spans, 16, CUDA_SPAN / scale_group] f16, or f32 */
    const void *minimums; /* device [tiles, spans, 16, CUDA_SPAN / 32], as scales; NULL: all zero */
    bool scales_f32;
    int32_t scale_group; /* 32 or 16 */
    int32_t zero;
    int32_t outputs, inputs;
    int32_t chunks, spans; /* of the inputs */
} cuda_matrix;

/* The rows of a batch and where each one's sequence lies. */
typedef struct {
    const int32_t *row_seq;     /* device [rows]: which sequence, or -1: a row of none */
    const int32_t *position;    /* device [rows] */
    const uint32_t *pages;      /* device: block tables, one after the other */
    const int32_t *pages_first; /* device [seqs]: where a sequence's begins in `pages` */
} cuda_batch;

/* The values are backend_kv_type's. INT8: one scale a token and kv head, for K and for V each:
 * max|x| / 127 in BF16 rounded up; a byte is x / scale to nearest even.
 * FP8: e4m3 without scales. */
typedef enum {
    CUDA_KV_F16 = 0,
    CUDA_KV_F32 = 1,
    CUDA_KV_BF16 = 2,
    CUDA_KV_INT8 = 3,
    CUDA_KV_FP8 = 4
} cuda_kv_type;

/* One layer of the KV pool. Kv head h of a page lies at h * head_bytes: K [16 tokens, head_dim],
 * then V [16 tokens, head_dim]; INT8: then the scales of K [16] and of V [16], BF16. */
typedef struct {
    uint8_t *layer; /* device [pages, page_bytes] */
    uint64_t page_bytes, head_bytes;
    int32_t kv_heads, head_dim;
    cuda_kv_type type;
} cuda_kv_layer;

typedef struct {
    cuda_matrix table;
    const int32_t *tokens; /* device [rows] */
    float *out;            /* device [rows, table.inputs] */
    int32_t rows;
    float scale; /* multiplies every element */
} cuda_embed;

/* A whole matrix as bf16, row by row. */
typedef struct {
    cuda_matrix matrix;
    void *out;      /* device bf16 [matrix.outputs, stride] */
    int32_t stride; /* a multiple of 4, at least matrix.inputs; what is past those is zero */
} cuda_unpack;

typedef struct {
    const float *x, *weight; /* device [rows, width], [width] */
    float *out;              /* device [rows, width]; x itself is fine */
    int32_t rows, width;
    float epsilon;
    bool accumulate; /* out = out + that; then out is not x */
} cuda_rmsnorm;

typedef struct {
    const float *gate, *up; /* device [count] */
    float *out;             /* device [count]; either input is fine */
    int64_t count;
    bool gelu; /* GELU (tanh) of the gate instead of SiLU */
} cuda_silu_mul;

/* x = cap * tanh(x / cap). */
typedef struct {
    float *x; /* device [count] */
    int64_t count;
    float cap; /* > 0 */
} cuda_softcap;

/* x = the sum over ranks, in their order: x itself is rank `rank`'s, others' are in `parts`. */
typedef struct {
    float *x;           /* device [count] */
    const float *parts; /* device [ranks, stride]; [rank] is not read */
    int64_t count, stride;
    int32_t rank, ranks;
} cuda_sum;

typedef struct {
    const float *x;       /* device [x_rows, width] */
    const int32_t *index; /* device [rows] */
    float *out;           /* device [rows, width] */
    int32_t rows, width;
} cuda_gather;

typedef struct {
    cuda_matrix weight;
    const float *x;    /* device [rows, inputs] */
    const float *bias; /* device [outputs], or NULL */
    float *out;        /* device [rows, outputs] */
    int32_t rows;
    bool accumulate; /* out = out + (W x + bias) */
} cuda_linear;

typedef enum {
    CUDA_ROWS_PLAIN,
    CUDA_ROWS_RMSNORM,
    CUDA_ROWS_SILU_MUL,
    CUDA_ROWS_GELU_MUL
} cuda_rows_input;

/* A linear operator's rows for the tensor cores: transformed, as bf16, padded with zeros to
 * `stride` inputs; and the sums of each 32 of them. */
typedef struct {
    const float *x;           /* device [rows, width] */
    const float *x_up;        /* device [rows, width]: CUDA_ROWS_SILU_MUL, CUDA_ROWS_GELU_MUL */
    const float *norm_weight; /* device [width]: CUDA_ROWS_RMSNORM */
    const float *add;         /* device [rows, width], or NULL: added to x first, */
    float *x_out;             /* device [rows, width]: and written here; x itself is fine */
    float norm_epsilon;
    cuda_rows_input input;
    int32_t rows, width;
    int32_t stride;  /* inputs of a row here: whole spans of the weights, and 32 more so that rows
                        begin in different banks of shared memory */
    void *rows_bf16; /* device bf16 [rows up to a multiple of CUDA_ROWS_PASS, stride] */
    float *sums;     /* device [the same rows, stride / 32] */
} cuda_rows;

enum { CUDA_ROWS_PASS = 64, CUDA_PARTS_MAX = 3 };

typedef struct {
    cuda_matrix weight;
    const float *bias; /* device [outputs], or NULL */
    float *out;        /* device [rows, outputs] */
    bool accumulate;
} cuda_product_part;

/* Weights that share rows; all of one storage and one number of inputs. */
typedef struct {
    cuda_product_part parts[CUDA_PARTS_MAX];
    int32_t parts_count;
    const void *rows_bf16; /* as cuda_rows */
    const float *sums;
    int32_t rows, stride;
    bool rows_shared; /* set by the launch: the rows fit shared memory */
} cuda_product;

typedef struct {
    const int32_t *positions;  /* device [rows] */
    const double *frequencies; /* device [dim / 2]: angle = position * frequency */
    float *table;              /* device [rows, 2, dim / 2] */
    float magnitude;
    int32_t rows, dim;
} cuda_rope_table;

typedef struct {
    float *q;           /* device [rows, heads, head_dim] */
    const float *k, *v; /* device [rows, kv_heads, head_dim] */
    const float *table; /* device [rows, 2, dim / 2] */
    cuda_batch batch;
    cuda_kv_layer kv;
    int32_t rows, heads, dim;
    bool interleaved; /* elements (2 i, 2 i + 1) turn together; else (i, i + dim / 2) */
} cuda_rope_append;

/* Attention goes over positions in splits of this many, each from a fresh start, and joins them in
 * order: whether one block did all of them or each did one, the bits are the same. */
enum { CUDA_SPLIT_TOKENS = 256 };

/* A share of attention's work, for each kv head: rows of one sequence against a run of splits. */
typedef struct {
    int32_t seq;
    int32_t row_first, rows; /* of the batch; rows * (heads / kv_heads) fit a tile */
    int32_t position_first;  /* of row_first */
    int32_t split_first, splits;
    int32_t slot; /* -1: writes `out`; else it has one split, and row i of it goes to slot + i */
} cuda_attention_item;

/* A row whose splits are joined afterwards: from `slot`, `stride` slots apart. */
typedef struct {
    int32_t row, slot, stride, splits;
} cuda_attention_merge;

/* What a plan (cudaplan.h) makes of a batch. Plain kernels look at none of it. */
typedef struct {
    const cuda_attention_item *items;   /* device [wide + narrow]: wide ones first */
    const cuda_attention_merge *merges; /* device [merges_count] */
    float *slots; /* device [slots, heads, head_dim + 2]: values, then greatest score, then sum */
    int32_t wide, narrow; /* items of up to CUDA_TILE_WIDE (CUDA_TILE_NARROW) rows times heads */
    int32_t merges_count;
} cuda_attention_work;

enum { CUDA_TILE_WIDE = 64, CUDA_TILE_NARROW = 16 };

typedef struct {
    const float *q; /* device [rows, heads, head_dim] */
    float *out;     /* device [rows, heads, head_dim] */
    cuda_batch batch;
    cuda_kv_layer kv;
    int32_t rows, heads;
    float scale;
    float softcap;  /* 0: none; else a score is softcap * tanh(score / softcap) */
    int32_t window; /* 0: none; else a row sees its last `window` positions, its own among them */
    cuda_attention_work work;
} cuda_attention;

/* ---- moving pages ---- */

/* Pages of some layers, a range of their heads, and their place in packed staging:
 * [layers][count][heads] of a kv head's bytes. */
typedef struct {
    uint8_t *pool; /* device: layer 0's first page */
    uint64_t layer_bytes, page_bytes, head_bytes;
    const uint32_t *pages; /* device [count] */
    uint8_t *staging;      /* device, 16-byte aligned */
    uint64_t staging_head_bytes;
    int32_t count;
    int32_t layer_first, layers;
    int32_t head_first, heads;
    int32_t head_dim;
    cuda_kv_type type, staging_type;
} cuda_pages;

/* Both sides of one type. */
cudaError_t pages_gather(const cuda_pages *op, cudaStream_t stream);
/* Any two types; another one than the pages' is rounded anew, token by token. */
cudaError_t pages_scatter(const cuda_pages *op, cudaStream_t stream);

/* ---- choosing tokens ---- */

enum { CUDA_TOP_MAX = 20 };

typedef struct {
    int32_t token;
    float bias; /* -infinity forbids */
} cuda_sample_bias;

/* What a row's token depends on besides its logits: engine/worker/sampler.h has the meaning and the
 * order. Biases come first, then the allowed tokens, then penalties. */
typedef struct {
    float temperature; /* below 1e-5: the most likely token */
    float top_p, min_p;
    int32_t top_k;
    float repetition_penalty, presence_penalty, frequency_penalty;
    int32_t history_first; /* in `history`: the prompt's tokens, then the generated ones */
    int32_t prompt_count, generated_count;
    int32_t biases_first, biases_count; /* in `biases`; may name a token twice */
    int32_t allowed;                    /* which mask of `allowed`; -1: all tokens */
    int32_t top_logprobs;               /* -1: no logprobs; else how many beside the token's */
    uint64_t seed, stream;              /* the random number is rng_at(seed, stream, */
    uint64_t position;                  /* position) of engine/base/rng.h */
    int32_t logit_row;                  /* of `logits` */
    int32_t scored; /* -1: a token is chosen; else this one is, for its logprob */
} cuda_sample_row;

typedef struct {
    int32_t token;
    float logprob; /* of the logits as they came; 0 without logprobs */
    int32_t top_count;
    int32_t top_token[CUDA_TOP_MAX]; /* most likely first, the lower id first of equals */
    float top_logprob[CUDA_TOP_MAX];
} cuda_sampled;

typedef struct {
    const float *logits;            /* device [logit rows, vocab] */
    const cuda_sample_row *row;     /* device [rows] */
    const int32_t *history;         /* device; ids outside the vocabulary are ignored */
    const cuda_sample_bias *biases; /* device; the same */
    const uint32_t *allowed; /* device [masks, (vocab + 31) / 32]: bit i % 32 of word i / 32 */
    float *scratch;          /* device [rows, vocab] */
    uint32_t *counts;        /* device [rows, vocab]: zero, and zero again afterwards */
    cuda_sampled *out;       /* device [rows] */
    int32_t rows;
    int32_t vocab; /* <= 2^19 */
} cuda_sample;

/* The token that sampler_pick would choose, for each row. */
cudaError_t sample_rows(const cuda_sample *op, cudaStream_t stream);

cudaError_t plain_embed(const cuda_embed *op, cudaStream_t stream);
cudaError_t plain_unpack(const cuda_unpack *op, cudaStream_t stream);
cudaError_t plain_rmsnorm(const cuda_rmsnorm *op, cudaStream_t stream);
cudaError_t plain_silu_mul(const cuda_silu_mul *op, cudaStream_t stream);
cudaError_t plain_softcap(const cuda_softcap *op, cudaStream_t stream);
cudaError_t plain_sum(const cuda_sum *op, cudaStream_t stream);
cudaError_t plain_rows(const cuda_rows *op, cudaStream_t stream); /* reference of stream_rows */
cudaError_t plain_gather(const cuda_gather *op, cudaStream_t stream);
cudaError_t plain_linear(const cuda_linear *op, cudaStream_t stream);
cudaError_t plain_rope_table(const cuda_rope_table *op, cudaStream_t stream);
cudaError_t plain_rope_append(const cuda_rope_append *op, cudaStream_t stream);
cudaError_t plain_attention(const cuda_attention *op, cudaStream_t stream);

/* Whether attention_tensor can do this: else plain_attention does. `shared_max`: bytes of shared
 * memory that a block may have. */
bool attention_tensor_can(const cuda_attention *op, int shared_max);
cudaError_t attention_tensor(const cuda_attention *op, cudaStream_t stream);

/* Bit for bit plain_rope_append, with each pair read once. */
cudaError_t fused_rope_append(const cuda_rope_append *op, cudaStream_t stream);

cudaError_t stream_rows(const cuda_rows *op, cudaStream_t stream);
/* Any number of rows: few go to the kernels of stream.cu, many to gemm_product. */
cudaError_t stream_product(const cuda_product *op, int multiprocessors, cudaStream_t stream);
/* Bit for bit what the kernels of stream.cu give, for many rows; not of CUDA_STORE_F32. */
cudaError_t gemm_product(const cuda_product *op, cudaStream_t stream);

#ifdef __cplusplus
}
#endif
#endif
