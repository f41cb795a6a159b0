/* stepcost.h -- how many operations a step needs at least, and how many bytes of memory.
 *
 * Purpose    From a model's shape and a batch: the multiplications and additions of the matrices
 *            and of attention, and the bytes of weights and KV that must come from and go to the
 *            device's memory once. Against the device's peak and time they give how much of it was
 *            used: "model FLOPs utilisation" (Chowdhery et al., "PaLM", 2022, appendix B) and its
 *            twin for bandwidth. What a kernel does beyond that is not useful, and not counted.
 * Ownership  Plain values.
 * Threads    Pure functions.
 * Limits     Doubles: exact to 2^53.
 */
#ifndef ENGINE_CORE_STEPCOST_H
#define ENGINE_CORE_STEPCOST_H

#include "engine/core/core.h"

/* Zeros: a device that computes nothing (the timed backend). */
typedef struct {
    double row_flops;      /* each row: two a parameter of the layers' matrices */
    double logit_flops;    /* each row of logits: two a parameter of the output matrix */
    double pair_flops;     /* each pair of a row and a position it attends to, all layers */
    double weight_bytes;   /* read by each step, the output matrix among them */
    double kv_token_bytes; /* of one token, all layers */
} stepcost_shape;

typedef struct {
    double flops, bytes;
} stepcost;

stepcost stepcost_of(const stepcost_shape *shape, const core_batch *batch);

#endif
