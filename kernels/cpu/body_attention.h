/* body_attention.h -- attention over pages, written once over vec_*.h.
 *
 * Purpose    Softmax-weighted sums in one pass (Dao et al., FlashAttention, arXiv 2205.14135),
 * tiles being absolute positions, so that a row's arithmetic is the same in a prompt, a chunk or
 * alone: scores in ascending dimension; tiles of 64 tokens rescale; chunks of 512 start afresh and
 * are merged in order, whether one thread has all or each has one. Ownership  Included by isa_*.c
 * only, after body_rows.h and body_linear.h. Threads    As isa.h. Limits     As isa.h. A page slot
 * after a row's position is never multiplied into its output, so whatever lies there does no harm.
 */

enum {
    KV_PAGES = ISA_KV_TILE / LIMIT_PAGE_TOKENS, /* pages, and vectors of scores, of a tile */
    CACHE_LINE = 64,
    KV_CONVERT_QUERIES = 12 /* from here a tile is turned to f32 once, not once a query block */
};

/* Scratch of one unit. Strides of the outputs are head_dim. */
typedef struct {
    float query[OPS_HEAD_DIM_MAX][ISA_QUERIES]; /* transposed: one pointer for a block of them */
    float score[ISA_QUERIES][ISA_KV_TILE];
    float lane_sum[ISA_QUERIES][16];
    float maximum[ISA_QUERIES]; /* of this chunk so far */
    float rescale[ISA_QUERIES];
    int32_t valid[ISA_QUERIES]; /* tokens of this tile a query sees: 1 .. 64 */
    isa_softmax merged[ISA_QUERIES];
    float out[ISA_QUERIES * OPS_HEAD_DIM_MAX];
    float merged_out[ISA_QUERIES * OPS_HEAD_DIM_MAX];
    float keys[OPS_HEAD_DIM_MAX * ISA_KV_TILE];
    float values[OPS_HEAD_DIM_MAX * ISA_KV_TILE];
} attention_scratch;
static_assert(sizeof(attention_scratch) <= ISA_SCRATCH_BYTES, "fits");
static_assert(ISA_QUERIES % 16 == 0 && ISA_KV_CHUNK % ISA_KV_TILE == 0, "whole vectors and tiles");

/* Keys [head_dim][16] and values [16][head_dim] of a tile's pages. */
typedef struct {
    const void *key[KV_PAGES], *value[KV_PAGES];
    const uint8_t *ahead[KV_PAGES]; /* keys and values of the tile to visit next */
    bool f16, more;                 /* `more`: there is one */
} attention_tile;

BODY_INLINE v16 attention_load(const void *base, int64_t element, bool f16) {
    return f16 ? v16_load_f16((const uint16_t *)base + element)
               : v16_load((const float *)base + element);
}

static int32_t attention_group(const isa_attention *a) {
    return a->op->heads / a->op->kv->shape.kv_heads;
}

/* Offset of a query's head in q and out. */
static int64_t attention_at(const isa_attention *a, int32_t query) {
    const int32_t group = attention_group(a), i = a->query_first + query;
    const int64_t row = a->seq->row_first + i / group;
    const int64_t head = (int64_t)a->kv_head * group + i % group;
    return (row * a->op->heads + head) * a->op->kv->shape.head_dim;
}

static int32_t attention_position(const isa_attention *a, int32_t query) {
    return a->seq->position_first + (a->query_first + query) / attention_group(a);
}

/* Asks for the next tile while this one is at work: its pieces lie apart, where hardware does not
 * foresee them. Called once a dimension: an f16 page of one head has as many cache lines. */
BODY_INLINE void attention_fetch(const attention_tile *tile, int32_t d) {
    UNROLL for (int j = 0; j < KV_PAGES; j++) {
        vec_prefetch(tile->ahead[j] + (int64_t)d * CACHE_LINE);
    }
}

/* Scores of `queries` queries (a constant) with the tile's 64 tokens. */
BODY_INLINE void attention_scores(attention_scratch *s, const attention_tile *tile, int32_t first,
                                  int32_t head_dim, v16 scale, const bool f16, bool fetch,
                                  const int32_t queries) {
    v16 acc[VEC_QUERIES][KV_PAGES];
    UNROLL for (int i = 0; i < queries; i++) {
        UNROLL for (int j = 0; j < KV_PAGES; j++) {
            acc[i][j] = v16_zero();
        }
    }
    for (int32_t d = 0; d < head_dim; d++) {
        v16 key[KV_PAGES];
        UNROLL for (int j = 0; j < KV_PAGES; j++) {
            key[j] = attention_load(tile->key[j], (int64_t)d * LIMIT_PAGE_TOKENS, f16);
        }
        if (fetch) {
            attention_fetch(tile, d);
        }
        UNROLL for (int i = 0; i < queries; i++) {
            const v16 q = v16_set(s->query[d][first + i]);
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
                                  const bool f16, const int32_t queries, const int32_t vectors) {
    v16 acc[VEC_QUERIES][4];
    float *out = s->out + first * head_dim + d;
    UNROLL for (int i = 0; i < queries; i++) {
        UNROLL for (int j = 0; j < vectors; j++) {
            acc[i][j] = v16_load(out + i * head_dim + 16 * j);
        }
    }
    for (int32_t t = from; t < to; t++) {
        const void *page = tile->value[t / LIMIT_PAGE_TOKENS];
        const int64_t at = (int64_t)(t % LIMIT_PAGE_TOKENS) * head_dim + d;
        v16 value[4];
        UNROLL for (int j = 0; j < vectors; j++) {
            value[j] = attention_load(page, at + 16 * j, f16);
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
                                      const bool f16, const int32_t queries) {
    int32_t d = 0;
    for (; d + 64 <= head_dim; d += 64) {
        attention_values(s, tile, first, from, to, head_dim, d, f16, queries, 4);
    }
    for (; d < head_dim; d += 16) {
        attention_values(s, tile, first, from, to, head_dim, d, f16, queries, 1);
    }
}

/* Queries [from, to) in blocks of registers. A block reads values up to the least of its queries'
 * ends; the rest of each query is added alone, in the same order. */
BODY_INLINE void attention_products(attention_scratch *s, const attention_tile *tile, int32_t from,
                                    int32_t to, int32_t head_dim, const bool f16) {
    static const int32_t halves = VEC_QUERIES / 2 < 1 ? 1 : VEC_QUERIES / 2;
    int32_t i = from;
    while (i < to) {
        const int32_t left = to - i, end = s->valid[i]; /* ends ascend with the queries */
        int32_t count = 1;
        if (left >= VEC_QUERIES) {
            count = VEC_QUERIES;
            attention_values_all(s, tile, i, 0, end, head_dim, f16, VEC_QUERIES);
        } else if (left >= halves) {
            count = halves;
            attention_values_all(s, tile, i, 0, end, head_dim, f16,
                                 VEC_QUERIES / 2 < 1 ? 1 : VEC_QUERIES / 2);
        } else {
            attention_values_all(s, tile, i, 0, end, head_dim, f16, 1);
        }
        for (int32_t j = i; j < i + count; j++) {
            if (s->valid[j] > end) {
                attention_values_all(s, tile, j, end, s->valid[j], head_dim, f16, 1);
            }
        }
        i += count;
    }
}

BODY_INLINE void attention_dots(attention_scratch *s, const attention_tile *tile, int32_t from,
                                int32_t to, int32_t head_dim, float scale, const bool f16) {
    const v16 by = v16_set(scale);
    int32_t i = from;
    for (; i + VEC_QUERIES <= to; i += VEC_QUERIES) {
        attention_scores(s, tile, i, head_dim, by, f16, tile->more && i == from, VEC_QUERIES);
    }
    if (VEC_QUERIES >= 4 && i + VEC_QUERIES / 2 <= to) {
        attention_scores(s, tile, i, head_dim, by, f16, tile->more && i == from,
                         VEC_QUERIES / 2 < 1 ? 1 : VEC_QUERIES / 2);
        i += VEC_QUERIES / 2;
    }
    for (; i < to; i++) {
        attention_scores(s, tile, i, head_dim, by, f16, tile->more && i == from, 1);
    }
}

/* Scores to weights: new maxima, rescaling of what is there, exponentials, sums by lane. */
static void attention_softmax(attention_scratch *s, int32_t from, int32_t to, int32_t head_dim) {
    const v16 least = v16_set(-INFINITY);
    for (int32_t i = from; i < to; i++) {
        v16 top = least;
        for (int32_t j = 0; j < KV_PAGES; j++) {
            const v16 score = v16_load(&s->score[i][16 * j]);
            top = v16_max(top, v16_first(score, least, s->valid[i] - 16 * j));
        }
        const float tile_maximum = v16_maximum(top), before = s->maximum[i];
        s->maximum[i] = before > tile_maximum ? before : tile_maximum;
        s->rescale[i] = before - s->maximum[i];
    }
    for (int32_t i = from / 16 * 16; i < to; i += 16) { /* slots outside [from, to) are not read */
        v16_store(&s->rescale[i], v16_exp(v16_load(&s->rescale[i])));
    }
    for (int32_t i = from; i < to; i++) {
        const v16 maximum = v16_set(s->maximum[i]), rescale = v16_set(s->rescale[i]);
        v16 sum = v16_mul(v16_load(s->lane_sum[i]), rescale);
        for (int32_t j = 0; j < KV_PAGES; j++) {
            const v16 e = v16_exp(v16_sub(v16_load(&s->score[i][16 * j]), maximum));
            const v16 p = v16_first(e, v16_zero(), s->valid[i] - 16 * j);
            v16_store(&s->score[i][16 * j], p);
            sum = v16_add(sum, p);
        }
        v16_store(s->lane_sum[i], sum);
        if (s->rescale[i] != 1.0f) { /* multiplying by one changes no bit */
            float *out = s->out + i * head_dim;
            for (int32_t d = 0; d < head_dim; d += 16) {
                v16_store(out + d, v16_mul(v16_load(out + d), rescale));
            }
        }
    }
}

static const uint8_t *attention_page(const isa_attention *a, const ops_seq *seq, int32_t kv_head,
                                     int32_t token) {
    const backend_kv *kv = a->op->kv;
    const uint32_t page = seq->pages[token / LIMIT_PAGE_TOKENS];
    return backend_kv_page(kv, a->op->layer, page) + (uint64_t)kv_head * kv->head_bytes;
}

/* Where the tile to visit next lies: of these positions, or the first of the unit to come. */
static void attention_look_ahead(const isa_attention *a, attention_tile *tile, int32_t first) {
    const bool within = first < a->to;
    const ops_seq *seq = within ? a->seq : a->next_seq;
    tile->more = seq != NULL;
    if (!tile->more) {
        return;
    }
    const int32_t from = within ? first : 0, end = seq->position_first + seq->rows;
    for (int32_t j = 0; j < KV_PAGES; j++) {
        const int32_t token = from + j * LIMIT_PAGE_TOKENS;
        tile->ahead[j] = attention_page(a, seq, within ? a->kv_head : a->next_kv_head,
                                        token < end ? token : from);
    }
}

/* A tile's pages; a page after the sequence's end is replaced by the first, and never looked at. */
static attention_tile attention_tile_at(const isa_attention *a, int32_t first) {
    const backend_kv *kv = a->op->kv;
    const int32_t end = a->seq->position_first + a->seq->rows;
    attention_tile tile = {.f16 = kv->shape.type == BACKEND_KV_F16};
    for (int32_t j = 0; j < KV_PAGES; j++) {
        const int32_t token = first + j * LIMIT_PAGE_TOKENS;
        const uint8_t *head = attention_page(a, a->seq, a->kv_head, token < end ? token : first);
        tile.key[j] = head;
        tile.value[j] = head + kv->head_bytes / 2;
    }
    attention_look_ahead(a, &tile, first + ISA_KV_TILE);
    return tile;
}

static void attention_convert(attention_scratch *s, attention_tile *tile, int32_t head_dim) {
    const int32_t count = LIMIT_PAGE_TOKENS * head_dim;
    for (int32_t j = 0; j < KV_PAGES; j++) {
        for (int32_t i = 0; i < count; i += 16) {
            v16_store(s->keys + j * count + i, attention_load(tile->key[j], i, true));
            v16_store(s->values + j * count + i, attention_load(tile->value[j], i, true));
        }
        tile->key[j] = s->keys + j * count;
        tile->value[j] = s->values + j * count;
    }
    tile->f16 = false;
    tile->more = false; /* many queries: arithmetic sets the pace, and fetching ahead only costs */
}

static void attention_visit(const isa_attention *a, attention_scratch *s, int32_t token) {
    const int32_t head_dim = a->op->kv->shape.head_dim, queries = a->queries;
    int32_t from = 0;
    while (from < queries && attention_position(a, from) < token) {
        from++;
    }
    for (int32_t i = from; i < queries; i++) {
        const int32_t visible = attention_position(a, i) + 1 - token;
        s->valid[i] = visible < ISA_KV_TILE ? visible : ISA_KV_TILE;
    }
    attention_tile tile = attention_tile_at(a, token);
    if (tile.f16 && queries - from >= KV_CONVERT_QUERIES) {
        attention_convert(s, &tile, head_dim);
    }
    if (tile.f16) {
        attention_dots(s, &tile, from, queries, head_dim, a->op->scale, true);
        attention_softmax(s, from, queries, head_dim);
        attention_products(s, &tile, from, queries, head_dim, true);
    } else {
        attention_dots(s, &tile, from, queries, head_dim, a->op->scale, false);
        attention_softmax(s, from, queries, head_dim);
        attention_products(s, &tile, from, queries, head_dim, false);
    }
}

/* into = into + part, the later positions being `part`. */
static void attention_merge_part(isa_softmax *into, float *into_out, isa_softmax part,
                                 const float *part_out, int32_t head_dim) {
    const float maximum = into->maximum > part.maximum ? into->maximum : part.maximum;
    const v16 a = v16_exp(v16_set(into->maximum - maximum));
    const v16 b = v16_exp(v16_set(part.maximum - maximum));
    const v16 sum = v16_fma(v16_set(into->sum), a, v16_mul(v16_set(part.sum), b));
    float lanes[16];
    v16_store(lanes, sum);
    into->maximum = maximum;
    into->sum = lanes[0];
    for (int32_t d = 0; d < head_dim; d += 16) {
        const v16 added = v16_mul(v16_load(part_out + d), b);
        v16_store(into_out + d, v16_fma(v16_load(into_out + d), a, added));
    }
}

static void attention_finish(const isa_softmax *state, const float *state_out, float *out,
                             int32_t head_dim) {
    const v16 inverse = v16_set(1.0f / state->sum);
    for (int32_t d = 0; d < head_dim; d += 16) {
        v16_store(out + d, v16_mul(v16_load(state_out + d), inverse));
    }
}

static void attention_chunk_start(const isa_attention *a, attention_scratch *s) {
    for (int32_t i = 0; i < a->queries; i++) {
        s->maximum[i] = -INFINITY;
        v16_store(s->lane_sum[i], v16_zero());
    }
    const size_t floats = (size_t)a->queries * (size_t)a->op->kv->shape.head_dim;
    memset(s->out, 0, floats * sizeof(float));
}

static void attention_run(const isa_attention *a, uint8_t *scratch) {
    attention_scratch *s = (attention_scratch *)(void *)scratch;
    const int32_t head_dim = a->op->kv->shape.head_dim;
    for (int32_t i = 0; i < a->queries; i++) {
        const float *q = a->op->q + attention_at(a, i);
        for (int32_t d = 0; d < head_dim; d++) {
            s->query[d][i] = q[d];
        }
        s->rescale[i] = 0; /* whole vectors of it are read */
    }
    for (int32_t i = a->queries; i < ISA_QUERIES; i++) {
        s->rescale[i] = 0;
    }
    for (int32_t chunk = a->from; chunk < a->to; chunk += ISA_KV_CHUNK) {
        attention_chunk_start(a, s);
        const int32_t end = a->to - chunk < ISA_KV_CHUNK ? a->to : chunk + ISA_KV_CHUNK;
        for (int32_t token = chunk; token < end; token += ISA_KV_TILE) {
            attention_visit(a, s, token);
        }
        for (int32_t i = 0; i < a->queries; i++) {
            float *out = s->out + i * head_dim, *merged = s->merged_out + i * head_dim;
            const isa_softmax part = {s->maximum[i], v16_sum(v16_load(s->lane_sum[i]))};
            if (a->part != NULL) {
                a->part[i] = part;
                memcpy(a->part_out + (int64_t)i * head_dim, out, (size_t)head_dim * sizeof(float));
            } else if (chunk == 0) {
                s->merged[i] = part;
                memcpy(merged, out, (size_t)head_dim * sizeof(float));
            } else if (attention_position(a, i) >= chunk) {
                attention_merge_part(&s->merged[i], merged, part, out, head_dim);
            }
        }
    }
    for (int32_t i = 0; a->part == NULL && i < a->queries; i++) {
        attention_finish(&s->merged[i], s->merged_out + i * head_dim,
                         a->op->out + attention_at(a, i), head_dim);
    }
}

static void attention_merge(const isa_merge *m) {
    const int32_t head_dim = m->head_dim;
    float out[OPS_HEAD_DIM_MAX];
    isa_softmax state = m->parts[m->query];
    memcpy(out, m->parts_out + (int64_t)m->query * head_dim, (size_t)head_dim * sizeof(float));
    for (int32_t p = 1; p < m->parts_count; p++) {
        const int64_t at = (int64_t)p * m->stride + m->query;
        attention_merge_part(&state, out, m->parts[at], m->parts_out + at * head_dim, head_dim);
    }
    attention_finish(&state, out, m->out, head_dim);
}
