/* tile.c -- packing file matrices into tiles of 16 outputs, and reading a row back. */
#include "kernels/cpu/tile.h"

#include <string.h>

#include "engine/base/check.h"
#include "kernels/cpu/quant.h"
#include "kernels/kmath.h"

tile_format tile_format_of(backend_type type) {
    switch (type) {
        case BACKEND_F32:
            return TILE_F32;
        case BACKEND_F16:
            return TILE_F16;
        case BACKEND_BF16:
            return TILE_BF16;
        case BACKEND_Q4_0:
            return TILE_Q4_0;
        case BACKEND_Q4_1:
            return TILE_Q4_1;
        case BACKEND_Q5_0:
        case BACKEND_Q8_0:
            return TILE_Q8_0;
        case BACKEND_Q5_1:
            return TILE_Q5_1;
        case BACKEND_Q4_K:
            return TILE_Q4_K;
        case BACKEND_Q5_K:
            return TILE_Q5_K;
        case BACKEND_Q6_K:
            return TILE_Q6_K;
    }
    UNREACHABLE();
}

uint64_t tile_bytes(tile_format format, int32_t inputs) {
    const tile_shape s = tile_shape_of(format);
    if (s.plain) { /* any number of inputs */
        return (uint64_t)inputs * (uint64_t)(s.group_bytes / TILE_GROUP);
    }
    return (uint64_t)(inputs / TILE_GROUP) * (uint64_t)s.group_bytes;
}

uint64_t tile_weight_bytes(tile_format format, int32_t outputs, int32_t inputs) {
    const uint64_t tiles = ((uint64_t)outputs + TILE_OUTPUTS - 1) / TILE_OUTPUTS;
    return tiles * tile_bytes(format, inputs);
}

/* Bytes of one scale or minimum. */
static size_t scale_bytes(const tile_shape *s) {
    return s->scale_f32 ? 4 : 2;
}

static void scale_put(const tile_shape *s, uint8_t *to, int32_t column, float value) {
    if (s->scale_f32) {
        memcpy(to + 4 * column, &value, sizeof(value));
    } else {
        const uint16_t half = kmath_to_f16(value); /* it came from one: exact */
        memcpy(to + 2 * column, &half, sizeof(half));
    }
}

static float scale_get(const tile_shape *s, const uint8_t *from, int32_t column) {
    if (s->scale_f32) {
        float value;
        memcpy(&value, from + 4 * column, sizeof(value));
        return value;
    }
    uint16_t half;
    memcpy(&half, from + 2 * column, sizeof(half));
    return kmath_f16(half);
}

/* The quants of one output, side by side. */
static void quants_put_by_output(bool nibbles, const uint8_t *quant, uint8_t *to) {
    if (!nibbles) {
        memcpy(to, quant, TILE_GROUP);
        return;
    }
    for (int32_t j = 0; j < 8; j++) {
        to[2 * j] = (uint8_t)((quant[j] | (quant[8 + j] << 4)) & 255);
        to[2 * j + 1] = (uint8_t)((quant[16 + j] | (quant[24 + j] << 4)) & 255);
    }
}

static int32_t quant_get_by_output(bool nibbles, const uint8_t *from, int32_t k) {
    if (!nibbles) {
        return from[k];
    }
    return (from[2 * (k % 8) + k / 16] >> (k % 16 / 8 * 4)) & 15;
}

/* Writes column `c` of one group. */
static void group_put(const tile_shape *s, tile_order order, const quant_group *q, int32_t c,
                      uint8_t *to) {
    const int32_t blocks = s->nibbles ? 4 : 8;
    if (order == TILE_BY_OUTPUT) {
        quants_put_by_output(s->nibbles, q->quant, to + 4 * blocks * c);
    }
    for (int32_t t = 0; t < blocks && order == TILE_BY_INPUT; t++) {
        uint8_t four[4];
        for (int32_t j = 0; j < 4; j++) {
            const unsigned low = q->quant[4 * t + j];
            const unsigned high = s->nibbles ? q->quant[16 + 4 * t + j] : 0u;
            four[j] = (uint8_t)((low | (high << 4)) & 255u);
        }
        memcpy(to + TILE_BLOCK_BYTES * t + 4 * c, four, sizeof(four));
    }
    uint8_t *scales = to + TILE_BLOCK_BYTES * blocks;
    uint8_t *second = scales + TILE_OUTPUTS * scale_bytes(s);
    scale_put(s, scales, c, q->scale[0]);
    if (s->mode == TILE_ZERO128_HALF) {
        scale_put(s, second, c, q->scale[1]);
    } else if (s->mode == TILE_MINIMUM) {
        scale_put(s, second, c, q->minimum);
    }
}

/* From a block's bytes: nibbles of inputs 0-15 low, 16-31 high; or signed bytes. */
static void quants_copy_by_output(bool nibbles, const uint8_t *block, uint8_t *to) {
    for (int32_t j = 0; j < 8 && nibbles; j++) {
        to[2 * j] = (uint8_t)(((block[j] & 15) | (block[8 + j] << 4)) & 255);
        to[2 * j + 1] = (uint8_t)((block[j] >> 4) | (block[8 + j] & 240));
    }
    for (int32_t k = 0; k < TILE_GROUP && !nibbles; k++) {
        to[k] = block[k] ^ 0x80u; /* around 128 */
    }
}

/* The commonest formats go from block to tile without being taken apart: their nibbles already lie
 * as a tile wants them, and their scales are kept as they are. False for the others. */
static bool group_copy(backend_type type, tile_order order, const uint8_t *row, int32_t group,
                       int32_t c, uint8_t *to) {
    const bool bytes = type == BACKEND_Q8_0, minimum = type == BACKEND_Q4_1;
    if (!bytes && !minimum && type != BACKEND_Q4_0) {
        return false;
    }
    const size_t scales = minimum ? 4 : 2, quants = bytes ? TILE_GROUP : TILE_GROUP / 2;
    const uint8_t *block = row + (size_t)group * (scales + quants);
    if (order == TILE_BY_OUTPUT) {
        quants_copy_by_output(!bytes, block + scales, to + quants * (size_t)c);
    }
    for (size_t t = 0; t < quants / 4 && order == TILE_BY_INPUT; t++) {
        uint32_t four;
        memcpy(&four, block + scales + 4 * t, sizeof(four));
        four ^= bytes ? 0x80808080u : 0u; /* around 128 */
        memcpy(to + TILE_BLOCK_BYTES * t + 4 * (size_t)c, &four, sizeof(four));
    }
    uint8_t *after = to + TILE_BLOCK_BYTES * (quants / 4) + 2 * (size_t)c;
    memcpy(after, block, 2);
    if (minimum) {
        memcpy(after + 2 * TILE_OUTPUTS, block + 2, 2);
    }
    return true;
}

/* Which element of a plain tile is input `k` of output `c`. */
static size_t plain_at(tile_order order, int32_t k, int32_t c) {
    if (order == TILE_BY_OUTPUT) {
        return (size_t)((k / TILE_GROUP * TILE_OUTPUTS + c) * TILE_GROUP + k % TILE_GROUP);
    }
    return (size_t)k * TILE_OUTPUTS + (size_t)c;
}

static void plain_pack(size_t element, tile_order order, const uint8_t *data, int32_t columns,
                       int32_t inputs, uint8_t *to) {
    for (int32_t c = 0; c < columns; c++) {
        for (int32_t k = 0; k < inputs; k++) {
            memcpy(to + plain_at(order, k, c) * element,
                   data + ((size_t)c * (size_t)inputs + (size_t)k) * element, element);
        }
    }
}

void tile_pack(backend_type type, tile_order order, const uint8_t *data, uint64_t row_bytes,
               int32_t outputs, int32_t inputs, int32_t index, uint8_t *to) {
    const tile_format format = tile_format_of(type);
    const tile_shape s = tile_shape_of(format);
    const int32_t first = index * TILE_OUTPUTS, left = outputs - first;
    const int32_t columns = left < TILE_OUTPUTS ? left : TILE_OUTPUTS;
    const uint8_t *rows = data + (size_t)first * row_bytes;
    if (columns < TILE_OUTPUTS) {
        memset(to, 0, tile_bytes(format, inputs));
    }
    if (s.plain) {
        plain_pack((size_t)s.group_bytes / (TILE_GROUP * TILE_OUTPUTS), order, rows, columns,
                   inputs, to);
        return;
    }
    for (int32_t c = 0; c < columns; c++) {
        for (int32_t g = 0; g < inputs / TILE_GROUP; g++) {
            uint8_t *at = to + (size_t)g * (size_t)s.group_bytes;
            if (!group_copy(type, order, rows + (size_t)c * row_bytes, g, c, at)) {
                quant_group q;
                quant_get(type, rows + (size_t)c * row_bytes, g, &q);
                group_put(&s, order, &q, c, at);
            }
        }
    }
}

static void plain_unpack(tile_format format, tile_order order, const uint8_t *tile, int32_t inputs,
                         int32_t c, float *row) {
    for (int32_t k = 0; k < inputs; k++) {
        const size_t at = plain_at(order, k, c);
        if (format == TILE_F32) {
            memcpy(&row[k], tile + 4 * at, sizeof(float));
        } else {
            uint16_t half;
            memcpy(&half, tile + 2 * at, sizeof(half));
            row[k] = format == TILE_F16 ? kmath_f16(half) : kmath_bf16(half);
        }
    }
}

static int32_t quant_get_by_input(bool nibbles, const uint8_t *tile, int32_t c, int32_t k) {
    const int32_t shift = nibbles && k >= 16 ? 4 : 0;
    const int32_t t = nibbles ? (k % 16) / 4 : k / 4;
    const int32_t byte = tile[TILE_BLOCK_BYTES * t + 4 * c + k % 4];
    return nibbles ? (byte >> shift) & 15 : byte;
}

void tile_unpack_row(tile_format format, tile_order order, const uint8_t *tiles, int32_t inputs,
                     int32_t output, float *row) {
    const tile_shape s = tile_shape_of(format);
    const int32_t c = output % TILE_OUTPUTS;
    const uint8_t *tile = tiles + (uint64_t)(output / TILE_OUTPUTS) * tile_bytes(format, inputs);
    if (s.plain) {
        plain_unpack(format, order, tile, inputs, c, row);
        return;
    }
    const int32_t blocks = s.nibbles ? 4 : 8;
    const int32_t zero = s.mode == TILE_MINIMUM ? 0 : s.mode == TILE_ZERO8 ? 8 : 128;
    for (int32_t g = 0; g < inputs / TILE_GROUP; g++, tile += s.group_bytes) {
        const uint8_t *scales = tile + TILE_BLOCK_BYTES * blocks;
        const uint8_t *second = scales + TILE_OUTPUTS * scale_bytes(&s);
        const float scale = scale_get(&s, scales, c);
        const float upper = s.mode == TILE_ZERO128_HALF ? scale_get(&s, second, c) : scale;
        const float minimum = s.mode == TILE_MINIMUM ? scale_get(&s, second, c) : 0;
        for (int32_t k = 0; k < TILE_GROUP; k++) {
            const int32_t quant = order == TILE_BY_INPUT
                                      ? quant_get_by_input(s.nibbles, tile, c, k)
                                      : quant_get_by_output(s.nibbles, tile + 4 * blocks * c, k);
            const float product = (k < 16 ? scale : upper) * (float)(quant - zero); /* exact */
            row[TILE_GROUP * g + k] = s.mode == TILE_MINIMUM ? product + minimum : product;
        }
    }
}
