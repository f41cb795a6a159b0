/* isa_amxrows.c -- linear operators with AMX-BF16 for a block of many rows that one thread takes
 * through several of them. Compiled with that set's flags (CMakeLists.txt).
 *
 * Arithmetic and weights are isa_amxbf16.c's. Weights are the unit's rows, as they are made, and 16
 * rows of activations its columns, so sums come out turned: [16 outputs][16 rows]. That is what the
 * product after a gate wants: two outputs of 16 rows, gated, rounded and laid side by side, are one
 * line of its input's panel (isa_pairs.pack), so between gate, up and down projections nothing
 * takes a detour over rows of f32. Other sums are turned.
 *
 * Two tiles of weights (of one weight, or gate and up) meet all panels of the block, two at a time:
 * four loads feed four products, which take longer. Activations are read as a stream, past the
 * first-level cache, where the weights stay: a block of them meets all rows. What the vectors do
 * with a square's sums is done in steps between the products of the square after it.
 */
#if defined(__x86_64__)
#define _GNU_SOURCE
#include <assert.h>
#include <immintrin.h>

#include "kernels/cpu/vec_avx512.h"

#include "kernels/cpu/body_bf16.h"
#include "kernels/cpu/body_exp.h"

enum {
    ROWS_BLOCK_GROUPS = 48, /* of weights made at a time: two tiles of them, 96 KB */
    ROWS_MADE_BYTES = 2 * ROWS_BLOCK_GROUPS * BF16_TILE_BYTES,
    ROWS_SQUARE_BYTES = 4 * BF16_TILE_BYTES,
    ROWS_PANELS_MAX = ISA_PAIRS_BLOCK_ROWS / ISA_PANEL_ROWS,
    ROWS_SUMS_BYTES = (ROWS_PANELS_MAX + 1) / 2 * ROWS_SQUARE_BYTES,
    ROWS_LATE = 2,    /* groups from a store of sums to a load: it must be over */
    ROWS_TURNS = 4,   /* steps of a square whose sums are turned: one a tile */
    ROWS_GATINGS = 16 /* of a gated one: a line of a panel each */
};
static_assert(ROWS_MADE_BYTES + ROWS_SQUARE_BYTES + ROWS_SUMS_BYTES <= ISA_SCRATCH_BYTES, "fits");

/* What a thread works on. Memory of a square: sums of (first tile, first panel), (first, second),
 * (second, first), (second, second). */
typedef struct {
    const isa_linear *first, *second; /* weights of the two tiles */
    const isa_rows *r;
    int64_t panel_bytes;
    int32_t panels, groups;
    uint8_t *made, *done, *sums;
} rows_job;

/* A square whose sums wait for the vectors. */
typedef struct {
    const uint8_t *sums;
    int32_t panel;  /* the first of its two */
    int32_t tile;   /* the first's */
    int32_t steps;  /* 0: none */
    bool one_panel; /* the second one is not there */
    bool one_tile;
} rows_left;

static void rows_turn(const rows_job *j, const rows_left *s, int32_t step) {
    const isa_linear *l = j->first;
    const int32_t panel = step % 2, tile = step / 2;
    if ((panel == 1 && s->one_panel) || (tile == 1 && s->one_tile)) {
        return;
    }
    v16 column[16];
    UNROLL for (int i = 0; i < 16; i++) {
        column[i] =
            v16_load((const float *)(const void *)(s->sums + step * BF16_TILE_BYTES + 64 * i));
    }
    bf16_transpose(column);
    const int32_t row = (s->panel + panel) * ISA_PANEL_ROWS, left = l->rows - row;
    const int32_t output = (s->tile + tile) * TILE_OUTPUTS;
    float out[ISA_PANEL_ROWS][TILE_OUTPUTS];
    UNROLL for (int i = 0; i < 16; i++) {
        v16_store(out[i], column[i]);
    }
    for (int32_t i = 0; i < ISA_PANEL_ROWS && i < left; i++) {
        group_finish(l, v16_load(out[i]), row + i, output);
    }
}

/* Two outputs of 16 rows: act(gate) * up. */
BODY_INLINE void rows_gate(const rows_job *j, const rows_left *s, int32_t step) {
    const __m512i order =
        _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6,
                         21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
    const int32_t panel = step / 8, pair = step % 8;
    if (panel == 1 && s->one_panel) {
        return;
    }
    const float *gate =
        (const float *)(const void *)(s->sums + panel * BF16_TILE_BYTES + 128 * pair);
    const float *up = gate + 2 * BF16_TILE_BYTES / 4;
    const int32_t output = s->tile * TILE_OUTPUTS + 2 * pair;
    v16 out[2];
    UNROLL for (int i = 0; i < 2; i++) {
        v16 g = v16_load(gate + 16 * i), u = v16_load(up + 16 * i);
        if (j->first->bias != NULL) {
            g = v16_add(g, v16_set(j->first->bias[output + i]));
        }
        if (j->second->bias != NULL) {
            u = v16_add(u, v16_set(j->second->bias[output + i]));
        }
        out[i] = j->r->gelu ? v16_gelu_mul(g, u) : v16_silu_mul(g, u);
    }
    const int64_t bytes = ISA_PANEL_ROWS * (int64_t)j->first->outputs * (int64_t)sizeof(uint16_t);
    v64_store(j->r->gated + (s->panel + panel) * bytes + 32 * output,
              _mm512_permutexvar_epi16(order, bf16_round_two(out[0], out[1])));
}

static void rows_step(const rows_job *j, const rows_left *s, int32_t step) {
    if (j->r->up != NULL) {
        rows_gate(j, s, step);
    } else {
        rows_turn(j, s, step);
    }
}

/* Products of `count` groups; meanwhile what is left of the square before. */
static void rows_square(const rows_job *j, const uint8_t *x, const uint8_t *x2, int32_t count,
                        const rows_left *before, const uint8_t *ahead, int64_t ahead_bytes) {
    const uint8_t *w = j->made, *w2 = w + ROWS_BLOCK_GROUPS * BF16_TILE_BYTES;
    int32_t step = 0;
    for (int32_t g = 0; g < count; g++) {
        const int64_t at = (int64_t)g * BF16_TILE_BYTES;
        _tile_loadd(4, w + at, 64);
        _tile_stream_loadd(6, x + at, 64);
        _tile_dpbf16ps(0, 4, 6);
        _tile_stream_loadd(7, x2 + at, 64);
        _tile_dpbf16ps(1, 4, 7);
        _tile_loadd(5, w2 + at, 64);
        _tile_dpbf16ps(2, 5, 6);
        _tile_dpbf16ps(3, 5, 7);
        for (; g >= ROWS_LATE && step < before->steps && step * count <= g * before->steps;
             step++) {
            rows_step(j, before, step);
        }
        for (int64_t line = 0; line < ahead_bytes; line += 64) {
            vec_prefetch(ahead + g * ahead_bytes + line);
        }
    }
    for (; step < before->steps; step++) {
        rows_step(j, before, step);
    }
}

static void rows_store(uint8_t *sums) {
    _tile_stored(0, sums, 64);
    _tile_stored(1, sums + BF16_TILE_BYTES, 64);
    _tile_stored(2, sums + 2 * BF16_TILE_BYTES, 64);
    _tile_stored(3, sums + 3 * BF16_TILE_BYTES, 64);
    BF16_WRITTEN();
}

/* Groups [from, from + count) of two tiles and all panels. `left`: of the squares before. */
static void rows_groups(const rows_job *j, int32_t from, int32_t count, int32_t tile, bool one_tile,
                        const uint8_t *ahead, int64_t ahead_bytes, rows_left *left) {
    const bool last = from + count == j->groups;
    for (int32_t p = 0; p < j->panels; p += 2) {
        const bool one_panel = p + 1 == j->panels;
        const uint8_t *x = j->first->pairs + p * j->panel_bytes + (int64_t)from * BF16_TILE_BYTES;
        uint8_t *sums = j->sums + p / 2 * ROWS_SQUARE_BYTES;
        uint8_t *to = last ? j->done : sums;
        bf16_load_sums(from == 0 ? NULL : sums);
        rows_square(j, x, one_panel ? x : x + j->panel_bytes, count, left, ahead,
                    p == 0 ? ahead_bytes : 0);
        rows_store(to);
        left->steps = 0;
        if (last) {
            *left = (rows_left){.sums = to,
                                .panel = p,
                                .tile = tile,
                                .steps = j->r->up != NULL ? ROWS_GATINGS : ROWS_TURNS,
                                .one_panel = one_panel,
                                .one_tile = one_tile};
        }
    }
}

#define ROWS_FORMAT(name, format, order)                                                    \
    static __attribute__((noinline)) void rows_make_##name(const uint8_t *w, int32_t count, \
                                                           uint8_t *to) {                   \
        const int32_t group_bytes = tile_shape_of(format).group_bytes;                      \
        for (int32_t g = 0; g < count; g++, w += group_bytes, to += BF16_TILE_BYTES) {      \
            const uint8_t *made = bf16_make(w, to, format, order);                          \
            if (made != to) {                                                               \
                memcpy(to, made, BF16_TILE_BYTES);                                          \
            }                                                                               \
        }                                                                                   \
    }
BF16_STORED(ROWS_FORMAT)

typedef void (*rows_maker)(const uint8_t *w, int32_t count, uint8_t *to);

#define ROWS_ENTRY(name, format, order) [order][format] = rows_make_##name,
static const rows_maker rows_makers[TILE_ORDERS][TILE_FORMATS] = {BF16_STORED(ROWS_ENTRY)};

/* Makes groups of a tile; returns where the weights go on. */
static const uint8_t *rows_make(const isa_linear *l, int32_t tile, int32_t from, int32_t count,
                                uint8_t *to) {
    const int64_t bytes = (int64_t)tile_bytes(l->format, l->inputs);
    const int32_t group_bytes = tile_shape_of(l->format).group_bytes;
    const uint8_t *w = l->weights + tile * bytes + (int64_t)from * group_bytes;
    rows_makers[l->order][l->format](w, count, to);
    return w + (int64_t)count * group_bytes;
}

void isa_amxrows_linear(const isa_rows *r, uint8_t *scratch) {
    const isa_linear *l = r->l;
    const rows_job j = {
        .first = l,
        .second = r->up != NULL ? r->up : l,
        .r = r,
        .panel_bytes = ISA_PANEL_ROWS * (int64_t)l->inputs * (int64_t)sizeof(uint16_t),
        .panels = (l->rows + ISA_PANEL_ROWS - 1) / ISA_PANEL_ROWS,
        .groups = l->inputs / TILE_GROUP,
        .made = scratch,
        .done = scratch + ROWS_MADE_BYTES,
        .sums = scratch + ROWS_MADE_BYTES + ROWS_SQUARE_BYTES,
    };
    const int32_t tiles = (l->outputs + TILE_OUTPUTS - 1) / TILE_OUTPUTS;
    const int32_t step = r->up != NULL ? 1 : 2;
    rows_left left = {0};
    isa_amx_configure(64, TILE_OUTPUTS);
    for (int32_t t = 0; t < tiles; t += step) {
        const bool one = r->up == NULL && t + 1 == tiles;
        for (int32_t g = 0; g < j.groups; g += ROWS_BLOCK_GROUPS) {
            const int32_t rest = j.groups - g;
            const int32_t count = rest < ROWS_BLOCK_GROUPS ? rest : ROWS_BLOCK_GROUPS;
            const int32_t second = r->up != NULL || one ? t : t + 1;
            (void)rows_make(j.first, t, g, count, j.made);
            const uint8_t *ahead =
                rows_make(j.second, second, g, count, j.made + ROWS_BLOCK_GROUPS * BF16_TILE_BYTES);
            BF16_WRITTEN();
            rows_groups(&j, g, count, t, one, ahead, tile_shape_of(j.second->format).group_bytes,
                        &left);
        }
    }
    for (int32_t s = 0; s < left.steps; s++) {
        rows_step(&j, &left, s);
    }
}
#endif
