/* pacing.h -- how many layers a transfer's group should have, from what was measured here.
 *
 * Purpose    A group that is too small costs its overhead once more, one that is too large leaves
 *            after the computing that should have hidden it. What a layer takes to compute and what
 *            a link moves is measured all the time; layout_group_layers weighs them.
 * Ownership  Plain value.
 * Threads    The owner thread.
 * Limits     A link that tells no times (devpair.h does) leaves it as it began.
 */
#ifndef ENGINE_WORKER_PACING_H
#define ENGINE_WORKER_PACING_H

#include "kvtransfer/devpair.h"
#include "kvtransfer/layout.h"

enum {
    PACING_GROUPS = 8, /* moved since the size was last weighed, at least */
    PACING_STEPS = 4,  /* with chunks of prompts, since the start */
    PACING_SHARE = 8   /* a new measurement counts one in this many */
};

typedef struct {
    uint32_t layers, layers_max, layers_now;
    double layer_page_bytes;
    uint32_t page_tokens;
    /* moving averages; 0: none yet */
    double layer_us, rows, bytes_per_us, group_us;
    uint32_t steps;
    /* moved since the last weighing */
    uint64_t groups, bytes;
    int64_t wire_us, beside_us;
} pacing;

/* `layers_first`: until enough is known. */
pacing pacing_make(uint32_t layers, uint32_t layers_max, uint32_t layers_first,
                   uint64_t layer_page_bytes, uint32_t page_tokens);

/* A step with chunks of prompts, `rows` tokens in all, computed for `computed_us`. */
void pacing_step(pacing *p, int32_t rows, int64_t computed_us);

/* A sender has come from `then` to `now`. */
void pacing_moved(pacing *p, const devpair_times *then, const devpair_times *now);

/* Weighs what is new. True: layers_now is another than before. */
bool pacing_weigh(pacing *p);

#endif
