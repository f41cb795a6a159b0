/* ops.h -- one plain struct of arguments an operator.
 *
 * Purpose    What a forward pass is made of. Each struct states shape, dtype and optionality beside
 *            every pointer; backend.h has the functions that take them.
 * Ownership  Everything is borrowed for the call.
 * Threads    Plain data.
 * Limits     Checked by backend.c for all backends alike; the numbers are beside the fields.
 *
 * Words: a row is one token of a ragged batch (rows of several sequences, in any order of
 * sequences; the rows of one sequence are consecutive). Memory marked "device" comes from
 * backend_alloc; memory marked "host" is ordinary memory. On the CPU backend both are host memory.
 * All device floats are f32. Matrices are row-major and dense unless a stride is named.
 */
#ifndef KERNELS_OPS_H
#define KERNELS_OPS_H

#include <stdbool.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

struct backend_weight;
struct backend_kv;

enum {
    OPS_LINEAR_PARTS_MAX = 3, /* weights that share one input */
    OPS_CHAIN_MAX = 4,        /* linear operators of one call */
    OPS_HEAD_DIM_MAX = 256,   /* head_dim: a multiple of 16 up to this */
    OPS_ROWS_MAX = 1 << 20,   /* rows of one call */
    OPS_WIDTH_MAX = 1 << 24,  /* elements of one row */
    OPS_TOP_MAX = 20,         /* logprobs beside the token's */
    OPS_VOCAB_MAX = 1 << 19,  /* logits of one row */
    OPS_FORBIDDEN_MAX = 64,
    OPS_WINDOWS_MAX = 2 /* different ones of a model's layers */
};

/* One sequence's share of a batch. */
typedef struct {
    int32_t row_first; /* its rows are [row_first, row_first + rows) of the batch */
    int32_t rows;
    int32_t position_first; /* position of its first row; earlier positions are in its pages */
    const uint32_t *pages;  /* host [pages_count]: page i holds positions 16 i .. 16 i + 15 */
    int32_t pages_count;    /* covers position_first + rows */
} ops_seq;

/* The largest batch that a model will run: what a backend takes scratch memory for. */
typedef struct {
    int32_t rows_max;       /* also of sequences */
    int32_t context_tokens; /* of one sequence */
    int32_t width_max;      /* inputs of the widest linear operator */
    int32_t heads, kv_heads, head_dim;
    int32_t logit_rows_max, vocab; /* 0: no tokens are chosen on the device */
    int32_t windows;               /* of ops_batch, the most; 0 is as 1 */
} ops_sizes;

/* The sequences of a forward pass, told before its layers: every rope_append and attention that
 * names the same `seqs` (the pointer; nothing behind it may change) until the next ops_batch is of
 * this batch. */
typedef struct {
    const ops_seq *seqs; /* host [seqs_count] */
    int32_t seqs_count;
    int32_t rows;
    int32_t heads; /* of q */
    const struct backend_kv *kv;
    /* NULL; or whose batch this is: up to backend_batch_end come the same operators on the same
     * memory as in every batch of this owner with so many rows. backend_graph_rows gives them. */
    const void *repeats;
    /* Of its layers' attention, as in ops_attention, each once. */
    int32_t windows[OPS_WINDOWS_MAX]; /* [windows_count] */
    int32_t windows_count;
} ops_batch;

/* out[r] = scale * dequantised row tokens[r] of the table. */
typedef struct {
    const struct backend_weight *table; /* [vocab, width] */
    const int32_t *tokens;              /* host [rows], each below vocab */
    float *out;                         /* device [rows, width] */
    int32_t rows;
    float scale; /* not 0; 1: as they are */
} ops_embed;

/* out = x / sqrt(mean(x^2) + epsilon) * weight. In place (out == x) is fine, unless it adds. */
typedef struct {
    const float *x;      /* device [rows, width] */
    const float *weight; /* device [width] */
    float *out;          /* device [rows, width] */
    int32_t rows, width;
    float epsilon;
    bool accumulate; /* out = out + that */
} ops_rmsnorm;

/* out = gate / (1 + exp(-gate)) * up; or GELU by tanh of the gate, which is gate / (1 + exp(-2 u))
 * with u = sqrt(2 / pi) * (gate + 0.044715 gate^3), times up. In place (out == gate or out == up)
 * is fine. */
typedef struct {
    const float *gate; /* device [rows, width] */
    const float *up;   /* device [rows, width] */
    float *out;        /* device [rows, width] */
    int32_t rows, width;
    bool gelu;
} ops_silu_mul;

/* x = cap * tanh(x / cap): no number is further from zero than the cap. */
typedef struct {
    float *x; /* device [rows, width] */
    int32_t rows, width;
    float cap; /* > 0 */
} ops_softcap;

/* out[r] = x[index[r]]. */
typedef struct {
    const float *x;       /* device [x_rows, width] */
    const int32_t *index; /* host [rows], each below x_rows */
    float *out;           /* device [rows, width], not overlapping x */
    int32_t rows, width, x_rows;
} ops_gather;

/* What is done to a row before it meets the weights; the result is the same, bit for bit, as the
 * operator of that name run before. */
typedef enum {
    OPS_INPUT_PLAIN = 0,
    OPS_INPUT_RMSNORM = 1,  /* of x, with norm_weight and norm_epsilon */
    OPS_INPUT_SILU_MUL = 2, /* x is the gate, x_up the other factor */
    OPS_INPUT_GELU_MUL = 3  /* the same */
} ops_input;

/* One weight of a linear operator. */
typedef struct {
    const struct backend_weight *weight; /* [outputs, inputs] */
    const float *bias;                   /* device [outputs], or NULL */
    float *out;                          /* device [rows, outputs] */
    bool accumulate;                     /* out = out + W x (+ bias), added after the whole dot */
} ops_linear_part;

/* out_i = W_i f(x) for up to three weights with one input: the input is transformed and quantised
 * once. All parts have the same `inputs` and were loaded with the same activations mode. No out may
 * overlap x, x_up or another part's out. */
typedef struct {
    const float *x;           /* device [rows, inputs] */
    const float *x_up;        /* device [rows, inputs]: OPS_INPUT_SILU_MUL, _GELU_MUL */
    const float *norm_weight; /* device [inputs]: OPS_INPUT_RMSNORM */
    float norm_epsilon;       /* OPS_INPUT_RMSNORM */
    ops_input input;
    int32_t rows;
    ops_linear_part parts[OPS_LINEAR_PARTS_MAX];
    int32_t parts_count; /* 1 .. OPS_LINEAR_PARTS_MAX */
    bool prompt;         /* rows of prompts: for weights loaded with BACKEND_ACTIVATIONS_MIXED */
} ops_linear;

/* Which two elements of a head turn together. */
typedef enum {
    OPS_ROPE_INTERLEAVED = 0, /* (2 i, 2 i + 1): llama in GGUF files */
    OPS_ROPE_NEOX = 1         /* (i, i + dim / 2) */
} ops_rope_pairs;

/* Cosines and sines of a batch's positions, once a forward pass:
 * angle(r, i) = positions[r] * position_scale * base^(-2 i / dim) / freq_factors[i]. */
typedef struct {
    const int32_t *positions;  /* host [rows], each 0 .. LIMIT_CONTEXT_TOKENS - 1 */
    const float *freq_factors; /* host [dim / 2], or NULL */
    float *table;              /* device [rows, 2, dim / 2]: cosines, then sines */
    double base;               /* 10000, 100000, 500000, ... */
    double position_scale;     /* 1; 1 / factor for linear scaling */
    float magnitude;           /* 1; multiplies both (YaRN-style models) */
    int32_t rows;
    int32_t dim; /* elements of a head that turn: even, <= head_dim */
} ops_rope_table;

/* Turns q in place, turns k, and writes k and v of every row into its sequence's pages. */
typedef struct {
    float *q;           /* device [rows, heads, head_dim] */
    const float *k;     /* device [rows, kv_heads, head_dim], before turning */
    const float *v;     /* device [rows, kv_heads, head_dim] */
    const float *table; /* device [rows, 2, dim / 2], of ops_rope_table */
    struct backend_kv *kv;
    const ops_seq *seqs; /* host [seqs_count] */
    int32_t seqs_count;
    int32_t rows;
    int32_t layer;
    int32_t heads; /* a multiple of the pool's kv_heads */
    int32_t dim;   /* as in ops_rope_table */
    ops_rope_pairs pairs;
} ops_rope_append;

/* Causal attention: row at position p sees positions 0 .. p of its own pages (its own key is
 * already there). Heads h of q use kv head h / (heads / kv_heads). */
typedef struct {
    const float *q; /* device [rows, heads, head_dim], turned */
    float *out;     /* device [rows, heads, head_dim], not overlapping q */
    const struct backend_kv *kv;
    const ops_seq *seqs; /* host [seqs_count] */
    int32_t seqs_count;
    int32_t rows;
    int32_t layer;
    int32_t heads;  /* a multiple of the pool's kv_heads */
    float scale;    /* usually 1 / sqrt(head_dim) */
    int32_t window; /* 0: none; else a row sees its last `window` positions, its own among them */
    float softcap;  /* 0: none; else a score, scaled, becomes softcap * tanh(score / softcap) */
    bool bf16;      /* q, keys, weights and values meet as bf16: where backend.bf16 says so */
} ops_attention;

/* x = the sum of all ranks' x; every rank of a group has the same bits after it. */
typedef struct {
    float *x; /* device [rows, width], in place */
    int32_t rows, width;
} ops_all_reduce;

typedef struct {
    int32_t token;
    float bias; /* added to the logit, in the order of the list; -infinity forbids */
} ops_bias;

/* What one choice depends on: engine/worker/sampler.h has the meaning and the order, and gives the
 * same token. Ids outside the vocabulary are ignored. */
typedef struct {
    int32_t logit_row;
    int32_t scored;    /* -1: a token is chosen; else this one is, and only its logprob is wanted */
    float temperature; /* below 1e-5: the most likely token */
    float top_p, min_p;
    int32_t top_k;
    float repetition_penalty, presence_penalty, frequency_penalty;
    int32_t top_logprobs;     /* -1: no logprobs; else how many beside the token's */
    const int32_t *prompt;    /* host [prompt_count] */
    const int32_t *generated; /* host [generated_count] */
    const ops_bias *biases;   /* host [biases_count]; may name a token twice */
    const int32_t *forbidden; /* host [forbidden_count]: as biases of -infinity after those */
    int32_t prompt_count, generated_count, biases_count, forbidden_count;
    uint64_t seed, stream, position; /* the random number is rng_at(seed, stream, position) */
} ops_sample_row;

typedef struct {
    int32_t token;
    float logprob; /* of the logits as they came; 0 without logprobs */
    int32_t top_count;
    int32_t top_token[OPS_TOP_MAX]; /* most likely first, the lower id first of equals */
    float top_logprob[OPS_TOP_MAX];
} ops_sampled;

typedef struct {
    const float *logits;           /* device [logit_rows, vocab] */
    const ops_sample_row *rows_of; /* host [rows]; two may name one row of logits */
    ops_sampled *out;              /* host [rows], filled by the next backend_sync */
    int32_t rows;
    int32_t logit_rows, vocab;
} ops_sample;

#ifdef __cplusplus
}
#endif
#endif
