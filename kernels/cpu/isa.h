/* isa.h -- what one instruction set implements, and the work units it is handed.
 *
 * Purpose    A table of functions a set; cpu.c picks one table at start and shares out the units
 *            to threads. All sets give the same bits: lanes are 16 wide and virtual everywhere, and
 *            each operation is an IEEE one in a written order.
 * Ownership  Borrowed for the call; `scratch` belongs to the calling thread.
 * Threads    Units of one operator write disjoint memory.
 * Limits     In the constants.
 */
#ifndef KERNELS_CPU_ISA_H
#define KERNELS_CPU_ISA_H

#include "kernels/cpu/tile.h"
#include "kernels/ops.h"

enum {
    ISA_PANEL_ROWS = 16,        /* rows quantised side by side: one AMX tile */
    ISA_NARROW_ROWS = 8,        /* this many rows take the streaming kernel everywhere */
    ISA_BLOCK_ROWS = 128,       /* rows of one unit: their panels stay in L2 */
    ISA_WIDE_TILES = 3,         /* tiles of one unit of the blocked kernel */
    ISA_BLOCK_GROUPS = 18,      /* groups unpacked at a time: three tiles of them fit L1 */
    ISA_PAIRS_NARROW_ROWS = 64, /* the same two for bf16 on a tile unit */
    ISA_PAIRS_TILES = 6,
    ISA_PAIRS_BLOCK_ROWS = 256, /* rows of bf16 that one thread takes through a chain */
    ISA_BLOCK_INPUTS = 128,     /* inputs dequantised at a time for f32 activations */
    ISA_KV_TILE = 64,           /* tokens between two rescalings of a softmax: absolute positions */
    ISA_BYTES_TILE = 128,       /* the same for int8 pages */
    ISA_KV_CHUNK = 512,         /* tokens between two merges of partial results, likewise */
    ISA_SPLITS = 2,             /* bytes of a query's number or a weight that meets int8 */
    ISA_QUERIES = 48,           /* (row, head) pairs of one unit of attention */
    ISA_FLASH_QUERIES = 384,    /* the most of one on a tile unit of bf16: so many of 64 numbers, */
    ISA_FLASH_NUMBERS = ISA_FLASH_QUERIES * 64, /* halved until wider heads fit, too */
    ISA_SCRATCH_BYTES = 512 << 10
};

/* Sixteen rows of one group of 32 inputs. */
typedef struct {
    int8_t quant[ISA_PANEL_ROWS][TILE_GROUP];
    float scale[ISA_PANEL_ROWS];        /* max |x| / 127 */
    float scaled_sum[ISA_PANEL_ROWS];   /* scale * sum of quants: meets the minimums */
    int32_t offset[ISA_PANEL_ROWS];     /* -128 * sum of quants: meets bytes around 128 */
    int32_t offset_low[ISA_PANEL_ROWS]; /* the same over inputs 0-15 alone: set for Q6_K only */
} isa_panel;

/* Outputs [tile_first, tile_first + tiles) x 16 of rows [row_first, row_first + rows). */
typedef struct {
    tile_format format;
    tile_order order;        /* of a bf16 product's weights; of others by input */
    const uint8_t *weights;  /* the whole weight, tile by tile */
    const isa_panel *panels; /* [rows of the input / 16 up, groups]: int8 activations */
    const float *x;          /* [rows of the input, inputs]: f32 activations */
    const uint8_t *pairs;    /* bf16: panels as isa_pairs.pack makes them */
    int32_t columns;         /* likewise */
    float *out;              /* [rows of the input, outputs] */
    const float *bias;       /* [outputs] or NULL */
    bool accumulate;
    int32_t inputs, outputs;
    int32_t tile_first, tiles;
    int32_t row_first, rows; /* row_first is a multiple of 16 */
} isa_linear;

/* Rows of an input to transform, and quantise or copy. */
typedef struct {
    const ops_linear *op;
    int32_t inputs;
    int32_t row_first, rows;
    int32_t row_base;            /* row of `op` that is row 0 of the destination */
    int32_t group_first, groups; /* int8: of each row's; rows are those of one panel */
    isa_panel *panels;           /* int8: [rows / 16 up, groups] */
    float *x;                    /* f32: [rows, inputs] */
} isa_input;

/* The state of a softmax-weighted sum over some positions. */
typedef struct {
    float maximum, sum;
} isa_softmax;

/* Exact products of 16 rows of two bytes a number with columns of 16 bytes side by side, on a tile
 * unit: for int8 attention. Begun a column at a time, so that vectors have work meanwhile. */
typedef struct {
    const int8_t *high, *low; /* [16] rows, `row_stride` bytes apart */
    int64_t row_stride;
    const uint8_t *columns[OPS_HEAD_DIM_MAX / 16]; /* [bytes / 4], `column_stride` bytes apart, */
    int64_t column_stride;                         /* [16][4]; */
    int32_t steps, step_bytes;                     /* of so many bytes, 16 to 64, each */
    bool keys; /* rows are signed, columns not; else the other way round */
    const int32_t *high_start, *low_start; /* [16, 16], or NULL: zeros */
    int32_t *out;                          /* [2, count, 16, 16] */
    int32_t count, done;                   /* columns; column `done` - 1 may not be stored yet */
} isa_products;

/* The tile unit of an instruction set. */
typedef struct {
    void (*begin)(isa_products *p);
    /* Begins the next column, if there is one, and stores the one before. */
    void (*step)(isa_products *p);
} isa_tiles;

/* Queries [query_first, query_first + queries) of one sequence and kv head; query i is row
 * i / group and head i % group of the kv head's group. Positions [from, to) are visited, from a
 * multiple of ISA_KV_CHUNK. */
typedef struct {
    const ops_attention *op;
    const ops_seq *seq;
    const isa_tiles *tiles; /* or NULL */
    int32_t kv_head;
    int32_t query_first, queries;
    int32_t from, to;
    const ops_seq *next_seq; /* whose first positions this thread may read next, or NULL */
    int32_t next_kv_head;
    isa_softmax *part; /* [queries] or NULL: leave the partial state here instead of finishing */
    float *part_out;   /* [queries, head_dim], with `part` */
} isa_attention;

/* Merges `parts` partial states of `queries` queries, in order, and finishes them. */
typedef struct {
    const isa_softmax *parts; /* [parts_count, stride] */
    const float *parts_out;   /* [parts_count, stride, head_dim] */
    int32_t parts_count, stride;
    int32_t head_dim;
    float *out; /* [head_dim] of query 0's head */
    int32_t query;
} isa_merge;

/* The first position that a row at `position` sees. */
static inline int32_t isa_window_first(const ops_attention *op, int32_t position) {
    return op->window > 0 && position >= op->window ? position - op->window + 1 : 0;
}

/* The bytes of one kv head in one (layer, page). */
static inline uint8_t *isa_kv_head(const backend_kv *kv, int32_t layer, uint32_t page,
                                   int32_t head) {
    return kv->base + ((uint64_t)layer * kv->shape.pages + page) * kv->layer_page_bytes +
           (uint64_t)head * kv->head_bytes;
}

typedef struct {
    const char *name;
    const isa_tiles *tiles; /* or NULL */
    int32_t narrow_rows;    /* up to this many rows take the streaming kernel */
    int32_t wide_tiles;     /* tiles the kernel for more rows takes at a time */
    void (*input_int8)(const isa_input *in);
    void (*input_f32)(const isa_input *in);
    void (*linear_int8)(const isa_linear *l, uint8_t *scratch);
    void (*linear_f32)(const isa_linear *l, uint8_t *scratch);
    void (*rmsnorm)(const ops_rmsnorm *op, int32_t row_first, int32_t rows);
    void (*silu_mul)(const ops_silu_mul *op, int32_t row_first, int32_t rows);
    void (*softcap)(const ops_softcap *op, int32_t row_first, int32_t rows);
    void (*rope_append)(const ops_rope_append *op, const ops_seq *seq, int32_t row_first,
                        int32_t rows);
    void (*attention)(const isa_attention *a, uint8_t *scratch);
    void (*merge)(const isa_merge *m);
} isa_kernels;

/* All outputs of a block of rows, bf16: of one weight; or of two, gate and up, of which one input
 * of the next operator is made. */
typedef struct {
    const isa_linear *l;  /* its `pairs` have 16 columns; rows from 0, up to ISA_PAIRS_BLOCK_ROWS */
    const isa_linear *up; /* or NULL */
    uint8_t *gated;       /* with `up`: panels of l->outputs inputs, as `pairs` */
    bool gelu;            /* else SiLU */
} isa_rows;

/* Linear operators and attention on a tile unit that takes bf16. */
typedef struct {
    /* Rounds `rows` rows of x [rows, inputs] to one panel: pairs of inputs [inputs / 2, columns]
     * for products of few rows, `columns` being 16 or the rows of an input of fewer; with 0 columns
     * [inputs / 32][16 rows][32], for those of many. */
    void (*pack)(const float *x, int32_t inputs, int32_t rows, int32_t columns, uint8_t *to);
    void (*linear)(const isa_linear *l, uint8_t *scratch);
    void (*rows)(const isa_rows *r, uint8_t *scratch);
    void (*attention)(const isa_attention *a, uint8_t *scratch); /* ops_attention.bf16 */
} isa_pairs;

#if defined(__x86_64__)
extern const isa_kernels isa_avx512_kernels;
extern const isa_kernels isa_avx512_amx_kernels; /* the same, many rows on the tile unit */
extern const isa_kernels isa_avxvnni_kernels;
extern const isa_kernels isa_avx2_kernels;
#endif
extern const isa_kernels isa_portable_kernels;

#if defined(__x86_64__)
/* linear_int8 on the tile unit, for any rows. isa_amx_usable asks the system for it: once, at
 * start, before any thread uses it. */
void isa_amx_linear(const isa_linear *l, uint8_t *scratch);
bool isa_amx_usable(void);
/* Shapes of this thread's tile registers: 0-3 sums [16 x `columns`]; 4, 5 [16 rows x `bytes`]; 6, 7
 * the same number of bytes of that many columns. */
void isa_amx_configure(int32_t bytes, int32_t columns);
/* Once isa_amx_usable has said yes. */
bool isa_amxbf16_usable(void);
void isa_amxrows_linear(const isa_rows *r, uint8_t *scratch);
void isa_amxflash_attention(const isa_attention *a, uint8_t *scratch);
extern const isa_pairs isa_amxbf16_pairs;
extern const isa_tiles isa_amxattention_tiles;
#endif

#endif
