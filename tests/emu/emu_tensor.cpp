/* emu_tensor.cpp -- ldmatrix, mma.sync and warp reductions on the host.
 *
 * Source: PTX ISA 8.x, "Warp-level matrix instructions": the fragment layouts of m8n8 (ldmatrix)
 * and m16n8k16 (mma), bf16 and f16.
 */
#include <cmath>
#include <cstring>

#include "tests/emu/emu_block.hpp"
#include "tests/emu/emu_order.hpp"
#include "tests/emu/emu_ptx.hpp"

struct ldmatrix_slot {
    const void *row;
    uint32_t r[4];
};

template <bool TRANSPOSED>
static void ldmatrix_all(emu_meeting *m) {
    uint16_t matrix[4][8][8];
    for (int lane = 0; lane < 32; lane++) {
        const void *row = ((const ldmatrix_slot *)m->slots[lane])->row;
        if (((uintptr_t)row & 15) != 0) {
            emu_die("%s:%d: ldmatrix: lane %d's row is not aligned to 16 bytes", m->place.file,
                    m->place.line, lane);
        }
        memcpy(matrix[lane / 8][lane % 8], row, 16);
    }
    for (int lane = 0; lane < 32; lane++) {
        ldmatrix_slot *s = (ldmatrix_slot *)m->slots[lane];
        const int row = lane / 4, column = lane % 4 * 2;
        for (int i = 0; i < 4; i++) {
            const uint32_t low = TRANSPOSED ? matrix[i][column][row] : matrix[i][row][column];
            const uint32_t high =
                TRANSPOSED ? matrix[i][column + 1][row] : matrix[i][row][column + 1];
            s->r[i] = low | high << 16;
        }
    }
}

void emu_ldmatrix(uint32_t *r, const void *shared, bool transposed, emu_place place) {
    EMU_READS(shared, 16);
    const ldmatrix_slot in = {shared, {}};
    const unsigned char *out = emu_meet(
        0xffffffffu, &in, sizeof(in), transposed ? ldmatrix_all<true> : ldmatrix_all<false>, place);
    memcpy(r, ((const ldmatrix_slot *)out)->r, 16);
}

struct mma_slot {
    uint32_t a[4], b[2];
    float c[4];
};
static_assert(sizeof(mma_slot) <= EMU_SLOT_BYTES);

static float low_bf16(uint32_t pair) {
    return __builtin_bit_cast(float, pair << 16);
}

static float high_bf16(uint32_t pair) {
    return __builtin_bit_cast(float, pair & 0xffff0000u);
}

/* Exponents are 112 less than a float's; those of infinity and NaN are all ones in both. */
static float low_f16(uint32_t pair) {
    const uint32_t bits = (pair & 0x7fffu) << 13;
    const uint32_t sign = (pair & 0x8000u) << 16;
    const uint32_t magnitude =
        bits >= 0x0f800000u
            ? bits | 0x7f800000u
            : __builtin_bit_cast(uint32_t, __builtin_bit_cast(float, bits) * 0x1p112f);
    return __builtin_bit_cast(float, sign | magnitude);
}

static float high_f16(uint32_t pair) {
    return low_f16(pair >> 16);
}

template <float LOW(uint32_t), float HIGH(uint32_t)>
static void mma_all(emu_meeting *m) {
    float a[16][16], b[16][8], c[16][8];
    for (int lane = 0; lane < 32; lane++) {
        const mma_slot *s = (const mma_slot *)m->slots[lane];
        const int g = lane / 4, t = lane % 4 * 2;
        for (int i = 0; i < 4; i++) {
            const int row = g + i % 2 * 8, column = t + i / 2 * 8;
            a[row][column] = LOW(s->a[i]);
            a[row][column + 1] = HIGH(s->a[i]);
            c[g + i / 2 * 8][t + i % 2] = s->c[i];
        }
        for (int i = 0; i < 2; i++) {
            b[t + i * 8][g] = LOW(s->b[i]);
            b[t + i * 8 + 1][g] = HIGH(s->b[i]);
        }
    }
    for (int row = 0; row < 16; row++) {
        for (int k = 0; k < 16; k++) {
            for (int column = 0; column < 8; column++) {
                c[row][column] += a[row][k] * b[k][column];
            }
        }
    }
    for (int lane = 0; lane < 32; lane++) {
        mma_slot *s = (mma_slot *)m->slots[lane];
        for (int i = 0; i < 4; i++) {
            s->c[i] = c[lane / 4 + i / 2 * 8][lane % 4 * 2 + i % 2];
        }
    }
}

static void mma(float *d, const uint32_t *a, uint32_t b0, uint32_t b1, emu_meeting_fn all,
                emu_place place) {
    mma_slot in = {{a[0], a[1], a[2], a[3]}, {b0, b1}, {d[0], d[1], d[2], d[3]}};
    const unsigned char *out = emu_meet(0xffffffffu, &in, sizeof(in), all, place);
    memcpy(d, ((const mma_slot *)out)->c, 16);
}

void emu_mma_bf16(float *d, const uint32_t *a, uint32_t b0, uint32_t b1, emu_place place) {
    mma(d, a, b0, b1, mma_all<low_bf16, high_bf16>, place);
}

void emu_mma_f16(float *d, const uint32_t *a, uint32_t b0, uint32_t b1, emu_place place) {
    mma(d, a, b0, b1, mma_all<low_f16, high_f16>, place);
}

/* The butterfly of ptx_warp_sum in one meeting: the same additions in the same order. */
template <class COMBINE>
static void reduce_all(emu_meeting *m, COMBINE combine) {
    float now[32], next[32];
    for (int lane = 0; lane < 32; lane++) {
        memcpy(&now[lane], m->slots[lane], 4);
    }
    for (int bits = 16; bits > 0; bits >>= 1) {
        for (int lane = 0; lane < 32; lane++) {
            next[lane] = combine(now[lane], now[lane ^ bits]);
        }
        memcpy(now, next, sizeof(now));
    }
    for (int lane = 0; lane < 32; lane++) {
        memcpy(m->slots[lane], &now[lane], 4);
    }
}

static void sum_all(emu_meeting *m) {
    reduce_all(m, [](float a, float b) { return a + b; });
}

static void max_all(emu_meeting *m) {
    reduce_all(m, [](float a, float b) { return fmaxf(a, b); });
}

static float reduce(float value, emu_meeting_fn all, emu_place place) {
    float out;
    memcpy(&out, emu_meet(0xffffffffu, &value, sizeof(value), all, place), sizeof(out));
    return out;
}

float emu_warp_sum(float value, emu_place place) {
    return reduce(value, sum_all, place);
}

float emu_warp_max(float value, emu_place place) {
    return reduce(value, max_all, place);
}
