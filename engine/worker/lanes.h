/* lanes.h -- the second lane of a worker that computes both phases side by side.
 *
 * Purpose    What a step of decode rows needs to run beside a step of prompts over the same weights
 *            and pages: threads, scratch and workspaces of its own, and which of the worker's cores
 *            each lane keeps while both are busy. An idle lane's cores are the other's.
 * Ownership  lanes_open holds it all until lanes_close, which comes before the first lane's.
 * Threads    The owner; a stepper uses its lane's part.
 * Limits     Two lanes; each keeps a core, also where there is only one.
 */
#ifndef ENGINE_WORKER_LANES_H
#define ENGINE_WORKER_LANES_H

#include "engine/worker/stepper.h"

typedef struct {
    bool on;
    backend *device; /* of the decode lane, as model; both NULL with the timed backend */
    model *model;
    stepper *stepper;        /* the decode lane's */
    cores cores[CORE_LANES]; /* a board between the lanes */
} lanes;

/* `of` on `device`, where decode batches have at most `seqs_max` rows; both NULL with the timed
 * backend. `threads` are divided. */
MUST_USE status lanes_open(lanes *l, model *of, backend *device, int32_t threads, int32_t seqs_max,
                           diag *d);
void lanes_close(lanes *l);

#endif
