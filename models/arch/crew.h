/* crew.h -- threads that do the same thing at the same time, one a device.
 *
 * Purpose    Several devices share a model: each has a thread, which meets the others inside the
 *            operators that add their results up. The caller's own thread is the first rank's.
 * Ownership  crew_open holds threads until crew_close.
 * Threads    One caller at a time.
 * Limits     CREW_RANKS_MAX.
 */
#ifndef MODELS_ARCH_CREW_H
#define MODELS_ARCH_CREW_H

#include "engine/base/status.h"
#include "kernels/backend.h"

enum { CREW_RANKS_MAX = BACKEND_RANKS_MAX };

typedef struct crew crew;

MUST_USE status crew_open(int32_t ranks, crew **out);
void crew_close(crew *c);

/* Calls work(context, rank) for every rank, each on its thread, and returns when all have. What the
 * first in time that failed returned; `rank` (may be NULL) is that one. */
MUST_USE status crew_run(crew *c, status (*work)(void *context, int32_t rank), void *context,
                         int32_t *rank);

#endif
