/* rng.h -- random numbers that depend on nothing but their arguments.
 *
 * Purpose    A counter-based generator: the number at (seed, stream, position) is the same whoever
 *            asks, so a request resumed on another worker draws what it would have drawn. Also a
 *            small sequential generator for tests and jitter.
 * Ownership  None.
 * Threads    Pure functions.
 * Limits     Not for secrets; keys and ids come from getrandom.
 * Source     SplitMix64 (Steele, Lea, Flood, "Fast splittable pseudorandom number generators",
 *            OOPSLA 2014): the finaliser is a bijection on 64 bits.
 */
#ifndef ENGINE_BASE_RNG_H
#define ENGINE_BASE_RNG_H

#include <stdint.h>

static inline uint64_t rng_mix(uint64_t x) {
    x += 0x9E3779B97F4A7C15u;
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9u;
    x = (x ^ (x >> 27)) * 0x94D049BB133111EBu;
    return x ^ (x >> 31);
}

/* 64 random bits for one position of one stream of a seed. */
static inline uint64_t rng_at(uint64_t seed, uint64_t stream, uint64_t position) {
    return rng_mix(rng_mix(rng_mix(seed) ^ stream) ^ position);
}

/* Uniform in [0, 1), 53 bits. */
static inline double rng_unit(uint64_t bits) {
    return (double)(bits >> 11) * 0x1p-53;
}

/* Sequential use: state advances by one. */
static inline uint64_t rng_next(uint64_t *state) {
    return rng_mix((*state)++);
}

/* Uniform in [0, bound), bound > 0; the bias is below 2^-32 for bounds below 2^32. */
static inline uint64_t rng_below(uint64_t *state, uint64_t bound) {
    return (uint64_t)(((unsigned __int128)rng_next(state) * bound) >> 64);
}

#endif
