/* body_bytes.h -- attention's two products with int8 keys and values: exact integer dot products.
 *
 * Purpose    Keys were spread before they were rounded (append_spread), so queries are, too. A
 *            query and the weights of a tile are numbers of 14 bits, split into two bytes: beside
 *            the rounding of keys and values theirs does not count. Both halves meet the bytes of
 *            the page in dot product instructions. Integers have no order of summation: what is
 *            fixed is how their sums become floats, once a tile.
 * Ownership  Included by isa_*.c only, after body_tile.h.
 * Threads    As isa.h.
 * Limits     As isa.h. Sums stay below 2^24 (256 dimensions or 64 tokens of 127 * 127), so that
 *            they are exact as floats. A slot after a query's position has weight zero.
 */

#define BYTES_QUERY_MAX 16256.0f  /* 127 * 128: a signed low byte is -64 .. 64 */
#define BYTES_WEIGHT_MAX 16383.0f /* 127 * 128 + 127 */
#define BYTES_LEAST 1e-30f /* maxima below this one are as good as zero, and have no inverse */

static int8_t *bytes_query(attention_scratch *s, int32_t query, int32_t split, int32_t head_dim) {
    return s->bytes.query + (query * SPLIT_COUNT + split) * head_dim;
}

/* One query: its scale is its largest magnitude / 16256. */
static void bytes_split_query(attention_scratch *s, int32_t query, const float *from, float scale,
                              int32_t head_dim) {
    float q[OPS_HEAD_DIM_MAX];
    append_spread(from, q, head_dim);
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
    s->bytes.query_offset[query][SPLIT_HIGH] = -128 * v16i_sum(high_sum);
    s->bytes.query_offset[query][SPLIT_LOW] = -128 * v16i_sum(low_sum);
    s->bytes.query_scale[query] =
        maximum / BYTES_QUERY_MAX * scale / (float)append_spread_width(head_dim);
}

static void bytes_start(const isa_attention *a, attention_scratch *s) {
    for (int32_t i = 0; i < a->queries; i++) {
        bytes_split_query(s, i, a->op->q + attention_at(a, i), a->op->scale,
                          a->op->kv->shape.head_dim);
    }
}

/* Both halves of a sum as one float. */
VEC_INLINE v16 bytes_join(v16i high, v16i low) {
    return v16_fma(v16_from_int(high), v16_set(128), v16_from_int(low));
}

/* Scores of `queries` queries with the tokens of `pages` pages from `page` on (constants both). */
BODY_INLINE void bytes_scores(attention_scratch *s, const attention_tile *tile, int32_t first,
                              int32_t page, int32_t head_dim, bool fetch, const int32_t queries,
                              const int32_t pages) {
    v16i acc[VEC_BYTE_QUERIES][SPLIT_COUNT][KV_PAGES];
    UNROLL for (int i = 0; i < queries; i++) {
        UNROLL for (int h = 0; h < SPLIT_COUNT; h++) {
            UNROLL for (int j = 0; j < pages; j++) {
                acc[i][h][j] = vdot_start(s->bytes.query_offset[first + i][h], true);
            }
        }
    }
    const int8_t *query = bytes_query(s, first, SPLIT_HIGH, head_dim);
    for (int32_t d = 0; d < head_dim; d += 4) {
        v64 key[KV_PAGES];
        UNROLL for (int j = 0; j < pages; j++) {
            key[j] = v64_load(tile->key[page + j] + (int64_t)d * LIMIT_PAGE_TOKENS);
        }
        if (fetch) {
            attention_fetch(tile, d / 4, 2);
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
        const v16 key_scale = v16_load_bf16(tile->key_scale[page + j]);
        UNROLL for (int i = 0; i < queries; i++) {
            const v16 scale = v16_mul(key_scale, v16_set(s->bytes.query_scale[first + i]));
            const v16 sum = bytes_join(acc[i][SPLIT_HIGH][j], acc[i][SPLIT_LOW][j]);
            v16_store(&s->score[first + i][16 * (page + j)], v16_mul(sum, scale));
        }
    }
}

BODY_INLINE void bytes_scores_all(attention_scratch *s, const attention_tile *tile, int32_t first,
                                  int32_t head_dim, bool fetch, const int32_t queries) {
    UNROLL for (int page = 0; page < KV_PAGES; page += VEC_BYTE_VECTORS) {
        bytes_scores(s, tile, first, page, head_dim, fetch && page == 0, queries, VEC_BYTE_VECTORS);
    }
}

static void bytes_dots(attention_scratch *s, const attention_tile *tile, int32_t from, int32_t to,
                       int32_t head_dim) {
    bool fetch = tile->more;
    for (int j = 0; fetch && j < KV_PAGES; j++) { /* what follows the bytes: a line of scales */
        vec_prefetch(tile->ahead[j] + 2 * LIMIT_PAGE_TOKENS * head_dim);
    }
    int32_t i = from;
    for (; i + VEC_BYTE_QUERIES <= to; i += VEC_BYTE_QUERIES, fetch = false) {
        bytes_scores_all(s, tile, i, head_dim, fetch, VEC_BYTE_QUERIES);
    }
    for (; i < to; i++, fetch = false) {
        bytes_scores_all(s, tile, i, head_dim, fetch, 1);
    }
}

/* Exponentials of a query's scores, their sums by lane, and their products with the values' scales
 * as two bytes each, relative to the tile's largest. */
static void bytes_weigh(attention_scratch *s, const attention_tile *tile, int32_t query) {
    const v16 maximum = v16_set(s->maximum[query]);
    const int32_t valid = s->valid[query];
    v16 sum = v16_mul(v16_load(s->lane_sum[query]), v16_set(s->rescale[query]));
    v16 weight[KV_PAGES], top = v16_set(BYTES_LEAST);
    UNROLL for (int j = 0; j < KV_PAGES; j++) {
        const v16 e = v16_exp(v16_sub(v16_load(&s->score[query][16 * j]), maximum));
        sum = v16_add(sum, v16_first(e, v16_zero(), valid - 16 * j));
        weight[j] =
            v16_first(v16_mul(e, v16_load_bf16(tile->value_scale[j])), v16_zero(), valid - 16 * j);
        top = v16_max(weight[j], top);
    }
    v16_store(s->lane_sum[query], sum);
    const float largest = v16_maximum(top);
    const v16 inverse = v16_set(BYTES_WEIGHT_MAX / largest);
    s->bytes.weight_scale[query] = largest / BYTES_WEIGHT_MAX;
    UNROLL for (int j = 0; j < KV_PAGES; j++) {
        const v16i whole = v16_round(v16_mul(weight[j], inverse));
        v16i_store_i8(&s->bytes.weight[query][SPLIT_HIGH][16 * j], v16i_shift_right(whole, 7));
        v16i_store_i8(&s->bytes.weight[query][SPLIT_LOW][16 * j], v16i_and(whole, v16i_set(127)));
    }
}

/* out = out * rescale + weights of tokens [0, to) x values, `vectors` x 16 dimensions from `d` on.
 */
BODY_INLINE void bytes_values(attention_scratch *s, const attention_tile *tile, int32_t first,
                              int32_t to, int32_t head_dim, int32_t d, const int32_t queries,
                              const int32_t vectors) {
    v16i acc[VEC_BYTE_QUERIES][SPLIT_COUNT][VEC_BYTE_VECTORS];
    UNROLL for (int i = 0; i < queries; i++) {
        UNROLL for (int h = 0; h < SPLIT_COUNT; h++) {
            UNROLL for (int j = 0; j < vectors; j++) {
                acc[i][h][j] = v16i_set(0);
            }
        }
    }
    for (int32_t t = 0; t < to; t += 4) {
        const uint8_t *fours = tile->value[t / LIMIT_PAGE_TOKENS] +
                               (int64_t)(t % LIMIT_PAGE_TOKENS) * head_dim + 4 * d;
        v64 value[VEC_BYTE_VECTORS];
        UNROLL for (int j = 0; j < vectors; j++) {
            value[j] = v64_load(fours + KV_FOURS * j);
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
        const v16 scale = v16_set(s->bytes.weight_scale[first + i]);
        const v16 rescale = v16_set(s->rescale[first + i]);
        UNROLL for (int j = 0; j < vectors; j++) {
            float *out = s->out + (first + i) * head_dim + d + 16 * j;
            const v16 sum = bytes_join(acc[i][SPLIT_HIGH][j], acc[i][SPLIT_LOW][j]);
            v16_store(out, v16_fma(sum, scale, v16_mul(v16_load(out), rescale)));
        }
    }
}

BODY_INLINE void bytes_values_all(attention_scratch *s, const attention_tile *tile, int32_t first,
                                  int32_t to, int32_t head_dim, const int32_t queries) {
    int32_t d = 0;
    for (; d + 16 * VEC_BYTE_VECTORS <= head_dim; d += 16 * VEC_BYTE_VECTORS) {
        bytes_values(s, tile, first, to, head_dim, d, queries, VEC_BYTE_VECTORS);
    }
    for (; d < head_dim; d += 16) {
        bytes_values(s, tile, first, to, head_dim, d, queries, 1);
    }
}

/* A block reads values up to the last of its queries' ends: further ones have weight zero. */
static void bytes_products(attention_scratch *s, const attention_tile *tile, int32_t from,
                           int32_t to, int32_t head_dim) {
    int32_t i = from;
    for (; i + VEC_BYTE_QUERIES <= to; i += VEC_BYTE_QUERIES) {
        const int32_t end = s->valid[i + VEC_BYTE_QUERIES - 1]; /* ends ascend with the queries */
        bytes_values_all(s, tile, i, end, head_dim, VEC_BYTE_QUERIES);
    }
    for (; i < to; i++) {
        bytes_values_all(s, tile, i, s->valid[i], head_dim, 1);
    }
}
