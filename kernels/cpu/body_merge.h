/* body_merge.h -- partial results of softmax-weighted sums: merged in order, then finished.
 *
 * Purpose    What every kernel of attention does with its chunks of positions.
 * Ownership  Included by isa_*.c and body_*.h only, after one of vec_*.h.
 * Threads    Pure functions.
 * Limits     As isa.h.
 */
#ifndef KERNELS_CPU_BODY_MERGE_H
#define KERNELS_CPU_BODY_MERGE_H

#include "kernels/cpu/body_exp.h"
#include "kernels/cpu/isa.h"

/* into = into + part, the later positions being `part`. */
static void attention_merge_part(isa_softmax *into, float *into_out, isa_softmax part,
                                 const float *part_out, int32_t head_dim) {
    const float maximum = into->maximum > part.maximum ? into->maximum : part.maximum;
    const v16 a = v16_exp(v16_set(into->maximum - maximum));
    const v16 b = v16_exp(v16_set(part.maximum - maximum));
    const v16 sum = v16_fma(v16_set(into->sum), a, v16_mul(v16_set(part.sum), b));
    float lanes[16];
    v16_store(lanes, sum);
    into->maximum = maximum;
    into->sum = lanes[0];
    for (int32_t d = 0; d < head_dim; d += 16) {
        const v16 added = v16_mul(v16_load(part_out + d), b);
        v16_store(into_out + d, v16_fma(v16_load(into_out + d), a, added));
    }
}

static void attention_finish(const isa_softmax *state, const float *state_out, float *out,
                             int32_t head_dim) {
    const v16 inverse = v16_set(1.0f / state->sum);
    for (int32_t d = 0; d < head_dim; d += 16) {
        v16_store(out + d, v16_mul(v16_load(state_out + d), inverse));
    }
}

#endif
