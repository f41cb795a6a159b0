/* kvapi.h -- the emulated NCCL as the transport of the property run sees it.
 *
 * Purpose    Stands in for kvtransfer/ncclapi.c: the same calls, and beside them who made which
 *            communicator and which receives are open; helper threads that run when the schedule
 *            says so; a clock that only the schedule moves.
 * Ownership  None.
 * Threads    One.
 * Limits     KVAPI_HELPERS helpers that have not run.
 */
#ifndef TESTS_KVRUN_KVAPI_H
#define TESTS_KVRUN_KVAPI_H

#include <nccl.h>
#include <stdbool.h>
#include <stdint.h>

enum { KVAPI_HELPERS = 256, KVAPI_DEVICES = 8, KVAPI_RECEIVES = 64, KVAPI_STAGES = 128 };

/* One end of a channel, as far as NCCL's calls tell. */
typedef struct {
    ncclComm_t comm;
    unsigned number;                     /* of the communicator in this process, from 0 */
    int64_t joined_us;                   /* when it was asked for; 0: not yet */
    int64_t received_us[KVAPI_RECEIVES]; /* when receives were posted, the warm-up's first */
    unsigned receives;
} kvapi_side;

/* Whose calls come now; NULL: nobody's. */
extern kvapi_side *kvapi_now;

/* The virtual time, which nccl.c and its like read as clock_now_us. */
extern int64_t kvapi_time_us;

/* Communicators that this process has made: the number of the next one, for emu_nccl_fault. */
unsigned kvapi_made(void);

/* Helpers begun from now on run this much later. */
void kvapi_delay_helpers(int64_t us);

/* Runs the helpers that are due, or all of them. */
void kvapi_run_helpers(bool all);
unsigned kvapi_helpers(void);

/* Staging that was given back is as it was left. */
bool kvapi_staging_untouched(void);

#endif
