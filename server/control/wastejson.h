/* wastejson.h -- where workers' device time went, as members of GET /controller/state.
 *
 * Purpose    One object of a worker's sums, or of a pool's: seconds of the unit (GPU or core) times
 *            the share that the worker has of it, by state; they add up to `allocated_s`.
 * Ownership  None kept.
 * Threads    Pure functions.
 * Limits     None.
 */
#ifndef SERVER_CONTROL_WASTEJSON_H
#define SERVER_CONTROL_WASTEJSON_H

#include "engine/base/str.h"
#include "engine/core/message.h"

typedef struct {
    waste_unit unit; /* of the last that was added */
    double seconds[WASTE_STATES];
} wastejson_sum;

/* Adds what `w` spent in this pool, or, with WASTE_POOLS, in all. */
void wastejson_add(wastejson_sum *sum, const message_waste *w, waste_pool pool);

/* ,"device":{...} */
void wastejson_put(strbuf *out, const wastejson_sum *sum);

#endif
