/* stepcost.c -- sums over a batch. */
#include "engine/core/stepcost.h"

#include "engine/base/check.h"
#include "engine/core/stepmodel.h"

stepcost stepcost_of(const stepcost_shape *shape, const core_batch *batch) {
    double pairs = 0, tokens = 0;
    CHECK(batch->rows > 0);
    for (int32_t i = 0; i < batch->seqs_count; i++) {
        const core_seq *q = &batch->seqs[i];
        CHECK(q->rows > 0 && q->position_first >= 0);
        pairs += (double)stepmodel_pairs(q->rows, q->position_first);
        /* Read: all positions up to the last row's. Written: those of its own rows. */
        tokens += (double)q->position_first + 2.0 * q->rows;
    }
    return (stepcost){.flops = shape->row_flops * batch->rows +
                               shape->logit_flops * batch->logit_rows_count +
                               shape->pair_flops * pairs,
                      .bytes = shape->weight_bytes + shape->kv_token_bytes * tokens};
}
