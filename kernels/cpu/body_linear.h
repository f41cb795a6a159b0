/* body_linear.h -- matrix products, written once over vec_*.h.
 *
 * Purpose    Two kernels for int8 activations and one for f32. The arithmetic of an output is the
 *            same in all of them, for any rows: groups of 32 inputs ascending,
 *                acc = fma(float(exact integer dot), weight scale * activation scale, acc)
 *                acc = fma(minimum, activation scale * activation sum, acc)   with minimums
 *            and for f32 activations inputs ascending, acc = fma(weight, x, acc).
 * Ownership  Included by isa_*.c only, after body_rows.h.
 * Threads    As isa.h.
 * Limits     As isa.h.
 *
 * Few rows stream: each group is unpacked in registers, once for VEC_NARROW_ROWS rows, and comes
 * from memory while the one before is computed. Many rows block: VEC_TILES tiles are unpacked to
 * first-level cache once for a block of rows, and products run over VEC_ROWS rows of them in
 * registers, so that a load feeds several products; until they are many, the wait for the weights
 * and their unpacking costs more than that saves (VEC_STREAM_ROWS).
 */

enum {
    LINEAR_WIDE_ROWS = 4, /* at most, of a register block on any instruction set */
    LINEAR_GROUP_BYTES = 8 * TILE_BLOCK_BYTES + 2 * 64, /* one tile's unpacked group */
    LINEAR_UNPACKED_BYTES = ISA_BLOCK_GROUPS * ISA_WIDE_TILES * LINEAR_GROUP_BYTES,
    LINEAR_ACC_FLOATS = ISA_BLOCK_ROWS * ISA_WIDE_TILES * TILE_OUTPUTS,
    LINEAR_ACC_STRIDE = ISA_WIDE_TILES * TILE_OUTPUTS,
    LINEAR_PREFETCH_BYTES = 4096 /* ahead of a stream: measured best from 3 to 5 KiB */
};
static_assert(LINEAR_UNPACKED_BYTES + LINEAR_ACC_FLOATS * 4 <= ISA_SCRATCH_BYTES, "fits");
static_assert(ISA_BLOCK_INPUTS * ISA_WIDE_TILES * 64 + LINEAR_ACC_FLOATS * 4 <= ISA_SCRATCH_BYTES,
              "fits");

/* What the integer sum of a row starts from. */
BODY_INLINE int32_t linear_offset(const isa_panel *p, int32_t lane, tile_mode mode) {
    switch (mode) {
        case TILE_MINIMUM:
            return 0;
        case TILE_ZERO8: /* -128 sum / 16 = -8 sum */
            return p->offset[lane] / 16;
        case TILE_ZERO128:
            return p->offset[lane];
        case TILE_ZERO128_HALF:
            break;
    }
    return p->offset_low[lane];
}

BODY_INLINE int32_t linear_offset_high(const isa_panel *p, int32_t lane) {
    return p->offset[lane] - p->offset_low[lane];
}

BODY_INLINE v16 linear_step(v16 acc, v16i dot, v16 scale, float activation_scale) {
    return v16_fma(v16_from_int(dot), v16_mul(scale, v16_set(activation_scale)), acc);
}

/* One group, one row. Two chains of four products hide their latency; integers, so any order. */
BODY_INLINE v16 linear_group_row(const weight_group *g, const isa_panel *p, int32_t lane, v16 acc,
                                 tile_mode mode) {
    const bool wide = mode == TILE_ZERO128 || mode == TILE_ZERO128_HALF;
    const bool half = mode == TILE_ZERO128_HALF;
    const int8_t *a = p->quant[lane];
    v16i low = vdot_start(linear_offset(p, lane, mode), wide);
    v16i high = vdot_start(half ? linear_offset_high(p, lane) : 0, wide);
    UNROLL for (int t = 0; t < 4; t++) {
        low = vdot_add(low, g->quant[t], vquad_load_once(a + 4 * t), wide);
        high = vdot_add(high, g->quant[t + 4], vquad_load_once(a + 16 + 4 * t), wide);
    }
    if (half) {
        acc = linear_step(acc, low, g->scale, p->scale[lane]);
        return linear_step(acc, high, g->second, p->scale[lane]);
    }
    acc = linear_step(acc, v16i_add(low, high), g->scale, p->scale[lane]);
    if (mode == TILE_MINIMUM) {
        acc = v16_fma(g->second, v16_set(p->scaled_sum[lane]), acc);
    }
    return acc;
}

/* Streaming: 1 .. VEC_NARROW_ROWS rows, one tile. */
BODY_INLINE void linear_narrow_tile(const isa_linear *l, const uint8_t *w, int32_t tile,
                                    const int32_t rows, const tile_format format) {
    const tile_shape s = tile_shape_of(format);
    const int32_t groups = l->inputs / TILE_GROUP;
    const isa_panel *panel = l->panels + (int64_t)(l->row_first / ISA_PANEL_ROWS) * groups;
    v16 acc[VEC_NARROW_ROWS];
    UNROLL for (int r = 0; r < rows; r++) {
        acc[r] = v16_zero();
    }
    for (int32_t g = 0; g < groups; g++, w += s.group_bytes, panel++) {
        UNROLL for (int32_t line = 0; line < s.group_bytes; line += 64) {
            vec_prefetch(w + LINEAR_PREFETCH_BYTES + line);
        }
        const weight_group group = group_unpack(w, s.mode, s.nibbles, s.scale_f32);
        UNROLL for (int r = 0; r < rows; r++) {
            acc[r] = linear_group_row(&group, panel + (r / ISA_PANEL_ROWS) * groups,
                                      r % ISA_PANEL_ROWS, acc[r], s.mode);
        }
    }
    UNROLL for (int r = 0; r < rows; r++) {
        group_finish(l, acc[r], l->row_first + r, tile * TILE_OUTPUTS);
    }
}

#define LINEAR_NARROW_CASE(rows)                      \
    case rows:                                        \
        linear_narrow_tile(l, w, tile, rows, format); \
        return;

BODY_INLINE void linear_narrow_rows(const isa_linear *l, const uint8_t *w, int32_t tile,
                                    const tile_format format) {
    static_assert(VEC_NARROW_ROWS == 8 || VEC_NARROW_ROWS == 16, "a case a row count");
    switch (l->rows) {
        LINEAR_NARROW_CASE(1)
        LINEAR_NARROW_CASE(2)
        LINEAR_NARROW_CASE(3)
        LINEAR_NARROW_CASE(4)
        LINEAR_NARROW_CASE(5)
        LINEAR_NARROW_CASE(6)
        LINEAR_NARROW_CASE(7)
        LINEAR_NARROW_CASE(8)
        default:
            break;
    }
    if (VEC_NARROW_ROWS > 8) {
        switch (l->rows) {
            LINEAR_NARROW_CASE(9)
            LINEAR_NARROW_CASE(10)
            LINEAR_NARROW_CASE(11)
            LINEAR_NARROW_CASE(12)
            LINEAR_NARROW_CASE(13)
            LINEAR_NARROW_CASE(14)
            LINEAR_NARROW_CASE(15)
            LINEAR_NARROW_CASE(16)
            default:
                break;
        }
    }
}

#define LINEAR_NARROW(name, format)                                                   \
    static __attribute__((noinline)) void name(const isa_linear *l, const uint8_t *w, \
                                               int32_t tile) {                        \
        linear_narrow_rows(l, w, tile, format);                                       \
    }

LINEAR_NARROW(linear_narrow_q4_0, TILE_Q4_0)
LINEAR_NARROW(linear_narrow_q4_1, TILE_Q4_1)
LINEAR_NARROW(linear_narrow_q4_k, TILE_Q4_K)
LINEAR_NARROW(linear_narrow_q5_1, TILE_Q5_1)
LINEAR_NARROW(linear_narrow_q5_k, TILE_Q5_K)
LINEAR_NARROW(linear_narrow_q8_0, TILE_Q8_0)
LINEAR_NARROW(linear_narrow_q6_k, TILE_Q6_K)

static void linear_narrow(const isa_linear *l) {
    static void (*const kernels[])(const isa_linear *, const uint8_t *, int32_t) = {
        linear_narrow_q4_0, linear_narrow_q4_1, linear_narrow_q4_k, linear_narrow_q5_1,
        linear_narrow_q5_k, linear_narrow_q8_0, linear_narrow_q6_k};
    const uint64_t bytes = tile_bytes(l->format, l->inputs);
    for (int32_t t = l->tile_first; t < l->tile_first + l->tiles; t++) {
        for (int32_t r = 0; r < l->rows; r += VEC_NARROW_ROWS) {
            isa_linear part = *l;
            part.row_first += r;
            part.rows = l->rows - r < VEC_NARROW_ROWS ? l->rows - r : VEC_NARROW_ROWS;
            kernels[l->format](&part, l->weights + (uint64_t)t * bytes, t);
        }
    }
}

/* Unpacks groups [from, to) of `tiles` tiles. Group of scratch: for each block the tiles side by
 * side, then their scales, then their minimums or second scales, all f32. */
static void linear_unpack_block(const isa_linear *l, int32_t tile, int32_t tiles, int32_t from,
                                int32_t to, uint8_t *scratch) {
    const tile_shape s = tile_shape_of(l->format);
    const uint64_t bytes = tile_bytes(l->format, l->inputs);
    for (int32_t g = from; g < to; g++, scratch += LINEAR_GROUP_BYTES * tiles) {
        for (int32_t v = 0; v < tiles; v++) {
            const uint8_t *w =
                l->weights + (uint64_t)(tile + v) * bytes + (uint64_t)g * (uint64_t)s.group_bytes;
            const weight_group u = group_unpack(w, s.mode, s.nibbles, s.scale_f32);
            UNROLL for (int t = 0; t < 8; t++) {
                v64_store(scratch + TILE_BLOCK_BYTES * (t * tiles + v), u.quant[t]);
            }
            float *scales = (float *)(void *)(scratch + 8 * TILE_BLOCK_BYTES * tiles);
            v16_store(scales + 16 * v, u.scale);
            v16_store(scales + 16 * (tiles + v), u.second);
        }
    }
}

/* Integer sums of a quarter or half of a group: blocks [from, to). */
BODY_INLINE void linear_wide_dots(v16i dot[VEC_ROWS][VEC_TILES], const uint8_t *w,
                                  const isa_panel *p, int32_t lane, const int32_t rows,
                                  const int32_t tiles, const int from, const int to,
                                  const bool wide) {
    UNROLL for (int t = from; t < to; t++) {
        v64 q[VEC_TILES];
        UNROLL for (int v = 0; v < tiles; v++) {
            q[v] = v64_load(w + TILE_BLOCK_BYTES * (t * tiles + v));
        }
        UNROLL for (int r = 0; r < rows; r++) {
            const vquad a = vquad_load(p->quant[lane + r] + 4 * t);
            UNROLL for (int v = 0; v < tiles; v++) {
                dot[r][v] = vdot_add(dot[r][v], q[v], a, wide);
            }
        }
    }
}

BODY_INLINE void linear_wide_steps(v16 acc[VEC_ROWS][VEC_TILES], v16i dot[VEC_ROWS][VEC_TILES],
                                   const float *scales, const isa_panel *p, int32_t lane,
                                   const int32_t rows, const int32_t tiles) {
    UNROLL for (int v = 0; v < tiles; v++) {
        const v16 scale = v16_load(scales + 16 * v);
        UNROLL for (int r = 0; r < rows; r++) {
            acc[r][v] = linear_step(acc[r][v], dot[r][v], scale, p->scale[lane + r]);
        }
    }
}

/* Blocked: `rows` rows of a panel from `lane` on, and `tiles` tiles over `groups` unpacked
 * groups. `acc_at` [rows][LINEAR_ACC_STRIDE] holds the sums between blocks of groups. */
BODY_INLINE void linear_wide_block(const uint8_t *w, const isa_panel *p, int32_t lane,
                                   int32_t groups, float *acc_at, bool first, const int32_t rows,
                                   const int32_t tiles, const tile_mode mode) {
    const bool wide = mode == TILE_ZERO128 || mode == TILE_ZERO128_HALF;
    const bool half = mode == TILE_ZERO128_HALF;
    v16 acc[VEC_ROWS][VEC_TILES];
    UNROLL for (int r = 0; r < rows; r++) {
        UNROLL for (int v = 0; v < tiles; v++) {
            acc[r][v] = first ? v16_zero() : v16_load(acc_at + r * LINEAR_ACC_STRIDE + 16 * v);
        }
    }
    for (int32_t g = 0; g < groups; g++, p++, w += LINEAR_GROUP_BYTES * tiles) {
        const float *scales = (const float *)(const void *)(w + 8 * TILE_BLOCK_BYTES * tiles);
        v16i dot[VEC_ROWS][VEC_TILES];
        UNROLL for (int r = 0; r < rows; r++) {
            UNROLL for (int v = 0; v < tiles; v++) {
                dot[r][v] = vdot_start(linear_offset(p, lane + r, mode), wide);
            }
        }
        linear_wide_dots(dot, w, p, lane, rows, tiles, 0, half ? 4 : 8, wide);
        linear_wide_steps(acc, dot, scales, p, lane, rows, tiles);
        if (half) {
            UNROLL for (int r = 0; r < rows; r++) {
                UNROLL for (int v = 0; v < tiles; v++) {
                    dot[r][v] = vdot_start(linear_offset_high(p, lane + r), wide);
                }
            }
            linear_wide_dots(dot, w, p, lane, rows, tiles, 4, 8, wide);
            linear_wide_steps(acc, dot, scales + 16 * tiles, p, lane, rows, tiles);
        }
        if (mode == TILE_MINIMUM) {
            UNROLL for (int v = 0; v < tiles; v++) {
                const v16 minimum = v16_load(scales + 16 * (tiles + v));
                UNROLL for (int r = 0; r < rows; r++) {
                    acc[r][v] = v16_fma(minimum, v16_set(p->scaled_sum[lane + r]), acc[r][v]);
                }
            }
        }
    }
    UNROLL for (int r = 0; r < rows; r++) {
        UNROLL for (int v = 0; v < tiles; v++) {
            v16_store(acc_at + r * LINEAR_ACC_STRIDE + 16 * v, acc[r][v]);
        }
    }
}

typedef void (*linear_wide_fn)(const uint8_t *w, const isa_panel *p, int32_t lane, int32_t groups,
                               float *acc_at, bool first);

/* One function a shape and mode; shapes the instruction set does not use are never named. */
#define LINEAR_WIDE(name, rows, tiles, mode)                                                       \
    static __attribute__((noinline)) void name(const uint8_t *w, const isa_panel *p, int32_t lane, \
                                               int32_t groups, float *acc_at, bool first) {        \
        linear_wide_block(w, p, lane, groups, acc_at, first,                                       \
                          (rows) < VEC_ROWS ? (rows) : VEC_ROWS,                                   \
                          (tiles) < VEC_TILES ? (tiles) : VEC_TILES, mode);                        \
    }
#define LINEAR_WIDE_ROWS(mode_name, tiles, mode)                     \
    LINEAR_WIDE(linear_wide_##mode_name##_1x##tiles, 1, tiles, mode) \
    LINEAR_WIDE(linear_wide_##mode_name##_2x##tiles, 2, tiles, mode) \
    LINEAR_WIDE(linear_wide_##mode_name##_3x##tiles, 3, tiles, mode) \
    LINEAR_WIDE(linear_wide_##mode_name##_4x##tiles, 4, tiles, mode)
#define LINEAR_WIDE_MODE(mode_name, mode) \
    LINEAR_WIDE_ROWS(mode_name, 1, mode)  \
    LINEAR_WIDE_ROWS(mode_name, 2, mode)  \
    LINEAR_WIDE_ROWS(mode_name, 3, mode)

LINEAR_WIDE_MODE(minimum, TILE_MINIMUM)
LINEAR_WIDE_MODE(zero8, TILE_ZERO8)
LINEAR_WIDE_MODE(zero128, TILE_ZERO128)
LINEAR_WIDE_MODE(half, TILE_ZERO128_HALF)

#define LINEAR_WIDE_LIST(mode_name, tiles)                                           \
    {                                                                                \
        linear_wide_##mode_name##_1x##tiles, linear_wide_##mode_name##_2x##tiles,    \
            linear_wide_##mode_name##_3x##tiles, linear_wide_##mode_name##_4x##tiles \
    }
#define LINEAR_WIDE_TABLE(mode_name)                                    \
    {                                                                   \
        LINEAR_WIDE_LIST(mode_name, 1), LINEAR_WIDE_LIST(mode_name, 2), \
            LINEAR_WIDE_LIST(mode_name, 3)                              \
    }

/* By mode, tiles - 1, rows - 1. */
static const linear_wide_fn linear_wide_kernels[4][ISA_WIDE_TILES][LINEAR_WIDE_ROWS] = {
    LINEAR_WIDE_TABLE(minimum), LINEAR_WIDE_TABLE(zero8), LINEAR_WIDE_TABLE(zero128),
    LINEAR_WIDE_TABLE(half)};

static void linear_finish_block(const isa_linear *l, const float *acc, int32_t tile,
                                int32_t tiles) {
    for (int32_t r = 0; r < l->rows; r++) {
        for (int32_t v = 0; v < tiles; v++) {
            group_finish(l, v16_load(acc + r * LINEAR_ACC_STRIDE + 16 * v), l->row_first + r,
                         (tile + v) * TILE_OUTPUTS);
        }
    }
}

static void linear_wide(const isa_linear *l, uint8_t *scratch) {
    const tile_mode mode = tile_shape_of(l->format).mode;
    const int32_t groups = l->inputs / TILE_GROUP, end = l->tile_first + l->tiles;
    float *acc = (float *)(void *)(scratch + LINEAR_UNPACKED_BYTES);
    for (int32_t tile = l->tile_first; tile < end; tile += VEC_TILES) {
        const int32_t tiles = end - tile < VEC_TILES ? end - tile : VEC_TILES;
        for (int32_t g = 0; g < groups; g += ISA_BLOCK_GROUPS) {
            const int32_t left = groups - g;
            const int32_t count = left < ISA_BLOCK_GROUPS ? left : ISA_BLOCK_GROUPS;
            linear_unpack_block(l, tile, tiles, g, g + count, scratch);
            for (int32_t r = 0; r < l->rows; r += VEC_ROWS) {
                const int32_t rows = l->rows - r < VEC_ROWS ? l->rows - r : VEC_ROWS;
                const int64_t panel = (l->row_first + r) / ISA_PANEL_ROWS;
                linear_wide_kernels[mode][tiles - 1][rows - 1](
                    scratch, l->panels + panel * groups + g, r % ISA_PANEL_ROWS, count,
                    acc + r * LINEAR_ACC_STRIDE, g == 0);
            }
        }
        linear_finish_block(l, acc, tile, tiles);
    }
}

static void linear_int8(const isa_linear *l, uint8_t *scratch) {
    if (l->rows <= VEC_STREAM_ROWS) {
        linear_narrow(l);
    } else {
        linear_wide(l, scratch);
    }
}

/* One group of 32 inputs to f32: weight = scale * (quant - zero) + minimum; the product is exact.
 */
static void linear_dequant_group(tile_format format, const uint8_t *w, float *to, int32_t stride) {
    const tile_shape s = tile_shape_of(format);
    const weight_group u = group_unpack(w, s.mode, s.nibbles, s.scale_f32);
    const v16i zero = v16i_set(s.mode == TILE_MINIMUM ? 0 : s.mode == TILE_ZERO8 ? 8 : 128);
    const bool half = s.mode == TILE_ZERO128_HALF;
    for (int k = 0; k < TILE_GROUP; k++) {
        const v16 q = v16_from_int(v16i_sub(v64_byte(u.quant[k / 4], k % 4), zero));
        v16 value = v16_mul(q, half && k >= 16 ? u.second : u.scale);
        if (s.mode == TILE_MINIMUM) {
            value = v16_add(value, u.second);
        }
        v16_store(to + k * stride, value);
    }
}

/* Inputs [from, to) of one tile to f32. */
static void linear_dequant(const isa_linear *l, int32_t tile, int32_t from, int32_t to, float *out,
                           int32_t stride) {
    const uint8_t *w = l->weights + (uint64_t)tile * tile_bytes(l->format, l->inputs);
    const tile_shape s = tile_shape_of(l->format);
    if (!s.plain) {
        for (int32_t k = from; k < to; k += TILE_GROUP, out += TILE_GROUP * stride) {
            linear_dequant_group(l->format, w + (int64_t)(k / TILE_GROUP) * s.group_bytes, out,
                                 stride);
        }
        return;
    }
    for (int32_t k = from; k < to; k++, out += stride) {
        const size_t at = (size_t)k * TILE_OUTPUTS;
        const uint16_t *half = (const uint16_t *)(const void *)w + at;
        if (l->format == TILE_F32) {
            v16_store(out, v16_load((const float *)(const void *)w + at));
        } else {
            v16_store(out, l->format == TILE_F16 ? v16_load_f16(half) : v16_load_bf16(half));
        }
    }
}

/* `rows` rows x `tiles` tiles over `count` inputs at `w` [count][tiles * 16]. */
BODY_INLINE void linear_float_block(const float *w, const float *x, int32_t inputs, int32_t count,
                                    float *acc_at, bool first, const int32_t rows,
                                    const int32_t tiles) {
    v16 acc[VEC_FLOAT_ROWS][VEC_TILES];
    UNROLL for (int r = 0; r < rows; r++) {
        UNROLL for (int v = 0; v < tiles; v++) {
            acc[r][v] = first ? v16_zero() : v16_load(acc_at + r * LINEAR_ACC_STRIDE + 16 * v);
        }
    }
    for (int32_t k = 0; k < count; k++, w += 16 * tiles) {
        UNROLL for (int r = 0; r < rows; r++) {
            const v16 a = v16_set(x[(int64_t)r * inputs + k]);
            UNROLL for (int v = 0; v < tiles; v++) {
                acc[r][v] = v16_fma(v16_load(w + 16 * v), a, acc[r][v]);
            }
        }
    }
    UNROLL for (int r = 0; r < rows; r++) {
        UNROLL for (int v = 0; v < tiles; v++) {
            v16_store(acc_at + r * LINEAR_ACC_STRIDE + 16 * v, acc[r][v]);
        }
    }
}

/* All rows, `tiles` a constant. */
BODY_INLINE void linear_float_rows(const isa_linear *l, const float *w, int32_t from, int32_t count,
                                   float *acc, const int32_t tiles) {
    const float *x = l->x + (int64_t)l->row_first * l->inputs + from;
    int32_t r = 0;
    for (; r + VEC_FLOAT_ROWS <= l->rows; r += VEC_FLOAT_ROWS) {
        linear_float_block(w, x + (int64_t)r * l->inputs, l->inputs, count,
                           acc + r * LINEAR_ACC_STRIDE, from == 0, VEC_FLOAT_ROWS, tiles);
    }
    for (; r < l->rows; r++) {
        linear_float_block(w, x + (int64_t)r * l->inputs, l->inputs, count,
                           acc + r * LINEAR_ACC_STRIDE, from == 0, 1, tiles);
    }
}

static void linear_f32(const isa_linear *l, uint8_t *scratch) {
    static_assert(ISA_WIDE_TILES == 3, "a case a tile count");
    float *acc = (float *)(void *)scratch, *w = acc + LINEAR_ACC_FLOATS;
    const int32_t end = l->tile_first + l->tiles;
    for (int32_t tile = l->tile_first; tile < end; tile += VEC_TILES) {
        const int32_t tiles = end - tile < VEC_TILES ? end - tile : VEC_TILES;
        for (int32_t k = 0; k < l->inputs; k += ISA_BLOCK_INPUTS) {
            const int32_t left = l->inputs - k;
            const int32_t count = left < ISA_BLOCK_INPUTS ? left : ISA_BLOCK_INPUTS;
            for (int32_t v = 0; v < tiles; v++) {
                linear_dequant(l, tile + v, k, k + count, w + 16 * v, 16 * tiles);
            }
            if (tiles == 1) {
                linear_float_rows(l, w, k, count, acc, 1);
            } else if (tiles == 2) {
                linear_float_rows(l, w, k, count, acc, 2 < VEC_TILES ? 2 : VEC_TILES);
            } else {
                linear_float_rows(l, w, k, count, acc, VEC_TILES);
            }
        }
        linear_finish_block(l, acc, tile, tiles);
    }
}
