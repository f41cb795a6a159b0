/* hostshares.h -- what this machine has to share out, and what its workers hold of it.
 *
 * Purpose    The cores that this process may run on, the GPUs that CUDA would show it, and of a
 *            worker that runs already its part of both: the kernel knows the cores, the worker's
 *            own words the GPU. So a controller that starts anew gives nothing out twice.
 * Ownership  Plain values.
 * Threads    Any; hostshares_cpus and hostshares_pin are about the calling one.
 * Limits     As shares.h.
 */
#ifndef SERVER_DRIVERS_HOSTSHARES_H
#define SERVER_DRIVERS_HOSTSHARES_H

#include "server/drivers/hostprocs.h"
#include "server/drivers/shares.h"

/* The cores that this thread may run on. */
shares_cpus hostshares_cpus(void);

/* Numbers of the GPUs that a worker would find: those of CUDA_VISIBLE_DEVICES, else all. */
void hostshares_find_devices(shares *s);

/* Whether an MPS server divides GPUs here (nvidia-cuda-mps-control). */
bool hostshares_has_mps(void);

/* What a worker that runs holds: pinned if it may not run on all of `s`. */
shares_part hostshares_held(pid_t pid, const hostprocs_words *words, const shares *s);

/* From here on, processes that this thread starts are on those cores only; none: as it is. */
void hostshares_pin(const shares_cpus *cpus);

#endif
