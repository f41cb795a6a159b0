/* body_bytes.h -- attention's two products with int8 keys and values: exact integer dot products.
 *
 * Purpose    Keys were spread before they were rounded (spread_head), so queries are, too. A
 *            query and the weights of a tile are numbers of 14 bits, split into two bytes: beside
 *            the rounding of keys and values theirs does not count. Both halves meet the bytes of
 *            the page in dot product instructions, or 16 queries at a time in a tile unit. Integers
 *            have no order of summation: what is fixed is how their sums become floats, once a
 *            tile (body_weights.h).
 * Ownership  Included by isa_*.c only, after body_weights.h.
 * Threads    As isa.h.
 * Limits     As isa.h. Sums stay below 2^24 (256 dimensions or 128 tokens of 127 * 127), so that
 *            they are exact as floats. A slot after a query's position has weight zero.
 */

#define BYTES_QUERY_MAX 16256.0f /* 127 * 128: a signed low byte is -64 .. 64 */

static int8_t *bytes_query(attention_scratch *s, int32_t query, int32_t split, int32_t head_dim) {
    return s->bytes.query + (query * SPLIT_COUNT + split) * head_dim;
}

/* One query: its scale is its largest magnitude / 16256. */
static void bytes_split_query(attention_scratch *s, int32_t query, const float *from, float scale,
                              int32_t head_dim) {
    float q[OPS_HEAD_DIM_MAX];
    spread_head(from, q, head_dim);
    const v16 magic = v16_set(VEC_ROUND_MAGIC);
    int8_t *high_out = bytes_query(s, query, SPLIT_HIGH, head_dim);
    int8_t *low_out = bytes_query(s, query, SPLIT_LOW, head_dim);
    v16 top = v16_set(BYTES_LEAST);
    for (int32_t d = 0; d < head_dim; d += 16) {
        top = v16_max(v16_abs(v16_load(q + d)), top);
    }
    const float maximum = v16_maximum(top);
    const v16 inverse = v16_set(BYTES_QUERY_MAX / maximum);
    v16i high_sum = v16i_set(0), low_sum = v16i_set(0);
    for (int32_t d = 0; d < head_dim; d += 16) {
        const v16 x = v16_mul(v16_load(q + d), inverse);
        const v16 high = v16_sub(v16_fma(x, v16_set(1.0f / 128), magic), magic);
        const v16i high_int = v16_round(high), low_int = v16_round(v16_fma(high, v16_set(-128), x));
        v16i_store_i8(high_out + d, high_int);
        v16i_store_i8(low_out + d, low_int);
        high_sum = v16i_add(high_sum, high_int);
        low_sum = v16i_add(low_sum, low_int);
    }
    v16i_store(s->bytes.query_offset[SPLIT_HIGH][query], v16i_set(-128 * v16i_sum(high_sum)));
    v16i_store(s->bytes.query_offset[SPLIT_LOW][query], v16i_set(-128 * v16i_sum(low_sum)));
    s->bytes.query_scale[query] = maximum / BYTES_QUERY_MAX * scale / (float)spread_width(head_dim);
}

/* Capped scores are powers of two as they are. */
static void bytes_start(const isa_attention *a, attention_scratch *s) {
    const float cap = a->op->softcap;
    const float scale = cap > 0 ? a->op->scale / cap : a->op->scale * BYTES_LOG2_E;
    s->bytes.cap = cap * BYTES_LOG2_E;
    for (int32_t i = 0; i < a->queries; i++) {
        bytes_split_query(s, i, a->op->q + attention_at(a, i), scale, a->op->kv->shape.head_dim);
        if (cap > 0) {
            s->bytes.cap_scale[i] = s->bytes.query_scale[i];
            s->bytes.query_scale[i] = 1;
        }
    }
}

/* Scores of `queries` queries with the tokens of `pages` pages from `page` on (constants both). */
BODY_INLINE void bytes_scores(attention_scratch *s, const attention_tile *tile, int32_t first,
                              int32_t page, int32_t head_dim, bool fetch, const int32_t queries,
                              const int32_t pages) {
    v16i acc[VEC_BYTE_QUERIES][SPLIT_COUNT][KV_PAGES];
    UNROLL for (int i = 0; i < queries; i++) {
        UNROLL for (int h = 0; h < SPLIT_COUNT; h++) {
            UNROLL for (int j = 0; j < pages; j++) {
                acc[i][h][j] = vdot_start(s->bytes.query_offset[h][first + i][0], true);
            }
        }
    }
    const int8_t *query = bytes_query(s, first, SPLIT_HIGH, head_dim);
    for (int32_t d = 0; d < head_dim; d += 4) {
        v64 key[KV_PAGES];
        UNROLL for (int j = 0; j < pages; j++) {
            const int64_t at = (int64_t)d * LIMIT_PAGE_TOKENS;
            key[j] = v64_load(tile->key[page + j] + at);
            if (fetch) {
                vec_prefetch(tile->ahead[page + j] + at);
            }
        }
        UNROLL for (int i = 0; i < queries; i++) {
            UNROLL for (int h = 0; h < SPLIT_COUNT; h++) {
                const vquad q = vquad_load(query + (i * SPLIT_COUNT + h) * head_dim + d);
                UNROLL for (int j = 0; j < pages; j++) {
                    acc[i][h][j] = vdot_block_wide(acc[i][h][j], key[j], q);
                }
            }
        }
    }
    UNROLL for (int j = 0; j < pages; j++) {
        const v16 scale = v16_load(s->bytes.key_scale + 16 * (page + j));
        UNROLL for (int i = 0; i < queries; i++) {
            const v16 sum = bytes_join(acc[i][SPLIT_HIGH][j], acc[i][SPLIT_LOW][j]);
            v16_store(&s->bytes.score[i][16 * (page + j)], v16_mul(sum, scale));
        }
    }
}

/* Weights x values of tokens [0, to), `vectors` x 16 dimensions from `d` on, to the outputs. */
BODY_INLINE void bytes_values(attention_scratch *s, const attention_tile *tile, int32_t first,
                              int32_t to, int32_t head_dim, int32_t d, bool fetch,
                              const int32_t queries, const int32_t vectors) {
    v16i acc[VEC_BYTE_QUERIES][SPLIT_COUNT][VEC_BYTE_VECTORS];
    UNROLL for (int i = 0; i < queries; i++) {
        UNROLL for (int h = 0; h < SPLIT_COUNT; h++) {
            UNROLL for (int j = 0; j < vectors; j++) {
                acc[i][h][j] = v16i_set(0);
            }
        }
    }
    for (int32_t t = 0; t < to; t += 4) {
        const int32_t page = t / LIMIT_PAGE_TOKENS;
        const int64_t at = (int64_t)(t % LIMIT_PAGE_TOKENS) * head_dim + 4 * d;
        const uint8_t *fours = tile->value[page] + at;
        /* Keys again: what was dropped beside the scores. */
        const uint8_t *keys = tile->ahead[page] + at;
        const uint8_t *values = keys + (int64_t)LIMIT_PAGE_TOKENS * head_dim;
        v64 value[VEC_BYTE_VECTORS];
        UNROLL for (int j = 0; j < vectors; j++) {
            value[j] = v64_load(fours + KV_FOURS * j);
            if (fetch) {
                vec_prefetch(keys + KV_FOURS * j);
                vec_prefetch(values + KV_FOURS * j);
            }
        }
        UNROLL for (int i = 0; i < queries; i++) {
            UNROLL for (int h = 0; h < SPLIT_COUNT; h++) {
                const vquad p = vquad_load(&s->bytes.weight[first + i][h][t]);
                UNROLL for (int j = 0; j < vectors; j++) {
                    acc[i][h][j] = vdot_block_signed(acc[i][h][j], value[j], p);
                }
            }
        }
    }
    UNROLL for (int i = 0; i < queries; i++) {
        UNROLL for (int j = 0; j < vectors; j++) {
            bytes_add(s, first + i, head_dim, d + 16 * j, acc[i][SPLIT_HIGH][j],
                      acc[i][SPLIT_LOW][j]);
        }
    }
}

/* `queries` queries (a constant) that see `to` tokens or fewer, by vectors. */
BODY_INLINE void bytes_block(attention_scratch *s, const attention_tile *tile, int32_t first,
                             int32_t to, int32_t head_dim, bool fetch, const int32_t queries) {
    for (int32_t page = 0; page < BYTES_PAGES; page += VEC_BYTE_VECTORS) {
        if (page * LIMIT_PAGE_TOKENS < to) {
            bytes_scores(s, tile, first, page, head_dim, fetch, queries, VEC_BYTE_VECTORS);
        }
    }
    for (int32_t i = 0; i < queries; i++) {
        bytes_cap(s, first + i, s->bytes.score[i]);
        bytes_maximum(s, first + i,
                      bytes_top(s->bytes.score[i], s->start[first + i], s->valid[first + i]));
    }
    for (int32_t i = 0; i < queries; i++) {
        bytes_weigh(s, first + i, s->bytes.score[i]);
    }
    int32_t d = 0;
    for (; d + 16 * VEC_BYTE_VECTORS <= head_dim; d += 16 * VEC_BYTE_VECTORS) {
        bytes_values(s, tile, first, to, head_dim, d, fetch, queries, VEC_BYTE_VECTORS);
    }
    for (; d < head_dim; d += 16) {
        bytes_values(s, tile, first, to, head_dim, d, fetch, queries, 1);
    }
}

/* All queries by vectors. */
static void bytes_vectors(attention_scratch *s, const attention_tile *tile, int32_t from,
                          int32_t to, int32_t head_dim) {
    bool fetch = tile->more;
    for (int j = 0; fetch && j < BYTES_PAGES; j++) { /* what follows the bytes: a line of scales */
        vec_prefetch(tile->ahead[j] + 2 * LIMIT_PAGE_TOKENS * head_dim);
    }
    int32_t i = from;
    for (; i + VEC_BYTE_QUERIES <= to; i += VEC_BYTE_QUERIES, fetch = false) {
        bytes_block(s, tile, i, s->valid[i + VEC_BYTE_QUERIES - 1], head_dim, fetch,
                    VEC_BYTE_QUERIES);
    }
    for (; i < to; i++, fetch = false) {
        bytes_block(s, tile, i, s->valid[i], head_dim, fetch, 1);
    }
}

/* Sixteen queries, or those among them that see something of the tile, on a tile unit. */
typedef struct {
    int32_t first, from, to, pages, groups;
} bytes_sixteen;

static bytes_sixteen bytes_sixteen_at(const attention_scratch *s, int32_t first, int32_t from,
                                      int32_t to) {
    bytes_sixteen q = {first, from > first ? from : first, to, 0, 0};
    q.to = to - first < BYTES_BLOCK ? to : first + BYTES_BLOCK;
    const int32_t seen = s->valid[q.to - 1]; /* ends ascend with the queries */
    q.pages = (seen + LIMIT_PAGE_TOKENS - 1) / LIMIT_PAGE_TOKENS;
    q.groups = (seen + BYTES_GROUP - 1) / BYTES_GROUP;
    return q;
}

/* Steps until all is stored. */
static void sixteen_rest(const isa_tiles *tiles, isa_products *p) {
    while (p->done <= p->count) {
        tiles->step(p);
    }
}

/* After row `row` of the 16: a share of the steps. */
static void sixteen_share(const isa_tiles *tiles, isa_products *p, int32_t row) {
    while (p->done <= p->count && p->done * BYTES_BLOCK <= (row + 1) * p->count) {
        tiles->step(p);
    }
}

/* Dimensions of one product: the most that divide a head. */
static int32_t sixteen_dims(int32_t head_dim) {
    int32_t dims = 64;
    while (head_dim % dims != 0) {
        dims -= 16;
    }
    return dims;
}

static void sixteen_scores(attention_scratch *s, const bytes_sixteen *q, const attention_tile *tile,
                           int32_t head_dim, isa_products *p) {
    p->high = bytes_query(s, q->first, SPLIT_HIGH, head_dim);
    p->low = bytes_query(s, q->first, SPLIT_LOW, head_dim);
    p->row_stride = (int64_t)SPLIT_COUNT * head_dim;
    p->column_stride = KV_FOURS;
    p->step_bytes = sixteen_dims(head_dim);
    p->steps = head_dim / p->step_bytes;
    p->keys = true;
    p->high_start = s->bytes.query_offset[SPLIT_HIGH][q->first];
    p->low_start = s->bytes.query_offset[SPLIT_LOW][q->first];
    p->out = s->bytes.score_dots;
    p->count = q->pages;
    for (int32_t j = 0; j < q->pages; j++) {
        p->columns[j] = tile->key[j];
    }
}

static void sixteen_values(attention_scratch *s, const bytes_sixteen *q, int32_t head_dim,
                           isa_products *p) {
    p->high = s->bytes.weight[q->first][SPLIT_HIGH];
    p->low = s->bytes.weight[q->first][SPLIT_LOW];
    p->row_stride = SPLIT_COUNT * ISA_BYTES_TILE;
    p->column_stride = 4 * (int64_t)head_dim;
    p->step_bytes = BYTES_GROUP;
    p->steps = q->groups;
    p->keys = false;
    p->out = s->bytes.value_dots;
    p->count = head_dim / 16;
    for (int32_t j = 0; j < p->count; j++) {
        p->columns[j] = s->bytes.values + KV_FOURS * j;
    }
}

/* Sums of products to scores. */
static void sixteen_join(attention_scratch *s, const bytes_sixteen *q, const isa_tiles *tiles,
                         isa_products *values) {
    const int32_t low_apart = q->pages * BYTES_BLOCK * 16;
    for (int32_t i = q->from; i < q->to; i++) {
        const int32_t *dots = s->bytes.score_dots + (i - q->first) * 16;
        float *score = s->bytes.score[i - q->first];
        for (int32_t j = 0; j < q->pages; j++, dots += BYTES_BLOCK * 16) {
            const v16 sum = bytes_join(v16i_load(dots), v16i_load(dots + low_apart));
            v16_store(score + 16 * j, v16_mul(sum, v16_load(s->bytes.key_scale + 16 * j)));
        }
        bytes_cap(s, i, score);
        bytes_maximum(s, i, bytes_top(score, s->start[i], s->valid[i]));
        sixteen_share(tiles, values, i - q->first);
    }
}

static void sixteen_add(attention_scratch *s, const bytes_sixteen *q, int32_t head_dim) {
    const int32_t low_apart = head_dim * BYTES_BLOCK;
    for (int32_t i = q->from; i < q->to; i++) {
        const int32_t *dots = s->bytes.value_dots + (i - q->first) * 16;
        for (int32_t d = 0; d < head_dim; d += 16, dots += BYTES_BLOCK * 16) {
            bytes_add(s, i, head_dim, d, v16i_load(dots), v16i_load(dots + low_apart));
        }
    }
}

/* All queries on a tile unit, which wants the values side by side. It and vectors work on different
 * sixteens: the scores of the next are made beside the weights of these, and the sums of these
 * beside the maxima of the next. */
static void bytes_tiles(attention_scratch *s, const attention_tile *tile, const isa_tiles *tiles,
                        int32_t from, int32_t to, int32_t head_dim) {
    const size_t page_bytes = (size_t)LIMIT_PAGE_TOKENS * (size_t)head_dim;
    isa_products scores = {.done = 1}, values = {.done = 1};
    int32_t first = from / BYTES_BLOCK * BYTES_BLOCK;
    bytes_sixteen q = bytes_sixteen_at(s, first, from, to);
    sixteen_scores(s, &q, tile, head_dim, &scores);
    tiles->begin(&scores);
    for (int32_t j = 0; j * LIMIT_PAGE_TOKENS < s->valid[to - 1]; j++) {
        memcpy(s->bytes.values + (size_t)j * page_bytes, tile->value[j], page_bytes);
        sixteen_share(tiles, &scores, 2 * j);
    }
    sixteen_rest(tiles, &scores);
    sixteen_join(s, &q, tiles, &values);
    for (; first < to; first += BYTES_BLOCK) {
        const bytes_sixteen now = q;
        const bool more = first + BYTES_BLOCK < to;
        if (more) {
            q = bytes_sixteen_at(s, first + BYTES_BLOCK, from, to);
            sixteen_scores(s, &q, tile, head_dim, &scores);
            tiles->begin(&scores);
        }
        for (int32_t i = now.from; i < now.to; i++) {
            bytes_weigh(s, i, s->bytes.score[i - now.first]);
            sixteen_share(tiles, &scores, i - now.first);
        }
        sixteen_rest(tiles, &scores);
        sixteen_values(s, &now, head_dim, &values);
        tiles->begin(&values);
        if (more) {
            sixteen_join(s, &q, tiles, &values);
        }
        sixteen_rest(tiles, &values);
        sixteen_add(s, &now, head_dim);
    }
}

static void attention_visit_bytes(const isa_attention *a, attention_scratch *s,
                                  const attention_tile *tile, int32_t from, int32_t to) {
    const int32_t head_dim = a->op->kv->shape.head_dim;
    bytes_scales(s, tile, s->valid[from], s->valid[to - 1]);
    if (a->tiles != NULL && to - from >= BYTES_TILE_QUERIES) {
        bytes_tiles(s, tile, a->tiles, from, to, head_dim);
    } else {
        bytes_vectors(s, tile, from, to, head_dim);
    }
}
