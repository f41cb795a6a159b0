/* body_exp.h -- exp and what is made of it, written once over vec_*.h.
 *
 * Purpose    exp, tanh, SiLU and GELU of 16 numbers.
 * Ownership  Included by isa_*.c and body_*.h only, after one of vec_*.h.
 * Threads    Pure functions.
 * Limits     Arguments of exp are held within [-87, 88].
 */
#ifndef KERNELS_CPU_BODY_EXP_H
#define KERNELS_CPU_BODY_EXP_H

/* 1.5 * 2^23: adding it rounds a small float to an integer, to nearest even, in the low bits. */
#define VEC_ROUND_MAGIC 12582912.0f

VEC_INLINE v16i v16_round(v16 x) {
    const v16 magic = v16_set(VEC_ROUND_MAGIC);
    return v16i_sub(v16_bits(v16_add(x, magic)), v16_bits(magic));
}

/* exp(x) = 2^n exp(r), |r| <= ln 2 / 2, Taylor to r^7 (relative error below 1e-7). Arguments are
 * held within [-87, 88], where 2^n is a normal number. Ordinary tables and minimax fits would save
 * a step; what matters here is that every instruction set does these very operations.
 *
 * Returns (exp(r) - 1) / r, with r and 2^n. */
VEC_INLINE v16 v16_exp_parts(v16 x, v16 *rest, v16 *power) {
    x = v16_max(v16_min(x, v16_set(88.0f)), v16_set(-87.0f));
    const v16 shifted = v16_fma(x, v16_set(1.44269504088896341f), v16_set(VEC_ROUND_MAGIC));
    const v16 n = v16_sub(shifted, v16_set(VEC_ROUND_MAGIC));
    v16 r = v16_fma(n, v16_set(-0.693359375f), x); /* ln 2 in two parts, the first of ten bits */
    r = v16_fma(n, v16_set(2.12194440e-4f), r);
    v16 p = v16_set(1.0f / 5040.0f);
    p = v16_fma(p, r, v16_set(1.0f / 720.0f));
    p = v16_fma(p, r, v16_set(1.0f / 120.0f));
    p = v16_fma(p, r, v16_set(1.0f / 24.0f));
    p = v16_fma(p, r, v16_set(1.0f / 6.0f));
    p = v16_fma(p, r, v16_set(0.5f));
    *rest = r;
    *power = v16_from_bits(v16i_add(v16i_shift_exponent(v16_bits(shifted)), v16i_set(127 << 23)));
    return v16_fma(p, r, v16_set(1.0f));
}

VEC_INLINE v16 v16_exp(v16 x) {
    v16 r, power;
    const v16 p = v16_exp_parts(x, &r, &power);
    return v16_mul(v16_fma(p, r, v16_set(1.0f)), power);
}

/* tanh(x) = m / (m + 2), m = exp(2 x) - 1, which keeps the digits of a small x where the
 * exponential itself would lose them. */
VEC_INLINE v16 v16_tanh(v16 x) {
    v16 r, power;
    const v16 p = v16_exp_parts(v16_add(x, x), &r, &power);
    const v16 m = v16_fma(v16_mul(p, r), power, v16_sub(power, v16_set(1.0f)));
    return v16_div(m, v16_add(m, v16_set(2.0f)));
}

VEC_INLINE v16 v16_silu_mul(v16 gate, v16 up) {
    const v16 e = v16_exp(v16_sub(v16_zero(), gate));
    return v16_mul(v16_div(gate, v16_add(v16_set(1.0f), e)), up);
}

/* GELU with tanh: Hendrycks and Gimpel, "Gaussian Error Linear Units" (2016). With 2 u for the
 * argument of tanh, (1 + tanh(u)) / 2 is 1 / (1 + exp(-2 u)); 2 sqrt(2 / pi) is in the factors. */
VEC_INLINE v16 v16_gelu_mul(v16 gate, v16 up) {
    const v16 factor = v16_fma(v16_mul(gate, gate), v16_set(-0.0713548163f), v16_set(-1.59576912f));
    const v16 e = v16_exp(v16_mul(gate, factor));
    return v16_mul(v16_div(gate, v16_add(v16_set(1.0f), e)), up);
}

#endif
