/* kvheads.h -- which of a model's kv heads each of several devices keeps.
 *
 * Purpose    A rank has a share of them; where there are fewer than ranks, one, which its
 *            neighbours have as well (Pope et al., "Efficiently Scaling Transformer Inference",
 *            2022): its own heads of queries attend to it.
 * Ownership  Plain values.
 * Threads    Pure functions.
 * Limits     Ranks divide the number of kv heads, or are a multiple of it.
 */
#ifndef MODELS_ARCH_KVHEADS_H
#define MODELS_ARCH_KVHEADS_H

#include <stdbool.h>
#include <stdint.h>

/* Heads [first, first + count). */
typedef struct {
    int32_t first, count;
    bool copied; /* a rank before this one has them, too */
} kvheads;

static inline bool kvheads_fit(int32_t heads, int32_t ranks) {
    return heads % ranks == 0 || ranks % heads == 0;
}

static inline kvheads kvheads_of(int32_t heads, int32_t rank, int32_t ranks) {
    int32_t copies = ranks > heads ? ranks / heads : 1;
    int32_t count = ranks > heads ? 1 : heads / ranks;
    return (kvheads){rank / copies * count, count, rank % copies != 0};
}

#endif
