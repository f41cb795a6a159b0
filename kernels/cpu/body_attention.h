/* body_attention.h -- attention over pages, written once over vec_*.h.
 *
 * Purpose    Softmax-weighted sums in one pass (Dao et al., FlashAttention, arXiv 2205.14135),
 *            tiles being absolute positions, so that a row's arithmetic is the same in a prompt, a
 *            chunk or alone: tiles of 64 tokens rescale; chunks of 512 start afresh and are merged
 *            in order, whether one thread has all or each has one.
 * Ownership  Included by isa_*.c only, after body_floats.h and body_bytes.h.
 * Threads    As isa.h.
 * Limits     As isa.h. What lies in a slot after a row's position does no harm.
 */
#include "kernels/cpu/body_merge.h"

/* Of 16 numbers of a tile those that a query sees, `other` for the rest. */
VEC_INLINE v16 attention_seen(const attention_scratch *s, int32_t query, int32_t j, v16 all,
                              v16 other) {
    const v16 ended = v16_first(all, other, s->valid[query] - 16 * j);
    const int32_t unseen = s->start[query] - 16 * j;
    return unseen > 0 ? v16_first(other, ended, unseen) : ended;
}

/* New maxima, and the factors by which what is there shrinks. */
static void attention_maxima(attention_scratch *s, int32_t from, int32_t to) {
    const v16 least = v16_set(-INFINITY);
    for (int32_t i = from; i < to; i++) {
        v16 top = least;
        for (int32_t j = 0; j < KV_PAGES; j++) {
            const v16 score = v16_load(&s->score[i][16 * j]);
            top = v16_max(top, attention_seen(s, i, j, score, least));
        }
        const float tile_maximum = v16_maximum(top), before = s->maximum[i];
        s->maximum[i] = before > tile_maximum ? before : tile_maximum;
        s->rescale[i] = before - s->maximum[i];
    }
    for (int32_t i = from / 16 * 16; i < to; i += 16) { /* slots outside [from, to) are not read */
        v16_store(&s->rescale[i], v16_exp(v16_load(&s->rescale[i])));
    }
}

/* Scores to weights: exponentials, and their sums by lane. */
static void attention_weigh(attention_scratch *s, int32_t from, int32_t to, int32_t head_dim) {
    for (int32_t i = from; i < to; i++) {
        const v16 maximum = v16_set(s->maximum[i]), rescale = v16_set(s->rescale[i]);
        v16 sum = v16_mul(v16_load(s->lane_sum[i]), rescale);
        for (int32_t j = 0; j < KV_PAGES; j++) {
            const v16 e = v16_exp(v16_sub(v16_load(&s->score[i][16 * j]), maximum));
            const v16 p = attention_seen(s, i, j, e, v16_zero());
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

/* Scores that were divided by the cap: to the cap times their hyperbolic tangent. */
static void attention_cap(attention_scratch *s, int32_t from, int32_t to, float softcap) {
    const v16 cap = v16_set(softcap);
    for (int32_t i = from; i < to; i++) {
        for (int32_t j = 0; j < KV_PAGES; j++) {
            float *score = &s->score[i][16 * j];
            v16_store(score, v16_mul(v16_tanh(v16_load(score)), cap));
        }
    }
}

/* A tile of floats of one type (a constant). */
BODY_INLINE void attention_visit_floats(const isa_attention *a, attention_scratch *s,
                                        const attention_tile *tile, int32_t from, int32_t to,
                                        const backend_kv_type type) {
    const int32_t head_dim = a->op->kv->shape.head_dim;
    const float scale = a->op->softcap > 0 ? a->op->scale / a->op->softcap : a->op->scale;
    attention_dots(s, tile, from, to, head_dim, scale, type);
    if (a->op->softcap > 0) {
        attention_cap(s, from, to, a->op->softcap);
    }
    attention_maxima(s, from, to);
    attention_weigh(s, from, to, head_dim);
    attention_products(s, tile, from, to, head_dim, type);
}

/* Queries that see something of the tile: all in between, for positions ascend. */
static void attention_visit(const isa_attention *a, attention_scratch *s, int32_t token) {
    const int32_t head_dim = a->op->kv->shape.head_dim, queries = a->queries;
    attention_tile tile = attention_tile_at(a, token);
    const int32_t tokens = tile.pages * LIMIT_PAGE_TOKENS;
    int32_t from = 0, to = queries;
    while (from < queries && s->position[from] < token) {
        from++;
    }
    while (to > from && s->first[to - 1] >= token + tokens) {
        to--;
    }
    for (int32_t i = from; i < to; i++) {
        const int32_t visible = s->position[i] + 1 - token, unseen = s->first[i] - token;
        s->start[i] = unseen > 0 ? unseen : 0;
        s->valid[i] = visible < tokens ? visible : tokens;
    }
    if (to - from >= KV_CONVERT_QUERIES && tile.type == BACKEND_KV_F16) {
        attention_convert(s, &tile, head_dim, BACKEND_KV_F16);
    } else if (to - from >= KV_CONVERT_QUERIES && tile.type == BACKEND_KV_BF16) {
        attention_convert(s, &tile, head_dim, BACKEND_KV_BF16);
    } else if (to - from >= KV_CONVERT_QUERIES && tile.type == BACKEND_KV_FP8) {
        attention_convert(s, &tile, head_dim, BACKEND_KV_FP8);
    }
    switch (tile.type) {
        case BACKEND_KV_F16:
            attention_visit_floats(a, s, &tile, from, to, BACKEND_KV_F16);
            break;
        case BACKEND_KV_BF16:
            attention_visit_floats(a, s, &tile, from, to, BACKEND_KV_BF16);
            break;
        case BACKEND_KV_F32:
            attention_visit_floats(a, s, &tile, from, to, BACKEND_KV_F32);
            break;
        case BACKEND_KV_FP8:
            attention_visit_floats(a, s, &tile, from, to, BACKEND_KV_FP8);
            break;
        case BACKEND_KV_INT8:
            attention_visit_bytes(a, s, &tile, from, to);
            break;
        case BACKEND_KV_TYPES:
            break;
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
    const bool bytes = a->op->kv->shape.type == BACKEND_KV_INT8;
    const int32_t step = bytes ? ISA_BYTES_TILE : ISA_KV_TILE;
    if (bytes) {
        bytes_start(a, s);
    } else {
        attention_floats_start(a, s);
    }
    for (int32_t i = 0; i < a->queries; i++) {
        s->position[i] = attention_position(a, i);
        s->first[i] = isa_window_first(a->op, s->position[i]);
    }
    memset(s->rescale, 0, sizeof(s->rescale)); /* whole vectors of it are read */
    for (int32_t chunk = a->from; chunk < a->to; chunk += ISA_KV_CHUNK) {
        attention_chunk_start(a, s);
        const int32_t end = a->to - chunk < ISA_KV_CHUNK ? a->to : chunk + ISA_KV_CHUNK;
        const int32_t seen = s->first[0] / step * step; /* nobody sees what is before */
        for (int32_t token = seen > chunk ? seen : chunk; token < end; token += step) {
            attention_visit(a, s, token);
        }
        for (int32_t i = 0; i < a->queries; i++) {
            float *out = s->out + i * head_dim, *merged = s->merged_out + i * head_dim;
            const isa_softmax part = {bytes ? s->maximum[i] * BYTES_LN_2 : s->maximum[i],
                                      v16_sum(v16_load(s->lane_sum[i]))};
            if (a->part != NULL) {
                a->part[i] = part;
                memcpy(a->part_out + (int64_t)i * head_dim, out, (size_t)head_dim * sizeof(float));
            } else if (chunk == s->first[i] / ISA_KV_CHUNK * ISA_KV_CHUNK) {
                s->merged[i] = part;
                memcpy(merged, out, (size_t)head_dim * sizeof(float));
            } else if (s->first[i] < chunk && s->position[i] >= chunk) {
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
