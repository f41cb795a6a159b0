/* stepper.h -- the thread that runs steps: page copies, forward pass, sampling.
 *
 * Purpose    Keeps the worker's owner thread free while the model computes: the owner hands over a
 *            batch, goes on reading messages and moving pages, and is woken when layers are done
 *            and when the step is.
 * Ownership  stepper_open holds a thread and buffers; stepper_close waits for the step in flight.
 *            The batch is the core's until the step is finished.
 * Threads    All calls from the owner thread.
 * Limits     The sizes given to stepper_open; one step in flight.
 */
#ifndef ENGINE_WORKER_STEPPER_H
#define ENGINE_WORKER_STEPPER_H

#include "engine/base/cores.h"
#include "engine/core/core.h"
#include "engine/worker/timed.h"
#include "models/arch/model.h"

typedef struct stepper stepper;

typedef struct {
    model *model;
    timed *timed;    /* instead of a model: sleeps, does not compute; NULL: computes */
    cores *cores;    /* asked before every layer how many threads to use; NULL: no lending */
    backend *device; /* of the model, when there are cores */
    int32_t seqs_max;
    int32_t logit_rows_max;
    int32_t wants_max;
    const int32_t *eog; /* [eog_count] the model's end-of-generation ids; copied */
    int32_t eog_count;
    int32_t progress_layers; /* wake the owner every so many layers of a step with transfers, first
                              * (stepper_wake) */
} stepper_options;

enum { STEPPER_EOG_MAX = 16 };

typedef struct {
    const request_token *results; /* [count] one a want; valid until the next start */
    int32_t count;
    int64_t busy_us;     /* of the whole step; of it */
    int64_t computed_us; /* the device's: the rest is sampling on the host */
} stepper_result;

MUST_USE status stepper_open(const stepper_options *options, stepper **out, diag *d);
void stepper_close(stepper *s);

/* Readable after progress and at the end of a step. */
int stepper_fd(const stepper *s);

void stepper_start(stepper *s, const core_batch *batch);
bool stepper_running(const stepper *s);

/* Wakes the owner every so many layers from now on. */
void stepper_wake(stepper *s, int32_t progress_layers);

/* Clears the descriptor. Layers of the step in flight that are done. */
int32_t stepper_progress(stepper *s);

/* True once for each step, when it is done. STATUS_DEVICE in `failed` when it failed. */
bool stepper_finished(stepper *s, stepper_result *out, status *failed);

#endif
