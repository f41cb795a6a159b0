/* body_tile.h -- what attention works on: the scratch of a unit, and tiles of 64 tokens in pages.
 *
 * Purpose    Where queries, keys, values and scales lie, and fetching ahead.
 * Ownership  Included by isa_*.c only, after body_append.h.
 * Threads    As isa.h.
 * Limits     As isa.h.
 */
#include "kernels/cpu/body_place.h"

enum {
    KV_PAGES = ISA_KV_TILE / LIMIT_PAGE_TOKENS, /* pages, and vectors of scores, of a tile */
    BYTES_PAGES = ISA_BYTES_TILE / LIMIT_PAGE_TOKENS,
    KV_FOURS = 64,           /* bytes of one four of dimensions or tokens, of 16 others */
    KV_CONVERT_QUERIES = 12, /* from here a tile is turned to f32 once, not once a query block */
    BYTES_BLOCK = ISA_PANEL_ROWS, /* queries that meet a tile unit at a time */
    BYTES_GROUP = 64,             /* tokens of values of one product there */
    BYTES_TILE_QUERIES = 8        /* from here padding them to 16 costs less than vectors */
};

/* Numbers of at most 14 bits as two bytes, `high` * 128 + `low`, for exact integer products. */
typedef enum { SPLIT_HIGH = 0, SPLIT_LOW = 1, SPLIT_COUNT = ISA_SPLITS } attention_split;

/* Queries and weights beside int8 keys and values. */
typedef struct {
    int8_t query[ISA_QUERIES * SPLIT_COUNT * OPS_HEAD_DIM_MAX]; /* strides: a query, a half */
    /* -128 * sum of the query: meets keys around 128. Sixteen times the same: a row of a tile. */
    int32_t query_offset[SPLIT_COUNT][ISA_QUERIES][16];
    float query_scale[ISA_QUERIES]; /* makes scores powers of two */
    float cap_scale[ISA_QUERIES];   /* with a soft-cap: makes scores shares of it, to be capped */
    int8_t weight[ISA_QUERIES][SPLIT_COUNT][ISA_BYTES_TILE];  /* 0 .. 127 */
    float tile_maximum[ISA_QUERIES], tile_scale[ISA_QUERIES]; /* of the tile at work */
    float weight_scale[ISA_QUERIES];
    float key_scale[ISA_BYTES_TILE], value_scale[ISA_BYTES_TILE];
    float value_full[ISA_BYTES_TILE]; /* value_scale * 16383 / the tile's largest */
    float value_top[ISA_BYTES_TILE];  /* the largest value_scale up to a token */
    float score[BYTES_BLOCK][ISA_BYTES_TILE];
    /* What a tile unit made, of scores and of values. */
    int32_t score_dots[SPLIT_COUNT * BYTES_BLOCK * ISA_BYTES_TILE];
    int32_t value_dots[SPLIT_COUNT * BYTES_BLOCK * OPS_HEAD_DIM_MAX];
    uint8_t values[ISA_BYTES_TILE * OPS_HEAD_DIM_MAX]; /* the tile's, side by side */
    float cap;                                         /* a soft-cap, as a power of two; 0: none */
} attention_bytes;

/* What only floats need. */
typedef struct {
    float query[OPS_HEAD_DIM_MAX][ISA_QUERIES]; /* transposed: one pointer for a block of them */
    float keys[OPS_HEAD_DIM_MAX * ISA_KV_TILE];
    float values[OPS_HEAD_DIM_MAX * ISA_KV_TILE];
} attention_floats;

/* Scratch of one unit. Strides of the outputs are head_dim. */
typedef struct {
    float score[ISA_QUERIES][ISA_KV_TILE];
    float lane_sum[ISA_QUERIES][16];
    float maximum[ISA_QUERIES]; /* of this chunk so far; int8: log2, an integer */
    float rescale[ISA_QUERIES];
    int32_t position[ISA_QUERIES];
    int32_t first[ISA_QUERIES]; /* the first position a query sees */
    int32_t start[ISA_QUERIES]; /* of this tile, the first token a query sees */
    int32_t valid[ISA_QUERIES]; /* tokens of this tile a query sees: 1 .. all */
    isa_softmax merged[ISA_QUERIES];
    float out[ISA_QUERIES * OPS_HEAD_DIM_MAX];
    float merged_out[ISA_QUERIES * OPS_HEAD_DIM_MAX];
    union {
        attention_floats floats;
        attention_bytes bytes;
    };
} attention_scratch;
static_assert(sizeof(attention_scratch) <= ISA_SCRATCH_BYTES, "fits");
static_assert(ISA_QUERIES % 16 == 0 && ISA_KV_CHUNK % ISA_KV_TILE == 0 &&
                  ISA_KV_CHUNK % ISA_BYTES_TILE == 0 && ISA_BYTES_TILE % BYTES_GROUP == 0,
              "whole vectors and tiles");

/* Keys and values of a tile's pages, as backend.h has them. */
typedef struct {
    const uint8_t *key[BYTES_PAGES], *value[BYTES_PAGES];
    const uint16_t *key_scale[BYTES_PAGES], *value_scale[BYTES_PAGES]; /* int8: [16] */
    const uint8_t *ahead[BYTES_PAGES]; /* the head's bytes in a page to visit later: look_ahead */
    int32_t pages;                     /* KV_PAGES, or BYTES_PAGES of int8 */
    backend_kv_type type;
    bool more; /* some of them are to be asked for */
} attention_tile;

BODY_INLINE v16 attention_load(const uint8_t *base, int64_t element, const backend_kv_type type) {
    const uint16_t *half = (const uint16_t *)(const void *)base + element;
    return type == BACKEND_KV_F16    ? v16_load_f16(half)
           : type == BACKEND_KV_BF16 ? v16_load_bf16(half)
           : type == BACKEND_KV_FP8  ? v16_load_e4m3(base + element)
                                     : v16_load((const float *)(const void *)base + element);
}

/* For each page the one to visit as many pages later as a tile has: of this unit, or of the one to
 * come; where there is none, the page itself. Products ask for a line of it beside each line that
 * they take, for of a burst some are dropped; a tile's pieces lie apart, where hardware does not
 * foresee them. */
static void attention_look_ahead(const isa_attention *a, attention_tile *tile, int32_t first) {
    const int32_t tokens = tile->pages * LIMIT_PAGE_TOKENS;
    const int32_t pages_end =
        (a->to + LIMIT_PAGE_TOKENS - 1) / LIMIT_PAGE_TOKENS * LIMIT_PAGE_TOKENS;
    const ops_seq *next = a->next_seq;
    const int32_t next_end = next == NULL ? 0 : next->position_first + next->rows;
    const int32_t unseen =
        next == NULL ? 0 : isa_window_first(a->op, next->position_first) / tokens * tokens;
    for (int32_t j = 0; j < tile->pages; j++) {
        const int32_t token = first + tokens + j * LIMIT_PAGE_TOKENS;
        const int32_t next_token = unseen + token - pages_end;
        tile->ahead[j] = tile->key[j];
        if (token < a->to) {
            tile->ahead[j] = attention_page(a, a->seq, a->kv_head, token);
        } else if (next_token < next_end) {
            tile->ahead[j] = attention_page(a, next, a->next_kv_head, next_token);
        }
    }
    tile->more = first + tokens < a->to || next != NULL;
}

/* A tile's pages; a page after the sequence's end is replaced by the first, and never looked at. */
static attention_tile attention_tile_at(const isa_attention *a, int32_t first) {
    const backend_kv *kv = a->op->kv;
    const int32_t end = a->seq->position_first + a->seq->rows;
    const int64_t half = (int64_t)LIMIT_PAGE_TOKENS * kv->shape.head_dim; /* bytes of int8 keys */
    const bool bytes = kv->shape.type == BACKEND_KV_INT8;
    attention_tile tile = {.pages = bytes ? BYTES_PAGES : KV_PAGES, .type = kv->shape.type};
    for (int32_t j = 0; j < tile.pages; j++) {
        const int32_t token = first + j * LIMIT_PAGE_TOKENS;
        const uint8_t *head = attention_page(a, a->seq, a->kv_head, token < end ? token : first);
        tile.key[j] = head;
        tile.value[j] = head + (bytes ? half : (int64_t)(kv->head_bytes / 2));
        tile.key_scale[j] = (const uint16_t *)(const void *)(head + (bytes ? 2 * half : 0));
        tile.value_scale[j] = tile.key_scale[j] + LIMIT_PAGE_TOKENS;
    }
    attention_look_ahead(a, &tile, first);
    return tile;
}
