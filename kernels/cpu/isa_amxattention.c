/* isa_amxattention.c -- int8 attention's products with AMX-int8. Compiled with that set's flags
 * (CMakeLists.txt).
 *
 * A page's keys, [dimensions / 4][16 tokens][4], and values of 64 tokens side by side,
 * [tokens / 4][dimensions][4], are what the tile unit takes as its second operand, as they are.
 *
 * Products of a column begin before those of the column before it are stored, and the caller has
 * vector work between two steps: in one run after another, samples showed hundreds of cycles at the
 * first product of each (Granite Rapids, 2026-11). Whether it waits for the vectors' stores or for
 * the unit itself was not told apart; shared out like this, attention took a tenth less.
 */
#if defined(__x86_64__)
#include <immintrin.h>
#include <stdbool.h>

#include "kernels/cpu/isa.h"

enum {
    ROW_BYTES = 64,                 /* of a row of integers */
    TILE_INTS = ISA_PANEL_ROWS * 16 /* integers of 16 rows */
};

/* Tile registers are named by constants: `h` and `l` are sums, `second` a column. */
#define AMX_MULTIPLY(p, h, l, second, multiply)                                             \
    do {                                                                                    \
        const uint8_t *column = (p)->columns[(p)->done];                                    \
        for (int32_t k = 0; k < (p)->steps; k++) {                                          \
            const int64_t row = (int64_t)k * (p)->step_bytes;                               \
            _tile_loadd(4, (p)->high + row, (p)->row_stride);                               \
            _tile_loadd(second, column + row / 4 * (p)->column_stride, (p)->column_stride); \
            multiply(h, 4, second);                                                         \
            _tile_loadd(5, (p)->low + row, (p)->row_stride);                                \
            multiply(l, 5, second);                                                         \
        }                                                                                   \
    } while (0)

#define AMX_BEGIN(p, h, l, second)                       \
    do {                                                 \
        if ((p)->keys) {                                 \
            _tile_loadd(h, (p)->high_start, ROW_BYTES);  \
            _tile_loadd(l, (p)->low_start, ROW_BYTES);   \
            AMX_MULTIPLY(p, h, l, second, _tile_dpbsud); \
        } else {                                         \
            _tile_zero(h);                               \
            _tile_zero(l);                               \
            AMX_MULTIPLY(p, h, l, second, _tile_dpbusd); \
        }                                                \
    } while (0)

static void tiles_begin(isa_products *p) {
    isa_amx_configure(p->step_bytes, TILE_OUTPUTS);
    p->done = 0;
}

/* What tile instructions read and write, the compiler does not see: hence the barriers. */
static void tiles_step(isa_products *p) {
    int32_t *high = p->out + (int64_t)(p->done - 1) * TILE_INTS;
    int32_t *low = high + (int64_t)p->count * TILE_INTS;
    __asm__ volatile("" ::: "memory");
    if (p->done % 2 == 0) {
        if (p->done < p->count) {
            AMX_BEGIN(p, 0, 1, 6);
        }
        if (p->done > 0 && p->done <= p->count) {
            _tile_stored(2, high, ROW_BYTES);
            _tile_stored(3, low, ROW_BYTES);
        }
    } else {
        if (p->done < p->count) {
            AMX_BEGIN(p, 2, 3, 7);
        }
        if (p->done <= p->count) {
            _tile_stored(0, high, ROW_BYTES);
            _tile_stored(1, low, ROW_BYTES);
        }
    }
    __asm__ volatile("" ::: "memory");
    p->done++;
}

const isa_tiles isa_amxattention_tiles = {.begin = tiles_begin, .step = tiles_step};
#endif
