/* isa_amxbf16.c -- linear operators with AMX-BF16: weights and activations rounded to bf16, sums in
 * f32. Compiled with that set's flags (CMakeLists.txt).
 *
 * A tile of weights is one group of 16 outputs x 32 inputs, made of a file's numbers right before
 * it is used (tile.h: TILE_BY_OUTPUT). The unit's sum of a row and an output does not depend on the
 * others, nor on which of the two operands is which: so every number of rows gives the same bits.
 *
 * Few rows stream: weights are the unit's rows, for it costs the same with 1 column of activations
 * as with 16. A group is made, and two groups later meets up to four panels of rows; sums come out
 * turned. Many rows block: the tiles of an item are made and turned for some groups ahead, and 32
 * rows after another meet them, two tiles and two panels at a time, so that four loads feed four
 * products; sums come out as they are wanted.
 */
#if defined(__x86_64__)
#define _GNU_SOURCE
#include <assert.h>
#include <cpuid.h>
#include <immintrin.h>

#include "kernels/cpu/vec_avx512.h"

#include "kernels/cpu/body_bf16.h"

enum {
    BF16_SLOTS = 4,         /* groups made and not yet used, in turn */
    BF16_LATE = 2,          /* groups from making one to its product: its stores must be over */
    BF16_BLOCK_GROUPS = 18, /* made at a time for many rows: two tiles of them fit L1 */
    BF16_AHEAD_BYTES = 4096,
    BF16_PANELS = ISA_PAIRS_NARROW_ROWS / ISA_PANEL_ROWS,
    BF16_ROWS_MAX = 512,
    BF16_TILES = 2, /* of many rows' products at a time */
    BF16_SUMS_BYTES = BF16_ROWS_MAX * BF16_TILES * TILE_OUTPUTS * 4,
    BF16_MADE_BYTES = BF16_TILES * BF16_BLOCK_GROUPS * BF16_TILE_BYTES
};
static_assert(BF16_PANELS == 4, "a register a panel");
static_assert(ISA_PAIRS_TILES % BF16_TILES == 0, "whole pairs");
static_assert(ISA_PAIRS_TILES / BF16_TILES * (BF16_MADE_BYTES + BF16_SUMS_BYTES) <=
                  ISA_SCRATCH_BYTES,
              "fits");

/* Rows as they are: tiles of [16 rows][32 inputs]. */
static void bf16_pack_rows(const float *x, int32_t inputs, int32_t rows, uint8_t *to) {
    for (int32_t r = 0; r < rows; r++, x += inputs) {
        for (int32_t k = 0; k < inputs; k += TILE_GROUP) {
            v64_store(to + k / TILE_GROUP * BF16_TILE_BYTES + 64 * r,
                      bf16_round_two(v16_load(x + k), v16_load(x + k + 16)));
        }
    }
}

static void bf16_pack(const float *x, int32_t inputs, int32_t rows, int32_t columns, uint8_t *to) {
    if (columns == 0) {
        bf16_pack_rows(x, inputs, rows, to);
        return;
    }
    const __mmask16 mask = (__mmask16)((1u << columns) - 1u);
    for (int32_t k = 0; k < inputs; k += TILE_GROUP) {
        v16 pairs[ISA_PANEL_ROWS];
        if (columns == 1) {
            v64_store(to, bf16_round_two(v16_load(x + k), v16_load(x + k + 16)));
            to += 64;
            continue;
        }
        UNROLL for (int r = 0; r < ISA_PANEL_ROWS; r++) {
            const float *row = x + (int64_t)(r < rows ? r : 0) * inputs + k;
            const __m512i rounded = bf16_round_two(v16_load(row), v16_load(row + 16));
            pairs[r] = r < rows ? v16_from_bits(rounded) : v16_zero();
        }
        bf16_transpose(pairs);
        UNROLL for (int i = 0; i < 16; i++, to += 4 * columns) {
            _mm512_mask_storeu_ps(to, mask, pairs[i]);
        }
    }
}

/* What a thread works on. */
typedef struct {
    const isa_linear *l;
    const uint8_t *panels; /* of the first row */
    int64_t panel_bytes;   /* of 16 rows */
    int64_t stride;        /* of a pair of inputs */
    int32_t groups;
    uint8_t *made, *sums;
} bf16_job;

/* Sums of one register, stored at `sums` [16 outputs][16 rows], to the rows they belong to. */
static __attribute__((noinline)) void bf16_finish(const isa_linear *l, const uint8_t *sums,
                                                  int32_t tile, int32_t row) {
    const int32_t left = l->row_first + l->rows - row;
    const int32_t rows = left < ISA_PANEL_ROWS ? left : ISA_PANEL_ROWS;
    v16 column[16];
    if (l->columns == 1) {
        group_finish(l, v16_load((const float *)(const void *)sums), row, tile * TILE_OUTPUTS);
        return;
    }
    UNROLL for (int i = 0; i < 16; i++) {
        column[i] = v16_load((const float *)(const void *)(sums + 64 * i));
    }
    bf16_transpose(column);
    float out[ISA_PANEL_ROWS][TILE_OUTPUTS];
    UNROLL for (int i = 0; i < 16; i++) {
        v16_store(out[i], column[i]);
    }
    for (int32_t r = 0; r < rows; r++) {
        group_finish(l, v16_load(out[r]), row + r, tile * TILE_OUTPUTS);
    }
}

/* Group g of up to four panels meets the weights at `a`. */
BODY_INLINE void bf16_meet(const bf16_job *j, const uint8_t *a, int32_t g, const int32_t panels) {
    const uint8_t *b = j->panels + (int64_t)g * 16 * j->stride;
    _tile_loadd(4, a, 64);
    _tile_loadd(6, b, j->stride);
    _tile_dpbf16ps(0, 4, 6);
    if (panels > 1) {
        _tile_loadd(7, b + j->panel_bytes, j->stride);
        _tile_dpbf16ps(1, 4, 7);
    }
    if (panels > 2) {
        _tile_loadd(6, b + 2 * j->panel_bytes, j->stride);
        _tile_dpbf16ps(2, 4, 6);
    }
    if (panels > 3) {
        _tile_loadd(7, b + 3 * j->panel_bytes, j->stride);
        _tile_dpbf16ps(3, 4, 7);
    }
}

/* One tile's sums of all rows, to `sums`. */
BODY_INLINE void bf16_stream(const bf16_job *j, const uint8_t *w, uint8_t *sums,
                             const int32_t panels, const tile_format format,
                             const tile_order order) {
    const int32_t group_bytes = tile_shape_of(format).group_bytes;
    const uint8_t *at[BF16_SLOTS] = {0};
    const int64_t stride = j->l->columns == 1 ? 4 : 64;
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    for (int32_t g = 0; g < j->groups + BF16_LATE; g++) {
        if (g < j->groups) {
            UNROLL for (int32_t line = 0; line < group_bytes; line += 64) {
                vec_prefetch(w + BF16_AHEAD_BYTES + line);
            }
            at[g % BF16_SLOTS] =
                bf16_make(w, j->made + g % BF16_SLOTS * BF16_TILE_BYTES, format, order);
            w += group_bytes;
        }
        BF16_WRITTEN();
        if (g >= BF16_LATE) {
            bf16_meet(j, at[(g - BF16_LATE) % BF16_SLOTS], g - BF16_LATE, panels);
        }
    }
    _tile_stored(0, sums, stride);
    if (panels > 1) {
        _tile_stored(1, sums + BF16_TILE_BYTES, stride);
    }
    if (panels > 2) {
        _tile_stored(2, sums + 2 * BF16_TILE_BYTES, stride);
    }
    if (panels > 3) {
        _tile_stored(3, sums + 3 * BF16_TILE_BYTES, stride);
    }
    BF16_WRITTEN();
}

BODY_INLINE void bf16_stream_panels(const bf16_job *j, const uint8_t *w, uint8_t *sums,
                                    const tile_format format, const tile_order order) {
    switch ((j->l->rows + ISA_PANEL_ROWS - 1) / ISA_PANEL_ROWS) {
        case 1:
            bf16_stream(j, w, sums, 1, format, order);
            return;
        case 2:
            bf16_stream(j, w, sums, 2, format, order);
            return;
        case 3:
            bf16_stream(j, w, sums, 3, format, order);
            return;
        default:
            bf16_stream(j, w, sums, 4, format, order);
            return;
    }
}

/* `count` groups of a tile at `w`, turned to what a product takes on its other side: [16 pairs of
 * inputs][16 outputs]. */
BODY_INLINE void bf16_make_block(const uint8_t *w, int32_t count, uint8_t *to,
                                 const tile_format format, const tile_order order) {
    const int32_t group_bytes = tile_shape_of(format).group_bytes;
    for (int32_t g = 0; g < count; g++, w += group_bytes, to += BF16_TILE_BYTES) {
        const uint8_t *made = bf16_make(w, to, format, order);
        v16 pairs[16];
        UNROLL for (int i = 0; i < 16; i++) {
            pairs[i] = v16_load((const float *)(const void *)(made + 64 * i));
        }
        bf16_transpose(pairs);
        UNROLL for (int i = 0; i < 16; i++) {
            v16_store((float *)(void *)(to + 64 * i), pairs[i]);
        }
    }
}

#define BF16_FORMAT(name, format, order)                                                          \
    static __attribute__((noinline)) void bf16_stream_##name(const bf16_job *j, const uint8_t *w, \
                                                             uint8_t *sums) {                     \
        bf16_stream_panels(j, w, sums, format, order);                                            \
    }                                                                                             \
    static __attribute__((noinline)) void bf16_block_##name(const uint8_t *w, int32_t count,      \
                                                            uint8_t *to) {                        \
        bf16_make_block(w, count, to, format, order);                                             \
    }
BF16_STORED(BF16_FORMAT)

/* F32 never comes here, and 16-bit floats by inputs neither. */
typedef struct {
    void (*stream)(const bf16_job *j, const uint8_t *w, uint8_t *sums);
    void (*block)(const uint8_t *w, int32_t count, uint8_t *to);
} bf16_format;

#define BF16_ENTRY(name, format, order) [order][format] = {bf16_stream_##name, bf16_block_##name},
static const bf16_format bf16_formats[TILE_ORDERS][TILE_FORMATS] = {BF16_STORED(BF16_ENTRY)};

/* A block of groups of one or two tiles meets one or two panels. Registers 0 and 1 are the first
 * panel's sums, 2 and 3 the second's. */
BODY_INLINE void bf16_square(const bf16_job *j, const uint8_t *x, int32_t count, const bool tiles,
                             const bool panels) {
    const uint8_t *w = j->made, *w2 = w + BF16_BLOCK_GROUPS * BF16_TILE_BYTES;
    const uint8_t *x2 = x + j->panel_bytes;
    for (int32_t g = 0; g < count; g++) {
        const int64_t at = (int64_t)g * BF16_TILE_BYTES;
        _tile_loadd(4, x + at, 64);
        _tile_loadd(6, w + at, 64);
        _tile_dpbf16ps(0, 4, 6);
        if (tiles) {
            _tile_loadd(7, w2 + at, 64);
            _tile_dpbf16ps(1, 4, 7);
        }
        if (panels) {
            _tile_loadd(5, x2 + at, 64);
            _tile_dpbf16ps(2, 5, 6);
            if (tiles) {
                _tile_dpbf16ps(3, 5, 7);
            }
        }
    }
}

/* The same with sums that come from memory, unless they begin here, and go back. */
BODY_INLINE void bf16_square_sums(const bf16_job *j, const uint8_t *x, int32_t count, bool first,
                                  uint8_t *sums, const bool tiles, const bool panels) {
    bf16_load_sums(first ? NULL : sums);
    bf16_square(j, x, count, tiles, panels);
    _tile_stored(0, sums, 64);
    if (tiles) {
        _tile_stored(1, sums + BF16_TILE_BYTES, 64);
    }
    if (panels) {
        _tile_stored(2, sums + 2 * BF16_TILE_BYTES, 64);
    }
    if (tiles && panels) {
        _tile_stored(3, sums + 3 * BF16_TILE_BYTES, 64);
    }
    BF16_WRITTEN();
}

/* What a block of groups does for rows [row, row + 32) of the item. */
typedef struct {
    int32_t tiles, row, rows;
    uint8_t *sums; /* of the tiles, all rows */
    int32_t group, count;
    bool first, last;
} bf16_step;

static uint8_t *bf16_sums(const bf16_step *s) {
    return s->sums + (int64_t)s->row * BF16_TILES * TILE_OUTPUTS * (int64_t)sizeof(float);
}

static void bf16_step_run(const bf16_job *j, const bf16_step *s) {
    const int32_t panel = s->row / ISA_PANEL_ROWS;
    const uint8_t *x = j->panels + panel * j->panel_bytes + (int64_t)s->group * BF16_TILE_BYTES;
    uint8_t *sums = bf16_sums(s);
    const bool pair = s->rows > ISA_PANEL_ROWS;
    if (s->tiles > 1 && pair) {
        bf16_square_sums(j, x, s->count, s->first, sums, true, true);
    } else if (s->tiles > 1) {
        bf16_square_sums(j, x, s->count, s->first, sums, true, false);
    } else {
        bf16_square_sums(j, x, s->count, s->first, sums, false, pair);
    }
}

/* Sums of 32 rows and all tiles to their rows, each row's in one run: rows of many models' outputs
 * lie multiples of 4096 bytes apart, and column by column they would fight for one set of L1. */
static void bf16_rows_finish(const bf16_job *j, const bf16_step *s) {
    const isa_linear *l = j->l;
    const int64_t row_floats = (int64_t)BF16_TILES * TILE_OUTPUTS;
    for (int32_t r = 0; r < s->rows; r++) {
        const int32_t at = r / ISA_PANEL_ROWS * 2 * ISA_PANEL_ROWS + r % ISA_PANEL_ROWS;
        const float *sums =
            (const float *)(const void *)j->sums + s->row * row_floats + (int64_t)at * TILE_OUTPUTS;
        for (int32_t t = 0; t < l->tiles; t++) {
            const float *from = sums + t / BF16_TILES * (BF16_SUMS_BYTES / 4) +
                                t % BF16_TILES * ISA_PANEL_ROWS * TILE_OUTPUTS;
            group_finish(l, v16_load(from), l->row_first + s->row + r,
                         (l->tile_first + t) * TILE_OUTPUTS);
        }
    }
}

/* Brings in the lines that some of the next rows' outputs will be written to. */
static void bf16_fetch_out(const bf16_job *j, const bf16_step *s, int32_t part, int32_t parts) {
    const isa_linear *l = j->l;
    const int32_t first = s->rows * part / parts, end = s->rows * (part + 1) / parts;
    for (int32_t r = first; r < end; r++) {
        const float *out = l->out + (int64_t)(l->row_first + s->row + r) * l->outputs +
                           l->tile_first * TILE_OUTPUTS;
        for (int32_t t = 0; t < l->tiles; t++) {
            __builtin_prefetch(out + t * TILE_OUTPUTS, 1);
        }
    }
}

/* Rows [row, row + 32) of a block of groups, all tiles. */
static void bf16_rows(const bf16_job *j, bf16_step s) {
    const isa_linear *l = j->l;
    bf16_job pair = *j;
    for (int32_t t = 0; t < l->tiles; t += BF16_TILES) {
        s.tiles = l->tiles - t < BF16_TILES ? l->tiles - t : BF16_TILES;
        s.sums = j->sums + t / BF16_TILES * BF16_SUMS_BYTES;
        if (s.last) {
            bf16_fetch_out(j, &s, t / BF16_TILES, (l->tiles + BF16_TILES - 1) / BF16_TILES);
        }
        bf16_step_run(&pair, &s);
        pair.made += BF16_MADE_BYTES;
    }
    if (s.last) {
        bf16_rows_finish(j, &s);
    }
}

/* Groups [g, g + count) of the item's tiles: all are made, and meet 32 rows after another, so that
 * what is read again and again is small and lies in the second-level cache. */
static void bf16_block_groups(const bf16_job *j, int32_t g, int32_t count) {
    enum { ROWS = 2 * ISA_PANEL_ROWS };
    const isa_linear *l = j->l;
    const int64_t bytes = (int64_t)tile_bytes(l->format, l->inputs);
    const int32_t group_bytes = tile_shape_of(l->format).group_bytes;
    for (int32_t t = 0; t < l->tiles; t++) {
        bf16_formats[l->order][l->format].block(
            l->weights + (l->tile_first + t) * bytes + (int64_t)g * group_bytes, count,
            j->made + t * BF16_BLOCK_GROUPS * BF16_TILE_BYTES);
    }
    BF16_WRITTEN();
    for (int32_t row = 0; row < l->rows; row += ROWS) {
        const int32_t left = l->rows - row;
        bf16_rows(j, (bf16_step){.row = row,
                                 .rows = left < ROWS ? left : ROWS,
                                 .group = g,
                                 .count = count,
                                 .first = g == 0,
                                 .last = g + count == j->groups});
    }
}

/* All tiles meet a block of groups before the next, for the second-level cache holds the
 * activations of one block, but not of all. */
static void bf16_block(const bf16_job *j) {
    for (int32_t g = 0; g < j->groups; g += BF16_BLOCK_GROUPS) {
        const int32_t left = j->groups - g;
        bf16_block_groups(j, g, left < BF16_BLOCK_GROUPS ? left : BF16_BLOCK_GROUPS);
    }
}

static void bf16_stream_finish(const bf16_job *j, const uint8_t *sums, int32_t tile) {
    for (int32_t r = 0; r < j->l->rows; r += ISA_PANEL_ROWS) {
        bf16_finish(j->l, sums + r / ISA_PANEL_ROWS * BF16_TILE_BYTES, tile, j->l->row_first + r);
    }
}

/* A tile is finished after the next one's products were begun: its last sums take a while. */
static void bf16_few(const bf16_job *j) {
    const isa_linear *l = j->l;
    const uint64_t bytes = tile_bytes(l->format, l->inputs);
    const int32_t end = l->tile_first + l->tiles;
    for (int32_t t = l->tile_first; t <= end; t++) {
        if (t < end) {
            bf16_formats[l->order][l->format].stream(
                j, l->weights + (uint64_t)t * bytes,
                j->sums + t % 2 * BF16_PANELS * BF16_TILE_BYTES);
        }
        if (t > l->tile_first) {
            bf16_stream_finish(j, j->sums + (t - 1) % 2 * BF16_PANELS * BF16_TILE_BYTES, t - 1);
        }
    }
}

static void bf16_linear(const isa_linear *l, uint8_t *scratch) {
    const bf16_job j = {
        .l = l,
        .panels = l->pairs + (int64_t)l->row_first * l->inputs * (int64_t)sizeof(uint16_t),
        .panel_bytes = ISA_PANEL_ROWS * (int64_t)l->inputs * (int64_t)sizeof(uint16_t),
        .stride = 4 * (int64_t)l->columns,
        .groups = l->inputs / TILE_GROUP,
        .made = scratch,
        .sums = scratch + ISA_PAIRS_TILES / BF16_TILES * BF16_MADE_BYTES,
    };
    isa_amx_configure(64, l->columns == 0 ? TILE_OUTPUTS : l->columns);
    if (l->columns == 0) {
        bf16_block(&j);
    } else {
        bf16_few(&j);
    }
}

bool isa_amxbf16_usable(void) {
    unsigned a = 0, b = 0, c = 0, d = 0;
    const bool tiles = __get_cpuid_count(7, 0, &a, &b, &c, &d) != 0 && (d & bit_AMX_BF16) != 0;
    return tiles && __get_cpuid_count(7, 1, &a, &b, &c, &d) != 0 && (a & bit_AVX512BF16) != 0;
}

const isa_pairs isa_amxbf16_pairs = {bf16_pack, bf16_linear, isa_amxrows_linear,
                                     isa_amxflash_attention};
#endif
