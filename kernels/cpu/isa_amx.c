/* isa_amx.c -- matrix products of many rows with AMX-int8. Compiled with that set's flags
 * (CMakeLists.txt).
 *
 * The tile unit makes the exact integer dot products of one step, a group of 32 inputs of 16 rows
 * and 16 outputs; vectors scale and add them in the order kernels/README.md writes down. Both work
 * all the time: the sums of 16 rows stay in registers, and while a step is added to them, the
 * product of the fourth step after it is made.
 *
 * What shapes the loop, measured on a Granite Rapids core (2026-11):
 *   - Within some 400 cycles of any tile instruction, 512-bit multiplications and conversions issue
 *     once a cycle, not twice; additions keep both ports. So an integer becomes a float by a
 *     subtraction: products start from the bits of 1.5 * 2^23, which makes an integer the float
 *     that many above it. Left are 3 multiplying operations for 16 products of 32 inputs, 48 cycles
 *     a step, and a load, a product and a store of the tile unit, 30 cycles, disappear beside them.
 *   - A product takes 52 cycles, and a store that waits for it fills the scheduler: it is stored
 * two steps later. A vector load cannot take what a tile store has not yet written to the cache: it
 *     comes two steps after that.
 *   - All that takes turns must fit the first-level cache with room to spare.
 *
 * Unpacked groups are signed and have their zero taken off, so no offsets are added later. Where
 * each 16 inputs have a scale, a group becomes two steps, in each of which the other half is 0.
 */
#if defined(__x86_64__)
#define _GNU_SOURCE
#include <assert.h>
#include <cpuid.h>
#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "kernels/cpu/vec_avx512.h"

#include "kernels/cpu/body_group.h"

enum {
    AMX_PLACES = 4, /* tile registers of integers, and what they are stored to, used in turn */
    AMX_LATE = 2,   /* steps from a product to its store, and from there to its sum */
    AMX_BLOCK_STEPS = 18,                           /* steps unpacked at a time */
    AMX_STEP_BYTES = 8 * TILE_BLOCK_BYTES + 2 * 64, /* quants, scales, minimums */
    AMX_DOT_BYTES = ISA_PANEL_ROWS * 64,            /* integers of 16 rows */
    AMX_DOTS_BYTES = AMX_PLACES * AMX_DOT_BYTES,
    AMX_UNPACKED_BYTES = AMX_BLOCK_STEPS * AMX_STEP_BYTES
};
static_assert(AMX_UNPACKED_BYTES + AMX_DOTS_BYTES +
                      (ISA_BLOCK_ROWS + ISA_PANEL_ROWS) * TILE_OUTPUTS * 4 <=
                  ISA_SCRATCH_BYTES,
              "fits");
static_assert(AMX_BLOCK_STEPS % 2 == 0, "both halves of a group are in one block");
static_assert(2 * AMX_LATE == AMX_PLACES, "a step's place is free when its successor comes");

/* 1.5 * 2^23 and its bits: below it, integers and the floats' last place are the same thing. */
#define AMX_ORIGIN 12582912.0f
static const int32_t amx_origin[16] = {
    0x4b400000, 0x4b400000, 0x4b400000, 0x4b400000, 0x4b400000, 0x4b400000, 0x4b400000, 0x4b400000,
    0x4b400000, 0x4b400000, 0x4b400000, 0x4b400000, 0x4b400000, 0x4b400000, 0x4b400000, 0x4b400000};

/* One block of unpacked steps of one tile, and the rows that meet it. */
typedef struct {
    const isa_linear *l;
    const uint8_t *weights;  /* [steps][AMX_STEP_BYTES] */
    const isa_panel *panels; /* [rows / 16 up][groups], from the block's first group on */
    uint8_t *dots;           /* [AMX_PLACES][AMX_DOT_BYTES] */
    float *sums;             /* [rows / 16 up][16][TILE_OUTPUTS] */
    int32_t groups, steps, tile;
    const uint8_t *ahead; /* weights that are unpacked next */
    int32_t ahead_bytes;  /* of them fetched beside each step */
    bool first, last;     /* sums start at 0; are finished */
} amx_block;

/* A step of 16 rows: steps follow each other, then rows. */
typedef struct {
    const uint8_t *weights;
    const isa_panel *panel, *panels; /* the step's, the row's first */
    int32_t step;
} amx_place;

void isa_amx_configure(int32_t bytes, int32_t columns) {
    static _Thread_local int32_t current, current_columns;
    struct {
        uint8_t palette, start_row, reserved[14];
        uint16_t row_bytes[16];
        uint8_t rows[16];
    } shapes = {.palette = 1};
    if (current == bytes && current_columns == columns) {
        return;
    }
    for (int t = 0; t < 8; t++) {
        shapes.row_bytes[t] = (uint16_t)(t == 4 || t == 5 ? bytes : 4 * columns);
        shapes.rows[t] = (uint8_t)(t < 6 ? ISA_PANEL_ROWS : bytes / 4);
    }
    /* gcc 12 believes that this reads eight bytes. */
    __asm__ volatile("" ::"r"(&shapes) : "memory");
    _tile_loadconfig(&shapes);
    current = bytes;
    current_columns = columns;
}

BODY_INLINE void amx_advance(const amx_block *b, amx_place *p, const int32_t halves) {
    p->step++;
    p->weights += AMX_STEP_BYTES;
    p->panel += halves == 1 || p->step % halves == 0 ? 1 : 0;
    if (p->step == b->steps) {
        p->step = 0;
        p->weights = b->weights;
        p->panels += b->groups;
        p->panel = p->panels;
    }
}

/* The product of a step into tile register `k`. */
BODY_INLINE void amx_multiply(const amx_place *p, const int k) {
    const int8_t *a = p->panel->quant[0];
    const uint8_t *w = p->weights;
    switch (k) {
        case 0:
            _tile_loadd(4, a, TILE_GROUP);
            _tile_loadd(6, w, TILE_BLOCK_BYTES);
            _tile_loadd(0, amx_origin, 0);
            _tile_dpbssd(0, 4, 6);
            break;
        case 1:
            _tile_loadd(5, a, TILE_GROUP);
            _tile_loadd(7, w, TILE_BLOCK_BYTES);
            _tile_loadd(1, amx_origin, 0);
            _tile_dpbssd(1, 5, 7);
            break;
        case 2:
            _tile_loadd(4, a, TILE_GROUP);
            _tile_loadd(6, w, TILE_BLOCK_BYTES);
            _tile_loadd(2, amx_origin, 0);
            _tile_dpbssd(2, 4, 6);
            break;
        default:
            _tile_loadd(5, a, TILE_GROUP);
            _tile_loadd(7, w, TILE_BLOCK_BYTES);
            _tile_loadd(3, amx_origin, 0);
            _tile_dpbssd(3, 5, 7);
            break;
    }
}

/* Tile register `k` to its place. */
BODY_INLINE void amx_store(uint8_t *dots, const int k) {
    switch (k) {
        case 0:
            _tile_stored(0, dots, 64);
            break;
        case 1:
            _tile_stored(1, dots + AMX_DOT_BYTES, 64);
            break;
        case 2:
            _tile_stored(2, dots + 2 * AMX_DOT_BYTES, 64);
            break;
        default:
            _tile_stored(3, dots + 3 * AMX_DOT_BYTES, 64);
            break;
    }
}

/* Adds the integers at `dots` to the sums. */
BODY_INLINE void amx_add(const amx_place *p, const uint8_t *dots, v16 sum[ISA_PANEL_ROWS],
                         const bool minimum) {
    const float *scales = (const float *)(const void *)(p->weights + 8 * TILE_BLOCK_BYTES);
    const v16 scale = v16_load(scales), second = v16_load(scales + 16);
    UNROLL for (int r = 0; r < ISA_PANEL_ROWS; r++) {
        const v16 dot = v16_sub(v16_from_bits(v64_load(dots + 64 * r)), v16_set(AMX_ORIGIN));
        sum[r] = v16_fma(dot, v16_mul(scale, v16_set(p->panel->scale[r])), sum[r]);
        if (minimum) {
            sum[r] = v16_fma(second, v16_set(p->panel->scaled_sum[r]), sum[r]);
        }
    }
}

static __attribute__((noinline)) void amx_finish(const amx_block *b, const float *sums,
                                                 int32_t row) {
    const isa_linear *l = b->l;
    const int32_t left = l->rows - row, rows = left < ISA_PANEL_ROWS ? left : ISA_PANEL_ROWS;
    for (int32_t r = 0; r < rows; r++) {
        group_finish(l, v16_load(sums + r * TILE_OUTPUTS), l->row_first + row + r,
                     b->tile * TILE_OUTPUTS);
    }
}

BODY_INLINE void amx_load_sums(const amx_block *b, v16 sum[ISA_PANEL_ROWS], int32_t row) {
    const float *at = b->sums + (int64_t)row * TILE_OUTPUTS;
    UNROLL for (int r = 0; r < ISA_PANEL_ROWS; r++) {
        sum[r] = b->first ? v16_zero() : v16_load(at + TILE_OUTPUTS * r);
    }
}

/* Sums leave the registers for those of the next 16 rows. */
BODY_INLINE void amx_next_rows(const amx_block *b, v16 sum[ISA_PANEL_ROWS], int32_t row) {
    float *at = b->sums + (int64_t)row * TILE_OUTPUTS;
    UNROLL for (int r = 0; r < ISA_PANEL_ROWS; r++) {
        v16_store(at + TILE_OUTPUTS * r, sum[r]);
    }
    if (b->last) {
        amx_finish(b, at, row);
    }
    amx_load_sums(b, sum, row + ISA_PANEL_ROWS);
}

BODY_INLINE void amx_run(const amx_block *b, const int32_t halves, const bool minimum) {
    const int32_t row_blocks = (b->l->rows + ISA_PANEL_ROWS - 1) / ISA_PANEL_ROWS;
    const int32_t total = row_blocks * b->steps;
    amx_place added = {b->weights, b->panels, b->panels, 0}, made = added;
    int32_t row = 0;
    v16 sum[ISA_PANEL_ROWS];
    amx_load_sums(b, sum, row);
    const uint8_t *ahead = b->ahead;
    const uint8_t *const ahead_end = ahead + b->steps * b->ahead_bytes;
    UNROLL for (int k = 0; k < AMX_PLACES; k++) {
        if (k < total) {
            amx_multiply(&made, k);
            amx_advance(b, &made, halves);
        }
    }
    UNROLL for (int k = 0; k < AMX_LATE; k++) {
        amx_store(b->dots, k);
    }
    for (int32_t t = 0; t < total; t += AMX_PLACES) {
        UNROLL for (int k = 0; k < AMX_PLACES; k++) {
            if (t + k < total) {
                amx_store(b->dots, (k + AMX_LATE) % AMX_PLACES);
                if (t + k + AMX_PLACES < total) {
                    amx_multiply(&made, k);
                    amx_advance(b, &made, halves);
                }
                if (ahead != ahead_end) { /* by the first rows, for all */
                    for (int32_t byte = 0; byte < b->ahead_bytes; byte += 64) {
                        /* To the second level: lines on their way to the first are few. */
                        _mm_prefetch((const char *)ahead + byte, _MM_HINT_T1);
                    }
                    ahead += b->ahead_bytes;
                }
                amx_add(&added, b->dots + k * AMX_DOT_BYTES, sum, minimum);
                amx_advance(b, &added, halves);
                if (added.step == 0) {
                    amx_next_rows(b, sum, row);
                    row += ISA_PANEL_ROWS;
                }
            }
        }
    }
}

#define AMX_RUN(name, halves, minimum)                               \
    static __attribute__((noinline)) void name(const amx_block *b) { \
        amx_run(b, halves, minimum);                                 \
    }

AMX_RUN(amx_run_minimum, 1, true)
AMX_RUN(amx_run_plain, 1, false)
AMX_RUN(amx_run_half, 2, false)

/* One step: blocks [from, to) of a group, and zeros. */
BODY_INLINE void amx_unpack_step(const weight_group *g, v64 zero, v16 scale, uint8_t *to,
                                 const int from, const int until) {
    UNROLL for (int t = 0; t < 8; t++) {
        const bool used = t >= from && t < until;
        v64_store(to + TILE_BLOCK_BYTES * t,
                  used ? _mm512_sub_epi8(g->quant[t], zero) : _mm512_setzero_si512());
    }
    float *scales = (float *)(void *)(to + 8 * TILE_BLOCK_BYTES);
    v16_store(scales, scale);
    v16_store(scales + 16, g->second);
}

/* One group to one step, or to two. */
BODY_INLINE void amx_unpack_group(const uint8_t *w, uint8_t *to, const tile_format format) {
    const tile_shape s = tile_shape_of(format);
    const weight_group g = group_unpack(w, s.mode, s.nibbles, s.scale_f32);
    const v64 zero = _mm512_set1_epi8(s.mode == TILE_MINIMUM ? 0 : s.mode == TILE_ZERO8 ? 8 : -128);
    if (s.mode == TILE_ZERO128_HALF) {
        amx_unpack_step(&g, zero, g.scale, to, 0, 4);
        amx_unpack_step(&g, zero, g.second, to + AMX_STEP_BYTES, 4, 8);
    } else {
        amx_unpack_step(&g, zero, g.scale, to, 0, 8);
    }
}

/* Groups [from, to) of a tile. */
BODY_INLINE void amx_unpack(const uint8_t *tile, int32_t from, int32_t to, uint8_t *out,
                            const tile_format format) {
    const tile_shape s = tile_shape_of(format);
    const uint8_t *w = tile + (int64_t)from * s.group_bytes;
    const int32_t step = (s.mode == TILE_ZERO128_HALF ? 2 : 1) * AMX_STEP_BYTES;
    for (int32_t g = from; g < to; g++, w += s.group_bytes, out += step) {
        amx_unpack_group(w, out, format);
    }
}

#define AMX_UNPACK(name, format)                                                              \
    static __attribute__((noinline)) void name(const uint8_t *tile, int32_t from, int32_t to, \
                                               uint8_t *out) {                                \
        amx_unpack(tile, from, to, out, format);                                              \
    }

AMX_UNPACK(amx_unpack_q4_0, TILE_Q4_0)
AMX_UNPACK(amx_unpack_q4_1, TILE_Q4_1)
AMX_UNPACK(amx_unpack_q4_k, TILE_Q4_K)
AMX_UNPACK(amx_unpack_q5_1, TILE_Q5_1)
AMX_UNPACK(amx_unpack_q5_k, TILE_Q5_K)
AMX_UNPACK(amx_unpack_q8_0, TILE_Q8_0)
AMX_UNPACK(amx_unpack_q6_k, TILE_Q6_K)

static void (*const amx_unpackers[])(const uint8_t *, int32_t, int32_t, uint8_t *) = {
    amx_unpack_q4_0, amx_unpack_q4_1, amx_unpack_q4_k, amx_unpack_q5_1,
    amx_unpack_q5_k, amx_unpack_q8_0, amx_unpack_q6_k};

/* By mode. */
static void (*const amx_runs[])(const amx_block *) = {amx_run_minimum, amx_run_plain, amx_run_plain,
                                                      amx_run_half};

void isa_amx_linear(const isa_linear *l, uint8_t *scratch) {
    const tile_mode mode = tile_shape_of(l->format).mode;
    const int32_t halves = mode == TILE_ZERO128_HALF ? 2 : 1, block = AMX_BLOCK_STEPS / halves;
    const int32_t groups = l->inputs / TILE_GROUP;
    const uint64_t bytes = tile_bytes(l->format, l->inputs);
    const uint64_t group_bytes = bytes / (uint64_t)groups;
    uint8_t *unpacked = scratch + AMX_DOTS_BYTES;
    amx_block b = {
        .l = l,
        .dots = scratch, /* a page, from a page's start: loads of the rest alias it least */
        .weights = unpacked,
        .sums = (float *)(void *)(unpacked + AMX_UNPACKED_BYTES),
        .groups = groups,
    };
    isa_amx_configure(TILE_GROUP, TILE_OUTPUTS);
    for (b.tile = l->tile_first; b.tile < l->tile_first + l->tiles; b.tile++) {
        for (int32_t g = 0; g < groups; g += block) {
            const int32_t count = groups - g < block ? groups - g : block;
            const uint8_t *tile = l->weights + (uint64_t)b.tile * bytes;
            amx_unpackers[l->format](tile, g, g + count, unpacked);
            __asm__ volatile("" ::: "memory"); /* tile loads do not tell the compiler they read */
            b.panels = l->panels + (int64_t)(l->row_first / ISA_PANEL_ROWS) * groups + g;
            b.steps = count * halves;
            b.ahead = tile + group_bytes * (uint64_t)(g + count);
            b.ahead_bytes = (int32_t)group_bytes / halves;
            b.first = g == 0;
            b.last = g + count == groups;
            amx_runs[mode](&b);
        }
    }
}

bool isa_amx_usable(void) {
    enum { REQUEST_PERMISSION = 0x1023, TILE_DATA = 18 }; /* arch_prctl(2), an XSAVE feature */
    unsigned a = 0, b = 0, c = 0, d = 0;
    return __get_cpuid_count(7, 0, &a, &b, &c, &d) != 0 && (d & bit_AMX_TILE) != 0 &&
           (d & bit_AMX_INT8) != 0 && syscall(SYS_arch_prctl, REQUEST_PERMISSION, TILE_DATA) == 0;
}
#endif
