/* body_weights.h -- from the scores of int8 attention to 14-bit weights, and from their exact sums
 * to outputs.
 *
 * Purpose    A tile of a query has a maximum of its own, in powers of two and rounded up, so that
 *            what is there before shrinks exactly; its weights, times the values' scales, become
 *            integers up to 16383. Sums of the softmax itself are made of the unrounded weights.
 * Ownership  Included by isa_*.c only, after body_tile.h.
 * Threads    As isa.h.
 * Limits     As isa.h. What lies in a slot after a query's position does no harm.
 */

#define BYTES_WEIGHT_MAX 16383.0f /* 127 * 128 + 127 */
#define BYTES_LEAST 1e-30f /* maxima below this one are as good as zero, and have no inverse */
#define BYTES_LOG2_E 1.44269504088896341f
#define BYTES_LN_2 0.69314718055994531f

/* The scales of the tile's first `most` tokens, of which all queries see `least` or more; and what
 * is the same for all queries that see the whole tile. */
static void bytes_scales(attention_scratch *s, const attention_tile *tile, int32_t least,
                         int32_t most) {
    attention_bytes *b = &s->bytes;
    v16 top = v16_set(BYTES_LEAST);
    for (int32_t j = 0; j * LIMIT_PAGE_TOKENS < most; j++) {
        v16_store(b->key_scale + 16 * j, v16_load_bf16(tile->key_scale[j]));
        const v16 scale = v16_load_bf16(tile->value_scale[j]);
        v16_store(b->value_scale + 16 * j, scale);
        top = 16 * (j + 1) < least ? v16_max(scale, top) : top;
    }
    float value_top = v16_maximum(top);
    for (int32_t t = (least - 1) / 16 * 16; t < most; t++) {
        value_top = b->value_scale[t] > value_top ? b->value_scale[t] : value_top;
        b->value_top[t] = value_top;
    }
    const v16 inverse = v16_set(BYTES_WEIGHT_MAX / b->value_top[most - 1]);
    for (int32_t t = 0; t < most; t += 16) {
        v16_store(b->value_full + t, v16_mul(v16_load(b->value_scale + t), inverse));
    }
}

/* 2^x for x up to 0 and a little, by a polynomial of least relative error, 2.6e-6, within half a
 * power. */
VEC_INLINE v16 bytes_exp2(v16 x) {
    x = v16_max(x, v16_set(-125.0f));
    const v16 shifted = v16_add(x, v16_set(VEC_ROUND_MAGIC));
    const v16 r = v16_sub(x, v16_sub(shifted, v16_set(VEC_ROUND_MAGIC)));
    v16 p = v16_set(0.0095701022f);
    p = v16_fma(p, r, v16_set(0.0559178591f));
    p = v16_fma(p, r, v16_set(0.240247443f));
    p = v16_fma(p, r, v16_set(0.693121791f));
    p = v16_fma(p, r, v16_set(0.999999285f));
    return v16_from_bits(v16i_add(v16_bits(p), v16i_shift_exponent(v16_bits(shifted))));
}

/* 2^x of a whole x up to 0, or minus infinity. */
VEC_INLINE float bytes_power(float x) {
    return x >= -126.0f ? kmath_float((uint32_t)(127 + (int32_t)x) << 23) : 0.0f;
}

/* A query's maximum of a tile, what is there before to be multiplied by and what the tile adds.
 * Kept apart from the weights, for it waits long for little. */
VEC_INLINE void bytes_maximum(attention_scratch *s, int32_t query, float top) {
    attention_bytes *b = &s->bytes;
    const float before = s->maximum[query], of_tile = ceilf(top * b->query_scale[query]);
    const float maximum = before > of_tile ? before : of_tile;
    const float value_top = b->value_top[s->valid[query] - 1], by = bytes_power(of_tile - maximum);
    s->maximum[query] = maximum;
    s->rescale[query] = bytes_power(before - maximum);
    b->tile_maximum[query] = of_tile;
    b->tile_scale[query] = by;
    b->weight_scale[query] = value_top * (1.0f / BYTES_WEIGHT_MAX) * by;
}

/* With a soft-cap: a query's scores of a tile, capped. */
VEC_INLINE void bytes_cap(attention_scratch *s, int32_t query, float *score) {
    const attention_bytes *b = &s->bytes;
    const v16 scale = v16_set(b->cap_scale[query]), cap = v16_set(b->cap);
    for (int32_t t = 0; b->cap > 0 && t < s->valid[query]; t += 16) {
        v16_store(score + t, v16_mul(v16_tanh(v16_mul(v16_load(score + t), scale)), cap));
    }
}

/* The largest of a query's scores from `start` to `valid`. */
VEC_INLINE float bytes_top(const float *score, int32_t start, int32_t valid) {
    const v16 least = v16_set(-INFINITY);
    v16 top = least;
    int32_t t = start / 16 * 16;
    if (t < start) {
        top = v16_first(v16_load(score + t), least, valid - t);
        top = v16_first(least, top, start - t);
        t += 16;
    }
    for (; t + 16 <= valid; t += 16) {
        top = v16_max(top, v16_load(score + t));
    }
    if (t < valid) {
        top = v16_max(top, v16_first(v16_load(score + t), least, valid - t));
    }
    return v16_maximum(top);
}

/* 16 weights of a query as integers from their product with the values' scales. */
VEC_INLINE void bytes_split_weight(attention_scratch *s, int32_t query, int32_t j, v16 weight) {
    /* The last 15 bits of these floats are the integer. */
    const v16i whole = v16_bits(v16_add(weight, v16_set(VEC_ROUND_MAGIC)));
    v16i_store_i8(&s->bytes.weight[query][SPLIT_HIGH][16 * j], v16i_shift_right(whole, 7));
    v16i_store_i8(&s->bytes.weight[query][SPLIT_LOW][16 * j], v16i_and(whole, v16i_set(127)));
}

/* Weights of a query that sees the whole tile; sums by lane. */
VEC_INLINE v16 bytes_weigh_all(attention_scratch *s, int32_t query, const float *score) {
    const v16 scale = v16_set(s->bytes.query_scale[query]);
    const v16 origin = v16_set(-s->bytes.tile_maximum[query]);
    v16 sum = v16_zero();
    UNROLL for (int j = 0; j < BYTES_PAGES; j++) {
        const v16 e = bytes_exp2(v16_fma(v16_load(score + 16 * j), scale, origin));
        sum = v16_add(sum, e);
        bytes_split_weight(s, query, j, v16_mul(e, v16_load(s->bytes.value_full + 16 * j)));
    }
    return sum;
}

/* The same of a query that sees a part of it: the rest weighs nothing. */
static v16 bytes_weigh_some(attention_scratch *s, int32_t query, const float *score) {
    const int32_t valid = s->valid[query];
    const v16 scale = v16_set(s->bytes.query_scale[query]);
    const v16 origin = v16_set(-s->bytes.tile_maximum[query]);
    const v16 inverse = v16_set(BYTES_WEIGHT_MAX / s->bytes.value_top[valid - 1]);
    v16 sum = v16_zero();
    for (int32_t j = 0; j < BYTES_PAGES; j++) {
        const int32_t n = valid - 16 * j;
        v16 weight = v16_zero();
        if (n > 0) {
            v16 e = bytes_exp2(v16_fma(v16_load(score + 16 * j), scale, origin));
            e = v16_first(e, v16_zero(), n);
            if (s->start[query] > 16 * j) {
                e = v16_first(v16_zero(), e, s->start[query] - 16 * j);
            }
            weight = v16_mul(e, v16_mul(v16_load(s->bytes.value_scale + 16 * j), inverse));
            weight = v16_first(weight, v16_zero(), n);
            sum = v16_add(sum, e);
        }
        bytes_split_weight(s, query, j, weight);
    }
    return sum;
}

/* A query's scores of a tile to weights, after bytes_maximum. */
VEC_INLINE void bytes_weigh(attention_scratch *s, int32_t query, const float *score) {
    const bool all = s->start[query] == 0 && s->valid[query] == ISA_BYTES_TILE;
    const v16 sum = all ? bytes_weigh_all(s, query, score) : bytes_weigh_some(s, query, score);
    const v16 before = v16_mul(v16_load(s->lane_sum[query]), v16_set(s->rescale[query]));
    v16_store(s->lane_sum[query], v16_fma(sum, v16_set(s->bytes.tile_scale[query]), before));
}

/* Both halves of a sum as one float. */
VEC_INLINE v16 bytes_join(v16i high, v16i low) {
    return v16_fma(v16_from_int(high), v16_set(128), v16_from_int(low));
}

/* 16 outputs of a query from dimension d on take the tile's sums. */
VEC_INLINE void bytes_add(attention_scratch *s, int32_t query, int32_t head_dim, int32_t d,
                          v16i high, v16i low) {
    float *out = s->out + query * head_dim + d;
    const v16 before = v16_mul(v16_load(out), v16_set(s->rescale[query]));
    v16_store(out, v16_fma(bytes_join(high, low), v16_set(s->bytes.weight_scale[query]), before));
}
