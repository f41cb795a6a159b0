/* isa_amxflash.c -- attention with AMX-BF16: queries, keys, weights and values rounded to bf16,
 * sums in f32. Compiled with that set's flags (CMakeLists.txt).
 *
 * Softmax-weighted sums in one pass (Dao et al., FlashAttention, arXiv 2205.14135), turned: keys
 * are the unit's rows and 16 queries its columns, so a query is a lane. Maxima, sums and what
 * shrinks by them need nothing across lanes, and two rows of weights, rounded and laid side by
 * side, are one line of what the second product takes. Outputs are [dimensions][16 queries] until a
 * chunk ends.
 *
 * Keys and values are rounded and turned once a unit and block of 64 absolute positions, whatever
 * the pages hold: scales of int8 pages are multiplied in before. What vectors do with a panel of 16
 * queries goes on beside the tile unit's products of two others: scores of the next, sums of the
 * one before; each product is stored when the one after it was begun.
 *
 * A query's maximum is a whole power of two and moves only when a block's is more than 2^8 above
 * it, so outputs are hardly ever rescaled. Both depend on nothing but the query's own scores; so
 * does everything else: a key that it does not see weighs zero, which changes no sum.
 */
#if defined(__x86_64__)
#define _GNU_SOURCE
#include <assert.h>
#include <float.h>
#include <immintrin.h>

#include "kernels/cpu/vec_avx512.h"

#include "kernels/cpu/body_bf16.h"
#include "kernels/cpu/body_merge.h"
#include "kernels/cpu/body_place.h"
#include "kernels/cpu/body_turn.h"

enum {
    FLASH_LANES = ISA_PANEL_ROWS,
    FLASH_KEYS = ISA_KV_TILE,                   /* positions of a block */
    FLASH_KEY_TILES = FLASH_KEYS / FLASH_LANES, /* of its scores: products' rows */
    FLASH_HALVES = FLASH_KEYS / TILE_GROUP,     /* of its values: a product's depth */
    FLASH_PANELS = ISA_FLASH_QUERIES / FLASH_LANES,
    FLASH_STAGES = 4, /* of a panel's work on a block */
    FLASH_SCORES = 3, /* panels between the first stage and the end of the third */
    FLASH_WEIGHTS = 2,
    FLASH_SCORES_BYTES = FLASH_KEY_TILES * BF16_TILE_BYTES,
    FLASH_WEIGHTS_BYTES = FLASH_HALVES * BF16_TILE_BYTES,
    FLASH_WIDE_BYTES = OPS_HEAD_DIM_MAX / FLASH_LANES * BF16_TILE_BYTES /* a panel's outputs */
};

#define FLASH_LOG2_E 1.44269504088896341f
#define FLASH_LN_2 0.69314718055994531f
/* Maxima, in powers of two: the least, which is that of nothing, and how far scores may pass one.
 */
#define FLASH_LEAST (-1048576.0f)
#define FLASH_MARGIN 8.0f

/* Sixteen queries. One that is not there has position -1, and sees nothing. */
typedef struct {
    _Alignas(64) float maximum[FLASH_LANES];
    float sum[FLASH_LANES];
    int32_t position[FLASH_LANES], first[FLASH_LANES]; /* sees [first, position] */
    int32_t position_least, position_most, first_least, first_most;
    int64_t at[FLASH_LANES]; /* of q and out */
} flash_panel;

typedef struct {
    const isa_attention *a;
    int32_t head_dim, steps, tiles; /* products of its dimensions; of 16 outputs */
    int32_t panels;
    float cap;          /* a soft-cap in powers of two; 0: none */
    flash_panel *panel; /* [panels] */
    uint8_t *query;     /* [panels][steps][16 pairs of dimensions][16 queries][2] */
    float *out;         /* [panels][head_dim][16] */
    uint8_t *keys;      /* [FLASH_KEY_TILES][steps][16 keys][32 dimensions] */
    uint8_t *values;    /* [tiles][FLASH_HALVES][16 dimensions][32 keys] */
    uint8_t *scores;    /* [FLASH_SCORES][64 keys][16 queries] f32 */
    uint8_t *weights;   /* [FLASH_WEIGHTS][32 pairs of keys][16 queries][2] */
    float *rows;        /* [16][head_dim] */
    float *merged;      /* [panels * 16][head_dim] */
    isa_softmax *state; /* [panels * 16], of `merged` */
} flash_job;

static_assert(FLASH_KEY_TILES == 4, "a register each");
static_assert(FLASH_PANELS * sizeof(flash_panel) + FLASH_SCORES * FLASH_SCORES_BYTES +
                      FLASH_WEIGHTS * FLASH_WEIGHTS_BYTES +
                      (FLASH_KEYS * 4 + FLASH_LANES * 4) * OPS_HEAD_DIM_MAX +
                      ISA_FLASH_NUMBERS * (4 + 4 + 4) + /* queries, padded; outputs; merged ones */
                      ISA_FLASH_QUERIES * sizeof(isa_softmax) <=
                  ISA_SCRATCH_BYTES,
              "fits");

static void *flash_take(uint8_t **scratch, int64_t bytes) {
    void *at = *scratch;
    *scratch += (bytes + 63) / 64 * 64;
    return at;
}

static flash_job flash_open(const isa_attention *a, uint8_t *scratch) {
    const int32_t head_dim = a->op->kv->shape.head_dim;
    flash_job j = {.a = a,
                   .head_dim = head_dim,
                   .steps = (head_dim + TILE_GROUP - 1) / TILE_GROUP,
                   .tiles = head_dim / FLASH_LANES,
                   .panels = (a->queries + FLASH_LANES - 1) / FLASH_LANES,
                   .cap = a->op->softcap * FLASH_LOG2_E};
    const int64_t lanes = (int64_t)j.panels * FLASH_LANES, tile = BF16_TILE_BYTES;
    const int64_t out_bytes = lanes * head_dim * (int64_t)sizeof(float);
    j.scores = flash_take(&scratch, FLASH_SCORES * (int64_t)FLASH_SCORES_BYTES);
    j.weights = flash_take(&scratch, FLASH_WEIGHTS * (int64_t)FLASH_WEIGHTS_BYTES);
    j.keys = flash_take(&scratch, FLASH_KEY_TILES * j.steps * tile);
    j.values = flash_take(&scratch, j.tiles * FLASH_HALVES * tile);
    j.query = flash_take(&scratch, j.panels * j.steps * tile);
    j.out = flash_take(&scratch, out_bytes);
    j.panel = flash_take(&scratch, j.panels * (int64_t)sizeof(flash_panel));
    j.rows = flash_take(&scratch, FLASH_LANES * head_dim * (int64_t)sizeof(float));
    j.state = flash_take(&scratch, lanes * (int64_t)sizeof(isa_softmax));
    j.merged = flash_take(&scratch, out_bytes);
    return j;
}

/* Divisions of each query would take as long as its products with a block. */
static void flash_places(const flash_job *j) {
    const isa_attention *a = j->a;
    const int32_t group = attention_group(a), head_dim = j->head_dim;
    const int64_t row_floats = (int64_t)a->op->heads * head_dim;
    int32_t position = attention_position(a, 0), head = a->query_first % group;
    int64_t row = attention_at(a, 0) - (int64_t)head * head_dim;
    for (int32_t i = 0; i < j->panels * FLASH_LANES; i++) {
        flash_panel *panel = &j->panel[i / FLASH_LANES];
        const int32_t lane = i % FLASH_LANES;
        const bool there = i < a->queries;
        panel->position[lane] = there ? position : -1;
        panel->first[lane] = there ? isa_window_first(a->op, position) : 0;
        panel->at[lane] = there ? row + (int64_t)head * head_dim : 0;
        if (there) {
            panel->position_most = position;
            panel->first_most = panel->first[lane];
        }
        if (lane == 0) {
            panel->first_least = panel->first[0];
            panel->position_least = position;
        }
        if (!there) {
            panel->position_least = -1;
        }
        if (++head == group) {
            head = 0;
            position++;
            row += row_floats;
        }
    }
}

/* Asks for a panel's rows of q, or of out to be written: they lie in another core's cache, if in
 * any. */
static void flash_ask(const flash_job *j, int32_t p, const float *rows, bool to_write) {
    for (int32_t i = 0; p < j->panels && i < FLASH_LANES; i++) {
        for (int32_t d = 0; d < j->head_dim; d += 16) {
            const float *at = rows + j->panel[p].at[i] + d;
            if (to_write) {
                __builtin_prefetch(at, 1);
            } else {
                __builtin_prefetch(at);
            }
        }
    }
}

/* Sums and differences of dimensions `apart` apart, of 16 queries. */
BODY_INLINE void flash_spread(v16 *a, v16 *b) {
    const v16 sum = v16_add(*a, *b);
    *b = v16_sub(*a, *b);
    *a = sum;
}

/* Sixteen dimensions from `d` on of 16 queries, as columns; to meet int8 keys, spread as these
 * are (body_spread.h), as far as 16 dimensions go. */
BODY_INLINE void flash_columns(const flash_job *j, int32_t p, int32_t d, const bool spread) {
    const isa_attention *a = j->a;
    v16 x[FLASH_LANES];
    UNROLL for (int i = 0; i < FLASH_LANES; i++) {
        const int32_t query = p * FLASH_LANES + i;
        x[i] = query < a->queries ? v16_load(a->op->q + j->panel[p].at[i] + d) : v16_zero();
    }
    bf16_transpose(x);
    UNROLL for (int apart = 1; apart < FLASH_LANES; apart *= 2) {
        UNROLL for (int i = 0; i < FLASH_LANES; i++) {
            if (spread && (i & apart) == 0) {
                flash_spread(&x[i], &x[i + apart]);
            }
        }
    }
    UNROLL for (int i = 0; i < FLASH_LANES; i++) {
        v16_store(j->rows + (d + i) * FLASH_LANES, x[i]);
    }
}

/* Sixteen queries, times what makes their scores powers of two (or shares of a soft-cap), rounded:
 * columns of the unit's second operand. */
static void flash_query(const flash_job *j, int32_t p) {
    const ops_attention *op = j->a->op;
    const bool bytes = op->kv->shape.type == BACKEND_KV_INT8;
    const int32_t width = bytes ? spread_width(j->head_dim) : 1;
    const float by = op->softcap > 0 ? op->scale / op->softcap : op->scale * FLASH_LOG2_E;
    const v16 scale = v16_set(by / (float)width);
    float *x = j->rows;
    for (int32_t d = 0; d < j->head_dim; d += FLASH_LANES) {
        if (bytes) {
            flash_columns(j, p, d, true);
        } else {
            flash_columns(j, p, d, false);
        }
    }
    for (int32_t apart = FLASH_LANES; apart < width; apart *= 2) {
        for (int32_t d = 0; d < j->head_dim; d++) {
            if ((d & apart) == 0) {
                float *at = x + d * FLASH_LANES, *at2 = at + apart * FLASH_LANES;
                const v16 a = v16_load(at), b = v16_load(at2);
                v16_store(at, v16_add(a, b));
                v16_store(at2, v16_sub(a, b));
            }
        }
    }
    uint8_t *to = j->query + (int64_t)p * j->steps * BF16_TILE_BYTES;
    for (int32_t d = 0; d < j->head_dim; d += 2, x += 2 * FLASH_LANES, to += 64) {
        const v16 pair =
            turn_pair(v16_mul(v16_load(x), scale), v16_mul(v16_load(x + FLASH_LANES), scale));
        v64_store(to, v16_bits(pair));
    }
    for (int32_t d = j->head_dim; d < j->steps * TILE_GROUP; d += 2, to += 64) {
        v64_store(to, v16_bits(v16_zero()));
    }
}

static void flash_chunk_start(const flash_job *j) {
    for (int32_t p = 0; p < j->panels; p++) {
        v16_store(j->panel[p].maximum, v16_set(FLASH_LEAST));
        v16_store(j->panel[p].sum, v16_zero());
    }
    memset(j->out, 0, (size_t)(j->panels * FLASH_LANES * j->head_dim) * sizeof(float));
}

/* The keys and values of a block that somebody sees, rounded and turned. */
static void flash_take_block(const flash_job *j, int32_t token) {
    const isa_attention *a = j->a;
    const backend_kv *kv = a->op->kv;
    const uint8_t *pages[FLASH_KEY_TILES];
    const int32_t tokens = a->to - token < FLASH_KEYS ? a->to - token : FLASH_KEYS;
    const int32_t count = (tokens + LIMIT_PAGE_TOKENS - 1) / LIMIT_PAGE_TOKENS;
    for (int32_t i = 0; i < count; i++) {
        pages[i] = attention_page(a, a->seq, a->kv_head, token + i * LIMIT_PAGE_TOKENS);
        turn_keys(kv, pages[i], j->keys + (int64_t)i * j->steps * BF16_TILE_BYTES);
    }
    for (int32_t h = 0; h < FLASH_HALVES && 2 * h < count; h++) {
        const uint8_t *second = pages[2 * h + 1 < count ? 2 * h + 1 : 2 * h];
        const turn_pages two = {{pages[2 * h], second}, tokens - h * TILE_GROUP};
        turn_values(kv, &two, FLASH_HALVES * BF16_TILE_BYTES, j->values + h * BF16_TILE_BYTES);
    }
}

/* A panel that sees something of the block. */
typedef struct {
    v16 top; /* the largest scores so far */
    flash_panel *panel;
    const uint8_t *query;
    float *out;
    uint8_t *scores, *weights;
    int32_t keys; /* up to the last that one of the queries sees, whole halves */
    bool all;     /* all of them see all of these */
} flash_part;

static flash_part flash_part_at(const flash_job *j, int32_t p, int32_t token) {
    flash_panel *panel = &j->panel[p];
    const int32_t seen = panel->position_most + 1 - token;
    const int32_t keys = seen > TILE_GROUP ? FLASH_KEYS : TILE_GROUP;
    return (flash_part){
        .top = v16_set(FLASH_LEAST),
        .panel = panel,
        .query = j->query + (int64_t)p * j->steps * BF16_TILE_BYTES,
        .out = j->out + (int64_t)p * FLASH_LANES * j->head_dim,
        .scores = j->scores + p % FLASH_SCORES * FLASH_SCORES_BYTES,
        .weights = j->weights + p % FLASH_WEIGHTS * FLASH_WEIGHTS_BYTES,
        .keys = keys,
        .all = panel->position_least >= token + keys - 1 && panel->first_most <= token,
    };
}

/* Sums that are in registers 0 .. `count` - 1 still: a store that waits for its product holds up
 * all others. */
typedef struct {
    uint8_t *to; /* one after another; NULL: none */
    int32_t count;
} flash_late;

static void flash_store(flash_late *late) {
    if (late->to == NULL) {
        return;
    }
    _tile_stored(0, late->to, 64);
    if (late->count > 1) {
        _tile_stored(1, late->to + BF16_TILE_BYTES, 64);
    }
    if (late->count > 2) {
        _tile_stored(2, late->to + 2 * BF16_TILE_BYTES, 64);
    }
    if (late->count > 3) {
        _tile_stored(3, late->to + 3 * BF16_TILE_BYTES, 64);
    }
    BF16_WRITTEN();
    late->to = NULL;
}

/* A step of up to four products: tiles at `rows`, `apart` bytes each from the next, times one. */
BODY_INLINE void flash_multiply(const uint8_t *rows, int64_t apart, const uint8_t *columns,
                                const int count) {
    _tile_loadd(4, columns, 64);
    _tile_loadd(5, rows, 64);
    _tile_dpbf16ps(0, 5, 4);
    if (count > 1) {
        _tile_loadd(6, rows + apart, 64);
        _tile_dpbf16ps(1, 6, 4);
    }
    if (count > 2) {
        _tile_loadd(7, rows + 2 * apart, 64);
        _tile_dpbf16ps(2, 7, 4);
    }
    if (count > 3) {
        _tile_loadd(5, rows + 3 * apart, 64);
        _tile_dpbf16ps(3, 5, 4);
    }
}

/* Scores with `count` x 16 keys. */
BODY_INLINE void flash_score(const flash_job *j, const flash_part *s, const int count) {
    const int64_t tile = (int64_t)j->steps * BF16_TILE_BYTES;
    BF16_WRITTEN();
    bf16_load_sums(NULL);
    for (int64_t d = 0; d < tile; d += BF16_TILE_BYTES) {
        flash_multiply(j->keys + d, tile, s->query + d, count);
    }
    BF16_WRITTEN();
}

/* `count` x 16 dimensions of the outputs. */
BODY_INLINE void flash_value(const flash_job *j, const flash_part *s, int32_t n, const int count) {
    enum { TILE = FLASH_HALVES * BF16_TILE_BYTES };
    const uint8_t *values = j->values + (int64_t)n * TILE;
    const float *out = s->out + n * FLASH_LANES * FLASH_LANES;
    BF16_WRITTEN();
    _tile_loadd(0, out, 64);
    if (count > 1) {
        _tile_loadd(1, out + FLASH_LANES * FLASH_LANES, 64);
    }
    if (count > 2) {
        _tile_loadd(2, out + 2 * FLASH_LANES * FLASH_LANES, 64);
    }
    if (count > 3) {
        _tile_loadd(3, out + 3 * FLASH_LANES * FLASH_LANES, 64);
    }
    for (int32_t at = 0; at < s->keys / TILE_GROUP * BF16_TILE_BYTES; at += BF16_TILE_BYTES) {
        flash_multiply(values + at, TILE, s->weights + at, count);
    }
    BF16_WRITTEN();
}

/* All outputs; the last of them are late. */
static void flash_values(const flash_job *j, const flash_part *s, flash_late *late) {
    for (int32_t n = 0; n < j->tiles; n += 4) {
        flash_store(late);
        late->to = (uint8_t *)(s->out + n * FLASH_LANES * FLASH_LANES);
        late->count = j->tiles - n < 4 ? j->tiles - n : 4;
        switch (late->count) {
            case 1:
                flash_value(j, s, n, 1);
                break;
            case 2:
                flash_value(j, s, n, 2);
                break;
            case 3:
                flash_value(j, s, n, 3);
                break;
            default:
                flash_value(j, s, n, 4);
                break;
        }
    }
}

static void flash_scores(const flash_job *j, const flash_part *s, flash_late *late) {
    *late = (flash_late){s->scores, s->keys / FLASH_LANES};
    if (s->keys == FLASH_KEYS) {
        flash_score(j, s, FLASH_KEY_TILES);
    } else {
        flash_score(j, s, FLASH_KEY_TILES / 2);
    }
}

static void flash_cap(const flash_job *j, const flash_part *s) {
    float *score = (float *)(void *)s->scores;
    for (int32_t k = 0; k < s->keys; k++, score += FLASH_LANES) {
        v16_store(score, v16_mul(v16_tanh(v16_load(score)), v16_set(j->cap)));
    }
}

/* Queries that see a key. */
BODY_INLINE __mmask16 flash_seen(const flash_panel *panel, int32_t key) {
    const v16i at = v16i_set(key);
    return _mm512_mask_cmple_epi32_mask(_mm512_cmpge_epi32_mask(v16i_load(panel->position), at),
                                        v16i_load(panel->first), at);
}

/* Outputs and sums shrink by 2^-by. */
static __attribute__((noinline)) void flash_shrink(const flash_job *j, const flash_part *s,
                                                   v16 by) {
    const v16i exponent = _mm512_cvtps_epi32(v16_max(v16_sub(v16_zero(), by), v16_set(-126.0f)));
    const v16 factor = v16_from_bits(v16i_shift_exponent(v16i_add(exponent, v16i_set(127))));
    v16_store(s->panel->sum, v16_mul(v16_load(s->panel->sum), factor));
    for (int32_t d = 0; d < j->head_dim; d++) {
        float *out = s->out + d * FLASH_LANES;
        v16_store(out, v16_mul(v16_load(out), factor));
    }
}

/* The largest scores with 16 keys from `k` on, and those before. */
BODY_INLINE void flash_top(flash_part *s, int32_t token, int32_t k, const bool all) {
    const float *score = (const float *)(const void *)s->scores + k * FLASH_LANES;
    const v16 least = v16_set(FLASH_LEAST);
    v16 top[4] = {s->top, least, least, least};
    UNROLL for (int i = 0; i < FLASH_LANES; i++) {
        v16 x = v16_load(score + i * FLASH_LANES);
        if (!all) {
            x = _mm512_mask_blend_ps(flash_seen(s->panel, token + k + i), least, x);
        }
        top[i % 4] = v16_max(x, top[i % 4]); /* a NaN leaves it as it is */
    }
    s->top = v16_max(v16_max(top[0], top[1]), v16_max(top[2], top[3]));
}

/* The block's maxima are known: what follows from them. */
static void flash_maximum(const flash_job *j, const flash_part *s) {
    const v16 whole =
        v16_min(_mm512_roundscale_ps(s->top, _MM_FROUND_TO_POS_INF | _MM_FROUND_NO_EXC),
                v16_set(-FLASH_LEAST));
    const v16 before = v16_load(s->panel->maximum);
    const __mmask16 passed =
        _mm512_cmp_ps_mask(whole, v16_add(before, v16_set(FLASH_MARGIN)), _CMP_GT_OQ);
    if (passed != 0) {
        const v16 maximum = _mm512_mask_blend_ps(passed, before, whole);
        flash_shrink(j, s, v16_sub(maximum, before));
        v16_store(s->panel->maximum, maximum);
    }
}

/* 2^(score - maximum) by a polynomial of least relative error, 7.5e-5, within half a power of two
 * of a whole one. `base` is 1.5 * 2^23 less the maximum, so that rounding a score to a whole number
 * and taking the maximum off are one addition. */
BODY_INLINE v16 flash_exp2(v16 score, v16 base, v16 least) {
    const v16 x = v16_max(score, least);
    const v16 shifted = v16_add(x, base);
    const v16 r = v16_sub(x, v16_sub(shifted, base));
    v16 p = v16_set(0.0551716691f);
    p = v16_fma(p, r, v16_set(0.242611122f));
    p = v16_fma(p, r, v16_set(0.693260985f));
    p = v16_fma(p, r, v16_set(0.999928074f));
    return v16_from_bits(v16i_add(v16_bits(p), v16i_shift_exponent(v16_bits(shifted))));
}

/* Scores with 16 keys from `k` on to weights, and their sums. */
BODY_INLINE void flash_weigh(const flash_part *s, int32_t token, int32_t k, const bool all) {
    const float *score = (const float *)(const void *)s->scores + k * FLASH_LANES;
    const v16 maximum = v16_load(s->panel->maximum);
    const v16 base = v16_sub(v16_set(VEC_ROUND_MAGIC), maximum);
    const v16 least = v16_sub(maximum, v16_set(125.0f));
    v16 sum = v16_load(s->panel->sum);
    UNROLL for (int i = 0; i < FLASH_LANES; i += 2) {
        v16 low = flash_exp2(v16_load(score + i * FLASH_LANES), base, least);
        v16 high = flash_exp2(v16_load(score + (i + 1) * FLASH_LANES), base, least);
        if (!all) {
            low = _mm512_maskz_mov_ps(flash_seen(s->panel, token + k + i), low);
            high = _mm512_maskz_mov_ps(flash_seen(s->panel, token + k + i + 1), high);
        }
        sum = v16_add(sum, v16_add(low, high));
        v64_store(s->weights + (k + i) * 32, v16_bits(turn_pair(low, high)));
    }
    v16_store(s->panel->sum, sum);
}

/* Asks for a quarter of what the tile unit reads next: of a unit's panels, the first-level cache
 * holds only some. */
BODY_INLINE void flash_fetch(const flash_job *j, flash_part *const stage[FLASH_STAGES], int32_t k) {
    if (stage[2] != NULL) {
        const float *out = stage[2]->out + k * j->head_dim * (FLASH_LANES / 4);
        for (int32_t i = 0; i < j->head_dim / 4; i++) {
            __builtin_prefetch(out + i * FLASH_LANES, 1);
        }
    }
    if (stage[0] != NULL) {
        const int32_t bytes = j->steps * BF16_TILE_BYTES;
        const uint8_t *query = stage[0]->query + bytes + k * (bytes / 4);
        for (int32_t i = 0; i < bytes / 4; i += 64) {
            vec_prefetch(query + i);
        }
    }
}

/* A quarter of a block: 16 keys of two panels; in the first, scores of a third are begun, in the
 * third, outputs of a fourth, and stored in the quarters after these. What the vectors read, the
 * tile unit wrote a panel ago, and the other way round: a load of what is on its way to the cache
 * holds up all that follows. */
BODY_INLINE void flash_quarter(const flash_job *j, flash_part *const stage[FLASH_STAGES],
                               int32_t token, const int32_t k, flash_late *late) {
    const int32_t key = k * FLASH_LANES;
    flash_part *top = stage[1], *weigh = stage[2];
    flash_store(late);
    if (k == 0 && stage[0] != NULL) {
        flash_scores(j, stage[0], late);
    }
    if (k == FLASH_KEY_TILES / 2 && stage[3] != NULL) {
        flash_values(j, stage[3], late);
    }
    flash_fetch(j, stage, k);
    if (top != NULL && key < top->keys) {
        if (top->all) {
            flash_top(top, token, key, true);
        } else {
            flash_top(top, token, key, false);
        }
    }
    if (weigh != NULL && key < weigh->keys) {
        if (weigh->all) {
            flash_weigh(weigh, token, key, true);
        } else {
            flash_weigh(weigh, token, key, false);
        }
    }
}

static void flash_stages(const flash_job *j, flash_part *const stage[FLASH_STAGES], int32_t token,
                         flash_late *late) {
    if (stage[1] != NULL && j->cap > 0) {
        flash_cap(j, stage[1]);
    }
    for (int32_t k = 0; k < FLASH_KEY_TILES; k++) {
        flash_quarter(j, stage, token, k, late);
    }
    if (stage[1] != NULL) {
        flash_maximum(j, stage[1]);
    }
}

/* All panels that see something of the block. */
static void flash_block(const flash_job *j, int32_t token) {
    int32_t from = 0, to = j->panels;
    while (from < to && j->panel[from].position_most < token) {
        from++;
    }
    while (to > from && j->panel[to - 1].first_least >= token + FLASH_KEYS) {
        to--;
    }
    flash_take_block(j, token);
    flash_part parts[FLASH_STAGES];
    flash_late late = {0};
    for (int32_t p = from; p < to + FLASH_STAGES - 1; p++) {
        flash_part *stage[FLASH_STAGES];
        if (p < to) {
            parts[p % FLASH_STAGES] = flash_part_at(j, p, token);
        }
        for (int32_t i = 0; i < FLASH_STAGES; i++) {
            stage[i] = p - i >= from && p - i < to ? &parts[(p - i) % FLASH_STAGES] : NULL;
        }
        flash_stages(j, stage, token, &late);
    }
    flash_store(&late);
}

/* A panel's outputs to rows. A zero that a product too small for a float left is positive, as if
 * there had been none: whether it was made may depend on the other queries. */
static void flash_turn_out(const flash_job *j, int32_t p, v16 factor, float *rows[FLASH_LANES]) {
    const float *out = j->out + (int64_t)p * FLASH_LANES * j->head_dim;
    for (int32_t d = 0; d < j->head_dim; d += FLASH_LANES, out += FLASH_LANES * FLASH_LANES) {
        v16 column[FLASH_LANES];
        UNROLL for (int i = 0; i < FLASH_LANES; i++) {
            const v16 x = v16_mul(v16_load(out + i * FLASH_LANES), factor);
            column[i] = v16_add(x, v16_zero());
        }
        bf16_transpose(column);
        UNROLL for (int i = 0; i < FLASH_LANES; i++) {
            v16_store(rows[i] + d, column[i]);
        }
    }
}

/* A query's part of a chunk, to where it goes. */
static void flash_part_out(const flash_job *j, int32_t query, int32_t chunk, const float *row) {
    const isa_attention *a = j->a;
    const flash_panel *panel = &j->panel[query / FLASH_LANES];
    const int32_t lane = query % FLASH_LANES, head_dim = j->head_dim;
    const int32_t position = panel->position[lane], first = panel->first[lane];
    const isa_softmax part = {panel->maximum[lane] * FLASH_LN_2, panel->sum[lane]};
    float *merged = j->merged + (int64_t)query * head_dim;
    if (a->part != NULL) {
        a->part[query] = part;
        memcpy(a->part_out + (int64_t)query * head_dim, row, (size_t)head_dim * sizeof(float));
        return;
    }
    if (chunk == first / ISA_KV_CHUNK * ISA_KV_CHUNK) {
        j->state[query] = part;
        memcpy(merged, row, (size_t)head_dim * sizeof(float));
    } else if (first < chunk && position >= chunk) {
        attention_merge_part(&j->state[query], merged, part, row, head_dim);
    }
    if (position < chunk + ISA_KV_CHUNK && position >= chunk) {
        attention_finish(&j->state[query], merged, a->op->out + panel->at[lane], head_dim);
    }
}

/* Whether the chunk is all that any of a panel's queries sees, and there are 16. */
static bool flash_alone(const flash_job *j, int32_t p, int32_t chunk) {
    const flash_panel *panel = &j->panel[p];
    return j->a->part == NULL && panel->first_least >= chunk && panel->position_least >= chunk &&
           panel->position_most < chunk + ISA_KV_CHUNK;
}

static void flash_chunk_end(const flash_job *j, int32_t chunk) {
    for (int32_t p = 0; p < j->panels; p++) {
        const int32_t first = p * FLASH_LANES;
        float *rows[FLASH_LANES];
        const bool alone = flash_alone(j, p, chunk);
        if (alone) {
            flash_ask(j, p + 1, j->a->op->out, true);
        }
        for (int32_t i = 0; i < FLASH_LANES; i++) {
            rows[i] = alone ? j->a->op->out + j->panel[p].at[i] : j->rows + i * j->head_dim;
        }
        if (alone) {
            flash_turn_out(j, p, v16_div(v16_set(1.0f), v16_load(j->panel[p].sum)), rows);
            continue;
        }
        flash_turn_out(j, p, v16_set(1.0f), rows);
        for (int32_t i = 0; i < FLASH_LANES && first + i < j->a->queries; i++) {
            flash_part_out(j, first + i, chunk, rows[i]);
        }
    }
}

void isa_amxflash_attention(const isa_attention *a, uint8_t *scratch) {
    const flash_job j = flash_open(a, scratch);
    isa_amx_configure(64, FLASH_LANES);
    flash_places(&j);
    flash_ask(&j, 0, a->op->q, false);
    flash_ask(&j, 1, a->op->q, false);
    for (int32_t p = 0; p < j.panels; p++) {
        flash_ask(&j, p + 2, a->op->q, false);
        flash_query(&j, p);
    }
    const int32_t seen = j.panel[0].first_least / FLASH_KEYS * FLASH_KEYS;
    for (int32_t chunk = a->from; chunk < a->to; chunk += ISA_KV_CHUNK) {
        const int32_t end = a->to - chunk < ISA_KV_CHUNK ? a->to : chunk + ISA_KV_CHUNK;
        flash_chunk_start(&j);
        for (int32_t token = seen > chunk ? seen : chunk; token < end; token += FLASH_KEYS) {
            flash_block(&j, token);
        }
        flash_chunk_end(&j, chunk);
    }
}
#endif
