/* body_floats.h -- attention's two products with keys and values kept as floats of any width.
 *
 * Purpose    Scores by fma over dimensions ascending, values added by fma over tokens ascending.
 * Ownership  Included by isa_*.c only, after body_tile.h.
 * Threads    As isa.h.
 * Limits     As isa.h. A slot after a query's position is never multiplied into its output.
 */

/* Bytes of a number. */
VEC_INLINE int32_t attention_bytes_of(const backend_kv_type type) {
    return type == BACKEND_KV_F32 ? 4 : type == BACKEND_KV_FP8 ? 1 : 2;
}

/* Scores of `queries` queries (a constant) with the tile's 64 tokens. */
BODY_INLINE void attention_scores(attention_scratch *s, const attention_tile *tile, int32_t first,
                                  int32_t head_dim, v16 scale, const backend_kv_type type,
                                  bool fetch, const int32_t queries) {
    v16 acc[VEC_QUERIES][KV_PAGES];
    UNROLL for (int i = 0; i < queries; i++) {
        UNROLL for (int j = 0; j < KV_PAGES; j++) {
            acc[i][j] = v16_zero();
        }
    }
    for (int32_t d = 0; d < head_dim; d++) {
        v16 key[KV_PAGES];
        UNROLL for (int j = 0; j < KV_PAGES; j++) {
            key[j] = attention_load(tile->key[j], (int64_t)d * LIMIT_PAGE_TOKENS, type);
            if (fetch) {
                vec_prefetch(tile->ahead[j] +
                             (int64_t)d * LIMIT_PAGE_TOKENS * attention_bytes_of(type));
            }
        }
        UNROLL for (int i = 0; i < queries; i++) {
            const v16 q = v16_set(s->floats.query[d][first + i]);
            UNROLL for (int j = 0; j < KV_PAGES; j++) {
                acc[i][j] = v16_fma(q, key[j], acc[i][j]);
            }
        }
    }
    UNROLL for (int i = 0; i < queries; i++) {
        UNROLL for (int j = 0; j < KV_PAGES; j++) {
            v16_store(&s->score[first + i][16 * j], v16_mul(acc[i][j], scale));
        }
    }
}

/* out += weights of tokens [from, to) x values, `vectors` x 16 dimensions from `d` on. */
BODY_INLINE void attention_values(attention_scratch *s, const attention_tile *tile, int32_t first,
                                  int32_t from, int32_t to, int32_t head_dim, int32_t d,
                                  const backend_kv_type type, bool fetch, const int32_t queries,
                                  const int32_t vectors) {
    v16 acc[VEC_QUERIES][4];
    float *out = s->out + first * head_dim + d;
    UNROLL for (int i = 0; i < queries; i++) {
        UNROLL for (int j = 0; j < vectors; j++) {
            acc[i][j] = v16_load(out + i * head_dim + 16 * j);
        }
    }
    for (int32_t t = from; t < to; t++) {
        const uint8_t *page = tile->value[t / LIMIT_PAGE_TOKENS];
        const int64_t at = (int64_t)(t % LIMIT_PAGE_TOKENS) * head_dim + d;
        const uint8_t *ahead = tile->ahead[t / LIMIT_PAGE_TOKENS] +
                               (LIMIT_PAGE_TOKENS * head_dim + at) * attention_bytes_of(type);
        v16 value[4];
        UNROLL for (int j = 0; j < vectors; j++) {
            value[j] = attention_load(page, at + 16 * j, type);
            if (fetch) {
                vec_prefetch(ahead + 16 * j * attention_bytes_of(type));
            }
        }
        UNROLL for (int i = 0; i < queries; i++) {
            const v16 p = v16_set(s->score[first + i][t]);
            UNROLL for (int j = 0; j < vectors; j++) {
                acc[i][j] = v16_fma(p, value[j], acc[i][j]);
            }
        }
    }
    UNROLL for (int i = 0; i < queries; i++) {
        UNROLL for (int j = 0; j < vectors; j++) {
            v16_store(out + i * head_dim + 16 * j, acc[i][j]);
        }
    }
}

BODY_INLINE void attention_values_all(attention_scratch *s, const attention_tile *tile,
                                      int32_t first, int32_t from, int32_t to, int32_t head_dim,
                                      const backend_kv_type type, bool fetch,
                                      const int32_t queries) {
    int32_t d = 0;
    for (; d + 64 <= head_dim; d += 64) {
        attention_values(s, tile, first, from, to, head_dim, d, type, fetch, queries, 4);
    }
    for (; d < head_dim; d += 16) {
        attention_values(s, tile, first, from, to, head_dim, d, type, fetch, queries, 1);
    }
}

/* Queries [from, to) in blocks of registers. A block reads values up to the least of its queries'
 * ends; the rest of each query is added alone, in the same order. */
BODY_INLINE void attention_products(attention_scratch *s, const attention_tile *tile, int32_t from,
                                    int32_t to, int32_t head_dim, const backend_kv_type type) {
    static const int32_t halves = VEC_QUERIES / 2 < 1 ? 1 : VEC_QUERIES / 2;
    int32_t i = from;
    while (i < to) {
        const bool fetch = tile->more && i == from;
        const int32_t left = to - i, end = s->valid[i]; /* ends ascend with the queries */
        int32_t count = 1;
        if (left >= VEC_QUERIES) {
            count = VEC_QUERIES;
            attention_values_all(s, tile, i, 0, end, head_dim, type, fetch, VEC_QUERIES);
        } else if (left >= halves) {
            count = halves;
            attention_values_all(s, tile, i, 0, end, head_dim, type, fetch,
                                 VEC_QUERIES / 2 < 1 ? 1 : VEC_QUERIES / 2);
        } else {
            attention_values_all(s, tile, i, 0, end, head_dim, type, fetch, 1);
        }
        for (int32_t j = i; j < i + count; j++) {
            if (s->valid[j] > end) {
                attention_values_all(s, tile, j, end, s->valid[j], head_dim, type, false, 1);
            }
        }
        i += count;
    }
}

BODY_INLINE void attention_dots(attention_scratch *s, const attention_tile *tile, int32_t from,
                                int32_t to, int32_t head_dim, float scale,
                                const backend_kv_type type) {
    const v16 by = v16_set(scale);
    int32_t i = from;
    for (; i + VEC_QUERIES <= to; i += VEC_QUERIES) {
        attention_scores(s, tile, i, head_dim, by, type, tile->more && i == from, VEC_QUERIES);
    }
    if (VEC_QUERIES >= 4 && i + VEC_QUERIES / 2 <= to) {
        attention_scores(s, tile, i, head_dim, by, type, tile->more && i == from,
                         VEC_QUERIES / 2 < 1 ? 1 : VEC_QUERIES / 2);
        i += VEC_QUERIES / 2;
    }
    for (; i < to; i++) {
        attention_scores(s, tile, i, head_dim, by, type, tile->more && i == from, 1);
    }
}

/* Many queries: the tile is turned to f32 once. */
BODY_INLINE void attention_convert(attention_scratch *s, attention_tile *tile, int32_t head_dim,
                                   const backend_kv_type type) {
    const int32_t count = LIMIT_PAGE_TOKENS * head_dim;
    for (int32_t j = 0; j < KV_PAGES; j++) {
        for (int32_t i = 0; i < count; i += 16) {
            v16_store(s->floats.keys + j * count + i, attention_load(tile->key[j], i, type));
            v16_store(s->floats.values + j * count + i, attention_load(tile->value[j], i, type));
        }
        tile->key[j] = (const uint8_t *)(s->floats.keys + j * count);
        tile->value[j] = (const uint8_t *)(s->floats.values + j * count);
    }
    tile->type = BACKEND_KV_F32;
    tile->more = false; /* many queries: arithmetic sets the pace, and fetching ahead only costs */
}

static void attention_floats_start(const isa_attention *a, attention_scratch *s) {
    const int32_t head_dim = a->op->kv->shape.head_dim;
    for (int32_t i = 0; i < a->queries; i++) {
        const float *q = a->op->q + attention_at(a, i);
        for (int32_t d = 0; d < head_dim; d++) {
            s->floats.query[d][i] = q[d];
        }
    }
}
