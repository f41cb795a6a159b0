/* scaler_capacity.h -- how many workers a load needs, from measured step times.
 *
 * Purpose    Prefill: the smallest pool whose 95th percentile of the wait for a first token keeps
 *            the objective. Decode: the smallest whose batches, at the step time that the objective
 *            of a token allows and inside the KV pool, hold all that run at once.
 * Ownership  Plain values, pure functions.
 * Threads    Any.
 * Limits     SCALER_CAPACITY_MAX workers: more are never asked for.
 * Source     Waits of M/G/n queues: Sakasegawa 1977, with an exponential tail; square-root staffing
 *            of Poisson concurrency (Halfin and Whitt 1981); Little's law.
 */
#ifndef SERVER_CONTROL_SCALER_CAPACITY_H
#define SERVER_CONTROL_SCALER_CAPACITY_H

#include "engine/core/stepmodel.h"
#include "server/control/scaler_demand.h"

enum { SCALER_CAPACITY_MAX = 1024 };

/* How fast one worker is. */
typedef struct {
    stepmodel_fit prefill, decode;
    int32_t chunk_tokens;
    double pages;    /* of its KV pool; 0: not known, no limit */
    double seqs_max; /* that it decodes at once */
} scaler_speed;

typedef struct {
    double ttft_us, tpot_us;
} scaler_slo;

/* Mean time that one worker takes for a request's prompt; 0: not known. */
double scaler_capacity_prefill_us(const scaler_speed *s, const scaler_load *l);

/* Sequences that one worker decodes at once within the objective; 0: not known. */
double scaler_capacity_batch(const scaler_speed *s, const scaler_load *l, double tpot_us);

/* Sequences that decode at once when `batch` do on each worker (Little's law). */
double scaler_capacity_running(const scaler_speed *s, const scaler_load *l, double batch);

/* Workers needed; 0 without a load, and UINT32_MAX where step times are not known yet. */
uint32_t scaler_capacity_prefill(const scaler_speed *s, const scaler_load *l,
                                 const scaler_slo *slo);
uint32_t scaler_capacity_decode(const scaler_speed *s, const scaler_load *l, const scaler_slo *slo);

#endif
